package main

import (
	"cmp"
	"context"
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
	"github.com/seed-a5f25c57/applebusiness/grants"
)

const maxMe = 64 << 10

// app is the partner's web application. What it knows is in memory.
type app struct {
	ctx          context.Context // of the process, with a client that sends JSON: x/oauth2 keeps it
	config       *oauth2.Config
	store        *grants.MemoryStore // a real partner's is in a database
	manager      *grants.Manager
	meURL        string
	origin       string // scheme and host of the redirect URL
	host         string
	redirectPath string
	log          *slog.Logger
	fake         *applebusinesstest.Server // nil in a real environment
	logins       *logins

	mu          sync.Mutex             // guards what follows; not held during a request
	connections map[string]*connection // by the id of the organisation, which is the grant's name
	attempt     failure                // the last attempt to connect that failed, for the operator
}

// connection is what this program knows of an organisation beside its grant.
type connection struct {
	organisation organisation
	since        time.Time
	refreshed    time.Time
	err          error // of the last refresh
	retryAt      time.Time
}

// failure is an error and when it happened.
type failure struct {
	err  error
	when time.Time
}

// organisation is what Apple says about an access token's organisation.
type organisation struct {
	ID   string `json:"orgId"`
	Name string `json:"legalName"`
}

// newApp returns the web application for settings that are checked. The context must live as long as the process. Close the
// manager at the end.
func newApp(ctx context.Context, s settings, fake *applebusinesstest.Server, log *slog.Logger) *app {
	redirectURL, _ := url.Parse(s.redirectURL)
	a := &app{
		config:       s.config(),
		store:        grants.NewMemoryStore(),
		meURL:        strings.TrimRight(s.apiURL, "/") + "/api/v1/me",
		origin:       redirectURL.Scheme + "://" + redirectURL.Host,
		host:         redirectURL.Host,
		redirectPath: redirectURL.Path,
		log:          log,
		fake:         fake,
		logins:       newLogins(redirectURL.Scheme == "https"),
		connections:  make(map[string]*connection),
	}
	client := &http.Client{Timeout: appleTimeout}
	a.ctx = applebusiness.WithJSON(context.WithValue(ctx, oauth2.HTTPClient, client), a.config.Endpoint.TokenURL)
	a.manager = grants.New(a.config, a.store, &grants.Options{HTTPClient: client, OnRefresh: a.noteRefresh})
	return a
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.list)
	mux.HandleFunc("GET /style.css", serveStyle)
	mux.HandleFunc("GET /connect", a.connect)
	// Apple's POST comes from another site, and what protects it is state.
	mux.HandleFunc("GET "+a.redirectPath, a.redirect)
	mux.HandleFunc("POST "+a.redirectPath, a.redirect)
	protection := http.NewCrossOriginProtection()
	handleForm := func(path string, handler http.HandlerFunc) { mux.Handle("POST "+path, protection.Handler(handler)) }
	handleForm("/connections/{id}/refresh", a.refresh)
	handleForm("/connections/{id}/revive", a.revive)
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

func (a *app) list(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	connections := make([]connection, 0, len(a.connections))
	for _, c := range a.connections {
		connections = append(connections, *c)
	}
	content := listPage{Fake: a.fake != nil}
	if a.attempt.err != nil {
		content.Attempt, content.When = newProblem(a.attempt.err), a.attempt.when.UTC()
	}
	a.mu.Unlock()
	slices.SortFunc(connections, func(a, b connection) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.organisation.ID, b.organisation.ID))
	})
	for _, c := range connections {
		if record, err := a.store.Load(r.Context(), c.organisation.ID); err == nil {
			content.Connections = append(content.Connections, newCard(c, record, time.Now()))
		}
	}
	write(w, http.StatusOK, "list", content)
}

// connect sends the browser to Apple's consent page. It is a link and no form: a form could only be redirected to hosts
// that the page's policy names, and Apple does not document which ones its sign-in uses.
func (a *app) connect(w http.ResponseWriter, r *http.Request) {
	expects := r.URL.Query().Get("connection")
	if a.find(expects) == nil {
		expects = ""
	}
	started := a.logins.start(w, r, expects, time.Now())
	http.Redirect(w, r, a.config.AuthCodeURL(started.State, oauth2.S256ChallengeOption(started.Verifier)), http.StatusSeeOther)
}

// redirect is where Apple sends the browser, by GET or by POST.
func (a *app) redirect(w http.ResponseWriter, r *http.Request) {
	redirect, _ := applebusiness.ParseRedirect(r.URL.RawQuery) // only to find the login
	login := a.logins.take(w, r, redirect.State, time.Now())
	if login.State == "" && r.Method == http.MethodPost {
		// A POST from another site brings no SameSite=Lax cookie; the browser's GET of the same URL does.
		http.Redirect(w, r, a.redirectPath+"?"+r.URL.RawQuery, http.StatusSeeOther)
		return
	}
	if login.Used {
		writeMessage(w, http.StatusBadRequest, message{
			Title: "This page was opened before",
			Text:  "Apple sends you here once for each connection, and this time is over. Nothing was changed.",
		})
		return
	}
	code, err := applebusiness.VerifyRedirect(r, login.State) // no login: no state is right
	if err != nil {
		a.failed(w, err)
		return
	}
	connected, err := a.exchange(r.Context(), code, login.Verifier)
	if err != nil {
		a.failed(w, err)
		return
	}
	a.log.Info("connected", "grant", connected.ID)
	if expected := a.find(login.Expects); expected != nil && login.Expects != connected.ID {
		writeMessage(w, http.StatusOK, message{
			Title: "Another company was connected",
			Text: fmt.Sprintf("At Apple Business you picked %s, which is connected now. %s was not connected again.",
				connected.Name, expected.organisation.Name),
		})
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther) // away from the URL with the code
}

var errNoRefreshToken = errors.New("the token has no refresh token: the grant would end within the hour")

// exchange redeems a code, asks which organisation the token belongs to, and keeps the grant under that one's id: the user
// picks the organisation at Apple, and the next time it can be another one.
func (a *app) exchange(ctx context.Context, code, verifier string) (organisation, error) {
	token, err := a.config.Exchange(a.ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return organisation{}, applebusiness.Wrap(err)
	}
	if token.RefreshToken == "" {
		return organisation{}, errNoRefreshToken
	}
	connected, err := a.fetchOrganisation(token)
	if err != nil {
		return organisation{}, fmt.Errorf("which organisation is connected is not known: %w", err)
	}
	if err := a.manager.Put(ctx, connected.ID, token); err != nil {
		return organisation{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connections[connected.ID] = &connection{organisation: connected, since: time.Now()}
	return connected, nil
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
	if json.NewDecoder(io.LimitReader(response.Body, maxMe)).Decode(&me) != nil || me.Organisation.ID == "" {
		return organisation{}, errors.New("the response is not the documented JSON") // the decoder's error quotes it
	}
	return me.Organisation, nil
}

// failed tells the customer that an attempt to connect failed, and the operator why.
func (a *app) failed(w http.ResponseWriter, err error) {
	a.log.Warn("not connected", applebusiness.LogAttr(err))
	a.mu.Lock()
	a.attempt = failure{err, time.Now()}
	a.mu.Unlock()
	writeFailure(w, err)
}

// noteRefresh is told of each refresh, also of those that nobody pressed a button for.
func (a *app) noteRefresh(refresh grants.Refresh) {
	if refresh.Err != nil {
		a.log.Error("refresh failed", "grant", refresh.Grant, applebusiness.LogAttr(refresh.Err))
	}
	a.note(refresh.Grant, refresh.Err)
}

func (a *app) note(id string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.connections[id]; c != nil {
		c.err, c.retryAt = err, time.Time{}
		if err == nil {
			c.refreshed = time.Now()
		}
		if failed, ok := errors.AsType[*applebusiness.Error](err); ok && failed.RetryAfter > 0 {
			c.retryAt = time.Now().Add(failed.RetryAfter)
		}
	}
}

// find returns a copy, or nil if there is no such connection.
func (a *app) find(id string) *connection {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.connections[id]; c != nil {
		return new(*c)
	}
	return nil
}

// refresh replaces the access token now, as if the API had refused it. How it went is shown with the connection.
func (a *app) refresh(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	token, err := a.manager.Token(r.Context(), id)
	if err == nil {
		a.manager.Invalidate(id, token)
		_, err = a.manager.Token(r.Context(), id)
	}
	if errors.Is(err, grants.ErrNoGrant) {
		writeMessage(w, http.StatusNotFound, message{
			Title: "There is no such connection",
			Text:  "It was disconnected, or this program was started again since: it keeps connections in memory only.",
		})
		return
	}
	if err != nil {
		a.note(id, err)
	}
	http.Redirect(w, r, "/#"+url.PathEscape(id), http.StatusSeeOther)
}

// revive is for the operator who knows that a grant was called dead by mistake: its token was kept.
func (a *app) revive(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	record, err := a.store.Load(r.Context(), id)
	if err == nil {
		err = a.manager.Put(r.Context(), id, record.Token)
	}
	a.log.Info("revived", "grant", id, "error", err)
	a.note(id, err)
	http.Redirect(w, r, "/#"+url.PathEscape(id), http.StatusSeeOther)
}

// disconnect forgets a connection. Apple does not document how to tell it.
func (a *app) disconnect(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if err := a.manager.Delete(r.Context(), id); err != nil {
		a.log.Error("not disconnected", "grant", id, "error", err)
	}
	a.mu.Lock()
	delete(a.connections, id)
	a.mu.Unlock()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// keepAlive refreshes what comes due, until ctx is done.
func (a *app) keepAlive(ctx context.Context) {
	for {
		if err := a.manager.RefreshDue(ctx, 10*time.Minute); err != nil && ctx.Err() == nil {
			a.log.Error("connections are not kept alive", "error", err)
		}
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return
		}
	}
}
