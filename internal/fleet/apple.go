package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// A Manager counts a token as expired 10 seconds early: with these a grant is refreshed every 5 seconds.
const accessTokenLife = 15 * time.Second

// apple is the fake Apple Business with a ledger: it alone knows which refresh token of a grant is the newest.
type apple struct {
	*applebusinesstest.Server
	fake    http.Handler
	options options

	mu       sync.Mutex
	grantOf  map[string]string // by refresh token
	newest   map[string]string // refresh token by grant
	seen     map[string]bool   // refresh tokens that were sent
	lost     map[string]bool   // grants of which a response was lost
	requests int               // to refresh, those too many left out
	tooMany  int
	refused  int     // by "Invalid refresh_token"
	budget   float64 // requests that are allowed now
	filled   time.Time
}

func newApple(o options) (*apple, error) {
	life := accessTokenLife
	if o.wave {
		life = time.Hour
	}
	a := &apple{
		Server:  applebusinesstest.NewUnstartedServer(&applebusinesstest.Options{AccessTokenLife: life}),
		options: o,
		grantOf: make(map[string]string), newest: make(map[string]string), seen: make(map[string]bool), lost: make(map[string]bool),
		budget: float64(o.limit), filled: time.Now(),
	}
	a.fake = a.Config.Handler
	a.Config.Handler = http.HandlerFunc(a.serve)
	return a, a.Start()
}

// connect returns the token of a customer who has connected: for a wave expired, else at any age, so that refreshes are under way
// at each moment.
func (a *apple) connect(grant string) *oauth2.Token {
	token := a.Connect(a.App.ClientID)
	token.Expiry = time.Now().Add(-time.Minute)
	if !a.options.wave {
		token.Expiry = time.Now().Add(rand.N(accessTokenLife))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.grantOf[token.RefreshToken], a.newest[grant] = grant, token.RefreshToken
	return token
}

func (a *apple) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var sent, received struct {
		RefreshToken string `json:"refresh_token"`
	}
	_ = json.Unmarshal(body, &sent)
	if sent.RefreshToken == "" {
		a.fake.ServeHTTP(w, r)
		return
	}
	if !a.allow() {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	time.Sleep(a.options.latency / 2)
	recorder := httptest.NewRecorder()
	a.mu.Lock()
	a.fake.ServeHTTP(recorder, r)
	a.requests++
	a.seen[sent.RefreshToken] = true
	grant := a.grantOf[sent.RefreshToken]
	lost := false
	if _ = json.Unmarshal(recorder.Body.Bytes(), &received); received.RefreshToken != "" {
		a.grantOf[received.RefreshToken], a.newest[grant] = grant, received.RefreshToken
		if lost = a.options.lose && a.requests%10 == 0; lost {
			a.lost[grant] = true
		}
	} else {
		a.refused++
	}
	a.mu.Unlock()
	time.Sleep(a.options.latency / 2)
	if lost {
		panic(http.ErrAbortHandler) // net/http breaks the connection
	}
	for name, values := range recorder.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(recorder.Body.Bytes())
}

// allow reports whether a request is within the limit: on average, and at most one second's worth at once.
func (a *apple) allow() bool {
	if a.options.limit == 0 {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now, limit := time.Now(), float64(a.options.limit)
	a.budget = min(limit, a.budget+now.Sub(a.filled).Seconds()*limit)
	a.filled = now
	if a.budget < 1 {
		a.tooMany++
		return false
	}
	a.budget--
	return true
}
