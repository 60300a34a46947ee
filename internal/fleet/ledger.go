package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// apple is the fake Apple Business with a ledger: it alone knows which refresh token of a grant is the newest.
type apple struct {
	*applebusinesstest.Server
	fake    http.Handler
	options options
	limiter *rate.Limiter

	mu      sync.Mutex
	grantOf map[string]string // by refresh token
	newest  map[string]string // refresh token by grant
	seen    map[string]bool   // refresh tokens that were sent
	lost    map[string]bool   // grants of which a response was lost
	told    map[string]bool   // grants whose customers are to connect again, as callers were told
	found   result
}

// result is what a run has found.
type result struct {
	options         options
	took            time.Duration
	calls           int
	failed          map[string]int // of them, by kind
	late            time.Duration  // by how much a caller waited longer than its deadline, at most
	tokens          int            // refresh tokens that were sent
	requests        int            // with them, those too many left out
	refused         int            // of these, by "Invalid refresh_token"
	tooMany         int            // with status 429
	elsewhere       int            // requests to the wrong environment
	kills           int
	lostResponses   int // grants of which a response was lost
	lost            int // grants whose newest refresh token nobody has
	told            int // grants whose customer was told to reconnect although nothing of it was lost or revoked
	dead            int // of those, the ones that are marked dead in the end
	lostToTrouble   int // grants of which a kill or a lost response has taken the newest refresh token
	withoutResponse int // of those, the ones that are marked dead and do not say that a response was lost
	working         int // grants that are alive in the end and have the newest refresh token
}

func newApple(o options) (*apple, error) {
	life := accessTokenLife
	if o.Wave {
		life = time.Hour
	}
	a := &apple{
		Server:  applebusinesstest.NewUnstartedServer(&applebusinesstest.Options{AccessTokenLife: life}),
		options: o, limiter: rate.NewLimiter(rate.Limit(o.Limit), o.Limit),
		grantOf: make(map[string]string), newest: make(map[string]string),
		seen: make(map[string]bool), lost: make(map[string]bool), told: make(map[string]bool),
		found: result{options: o, failed: make(map[string]int)},
	}
	a.fake = a.Config.Handler
	a.Config.Handler = a
	return a, a.Start()
}

// connect returns a customer's token: for a wave expired, else of any age, so that refreshes are under way at each moment.
func (a *apple) connect(grant string) *oauth2.Token {
	token := a.ConnectExpired(a.App.ClientID)
	if !a.options.Wave {
		token.Expiry = time.Now().Add(rand.N(accessTokenLife))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.grantOf[token.RefreshToken], a.newest[grant] = grant, token.RefreshToken
	return token
}

// ServeHTTP responds to the workers, who only refresh.
func (a *apple) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !a.limiter.Allow() {
		a.mu.Lock()
		a.found.tooMany++
		a.mu.Unlock()
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	time.Sleep(a.options.Latency / 2)
	response, lost := a.respond(r, refreshToken(body))
	time.Sleep(a.options.Latency / 2)
	if lost {
		panic(http.ErrAbortHandler) // net/http breaks the connection
	}
	maps.Copy(w.Header(), response.Header())
	w.WriteHeader(response.Code)
	_, _ = w.Write(response.Body.Bytes())
}

// respond asks the fake, and enters in the ledger what becomes of the refresh token that is sent.
func (a *apple) respond(r *http.Request, sent string) (response *httptest.ResponseRecorder, lost bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	response = httptest.NewRecorder()
	a.fake.ServeHTTP(response, r)
	a.found.requests++
	a.seen[sent] = true
	issued := refreshToken(response.Body.Bytes())
	if issued == "" {
		a.found.refused++
		return response, false
	}
	grant := a.grantOf[sent]
	a.grantOf[issued], a.newest[grant] = grant, issued
	if lost = a.options.Lose && a.found.requests%10 == 0; lost {
		a.lost[grant] = true
	}
	return response, lost
}

// refreshToken returns the refresh token in a request or a response, or "".
func refreshToken(body []byte) string {
	var members struct {
		RefreshToken string `json:"refresh_token"`
	}
	_ = json.Unmarshal(body, &members)
	return members.RefreshToken
}

// called takes what a worker reports.
func (a *apple) called(c call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.found.calls++
	a.found.late = max(a.found.late, c.Late)
	if c.Failed != "" {
		a.found.failed[c.Failed]++
	}
	if c.Told {
		a.told[c.Grant] = true
	}
}

// judge compares the database, and what callers were told, with the ledger.
func (a *apple) judge(ctx context.Context, store *pgxstore.Store) (result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.found
	r.tokens, r.lostResponses = len(a.seen), len(a.lost)
	one := map[bool]int{true: 1}
	for grant, newest := range a.newest {
		record, err := store.Load(ctx, grant)
		if err != nil {
			return result{}, err
		}
		lost, dead := record.Token.RefreshToken != newest, record.Dead != nil
		if a.lost[grant] || lost && r.kills > 0 {
			r.lostToTrouble += one[lost]
			r.withoutResponse += one[lost && dead && !record.Dead.ResponseLost]
		} else {
			r.lost += one[lost]
			r.dead += one[dead]
			r.told += one[dead || a.told[grant]]
		}
		r.working += one[!lost && !dead]
	}
	return r, nil
}

// report prints the line of figures and a line for each goal that was missed, and returns the exit status.
func report(w io.Writer, r result) (status int) {
	failed := 0
	for _, n := range r.failed {
		failed += n
	}
	o, late := r.options, int(r.late.Milliseconds())
	fmt.Fprintf(w, "%d processes, %s: %d lost, %d told to reconnect falsely, %d of these called dead in the end, %d of %d grants work; "+
		"%d requests for %d refresh tokens, %d refused, %d too many, %d to the wrong environment; "+
		"%d kills, %d responses lost, %d grants lost by these; %d calls, %d failed %s, %d ms late at most",
		o.Processes, r.took.Round(100*time.Millisecond), r.lost, r.told, r.dead, r.working, o.Grants,
		r.requests, r.tokens, r.refused, r.tooMany, r.elsewhere,
		r.kills, r.lostResponses, r.lostToTrouble, r.calls, failed, strings.TrimPrefix(fmt.Sprint(r.failed), "map"), late)
	// How long a wave takes if a request is under way whenever one is allowed, and a second to start processes.
	ideal := time.Duration(o.Grants)*time.Second/time.Duration(o.Limit) + o.Latency + time.Second
	if o.Wave {
		fmt.Fprintf(w, "; ideal are %s", ideal.Round(100*time.Millisecond))
	}
	fmt.Fprintln(w)
	for _, goal := range []struct {
		applies          bool
		name             string
		measured, atMost int
	}{
		{true, "refresh tokens lost, but by a kill or a lost response", r.lost, 0},
		{true, "customers told to reconnect falsely", r.told, 0},
		{true, "grants lost by a kill or a lost response", r.lostToTrouble, r.kills + r.lostResponses},
		{true, "of those, verdicts that do not say so", r.withoutResponse, 0},
		// With these troubles a process cannot know that what it has is spent, and one that stands still is late.
		{o.Freeze == 0 && o.Restore == 0, "requests", r.requests, r.tokens + r.kills + r.lostResponses},
		{o.Freeze == 0, "ms that a caller waited longer than its deadline", late, 500}, // on busy cores
		{o.Wave, "calls failed", failed, 0},
		{o.Wave, "requests, those with status 429 too", r.requests + r.tooMany, o.Grants * 11 / 10},
		{o.Wave, "ms until every grant was refreshed", int(r.took.Milliseconds()), int(ideal.Milliseconds() * 5 / 4)},
	} {
		if goal.applies && goal.measured > goal.atMost {
			fmt.Fprintf(w, "MISSED: %s: %d, at most %d\n", goal.name, goal.measured, goal.atMost)
			status = 1
		}
	}
	return status
}
