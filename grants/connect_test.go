package grants_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

const mePath = "/api/v1/me"

// consent is the fake Apple in a bubble: its handler is called without a network, behind what a test puts in front.
type consent struct {
	t      *testing.T
	fake   *applebusinesstest.Server
	config *oauth2.Config
	store  *faultyStore

	mu      sync.Mutex
	before  map[string][]answer // instead of the fake's responses, by the path of the request; the last one stays
	arrived []*http.Request
	secrets []string // that went over the wire
}

// answer is a response, or nil and nil for the fake's own.
type answer func(r *http.Request) (*http.Response, error)

func newConsent(t *testing.T) *consent {
	c := &consent{t: t, fake: applebusinesstest.NewUnstartedServer(nil), store: &faultyStore{Store: grants.NewMemoryStore()}}
	c.before = make(map[string][]answer)
	c.fake.URL = "https://apple.example"
	c.config = &oauth2.Config{
		ClientID: c.fake.App.ClientID, ClientSecret: c.fake.App.ClientSecret, RedirectURL: c.fake.App.RedirectURIs[0], Endpoint: c.fake.Endpoint(),
	}
	c.secrets = []string{c.config.ClientSecret}
	return c
}

func inBubble(t *testing.T, f func(t *testing.T, c *consent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newConsent(t)) })
}

// on puts answers in front of the fake's: one for each request to the path, and the last one for all that follow.
func (c *consent) on(path string, answers ...answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before[path] = answers
}

func theFakes(*http.Request) (*http.Response, error) { return nil, nil }

// late answers as the fake after some time; the request has arrived by then.
func late(d time.Duration) answer {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return nil, nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func (c *consent) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	c.mu.Lock()
	c.arrived = append(c.arrived, r)
	c.addSecrets(body)
	var first answer = theFakes
	if answers := c.before[r.URL.Path]; len(answers) > 0 {
		first = answers[0]
		if len(answers) > 1 {
			c.before[r.URL.Path] = answers[1:]
		}
	}
	c.mu.Unlock()
	if response, err := first(r); response != nil || err != nil {
		return response, err
	}
	recorder := httptest.NewRecorder()
	served := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), strings.NewReader(string(body)))
	served.Header = r.Header
	c.fake.Config.Handler.ServeHTTP(recorder, served)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addSecrets(recorder.Body.Bytes())
	return recorder.Result(), nil
}

func (c *consent) addSecrets(body []byte) {
	var members map[string]any
	_ = json.Unmarshal(body, &members)
	for _, name := range []string{"code", "code_verifier", "access_token", "refresh_token"} {
		if secret, _ := members[name].(string); secret != "" {
			c.secrets = append(c.secrets, secret)
		}
	}
}

// requests returns how many requests to a path have arrived.
func (c *consent) requests(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, r := range c.arrived {
		if r.URL.Path == path {
			n++
		}
	}
	return n
}

func (c *consent) exchanges() int { return c.requests("/api/v1/oauth2/token") }

func (c *consent) manager(change ...func(*oauth2.Config, *grants.Options)) *grants.Manager {
	config := *c.config
	options := &grants.Options{
		HTTPClient: &http.Client{Transport: c, Timeout: 30 * time.Second}, Limit: limit(nil), Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&config, options)
	}
	m := grants.New(&config, c.store, options)
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = m.Close(ctx)
	})
	return m
}

// arrival is a browser's return from the consent page.
type arrival struct{ url, state, verifier string }

func (c *consent) arrive() arrival {
	c.t.Helper()
	back := arrival{state: oauth2.GenerateVerifier(), verifier: oauth2.GenerateVerifier()}
	var err error
	back.url, err = c.fake.Authorize(c.config.AuthCodeURL(back.state, oauth2.S256ChallengeOption(back.verifier)))
	require.NoError(c.t, err)
	parsed, err := url.Parse(back.url)
	require.NoError(c.t, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets = append(c.secrets, back.state, back.verifier)
	if code := parsed.Query().Get("code"); code != "" {
		c.secrets = append(c.secrets, code)
	}
	return back
}

func (a arrival) request(ctx context.Context) *http.Request {
	return httptest.NewRequestWithContext(ctx, http.MethodPost, a.url, nil)
}

func (a arrival) connect(m *grants.Manager) (grants.Connection, error) {
	return m.Connect(a.request(context.Background()), a.state, a.verifier)
}

// failed looks at an error of Connect: it shows nothing secret, and advises to try again only if it says that it may.
func (c *consent) failed(t *testing.T, connection grants.Connection, err error, mayRetry bool) {
	t.Helper()
	require.Error(t, err)
	assert.Zero(t, connection)
	if !mayRetry {
		assert.False(t, applebusiness.Retryable(err), "Retryable: %v", err)
		assert.NotEqual(t, applebusiness.ActionRetry, applebusiness.Troubleshoot(err).Action)
	}
	assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
	c.assertShowsNoSecret(t, err)
}

func (c *consent) assertShowsNoSecret(t *testing.T, value any) {
	t.Helper()
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&shown, verb+"\n", value)
	}
	log := slog.New(slog.NewJSONHandler(&shown, nil))
	log.Info("", "value", value)
	if err, ok := value.(error); ok {
		log.Info("", applebusiness.LogAttr(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range c.secrets {
		assert.NotContains(t, shown.String(), secret)
		assert.NotContains(t, shown.String(), fmt.Sprintf("%x", secret))
	}
}

func TestConnect(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				m, ctx := c.manager(), t.Context()
				for n := 1; n <= 2; n++ { // each consent is one organisation's
					back := c.arrive()
					connection, err := m.Connect(httptest.NewRequest(method, back.url, nil), back.state, back.verifier)
					require.NoError(t, err)
					assert.Equal(t, grants.Connection{Grant: fmt.Sprint("org-", n), Name: fmt.Sprint("Example Company ", n)}, connection)
					c.assertShowsNoSecret(t, connection)

					record, err := c.store.Load(ctx, connection.Grant)
					require.NoError(t, err)
					assert.NotEmpty(t, record.Token.RefreshToken)
					assert.WithinDuration(t, time.Now().Add(time.Hour), record.Token.Expiry, time.Minute)
					token, err := m.Token(ctx, connection.Grant)
					require.NoError(t, err)
					assert.Equal(t, record.Token.AccessToken, token.AccessToken)
				}
				assert.Equal(t, 2, c.exchanges())
				assert.Equal(t, 2, c.requests(mePath))
			})
		})
	}
}

// A customer whose grant is dead connects again: this process sees it at once.
func TestConnectAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		m, ctx := c.manager(), t.Context()
		require.NoError(t, m.Put(ctx, "org-1", &oauth2.Token{AccessToken: "old", RefreshToken: "unknown", Expiry: time.Now()}))
		_, err := m.Token(ctx, "org-1")
		require.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
		connection, err := c.arrive().connect(m)
		require.NoError(t, err)
		require.Equal(t, "org-1", connection.Grant)
		token, err := m.Token(ctx, "org-1")
		require.NoError(t, err)
		assert.NotEqual(t, "old", token.AccessToken)
	})
}

// What is refused before the code is sent spends nothing: the right redirect connects afterwards.
func TestConnectSendsNothing(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(back *arrival)
		config  func(*oauth2.Config, *grants.Options)
		request func(r *http.Request)
		want    applebusiness.Reason
		action  applebusiness.Action // start over, if it is ""
		text    string
	}{
		"HEAD": {
			request: func(r *http.Request) { r.Method = http.MethodHead },
			want:    applebusiness.ErrMalformedRedirect, text: "applebusiness: malformed_redirect: HEAD is no user who comes back from Apple",
		},
		"fetched ahead": {
			request: func(r *http.Request) { r.Header.Set("Sec-Purpose", "prefetch;prerender") },
			want:    applebusiness.ErrMalformedRedirect, text: "applebusiness: malformed_redirect: what a browser fetches ahead is no user who comes back from Apple",
		},
		"another state": {
			change: func(back *arrival) { back.state = "another" },
			want:   applebusiness.ErrStateMismatch, text: "applebusiness: state_mismatch: the state is not the expected one",
		},
		"no state": {
			change: func(back *arrival) { back.state = "" },
			want:   applebusiness.ErrStateMismatch, text: "applebusiness: state_mismatch: no state was expected",
		},
		"state twice": {
			change: func(back *arrival) { back.url += "&state=" + back.state },
			want:   applebusiness.ErrMalformedRedirect, text: "applebusiness: malformed_redirect: state is repeated",
		},
		"a denial": {
			change: func(back *arrival) { back.url = "/?error=access_denied&state=" + back.state },
			want:   applebusiness.ErrUserDenied, text: "applebusiness: user_denied: access_denied",
		},
		"an outage at the consent page": {
			change: func(back *arrival) {
				back.url = "/?error=server_error&error_description=server+error&state=" + back.state
			},
			want: applebusiness.ErrServer, text: `applebusiness: server_error: "server error"`,
		},
		"a token URL of another kind": {
			config: func(config *oauth2.Config, _ *grants.Options) {
				config.Endpoint.TokenURL = "https://apple.example/api/v1/token"
			},
			want: applebusiness.ErrUnsafeTokenRequest, action: applebusiness.ActionFixRequest,
			text: "applebusiness/grants: the TokenURL does not end in /oauth2/token, so that nothing says where /me is: applebusiness: unsafe_token_request",
		},
		"a token URL with a line end": {
			config: func(config *oauth2.Config, _ *grants.Options) { config.Endpoint.TokenURL += "\n" },
			want:   applebusiness.ErrUnsafeTokenRequest, action: applebusiness.ActionFixRequest, text: "applebusiness: unsafe_token_request: the Transport has no usable TokenURL",
		},
		"no client secret": {
			config: func(_ *oauth2.Config, options *grants.Options) {
				options.ClientSecret = func(context.Context) (string, error) { return "", errors.New("the vault is sealed") }
			},
			text: "applebusiness/grants: asking for the client secret failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				back, m := c.arrive(), c.manager()
				changed := back
				if test.change != nil {
					test.change(&changed)
				}
				r := changed.request(t.Context())
				if test.request != nil {
					test.request(r)
				}
				if test.config != nil {
					m = c.manager(test.config)
				}
				connection, err := m.Connect(r, changed.state, changed.verifier)
				c.failed(t, connection, err, false)
				if test.want != "" {
					assert.ErrorIs(t, err, test.want)
					assert.Equal(t, cmp.Or(test.action, applebusiness.ActionStartOver), applebusiness.Troubleshoot(err).Action)
				}
				assert.EqualError(t, err, test.text)
				if failed, ok := errors.AsType[*applebusiness.Error](err); ok && failed.Endpoint == applebusiness.TokenEndpoint {
					assert.Equal(t, applebusiness.GrantTypeAuthorizationCode, failed.GrantType)
				}
				assert.Empty(t, c.arrived)
				_, err = back.connect(c.manager())
				assert.NoError(t, err)
			})
		})
	}
	inBubble(t, func(t *testing.T, c *consent) {
		for _, m := range []*grants.Manager{nil, new(grants.Manager)} {
			_, err := m.Connect(nil, "", "")
			assert.EqualError(t, err, "applebusiness/grants: the Manager lacks a config or a Store: use New")
		}
		m := c.manager()
		_, err := m.Connect(nil, "state", "verifier")
		assert.ErrorIs(t, err, applebusiness.ErrMalformedRedirect)
		_, err = m.Connect(new(http.Request), "state", "verifier")
		assert.ErrorIs(t, err, applebusiness.ErrMalformedRedirect)
		require.NoError(t, m.Close(t.Context()))
		_, err = c.arrive().connect(m)
		assert.Equal(t, grants.ErrClosed, err)
		assert.Empty(t, c.arrived)
	})
}

// A code is sent once, unless its exchange says that it is not spent.
func TestConnectExchangeFails(t *testing.T) {
	lost := errors.New("read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer")
	for name, test := range map[string]struct {
		change   func(back *arrival)
		answer   answer
		reason   applebusiness.Reason
		action   applebusiness.Action
		again    int  // requests after the same redirect has come again
		mayRetry bool // as the exchange's own error has it
	}{
		"wrong verifier":              {change: func(back *arrival) { back.verifier = oauth2.GenerateVerifier() }, reason: applebusiness.ErrInvalidRefreshToken, action: applebusiness.ActionStartOver, again: 1},
		"no verifier":                 {change: func(back *arrival) { back.verifier = "" }, reason: applebusiness.ErrMissingParameter, action: applebusiness.ActionFixRequest, again: 1},
		"503":                         {answer: status(503, ""), reason: applebusiness.ErrUnavailable, action: applebusiness.ActionStartOver, again: 1},
		"504, Retry-After":            {answer: status(504, "", "Retry-After", "5"), reason: applebusiness.ErrUnavailable, action: applebusiness.ActionStartOver, again: 1},
		"500":                         {answer: status(500, `{"error":"internal_server_error","error_description":"server error"}`), reason: applebusiness.ErrServer, action: applebusiness.ActionStartOver, again: 1},
		"wrong secret":                {answer: status(401, `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`), reason: applebusiness.ErrInvalidCredentials, action: applebusiness.ActionFixRegistration, again: 1},
		"a proxy":                     {answer: status(403, "<html>", "Content-Type", "text/html"), reason: applebusiness.ErrMalformedResponse, action: applebusiness.ActionCheckNetwork, again: 1},
		"lost":                        {answer: broken(lost), reason: applebusiness.ErrNoResponse, action: applebusiness.ActionStartOver, again: 1},
		"hangs":                       {answer: hang, reason: applebusiness.ErrNoResponse, action: applebusiness.ActionStartOver, again: 1},
		"panics":                      {answer: func(r *http.Request) (*http.Response, error) { panic(r) }, reason: applebusiness.ErrNoResponse, action: applebusiness.ActionStartOver, again: 1},
		"ends the goroutine":          {answer: func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil }, reason: applebusiness.ErrNoResponse, action: applebusiness.ActionStartOver, again: 1},
		"too many requests":           {answer: status(429, "", "Retry-After", "2"), reason: applebusiness.ErrRateLimited, action: applebusiness.ActionRetry, again: 2, mayRetry: true},
		"too many requests, for long": {answer: status(429, "", "Retry-After", "60"), reason: applebusiness.ErrRateLimited, action: applebusiness.ActionStartOver, again: 1},
		"no refresh token": {
			answer: status(200, `{"access_token":"access-token-alone","token_type":"Bearer","expires_in":3600}`),
			reason: applebusiness.ErrNoRefreshToken, action: applebusiness.ActionFixRequest, again: 1,
		},
		"no token": {answer: status(200, `{}`), reason: applebusiness.ErrMalformedResponse, action: applebusiness.ActionCheckNetwork, again: 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				back, m := c.arrive(), c.manager()
				if test.change != nil {
					test.change(&back)
				}
				if test.answer != nil {
					c.on("/api/v1/oauth2/token", test.answer, theFakes)
				}
				for range 3 { // at once, and again
					connection, err := back.connect(m)
					c.failed(t, connection, err, test.mayRetry)
					assert.Equal(t, test.reason, applebusiness.ReasonOf(err), err)
					assert.Equal(t, test.action, applebusiness.Troubleshoot(err).Action)
					failed, ok := errors.AsType[*applebusiness.Error](err)
					require.True(t, ok)
					assert.Equal(t, applebusiness.GrantTypeAuthorizationCode, failed.GrantType)
					assert.Equal(t, 1, c.exchanges())
				}
				time.Sleep(5 * time.Second)
				_, err := back.connect(m)
				assert.Equal(t, test.mayRetry, err == nil)
				assert.Equal(t, test.again, c.exchanges())
				time.Sleep(9 * time.Minute)
				_, _ = back.connect(m)
				assert.Equal(t, test.again, c.exchanges())
				if !test.mayRetry {
					assert.Zero(t, c.requests(mePath))
					assert.Zero(t, c.store.total())
				}
			})
		})
	}
}

// A code that did not leave is sent when the same redirect comes again.
func TestConnectWithoutConnection(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		action applebusiness.Action
	}{
		"refused":      {os.NewSyscallError("connect", syscall.ECONNREFUSED), applebusiness.ActionRetry},
		"unknown host": {&net.DNSError{Err: "no such host", Name: "apple.example", IsNotFound: true}, applebusiness.ActionCheckNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				back, m := c.arrive(), c.manager()
				c.on("/api/v1/oauth2/token", broken(&net.OpError{Op: "dial", Net: "tcp", Err: test.err}), theFakes)
				connection, err := back.connect(m)
				c.failed(t, connection, err, test.action == applebusiness.ActionRetry)
				assert.Equal(t, test.action, applebusiness.Troubleshoot(err).Action)
				_, err = back.connect(m)
				assert.NoError(t, err)
				assert.Equal(t, 2, c.exchanges())
			})
		})
	}
}

// The browser gives up and loads the redirect again, while Apple takes 2 seconds.
func TestConnectGoesOnWithoutTheBrowser(t *testing.T) {
	for name, end := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"canceled": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(500*time.Millisecond, cancel)
			return ctx, cancel
		},
		"too late": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 500*time.Millisecond)
		},
		"before it began": func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				back, m := c.arrive(), c.manager()
				c.on("/api/v1/oauth2/token", late(2*time.Second))
				ctx, cancel := end(t.Context())
				defer cancel()
				connection, err := m.Connect(back.request(ctx), back.state, back.verifier)
				c.failed(t, connection, err, false)
				assert.ErrorIs(t, err, ctx.Err())
				assert.EqualError(t, err, "applebusiness/grants: the request ended while its customer was being connected, which goes on: "+ctx.Err().Error())
				assert.Zero(t, applebusiness.Troubleshoot(err))

				connection, err = back.connect(m)
				assert.NoError(t, err)
				assert.Equal(t, "org-1", connection.Grant)
				assert.Equal(t, 1, c.exchanges())
			})
		})
	}
}

func TestConnectTheSameRedirect(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		back, m := c.arrive(), c.manager()
		c.on("/api/v1/oauth2/token", late(time.Second))
		var browsers sync.WaitGroup
		for range 5 { // at once
			browsers.Go(func() {
				connection, err := back.connect(m)
				assert.NoError(t, err)
				assert.Equal(t, "org-1", connection.Grant)
			})
		}
		browsers.Wait()
		for _, later := range []time.Duration{time.Minute, 8 * time.Minute} {
			time.Sleep(later)
			connection, err := back.connect(m)
			assert.NoError(t, err)
			assert.Equal(t, grants.Connection{Grant: "org-1", Name: "Example Company 1"}, connection)
		}
		assert.Equal(t, 1, c.exchanges())
		assert.Equal(t, 1, c.requests(mePath))
		assert.Equal(t, 1, c.store.count("Put"))

		// Who has the code and not the state or the verifier that it was brought with is not told whose it is.
		for _, thief := range []arrival{
			{back.url, back.state, oauth2.GenerateVerifier()},
			{strings.ReplaceAll(back.url, back.state, "another"), "another", back.verifier},
		} {
			connection, err := thief.connect(m)
			c.failed(t, connection, err, false)
			assert.ErrorIs(t, err, applebusiness.ErrStateMismatch)
			assert.EqualError(t, err, "applebusiness/grants: the code was brought before, with another state or verifier: applebusiness: state_mismatch")
			assert.Equal(t, applebusiness.ActionStartOver, applebusiness.Troubleshoot(err).Action)
		}
		assert.Equal(t, 1, c.exchanges())

		time.Sleep(time.Minute) // it is forgotten, and the code has expired
		connection, err := back.connect(m)
		c.failed(t, connection, err, false)
		assert.Equal(t, applebusiness.ActionStartOver, applebusiness.Troubleshoot(err).Action)
		assert.Equal(t, 2, c.exchanges())
	})
}

// Another process cannot know that the customer is connected, and says to start over.
func TestConnectInASecondProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		back, first, second := c.arrive(), c.manager(), c.manager()
		_, err := back.connect(first)
		require.NoError(t, err)
		connection, err := back.connect(second)
		c.failed(t, connection, err, false)
		assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
		assert.Equal(t, applebusiness.ActionStartOver, applebusiness.Troubleshoot(err).Action)
		_, err = second.Token(t.Context(), "org-1")
		assert.NoError(t, err)
	})
}

// However many redirects come, no more than a thousand outcomes are kept.
func TestConnectKeepsFewOutcomes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		m := c.manager()
		customer := c.arrive()
		connected, err := customer.connect(m)
		require.NoError(t, err)
		c.on("/api/v1/oauth2/token", status(400, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`))
		arrive := func(n int) {
			code := fmt.Sprint("code-", n)
			_, _ = m.Connect(httptest.NewRequest(http.MethodGet, "/?state=s&code="+code, nil), "s", "v")
		}
		for n := range 999 {
			arrive(n)
		}
		require.Equal(t, 1000, c.exchanges())
		for n := range 999 {
			arrive(n)
		}
		require.Equal(t, 1000, c.exchanges(), "all are known")
		arrive(1000)
		for n := range 5000 {
			arrive(n)
		}
		before := c.exchanges()
		assert.Greater(t, before, 5001, "one of them had to go")
		again, err := customer.connect(m)
		require.NoError(t, err, "but not the one that brought a grant")
		assert.Equal(t, connected, again)
		assert.Equal(t, before, c.exchanges())
		time.Sleep(10 * time.Minute)
		arrive(0)
	})
}

func TestConnectStoreFails(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		var log strings.Builder
		m := c.manager(func(_ *oauth2.Config, options *grants.Options) {
			options.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		back := c.arrive()
		c.store.fail(errors.New("the disk is full"), "Put")
		time.AfterFunc(10*time.Minute, func() { c.store.fail(nil) })
		start := time.Now()

		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // the browser gives up
		defer cancel()
		connection, err := m.Connect(back.request(ctx), back.state, back.verifier)
		c.failed(t, connection, err, false)
		assert.Equal(t, 5*time.Second, time.Since(start))
		failed, ok := errors.AsType[*grants.StoreError](err)
		require.True(t, ok, err)
		assert.Equal(t, "org-1", failed.Grant)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.EqualError(t, err, `applebusiness/grants: the Store failed for grant "org-1": "context deadline exceeded: the disk is full"`)
		assert.Zero(t, applebusiness.Troubleshoot(err))

		connection, err = back.connect(m) // it loads the page again, and waits
		require.NoError(t, err)
		assert.Equal(t, "org-1", connection.Grant)
		assert.InDelta(t, 10*time.Minute, time.Since(start), float64(10*time.Second))
		assert.Less(t, c.store.count("Put"), 300, "with a backoff")
		assert.Regexp(t, `^[^\n]*level=ERROR msg="applebusiness/grants: the token of a customer who connects cannot be stored yet" error="[^\n]*the disk is full[^\n]*
[^\n]*level=INFO msg="applebusiness/grants: the token of a customer who connects is stored" grant=org-1
$`, log.String(), "it is said once, and when it is over")
		c.assertShowsNoSecret(t, log.String())
		assert.Equal(t, 1, c.exchanges())
		_, err = m.Token(t.Context(), "org-1")
		assert.NoError(t, err)
	})
}

// A Store whose error quotes what it was given, and one that panics.
func TestConnectStoreIsBroken(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		back, m := c.arrive(), c.manager()
		puts := 0
		c.store.set(func(ctx context.Context, method, grant string) error {
			switch puts++; puts {
			case 1:
				return errors.New("cannot store " + strings.Join(tokensOf(c), " and "))
			case 2, 3:
				panic("a nil map")
			}
			return nil
		}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		connection, err := m.Connect(back.request(ctx), back.state, back.verifier)
		c.failed(t, connection, err, false)
		assert.EqualError(t, err, `applebusiness/grants: the Store failed for grant "org-1": "context deadline exceeded: cannot store *** and ***"`)
		_, err = back.connect(m)
		assert.NoError(t, err)
	})
}

// tokensOf returns the tokens that the fake has issued: the last secrets that went over the wire.
func tokensOf(c *consent) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secrets[len(c.secrets)-2:]
}

// A Put that failed may have taken effect. What has become of the row since then is not undone.
func TestConnectPutOfUnknownOutcome(t *testing.T) {
	later := 2 * time.Hour
	for name, test := range map[string]struct {
		then func(t *testing.T, c *consent) // before the second try
		puts int
		want string // the access token of the row; "": the one that was fetched
	}{
		"stored":                 {func(*testing.T, *consent) {}, 1, ""},
		"refreshed":              {func(t *testing.T, c *consent) { c.replace(t, "newer", later) }, 1, "newer"},
		"an older one came back": {func(t *testing.T, c *consent) { c.replace(t, "older", time.Minute) }, 2, ""},
		"a dead one came back": {func(t *testing.T, c *consent) {
			c.replace(t, "dead", later)
			record, err := c.store.Store.Load(t.Context(), "org-1")
			require.NoError(t, err)
			dead := grants.Mark{Dead: &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken}}
			require.NoError(t, c.store.Store.Mark(t.Context(), "org-1", "", record.Version, dead))
		}, 2, ""},
		"deleted": {func(t *testing.T, c *consent) { require.NoError(t, c.store.Store.Delete(t.Context(), "org-1")) }, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				back, m, ctx := c.arrive(), c.manager(), t.Context()
				c.replace(t, "of long ago", -time.Hour)
				_, err := m.Token(ctx, "org-1")
				require.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
				c.store.set(nil, func(method, _ string) error {
					if method != "Put" {
						return nil
					}
					c.store.fail(nil)
					test.then(t, c)
					return errors.New("the connection broke")
				})
				_, err = back.connect(m)
				require.NoError(t, err)
				assert.Equal(t, test.puts, c.store.count("Put"))
				if test.want == "" {
					test.want = tokensOf(c)[0]
				}
				token, err := m.Token(ctx, "org-1")
				require.NoError(t, err)
				assert.Equal(t, test.want, token.AccessToken)
				record, err := c.store.Load(ctx, "org-1")
				require.NoError(t, err)
				assert.Equal(t, test.want, record.Token.AccessToken)
			})
		})
	}

	// This process has refreshed what was stored, and the row cannot be read at the second try.
	inBubble(t, func(t *testing.T, c *consent) {
		back, m, ctx := c.arrive(), c.manager(), t.Context()
		c.store.set(nil, func(method, _ string) error {
			if method != "Put" {
				return nil
			}
			c.store.fail(nil)
			token, err := m.Token(ctx, "org-1")
			assert.NoError(t, err)
			m.Invalidate("org-1", token)
			_, err = m.Token(ctx, "org-1")
			assert.NoError(t, err)
			synctest.Wait() // what was fetched is stored after the caller has it
			c.store.fail(errDatabase, "Load")
			return errDatabase
		})
		_, err := back.connect(m)
		require.NoError(t, err)
		assert.Equal(t, 1, c.store.count("Put"))
		assert.Equal(t, tokensOf(c)[0], func() string { r, _ := c.store.Store.Load(ctx, "org-1"); return r.Token.AccessToken }())
	})
}

func (c *consent) replace(t *testing.T, access string, left time.Duration) {
	require.NoError(t, c.store.Store.Put(t.Context(), "org-1", &oauth2.Token{
		AccessToken: access, RefreshToken: "refresh", Expiry: time.Now().Add(left),
	}))
}

// Close waits for a customer who is being connected, and names what it gives up; a later one stores it.
func TestConnectAndClose(t *testing.T) {
	for name, test := range map[string]struct {
		trouble func(c *consent)
		text    string // of the Close that gives up after a second
		later   string // of one that comes when the trouble is over
		stored  bool   // by that one
	}{
		"none": {func(*consent) {}, "", "", true},
		"the exchange is under way": {
			func(c *consent) { c.on("/api/v1/oauth2/token", late(10*time.Second)) },
			`applebusiness/grants: closed before the newest token was stored of a customer who was connecting: "context deadline exceeded"`,
			`applebusiness/grants: closed before the newest token was stored of a customer who was connecting: "Close gave up while its token was on its way"`, false,
		},
		"the organisation is not known": {
			func(c *consent) { c.on(mePath, hang) },
			`applebusiness/grants: closed before the newest token was stored of a customer who was connecting: "context deadline exceeded"`,
			"", true,
		},
		"the Store fails": {
			func(c *consent) { c.store.fail(errors.New("the disk is full"), "Put") },
			`applebusiness/grants: closed before the newest token was stored of "org-1": "the disk is full"`,
			"", true,
		},
		"the Store fails, and hangs then": {
			func(c *consent) {
				errs := []error{errors.New("the disk is full"), errors.New("the key is lost")}
				c.store.set(func(ctx context.Context, method, _ string) error {
					if method != "Put" {
						return nil
					}
					if len(errs) == 0 {
						<-ctx.Done()
						return ctx.Err()
					}
					err := errs[0]
					errs = errs[1:]
					return err
				}, nil)
			},
			`applebusiness/grants: closed before the newest token was stored of "org-1": "the key is lost"`,
			"", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				back, m := c.arrive(), c.manager()
				test.trouble(c)
				var connection grants.Connection
				var connectErr error
				var browser sync.WaitGroup
				browser.Go(func() { connection, connectErr = back.connect(m) })
				synctest.Wait()
				closeFor := func(d time.Duration) error {
					ctx, cancel := context.WithTimeout(t.Context(), d)
					defer cancel()
					return m.Close(ctx)
				}
				err := closeFor(time.Second)
				browser.Wait()
				assertText(t, test.text, err)
				if test.text == "" {
					assert.NoError(t, connectErr)
					assert.Equal(t, "org-1", connection.Grant)
				} else {
					c.assertShowsNoSecret(t, err)
					assert.Equal(t, grants.ErrClosed, connectErr)
				}

				err = closeFor(time.Second) // the trouble is not over
				if test.text != "" {
					assert.Error(t, err, "it is named again")
				}
				if test.stored && test.text != "" {
					assert.EqualError(t, err, test.text)
				}
				c.store.fail(nil)
				c.on(mePath, theFakes)
				err = closeFor(time.Minute)
				assertText(t, test.later, err)
				_, err = c.store.Load(t.Context(), "org-1")
				assert.Equal(t, test.stored, err == nil)
				puts := c.store.count("Put")
				_ = closeFor(time.Minute)
				assert.Equal(t, puts, c.store.count("Put"), "it is stored once")
			})
		})
	}
}

// assertText asserts that err has this text, and is nil if the text is "".
func assertText(t *testing.T, text string, err error) {
	t.Helper()
	if text == "" {
		assert.NoError(t, err)
	} else {
		assert.EqualError(t, err, text)
	}
}

// A Close with time enough waits for all of it.
func TestCloseWaitsForConnect(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		back, m := c.arrive(), c.manager()
		c.on("/api/v1/oauth2/token", late(10*time.Second))
		c.on(mePath, status(503, ""), theFakes)
		c.store.fail(errors.New("the disk is full"), "Put")
		time.AfterFunc(30*time.Second, func() { c.store.fail(nil) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.Connect(back.request(ctx), back.state, back.verifier)
		require.Error(t, err)
		assert.NoError(t, m.Close(t.Context()))
		_, err = c.store.Load(t.Context(), "org-1")
		assert.NoError(t, err)
	})
}

// An exchange says of the app what a refresh would say, and is not held back by it.
func TestConnectAndTheApp(t *testing.T) {
	const wrongSecret = `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`
	for name, test := range map[string]struct {
		answer answer
		want   applebusiness.Reason // for others, who need a refresh
	}{
		"wrong secret":      {status(401, wrongSecret), applebusiness.ErrInvalidCredentials},
		"too many requests": {status(429, "", "Retry-After", "30"), applebusiness.ErrRateLimited},
		"a spent code":      {status(400, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`), ""},
		"no verifier":       {status(400, `{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: code_verifier missing"}`), ""},
		"503 once":          {status(503, ""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				m, ctx := c.manager(), t.Context()
				for _, grant := range []string{"org-7", "org-8"} {
					require.NoError(t, m.Put(ctx, grant, c.fake.ConnectExpired(c.config.ClientID)))
				}
				c.on("/api/v1/oauth2/token", test.answer, theFakes)
				connection, err := c.arrive().connect(m)
				c.failed(t, connection, err, true)
				_, err = m.Token(ctx, "org-7")
				if test.want == "" {
					require.NoError(t, err)
					return
				}
				assert.ErrorIs(t, err, test.want)
				require.Equal(t, 1, c.exchanges(), "nothing is sent for others")
				failed, ok := errors.AsType[*applebusiness.Error](err)
				require.True(t, ok)
				assert.Equal(t, applebusiness.GrantTypeRefreshToken, failed.GrantType)

				connection, err = c.arrive().connect(m)
				require.NoError(t, err, "a customer who waits is not held back")
				if test.want == applebusiness.ErrInvalidCredentials {
					_, err = m.Token(ctx, "org-8")
					assert.NoError(t, err, "an exchange that succeeds opens the way for all")
				}
				_, err = m.Token(ctx, connection.Grant)
				assert.NoError(t, err)
			})
		})
	}
}

// Codes that are refused, from however many browsers, are nobody's refresh token and nothing of the app's: no other grant is
// held back, and no customer is told to reconnect.
func TestConnectWithManySpentCodes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		m, ctx := c.manager(), t.Context()
		require.NoError(t, m.Put(ctx, "org-7", c.fake.ConnectExpired(c.config.ClientID)))
		spent := status(400, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`)
		for range 5 {
			c.on("/api/v1/oauth2/token", spent)
			connection, err := c.arrive().connect(m)
			c.failed(t, connection, err, true)
			assert.Equal(t, applebusiness.ActionStartOver, applebusiness.Troubleshoot(err).Action)
		}
		c.on("/api/v1/oauth2/token", theFakes)
		_, err := m.Token(ctx, "org-7")
		assert.NoError(t, err)
	})
}

// What somebody made up for a code holds nobody back, whatever it is answered.
func TestConnectWithForgedCodes(t *testing.T) {
	for name, test := range map[string]struct {
		code   string
		answer answer
	}{
		"no text":           {code: "%ff"},
		"too long":          {code: strings.Repeat("%01", 21_000)},
		"a firewall's 403":  {"x", status(403, "<html>blocked</html>")},
		"an unknown error":  {"x", status(400, `{"error":"invalid_code"}`)},
		"a server's defect": {"x", status(500, `{"error":"internal_server_error","error_description":"server error"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				m := c.manager()
				require.NoError(t, m.Put(t.Context(), "org-7", c.fake.ConnectExpired(c.config.ClientID)))
				for n := range 5 {
					if test.answer != nil {
						c.on("/api/v1/oauth2/token", test.answer)
					}
					_, err := m.Connect(httptest.NewRequest("GET", fmt.Sprint("/?state=s&code=", n, test.code), nil), "s", "v")
					require.Error(t, err)
				}
				c.on("/api/v1/oauth2/token", theFakes)
				_, err := m.Token(t.Context(), "org-7")
				assert.NoError(t, err)
			})
		})
	}
}

// A vault that fails for a moment costs nothing: the same redirect connects when it works again.
func TestConnectWithoutSecret(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		var vault error = errDatabase
		m := c.manager(func(config *oauth2.Config, options *grants.Options) {
			options.ClientSecret = func(context.Context) (string, error) { return c.config.ClientSecret, vault }
		})
		back := c.arrive()
		connection, err := back.connect(m)
		c.failed(t, connection, err, false)
		assert.Zero(t, c.exchanges())
		time.Sleep(2 * time.Second)
		vault = nil
		_, err = back.connect(m)
		assert.NoError(t, err)
	})

	// What was not sent is not named by a Close that gives up.
	for name, change := range map[string]func(*grants.Options){
		"the vault hangs": func(options *grants.Options) {
			options.ClientSecret = func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
		},
		"Limit hangs": func(options *grants.Options) {
			options.Limit = limit(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				m := c.manager(func(_ *oauth2.Config, options *grants.Options) { change(options) })
				back := c.arrive()
				var browser sync.WaitGroup
				browser.Go(func() {
					_, err := back.connect(m)
					assert.Equal(t, grants.ErrClosed, err)
				})
				synctest.Wait()
				for range 2 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					assert.NoError(t, m.Close(ctx))
					cancel()
					browser.Wait()
				}
				assert.Empty(t, c.arrived)
			})
		})
	}
}

// A secret that was replaced costs the customer who meets it first another try, and nobody else.
func TestConnectWithAReplacedSecret(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		var asked int
		c.config.ClientSecret = ""
		m, ctx := c.manager(func(_ *oauth2.Config, options *grants.Options) {
			options.ClientSecret = func(context.Context) (string, error) {
				if asked++; asked == 1 {
					return "the-old-client-secret", nil
				}
				return c.fake.App.ClientSecret, nil
			}
		}), t.Context()
		c.secrets = append(c.secrets, "the-old-client-secret")
		require.NoError(t, m.Put(ctx, "org-7", c.fake.ConnectExpired(c.config.ClientID)))
		back := c.arrive()
		for range 2 {
			connection, err := back.connect(m)
			c.failed(t, connection, err, false)
			assert.ErrorIs(t, err, applebusiness.ErrInvalidCredentials)
			assert.Equal(t, 1, c.exchanges(), "a code is not sent again unasked")
		}
		_, err := m.Token(ctx, "org-7")
		assert.NoError(t, err)
		_, err = c.arrive().connect(m)
		assert.NoError(t, err)
		assert.Equal(t, 2, asked)
	})
}

// Limit counts an exchange too; where it fails or takes too long, the customer does not wait for it.
func TestConnectAsksLimit(t *testing.T) {
	for name, test := range map[string]struct {
		wait  limit
		takes time.Duration
	}{
		"a second": {func(ctx context.Context) error { time.Sleep(time.Second); return nil }, time.Second},
		"fails":    {func(ctx context.Context) error { return errDatabase }, 0},
		"hangs":    {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				asked := 0
				m := c.manager(func(_ *oauth2.Config, options *grants.Options) {
					options.Limit = limit(func(ctx context.Context) error { asked++; return test.wait(ctx) })
				})
				start := time.Now()
				_, err := c.arrive().connect(m)
				assert.NoError(t, err)
				assert.Equal(t, 1, asked)
				assert.Equal(t, test.takes, time.Since(start))
			})
		})
	}
}

// What a network does to a customer who connects.
func TestConnectOverTCP(t *testing.T) {
	t.Parallel()
	me := func(failure applebusinesstest.Failure) applebusinesstest.Failure {
		failure.Endpoint = applebusinesstest.MeEndpoint
		return failure
	}
	for name, test := range map[string]struct {
		failure applebusinesstest.Failure
		action  applebusiness.Action // "": it is connected
	}{
		"nothing":                   {applebusinesstest.Failure{TakesEffect: true, Delay: time.Millisecond}, ""},
		"/me breaks once":           {me(applebusinesstest.Failure{Drop: true}), ""},
		"/me hangs once":            {me(applebusinesstest.Failure{Hang: true}), ""},
		"/me answers 503 twice":     {me(applebusinesstest.Failure{StatusCode: 503, Times: 2}), ""},
		"the exchange's is lost":    {applebusinesstest.Failure{TakesEffect: true, Drop: true}, applebusiness.ActionStartOver},
		"the exchange is not heard": {applebusinesstest.Failure{Drop: true}, applebusiness.ActionStartOver},
		"a gateway answers for it":  {applebusinesstest.Failure{StatusCode: 504, TakesEffect: true}, applebusiness.ActionStartOver},
		"/me has another dialect":   {me(applebusinesstest.Failure{StatusCode: 403, Body: `[{"code":"Forbidden"}]`}), applebusiness.ActionStartOver},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := applebusinesstest.NewServer(nil)
			defer fake.Close()
			fake.FailNext(test.failure)
			config := &oauth2.Config{ClientID: fake.App.ClientID, ClientSecret: fake.App.ClientSecret, RedirectURL: fake.App.RedirectURIs[0], Endpoint: fake.Endpoint()}
			m := grants.New(config, grants.NewMemoryStore(), &grants.Options{HTTPClient: &http.Client{Timeout: 15 * time.Second}}) // a third of it for each try of /me
			defer m.Close(t.Context())
			back := arrival{state: oauth2.GenerateVerifier(), verifier: oauth2.GenerateVerifier()}
			var err error
			back.url, err = fake.Authorize(config.AuthCodeURL(back.state, oauth2.S256ChallengeOption(back.verifier)))
			require.NoError(t, err)
			connection, err := back.connect(m)
			assert.Equal(t, test.action, applebusiness.Troubleshoot(err).Action)
			assert.False(t, applebusiness.Retryable(err))
			assert.Equal(t, test.action == "", err == nil, err)
			assert.Equal(t, test.action == "", connection.Grant == "org-1")
			assert.Len(t, slices.DeleteFunc(fake.Requests(), func(r applebusinesstest.Request) bool { return r.GrantType == "" }), 1)
		})
	}
}

// A customer who connects shows that Apple answers, not that the refresh tokens of others are good.
func TestConnectWhileManyAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, c *consent) {
		m := c.manager()
		refused := status(401, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`)
		c.on("/api/v1/oauth2/token", refused, refused, refused, theFakes)
		var err error
		for _, grant := range []string{"org-7", "org-8", "org-9"} {
			require.NoError(t, m.Put(t.Context(), grant, c.fake.ConnectExpired(c.config.ClientID)))
			_, err = m.Token(t.Context(), grant)
		}
		require.ErrorIs(t, err, applebusiness.ErrManyRefusals)
		_, err = c.arrive().connect(m)
		require.NoError(t, err)
		_, err = m.Token(t.Context(), "org-9")
		assert.ErrorIs(t, err, applebusiness.ErrManyRefusals)
		require.NoError(t, m.Put(t.Context(), "org-6", c.fake.ConnectExpired(c.config.ClientID)))
		_, err = m.Token(t.Context(), "org-6")
		assert.ErrorIs(t, err, applebusiness.ErrManyRefusals, "one at a time probes, as before")
		assert.Equal(t, 4, c.exchanges())
	})
}
