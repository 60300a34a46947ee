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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// storm is a fleet that meets one trouble after the other, each of all grants at once, and two at a time: Apple's, the
// database's, the vault's. No response is lost and no process is killed, so that nothing may be lost at all.
type storm struct {
	*world
	names []string
	end   time.Time

	mu       sync.Mutex
	fleet    []*grants.Manager
	apples   string // what is wrong with Apple
	database string
	broken   int // the process whose database alone is troubled; -1: all
	secret   string
	vault    string
	until    time.Time            // the fleet's pause
	connects map[string]time.Time // when the customer connects again; zero: is about to
	givenUp  map[string]bool
	revoked  map[string]bool
	told     int
}

func (s *storm) get(f *string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *f
}

// Wait and Pause are the fleet's Limit.
func (s *storm) Wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		wait := time.Until(s.until)
		if wait <= 0 {
			s.until = time.Now().Add(time.Second / 30)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *storm) Pause(_ context.Context, d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until := time.Now().Add(d); until.After(s.until) {
		s.until = until
	}
	return nil
}

func (s *storm) start(i int) *grants.Manager {
	store := &faultyStore{Store: s.store.Store}
	trouble := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.broken >= 0 && s.broken != i {
			return ""
		}
		return s.database
	}
	store.set(func(ctx context.Context, method, _ string) error {
		time.Sleep(rand.N(5 * time.Millisecond))
		mode := trouble()
		if strings.Contains(mode, method) || mode == "all" || mode == "some" && rand.N(4) == 0 {
			if strings.HasPrefix(mode, "hang") {
				return hangStore(ctx, "", "")
			}
			return errDatabase
		}
		return nil
	}, func(method, _ string) error {
		if mode := trouble(); mode == "after" && rand.N(3) == 0 || mode == "after "+method {
			return errDatabase
		}
		return nil
	})
	return grants.New(testConfig, store, &grants.Options{
		HTTPClient: &http.Client{Transport: s, Timeout: 30 * time.Second}, Limit: s, Logger: slog.New(slog.NewTextHandler(s.world, nil)),
		ClientSecret: func(ctx context.Context) (string, error) {
			time.Sleep(rand.N(2 * time.Second))
			if rand.N(10) == 0 {
				return "", errors.New("the vault is sealed")
			}
			return s.get(&s.vault), nil
		},
	})
}

func (s *storm) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	time.Sleep(rand.N(500 * time.Millisecond))
	if !strings.Contains(string(body), `"client_secret":"`+s.get(&s.secret)+`"`) {
		return response(401, wrongSecret), nil
	}
	switch mode := s.get(&s.apples); {
	case mode == "503":
		return response(503, ""), nil
	case mode == "503 long":
		return response(503, "", "Retry-After", "20"), nil
	case mode == "429" && rand.N(2) == 0:
		return response(429, "", "Retry-After", fmt.Sprint(rand.N(10))), nil
	case mode == "403":
		return response(403, "<html>proxy</html>"), nil
	case mode == "dropped":
		return nil, io.ErrUnexpectedEOF
	case mode == "400" && rand.N(2) == 0:
		return response(400, `{"error":"something_else"}`), nil
	}
	defer func() { time.Sleep(rand.N(time.Second)) }()
	return s.apple.RoundTrip(r)
}

// mayBeTold reports whether a customer may be told to reconnect; mu is held.
func (s *storm) mayBeTold(name string, started time.Time) bool {
	at, connects := s.connects[name]
	return s.revoked[name] || s.givenUp[name] || connects && started.Before(at.Add(2*time.Second)) || connects && at.IsZero()
}

func (s *storm) call() {
	s.mu.Lock()
	name, p := s.names[rand.N(len(s.names))], s.fleet[rand.N(len(s.fleet))]
	before := s.mayBeTold(name, time.Now())
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	start := time.Now()
	token, err := p.Token(ctx, name)
	assert.LessOrEqual(s.t, time.Since(start), 5*time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case told(err):
		s.told++
		e, _ := errors.AsType[*applebusiness.Error](err)
		assert.True(s.t, before || s.mayBeTold(name, start), "%s was told to reconnect by %p: %+v", name, p, e)
	case err == nil && rand.N(100) == 0 && !before:
		p.Invalidate(name, token)
	}
}

// replace ends a process at any moment. One that gives up is closed again.
func (s *storm) replace() {
	i := rand.N(len(s.fleet))
	s.mu.Lock()
	old := s.fleet[i]
	s.fleet[i] = s.start(i)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if rand.N(3) == 0 {
		short, cancel := context.WithTimeout(ctx, rand.N(5*time.Second))
		defer cancel()
		_ = old.Close(short)
	}
	err := old.Close(ctx)
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range list.Unwrap() {
			s.mu.Lock()
			s.givenUp[err.(*grants.StoreError).Grant] = true
			s.mu.Unlock()
		}
	} else {
		assert.NoError(s.t, err)
	}
}

// reconnect lets a customer connect again, who was deleted before perhaps.
func (s *storm) reconnect() {
	name := s.names[rand.N(len(s.names))]
	s.mu.Lock()
	s.connects[name] = time.Time{}
	p := s.fleet[rand.N(len(s.fleet))]
	s.mu.Unlock()
	time.Sleep(7 * time.Second) // whoever was about to invalidate has done so
	if rand.N(2) == 0 {
		_ = p.Delete(context.Background(), name)
	}
	s.apple.mu.Lock()
	s.apple.grants[name]++
	if s.apple.keep {
		s.apple.grants[name]--
	}
	delete(s.apple.revoked, name)
	s.mu.Lock()
	delete(s.revoked, name)
	s.mu.Unlock()
	newest := s.apple.refreshToken(name, s.apple.grants[name])
	token := &oauth2.Token{AccessToken: fmt.Sprintf("put-%s-%d", newest, rand.Int()), RefreshToken: newest, Expiry: time.Now().Add(time.Hour)}
	s.apple.mu.Unlock()
	for {
		s.mu.Lock()
		p := s.fleet[rand.N(len(s.fleet))]
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := p.Put(ctx, name, token)
		cancel()
		if err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.givenUp, name)
	s.connects[name] = time.Now()
}

func pick(of ...string) string { return of[rand.N(len(of))] }

func TestAnyTroubleOfAll(t *testing.T) {
	t.Parallel()
	for round := range 1 + 4/slower {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				w.apple.life, w.apple.keep = 30+rand.N(60), rand.N(4) == 0
				w.apple.grants = make(map[string]int)
				s := &storm{world: w, end: time.Now().Add(15 * time.Minute), secret: "s0", vault: "s0", broken: -1,
					connects: make(map[string]time.Time), givenUp: make(map[string]bool), revoked: make(map[string]bool)}
				s.names = w.expired(16)
				for i := range 4 {
					s.fleet = append(s.fleet, s.start(i))
				}
				s.rage()
				time.Sleep(2 * time.Minute)
				for _, p := range s.fleet {
					require.NoError(t, p.Close(t.Context()))
				}
				s.assertNothingLost()
				t.Logf("keep %v: %d requests, %d refused, %d given up, %d told", w.apple.keep, w.apple.requests(), w.apple.refused, len(s.givenUp), s.told)
			})
		})
	}
}

// rage lets callers, customers and troubles come at random times, until the end.
func (s *storm) rage() {
	var tasks sync.WaitGroup
	every := func(atMost time.Duration, do func()) {
		tasks.Go(func() {
			for time.Sleep(rand.N(atMost)); time.Now().Before(s.end); time.Sleep(rand.N(atMost)) {
				do()
			}
		})
	}
	for range 30 {
		every(2*time.Second, s.call)
	}
	every(time.Minute, s.replace)
	every(time.Minute, s.reconnect)
	every(40*time.Second, s.troubleApple)
	every(40*time.Second, s.troubleDatabase)
	every(2*time.Minute, s.changeSecret)
	every(20*time.Second, s.refreshDue)
	every(10*time.Minute, s.revoke)
	tasks.Wait()
}

func (s *storm) set(f *string, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*f = value
}

func (s *storm) troubleApple() {
	s.set(&s.apples, pick("503", "503 long", "429", "403", "dropped", "400"))
	time.Sleep(rand.N(40 * time.Second))
	s.set(&s.apples, "")
}

func (s *storm) troubleDatabase() {
	s.mu.Lock()
	s.broken = rand.N(2*len(s.fleet)) - len(s.fleet)
	s.database = pick("all", "some", "Save", "Mark", "Lease Save Mark Release", "after", "after Save", "after Lease", "after Mark",
		"hang Save", "hang Load Lease Save Mark Release Put")
	if s.database == "all" || strings.Contains(s.database, "Lease Save") {
		s.broken = -1 // one process alone that cannot renew its leases loses them
	}
	s.mu.Unlock()
	time.Sleep(rand.N(90 * time.Second))
	s.set(&s.database, "")
}

func (s *storm) changeSecret() {
	next := fmt.Sprint("s", rand.Int())
	s.set(&s.secret, next)
	time.Sleep(rand.N(20 * time.Second))
	s.set(&s.vault, next)
}

func (s *storm) refreshDue() {
	ctx, cancel := context.WithTimeout(context.Background(), rand.N(time.Minute))
	defer cancel()
	s.mu.Lock()
	p := s.fleet[rand.N(len(s.fleet))]
	s.mu.Unlock()
	_ = p.RefreshDue(ctx, rand.N(40*time.Second)-20*time.Second)
}

func (s *storm) revoke() {
	name := s.names[rand.N(len(s.names))]
	s.apple.revoke(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked[name] = true
}

// assertNothingLost finds the newest token of each grant in the Store, but of those that were revoked or given up.
func (s *storm) assertNothingLost() {
	for _, name := range s.names {
		if s.revoked[name] || s.givenUp[name] {
			continue
		}
		row := s.row(name)
		assert.Nil(s.t, row.Dead, name)
		assert.Equal(s.t, s.apple.refreshToken(name, s.apple.grants[name]), row.Token.RefreshToken, "%s: its refresh token is lost", name)
	}
}
