package grants_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
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

// steady is a limit for a fleet: so many a second, burst 1.
type steady struct {
	perSec int
	mu     sync.Mutex
	next   time.Time
	asked  int
}

func (l *steady) Wait(ctx context.Context) error {
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	wait := l.next.Sub(now)
	l.next = l.next.Add(time.Second / time.Duration(l.perSec))
	l.asked++
	l.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fleet lets processes use grants for a while, each by a goroutine, and returns how many calls failed, and how many were
// told to reconnect.
func (w *world) use(fleet []*grants.Manager, names []string, every, duration time.Duration) (calls, failed, reconnect int) {
	var mu sync.Mutex
	var group sync.WaitGroup
	end := time.Now().Add(duration)
	for _, m := range fleet {
		for _, name := range names {
			group.Go(func() {
				for time.Now().Before(end) {
					_, err := m.Token(context.Background(), name)
					mu.Lock()
					calls++
					if err != nil {
						failed++
					}
					if told(err) {
						reconnect++
					}
					mu.Unlock()
					time.Sleep(every/2 + rand.N(every))
				}
			})
		}
	}
	group.Wait()
	return calls, failed, reconnect
}

// 500 grants expire at once, and Apple takes 2 s; 15 requests a second are allowed, so that 33 s is ideal.
func TestFleetOf500Grants(t *testing.T) {
	t.Parallel()
	n := 500 / slower
	bubble(t, func(t *testing.T, w *world) {
		w.apple.latency = 2 * time.Second
		pool := make([]chan struct{}, 8)
		shared := &steady{perSec: 15}
		var fleet []*grants.Manager
		for i := range 8 { // processes with a pool of 4 connections each, 2 ms for a statement
			pool[i] = make(chan struct{}, 4)
			store := &faultyStore{Store: w.store.Store}
			store.set(func(ctx context.Context, _, _ string) error {
				select {
				case pool[i] <- struct{}{}:
				case <-ctx.Done():
					return ctx.Err()
				}
				time.Sleep(2 * time.Millisecond)
				<-pool[i]
				return nil
			}, nil)
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: shared})
			fleet = append(fleet, m)
		}
		for i := range n {
			w.connect(fmt.Sprint(i), -time.Minute)
		}
		var group sync.WaitGroup
		start := time.Now()
		for _, m := range fleet {
			for i := range n {
				group.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					_, err := m.Token(ctx, fmt.Sprint(i))
					assert.NoError(t, err)
				})
			}
		}
		group.Wait()
		t.Logf("%d grants took %v, %d requests, %d permits", n, time.Since(start), w.apple.requests(), shared.asked)
		assert.Less(t, time.Since(start), time.Duration(n)*time.Second/15+6500*time.Millisecond)
		assert.Equal(t, n, w.apple.requests())
		for _, m := range fleet {
			require.NoError(t, m.Close(t.Context()))
		}
	})
}

// 2,000 grants expire, and Apple answers 429 to more than 15 requests a second.
func TestFleetOf2000GrantsUnderALimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ grants, processes int }{
		"one process with its own limit": {2000 / slower, 1},
		"four with a fleet's limit":      {600 / slower, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				w.apple.perSec = 16 // a window that is not aligned with ours
				w.apple.latency = 100 * time.Millisecond
				shared := &steady{perSec: 15}
				var fleet []*grants.Manager
				for range test.processes {
					fleet = append(fleet, w.process(func(o *grants.Options) {
						o.Limit = nil
						if test.processes > 1 {
							o.Limit = shared
						}
					}))
				}
				for i := range test.grants {
					w.connect(fmt.Sprint(i), -time.Minute)
				}
				var group sync.WaitGroup
				start := time.Now()
				for _, m := range fleet {
					for i := range test.grants {
						group.Go(func() { token(t, m, fmt.Sprint(i)) })
					}
				}
				group.Wait()
				t.Logf("%d grants took %v, %d requests", test.grants, time.Since(start), w.apple.requests())
				assert.LessOrEqual(t, w.apple.requests(), test.grants*11/10)
				assert.Less(t, time.Since(start), time.Duration(test.grants)*time.Second/15*11/10)
			})
		})
	}
}

// troubles of a database, as a pooler, a restart and terminated connections make them.
var troubles = map[string]func(w *world){
	"statements fail before they take effect": func(w *world) {
		w.store.set(func(context.Context, string, string) error {
			if rand.N(5) == 0 {
				return errDatabase
			}
			return nil
		}, nil)
	},
	"statements fail after they took effect": func(w *world) {
		w.store.set(nil, func(string, string) error {
			if rand.N(5) == 0 {
				return errDatabase
			}
			return nil
		})
	},
	"connections are terminated": func(w *world) {
		w.store.set(func(ctx context.Context, _, _ string) error {
			time.Sleep(rand.N(20 * time.Millisecond))
			if rand.N(10) == 0 {
				return errors.New("FATAL: terminating connection due to administrator command (SQLSTATE 57P01)")
			}
			return nil
		}, func(string, string) error {
			if rand.N(10) == 0 {
				return errors.New("unexpected EOF")
			}
			return nil
		})
	},
	"restarts": func(w *world) {
		start := time.Now()
		w.store.set(func(context.Context, string, string) error {
			if time.Since(start)%(20*time.Second) < 5*time.Second {
				return errDatabase
			}
			return nil
		}, nil)
	},
	"refuses to write": func(w *world) {
		start := time.Now()
		w.store.set(func(_ context.Context, method, _ string) error {
			if method != "Load" && time.Since(start)%(20*time.Second) < 4500*time.Millisecond {
				return errors.New("could not extend file: No space left on device (SQLSTATE 53100)")
			}
			return nil
		}, nil)
	},
	"hangs now and then": func(w *world) {
		w.store.set(func(ctx context.Context, _, _ string) error {
			if rand.N(50) == 0 {
				return hangStore(ctx, "", "")
			}
			return nil
		}, nil)
	},
}

// A database whose statements fail at random, before or after they have taken effect.
func TestFleetWithATroubledDatabase(t *testing.T) {
	t.Parallel()
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				w.apple.life = 30
				w.apple.latency = 200 * time.Millisecond
				var names []string
				for i := range 20 {
					names = append(names, fmt.Sprint(i))
					w.connect(names[i], -time.Minute)
				}
				var fleet []*grants.Manager
				for range 4 {
					fleet = append(fleet, w.process())
				}
				trouble(w)
				calls, failed, reconnect := w.use(fleet, names, 500*time.Millisecond, 3*time.Minute)
				t.Logf("%d calls, %d failed, %d requests, %d refused", calls, failed, w.apple.requests(), w.apple.refused)
				assert.Zero(t, reconnect)
				assert.Zero(t, w.apple.refused)
				w.store.fail(nil)
				w.assertNothingLost(t, fleet, names)
			})
		})
	}
}

// Many real goroutines, for the race detector.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apple.life = 1
	var fleet []*grants.Manager
	for range 3 {
		fleet = append(fleet, w.process())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var group sync.WaitGroup
	var tokens atomic.Int64
	for i := range 40 {
		m := fleet[i%len(fleet)]
		group.Go(func() {
			for ctx.Err() == nil {
				name := fmt.Sprint(rand.N(5))
				switch rand.N(20) {
				case 0:
					_ = m.Put(ctx, name, &oauth2.Token{AccessToken: "x", RefreshToken: fmt.Sprintf("refresh-%d-0", rand.Uint64()), Expiry: time.Now().Add(rand.N(2 * time.Second))})
				case 1:
					_ = m.Delete(ctx, name)
				case 2:
					_ = m.RefreshDue(ctx, time.Second)
				default:
					if token, err := m.Token(ctx, name); err == nil {
						tokens.Add(1)
						if rand.N(10) == 0 {
							m.Invalidate(name, token)
						}
						token.AccessToken = "changed"
					}
				}
				time.Sleep(rand.N(3 * time.Millisecond))
			}
		})
	}
	group.Wait()
	for i := range 5 { // or Close would wait for a minute, in which a grant that was deleted might come back
		require.NoError(t, w.store.Store.Put(t.Context(), fmt.Sprint(i), &oauth2.Token{RefreshToken: fmt.Sprintf("refresh-x%d-0", i)}))
	}
	for _, m := range fleet {
		require.NoError(t, m.Close(t.Context()))
	}
	assert.Positive(t, tokens.Load())
	assert.Zero(t, w.apple.refused)
}

// A database that is set back to an older copy: whoever has seen the newer token stores it again, and no spent one is sent.
func TestLineageOfASibling(t *testing.T) {
	t.Parallel()
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
			names := w.expired(100 / slower)
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
			time.Sleep(3 * time.Hour) // "within ten minutes" is not the age of the process
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
