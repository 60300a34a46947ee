package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const (
	callbackPath = "/callback"
	maxMe        = 64 << 10
)

// app is the partner's web application. What it knows is in memory.
type app struct {
	ctx        context.Context // of the process, with a client that sends JSON: x/oauth2 keeps it
	config     *oauth2.Config
	meURL      string
	origin     string // scheme and host of the redirect URL
	host       string
	cookieName string
	log        *slog.Logger
	fake       *applebusinesstest.Server // nil in a real environment

	logins logins

	mu          sync.Mutex // guards connections; not held during a request to Apple
	connections []*connection
}

// connection is what the partner has of one customer.
type connection struct {
	id     string
	since  time.Time
	source *applebusiness.TokenSource // each call of Token is a refresh
	before string                     // the organisation's name before this customer reconnected as another one

	mu           sync.Mutex // guards what follows; not held during a request to Apple
	token        *oauth2.Token
	refreshed    time.Time
	organisation organisation
	failure      error // of the last refresh
	retryAt      time.Time
}

// organisation is what Apple says about an access token's organisation.
type organisation struct {
	ID   string `json:"orgId"`
	Name string `json:"legalName"`
}

// newApp returns the web application for settings that are checked. The context must live as long as the process.
func newApp(ctx context.Context, s settings, fake *applebusinesstest.Server, log *slog.Logger) *app {
	redirectURL, _ := url.Parse(s.redirectURL)
	config := s.config()
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Timeout: appleTimeout})
	a := &app{
		ctx:        applebusiness.WithJSON(ctx, config.Endpoint.TokenURL),
		config:     config,
		meURL:      strings.TrimRight(s.apiURL, "/") + "/api/v1/me",
		origin:     redirectURL.Scheme + "://" + redirectURL.Host,
		host:       redirectURL.Host,
		cookieName: "browser",
		log:        log,
		fake:       fake,
	}
	if a.isSecure() {
		a.cookieName = "__Host-browser"
	}
	return a
}

func (a *app) isSecure() bool { return strings.HasPrefix(a.origin, "https:") }

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.list)
	mux.HandleFunc("GET /style.css", serveStyle)
	mux.HandleFunc("GET /connect", a.connect)
	// Apple's POST comes from another site, and what protects it is state.
	mux.HandleFunc("GET "+callbackPath, a.callback)
	mux.HandleFunc("POST "+callbackPath, a.callback)
	protection := http.NewCrossOriginProtection()
	handleForm := func(path string, handler http.HandlerFunc) { mux.Handle("POST "+path, protection.Handler(handler)) }
	handleForm("/connections/{id}/refresh", a.refresh)
	handleForm("/connections/{id}/disconnect", a.disconnect)
	if a.fake != nil {
		handleForm("/connections/{id}/fake/revoke", a.revoke)
		handleForm("/fake/fail", a.fail)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		// Another name for this host has other cookies, and may be an attacker's.
		if !strings.EqualFold(r.Host, a.host) {
			writeMessage(w, http.StatusMisdirectedRequest, message{
				Title: "This is not the address of this page",
				Text:  "Open " + a.origin + "/ instead.",
			})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (a *app) list(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	connections := slices.Clone(a.connections)
	a.mu.Unlock()
	content := listPage{Fake: a.fake != nil}
	for _, c := range connections {
		content.Connections = append(content.Connections, c.card(time.Now()))
	}
	write(w, http.StatusOK, "list", content)
}

// connect sends the browser to Apple's consent page. It answers a link and no form: a form could only be redirected to
// hosts that the page's policy names, and Apple does not document which ones its sign-in uses.
func (a *app) connect(w http.ResponseWriter, r *http.Request) {
	browser := rand.Text()
	if cookie, err := r.Cookie(a.cookieName); err == nil && cookie.Value != "" {
		browser = cookie.Value // another tab may be on its way
	}
	http.SetCookie(w, &http.Cookie{
		Name:     a.cookieName,
		Value:    browser,
		Path:     "/",
		MaxAge:   int(loginLife / time.Second),
		HttpOnly: true,
		Secure:   a.isSecure(),
		SameSite: http.SameSiteLaxMode,
	})
	started := a.logins.start(browser, r.URL.Query().Get("connection"), time.Now())
	http.Redirect(w, r, a.config.AuthCodeURL(started.state, oauth2.S256ChallengeOption(started.verifier)), http.StatusSeeOther)
}

// callback is where Apple sends the browser, by GET or by POST.
func (a *app) callback(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie(a.cookieName)
	if err != nil && r.Method == http.MethodPost {
		// A POST from another site brings no SameSite=Lax cookie; the browser's GET of the same URL does.
		http.Redirect(w, r, callbackPath+"?"+r.URL.RawQuery, http.StatusSeeOther)
		return
	}
	var browser string
	if err == nil {
		browser = cookie.Value
	}
	redirect, _ := applebusiness.ParseRedirect(r.URL.RawQuery) // only to find the login
	login, replayed := a.logins.take(browser, redirect.State, time.Now())
	if replayed {
		writeMessage(w, http.StatusBadRequest, message{
			Title: "This answer was used before",
			Text:  "Apple's answer can be used once, and this one has been. Nothing was changed.",
		})
		return
	}
	code, err := applebusiness.VerifyRedirect(r, login.state) // no login: no state is right
	if err != nil {
		a.log.Warn("callback refused", "error", err)
		writeProblem(w, err)
		return
	}
	token, err := a.config.Exchange(a.ctx, code, oauth2.VerifierOption(login.verifier))
	if err = applebusiness.Wrap(err); err != nil {
		a.log.Error("exchange failed", "error", err)
		writeProblem(w, err)
		return
	}
	c := a.newConnection(token)
	a.learnOrganisation(c)
	a.add(c, login.replaces)
	a.log.Info("connected", "connection", c.id)
	http.Redirect(w, r, "/", http.StatusSeeOther) // away from the URL with the code
}

func (a *app) newConnection(token *oauth2.Token) *connection {
	c := &connection{id: rand.Text(), since: time.Now(), token: token}
	c.source = &applebusiness.TokenSource{
		Source:  refresher{a, c},
		Stored:  token,
		OnToken: c.save,
		OnError: func(err error) {
			a.log.Error("refresh failed", "connection", c.id, "error", err)
			c.fail(err)
		},
		Hold: true,
	}
	return c
}

// refresher is an oauth2.TokenSource that refreshes whether or not the stored access token is still valid.
type refresher struct {
	app        *app
	connection *connection
}

func (r refresher) Token() (*oauth2.Token, error) {
	stored := &oauth2.Token{RefreshToken: r.connection.storedToken().RefreshToken}
	return r.app.config.TokenSource(r.app.ctx, stored).Token()
}

// save keeps a new token. A real partner writes it to a database here, before it is used.
func (c *connection) save(token *oauth2.Token) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token, c.refreshed, c.failure = token, time.Now(), nil
	return nil
}

func (c *connection) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure, c.retryAt = err, time.Time{}
	if failed, ok := errors.AsType[*applebusiness.Error](err); ok && failed.RetryAfter > 0 {
		c.retryAt = time.Now().Add(failed.RetryAfter)
	}
}

func (c *connection) storedToken() *oauth2.Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

func (c *connection) currentOrganisation() organisation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.organisation
}

// add keeps a connection, instead of the one it replaces and of any other of the same organisation.
func (a *app) add(c *connection, replaces string) {
	now := c.currentOrganisation()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connections = slices.DeleteFunc(a.connections, func(old *connection) bool {
		was := old.currentOrganisation()
		if old.id == replaces && was != now {
			c.before = was.Name
		}
		return old.id == replaces || was.ID != "" && was.ID == now.ID
	})
	a.connections = append(a.connections, c)
}

// find returns nil if there is no such connection.
func (a *app) find(id string) *connection {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.connections {
		if c.id == id {
			return c
		}
	}
	return nil
}

// refresh refreshes now. How it went is shown with the connection.
func (a *app) refresh(w http.ResponseWriter, r *http.Request) {
	c := a.find(r.PathValue("id"))
	if c == nil {
		writeMessage(w, http.StatusNotFound, message{
			Title: "There is no such connection",
			Text:  "It was disconnected or reconnected, or this program was started again since: it keeps connections in memory only.",
		})
		return
	}
	if _, err := c.source.Token(); err == nil {
		a.learnOrganisation(c)
	}
	http.Redirect(w, r, "/#"+c.id, http.StatusSeeOther)
}

// disconnect forgets a connection. Apple does not document how to tell it.
func (a *app) disconnect(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	a.mu.Lock()
	a.connections = slices.DeleteFunc(a.connections, func(c *connection) bool { return c.id == id })
	a.mu.Unlock()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// learnOrganisation asks Apple which organisation a connection belongs to. A connection is of use without its name, so
// that a failure is only logged.
func (a *app) learnOrganisation(c *connection) {
	found, err := a.fetchOrganisation(c.storedToken())
	if err != nil {
		a.log.Warn("organisation not known", "connection", c.id, "error", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.organisation = found
}

func (a *app) fetchOrganisation(token *oauth2.Token) (organisation, error) {
	var me struct {
		Organisation organisation `json:"orgDetails"`
	}
	request, err := http.NewRequestWithContext(a.ctx, http.MethodGet, a.meURL, nil)
	if err != nil {
		return organisation{}, err
	}
	token.SetAuthHeader(request)
	client, _ := a.ctx.Value(oauth2.HTTPClient).(*http.Client)
	response, err := client.Do(request)
	if err != nil {
		return organisation{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return organisation{}, fmt.Errorf("status %d", response.StatusCode)
	}
	if json.NewDecoder(io.LimitReader(response.Body, maxMe)).Decode(&me) != nil {
		return organisation{}, errors.New("the answer is not the documented JSON") // the decoder's error quotes it
	}
	return me.Organisation, nil
}
