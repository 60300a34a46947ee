package grants_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// told counts the answers that ask a customer to reconnect.
func told(err error) bool {
	return applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize
}

// The database fails for longer than a lease while refreshes are under way, and comes back: nobody is told to reconnect,
// and nothing is lost.
func TestDatabaseFailsForLongerThanALease(t *testing.T) {
	for fails, methods := range map[string][]string{
		"all":    {"Load", "Lease", "Save", "Mark", "Release", "Put", "Delete", "Due"},
		"writes": {"Lease", "Save", "Mark", "Release", "Put", "Delete"},
		"Save":   {"Save"},
	} {
		for _, d := range []time.Duration{20 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute} {
			t.Run(fmt.Sprint(fails, " ", d), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					w.apple.latency = 2 * time.Second
					var fleet []*grants.Manager
					for range 3 {
						fleet = append(fleet, w.process())
					}
					names := w.expired(50)
					end := time.Now().Add(d + 2*time.Minute)
					var group sync.WaitGroup
					var reconnect atomic.Int32
					for i, name := range names {
						for j, m := range fleet {
							group.Go(func() {
								time.Sleep(time.Duration(i*3+j) * 7 * time.Millisecond)
								for time.Now().Before(end) {
									_, err := m.Token(t.Context(), name)
									if told(err) {
										reconnect.Add(1)
									}
									time.Sleep(time.Second)
								}
							})
						}
					}
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
					t.Logf("%d requests, %d refused", w.apple.requests(), w.apple.refused)
					assert.Zero(t, reconnect.Load(), "told to reconnect")
					assert.Zero(t, w.apple.refused)
					for _, m := range fleet {
						require.NoError(t, m.Close(t.Context()))
					}
					for _, name := range names {
						row := w.row(name)
						assert.Nil(t, row.Dead)
						assert.Equal(t, w.apple.refreshToken(name, w.apple.grants[name]), row.Token.RefreshToken, "nothing is lost")
					}
				})
			})
		}
	}
}

// A Save that fails alone does not hand the spent token to a sibling: the lease is renewed for as long as it takes.
func TestLeaseOfAnUnsavedToken(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m, sibling := w.process(), w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errDatabase, "Save")
		token(t, m, "a")
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
}

// A database that is set back to an older copy: whoever has seen the newer token stores it again, and no spent one is sent.
func TestLineageOfASibling(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.process(), w.process()
		w.connect("a", time.Minute)
		old := w.row("a")
		token(t, b, "a")
		time.Sleep(time.Minute)
		assert.Equal(t, "access-a-1", token(t, a, "a"))
		synctest.Wait()
		assert.Equal(t, "access-a-1", token(t, b, "a"), "b has only seen it")
		require.NoError(t, a.Close(t.Context()))
		restore(t, w, "a", old)
		time.Sleep(30 * time.Minute)
		token(t, b, "a") // what nobody uses for an hour is forgotten
		time.Sleep(30 * time.Minute)
		assert.Equal(t, "access-a-2", token(t, b, "a"))
		assert.Equal(t, []string{"refresh-a-0", "refresh-a-1"}, w.apple.sent)
		assert.Nil(t, w.row("a").Dead)
	})

	t.Run("a whole fleet", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.life = 60
			names := w.expired(100)
			var fleet []*grants.Manager
			for range 8 {
				fleet = append(fleet, w.process())
			}
			reconnect := 0
			use := func(d time.Duration) {
				calls, failed, told := w.use(fleet, names, time.Second, d)
				t.Logf("%d calls, %d failed, %d told", calls, failed, told)
				reconnect += told
			}
			use(3 * time.Minute)
			backup := make(map[string]grants.Record)
			for _, name := range names {
				backup[name] = w.row(name)
			}
			use(50 * time.Second)
			for _, name := range names {
				restore(t, w, name, backup[name])
			}
			use(3 * time.Minute)
			assert.Zero(t, reconnect)
			assert.Zero(t, w.apple.refused)
		})
	})

	t.Run("what RefreshDue has fetched", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			names := w.expired(20)
			backup := make(map[string]grants.Record)
			for _, name := range names {
				backup[name] = w.row(name)
			}
			require.NoError(t, m.RefreshDue(t.Context(), 0))
			time.Sleep(2 * time.Second)
			for i, name := range names {
				restore(t, w, name, backup[name])
				if i%2 == 0 { // and somebody else has been refused meanwhile
					require.NoError(t, w.store.Store.Mark(t.Context(), name, "", w.row(name).Version, grants.Mark{
						Dead: &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"}}))
				}
			}
			require.NoError(t, m.RefreshDue(t.Context(), 0))
			assert.Equal(t, 20, w.apple.requests())
			for _, name := range names {
				assert.Equal(t, "refresh-"+name+"-1", w.row(name).Token.RefreshToken)
				assert.Nil(t, w.row(name).Dead)
			}
		})
	})
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

// hostile is a driver's error that panics wherever one looks.
type hostile struct{ text string }

func (h *hostile) Error() string   { return h.text }
func (h *hostile) Unwrap() error   { panic(h.text) }
func (h *hostile) Is(error) bool   { panic(h.text) }
func (h *hostile) Timeout() bool   { panic(h.text) }
func (h *hostile) Temporary() bool { panic(h.text) }

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

// Put is how grants come in that were kept elsewhere.
func TestPut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-a-0"}))
		require.NoError(t, m.RefreshDue(t.Context(), 0))
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken, "without an Expiry it is due at once")
		assert.EqualError(t, m.Put(t.Context(), "", &oauth2.Token{RefreshToken: "refresh-a-0"}), "applebusiness/grants: a grant needs a name")

		err := m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-a-0"})
		assert.EqualError(t, err, "applebusiness/grants: the token was replaced by a newer one, and its refresh token is spent")
		assert.Equal(t, "refresh-a-1", w.row("a").Token.RefreshToken)
		require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh-b-0"}), "the customer has connected again")
		assert.Equal(t, "access-b-1", token(t, m, "a"))
	})
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

// A request whose process stood still is not over: the response that waits is read.
func TestStoppedProcess(t *testing.T) {
	// Nothing can stop a bubble's clock for one process only; internal/fleet does that with SIGSTOP. Here: a request has its
	// time, and no less.
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

// A panic of a Store or a client shows nothing of what it holds.
func TestSecretsInForeignText(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.apple.fail(func(r *http.Request) (*http.Response, error) {
			panic(fmt.Sprint("cannot send client_secret=the-client-secret&refresh_token=refresh-a-0"))
		})
		_, err := m.Token(t.Context(), "a")
		require.Error(t, err)
		time.Sleep(time.Minute)
		w.store.fail(fmt.Errorf("cannot store refresh-%s", "a-0 of cmVmcmVzaC1hLTA="), "Lease")
		_, err2 := m.Token(t.Context(), "a")
		require.Error(t, err2)
		for _, text := range []string{err.Error(), err2.Error(), fmt.Sprintf("%+v %#v", err, err2), w.logged(), fmt.Sprintf("%s %v %+v %#v %d", m, m, m, m, m)} {
			for _, secret := range []string{"the-client-secret", "refresh-a-0", "cmVmcmVz"} {
				assert.False(t, strings.Contains(text, secret), "%s in %.300s", secret, text)
			}
		}
	})
}
