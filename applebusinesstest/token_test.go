package applebusinesstest_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

func TestTokenRequestProvokes(t *testing.T) {
	server := newServer(t, nil)
	app, account := server.App, server.ServiceAccount
	exchange := map[string]any{
		"grant_type": "authorization_code", "client_id": app.ClientID, "client_secret": app.ClientSecret,
		"code": "unknown", "code_verifier": verifier, "redirect_uri": app.RedirectURIs[0],
	}
	refresh := map[string]any{
		"grant_type": "refresh_token", "client_id": app.ClientID, "client_secret": app.ClientSecret, "refresh_token": "unknown",
	}
	service := map[string]any{
		"grant_type": "client_credentials", "client_id": account.ClientID, "client_secret": account.ClientSecret, "scope": "business",
	}
	body := func(base map[string]any, changes ...any) string {
		changed := map[string]any{}
		for name, value := range base {
			changed[name] = value
		}
		for i := 0; i < len(changes); i += 2 {
			changed[changes[i].(string)] = changes[i+1]
		}
		encoded, err := json.Marshal(changed)
		require.NoError(t, err)
		return string(encoded)
	}
	const jsonType, formType = "application/json", "application/x-www-form-urlencoded"
	for _, test := range []struct {
		name, path, contentType, body string
		status                        int
		reason                        applebusiness.Reason
		parameter                     string
	}{
		{"unknown grant_type", "", jsonType, body(exchange, "grant_type", "password"), 400, applebusiness.ErrInvalidGrantType, ""},
		{"no grant_type", "", jsonType, body(exchange, "grant_type", ""), 400, applebusiness.ErrMissingParameter, "grant_type"},
		{"unknown code", "", jsonType, body(exchange), 400, applebusiness.ErrInvalidRefreshToken, ""},
		{"unknown client", "", jsonType, body(refresh, "client_id", "unknown"), 400, applebusiness.ErrInvalidClientID, ""},
		{"no scope", "", jsonType, body(service, "scope", ""), 400, applebusiness.ErrMissingFields, ""},
		{"no verifier", "", jsonType, body(exchange, "code_verifier", ""), 400, applebusiness.ErrMissingParameter, "code_verifier"},
		{"no refresh token", "", jsonType, body(refresh, "refresh_token", ""), 400, applebusiness.ErrMissingParameter, "refresh_token"},
		{"a number", "", jsonType, body(refresh, "refresh_token", 7), 400, applebusiness.ErrMissingParameter, "refresh_token"},
		{"empty", "", jsonType, "", 400, applebusiness.ErrEmptyBody, ""},
		{"empty without a type", "", "", "", 400, applebusiness.ErrEmptyBody, ""},
		{"blank", "", jsonType, " \n", 400, applebusiness.ErrEmptyBody, ""},
		{"form", "", formType, "grant_type=refresh_token", 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"no type", "", "", body(refresh), 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"charset", "", jsonType + "; charset=utf-8", body(refresh), 401, applebusiness.ErrInvalidRefreshToken, ""},
		{"broken JSON", "", jsonType, `{"grant_type":"refresh_token"`, 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"null", "", jsonType, `null`, 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"empty object", "", jsonType, `{}`, 400, applebusiness.ErrEmptyBody, ""},
		{"array", "", jsonType, `[1]`, 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"too long", "", jsonType, body(refresh, "refresh_token", strings.Repeat("x", 64<<10)), 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"scope", "", jsonType, body(service, "scope", "business.api"), 400, applebusiness.ErrScopeNotAccepted, ""},
		{"wrong secret", "", jsonType, body(refresh, "client_secret", "wrong"), 401, applebusiness.ErrInvalidCredentials, ""},
		{"wrong secret of the Service Account", "", jsonType, body(service, "client_secret", "wrong"), 401, applebusiness.ErrInvalidCredentials, ""},
		{"unknown refresh token", "", jsonType, body(refresh), 401, applebusiness.ErrInvalidRefreshToken, ""},
		{"unknown path", "/", jsonType, body(refresh), 404, applebusiness.ErrEndpointNotFound, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, text := send(t, http.MethodPost, server.Endpoint().TokenURL+test.path, test.contentType, test.body)
			failed := applebusiness.ParseTokenError(response.StatusCode, response.Header, []byte(text))
			assert.Equal(t, findEntry(t, applebusiness.TokenEndpoint, test.reason, test.status), entryOf(t, failed))
			if test.parameter != "" {
				assert.Equal(t, test.parameter, failed.Parameter)
			}
			assert.Equal(t, "application/json", response.Header.Get("Content-Type"))
			assert.Equal(t, "no-store", response.Header.Get("Cache-Control"))
		})
	}
	for name, base := range map[string]map[string]any{"authorization_code": exchange, "refresh_token": refresh, "client_credentials": service} {
		for field := range base {
			t.Run(name+" without "+field, func(t *testing.T) {
				response, text := send(t, http.MethodPost, server.Endpoint().TokenURL, jsonType, body(base, field, ""))
				failed := applebusiness.ParseTokenError(response.StatusCode, response.Header, []byte(text))
				if name == "client_credentials" && field != "grant_type" {
					assert.ErrorIs(t, failed, applebusiness.ErrMissingFields)
					return
				}
				assert.ErrorIs(t, failed, applebusiness.ErrMissingParameter)
				assert.Equal(t, field, failed.Parameter)
			})
		}
	}
	t.Run("grant of the other kind", func(t *testing.T) {
		for _, text := range []string{
			body(service, "client_id", app.ClientID, "client_secret", app.ClientSecret),
			body(refresh, "client_id", account.ClientID, "client_secret", account.ClientSecret),
		} {
			response, text := send(t, http.MethodPost, server.Endpoint().TokenURL, jsonType, text)
			assert.Equal(t, http.StatusBadRequest, response.StatusCode)
			assert.JSONEq(t, `{"error":"unauthorized_client"}`, text)
		}
	})
}

func TestPlainOAuth2Fails(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	_, err := config.Exchange(context.Background(), "code", oauth2.VerifierOption(verifier))
	require.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrUnsupportedMediaType)
	requests := server.Requests()
	require.Len(t, requests, 1)
	assert.Equal(t, "authorization_code", requests[0].GrantType)
}

// Above the limit is status 429 with Retry-After, which has no effect and takes no failure from a queue.
func TestRateLimit(t *testing.T) {
	clock := newClock()
	server := newServer(t, &applebusinesstest.Options{RateLimit: 2, Now: clock.Now})
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	unavailable := func() {
		t.Helper()
		_, err := refresh(server, config, token.RefreshToken)
		require.ErrorIs(t, err, applebusiness.ErrUnavailable)
	}
	limited := func() {
		t.Helper()
		_, err := refresh(server, config, token.RefreshToken)
		failed, ok := errors.AsType[*applebusiness.Error](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, applebusiness.ErrRateLimited, failed.Reason)
		assert.Equal(t, time.Second, failed.RetryAfter)
	}
	server.FailNext(applebusinesstest.Failure{StatusCode: 503, Times: 3})
	unavailable()
	clock.Advance(time.Second - time.Nanosecond)
	unavailable()
	limited()
	limited()
	clock.Advance(time.Nanosecond) // the first is a second ago
	unavailable()
	limited()
	clock.Advance(time.Second)
	_, err := refresh(server, config, token.RefreshToken)
	assert.NoError(t, err)
	assert.Equal(t, http.StatusTooManyRequests, server.Requests()[2].StatusCode)
}

// The header is sent at once and the body by and by.
func TestTrickle(t *testing.T) {
	server := newServer(t, &applebusinesstest.Options{Trickle: time.Microsecond})
	_, err := serviceToken(server, "business")
	require.NoError(t, err, "all of it arrives")

	server = newServer(t, &applebusinesstest.Options{Trickle: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.Endpoint().TokenURL, strings.NewReader("{}"))
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	assert.Equal(t, http.StatusBadRequest, response.StatusCode)
	cancel()
	body, err := io.ReadAll(response.Body)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, body)
	status, _ := me(t, server, "")
	assert.Equal(t, http.StatusUnauthorized, status, "only the token endpoint does")
}
