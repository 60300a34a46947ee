package applebusinesstest

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// App is a registered OAuth app of a partner.
type App struct {
	ClientID     string
	ClientSecret string
	RedirectURIs []string // absolute, without a fragment; compared letter for letter
}

// ServiceAccount is a registered Service Account, for the grant client_credentials.
type ServiceAccount struct {
	ClientID     string
	ClientSecret string
}

// client is an app or a Service Account.
type client struct {
	secret         string
	redirectURIs   []string
	serviceAccount bool
}

// RegisterApp adds an app, or replaces what is registered under its ClientID. Grants stay. It panics for an empty ClientID, and
// for a redirect URI to which no browser could be sent.
func (s *Server) RegisterApp(app App) {
	for _, uri := range app.RedirectURIs {
		target, err := url.Parse(uri)
		panicIf("RegisterApp", []problem{{err != nil || !absolute(target) || strings.Contains(uri, "#"), fmt.Sprintf("the redirect URI %q is not absolute, or has a fragment", uri)}})
	}
	s.register("RegisterApp", app.ClientID, client{secret: app.ClientSecret, redirectURIs: slices.Clone(app.RedirectURIs)})
}

// absolute says whether a browser can be sent to a URL.
func absolute(target *url.URL) bool {
	return target.IsAbs() && (target.Host != "" || !strings.HasPrefix(target.Scheme, "http"))
}

// RegisterServiceAccount adds a Service Account, or replaces what is registered under its ClientID. It panics for an empty
// ClientID.
func (s *Server) RegisterServiceAccount(account ServiceAccount) {
	s.register("RegisterServiceAccount", account.ClientID, client{secret: account.ClientSecret, serviceAccount: true})
}

func (s *Server) register(method, clientID string, registered client) {
	panicIf(method, []problem{{clientID == "", "the ClientID is empty"}})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil {
		s.clients = make(map[string]client)
		s.codes = make(map[string]*authorizationCode)
		s.refreshTokens = make(map[string]*refreshToken)
		s.accessTokens = make(map[string]accessToken)
	}
	s.clients[clientID] = registered
}

// RotateSecret gives an app or a Service Account a new client secret, and returns it: the one that is given, or a random one. The
// old one is invalid at once, as at Apple; grants stay. It panics if the client_id is not registered.
func (s *Server) RotateSecret(clientID string, given ...string) (secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	registered := s.client("RotateSecret", clientID)
	secret = rand.Text()
	if len(given) > 0 {
		secret = given[0]
	}
	panicIf("RotateSecret", []problem{{secret == "" || len(given) > 1, "want one secret that is not empty, or none"}})
	registered.secret = secret
	s.clients[clientID] = registered
	return secret
}

// client returns what is registered, and panics if nothing is; s.mu is held.
func (s *Server) client(method, clientID string) client {
	registered, ok := s.clients[clientID]
	if !ok {
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
