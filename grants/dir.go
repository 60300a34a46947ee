package grants

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/oauth2"
)

// DirStore is a [Store] in a folder: for one process, on one server, that must not lose its grants when it ends and has no
// database. [NewDirStore] makes one; Close ends it.
//
// Each grant is a JSON file of mode 0600, named by the SHA-256 of the grant's name, which is in it. A method that changes it
// returns when the new file is synced, renamed to that name, and the folder synced: what was acknowledged survives the death
// of the process at any moment, and a power failure if the disk keeps what it was told to sync. A write that fails, for lack
// of space for example, leaves the grant as it was.
//
// All rows are in memory, with their tokens as they are in the files: Load, Due and Dead read no file. If a method's context
// ends during a write, it returns the context's error, and the write goes on; the next change of the grant waits for it.
//
// The clock is this process's. A lease of a process that died runs out when it would have, by the wall clock, and then the
// record is Unfinished.
//
// A file that cannot be read as a grant, since it was cut or changed by hand, is an error of that grant's Load, Lease, Save,
// Mark and Release, which names the file. Due and Dead pass over it, Put replaces it, Delete removes it. Files with other
// names are left alone. Nothing else may write to the folder while a DirStore is open; copy it for a backup at any time.
// A backup that is put back holds refresh tokens which have been used, so that their customers may have to reconnect.
//
// No other DirStore can open the folder meanwhile, in this process or another one: it is locked by flock, until Close or the
// process ends. On Windows the lock is a file that is open without sharing, only the folder's access rights keep others out,
// and a folder is not synced: what was acknowledged survives the death of the process, and perhaps not a power failure. On
// systems that have neither, NewDirStore fails.
type DirStore struct {
	memory *MemoryStore // all that package fmt shows for %w
}

// NewDirStore returns a DirStore of the grants in dir, which is made, with mode 0700, if need be. The tokens in the files
// are encrypted by aead, and bound to the grant's name and their version. A nil aead leaves them in clear, for whoever can
// read the files. Encrypted tokens cannot be read without the aead, and tokens in clear not with one.
//
// It fails at once if another DirStore has the folder open. It removes the temporary files of a process that died.
func NewDirStore(dir string, aead AEAD) (*DirStore, error) {
	opened, err := openFolder(dir, aead)
	if err != nil {
		return nil, fmt.Errorf(prefix+"the folder %q cannot be used: %w", dir, err)
	}
	memory := &MemoryStore{folder: opened}
	if err := opened.readAll(memory); err != nil {
		_ = opened.close()
		return nil, fmt.Errorf(prefix+"the folder %q cannot be read: %w", dir, err)
	}
	return &DirStore{memory}, nil
}

// Close waits for the writes that are under way, and unlocks the folder. After it each other method returns an error that
// wraps [fs.ErrClosed], and Close returns nil. Close the Manager first.
func (s *DirStore) Close() error { return s.rows().folder.close() }

// rows returns what the methods work on; for a DirStore that NewDirStore has not made, one that is closed.
func (s *DirStore) rows() *MemoryStore {
	if s == nil || s.memory == nil {
		return &MemoryStore{folder: new(folder)}
	}
	return s.memory
}

// Format writes the type and none of the grants, whatever the verb. It implements [fmt.Formatter].
func (*DirStore) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, "grants.DirStore") }

// LogValue returns what Format writes. It implements [slog.LogValuer].
func (*DirStore) LogValue() slog.Value { return slog.StringValue("grants.DirStore") }

// Load implements [Store].
func (s *DirStore) Load(ctx context.Context, grant string) (Record, error) {
	return s.rows().Load(ctx, grant)
}

// Lease implements [Store]. It takes no lease if the token cannot be decrypted.
func (s *DirStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (Record, error) {
	return s.rows().Lease(ctx, grant, holder, d)
}

// Save implements [Store].
func (s *DirStore) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	return s.rows().Save(ctx, grant, holder, version, token)
}

// Mark implements [Store].
func (s *DirStore) Mark(ctx context.Context, grant, holder string, version int64, mark Mark) error {
	return s.rows().Mark(ctx, grant, holder, version, mark)
}

// Release implements [Store].
func (s *DirStore) Release(ctx context.Context, grant, holder string) error {
	return s.rows().Release(ctx, grant, holder)
}

// Put implements [Store]. A name that is not UTF-8 is an error.
func (s *DirStore) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	return s.rows().Put(ctx, grant, token)
}

// Delete implements [Store].
func (s *DirStore) Delete(ctx context.Context, grant string) error {
	return s.rows().Delete(ctx, grant)
}

// Due implements [Store]. It looks at every grant in memory, and is never stale.
func (s *DirStore) Due(ctx context.Context, within time.Duration, limit int) ([]string, error) {
	return s.rows().Due(ctx, within, limit)
}

// Dead implements [Store].
func (s *DirStore) Dead(ctx context.Context, since time.Duration, after DeadGrant, limit int) ([]DeadGrant, error) {
	return s.rows().Dead(ctx, since, after, limit)
}

var (
	errDirClosed = fmt.Errorf(prefix+"the folder is closed, or was never opened: %w", fs.ErrClosed)
	errInUse     = errors.New("another DirStore has it open, in this process or another one")
	fileName     = regexp.MustCompile(`^([0-9a-f]{64})\.(json|tmp)$`)
)

// folder is what a DirStore has on disk. A MemoryStore has none, which is nil.
type folder struct {
	path   string
	aead   AEAD
	lock   *os.File // open as long as the folder is locked
	isOpen atomic.Bool
	busy   [256]chan struct{} // by the first byte of a hash: full while such a grant is changed
}

func openFolder(dir string, aead AEAD) (*folder, error) {
	if dir == "" {
		return nil, errors.New("it has no name")
	}
	path, err := filepath.Abs(dir) // the process may change its own
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	_ = syncFolder(filepath.Dir(path)) // in which it may be new; one that cannot be read is older
	f := &folder{path: path, aead: aead}
	for i := range f.busy {
		f.busy[i] = make(chan struct{}, 1)
	}
	if f.lock, err = lockFile(filepath.Join(path, "lock")); err != nil {
		return nil, err
	}
	f.isOpen.Store(true)
	return f, nil
}

func (f *folder) keys() AEAD {
	if f == nil {
		return nil
	}
	return f.aead
}

func (f *folder) close() error {
	if !f.isOpen.CompareAndSwap(true, false) {
		return nil
	}
	for _, busy := range f.busy { // a change that begins later finds the folder closed
		busy <- struct{}{}
		<-busy
	}
	return f.lock.Close()
}

// change is MemoryStore's, with a file that is written first.
func (f *folder) change(ctx context.Context, memory *MemoryStore, h hash, rule rule) error {
	busy := f.busy[h[0]]
	select {
	case busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	end := func() { <-busy }
	defer func() { end() }()                   // also after a panic of the AEAD
	if err := memory.usable(ctx); err != nil { // it has waited
		return err
	}
	memory.mu.Lock()
	next := memory.row(h)
	memory.mu.Unlock()
	if err := rule(&next, time.Now()); err != nil {
		return err
	}
	content, err := next.encode()
	if err != nil {
		return err
	}
	end = func() {}
	written := make(chan error, 1)
	go func() { // no context ends a write to a disk that hangs
		err := f.write(h, content)
		if err == nil {
			memory.mu.Lock()
			memory.set(h, &next)
			memory.mu.Unlock()
		}
		<-busy
		written <- err
	}()
	select {
	case err = <-written:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return err
}

// write makes content what the grant's file holds, also after a crash at any moment. No content removes it.
func (f *folder) write(h hash, content []byte) error {
	name := filepath.Join(f.path, hex.EncodeToString(h[:]))
	path := name + ".json"
	if content == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf(prefix+"the grant's file is not removed: %w", err)
		}
	} else if err := replaceFile(path, name+".tmp", content); err != nil {
		return fmt.Errorf(prefix+"the grant's file is not written: %w", err)
	}
	if err := syncFolder(f.path); err != nil {
		return fmt.Errorf(prefix+"the folder is not synced: %w", err)
	}
	return nil
}

// syncFolder returns when the names in the folder are on disk. Windows has no call for that.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// replaceFile writes a temporary file, syncs it and renames it to path.
func replaceFile(path, temporary string, content []byte) error {
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}

// encode returns what the grant's file is to hold, and nothing for no row.
func (r *row) encode() ([]byte, error) {
	if r.missing != nil {
		return nil, nil
	}
	if !utf8.ValidString(r.Grant) {
		return nil, errors.New(prefix + "the grant's name is not UTF-8")
	}
	stored := *r
	for _, t := range []*time.Time{&stored.Expiry, &stored.Since, &stored.RetryAt, &stored.Until} {
		switch *t = t.UTC(); { // JSON has the years from 0 to 9999
		case t.Year() > 9999:
			*t = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		case t.Year() < 0:
			*t = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
		}
	}
	return json.Marshal(stored)
}

// readAll reads the grants' files into memory, and removes the temporary ones.
func (f *folder) readAll(memory *MemoryStore) error {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		found := fileName.FindStringSubmatch(entry.Name())
		if found == nil {
			continue // somebody else's
		}
		path := filepath.Join(f.path, entry.Name())
		if found[2] == "json" {
			var h hash
			_, _ = hex.Decode(h[:], []byte(found[1]))
			memory.set(h, readRow(path, h))
		} else if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// readRow returns the grant that a file holds. No error quotes what is in the file.
func readRow(path string, h hash) *row {
	content, err := os.ReadFile(path)
	if err != nil {
		return &row{missing: fmt.Errorf(prefix+"the grant's file cannot be read: %w", err)}
	}
	var r row
	err = json.Unmarshal(content, &r)
	_, verdictErr := UnmarshalVerdict(r.Dead)
	if err != nil || verdictErr != nil || hashOf(r.Grant) != h || len(r.Token) == 0 {
		return &row{missing: fmt.Errorf(prefix+"the grant's file %q was cut, changed or renamed", path)}
	}
	return &r
}
