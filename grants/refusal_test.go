package grants_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
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
		ctx, store := context.Background(), grants.NewMemoryStore()
		manager := grants.New(config, store, nil)
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
