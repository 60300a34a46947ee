package grants_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/stretchr/testify/assert"
)

// A client secret that is replaced in the vault.
func TestClientSecret(t *testing.T) {
	vault := func(secrets ...string) (func(context.Context) (string, error), *int) {
		asked := new(int)
		var mu sync.Mutex
		return func(context.Context) (string, error) {
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			*asked++
			return secrets[min(*asked, len(secrets))-1], nil
		}, asked
	}
	// Apple takes the given secret alone.
	takes := func(w *world, secret string) {
		w.apple.always(func(r *http.Request) (*http.Response, error) {
			if w.apple.secret != secret {
				return response(401, wrongSecret), nil
			}
			return nil, nil
		})
	}
	t.Run("without one failed call", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			ask, asked := vault("old", "new")
			m := w.process(func(o *grants.Options) { o.ClientSecret = ask })
			w.apple.latency = 50 * time.Millisecond
			names := w.expired(300)
			takes(w, "old")
			assert.Equal(t, map[string]int{"ok": 0}["ok"], w.callers(m, names[:100], time.Second)["invalid_credentials"])
			assert.Equal(t, 1, *asked, "once for all")
			takes(w, "new")
			failed := w.callers(m, names, 8*time.Second)
			assert.Len(t, failed, 1, "%v", failed)
			assert.Equal(t, 2, *asked)
			assert.Empty(t, w.logged())
		})
	})
	t.Run("the vault lags", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			ask, asked := vault("old", "old", "old", "new")
			m := w.process(func(o *grants.Options) { o.ClientSecret = ask })
			names := w.expired(300)
			takes(w, "new")
			failed := w.callers(m, names, time.Minute)
			t.Logf("%d requests, asked %d times, %v", w.apple.requests(), *asked, failed)
			assert.Equal(t, 4, *asked)
			assert.Zero(t, w.apple.refused)
			for _, name := range names {
				assert.Equal(t, "access-"+name+"-1", token(t, m, name))
			}
		})
	})
	t.Run("other words of a server's", func(t *testing.T) {
		for _, says := range []string{`{"error":"invalid_client"}`, `{"error":"invalid_client","error_description":"Client authentication failed"}`} {
			bubble(t, func(t *testing.T, w *world) {
				ask, _ := vault("old", "new")
				m := w.process(func(o *grants.Options) { o.ClientSecret = ask })
				w.connect("a", -time.Minute)
				w.apple.always(func(*http.Request) (*http.Response, error) {
					if w.apple.secret == "old" {
						return response(401, says), nil
					}
					return nil, nil
				})
				assert.Equal(t, "access-a-1", token(t, m, "a"))
			})
		}
	})
	t.Run("the vault has none yet", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			ask, _ := vault("", "new")
			m := w.process(func(o *grants.Options) { o.ClientSecret = ask })
			w.connect("a", -time.Minute)
			_, err := m.Token(t.Context(), "a")
			assert.EqualError(t, err, "applebusiness/grants: asking for the client secret failed")
			assert.Zero(t, w.apple.requests())
			time.Sleep(5 * time.Second)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
		})
	})
	t.Run("the vault fails", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			cause := errors.New("vault: the secret s3cr3t-0f-4ll is sealed")
			n := 0
			m := w.process(func(o *grants.Options) {
				o.ClientSecret = func(context.Context) (string, error) { n++; return "", cause }
			})
			time.Sleep(time.Hour) // the age of the process is no wait
			names := w.expired(300)
			w.callers(m, names, 8*time.Second)
			_, err := m.Token(t.Context(), names[0])
			assert.EqualError(t, err, "applebusiness/grants: asking for the client secret failed")
			assert.ErrorIs(t, err, cause)
			assert.Zero(t, applebusiness.Troubleshoot(err))
			assert.LessOrEqual(t, n, 5, "1 s, 2 s, …")
			assert.Zero(t, w.apple.requests())
			assert.Equal(t, grants.Mark{}, w.row(names[0]).Mark)
		})
	})
}

// Requests that were under way together with a wrong secret ask for another one once.
func TestClientSecretIsAskedOnceForAll(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		asked := 0
		m := w.process(func(o *grants.Options) {
			o.ClientSecret = func(context.Context) (string, error) { asked++; return "old", nil }
		})
		w.apple.latency = time.Second
		w.apple.always(status(401, wrongSecret))
		var group sync.WaitGroup
		for _, name := range w.expired(10) {
			group.Go(func() { failure(t, m, name) })
		}
		group.Wait()
		assert.Equal(t, 10, w.apple.requests())
		assert.Equal(t, 2, asked)
	})
}

// A secret that was asked for in the instant in which the request is sent is asked for again.
func TestClientSecretOfTheFirstInstant(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		asked := 0
		m := w.process(func(o *grants.Options) {
			o.ClientSecret = func(context.Context) (string, error) { asked++; return []string{"old", "new"}[min(asked-1, 1)], nil }
		})
		w.connect("a", -time.Minute)
		w.apple.always(func(*http.Request) (*http.Response, error) {
			if w.apple.secret != "new" {
				return response(401, wrongSecret), nil
			}
			return nil, nil
		})
		assert.Equal(t, "access-a-1", token(t, m, "a"))
	})
}

// What ClientSecret says because the Manager is closed is no failure of its own.
func TestCloseWhileTheVaultIsAsked(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := 0
		m := w.process(func(o *grants.Options) {
			o.ClientSecret = func(ctx context.Context) (string, error) {
				if n++; n > 1 {
					<-ctx.Done()
					return "", ctx.Err()
				}
				return "old", nil
			}
		})
		w.connect("a", -time.Minute)
		w.apple.always(status(401, wrongSecret))
		time.AfterFunc(time.Second, func() { _ = m.Close(context.Background()) })
		_, err := m.Token(t.Context(), "a")
		assert.NotErrorIs(t, err, context.Canceled)
		assert.True(t, errors.Is(err, grants.ErrClosed) || errors.Is(err, applebusiness.ErrInvalidCredentials), "%v", err)
	})
}

// A vault that is slow does not use up the lease: a request is sent with enough of it left to store what comes.
func TestSlowVaultAndTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		slow := w.process(func(o *grants.Options) {
			o.ClientSecret = func(context.Context) (string, error) { time.Sleep(9 * time.Second); return "s", nil }
		})
		spy := w.store
		var leased time.Time
		spy.set(func(_ context.Context, method, _ string) error {
			if method == "Lease" {
				leased = time.Now()
				time.Sleep(9 * time.Second)
			}
			return nil
		}, nil)
		var sent time.Time
		w.apple.before = func(*http.Request) { sent = time.Now() }
		w.connect("a", -time.Minute)
		token(t, slow, "a")
		assert.LessOrEqual(t, sent.Sub(leased), 15*time.Second)
	})
}
