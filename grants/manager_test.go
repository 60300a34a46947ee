package grants_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// Decision 1: nothing is sent before a write has succeeded.
func TestWriteFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		for i := range 100 {
			w.connect(fmt.Sprint(i), -time.Minute)
		}
		// A full disk: the database reads, and refuses to write.
		w.store.fail(errDatabase, "Lease", "Save", "Mark", "Release")
		end := time.Now().Add(4500 * time.Millisecond)
		for time.Now().Before(end) {
			for i := range 100 {
				start := time.Now()
				_, err := m.Token(t.Context(), fmt.Sprint(i))
				assert.ErrorIs(t, storeFailure(t, err), errDatabase)
				assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
				assert.Zero(t, time.Since(start), "at once")
			}
			time.Sleep(500 * time.Millisecond)
		}
		assert.Zero(t, w.apple.requests())
		w.store.fail(nil)
		time.Sleep(time.Second)
		for i := range 100 {
			assert.Equal(t, fmt.Sprintf("access-%d-1", i), token(t, m, fmt.Sprint(i)))
		}
	})
}

// Decision 3: a sibling's Save, which ended a lease that had run out, wins.
func TestVersionDecidesNotTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.apple.after = func() { // while Apple's response is on its way, the customer connects again
			require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{
				AccessToken: "other", RefreshToken: "other", Expiry: time.Now().Add(time.Hour)}))
		}
		assert.Equal(t, "access-a-1", token(t, m, "a"), "callers have the token at once")
		synctest.Wait()
		assert.Equal(t, "other", w.row("a").Token.AccessToken, "the row wins")
		assert.Equal(t, "other", token(t, m, "a"), "and what was fetched is dropped")
		assert.Equal(t, 1, w.apple.requests())
	})

	t.Run("a save whose outcome is unknown", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			failed := false
			w.store.set(nil, func(method, _ string) error {
				if method == "Save" && !failed {
					failed = true
					return errDatabase // the commit has taken effect
				}
				return nil
			})
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			time.Sleep(time.Second)
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
			assert.Equal(t, 2, w.store.count("Save"))
			assert.Equal(t, "access-a-1", token(t, m, "a"), "it is ours: it stays")
			require.NoError(t, m.Close(t.Context()))
			assert.Equal(t, 2, w.store.count("Save"))
		})
	})

	t.Run("a verdict about another token", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.apple.revoke("a")
			w.apple.before = func(*http.Request) {
				require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{
					AccessToken: "other", RefreshToken: "other", Expiry: time.Now().Add(time.Hour)}))
			}
			assert.Equal(t, "other", token(t, m, "a"))
			assert.Nil(t, w.row("a").Dead)
		})
	})
}

// Decision 4: a fetched token is never thrown away.
func TestFetchedTokenIsKept(t *testing.T) {
	t.Run("callers do not wait for Save", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.store.set(func(ctx context.Context, method, _ string) error {
				if method == "Save" {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}, nil)
			start := time.Now()
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Zero(t, time.Since(start))
			time.Sleep(time.Minute)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Greater(t, w.store.count("Save"), 3, "each try has its own time")
			w.store.fail(nil)
			time.Sleep(time.Minute)
			assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
			events := w.takeEvents()
			require.Len(t, events, 2)
			assert.True(t, events[0].Unsaved)
			assert.NoError(t, events[0].Err)
			assert.Equal(t, grants.Refresh{Grant: "a", Start: start, Duration: events[1].Duration}, events[1], "it is stored at last")
			assert.Greater(t, events[1].Duration, time.Minute)
		})
	})

	t.Run("a caller who leaves takes nothing along", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 2 * time.Second
			m := w.process()
			w.connect("a", -time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := m.Token(ctx, "a")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			time.Sleep(2 * time.Second)
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})

	t.Run("failover to a copy that is one commit behind", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m, sibling := w.process(), w.process()
			w.connect("a", -time.Minute)
			old := w.row("a")
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			synctest.Wait()
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
			restore(t, w, "a", old)

			e := failure(t, sibling, "a")
			assert.Equal(t, applebusiness.ErrInvalidRefreshToken, e.Reason, "the sibling cannot know better")
			assert.NotNil(t, w.row("a").Dead)

			time.Sleep(30 * time.Minute)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			time.Sleep(30 * time.Minute) // ours comes due
			assert.Equal(t, "access-a-2", token(t, m, "a"))
			synctest.Wait()
			assert.Nil(t, w.row("a").Dead)
			assert.Equal(t, "refresh-a-2", w.row("a").Token.RefreshToken)
			assert.Equal(t, "access-a-2", token(t, sibling, "a"))
			assert.Equal(t, []string{"refresh-a-0", "refresh-a-0", "refresh-a-1"}, w.apple.sent, "and never again from us")
		})
	})

	t.Run("several commits behind", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			old := w.row("a")
			for i := range 6 {
				assert.Equal(t, fmt.Sprint("access-a-", i+1), token(t, m, "a"))
				time.Sleep(time.Hour)
			}
			restore(t, w, "a", old)
			assert.Equal(t, "access-a-7", token(t, m, "a"))
			assert.Zero(t, w.apple.refused)
		})
	})

	t.Run("while the save is still being tried", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			old := w.row("a")
			w.store.fail(errDatabase, "Save")
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			synctest.Wait()
			restore(t, w, "a", old) // under another version
			w.store.fail(nil)
			time.Sleep(10 * time.Second)
			assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
		})
	})

	t.Run("the token is saved over the older row while it is valid", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			old := w.row("a")
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			synctest.Wait()
			restore(t, w, "a", old)
			time.Sleep(58 * time.Minute)
			assert.Equal(t, "access-a-1", token(t, m, "a"), "the early refresh begins")
			synctest.Wait()
			assert.Equal(t, "access-a-2", token(t, m, "a"))
			assert.Equal(t, []string{"refresh-a-0", "refresh-a-1"}, w.apple.sent)
		})
	})

	t.Run("refresh tokens that do not rotate: the newer stays", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.keep = true
			a, b := w.process(), w.process()
			w.connect("a", -time.Minute)
			w.store.fail(errDatabase, "Save")
			assert.Equal(t, "access-a-1", token(t, a, "a"))
			synctest.Wait()
			w.store.fail(nil)
			require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{
				AccessToken: "newer", RefreshToken: "refresh-a-0", Expiry: time.Now().Add(time.Hour)}))
			time.Sleep(10 * time.Second) // a tries to save meanwhile
			assert.Equal(t, "newer", w.row("a").Token.AccessToken)
			assert.Equal(t, "newer", token(t, a, "a"))
			assert.Equal(t, "newer", token(t, b, "a"))
		})
	})

	t.Run("no other token of memory is tried", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-company-0"}))
			time.Sleep(time.Hour)
			w.apple.revoke("company")
			assert.Equal(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, "a").Reason)
			assert.Equal(t, []string{"refresh-company-0"}, w.apple.sent)
			assert.Equal(t, "refresh-company-0", w.row("a").Token.RefreshToken)
		})
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

// Decision 5: a valid token is returned, whatever else fails.
func TestEarlyRefresh(t *testing.T) {
	failures := map[string]func(w *world){
		"520":            func(w *world) { w.apple.fail(forever(status(520, ""))...) },
		"HTML 403":       func(w *world) { w.apple.fail(forever(status(403, "<html>"))...) },
		"wrong secret":   func(w *world) { w.apple.fail(forever(status(401, `{"error":"invalid_client"}`))...) },
		"database down":  func(w *world) { w.store.fail(errDatabase) },
		"database hangs": func(w *world) { w.store.set(hangStore, nil) },
		"revoked":        func(w *world) { w.apple.revoke("a") },
		"no connection":  func(w *world) { w.apple.fail(forever(broken(syscall.ECONNRESET))...) },
		"Apple hangs":    func(w *world) { w.apple.fail(forever(hang)...) },
		"rate limited":   func(w *world) { w.apple.fail(forever(status(429, "", "Retry-After", "20"))...) },
		"transport panics": func(w *world) {
			w.apple.fail(forever(func(*http.Request) (*http.Response, error) { panic("boom") })...)
		},
		"store panics": func(w *world) { w.store.set(func(context.Context, string, string) error { panic("boom") }, nil) },
	}
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", time.Hour)
				begin := time.Now()
				assert.Equal(t, "access-a-0", token(t, m, "a"))
				fail(w)
				for time.Since(begin) < time.Hour-11*time.Second {
					start := time.Now()
					assert.Equal(t, "access-a-0", token(t, m, "a"))
					assert.Zero(t, time.Since(start))
					time.Sleep(time.Second)
				}
				for time.Since(begin) < time.Hour {
					_, err := m.Token(t.Context(), "a")
					assert.NoError(t, err, "until it expires")
					time.Sleep(time.Second)
				}
				assert.Less(t, w.apple.requests(), 40, "with backoff")
				assert.Less(t, w.store.total(), 120)
				assert.Positive(t, len(w.takeEvents()), "it was tried")
				w.store.fail(nil)
			})
		})
	}

	t.Run("once, in the background, for a fleet", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 2 * time.Second
			w.connect("a", time.Hour)
			begin := time.Now()
			var fleet []*grants.Manager
			for range 8 {
				fleet = append(fleet, w.process())
			}
			for time.Since(begin) < 100*time.Minute {
				for _, m := range fleet {
					start := time.Now()
					token(t, m, "a")
					assert.True(t, time.Since(start) == 0, "no caller waits")
				}
				time.Sleep(time.Second)
			}
			assert.Equal(t, 1, w.apple.requests())
		})
	})

	t.Run("spread over minutes", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			begin := time.Now()
			for i := range 100 {
				w.connect(fmt.Sprint(i), time.Hour)
			}
			var at []time.Duration
			for time.Since(begin) < time.Hour {
				for i := range 100 {
					token(t, m, fmt.Sprint(i))
				}
				synctest.Wait()
				for len(at) < w.apple.requests() {
					at = append(at, time.Since(begin))
				}
				time.Sleep(time.Second)
			}
			require.Len(t, at, 100)
			assert.Greater(t, at[99]-at[0], time.Minute)
			assert.Greater(t, at[0], 54*time.Minute)
			assert.Less(t, at[99], 58*time.Minute, "time is left to try again")
		})
	})

	t.Run("a valid token in the Store, beside a verdict", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			dead := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"}
			require.NoError(t, w.store.Store.Mark(t.Context(), "a", "", w.row("a").Version, grants.Mark{Dead: dead}))
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			time.Sleep(time.Hour)
			assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(failure(t, m, "a")).Action)
			assert.Zero(t, w.apple.requests())
		})
	})
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

// Decision 6: callers wait with their own context, and together.
func TestCallersWaitTogether(t *testing.T) {
	t.Run("Apple stalls", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.fail(hang)
			m := w.process()
			w.connect("a", -time.Minute)
			var group sync.WaitGroup
			for range 10 {
				group.Go(func() {
					start := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					defer cancel()
					_, err := m.Token(ctx, "a")
					assert.ErrorIs(t, err, context.DeadlineExceeded)
					var e *grants.StoreError
					assert.False(t, errors.As(err, &e))
					assert.Equal(t, 2*time.Second, time.Since(start))
				})
			}
			group.Wait()
			assert.Equal(t, 1, w.apple.requests())
		})
	})

	t.Run("a failure is shared, and remembered for a second", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = time.Second
			w.apple.fail(forever(status(401, `{"error":"invalid_client"}`))...)
			m := w.process()
			w.connect("a", -time.Minute)
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() { assert.Equal(t, applebusiness.CodeInvalidClient, failure(t, m, "a").Code) })
			}
			group.Wait()
			failure(t, m, "a")
			assert.Equal(t, 1, w.apple.requests())
			time.Sleep(time.Second)
			failure(t, m, "a")
			assert.Equal(t, 2, w.apple.requests())
			assert.Equal(t, grants.Mark{}, w.row("a").Mark, "of this process alone")
		})
	})

	t.Run("a caller whose context has ended starts nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := m.Token(ctx, "a")
			assert.Equal(t, context.Canceled, err)
			assert.Zero(t, w.store.total())
		})
	})
}

// Decision 6: a panic of what Manager calls reaches nobody else.
func TestPanics(t *testing.T) {
	for _, method := range []string{"Load", "Lease", "Save", "Mark", "Release", "Put", "Delete", "Due"} {
		t.Run(method, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", -time.Minute)
				w.connect("dead", -time.Minute)
				w.apple.revoke("dead")
				w.store.set(func(_ context.Context, called, grant string) error {
					if called == method {
						panic("boom")
					}
					return nil
				}, nil)
				_, errA := m.Token(t.Context(), "a")
				_, errDead := m.Token(t.Context(), "dead")
				errs := []error{errA, errDead,
					m.Put(t.Context(), "b", &oauth2.Token{RefreshToken: "refresh-b-0"}), m.Delete(t.Context(), "c"), m.RefreshDue(t.Context(), 0)}
				synctest.Wait()
				failed := 0
				for _, err := range errs {
					if e, ok := errors.AsType[*grants.StoreError](err); ok {
						assert.Contains(t, e.Error(), "boom")
						failed++
					}
				}
				if method != "Save" && method != "Release" {
					assert.Positive(t, failed)
				}
				w.store.fail(nil)
				time.Sleep(time.Minute)
				require.NoError(t, m.RefreshDue(t.Context(), 0))
				assert.Equal(t, "access-a-1", token(t, m, "a"))
				assert.Equal(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, "dead").Reason)
				require.NoError(t, m.Close(t.Context()))
				assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
			})
		})
	}

	t.Run("Limit, OnRefresh and the transport", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			var limited atomic.Bool
			limited.Store(true)
			m := w.process(func(o *grants.Options) {
				o.Limit = limit(func(context.Context) error {
					if limited.Load() {
						panic("limit")
					}
					return nil
				})
				o.OnRefresh = func(grants.Refresh) { panic("callback") }
			})
			w.connect("a", -time.Minute)
			_, err := m.Token(t.Context(), "a")
			assert.Contains(t, storeFailure(t, err).Error(), "limit")
			limited.Store(false)
			time.Sleep(time.Second)
			w.apple.fail(func(r *http.Request) (*http.Response, error) { panic("transport refresh-a-0 Hunter2hunter2") })
			e := failure(t, m, "a")
			assert.Equal(t, applebusiness.ErrNoResponse, e.Reason)
			_, err = m.Token(t.Context(), "a")
			assert.Contains(t, err.Error(), "transport")
			assert.NotContains(t, err.Error(), "refresh-a-0")
			log := w.logged()
			for _, word := range []string{"panic in Options.Limit", "panic in OnRefresh", "panic in the HTTP client", "manager_test.go"} {
				assert.Contains(t, log, word)
			}
			assert.NotContains(t, log, "unter2")
			assert.True(t, w.row("a").Unfinished)
			time.Sleep(2 * time.Second)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
		})
	})

	t.Run("a Store that ends the goroutine", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			m := w.process()
			w.connect("a", -time.Minute)
			for _, method := range []string{"Load", "Lease", "Save"} {
				w.store.set(func(_ context.Context, called, _ string) error {
					if called == method {
						runtime.Goexit()
					}
					return nil
				}, nil)
				_, err := m.Token(t.Context(), "a")
				if method != "Save" {
					storeFailure(t, err)
				}
				time.Sleep(2 * time.Minute)
			}
			w.store.fail(nil)
			require.NoError(t, m.Close(t.Context()))
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})
}

// Decision 7: Retry-After is the fleet's.
func TestRetryAfter(t *testing.T) {
	t.Run("503", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			a, b := w.process(), w.process()
			w.connect("a", -time.Minute)
			w.apple.fail(status(503, "", "Retry-After", "60"))
			begin := time.Now()
			for range 20 {
				for _, m := range []*grants.Manager{a, b} {
					e := failure(t, m, "a")
					assert.Equal(t, applebusiness.ErrUnavailable, e.Reason)
					assert.Equal(t, applebusiness.ActionRetry, applebusiness.Troubleshoot(e).Action)
					assert.InDelta(t, (60*time.Second - time.Since(begin)).Seconds(), e.RetryAfter.Seconds(), 1)
				}
				time.Sleep(time.Second)
			}
			assert.Equal(t, 1, w.apple.requests())
			row := w.row("a")
			assert.False(t, row.Unfinished, "Apple has refused the request")
			assert.Nil(t, row.Dead)
			time.Sleep(time.Until(row.RetryAt))
			assert.Equal(t, "access-a-1", token(t, b, "a"))
		})
	})

	t.Run("doubling where Apple says nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.apple.fail(forever(status(503, ""))...)
			for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
				e := failure(t, m, "a")
				assert.Equal(t, want*time.Second, e.RetryAfter)
				retryAt := w.row("a").RetryAt
				assert.GreaterOrEqual(t, time.Until(retryAt), e.RetryAfter)
				assert.Less(t, time.Until(retryAt), e.RetryAfter+time.Second+1)
				time.Sleep(time.Until(retryAt))
			}
			assert.Equal(t, 8, w.apple.requests())
		})
	})

	t.Run("429 pauses the whole Manager", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m, sibling := w.process(), w.process()
			w.connect("a", -time.Minute)
			w.connect("b", -time.Minute)
			w.apple.fail(status(429, "", "Retry-After", "7"))
			for _, grant := range []string{"a", "b", "a", "b"} {
				e := failure(t, m, grant)
				assert.Equal(t, applebusiness.ErrRateLimited, e.Reason)
				assert.Equal(t, 7*time.Second, e.RetryAfter)
			}
			assert.Equal(t, 1, w.apple.requests())
			assert.Equal(t, grants.Mark{}, w.row("a").Mark)
			assert.Equal(t, "access-b-1", token(t, sibling, "b"), "a sibling has its own limit")
			time.Sleep(7 * time.Second)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
		})
	})

	t.Run("a limiter of its own, halved after a 429", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process(func(o *grants.Options) { o.Limit = nil })
			refresh := func(n int) time.Duration {
				var group sync.WaitGroup
				start := time.Now()
				for i := range n {
					grant := fmt.Sprint(n, "-", i)
					w.connect(grant, -time.Minute)
					group.Go(func() { token(t, m, grant) })
				}
				group.Wait()
				return time.Since(start)
			}
			assert.InDelta(t, 2.0, refresh(31).Seconds(), 0.01, "15 a second, burst 1")
			w.connect("limited", -time.Minute)
			w.apple.fail(status(429, ""))
			failure(t, m, "limited")
			time.Sleep(time.Second)
			assert.InDelta(t, 1.9, refresh(16).Seconds(), 0.3, "half of it")
			time.Sleep(time.Minute)
			assert.InDelta(t, 2.0, refresh(30).Seconds(), 0.1, "and back again")
		})
	})

	t.Run("callers go before background work", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process(func(o *grants.Options) {
				o.Limit = limit(func(ctx context.Context) error { time.Sleep(time.Second); return nil })
			})
			for i := range 100 {
				w.connect(fmt.Sprint("due", i), -time.Minute)
			}
			w.connect("a", -30*time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			group.Go(func() { _ = m.RefreshDue(ctx, -40*time.Second) })
			time.Sleep(10*time.Second + time.Millisecond)
			start := time.Now()
			token(t, m, "a")
			assert.LessOrEqual(t, time.Since(start), 2*time.Second)
			cancel()
			group.Wait()
			synctest.Wait()
			sent := w.apple.requests()
			time.Sleep(time.Hour)
			assert.Equal(t, sent, w.apple.requests(), "what RefreshDue had queued goes with its context")
		})
	})

	t.Run("one row that is locked does not stop the others", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.store.set(func(ctx context.Context, method, grant string) error {
				if method == "Lease" && grant == "locked" {
					return hangStore(ctx, method, grant)
				}
				return nil
			}, nil)
			var group sync.WaitGroup
			w.connect("locked", -time.Minute)
			group.Go(func() {
				_, err := m.Token(t.Context(), "locked")
				storeFailure(t, err)
			})
			synctest.Wait()
			w.connect("a", -time.Minute)
			start := time.Now()
			token(t, m, "a")
			assert.Less(t, time.Since(start), time.Second)
			group.Wait()
		})
	})

	t.Run("what waited is looked at again in the Lease's record", func(t *testing.T) {
		for name, change := range map[string]func(w *world){
			"a sibling's token": func(w *world) {
				require.NoError(w.t, w.store.Store.Put(context.Background(), "a", &oauth2.Token{AccessToken: "access-a-1", RefreshToken: "x", Expiry: time.Now().Add(time.Hour)}))
			},
			"a verdict": func(w *world) {
				require.NoError(w.t, w.store.Store.Mark(context.Background(), "a", "", w.row("a").Version, grants.Mark{
					Dead: &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"}}))
			},
			"an outage": func(w *world) {
				require.NoError(w.t, w.store.Store.Mark(context.Background(), "a", "", w.row("a").Version, grants.Mark{RetryAt: time.Now().Add(time.Minute)}))
			},
			"another refresh token": func(w *world) {
				require.NoError(w.t, w.store.Store.Put(context.Background(), "a", &oauth2.Token{RefreshToken: "refresh-other-0"}))
			},
			"deleted": func(w *world) { require.NoError(w.t, w.store.Store.Delete(context.Background(), "a")) },
		} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					m := w.process(func(o *grants.Options) {
						o.Limit = limit(func(context.Context) error { change(w); return nil })
					})
					w.connect("a", -time.Minute)
					got, err := m.Token(t.Context(), "a")
					synctest.Wait()
					switch name {
					case "a sibling's token":
						require.NoError(t, err)
						assert.Equal(t, "access-a-1", got.AccessToken)
					case "another refresh token":
						require.NoError(t, err)
						assert.Equal(t, []string{"refresh-other-0"}, w.apple.sent)
						return
					default:
						require.Error(t, err)
					}
					assert.Zero(t, w.apple.requests())
					if name != "deleted" {
						_, err = w.store.Store.Lease(t.Context(), "a", "another", time.Minute)
						assert.NoError(t, err, "the lease was ended")
					}
				})
			})
		}
	})
}

// Decision 8: a refresh leaves room to save.
func TestLeaseTime(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var got []time.Duration
		var holders []string
		store := &leaseSpy{Store: w.store, lease: func(holder string, d time.Duration) {
			got, holders = append(got, d), append(holders, holder)
		}}
		for _, timeout := range []time.Duration{0, 7 * time.Second, time.Minute} {
			w.connect("a", -time.Minute)
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple, Timeout: timeout}})
			w.apple.grants = nil
			token(t, m, "a")
			require.NoError(t, m.Close(t.Context()))
		}
		assert.Equal(t, []time.Duration{45 * time.Second, 22 * time.Second, 75 * time.Second}, got)
		assert.NotEqual(t, holders[0], holders[1])
	})

	t.Run("a request ends by itself", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process(func(o *grants.Options) { o.HTTPClient = &http.Client{Transport: w.apple} })
			w.connect("a", -time.Minute)
			w.apple.fail(hang)
			start := time.Now()
			assert.Equal(t, applebusiness.ErrNoResponse, failure(t, m, "a").Reason)
			assert.InDelta(t, 30, time.Since(start).Seconds(), 1)
		})
	})

	t.Run("a Lease that takes too long is not used", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			var slow atomic.Bool
			slow.Store(true)
			w.store.set(nil, func(method, _ string) error {
				if method == "Lease" && slow.Swap(false) {
					time.Sleep(20 * time.Second)
				}
				return nil
			})
			start := time.Now()
			_, err := m.Token(t.Context(), "a")
			storeFailure(t, err)
			assert.Equal(t, 11*time.Second, time.Since(start), "its context has ended, and a second later nobody waits for it")
			assert.Zero(t, w.apple.requests())
			time.Sleep(20 * time.Second)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
		})
	})
}

type leaseSpy struct {
	grants.Store
	lease func(holder string, d time.Duration)
}

func (s *leaseSpy) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	s.lease(holder, d)
	return s.Store.Lease(ctx, grant, holder, d)
}

// Decision 10: a response that may be lost is said.
func TestUnfinished(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, test := range map[string]struct {
		answer     func(*http.Request) (*http.Response, error)
		unfinished bool
		retry      bool
	}{
		"reset":               {broken(syscall.ECONNRESET), true, true},
		"timeout":             {hang, true, true},
		"refused":             {broken(refused), false, true},
		"unknown host":        {broken(&net.DNSError{Err: "no such host", IsNotFound: true}), false, false},
		"500":                 {status(500, ""), true, true},
		"500 with an error":   {status(500, `{"error":"internal_server_error","error_description":"unknown server error"}`), true, true},
		"502":                 {status(502, "<html>"), true, true},
		"503":                 {status(503, ""), false, true},
		"504":                 {status(504, ""), true, true},
		"520 with dead":       {status(520, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`), true, true},
		"501":                 {status(501, ""), true, false},
		"408":                 {status(408, ""), false, true},
		"204":                 {status(204, ""), true, false},
		"200 without a token": {status(200, "{}"), true, false},
		"200 HTML":            {status(200, "<html>"), true, false},
		"300":                 {status(300, "{}"), false, false},
		"302":                 {status(302, "", "Location", "https://login.example/"), false, false},
		"403 HTML":            {status(403, "<html>"), false, false},
		"407":                 {status(407, ""), false, false},
		"wrong secret":        {status(401, `{"error":"invalid_client"}`), false, false},
		"429":                 {status(429, ""), false, false},
		"unknown error":       {status(400, `{"error":"something"}`), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", -time.Minute)
				w.apple.fail(test.answer)
				e := failure(t, m, "a")
				assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(e).Action)
				synctest.Wait()
				row := w.row("a")
				assert.Equal(t, test.unfinished, row.Unfinished)
				assert.Equal(t, test.retry, !row.RetryAt.IsZero(), "RetryAt")
				assert.Nil(t, row.Dead)
				assert.Equal(t, 1, w.apple.requests())

				// The next refresh is refused.
				time.Sleep(time.Minute)
				w.apple.revoke("a")
				e = failure(t, m, "a")
				assert.Equal(t, test.unfinished, e.ResponseLost)
				assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(e).Action)
				assert.Equal(t, test.unfinished, w.row("a").Dead.ResponseLost)
			})
		})
	}

	t.Run("a Mark that fails", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.store.fail(errDatabase, "Mark")
			w.apple.fail(w.apple.lose(syscall.ECONNRESET))
			assert.Equal(t, applebusiness.ErrNoResponse, failure(t, m, "a").Reason)
			synctest.Wait()
			assert.Zero(t, w.store.count("Release"))
			w.store.fail(nil)
			time.Sleep(time.Minute)
			assert.True(t, w.row("a").Unfinished)
			assert.True(t, failure(t, m, "a").ResponseLost)
		})
	})

	t.Run("a process that was killed", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			_, err := w.store.Store.Lease(t.Context(), "a", "killed", 45*time.Second)
			require.NoError(t, err)
			w.apple.revoke("a")
			start := time.Now()
			e := failure(t, m, "a")
			assert.True(t, e.ResponseLost)
			assert.InDelta(t, 45+6, time.Since(start).Seconds(), 4, "the lease, and the time for whoever has the successor")
			assert.Equal(t, applebusiness.CauseResponseLost, applebusiness.Troubleshoot(e).Causes[0])
		})
	})
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
			bubble(t, func(t *testing.T, w *world) {
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
			})
		}
	})
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

// Decision 13.
func TestRefreshDue(t *testing.T) {
	t.Run("all that is due, some at a time", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = time.Second
			a, b := w.process(), w.process()
			for i := range 2500 {
				w.connect(fmt.Sprint(i), time.Duration(i)*time.Second)
			}
			var group sync.WaitGroup
			for _, m := range []*grants.Manager{a, b} {
				group.Go(func() { assert.NoError(t, m.RefreshDue(t.Context(), 2000*time.Second)) })
			}
			group.Wait()
			assert.InDelta(t, 2000, w.apple.requests(), 2)
			assert.LessOrEqual(t, w.apple.most, 64)
			assert.Zero(t, w.apple.refused)
			sent := w.apple.requests()
			time.Sleep(11 * time.Minute) // for ten minutes what was fetched is compared with the Store
			w.store.mu.Lock()
			w.store.calls = nil
			w.store.mu.Unlock()
			require.NoError(t, a.RefreshDue(t.Context(), 0))
			assert.Equal(t, sent, w.apple.requests())
			assert.Equal(t, 1, w.store.total(), "Due alone")
		})
	})

	t.Run("one grant's failure goes to OnRefresh", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.connect("dead", -time.Minute)
			w.connect("leased", -time.Minute)
			w.apple.revoke("dead")
			_, err := w.store.Store.Lease(t.Context(), "leased", "sibling", time.Hour)
			require.NoError(t, err)
			start := time.Now()
			require.NoError(t, m.RefreshDue(t.Context(), 0))
			assert.Zero(t, time.Since(start))
			synctest.Wait()
			failed := 0
			for _, event := range w.takeEvents() {
				assert.True(t, event.Sent)
				if event.Err != nil {
					failed++
					assert.Equal(t, "dead", event.Grant)
				}
			}
			assert.Equal(t, 1, failed)
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})

	t.Run("a stale hint", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("leased", -time.Minute)
			w.connect("fresh", time.Hour)
			_, err := w.store.Store.Lease(t.Context(), "leased", "sibling", time.Hour)
			require.NoError(t, err)
			store := &dueStore{w.store, []string{"fresh", "leased", "gone", "fresh"}}
			stale := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}})
			start := time.Now()
			require.NoError(t, stale.RefreshDue(t.Context(), time.Minute))
			assert.Zero(t, time.Since(start))
			assert.Zero(t, w.apple.requests())
			require.NoError(t, stale.Close(t.Context()))
			_ = m
		})
	})

	t.Run("the first failure of the Store stops it", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			for i := range 1000 {
				w.connect(fmt.Sprint(i), -time.Minute)
			}
			w.store.fail(errDatabase, "Lease")
			err := m.RefreshDue(t.Context(), 0)
			assert.ErrorIs(t, storeFailure(t, err), errDatabase)
			assert.Less(t, w.store.count("Lease"), 100)
			w.store.fail(errDatabase, "Due")
			assert.ErrorIs(t, storeFailure(t, m.RefreshDue(t.Context(), 0)), errDatabase)
		})
	})

	t.Run("its context", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = time.Minute
			m := w.process(func(o *grants.Options) { o.HTTPClient.Timeout = time.Hour })
			for i := range 100 {
				w.connect(fmt.Sprint(i), -time.Minute)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			assert.Equal(t, context.DeadlineExceeded, m.RefreshDue(ctx, 0))
			time.Sleep(time.Hour)
			assert.Equal(t, 32, w.apple.requests())
			for i := range 100 {
				assert.Equal(t, w.row(fmt.Sprint(i)).Token.AccessToken != fmt.Sprintf("access-%d-0", i), w.apple.grants[fmt.Sprint(i)] == 1, "what was sent is saved")
			}
		})
	})

	t.Run("a caller is not kept waiting for it", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 10 * time.Second
			m := w.process()
			w.connect("a", 5*time.Minute)
			var group sync.WaitGroup
			group.Go(func() { assert.NoError(t, m.RefreshDue(t.Context(), 10*time.Minute)) })
			time.Sleep(time.Second)
			start := time.Now()
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			assert.Zero(t, time.Since(start))
			group.Wait()
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Equal(t, 1, w.apple.requests())
		})
	})

	t.Run("nor one who came while it looked", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 10 * time.Second
			m := w.process()
			w.connect("a", 5*time.Minute)
			w.store.set(func(_ context.Context, method, _ string) error {
				if method == "Load" {
					time.Sleep(2 * time.Second)
				}
				return nil
			}, nil)
			var group sync.WaitGroup
			group.Go(func() { assert.NoError(t, m.RefreshDue(t.Context(), 10*time.Minute)) })
			time.Sleep(time.Second)
			start := time.Now()
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			assert.Equal(t, time.Second, time.Since(start))
			group.Wait()
			assert.Equal(t, "access-a-1", token(t, m, "a"))
		})
	})

	t.Run("in any order, and nothing is kept in memory", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process(func(o *grants.Options) { o.Limit = &steady{perSec: 10} })
			var inOrder []string
			for i := range 500 {
				w.connect(fmt.Sprint(i), -time.Hour+time.Duration(i)*time.Second)
				inOrder = append(inOrder, fmt.Sprintf("refresh-%d-0", i))
			}
			require.NoError(t, m.RefreshDue(t.Context(), 0))
			assert.ElementsMatch(t, inOrder, w.apple.sent)
			assert.NotSubset(t, inOrder[:40], w.apple.sent[:10], "siblings that begin at once would try for the same leases")
			assert.Equal(t, "access-7-1", w.row("7").Token.AccessToken, "stored when RefreshDue returns")
			loads := w.store.count("Load")
			token(t, m, "7")
			assert.Equal(t, loads+1, w.store.count("Load"))
		})
	})

	t.Run("429", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 10 * time.Millisecond
			w.apple.perSec = 15
			m := w.process()
			for i := range 100 {
				w.connect(fmt.Sprint(i), -time.Minute)
			}
			require.NoError(t, m.RefreshDue(t.Context(), 0))
			assert.Len(t, w.apple.grants, 100)
		})
	})
}

type dueStore struct {
	grants.Store
	due []string
}

func (s *dueStore) Due(context.Context, time.Duration, int) ([]string, error) { return s.due, nil }

func TestClose(t *testing.T) {
	t.Run("stops what is queued and finishes what was sent", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 5 * time.Second
			var n atomic.Int32
			m := w.process(func(o *grants.Options) {
				o.Limit = limit(func(ctx context.Context) error {
					if n.Add(1) > 1 {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
			})
			w.connect("sent", -time.Minute)
			w.connect("queued", -time.Minute)
			w.connect("valid", time.Hour)
			valid, err := m.Token(t.Context(), "valid")
			require.NoError(t, err)
			var group sync.WaitGroup
			group.Go(func() { assert.Equal(t, "access-sent-1", token(t, m, "sent")) })
			time.Sleep(time.Second)
			group.Go(func() {
				_, err := m.Token(t.Context(), "queued")
				assert.Equal(t, grants.ErrClosed, err)
			})
			time.Sleep(time.Second)
			var closing sync.WaitGroup
			for range 2 {
				closing.Go(func() { assert.NoError(t, m.Close(t.Context())) })
			}
			synctest.Wait()
			for _, err := range []error{
				func() error { _, err := m.Token(t.Context(), "valid"); return err }(),
				func() error { _, err := m.Token(t.Context(), "other"); return err }(),
				m.Put(t.Context(), "x", valid), m.Delete(t.Context(), "x"), m.RefreshDue(t.Context(), 0),
			} {
				assert.Equal(t, grants.ErrClosed, err)
			}
			m.Invalidate("valid", valid)
			closing.Wait()
			group.Wait()
			assert.Equal(t, "access-sent-1", w.row("sent").Token.AccessToken)
			require.NoError(t, m.Close(t.Context()))
			_, err = w.store.Store.Lease(t.Context(), "queued", "sibling", time.Minute)
			assert.NoError(t, err, "nothing is left leased")
		})
	})

	t.Run("between the lease and the request", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			var group sync.WaitGroup
			w.store.set(nil, func(method, _ string) error {
				if method == "Lease" {
					group.Go(func() { assert.NoError(t, m.Close(context.Background())) })
					time.Sleep(time.Second)
				}
				return nil
			})
			_, err := m.Token(t.Context(), "a")
			assert.Equal(t, grants.ErrClosed, err)
			group.Wait()
			assert.Zero(t, w.apple.requests())
			_, err = w.store.Store.Lease(t.Context(), "a", "sibling", time.Minute)
			assert.NoError(t, err)
		})
	})

	t.Run("saves what is not saved", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			names := []string{"a", "b"}
			w.store.fail(errDatabase, "Save")
			w.apple.latency = time.Second // both are under way when the first Save fails
			var group sync.WaitGroup
			for _, grant := range names {
				w.connect(grant, -time.Minute)
				group.Go(func() { token(t, m, grant) })
			}
			group.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			err := m.Close(ctx)
			assert.Equal(t, 3*time.Second, time.Since(start))
			require.Error(t, err)
			assert.ErrorIs(t, err, errDatabase)
			assert.Contains(t, err.Error(), `"a", "b"`)
			assert.NotContains(t, err.Error(), "refresh-")
			assert.NotContains(t, err.Error(), "\n")
			storeFailure(t, err)
			tries := w.store.count("Save")
			time.Sleep(time.Hour)
			assert.Equal(t, tries, w.store.count("Save"), "nothing goes on")

			w.store.fail(nil)
			require.NoError(t, m.Close(t.Context()), "but it can be tried again")
			for _, grant := range names {
				assert.Equal(t, "access-"+grant+"-1", w.row(grant).Token.AccessToken)
			}
		})
	})

	t.Run("a database that comes back within its time", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.store.fail(errDatabase, "Save")
			token(t, m, "a")
			time.AfterFunc(20*time.Second, func() { w.store.fail(nil) })
			require.NoError(t, m.Close(t.Context()))
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})

	t.Run("a request that hangs", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process(func(o *grants.Options) { o.HTTPClient.Timeout = time.Hour })
			w.connect("a", -time.Minute)
			w.apple.fail(hang)
			var group sync.WaitGroup
			group.Go(func() {
				_, err := m.Token(t.Context(), "a")
				assert.Equal(t, grants.ErrClosed, err)
			})
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := m.Close(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Contains(t, err.Error(), `"a"`)
			group.Wait()
		})
	})

	t.Run("a Store that hangs", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.store.set(hangStore, nil)
			var group sync.WaitGroup
			group.Go(func() {
				_, err := m.Token(t.Context(), "a")
				assert.Equal(t, grants.ErrClosed, err)
			})
			time.Sleep(time.Second)
			start := time.Now()
			require.NoError(t, m.Close(t.Context()))
			assert.Zero(t, time.Since(start))
			group.Wait()
		})
	})

	t.Run("what was never used", func(t *testing.T) {
		var m *grants.Manager
		require.NoError(t, m.Close(t.Context()))
		require.NoError(t, new(grants.Manager).Close(t.Context()))
		for _, m := range []*grants.Manager{nil, {}, grants.New(nil, grants.NewMemoryStore(), nil), grants.New(testConfig, nil, nil)} {
			_, err := m.Token(t.Context(), "a")
			require.Error(t, err)
			require.Error(t, m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "x"}))
			require.Error(t, m.Delete(t.Context(), "a"))
			require.Error(t, m.RefreshDue(t.Context(), 0))
			m.Invalidate("a", &oauth2.Token{})
			_, err = m.TokenSource(t.Context(), "a").Token()
			require.Error(t, err)
			_, err = m.Client("a").Get("http://127.0.0.1:1/")
			require.Error(t, err)
		}
	})
}

// An idle Manager holds no goroutine: a bubble ends without Close.
func TestIdleManagerHoldsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.connect("a", -time.Minute)
		m := grants.New(testConfig, w.store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}})
		token(t, m, "a")
		synctest.Wait()
		w.connect("b", -time.Minute)
		w.store.fail(errDatabase, "Save") // even one that has a token to save sleeps without one
		token(t, m, "b")
		synctest.Wait()
	})
}

// A Store that breaks its contract gives an error, no panic, no request.
func TestBrokenStores(t *testing.T) {
	good := func(left time.Duration) *oauth2.Token {
		return &oauth2.Token{AccessToken: "access-a-0", RefreshToken: "refresh-a-0", Expiry: time.Now().Add(left)}
	}
	for name, test := range map[string]struct {
		store    func(w *world) grants.Store
		requests int
	}{
		"no token from Load":  {func(*world) grants.Store { return &scripted{} }, 0},
		"no token from Lease": {func(*world) grants.Store { return &scripted{load: grants.Record{Token: good(-1), Version: 1}} }, 0},
		"no refresh token": {func(*world) grants.Store {
			record := grants.Record{Token: &oauth2.Token{AccessToken: "x", Expiry: time.Now()}, Version: 1}
			return &scripted{load: record, lease: record}
		}, 0},
		"an empty token": {func(*world) grants.Store {
			record := grants.Record{Token: &oauth2.Token{}, Version: 1}
			return &scripted{load: record, lease: record}
		}, 0},
		"always leased": {func(*world) grants.Store {
			return &scripted{load: grants.Record{Token: good(-1), Version: 1}, leaseErr: grants.ErrLeased}
		}, 0},
		"a nil pointer": {func(*world) grants.Store { return (*scripted)(nil) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := grants.New(testConfig, test.store(w), &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
				_, err := m.Token(t.Context(), "a")
				require.Error(t, err)
				if strings.Contains(name, "refresh token") || name == "an empty token" {
					assert.ErrorIs(t, err, applebusiness.ErrNoRefreshToken)
				} else {
					storeFailure(t, err)
				}
				assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
				assert.Equal(t, test.requests, w.apple.requests())
				require.NoError(t, m.Close(t.Context()))
			})
		})
	}

	t.Run("Save that keeps nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			record := grants.Record{Token: good(-1), Version: 1}
			store := &scripted{load: record, lease: record}
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
			token(t, m, "a")
			time.Sleep(time.Hour)
			for range 10 {
				_, err := m.Token(t.Context(), "a")
				storeFailure(t, err)
				time.Sleep(time.Minute)
			}
			assert.Equal(t, []string{"refresh-a-0"}, w.apple.sent, "a refresh token that is spent is never sent again")
			require.NoError(t, m.Close(t.Context()))
		})
	})

	t.Run("Save that always conflicts", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			record := grants.Record{Token: good(-1), Version: 1}
			store := &scripted{load: record, lease: record, saveErr: grants.ErrConflict, markErr: grants.ErrConflict}
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			time.Sleep(time.Hour)
			_, err := m.Token(t.Context(), "a")
			storeFailure(t, err)
			assert.Equal(t, 1, w.apple.requests())
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, m.Close(ctx), grants.ErrConflict)
		})
	})

	t.Run("Mark that always conflicts", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			record := grants.Record{Token: good(-1), Version: 1}
			store := &scripted{load: record, lease: record, markErr: grants.ErrConflict}
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
			w.apple.revoke("a")
			_, err := m.Token(t.Context(), "a")
			storeFailure(t, err)
			assert.Equal(t, 1, w.apple.requests(), "a refresh token that Apple has refused is not sent again")
			require.NoError(t, m.Close(t.Context()))
		})
	})

	t.Run("errors that are not the Store's", func(t *testing.T) {
		for _, foreign := range []error{
			applebusiness.ErrInvalidRefreshToken, context.Canceled, context.DeadlineExceeded, grants.ErrConflict, grants.ErrLeased, grants.ErrClosed,
			&applebusiness.Error{Endpoint: "token", StatusCode: 401, Code: "invalid_grant", Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"},
			(*nilError)(nil),
		} {
			bubble(t, func(t *testing.T, w *world) {
				m := grants.New(testConfig, &scripted{loadErr: foreign}, nil)
				_, err := m.Token(t.Context(), "a")
				e := storeFailure(t, err)
				assert.Equal(t, "a", e.Grant)
				_, isForeign := any(e).(interface{ Foreign() })
				assert.True(t, isForeign)
				require.NoError(t, m.Close(t.Context()))
			})
		}
	})
}

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

func TestStoreErrorText(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errors.New("INSERT … ('refresh-a-0', \"access-a-0\")\nfailed"), "Lease")
		_, err := m.Token(t.Context(), "a")
		e := storeFailure(t, err)
		assert.Equal(t, `applebusiness/grants: the Store failed for grant "a": "*** *** *** *** failed"`, e.Error())

		w.store.fail(errors.New("Put 'a-new-token'"), "Put")
		err = m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "a-new-token"})
		assert.NotContains(t, err.Error(), "a-new-token")
		w.store.fail(nil)

		assert.Equal(t, `applebusiness/grants: the Store failed: "x"`, (&grants.StoreError{Err: errors.New("x")}).Error())
		assert.NotPanics(t, func() {
			_ = (*grants.StoreError)(nil).Error()
			_ = (*grants.StoreError)(nil).Unwrap()
			_ = (&grants.StoreError{}).Error()
		})
		assert.Less(t, len((&grants.StoreError{Grant: strings.Repeat("g", 5000), Err: errors.New(strings.Repeat("x", 5000))}).Error()), 2000)
	})
}
