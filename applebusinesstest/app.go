package applebusinesstest

import (
	"crypto/rand"
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

// client is an app, or a Service Account, which has no redirect URIs.
type client struct {
	App
	serviceAccount bool
}

// RegisterApp adds an app, or replaces what is registered under its ClientID. Grants stay. It panics for an empty ClientID, and
// for a redirect URI to which no browser could be sent.
func (s *Server) RegisterApp(app App) {
	for _, uri := range app.RedirectURIs {
		target, err := url.Parse(uri)
		panicIf("RegisterApp", err != nil || !absolute(target) || strings.Contains(uri, "#"), "the redirect URI %q is not absolute, or has a fragment", uri)
	}
	app.RedirectURIs = slices.Clone(app.RedirectURIs)
	s.register("RegisterApp", client{App: app})
}

// absolute says whether a browser can be sent to a URL.
func absolute(target *url.URL) bool {
	return target.IsAbs() && (target.Host != "" || !strings.HasPrefix(target.Scheme, "http"))
}

// RegisterServiceAccount adds a Service Account, or replaces what is registered under its ClientID, which must not be empty.
func (s *Server) RegisterServiceAccount(account ServiceAccount) {
	s.register("RegisterServiceAccount", client{App{ClientID: account.ClientID, ClientSecret: account.ClientSecret}, true})
}

func (s *Server) register(method string, registered client) {
	panicIf(method, registered.ClientID == "", "the ClientID is empty")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil { // of a zero Server
		s.clients = make(map[string]client)
		s.codes, s.refreshTokens, s.accessTokens = make(map[string]*credential), make(map[string]*credential), make(map[string]*credential)
	}
	s.clients[registered.ClientID] = registered
}

// RotateSecret gives an app or a Service Account a new client secret, and returns it: the one that is given, or a random one. The
// old one is invalid at once, as at Apple; grants stay. It panics if the client_id is not registered.
func (s *Server) RotateSecret(clientID string, given ...string) (secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	registered := s.client("RotateSecret", clientID)
	registered.ClientSecret = rand.Text()
	if len(given) > 0 {
		registered.ClientSecret = given[0]
	}
	panicIf("RotateSecret", registered.ClientSecret == "" || len(given) > 1, "want one secret that is not empty, or none")
	s.clients[clientID] = registered
	return registered.ClientSecret
}

// client returns what is registered, and panics if nothing is; s.mu is held.
func (s *Server) client(method, clientID string) client {
	registered, ok := s.clients[clientID]
	panicIf(method, !ok, "the client_id %q is not registered; %q are", clientID, slices.Sorted(maps.Keys(s.clients)))
	return registered
}

// DeleteApp removes an app or a Service Account, and ends all its grants for good. It panics if the client_id is not registered.
func (s *Server) DeleteApp(clientID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client("DeleteApp", clientID)
	delete(s.clients, clientID)
	for _, grant := range s.grants {
		grant.dead = grant.dead || grant.clientID == clientID
	}
}
