package grants_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// slower is 4 under the race detector, and else 1. It divides the size of what takes long: a race shows among few as among
// many, and that nobody is told wrongly is tried without the detector, too.
var slower = func() int {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 4
	}
	return 1
}()

const (
	tokenURL = "https://apple.example/api/v1/oauth2/token"
	apiURL   = "https://apple.example/api/v1/me"
)

// apple is Apple without a network: an http.RoundTripper that works in a bubble. Its refresh tokens are named
// "refresh-<grant>-<n>" and rotate; the access token that came with one is "access-<grant>-<n>".
type apple struct {
	life    int           // expires_in; 0 means 3600
	latency time.Duration // of a token request
	keep    bool          // refresh tokens do not rotate
	perSec  int           // more requests within a second get status 429; 0: any number

	mu       sync.Mutex
	grants   map[string]int // how often it was refreshed
	revoked  map[string]bool
	failures []func(r *http.Request) (*http.Response, error) // for the next requests, after the latency
	every    func(r *http.Request) (*http.Response, error)   // for all other requests; nil, or both results nil: none
	secret   string                                          // the client_secret that came last
	before   func(r *http.Request)                           // before each token request is looked at
	after    func()                                          // after each token was issued, before the response
	api      func(r *http.Request) (*http.Response, error)
	sent     []string // refresh tokens in the order of arrival
	refused  int
	limited  int
	recent   []time.Time
	active   int
	most     int // requests at a time
}

func (a *apple) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.String() != tokenURL {
		if a.api != nil {
			return a.api(r)
		}
		return response(200, "{}"), nil
	}
	if a.before != nil {
		a.before(r)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	var params map[string]string
	_ = json.Unmarshal(body, &params)
	refresh := params["refresh_token"]

	a.mu.Lock()
	a.sent = append(a.sent, refresh)
	a.active++
	a.most = max(a.most, a.active)
	var failure func(*http.Request) (*http.Response, error)
	if len(a.failures) > 0 {
		failure, a.failures = a.failures[0], a.failures[1:]
	} else if every := a.every; every != nil {
		a.secret = params["client_secret"]
		answer, err := every(r)
		if answer != nil || err != nil {
			failure = func(*http.Request) (*http.Response, error) { return answer, err }
		}
	}
	isOver := false
	if a.perSec > 0 {
		now := time.Now()
		a.recent = append(a.recent, now)
		for now.Sub(a.recent[0]) >= time.Second {
			a.recent = a.recent[1:]
		}
		isOver = len(a.recent) > a.perSec
	}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.active--
	}()

	if a.latency > 0 {
		timer := time.NewTimer(a.latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if isOver {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.limited++
		return response(429, ""), nil
	}
	if failure != nil {
		return failure(r)
	}
	return a.refresh(refresh)
}

func (a *apple) refresh(refresh string) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	grant, _ := strings.CutPrefix(refresh[:max(0, strings.LastIndex(refresh, "-"))], "refresh-")
	if a.grants == nil {
		a.grants = make(map[string]int)
	}
	n := a.grants[grant]
	if a.revoked[grant] || refresh != a.refreshToken(grant, n) {
		a.refused++
		return response(401, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`), nil
	}
	n++
	a.grants[grant] = n
	if a.after != nil {
		a.after()
	}
	life := a.life
	if life == 0 {
		life = 3600
	}
	return response(200, fmt.Sprintf(`{"access_token":"access-%s-%d","refresh_token":"%s","token_type":"Bearer","expires_in":%d}`,
		grant, n, a.refreshToken(grant, n), life)), nil
}

func (a *apple) refreshToken(grant string, n int) string {
	if a.keep {
		n = 0
	}
	return fmt.Sprintf("refresh-%s-%d", grant, n)
}

func (a *apple) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.sent)
}

func (a *apple) fail(failures ...func(*http.Request) (*http.Response, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failures = append(a.failures, failures...)
}

// revoke makes Apple refuse a grant for good.
func (a *apple) revoke(grant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked == nil {
		a.revoked = make(map[string]bool)
	}
	a.revoked[grant] = true
}

func response(status int, body string, header ...string) *http.Response {
	response := &http.Response{
		StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader([]byte(body))),
		ContentLength: int64(len(body)),
	}
	for i := 0; i+1 < len(header); i += 2 {
		response.Header.Set(header[i], header[i+1])
	}
	return response
}

// status answers a request with a status, without doing anything.
func status(status int, body string, header ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return response(status, body, header...), nil }
}

// broken answers nothing.
func broken(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// hang answers when the request's context ends.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// lose lets Apple refresh the grant, and the response go missing.
func (a *apple) lose(err error) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		_, _ = a.refresh(a.last())
		return nil, err
	}
}

func (a *apple) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lastLocked()
}

func (a *apple) lastLocked() string { return a.sent[len(a.sent)-1] }

// limit lets everything pass, or what it was given.
type limit func(ctx context.Context) error

func (l limit) Wait(ctx context.Context) error {
	if l == nil {
		return nil
	}
	return l(ctx)
}

// faultyStore is a Store in front of another, which fails on demand and counts.
type faultyStore struct {
	grants.Store

	mu     sync.Mutex
	before func(ctx context.Context, method, grant string) error // instead of the call
	after  func(method, grant string) error                      // after the call has taken effect
	calls  map[string]int
}

func (s *faultyStore) do(ctx context.Context, method, grant string, call func() error) error {
	s.mu.Lock()
	if s.calls == nil {
		s.calls = make(map[string]int)
	}
	s.calls[method]++
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx, method, grant); err != nil {
			return err
		}
	}
	if err := call(); err != nil {
		return err
	}
	if after != nil {
		return after(method, grant)
	}
	return nil
}

func (s *faultyStore) set(before func(ctx context.Context, method, grant string) error, after func(method, grant string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// fail makes the named methods fail with err, all without names; nil heals them.
func (s *faultyStore) fail(err error, methods ...string) {
	if err == nil {
		s.set(nil, nil)
		return
	}
	s.set(func(_ context.Context, method, _ string) error {
		if len(methods) == 0 || strings.Contains(strings.Join(methods, " "), method) {
			return err
		}
		return nil
	}, nil)
}

func (s *faultyStore) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

func (s *faultyStore) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, calls := range s.calls {
		n += calls
	}
	return n
}

func (s *faultyStore) Load(ctx context.Context, grant string) (record grants.Record, err error) {
	err = s.do(ctx, "Load", grant, func() error { record, err = s.Store.Load(ctx, grant); return err })
	return record, err
}

func (s *faultyStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (record grants.Record, err error) {
	err = s.do(ctx, "Lease", grant, func() error { record, err = s.Store.Lease(ctx, grant, holder, d); return err })
	return record, err
}

func (s *faultyStore) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	return s.do(ctx, "Save", grant, func() error { return s.Store.Save(ctx, grant, holder, version, token) })
}

func (s *faultyStore) Mark(ctx context.Context, grant, holder string, version int64, mark grants.Mark) error {
	return s.do(ctx, "Mark", grant, func() error { return s.Store.Mark(ctx, grant, holder, version, mark) })
}

func (s *faultyStore) Release(ctx context.Context, grant, holder string) error {
	return s.do(ctx, "Release", grant, func() error { return s.Store.Release(ctx, grant, holder) })
}

func (s *faultyStore) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	return s.do(ctx, "Put", grant, func() error { return s.Store.Put(ctx, grant, token) })
}

func (s *faultyStore) Delete(ctx context.Context, grant string) error {
	return s.do(ctx, "Delete", grant, func() error { return s.Store.Delete(ctx, grant) })
}

func (s *faultyStore) Due(ctx context.Context, before time.Duration, limit int) (due []string, err error) {
	err = s.do(ctx, "Due", "", func() error { due, err = s.Store.Due(ctx, before, limit); return err })
	return due, err
}

var errDatabase = errors.New("dial tcp 127.0.0.1:5432: connect: connection refused")

// world is one Apple, one Store and any number of processes.
type world struct {
	t     *testing.T
	apple *apple
	store *faultyStore

	mu     sync.Mutex
	events []grants.Refresh
	log    strings.Builder // what the processes have logged
}

// Write is for the processes' Loggers.
func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(line)
}

// logged returns what was logged since the last call.
func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.log.Reset()
	return w.log.String()
}

// bubble runs f in a bubble of testing/synctest.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func newWorld(t *testing.T) *world {
	return &world{t: t, apple: new(apple), store: &faultyStore{Store: grants.NewMemoryStore()}}
}

var testConfig = &oauth2.Config{ClientID: "client", ClientSecret: "the-client-secret", Endpoint: oauth2.Endpoint{
	TokenURL: tokenURL, AuthStyle: oauth2.AuthStyleInParams,
}}

// process returns a Manager that is closed at the end of the test.
func (w *world) process(options ...func(*grants.Options)) *grants.Manager {
	o := &grants.Options{
		HTTPClient: &http.Client{Transport: w.apple, Timeout: 30 * time.Second},
		Limit:      limit(nil),
		Logger:     slog.New(slog.NewTextHandler(w, nil)),
		OnRefresh: func(event grants.Refresh) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, event)
		},
	}
	for _, option := range options {
		option(o)
	}
	m := grants.New(testConfig, w.store, o)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = m.Close(ctx)
	})
	return m
}

func (w *world) takeEvents() []grants.Refresh {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	return events
}

// connect puts a grant into the store, whose token has this long to live.
func (w *world) connect(grant string, left time.Duration) {
	w.t.Helper()
	require.NoError(w.t, w.store.Store.Put(context.Background(), grant, &oauth2.Token{
		AccessToken: "access-" + grant + "-0", RefreshToken: "refresh-" + grant + "-0", TokenType: "Bearer", Expiry: time.Now().Add(left),
	}))
}

// row returns what the store holds.
func (w *world) row(grant string) grants.Record {
	w.t.Helper()
	record, err := w.store.Store.Load(context.Background(), grant)
	require.NoError(w.t, err)
	return record
}

// told says whether err asks a customer to reconnect.
func told(err error) bool {
	return err != nil && applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize
}
