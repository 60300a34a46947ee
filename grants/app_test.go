package grants_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

const (
	wrongSecret = `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`
	refusal     = `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`
)

// always answers each request so, until it is nil again.
func (a *apple) always(f func(*http.Request) (*http.Response, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.every = f
}

// call lets 20 callers ask for random grants for a while, and returns what they got.
func (w *world) callers(m *grants.Manager, names []string, d time.Duration) (failed map[string]int) {
	failed = make(map[string]int)
	var mu sync.Mutex
	var group sync.WaitGroup
	end := time.Now().Add(d)
	for range 20 / slower {
		group.Go(func() {
			for time.Now().Before(end) {
				_, err := m.Token(context.Background(), names[rand.N(len(names))])
				mu.Lock()
				failed[(grants.Refresh{Sent: true, Err: err}).Label()]++
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	group.Wait()
	return failed
}

func (w *world) expired(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprint("g", i))
		w.connect(names[i], -time.Minute)
	}
	return names
}

const noSecret = `{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: client_secret missing"}`

// What hits all grants costs a few requests, whatever the number of grants and callers.
func TestTroubleOfAll(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(*http.Request) (*http.Response, error)
		label  string
		atMost [2]int // requests: without a limit, and with the default one
	}{
		"a wrong client secret":    {status(401, wrongSecret), "invalid_credentials", [2]int{60, 20}},
		"no client secret":         {status(400, noSecret), "missing_parameter", [2]int{60, 20}},
		"503":                      {status(503, ""), "unavailable", [2]int{60, 20}},
		"503 with Retry-After: 30": {status(503, "", "Retry-After", "30"), "unavailable", [2]int{60, 20}},
		"a proxy's 403":            {status(403, "<html>no</html>"), "malformed_response", [2]int{60, 20}},
		"an unknown 4xx":           {status(401, `{"error":"unauthorized_thing"}`), "undocumented", [2]int{60, 20}},
		"dropped connections":      {broken(io.ErrUnexpectedEOF), "no_response", [2]int{60, 20}},
		"a wrong URL":              {status(404, `{"error":"404 Not Found","error_description":"invalid_request"}`), "endpoint_not_found", [2]int{60, 20}},
	} {
		for i, limited := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", limited: ", limited), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, w *world) {
					m := w.process(func(o *grants.Options) {
						if limited {
							o.Limit = nil
						}
					})
					time.Sleep(time.Hour) // an instant is no wait
					w.apple.latency = 100 * time.Millisecond
					w.apple.always(test.answer)
					w.connect("valid", time.Hour)
					names := w.expired(300)
					failed := w.callers(m, names, 8*time.Second)
					t.Logf("%d requests, %v", w.apple.requests(), failed)
					assert.LessOrEqual(t, w.apple.requests(), test.atMost[i])
					assert.Greater(t, failed[test.label], 1000)
					assert.Zero(t, failed["ok"])
					_, err := m.Token(t.Context(), names[0])
					e, ok := errors.AsType[*applebusiness.Error](err)
					require.True(t, ok, "%v", err)
					assert.Positive(t, e.RetryAfter)
					assert.LessOrEqual(t, e.RetryAfter, 30*time.Second)
					assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
					assert.Equal(t, "access-valid-0", token(t, m, "valid"), "valid tokens are handed out as ever")
					logged := w.logged()
					assert.Equal(t, 1, strings.Count(logged, "are held back"), "told once")
					assert.Contains(t, logged, "next_try_in=")

					w.apple.always(nil)
					time.Sleep(time.Minute)
					w.callers(m, names, time.Second)
					time.Sleep(time.Minute)
					ok2 := w.callers(m, names, 8*time.Second)
					assert.Len(t, ok2, 1, "%v", ok2)
					assert.Contains(t, w.logged(), "are no longer held back")
					synctest.Wait()
					for _, name := range names {
						require.Nil(t, w.row(name).Dead)
					}
					assert.Zero(t, w.apple.refused)
				})
			})
		}
	}
}

// None is sent before the Retry-After has passed, whatever the grant.
func TestRetryAfterHoldsAll(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.apple.always(status(503, "", "Retry-After", "30"))
		names := w.expired(100)
		w.callers(m, names, time.Second)
		sent := w.apple.requests()
		w.callers(m, names, 28*time.Second)
		assert.Equal(t, sent, w.apple.requests())
		w.apple.always(nil)
		time.Sleep(3 * time.Second)
		assert.Less(t, w.callers(m, names, time.Second)["unavailable"], 100, "while the probe is under way")
	})
}

// A Retry-After that comes while the app is held, for a request that was sent before, is kept, too.
func TestRetryAfterOfWhatWasSentBefore(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		names := w.expired(3)
		later := status(503, "", "Retry-After", "60")
		w.apple.fail(func(r *http.Request) (*http.Response, error) { time.Sleep(2 * time.Second); return later(r) }, status(401, wrongSecret))
		var first sync.WaitGroup
		first.Go(func() { failure(t, m, names[0]) })
		time.Sleep(time.Second / 2)
		failure(t, m, names[1])
		first.Wait()
		time.Sleep(50 * time.Second)
		assert.LessOrEqual(t, failure(t, m, names[2]).RetryAfter, 10*time.Second)
		assert.Equal(t, 2, w.apple.requests())
	})
}

// A probe whose outcome says nothing of the app is followed by another one at once, also if its lease cannot be ended.
func TestProbeBesideALeaseThatCannotBeEnded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		names := w.expired(3)
		w.apple.fail(status(401, wrongSecret), status(400, `{"error":"invalid_request","error_description":"new words"}`))
		failure(t, m, names[0])
		time.Sleep(2 * time.Second)
		w.store.fail(errDatabase, "Release")
		failure(t, m, names[1])
		assert.Equal(t, "access-g2-1", token(t, m, names[2]))
	})
}

// It takes three failures in a row, with no success in between, to hold the app.
func TestFewFailuresHoldNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		names := w.expired(10)
		refused := func(names ...string) {
			for _, name := range names {
				w.apple.fail(status(403, "<html>no</html>"))
				failure(t, m, name)
			}
		}
		refused(names[0:2]...)
		token(t, m, names[2])
		refused(names[3:5]...)
		token(t, m, names[5])
		assert.Empty(t, w.logged())
		refused(names[6:9]...)
		sent := w.apple.requests()
		failure(t, m, names[9])
		assert.Equal(t, sent, w.apple.requests(), "the app is held")
	})
}

// A row whose refresh token was damaged is no request, and nothing of the app's or of its customer's.
func TestDamagedRefreshToken(t *testing.T) {
	for _, damaged := range []string{"refresh-a-0\n", "refresh-a-0 ", "\u00e9", "\xff"} {
		bubble(t, func(t *testing.T, w *world) {
			w.connect("a", -time.Minute)
			w.connect("b", -time.Minute)
			m := grants.New(testConfig, &damagedStore{w.store, damaged}, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Logger: slog.New(slog.NewTextHandler(w, nil))})
			defer m.Close(t.Context())
			assert.Equal(t, applebusiness.ErrNoRefreshToken, failure(t, m, "a").Reason)
			assert.Equal(t, "access-b-1", token(t, m, "b"))
			assert.Empty(t, w.logged())
			assert.Nil(t, w.row("a").Dead)
		})
	}
}

// damagedStore returns another refresh token of the grant "a" than was put.
type damagedStore struct {
	grants.Store
	refreshToken string
}

func (s *damagedStore) Load(ctx context.Context, grant string) (grants.Record, error) {
	record, err := s.Store.Load(ctx, grant)
	if err == nil && grant == "a" {
		record.Token.RefreshToken = s.refreshToken
	}
	return record, err
}

func (s *damagedStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	record, err := s.Store.Lease(ctx, grant, holder, d)
	if err == nil && grant == "a" {
		record.Token.RefreshToken = s.refreshToken
	}
	return record, err
}

// One grant that fails alone holds up nobody, and is asked about ever more rarely.
func TestTroubleOfOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		names := w.expired(50)
		w.apple.before = func(*http.Request) {}
		w.apple.always(func(r *http.Request) (*http.Response, error) {
			if w.apple.lastLocked() == "refresh-g0-0" {
				return response(401, `{"error":"unauthorized"}`), nil
			}
			return nil, nil
		})
		for range 600 { // ten minutes
			_, _ = m.Token(t.Context(), "g0")
			time.Sleep(time.Second)
		}
		sent := w.apple.requests()
		assert.InDelta(t, 10, sent, 2, "1 s, 2 s, … 5 min")
		for _, name := range names[1:] {
			assert.Equal(t, "access-"+name+"-1", token(t, m, name))
		}
		assert.Empty(t, w.logged())
	})
}

// A response may ask to be left alone at any status, about one grant, too.
func TestRetryAfterHoldsOne(t *testing.T) {
	for _, answer := range []func(*http.Request) (*http.Response, error){
		status(403, "<html>", "Retry-After", "60"), status(400, `{"error":"invalid_scope"}`, "Retry-After", "60"), status(204, "", "Retry-After", "60"),
		status(302, "", "Location", "https://portal.example/", "Retry-After", "60"), status(501, "", "Retry-After", "60"),
	} {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.apple.fail(answer)
			for start := time.Now(); time.Since(start) < 50*time.Second; time.Sleep(time.Second) {
				assert.InDelta(t, (time.Minute - time.Since(start)).Seconds(), failure(t, m, "a").RetryAfter.Seconds(), 1)
			}
			assert.Equal(t, 1, w.apple.requests())
			time.Sleep(11 * time.Second)
			assert.Equal(t, "access-a-1", token(t, m, "a"))
		})
	}
}

// A deployment with another environment's credentials and URL: each refresh token is refused, and nobody has revoked.
func TestManyRefusals(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		names := w.expired(200)
		w.apple.latency = 50 * time.Millisecond
		wrong := w.process()
		time.Sleep(time.Hour) // an instant is no wait
		w.apple.always(status(401, refusal))
		failed := w.callers(wrong, names, 10*time.Second)
		t.Logf("%d requests, %v", w.apple.requests(), failed)
		assert.LessOrEqual(t, w.apple.requests(), 60)
		assert.Zero(t, failed["invalid_refresh_token"], "nobody is told to reconnect")
		_, err := wrong.Token(t.Context(), names[3])
		e, ok := errors.AsType[*applebusiness.Error](err)
		require.True(t, ok)
		assert.Equal(t, applebusiness.ErrManyRefusals, e.Reason)
		assert.Positive(t, e.RetryAfter)
		assert.LessOrEqual(t, e.RetryAfter, 30*time.Second)
		assert.Equal(t, applebusiness.ActionFixRegistration, applebusiness.Troubleshoot(err).Action)
		assert.Equal(t, applebusiness.ImpactApp, applebusiness.Troubleshoot(err).Impact)
		synctest.Wait()
		for _, name := range names {
			require.Equal(t, grants.Mark{}, w.row(name).Mark, "%s", name)
		}
		log := w.logged()
		assert.Equal(t, 1, strings.Count(log, "many refresh tokens are refused"), log)

		require.NoError(t, wrong.Close(t.Context()))
		w.apple.always(nil) // the rollback
		right := w.process()
		for _, name := range names {
			assert.Equal(t, "access-"+name+"-1", token(t, right, name))
		}
	})

	t.Run("how it ends", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			names := w.expired(100)
			m := w.process()
			w.apple.always(status(401, refusal))
			w.callers(m, names, 10*time.Second)
			w.apple.always(nil) // Apple's fault, for a while
			time.Sleep(31 * time.Second)
			w.callers(m, names, time.Second)
			ok := w.callers(m, names, 2*time.Minute)
			t.Log(ok)
			assert.Less(t, ok["many_refusals"]+ok["held"], 500)
			assert.Contains(t, w.logged(), "are believed one by one again")
			for _, name := range names {
				assert.Equal(t, "access-"+name+"-1", token(t, m, name))
			}
			w.apple.revoke("g5")
			time.Sleep(time.Hour)
			assert.Equal(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, "g5").Reason, "believed again")
		})
	})

	t.Run("verdicts of this process are taken back, also if the Store fails then", func(t *testing.T) { bubble(t, verdictsTakenBack) })

	t.Run("customers who revoke are told at once", func(t *testing.T) { bubble(t, someRevoke) })

	t.Run("and wait for nobody once a refresh has succeeded", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			names := w.expired(3)
			token(t, m, names[0])
			w.store.set(func(ctx context.Context, method, grant string) error {
				if method == "Lease" && grant == names[1] {
					return hangStore(ctx, method, grant)
				}
				return nil
			}, nil)
			var group sync.WaitGroup
			group.Go(func() { _, _ = m.Token(t.Context(), names[1]) })
			time.Sleep(time.Second)
			w.apple.revoke(names[2])
			start := time.Now()
			assert.Equal(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, names[2]).Reason)
			assert.Zero(t, time.Since(start))
			group.Wait()
		})
	})

	t.Run("half of them are enough", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			time.Sleep(time.Hour)
			for i, name := range w.expired(6) {
				if i < 3 {
					token(t, m, name)
					continue
				}
				w.apple.revoke(name)
				want := applebusiness.ErrInvalidRefreshToken
				if i == 5 {
					want = applebusiness.ErrManyRefusals
				}
				e := failure(t, m, name)
				assert.Equal(t, want, e.Reason)
				assert.LessOrEqual(t, e.RetryAfter, 30*time.Second)
			}
		})
	})

	t.Run("one process, one grant", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", -time.Minute)
			w.apple.revoke("a")
			start := time.Now()
			assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(failure(t, m, "a")).Action)
			assert.Zero(t, time.Since(start))
			assert.NotNil(t, w.row("a").Dead)
		})
	})

	t.Run("what is refused for 24 hours is believed", func(t *testing.T) { bubble(t, refusedForADay) })
}

// The verdicts of this process are taken back, also if the Store fails then.
func verdictsTakenBack(t *testing.T, w *world) {
	w.expired(3)
	m := w.process()
	w.apple.always(status(401, refusal))
	for i := range 2 {
		assert.Equal(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, fmt.Sprint("g", i)).Reason)
	}
	require.NotNil(t, w.row("g0").Dead)
	w.store.fail(errDatabase, "Mark")
	assert.Equal(t, applebusiness.ErrManyRefusals, failure(t, m, "g2").Reason)
	assert.NotEqual(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, "g0").Reason)
	time.Sleep(time.Minute)
	w.store.fail(nil)
	time.Sleep(time.Minute)
	for i := range 3 {
		assert.Nil(t, w.row(fmt.Sprint("g", i)).Dead)
	}
	w.apple.always(nil)
	for i := range 3 {
		time.Sleep(6 * time.Minute)
		assert.Equal(t, fmt.Sprintf("access-g%d-1", i), token(t, m, fmt.Sprint("g", i)))
	}
}

// What is refused for 24 hours is believed.
func refusedForADay(t *testing.T, w *world) {
	m := w.process()
	time.Sleep(3 * time.Hour)
	names := w.expired(4)
	for _, name := range names {
		w.apple.revoke(name)
	}
	start := time.Now()
	after := make(map[string]time.Duration) // they are told
	failure(t, m, names[0])
	failure(t, m, names[1])
	for time.Since(start) < 26*time.Hour {
		for _, name := range names {
			_, err := m.Token(t.Context(), name)
			if told(err) && after[name] == 0 {
				after[name] = time.Since(start)
			}
		}
		time.Sleep(time.Duration(7*slower) * time.Second)
	}
	t.Log(after)
	for _, name := range names[2:] {
		assert.InDelta(t, 24, after[name].Hours(), 0.5)
		assert.NotNil(t, w.row(name).Dead)
	}
	assert.Less(t, w.apple.requests(), 2*26*60*60/30, "a probe each 30 s at most")
}

// Customers who revoke are told at once.
func someRevoke(t *testing.T, w *world) {
	m := w.process()
	for i := range 40 {
		name := fmt.Sprint("g", i)
		w.connect(name, -time.Minute)
		if i%4 != 0 {
			token(t, m, name)
			continue
		}
		w.apple.revoke(name)
		start := time.Now()
		e := failure(t, m, name)
		if i <= 4 || i > 12 { // the first two, and those among enough others
			assert.Equal(t, applebusiness.ErrInvalidRefreshToken, e.Reason, i)
			assert.Zero(t, time.Since(start))
		}
	}
	assert.Empty(t, w.logged())
}

// The first refusal of a process waits for no attempt that has failed otherwise, and only ends its lease.
func TestRefusalBesideALeaseThatCannotBeEnded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		names := w.expired(2)
		w.store.set(func(ctx context.Context, method, grant string) error {
			if method == "Release" {
				return hangStore(ctx, method, grant)
			}
			return nil
		}, nil)
		w.apple.fail(status(400, `{"error":"invalid_request","error_description":"new words"}`), status(401, refusal))
		failure(t, m, names[0])
		start := time.Now()
		assert.Equal(t, applebusiness.ErrInvalidRefreshToken, failure(t, m, names[1]).Reason)
		assert.Zero(t, time.Since(start))
	})
}

// pausing is a Limit of a fleet.
type pausing struct {
	limit
	mu     sync.Mutex
	pauses []time.Duration
}

func (p *pausing) Pause(_ context.Context, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pauses = append(p.pauses, d)
	return nil
}

// An API that answers 401 to every token of every grant costs a few rotations.
func TestAPIRefusesAll(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		time.Sleep(time.Hour)
		var names []string
		for i := range 300 {
			names = append(names, fmt.Sprint("g", i))
			w.connect(names[i], 2*time.Hour)
		}
		start := time.Now()
		for time.Since(start) < 10*time.Minute {
			for _, name := range names {
				got, err := m.Token(t.Context(), name)
				require.NoError(t, err)
				m.Invalidate(name, got)
				got, err = m.Token(t.Context(), name) // as Client does
				require.NoError(t, err)
				m.Invalidate(name, got)
			}
			time.Sleep(10 * time.Second)
		}
		t.Logf("%d rotations", w.apple.requests())
		assert.LessOrEqual(t, w.apple.requests(), 10)
		assert.Equal(t, 1, strings.Count(w.logged(), "the API refuses tokens"))
	})
}

// Programs that have a client of their own tell of refused tokens alone: an API that has refused all of them for a while is
// seen to take them again when it does not refuse what came of a probe.
func TestAPITakesTokensAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apple.life = 24 * 60 * 60
		m, names := w.process(), w.expired(10)
		use := func(name string, refused bool) {
			got, err := m.Token(t.Context(), name)
			require.NoError(t, err)
			if refused {
				m.Invalidate(name, got)
			}
		}
		for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Second) {
			for _, name := range names {
				use(name, true)
			}
		}
		require.Equal(t, 1, strings.Count(w.logged(), "the API refuses tokens"))
		require.NotContains(t, w.logged(), "the API takes tokens again")
		for i := range 3 { // customers whose one token is refused, a while later
			time.Sleep(20 * time.Minute)
			before := w.apple.requests()
			use(names[i], true)
			use(names[i], false)
			assert.Equal(t, before+1, w.apple.requests())
		}
		assert.Equal(t, 1, strings.Count(w.logged(), "the API takes tokens again"))
		before := w.apple.requests()
		for _, name := range names {
			use(name, true)
			use(name, false)
		}
		assert.GreaterOrEqual(t, w.apple.requests(), before+7, "all but those that were replaced a moment ago")
	})
}

// An API that refuses half of the grants opens and shuts its gate again and again.
func TestAPIRefusesHalf(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.apple.api = func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/refused") {
				return response(401, ""), nil
			}
			return response(200, "{}"), nil
		}
		m := w.process()
		names := w.expired(40)
		for range 600 {
			for i, name := range names {
				response, err := m.Client(name).Get(apiURL + []string{"", "/refused"}[i/20])
				require.NoError(t, err)
				response.Body.Close()
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		assert.LessOrEqual(t, strings.Count(w.logged(), "\n"), 20, "twice a minute")
	})
}

// It takes three grants within ten minutes.
func TestAPIRefusesSeveral(t *testing.T) {
	for pause, held := range map[time.Duration]int{0: 1, 6 * time.Minute: 0} {
		t.Run(fmt.Sprint("three grants, ", pause, " apart"), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				for _, name := range w.expired(3) {
					for range 2 {
						got, err := m.Token(t.Context(), name)
						require.NoError(t, err)
						m.Invalidate(name, got)
					}
					time.Sleep(pause)
				}
				synctest.Wait()
				assert.Equal(t, held, strings.Count(w.logged(), "the API refuses tokens"))
			})
		})
	}
}

// Close waits until the verdicts that nobody believes any more are taken back.
func TestVerdictsAreTakenBackBeforeClose(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.expired(3)
		m := w.process()
		w.apple.always(status(401, refusal))
		failure(t, m, names[0])
		failure(t, m, names[1])
		w.store.fail(errDatabase, "Mark")
		failure(t, m, names[2])
		time.AfterFunc(20*time.Second, func() { w.store.fail(nil) })
		require.NoError(t, m.Close(t.Context()))
		for _, name := range names {
			assert.Nil(t, w.row(name).Dead, name)
		}
	})
}

// Verdicts whose Mark failed are not recorded any more once many are refused, and are taken back if the Mark took effect.
func TestVerdictsThatCouldNotBeRecorded(t *testing.T) {
	for name, after := range map[string]bool{"Mark fails": false, "Mark fails after it took effect": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) { unrecorded(t, w, after) })
		})
	}
}

// unrecorded fails to mark verdicts, after they took effect or before.
func unrecorded(t *testing.T, w *world, after bool) {
	names := w.expired(6)
	m := w.process()
	w.apple.always(status(401, refusal))
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
	for _, name := range names {
		_, err := m.Token(t.Context(), name)
		assert.False(t, told(err))
	}
	w.store.fail(nil)
	time.Sleep(time.Minute)
	for _, name := range names {
		assert.Nil(t, w.row(name).Dead, name)
	}
	w.store.set(nil, func(method, name string) error {
		assert.False(t, method == "Mark" && w.row(name).Dead != nil, name)
		return nil
	})
	ask := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
			for _, name := range names {
				_, err := m.Token(t.Context(), name)
				assert.False(t, told(err), name)
			}
		}
	}
	ask(time.Minute)
	w.apple.always(nil)
	ask(10 * time.Minute)
	for _, name := range names {
		assert.Equal(t, "access-"+name+"-1", token(t, m, name))
	}
}

// A restored backup, whose newer tokens nobody has any more, refuses many; when the right copy is back, all work.
func TestManyRefusalsAfterARestore(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.apple.latency = 200 * time.Millisecond
		names := w.expired(50)
		backup := make(map[string]grants.Record)
		for _, name := range names {
			backup[name] = w.row(name)
		}
		old := w.process()
		w.callers(old, names, 5*time.Second)
		require.NoError(t, old.Close(t.Context()))
		right := make(map[string]grants.Record)
		for _, name := range names {
			right[name] = w.row(name)
			restore(t, w, name, backup[name])
		}
		fleet := []*grants.Manager{w.process(), w.process(), w.process()}
		_, _, reconnect := w.use(fleet, names, time.Second, 3*time.Minute)
		assert.Zero(t, reconnect)
		synctest.Wait()
		for _, name := range names {
			assert.Nil(t, w.row(name).Dead, name)
			restore(t, w, name, right[name])
		}
		_, _, reconnect = w.use(fleet, names, time.Second, 10*time.Minute)
		assert.Zero(t, reconnect)
		_, failed, _ := w.use(fleet, names, time.Second, time.Minute)
		assert.Zero(t, failed)
	})

	t.Run("while a process lives that has the newer tokens", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.life, w.apple.latency = 60, 200*time.Millisecond
			names := w.expired(50)
			old := w.process()
			w.use([]*grants.Manager{old}, names, time.Second, 3*time.Minute)
			backup := make(map[string]grants.Record)
			for _, name := range names {
				backup[name] = w.row(name)
			}
			w.use([]*grants.Manager{old}, names, time.Second, 50*time.Second)
			for _, name := range names {
				restore(t, w, name, backup[name])
			}
			_, _, reconnect := w.use([]*grants.Manager{w.process(), old, w.process()}, names, time.Second, 3*time.Minute)
			assert.Zero(t, reconnect)
			synctest.Wait()
			for _, name := range names {
				assert.Nil(t, w.row(name).Dead, name)
				assert.Equal(t, w.apple.refreshToken(name, w.apple.grants[name]), w.row(name).Token.RefreshToken, name)
			}
		})
	})
}

// A process that was deployed wrong and is closed at once records no verdict that the others would have thrown doubt on.
func TestCloseWaitsForEvidence(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.expired(3)
		m := w.process()
		w.store.set(nil, func(method, name string) error {
			assert.False(t, method == "Mark" && w.row(name).Dead != nil, name)
			return nil
		})
		w.apple.always(status(401, refusal))
		w.apple.latency = time.Second
		var group sync.WaitGroup
		for _, name := range names {
			group.Go(func() { _, err := m.Token(t.Context(), name); assert.False(t, told(err)) })
			time.Sleep(200 * time.Millisecond)
		}
		require.NoError(t, m.Close(t.Context()))
		group.Wait()
	})
}
