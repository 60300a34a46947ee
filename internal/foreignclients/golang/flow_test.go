// Package golang lets OAuth clients for Go that nobody here wrote complete the flow against package applebusinesstest, and looks
// at what they show of its errors: what Wrap finds, and what only Transport.OnError sees.
package golang

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/markbates/goth/providers/gitlab"
	"github.com/markbates/goth/providers/openidConnect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	httphelper "github.com/zitadel/oidc/v3/pkg/http"
	zitadel "github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const state = "state-1"

// tokens is what a client makes of a token response.
type tokens struct{ access, refresh string }

// client is a foreign client, set up for a fake. With a plain http.Client it sends forms.
type client interface {
	authorize(t *testing.T, verifier string) string
	redeem(r *http.Request, verifier string) (tokens, error)
	refresh(refreshToken string) (tokens, error)
}

// setting is what a client is told.
type setting struct {
	config     *oauth2.Config
	httpClient *http.Client
}

// shown is what a partner's code gets to know of a failure.
type shown struct {
	wrap    applebusiness.Reason // by applebusiness.Wrap of the client's error
	onError applebusiness.Reason // by Transport.OnError
}

func both(reason applebusiness.Reason) shown   { return shown{reason, reason} }
func hidden(reason applebusiness.Reason) shown { return shown{onError: reason} }

// oidcClient is coreos/go-oidc: x/oauth2 does the work, and an ID token is not required.
type oidcClient struct{ setting }

func (c oidcClient) context() context.Context {
	return oidc.ClientContext(context.Background(), c.httpClient)
}

func (c oidcClient) oauth2() *oauth2.Config {
	config := *c.config
	provider := oidc.ProviderConfig{AuthURL: config.Endpoint.AuthURL, TokenURL: config.Endpoint.TokenURL}
	config.Endpoint = provider.NewProvider(c.context()).Endpoint()
	config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	return &config
}

func (c oidcClient) authorize(_ *testing.T, verifier string) string {
	return c.oauth2().AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))
}

func (c oidcClient) redeem(r *http.Request, verifier string) (tokens, error) {
	code, err := applebusiness.VerifyRedirect(r, state) // it has nothing of its own for the redirect
	if err != nil {
		return tokens{}, err
	}
	return toTokens(c.oauth2().Exchange(c.context(), code, oauth2.VerifierOption(verifier)))
}

func (c oidcClient) refresh(refreshToken string) (tokens, error) {
	return toTokens(c.oauth2().TokenSource(c.context(), &oauth2.Token{RefreshToken: refreshToken}).Token())
}

func toTokens(token *oauth2.Token, err error) (tokens, error) {
	if err != nil {
		return tokens{}, err
	}
	return tokens{token.AccessToken, token.RefreshToken}, nil
}

// zitadelClient is the relying party of zitadel/oidc, without OpenID Connect.
type zitadelClient struct {
	setting
	party rp.RelyingParty
}

func newZitadel(t *testing.T, s setting) client {
	cookies := httphelper.NewCookieHandler([]byte("0123456789abcdef"), []byte("0123456789abcdef"), httphelper.WithUnsecure())
	config := *s.config
	party, err := rp.NewRelyingPartyOAuth(&config, rp.WithHTTPClient(s.httpClient), rp.WithPKCE(cookies), rp.WithAuthStyle(oauth2.AuthStyleInParams))
	require.NoError(t, err)
	return zitadelClient{s, party}
}

func (c zitadelClient) authorize(_ *testing.T, verifier string) string {
	return rp.AuthURL(state, c.party, rp.WithCodeChallenge(oauth2.S256ChallengeFromVerifier(verifier)))
}

func (c zitadelClient) redeem(r *http.Request, verifier string) (tokens, error) {
	code, err := applebusiness.VerifyRedirect(r, state) // its handler wants a cookie, which a cross-site POST does not bring
	if err != nil {
		return tokens{}, err
	}
	ctx := context.Background()
	found, err := rp.CodeExchange[*zitadel.IDTokenClaims](ctx, code, c.party, rp.WithCodeVerifier(verifier))
	if err != nil {
		return tokens{}, err
	}
	return tokens{found.AccessToken, found.RefreshToken}, nil
}

func (c zitadelClient) refresh(refreshToken string) (tokens, error) {
	found, err := rp.RefreshTokens[*zitadel.IDTokenClaims](context.Background(), c.party, refreshToken, "", "")
	if err != nil {
		return tokens{}, err
	}
	return tokens{found.AccessToken, found.RefreshToken}, nil
}

// Each client goes through the whole flow, with the redirect delivered by GET and by POST, and meets six errors.
func TestFlows(t *testing.T) {
	for name, test := range map[string]struct {
		connect func(t *testing.T, s setting) client
		refresh func(applebusiness.Reason) shown // what is seen of a refresh that failed
		form    applebusiness.Reason             // of a form, by Wrap
	}{
		"coreos/go-oidc": {func(_ *testing.T, s setting) client { return oidcClient{s} }, both, applebusiness.ErrUnsupportedMediaType},
		"zitadel rp":     {newZitadel, hidden, ""},
	} {
		for delivery, method := range map[applebusinesstest.Delivery]string{applebusinesstest.DeliverGet: http.MethodGet, applebusinesstest.DeliverPost: http.MethodPost} {
			t.Run(name+", redirect by "+method, func(t *testing.T) {
				var ahead time.Duration
				apple := applebusinesstest.NewServer(&applebusinesstest.Options{
					Deliver: delivery, Consent: applebusinesstest.ConsentAllow, Now: func() time.Time { return time.Now().Add(ahead) },
				})
				defer apple.Close()
				var last *applebusiness.Error
				jsonClient := &http.Client{Timeout: 10 * time.Second, Transport: &applebusiness.Transport{
					TokenURL: apple.Endpoint().TokenURL, OnError: func(err *applebusiness.Error) { last = err },
				}}
				config := &oauth2.Config{
					ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, RedirectURL: apple.App.RedirectURIs[0], Endpoint: apple.Endpoint(),
				}
				using := test.connect(t, setting{config, jsonClient})
				verifier := oauth2.GenerateVerifier()
				redirect := func() *http.Request {
					redirectURL, err := apple.Authorize(using.authorize(t, verifier))
					require.NoError(t, err)
					return httptest.NewRequest(method, redirectURL, nil)
				}
				see := func(do func() error) shown {
					last = nil
					err := do()
					require.Error(t, err)
					seen := shown{wrap: applebusiness.ReasonOf(applebusiness.Wrap(err))}
					if last != nil {
						seen.onError = last.Reason
					}
					return seen
				}
				refreshing := func(c client, token string) func() error {
					return func() error { _, err := c.refresh(token); return err }
				}

				first, err := using.redeem(redirect(), verifier)
				require.NoError(t, err)
				second, err := using.refresh(first.refresh)
				require.NoError(t, err)
				assert.NotEqual(t, first.refresh, second.refresh)
				assert.NotEmpty(t, second.access)
				assert.Equal(t, test.refresh(applebusiness.ErrInvalidRefreshToken), see(refreshing(using, first.refresh)), "a replaced refresh token")

				wrong := *config
				wrong.ClientSecret = "wrong"
				assert.Equal(t, test.refresh(applebusiness.ErrInvalidCredentials), see(refreshing(test.connect(t, setting{&wrong, jsonClient}), second.refresh)))
				assert.Equal(t, test.form, see(refreshing(test.connect(t, setting{config, http.DefaultClient}), second.refresh)).wrap, "a form")
				apple.FailWith(http.StatusServiceUnavailable, http.Header{"Retry-After": {"7"}}, "<html>")
				assert.Equal(t, test.refresh(applebusiness.ErrUnavailable), see(refreshing(using, second.refresh)))
				assert.Equal(t, 7*time.Second, last.RetryAfter)

				late := redirect()
				ahead = 6 * time.Minute
				expired := see(func() error { _, err := using.redeem(late, verifier); return err })
				assert.Equal(t, both(applebusiness.ErrInvalidRefreshToken), expired, "an expired code: both exchange by x/oauth2")
				assert.Equal(t, applebusiness.ActionStartOver, applebusiness.Troubleshoot(last).Action)

				apple.Revoke(second.refresh)
				assert.Equal(t, test.refresh(applebusiness.ErrInvalidRefreshToken), see(refreshing(using, second.refresh)), "revoked")

				apple.SetConsent(applebusinesstest.ConsentDeny)
				denied := see(func() error { _, err := using.redeem(redirect(), verifier); return err })
				assert.Equal(t, shown{wrap: applebusiness.ErrUserDenied}, denied)
			})
		}
	}
}

// goth has no PKCE, so that its exchange fails; its refresh works, and hides what failed.
func TestGoth(t *testing.T) {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	var last *applebusiness.Error
	provider := gitlab.NewCustomisedURL(apple.App.ClientID, apple.App.ClientSecret, apple.App.RedirectURIs[0],
		apple.Endpoint().AuthURL, apple.Endpoint().TokenURL, apple.URL+"/api/v1/me")
	provider.HTTPClient = &http.Client{Timeout: 10 * time.Second, Transport: &applebusiness.Transport{
		TokenURL: apple.Endpoint().TokenURL, OnError: func(err *applebusiness.Error) { last = err },
	}}
	session, err := provider.BeginAuth(state)
	require.NoError(t, err)
	authURL, err := session.GetAuthURL()
	require.NoError(t, err)
	redirectURL, err := apple.Authorize(authURL)
	require.NoError(t, err)
	redirected, err := url.Parse(redirectURL)
	require.NoError(t, err)
	_, err = applebusiness.ParseRedirect(redirected.RawQuery)
	assert.ErrorIs(t, err, applebusiness.ErrMissingParameter, "code_challenge")

	_, err = session.Authorize(provider, url.Values{"code": {"a-code"}})
	assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrMissingParameter, "code_verifier")

	first := apple.Connect(apple.App.ClientID)
	second, err := provider.RefreshToken(first.RefreshToken)
	require.NoError(t, err)
	assert.NotEqual(t, first.RefreshToken, second.RefreshToken)
	for want, prepare := range map[applebusiness.Reason]func(){
		applebusiness.ErrUnavailable:         func() { apple.FailWith(http.StatusServiceUnavailable, nil, "<html>") },
		applebusiness.ErrInvalidCredentials:  func() { apple.Fail(applebusiness.ErrInvalidCredentials) },
		applebusiness.ErrInvalidRefreshToken: func() { apple.Fail(applebusiness.ErrInvalidRefreshToken) },
	} {
		prepare()
		last = nil
		_, err := provider.RefreshToken(second.RefreshToken)
		assert.ErrorIs(t, applebusiness.Wrap(err), want)
		require.NotNil(t, last)
		assert.Equal(t, want, last.Reason)
	}
	plain := gitlab.NewCustomisedURL(apple.App.ClientID, apple.App.ClientSecret, "", apple.Endpoint().AuthURL, apple.Endpoint().TokenURL, "")
	_, err = plain.RefreshToken(second.RefreshToken)
	assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrUnsupportedMediaType)
}

// Where goth sends the request itself, only OnError sees what failed.
func TestGothHides(t *testing.T) {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	var last *applebusiness.Error
	provider := &openidConnect.Provider{
		ClientKey: apple.App.ClientID, Secret: apple.App.ClientSecret,
		OpenIDConfig: &openidConnect.OpenIDConfig{TokenEndpoint: apple.Endpoint().TokenURL},
		HTTPClient: &http.Client{Timeout: 10 * time.Second, Transport: &applebusiness.Transport{
			TokenURL: apple.Endpoint().TokenURL, OnError: func(err *applebusiness.Error) { last = err },
		}},
	}
	token := apple.Connect(apple.App.ClientID)
	apple.Revoke(token.RefreshToken)
	_, err := provider.RefreshTokenWithIDToken(token.RefreshToken)
	assert.EqualError(t, err, "Non-200 response from RefreshToken: 401, WWW-Authenticate=")
	assert.Empty(t, applebusiness.ReasonOf(applebusiness.Wrap(err)))
	require.NotNil(t, last)
	assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(last).Action)
}
