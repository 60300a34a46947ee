package golang

import (
	"net/http"
	"testing"
	"time"

	"github.com/markbates/goth/providers/gitlab"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// gothClient refreshes with goth, which has no PKCE.
type gothClient struct{ setting }

func (c gothClient) authorize(*testing.T, string) string          { return "" }
func (c gothClient) redeem(*http.Request, string) (tokens, error) { return tokens{}, nil }
func (c gothClient) refresh(refreshToken string) (tokens, error) {
	provider := gitlab.NewCustomisedURL(c.config.ClientID, c.config.ClientSecret, "", c.config.Endpoint.AuthURL, c.config.Endpoint.TokenURL, "")
	provider.HTTPClient = c.httpClient
	return toTokens(provider.RefreshToken(refreshToken))
}

// What each client does of itself that costs tokens. The Transport lets none of them follow a redirect with the secret, or send a
// request again, and a page at status 200 is a failure; but zitadel does not look for one at that status, and returns an empty token.
func TestHabits(t *testing.T) {
	for name, test := range map[string]struct {
		connect                 func(t *testing.T, s setting) client
		keepsTheOldRefreshToken bool
		looksAtAPage            bool
	}{
		"coreos/go-oidc": {func(_ *testing.T, s setting) client { return oidcClient{s} }, true, true},
		"zitadel rp":     {newZitadel, false, false},
		"goth":           {func(_ *testing.T, s setting) client { return gothClient{s} }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			apple := applebusinesstest.NewServer(&applebusinesstest.Options{OmitRefreshToken: true})
			defer apple.Close()
			config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
			seen := 0
			using := test.connect(t, setting{config, &http.Client{Timeout: 10 * time.Second, Transport: &applebusiness.Transport{
				TokenURL: apple.Endpoint().TokenURL, OnError: func(*applebusiness.Error) { seen++ },
			}}})
			old := apple.Connect(config.ClientID).RefreshToken
			refreshed, err := using.refresh(old)
			require.NoError(t, err)
			assert.Equal(t, test.keepsTheOldRefreshToken, refreshed.refresh == old, "a refresh that returns no refresh token")

			for i, failure := range []applebusinesstest.Failure{
				{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: `<a href="/login?next=/&access_token=1&x=2">Sign in</a>`},
				{StatusCode: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: `<a href="/login?next=/&access_token=1&x=2">Sign in</a>`},
				{StatusCode: 307, Header: http.Header{"Location": {apple.Endpoint().TokenURL}}},
				{Drop: true, TakesEffect: true},
			} {
				apple.FailNext(failure)
				refreshed, err := using.refresh(old)
				assert.Equal(t, failure.StatusCode == 200 && !test.looksAtAPage, err == nil, "%+v: %v", failure, err)
				assert.Empty(t, refreshed.access)
				assert.Len(t, apple.Requests(), i+2, "%+v", failure)
				assert.GreaterOrEqual(t, seen, i+1, "OnError sees it")
			}
		})
	}
}
