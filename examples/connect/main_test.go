package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

const liveness = 30 * time.Second

// partner is a running program with the fake that it is pointed to, and a browser. Its pages and its log are searched
// for secrets when the test ends.
type partner struct {
	t      *testing.T
	fake   *applebusinesstest.Server
	url    string
	args   []string
	client *http.Client // follows redirects, keeps cookies
	log    lockedBuffer
	stop   func() int

	mu      sync.Mutex
	before  func(w http.ResponseWriter, r *http.Request) bool // responds instead of the fake if it returns true
	secrets []string                                          // that went over the wire
	refresh string                                            // the newest refresh token
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

// start starts the program with a fake, and with more arguments.
func start(t *testing.T, options applebusinesstest.Options, args ...string) *partner {
	t.Helper()
	p := &partner{t: t, client: newBrowser(t)}
	p.fake = applebusinesstest.NewUnstartedServer(&options)
	p.fake.Config.Handler = p.listen(p.fake.Config.Handler)
	require.NoError(t, p.fake.Start())
	t.Cleanup(p.fake.Close)
	addr := freeAddr(t)
	app := applebusinesstest.App{
		ClientID: "my-app", ClientSecret: "client-secret-of-the-app", RedirectURIs: []string{"http://" + addr + redirectPath},
	}
	p.fake.RegisterApp(app)
	p.secrets = []string{app.ClientSecret}
	p.args = append([]string{
		"-addr", addr, "-client-id", app.ClientID, "-redirect-url", app.RedirectURIs[0], "-auth-url", p.fake.URL, "-api-url", p.fake.URL + "/",
	}, args...)
	p.url = "http://" + addr
	p.run()
	t.Cleanup(func() {
		assert.Equal(t, 0, p.stop())
		p.assertNoSecrets()
	})
	return p
}

// run starts the program, once more if it was stopped.
func (p *partner) run() {
	p.t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, p.args, getenv(map[string]string{secretVariable: p.secrets[0]}), writer, &p.log)
		writer.Close()
	}()
	p.stop = sync.OnceValue(func() int {
		p.client.CloseIdleConnections()
		cancel()
		return <-ended
	})
	line, err := bufio.NewReader(reader).ReadString('\n')
	require.NoError(p.t, err, p.log.String())
	require.Equal(p.t, "Open "+p.url+"/\n", line)
}

func newBrowser(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar, Timeout: liveness}
}

// freeAddr returns an address at which nobody listens. Its port is none that systems give out by themselves, or another process
// could have it a moment later.
func freeAddr(t *testing.T) string {
	for range 100 {
		listener, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20_000+rand.N(12_000)))
		if err == nil {
			defer listener.Close()
			return listener.Addr().String()
		}
	}
	require.Fail(t, "no port is free")
	return ""
}

func getenv(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

// listen notes the secrets that pass through the fake's token endpoint.
func (p *partner) listen(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		before := p.before
		p.mu.Unlock()
		if before != nil && before(w, r) {
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
		var sent, received map[string]any
		_ = json.Unmarshal(body, &sent)
		_ = json.Unmarshal(recorder.Body.Bytes(), &received)
		p.mu.Lock()
		for _, members := range []map[string]any{sent, received} {
			for _, name := range []string{"code", "code_verifier", "refresh_token", "access_token"} {
				if secret, ok := members[name].(string); ok {
					p.secrets = append(p.secrets, secret)
				}
			}
		}
		if token, ok := received["refresh_token"].(string); ok {
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

// begin starts a login in the browser, and returns the redirect to which Apple sends it.
func (p *partner) begin() string {
	p.t.Helper()
	response := p.send(p.withoutRedirects(), http.MethodGet, p.url+"/connect", nil)
	defer response.Body.Close()
	require.Equal(p.t, http.StatusSeeOther, response.StatusCode)
	redirectURL, err := p.fake.Authorize(response.Header.Get("Location"))
	require.NoError(p.t, err)
	return redirectURL
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
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, page, "<h1>The connection was not made</h1>")
	assert.Contains(t, page, "The connection was not made, and nothing was changed. You can start again at any time.")
	assert.Contains(t, page, `href="/connect"`)
	assert.Empty(t, p.tokenRequests())
}

func TestRedirectByPost(t *testing.T) {
	p := start(t, allow)
	fromApple := http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {p.fake.URL}}

	redirectURL := p.begin()
	withoutCookies := &http.Client{CheckRedirect: p.withoutRedirects().CheckRedirect, Timeout: liveness}
	response := p.send(withoutCookies, http.MethodPost, redirectURL, fromApple.Clone())
	response.Body.Close()
	assert.Equal(t, http.StatusSeeOther, response.StatusCode)
	location, err := response.Location()
	require.NoError(t, err)
	assert.Equal(t, redirectURL, location.String())
	assert.Empty(t, p.tokenRequests(), "nothing is redeemed before the cookie is there")
	_, page := p.do(p.client, http.MethodGet, redirectURL, nil)
	assert.Contains(t, page, "Example Company 1")

	redirectURL = p.begin()
	_, page = p.do(p.client, http.MethodPost, redirectURL, fromApple.Clone())
	assert.Contains(t, page, "Example Company 2")
	assert.Len(t, p.tokenRequests(), 2)
}

func TestForgedRedirectIsRefused(t *testing.T) {
	p := start(t, allow)
	redirectURL := p.begin()
	parsed, err := url.Parse(redirectURL)
	require.NoError(t, err)
	query := parsed.Query()
	change := func(name, value string) string {
		changed := parsed.Query()
		changed.Set(name, value)
		return p.url + redirectPath + "?" + changed.Encode()
	}
	text := customerTexts[applebusiness.ActionStartOver]
	for name, test := range map[string]struct {
		client  *http.Client
		address string
	}{
		"another state":         {p.client, change("state", "forged")},
		"no state":              {p.client, p.url + redirectPath + "?code=" + query.Get("code")},
		"error, another state":  {p.client, p.url + redirectPath + "?error=server_error&state=forged"},
		"another browser":       {newBrowser(t), redirectURL},
		"nothing":               {p.client, p.url + redirectPath},
		"state twice":           {p.client, redirectURL + "&state=forged"},
		"a query that is wrong": {p.client, p.url + redirectPath + "?%zz"},
	} {
		status, page := p.do(test.client, http.MethodGet, test.address, nil)
		assert.Equal(t, http.StatusBadRequest, status, name)
		assert.Contains(t, page, text, name)
	}
	assert.Empty(t, p.tokenRequests())
	_, page := p.get("/")
	assert.Contains(t, page, "For the operator: the last attempt to connect that failed")
	assert.Contains(t, page, "Refuse the redirect")
	_, page = p.do(p.client, http.MethodGet, redirectURL, nil)
	assert.Contains(t, page, "Example Company 1", "a forged redirect does not end the login")
}

// The same redirect again leads to the same page, and the browser is never left at a URL with a code.
func TestRedirectAgain(t *testing.T) {
	p := start(t, allow)
	redirectURL := p.begin()
	for _, method := range []string{http.MethodGet, http.MethodGet, http.MethodPost} {
		response := p.send(p.client, method, redirectURL, nil)
		page, err := io.ReadAll(response.Body)
		response.Body.Close()
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Equal(t, p.url+"/", response.Request.URL.String())
		assert.Equal(t, 1, strings.Count(string(page), "<article"))
	}
	assert.Len(t, p.tokenRequests(), 1)

	// Twice at once, and by a browser that gives up and loads the page again.
	arrived, goOn := make(chan struct{}, 9), make(chan struct{})
	p.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/oauth2/token" {
			arrived <- struct{}{}
			<-goOn
		}
		return false
	})
	redirectURL = p.begin()
	ctx, giveUp := context.WithCancel(t.Context())
	var first, browsers sync.WaitGroup
	first.Go(func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, redirectURL, nil)
		assert.NoError(t, err)
		_, err = p.client.Do(request)
		assert.ErrorIs(t, err, context.Canceled)
	})
	<-arrived
	giveUp()
	first.Wait()
	for range 2 {
		browsers.Go(func() {
			_, page := p.do(p.client, http.MethodGet, redirectURL, nil)
			assert.Equal(t, 2, strings.Count(page, `<p class="state good">Connected</p>`))
		})
	}
	time.Sleep(50 * time.Millisecond) // so that both wait; without it they come later, with the same result
	close(goOn)
	browsers.Wait()
	assert.Len(t, p.tokenRequests(), 2)
}

// A browser that gives up and does not come back is connected all the same, and the program knows of it.
func TestBrowserGivesUp(t *testing.T) {
	p := start(t, allow)
	redirectURL := p.begin()
	ctx, giveUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	p.intercept(func(http.ResponseWriter, *http.Request) bool {
		giveUp()
		<-gone // or a browser on a slow machine has the response, too
		return false
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, redirectURL, nil)
	require.NoError(t, err)
	_, err = p.client.Do(request)
	close(gone)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Eventually(t, func() bool {
		_, page := p.get("/")
		return strings.Contains(page, "Example Company 1")
	}, liveness, 10*time.Millisecond)
}

// With -dir a restart keeps the connections.
func TestDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "grants")
	p := start(t, allow, "-dir", dir)
	p.connect()
	p.connect()
	p.press("disconnect")
	_, before := p.get("/")
	assert.Contains(t, before, "Example Company 2")
	assert.NotContains(t, before, "Example Company 1")
	assert.NotContains(t, before, "in memory")
	require.Equal(t, 0, p.stop())

	p.run()
	_, page := p.get("/")
	assert.Equal(t, before, page)
	_, page = p.press("refresh")
	assert.Contains(t, page, `<p class="state good">Connected</p>`)
	assert.Equal(t, []string{"authorization_code", "authorization_code", "refresh_token"}, p.tokenRequests())

	var stderr bytes.Buffer
	args := append(p.args, "-addr", freeAddr(t))
	assert.Equal(t, 1, run(t.Context(), args, getenv(map[string]string{secretVariable: p.secrets[0]}), io.Discard, &stderr))
	assert.Contains(t, stderr.String(), "connect: applebusiness/grants: ", "the folder is in use")
}

// What no person has opened spends nothing.
func TestFetchedAhead(t *testing.T) {
	p := start(t, allow)
	redirectURL := p.begin()
	for _, test := range []struct {
		method string
		header http.Header
	}{
		{http.MethodHead, nil},
		{http.MethodGet, http.Header{"Sec-Purpose": {"prefetch"}}},
		{http.MethodGet, http.Header{"Sec-Purpose": {"prefetch;prerender"}}},
		{http.MethodGet, http.Header{"Purpose": {"prefetch"}}},
	} {
		status, _ := p.do(p.client, test.method, redirectURL, test.header)
		assert.Equal(t, http.StatusBadRequest, status, "%v", test)
	}
	assert.Empty(t, p.tokenRequests())
	_, page := p.do(p.client, http.MethodGet, redirectURL, nil)
	assert.Contains(t, page, "Example Company 1")
}

func TestTwoTabs(t *testing.T) {
	p := start(t, allow)
	first, second := p.begin(), p.begin()
	for _, redirectURL := range []string{first, second} {
		_, page := p.do(p.client, http.MethodGet, redirectURL, nil)
		assert.Contains(t, page, "Example Company")
	}
	assert.Len(t, p.tokenRequests(), 2)
}

func TestRevokedThenReconnected(t *testing.T) {
	p := start(t, allow)
	p.connect()
	p.revoke()
	_, page := p.press("refresh")
	for range 2 {
		assert.Contains(t, page, `<p class="state bad">Needs reconnecting</p>`)
		assert.Contains(t, page, customerTexts[applebusiness.ActionReauthorize])
		operator := page[strings.Index(page, "For the operator"):]
		assert.Contains(t, operator, html.EscapeString(`invalid_grant: "Invalid refresh_token" (HTTP 401)`))
		assert.Contains(t, operator, html.EscapeString("The customer revoked the partner's access to their Apple Business account."))
		assert.Contains(t, operator, "ask this customer to reconnect")
		assert.Contains(t, operator, "This customer only.")
		_, page = p.do(p.client, http.MethodPost, p.url+"/connections/org-1/refresh", nil)
	}
	assert.Equal(t, []string{"authorization_code", "refresh_token"}, p.tokenRequests(), "a dead grant is asked about once")

	// The user picks another company: that is another grant, and the first one is what it was.
	link := regexp.MustCompile(`/connect\?connection=[^"]*`).FindString(page)
	require.Equal(t, "/connect?connection=org-1", link)
	_, page = p.get(link)
	assert.Contains(t, page, "At Apple Business you picked Example Company 2, which is connected now. Example Company 1 was not connected again.")
	_, page = p.get("/")
	assert.Equal(t, 2, strings.Count(page, "<article"))
	assert.Equal(t, 1, strings.Count(page, `<p class="state good">Connected</p>`))
	assert.Equal(t, 1, strings.Count(page, `<p class="state bad">Needs reconnecting</p>`))

	// The same company: the grant is alive again.
	p.me(`{"orgDetails":{"orgId":"org-1","legalName":"Example Company 1"}}`)
	_, page = p.get(link)
	assert.Equal(t, 2, strings.Count(page, `<p class="state good">Connected</p>`))
	_, page = p.do(p.client, http.MethodPost, p.url+"/connections/org-1/refresh", nil)
	assert.Equal(t, 2, strings.Count(page, `<p class="state good">Connected</p>`), "it is not held for dead")
}

// Apple said that the grant is dead, and it was not.
func TestRevive(t *testing.T) {
	p := start(t, allow)
	p.connect()
	p.fake.Fail(applebusiness.ErrInvalidRefreshToken)
	_, page := p.press("refresh")
	assert.Contains(t, page, "Needs reconnecting")
	_, page = p.press("revive")
	assert.Contains(t, page, `<p class="state good">Connected</p>`)
	_, page = p.press("refresh")
	assert.Contains(t, page, `<p class="state good">Connected</p>`)
	assert.Equal(t, []string{"authorization_code", "refresh_token", "refresh_token"}, p.tokenRequests())
}

// intercept puts a handler in front of the fake.
func (p *partner) intercept(before func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = before
}

// me lets the API say so of every access token.
func (p *partner) me(body string) {
	p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/api/v1/me" {
			return false
		}
		fmt.Fprint(w, body)
		return true
	})
}

func TestSameOrganisationIsOneConnection(t *testing.T) {
	p := start(t, allow)
	p.me(`{"orgDetails":{"orgId":"7/\"<8>","legalName":"Tom & <b>Jerry</b>"}}`)
	p.connect()
	p.connect()
	_, page := p.get("/")
	assert.Equal(t, 1, strings.Count(page, "<article"))
	assert.Contains(t, page, "<bdi>Tom &amp; &lt;b&gt;Jerry&lt;/b&gt;</bdi>")
	_, page = p.press("disconnect")
	assert.Contains(t, page, "Nobody is connected yet.")
}

// A grant without a refresh token would end within the hour.
func TestNoRefreshToken(t *testing.T) {
	p := start(t, allow)
	p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/api/v1/oauth2/token" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"access-token-alone","token_type":"Bearer","expires_in":3600}`)
		return true
	})
	p.secrets = append(p.secrets, "access-token-alone")
	status, page := p.get("/connect")
	assert.Equal(t, http.StatusBadRequest, status)
	assert.Contains(t, page, customerTexts[applebusiness.ActionFixRequest])
	_, page = p.get("/")
	assert.Contains(t, page, "Nobody is connected yet.")
	assert.Contains(t, page, "no_refresh_token")
}

func TestRefreshFails(t *testing.T) {
	for name, test := range map[string]struct {
		fail  func(p *partner)
		texts []string
		heals bool
	}{
		"503": {
			func(p *partner) { p.fake.FailWith(http.StatusServiceUnavailable, nil, "<html>") },
			[]string{`<p class="state wait">Try again later</p>`, customerTexts[applebusiness.ActionRetry], "unavailable (HTTP 503)", "Everybody, for a while.", "expires in 60 minutes"},
			true,
		},
		"429": {
			func(p *partner) {
				p.fake.FailWith(http.StatusTooManyRequests, http.Header{"Retry-After": {"120"}}, "")
			},
			[]string{`<p class="state wait">Try again later</p>`, "<dt>Next try</dt><dd>in 2 minutes</dd>"},
			false, // for 2 minutes
		},
		"unreachable": {
			func(p *partner) { p.fake.Close() },
			[]string{`<p class="state wait">Try again later</p>`, "no_response: the connection was refused"},
			false,
		},
		"secret replaced": {
			func(p *partner) { p.fake.RotateSecret("my-app") },
			[]string{`<p class="state bad">Fails</p>`, customerTexts[applebusiness.ActionFixRegistration], "All customers of this app.", "none has to reconnect"},
			false,
		},
		"not documented": {
			func(p *partner) { p.fake.FailWith(http.StatusTeapot, nil, `{"error":"teapot"}`) },
			[]string{`<p class="state bad">Fails</p>`, customerTexts[applebusiness.ActionFixRequest], html.EscapeString(`"teapot" (HTTP 418)`), "ask nobody to reconnect"},
			true,
		},
		"markup": {
			func(p *partner) {
				p.fake.FailWith(http.StatusBadRequest, nil, `{"error":"x","error_description":"<script>alert(1)</script>"}`)
			},
			[]string{"&#34;&lt;***&gt;&#34;"},
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
			healthy := func() bool {
				_, page = p.press("refresh")
				return strings.Contains(page, `<p class="state good">Connected</p>`)
			}
			if !test.heals {
				assert.False(t, healthy())
				return
			}
			require.Eventually(t, healthy, liveness, 100*time.Millisecond, "a failure is remembered for a second or two")
		})
	}
}

func TestConnectFails(t *testing.T) {
	redirect := func(code applebusiness.Code, description string) func(p *partner) {
		return func(p *partner) {
			p.fake.FailEntry(applebusiness.Entry{Endpoint: applebusiness.AuthorizationEndpoint, Code: code, Description: description})
		}
	}
	me := func(status int, body string) func(p *partner) {
		return func(p *partner) {
			p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/api/v1/me" {
					w.WriteHeader(status)
					fmt.Fprint(w, body)
				}
				return r.URL.Path == "/api/v1/me"
			})
		}
	}
	for name, test := range map[string]struct {
		fail     func(p *partner)
		action   applebusiness.Action // whose text the customer reads
		operator string
	}{
		"markup in the redirect":         {redirect("invalid_request", `<img src=x onerror="alert(1)">`), applebusiness.ActionFixRequest, "&#34;&lt;img *** ***"},
		"the redirect says server_error": {redirect(applebusiness.CodeServerError, "server error"), applebusiness.ActionStartOver, "server_error"},
		"the redirect URI is not registered": {
			redirect("invalid_request", "redirect_uri does not match one of the registered redirect_uri on OAuth app"), applebusiness.ActionFixRegistration, "letter for letter",
		},
		"the code is refused":   {func(p *partner) { p.fake.Fail(applebusiness.ErrInvalidRefreshToken) }, applebusiness.ActionStartOver, "The authorization code was older than 5 minutes."},
		"the exchange fails":    {func(p *partner) { p.fake.Fail(applebusiness.ErrUnknownServerError) }, applebusiness.ActionStartOver, "do not send an authorization code again"},
		"too many requests":     {func(p *partner) { p.fake.FailWith(429, nil, "") }, applebusiness.ActionRetry, "rate_limited"},
		"a proxy":               {func(p *partner) { p.fake.FailWith(403, nil, "<html>") }, applebusiness.ActionCheckNetwork, "malformed_response"},
		"the API refuses":       {me(401, `{"orgDetails":{"orgId":"1","legalName":"of an error"}}`), applebusiness.ActionStartOver, "status 401"},
		"the API sends no JSON": {me(200, "<html>"), applebusiness.ActionStartOver, "not the documented JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, allow)
			test.fail(p)
			status, page := p.get("/connect")
			assert.Equal(t, http.StatusBadRequest, status)
			assert.Contains(t, page, "<h1>The connection was not made</h1>")
			assert.Contains(t, page, customerTexts[test.action])
			assert.Contains(t, page, "Start over")
			assert.NotContains(t, page, test.operator, "what is for engineers is not for the customer")
			assert.NotContains(t, page, "For the operator")
			_, page = p.get("/")
			assert.Contains(t, page, "Nobody is connected yet.")
			assert.Contains(t, page, test.operator)
			assert.NotContains(t, page, "<img")
		})
	}
}

// An API that fails for a moment keeps nobody from being connected.
func TestAPIFailsOnce(t *testing.T) {
	p := start(t, allow)
	p.fake.FailNext(applebusinesstest.Failure{Endpoint: applebusinesstest.MeEndpoint, StatusCode: 503})
	p.connect()
	assert.Len(t, p.tokenRequests(), 1)
}

// What a customer reads holds no word of a protocol.
func TestCustomerTexts(t *testing.T) {
	assert.Len(t, customerTexts, 6)
	for action, text := range customerTexts {
		assert.NotRegexp(t, `(?i)token|oauth|grant|client|scope|redirect|http|network|proxy|registration|retry|code`, text)
		if action != applebusiness.ActionReauthorize {
			assert.NotContains(t, text, "connect again", action)
		}
	}
	assert.Equal(t, customerTexts[applebusiness.ActionFixRequest], customerText(applebusiness.ActionUnknown))
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
	for _, path := range []string{"/", "/style.css", "/redirect", "/connect", "/unknown"} {
		response := p.send(p.withoutRedirects(), http.MethodGet, p.url+path, nil)
		response.Body.Close()
		assert.Equal(t, "no-store", response.Header.Get("Cache-Control"), path)
		assert.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"), path)
		assert.Equal(t, "same-origin", response.Header.Get("Referrer-Policy"), path)
		assert.Equal(t, "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			response.Header.Get("Content-Security-Policy"), path)
		if path == "/connect" {
			cookie := response.Cookies()[0]
			assert.Regexp(t, "^login-.{43}$", cookie.Name)
			assert.Equal(t, 600, cookie.MaxAge, "as long as the Manager knows the outcome")
			assert.True(t, cookie.HttpOnly)
			assert.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
		}
	}
}

func TestSecureCookie(t *testing.T) {
	a, err := newApp(&settings{Config: oauth2.Config{RedirectURL: "https://partner.example/redirect"}}, grants.NewMemoryStore(), nil, nil)
	require.NoError(t, err)
	recorder := httptest.NewRecorder()
	a.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "https://partner.example/connect", nil))
	cookie := recorder.Result().Cookies()[0]
	assert.Regexp(t, "^__Host-login-.{43}$", cookie.Name)
	assert.True(t, cookie.Secure)
	assert.Equal(t, "/", cookie.Path)
	assert.Empty(t, cookie.Domain)
}

func TestSlowRefreshBlocksNoOtherPage(t *testing.T) {
	p := start(t, allow)
	p.connect()
	arrived, goOn := make(chan struct{}), make(chan struct{})
	p.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/oauth2/token" {
			arrived <- struct{}{}
			<-goOn
		}
		return false
	})
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
	p.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/oauth2/token" {
			close(arrived)
			<-goOn
		}
		return false
	})
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

// Whoever begins logins by the thousand does not end anybody else's.
func TestAnonymousVisits(t *testing.T) {
	p := start(t, allow)
	redirectURL := p.begin()
	anonymous := &http.Client{CheckRedirect: p.withoutRedirects().CheckRedirect, Timeout: liveness}
	for range 1000 {
		response := p.send(anonymous, http.MethodGet, p.url+"/connect?connection="+strings.Repeat("x", 1000), nil)
		response.Body.Close()
		require.Equal(t, http.StatusSeeOther, response.StatusCode)
	}
	anonymous.CloseIdleConnections()
	_, page := p.do(p.client, http.MethodGet, redirectURL, nil)
	assert.Contains(t, page, "Example Company 1")
}

func TestAbout(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Nanosecond: "1 second", 2 * time.Second: "2 seconds", time.Minute: "60 seconds", 61 * time.Second: "2 minutes",
		time.Hour: "60 minutes",
	} {
		assert.Equal(t, want, about(d))
	}
	for d, want := range map[time.Duration]string{0: "has expired: it is refreshed at its next use", 5 * time.Second: "in 5 seconds"} {
		var shown strings.Builder
		require.NoError(t, pages.ExecuteTemplate(&shown, "expires", d))
		assert.Equal(t, want, shown.String())
	}
}

func TestRefusesToStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	complete := []string{
		"-addr", "127.0.0.1:0", "-client-id", "my-app", "-redirect-url", "https://partner.example/redirect",
		"-auth-url", "https://auth.example", "-api-url", "https://api.example",
	}
	with := func(args ...string) []string { return append(slices.Clone(complete), args...) }
	const address = " has to be an https address, or an http address of this machine, without user and query\n"
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
		"localhost": {with("-redirect-url", "http://localhost:8080/redirect"), "s3cret", 1, "connect: " + localhost + "\n"},
		"all at once": {
			with("-redirect-url", "http://localhost:8080/style.css#", "-auth-url", "http://auth.example", "-api-url", "api.example"), "s3cret", 1,
			"connect: applebusiness: invalid_request: \"redirect_uri is not valid\"\n" +
				"connect: -redirect-url has to have a path of its own, such as /redirect\n" +
				"connect: -auth-url" + address + "connect: -api-url" + address,
		},
		"a path of this program": {with("-redirect-url", "https://partner.example/other"), "s3cret", 1, "connect: -redirect-url has to have a path of its own, such as /redirect\n"},
		"password in a URL":      {with("-api-url", "https://user:pass@api.example"), "s3cret", 1, "connect: -api-url" + address},
		"no web address":         {with("-redirect-url", "myapp://host/redirect"), "s3cret", 1, "connect: -redirect-url" + address},
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
		assert.Eventually(t, func() bool {
			_, page = p.press("refresh")
			return strings.Contains(page, "Needs reconnecting</p>")
		}, liveness, 100*time.Millisecond, "the failure before is remembered for a second or two")
		p.client.CloseIdleConnections()
		cancel()
		assert.Equal(t, 0, <-ended)
		stacks := make([]byte, 1<<20) // no request: the port may be another program's by now, which is not to be disturbed
		assert.NotContains(t, string(stacks[:runtime.Stack(stacks, true)]), "applebusinesstest.(*Server)", "the fake is stopped as well")
	}
}
