// Package applebusinesstest is a fake Apple Business for tests, in the manner of net/http/httptest: an OAuth server on
// the loopback interface that responds as Apple documents, and with any documented error on demand.
//
//	server := applebusinesstest.NewServer(nil)
//	defer server.Close()
//	config := &oauth2.Config{
//		ClientID:     server.App.ClientID,
//		ClientSecret: server.App.ClientSecret,
//		RedirectURL:  server.App.RedirectURIs[0],
//		Endpoint:     server.Endpoint(),
//	}
//	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
//	token, err := config.TokenSource(ctx, server.Connect(config.ClientID)).Token()
//
// It is a server, not a tape. Codes live 5 minutes and may be used once, access tokens live 60 minutes, refresh tokens
// rotate; the response to a wrong request is the row of Apple's error tables that is about it. The rows that no
// request provokes (a failure at Apple's side) come from [Server.Fail], what is in no table (429, 503, a proxy's HTML) from
// [Server.FailWith], and what is slow, hangs or breaks off from [Server.FailNext].
//
// Besides the two endpoints there is the API's GET /api/v1/me, which says to which organisation an access token belongs. What
// a test does wrong itself, such as to let a Reason fail that is in no row, panics with a text that says so: a test of a
// failure that silently tests success is worse.
//
// For tests in any language it is a program too: examples/fakeapple, steered by requests to /_fake/fail, /_fake/connect,
// /_fake/revoke and others, which its flag -h lists.
//
// # What Apple does not document
//
// Here the fake had to choose, and a test should not rely on it:
//
//   - Which status "Invalid refresh_token" has: 401 for grant_type refresh_token, 400 for authorization_code.
//   - A wrong code_verifier or redirect_uri, and a code of another app, are "Invalid refresh_token" as well. A code is
//     spent by the first request that brings it with the right credentials, whether that succeeds or not.
//   - A client_id that is not registered, or no longer, is "Invalid client_id"; a wrong secret for one that is, "Invalid
//     client_id or client_secret".
//   - An app that asks for client_credentials, or a Service Account that asks for another grant, gets RFC 6749's
//     unauthorized_client.
//   - A body that is no JSON object gets the row about the media type, and a member that is no string counts as missing.
//   - A user who denies sends RFC 6749's access_denied to the redirect URI. A query that does not decode or repeats a
//     parameter, and a state that needs percent-encoding, are "bad request". A scope is valid if it names those that Apple
//     grants.
//   - Refresh tokens live until they are replaced or revoked; see KeepRefreshToken and GracePeriod of [Options]. A replaced
//     one that is sent again, or a code that is used again, does not end the grant.
//   - Each consent makes a grant and an organisation of its own and leaves the earlier grants alone.
//   - The resource API has the same response to a missing, an unknown, an expired and a revoked access token.
//
// Apple's table sends every error of the authorization endpoint to the redirect URI. The fake does so only where that URI
// is registered for the app, and otherwise shows the error as a page, as RFC 6749 section 4.1.2.1 asks;
// [Server.Authorize] returns it in both cases.
package applebusinesstest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	authorizePath = "/oauth2/v1/authorize"
	tokenPath     = "/api/v1/oauth2/token"
	mePath        = "/api/v1/me"

	codeLife        = 5 * time.Minute
	accessTokenLife = 60 * time.Minute // unless Options say otherwise
	clientTimeout   = 10 * time.Second
	closeTimeout    = time.Second
	maxBody         = 64 << 10
)

// Delivery is how the authorization endpoint sends the browser back to the redirect URI.
type Delivery int

const (
	// DeliverGet sends the browser with status 302.
	DeliverGet Delivery = iota
	// DeliverPost lets the browser send a POST with the parameters in the URL's query, as Apple documents.
	DeliverPost
)

// Consent is what the user does at the authorization endpoint.
type Consent int

const (
	// ConsentAsk shows a page on which the user allows or denies.
	ConsentAsk Consent = iota
	// ConsentAllow redirects at once with a code.
	ConsentAllow
	// ConsentDeny redirects at once with the error access_denied.
	ConsentDeny
)

// Options are for [NewServer]; the zero Options are the defaults.
type Options struct {
	Addr             string        // "" means 127.0.0.1 and a free port
	Deliver          Delivery      // how the redirect is delivered
	Consent          Consent       // what the user does
	KeepRefreshToken bool          // whether a refresh returns the same refresh token; otherwise a new one replaces it
	GracePeriod      time.Duration // how long a replaced refresh token still works; 0 or less: it is dead at once
	AccessTokenLife  time.Duration // in whole seconds; 0 or less means 60 minutes, as at Apple

	// Now is the clock for all lifetimes, called from any goroutine; nil means time.Now. It moves the server's time only:
	// x/oauth2 compares a token's Expiry with the wall clock, so that a client does not refresh because Now has moved on.
	// Give it the token of [Server.ConnectExpired] instead.
	Now func() time.Time
}

// App is a registered OAuth app of a partner.
type App struct {
	ClientID     string
	ClientSecret string
	RedirectURIs []string // compared letter for letter
}

// ServiceAccount is a registered Service Account, for the grant client_credentials.
type ServiceAccount struct {
	ClientID     string
	ClientSecret string
}

// Request is a request that arrived at one of the two endpoints.
type Request struct {
	Endpoint  applebusiness.Endpoint
	GrantType string     // of a token request
	Params    url.Values // the query, or the members of the body; secrets are replaced by "REDACTED"
	RequestID string     // the apple-request-id of the response
}

// Server is a fake Apple Business. Its methods can be called from any number of goroutines, and those for partners,
// grants and failures before it is started and after it is closed, too. A client_id or token that it does not know makes
// them panic. A state that it refuses is said on the log of Config, without the state.
type Server struct {
	URL            string         // scheme, host and port; set by Start
	App            App            // registered by default with the redirect URI https://partner.example/apple/callback, and not changed later
	ServiceAccount ServiceAccount // registered by default, and not changed later
	Config         *http.Server   // may be changed before Start: its Handler can be wrapped

	options Options
	serving sync.WaitGroup

	mu                    sync.Mutex // guards what follows
	started               bool
	clients               map[string]*client
	codes                 map[string]*authorizationCode
	refreshTokens         map[string]*refreshToken // the replaced ones too: they identify the grant
	accessTokens          map[string]accessToken
	organisations         int
	authorizationFailures []Failure
	tokenFailures         []Failure
	requests              []Request
}

// client is an app or a Service Account.
type client struct {
	secret         string
	redirectURIs   []string
	serviceAccount bool
}

// grant is one consent of one customer, or what a Service Account has by itself.
type grant struct {
	clientID     string
	organisation int
	dead         bool
}

type authorizationCode struct {
	grant       *grant
	redirectURI string
	challenge   string
	expires     time.Time
	used        bool
}

type refreshToken struct {
	grant *grant
	dies  time.Time // when it was replaced, and the grace period after that has passed; zero: not replaced
}

type accessToken struct {
	grant   *grant
	expires time.Time
}

// NewServer returns a server that listens, with one app and one Service Account; nil options are the defaults. The caller
// has to Close it. NewServer panics if it cannot listen at Options.Addr: call [NewUnstartedServer] and [Server.Start] for an
// address that may be taken.
func NewServer(options *Options) *Server {
	server := NewUnstartedServer(options)
	if err := server.Start(); err != nil {
		panic(err.Error())
	}
	return server
}

// NewUnstartedServer returns a server that does not listen yet. Its Config can be changed, to put a handler around its own
// for instance.
func NewUnstartedServer(options *Options) *Server {
	server := &Server{
		App: App{
			ClientID:     "app-" + rand.Text(),
			ClientSecret: rand.Text(),
			RedirectURIs: []string{"https://partner.example/apple/callback"},
		},
		ServiceAccount: ServiceAccount{ClientID: "service-account-" + rand.Text(), ClientSecret: rand.Text()},
	}
	if options != nil {
		server.options = *options
	}
	if server.options.AccessTokenLife = server.options.AccessTokenLife.Truncate(time.Second); server.options.AccessTokenLife <= 0 {
		server.options.AccessTokenLife = accessTokenLife
	}
	server.Config = &http.Server{Handler: http.HandlerFunc(server.serve), ReadHeaderTimeout: clientTimeout}
	server.RegisterApp(server.App)
	server.RegisterServiceAccount(server.ServiceAccount)
	return server
}

// Start listens at Options.Addr and sets URL; with a TLSConfig in Config that is https. It returns an error if that fails, or if
// the server was started before.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return errors.New("applebusinesstest: the server was started before")
	}
	addr := s.options.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("applebusinesstest: %w", err)
	}
	s.started = true
	// The host stays as the caller wrote it: to a browser localhost and 127.0.0.1 are different sites.
	host, _, _ := net.SplitHostPort(addr)
	if host == "" {
		host = "127.0.0.1"
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	s.URL = "http://" + net.JoinHostPort(host, port)
	if s.Config != nil && s.Config.TLSConfig != nil {
		s.URL = "https" + strings.TrimPrefix(s.URL, "http")
	}
	if s.Config == nil {
		s.Config = &http.Server{ReadHeaderTimeout: clientTimeout}
	}
	if s.Config.Handler == nil {
		s.Config.Handler = http.HandlerFunc(s.serve)
	}
	config := s.Config
	s.serving.Go(func() {
		if config.TLSConfig != nil {
			_ = config.ServeTLS(listener, "", "")
		} else {
			_ = config.Serve(listener)
		}
	})
	return nil
}

// Close stops listening and returns when the requests under way have their responses, or are cut off after a second.
func (s *Server) Close() {
	s.mu.Lock()
	started, config := s.started, s.Config
	s.mu.Unlock()
	if !started {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if config.Shutdown(ctx) != nil {
		_ = config.Close()
	}
	s.serving.Wait()
}

// Endpoint returns both URLs, for oauth2.Config.
func (s *Server) Endpoint() oauth2.Endpoint { return applebusiness.OAuth2Endpoint(s.URL, s.URL) }

// Client returns a client that sends token requests as JSON and gives up after 10 seconds, for the context key
// oauth2.HTTPClient.
func (s *Server) Client() *http.Client {
	return &http.Client{
		Transport: &applebusiness.Transport{TokenURL: s.Endpoint().TokenURL},
		Timeout:   clientTimeout,
	}
}

// RegisterApp adds an app, or replaces what is registered under its ClientID. Grants stay.
func (s *Server) RegisterApp(app App) {
	s.register(app.ClientID, &client{secret: app.ClientSecret, redirectURIs: slices.Clone(app.RedirectURIs)})
}

// RegisterServiceAccount adds a Service Account, or replaces what is registered under its ClientID.
func (s *Server) RegisterServiceAccount(account ServiceAccount) {
	s.register(account.ClientID, &client{secret: account.ClientSecret, serviceAccount: true})
}

func (s *Server) register(clientID string, registered *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil {
		s.clients = make(map[string]*client)
		s.codes = make(map[string]*authorizationCode)
		s.refreshTokens = make(map[string]*refreshToken)
		s.accessTokens = make(map[string]accessToken)
	}
	s.clients[clientID] = registered
}

// RotateSecret gives an app or a Service Account a new client secret, and returns it. The old one is invalid at once, as
// at Apple; grants stay. It panics if the client_id is not registered.
func (s *Server) RotateSecret(clientID string) (secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	registered := s.client("RotateSecret", clientID)
	registered.secret = rand.Text()
	return registered.secret
}

// client returns what is registered, and panics if nothing is; s.mu is held.
func (s *Server) client(method, clientID string) *client {
	registered := s.clients[clientID]
	if registered == nil {
		panic(fmt.Sprintf("applebusinesstest: %s: the client_id %q is not registered; %q are", method, clientID, slices.Sorted(maps.Keys(s.clients))))
	}
	return registered
}

// DeleteApp removes an app or a Service Account, and ends all its grants for good. It panics if the client_id is not
// registered.
func (s *Server) DeleteApp(clientID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client("DeleteApp", clientID)
	delete(s.clients, clientID)
	for _, code := range s.codes {
		code.grant.endFor(clientID)
	}
	for _, token := range s.accessTokens { // each grant with a refresh token has an access token
		token.grant.endFor(clientID)
	}
}

func (g *grant) endFor(clientID string) { g.dead = g.dead || g.clientID == clientID }

// Connect returns the token of a customer who has just connected to the app, without the consent page, as
// oauth2.Config.Exchange would return it. It panics if the client_id is not that of a registered app.
func (s *Server) Connect(clientID string) *oauth2.Token {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client("Connect", clientID).serviceAccount {
		panic("applebusinesstest: Connect: a Service Account has no customers who connect")
	}
	issued := s.issue(s.newGrant(clientID), rand.Text(), now)
	return &oauth2.Token{
		AccessToken:  issued.AccessToken,
		TokenType:    issued.TokenType,
		RefreshToken: issued.RefreshToken,
		Expiry:       time.Now().Add(s.options.AccessTokenLife), // x/oauth2 reads no other clock
		ExpiresIn:    issued.ExpiresIn,
	}
}

// ConnectExpired is [Server.Connect] with a token whose access token has expired, by the wall clock: x/oauth2 refreshes it
// before its first use.
func (s *Server) ConnectExpired(clientID string) *oauth2.Token {
	token := s.Connect(clientID)
	token.Expiry = time.Now().Add(-time.Minute)
	s.mu.Lock()
	defer s.mu.Unlock()
	issued := s.accessTokens[token.AccessToken]
	issued.expires = time.Time{}
	s.accessTokens[token.AccessToken] = issued
	return token
}

// Revoke lets the customer disconnect the partner: it ends the grant that the refresh token belongs or belonged to, with
// all its tokens. It panics if this server has not issued the refresh token.
func (s *Server) Revoke(refreshToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.refreshTokens[refreshToken]
	if token == nil {
		panic(fmt.Sprintf("applebusinesstest: Revoke: this refresh token was not issued here; %d were", len(s.refreshTokens)))
	}
	token.grant.dead = true
}

// Fail lets the next request to an endpoint fail with the row of Apple's tables that is about the reason. If there are two,
// it is the first: "Invalid refresh_token" with status 400, and the token endpoint's "server error"; [Server.FailEntry]
// takes the other. It panics for a Reason that is in no row.
//
// Failures queue, for each endpoint by itself. A request that fails so has no effect: its code is not spent.
func (s *Server) Fail(reason applebusiness.Reason) {
	for entry := range applebusiness.Catalog() {
		if entry.Reason == reason {
			s.FailEntry(entry)
			return
		}
	}
	panic(fmt.Sprintf("applebusinesstest: Fail: no row of Apple's tables has the Reason %q; applebusiness.Catalog has them all", string(reason)))
}

// FailEntry is [Server.Fail] with a row of [applebusiness.Catalog], or one that Apple does not document. A template's
// parameter name is filled in. It panics for an Entry of neither endpoint, or of the token endpoint with a status that ends no
// request.
func (s *Server) FailEntry(entry applebusiness.Entry) { s.FailNext(Failure{Entry: entry}) }

// FailWith lets the next token request have any response, in one queue with [Server.Fail]: status 429 with a Retry-After,
// or the HTML of a proxy. It panics for a status that ends no request, below 200 or above 999.
func (s *Server) FailWith(status int, header http.Header, body string) {
	s.FailNext(Failure{StatusCode: status, Header: header, Body: body})
}

// LoseResponse lets the response to the next token request be lost: the request takes effect, a refresh token is replaced, and
// then the connection breaks.
func (s *Server) LoseResponse() { s.FailNext(Failure{TakesEffect: true, Drop: true}) }

// Failure is how a request fails: with a row of Apple's tables, with any other response, or with none. Where it has neither an
// Entry nor a StatusCode, it needs one of TakesEffect, Hang and Drop.
type Failure struct {
	Entry applebusiness.Entry // a row, of either endpoint

	// These are for the token endpoint.
	StatusCode  int // a response of any other kind
	Header      http.Header
	Body        string
	TakesEffect bool          // the request is treated as if it did not fail, and only its response is late, hangs or is lost
	Delay       time.Duration // before the response
	Hang        bool          // there is no response until the client gives up, or the server is closed
	Drop        bool          // the connection breaks instead

	Times int // how many requests fail so: 0 means one, and a negative number all of them, until Heal
}

// FailNext lets the next requests to an endpoint fail, in one queue with [Server.Fail] and [Server.FailWith]. It panics if the
// Failure says no way to fail.
func (s *Server) FailNext(failure Failure) {
	failure.Header = failure.Header.Clone()
	entry := &failure.Entry
	if entry.Reason == applebusiness.ErrMissingParameter && entry.Description == entry.Reason.Description() {
		entry.Description = missingParameter("grant_type")
	}
	hasEntry := *entry != (applebusiness.Entry{})
	if hasEntry && entry.Endpoint == applebusiness.TokenEndpoint {
		row := errorResponse(*entry)
		failure.StatusCode, failure.Header, failure.Body = row.status, row.header, row.body
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case hasEntry && entry.Endpoint == applebusiness.AuthorizationEndpoint:
		s.authorizationFailures = append(s.authorizationFailures, failure)
		return
	case hasEntry && entry.Endpoint != applebusiness.TokenEndpoint:
		panic(fmt.Sprintf("applebusinesstest: FailNext: the Entry is of neither endpoint but of %q", string(entry.Endpoint)))
	case !failure.TakesEffect && !failure.Hang && !failure.Drop && (failure.StatusCode < 200 || failure.StatusCode > 999):
		panic(fmt.Sprintf("applebusinesstest: FailNext: the status %d ends no request; want one from 200 to 999", failure.StatusCode))
	}
	s.tokenFailures = append(s.tokenFailures, failure)
}

// Heal forgets all failures that have not come to pass.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorizationFailures, s.tokenFailures = nil, nil
}

// SetConsent changes what the user does, which Options.Consent says at first.
func (s *Server) SetConsent(consent Consent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options.Consent = consent
}

func (s *Server) consent() Consent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.options.Consent
}

// Reset forgets all grants, with their codes and tokens, all failures and all requests. What is registered stays.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.codes)
	clear(s.refreshTokens)
	clear(s.accessTokens)
	s.organisations, s.authorizationFailures, s.tokenFailures, s.requests = 0, nil, nil, nil
}

// next takes a failure from a queue, and returns false if it is empty; Server.mu is held.
func next(queue *[]Failure) (Failure, bool) {
	if len(*queue) == 0 {
		return Failure{}, false
	}
	failure := (*queue)[0]
	switch {
	case failure.Times > 1:
		(*queue)[0].Times--
	case failure.Times >= 0:
		*queue = (*queue)[1:]
	}
	return failure, true
}

// Requests returns what arrived at the two endpoints so far, through HTTP or Authorize, in order. What the user does on
// the consent page is not among it.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := slices.Clone(s.requests)
	for i := range requests {
		requests[i].Params = cloneValues(requests[i].Params)
	}
	return requests
}

// record keeps a request without its secrets; s.mu is held.
func (s *Server) record(endpoint applebusiness.Endpoint, params url.Values, requestID string) {
	params = cloneValues(params)
	for _, secret := range [...]string{"client_secret", "code", "code_verifier", "refresh_token"} {
		for i := range params[secret] {
			params[secret][i] = "REDACTED"
		}
	}
	request := Request{Endpoint: endpoint, Params: params, RequestID: requestID}
	if endpoint == applebusiness.TokenEndpoint {
		request.GrantType = params.Get("grant_type")
	}
	s.requests = append(s.requests, request)
}

func cloneValues(values url.Values) url.Values { return url.Values(http.Header(values).Clone()) }

func (s *Server) now() time.Time {
	if s.options.Now == nil {
		return time.Now()
	}
	return s.options.Now()
}

// serve gives every response an apple-request-id, and is the 404 row where nothing else is.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	requestID := rand.Text()
	w.Header().Set("apple-request-id", requestID)
	switch {
	case r.URL.Path == authorizePath && (r.Method == http.MethodGet || r.Method == http.MethodPost):
		s.serveAuthorize(w, r, requestID)
	case r.URL.Path == tokenPath && r.Method == http.MethodPost:
		s.serveToken(w, r, requestID)
	case r.URL.Path == mePath && r.Method == http.MethodGet:
		s.serveMe(w, r)
	default:
		catalogResponse(applebusiness.ErrEndpointNotFound).write(w)
	}
}

// newGrant makes a customer's grant; s.mu is held.
func (s *Server) newGrant(clientID string) *grant {
	s.organisations++
	return &grant{clientID: clientID, organisation: s.organisations}
}
