package applebusinesstest_test

import (
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

func TestRequests(t *testing.T) {
	clock := newClock()
	server := newServer(t, &applebusinesstest.Options{Now: clock.Now})
	config := newConfig(server)
	code := newCode(t, server, config)
	_, err := exchange(server, config, code)
	require.NoError(t, err)
	clock.Advance(time.Second)
	server.Fail(applebusiness.ErrServer)
	_, err = refresh(server, config, "secret")
	failed, ok := errors.AsType[*applebusiness.Error](err)
	require.True(t, ok)

	requests := server.Requests()
	require.Len(t, requests, 3)
	assert.Equal(t, applebusiness.AuthorizationEndpoint, requests[0].Endpoint)
	assert.Equal(t, state, requests[0].Params.Get("state"))
	assert.Empty(t, requests[0].GrantType)
	assert.Equal(t, http.StatusFound, requests[0].StatusCode, "what a browser would have got")
	start := newClock().Now()
	assert.Equal(t, applebusinesstest.Request{
		Endpoint: applebusiness.TokenEndpoint, GrantType: "authorization_code", RequestID: requests[1].RequestID,
		Time: start, ContentType: "application/json", StatusCode: http.StatusOK,
		Params: url.Values{
			"grant_type": {"authorization_code"}, "client_id": {config.ClientID}, "redirect_uri": {config.RedirectURL},
			"client_secret": {"REDACTED"}, "code": {"REDACTED"}, "code_verifier": {"REDACTED"},
		},
	}, requests[1])
	assert.Equal(t, "REDACTED", requests[2].Params.Get("refresh_token"))
	assert.Equal(t, failed.RequestID, requests[2].RequestID)
	assert.Equal(t, http.StatusInternalServerError, requests[2].StatusCode)
	assert.Equal(t, start.Add(time.Second), requests[2].Time)

	requests[1].Params.Set("client_id", "changed")
	assert.Equal(t, config.ClientID, server.Requests()[1].Params.Get("client_id"), "the caller's own copy")
}

// A request has the status that its client saw, and the Content-Type that its client sent.
func TestRequestStatusAndContentType(t *testing.T) {
	for deliver, status := range map[applebusinesstest.Delivery]int{applebusinesstest.DeliverGet: 302, applebusinesstest.DeliverPost: 200} {
		server := newServer(t, &applebusinesstest.Options{Consent: applebusinesstest.ConsentAllow, Deliver: deliver})
		config := newConfig(server)
		server.LoseResponse()
		token := server.ConnectExpired(config.ClientID)
		_, err := refresh(server, config, token.RefreshToken)
		require.ErrorIs(t, err, applebusiness.ErrNoResponse)
		send(t, http.MethodPost, config.Endpoint.TokenURL, "text/plain; charset=utf-8", "x")
		get(t, authURL(config))
		get(t, config.Endpoint.AuthURL)
		_, err = server.Authorize(authURL(config))
		require.NoError(t, err)
		var statuses []int
		var types []string
		for _, request := range server.Requests() {
			statuses, types = append(statuses, request.StatusCode), append(types, request.ContentType)
		}
		assert.Equal(t, []int{0, 400, status, 400, status}, statuses)
		assert.Equal(t, []string{"application/json", "text/plain; charset=utf-8", "", "", ""}, types)
	}
}
