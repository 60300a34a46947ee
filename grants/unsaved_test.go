package grants_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
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

// What cannot be stored for one grant keeps another one from a request, whose caller is not told of the first.
func TestSaveThatFailsForAnother(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("customer-1", -time.Minute)
		w.connect("customer-2", -time.Minute)
		w.store.fail(errDatabase, "Save")
		token(t, m, "customer-1")
		synctest.Wait()
		_, err := m.Token(t.Context(), "customer-2")
		failed, ok := err.(*grants.StoreError)
		require.True(t, ok, "%v", err)
		assert.Empty(t, failed.Grant)
		assert.NotContains(t, failed.Error(), "customer")
		assert.Contains(t, w.logged(), "grant=customer-1")
	})
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

// The database fails for longer than a lease while refreshes are under way, and comes back: nobody is told to reconnect,
// and nothing is lost.
func TestDatabaseFailsForLongerThanALease(t *testing.T) {
	t.Parallel()
	for fails, methods := range map[string][]string{
		"all":    {"Load", "Lease", "Save", "Mark", "Release", "Put", "Delete", "Due"},
		"writes": {"Lease", "Save", "Mark", "Release", "Put", "Delete"},
		"Save":   {"Save"},
	} {
		for _, d := range []time.Duration{20 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute} {
			t.Run(fmt.Sprint(fails, " ", d), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, w *world) { databaseFails(t, w, d, methods) })
			})
		}
	}
}

func databaseFails(t *testing.T, w *world, d time.Duration, methods []string) {
	w.apple.latency = 2 * time.Second
	fleet := []*grants.Manager{w.process(), w.process(), w.process()}
	names := w.expired(12 / slower)
	end := time.Now().Add(d + 2*time.Minute)
	wait := w.askUntil(end, time.Hour, fleet, names)
	var group sync.WaitGroup
	for _, m := range fleet {
		group.Go(func() {
			for time.Now().Before(end) {
				_ = m.RefreshDue(t.Context(), 0)
				time.Sleep(10 * time.Second)
			}
		})
	}
	time.Sleep(time.Second) // requests are under way
	w.store.fail(errDatabase, methods...)
	time.Sleep(4 * time.Second)
	sent := w.apple.requests()
	time.Sleep(d - 4*time.Second)
	assert.LessOrEqual(t, w.apple.requests()-sent, 3*10, "nothing new is sent, but for a probe now and then")
	w.store.fail(nil)
	group.Wait()
	assert.Zero(t, wait(), "told to reconnect")
	t.Logf("%d requests, %d refused", w.apple.requests(), w.apple.refused)
	assert.Zero(t, w.apple.refused)
	w.assertNothingLost(t, fleet, names)
}

// askUntil lets each process ask for each grant every few seconds until end, each caller for as long as its patience lasts.
// The function that it returns waits for that, and says how many calls told a customer to reconnect.
func (w *world) askUntil(end time.Time, patience time.Duration, fleet []*grants.Manager, names []string) (wait func() int) {
	var group sync.WaitGroup
	var reconnect atomic.Int32
	ask := func(m *grants.Manager, name string) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := m.Token(ctx, name); told(err) {
			reconnect.Add(1)
		}
	}
	for i, name := range names {
		for j, m := range fleet {
			group.Go(func() {
				time.Sleep(time.Duration(i*len(fleet)+j) * 28 * time.Millisecond) // so that requests are under way for a second
				for ; time.Now().Before(end); time.Sleep(time.Duration(2*slower) * time.Second) {
					ask(m, name)
				}
			})
		}
	}
	return func() int {
		group.Wait()
		return int(reconnect.Load())
	}
}

// assertNothingLost closes the processes, and finds the newest token of each grant in the Store.
func (w *world) assertNothingLost(t *testing.T, fleet []*grants.Manager, names []string) {
	for _, m := range fleet {
		require.NoError(t, m.Close(t.Context()))
	}
	for _, name := range names {
		row := w.row(name)
		assert.Nil(t, row.Dead)
		assert.Equal(t, w.apple.refreshToken(name, w.apple.grants[name]), row.Token.RefreshToken, "nothing is lost")
	}
}

// A Save that fails alone does not hand the spent token to a sibling: the lease is renewed for as long as it takes.
func TestLeaseOfAnUnsavedToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m, sibling := w.process(), w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		token(t, m, "a")
		before := w.store.count("Lease")
		time.Sleep(10 * time.Minute)
		assert.InDelta(t, 35, w.store.count("Lease")-before, 8, "it is renewed when a third of it is over")
		for range 10 {
			time.Sleep(time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			_, err := sibling.Token(ctx, "a")
			assert.False(t, told(err), "%v", err)
			cancel()
		}
		assert.Equal(t, 1, w.apple.requests())
		w.store.fail(nil)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "access-a-1", token(t, sibling, "a"))
	})
}

// One row that cannot be written holds up the others once, and not at each try.
func TestOneRowThatCannotBeWritten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		names := w.expired(3)
		w.store.set(func(_ context.Context, method, grant string) error {
			if method == "Save" && grant == names[0] {
				return errDatabase
			}
			return nil
		}, nil)
		token(t, m, names[0])
		synctest.Wait()
		_, err := m.Token(t.Context(), names[1])
		storeFailure(t, err)
		time.Sleep(10 * time.Second)
		token(t, m, names[1])
		time.Sleep(6 * time.Second) // the next try has failed by then
		token(t, m, names[2])
		w.store.fail(nil)
	})
}

// A token that is not stored yet outlives a Store that says, for a moment, that there is no such grant.
func TestNoGrantThatIsNotTrue(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		var gone atomic.Bool
		w.store.set(func(_ context.Context, method, _ string) error {
			switch {
			case method == "Save" && gone.Load():
				return grants.ErrConflict
			case method == "Save":
				return errDatabase
			case gone.Load():
				return grants.ErrNoGrant
			}
			return nil
		}, nil)
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		gone.Store(true)
		time.Sleep(10 * time.Second)
		m.Invalidate("a", &oauth2.Token{AccessToken: "access-a-1"})
		_, err := m.Token(t.Context(), "a")
		require.ErrorIs(t, err, grants.ErrNoGrant)
		w.store.fail(nil)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
		assert.Equal(t, "access-a-2", token(t, m, "a"))
		assert.Zero(t, w.apple.refused)
	})
}

// A token that is not stored yet is given up when its grant has been gone for a while.
func TestUnsavedTokenOfAGrantThatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		token(t, m, "a")
		require.NoError(t, w.store.Store.Delete(t.Context(), "a"))
		w.store.fail(nil)
		time.Sleep(2 * time.Minute)
		tries := w.store.count("Save")
		assert.Greater(t, tries, 2)
		time.Sleep(time.Hour)
		assert.Equal(t, tries, w.store.count("Save"))
	})
}

// A process that fetched a token and cannot save it for longer than its lease lasts: a sibling sends the spent refresh
// token, and records a verdict that heals.
func TestSaveAfterASiblingsVerdict(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cut := &faultyStore{Store: w.store.Store} // one process has lost its way to the database
		m := grants.New(testConfig, cut, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
		sibling := w.process()
		w.connect("a", -time.Minute)
		cut.fail(errDatabase, "Save")
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		synctest.Wait()
		cut.fail(errDatabase)
		time.Sleep(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := sibling.Token(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded, "the lease gives time to save")
		time.Sleep(time.Minute)
		e := failure(t, sibling, "a")
		assert.True(t, e.ResponseLost, "whoever reads this knows that nobody has revoked")
		cut.fail(nil)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "access-a-1", token(t, sibling, "a"))
		assert.Nil(t, w.row("a").Dead)
		require.NoError(t, m.Close(t.Context()))
	})
}

// A verdict that could not be recorded is not told, since it might be about another token, and is recorded later without
// another request.
func TestVerdictThatCannotBeRecorded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.apple.revoke("a")
		w.store.fail(errDatabase, "Mark")
		for range 5 {
			_, err := m.Token(t.Context(), "a")
			storeFailure(t, err)
			assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
			time.Sleep(10 * time.Second)
		}
		w.store.fail(nil)
		assert.Equal(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, "a").Reason)
		assert.NotNil(t, w.row("a").Dead)
		assert.Equal(t, 1, w.apple.requests())
		time.Sleep(time.Second)
		require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-b-0"}))
		assert.Equal(t, "access-b-1", token(t, m, "a"), "the customer has connected again, at a sibling")
	})

	// The same refresh token is put again, by an operator or by Apple's second consent.
	for name, after := range map[string]bool{"nor recorded later": false, "also if the Mark took effect": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.connect("a", -time.Minute)
				w.apple.revoke("a")
				if after {
					w.store.set(nil, func(method, _ string) error {
						if method == "Mark" {
							return errDatabase
						}
						return nil
					})
				} else {
					w.store.fail(errDatabase, "Mark")
				}
				_, err := m.Token(t.Context(), "a")
				storeFailure(t, err)
				w.store.fail(nil)
				time.Sleep(10 * time.Second)

				require.NoError(t, w.store.Store.Put(t.Context(), "a", w.row("a").Token))
				w.apple.revoked["a"] = false
				assert.Equal(t, "access-a-1", token(t, m, "a"))
				assert.Nil(t, w.row("a").Dead)
			})
		})
	}
}

// A Store that says twice that there is no such grant, with a minute of failures in between, has not said so for a minute.
func TestNoGrantAgainAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		var phase atomic.Int32
		w.store.set(func(_ context.Context, method, _ string) error {
			switch {
			case phase.Load()%2 == 0:
				if method == "Save" {
					return errDatabase
				}
			case method == "Save":
				return grants.ErrConflict
			default:
				return grants.ErrNoGrant
			}
			return nil
		}, nil)
		assert.Equal(t, "access-a-1", token(t, m, "a"))
		time.Sleep(10 * time.Second)
		for range 2 {
			phase.Add(1)
			time.Sleep(8 * time.Second)
			phase.Add(1)
			time.Sleep(time.Minute)
		}
		w.store.fail(nil)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
	})
}

// A database that hangs, as behind a firewall that drops everything, for longer than a lease.
func TestDatabaseHangsForLongerThanALease(t *testing.T) {
	t.Parallel()
	for hangs, methods := range map[string]string{"all": "Load Lease Save Mark Release Put Delete Due", "writes": "Lease Save Mark Release", "Save": "Save"} {
		for _, d := range []time.Duration{55 * time.Second, 3 * time.Minute} {
			t.Run(fmt.Sprint(hangs, " ", d), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, w *world) { databaseHangs(t, w, d, methods) })
			})
		}
	}
}

func databaseHangs(t *testing.T, w *world, d time.Duration, methods string) {
	w.apple.latency = 2 * time.Second
	fleet := []*grants.Manager{w.process(), w.process(), w.process()}
	wait := w.askUntil(time.Now().Add(d+2*time.Minute), 5*time.Second, fleet, w.expired(20/slower))
	time.Sleep(time.Second)
	over := time.Now().Add(d)
	w.store.set(func(ctx context.Context, method, _ string) error {
		if strings.Contains(methods, method) && time.Now().Before(over) {
			return hangStore(ctx, "", "") // the connection is gone, also when the others work again
		}
		return nil
	}, nil)
	assert.Zero(t, wait(), "told to reconnect")
	assert.Zero(t, w.apple.refused)
}

// The database fails for longer than a lease, and after it Save alone: a sibling that has the lease by then sends nothing.
func TestSaveFailsAfterTheLeaseHasRunOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m, sibling := w.process(), w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		token(t, m, "a")
		w.store.fail(errDatabase)
		time.Sleep(time.Minute)
		w.store.fail(errDatabase, "Save")
		for range 120 {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			_, err := sibling.Token(ctx, "a")
			require.False(t, told(err), "%v", err)
			cancel()
			time.Sleep(time.Second)
		}
		assert.Equal(t, 1, w.apple.requests())
		w.store.fail(nil)
		time.Sleep(10 * time.Second)
		assert.Equal(t, "access-a-1", token(t, sibling, "a"))
	})
}

// A sibling that repairs the row while a refresh of the older token is under way leaves that refresh's lease: it is ended.
func TestLeaseOfATokenThatIsNotStored(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.apple.latency = time.Second
		w.connect("a", -time.Minute)
		w.apple.after = func() {
			row := w.row("a")
			require.NoError(t, w.store.Store.Save(t.Context(), "a", "another", row.Version, &oauth2.Token{AccessToken: "x", RefreshToken: "y", Expiry: time.Now().Add(time.Hour)}))
		}
		_, err := m.Token(t.Context(), "a")
		require.NoError(t, err)
		synctest.Wait()
		_, err = w.store.Store.Lease(t.Context(), "a", "another", time.Minute)
		assert.NoError(t, err)
		assert.Equal(t, "y", w.row("a").Token.RefreshToken)
	})
}

// A lease that is renewed for a token which turns out to be stored is ended: the grant would be blocked, and a customer who
// revokes then told that a response was lost.
func TestLeaseOfATokenThatIsStored(t *testing.T) {
	assertNoLease := func(t *testing.T, w *world) {
		time.Sleep(10 * time.Second)
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
		_, err := w.store.Store.Lease(t.Context(), "a", "another", time.Minute)
		assert.NoError(t, err)
	}

	t.Run("by a Save that took effect before the database failed", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.store.set(nil, func(method, _ string) error {
				if method == "Save" {
					w.store.fail(errDatabase)
					return errDatabase
				}
				return nil
			})
			token(t, m, "a")
			time.Sleep(20 * time.Second)
			w.store.fail(nil)
			assertNoLease(t, w)
		})
	})

	t.Run("by a later attempt while the lease is renewed", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			old := w.row("a").Token
			w.store.fail(errDatabase, "Save")
			token(t, m, "a")
			w.store.set(func(_ context.Context, method, _ string) error {
				switch method {
				case "Save":
					return errDatabase
				case "Lease":
					w.store.fail(nil)
					assert.ErrorContains(t, m.Put(t.Context(), "a", old), "replaced by a newer one")
					time.Sleep(time.Second) // in which the row is repaired
				}
				return nil
			}, nil)
			time.Sleep(30 * time.Second)
			assertNoLease(t, w)
		})
	})
}
