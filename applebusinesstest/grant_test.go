package applebusinesstest_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

func TestCode(t *testing.T) {
	clock := newClock()
	server := newServer(t, &applebusinesstest.Options{Now: clock.Now})
	config := newConfig(server)
	dead := func(t *testing.T, err error) {
		t.Helper()
		want := findEntry(t, applebusiness.TokenEndpoint, applebusiness.ErrInvalidRefreshToken, 400)
		assert.Equal(t, want, entryOf(t, err))
	}
	t.Run("used", func(t *testing.T) {
		code := newCode(t, server, config)
		token, err := exchange(server, config, code)
		require.NoError(t, err)
		assert.Equal(t, "Bearer", token.TokenType)
		assert.EqualValues(t, 3600, token.ExpiresIn)
		_, err = exchange(server, config, code)
		dead(t, err)
		_, err = refresh(server, config, token.RefreshToken)
		assert.NoError(t, err, "the grant is alive")
	})
	t.Run("age", func(t *testing.T) {
		old := newCode(t, server, config)
		clock.Advance(time.Second)
		code := newCode(t, server, config)
		clock.Advance(5*time.Minute - time.Second)
		_, err := exchange(server, config, old)
		dead(t, err)
		_, err = exchange(server, config, code)
		assert.NoError(t, err)
	})
	t.Run("verifier", func(t *testing.T) {
		code := newCode(t, server, config)
		_, err := config.Exchange(withClient(server), code, oauth2.VerifierOption("another"))
		dead(t, applebusiness.Wrap(err))
		_, err = exchange(server, config, code)
		dead(t, err)
	})
	t.Run("redirect_uri", func(t *testing.T) {
		other := *config
		other.RedirectURL += "/other"
		_, err := exchange(server, &other, newCode(t, server, config))
		dead(t, err)
	})
	t.Run("another app", func(t *testing.T) {
		other := *config
		other.ClientID, other.ClientSecret = "other", "secret"
		server.RegisterApp(applebusinesstest.App{ClientID: "other", ClientSecret: "secret", RedirectURIs: []string{other.RedirectURL}})
		_, err := exchange(server, &other, newCode(t, server, config))
		dead(t, err)
	})
}

func TestRefreshToken(t *testing.T) {
	dead := func(t *testing.T, err error) {
		t.Helper()
		want := findEntry(t, applebusiness.TokenEndpoint, applebusiness.ErrInvalidRefreshToken, 401)
		assert.Equal(t, want, entryOf(t, err))
	}
	t.Run("rotates", func(t *testing.T) {
		server := newServer(t, nil)
		config := newConfig(server)
		first := server.Connect(config.ClientID)
		second, err := refresh(server, config, first.RefreshToken)
		require.NoError(t, err)
		assert.NotEqual(t, first.RefreshToken, second.RefreshToken)
		_, err = refresh(server, config, first.RefreshToken)
		dead(t, err)
		_, err = refresh(server, config, second.RefreshToken)
		assert.NoError(t, err)
	})
	t.Run("stays", func(t *testing.T) {
		server := newServer(t, &applebusinesstest.Options{KeepRefreshToken: true})
		config := newConfig(server)
		token := server.Connect(config.ClientID)
		for range 3 {
			refreshed, err := refresh(server, config, token.RefreshToken)
			require.NoError(t, err)
			assert.Equal(t, token.RefreshToken, refreshed.RefreshToken)
			assert.NotEqual(t, token.AccessToken, refreshed.AccessToken)
		}
	})
	t.Run("another app", func(t *testing.T) {
		server := newServer(t, nil)
		config := newConfig(server)
		token := server.Connect(config.ClientID)
		server.RegisterApp(applebusinesstest.App{ClientID: "other", ClientSecret: "secret"})
		config.ClientID, config.ClientSecret = "other", "secret"
		_, err := refresh(server, config, token.RefreshToken)
		dead(t, err)
	})
	t.Run("revoked by any of the chain", func(t *testing.T) {
		server := newServer(t, nil)
		config := newConfig(server)
		other := server.Connect(config.ClientID)
		first := server.Connect(config.ClientID)
		second, err := refresh(server, config, first.RefreshToken)
		require.NoError(t, err)
		server.Revoke(first.RefreshToken)
		_, err = refresh(server, config, second.RefreshToken)
		dead(t, err)
		for _, token := range []*oauth2.Token{first, second} {
			status, _ := me(t, server, "Bearer "+token.AccessToken)
			assert.Equal(t, http.StatusUnauthorized, status)
		}
		status, _ := me(t, server, "Bearer "+other.AccessToken)
		assert.Equal(t, http.StatusOK, status)
	})
}

func TestConcurrentUse(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	results := make(chan error, 6)
	for range cap(results) {
		go func() {
			server.Connect(config.ClientID)
			server.Requests()
			_, err := refresh(server, config, token.RefreshToken)
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		if err := <-results; err == nil {
			won++
		} else {
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
		}
	}
	assert.Equal(t, 1, won)
}

// Of two requests at the same instant the second may have read the clock first.
func TestAReplacedRefreshTokenIsDeadWhateverTheClockSays(t *testing.T) {
	now := time.Now()
	server := newServer(t, &applebusinesstest.Options{Now: func() time.Time { return now }})
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	_, err := refresh(server, config, token.RefreshToken)
	require.NoError(t, err)
	now = now.Add(-time.Nanosecond)
	_, err = refresh(server, config, token.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
}

func TestGracePeriod(t *testing.T) {
	now := time.Now()
	server := applebusinesstest.NewServer(&applebusinesstest.Options{GracePeriod: time.Minute, Now: func() time.Time { return now }})
	defer server.Close()
	config := newConfig(server)
	old := server.Connect(config.ClientID)
	refresh := func(refreshToken string) (*oauth2.Token, error) {
		token, err := config.TokenSource(withClient(server), &oauth2.Token{RefreshToken: refreshToken}).Token()
		return token, applebusiness.Wrap(err)
	}
	first, err := refresh(old.RefreshToken)
	require.NoError(t, err)
	now = now.Add(time.Minute - time.Second)
	second, err := refresh(old.RefreshToken)
	require.NoError(t, err, "within the grace period")
	assert.NotEqual(t, first.RefreshToken, second.RefreshToken)
	now = now.Add(time.Second)
	_, err = refresh(old.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken, "a second use does not prolong it")
	_, err = refresh(first.RefreshToken)
	assert.NoError(t, err)
	_, err = refresh(second.RefreshToken)
	assert.NoError(t, err)
	server.Revoke(old.RefreshToken)
	_, err = refresh(second.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
}

func TestConnectExpired(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.ConnectExpired(config.ClientID)
	assert.False(t, token.Valid())
	assert.EqualValues(t, -60, token.ExpiresIn)
	request, err := http.NewRequest(http.MethodGet, server.URL+"/api/v1/me", nil)
	require.NoError(t, err)
	token.SetAuthHeader(request)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode, "for the server it has expired too")
	_, err = config.TokenSource(withClient(server), token).Token()
	assert.NoError(t, err)
}

// A refresh that returns no refresh token leaves the one that was sent as it is.
func TestOmitRefreshToken(t *testing.T) {
	server := newServer(t, &applebusinesstest.Options{OmitRefreshToken: true})
	config := newConfig(server)
	token, err := exchange(server, config, newCode(t, server, config))
	require.NoError(t, err)
	require.NotEmpty(t, token.RefreshToken)
	for range 2 {
		response, body := send(t, http.MethodPost, config.Endpoint.TokenURL, "application/json", fmt.Sprintf(
			`{"grant_type":"refresh_token","client_id":%q,"client_secret":%q,"refresh_token":%q}`, config.ClientID, config.ClientSecret, token.RefreshToken))
		require.Equal(t, http.StatusOK, response.StatusCode)
		assert.NotContains(t, body, "refresh_token")
		assert.Contains(t, body, "access_token")
	}
}

// A refresh token that is kept is not prolonged by its use; one that replaces another has a life of its own.
func TestRefreshTokenLife(t *testing.T) {
	for _, keep := range []bool{true, false} {
		clock := newClock()
		server := newServer(t, &applebusinesstest.Options{RefreshTokenLife: time.Hour, KeepRefreshToken: keep, Now: clock.Now})
		config := newConfig(server)
		first := server.Connect(config.ClientID)
		clock.Advance(time.Hour - time.Nanosecond)
		second, err := refresh(server, config, first.RefreshToken)
		require.NoError(t, err)
		clock.Advance(time.Nanosecond)
		_, err = refresh(server, config, first.RefreshToken)
		assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
		_, err = refresh(server, config, second.RefreshToken)
		assert.Equal(t, keep, errors.Is(err, applebusiness.ErrInvalidRefreshToken))
	}
}

// A replaced refresh token, and a used code, end the grant when the same app sends them again.
func TestReuseEndsGrant(t *testing.T) {
	clock := newClock()
	server := newServer(t, &applebusinesstest.Options{ReuseEndsGrant: true, GracePeriod: time.Minute, Now: clock.Now})
	server.RegisterApp(applebusinesstest.App{ClientID: "other", ClientSecret: "secret"})
	config := newConfig(server)
	other := *config
	other.ClientID, other.ClientSecret = "other", "secret"

	first := server.Connect(config.ClientID)
	second, err := refresh(server, config, first.RefreshToken)
	require.NoError(t, err)
	third, err := refresh(server, config, first.RefreshToken)
	require.NoError(t, err, "within the grace period")
	clock.Advance(time.Minute)
	_, err = refresh(server, &other, first.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	_, err = refresh(server, config, second.RefreshToken)
	require.NoError(t, err, "another app's use of it is no reuse")
	_, err = refresh(server, config, first.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	_, err = refresh(server, config, third.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	status, _ := me(t, server, "Bearer "+third.AccessToken)
	assert.Equal(t, http.StatusUnauthorized, status)

	code := newCode(t, server, config)
	token, err := exchange(server, config, code)
	require.NoError(t, err)
	_, err = exchange(server, &other, code)
	require.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	token, err = refresh(server, config, token.RefreshToken)
	require.NoError(t, err, "another app's use of it is no reuse")
	_, err = exchange(server, config, code)
	require.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	_, err = refresh(server, config, token.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
}
