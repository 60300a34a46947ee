package grants_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

// Due is a hint. What its grants need is decided by their rows.
func TestStaleHint(t *testing.T) {
	hint := func(w *world) { w.store.Store = &dueStore{w.store.Store, []string{"a"}} }

	t.Run("left to callers, of whom there is none", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			hint(w)
			w.connect("a", -30*time.Second)
			require.NoError(t, w.process().RefreshDue(t.Context(), -time.Minute))
			assert.Zero(t, w.apple.requests())
			assert.Zero(t, w.store.count("Lease"))
			assert.Empty(t, w.takeEvents(), "nothing was tried")
		})
	})

	t.Run("left to callers, of whom one waits", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			hint(w)
			w.connect("a", -30*time.Second)
			w.store.set(func(_ context.Context, method, _ string) error {
				if method == "Load" {
					time.Sleep(time.Second)
				}
				return nil
			}, nil)
			m := w.process()
			var group sync.WaitGroup
			group.Go(func() { assert.NoError(t, m.RefreshDue(t.Context(), -time.Minute)) })
			synctest.Wait() // its attempt reads the row
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			group.Wait()
			assert.Equal(t, 1, w.store.count("Load"), "they shared the attempt")
		})
	})

	t.Run("a row without an access token", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			hint(w)
			require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-a-0"}))
			require.NoError(t, w.process().RefreshDue(t.Context(), time.Minute))
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})

	t.Run("a row with the token that was invalidated", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			hint(w)
			w.connect("a", time.Hour)
			m := w.process()
			m.Invalidate("a", &oauth2.Token{AccessToken: token(t, m, "a")})
			require.NoError(t, m.RefreshDue(t.Context(), time.Minute))
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})
}

// RefreshDue keeps an entry where it has to: for a token that could not be stored.
func TestRefreshDueThatCannotSave(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		require.NoError(t, m.RefreshDue(t.Context(), 0))
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		assert.Equal(t, []string{"refresh-a-0"}, w.apple.sent, "the spent one is not sent again")
		w.store.fail(nil)
		time.Sleep(time.Minute)
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
	})
}

// A caller who has left counts no more: nobody is left to send a request for.
func TestCallerOfADueGrantLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		m := w.process(func(o *grants.Options) {
			o.Limit = limit(func(ctx context.Context) error {
				select {
				case <-release:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		})
		w.connect("a", -time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { assert.ErrorIs(t, m.RefreshDue(ctx, 0), context.Canceled) })
		synctest.Wait()
		short, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		_, err := m.Token(short, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
		group.Wait()
		close(release)
		time.Sleep(time.Minute)
		assert.Zero(t, w.apple.requests())
	})
}

// RefreshDue leaves a grant alone whose refresh has just failed.
func TestRefreshDueAfterAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.apple.fail(status(401, `{"error":"invalid_client"}`))
		failure(t, m, "a")
		require.NoError(t, m.RefreshDue(t.Context(), 0))
		assert.Equal(t, 1, w.apple.requests())
		time.Sleep(time.Second)
		require.NoError(t, m.RefreshDue(t.Context(), 0))
		assert.Equal(t, 2, w.apple.requests())
	})
}

// An import says by its Expiry since when it is due, and any process sees that.
func TestRefreshDueOfAnImport(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		require.NoError(t, w.process().Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-a-0", Expiry: time.Now().Add(-24 * time.Hour)}))
		require.NoError(t, w.process().RefreshDue(t.Context(), -23*time.Hour))
		assert.Equal(t, 1, w.apple.requests())
	})
}

// Decision 13.
func TestRefreshDue(t *testing.T) {
	t.Run("all that is due, some at a time", func(t *testing.T) { bubble(t, refreshAllDue) })

	t.Run("one grant's failure goes to OnRefresh", func(t *testing.T) { bubble(t, refreshDueFailsForOne) })

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

	t.Run("whatever has ended its context, the error is the context's", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 2 * time.Second
			m := w.process()
			w.connect("a", -time.Minute)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(errDatabase) })
			assert.Equal(t, context.Canceled, m.RefreshDue(ctx, 0))
			assert.Equal(t, context.Canceled, m.RefreshDue(ctx, 0))
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

// What fails for one grant stops no other one, and OnRefresh is told.
func refreshDueFailsForOne(t *testing.T, w *world) {
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
}

// Two processes refresh all that is due, and each grant once.
func refreshAllDue(t *testing.T, w *world) {
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
}

// One row that cannot be read stops nobody else's refresh.
func TestOneRowThatCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		names := w.expired(31)
		w.store.set(func(_ context.Context, method, grant string) error {
			if grant == "g7" {
				return fmt.Errorf("the key of this row is lost")
			}
			return nil
		}, nil)
		require.NoError(t, m.RefreshDue(t.Context(), 0))
		assert.Equal(t, 30, w.apple.requests())
		for i, name := range names {
			assert.Equal(t, i != 7, w.row(name).Token.RefreshToken == "refresh-"+name+"-1", name)
		}
	})
}

// Three rows in a row that cannot be read are the Store as a whole, also if others could be read before.
func TestThreeRowsThatCannotBeRead(t *testing.T) {
	for broken := 2; broken <= 3; broken++ {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			names := w.expired(10)
			w.store.set(func(_ context.Context, _, grant string) error {
				if !slices.Contains(names[:broken], grant) {
					return nil
				}
				time.Sleep(time.Second) // all others are refreshed by then
				return errDatabase
			}, nil)
			err := m.RefreshDue(t.Context(), 0)
			if broken == 3 {
				assert.ErrorIs(t, storeFailure(t, err), errDatabase)
			} else {
				assert.NoError(t, err)
			}
			assert.Equal(t, 10-broken, w.apple.requests())
		})
	}
}

// RefreshDue waits as its grants have to.
func TestRefreshDueWhileHeld(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.apple.always(status(401, wrongSecret))
		w.expired(300)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		time.AfterFunc(time.Minute, func() { w.apple.always(nil) })
		require.NoError(t, m.RefreshDue(ctx, 0))
		assert.Less(t, w.apple.requests(), 300+60)
		assert.Zero(t, w.apple.refused)
		assert.Equal(t, "refresh-g7-1", w.row("g7").Token.RefreshToken)
	})
}

// RefreshDue does not outlive the Manager while it waits for Apple.
func TestRefreshDueThatWaitsSeesClose(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.expired(3)
		w.apple.always(status(503, "", "Retry-After", "3600"))
		done := make(chan error, 1)
		go func() { done <- m.RefreshDue(t.Context(), 0) }()
		time.Sleep(10 * time.Second)
		start := time.Now()
		require.NoError(t, m.Close(t.Context()))
		assert.ErrorIs(t, <-done, grants.ErrClosed)
		assert.LessOrEqual(t, time.Since(start), time.Second)
	})
}

// A grant that fails alone is asked about ever more rarely, also if nobody but RefreshDue does.
func TestTroubleOfOneThatNobodyUses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.apple.always(status(401, `{"error":"unauthorized"}`))
		for range 360 {
			_ = m.RefreshDue(t.Context(), 0)
			time.Sleep(10 * time.Second)
		}
		assert.LessOrEqual(t, w.apple.requests(), 25)
	})
}

// What RefreshDue was refused keeps no token from a caller that is good enough for one.
func TestCallerAfterRefreshDueHasFailed(t *testing.T) {
	for name, start := range map[string]func(w *world, m *grants.Manager){
		"a grant that this process has not used": func(*world, *grants.Manager) {},
		"one that it has put": func(w *world, m *grants.Manager) {
			require.NoError(w.t, m.Put(w.t.Context(), "a", w.row("a").Token))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", 5*time.Minute)
				start(w, m)
				w.apple.always(status(503, "", "Retry-After", "20"))
				require.NoError(t, m.RefreshDue(t.Context(), 10*time.Minute))
				require.Equal(t, 1, w.apple.requests())
				for range 10 {
					assert.Equal(t, "access-a-0", token(t, m, "a"))
					time.Sleep(time.Second)
				}
			})
		})
	}
}
