package pgxstore_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/grantstest"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// newPool returns a pool with pgx's defaults on the database at the URL in the variable.
func newPool(t testing.TB, variable string) *pgxpool.Pool {
	t.Helper()
	url := os.Getenv(variable)
	if url == "" {
		t.Skipf("%s is not set: run test.sh, which starts a PostgreSQL and a pgbouncer", variable)
	}
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// newStore returns a Store on a table of its own.
func newStore(t testing.TB, pool *pgxpool.Pool, options pgxstore.Options) (*pgxstore.Store, string) {
	t.Helper()
	options.Table = "test_" + strings.ToLower(rand.Text())
	store := pgxstore.New(pool, &options)
	require.NoError(t, store.Migrate(context.Background()))
	return store, options.Table
}

// The examples need a database, like everything here.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("DATABASE_URL") == "" {
		fmt.Println("the examples are skipped: DATABASE_URL is not set")
		_ = flag.Set("test.skip", "^Example")
	}
	os.Exit(m.Run())
}

// newKeyring returns a keyring with one key. The same id is always the same key.
func newKeyring(t testing.TB, id byte) *keyring {
	k := new(keyring)
	require.NoError(t, k.add(id, keyOf(id)))
	k.use(id)
	return k
}

func keyOf(id byte) []byte { return bytes.Repeat([]byte{id}, 32) }

func token(text string, expires time.Duration) *oauth2.Token {
	return &oauth2.Token{AccessToken: "access-" + text, RefreshToken: "refresh-" + text, TokenType: "Bearer", Expiry: time.Now().Add(expires)}
}

var dead = &applebusiness.Error{
	Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token",
	Reason: applebusiness.ErrInvalidRefreshToken, GrantType: applebusiness.GrantTypeRefreshToken, RequestID: "request-7",
}

func TestStore(t *testing.T) {
	for _, variable := range []string{"DATABASE_URL", "POOLER_URL"} {
		t.Run(variable, func(t *testing.T) {
			t.Parallel()
			store, _ := newStore(t, newPool(t, variable), pgxstore.Options{})
			require.NoError(t, grantstest.TestStore(store))
		})
	}
	t.Run("encrypted", func(t *testing.T) {
		t.Parallel()
		store, _ := newStore(t, newPool(t, "DATABASE_URL"), pgxstore.Options{AEAD: newKeyring(t, 1)})
		require.NoError(t, grantstest.TestStore(store))
	})
}

// What is written is a duration from the database's now: a process whose clock is wrong reads back what it meant.
func TestDatabaseClock(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	store, table := newStore(t, pool, pgxstore.Options{})
	ctx := t.Context()
	require.NoError(t, store.Put(ctx, "a", token("a", time.Hour)))
	record, err := store.Load(ctx, "a")
	require.NoError(t, err)
	require.NoError(t, store.Mark(ctx, "a", "h", record.Version, grants.Mark{RetryAt: time.Now().Add(time.Minute)}))
	_, err = store.Lease(ctx, "a", "h", 30*time.Second)
	require.NoError(t, err)
	var expires, retries, leased float64
	require.NoError(t, pool.QueryRow(ctx, `SELECT extract(epoch FROM expiry - now())::float8, extract(epoch FROM retry_at - now())::float8,
		extract(epoch FROM leased_until - now())::float8 FROM `+table).Scan(&expires, &retries, &leased))
	assert.InDelta(t, 3600, expires, 5)
	assert.InDelta(t, 60, retries, 5)
	assert.InDelta(t, 30, leased, 5)

	// The database's clock, or this process's, moves on by half an hour.
	_, err = pool.Exec(ctx, `UPDATE `+table+` SET expiry = expiry - interval '30 minutes'`)
	require.NoError(t, err)
	record, err = store.Load(ctx, "a")
	require.NoError(t, err)
	assert.InDelta(t, 30*time.Minute, time.Until(record.Token.Expiry), float64(5*time.Second))
}

// While every connection is busy a method waits, and a token's life is counted from when its statement is sent.
func TestBusyPool(t *testing.T) {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	require.NoError(t, err)
	newPool(t, "DATABASE_URL")
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	store, table := newStore(t, pool, pgxstore.Options{})
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	put, waits := make(chan error), token("a", time.Hour)
	go func() { put <- store.Put(t.Context(), "a", waits) }()
	time.Sleep(1500 * time.Millisecond)
	var before time.Time
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT clock_timestamp() + interval '1 hour'").Scan(&before))
	conn.Release()
	require.NoError(t, <-put)
	var expiry time.Time
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT expiry FROM "+table).Scan(&expiry))
	assert.True(t, expiry.Before(before), "the wait for a connection is no part of the token's life")

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	conn, err = pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = store.Load(ctx, "a")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.True(t, strings.HasPrefix(err.Error(), "applebusiness/grants/pgxstore: load: "), err)
}

// Connections are cut at random while many goroutines save: each version is saved once, and the row is the last one's.
func TestTerminated(t *testing.T) {
	pool, killer := newPool(t, "DATABASE_URL"), newPool(t, "DATABASE_URL")
	store, _ := newStore(t, pool, pgxstore.Options{})
	ctx := t.Context()
	require.NoError(t, store.Put(ctx, "a", token("0", time.Hour)))
	done := make(chan struct{})
	var killed atomic.Int64
	go func() {
		defer close(done)
		for range 100 {
			tag, err := killer.Exec(ctx, terminate+` ORDER BY random() LIMIT 1`)
			if err == nil {
				killed.Add(tag.RowsAffected())
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	var saves, unknown atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				record, err := store.Load(ctx, "a")
				if err != nil {
					continue
				}
				mine := fmt.Sprintf("%d-%d", i, n)
				switch err := store.Save(ctx, "a", "h", record.Version, token(mine, time.Hour)); {
				case err == nil:
					saves.Add(1)
				case !errors.Is(err, grants.ErrConflict):
					unknown.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d saves, %d of unknown outcome, %d connections cut", saves.Load(), unknown.Load(), killed.Load())
	assert.Positive(t, saves.Load())
	assert.Positive(t, killed.Load())
	record, err := store.Load(ctx, "a")
	require.NoError(t, err)
	require.NoError(t, store.Save(ctx, "a", "h", record.Version, token("last", time.Hour)))
	assert.ErrorIs(t, store.Save(ctx, "a", "h", record.Version, token("late", time.Hour)), grants.ErrConflict)
}

// The mail job's list, and what it reads.
func TestDead(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	store, table := newStore(t, pool, pgxstore.Options{})
	ctx := t.Context()
	for _, grant := range []string{"alive", "young", "b", "a", "c"} {
		require.NoError(t, store.Put(ctx, grant, token(grant, time.Hour)))
		record, err := store.Load(ctx, grant)
		require.NoError(t, err)
		if grant != "alive" {
			require.NoError(t, store.Mark(ctx, grant, "h", record.Version, grants.Mark{Dead: dead}))
		}
	}
	var since time.Time // three died at the same instant
	require.NoError(t, pool.QueryRow(ctx, `WITH a AS (SELECT now() - interval '1 hour' AS hour)
		UPDATE `+table+` SET dead_since = hour FROM a WHERE length(name) = 1 RETURNING dead_since`).Scan(&since))

	found, err := store.Dead(ctx, 10*time.Minute, grants.DeadGrant{}, 10)
	require.NoError(t, err)
	require.Len(t, found, 3)
	record, err := store.Load(ctx, "a")
	require.NoError(t, err)
	assert.Equal(t, grants.DeadGrant{Grant: "a", Error: dead, Since: since, Version: record.Version}, found[0], "by the database's clock")
	again, err := store.Dead(ctx, 0, grants.DeadGrant{}, 10)
	require.NoError(t, err)
	require.Len(t, again, 4)
	assert.Equal(t, found, again[:3], "the same at each call")

	var pages []string
	for after := (grants.DeadGrant{}); ; {
		page, err := store.Dead(ctx, 0, after, 1)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		after = grants.DeadGrant{Grant: page[0].Grant, Since: page[0].Since.UTC()}
		pages = append(pages, after.Grant)
	}
	assert.Equal(t, []string{"a", "b", "c", "young"}, pages)

	require.NoError(t, store.Put(ctx, "a", record.Token)) // an operator revives it
	found, err = store.Dead(ctx, 10*time.Minute, grants.DeadGrant{}, 10)
	require.NoError(t, err)
	assert.Len(t, found, 2)
}

// What waits in front of what is due is passed over in the index.
func TestManyWaiting(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	store, table := newStore(t, pool, pgxstore.Options{})
	ctx := t.Context()
	_, err := pool.Exec(ctx, `INSERT INTO `+table+` (name, token, version, expiry, retry_at)
		SELECT 'waits ' || i, '{}', i, now() - interval '2 hours' - i * interval '1 second', now() + interval '1 hour' + i * interval '1 millisecond'
		FROM generate_series(1, 100000) AS i`)
	require.NoError(t, err)
	for _, grant := range []string{"b", "a"} {
		require.NoError(t, store.Put(ctx, grant, token(grant, -time.Minute)))
	}
	_, err = pool.Exec(ctx, `ANALYZE `+table)
	require.NoError(t, err)
	start := time.Now()
	due, err := store.Due(ctx, 0, 10)
	require.NoError(t, err)
	t.Logf("Due behind 100,000 grants that wait: %v", time.Since(start))
	assert.Equal(t, []string{"b", "a"}, due)

	config := pool.Config() // and what was sent, explained
	sent := new(statement)
	config.ConnConfig.Tracer = sent
	traced, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer traced.Close()
	_, err = pgxstore.New(traced, &pgxstore.Options{Table: table}).Due(ctx, 0, 10)
	require.NoError(t, err)
	plan, err := pool.Query(ctx, "EXPLAIN ANALYZE "+sent.SQL, append([]any{pgx.QueryExecModeSimpleProtocol}, sent.Args[1:]...)...)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(plan, pgx.RowTo[string])
	require.NoError(t, err)
	assert.Contains(t, strings.Join(lines, "\n"), table+"_due", lines)
	assert.NotContains(t, strings.Join(lines, "\n"), "Rows Removed by Filter", "no row is fetched that is not due")
}

// statement is the last one that was sent.
type statement struct{ pgx.TraceQueryStartData }

func (s *statement) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.TraceQueryStartData = data
	return ctx
}
func (s *statement) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// What no Duration holds is kept a century away.
func TestFarTimes(t *testing.T) {
	store, _ := newStore(t, newPool(t, "DATABASE_URL"), pgxstore.Options{})
	ctx := t.Context()
	const century = 100 * 365 * 24 * time.Hour
	for year, want := range map[int]time.Duration{9999: century, 2: -century} {
		require.NoError(t, store.Put(ctx, "a", &oauth2.Token{AccessToken: "a", Expiry: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)}))
		for range 2 {
			record, err := store.Load(ctx, "a")
			require.NoError(t, err)
			assert.WithinDuration(t, time.Now().Add(want), record.Token.Expiry, time.Minute)
		}
		_, err := store.Due(ctx, -1<<63, 10)
		require.NoError(t, err)
		due, err := store.Due(ctx, 1<<63-1, 10)
		require.NoError(t, err)
		assert.Equal(t, []string{"a"}, due)
		_, err = store.Lease(ctx, "a", "h", 1<<63-1)
		require.NoError(t, err)
		_, err = store.Dead(ctx, -1<<63, grants.DeadGrant{}, 10)
		require.NoError(t, err)
	}
}

// A row's token opens in that row and under its version alone, with the key that encrypted it.
func TestAEAD(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	keys := newKeyring(t, 1)
	store, table := newStore(t, pool, pgxstore.Options{AEAD: keys})
	ctx := t.Context()
	read := func(grant string) (sealed []byte) {
		require.NoError(t, pool.QueryRow(ctx, "SELECT token FROM "+table+" WHERE name = $1", grant).Scan(&sealed))
		return sealed
	}
	write := func(sql string, arguments ...any) {
		_, err := pool.Exec(ctx, strings.ReplaceAll(sql, "{}", table), arguments...)
		require.NoError(t, err)
	}
	refused := func(grant string) {
		t.Helper()
		_, err := store.Load(ctx, grant)
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: the AEAD failed to decrypt the token")
		_, err = store.Lease(ctx, grant, "h", time.Millisecond)
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: lease: the AEAD failed to decrypt the token")
	}
	require.NoError(t, store.Put(ctx, "a", token("a", time.Hour)))
	require.NoError(t, store.Put(ctx, "b", token("b", time.Hour)))
	old := read("a")
	assert.NotContains(t, string(old), "refresh-a")
	assert.NotContains(t, string(old), "access-a")

	write("UPDATE {} SET token = $1, version = (SELECT version FROM {} WHERE name = 'a') WHERE name = 'b'", old)
	refused("b") // another row's, with its version
	require.NoError(t, store.Put(ctx, "b", token("b", time.Hour)))
	_, err := store.Load(ctx, "b")
	require.NoError(t, err, "Put mends it")

	record, err := store.Load(ctx, "a")
	require.NoError(t, err)
	require.NoError(t, store.Save(ctx, "a", "h", record.Version, token("a2", time.Hour)))
	newer := read("a")
	write("UPDATE {} SET token = $1 WHERE name = 'a'", old)
	refused("a") // the same row's, and older
	write("UPDATE {} SET token = $1 WHERE name = 'a'", newer)

	require.NoError(t, keys.add(2, keyOf(2)))
	keys.use(2) // what the old key encrypted is still read, and what is saved is the new one's
	record, err = store.Load(ctx, "a")
	require.NoError(t, err)
	assert.Equal(t, "refresh-a2", record.Token.RefreshToken)
	require.NoError(t, store.Save(ctx, "a", "h", record.Version, token("a3", time.Hour)))
	assert.EqualValues(t, 2, read("a")[0])

	_, err = pgxstore.New(pool, &pgxstore.Options{Table: table}).Load(ctx, "a")
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: what is stored as the token is not one; is it encrypted?")
	err = pgxstore.New(pool, &pgxstore.Options{Table: table, AEAD: leaky{}}).Put(ctx, "a", token("secret", time.Hour))
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: put: the AEAD failed to encrypt the token")
}

// leaky fails with what it was given.
type leaky struct{}

func (leaky) Encrypt(plaintext, _ []byte) ([]byte, error) { return nil, errors.New(string(plaintext)) }
func (leaky) Decrypt(ciphertext, _ []byte) ([]byte, error) {
	return nil, errors.New(string(ciphertext))
}

// A statement that changes nothing, and a lease of the same holder's, do not fail because a connection broke.
func TestBrokenConnections(t *testing.T) {
	pool, killer := newPool(t, "DATABASE_URL"), newPool(t, "DATABASE_URL")
	store, _ := newStore(t, pool, pgxstore.Options{})
	ctx := t.Context()
	require.NoError(t, store.Put(ctx, "a", token("a", -time.Hour)))
	done := make(chan struct{})
	killed := 0
	var calls, failed atomic.Int64
	go func() {
		defer close(done)
		for range 100 {
			if tag, err := killer.Exec(ctx, terminate+` ORDER BY random() LIMIT 1`); err == nil {
				killed += int(tag.RowsAffected())
			}
			for before := calls.Load(); calls.Load() < before+50; { // as many on a slow machine, too
				time.Sleep(time.Millisecond)
			}
		}
	}()
	var wg sync.WaitGroup
	for _, call := range []func() error{
		func() error { _, err := store.Load(ctx, "a"); return err },
		func() error { _, err := store.Lease(ctx, "a", "h", time.Minute); return err },
		func() error { _, err := store.Due(ctx, 0, 10); return err },
		func() error { _, err := store.Dead(ctx, 0, grants.DeadGrant{}, 10); return err },
	} {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				calls.Add(1)
				if err := call(); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d calls, %d failed, %d connections terminated", calls.Load(), failed.Load(), killed)
	assert.Positive(t, killed)
	assert.LessOrEqual(t, 200*failed.Load(), calls.Load(), "half of one per cent")

	t.Run("all of them", func(t *testing.T) { // as a restart of the database does
		for range 20 {
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { _, _ = store.Load(ctx, "a") })
			}
			wg.Wait()
			_, err := killer.Exec(ctx, terminate)
			require.NoError(t, err)
			_, err = store.Load(ctx, "a")
			require.NoError(t, err)
		}
	})
}

// terminate ends the connections of other pools.
const terminate = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%test_%'`

// A Manager for each of three processes, over a pooler: one refresh for all of them.
func TestManagers(t *testing.T) {
	store, _ := newStore(t, newPool(t, "POOLER_URL"), pgxstore.Options{})
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	ctx := t.Context()
	expired := apple.Connect(config.ClientID)
	expired.Expiry = time.Now().Add(-time.Minute)
	require.NoError(t, store.Put(ctx, "a", expired))
	var sent atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		manager := grants.New(config, store, &grants.Options{
			HTTPClient: &http.Client{Timeout: 10 * time.Second},
			Limit:      store.Limiter(100),
			OnRefresh: func(refresh grants.Refresh) {
				if refresh.Sent {
					sent.Add(1)
				}
			},
		})
		defer manager.Close(ctx)
		for range 10 {
			wg.Go(func() {
				token, err := manager.Token(ctx, "a")
				if assert.NoError(t, err) {
					assert.NotEqual(t, expired.AccessToken, token.AccessToken)
				}
			})
		}
	}
	wg.Wait()
	assert.EqualValues(t, 1, sent.Load())
}

// A Lease and a Save, which is what a refresh costs the database.
func BenchmarkRefresh(b *testing.B) {
	pool := newPool(b, "DATABASE_URL")
	store, _ := newStore(b, pool, pgxstore.Options{})
	ctx := b.Context()
	require.NoError(b, store.Put(ctx, "a", token("a", time.Hour)))
	b.Run("Lease, Save", func(b *testing.B) {
		for b.Loop() {
			record, err := store.Lease(ctx, "a", "h", time.Minute)
			if err == nil {
				err = store.Save(ctx, "a", "h", record.Version, token("b", time.Hour))
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("baseline: two times SELECT 1", func(b *testing.B) {
		for b.Loop() {
			for range 2 {
				if _, err := pool.Exec(ctx, "SELECT 1", pgx.QueryExecModeExec); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// What a million grants take on the disk, with tokens of 64 characters, and how long it takes to find the first thousand that
// are due.
func BenchmarkMillionGrants(b *testing.B) {
	pool := newPool(b, "DATABASE_URL")
	store, table := newStore(b, pool, pgxstore.Options{})
	ctx := b.Context()
	const n = 1_000_000
	_, err := pool.Exec(ctx, `INSERT INTO `+table+` (name, token, version, expiry)
		SELECT (1000000000 + i)::text,
			convert_to('{"access_token":"' || encode(sha256(('a' || i)::bytea), 'hex') || '","refresh_token":"' || encode(sha256(('r' || i)::bytea), 'hex') || '","token_type":"Bearer"}', 'UTF8'),
			hashint8extended(i, 0), now() + i * interval '1 millisecond' - interval '1 minute'
		FROM generate_series(1, $1::bigint) AS i`, pgx.QueryExecModeExec, n)
	require.NoError(b, err)
	_, err = pool.Exec(ctx, `VACUUM ANALYZE `+table)
	require.NoError(b, err)
	var size int64
	require.NoError(b, pool.QueryRow(ctx, `SELECT pg_total_relation_size($1)`, table).Scan(&size))
	for b.Loop() {
		due, err := store.Due(ctx, 0, 1000)
		if err != nil || len(due) != 1000 {
			b.Fatal(len(due), err)
		}
	}
	b.ReportMetric(float64(size)/n, "B/grant")
}
