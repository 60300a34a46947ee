package applebusinesstest

import (
	"cmp"
	"crypto/rand"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// grant is one consent of one customer, or what a Service Account has by itself.
type grant struct {
	clientID     string
	organisation int
	dead         bool
}

// credential is a code, a refresh token or an access token.
type credential struct {
	grant   *grant
	expires time.Time // zero: it does not
	dies    time.Time // when a code is used, or a refresh token replaced and its grace period over; zero: neither

	redirectURI, challenge string // of a code
}

// Connect returns the token of a customer who has just connected to the app, without the consent page, as oauth2.Config.Exchange
// would return it. It panics if the client_id is not that of a registered app.
func (s *Server) Connect(clientID string) *oauth2.Token { return s.connect(clientID, 0) }

// ConnectExpired is [Server.Connect] with a token whose access token expired a minute ago: by its Expiry, which x/oauth2 compares
// with the wall clock, by its ExpiresIn, which is negative, and for the server.
func (s *Server) ConnectExpired(clientID string) *oauth2.Token {
	return s.connect(clientID, -time.Minute)
}

func (s *Server) connect(clientID string, life time.Duration) *oauth2.Token {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	panicIf("Connect", s.client("Connect", clientID).serviceAccount, "a Service Account has no customers who connect")
	issued := s.issue(s.newGrant(clientID), rand.Text(), now, life)
	return &oauth2.Token{
		AccessToken: issued.AccessToken, TokenType: issued.TokenType, RefreshToken: issued.RefreshToken, ExpiresIn: issued.ExpiresIn,
		Expiry: time.Now().Add(time.Duration(issued.ExpiresIn) * time.Second), // x/oauth2 reads no other clock
	}
}

// Revoke lets the customer disconnect the partner: it ends the grant that the refresh token belongs or belonged to, with all its
// tokens. It panics if this server has not issued the refresh token.
func (s *Server) Revoke(refreshToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshToken("Revoke", refreshToken).grant.dead = true
}

// refreshToken returns what was issued, and panics if nothing was; s.mu is held.
func (s *Server) refreshToken(method, name string) *credential {
	token := s.refreshTokens[name]
	panicIf(method, token == nil, "this refresh token was not issued here; %d were", len(s.refreshTokens))
	return token
}

// newGrant makes a customer's grant; s.mu is held.
func (s *Server) newGrant(clientID string) *grant {
	s.grants = append(s.grants, &grant{clientID: clientID, organisation: len(s.grants) + 1})
	return s.grants[len(s.grants)-1]
}

// redeemCode is for grant_type authorization_code; s.mu is held.
func (s *Server) redeemCode(params url.Values, now time.Time) response {
	code := s.codes[params.Get("code")]
	valid := s.works(code, params, now) && code.redirectURI == params.Get("redirect_uri") &&
		code.challenge == oauth2.S256ChallengeFromVerifier(params.Get("code_verifier"))
	if code != nil {
		code.dies = time.Unix(0, 0) // over, whatever the clock says
	}
	if !valid {
		return catalogResponse(applebusiness.ErrInvalidRefreshToken, http.StatusBadRequest)
	}
	return jsonResponse(http.StatusOK, s.issue(code.grant, rand.Text(), now, 0))
}

// refresh is for grant_type refresh_token; s.mu is held.
func (s *Server) refresh(params url.Values, now time.Time) response {
	name := params.Get("refresh_token")
	token := s.refreshTokens[name]
	if !s.works(token, params, now) {
		return catalogResponse(applebusiness.ErrInvalidRefreshToken, http.StatusUnauthorized)
	}
	switch {
	case s.options.OmitRefreshToken:
		name = ""
	case s.options.KeepRefreshToken:
	case s.options.GracePeriod == 0:
		token.dies, name = time.Unix(0, 0), rand.Text() // over, whatever the clock says
	default:
		token.dies, name = cmp.Or(token.dies, now.Add(s.options.GracePeriod)), rand.Text()
	}
	return jsonResponse(http.StatusOK, s.issue(token.grant, name, now, 0))
}

// works says whether an app can use a credential, and ends the grant where that is what its use brings; s.mu is held.
func (s *Server) works(c *credential, params url.Values, now time.Time) bool {
	isOwn := c != nil && c.grant.clientID == params.Get("client_id")
	if isOwn && isOver(c.dies, now) && s.options.ReuseEndsGrant {
		c.grant.dead = true
	}
	return isOwn && !isOver(c.dies, now) && !isOver(c.expires, now) && !c.grant.dead
}

// isOver says whether an end has come that there is; the zero time is none.
func isOver(end, now time.Time) bool { return !end.IsZero() && !now.Before(end) }

// tokens is the token endpoint's success.
type tokens struct {
	AccessToken  string `json:"access_token"`
	ExpiresIn    int64  `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	TokenType    string `json:"token_type"`
}

// issue gives a grant a new access token, whose life is the server's where it is 0, and the refresh token unless that is ""; s.mu is held.
func (s *Server) issue(to *grant, refresh string, now time.Time, life time.Duration) tokens {
	life = cmp.Or(life, s.options.AccessTokenLife, time.Hour)
	issued := tokens{AccessToken: rand.Text(), ExpiresIn: int64(life / time.Second), RefreshToken: refresh, TokenType: "Bearer"}
	s.accessTokens[issued.AccessToken] = &credential{grant: to, expires: now.Add(life)}
	if refresh != "" && s.refreshTokens[refresh] == nil {
		s.refreshTokens[refresh] = &credential{grant: to}
		if s.options.RefreshTokenLife > 0 {
			s.refreshTokens[refresh].expires = now.Add(s.options.RefreshTokenLife)
		}
	}
	return issued
}
