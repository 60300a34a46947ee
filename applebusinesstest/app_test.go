package applebusinesstest_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

func TestServiceAccount(t *testing.T) {
	server := newServer(t, nil)
	for _, scope := range []string{"business", "business_connect"} {
		token, err := serviceToken(server, scope)
		require.NoError(t, err)
		assert.Empty(t, token.RefreshToken)
		status, _ := me(t, server, "Bearer "+token.AccessToken)
		assert.Equal(t, http.StatusOK, status)
	}
	server.DeleteApp(server.ServiceAccount.ClientID)
	_, err := serviceToken(server, "business")
	assert.ErrorIs(t, err, applebusiness.ErrInvalidClientID)
}

func TestSecretAndApp(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	code := newCode(t, server, config)

	secret := server.RotateSecret(config.ClientID)
	_, err := refresh(server, config, token.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrInvalidCredentials)
	config.ClientSecret = secret
	token, err = refresh(server, config, token.RefreshToken)
	require.NoError(t, err, "grants stay")

	server.DeleteApp(config.ClientID)
	_, err = refresh(server, config, token.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrInvalidClientID)
	status, _ := me(t, server, "Bearer "+token.AccessToken)
	assert.Equal(t, http.StatusUnauthorized, status)

	server.RegisterApp(applebusinesstest.App{ClientID: config.ClientID, ClientSecret: secret})
	_, err = refresh(server, config, token.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken, "deleted is deleted")
	_, err = exchange(server, config, code)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
}

// The secret can be the one that a test's configuration has already.
func TestRotateSecretToAGivenOne(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	assert.Equal(t, "s3cret", server.RotateSecret(config.ClientID, "s3cret"))
	_, err := refresh(server, config, token.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrInvalidCredentials)
	config.ClientSecret = "s3cret"
	_, err = refresh(server, config, token.RefreshToken)
	require.NoError(t, err)
	assert.Panics(t, func() { server.RotateSecret(config.ClientID, "a", "b") })
}

// No browser can be sent to such a redirect URI.
func TestRegisterAppPanics(t *testing.T) {
	server := newServer(t, nil)
	for _, uri := range []string{"", "nope", "/callback", "https:", "http:///callback", "https://partner.example/#top", "https://partner.example/#", "http://[::", "http://a b/"} {
		assert.PanicsWithValue(t, fmt.Sprintf("applebusinesstest: RegisterApp: the redirect URI %q is not absolute, or has a fragment", uri), func() {
			server.RegisterApp(applebusinesstest.App{ClientID: "app", RedirectURIs: []string{"https://partner.example/", uri}})
		})
	}
	server.RegisterApp(applebusinesstest.App{ClientID: "app", RedirectURIs: []string{"com.example.app:/callback", "http://127.0.0.1:8080/?a=1"}})
}
