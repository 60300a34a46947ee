package grants_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// A token that was saved over an older row by a later attempt is not saved a second time.
func TestSavedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		synctest.Wait()
		w.store.fail(nil)
		m.Invalidate("a", &oauth2.Token{AccessToken: "access-a-1"})
		before := w.store.count("Save")
		assert.Equal(t, "access-a-2", token(t, m, "a"))
		synctest.Wait()
		time.Sleep(time.Minute)
		assert.Equal(t, before+2, w.store.count("Save"), "access-a-1 over the older row, and access-a-2")
		assert.Equal(t, []string{"refresh-a-0", "refresh-a-1"}, w.apple.sent)
	})
}

func TestStoreErrorTextAtItsEdges(t *testing.T) {
	text := func(s string) string { return (&grants.StoreError{Err: errors.New(s)}).Error() }
	const begin, end = `applebusiness/grants: the Store failed: "`, `"`
	assert.LessOrEqual(t, len(text(strings.Repeat("word ", 500))), len(begin)+512+len(end))
	assert.Equal(t, begin+"*** failed"+end, text("aB3dE5gH7jK9 failed"), "what may be a secret, though nobody knows it")

	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		for _, test := range []struct{ access, refresh, want string }{
			{"abcdefgh", "ijklmnop", "*** and ***"},          // words, and tokens
			{"thetoken", "thetokenofrefresh", "*** and ***"}, // one is part of the other
			{"with space here", "with/slash", "*** and ***"}, // as they are
			{"per cent%more", "quo\"temore", `*** and ***`},  // and escaped
		} {
			require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{
				AccessToken: test.access, RefreshToken: test.refresh, Expiry: time.Now().Add(-time.Minute)}))
			w.store.fail(errors.New(test.access+" and "+test.refresh), "Lease")
			_, err := m.Token(t.Context(), "a")
			assert.Equal(t, `applebusiness/grants: the Store failed for grant "a": "`+test.want+`"`, storeFailure(t, err).Error())
			time.Sleep(2 * time.Second)
		}
	})
}

func TestCloseErrorText(t *testing.T) {
	for _, n := range []int{1, 20, 21, 30} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.apple.latency = time.Second // what is under way when the first Save fails
				w.store.fail(errDatabase, "Save")
				var names []string
				var group sync.WaitGroup
				for i := range n {
					name := fmt.Sprintf("%02d", i)
					w.connect(name, -time.Minute)
					group.Go(func() { token(t, m, name) })
					if i < 20 {
						names = append(names, `"`+name+`"`)
					}
				}
				group.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := m.Close(ctx)
				more := ""
				if n > 20 {
					more = fmt.Sprintf(" and %d more", n-20)
				}
				assert.EqualError(t, err, "applebusiness/grants: closed before the newest token was stored of "+strings.Join(names, ", ")+more+
					`: "dial tcp ***: connect: connection refused"`)
				assert.NotErrorIs(t, err, applebusiness.ErrNoResponse)
				w.store.fail(nil)
				require.NoError(t, m.Close(t.Context()))
			})
		})
	}
}

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

// Put returns a *StoreError, which its context may have caused: the token may be stored or not. A context that had ended
// before is returned as it is, with nothing done.
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
			calls := w.store.total()
			assert.Equal(t, context.Canceled, m.Put(ctx, "a", &oauth2.Token{RefreshToken: "refresh-a-0"}))
			assert.Equal(t, calls, w.store.total())
		})
	}
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

// A Save that took effect although it failed leaves in memory what it has stored.
func TestSaveWhoseOutcomeWasUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		failed := false
		w.store.set(nil, func(method, _ string) error {
			if method == "Save" && !failed {
				failed = true
				return errDatabase
			}
			return nil
		})
		token(t, m, "a")
		time.Sleep(time.Second)
		require.Equal(t, 2, w.store.count("Save"))
		before := w.store.count("Load")
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		assert.Equal(t, before, w.store.count("Load"))
	})
}

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
