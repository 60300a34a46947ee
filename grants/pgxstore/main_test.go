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

// newKeys returns keys of which the same id is always the same key.
func newKeys(t testing.TB, id byte) *keys {
	k := new(keys)
	require.NoError(t, k.add(id, keyOf(id)))
	return k
}

func keyOf(id byte) []byte { return bytes.Repeat([]byte{id}, 32) }

func token(text string, expires time.Duration) *oauth2.Token {
	return &oauth2.Token{AccessToken: "access-" + text, RefreshToken: "refresh-" + text, TokenType: "Bearer", Expiry: time.Now().Add(expires)}
}

var dead = &applebusiness.Error{
	Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid\x00 refresh_token",
	Reason: applebusiness.ErrInvalidRefreshToken, GrantType: applebusiness.GrantTypeRefreshToken, RequestID: "7f3c",
}

func TestStore(t *testing.T) {
	for _, variable := range []string{"DATABASE_URL", "POOLER_URL"} {
		t.Run(variable, func(t *testing.T) {
			store, _ := newStore(t, newPool(t, variable), pgxstore.Options{})
			require.NoError(t, grantstest.TestStore(store))
		})
	}
	t.Run("sealed", func(t *testing.T) {
		store, _ := newStore(t, newPool(t, "DATABASE_URL"), pgxstore.Options{Seal: newKeys(t, 1).seal, Open: newKeys(t, 1).open})
		require.NoError(t, grantstest.TestStore(store))
	})
}

// Many processes start at once, and each migrates.
func TestMigrateAtOnce(t *testing.T) {
	for _, variable := range []string{"DATABASE_URL", "POOLER_URL"} {
		t.Run(variable, func(t *testing.T) {
			pool := newPool(t, variable)
			table := "test_" + strings.ToLower(rand.Text())
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					assert.NoError(t, pgxstore.New(pool, &pgxstore.Options{Table: table}).Migrate(t.Context()))
				})
			}
			wg.Wait()
			require.NoError(t, grantstest.TestStore(pgxstore.New(pool, &pgxstore.Options{Table: table})))
		})
	}
	t.Run("the default table", func(t *testing.T) {
		pool := newPool(t, "DATABASE_URL")
		require.NoError(t, pgxstore.Migrate(t.Context(), pool))
		require.NoError(t, pgxstore.Migrate(t.Context(), pool))
		require.NoError(t, pgxstore.New(pool, nil).Put(t.Context(), "a", token("a", time.Hour)))
	})
	t.Run("without a privilege, once it is there", func(t *testing.T) {
		pool := newPool(t, "DATABASE_URL")
		_, table := newStore(t, pool, pgxstore.Options{})
		role := "role_" + strings.ToLower(rand.Text())
		for _, sql := range []string{"CREATE ROLE " + role + " LOGIN", "GRANT SELECT, INSERT, UPDATE, DELETE ON " + table + ", " + table + "_limit TO " + role} {
			_, err := pool.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
		config := pool.Config()
		config.ConnConfig.User = role
		poor, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		defer poor.Close()
		store := pgxstore.New(poor, &pgxstore.Options{Table: table})
		require.NoError(t, store.Migrate(t.Context()))
		require.NoError(t, store.Put(t.Context(), "a", token("a", time.Hour)))
		require.NoError(t, store.Limiter(1000).Wait(t.Context()))
	})
	t.Run("a schema", func(t *testing.T) {
		pool := newPool(t, "DATABASE_URL")
		schema := "Schema_" + rand.Text()
		_, err := pool.Exec(t.Context(), "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize())
		require.NoError(t, err)
		store := pgxstore.New(pool, &pgxstore.Options{Table: schema + ".Order"})
		require.NoError(t, store.Migrate(t.Context()))
		require.NoError(t, store.Put(t.Context(), "a", token("a", -time.Hour)))
		due, err := store.Due(t.Context(), 0, 10)
		require.NoError(t, err)
		assert.Equal(t, []string{"a"}, due)
		require.NoError(t, store.Limiter(1000).Wait(t.Context()))
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
	put := make(chan error)
	go func() { put <- store.Put(t.Context(), "a", token("a", time.Hour)) }()
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
			tag, err := killer.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%test_%' ORDER BY random() LIMIT 1`)
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

func TestLimiter(t *testing.T) {
	pool, pooler := newPool(t, "DATABASE_URL"), newPool(t, "POOLER_URL")
	one, table := newStore(t, pool, pgxstore.Options{})
	other := pgxstore.New(pooler, &pgxstore.Options{Table: table})
	ctx := t.Context()

	var times []time.Time
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for _, store := range []*pgxstore.Store{one, other} {
		for range 5 {
			wg.Go(func() {
				if assert.NoError(t, store.Limiter(20).Wait(ctx)) {
					mu.Lock()
					defer mu.Unlock()
					times = append(times, time.Now())
				}
			})
		}
	}
	wg.Wait()
	assert.GreaterOrEqual(t, time.Since(start), 9*50*time.Millisecond, "ten requests, 20 a second, for both together")

	t.Run("a deadline", func(t *testing.T) {
		slow := one.Limiter(1)
		require.NoError(t, slow.Wait(ctx)) // now the next second is taken
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		before := next(t, pool, table)
		err := slow.Wait(short)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: limit: the fleet's limit of 1 requests a second would let this one wait too long: context deadline exceeded")
		assert.NoError(t, short.Err(), "it returns at once")
		assert.Equal(t, before, next(t, pool, table), "nothing is taken")
	})
	t.Run("a cancelled wait", func(t *testing.T) {
		cancelled, cancel := context.WithCancel(ctx)
		time.AfterFunc(20*time.Millisecond, cancel)
		require.ErrorIs(t, one.Limiter(1).Wait(cancelled), context.Canceled)
	})
	t.Run("a clock that was set back", func(t *testing.T) {
		_, err := pool.Exec(ctx, `UPDATE `+table+`_limit SET next = now() + interval '3 hours'`)
		require.NoError(t, err)
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		require.NoError(t, one.Limiter(1000).Wait(short))
	})
	t.Run("misuse", func(t *testing.T) {
		const text = "applebusiness/grants/pgxstore: limit: the Limiter allows no requests: make it by Store.Limiter, with a positive number"
		assert.EqualError(t, one.Limiter(0).Wait(ctx), text)
		assert.EqualError(t, new(pgxstore.Limiter).Wait(ctx), text)
	})
}

func next(t *testing.T, pool *pgxpool.Pool, table string) (next time.Time) {
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT next FROM "+table+"_limit").Scan(&next))
	return next
}

func TestDead(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	store, table := newStore(t, pool, pgxstore.Options{})
	ctx := t.Context()
	for _, grant := range []string{"alive", "young", "old"} {
		require.NoError(t, store.Put(ctx, grant, token(grant, time.Hour)))
		record, err := store.Load(ctx, grant)
		require.NoError(t, err)
		if grant != "alive" {
			require.NoError(t, store.Mark(ctx, grant, "h", record.Version, grants.Mark{Dead: dead}))
		}
	}
	_, err := pool.Exec(ctx, `UPDATE `+table+` SET dead_since = dead_since - interval '1 hour' WHERE name = 'old'`)
	require.NoError(t, err)

	found, err := store.Dead(ctx, 10*time.Minute, grants.DeadGrant{}, 10)
	require.NoError(t, err)
	require.Len(t, found, 1)
	assert.Equal(t, "old", found[0].Grant)
	assert.Equal(t, dead, found[0].Error)
	assert.WithinDuration(t, time.Now().Add(-time.Hour), found[0].Since, 5*time.Second)
	found, err = store.Dead(ctx, 0, grants.DeadGrant{}, 10)
	require.NoError(t, err)
	require.Len(t, found, 2)
	assert.Equal(t, "old", found[0].Grant, "the longest dead first")
	found, err = store.Dead(ctx, 0, grants.DeadGrant{}, 1)
	require.NoError(t, err)
	assert.Len(t, found, 1)

	record, err := store.Load(ctx, "old")
	require.NoError(t, err)
	require.NoError(t, store.Put(ctx, "old", record.Token)) // an operator revives it
	found, err = store.Dead(ctx, 10*time.Minute, grants.DeadGrant{}, 10)
	require.NoError(t, err)
	assert.Empty(t, found)
}

func TestSealed(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	keys := newKeys(t, 1)
	options := pgxstore.Options{Seal: keys.seal, Open: keys.open}
	store, table := newStore(t, pool, options)
	ctx := t.Context()
	require.NoError(t, store.Put(ctx, "a", token("a", time.Hour)))
	var row []byte
	require.NoError(t, pool.QueryRow(ctx, "SELECT token FROM "+table).Scan(&row))
	assert.NotContains(t, string(row), "refresh-a")
	assert.NotContains(t, string(row), "access-a")

	require.NoError(t, keys.add(2, keyOf(2))) // a new key: what the old one sealed is still read
	record, err := store.Load(ctx, "a")
	require.NoError(t, err)
	assert.Equal(t, "refresh-a", record.Token.RefreshToken)
	require.NoError(t, store.Save(ctx, "a", "h", record.Version, token("b", time.Hour)))
	require.NoError(t, pool.QueryRow(ctx, "SELECT token FROM "+table).Scan(&row))
	_, err = newKeys(t, 1).open(row)
	require.EqualError(t, err, "sealed by an unknown key")

	options.Open = func([]byte) ([]byte, error) { return nil, errors.New("refresh-b") }
	options.Table = table
	_, err = pgxstore.New(pool, &options).Load(ctx, "a")
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: Options.Open failed")
	options.Seal = func(text []byte) ([]byte, error) { return nil, errors.New(string(text)) }
	err = pgxstore.New(pool, &options).Put(ctx, "a", token("c", time.Hour))
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: put: Options.Seal failed")
	_, err = pgxstore.New(pool, &pgxstore.Options{Table: table}).Load(ctx, "a")
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: the row's token is not what Put and Save store; is it sealed?")
}

func TestMisuse(t *testing.T) {
	ctx := t.Context()
	for want, store := range map[string]*pgxstore.Store{
		"the pool is nil": pgxstore.New(nil, nil),
	} {
		_, err := store.Load(ctx, "a")
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: "+want)
		assert.EqualError(t, store.Delete(ctx, "a"), "applebusiness/grants/pgxstore: delete: "+want)
		assert.EqualError(t, store.Limiter(1).Wait(ctx), "applebusiness/grants/pgxstore: limit: "+want)
	}
	pool := newPool(t, "DATABASE_URL")
	for _, table := range []string{"a b", `a"b`, "a;b", "a.b.c", "ü", strings.Repeat("x", 51), "'", "$migration$", "\x00"} {
		err := pgxstore.New(pool, &pgxstore.Options{Table: table}).Migrate(ctx)
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: migrate: Options.Table is not a name of letters, digits and _", table)
	}
	err := pgxstore.New(pool, &pgxstore.Options{Seal: newKeys(t, 1).seal}).Put(ctx, "a", token("a", 0))
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: put: of Options.Seal and Options.Open one is nil")
	_, err = pgxstore.New(pool, &pgxstore.Options{Table: "nothing_here"}).Load(ctx, "a")
	assert.EqualError(t, err, `applebusiness/grants/pgxstore: load: ERROR: relation "nothing_here" does not exist (SQLSTATE 42P01)`)
	store, _ := newStore(t, pool, pgxstore.Options{})
	assert.EqualError(t, store.Put(ctx, "a", nil), "applebusiness/grants/pgxstore: put: there is no token to store")
	err = store.Put(ctx, "nul\x00", token("a", 0))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "refresh-a")
	pool.Close()
	_, err = store.Load(ctx, "a")
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: closed pool")
}

// No server listens: pgx's text has several lines, ours one.
func TestNoDatabase(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://partner:s3cret@127.0.0.1:1/grants?connect_timeout=1")
	require.NoError(t, err)
	defer pool.Close()
	_, err = pgxstore.New(pool, nil).Load(t.Context(), "a")
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "\n")
	assert.NotContains(t, err.Error(), "s3cret")
	assert.Equal(t, applebusiness.Advice{}, applebusiness.Troubleshoot(&grants.StoreError{Grant: "a", Err: err}), "not Apple's outage")
}

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
