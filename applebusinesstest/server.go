// Package applebusinesstest is a fake Apple Business for tests, in the manner of net/http/httptest: an OAuth server on
// the loopback interface that responds as Apple documents, and with any documented error on demand.
//
//	server := applebusinesstest.NewServer(nil)
//	defer server.Close()
//	app := server.App
//	config := &oauth2.Config{ClientID: app.ClientID, ClientSecret: app.ClientSecret, RedirectURL: app.RedirectURIs[0], Endpoint: server.Endpoint()}
//	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
//	token, err := config.TokenSource(ctx, server.Connect(config.ClientID)).Token()
//
// Codes live 5 minutes and may be used once, access tokens live 60 minutes, refresh tokens rotate; the response to a wrong request is
// the row of Apple's error tables that is about it. The rows that no request provokes (a failure at Apple's side) come from
// [Server.Fail], what is in no table (429, 503, a proxy's HTML) from [Server.FailWith], and what is slow, hangs, breaks off, or fails
// for one customer alone from [Server.FailNext]. A rate limit, an end of a refresh token's life and the like come with [Options].
// There is also the API's GET /api/v1/me, which says to which organisation an access token belongs.
//
// A test of a failure that silently tests success is worse than none. So misusing the fake panics with a text that says what is wrong,
// and [Server.Close] logs the failures that never came to pass. For tests in any language it is a program too: examples/fakeapple,
// steered by requests that its flag -h lists.
//
// # To test a whole web application
//
//   - Start the application with httptest.NewTLSServer, since a cookie jar sends no Secure cookie over http, and register its redirect
//     URI by [Server.RegisterApp]. With [ConsentAllow] an http.Client with a jar goes from the link to the page that says "connected"
//     by itself. A jar sends SameSite cookies with every POST, which a browser does not: test the POST of the redirect without a jar, too.
//   - Who has connected so has a token for an hour. A RefreshDue of package grants within 2 hours refreshes it now. Give it a context
//     with a deadline: with a wrong client secret it does not return. Options.OnRefresh may be called after that; Close waits for it.
//   - Manager.Connect asks /api/v1/me again while it fails, for as long as Options.HTTPClient's Timeout: 30 seconds unless set.
//   - Each consent is of a new organisation. To let a customer come back with the one called "org-1":
//     FailNext(Failure{Endpoint: MeEndpoint, StatusCode: 200, Body: `{"orgDetails":{"orgId":"org-1"}}`}).
//
// # What Apple does not document
//
// Here the fake had to choose, and a test should not rely on it:
//
//   - "Invalid refresh_token" has status 401 for grant_type refresh_token, and 400 for authorization_code. A wrong code_verifier or
//     redirect_uri, and a code of another app, get it too. A code is spent by the first request that brings it with the right
//     credentials, whether that succeeds or not.
//   - A client_id that is not registered, or no longer, is "Invalid client_id"; a wrong secret for one that is, "Invalid client_id or
//     client_secret". An app that asks for client_credentials, or a Service Account that asks for another grant, gets RFC 6749's
//     unauthorized_client.
//   - A body that is no JSON object gets the row about the media type, and a member that is no string counts as missing.
//   - A user who denies sends RFC 6749's access_denied to the redirect URI. A query that does not decode or repeats a parameter, and a
//     state that needs percent-encoding, are "bad request". A scope is valid if it names those that Apple grants.
//   - Refresh tokens live until they are replaced or revoked, and a replaced one that is sent again, or a code that is used again, does
//     not end the grant; [Options] has the alternatives. Each consent makes a grant and an organisation of its own and leaves the
//     earlier grants alone.
//   - The resource API has the same response to a missing, an unknown, an expired and a revoked access token.
//
// Apple's table sends every error of the authorization endpoint to the redirect URI. The fake does so only where that URI is registered
// for the app, and otherwise shows the error as a page, as RFC 6749 section 4.1.2.1 asks; [Server.Authorize] returns it in both cases.
package applebusinesstest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	authorizePath   = "/oauth2/v1/authorize"
	tokenPath       = "/api/v1/oauth2/token"
	mePath          = "/api/v1/me"
	requestIDHeader = "apple-request-id"
	clientTimeout   = 10 * time.Second
)

// Delivery is how the authorization endpoint sends the browser back to the redirect URI.
type Delivery int

const (
	DeliverGet  Delivery = iota // the browser is sent with status 302
	DeliverPost                 // the browser sends a POST with the parameters in the URL's query, as Apple documents
)

// Consent is what the user does at the authorization endpoint.
type Consent int

const (
	ConsentAsk   Consent = iota // a page asks the user, who allows or denies
	ConsentAllow                // a redirect at once with a code
	ConsentDeny                 // a redirect at once with the error access_denied
)

// Options are for [NewServer]; the zero Options are the defaults.
type Options struct {
	Addr    string   // "" means 127.0.0.1 and a free port
	Deliver Delivery // how the redirect is delivered
	Consent Consent  // what the user does

	AccessTokenLife  time.Duration // in whole seconds; 0 means 60 minutes, as at Apple
	RefreshTokenLife time.Duration // from when a refresh token is first issued; 0: it does not end
	KeepRefreshToken bool          // a refresh returns the refresh token that was sent; otherwise a new one replaces it
	OmitRefreshToken bool          // a refresh returns no refresh token: the one that was sent stays valid
	GracePeriod      time.Duration // how long a replaced refresh token still works; 0: it is dead at once
	ReuseEndsGrant   bool          // a replaced refresh token (after GracePeriod) or a used code that is sent again ends the grant
	RateLimit        int           // token requests above so many within a second get status 429 and Retry-After, before any Failure; 0: no limit
	Trickle          time.Duration // the pause before each byte of a token response's body; 0: none

	// Now is the clock for all lifetimes, RateLimit and Request.Time, called from any goroutine; nil means time.Now. x/oauth2 reads
	// the wall clock, so that no client refreshes because Now has moved on: give it the token of [Server.ConnectExpired].
	Now func() time.Time
}

// panicIf panics with a text for the test's author if what a test has asked of a method is wrong.
func panicIf(method string, wrong bool, format string, args ...any) {
	if wrong {
		panic("applebusinesstest: " + method + ": " + fmt.Sprintf(format, args...))
	}
}

func (o *Options) check() {
	panicIf("Options", o.Deliver != DeliverGet && o.Deliver != DeliverPost, "%d is no Delivery", o.Deliver)
	panicIf("Options", o.Consent < ConsentAsk || o.Consent > ConsentDeny, "%d is no Consent", o.Consent)
	panicIf("Options", o.AccessTokenLife < 0 || o.AccessTokenLife%time.Second != 0, "AccessTokenLife is %v; want whole seconds, since expires_in has no others", o.AccessTokenLife)
	panicIf("Options", min(o.RefreshTokenLife, o.GracePeriod, o.Trickle, time.Duration(o.RateLimit)) < 0, "RefreshTokenLife, GracePeriod, Trickle or RateLimit is negative")
	panicIf("Options", o.KeepRefreshToken && o.OmitRefreshToken, "want KeepRefreshToken or OmitRefreshToken, not both")
	panicIf("Options", o.GracePeriod > 0 && (o.KeepRefreshToken || o.OmitRefreshToken), "GracePeriod is for refresh tokens that are replaced; want no KeepRefreshToken and no OmitRefreshToken beside it")
}

// Server is a fake Apple Business. Its methods can be called from any number of goroutines, and those for partners, grants and failures
// before it is started and after it is closed, too. They panic for a client_id or token that it does not know.
type Server struct {
	URL            string         // scheme, host and port; set by Start
	App            App            // registered by default with the redirect URI https://partner.example/apple/callback, and not changed later
	ServiceAccount ServiceAccount // registered by default, and not changed later
	Config         *http.Server   // may be changed before Start: its Handler can be wrapped; its log says what is wrong with a state

	options Options
	serving sync.WaitGroup

	mu            sync.Mutex // guards what follows
	started       bool
	consent       Consent
	clients       map[string]client
	atStart       map[string]client // the clients that Start found
	codes         map[string]*credential
	refreshTokens map[string]*credential // the replaced ones too: they identify the grant
	accessTokens  map[string]*credential
	grants        []*grant
	failures      []Failure
	requests      []*Request
	admitted      []time.Time // when the token requests of the last second arrived, for RateLimit
}

// NewServer returns a server that listens, with one app and one Service Account; nil options are the defaults. The caller has to Close
// it. It panics if the options are wrong, or if it cannot listen at Options.Addr, where [Server.Start] returns an error.
func NewServer(options *Options) *Server {
	server := NewUnstartedServer(options)
	if err := server.Start(); err != nil {
		panic(err.Error())
	}
	return server
}

// NewUnstartedServer returns a server that does not listen yet. Its Config can be changed, to put a handler around its own for instance.
// It panics if the options are wrong.
func NewUnstartedServer(options *Options) *Server {
	server := &Server{
		App:            App{"app-" + rand.Text(), rand.Text(), []string{"https://partner.example/apple/callback"}},
		ServiceAccount: ServiceAccount{"service-account-" + rand.Text(), rand.Text()},
	}
	if options != nil {
		server.options = *options
	}
	server.options.check()
	server.consent = server.options.Consent
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
	addr := cmp.Or(s.options.Addr, "127.0.0.1:0")
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("applebusinesstest: %w", err)
	}
	s.started, s.atStart = true, maps.Clone(s.clients)
	s.Config = cmp.Or(s.Config, &http.Server{ReadHeaderTimeout: clientTimeout})
	config, scheme, serve := s.Config, "http", s.Config.Serve
	if config.TLSConfig != nil {
		scheme, serve = "https", func(l net.Listener) error { return config.ServeTLS(l, "", "") }
	}
	if config.Handler == nil {
		config.Handler = http.HandlerFunc(s.serve)
	}
	// The host stays as the caller wrote it: to a browser localhost and 127.0.0.1 are different sites.
	host, _, _ := net.SplitHostPort(addr)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	s.URL = scheme + "://" + net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port)
	s.serving.Go(func() { _ = serve(listener) })
	return nil
}

// Close stops listening and returns when the requests under way have their responses, or are cut off after a second. Failures that
// have not come to pass until then are said on the log of Config.
func (s *Server) Close() {
	defer s.reportFailures()
	s.mu.Lock()
	started, config := s.started, s.Config
	s.mu.Unlock()
	if !started {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if config.Shutdown(ctx) != nil {
		_ = config.Close()
	}
	s.serving.Wait()
}

// Endpoint returns both URLs, for oauth2.Config.
func (s *Server) Endpoint() oauth2.Endpoint { return applebusiness.OAuth2Endpoint(s.URL, s.URL) }

// Client returns a client that sends token requests as JSON and gives up after 10 seconds, for the context key oauth2.HTTPClient.
func (s *Server) Client() *http.Client {
	return &http.Client{Transport: &applebusiness.Transport{TokenURL: s.Endpoint().TokenURL}, Timeout: clientTimeout}
}

// SetConsent changes what the user does, which Options.Consent says at first. It panics for a value that is no Consent.
func (s *Server) SetConsent(consent Consent) {
	panicIf("SetConsent", consent < ConsentAsk || consent > ConsentDeny, "%d is no Consent", consent)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consent = consent
}

// Reset begins anew: what is registered, with its secrets, is what [Server.Start] found, the user does what Options.Consent says,
// and all grants with their codes and tokens, all failures and all requests are forgotten. Options.Now stays as it is.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		s.clients = maps.Clone(s.atStart)
	}
	clear(s.codes)
	clear(s.refreshTokens)
	clear(s.accessTokens)
	s.consent, s.grants, s.failures, s.requests, s.admitted = s.options.Consent, nil, nil, nil, nil
}

func (s *Server) now() time.Time {
	if s.options.Now == nil {
		return time.Now()
	}
	return s.options.Now()
}

// logf writes a line to the log of Config.
func (s *Server) logf(format string, args ...any) {
	logger := log.Default()
	if s.Config != nil && s.Config.ErrorLog != nil {
		logger = s.Config.ErrorLog
	}
	logger.Printf("applebusinesstest: "+format, args...)
}

// serve gives every response an apple-request-id, and is the 404 row where nothing else is.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(requestIDHeader, rand.Text())
	switch r.Method + " " + r.URL.Path {
	case "GET " + authorizePath, "POST " + authorizePath:
		s.serveAuthorize(w, r)
	case "POST " + tokenPath:
		s.serveToken(w, r)
	case "GET " + mePath:
		s.serveMe(w, r)
	default:
		s.send(w, r, Failure{}, catalogResponse(applebusiness.ErrEndpointNotFound, 0), new(Request))
	}
}
