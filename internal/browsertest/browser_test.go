// Package browsertest opens examples/connect, as the program that it is, in a real browser: cookies of two sites, POSTs
// across them, content policies and layout are what no client in Go has.
//
//	go test .
//	go test . -screenshots /tmp/screenshots
package browsertest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

var screenshots = flag.String("screenshots", "", "`directory` to write screenshots to")

const liveness = time.Minute

const (
	connectLink   = `a[href="/connect"]`
	allowButton   = `button[value="allow"]`
	denyButton    = `button[value="deny"]`
	refreshButton = `article:last-of-type form[action$="/refresh"] button`
)

// TestBrowser shares one build of the program and one browser among its cases; each has its own program, fake and
// cookies.
func TestBrowser(t *testing.T) {
	binary := build(t)
	browser := startBrowser(t)
	for _, test := range []struct {
		name    string
		deliver applebusinesstest.Delivery
		do      func(t *testing.T, p *partner)
	}{
		{"allow, delivered by GET", applebusinesstest.DeliverGet, allowByGet},
		{"allow, delivered by POST", applebusinesstest.DeliverPost, allowByPost},
		{"deny", applebusinesstest.DeliverPost, deny},
		{"forged state", applebusinesstest.DeliverPost, forgedState},
		{"redirect again", applebusinesstest.DeliverPost, redirectAgain},
		{"stopped and loaded again", applebusinesstest.DeliverGet, stoppedAndLoadedAgain},
		{"revoked, then reconnected", applebusinesstest.DeliverGet, revokedThenReconnected},
		{"503", applebusinesstest.DeliverGet, unavailable},
		{"markup in a description", applebusinesstest.DeliverGet, markup},
		{"form of another site", applebusinesstest.DeliverGet, formOfAnotherSite},
		{"layout", applebusinesstest.DeliverGet, layout},
	} {
		t.Run(test.name, func(t *testing.T) { test.do(t, start(t, binary, browser, test.deliver)) })
	}
	t.Run("the fake inside", func(t *testing.T) { fakeInside(t, binary, browser) })
}

func allowByGet(t *testing.T, p *partner) {
	p.connect()
	assert.Contains(t, p.text("article"), "Example Company 1")
	assert.Equal(t, []string{"GET"}, p.methods("/redirect"))
	assert.Equal(t, p.url+"/", p.location(), "the code is in no URL that stays")
	assert.Len(t, p.tokenRequests(), 1)
}

func allowByPost(t *testing.T, p *partner) {
	p.connect()
	assert.Contains(t, p.text("article"), "Example Company 1")
	assert.Equal(t, []string{"POST", "GET"}, p.methods("/redirect"), "the POST of another site brought no cookie")
	assert.Equal(t, p.url+"/", p.location())
	assert.Len(t, p.tokenRequests(), 1)
}

func deny(t *testing.T, p *partner) {
	p.run(chromedp.Navigate(p.url), follow(connectLink), follow(denyButton), chromedp.WaitVisible(`//h1[.="The connection was not made"]`))
	assert.Contains(t, p.text("main"), "nothing was changed")
	assert.Equal(t, p.url+"/not-connected?action=start_over", p.location())
	assert.Empty(t, p.tokenRequests())
	p.run(follow(connectLink), follow(allowButton), chromedp.WaitVisible(".state.good"))
}

func forgedState(t *testing.T, p *partner) {
	p.run(chromedp.Navigate(p.url), follow(connectLink), chromedp.WaitVisible(allowButton))
	consentPage := p.location()
	p.run(chromedp.Navigate(p.url+"/redirect?code=stolen&state=forged"), chromedp.WaitVisible("h1"))
	assert.Contains(t, p.text("main"), "The connection was not made")
	p.screenshot("error")
	assert.Empty(t, p.tokenRequests())
	p.run(chromedp.Navigate(consentPage), follow(allowButton), chromedp.WaitVisible(".state.good")) // the login is still good
}

func redirectAgain(t *testing.T, p *partner) {
	p.connect()
	p.run(chromedp.Navigate(p.last("/redirect")), chromedp.WaitVisible(".state.good"))
	assert.Equal(t, p.url+"/", p.location())
	assert.Equal(t, 1, p.count("article"))
	assert.Len(t, p.tokenRequests(), 1)
}

// stoppedAndLoadedAgain is a user who loses patience while Apple takes its time.
func stoppedAndLoadedAgain(t *testing.T, p *partner) {
	arrived, goOn := make(chan struct{}, 9), make(chan struct{})
	p.beforeToken = func() { arrived <- struct{}{}; <-goOn }
	p.run(chromedp.Navigate(p.url), follow(connectLink), chromedp.Click(allowButton))
	<-arrived
	p.run(chromedp.Stop())
	assert.Equal(t, 0, p.count("article"), "it is still at the consent page")
	time.AfterFunc(500*time.Millisecond, func() { close(goOn) })
	p.run(chromedp.Navigate(p.last("/redirect")), chromedp.WaitVisible(".state.good"))
	assert.Equal(t, p.url+"/", p.location())
	assert.Equal(t, 1, p.count("article"))
	assert.Equal(t, []string{"GET", "GET"}, p.methods("/redirect"))
	assert.Len(t, p.tokenRequests(), 1)
}

func revokedThenReconnected(t *testing.T, p *partner) {
	p.connect()
	p.fake.Revoke(p.newestRefreshToken())
	p.run(follow(refreshButton), chromedp.WaitVisible(".state.bad"))
	assert.Contains(t, p.text("article"), "Needs reconnecting")
	assert.Contains(t, p.text("article .customer"), "Please connect again.")
	assert.Contains(t, p.text("article .operator"), "The customer revoked the partner's access to their Apple Business account.")
	p.screenshot("revoked")
	p.run(follow(`//a[.="Reconnect"]`), follow(allowButton), chromedp.WaitVisible(`//h1[.="Another company was connected"]`)) // the fake's each are
	p.run(follow(`a[href="/"]`), chromedp.WaitVisible(".state.good"))
	assert.Equal(t, 2, p.count("article"))
}

func unavailable(t *testing.T, p *partner) {
	p.connect()
	p.fake.FailWith(http.StatusServiceUnavailable, nil, "")
	p.run(follow(refreshButton), chromedp.WaitVisible(".state.wait"))
	assert.Contains(t, p.text("article"), "Try again later")
	assert.NotContains(t, p.text("article"), "Needs reconnecting")
	assert.Equal(t, 0, p.count(`article a[href^="/connect"]`))
	p.refreshUntil(".state.good")
}

// refreshUntil refreshes again and again: a failure is remembered for a second or two.
func (p *partner) refreshUntil(selector string) {
	p.t.Helper()
	for p.count(selector) == 0 {
		p.run(chromedp.Sleep(200*time.Millisecond), follow(refreshButton), chromedp.WaitVisible(".state"))
	}
}

func markup(t *testing.T, p *partner) {
	const description = `<img id="injected" src="/injected"><script id="injected">document.title = "injected"</script>`
	p.fake.FailEntry(applebusiness.Entry{Endpoint: applebusiness.AuthorizationEndpoint, Code: "invalid_request", Description: description})
	p.run(chromedp.Navigate(p.url), follow(connectLink), chromedp.WaitVisible(`//h1[.="The connection was not made"]`))
	assert.NotContains(t, p.text("main"), "injected", "what is for engineers is not for the customer")
	p.run(follow(`a[href="/"]`), chromedp.WaitVisible(`dl code`))
	check := func() {
		assert.Contains(t, p.text("dl code"), `<img ***`)
		assert.Equal(t, 0, p.count("#injected, script, img"))
		assert.Empty(t, p.methods("/injected"))
	}
	check()
	p.connect()
	body, err := json.Marshal(map[string]string{"error": "invalid_request", "error_description": description})
	require.NoError(t, err)
	p.fake.FailWith(http.StatusBadRequest, nil, string(body))
	p.run(follow(refreshButton), chromedp.WaitVisible("article dl code"))
	check()
}

func formOfAnotherSite(t *testing.T, p *partner) {
	p.connect()
	action := evaluate[string](p, `document.querySelector('form[action$="/disconnect"]').action`)
	p.run(
		follow(connectLink), chromedp.WaitVisible(allowButton), // a page of another site
		chromedp.Evaluate[chromedp.Void](`{
			const form = document.createElement("form")
			form.method = "post"
			form.action = "`+action+`"
			document.body.append(form)
			form.submit()
		}`),
		chromedp.WaitVisible(`//pre[contains(., "cross-origin request")]`),
	)
	p.run(chromedp.Navigate(p.url), chromedp.WaitVisible(".state.good"))
	p.run(chromedp.Click("summary"), follow(`form[action$="/disconnect"] button`), chromedp.WaitNotPresent("article"))
}

// layout looks at the main page with all kinds of connections, on a phone and on a desktop.
func layout(t *testing.T, p *partner) {
	p.connect()
	p.connect()
	p.fake.Revoke(p.newestRefreshToken())
	p.run(follow(refreshButton), chromedp.WaitVisible(".state.bad"))
	p.connect()
	p.fake.FailWith(http.StatusBadGateway, nil, `{"error":"x","error_description":"`+strings.Repeat("long", 60)+`"}`)
	p.run(follow(refreshButton), chromedp.WaitVisible(".state.wait"))
	p.screenshot("connections")
	p.run(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("details").forEach(e => { e.open = true })`))
	for _, width := range []int64{320, 390, 1280} {
		p.run(chromedp.EmulateViewport(width, 844))
		assert.False(t, evaluate[bool](p, `document.documentElement.scrollWidth > innerWidth`), "%d px: the page scrolls sideways", width)
		assert.Empty(t, evaluate[[]string](p, `[...document.querySelectorAll("a, button, summary")]
			.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 44).map(e => e.innerText)`),
			"%d px: too small for a thumb", width)
	}
}

// fakeInside runs the program without any flag, as the README says.
func fakeInside(t *testing.T, binary string, browser context.Context) {
	p := &partner{t: t, url: startProgram(t, binary, "")}
	p.openTab(browser)
	p.connect()
	p.run(follow(`form[action="/fake/fail"] button`), chromedp.WaitVisible(".state.good"))
	p.run(follow(refreshButton), chromedp.WaitVisible(".state.wait"))
	p.screenshot("fake")
	p.run(follow(`form[action$="/fake/revoke"] button`), chromedp.WaitVisible(refreshButton))
	p.refreshUntil(".state.bad")
}

// partner is a running program, the fake that it is pointed to, and a tab of the browser.
type partner struct {
	t    *testing.T
	fake *applebusinesstest.Server // nil if it is in the program
	url  string
	tab  context.Context

	beforeToken func() // in each token request

	mu            sync.Mutex
	refreshTokens []string
	requests      []*network.Request // of the tab, also those that a redirect caused
	logged        []string           // by the browser, violations of the content policy for instance
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "connect")
	command := exec.Command("go", "build", "-o", binary, "./examples/connect")
	command.Dir = filepath.Join("..", "..")
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return binary
}

func startBrowser(t *testing.T) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	require.NotEmpty(t, path, "this test needs Chromium; on Debian: apt-get install chromium")
	allocator, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path),
		chromedp.Headless,
		chromedp.NoSandbox, // root has none
		chromedp.NoFirstRun,
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), // containers have little of it
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
		chromedp.WSURLReadTimeout(liveness),
	)
	t.Cleanup(cancel)
	browser, _ := chromedp.NewContext(allocator)
	t.Cleanup(func() { assert.NoError(t, chromedp.Cancel(browser)) }) // waits, so that the browser can clean up
	require.NoError(t, chromedp.Do(browser))
	return browser
}

// start starts the fake at localhost and the program at 127.0.0.1: for a browser these are two sites.
func start(t *testing.T, binary string, browser context.Context, deliver applebusinesstest.Delivery) *partner {
	t.Helper()
	p := &partner{t: t}
	p.fake = applebusinesstest.NewUnstartedServer(&applebusinesstest.Options{Addr: "localhost:0", Deliver: deliver})
	p.fake.Config.Handler = p.noteRefreshTokens(p.fake.Config.Handler)
	require.NoError(t, p.fake.Start())
	t.Cleanup(p.fake.Close)
	addr := freeAddr(t)
	app := applebusinesstest.App{ClientID: "my-app", ClientSecret: "s3cret", RedirectURIs: []string{"http://" + addr + "/redirect"}}
	p.fake.RegisterApp(app)
	p.url = startProgram(t, binary, app.ClientSecret,
		"-addr", addr, "-client-id", app.ClientID, "-redirect-url", app.RedirectURIs[0], "-auth-url", p.fake.URL, "-api-url", p.fake.URL)
	p.openTab(browser)
	return p
}

// freeAddr returns an address at which nobody listens. Its port is none that systems give out by themselves, or another
// process could have it a moment later.
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

// startProgram returns the URL that the program says.
func startProgram(t *testing.T, binary, clientSecret string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	command := exec.Command(binary, args...)
	command.Env = append(os.Environ(), "APPLE_BUSINESS_CLIENT_SECRET="+clientSecret)
	command.Stderr = &stderr
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		assert.NoError(t, command.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, command.Wait(), "it stops cleanly")
		if t.Failed() {
			t.Logf("the program's log:\n%s", stderr.String())
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "Open ")
	require.True(t, ok, line)
	return strings.TrimSuffix(address, "/")
}

// noteRefreshTokens lets the test revoke what the program holds.
func (p *partner) noteRefreshTokens(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/oauth2/token" {
			next.ServeHTTP(w, r)
			return
		}
		if p.beforeToken != nil {
			p.beforeToken()
		}
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		var token struct {
			RefreshToken string `json:"refresh_token"`
		}
		if json.Unmarshal(recorder.Body.Bytes(), &token) == nil && token.RefreshToken != "" {
			p.mu.Lock()
			p.refreshTokens = append(p.refreshTokens, token.RefreshToken)
			p.mu.Unlock()
		}
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorder.Code)
		_, _ = io.Copy(w, recorder.Body)
	})
}

// openTab opens a tab without cookies. When the test ends, it must have sent nothing to other hosts, and the browser
// must have had nothing to complain about.
func (p *partner) openTab(browser context.Context) {
	p.t.Helper()
	tab, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	p.t.Cleanup(cancel)
	tab, cancel = context.WithTimeout(tab, liveness)
	p.t.Cleanup(cancel)
	p.tab = tab
	require.NoError(p.t, chromedp.Listen(tab, func(event any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch event := event.(type) {
		case *network.EventRequestWillBeSent:
			p.requests = append(p.requests, event.Request)
		case *log.EventEntryAdded:
			p.logged = append(p.logged, event.Entry.Text)
		}
	}))
	p.t.Cleanup(p.check)
}

func (p *partner) check() {
	p.mu.Lock()
	defer p.mu.Unlock()
	assert.NotEmpty(p.t, p.requests)
	for _, request := range p.requests {
		parsed, err := url.Parse(request.URL)
		require.NoError(p.t, err)
		assert.Contains(p.t, []string{"127.0.0.1", "localhost"}, parsed.Hostname())
	}
	for _, text := range p.logged {
		assert.Contains(p.t, text, "Failed to load resource", "the status of an error page is all there is to complain about")
	}
}

func (p *partner) run(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.tab, actions...))
}

func evaluate[T any](p *partner, expression string) T {
	p.t.Helper()
	value, err := chromedp.Run(p.tab, chromedp.Evaluate[T](expression))
	require.NoError(p.t, err)
	return value
}

// follow clicks and waits for the page that this leads to.
func follow(selector string) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, tab *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.WaitEvent(page.LoadEventFired, func(page.EventLoadEventFired) bool { return true }, chromedp.Click(selector))(ctx, tab)
		return chromedp.Void{}, err
	}
}

// connect goes to the main page and through Apple's consent page, and waits for one connection more.
func (p *partner) connect() {
	p.t.Helper()
	p.run(chromedp.Navigate(p.url), chromedp.WaitVisible(connectLink))
	before := p.count("article")
	p.run(follow(connectLink), follow(allowButton), chromedp.WaitVisible("article:last-of-type .state.good"))
	require.Equal(p.t, before+1, p.count("article"))
}

func (p *partner) text(selector string) string {
	p.t.Helper()
	text, err := chromedp.Run(p.tab, chromedp.Text(selector))
	require.NoError(p.t, err)
	return text
}

func (p *partner) count(selector string) int {
	p.t.Helper()
	return evaluate[int](p, "document.querySelectorAll(`"+selector+"`).length")
}

func (p *partner) location() string {
	p.t.Helper()
	return evaluate[string](p, "location.href")
}

// methods returns how the tab requested a path of the program, in order.
func (p *partner) methods(path string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var methods []string
	for _, request := range p.requests {
		if strings.HasPrefix(request.URL, p.url+path) {
			methods = append(methods, request.Method)
		}
	}
	return methods
}

// last returns the last URL with a path of the program that the tab requested.
func (p *partner) last(path string) string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var last string
	for _, request := range p.requests {
		if strings.HasPrefix(request.URL, p.url+path) {
			last = request.URL
		}
	}
	require.NotEmpty(p.t, last)
	return last
}

func (p *partner) newestRefreshToken() string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NotEmpty(p.t, p.refreshTokens)
	return p.refreshTokens[len(p.refreshTokens)-1]
}

func (p *partner) tokenRequests() []applebusinesstest.Request {
	var found []applebusinesstest.Request
	for _, request := range p.fake.Requests() {
		if request.Endpoint == applebusiness.TokenEndpoint {
			found = append(found, request)
		}
	}
	return found
}

// screenshot writes what the tab shows on a phone and on a desktop, if the flag says so.
func (p *partner) screenshot(name string) {
	p.t.Helper()
	if *screenshots == "" {
		return
	}
	require.NoError(p.t, os.MkdirAll(*screenshots, 0o755))
	for suffix, width := range map[string]int64{"phone": 390, "desktop": 1280} {
		p.run(chromedp.EmulateViewport(width, 844))
		picture, err := chromedp.Run(p.tab, chromedp.FullScreenshot(100))
		require.NoError(p.t, err)
		require.NoError(p.t, os.WriteFile(filepath.Join(*screenshots, name+"-"+suffix+".png"), picture, 0o644))
	}
}
