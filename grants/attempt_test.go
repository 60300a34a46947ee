package grants_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

// The last seconds of a token's life, in which it is no longer given out as valid, and not lost either.
func TestLastSeconds(t *testing.T) {
	t.Run("nothing has been tried yet: a refresh that is quick enough is waited for", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.latency = 500 * time.Millisecond
			m := w.process()
			w.connect("a", time.Hour)
			token(t, m, "a")
			time.Sleep(time.Hour - 5*time.Second)
			start := time.Now()
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Equal(t, 500*time.Millisecond, time.Since(start))
		})
	})

	t.Run("one is under way: nobody waits", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			token(t, m, "a")
			w.apple.fail(hang)
			time.Sleep(time.Hour - 15*time.Second)
			token(t, m, "a") // begins it
			time.Sleep(10 * time.Second)
			start := time.Now()
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			assert.Zero(t, time.Since(start))
		})
	})

	t.Run("one has failed: nobody waits", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			token(t, m, "a")
			w.apple.fail(status(520, ""), hang)
			time.Sleep(time.Hour - 15*time.Second)
			token(t, m, "a") // it fails
			time.Sleep(10 * time.Second)
			require.Equal(t, 1, w.apple.requests())
			start := time.Now()
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			assert.Zero(t, time.Since(start))
		})
	})

	t.Run("a process that reads such a token from the Store refreshes it", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.connect("a", 5*time.Second)
			assert.Equal(t, "access-a-1", token(t, w.process(), "a"))
		})
	})
}

// A failure without a RetryAfter has none when it is given out again within its time.
func TestRememberedFailureIsTheSame(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.apple.fail(status(400, `{"error":"invalid_request","error_description":"something about one customer"}`))
		first := failure(t, m, "a")
		time.Sleep(100 * time.Millisecond)
		second := failure(t, m, "a")
		assert.Equal(t, 1, w.apple.requests())
		assert.Equal(t, first, second)
		assert.Zero(t, second.RetryAfter)
	})
}

// A mark ends the lease by itself. One that fails leaves it, if that says more than a Release would.
func TestLeaseAfterAMark(t *testing.T) {
	tests := map[string]struct {
		answer   string
		status   int
		markFail bool
		releases int
	}{
		"marked dead":                           {`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`, 401, false, 0},
		"marked with a wait":                    {"", 503, false, 0},
		"the mark of a wait failed":             {"", 503, true, 1},
		"the mark of a lost response failed":    {"", 502, true, 0},
		"nothing to mark":                       {`{"error":"invalid_client"}`, 401, false, 1},
		"the mark of the grant's end failed":    {`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`, 401, true, 1},
		"a success, whose Save ends it instead": {`{"access_token":"x","expires_in":3600}`, 200, false, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", -time.Minute)
				w.apple.fail(status(test.status, test.answer))
				if test.markFail {
					w.store.fail(errDatabase, "Mark")
				}
				_, _ = m.Token(t.Context(), "a")
				synctest.Wait()
				assert.Equal(t, test.releases, w.store.count("Release"))
			})
		})
	}
}

// While a sibling has the lease, early refresh does not ask the Store at each call.
func TestEarlyRefreshBesideASibling(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", time.Hour)
		token(t, m, "a")
		_, err := w.store.Store.Lease(t.Context(), "a", "sibling", time.Hour)
		require.NoError(t, err)
		time.Sleep(time.Hour - 30*time.Second)
		before := w.store.total()
		for range 1000 {
			token(t, m, "a")
			time.Sleep(10 * time.Millisecond)
		}
		assert.Less(t, w.store.total()-before, 60)
		assert.Zero(t, w.apple.requests())
	})
}

// A token that lives for seconds is used for half of its life; one that lives for minutes, for nine tenths at least.
func TestWhenATokenIsRefreshed(t *testing.T) {
	refreshes := func(t *testing.T, life int, during time.Duration) (n int) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.life = life
			m := w.process()
			w.connect("a", -time.Minute)
			for range during / (100 * time.Millisecond) {
				token(t, m, "a")
				time.Sleep(100 * time.Millisecond)
			}
			n = w.apple.requests()
		})
		return n
	}
	assert.InDelta(t, 10, refreshes(t, 6, 30*time.Second), 2)
	assert.Equal(t, 1, refreshes(t, 600, 500*time.Second), "not yet")
	assert.Equal(t, 2, refreshes(t, 600, 590*time.Second), "within the last tenth")
}

// A row that a sibling has written is held: the next calls need no Store.
func TestSiblingsTokenIsHeld(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", time.Hour)
		token(t, m, "a")
		require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{AccessToken: "newer", RefreshToken: "newer", Expiry: time.Now().Add(3 * time.Hour)}))
		time.Sleep(58 * time.Minute)
		token(t, m, "a") // the early refresh finds it
		synctest.Wait()
		before := w.store.total()
		for range 10 {
			assert.Equal(t, "newer", token(t, m, "a"))
		}
		assert.Equal(t, before, w.store.total())
	})
}

// To the instant: what counts as expired, as due, and as a pause that is waited for.
func TestInstants(t *testing.T) {
	t.Run("10 seconds before it expires, a token of the Store's counts as expired", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.connect("a", 10*time.Second)
			assert.Equal(t, "access-a-1", token(t, w.process(), "a"))
		})
	})

	t.Run("and one in memory does", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			token(t, m, "a")
			time.Sleep(time.Hour - 10*time.Second)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
		})
	})

	t.Run("what expires within the time is due", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.store.Store = &dueStore{w.store.Store, []string{"a"}}
			w.connect("a", time.Minute)
			require.NoError(t, w.process().RefreshDue(t.Context(), time.Minute))
			assert.Equal(t, "access-a-1", w.row("a").Token.AccessToken)
		})
	})

	t.Run("a pause of a second is waited for", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.connect("b", -time.Minute)
			w.apple.fail(status(429, "", "Retry-After", "1"))
			failure(t, m, "a")
			start := time.Now()
			assert.Equal(t, "access-b-1", token(t, m, "b"))
			assert.Equal(t, time.Second, time.Since(start))
		})
	})
}

// Decision 5: a valid token is returned, whatever else fails.
func TestEarlyRefresh(t *testing.T) {
	t.Parallel()
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
			bubble(t, func(t *testing.T, w *world) { earlyRefreshFails(t, w, fail) })
		})
	}

	t.Run("once, in the background, for a fleet", func(t *testing.T) { bubble(t, earlyRefreshOfAFleet) })

	t.Run("spread over minutes", func(t *testing.T) { bubble(t, earlyRefreshesSpread) })

	t.Run("tried again in the background", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			token(t, m, "a")
			time.Sleep(58 * time.Minute)
			w.apple.fail(status(503, ""), status(403, "<html>"))
			for range 60 {
				token(t, m, "a")
				time.Sleep(time.Second)
			}
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Equal(t, 3, w.apple.requests())
		})
	})

	t.Run("a database that fails is asked again, and ever more seldom", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			token(t, m, "a")
			time.Sleep(55 * time.Minute)
			w.store.fail(errDatabase)
			before := w.store.total()
			for range 240 {
				token(t, m, "a")
				time.Sleep(time.Second)
			}
			calls := w.store.total() - before
			assert.GreaterOrEqual(t, calls, 3)
			assert.LessOrEqual(t, calls, 12)
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

// Grants that expire at the same time are not refreshed at the same time.
func earlyRefreshesSpread(t *testing.T, w *world) {
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
		time.Sleep(time.Duration(slower) * time.Second)
	}
	require.Len(t, at, 100)
	assert.Greater(t, at[99]-at[0], time.Minute)
	assert.Greater(t, at[0], 54*time.Minute)
	assert.Less(t, at[99], 58*time.Minute, "time is left to try again")
}

// Of a fleet one process refreshes, in the background.
func earlyRefreshOfAFleet(t *testing.T, w *world) {
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
}

// earlyRefreshFails uses a token for the whole of its life.
func earlyRefreshFails(t *testing.T, w *world, fail func(*world)) {
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

// Before an Unfinished record is sent, whoever may hold its successor gets the time to store it.
func TestGrace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sibling := w.process()
		w.connect("a", -time.Minute)
		_, err := w.store.Store.Lease(t.Context(), "a", "other", 10*time.Second)
		require.NoError(t, err)
		_, _ = w.apple.refresh("refresh-a-0")
		time.AfterFunc(15*time.Second, func() { // another process has fetched the successor, and stores it now
			row := w.row("a")
			assert.NoError(t, w.store.Store.Save(context.Background(), "a", "other", row.Version, &oauth2.Token{
				AccessToken: "access-a-1", RefreshToken: "refresh-a-1", Expiry: time.Now().Add(time.Hour)}))
		})
		assert.Equal(t, "access-a-1", token(t, sibling, "a"))
		assert.Zero(t, w.apple.refused)
		assert.Empty(t, w.apple.sent)
	})

	t.Run("no wait where this process has lost the response itself", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			time.Sleep(time.Hour)
			w.connect("a", -time.Minute)
			w.apple.fail(status(502, ""))
			failure(t, m, "a")
			require.True(t, w.row("a").Unfinished)
			time.Sleep(2 * time.Second)
			start := time.Now()
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Zero(t, time.Since(start))
		})
	})

	t.Run("but a wait where a sibling may have had the grant since", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.apple.fail(status(502, ""))
			failure(t, m, "a")
			time.Sleep(time.Minute)
			start := time.Now()
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			assert.Equal(t, 6*time.Second, time.Since(start))
		})
	})
}

// A Store that once has no such grant, as a replica or a restored one, costs no knowledge of the token that was fetched.
func TestNoGrantForAMoment(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		backup := w.row("a").Token
		token(t, m, "a")
		time.Sleep(time.Hour)
		require.NoError(t, w.store.Store.Delete(t.Context(), "a"))
		_, err := m.Token(t.Context(), "a")
		require.ErrorIs(t, err, grants.ErrNoGrant)
		require.NoError(t, w.store.Store.Put(t.Context(), "a", backup))
		assert.Equal(t, "access-a-2", token(t, m, "a"))
		assert.Equal(t, []string{"refresh-a-0", "refresh-a-1"}, w.apple.sent)
	})
}

// Without a refresh token nothing is sent, and the row is not looked at for each caller.
func TestNoRefreshToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{AccessToken: "a", Expiry: time.Now().Add(-time.Minute)}))
		for range 100 {
			assert.Equal(t, applebusiness.ErrNoRefreshToken, failure(t, m, "a").Reason)
		}
		assert.LessOrEqual(t, w.store.total(), 2)
		assert.Zero(t, w.apple.requests())
	})
}

// A row that a sibling has mended is seen within seconds, whatever is remembered.
func TestGoodNewsIsSeen(t *testing.T) {
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"503 for an hour": status(503, "", "Retry-After", "3600"),
		"429 for an hour": status(429, "", "Retry-After", "3600"),
		"a wrong secret":  status(401, wrongSecret),
		"alone":           status(400, `{"error":"invalid_request"}`),
		"dead":            status(401, refusal),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", -time.Minute)
				w.apple.always(answer)
				for range 6 {
					failure(t, m, "a")
					time.Sleep(10 * time.Second)
				}
				require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{AccessToken: "good", RefreshToken: "other", Expiry: time.Now().Add(time.Hour)}))
				start := time.Now()
				for {
					token, err := m.Token(t.Context(), "a")
					if err == nil {
						assert.Equal(t, "good", token.AccessToken)
						break
					}
					require.Less(t, time.Since(start), 3*time.Second)
					time.Sleep(100 * time.Millisecond)
				}
				loads := w.store.count("Load")
				for range 100 {
					token(t, m, "a")
				}
				assert.Equal(t, loads, w.store.count("Load"))
			})
		})
	}
}

// Apple returns what it was sent, or no refresh token: a token all the same.
func TestTokensThatDoNotChange(t *testing.T) {
	for name, body := range map[string]string{
		"the same tokens":                         `{"access_token":"access-a-0","refresh_token":"refresh-a-0","expires_in":3600}`,
		"the same access token, no refresh token": `{"access_token":"access-a-0","expires_in":3600}`,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", -time.Minute)
				w.apple.always(status(200, body))
				assert.Equal(t, "access-a-0", token(t, m, "a"))
				synctest.Wait()
				assert.Equal(t, 1, w.store.count("Save"))
				assert.Equal(t, "refresh-a-0", w.row("a").Token.RefreshToken)
				time.Sleep(time.Hour)
				require.NoError(t, m.RefreshDue(t.Context(), 0))
				assert.Equal(t, "access-a-0", token(t, m, "a"))
				assert.Equal(t, 2, w.apple.requests())
			})
		})
	}
}

// A request has its time, and no less, though that is counted in slices.
func TestTimeOfARequest(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process(func(o *grants.Options) { o.HTTPClient.Timeout = 7 * time.Second })
		w.connect("a", -time.Minute)
		w.apple.latency = 6900 * time.Millisecond
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		w.connect("b", -time.Minute)
		w.apple.latency = 7100 * time.Millisecond
		e := failure(t, m, "b")
		assert.Equal(t, applebusiness.ErrNoResponse, e.Reason)
		assert.True(t, e.Timeout())
	})
}

// A sibling that gives its lease up without a trace does not keep others waiting for the whole lease.
func TestLeaseGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		_, err := w.store.Store.Lease(t.Context(), "a", "sibling", time.Hour)
		require.NoError(t, err)
		time.AfterFunc(2*time.Second, func() { _ = w.store.Store.Release(context.Background(), "a", "sibling") })
		start := time.Now()
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		assert.Less(t, time.Since(start), 10*time.Second)
	})

	t.Run("after an unknown outcome of Lease", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m, sibling := w.process(), w.process()
			w.connect("a", -time.Minute)
			w.store.set(nil, func(method, _ string) error {
				if method == "Lease" {
					return errDatabase
				}
				return nil
			})
			_, err := m.Token(t.Context(), "a")
			storeFailure(t, err)
			synctest.Wait()
			w.store.fail(nil)
			start := time.Now()
			assert.Equal(t, "access-a-1", token(t, sibling, "a"))
			assert.Zero(t, time.Since(start))
		})
	})
}

// What a sibling fetched while this process waited is taken, even if it lives for seconds only.
func TestShortLivedTokenOfASibling(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apple.life = 8
		w.apple.latency = 2 * time.Second
		w.connect("a", -time.Minute)
		var group sync.WaitGroup
		for range 8 {
			m := w.process()
			group.Go(func() { assert.Equal(t, "access-a-1", token(t, m, "a")) })
		}
		group.Wait()
		assert.Equal(t, 1, w.apple.requests())
	})
}

// A row that may not be sent yet says for how long at each call, and is not asked for at each, nor told as a failure.
func TestRetryAtOfTheRow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		require.NoError(t, w.store.Store.Mark(t.Context(), "a", "", w.row("a").Version, grants.Mark{RetryAt: time.Now().Add(time.Minute)}))
		start := time.Now()
		for range 100 {
			e := failure(t, m, "a")
			assert.InDelta(t, (time.Minute - time.Since(start)).Seconds(), e.RetryAfter.Seconds(), 0.1)
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, w.store.count("Load"), 12)
		synctest.Wait()
		for _, event := range w.takeEvents() {
			assert.Equal(t, "held", event.Label())
		}
	})
}

// Whatever failed, no lease is left behind once the Store works again: the next one who needs the grant would wait for it,
// and a customer who revokes then would be told that a response was lost.
func TestNoLeaseIsLeft(t *testing.T) {
	for name, fails := range map[string]func(method string) (before, after bool){
		"statements":            func(string) (bool, bool) { return rand.N(4) == 0, rand.N(4) == 0 },
		"Release and Lease":     func(method string) (bool, bool) { return method == "Release", method == "Lease" },
		"Save":                  func(method string) (bool, bool) { return method == "Save", false },
		"Save, after it":        func(method string) (bool, bool) { return false, method == "Save" },
		"all":                   func(string) (bool, bool) { return true, false },
		"all that change a row": func(method string) (bool, bool) { return method != "Load" && method != "Due", false },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) { noLeaseIsLeft(t, w, fails) })
		})
	}
}

// noLeaseIsLeft lets calls fail for a while, five times, and leases each grant after it.
func noLeaseIsLeft(t *testing.T, w *world, fails func(method string) (before, after bool)) {
	w.apple.life, w.apple.latency = 60, 300*time.Millisecond
	names := w.expired(10)
	fleet := []*grants.Manager{w.process(), w.process(), w.process()}
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() { w.use(fleet, names, 2*time.Second, 40*time.Second) })
		for _, m := range fleet {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(40*time.Second))
				defer cancel()
				_ = m.RefreshDue(ctx, 10*time.Second)
			})
		}
		time.Sleep(rand.N(20 * time.Second))
		w.store.set(func(_ context.Context, method, _ string) error {
			if before, _ := fails(method); before {
				return errDatabase
			}
			return nil
		}, func(method, _ string) error {
			if _, after := fails(method); after {
				return errDatabase
			}
			return nil
		})
		time.Sleep(rand.N(20 * time.Second))
		w.store.fail(nil)
		group.Wait()
		time.Sleep(20 * time.Second)
		for _, name := range names {
			record, err := w.store.Store.Lease(t.Context(), name, "another", time.Minute)
			if assert.NoError(t, err, name) {
				assert.False(t, record.Unfinished, name)
				require.NoError(t, w.store.Store.Release(t.Context(), name, "another"))
			}
		}
	}
}

// A row that was set back is repaired, and what was known of leases holds no more.
func TestRepairedRow(t *testing.T) {
	t.Run("the Save has ended the lease: it is taken again before the request", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Minute)
			old := w.row("a")
			token(t, m, "a")
			time.Sleep(time.Minute)
			token(t, m, "a")
			time.Sleep(time.Hour)
			w.store.set(func(_ context.Context, method, _ string) error {
				if method == "Lease" && w.store.count("Lease") == 2 {
					restore(t, w, "a", old)
				}
				return nil
			}, nil)
			w.apple.before = func(*http.Request) {
				_, err := w.store.Store.Lease(t.Context(), "a", "another", time.Minute)
				assert.ErrorIs(t, err, grants.ErrLeased, "nothing is sent without the lease")
			}
			assert.Equal(t, "access-a-2", token(t, m, "a"))
			assert.Equal(t, []string{"refresh-a-0", "refresh-a-1"}, w.apple.sent)
			assert.Equal(t, 3, w.store.count("Lease"))
		})
	})

	t.Run("the Save has ended the lease of an unsaved token, and not the attempt's: that is released", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.apple.life = 30
			w.connect("a", -time.Minute)
			old := w.row("a")
			w.store.fail(errDatabase, "Save")
			token(t, m, "a")
			time.Sleep(5 * time.Minute)
			another := func(n int, life time.Duration) *oauth2.Token {
				return &oauth2.Token{AccessToken: fmt.Sprint("access-x-", n), RefreshToken: fmt.Sprint("refresh-x-", n), Expiry: time.Now().Add(life)}
			}
			require.NoError(t, w.store.Store.Put(t.Context(), "a", another(0, 0)))
			loads, saves := w.store.count("Load"), w.store.count("Save")
			w.store.set(nil, func(method, _ string) error {
				switch {
				case method == "Load" && w.store.count("Load") == loads+1: // another(0) is seen, and lost by the database
					restore(t, w, "a", old)
				case method == "Save" && w.store.count("Save") == saves+1: // another(0) is back, and a sibling has replaced it
					return w.store.Store.Save(t.Context(), "a", "sibling", w.row("a").Version, another(1, time.Hour))
				}
				return nil
			})
			assert.Equal(t, "access-x-1", token(t, m, "a"))
			assert.Equal(t, saves+1, w.store.count("Save"))
			synctest.Wait()
			_, err := w.store.Store.Lease(t.Context(), "a", "another", time.Minute)
			assert.NoError(t, err)
			assert.Equal(t, 1, w.apple.requests())
		})
	})

	t.Run("what a sibling puts back is believed", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m, sibling := w.process(), w.process()
			w.connect("a", time.Minute)
			old := w.row("a")
			token(t, m, "a")
			time.Sleep(time.Minute)
			token(t, sibling, "a")
			newer, err := m.Token(t.Context(), "a") // seen, and not fetched
			require.NoError(t, err)
			restore(t, w, "a", old)
			require.NoError(t, m.RefreshDue(t.Context(), 0))
			require.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
			old.Token.Expiry = time.Now().Add(time.Hour)
			restore(t, w, "a", old)
			m.Invalidate("a", newer)
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			assert.Equal(t, "refresh-a-0", w.row("a").Token.RefreshToken)
			assert.Equal(t, 1, w.apple.requests())
		})
	})
}

// A customer who has connected again is not told for long what was true before, however often the grant had failed by then.
func TestVerdictIsForgottenSoon(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		for range 5 {
			w.apple.fail(status(400, `{"error":"invalid_request","error_description":"new words"}`))
			failure(t, m, "a")
			time.Sleep(5 * time.Minute)
		}
		w.apple.revoke("a")
		require.True(t, told(failure(t, m, "a")))
		w.connect("a", time.Hour) // by another process
		time.Sleep(time.Second)
		assert.Equal(t, "access-a-0", token(t, m, "a"))
	})
}
