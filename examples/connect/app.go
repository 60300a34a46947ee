package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// app is the partner's web application.
type app struct {
	config      *oauth2.Config
	store       grants.Store
	manager     *grants.Manager
	redirectURL *url.URL
	home        string // the URL to open
	login       string // and a state are the name of the cookie that has the verifier: each tab of a browser can have one
	file        string // of the connections; "": they are in memory only
	log         *slog.Logger
	fake        *applebusinesstest.Server // nil in a real environment

	mu          sync.Mutex            // guards what follows; not held during a request
	connections map[string]connection // by the id of the company, which is the grant's name
	failure     failure
}

// failure is the last attempt to connect that failed, for the operator.
type failure struct {
	Err error
	At  time.Time
}

// connection is what this program knows of a company beside its grant, and what the page shows of that.
type connection struct {
	ID, Name         string
	Since            time.Time
	Err              error     `json:"-"` // of the last refresh, or why the grant is dead
	RetryAt, Expires time.Time `json:"-"`
}

// newApp returns the web application for settings that are checked. Close the manager at the end.
func newApp(s *settings, store grants.Store, fake *applebusinesstest.Server, log *slog.Logger) (*app, error) {
	a := &app{config: &s.Config, store: store, login: "login-", log: log, fake: fake, connections: make(map[string]connection)}
	a.redirectURL, _ = url.Parse(s.RedirectURL)
	if a.redirectURL.Scheme == "https" {
		a.login = "__Host-login-"
	}
	a.home = a.redirectURL.Scheme + "://" + a.redirectURL.Host + "/"
	a.manager = grants.New(a.config, store, &grants.Options{HTTPClient: &http.Client{Timeout: appleTimeout}, OnRefresh: func(r grants.Refresh) {
		if a.note(r.Grant, r.Err); r.Err != nil {
			log.Error("refresh failed", "grant", r.Grant, applebusiness.LogAttr(r.Err))
		}
	}})
	if s.dir == "" {
		return a, nil
	}
	a.file = filepath.Join(s.dir, "connections.json") // beside the grants
	content, err := os.ReadFile(a.file)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	return a, cmp.Or(err, json.Unmarshal(content, &a.connections))
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.list)
	mux.Handle("GET /style.css", http.FileServerFS(files))
	mux.HandleFunc("GET /connect", a.connect)
	mux.HandleFunc("GET "+a.redirectURL.Path, a.redirect)
	mux.HandleFunc("POST "+a.redirectURL.Path, a.redirect)
	mux.HandleFunc("GET /not-connected", func(w http.ResponseWriter, r *http.Request) {
		// It is no success, or a browser could show what it has fetched ahead. What an engineer needs to know is elsewhere.
		write(w, http.StatusBadRequest, "not connected", applebusiness.Action(r.FormValue("action")))
	})
	mux.HandleFunc("GET /other", func(w http.ResponseWriter, r *http.Request) {
		write(w, http.StatusOK, "other", []connection{a.find(r.FormValue("connected")), a.find(r.FormValue("expected"))})
	})
	mux.HandleFunc("POST /connections/{id}/refresh", a.form(a.refresh))
	mux.HandleFunc("POST /connections/{id}/revive", a.form(a.revive))
	mux.HandleFunc("POST /connections/{id}/disconnect", a.form(a.disconnect))
	if a.fake != nil {
		mux.HandleFunc("POST /connections/{id}/fake/revoke", a.form(a.revoke))
		mux.HandleFunc("POST /fake/fail", a.form(func(context.Context, string) error {
			a.fake.FailWith(http.StatusServiceUnavailable, nil, "")
			return nil
		}))
	}
	protection := http.NewCrossOriginProtection()
	protection.AddInsecureBypassPattern("POST " + a.redirectURL.Path) // Apple's comes from another site, and what protects it is state
	protected := protection.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		// Other sites see no URL of this one; with no-referrer the forms here would lack the Origin that protects them.
		w.Header().Set("Referrer-Policy", "same-origin")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !strings.EqualFold(r.Host, a.redirectURL.Host) { // another name of this host has other cookies, and may be an attacker's
			write(w, http.StatusMisdirectedRequest, "address", a.home)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// connect sends the browser to Apple's consent page. It is a link and no form: a form could only be redirected to hosts
// that the page's policy names, and Apple does not document which ones its sign-in uses.
func (a *app) connect(w http.ResponseWriter, r *http.Request) {
	state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	http.SetCookie(w, &http.Cookie{
		Name: a.login + state, Value: verifier + "." + url.QueryEscape(a.find(r.FormValue("connection")).ID), MaxAge: int(loginLife / time.Second),
		Path: "/", Secure: a.redirectURL.Scheme == "https", HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, a.config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
}

// redirect is where Apple sends the browser, by GET or by POST. It leaves the browser at a URL without the code.
func (a *app) redirect(w http.ResponseWriter, r *http.Request) {
	var state, verifier, expected string
	back, _ := applebusiness.ParseRedirect(r.URL.RawQuery)         // only to find the cookie
	if cookie, err := r.Cookie(a.login + back.State); err == nil { // this browser has started it
		state = back.State
		verifier, expected, _ = strings.Cut(cookie.Value, ".")
	} else if r.Method == http.MethodPost { // from another site it brings no SameSite=Lax cookie; the browser's GET does
		http.Redirect(w, r, r.URL.RequestURI(), http.StatusSeeOther)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), connectTimeout) // what follows is done without the browser, too
	defer cancel()
	connected, err := a.manager.Connect(r.WithContext(ctx), state, verifier)
	if err != nil {
		a.log.Warn("not connected", applebusiness.LogAttr(err))
		a.mu.Lock()
		a.failure = failure{err, time.Now()}
		a.mu.Unlock()
		http.Redirect(w, r, "/not-connected?action="+string(applebusiness.Troubleshoot(err).Action), http.StatusSeeOther)
		return
	}
	a.log.Info("connected", "grant", connected.Grant)
	a.change(func() {
		a.connections[connected.Grant] = connection{ID: connected.Grant, Name: connected.Name, Since: time.Now()}
	})
	next := "/"
	if expected, _ := url.QueryUnescape(expected); expected != "" && expected != connected.Grant {
		next = "/other?" + url.Values{"expected": {expected}, "connected": {connected.Grant}}.Encode()
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// form returns the handler of a button that does something with a connection.
func (a *app) form(do func(ctx context.Context, id string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		err := do(r.Context(), id)
		a.note(id, err)
		a.log.Info("form", "path", r.Pattern, "grant", id, applebusiness.LogAttr(err))
		if errors.Is(err, grants.ErrNoGrant) {
			write(w, http.StatusNotFound, "none", nil)
			return
		}
		http.Redirect(w, r, "/#"+url.PathEscape(id), http.StatusSeeOther)
	}
}

// refresh replaces the access token now, as if the API had refused it. How it went is shown with the connection.
func (a *app) refresh(ctx context.Context, id string) error {
	token, err := a.manager.Token(ctx, id)
	if err == nil {
		a.manager.Invalidate(id, token)
		_, err = a.manager.Token(ctx, id)
	}
	return err
}

// revive is for the operator who knows that a grant was called dead by mistake: its token was kept.
func (a *app) revive(ctx context.Context, id string) error {
	record, err := a.store.Load(ctx, id)
	if err == nil {
		err = a.manager.Put(ctx, id, record.Token)
	}
	return err
}

// disconnect forgets a connection. Apple does not document how to tell it.
func (a *app) disconnect(ctx context.Context, id string) error {
	err := a.manager.Delete(ctx, id)
	if err == nil {
		a.change(func() { delete(a.connections, id) })
	}
	return err
}

// revoke lets the customer disconnect the partner at the fake.
func (a *app) revoke(ctx context.Context, id string) error {
	record, err := a.store.Load(ctx, id)
	if err == nil {
		a.fake.Revoke(record.Token.RefreshToken)
	}
	return err
}

func (a *app) list(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	connections := slices.SortedFunc(maps.Values(a.connections), func(a, b connection) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	failure := a.failure
	a.mu.Unlock()
	var shown []connection
	for _, c := range connections {
		record, err := a.store.Load(r.Context(), c.ID)
		switch {
		case errors.Is(err, grants.ErrNoGrant):
			continue
		case err != nil:
			c.Err = err
		case record.Dead != nil:
			c.Err = record.Dead
		default:
			c.Expires = record.Token.Expiry
		}
		shown = append(shown, c)
	}
	write(w, http.StatusOK, "list", map[string]any{"Connections": shown, "Failure": failure, "Fake": a.fake != nil, "File": a.file != ""})
}

// find returns the zero connection if there is none.
func (a *app) find(id string) connection {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.connections[id]
}

// change changes the connections, and writes them to the file.
func (a *app) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	if a.file == "" {
		return
	}
	content, _ := json.Marshal(a.connections) // texts and times
	err := os.WriteFile(a.file+".new", content, 0o600)
	if err == nil {
		err = os.Rename(a.file+".new", a.file)
	}
	if err != nil {
		a.log.Error("the connections are not written", "error", err)
	}
}

// note is told how each refresh went, also of those that nobody pressed a button for.
func (a *app) note(id string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.connections[id]; ok {
		c.Err, c.RetryAt = err, time.Now()
		if failed, ok := errors.AsType[*applebusiness.Error](err); ok {
			c.RetryAt = c.RetryAt.Add(failed.RetryAfter)
		}
		a.connections[id] = c
	}
}

// keepAlive refreshes what comes due, until ctx is done.
func (a *app) keepAlive(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.manager.RefreshDue(ctx, 10*time.Minute); err != nil && ctx.Err() == nil {
			a.log.Error("connections are not kept alive", "error", err)
		}
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
		}
	}
}
