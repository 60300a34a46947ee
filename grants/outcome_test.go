package grants

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

// Only a refusal of the refresh token ends a grant, whatever else Apple, or somebody in between, says.
func TestWhatEndsAGrant(t *testing.T) {
	const dead = `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`
	for _, test := range []struct {
		status int
		body   string
		ends   bool
	}{
		{400, dead, true},
		{401, dead, true},
		{400, `{"error":"invalid_grant","error_description":"new words"}`, true}, // RFC 6749 has one meaning for it on a refresh
		{400, `{"error":"invalid_grant"}`, true},
		{500, dead, false},
		{503, dead, false},
		{520, dead, false},
		{429, dead, false},
		{400, `{"error":"invalid_grant","error_description":"grant_type is invalid. Accepted values: refresh_token"}`, false},
		{400, `{"error":"revoked"}`, false},
		{403, `{"error":"access_denied"}`, false},
		{400, `{"error":"invalid_request","error_description":"new words"}`, false},
		{401, `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`, false},
		{403, "<html>", false},
		{200, "{}", false},
	} {
		apple := applebusinesstest.NewServer(nil)
		config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
		ctx, store := context.Background(), NewMemoryStore()
		manager := New(config, store, nil)
		require.NoError(t, manager.Put(ctx, "a", apple.ConnectExpired(config.ClientID)))
		apple.FailWith(test.status, http.Header{"Content-Type": {"application/json"}}, test.body)
		_, err := manager.Token(ctx, "a")
		require.Error(t, err)
		record, loadErr := store.Load(ctx, "a")
		require.NoError(t, loadErr)
		assert.Equal(t, test.ends, record.Dead != nil, "%d %s: %v", test.status, test.body, err)
		assert.Equal(t, test.ends, applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize, "%d %s: %v", test.status, test.body, err)
		require.NoError(t, manager.Close(ctx))
		apple.Close()
	}
}

// Each kind of a failed request, and whether the successor of the refresh token may be lost with it.
func TestClassify(t *testing.T) {
	refresh := func(status int, body string) *applebusiness.Error {
		e := applebusiness.ParseTokenError(status, http.Header{"Content-Type": {"application/json"}}, []byte(body))
		e.GrantType = applebusiness.GrantTypeRefreshToken
		return e
	}
	missing := func(parameter string) *applebusiness.Error {
		return refresh(400, `{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: `+parameter+` missing"}`)
	}
	lost := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: applebusiness.GrantTypeRefreshToken}
	for name, test := range map[string]struct {
		e    *applebusiness.Error
		kind kind
		lost bool
	}{
		"a refusal":                   {refresh(401, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`), refused, false},
		"a refusal in new words":      {refresh(400, `{"error":"invalid_grant","error_description":"new words"}`), refused, false},
		"a refusal at 520":            {refresh(520, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`), outage, true},
		"too many requests":           {refresh(429, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`), limited, false},
		"a wrong secret":              {refresh(401, `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`), ours, false},
		"a wrong client, new words":   {refresh(401, `{"error":"invalid_client"}`), ours, false},
		"no client secret":            {missing("client_secret"), ours, false},
		"no refresh token":            {missing("refresh_token"), alone, false},
		"a wrong client_id":           {refresh(400, `{"error":"invalid_request","error_description":"Invalid client_id"}`), ours, false},
		"a wrong path":                {refresh(404, `{"error":"404 Not Found","error_description":"invalid_request"}`), ours, false},
		"a wrong media type":          {refresh(400, `{"error":"invalid_request","error_description":"Unsupported Media Type for POST body. Must be json."}`), ours, false},
		"an unauthorized client":      {refresh(400, `{"error":"unauthorized_client"}`), ours, false},
		"a refused TokenURL":          {&applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrUnsafeTokenRequest}, ours, false},
		"one customer's request":      {refresh(400, `{"error":"invalid_request","error_description":"new words"}`), alone, false},
		"a missing parameter":         {missing("refresh_token"), alone, false},
		"a row of the other endpoint": {refresh(400, `{"error":"invalid_request","error_description":"bad request"}`), alone, false},
		"an undocumented error":       {refresh(401, `{"error":"something"}`), shared, false},
		"an undocumented 400":         {refresh(400, `{"error":"something"}`), shared, false},
		"an undocumented 399":         {refresh(399, `{"error":"something"}`), alone, false},
		"a proxy's 403":               {refresh(403, "<html>"), shared, false},
		"501":                         {refresh(501, ""), shared, true},
		"a success without a token":   {refresh(200, "{}"), shared, true},
		"a token and an error":        {refresh(200, `{"access_token":"a","refresh_token":"r","error":"none"}`), alone, true},
		"a wrong client at 200":       {refresh(200, `{"error":"invalid_client"}`), ours, false},
		"503":                         {refresh(503, ""), outage, false},
		"500":                         {refresh(500, `{"error":"internal_server_error","error_description":"server error"}`), outage, true},
		"408":                         {refresh(408, ""), outage, false},
		"no response":                 {lost, outage, true},
		"a wrong secret at 500":       {refresh(500, `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`), outage, true},
		"a wrong secret at 503":       {refresh(503, `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`), outage, false},
	} {
		kind, lost := classify(test.e), mayBeLost(test.e)
		assert.Equal(t, test.kind, kind, name)
		assert.Equal(t, test.lost, lost, name)
	}
}

func TestLabel(t *testing.T) {
	for want, r := range map[string]Refresh{
		"ok":               {},
		"held":             {Err: waitError(applebusiness.ErrUnavailable, 1)},
		"unavailable":      {Err: waitError(applebusiness.ErrUnavailable, time.Minute), Sent: true},
		"no_refresh_token": {Err: noRefreshToken()},
		"store":            {Err: newStoreError("a", ErrNoGrant)},
		"no_grant":         {Err: fmt.Errorf("the Store: %w", ErrNoGrant)},
		"closed":           {Err: ErrClosed},
	} {
		assert.Equal(t, want, r.Label())
	}
}

// What is no token never replaces one that works: the old one stays, marked Unfinished.
func TestUnusableTokenOfApple(t *testing.T) {
	for _, body := range []string{
		`{"access_token":"at","refresh_token":"rt\xd4","expires_in":3600}`, `{"access_token":"at","refresh_token":"rt\n","expires_in":3600}`,
		`{"access_token":"at","refresh_token":"••••"}`, `{"access_token":"at\n","refresh_token":"rt"}`, `{"access_token":"at","refresh_token":12345}`,
		`{"access_token":"at","refresh_token":["rt"]}`, `{"access_token":"at","refresh_token":{}}`, `{"access_token":"at","refresh_token":true}`,
		`{"access_token":"at","refresh_token":"\ud800"}`, `{"access_token":"at","refresh_token":" "}`,
	} {
		apple := applebusinesstest.NewServer(nil)
		config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
		ctx, store := context.Background(), NewMemoryStore()
		manager := New(config, store, nil)
		old := apple.ConnectExpired(config.ClientID)
		require.NoError(t, manager.Put(ctx, "a", old))
		apple.FailWith(200, http.Header{"Content-Type": {"application/json"}}, body)
		_, err := manager.Token(ctx, "a")
		assert.ErrorIs(t, err, applebusiness.ErrMalformedResponse, body)
		require.NoError(t, manager.Close(ctx))
		record, err := store.Load(ctx, "a")
		require.NoError(t, err)
		assert.Equal(t, old.RefreshToken, record.Token.RefreshToken, body)
		assert.True(t, record.Unfinished, body)
		apple.Close()
	}
}
