package grants_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// token is a call of Token that must succeed.
func token(t *testing.T, m *grants.Manager, grant string) string {
	t.Helper()
	token, err := m.Token(context.Background(), grant)
	require.NoError(t, err)
	return token.AccessToken
}

// failure is a call of Token that must fail with an *applebusiness.Error.
func failure(t *testing.T, m *grants.Manager, grant string) *applebusiness.Error {
	t.Helper()
	_, err := m.Token(context.Background(), grant)
	require.Error(t, err)
	e, ok := errors.AsType[*applebusiness.Error](err)
	require.True(t, ok, "%T: %v", err, err)
	return e
}

func storeFailure(t *testing.T, err error) *grants.StoreError {
	t.Helper()
	var e *grants.StoreError
	require.ErrorAs(t, err, &e)
	return e
}

func TestToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		_, err := m.Token(t.Context(), "a")
		require.ErrorIs(t, err, grants.ErrNoGrant)
		synctest.Wait() // OnRefresh is told in no order of attempts that follow each other at once

		w.connect("a", time.Hour)
		assert.Equal(t, "access-a-0", token(t, m, "a"), "a stored token that is valid needs no request")
		calls := w.store.total()
		for range 100 {
			assert.Equal(t, "access-a-0", token(t, m, "a"))
		}
		assert.Equal(t, calls, w.store.total(), "nor a call of the Store, once it is in memory")

		got, err := m.Token(t.Context(), "a")
		require.NoError(t, err)
		got.AccessToken = "changed"
		assert.Equal(t, "access-a-0", token(t, m, "a"), "a copy")

		time.Sleep(time.Hour)
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		synctest.Wait()
		row := w.row("a")
		assert.Equal(t, "refresh-a-1", row.Token.RefreshToken)
		assert.Equal(t, grants.Mark{}, row.Mark)
		assert.Equal(t, []string{"refresh-a-0"}, w.apple.sent)
		events := w.takeEvents()
		require.Len(t, events, 3)
		assert.ErrorIs(t, events[0].Err, grants.ErrNoGrant)
		assert.Equal(t, grants.Refresh{Grant: "a", Start: events[2].Start, Sent: true}, events[2])

		source := m.TokenSource(t.Context(), "a")
		got, err = source.Token()
		require.NoError(t, err)
		assert.Equal(t, "access-a-1", got.AccessToken)
	})
}

// What OnRefresh is told.
func TestRefreshEvent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apple.latency = 2 * time.Second
		m := w.process(func(o *grants.Options) {
			o.Limit = limit(func(context.Context) error { time.Sleep(3 * time.Second); return nil })
		})
		w.connect("a", -time.Minute)
		start := time.Now()
		token(t, m, "a")
		synctest.Wait()
		assert.Equal(t, []grants.Refresh{{Grant: "a", Start: start, Duration: 5 * time.Second, Waited: 3 * time.Second, Sent: true}}, w.takeEvents())

		w.connect("b", -time.Minute)
		_, err := w.store.Store.Lease(t.Context(), "b", "sibling", time.Minute)
		require.NoError(t, err)
		time.AfterFunc(10*time.Second, func() {
			_ = w.store.Store.Put(context.Background(), "b", &oauth2.Token{AccessToken: "b", RefreshToken: "b", Expiry: time.Now().Add(time.Hour)})
		})
		token(t, m, "b")
		synctest.Wait()
		events := w.takeEvents()
		require.Len(t, events, 1)
		assert.False(t, events[0].Sent)
		assert.Equal(t, events[0].Duration, events[0].Waited)
		assert.InDelta(t, 10, events[0].Waited.Seconds(), 4)
	})
}

func TestFleetRefreshesOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apple.latency = 2 * time.Second
		w.connect("a", -time.Minute)
		var group sync.WaitGroup
		for range 6 {
			m := w.process()
			for range 20 {
				group.Go(func() { assert.Equal(t, "access-a-1", token(t, m, "a")) })
			}
		}
		start := time.Now()
		group.Wait()
		assert.Less(t, time.Since(start), 4*time.Second)
		assert.Equal(t, 1, w.apple.requests())
	})
}

// restore makes the row what it was, as a failover to an older copy does.
func restore(t *testing.T, w *world, grant string, old grants.Record) {
	t.Helper()
	require.NoError(t, w.store.Store.Put(t.Context(), grant, old.Token))
	if old.Mark != (grants.Mark{}) {
		require.NoError(t, w.store.Store.Mark(t.Context(), grant, "", w.row(grant).Version, old.Mark))
	}
}

func forever(f func(*http.Request) (*http.Response, error)) []func(*http.Request) (*http.Response, error) {
	var all []func(*http.Request) (*http.Response, error)
	for range 1000 {
		all = append(all, f)
	}
	return all
}

func hangStore(ctx context.Context, _, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

type leaseSpy struct {
	grants.Store
	lease func(holder string, d time.Duration)
}

func (s *leaseSpy) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	s.lease(holder, d)
	return s.Store.Lease(ctx, grant, holder, d)
}

// Decision 11: what a 401 or a short life can cause is bounded.
func TestInvalidate(t *testing.T) {
	t.Run("once for all who met the 401", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m, sibling := w.process(), w.process()
			w.connect("a", time.Hour)
			old, err := m.Token(t.Context(), "a")
			require.NoError(t, err)
			token(t, sibling, "a")
			for range 20 {
				m.Invalidate("a", nil)
				m.Invalidate("b", old)
				m.Invalidate("a", old)
				assert.Equal(t, "access-a-1", token(t, m, "a"))
			}
			synctest.Wait()
			sibling.Invalidate("a", old)
			assert.Equal(t, "access-a-1", token(t, sibling, "a"), "a sibling was faster")
			assert.Equal(t, 1, w.apple.requests())
		})
	})

	t.Run("a late 401 to an older token", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			m.Invalidate("a", &oauth2.Token{AccessToken: "access-a-0"})
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Equal(t, 1, w.apple.requests())
		})
	})

	t.Run("an API that refuses every token", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			for range 200 {
				got, err := m.Token(t.Context(), "a")
				require.NoError(t, err)
				m.Invalidate("a", got)
				time.Sleep(time.Second)
			}
			assert.LessOrEqual(t, w.apple.requests(), 4, "one a minute")
		})
	})

	t.Run("tokens that live for seconds", func(t *testing.T) {
		for life := 1; life <= 10; life++ {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.apple.life = life
				w.connect("a", -time.Minute)
				start := time.Now()
				for range 100 {
					token(t, m, "a")
					time.Sleep(100 * time.Millisecond)
				}
				assert.LessOrEqual(t, w.apple.requests(), int(time.Since(start)/time.Second)+1)
			})
		}
	})

	t.Run("the new token cannot be saved", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			old, err := m.Token(t.Context(), "a")
			require.NoError(t, err)
			m.Invalidate("a", old)
			w.store.fail(errDatabase, "Save")
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			synctest.Wait()
			for range 10 {
				assert.Equal(t, "access-a-1", token(t, m, "a"))
			}
			w.store.fail(nil)
			time.Sleep(time.Second)
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})

	t.Run("the unsaved token is invalidated, too", func(t *testing.T) {
		for _, keep := range []bool{false, true} {
			bubble(t, func(t *testing.T, w *world) { invalidateUnsaved(t, w, keep) })
		}
	})
}

// invalidateUnsaved invalidates a token that only memory has.
func invalidateUnsaved(t *testing.T, w *world, keep bool) {
	w.apple.keep = keep
	m := w.process()
	w.connect("a", time.Hour)
	w.store.fail(errDatabase, "Save")
	for i := range 2 {
		got, err := m.Token(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprint("access-a-", i), got.AccessToken)
		m.Invalidate("a", got)
		if i == 0 {
			token(t, m, "a")
			time.Sleep(time.Minute)
		}
	}
	_, err := m.Token(t.Context(), "a")
	storeFailure(t, err)
	w.store.fail(nil)
	time.Sleep(time.Second)
	assert.Equal(t, "access-a-2", token(t, m, "a"), "never the older one in the row")
	assert.Zero(t, w.apple.refused)
}

// Decision 12: memory, and what siblings see.
func TestMemory(t *testing.T) {
	t.Run("a grant is read again after an hour without use", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", 10*time.Hour)
			token(t, m, "a")
			time.Sleep(59*time.Minute + 30*time.Second)
			token(t, m, "a")
			assert.Equal(t, 1, w.store.count("Load"))
			time.Sleep(time.Hour + 10*time.Second)
			token(t, m, "a")
			assert.Equal(t, 2, w.store.count("Load"))
			assert.Zero(t, w.apple.requests())
		})
	})

	t.Run("siblings see Put and Delete when their token comes due", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m, sibling := w.process(), w.process()
			w.connect("a", time.Hour)
			token(t, sibling, "a")
			require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{AccessToken: "new", RefreshToken: "new", Expiry: time.Now().Add(2 * time.Hour)}))
			assert.Equal(t, "new", token(t, m, "a"))
			assert.Equal(t, "access-a-0", token(t, sibling, "a"))
			time.Sleep(time.Hour)
			assert.Equal(t, "new", token(t, sibling, "a"))
			require.NoError(t, m.Delete(t.Context(), "a"))
			_, err := m.Token(t.Context(), "a")
			require.ErrorIs(t, err, grants.ErrNoGrant)
			sibling.Invalidate("a", &oauth2.Token{AccessToken: "new"})
			_, err = sibling.Token(t.Context(), "a")
			require.ErrorIs(t, err, grants.ErrNoGrant)
			require.NoError(t, m.Delete(t.Context(), "a"))
			assert.Zero(t, w.apple.requests())
		})
	})

	t.Run("Put ends a verdict", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.apple.revoke("a")
			failure(t, m, "a")
			require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-b-0"}))
			assert.Equal(t, "access-b-1", token(t, m, "a"))
		})
	})

	t.Run("Put while a request of the old token is under way", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.apple.latency = 10 * time.Second
			var group sync.WaitGroup
			group.Go(func() { token(t, m, "a") })
			time.Sleep(time.Second)
			require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{AccessToken: "new", RefreshToken: "new", Expiry: time.Now().Add(time.Hour)}))
			start := time.Now()
			assert.Equal(t, "new", token(t, m, "a"))
			assert.Zero(t, time.Since(start))
			group.Wait()
			synctest.Wait()
			assert.Equal(t, "new", token(t, m, "a"))
			assert.Equal(t, "new", w.row("a").Token.AccessToken)
		})
	})

	t.Run("a token that cannot be refreshed is not stored", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			for _, bad := range []*oauth2.Token{nil, {}, {AccessToken: "x"}} {
				require.ErrorIs(t, m.Put(t.Context(), "a", bad), applebusiness.ErrNoRefreshToken)
			}
			assert.Equal(t, "access-a-0", token(t, m, "a"))
		})
	})
}

type dueStore struct {
	grants.Store
	due []string
}

func (s *dueStore) Due(context.Context, time.Duration, int) ([]string, error) { return s.due, nil }

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// scripted is a Store that returns what it was told.
type scripted struct {
	load, lease               grants.Record
	loadErr, leaseErr         error
	saveErr, markErr, releErr error
}

func (s *scripted) Load(context.Context, string) (grants.Record, error) { return s.load, s.loadErr }
func (s *scripted) Lease(context.Context, string, string, time.Duration) (grants.Record, error) {
	return s.lease, s.leaseErr
}
func (s *scripted) Save(context.Context, string, string, int64, *oauth2.Token) error {
	return s.saveErr
}
func (s *scripted) Mark(context.Context, string, string, int64, grants.Mark) error { return s.markErr }
func (s *scripted) Release(context.Context, string, string) error                  { return s.releErr }
func (s *scripted) Put(context.Context, string, *oauth2.Token) error               { return nil }
func (s *scripted) Delete(context.Context, string) error                           { return nil }
func (s *scripted) Due(context.Context, time.Duration, int) ([]string, error)      { return nil, nil }
func (s *scripted) Dead(context.Context, time.Duration, grants.DeadGrant, int) ([]grants.DeadGrant, error) {
	return nil, nil
}

// Put returns a *StoreError, which its context may have caused: the token may be stored or not. A context that had ended
// before is returned as it is, with nothing done. Delete returns it whenever it is the cause.
func TestCallersContextAndTheStore(t *testing.T) {
	for _, cause := range []error{errDatabase, context.Canceled} {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			ctx, cancel := context.WithCancel(t.Context())
			w.store.set(func(context.Context, string, string) error {
				cancel()
				return fmt.Errorf("pool: %w", cause)
			}, nil)
			err := m.Put(ctx, "a", &oauth2.Token{RefreshToken: "refresh-a-0"})
			assert.ErrorIs(t, storeFailure(t, err), cause)
			err = m.Delete(ctx, "a")
			if cause == errDatabase {
				assert.ErrorIs(t, storeFailure(t, err), cause)
			} else {
				assert.Equal(t, context.Canceled, err, "as it is")
			}
			calls := w.store.total()
			assert.Equal(t, context.Canceled, m.Put(ctx, "a", &oauth2.Token{RefreshToken: "refresh-a-0"}))
			assert.Equal(t, calls, w.store.total())
		})
	}
}

// What was put just now needs no Store.
func TestTokenAfterPut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{AccessToken: "new", RefreshToken: "refresh-a-0", Expiry: time.Now().Add(time.Hour)}))
		w.store.fail(errDatabase)
		assert.Equal(t, "new", token(t, m, "a"))
		w.store.fail(nil)
		time.Sleep(time.Hour)
		assert.Equal(t, "access-a-1", token(t, m, "a"))
	})
}

// Put is how grants come in that were kept elsewhere.
func TestPut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-a-0"}))
		require.NoError(t, m.RefreshDue(t.Context(), 0))
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken, "without an Expiry it is due at once")
		assert.EqualError(t, m.Put(t.Context(), "", &oauth2.Token{RefreshToken: "refresh-a-0"}), "applebusiness/grants: a grant needs a name")

		for _, bad := range []string{"two\nlines", "with space", "caf\xe9", "••••", "nul\x00"} {
			err := m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: bad})
			assert.EqualError(t, err, "applebusiness/grants: the refresh token holds characters that no token has")
			require.NoError(t, m.Put(t.Context(), "b", &oauth2.Token{RefreshToken: "refresh-b-0", AccessToken: bad, Expiry: time.Now().Add(time.Hour)}))
			assert.Empty(t, w.row("b").Token.AccessToken)
			require.NoError(t, m.Delete(t.Context(), "b"))
		}
		err := m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-a-0"})
		assert.EqualError(t, err, "applebusiness/grants: the token was replaced by a newer one, and its refresh token is spent")
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
		synctest.Wait() // what looks at the row now would send the next token before Put has returned
		require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-b-0"}), "the customer has connected again")
		assert.Equal(t, "access-b-1", token(t, m, "a"))
		require.NoError(t, m.Put(t.Context(), "c", &oauth2.Token{RefreshToken: "!~", AccessToken: "!~", Expiry: time.Now().Add(time.Hour)}))
		assert.Equal(t, "!~", w.row("c").Token.AccessToken, "the first and the last character that a token can have")
	})
}

// A customer's token that is put again while it is refreshed is not sent a second time: that would be refused, and the
// customer told to reconnect.
func TestPutOfTheTokenThatIsSent(t *testing.T) {
	for name, test := range map[string]struct {
		put, putTakes, saveFails time.Duration // after the request has begun; how long
		putFails                 error         // although it takes effect
		isReplaced               bool
	}{
		"before the response":      {put: time.Second},
		"and Save fails":           {put: time.Second, saveFails: 5 * time.Second},
		"around the response":      {put: time.Second, putTakes: 3 * time.Second, isReplaced: true},
		"and seems to have failed": {put: time.Second, putTakes: 3 * time.Second, putFails: errDatabase, isReplaced: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.apple.latency = 2 * time.Second
				m := w.process()
				w.connect("a", -time.Minute)
				again, start := w.row("a").Token, time.Now()
				w.store.set(func(_ context.Context, method, _ string) error {
					switch {
					case method == "Put":
						time.Sleep(test.putTakes)
					case method == "Save" && time.Since(start) < test.saveFails:
						return errDatabase
					}
					return nil
				}, func(method, _ string) error {
					if method == "Put" {
						return test.putFails
					}
					return nil
				})
				var first sync.WaitGroup
				first.Go(func() { assert.Equal(t, "access-a-1", token(t, m, "a")) })
				time.Sleep(test.put)
				err := m.Put(t.Context(), "a", again)
				assert.Equal(t, test.isReplaced, err != nil, "%v", err)
				if test.isReplaced {
					synctest.Wait()
					assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken, "no sibling sends the spent one")
				}
				for range 300 { // Save is tried again after up to 5 s, and once more since Put has changed the version
					assert.Equal(t, "access-a-1", token(t, m, "a"))
					time.Sleep(100 * time.Millisecond)
				}
				first.Wait()
				assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
				assert.Equal(t, 1, w.apple.requests())
			})
		})
	}
}

// A TokenURL to which nothing can be sent is told at once, and nothing is written to the fleet's rows.
func TestUnusableTokenURL(t *testing.T) {
	for _, url := range []string{tokenURL + "\n", " " + tokenURL, "apple.example/api/v1/oauth2/token", "/token", "http://apple.example/token", "ftp://apple.example/x"} {
		bubble(t, func(t *testing.T, w *world) {
			config := *testConfig
			config.Endpoint.TokenURL = url
			m := grants.New(&config, w.store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}})
			w.connect("a", -time.Minute)
			e := failure(t, m, "a")
			assert.Equal(t, applebusiness.ActionFixRequest, applebusiness.Troubleshoot(e).Action, "%q: %v", url, e)
			assert.True(t, e.Unsent(), "%q", url)
			assert.Zero(t, w.apple.requests())
			assert.Zero(t, w.store.count("Lease")+w.store.count("Mark"))
			require.NoError(t, m.Close(t.Context()))
		})
	}
}

// A token that RefreshDue replaces is handed out meanwhile, unless it is invalidated.
func TestInvalidateDuringRefreshDue(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", time.Minute)
		w.apple.latency = 2 * time.Second
		var group sync.WaitGroup
		group.Go(func() { assert.NoError(t, m.RefreshDue(t.Context(), time.Hour)) })
		time.Sleep(time.Second)
		got, err := m.Token(t.Context(), "a")
		require.NoError(t, err)
		m.Invalidate("a", got)
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		group.Wait()
	})
}

// What Invalidate has named is not returned again, also if nobody asks for a while.
func TestInvalidatedIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", time.Hour)
		got, err := m.Token(t.Context(), "a")
		require.NoError(t, err)
		m.Invalidate("a", got)
		time.Sleep(3 * time.Minute)
		assert.Equal(t, "access-a-1", token(t, m, "a"))
	})
}
