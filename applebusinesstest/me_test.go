package applebusinesstest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

func me(t *testing.T, server *applebusinesstest.Server, authorization string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, server.URL+"/api/v1/me", nil)
	require.NoError(t, err)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	response, body := do(t, request)
	return response.StatusCode, body
}

func TestMe(t *testing.T) {
	clock := newClock()
	server := newServer(t, &applebusinesstest.Options{Now: clock.Now})
	organisations := map[string]bool{}
	token := server.Connect(server.App.ClientID)
	for _, token := range []*oauth2.Token{token, server.Connect(server.App.ClientID)} {
		assert.True(t, token.Valid())
		client := newConfig(server).Client(withClient(server), token)
		response, err := client.Get(server.URL + "/api/v1/me")
		require.NoError(t, err)
		defer response.Body.Close()
		var me struct {
			User       struct{ FirstName, LastName string }
			OrgDetails struct{ OrgID, LegalName string }
		}
		require.NoError(t, json.NewDecoder(response.Body).Decode(&me))
		assert.NotEmpty(t, me.User.FirstName)
		assert.NotEmpty(t, me.User.LastName)
		assert.NotEmpty(t, me.OrgDetails.LegalName)
		organisations[me.OrgDetails.OrgID] = true
	}
	assert.Len(t, organisations, 2)

	clock.Advance(60*time.Minute - time.Nanosecond)
	status, _ := me(t, server, "bearer "+token.AccessToken)
	assert.Equal(t, http.StatusOK, status)
	clock.Advance(time.Nanosecond)
	for _, authorization := range []string{"Bearer " + token.AccessToken, "Bearer unknown", "Basic " + token.AccessToken, "Bearer", ""} {
		status, body := me(t, server, authorization)
		assert.Equal(t, http.StatusUnauthorized, status)
		assert.JSONEq(t, `[{"code":"Unauthorized","message":"Expired Token","details":{"header":"Authorization"}}]`, body)
	}
}

// The API fails as it is asked to, for one app or for all, and the token endpoint does not.
func TestMeFails(t *testing.T) {
	server := newServer(t, nil)
	server.RegisterApp(applebusinesstest.App{ClientID: "other", ClientSecret: "secret"})
	config := newConfig(server)
	token, other := server.Connect(config.ClientID), server.Connect("other")
	ask := func(token *oauth2.Token) int {
		status, _ := me(t, server, "Bearer "+token.AccessToken)
		return status
	}
	server.FailNext(applebusinesstest.Failure{Endpoint: "me", StatusCode: 503, ClientID: "other"})
	server.FailNext(applebusinesstest.Failure{Endpoint: "me", StatusCode: 502, Delay: time.Millisecond})
	_, err := refresh(server, config, token.RefreshToken)
	require.NoError(t, err)
	assert.Equal(t, 502, ask(token))
	assert.Equal(t, 200, ask(token))
	assert.Equal(t, 503, ask(other))
	assert.Equal(t, 200, ask(other))

	server.FailNext(applebusinesstest.Failure{Endpoint: "me", TakesEffect: true, Delay: 20 * time.Millisecond})
	start := time.Now()
	assert.Equal(t, 200, ask(token))
	assert.GreaterOrEqual(t, time.Since(start), 20*time.Millisecond)

	server.FailNext(applebusinesstest.Failure{Endpoint: "me", Drop: true})
	unkept := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // net/http sends a GET again on a new connection
	_, err = unkept.Get(server.URL + "/api/v1/me")
	assert.ErrorContains(t, err, "EOF")

	server.FailNext(applebusinesstest.Failure{Endpoint: "me", Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/me", nil)
	require.NoError(t, err)
	_, err = http.DefaultClient.Do(request)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}
