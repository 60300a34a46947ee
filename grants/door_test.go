package grants_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

// Decision 6: a panic of what Manager calls reaches nobody else.
func TestPanics(t *testing.T) {
	for _, method := range []string{"Load", "Lease", "Save", "Mark", "Release", "Put", "Delete", "Due"} {
		t.Run(method, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) { panicsIn(t, w, method) })
		})
	}

	t.Run("Limit, OnRefresh and the transport", func(t *testing.T) { bubble(t, panicsBesideTheStore) })

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

// goexit is a Logger's handler that ends the goroutine.
type goexit struct{ slog.Handler }

func (goexit) Enabled(context.Context, slog.Level) bool { return true }

func (goexit) Handle(context.Context, slog.Record) error {
	runtime.Goexit()
	return nil
}

// A Logger that ends the goroutine ends nothing of the Manager's: neither the turn of an attempt, nor a Connect.
func TestLoggerEndsTheGoroutine(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		var limited atomic.Bool
		m := c.manager(func(_ *oauth2.Config, o *grants.Options) {
			o.Logger = slog.New(goexit{slog.DiscardHandler})
			o.Limit = limit(func(context.Context) error {
				if limited.Load() {
					panic("limit")
				}
				return nil
			})
		})
		c.store.fail(errors.New("the disk is full"), "Put")
		time.AfterFunc(time.Second, func() { c.store.fail(nil) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		back := c.arrive()
		_, err := m.Connect(back.request(ctx), back.state, back.verifier)
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		limited.Store(true)
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = m.Token(ctx, "org-1")
		assert.Contains(t, storeFailure(t, err).Error(), "limit")
		limited.Store(false)
		time.Sleep(time.Minute)
		_, err = m.Token(t.Context(), "org-1")
		assert.NoError(t, err)
	})
}

// panicsBesideTheStore lets all else panic that is foreign.
func panicsBesideTheStore(t *testing.T, w *world) {
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
	for _, word := range []string{"panic in Options.Limit", "panic in OnRefresh", "panic in the HTTP client", "door_test.go"} {
		assert.Contains(t, log, word)
	}
	assert.NotContains(t, log, "unter2")
	assert.Equal(t, 1, strings.Count(log, "panic in OnRefresh"), "once a minute")
	assert.True(t, w.row("a").Unfinished)
	time.Sleep(2 * time.Second)
	assert.Equal(t, "access-a-1", token(t, m, "a"))
	synctest.Wait()
	assert.NotContains(t, w.logged(), "panic in OnRefresh")
	time.Sleep(time.Hour)
	assert.Equal(t, "access-a-2", token(t, m, "a"))
	synctest.Wait()
	assert.Equal(t, 1, strings.Count(w.logged(), "panic in OnRefresh"))
}

// panicsIn lets one method of the Store panic.
func panicsIn(t *testing.T, w *world, method string) {
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
}

// Foreign errors that panic kill nobody, and nobody who gets them.
func TestHostileErrors(t *testing.T) {
	for name, hostile := range map[string]error{"a typed nil": (*hostile)(nil), "a panic": &hostile{"boom"}} {
		for _, method := range []string{"Load", "Lease", "Save", "Mark", "Release", "Put", "Delete", "Due"} {
			t.Run(name+" from "+method, func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					m := w.process()
					w.connect("a", -time.Minute)
					w.connect("dead", -time.Minute)
					w.apple.revoke("dead")
					w.store.fail(hostile, method)
					for _, err := range []error{
						func() error { _, err := m.Token(t.Context(), "a"); return err }(),
						func() error { _, err := m.Token(t.Context(), "dead"); return err }(),
						m.Put(t.Context(), "b", &oauth2.Token{RefreshToken: "refresh-b-0"}), m.Delete(t.Context(), "c"), m.RefreshDue(t.Context(), 0),
					} {
						if err != nil {
							_ = fmt.Sprintf("%+v %v", err, applebusiness.LogAttr(err))
							assert.NotErrorIs(t, err, context.Canceled)
						}
					}
					w.store.fail(nil)
					time.Sleep(time.Minute)
					assert.Equal(t, "access-a-1", token(t, m, "a"))
					require.NoError(t, m.Close(t.Context()))
					assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
				})
			})
		}
	}
}

// hostile is a driver's error that panics wherever one looks.
type hostile struct{ text string }

func (h *hostile) Error() string   { return h.text }
func (h *hostile) Unwrap() error   { panic(h.text) }
func (h *hostile) Is(error) bool   { panic(h.text) }
func (h *hostile) Timeout() bool   { panic(h.text) }
func (h *hostile) Temporary() bool { panic(h.text) }

// No error is looked into while the Manager's lock is held: this one would wait for it for ever.
func TestErrorsThatUseTheManager(t *testing.T) {
	w := newWorld(t)
	m := w.process(func(o *grants.Options) {
		o.ClientSecret = func(context.Context) (string, error) { return "x", nil }
	})
	cause := &meddling{m}
	for _, method := range []string{"Load", "Lease", "Save", "Mark", "Release", "Put", "Delete", "Due"} {
		t.Log(method)
		w.connect("a", -time.Minute)
		w.connect("b", time.Hour)
		token(t, m, "b")
		w.store.fail(cause, method)
		for range 2 {
			_, _ = m.Token(t.Context(), "a")
		}
		_ = m.RefreshDue(t.Context(), 0)
		_ = m.Put(t.Context(), "c", &oauth2.Token{RefreshToken: "r"})
		_ = m.Delete(t.Context(), "c")
		if method == "Save" {
			time.Sleep(200 * time.Millisecond)
		}
		w.store.fail(nil)
	}
	w.store.fail(cause)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_ = m.Close(ctx)
}

// meddling is an error that uses the Manager when it is looked into.
type meddling struct{ m *grants.Manager }

func (e *meddling) use() {
	e.m.Invalidate("b", &oauth2.Token{AccessToken: "x"})
	_ = e.m.Put(context.Background(), "", nil)
}
func (e *meddling) Error() string { e.use(); return "meddling" }
func (e *meddling) Is(error) bool { e.use(); return false }
func (e *meddling) As(any) bool   { e.use(); return false }
func (e *meddling) Unwrap() error { e.use(); return errDatabase }
