package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const patience = 30 * time.Second // for what has to happen at some time

func TestMain(m *testing.M) {
	if config := os.Getenv(workerVariable); config != "" { // TestKillBetweenAnswerAndCommit runs this binary
		exit(runWorker(config))
	}
	if os.Getenv("DATABASE_URL") == "" {
		fmt.Fprintln(os.Stderr, "DATABASE_URL is not set, and these tests need a PostgreSQL; ./run.sh test starts one and runs them")
		os.Exit(1)
	}
	m.Run()
}

// newPool returns the connections of one process.
func newPool(t *testing.T, parameters ...string) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	require.NoError(t, err)
	for i := 0; i < len(parameters); i += 2 {
		config.ConnConfig.RuntimeParams[parameters[i]] = parameters[i+1]
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, Migrate(t.Context(), pool))
	return pool
}

// customer is a grant at a fake Apple.
type customer struct {
	t     *testing.T
	apple *applebusinesstest.Server
	grant string
}

// newCustomer returns a customer whose access token has expired.
func newCustomer(t *testing.T, options *applebusinesstest.Options) *customer {
	c := &customer{t, applebusinesstest.NewServer(options), t.Name() + " " + rand.Text()}
	t.Cleanup(c.apple.Close)
	c.put(expired(c.apple.Connect(c.apple.App.ClientID)))
	return c
}

func expired(token *oauth2.Token) *oauth2.Token {
	token.Expiry = time.Now().Add(-time.Minute)
	return token
}

func (c *customer) put(token *oauth2.Token) {
	require.NoError(c.t, c.store().Put(c.t.Context(), token))
}

// store returns the Store of another process.
func (c *customer) store(parameters ...string) *Store {
	return NewStore(newPool(c.t, parameters...), c.grant)
}

// source returns the SharedTokenSource of a process.
func (c *customer) source(store applebusiness.Store) *applebusiness.SharedTokenSource {
	config := &oauth2.Config{ClientID: c.apple.App.ClientID, ClientSecret: c.apple.App.ClientSecret, Endpoint: c.apple.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: patience})
	return applebusiness.NewSharedTokenSource(applebusiness.WithJSON(ctx, config.Endpoint.TokenURL), config, store)
}

// stored returns what the Store hands to refresh.
func (c *customer) stored() (stored *oauth2.Token) {
	_, _ = c.store().Update(c.t.Context(), func(_ context.Context, token *oauth2.Token) (*oauth2.Token, error) {
		stored = token
		return nil, errUnused
	})
	return stored
}

var errUnused = errors.New("no refresh wanted")

func unexpected(t *testing.T) func(context.Context, *oauth2.Token) (*oauth2.Token, error) {
	return func(context.Context, *oauth2.Token) (*oauth2.Token, error) {
		t.Error("refresh was called")
		return nil, errUnused
	}
}

func TestOneRefreshForManyProcesses(t *testing.T) {
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} { // of the database's default
		t.Run(isolation, func(t *testing.T) {
			c := newCustomer(t, nil)
			var goroutines sync.WaitGroup
			var mu sync.Mutex
			tokens := map[string]bool{}
			for range 5 {
				store := c.store("default_transaction_isolation", isolation)
				for range 4 {
					source := c.source(store)
					for range 3 {
						goroutines.Go(func() {
							token, err := source.Token()
							if assert.NoError(t, err) {
								mu.Lock()
								defer mu.Unlock()
								tokens[token.AccessToken] = true
							}
						})
					}
				}
			}
			goroutines.Wait()
			assert.Len(t, tokens, 1)
			assert.Len(t, c.apple.Requests(), 1)
		})
	}
}

func TestColumns(t *testing.T) {
	c := newCustomer(t, nil)
	expiry := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	for _, want := range []oauth2.Token{
		{AccessToken: "a", RefreshToken: "r", TokenType: "Bearer", Expiry: expiry},
		{AccessToken: "ä'\"", RefreshToken: "", TokenType: ""},
	} {
		c.put(&want)
		got := c.stored()
		require.NotNil(t, got)
		assert.True(t, isSame(&want, got), "%v", got)
		assert.Equal(t, want.Expiry.IsZero(), got.Expiry.IsZero())
	}
}

func TestNeedsReconnecting(t *testing.T) {
	c := newCustomer(t, nil)
	c.apple.Revoke(c.stored().RefreshToken)
	_, first := c.source(c.store()).Token()
	require.ErrorIs(t, first, applebusiness.ErrInvalidRefreshToken)
	requestID := func(err error) string {
		e, ok := errors.AsType[*applebusiness.Error](err)
		require.True(t, ok)
		return e.RequestID
	}
	for range 3 {
		source := c.source(c.store())
		for range 2 {
			_, err := source.Token()
			assert.EqualError(t, err, `applebusiness: invalid_grant: "Invalid refresh_token"`)
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
			assert.ErrorIs(t, err, applebusiness.CodeInvalidGrant)
			assert.Equal(t, applebusiness.Troubleshoot(first), applebusiness.Troubleshoot(err))
			assert.NotEmpty(t, requestID(err))
			assert.Equal(t, requestID(first), requestID(err))
		}
	}
	assert.Len(t, c.apple.Requests(), 1)

	token := c.apple.Connect(c.apple.App.ClientID) // the customer reconnects
	c.put(token)
	got, err := c.source(c.store()).Token()
	require.NoError(t, err)
	assert.Equal(t, token.AccessToken, got.AccessToken)
	assert.Len(t, c.apple.Requests(), 1)
}

// Whatever error asks for reconnecting does so for the other processes too.
func TestRecordedErrors(t *testing.T) {
	for name, err := range map[string]error{
		"Reason":         &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoRefreshToken},
		"Code":           &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Code: applebusiness.CodeInvalidGrant, GrantType: "refresh_token"},
		"bare Reason":    applebusiness.ErrInvalidRefreshToken,
		"not UTF-8":      &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token", RequestID: "id\xff"},
		"with a context": fmt.Errorf("refresh: %w", &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"}),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCustomer(t, nil)
			_, first := c.store().Update(t.Context(), func(context.Context, *oauth2.Token) (*oauth2.Token, error) { return nil, err })
			assert.Equal(t, err, first, "as it is")
			_, second := c.store().Update(t.Context(), func(_ context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
				assert.Nil(t, stored)
				return nil, errUnused
			})
			assert.Equal(t, applebusiness.ReasonOf(err), applebusiness.ReasonOf(second))
			assert.Equal(t, applebusiness.CodeOf(err), applebusiness.CodeOf(second))
			assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(second).Action)
		})
	}
}

// A customer is asked to reconnect because of ActionReauthorize only.
func TestOtherErrorsAreNotRecorded(t *testing.T) {
	for _, reason := range []applebusiness.Reason{applebusiness.ErrServer, applebusiness.ErrInvalidCredentials, applebusiness.ErrInvalidGrantType} {
		t.Run(string(reason), func(t *testing.T) {
			c := newCustomer(t, nil)
			c.apple.Fail(reason)
			_, err := c.source(c.store()).Token()
			require.ErrorIs(t, err, reason)
			_, err = c.source(c.store()).Token()
			assert.NoError(t, err)
		})
	}
}

func TestMissingRow(t *testing.T) {
	store := NewStore(newPool(t), "nobody")
	_, err := store.Update(t.Context(), unexpected(t))
	assert.EqualError(t, err, `grant "nobody": there is no such grant in the database`)
	assert.ErrorIs(t, err, ErrNoGrant)
	assert.Equal(t, applebusiness.ActionUnknown, applebusiness.Troubleshoot(err).Action)
}

// holdRow keeps the grant's row locked until the test calls release.
func (c *customer) holdRow() (release func()) {
	locked, released := make(chan struct{}), make(chan struct{})
	var holder sync.WaitGroup
	store := c.store()
	holder.Go(func() {
		_, err := store.Update(context.Background(), func(_ context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
			close(locked)
			<-released
			return stored, nil
		})
		assert.NoError(c.t, err)
	})
	<-locked
	release = sync.OnceFunc(func() {
		close(released)
		holder.Wait()
	})
	c.t.Cleanup(release)
	return release
}

func TestLockTimeout(t *testing.T) {
	c := newCustomer(t, nil)
	release := c.holdRow()
	store := c.store()
	store.lockTimeout = 50 * time.Millisecond
	_, err := c.source(store).Token()
	assert.EqualError(t, err, fmt.Sprintf("grant %q: another process has held its row for 50ms: i/o timeout: ERROR: canceling statement due to lock timeout (SQLSTATE 55P03)", c.grant))
	e, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok)
	assert.Equal(t, "55P03", e.Code)
	assert.Equal(t, applebusiness.ActionRetry, applebusiness.Troubleshoot(err).Action)
	assert.True(t, applebusiness.Retryable(err))
	assert.Empty(t, c.apple.Requests())

	release()
	_, err = c.source(store).Token()
	assert.NoError(t, err, "nothing was recorded")
}

// A process that stops in the middle of a refresh keeps nobody else from it for good.
func TestStoppedProcess(t *testing.T) {
	c := newCustomer(t, nil)
	stopped := c.store()
	stopped.idleTimeout = 50 * time.Millisecond
	_, err := stopped.Update(t.Context(), func(context.Context, *oauth2.Token) (*oauth2.Token, error) {
		_, err := c.source(c.store()).Token() // waits for the row
		assert.NoError(t, err)
		return &oauth2.Token{AccessToken: "late"}, nil
	})
	assert.Error(t, err)
	assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
	assert.NotEqual(t, "late", c.stored().AccessToken)
}

func TestContext(t *testing.T) {
	c := newCustomer(t, nil)
	before := c.stored()
	t.Run("ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.store().Update(ctx, unexpected(t))
		assert.ErrorIs(t, err, context.Canceled)
	})
	t.Run("ends while the row is locked", func(t *testing.T) {
		release := c.holdRow()
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := c.store().Update(ctx, unexpected(t))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("ends during the refresh", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.store().Update(ctx, func(context.Context, *oauth2.Token) (*oauth2.Token, error) {
			cancel()
			return &oauth2.Token{AccessToken: "not stored"}, nil
		})
		assert.ErrorIs(t, err, context.Canceled)
	})
	assert.True(t, isSame(before, c.stored()))
}

func TestPanicGivesUpTheRow(t *testing.T) {
	c := newCustomer(t, nil)
	store := c.store()
	assert.Panics(t, func() {
		_, _ = store.Update(t.Context(), func(context.Context, *oauth2.Token) (*oauth2.Token, error) { panic("refresh") })
	})
	_, err := c.source(store).Token()
	assert.NoError(t, err)
}

// breakingStore loses its connection between the refresh and the commit.
type breakingStore struct {
	*Store
	name   string // of the session
	admin  *pgxpool.Pool
	broken bool
}

func (c *customer) breakingStore() *breakingStore {
	name := rand.Text()
	return &breakingStore{c.store("application_name", name), name, newPool(c.t), true}
}

func (s *breakingStore) Update(ctx context.Context, refresh func(context.Context, *oauth2.Token) (*oauth2.Token, error)) (*oauth2.Token, error) {
	return s.Store.Update(ctx, func(ctx context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
		token, err := refresh(ctx, stored)
		if s.broken {
			_, _ = s.admin.Exec(ctx, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = $1 AND state = 'idle in transaction'", s.name)
		}
		return token, err
	})
}

func TestCommitFails(t *testing.T) {
	c := newCustomer(t, nil)
	store := c.breakingStore()
	source := c.source(store)
	before := c.stored()
	for range 2 {
		_, err := source.Token()
		require.Error(t, err)
		assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
		assert.True(t, isSame(before, c.stored()))
	}
	store.broken = false
	token, err := source.Token()
	require.NoError(t, err)
	assert.Equal(t, token.AccessToken, c.stored().AccessToken)
	assert.Len(t, c.apple.Requests(), 1)
}

// The database takes the new token, and refuses the commit.
func TestCommitIsRefused(t *testing.T) {
	c := newCustomer(t, nil)
	admin := newPool(t)
	drop := func() {
		_, err := admin.Exec(context.Background(), "DROP FUNCTION IF EXISTS refuse_commit CASCADE")
		assert.NoError(t, err)
	}
	defer drop()
	_, err := admin.Exec(t.Context(), `
		CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
		CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT OR UPDATE ON apple_grant
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_commit()`)
	require.NoError(t, err)
	source := c.source(c.store())
	_, err = source.Token()
	require.EqualError(t, err, fmt.Sprintf("grant %q: ERROR: refused (SQLSTATE P0001)", c.grant))
	assert.Error(t, c.store().Put(t.Context(), &oauth2.Token{}))
	drop()
	token, err := source.Token()
	require.NoError(t, err)
	assert.Equal(t, token.AccessToken, c.stored().AccessToken)
	assert.Len(t, c.apple.Requests(), 1)
}

// A sibling was refused the old refresh token while the process with the new one could not store it.
func TestRecordIsClearedByWhoHoldsTheToken(t *testing.T) {
	c := newCustomer(t, nil)
	store := c.breakingStore()
	source := c.source(store)
	_, err := source.Token()
	require.Error(t, err)
	sibling := c.source(c.store())
	_, err = sibling.Token()
	require.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	require.Nil(t, c.stored())

	store.broken = false
	want, err := source.Token()
	require.NoError(t, err)
	got, err := sibling.Token()
	require.NoError(t, err)
	assert.Equal(t, want.AccessToken, got.AccessToken)
	assert.Len(t, c.apple.Requests(), 2)
}

// The refusal could not be recorded: the error is still Apple's.
func TestRecordingFails(t *testing.T) {
	c := newCustomer(t, nil)
	c.apple.Revoke(c.stored().RefreshToken)
	source := c.source(c.breakingStore())
	_, err := source.Token()
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
	assert.ErrorContains(t, err, "grant ")
	assert.NotNil(t, c.stored())
}

// What a kill costs between the answer, which replaced the refresh token, and the commit: nothing where the server keeps
// refresh tokens, and else the grant.
func TestKillBetweenAnswerAndCommit(t *testing.T) {
	for name, keep := range map[string]bool{"refresh tokens are replaced": false, "refresh tokens are kept": true} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			f, err := newFleet(ctx, os.Getenv("DATABASE_URL"), &applebusinesstest.Options{KeepRefreshToken: keep})
			require.NoError(t, err)
			defer f.close(context.Background())
			grant := t.Name() + rand.Text()
			require.NoError(t, f.connect(ctx, grant, expired(f.apple.connect(grant))))
			f.apple.killNext(grant)
			f.start()
			require.Eventually(t, func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				return f.kills == 1 && (f.hasLost() || len(f.windows) > 0)
			}, patience, 10*time.Millisecond)
			f.stop()
			f.connected.Wait() // the customer has reconnected, if asked to
			assert.Equal(t, !keep, f.hasLost())
			assert.Empty(t, f.wrong)
			requests := f.apple.sum()
			assert.Equal(t, 2, requests.requests)
			assert.Equal(t, 1, requests.repeatedAfterKill)
			_, err = NewStore(f.pool, grant).Update(ctx, func(_ context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
				assert.True(t, stored.Valid())
				return stored, nil
			})
			assert.NoError(t, err)
		})
	}
}

func TestMigrate(t *testing.T) {
	schema := "test_" + rand.Text()
	_, err := newPool(t).Exec(t.Context(), fmt.Sprintf("CREATE SCHEMA %q", schema))
	require.NoError(t, err)
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["search_path"] = fmt.Sprintf("%q", schema)
	config.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	var processes sync.WaitGroup
	for range 8 {
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		processes.Go(func() { assert.NoError(t, Migrate(context.Background(), pool)) })
	}
	processes.Wait()
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, Migrate(t.Context(), pool), "a second start")
	var names []string
	rows, err := pool.Query(t.Context(), "SELECT name FROM fleet_migration")
	require.NoError(t, err)
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		names = append(names, name)
	}
	require.NoError(t, rows.Err())
	assert.Equal(t, []string{"migrations/1_apple_grant.sql"}, names)
}
