package grants_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
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

// Attempts wait in the order of arrival, also those that looked at their row meanwhile.
func TestOrderOfTheQueue(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process(func(o *grants.Options) {
			o.Limit = limit(func(ctx context.Context) error { time.Sleep(5 * time.Second); return nil })
		})
		var group sync.WaitGroup
		var inOrder []string
		for i := range 10 {
			name := fmt.Sprint(i)
			w.connect(name, -time.Minute)
			inOrder = append(inOrder, "refresh-"+name+"-0")
			group.Go(func() { token(t, m, name) })
			time.Sleep(100 * time.Millisecond)
		}
		group.Wait()
		assert.Greater(t, w.store.count("Load"), 20, "they have looked")
		assert.Equal(t, inOrder, w.apple.sent)
	})
}

// The longer the queue, the less often each of those in it asks the Store.
func TestLongQueueAsksTheStoreLittle(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		open := make(chan struct{})
		m := w.process(func(o *grants.Options) {
			o.Limit = limit(func(context.Context) error { <-open; return nil })
		})
		const n = 500
		var group sync.WaitGroup
		for i := range n {
			name := fmt.Sprint(i)
			w.connect(name, -time.Minute)
			group.Go(func() { token(t, m, name) })
		}
		time.Sleep(20 * time.Second)
		close(open)
		group.Wait()
		assert.Less(t, w.store.count("Load"), 6*n)
		assert.Equal(t, n, w.apple.requests())
	})
}

// What a response with status 429 asks for counts from when it came, however long the process has run.
func TestPauseOfAnOldProcess(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		time.Sleep(time.Hour)
		w.apple.fail(status(429, "", "Retry-After", "30"))
		assert.Equal(t, 30*time.Second, failure(t, m, "a").RetryAfter)
		time.Sleep(10 * time.Second)
		assert.Equal(t, 20*time.Second, failure(t, m, "a").RetryAfter)
		time.Sleep(20 * time.Second)
		assert.Equal(t, "access-a-1", token(t, m, "a"))
	})
}

// Decision 7: Retry-After is the fleet's.
func TestRetryAfter(t *testing.T) {
	t.Run("503", func(t *testing.T) { bubble(t, retryAfter503) })

	t.Run("doubling where Apple says nothing", func(t *testing.T) { bubble(t, doublingPauses) })

	t.Run("429 pauses the whole Manager", func(t *testing.T) { bubble(t, pauseOfAll) })

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

// A response with status 429 pauses all grants of the Manager, and marks none.
func pauseOfAll(t *testing.T, w *world) {
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
}

// Where Apple says nothing, each pause is twice the one before, up to a minute.
func doublingPauses(t *testing.T, w *world) {
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
}

// Each process that shares the row knows how long Apple is unavailable.
func retryAfter503(t *testing.T, w *world) {
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
}

// 429 is the fleet's, and a burst is one event.
func TestBurstOf429(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apple.latency = time.Second
		fleet := &pausing{}
		m := w.process(func(o *grants.Options) { o.Limit = fleet })
		names := w.expired(8)
		w.apple.fail(forever(status(429, ""))[:4]...)
		w.apple.fail(forever(status(429, "", "Retry-After", "1"))[:4]...)
		var group sync.WaitGroup
		for _, name := range names {
			group.Go(func() { failure(t, m, name) })
		}
		group.Wait()
		synctest.Wait()
		assert.Equal(t, 8, w.apple.requests())
		assert.Equal(t, []time.Duration{time.Second}, fleet.pauses)
		time.Sleep(2 * time.Second)
		start := time.Now()
		for _, name := range names {
			group.Go(func() { token(t, m, name) })
		}
		group.Wait()
		assert.LessOrEqual(t, time.Since(start), 2*time.Second)
	})
}

// After a pause Limit is asked again: what it allowed before would all be sent at once.
func TestLimitAfterAPause(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process(func(o *grants.Options) { o.Limit = nil })
		names := w.expired(20)
		w.apple.fail(status(429, "", "Retry-After", "1"))
		var mu sync.Mutex
		var sent []time.Time
		w.apple.before = func(*http.Request) { mu.Lock(); sent = append(sent, time.Now()); mu.Unlock() }
		var group sync.WaitGroup
		for _, name := range names {
			group.Go(func() { _, _ = m.Token(t.Context(), name) })
		}
		group.Wait()
		for i := 2; i < len(sent); i++ {
			assert.GreaterOrEqual(t, sent[i].Sub(sent[i-1]), 50*time.Millisecond, i)
		}
	})
}

// What waits for Limit while the app begins to be held, or a pause begins, is not sent then.
func TestHeldWhileLimitIsAsked(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(*http.Request) (*http.Response, error)
		least  time.Duration
	}{
		"held":          {status(401, wrongSecret), 750 * time.Millisecond},
		"a short pause": {status(429, ""), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				asked := 0
				m := w.process(func(o *grants.Options) {
					o.Limit = limit(func(context.Context) error {
						if asked++; asked > 1 {
							time.Sleep(200 * time.Millisecond)
						}
						return nil
					})
				})
				w.apple.latency = 100 * time.Millisecond
				w.apple.fail(test.answer)
				var mu sync.Mutex
				var sent []time.Time
				w.apple.before = func(*http.Request) { mu.Lock(); sent = append(sent, time.Now()); mu.Unlock() }
				names := w.expired(5)
				var group sync.WaitGroup
				for _, name := range names {
					group.Go(func() { _, _ = m.Token(t.Context(), name) })
					synctest.Wait()
				}
				group.Wait()
				time.Sleep(2 * time.Second)
				token(t, m, names[4])
				require.Greater(t, len(sent), 1)
				assert.GreaterOrEqual(t, sent[1].Sub(sent[0]), w.apple.latency+test.least)
			})
		})
	}
}

// A long pause is told at once to those who wait in the queue. A short one is none of their business.
func TestPauseWhileOthersWait(t *testing.T) {
	for retryAfter, loads := range map[string]int{"1": 3, "2": 4} {
		bubble(t, func(t *testing.T, w *world) {
			asked := 0
			m := w.process(func(o *grants.Options) {
				o.Limit = limit(func(context.Context) error {
					if asked++; asked == 2 {
						time.Sleep(500 * time.Millisecond)
					}
					return nil
				})
			})
			w.apple.latency = 100 * time.Millisecond
			w.apple.fail(status(429, "", "Retry-After", retryAfter))
			var group sync.WaitGroup
			for _, name := range w.expired(3) { // one is sent, one asks Limit, and one waits
				group.Go(func() { _, _ = m.Token(t.Context(), name) })
				synctest.Wait()
			}
			time.Sleep(200 * time.Millisecond)
			assert.Equal(t, loads, w.store.count("Load"), retryAfter)
			group.Wait()
		})
	}
}

// Limit is asked by one at a time, also where it ignores that its context has ended.
func TestLimitIsAskedByOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var asking, most atomic.Int32
		m := w.process(func(o *grants.Options) {
			o.Limit = limit(func(context.Context) error {
				most.Store(max(most.Load(), asking.Add(1)))
				time.Sleep(rand.N(2 * time.Second))
				asking.Add(-1)
				return nil
			})
		})
		names := w.expired(40)
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			_ = m.RefreshDue(ctx, 0)
			cancel()
		}
		assert.Equal(t, int32(1), most.Load())
		_ = names
		time.Sleep(time.Minute)
	})
}

// A burst in which some requests succeed is one event, too: what was sent before the pause began does not end it.
func TestBurstWithSuccesses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		fleet := &pausing{}
		m := w.process(func(o *grants.Options) { o.Limit = fleet })
		names := w.expired(16)
		w.apple.latency = time.Second
		n := 0
		w.apple.always(func(*http.Request) (*http.Response, error) {
			if n++; n%2 == 0 && n <= 16 {
				return response(429, ""), nil
			}
			return nil, nil
		})
		var group sync.WaitGroup
		for _, name := range names {
			group.Go(func() { _, _ = m.Token(t.Context(), name) })
			time.Sleep(time.Millisecond)
		}
		group.Wait()
		synctest.Wait()
		assert.Equal(t, []time.Duration{time.Second}, fleet.pauses)
	})
}

// A Limit that refuses to let a request wait, because the fleet pauses, is no failure of the Store.
func TestLimitThatRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		start := time.Now()
		asked := 0
		m := w.process(func(o *grants.Options) {
			o.Limit = limit(func(context.Context) error {
				asked++
				if time.Since(start) < time.Minute {
					return fmt.Errorf("the fleet's limit would let this one wait too long: %w", context.DeadlineExceeded)
				}
				return nil
			})
		})
		w.expired(3)
		e := failure(t, m, "g0")
		assert.Equal(t, applebusiness.ErrRateLimited, e.Reason)
		assert.Equal(t, 5*time.Second, e.RetryAfter)
		require.NoError(t, m.RefreshDue(t.Context(), 0))
		assert.Equal(t, "refresh-g2-1", w.row("g2").Token.RefreshToken)
		assert.Less(t, asked, 60)
		for _, event := range w.takeEvents() {
			assert.Contains(t, []string{"held", "ok"}, event.Label())
		}
	})
}
