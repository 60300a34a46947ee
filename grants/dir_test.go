package grants_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/grantstest"
)

var testKey = newGCM(bytes.Repeat([]byte("k"), 32))

func openDir(t testing.TB, dir string, aead grants.AEAD) *grants.DirStore {
	t.Helper()
	store, err := grants.NewDirStore(dir, aead)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return store
}

// fileOf returns the path of the only grant's file in dir.
func fileOf(t *testing.T, dir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Len(t, paths, 1)
	return paths[0]
}

func TestDirStoreContract(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if shared, err := os.MkdirTemp("/dev/shm", "grants"); err == nil { // in memory, since it syncs some thousand times
		dir = shared
		t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	}
	synctest.Test(t, func(t *testing.T) { // since it waits for leases to run out, too
		require.NoError(t, grantstest.TestStore(openDir(t, dir, testKey)))
	})
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(dir, "lock")}, left, "what was deleted leaves nothing")
}

func TestDirStore(t *testing.T) {
	t.Run("keeps everything over a restart", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "new", "folder")
		store := openDir(t, dir, testKey)
		now := time.Now()
		dead := applebusiness.ParseTokenError(401, nil, []byte(`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`))
		want := map[string]grants.Record{}
		for name, step := range map[string]func(name string, version int64) error{
			"put":  func(string, int64) error { return nil },
			"dead": func(name string, v int64) error { return store.Mark(t.Context(), name, "", v, grants.Mark{Dead: dead}) },
			"has to wait": func(name string, v int64) error {
				return store.Mark(t.Context(), name, "", v, grants.Mark{RetryAt: now.Add(time.Hour), Unfinished: true})
			},
			"saved": func(name string, v int64) error {
				return store.Save(t.Context(), name, "", v, &oauth2.Token{RefreshToken: "next", Expiry: now.Add(time.Hour)})
			},
			strings.Repeat("é/\x00\n", 100): func(string, int64) error { return nil },
			"":                              func(string, int64) error { return nil },
		} {
			require.NoError(t, store.Put(t.Context(), name, &oauth2.Token{AccessToken: "access", RefreshToken: "refresh", TokenType: "Bearer", Expiry: now}))
			record, err := store.Load(t.Context(), name)
			require.NoError(t, err)
			require.NoError(t, step(name, record.Version))
			want[name], err = store.Load(t.Context(), name)
			require.NoError(t, err)
		}
		deadBefore, err := store.Dead(t.Context(), 0, grants.DeadGrant{}, 10)
		require.NoError(t, err)
		require.NoError(t, store.Close())

		store = openDir(t, dir, testKey)
		for name, want := range want {
			record, err := store.Load(t.Context(), name)
			require.NoError(t, err)
			assert.True(t, want.Token.Expiry.Equal(record.Token.Expiry), name)
			assert.True(t, want.RetryAt.Equal(record.RetryAt), name)
			record.Token.Expiry, record.RetryAt = want.Token.Expiry, want.RetryAt
			assert.Equal(t, want, record, name)
		}
		deadAfter, err := store.Dead(t.Context(), 0, grants.DeadGrant{}, 10)
		require.NoError(t, err)
		assert.Equal(t, deadBefore, deadAfter)
		deadAfter, err = store.Dead(t.Context(), 0, deadBefore[0], 10)
		require.NoError(t, err)
		assert.Empty(t, deadAfter, "after the one of the process before")
	})

	t.Run("the lease of a process that died", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			store := openDir(t, dir, nil)
			require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh"}))
			_, err := store.Lease(t.Context(), "a", "first", time.Second)
			require.NoError(t, err)
			require.NoError(t, store.Close())

			store = openDir(t, dir, nil)
			_, err = store.Lease(t.Context(), "a", "first", time.Minute)
			require.NoError(t, err, "it is the same holder's")
			require.NoError(t, store.Close())

			time.Sleep(time.Minute - 1)
			store = openDir(t, dir, nil)
			_, err = store.Lease(t.Context(), "a", "second", time.Minute)
			require.ErrorIs(t, err, grants.ErrLeased)
			time.Sleep(time.Nanosecond)
			record, err := store.Load(t.Context(), "a")
			require.NoError(t, err)
			assert.True(t, record.Unfinished)
			record, err = store.Lease(t.Context(), "a", "second", time.Minute)
			require.NoError(t, err)
			assert.True(t, record.Unfinished)
			require.NoError(t, store.Release(t.Context(), "a", "second"))
			require.NoError(t, store.Close())

			record, err = openDir(t, dir, nil).Load(t.Context(), "a")
			require.NoError(t, err)
			assert.True(t, record.Unfinished, "what Lease has found stays after a Release")
		})
	})

	t.Run("times that JSON does not have", func(t *testing.T) {
		dir := t.TempDir()
		store := openDir(t, dir, nil)
		for i, expiry := range []time.Time{{}, time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-12026, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -90000)), time.Unix(0, 0),
			time.Date(9999, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(0, 1, 2, 0, 0, 0, 0, time.UTC)} {
			require.NoError(t, store.Put(t.Context(), fmt.Sprint(i), &oauth2.Token{Expiry: expiry}))
		}
		require.NoError(t, store.Close())
		store = openDir(t, dir, nil)
		for i, want := range []string{"0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z",
			"9999-01-02T00:00:00Z", "0000-01-02T00:00:00Z"} {
			record, err := store.Load(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			assert.Equal(t, want, record.Token.Expiry.UTC().Format(time.RFC3339))
			assert.Equal(t, i == 0, record.Token.Expiry.IsZero())
		}
	})

	t.Run("closes the folder above", func(t *testing.T) {
		above := t.TempDir()
		openDir(t, filepath.Join(above, "grants"), nil)
		files, err := filepath.Glob("/proc/self/fd/*") // where the system has it
		require.NoError(t, err)
		for _, file := range files {
			path, _ := os.Readlink(file)
			assert.NotEqual(t, above, path)
		}
	})

	t.Run("modes", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("it has none")
		}
		dir := filepath.Join(t.TempDir(), "grants")
		require.NoError(t, openDir(t, dir, nil).Put(t.Context(), "a", &oauth2.Token{}))
		for path, want := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, filepath.Join(dir, "lock"): 0o600, fileOf(t, dir): 0o600} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, want, info.Mode(), path)
		}
	})

	t.Run("the process changes its folder", func(t *testing.T) {
		before := t.TempDir()
		t.Chdir(before)
		store := openDir(t, "grants", nil)
		t.Chdir(t.TempDir())
		require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{}))
		fileOf(t, filepath.Join(before, "grants"))
	})

	t.Run("an ended context changes nothing", func(t *testing.T) { endedContext(t, openDir(t, t.TempDir(), nil)) })

	t.Run("closed, and made by nobody", func(t *testing.T) {
		closed := openDir(t, t.TempDir(), nil)
		require.NoError(t, closed.Put(t.Context(), "a", &oauth2.Token{}))
		require.NoError(t, closed.Close())
		for _, store := range []*grants.DirStore{closed, new(grants.DirStore), nil} {
			for name, err := range callAll(t.Context(), store) {
				assert.ErrorIs(t, err, fs.ErrClosed, name)
				assert.EqualError(t, err, "applebusiness/grants: the folder is closed, or was never opened: file already closed")
			}
			assert.NoError(t, store.Close())
		}
	})

	t.Run("a folder that cannot be used", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		for dir, want := range map[string]string{
			"":   `applebusiness/grants: the folder "" cannot be used: it has no name`,
			file: fmt.Sprintf("applebusiness/grants: the folder %q cannot be used: mkdir %s: not a directory", file, file),
		} {
			_, err := grants.NewDirStore(dir, nil)
			assert.EqualError(t, err, want)
		}
	})

	t.Run("a file that somebody has removed", func(t *testing.T) {
		dir := t.TempDir()
		store := openDir(t, dir, nil)
		require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh"}))
		require.NoError(t, os.Remove(fileOf(t, dir)))
		record, err := store.Lease(t.Context(), "a", "holder", time.Minute)
		require.NoError(t, err)
		assert.Equal(t, "refresh", record.Token.RefreshToken)
		require.NoError(t, os.Remove(fileOf(t, dir)), "it is there again")
		require.NoError(t, store.Delete(t.Context(), "a"))
		_, err = store.Load(t.Context(), "a")
		assert.ErrorIs(t, err, grants.ErrNoGrant)
	})

	t.Run("folders in the place of files", func(t *testing.T) {
		dir := t.TempDir()
		store := openDir(t, dir, nil)
		require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{}))
		path := fileOf(t, dir)
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.MkdirAll(filepath.Join(path, "x"), 0o700))
		assert.ErrorContains(t, store.Put(t.Context(), "a", &oauth2.Token{}), "applebusiness/grants: the grant's file is not written: rename ")
		assert.ErrorContains(t, store.Delete(t.Context(), "a"), "applebusiness/grants: the grant's file is not removed: remove ")
		require.NoError(t, store.Close())

		store = openDir(t, dir, nil)
		_, err := store.Load(t.Context(), "a")
		assert.ErrorContains(t, err, "applebusiness/grants: the grant's file cannot be read: read ")
		require.NoError(t, store.Close())

		temporary := strings.TrimSuffix(path, ".json") + ".tmp"
		require.NoError(t, os.MkdirAll(filepath.Join(temporary, "x"), 0o700))
		for range 2 { // the lock is given up
			_, err = grants.NewDirStore(dir, nil)
			assert.ErrorContains(t, err, fmt.Sprintf("applebusiness/grants: the folder %q cannot be read: remove ", dir))
		}
		require.NoError(t, os.RemoveAll(temporary))
		require.NoError(t, openDir(t, dir, nil).Close())

		lock := filepath.Join(dir, "lock")
		require.NoError(t, os.Remove(lock))
		require.NoError(t, os.Mkdir(lock, 0o700))
		_, err = grants.NewDirStore(dir, nil)
		assert.ErrorContains(t, err, fmt.Sprintf("applebusiness/grants: the folder %q cannot be used: open ", dir))
	})

	t.Run("a name that JSON would change", func(t *testing.T) {
		store := openDir(t, t.TempDir(), nil)
		assert.EqualError(t, store.Put(t.Context(), "\xff", &oauth2.Token{}), "applebusiness/grants: the grant's name is not UTF-8")
	})
}

// A second DirStore of a folder fails at once, and not once the first one is closed.
func TestDirStoreIsAlone(t *testing.T) {
	dir := t.TempDir()
	first := openDir(t, dir, nil)
	_, err := grants.NewDirStore(dir, nil)
	require.EqualError(t, err, fmt.Sprintf("applebusiness/grants: the folder %q cannot be used: another DirStore has it open, in this process or another one", dir))
	require.NoError(t, first.Put(t.Context(), "a", &oauth2.Token{}), "the first one is not disturbed")
	require.NoError(t, first.Close())
	openDir(t, dir, nil)
}

func TestDirStoreDamage(t *testing.T) {
	dir := t.TempDir()
	store := openDir(t, dir, nil)
	require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{AccessToken: "SECRET-access", RefreshToken: "SECRET-refresh", Expiry: time.Now()}))
	path := fileOf(t, dir)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, store.Put(t.Context(), "b", &oauth2.Token{RefreshToken: "other", Expiry: time.Now()}))
	require.NoError(t, store.Close())

	for name, content := range map[string]string{
		"empty":                "",
		"cut":                  string(good[:len(good)/2]),
		"not JSON":             "SECRET",
		"another type":         `{"grant":"a","version":"SECRET"}`,
		"null":                 "null",
		"a list":               "[]",
		"another grant's":      strings.Replace(string(good), `"a"`, `"c"`, 1),
		"no token":             `{"grant":"a","version":1}`,
		"no base64":            `{"grant":"a","version":1,"token":"SECRET!"}`,
		"a verdict of numbers": strings.Replace(string(good), `"grant"`, `"dead":17,"grant"`, 1),
		"more after it":        string(good) + "{}",
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			store := openDir(t, dir, nil)
			defer store.Close()
			want := fmt.Sprintf("applebusiness/grants: the grant's file %q was cut, changed or renamed", path)
			for method, err := range callAll(t.Context(), store) {
				switch method {
				case "Put", "Delete":
					assert.NoError(t, err, method)
				case "Due", "Dead":
					assert.NoError(t, err, method)
				default:
					assert.EqualError(t, err, want, method)
				}
			}
			_, err := store.Load(t.Context(), "a")
			assert.ErrorIs(t, err, grants.ErrNoGrant, "it is deleted for good")
		})
	}

	t.Run("others work, and Put heals", func(t *testing.T) {
		require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
		store := openDir(t, dir, nil)
		record, err := store.Load(t.Context(), "b")
		require.NoError(t, err)
		require.NoError(t, store.Save(t.Context(), "b", "", record.Version, &oauth2.Token{RefreshToken: "next", Expiry: time.Now()}))
		due, err := store.Due(t.Context(), time.Hour, 10)
		require.NoError(t, err)
		assert.Equal(t, []string{"b"}, due)
		require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "again"}))
		record, err = store.Load(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, "again", record.Token.RefreshToken)
	})

	t.Run("what is foreign is left alone, what is temporary is removed", func(t *testing.T) {
		dir := t.TempDir()
		foreign := []string{"notes.txt", "grant.json", strings.Repeat("A", 64) + ".json", strings.Repeat("a", 63) + ".json", strings.Repeat("a", 64) + ".json~", "x.tmp"}
		for _, name := range foreign {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("foreign"), 0o644))
		}
		require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o755))
		stray := filepath.Join(dir, strings.Repeat("a", 64)+".tmp")
		require.NoError(t, os.WriteFile(stray, []byte("half"), 0o600))
		openDir(t, dir, nil)
		assert.NoFileExists(t, stray)
		for _, name := range foreign {
			content, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			assert.Equal(t, "foreign", string(content))
		}
		assert.DirExists(t, filepath.Join(dir, "folder"))
	})
}

func TestDirStoreAEAD(t *testing.T) {
	token := &oauth2.Token{AccessToken: "SECRET-access", RefreshToken: "SECRET-refresh", TokenType: "Bearer", Expiry: time.Now()}

	t.Run("encrypted on disk", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, openDir(t, dir, testKey).Put(t.Context(), "a", token))
		var row struct {
			Grant string
			Token []byte
		}
		content, err := os.ReadFile(fileOf(t, dir))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(content, &row))
		assert.Equal(t, "a", row.Grant)
		assert.NotContains(t, string(row.Token), "SECRET")
		opened, err := testKey.Decrypt(row.Token[:], nil)
		assert.Error(t, err, "the name and the version are bound to it: %s", opened)
	})

	t.Run("one token in another row", func(t *testing.T) {
		dir := t.TempDir()
		store := openDir(t, dir, testKey)
		rows := map[string]map[string]any{}
		paths := map[string]string{}
		for _, name := range []string{"a", "b"} {
			require.NoError(t, store.Put(t.Context(), name, token))
			all, err := filepath.Glob(filepath.Join(dir, "*.json"))
			require.NoError(t, err)
			for _, path := range all {
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				var row map[string]any
				decoder := json.NewDecoder(bytes.NewReader(content))
				decoder.UseNumber()
				require.NoError(t, decoder.Decode(&row))
				rows[row["grant"].(string)], paths[row["grant"].(string)] = row, path
			}
		}
		require.NoError(t, store.Close())
		rows["b"]["token"], rows["b"]["version"] = rows["a"]["token"], rows["a"]["version"]
		content, err := json.Marshal(rows["b"])
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(paths["b"], content, 0o600))
		store = openDir(t, dir, testKey)
		_, err = store.Load(t.Context(), "b")
		require.EqualError(t, err, "applebusiness/grants: the AEAD failed to decrypt the token")
		_, err = store.Load(t.Context(), "a")
		require.NoError(t, err)
	})

	t.Run("with another key, or none", func(t *testing.T) {
		dir := t.TempDir()
		store := openDir(t, dir, testKey)
		require.NoError(t, store.Put(t.Context(), "a", token))
		require.NoError(t, store.Close())
		for _, aead := range []grants.AEAD{nil, newGCM(bytes.Repeat([]byte("x"), 32))} {
			store := openDir(t, dir, aead)
			before, err := os.ReadFile(fileOf(t, dir))
			require.NoError(t, err)
			_, err = store.Load(t.Context(), "a")
			require.Error(t, err)
			_, err = store.Lease(t.Context(), "a", "holder", time.Minute)
			require.Error(t, err)
			after, err := os.ReadFile(fileOf(t, dir))
			require.NoError(t, err)
			assert.Equal(t, string(before), string(after), "no lease is taken that nobody would end")
			due, err := store.Due(t.Context(), time.Hour, 1)
			require.NoError(t, err)
			assert.Equal(t, []string{"a"}, due)
			require.NoError(t, store.Close())
		}
	})

	t.Run("one that fails or panics", func(t *testing.T) {
		broken := new(brokenAEAD)
		store := openDir(t, t.TempDir(), broken)
		require.NoError(t, store.Put(t.Context(), "a", token))
		for range 2 {
			broken.fail.Store(true)
			err := store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "next"})
			require.EqualError(t, err, "applebusiness/grants: the AEAD failed to encrypt the token")
			broken.fail.Store(false)
			broken.panics.Store(true)
			require.Panics(t, func() { _ = store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "next"}) })
			require.Panics(t, func() { _, _ = store.Load(t.Context(), "a") })
			broken.panics.Store(false)
			record, err := store.Lease(t.Context(), "a", "holder", time.Minute)
			require.NoError(t, err, "nothing stays locked")
			assert.Equal(t, "SECRET-refresh", record.Token.RefreshToken)
		}
	})
}

type brokenAEAD struct{ fail, panics atomic.Bool }

func (a *brokenAEAD) Encrypt(plaintext, _ []byte) ([]byte, error) {
	if a.panics.Load() {
		panic("AEAD")
	}
	if a.fail.Load() {
		return nil, fmt.Errorf("cannot encrypt %s", plaintext)
	}
	return plaintext, nil
}

func (a *brokenAEAD) Decrypt(ciphertext, _ []byte) ([]byte, error) {
	return a.Encrypt(ciphertext, nil)
}

// keyAEAD is one whose value is the key.
type keyAEAD struct{ key string }

func (keyAEAD) Encrypt(plaintext, _ []byte) ([]byte, error)  { return plaintext, nil }
func (keyAEAD) Decrypt(ciphertext, _ []byte) ([]byte, error) { return ciphertext, nil }

func TestStoresShowNoSecret(t *testing.T) {
	token := &oauth2.Token{AccessToken: "SECRET-access", RefreshToken: "SECRET-refresh"}
	memory, dir := grants.NewMemoryStore(), openDir(t, t.TempDir(), keyAEAD{"SECRET-key"})
	require.NoError(t, memory.Put(t.Context(), "a", token))
	require.NoError(t, dir.Put(t.Context(), "a", token))
	for _, value := range []any{memory, dir, *dir} {
		showsNoSecret(t, value)
	}
}

// showsNoSecret tries every verb of fmt, every handler of slog and JSON on value, which holds texts that begin with SECRET.
func showsNoSecret(t *testing.T, value any) {
	t.Helper()
	var text bytes.Buffer
	for verb := range rune(128) {
		for _, flags := range []string{"", "+", "#"} {
			fmt.Fprintf(&text, "%"+flags+string(verb)+"\n", value)
		}
	}
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "value", value)
	slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "value", value)
	_ = json.NewEncoder(&text).Encode(value)
	for line := range strings.Lines(text.String()) {
		assert.NotContains(t, line, "SECRET")
		assert.NotContains(t, line, hex.EncodeToString([]byte("SECRET")))
	}
}

func BenchmarkDirStore(b *testing.B) {
	token := &oauth2.Token{AccessToken: strings.Repeat("a", 500), RefreshToken: strings.Repeat("r", 500), TokenType: "Bearer", Expiry: time.Now().Add(time.Hour)}
	for _, bench := range []struct {
		name string
		op   func(store *grants.DirStore, grant string) error
	}{
		{"Put", func(store *grants.DirStore, grant string) error { return store.Put(b.Context(), grant, token) }},
		{"Lease", func(store *grants.DirStore, grant string) error {
			_, err := store.Lease(b.Context(), grant, "holder", time.Minute)
			return err
		}},
		{"Save", func(store *grants.DirStore, grant string) error {
			record, err := store.Load(b.Context(), grant)
			return errors.Join(err, store.Save(b.Context(), grant, "holder", record.Version, token))
		}},
	} {
		for _, callers := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/callers=%d", bench.name, callers), func(b *testing.B) {
				store := openDir(b, b.TempDir(), testKey)
				var next atomic.Int64
				b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
				run := func(grant string, more func() bool) {
					require.NoError(b, store.Put(b.Context(), grant, token))
					for more() {
						if err := bench.op(store, grant); err != nil {
							b.Error(err)
							return
						}
					}
				}
				if callers == 1 {
					run("a", b.Loop)
				} else {
					b.RunParallel(func(pb *testing.PB) { run(fmt.Sprint(next.Add(1)), pb.Next) })
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
			})
		}
	}
}

func ExampleNewDirStore() {
	dir, err := os.MkdirTemp("", "grants") // in production: "/var/lib/app/grants", say
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	key := make([]byte, 32) // in production: from a key service
	_, _ = rand.Read(key)
	config := &oauth2.Config{Endpoint: applebusiness.OAuth2Endpoint("https://auth.example", "https://api.example")}
	customer := &oauth2.Token{AccessToken: "at", RefreshToken: "rt", TokenType: "Bearer", Expiry: time.Now().Add(time.Hour)}

	for range 2 { // the process starts, and starts again
		store, err := grants.NewDirStore(dir, newGCM(key))
		if err != nil {
			fmt.Println(err)
			return
		}
		manager := grants.New(config, store, nil)
		token, err := manager.Token(context.Background(), "customer 7")
		if errors.Is(err, grants.ErrNoGrant) {
			fmt.Println("customer 7 connects")
			err = manager.Put(context.Background(), "customer 7", customer)
		} else if err == nil {
			fmt.Println("customer 7 is connected:", token.AccessToken)
		}
		fmt.Println(errors.Join(err, manager.Close(context.Background()), store.Close())) // in this order
	}
	// Output:
	// customer 7 connects
	// <nil>
	// customer 7 is connected: at
	// <nil>
}
