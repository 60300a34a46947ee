package fleet

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// apple is the fake Apple Business with a ledger: it alone knows which refresh token of a grant is the newest.
type apple struct {
	*applebusinesstest.Server
	fake    http.Handler
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

func newApple(t *testing.T) *apple {
	life := accessTokenLife
	if *wave {
		life = time.Hour
	}
	a := &apple{
		Server:  applebusinesstest.NewUnstartedServer(&applebusinesstest.Options{AccessTokenLife: life}),
		limiter: rate.NewLimiter(rate.Limit(*limit), *limit),
		grantOf: make(map[string]string), newest: make(map[string]string),
		seen: make(map[string]bool), lost: make(map[string]bool), told: make(map[string]bool),
		found: result{failed: make(map[string]int)},
	}
	a.fake, a.Config.Handler = a.Config.Handler, a
	require.NoError(t, a.Start())
	t.Cleanup(a.Close)
	return a
}

// connect returns a customer's token: for a wave expired, else of any age, so that refreshes are under way at each moment.
func (a *apple) connect(grant string) *oauth2.Token {
	token := a.ConnectExpired(a.App.ClientID)
	if !*wave {
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
	time.Sleep(*latency / 2)
	response, lost := a.respond(r, refreshToken(body))
	time.Sleep(*latency / 2)
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
	if lost = *lose && a.found.requests%10 == 0; lost {
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
func (a *apple) judge(t *testing.T, store grants.Store) result {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.found
	r.tokens, r.lostResponses = len(a.seen), len(a.lost)
	one := map[bool]int{true: 1}
	for grant, newest := range a.newest {
		record, err := store.Load(t.Context(), grant)
		require.NoError(t, err)
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
	return r
}

// String returns the line of figures.
func (r result) String() string {
	line := fmt.Sprintf("%d processes, %s: %d lost, %d told to reconnect falsely, %d of these called dead in the end, %d of %d grants work; "+
		"%d requests for %d refresh tokens, %d refused, %d too many, %d to the wrong environment; "+
		"%d kills, %d responses lost, %d grants lost by these; %d calls, %d failed %s, %d ms late at most",
		*processes, r.took.Round(100*time.Millisecond), r.lost, r.told, r.dead, r.working, *grantCount,
		r.requests, r.tokens, r.refused, r.tooMany, r.elsewhere,
		r.kills, r.lostResponses, r.lostToTrouble, r.calls, r.failures(), strings.TrimPrefix(fmt.Sprint(r.failed), "map"), r.late.Milliseconds())
	if *wave {
		line += fmt.Sprintf("; ideal are %s", ideal().Round(100*time.Millisecond))
	}
	return line
}

func (r result) failures() (n int) {
	for _, of := range r.failed {
		n += of
	}
	return n
}

// ideal is how long a wave takes if a request is under way whenever one is allowed, and a second to start processes.
func ideal() time.Duration {
	return time.Duration(*grantCount)*time.Second/time.Duration(*limit) + *latency + time.Second
}

// missed returns the goals that were missed.
func (r result) missed() (missed []string) {
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
		{*freeze == 0 && *restore == 0, "requests", r.requests, r.tokens + r.kills + r.lostResponses},
		{*freeze == 0, "ms that a caller waited longer than its deadline", int(r.late.Milliseconds()), 500}, // on busy cores
		{*wave, "calls failed", r.failures(), 0},
		{*wave, "requests, those with status 429 too", r.requests + r.tooMany, *grantCount * 11 / 10},
		{*wave, "ms until every grant was refreshed", int(r.took.Milliseconds()), int(ideal().Milliseconds() * 5 / 4)},
	} {
		if goal.applies && goal.measured > goal.atMost {
			missed = append(missed, fmt.Sprintf("%s: %d, at most %d", goal.name, goal.measured, goal.atMost))
		}
	}
	return missed
}

func TestGoals(t *testing.T) {
	set := func(name, value string) {
		was := flag.Lookup(name).Value.String()
		require.NoError(t, flag.Set(name, value))
		t.Cleanup(func() { _ = flag.Set(name, was) })
	}
	set("processes", "8")
	set("grants", "50")
	set("limit", "1000")
	good := result{
		took: 30 * time.Second, calls: 1000, late: 20 * time.Millisecond, failed: map[string]int{"the database": 7},
		requests: 304, tokens: 300, kills: 3, lostResponses: 1, lostToTrouble: 4, working: 46,
	}
	assert.Empty(t, good.missed())
	assert.Equal(t, "8 processes, 30s: 0 lost, 0 told to reconnect falsely, 0 of these called dead in the end, 46 of 50 grants work; "+
		"304 requests for 300 refresh tokens, 0 refused, 0 too many, 0 to the wrong environment; "+
		"3 kills, 1 responses lost, 4 grants lost by these; 1000 calls, 7 failed [the database:7], 20 ms late at most", good.String())
	for missed, spoil := range map[string]func(*result){
		"refresh tokens lost, but by a kill or a lost response: 1, at most 0": func(r *result) { r.lost++ },
		"customers told to reconnect falsely: 1, at most 0":                   func(r *result) { r.told++ },
		"grants lost by a kill or a lost response: 5, at most 4":              func(r *result) { r.lostToTrouble++ },
		"of those, verdicts that do not say so: 1, at most 0":                 func(r *result) { r.withoutResponse++ },
		"requests: 305, at most 304":                                          func(r *result) { r.requests++ },
		"ms that a caller waited longer than its deadline: 1000, at most 500": func(r *result) { r.late = time.Second },
	} {
		bad := good
		spoil(&bad)
		assert.Equal(t, []string{missed}, bad.missed())
	}
	set("wave", "true")
	good.tooMany = 1000
	assert.Equal(t, []string{
		"calls failed: 7, at most 0", "requests, those with status 429 too: 1304, at most 55", "ms until every grant was refreshed: 30000, at most 1312",
	}, good.missed())
	assert.Contains(t, good.String(), " ms late at most; ideal are 1.1s")
}

// What the trial would not see would never be missed: each loss is made by hand.
func TestLedger(t *testing.T) {
	ctx, store, apple := t.Context(), grants.NewMemoryStore(), newApple(t)
	for _, grant := range []string{"good", "lost", "dead", "told", "response lost", "response lost, not said"} {
		require.NoError(t, store.Put(ctx, grant, apple.connect(grant)))
	}
	mark := func(grant string, responseLost bool) {
		record, err := store.Load(ctx, grant)
		require.NoError(t, err)
		require.NoError(t, store.Mark(ctx, grant, "h", record.Version, grants.Mark{
			Dead: &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, ResponseLost: responseLost},
		}))
	}
	apple.newest["lost"] = "another"
	mark("dead", false)
	for grant, said := range map[string]bool{"response lost": true, "response lost, not said": false} {
		apple.newest[grant], apple.lost[grant] = "another", true
		mark(grant, said)
	}
	for _, c := range []call{
		{Grant: "good"}, {Grant: "lost", Failed: "network", Late: time.Second}, {Grant: "dead", Failed: "network", Late: -time.Second},
		{Grant: "told", Told: true}, {Grant: "response lost", Failed: "dead", Told: true},
	} {
		apple.called(c)
	}
	found := apple.judge(t, store)
	assert.Equal(t, 5, found.calls)
	assert.Equal(t, map[string]int{"network": 2, "dead": 1}, found.failed)
	assert.Equal(t, time.Second, found.late)
	assert.Equal(t, 1, found.lost, "lost")
	assert.Equal(t, 2, found.told, "dead, told")
	assert.Equal(t, 1, found.dead, "dead")
	assert.Equal(t, 2, found.lostToTrouble, "response lost")
	assert.Equal(t, 1, found.withoutResponse, "not said")
	assert.Equal(t, 2, found.working, "good, told")
}
