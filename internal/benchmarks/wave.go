package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// In a wave the access tokens of all grants have expired. Each grant is wanted by two of the fleet's processes, and a
// caller who gets no token tries again after a second, until it has one or is told that the customer has disconnected.
const (
	waveProcesses = 8
	connections   = 4  // to the database, of each process
	perSecond     = 15 // the limit that Apple publishes
	latency       = 200 * time.Millisecond
	tryAgain      = time.Second // on average
)

// wave is what came of one.
type wave struct {
	seconds     []int // the requests that arrived within each
	tooMany     int   // of them, those that got status 429
	toldRevoked int   // callers that were told so, though nobody has revoked anything
	took        time.Duration
}

func (w wave) requests() (sum int) {
	for _, n := range w.seconds {
		sum += n
	}
	return sum
}

// idealTime is how long a wave takes if a request is sent whenever one more is allowed.
func idealTime(grants int) time.Duration {
	return time.Duration(grants)*time.Second/perSecond + latency
}

// fleetConfig is what all processes of a fleet know.
type fleetConfig struct {
	oauth2 *oauth2.Config
	client *http.Client
	ctx    context.Context // holds client, for x/oauth2
	stored []*oauth2.Token // by grant
}

// way is a way to share the tokens. Its function returns a grant's source as one of the processes has it; end ends the processes.
type way struct {
	name  string
	start func(fleetConfig) (source func(process, grant int) oauth2.TokenSource, end func())
}

var ways = []way{
	{"x/oauth2 alone", func(f fleetConfig) (func(process, grant int) oauth2.TokenSource, func()) {
		return func(_, grant int) oauth2.TokenSource { return f.oauth2.TokenSource(f.ctx, f.stored[grant]) }, func() {}
	}},
	{"a locked row", func(f fleetConfig) (func(process, grant int) oauth2.TokenSource, func()) {
		pools := make([]chan struct{}, waveProcesses)
		for i := range pools {
			pools[i] = make(chan struct{}, connections)
		}
		rows := make([]chan *oauth2.Token, len(f.stored)) // who has taken a row's token has locked the row
		for i, token := range f.stored {
			rows[i] = make(chan *oauth2.Token, 1)
			rows[i] <- token
		}
		return func(process, grant int) oauth2.TokenSource {
			return tokenSource(func() (*oauth2.Token, error) {
				pools[process] <- struct{}{}
				defer func() { <-pools[process] }()
				time.Sleep(time.Duration(process + 1)) // or two that have waited could be at the row at one instant
				token := <-rows[grant]
				defer func() { rows[grant] <- token }()
				fetched, err := f.oauth2.TokenSource(f.ctx, token).Token() // token itself, once a sibling has fetched it
				if err == nil {
					token = fetched
				}
				return fetched, err
			})
		}, func() {}
	}},
	{"grants.Manager", func(f fleetConfig) (func(process, grant int) oauth2.TokenSource, func()) {
		store := grants.NewMemoryStore()
		for i, token := range f.stored {
			_ = store.Put(f.ctx, strconv.Itoa(i), token) // a MemoryStore has no errors
		}
		limit := rate.NewLimiter(perSecond, 1) // the whole fleet's, as pgxstore's is
		managers := make([]*grants.Manager, waveProcesses)
		for i := range managers {
			managers[i] = grants.New(f.oauth2, store, &grants.Options{HTTPClient: f.client, Limit: limit})
		}
		return func(process, grant int) oauth2.TokenSource {
				return managers[process].TokenSource(f.ctx, strconv.Itoa(grant))
			}, func() {
				for _, m := range managers {
					_ = m.Close(f.ctx)
				}
			}
	}},
}

type tokenSource func() (*oauth2.Token, error)

func (f tokenSource) Token() (*oauth2.Token, error) { return f() }

// runWave lets n grants expire. It runs in a bubble of testing/synctest. Whoever asks does so at an instant of its own, so that the
// scheduler decides nothing.
func runWave(w way, n int) wave {
	apple := &limitedApple{start: time.Now(), limiter: rate.NewLimiter(perSecond, perSecond), grantOf: make(map[string]int)}
	f := fleetConfig{
		oauth2: &oauth2.Config{ClientID: "id", ClientSecret: "secret", Endpoint: applebusiness.OAuth2Endpoint("", "https://apple.example")},
		client: &http.Client{Transport: apple},
	}
	f.ctx = context.WithValue(context.Background(), oauth2.HTTPClient, f.client)
	for i := range n {
		token := expired(fmt.Sprint("r", i))
		apple.grantOf[token.RefreshToken] = i
		f.stored = append(f.stored, token)
	}

	source, end := w.start(f)
	var result wave
	var mu sync.Mutex // guards result
	var callers sync.WaitGroup
	for grant := range n {
		for other := range 2 {
			callers.Go(func() {
				waits := rand.New(rand.NewPCG(uint64(grant), uint64(other))) // each caller's own, and the same each time
				time.Sleep(time.Duration(2*grant+other) * time.Microsecond)
				tokens := source((grant+other)%waveProcesses, grant)
				for {
					_, err := tokens.Token()
					revoked := saysRevoked(err)
					if err == nil || revoked {
						mu.Lock()
						defer mu.Unlock()
						result.took = max(result.took, time.Since(apple.start))
						if revoked {
							result.toldRevoked++
						}
						return
					}
					time.Sleep(time.Duration(waits.Int64N(int64(2 * tryAgain))))
				}
			})
		}
	}
	callers.Wait()
	end()
	result.seconds, result.tooMany = apple.seconds, apple.tooMany
	return result
}

// saysRevoked judges every way's error alike.
func saysRevoked(err error) bool {
	return errors.Is(applebusiness.Wrap(err), applebusiness.ErrInvalidRefreshToken)
}

func expired(refreshToken string) *oauth2.Token {
	return &oauth2.Token{AccessToken: "old", RefreshToken: refreshToken, Expiry: time.Now().Add(-time.Minute)}
}

// limitedApple is an Apple without a network that replaces refresh tokens and has a limit: on average, and at most one
// second's worth at once.
type limitedApple struct {
	start   time.Time
	limiter *rate.Limiter

	mu      sync.Mutex
	grantOf map[string]int // by the newest refresh token
	issued  int
	seconds []int
	tooMany int
}

func (a *limitedApple) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	token := refreshToken(body)
	hash := fnv.New32()
	_, _ = io.WriteString(hash, token)
	time.Sleep(time.Duration(hash.Sum32()) % time.Millisecond) // so that no two arrive at one instant
	status, text := a.respond(token)
	time.Sleep(latency)
	header := http.Header{"Content-Type": {"application/json"}}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// refreshToken reads JSON, and the form that x/oauth2 sends alone.
func refreshToken(body []byte) string {
	var members struct {
		RefreshToken string `json:"refresh_token"`
	}
	if json.Unmarshal(body, &members) == nil {
		return members.RefreshToken
	}
	form, _ := url.ParseQuery(string(body))
	return form.Get("refresh_token")
}

func (a *limitedApple) respond(refreshToken string) (status int, body string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for second := int(time.Since(a.start) / time.Second); len(a.seconds) <= second; {
		a.seconds = append(a.seconds, 0)
	}
	a.seconds[len(a.seconds)-1]++
	if !a.limiter.Allow() {
		a.tooMany++
		return http.StatusTooManyRequests, ""
	}
	grant, ok := a.grantOf[refreshToken]
	if !ok {
		return http.StatusBadRequest, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`
	}
	delete(a.grantOf, refreshToken)
	a.issued++
	next := fmt.Sprintf("r%d-%d", grant, a.issued)
	a.grantOf[next] = grant
	return http.StatusOK, fmt.Sprintf(`{"access_token":"a%d","token_type":"Bearer","expires_in":3600,"refresh_token":%q}`, a.issued, next)
}
