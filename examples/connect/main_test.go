package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const liveness = 30 * time.Second

// partner is a running program with the fake that it is pointed to, and a browser. Its pages and its log are searched
// for secrets when the test ends.
type partner struct {
	t      *testing.T
	fake   *applebusinesstest.Server
	url    string
	client *http.Client // follows redirects, keeps cookies
	log    lockedBuffer
	stop   func() int

	before func(w http.ResponseWriter, r *http.Request) bool // answers instead of the fake if it returns true

	mu      sync.Mutex
	secrets []string // that went over the wire
	refresh string   // the newest refresh token
	pages   []string
}

type lockedBuffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

func start(t *testing.T, options applebusinesstest.Options) *partner {
	t.Helper()
	p := &partner{t: t, client: newBrowser(t)}
	p.fake = applebusinesstest.NewUnstartedServer(&options)
	p.fake.Config.Handler = p.listen(p.fake.Config.Handler)
	require.NoError(t, p.fake.Start())
	t.Cleanup(p.fake.Close)
	addr := freeAddr(t)
	app := applebusinesstest.App{
		ClientID: "my-app", ClientSecret: "client-secret-of-the-app", RedirectURIs: []string{"http://" + addr + callbackPath},
	}
	p.fake.RegisterApp(app)
	p.secrets = []string{app.ClientSecret}

	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"-addr", addr, "-client-id", app.ClientID, "-redirect-url", app.RedirectURIs[0],
			"-auth-url", p.fake.URL, "-api-url", p.fake.URL + "/",
		}, getenv(map[string]string{secretVariable: app.ClientSecret}), writer, &p.log)
		writer.Close()
	}()
	p.stop = sync.OnceValue(func() int {
		p.client.CloseIdleConnections()
		cancel()
		return <-ended
	})
	line, err := bufio.NewReader(reader).ReadString('\n')
	require.NoError(t, err, p.log.String())
	require.Equal(t, "Open http://"+addr+"/\n", line)
	p.url = "http://" + addr
	t.Cleanup(func() {
		assert.Equal(t, 0, p.stop())
		p.assertNoSecrets()
	})
	return p
}

func newBrowser(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar, Timeout: liveness}
}

func freeAddr(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func getenv(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

// listen notes the secrets that pass through the fake's token endpoint.
func (p *partner) listen(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.before != nil && p.before(w, r) {
			return
		}
		if r.URL.Path != "/api/v1/oauth2/token" {
			next.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		var sent, answered map[string]any
		_ = json.Unmarshal(body, &sent)
		_ = json.Unmarshal(recorder.Body.Bytes(), &answered)
		p.mu.Lock()
		for _, members := range []map[string]any{sent, answered} {
			for _, name := range []string{"code", "code_verifier", "refresh_token", "access_token"} {
				if secret, ok := members[name].(string); ok {
					p.secrets = append(p.secrets, secret)
				}
			}
		}
		if token, ok := answered["refresh_token"].(string); ok {
			p.refresh = token
		}
		p.mu.Unlock()
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	})
}

func (p *partner) assertNoSecrets() {
	p.mu.Lock()
	defer p.mu.Unlock()
	base, _ := url.Parse(p.url)
	for _, cookie := range p.client.Jar.Cookies(base) {
		p.secrets = append(p.secrets, cookie.Value)
	}
	for _, request := range p.fake.Requests() {
		if state := request.Params.Get("state"); state != "" {
			p.secrets = append(p.secrets, state)
		}
	}
	for _, secret := range p.secrets {
		assert.NotContains(p.t, p.log.String(), secret, "the log")
		for _, page := range p.pages {
			assert.NotContains(p.t, page, secret, "a page")
		}
	}
}

// do returns the status and the text of the page that a request leads to.
func (p *partner) do(client *http.Client, method, address string, header http.Header) (int, string) {
	p.t.Helper()
	response := p.send(client, method, address, header)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pages = append(p.pages, string(body))
	return response.StatusCode, string(body)
}

func (p *partner) send(client *http.Client, method, address string, header http.Header) *http.Response {
	p.t.Helper()
	request, err := http.NewRequest(method, address, nil)
	require.NoError(p.t, err)
	if header != nil {
		request.Header = header
	}
	response, err := client.Do(request)
	require.NoError(p.t, err)
	return response
}

func (p *partner) get(path string) (int, string) {
	p.t.Helper()
	return p.do(p.client, http.MethodGet, p.url+path, nil)
}

// press sends the main page's only form whose path ends so.
func (p *partner) press(suffix string) (int, string) {
	p.t.Helper()
	_, page := p.get("/")
	paths := regexp.MustCompile(`action="(/connections/[^"]*/` + suffix + `)"`).FindStringSubmatch(page)
	require.NotNil(p.t, paths, page)
	return p.do(p.client, http.MethodPost, p.url+paths[1], nil)
}

// begin starts a login in the browser, and returns the callback URL to which Apple sends it.
func (p *partner) begin() string {
	p.t.Helper()
	response := p.send(p.withoutRedirects(), http.MethodGet, p.url+"/connect", nil)
	defer response.Body.Close()
	require.Equal(p.t, http.StatusSeeOther, response.StatusCode)
	callbackURL, err := p.fake.Authorize(response.Header.Get("Location"))
	require.NoError(p.t, err)
	return callbackURL
}

func (p *partner) withoutRedirects() *http.Client {
	client := *p.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

func (p *partner) connect() {
	p.t.Helper()
	status, page := p.get("/connect")
	require.Equal(p.t, http.StatusOK, status, page)
	require.Contains(p.t, page, `<p class="state good">Connected</p>`)
}

func (p *partner) revoke() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fake.Revoke(p.refresh)
}

// tokenRequests returns the grant_types that arrived.
func (p *partner) tokenRequests() []string {
	var grants []string
	for _, request := range p.fake.Requests() {
		if request.Endpoint == applebusiness.TokenEndpoint {
			grants = append(grants, request.GrantType)
		}
	}
	return grants
}

var allow = applebusinesstest.Options{Consent: applebusinesstest.ConsentAllow}

func TestAllow(t *testing.T) {
	p := start(t, allow)
	_, page := p.get("/")
	assert.Contains(t, page, "Nobody is connected yet.")
	p.connect()
	_, page = p.get("/")
	assert.Contains(t, page, "<bdi>Example Company 1</bdi>")
	assert.Contains(t, page, "<bdi>org-1</bdi>")
	assert.Contains(t, page, "expires in 60 minutes")
	assert.Contains(t, page, "Apple documents no way to revoke them from here")
	assert.NotContains(t, page, "Fake")

	p.connect()
	_, page = p.get("/")
	assert.Contains(t, page, "Example Company 1", "another organisation is another connection")
	assert.Contains(t, page, "Example Company 2")
	assert.Equal(t, []string{"authorization_code", "authorization_code"}, p.tokenRequests())
}

func TestDeny(t *testing.T) {
	p := start(t, applebusinesstest.Options{Consent: applebusinesstest.ConsentDeny})
	status, page := p.get("/connect")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, page, "<h1>The connection was not made</h1>")
	assert.Contains(t, page, "Nothing is broken, and you can start over at any time.")
	assert.Contains(t, page, `href="/connect"`)
	assert.Empty(t, p.tokenRequests())
}

func TestCallbackByPost(t *testing.T) {
	p := start(t, allow)
	fromApple := http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {p.fake.URL}}

	callbackURL := p.begin()
	withoutCookies := &http.Client{CheckRedirect: p.withoutRedirects().CheckRedirect, Timeout: liveness}
	response := p.send(withoutCookies, http.MethodPost, callbackURL, fromApple.Clone())
	response.Body.Close()
	assert.Equal(t, http.StatusSeeOther, response.StatusCode)
	location, err := response.Location()
	require.NoError(t, err)
	assert.Equal(t, callbackURL, location.String())
	assert.Empty(t, p.tokenRequests(), "nothing is redeemed before the cookie is there")
	_, page := p.do(p.client, http.MethodGet, callbackURL, nil)
	assert.Contains(t, page, "Example Company 1")

	callbackURL = p.begin()
	_, page = p.do(p.client, http.MethodPost, callbackURL, fromApple.Clone())
	assert.Contains(t, page, "Example Company 2")
	assert.Len(t, p.tokenRequests(), 2)
}

func TestForgedCallbackIsRefused(t *testing.T) {
	p := start(t, allow)
	callbackURL := p.begin()
	parsed, err := url.Parse(callbackURL)
	require.NoError(t, err)
	query := parsed.Query()
	change := func(name, value string) string {
		changed := parsed.Query()
		changed.Set(name, value)
		return p.url + callbackPath + "?" + changed.Encode()
	}
	const mismatch = "does not belong to a connection that was started in this browser"
	for name, test := range map[string]struct {
		client  *http.Client
		address string
		text    string
	}{
		"another state":         {p.client, change("state", "forged"), mismatch},
		"no state":              {p.client, p.url + callbackPath + "?code=" + query.Get("code"), mismatch},
		"error, another state":  {p.client, p.url + callbackPath + "?error=server_error&state=forged", mismatch},
		"another browser":       {newBrowser(t), callbackURL, mismatch},
		"nothing":               {p.client, p.url + callbackPath, mismatch},
		"state twice":           {p.client, callbackURL + "&state=forged", "not an answer that Apple sends"},
		"a query that is wrong": {p.client, p.url + callbackPath + "?%zz", "not an answer that Apple sends"},
	} {
		status, page := p.do(test.client, http.MethodGet, test.address, nil)
		assert.Equal(t, http.StatusBadRequest, status, name)
		assert.Contains(t, page, test.text, name)
	}
	assert.Empty(t, p.tokenRequests())
	_, page := p.do(p.client, http.MethodGet, callbackURL, nil)
	assert.Contains(t, page, "Example Company 1", "a forged callback does not end the login")
}

func TestEmptyCookieIsNotKept(t *testing.T) {
	p := start(t, allow)
	response := p.send(p.withoutRedirects(), http.MethodGet, p.url+"/connect", http.Header{"Cookie": {"browser="}})
	defer response.Body.Close()
	assert.NotEmpty(t, response.Cookies()[0].Value)
}

func TestReplayedCallbackIsNotRedeemed(t *testing.T) {
	p := start(t, allow)
	callbackURL := p.begin()
	_, page := p.do(p.client, http.MethodGet, callbackURL, nil)
	assert.Contains(t, page, "Example Company 1")
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		status, page := p.do(p.client, method, callbackURL, nil)
		assert.Equal(t, http.StatusBadRequest, status)
		assert.Contains(t, page, "<h1>This answer was used before</h1>")
	}
	assert.Len(t, p.tokenRequests(), 1)
	_, page = p.get("/")
	assert.Equal(t, 1, strings.Count(page, "<article"))
}

func TestTwoTabs(t *testing.T) {
	p := start(t, allow)
	first, second := p.begin(), p.begin()
	for _, callbackURL := range []string{first, second} {
		_, page := p.do(p.client, http.MethodGet, callbackURL, nil)
		assert.Contains(t, page, "Example Company")
	}
	assert.Len(t, p.tokenRequests(), 2)
}

func TestRevokedThenReconnected(t *testing.T) {
	p := start(t, allow)
	p.connect()
	_, page := p.get("/")
	refreshPath := regexp.MustCompile(`/connections/[^"]*/refresh`).FindString(page)
	p.revoke()
	for range 2 {
		_, page = p.do(p.client, http.MethodPost, p.url+refreshPath, nil)
		assert.Contains(t, page, `<p class="state bad">Needs reconnecting</p>`)
		assert.Contains(t, page, html.EscapeString(`invalid_grant: "Invalid refresh_token" (HTTP 401)`))
		assert.Contains(t, page, html.EscapeString("The customer revoked the partner's access to their Apple Business account."))
		assert.Contains(t, page, "Only otherwise ask this customer to reconnect.")
		assert.Contains(t, page, "This customer only.")
	}
	assert.Equal(t, []string{"authorization_code", "refresh_token"}, p.tokenRequests(), "a dead grant is asked about once")

	link := regexp.MustCompile(`/connect\?connection=[^"]*`).FindString(page)
	require.NotEmpty(t, link)
	_, page = p.get(link)
	assert.Equal(t, 1, strings.Count(page, "<article"), "the new connection replaces the old one")
	assert.Contains(t, page, `<p class="state good">Connected</p>`)
	assert.Contains(t, page, "<bdi>Example Company 1</bdi>; the customer reconnected as another organisation")
	_, page = p.press("refresh")
	assert.Contains(t, page, `<p class="state good">Connected</p>`, "the new TokenSource is not held")
	status, _ := p.do(p.client, http.MethodPost, p.url+refreshPath, nil)
	assert.Equal(t, http.StatusNotFound, status)
}

func TestSameOrganisationIsOneConnection(t *testing.T) {
	p := start(t, allow)
	p.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/me" {
			fmt.Fprint(w, `{"orgDetails":{"orgId":"7","legalName":"Tom & <b>Jerry</b>"}}`)
		}
		return r.URL.Path == "/api/v1/me"
	}
	p.connect()
	p.connect()
	_, page := p.get("/")
	assert.Equal(t, 1, strings.Count(page, "<article"))
	assert.Contains(t, page, "<bdi>Tom &amp; &lt;b&gt;Jerry&lt;/b&gt;</bdi>")
	assert.NotContains(t, page, "another organisation")
}

func TestRefreshFails(t *testing.T) {
	for name, test := range map[string]struct {
		fail  func(p *partner)
		texts []string
		heals bool
	}{
		"503": {
			func(p *partner) { p.fake.FailWith(http.StatusServiceUnavailable, nil, "<html>") },
			[]string{`<p class="state wait">Try again later</p>`, "no OAuth error was received (HTTP 503)", "Everybody, for a while.", "expires in 60 minutes"},
			true,
		},
		"429": {
			func(p *partner) {
				p.fake.FailWith(http.StatusTooManyRequests, http.Header{"Retry-After": {"120"}}, "")
			},
			[]string{`<p class="state wait">Try again later</p>`, "<dd>to wait 2 minutes</dd>"},
			false, // for 2 minutes
		},
		"unreachable": {
			func(p *partner) { p.fake.Close() },
			[]string{`<p class="state wait">Try again later</p>`, "Apple could not be reached."},
			false,
		},
		"secret replaced": {
			func(p *partner) { p.fake.RotateSecret("my-app") },
			[]string{`<p class="state bad">Fails</p>`, "All customers of this app.", "none has to reconnect"},
			false,
		},
		"not documented": {
			func(p *partner) { p.fake.FailWith(http.StatusTeapot, nil, `{"error":"teapot"}`) },
			[]string{`<p class="state bad">Fails</p>`, html.EscapeString(`"teapot" (HTTP 418)`), "ask nobody to reconnect"},
			true,
		},
		"markup": {
			func(p *partner) {
				p.fake.FailWith(http.StatusBadRequest, nil, `{"error":"x","error_description":"<script>alert(1)</script>"}`)
			},
			[]string{"&lt;script&gt;alert(1)&lt;/script&gt;"},
			true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, allow)
			p.connect()
			test.fail(p)
			status, page := p.press("refresh")
			assert.Equal(t, http.StatusOK, status)
			for _, text := range test.texts {
				assert.Contains(t, page, text)
			}
			assert.NotContains(t, page, "Needs reconnecting")
			assert.NotContains(t, page, "/connect?connection=")
			assert.NotContains(t, page, "<script")
			_, page = p.press("refresh")
			assert.Equal(t, test.heals, strings.Contains(page, `<p class="state good">Connected</p>`))
		})
	}
}

func TestConnectFails(t *testing.T) {
	for name, test := range map[string]struct {
		fail   func(p *partner)
		status int
		texts  []string
	}{
		"markup in the redirect": {
			func(p *partner) {
				p.fake.FailEntry(applebusiness.Entry{
					Endpoint: applebusiness.AuthorizationEndpoint, Code: "invalid_request", Description: `<img src=x onerror="alert(1)">`,
				})
			},
			http.StatusBadGateway, []string{"&lt;img src=x onerror="},
		},
		"the redirect says server_error": {
			func(p *partner) {
				p.fake.FailEntry(applebusiness.Entry{
					Endpoint: applebusiness.AuthorizationEndpoint, Code: applebusiness.CodeServerError, Description: "server error",
				})
			},
			http.StatusServiceUnavailable, []string{"<h1>Try again later</h1>", "server_error"},
		},
		"the code is refused": {
			func(p *partner) { p.fake.Fail(applebusiness.ErrInvalidRefreshToken) },
			http.StatusBadGateway, []string{"The authorization code was older than 5 minutes."},
		},
		"the exchange fails": {
			func(p *partner) { p.fake.Fail(applebusiness.ErrUnknownServerError) },
			http.StatusBadGateway, []string{"Do not send the authorization code again"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, allow)
			test.fail(p)
			status, page := p.get("/connect")
			assert.Equal(t, test.status, status)
			for _, text := range test.texts {
				assert.Contains(t, page, text)
			}
			assert.Contains(t, page, "Start over")
			assert.NotContains(t, page, "<img")
			_, page = p.get("/")
			assert.Contains(t, page, "Nobody is connected yet.")
		})
	}
}

func TestOrganisationNotKnown(t *testing.T) {
	const unavailable = `{"orgDetails":{"orgId":"1","legalName":"of an error"}}`
	for _, answer := range []string{unavailable, "<html>", `{"orgDetails":7}`, "{}"} {
		p := start(t, allow)
		broken := true
		var mu sync.Mutex
		p.before = func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if !broken || r.URL.Path != "/api/v1/me" {
				return false
			}
			if answer == unavailable {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprint(w, answer)
			return true
		}
		p.connect()
		_, page := p.get("/")
		assert.Contains(t, page, "Organisation not known yet", answer)
		mu.Lock()
		broken = false
		mu.Unlock()
		_, page = p.press("refresh")
		assert.Contains(t, page, "Example Company 1", answer)
	}
}

func TestDisconnect(t *testing.T) {
	p := start(t, allow)
	p.connect()
	_, page := p.press("disconnect")
	assert.Contains(t, page, "Nobody is connected yet.")
	status, page := p.do(p.client, http.MethodPost, p.url+"/connections/unknown/disconnect", nil)
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, page, "Nobody is connected yet.")
	status, page = p.do(p.client, http.MethodPost, p.url+"/connections/unknown/refresh", nil)
	assert.Equal(t, http.StatusNotFound, status)
	assert.Contains(t, page, "There is no such connection")
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	p := start(t, allow)
	p.connect()
	_, page := p.get("/")
	paths := regexp.MustCompile(`action="([^"]*)"`).FindAllStringSubmatch(page, -1)
	assert.Len(t, paths, 2, "refresh and disconnect")
	for _, path := range paths {
		for _, header := range []http.Header{
			{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"https://evil.example"}},
		} {
			status, _ := p.do(p.client, http.MethodPost, p.url+path[1], header)
			assert.Equal(t, http.StatusForbidden, status, "%s %v", path[1], header)
		}
		status, _ := p.get(path[1])
		assert.Equal(t, http.StatusMethodNotAllowed, status)
	}
	_, page = p.get("/")
	assert.Contains(t, page, "Example Company 1")
	assert.Len(t, p.tokenRequests(), 1)
}

func TestOtherHostsAreRefused(t *testing.T) {
	p := start(t, allow)
	request, err := http.NewRequest(http.MethodGet, p.url, nil)
	require.NoError(t, err)
	request.Host = "evil.example"
	response, err := p.client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Equal(t, http.StatusMisdirectedRequest, response.StatusCode)
	assert.Contains(t, string(body), "Open "+p.url+"/ instead.")
}

func TestHeaders(t *testing.T) {
	p := start(t, allow)
	for _, path := range []string{"/", "/style.css", "/callback", "/connect", "/unknown"} {
		response := p.send(p.withoutRedirects(), http.MethodGet, p.url+path, nil)
		response.Body.Close()
		assert.Equal(t, "no-store", response.Header.Get("Cache-Control"), path)
		assert.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"), path)
		assert.Equal(t, "same-origin", response.Header.Get("Referrer-Policy"), path)
		assert.Equal(t, "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			response.Header.Get("Content-Security-Policy"), path)
		if path == "/connect" {
			cookie := response.Cookies()[0]
			assert.Equal(t, "browser", cookie.Name)
			assert.True(t, cookie.HttpOnly)
			assert.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
		}
	}
}

func TestSecureCookie(t *testing.T) {
	a := newApp(t.Context(), settings{redirectURL: "https://partner.example/callback"}, nil, nil)
	recorder := httptest.NewRecorder()
	a.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "https://partner.example/connect", nil))
	cookie := recorder.Result().Cookies()[0]
	assert.Equal(t, "__Host-browser", cookie.Name)
	assert.True(t, cookie.Secure)
	assert.Equal(t, "/", cookie.Path)
	assert.Empty(t, cookie.Domain)
}

func TestSlowRefreshBlocksNoOtherPage(t *testing.T) {
	p := start(t, allow)
	p.connect()
	arrived, goOn := make(chan struct{}), make(chan struct{})
	p.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/oauth2/token" {
			arrived <- struct{}{}
			<-goOn
		}
		return false
	}
	_, page := p.get("/")
	path := regexp.MustCompile(`/connections/[^"]*/refresh`).FindString(page)
	refreshed := make(chan string, 1)
	go func() {
		defer close(refreshed)
		_, page := p.do(p.client, http.MethodPost, p.url+path, nil)
		refreshed <- page
	}()
	<-arrived
	_, page = p.get("/")
	assert.Contains(t, page, "Example Company 1", "while the refresh is under way")
	_, page = p.press("disconnect")
	assert.Contains(t, page, "Nobody is connected yet.")
	assert.Empty(t, refreshed, "the refresh is still under way")
	close(goOn)
	<-refreshed
}

func TestStopFinishesRefresh(t *testing.T) {
	p := start(t, allow)
	p.connect()
	arrived, goOn := make(chan struct{}), make(chan struct{})
	p.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/oauth2/token" {
			close(arrived)
			<-goOn
		}
		return false
	}
	_, page := p.get("/")
	path := regexp.MustCompile(`/connections/[^"]*/refresh`).FindString(page)
	refreshed := make(chan int, 1)
	go func() {
		defer close(refreshed)
		response := p.send(p.withoutRedirects(), http.MethodPost, p.url+path, nil)
		response.Body.Close()
		refreshed <- response.StatusCode
	}()
	<-arrived
	stopped := make(chan int, 1)
	go func() { stopped <- p.stop() }()
	assert.Eventually(t, func() bool {
		connection, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err == nil {
			connection.Close()
		}
		return err != nil
	}, liveness, 10*time.Millisecond, "it listens no more")
	close(goOn)
	assert.Equal(t, http.StatusSeeOther, <-refreshed)
	assert.Equal(t, 0, <-stopped)
	assert.NotContains(t, p.log.String(), "refresh failed")
}

func TestConcurrently(t *testing.T) {
	p := start(t, allow)
	p.connect()
	_, page := p.get("/")
	path := regexp.MustCompile(`/connections/[^"]*/refresh`).FindString(page)
	var tasks sync.WaitGroup
	for range 5 {
		tasks.Go(func() { p.get("/connect") })
		tasks.Go(func() { p.do(p.client, http.MethodPost, p.url+path, nil) })
		tasks.Go(func() { p.get("/") })
	}
	tasks.Wait()
	_, page = p.get("/")
	assert.Equal(t, 6, strings.Count(page, `<p class="state good">Connected</p>`))
}

func TestLogins(t *testing.T) {
	now := time.Now()
	var under logins
	first := under.start("browser", "connection", now)
	assert.NoError(t, applebusiness.CheckAuthorizationURL((settings{clientID: "c", redirectURL: "https://p.example/callback"}).config().AuthCodeURL(first.state)+
		"&code_challenge=c"))
	_, replayed := under.take("browser", first.state, now.Add(loginLife))
	assert.False(t, replayed)
	taken, _ := under.take("browser", first.state, now.Add(loginLife))
	assert.Zero(t, taken, "expired")
	taken, _ = under.take("another", first.state, now)
	assert.Zero(t, taken)
	taken, _ = under.take("", under.start("", "", now).state, now)
	assert.Zero(t, taken, "a browser without a cookie is none")
	taken, replayed = under.take("browser", first.state, now.Add(loginLife-1))
	assert.Equal(t, first, taken)
	assert.False(t, replayed)
	taken, replayed = under.take("browser", first.state, now)
	assert.True(t, replayed)
	assert.Empty(t, taken.verifier)

	for i := range maxLogins {
		under.start("browser", "", now.Add(time.Duration(i+1)))
	}
	assert.Len(t, under.byState, maxLogins)
	_, replayed = under.take("browser", first.state, now)
	assert.False(t, replayed, "the oldest is forgotten")
	under.start("browser", "", now.Add(loginLife+time.Second))
	assert.Len(t, under.byState, 1, "the expired are forgotten")
}

func TestAbout(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Nanosecond: "1 second", 2 * time.Second: "2 seconds", time.Minute: "60 seconds", 61 * time.Second: "2 minutes",
		time.Hour: "60 minutes",
	} {
		assert.Equal(t, want, about(d))
	}
	assert.Equal(t, "has expired: refresh it", expires(0))
	assert.Equal(t, "in 5 seconds", expires(5*time.Second))
}

func TestRefusesToStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	complete := []string{
		"-addr", "127.0.0.1:0", "-client-id", "my-app", "-redirect-url", "https://partner.example/callback",
		"-auth-url", "https://auth.example", "-api-url", "https://api.example",
	}
	with := func(args ...string) []string { return append(slices.Clone(complete), args...) }
	const localhost = `applebusiness: invalid_request: "localhost is not allowed for redirect_uri. Use the IP literal (127.0.0.1) instead"`
	for name, test := range map[string]struct {
		args   []string
		secret string
		exit   int
		stderr string // exact, unless it ends in "…"
	}{
		"stray argument": {[]string{"stray"}, "", 2, "connect: unknown argument \"stray\"\n"},
		"unknown flag":   {[]string{"-client-secret", "s3cret"}, "", 2, "flag provided but not defined: -client-secret\n…"},
		"help":           {[]string{"-h"}, "", 0, "Usage of connect:\n…"},
		"only a secret": {nil, "s3cret", 1, "connect: -addr is missing\nconnect: -client-id is missing\n" +
			"connect: -redirect-url is missing\nconnect: -auth-url is missing\nconnect: -api-url is missing\n"},
		"no secret": {complete, "", 1, "connect: APPLE_BUSINESS_CLIENT_SECRET is missing\n"},
		"localhost": {with("-redirect-url", "http://localhost:8080/callback"), "s3cret", 1, "connect: " + localhost + "\n"},
		"all at once": {
			with("-redirect-url", "http://localhost:8080/wrong#", "-auth-url", "http://auth.example", "-api-url", "api.example"), "s3cret", 1,
			"connect: applebusiness: invalid_request: \"redirect_uri is not valid\"\n" +
				"connect: -auth-url has to be https, except on this machine\n" +
				"connect: -api-url is not the base URL of a server\n" +
				"connect: -redirect-url has to be a web address with the path /callback\n",
		},
		"password in a URL":      {with("-api-url", "https://user:pass@api.example"), "s3cret", 1, "connect: -api-url is not the base URL of a server\n"},
		"no web address":         {with("-redirect-url", "myapp://host/callback"), "s3cret", 1, "connect: -redirect-url has to be a web address with the path /callback\n"},
		"fake at localhost":      {[]string{"-addr", "localhost:0"}, "", 1, "connect: " + localhost + "\n"},
		"address taken":          {[]string{"-addr", taken.Addr().String()}, "", 1, "connect: listen tcp " + taken.Addr().String() + ": bind:…"},
		"address taken, no fake": {with("-addr", taken.Addr().String()), "s3cret", 1, "connect: listen tcp…"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), liveness)
			defer cancel()
			assert.Equal(t, test.exit, run(ctx, test.args, getenv(map[string]string{secretVariable: test.secret}), &stdout, &stderr))
			assert.Empty(t, stdout.String())
			if start, cut := strings.CutSuffix(test.stderr, "…"); cut {
				assert.True(t, strings.HasPrefix(stderr.String(), start), stderr.String())
			} else {
				assert.Equal(t, test.stderr, stderr.String())
			}
			if test.secret != "" {
				assert.NotContains(t, stderr.String(), test.secret)
			}
		})
	}
}

func TestWithTheFakeInside(t *testing.T) {
	for _, addr := range []string{"", "0.0.0.0:0"} {
		reader, writer := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		go func() {
			var args []string
			if addr != "" {
				args = []string{"-addr", addr}
			}
			ended <- run(ctx, args, getenv(nil), writer, io.Discard)
			writer.Close()
		}()
		var home, fakeURL string
		_, err := fmt.Fscanf(reader, "Open %s\nApple Business is the fake at %s\n", &home, &fakeURL)
		require.NoError(t, err)
		assert.Regexp(t, `^http://127\.0\.0\.1:\d+/$`, home)
		assert.Regexp(t, `^http://localhost:\d+$`, fakeURL)

		p := &partner{t: t, client: newBrowser(t), url: strings.TrimSuffix(home, "/")}
		response := p.send(p.client, http.MethodGet, home+"connect", nil)
		response.Body.Close()
		response, err = p.client.PostForm(response.Request.URL.String(), url.Values{"consent": {"allow"}})
		require.NoError(t, err)
		response.Body.Close()
		_, page := p.get("/")
		assert.Contains(t, page, "Example Company 1")
		p.do(p.client, http.MethodPost, p.url+"/fake/fail", nil)
		_, page = p.press("refresh")
		assert.Contains(t, page, "Try again later</p>")
		p.press("fake/revoke")
		_, page = p.press("refresh")
		assert.Contains(t, page, "Needs reconnecting</p>")
		p.client.CloseIdleConnections()
		cancel()
		assert.Equal(t, 0, <-ended)
		_, err = http.Get(fakeURL)
		assert.Error(t, err, "the fake is stopped as well")
	}
}
