// Package benchmarks shows what a fleet sends to Apple when the access tokens of all its grants expire at once: with x/oauth2
// alone, with a locked row for each grant, and with grants.Manager. Time is virtual: the figures and the picture are the same
// each time.
//
//	go test -v -run Wave -grants 5000 .    prints figures, in one to two minutes
//	go test -run Picture -update .         draws the requests over time, as pgxstore's README shows them, in a second
//
// What depends on the machine is in the benchmarks, which take about a minute. They compare decoding and matching an error with
// zitadel/oidc, ory/fosite and encoding/json, a token request and the memory for a huge response with x/oauth2, a valid token
// with a mutex and a map, and explain with jq and grep:
//
//	go test -run '^$' -bench .
package benchmarks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"text/template"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

var (
	waveGrants = flag.Int("grants", 200, "`number` of grants that expire in TestWave")
	update     = flag.Bool("update", false, "let TestPicture draw requests.svg")
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

// The Manager sends a request for each grant, never more than are allowed, and is done when it can be. The
// other ways send more than that, and x/oauth2 alone tells customers to reconnect who have revoked nothing.
func TestWave(t *testing.T) {
	n := *waveGrants
	ideal := time.Duration(n)*time.Second/perSecond + latency // a request is sent whenever one more is allowed
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			got := runWave(t, w, n)
			t.Logf("%d grants: %d requests, %d of them with status 429; %d customers told to reconnect; %.1f s, and %.1f s are ideal",
				n, got.requests(), got.tooMany, got.toldRevoked, got.took.Seconds(), ideal.Seconds())
			manager := w.name == "grants.Manager"
			if manager != (got.requests() == n && got.tooMany == 0) {
				t.Error("these are not the requests of this way")
			}
			if alone := w.name == "x/oauth2 alone"; alone != (got.toldRevoked > 0) {
				t.Error("as many customers are not told to reconnect in this way")
			}
			if manager && got.took > ideal+time.Second {
				t.Error("it took too long")
			}
		})
	}
}

// The picture that pgxstore's README shows is the one that is drawn, which is the same each time.
func TestPicture(t *testing.T) {
	const file, n = "requests.svg", 500
	type line struct {
		Name, Color           string
		Legend                int // its y
		Requests, ToldRevoked int
		Points                string
	}
	var lines []line
	for i, w := range ways {
		result := runWave(t, w, n)
		var points []string
		for second, requests := range result.seconds {
			if requests > 0 { // the scale is logarithmic
				points = append(points, fmt.Sprintf("%d,%.1f", 65+10*second, 300-60*math.Log10(float64(requests))))
			}
		}
		color := []string{"crimson", "darkorange", "royalblue"}[i]
		lines = append(lines, line{w.name, color, 44 + 18*i, result.requests(), result.toldRevoked, strings.Join(points, "L")})
	}
	var drawn bytes.Buffer
	picture := template.Must(template.ParseFiles(file + ".tmpl"))
	if err := picture.Execute(&drawn, map[string]any{"Grants": n, "PerSecond": perSecond, "Lines": lines}); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, drawn.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if shown, err := os.ReadFile(file); err != nil || !bytes.Equal(drawn.Bytes(), shown) {
		t.Errorf("it differs: go test -run Picture -update . (%v)", err)
	}
}

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

// fleetConfig is what all processes of a fleet know.
type fleetConfig struct {
	oauth2 *oauth2.Config
	client *http.Client
	ctx    context.Context // holds client, for x/oauth2
	stored []*oauth2.Token // by grant
}

// way is a way to share the tokens. Its function returns what returns a grant's source as one of the processes has it.
type way struct {
	name  string
	start func(*testing.T, fleetConfig) func(process, grant int) oauth2.TokenSource
}

var ways = []way{
	{"x/oauth2 alone", func(_ *testing.T, f fleetConfig) func(process, grant int) oauth2.TokenSource {
		return func(_, grant int) oauth2.TokenSource { return f.oauth2.TokenSource(f.ctx, f.stored[grant]) }
	}},
	{"a locked row", func(_ *testing.T, f fleetConfig) func(process, grant int) oauth2.TokenSource {
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
		}
	}},
	{"grants.Manager", func(t *testing.T, f fleetConfig) func(process, grant int) oauth2.TokenSource {
		store := grants.NewMemoryStore()
		for i, token := range f.stored {
			_ = store.Put(f.ctx, strconv.Itoa(i), token) // a MemoryStore has no errors
		}
		limit := rate.NewLimiter(perSecond, 1) // the whole fleet's, as pgxstore's is
		managers := make([]*grants.Manager, waveProcesses)
		for i := range managers {
			managers[i] = grants.New(f.oauth2, store, &grants.Options{HTTPClient: f.client, Limit: limit})
			t.Cleanup(func() { _ = managers[i].Close(f.ctx) })
		}
		return func(process, grant int) oauth2.TokenSource {
			return managers[process].TokenSource(f.ctx, strconv.Itoa(grant))
		}
	}},
}

type tokenSource func() (*oauth2.Token, error)

func (f tokenSource) Token() (*oauth2.Token, error) { return f() }

// runWave lets n grants expire, in virtual time. Whoever asks does so at an instant of its own, so that the scheduler decides
// nothing.
func runWave(t *testing.T, w way, n int) (result wave) {
	synctest.Test(t, func(t *testing.T) {
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

		source := w.start(t, f)
		var mu sync.Mutex // guards result
		var callers sync.WaitGroup
		for grant := range n {
			for other := range 2 {
				callers.Go(func() {
					waits := rand.New(rand.NewPCG(uint64(grant), uint64(other))) // each caller's own, and the same each time
					time.Sleep(time.Duration(2*grant+other) * time.Microsecond)
					tokens := source((grant+other)%waveProcesses, grant)
					_, err := tokens.Token()
					for err != nil && !saysRevoked(err) {
						time.Sleep(time.Duration(waits.Int64N(int64(2 * tryAgain))))
						_, err = tokens.Token()
					}
					mu.Lock()
					defer mu.Unlock()
					result.took = time.Since(apple.start) // in the end the last one's
					if err != nil {
						result.toldRevoked++
					}
				})
			}
		}
		callers.Wait()
		result.seconds, result.tooMany = apple.seconds, apple.tooMany
	})
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
