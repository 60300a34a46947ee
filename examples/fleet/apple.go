package main

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const (
	// x/oauth2 counts a token as expired 10 seconds early, and a SharedTokenSource up to a tenth earlier still.
	accessTokenLife = 15 * time.Second

	workerHeader = "Fleet-Worker" // names the process that sent a token request
)

// apple is the fake Apple Business, with a ledger of the refresh requests that it got.
type apple struct {
	*applebusinesstest.Server
	fake http.Handler

	mu       sync.Mutex           // guards what follows
	issued   map[string]string    // refresh token → grant
	newest   map[string]string    // grant → refresh token
	requests map[string][]request // refresh token sent → who sent it
	refused  map[string]request   // apple-request-id → request
	revoked  map[string]bool      // grants that the customer really revoked
	killed   map[string]bool      // workers
	pending  map[[2]string]string // worker and grant → refresh token sent, whose successor is not committed
	target   string               // the grant whose next refresh costs the worker its life
	victim   string               // the refresh token that it sent
	kill     func(worker string)  // returns when the worker is dead
}

type request struct {
	worker, grant, refreshToken string
	refused                     bool
	afterKill                   bool // one who sent this refresh token was killed before the commit
	onPurpose                   bool // and that was killNext
}

func newApple(options *applebusinesstest.Options) (*apple, error) {
	a := &apple{
		Server:   applebusinesstest.NewUnstartedServer(options),
		issued:   make(map[string]string),
		newest:   make(map[string]string),
		requests: make(map[string][]request),
		refused:  make(map[string]request),
		revoked:  make(map[string]bool),
		killed:   make(map[string]bool),
		pending:  make(map[[2]string]string),
	}
	a.fake = a.Config.Handler
	a.Config.Handler = http.HandlerFunc(a.serve)
	return a, a.Start()
}

// config is what each worker needs for its requests.
func (a *apple) config() *oauth2.Config {
	return &oauth2.Config{ClientID: a.App.ClientID, ClientSecret: a.App.ClientSecret, Endpoint: a.Endpoint()}
}

// connect returns the first token of a grant, or the one after the customer has reconnected; nil if the customer has
// really revoked it and so does not.
func (a *apple) connect(grant string) *oauth2.Token {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked[grant] {
		return nil
	}
	token := a.Connect(a.App.ClientID)
	a.issue(grant, token.RefreshToken)
	return token
}

func (a *apple) issue(grant, refreshToken string) {
	a.issued[refreshToken], a.newest[grant] = grant, refreshToken
}

// revoke lets the customer disconnect.
func (a *apple) revoke(grant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[grant] = true
	a.Revoke(a.newest[grant])
}

// killNext has the worker killed that sends the next refresh request of a grant, when its refresh token is replaced and
// before the answer is sent.
func (a *apple) killNext(grant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.target = grant
}

func (a *apple) markKilled(worker string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.killed[worker] = true
}

func (a *apple) serve(w http.ResponseWriter, r *http.Request) {
	worker := r.Header.Get(workerHeader)
	if worker == "" {
		a.fake.ServeHTTP(w, r)
		return
	}
	answer, isTarget := a.refresh(worker, r)
	if isTarget {
		a.kill(worker)
		panic(http.ErrAbortHandler) // nobody is left to answer
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// refresh has the fake answer a refresh request, and enters it in the ledger.
func (a *apple) refresh(worker string, r *http.Request) (answer *httptest.ResponseRecorder, isTarget bool) {
	var sent, got struct {
		RefreshToken string `json:"refresh_token"`
	}
	body, _ := io.ReadAll(r.Body) // one that breaks off does not decode
	_ = json.Unmarshal(body, &sent)
	r.Body = io.NopCloser(bytes.NewReader(body))

	a.mu.Lock()
	defer a.mu.Unlock()
	answer = httptest.NewRecorder()
	a.fake.ServeHTTP(answer, r)
	_ = json.Unmarshal(answer.Body.Bytes(), &got)

	grant := a.issued[sent.RefreshToken]
	entry := request{worker: worker, grant: grant, refreshToken: sent.RefreshToken, refused: answer.Code != http.StatusOK}
	a.pending[[2]string{worker, grant}] = sent.RefreshToken
	entry.onPurpose = sent.RefreshToken == a.victim
	entry.afterKill = a.diedWith(entry) || slices.ContainsFunc(a.requests[sent.RefreshToken], a.diedWith)
	a.requests[sent.RefreshToken] = append(a.requests[sent.RefreshToken], entry)
	if entry.refused {
		a.refused[answer.Header().Get("apple-request-id")] = entry
		return answer, false
	}
	a.issue(grant, got.RefreshToken)
	if isTarget = grant == a.target; isTarget {
		a.target, a.victim = "", sent.RefreshToken
	}
	return answer, isTarget
}

// diedWith reports whether the sender was killed before it committed what it got; a.mu is held.
func (a *apple) diedWith(r request) bool {
	return a.killed[r.worker] && a.pending[[2]string{r.worker, r.grant}] == r.refreshToken
}

// markCommitted says that a worker has stored the answer to its last request for a grant.
func (a *apple) markCommitted(worker, grant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, [2]string{worker, grant})
}

// refusal returns the refused request that an apple-request-id names, and whether the grant had been revoked.
func (a *apple) refusal(requestID string) (refused request, known, revoked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	refused, known = a.refused[requestID]
	return refused, known, a.revoked[refused.grant]
}

func (a *apple) isRevoked(grant string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.revoked[grant]
}

// summary is what the ledger comes to.
type summary struct {
	requests, expiries          int // the expiries are the different refresh tokens that were sent
	repeated, repeatedAfterKill int // requests that sent a refresh token once more
	revoked, revokedAfterKill   int // requests that were refused because of the customer
	fewest, most                int // refreshes of a grant that was not revoked
}

func (a *apple) sum() (s summary) {
	a.mu.Lock()
	defer a.mu.Unlock()
	refreshes := make(map[string]int)
	for _, requests := range a.requests {
		s.expiries++
		s.requests += len(requests)
		for i, r := range requests {
			switch {
			case !r.refused:
				refreshes[r.grant]++
			case a.revoked[r.grant] && r.afterKill:
				s.revokedAfterKill++
			case a.revoked[r.grant]:
				s.revoked++
			}
			switch {
			case i == 0:
			case r.afterKill:
				s.repeatedAfterKill++
			default:
				s.repeated++
			}
		}
	}
	first := true
	for grant := range a.newest {
		if a.revoked[grant] {
			continue
		}
		n := refreshes[grant]
		if first || n < s.fewest {
			s.fewest = n
		}
		s.most, first = max(s.most, n), false
	}
	return s
}
