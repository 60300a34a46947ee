package grants_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

// Close waits for a request that is under way, also after saves that took several tries.
func TestCloseAfterSavesThatWereTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		for _, grant := range []string{"a", "b"} {
			w.connect(grant, -time.Minute)
			w.store.fail(errDatabase, "Save")
			token(t, m, grant)
			time.Sleep(10 * time.Second)
			w.store.fail(nil)
			time.Sleep(10 * time.Second)
			assert.Equal(t, "refresh-"+grant+"-1", w.row(grant).Token.RefreshToken)
		}
		w.apple.latency = 5 * time.Second
		w.connect("c", -time.Minute)
		var group sync.WaitGroup
		group.Go(func() { assert.Equal(t, "access-c-1", token(t, m, "c")) })
		time.Sleep(time.Second)
		require.NoError(t, m.Close(t.Context()))
		assert.Equal(t, "refresh-c-1", w.row("c").Token.RefreshToken)
		group.Wait()
	})
}

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

// A Close that gives up ends nothing that another one waits for, and what is given up is named from then on.
func TestCloseBesideAnother(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apple.latency = 10 * time.Second
		m := w.process()
		w.connect("a", -time.Minute)
		var group sync.WaitGroup
		group.Go(func() { assert.Equal(t, "access-a-1", token(t, m, "a")) })
		time.Sleep(time.Second)
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			assert.NoError(t, m.Close(ctx))
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.ErrorContains(t, m.Close(ctx), `"a"`)
		group.Wait()
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
	})

	t.Run("the last one gives up", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 10 * time.Second
			m := w.process()
			w.connect("a", -time.Minute)
			go func() { _, _ = m.Token(context.Background(), "a") }()
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			assert.ErrorContains(t, m.Close(ctx), `"a"`)
			time.Sleep(time.Minute)
			for range 2 {
				assert.ErrorContains(t, m.Close(t.Context()), `"a"`, "its token is lost, and every Close says so")
			}
		})
	})

	t.Run("a Store that ignores its context", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.store.set(func(_ context.Context, method, _ string) error {
				if method == "Release" || method == "Lease" {
					time.Sleep(time.Hour)
				}
				return nil
			}, nil)
			go func() { _, _ = m.Token(context.Background(), "a") }()
			time.Sleep(time.Second)
			start := time.Now()
			require.NoError(t, m.Close(t.Context()))
			assert.Less(t, time.Since(start), time.Minute)
			time.Sleep(2 * time.Hour)
		})
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

// While Close waits for a Save that fails alone, no sibling sends the spent token.
func TestCloseRenewsTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m, sibling := w.process(), w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		token(t, m, "a")
		var closing sync.WaitGroup
		closing.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			assert.NoError(t, m.Close(ctx))
		})
		for range 5 {
			time.Sleep(time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			_, err := sibling.Token(ctx, "a")
			assert.False(t, told(err), "%v", err)
			cancel()
		}
		assert.Equal(t, 1, w.apple.requests())
		w.store.fail(nil)
		closing.Wait()
		assert.Equal(t, "access-a-1", token(t, sibling, "a"))
	})
}

// What Close stores is told to OnRefresh before it returns.
func TestCloseTellsWhatItStores(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		token(t, m, "a")
		time.Sleep(time.Second)
		time.AfterFunc(20*time.Second, func() { w.store.fail(nil) })
		w.takeEvents()
		require.NoError(t, m.Close(t.Context()))
		events := w.takeEvents()
		require.Len(t, events, 1)
		assert.Equal(t, "ok", events[0].Label())
	})
}

// A Close that gives up while a lease cannot be ended names no grant: there is nothing to lose.
func TestCloseWhileALeaseCannotBeEnded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.store.set(func(ctx context.Context, method, grant string) error {
			if method == "Release" {
				return hangStore(ctx, method, grant)
			}
			return nil
		}, nil)
		w.apple.fail(status(400, `{"error":"invalid_request","error_description":"new words"}`))
		failure(t, m, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.NoError(t, m.Close(ctx))
		assert.Error(t, ctx.Err())
	})
}

// A Put that is late has not the last word where its refresh token is spent, also if the Manager is being closed, and if a
// Save that was earlier answers later.
func TestCloseAfterALatePut(t *testing.T) {
	for _, answer := range []time.Duration{0, 8 * time.Second} {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			old := w.row("a").Token
			w.store.set(func(_ context.Context, method, _ string) error {
				if method == "Put" {
					time.Sleep(5 * time.Second)
				}
				return nil
			}, func(method, _ string) error {
				if method == "Save" && w.store.count("Save") == 1 {
					time.Sleep(answer)
				}
				return nil
			})
			var group sync.WaitGroup
			group.Go(func() { assert.ErrorContains(t, m.Put(t.Context(), "a", old), "replaced by a newer one") })
			synctest.Wait()
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			time.Sleep(time.Second)
			assert.NoError(t, m.Close(t.Context()))
			group.Wait()
			assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
		})
	}
}
