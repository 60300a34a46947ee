//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package grants_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

var kills = flag.Int("kills", 30, "how often TestDirStoreKilled kills a process")

// child returns a command that runs this test binary as another process, in which TestDirStoreChild does what task names.
func child(t *testing.T, task, dir string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirStoreChild$")
	command.Env = append(os.Environ(), "DIRSTORE_TASK="+task, "DIRSTORE_DIR="+dir, "GORACE=atexit_sleep_ms=0")
	command.Stderr = os.Stderr
	return command
}

// TestDirStoreChild is the other process of the tests below.
func TestDirStoreChild(t *testing.T) {
	task, dir := os.Getenv("DIRSTORE_TASK"), os.Getenv("DIRSTORE_DIR")
	if task == "" {
		t.Skip("is run by other tests")
	}
	store, err := grants.NewDirStore(dir, testKey)
	if err != nil {
		fmt.Println(err)
		os.Exit(0)
	}
	switch task, argument, _ := strings.Cut(task, " "); task {
	case "open":
		fmt.Println("opened")
		os.Exit(0) // without Close
	case "write":
		for worker := range writers {
			go write(store, fmt.Sprint(argument, "-", worker))
		}
		select {}
	case "fill":
		fill(t, store, dir)
	}
}

func TestDirStoreInAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openDir(t, dir, testKey)
	output, err := child(t, "open", dir).Output()
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("applebusiness/grants: the folder %q cannot be used: another DirStore has it open, in this process or another one\n", dir), string(output))
	require.NoError(t, store.Close())
	output, err = child(t, "open", dir).Output()
	require.NoError(t, err)
	assert.Equal(t, "opened\n", string(output))
	openDir(t, dir, testKey)
}

const writers = 8

var dead = applebusiness.ParseTokenError(401, nil, []byte(`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`))

// write changes a grant without end, and says on stdout what is done.
func write(store *grants.DirStore, grant string) {
	ctx := context.Background()
	for n := 0; ; n++ {
		record, err := store.Load(ctx, grant)
		if errors.Is(err, grants.ErrNoGrant) {
			err = nil
		}
		token := &oauth2.Token{AccessToken: strings.Repeat("a", 500), RefreshToken: fmt.Sprint("refresh-", n)}
		switch n % 6 {
		case 0:
			err = errors.Join(err, store.Put(ctx, grant, token))
		case 1:
			_, leaseErr := store.Lease(ctx, grant, "holder", time.Hour)
			err = errors.Join(err, leaseErr)
		case 2:
			err = errors.Join(err, store.Save(ctx, grant, "holder", record.Version, token))
		case 3:
			err = errors.Join(err, store.Mark(ctx, grant, "", record.Version, grants.Mark{Unfinished: true}))
		case 4:
			err = errors.Join(err, store.Mark(ctx, grant, "", record.Version, grants.Mark{Dead: dead}))
		case 5:
			err = errors.Join(err, store.Delete(ctx, grant))
		}
		fmt.Println(grant, n, err)
	}
}

// seen returns the number of the last change that a grant shows, modulo 6, and the token's.
func seen(t *testing.T, store *grants.DirStore, grant string) (step, token int) {
	t.Helper()
	record, err := store.Load(t.Context(), grant)
	if errors.Is(err, grants.ErrNoGrant) {
		return 5, -1
	}
	require.NoError(t, err)
	token, err = strconv.Atoi(strings.TrimPrefix(record.Token.RefreshToken, "refresh-"))
	require.NoError(t, err)
	_, err = store.Lease(t.Context(), grant, "observer", time.Hour)
	switch {
	case errors.Is(err, grants.ErrLeased):
		return 1, token
	case record.Dead != nil:
		return 4, token
	case record.Unfinished:
		return 3, token
	}
	require.NoError(t, err)
	return token % 6, token
}

// Processes are killed while eight goroutines write. After each, every grant is as the last acknowledged change has left
// it, or as the next one would have.
//
//	go test -run TestDirStoreKilled -kills 1000 ./grants
func TestDirStoreKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	changes, later := 0, 0
	for round := range *kills {
		command := child(t, fmt.Sprint("write ", round), dir)
		stdout, err := command.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, command.Start())
		acknowledged := make(map[string]int)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if len(acknowledged) == 0 { // its first change: it has begun
				time.AfterFunc(rand.N(30*time.Millisecond), func() { _ = command.Process.Kill() })
			}
			var grant, outcome string
			var n int
			_, err := fmt.Sscan(lines.Text(), &grant, &n, &outcome)
			require.NoError(t, err, lines.Text())
			require.Equal(t, "<nil>", outcome, lines.Text())
			acknowledged[grant] = n
			changes++
		}
		require.Error(t, command.Wait(), "it is killed")

		store, err := grants.NewDirStore(dir, testKey)
		require.NoError(t, err)
		for grant, n := range acknowledged {
			step, token := seen(t, store, grant)
			last := n
			if step != last%6 {
				last++
				later++
			}
			require.Equal(t, last%6, step, "%s: %d is acknowledged", grant, n)
			if want := map[int]int{0: last, 1: last - 1, 2: last, 3: last - 1, 4: last - 2, 5: -1}[step]; token != want {
				require.Equal(t, want, token, "%s: %d is acknowledged", grant, n)
			}
		}
		for worker := range writers {
			require.NoError(t, store.Delete(t.Context(), fmt.Sprint(round, "-", worker)))
		}
		require.NoError(t, store.Close())
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 1, "the lock alone")
	t.Logf("%d kills, %d changes acknowledged, none lost; %d grants showed the change after", *kills, changes, later)
}

// fill writes to a disk that is full, as far as this process can tell.
func fill(t *testing.T, store *grants.DirStore, dir string) {
	ctx := t.Context()
	require.NoError(t, store.Put(ctx, "a", &oauth2.Token{RefreshToken: "first"}))
	before, err := store.Load(ctx, "a")
	require.NoError(t, err)

	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	full := limit
	full.Cur = 100
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full))
	for name, err := range callAll(ctx, store) {
		switch name {
		case "Put", "Lease", "Save", "Mark":
			assert.ErrorIs(t, err, syscall.EFBIG, name)
			assert.ErrorContains(t, err, "applebusiness/grants: the grant's file is not written: write ", name)
		case "Release", "Load", "Due", "Dead":
			assert.NoError(t, err, name)
		}
	}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))

	_, err = store.Load(ctx, "a")
	require.ErrorIs(t, err, grants.ErrNoGrant, "Delete needs no space")
	require.NoError(t, store.Put(ctx, "a", &oauth2.Token{RefreshToken: "second"}))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full))
	record, err := store.Load(ctx, "a")
	require.NoError(t, err)
	require.ErrorIs(t, store.Save(ctx, "a", "", record.Version, &oauth2.Token{RefreshToken: "third"}), syscall.EFBIG)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	require.NoError(t, err)
	assert.Empty(t, left)
	after, err := store.Load(ctx, "a")
	require.NoError(t, err)
	assert.Equal(t, record, after)
	assert.NotEqual(t, before.Version, after.Version)
	require.NoError(t, store.Save(ctx, "a", "", record.Version, &oauth2.Token{RefreshToken: "third"}), "there is space again")
}

func TestDirStoreFullDisk(t *testing.T) {
	t.Parallel()
	output, err := child(t, "fill", t.TempDir()).Output()
	require.NoError(t, err, "%s", output)
	assert.Contains(t, string(output), "PASS")
}

// A disk that hangs is a pipe here, which nobody reads.
func TestDirStoreHangingDisk(t *testing.T) {
	dir := t.TempDir()
	aead := spyAEAD{encrypts: make(chan struct{}, 1)}
	store := openDir(t, dir, aead)
	require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "first"}))
	<-aead.encrypts
	pipe := strings.TrimSuffix(fileOf(t, dir), ".json") + ".tmp"
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 3 { // one writes, the others wait for it
		wg.Go(func() {
			assert.ErrorIs(t, store.Put(ctx, "a", &oauth2.Token{RefreshToken: "second"}), context.Canceled)
		})
	}
	<-aead.encrypts
	time.Sleep(20 * time.Millisecond)
	cancel()
	wg.Wait()
	record, err := store.Load(t.Context(), "a")
	require.NoError(t, err, "reading goes on")
	assert.Equal(t, "first", record.Token.RefreshToken)

	late := make(chan error)
	go func() { late <- store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "third"}) }()
	time.Sleep(20 * time.Millisecond)
	closed := make(chan error)
	go func() { closed <- store.Close() }()
	select {
	case <-closed:
		t.Error("Close has not waited for a write that is under way")
	case <-time.After(50 * time.Millisecond):
	}
	reader, err := os.OpenFile(pipe, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer reader.Close()
	require.NoError(t, <-closed)
	assert.ErrorIs(t, <-late, fs.ErrClosed, "what has waited finds the folder closed")
	record, err = openDir(t, dir, aead).Load(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "first", record.Token.RefreshToken)
}

// spyAEAD tells that a token is encrypted: nothing stops it from being written then.
type spyAEAD struct {
	keyAEAD
	encrypts chan struct{}
}

func (a spyAEAD) Encrypt(plaintext, _ []byte) ([]byte, error) {
	select {
	case a.encrypts <- struct{}{}:
	default:
	}
	return plaintext, nil
}
