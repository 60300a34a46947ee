package applebusinesstest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const (
	state    = "state-1"
	verifier = "verifier-of-at-least-forty-three-characters-x"
)

// clock is one that a test sets.

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newServer(t *testing.T, options *applebusinesstest.Options) *applebusinesstest.Server {
	t.Helper()
	server := applebusinesstest.NewServer(options)
	require.NotEmpty(t, server.URL)
	t.Cleanup(server.Close)
	return server
}

func newConfig(server *applebusinesstest.Server) *oauth2.Config {
	return &oauth2.Config{
		ClientID:     server.App.ClientID,
		ClientSecret: server.App.ClientSecret,
		RedirectURL:  server.App.RedirectURIs[0],
		Endpoint:     server.Endpoint(),
	}
}

func withClient(server *applebusinesstest.Server) context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
}

func authURL(config *oauth2.Config) string {
	return config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))
}

// newCode returns a code that the user's consent brought.

func newCode(t *testing.T, server *applebusinesstest.Server, config *oauth2.Config) string {
	t.Helper()
	redirected, err := server.Authorize(authURL(config))
	require.NoError(t, err)
	redirect, err := applebusiness.ParseRedirect(query(t, redirected))
	require.NoError(t, err)
	require.Equal(t, state, redirect.State)
	return redirect.Code
}

func exchange(server *applebusinesstest.Server, config *oauth2.Config, code string) (*oauth2.Token, error) {
	token, err := config.Exchange(withClient(server), code, oauth2.VerifierOption(verifier))
	return token, applebusiness.Wrap(err)
}

func refresh(server *applebusinesstest.Server, config *oauth2.Config, refreshToken string) (*oauth2.Token, error) {
	token, err := config.TokenSource(withClient(server), &oauth2.Token{RefreshToken: refreshToken}).Token()
	return token, applebusiness.Wrap(err)
}

func serviceToken(server *applebusinesstest.Server, scope string) (*oauth2.Token, error) {
	config := &clientcredentials.Config{
		ClientID:     server.ServiceAccount.ClientID,
		ClientSecret: server.ServiceAccount.ClientSecret,
		TokenURL:     server.Endpoint().TokenURL,
		Scopes:       []string{scope},
		AuthStyle:    oauth2.AuthStyleInParams,
	}
	token, err := config.Token(withClient(server))
	return token, applebusiness.Wrap(err)
}

// entryOf returns the row that an error came from, with the template's placeholder put back.

func entryOf(t *testing.T, err error) applebusiness.Entry {
	t.Helper()
	failed, ok := errors.AsType[*applebusiness.Error](err)
	require.True(t, ok, "%v", err)
	if failed.Parameter != "" {
		failed.Description = strings.Replace(failed.Description, failed.Parameter, "<parameter name>", 1)
	}
	return applebusiness.Entry{
		Endpoint: failed.Endpoint, StatusCode: failed.StatusCode, Code: failed.Code,
		Description: failed.Description, Reason: failed.Reason,
	}
}

func findEntry(t *testing.T, endpoint applebusiness.Endpoint, reason applebusiness.Reason, status int) applebusiness.Entry {
	t.Helper()
	for entry := range applebusiness.Catalog() {
		if entry.Endpoint == endpoint && entry.Reason == reason && entry.StatusCode == status {
			return entry
		}
	}
	require.Fail(t, "no such row", "%s %s %d", endpoint, reason, status)
	return applebusiness.Entry{}
}

func query(t *testing.T, rawURL string) string {
	t.Helper()
	parsed, err := url.Parse(rawURL)
	require.NoError(t, err)
	return parsed.RawQuery
}

// do sends a request without following redirects.

func do(t *testing.T, request *http.Request) (*http.Response, string) {
	t.Helper()
	client := &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.NotEmpty(t, response.Header.Get("apple-request-id"))
	return response, string(body)
}

func send(t *testing.T, method, target, contentType, body string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, target, strings.NewReader(body))
	require.NoError(t, err)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return do(t, request)
}

func get(t *testing.T, target string) (*http.Response, string) {
	t.Helper()
	return send(t, http.MethodGet, target, "", "")
}

// All rows of Apple's tables come back over HTTP as the very same row, one request each.

// What a request can do wrong at the token endpoint has the row that is about it as its response.

// Plain x/oauth2 cannot talk to Apple, and the fake does not hide it.

// What a request can do wrong at the authorization endpoint has the row that is about it as its response: at a registered

// redirect URI, or on a page if there is none.

// A browser brings the redirect to the partner, by both ways of delivery and for both choices.

// Codes die by use, by age and by the wrong partner.

// Failures queue, for each endpoint by itself.

// What a test does wrong panics, with a text that helps.

func TestMisusePanics(t *testing.T) {
	server := newServer(t, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	token := applebusiness.TokenEndpoint
	for want, misuse := range map[string]func(){
		`applebusinesstest: Fail: no row of Apple's tables has the Reason "unknown"; applebusiness.Catalog has them all`:        func() { server.Fail("unknown") },
		`applebusinesstest: Fail: no row of Apple's tables has the Reason "state_mismatch"; applebusiness.Catalog has them all`: func() { server.Fail(applebusiness.ErrStateMismatch) },
		`applebusinesstest: Fail: no row of Apple's tables has the Reason ""; applebusiness.Catalog has them all`:               func() { server.Fail("") },
		`applebusinesstest: FailNext: the Entry is of neither endpoint but of "x"`:                                              func() { server.FailEntry(applebusiness.Entry{Endpoint: "x"}) },
		`applebusinesstest: FailNext: the status 0 ends no request; want one from 200 to 999`:                                   func() { server.FailEntry(applebusiness.Entry{Endpoint: token, Code: "x"}) },
		`applebusinesstest: FailNext: the status 199 ends no request; want one from 200 to 999`:                                 func() { server.FailWith(199, nil, "") },
		`applebusinesstest: FailNext: the status 1000 ends no request; want one from 200 to 999`:                                func() { server.FailWith(1000, nil, "") },
		`applebusinesstest: SetConsent: 3 is no Consent`:                                                                        func() { server.SetConsent(3) },
		`applebusinesstest: RotateSecret: want one secret that is not empty, or none`:                                           func() { server.RotateSecret(server.App.ClientID, "") },
		`applebusinesstest: RegisterApp: the ClientID is empty`:                                                                 func() { server.RegisterApp(applebusinesstest.App{}) },
		`applebusinesstest: RegisterServiceAccount: the ClientID is empty`:                                                      func() { server.RegisterServiceAccount(applebusinesstest.ServiceAccount{}) },
		`applebusinesstest: Revoke: this refresh token was not issued here; 0 were`:                                             func() { server.Revoke("s3cret") },
		`applebusinesstest: Connect: a Service Account has no customers who connect`:                                            func() { server.Connect(server.ServiceAccount.ClientID) },
		`applebusinesstest: listen tcp ` + listener.Addr().String() + `: bind: address already in use`:                          func() { applebusinesstest.NewServer(&applebusinesstest.Options{Addr: listener.Addr().String()}) },
	} {
		assert.PanicsWithValue(t, want, misuse)
	}
	known := fmt.Sprintf("%q are", []string{server.App.ClientID, server.ServiceAccount.ClientID})
	for method, misuse := range map[string]func(){
		"Connect":        func() { server.Connect("unknown") },
		"ConnectExpired": func() { server.ConnectExpired("unknown") },
		"RotateSecret":   func() { server.RotateSecret("unknown") },
		"DeleteApp":      func() { server.DeleteApp("unknown") },
		"FailNext": func() {
			server.FailNext(applebusinesstest.Failure{StatusCode: 503, ClientID: "unknown"})
		},
	} {
		assert.PanicsWithValue(t, fmt.Sprintf(`applebusinesstest: %s: the client_id "unknown" is not registered; %s`, strings.TrimSuffix(method, "Expired"), known), misuse)
	}
	assert.NotPanics(t, func() { server.RotateSecret(server.App.ClientID) }, "nothing is left locked")

	for _, status := range []int{200, 999} { // the first and the last that end a request
		server.FailWith(status, nil, "{}")
		response, err := http.Post(server.Endpoint().TokenURL, "application/json", strings.NewReader("{}"))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.Equal(t, status, response.StatusCode)
	}
}

// What comes over the network, and what nobody started, is no reason to panic.

func TestZero(t *testing.T) {
	for name, server := range map[string]*applebusinesstest.Server{
		"zero": {}, "unstarted": applebusinesstest.NewUnstartedServer(nil), "started": newServer(t, nil),
	} {
		t.Run(name, func(t *testing.T) {
			assert.Empty(t, server.Requests())
			assert.NotNil(t, server.Client())
			server.Heal()
			_, err := server.Authorize("\x00")
			assert.Error(t, err)
			server.Close()
			server.Close()
		})
	}
	t.Run("a zero Server can be started", func(t *testing.T) {
		var server applebusinesstest.Server
		require.NoError(t, server.Start())
		defer server.Close()
		require.ErrorContains(t, server.Start(), "applebusinesstest: ")
		_, err := refresh(&server, &oauth2.Config{ClientID: "a", ClientSecret: "b", Endpoint: server.Endpoint()}, "c")
		assert.ErrorIs(t, err, applebusiness.ErrInvalidClientID)
	})
}

func TestAddr(t *testing.T) {
	t.Run("as written", func(t *testing.T) {
		server := newServer(t, &applebusinesstest.Options{Addr: "localhost:0"})
		assert.True(t, strings.HasPrefix(server.URL, "http://localhost:"), server.URL)
		response, _ := get(t, server.URL)
		assert.Equal(t, http.StatusNotFound, response.StatusCode)
	})
	t.Run("taken", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer listener.Close()
		options := &applebusinesstest.Options{Addr: listener.Addr().String()}
		assert.ErrorContains(t, applebusinesstest.NewUnstartedServer(options).Start(), "applebusinesstest: ")
	})
	t.Run("wrapped", func(t *testing.T) {
		server := applebusinesstest.NewUnstartedServer(nil)
		mux := http.NewServeMux()
		mux.Handle("/", server.Config.Handler)
		mux.HandleFunc("/extra", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
		server.Config.Handler = mux
		require.NoError(t, server.Start())
		defer server.Close()
		response, err := http.Get(server.URL + "/extra")
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, http.StatusTeapot, response.StatusCode)
		_, err = serviceToken(server, "business")
		assert.NoError(t, err)
	})
}

// Many processes with one refresh token: one wins.

// A refresh token that was replaced works for the grace period, counted from its first use; so does its successor.

// The wire says what Apple documents; the log says what is wrong with the state, and not the state.

// Options that are nonsense, or of which one would be ignored, are refused.
func TestOptionsPanic(t *testing.T) {
	const negative = "RefreshTokenLife, GracePeriod, Trickle or RateLimit is negative"
	const grace = "GracePeriod is for refresh tokens that are replaced; want no KeepRefreshToken and no OmitRefreshToken beside it"
	for _, test := range []struct {
		options applebusinesstest.Options
		want    string
	}{
		{applebusinesstest.Options{Deliver: 2}, "2 is no Delivery"},
		{applebusinesstest.Options{Consent: -1}, "-1 is no Consent"},
		{applebusinesstest.Options{AccessTokenLife: 1500 * time.Millisecond}, "AccessTokenLife is 1.5s; want whole seconds, since expires_in has no others"},
		{applebusinesstest.Options{AccessTokenLife: -time.Second}, "AccessTokenLife is -1s; want whole seconds, since expires_in has no others"},
		{applebusinesstest.Options{RefreshTokenLife: -1}, negative},
		{applebusinesstest.Options{GracePeriod: -1}, negative},
		{applebusinesstest.Options{Trickle: -1}, negative},
		{applebusinesstest.Options{RateLimit: -1}, negative},
		{applebusinesstest.Options{KeepRefreshToken: true, OmitRefreshToken: true}, "want KeepRefreshToken or OmitRefreshToken, not both"},
		{applebusinesstest.Options{KeepRefreshToken: true, GracePeriod: time.Second}, grace},
		{applebusinesstest.Options{OmitRefreshToken: true, GracePeriod: time.Second}, grace},
	} {
		assert.PanicsWithValue(t, "applebusinesstest: Options: "+test.want, func() { applebusinesstest.NewUnstartedServer(&test.options) })
	}
}

// After Reset the server is as Start found it.
func TestResetIsANewStart(t *testing.T) {
	server := applebusinesstest.NewUnstartedServer(&applebusinesstest.Options{Consent: applebusinesstest.ConsentAllow, RateLimit: 2, Now: newClock().Now})
	early := applebusinesstest.App{ClientID: "early", ClientSecret: "secret", RedirectURIs: []string{"https://partner.example/early"}}
	server.RegisterApp(early)
	require.NoError(t, server.Start())
	defer server.Close()
	config := newConfig(server)
	first, _ := me(t, server, "Bearer "+server.Connect(config.ClientID).AccessToken)
	require.Equal(t, http.StatusOK, first)

	for range 2 { // the second time after a Reset
		server.RotateSecret(config.ClientID)
		server.RotateSecret(server.ServiceAccount.ClientID)
		server.DeleteApp("early")
		server.RegisterApp(applebusinesstest.App{ClientID: "late"})
		server.SetConsent(applebusinesstest.ConsentDeny)
		server.FailNext(applebusinesstest.Failure{StatusCode: 503, ClientID: config.ClientID, Times: -1})
		for range 3 {
			_, _ = serviceToken(server, "business")
		}
		server.Reset()
	}
	assert.Empty(t, server.Requests())
	_, err := serviceToken(server, "business")
	assert.NoError(t, err)
	_, err = exchange(server, config, newCode(t, server, config))
	assert.NoError(t, err)
	_, body := me(t, server, "Bearer "+server.Connect("early").AccessToken)
	assert.Contains(t, body, `"orgId":"org-3"`, "organisations are counted anew")
	assert.Panics(t, func() { server.Connect("late") })
}

// Failures that have not come to pass are said when the server is closed, without a secret.
func TestCloseReportsFailures(t *testing.T) {
	server := applebusinesstest.NewUnstartedServer(nil)
	var logged bytes.Buffer
	server.Config.ErrorLog = log.New(&logged, "", 0)
	require.NoError(t, server.Start())
	config := newConfig(server)
	token := server.ConnectExpired(config.ClientID)
	server.FailNext(applebusinesstest.Failure{StatusCode: 502})
	server.FailNext(applebusinesstest.Failure{StatusCode: 503, Times: 3, GrantType: "refresh_token"})
	for range 2 {
		_, err := refresh(server, config, token.RefreshToken)
		require.ErrorIs(t, err, applebusiness.ErrUnavailable)
	}
	server.FailNext(applebusinesstest.Failure{StatusCode: 500, RefreshToken: token.RefreshToken, Times: -1})
	_, err := refresh(server, config, token.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrUnavailable)
	server.FailNext(applebusinesstest.Failure{Drop: true, Endpoint: applebusinesstest.MeEndpoint, ClientID: config.ClientID, Times: -1})
	server.Close()
	server.Close()
	const text = "applebusinesstest: Close: a failure has not come to pass: "
	assert.Equal(t, text+`reason "", status 502, takes effect false, delay 0s, hang false, drop false, times 1; for the endpoint "token", grant_type "", client_id "", a refresh_token false
`+text+`reason "", status 503, takes effect false, delay 0s, hang false, drop false, times 1; for the endpoint "token", grant_type "refresh_token", client_id "", a refresh_token false
`+text+`reason "", status 0, takes effect false, delay 0s, hang false, drop true, times -1; for the endpoint "me", grant_type "", client_id "`+config.ClientID+`", a refresh_token false
`, logged.String())

	logged.Reset()
	server.Fail(applebusiness.ErrServer)
	server.Heal()
	server.Close()
	assert.Empty(t, logged.String(), "Heal forgets them")
}

func TestResetAndSetConsent(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	code := newCode(t, server, config)
	server.Fail(applebusiness.ErrServer)
	server.Fail(applebusiness.ErrBadRequest)
	server.Reset()
	assert.Empty(t, server.Requests())
	_, err := refresh(server, config, token.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	_, err = exchange(server, config, code)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	_, err = exchange(server, config, newCode(t, server, config))
	assert.NoError(t, err, "the app is still registered")

	server.SetConsent(applebusinesstest.ConsentDeny)
	redirected, err := server.Authorize(authURL(config))
	require.NoError(t, err)
	_, err = applebusiness.ParseRedirect(query(t, redirected))
	assert.ErrorIs(t, err, applebusiness.ErrUserDenied)
}

// Close cuts off a request that hangs, and its client is told.

func TestCloseCutsOff(t *testing.T) {
	server := applebusinesstest.NewServer(nil)
	config := newConfig(server)
	token := server.ConnectExpired(config.ClientID)
	server.FailNext(applebusinesstest.Failure{Hang: true})
	client := &http.Client{Transport: &applebusiness.Transport{TokenURL: config.Endpoint.TokenURL}} // it would wait for ever
	ended := make(chan error)
	go func() {
		_, err := config.TokenSource(context.WithValue(context.Background(), oauth2.HTTPClient, client), token).Token()
		ended <- err
	}()
	require.Eventually(t, func() bool { return len(server.Requests()) == 1 }, 10*time.Second, time.Millisecond)
	server.Close()
	assert.ErrorIs(t, applebusiness.Wrap(<-ended), applebusiness.ErrNoResponse)
}
