package applebusinesstest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
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

// Six processes share a grant, and one of them refreshes it.
func ExampleMemoryStore() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{
		ClientID:     server.App.ClientID,
		ClientSecret: server.App.ClientSecret,
		Endpoint:     server.Endpoint(),
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())

	token := server.Connect(config.ClientID)
	token.Expiry = time.Now().Add(-time.Minute)
	store := applebusinesstest.NewMemoryStore(token)
	for range 6 {
		_, err := applebusiness.NewSharedTokenSource(ctx, config, store).Token()
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(len(server.Requests()), "request")
	// Output: 1 request
}
