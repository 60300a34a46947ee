package applebusinesstest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// A customer disconnects the partner, and the partner's code has to notice at the next refresh.
func ExampleServer_Revoke() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{
		ClientID:     server.App.ClientID,
		ClientSecret: server.App.ClientSecret,
		Endpoint:     server.Endpoint(),
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())

	token := server.Connect(config.ClientID)
	token.Expiry = time.Now().Add(-time.Minute) // so that x/oauth2 refreshes it
	server.Revoke(token.RefreshToken)

	source := &applebusiness.TokenSource{Source: config.TokenSource(ctx, token)}
	_, err := source.Token()
	fmt.Println(errors.Is(err, applebusiness.ErrInvalidRefreshToken))
	fmt.Println(applebusiness.Troubleshoot(err).Action)
	// Output:
	// true
	// reauthorize
}

// Apple fails once, and the partner's code has to try again.
func ExampleServer_Fail() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{
		ClientID:     server.App.ClientID,
		ClientSecret: server.App.ClientSecret,
		Endpoint:     server.Endpoint(),
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())

	token := server.Connect(config.ClientID)
	token.Expiry = time.Now().Add(-time.Minute) // so that x/oauth2 refreshes it
	server.Fail(applebusiness.ErrServer)

	source := &applebusiness.TokenSource{Source: config.TokenSource(ctx, token)}
	_, err := source.Token()
	fmt.Println(err, applebusiness.Retryable(err))
	_, err = source.Token()
	fmt.Println(err)
	// Output:
	// applebusiness: internal_server_error: "server error" (HTTP 500) true
	// <nil>
}

// A response is lost after Apple has replaced the refresh token: the customer has to connect again, and nobody revoked
// anything.
func ExampleServer_LoseResponse() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.Background()
	manager := grants.New(config, grants.NewMemoryStore(), nil)
	defer manager.Close(ctx)
	token := server.Connect(config.ClientID)
	token.Expiry = time.Now() // it has to be refreshed
	_ = manager.Put(ctx, "customer 7", token)

	server.LoseResponse()
	_, err := manager.Token(ctx, "customer 7")
	fmt.Println(applebusiness.Troubleshoot(err).Action)
	for applebusiness.Troubleshoot(err).Action == applebusiness.ActionRetry { // for a second or two
		time.Sleep(100 * time.Millisecond)
		_, err = manager.Token(ctx, "customer 7")
	}
	advice := applebusiness.Troubleshoot(err)
	fmt.Println(advice.Action, advice.Causes[0])
	// Output:
	// retry
	// reauthorize response_lost
}
