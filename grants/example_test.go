package grants_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// A partner's service: a customer has connected, and what the service does for them later needs a token.
func Example() {
	apple := applebusinesstest.NewServer(nil) // in the place of Apple
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	token := apple.Connect(config.ClientID) // as config.Exchange returns it
	ctx := context.Background()

	manager := grants.New(config, grants.NewMemoryStore(), nil) // pgxstore.New(pool, nil) for more than one process
	defer manager.Close(ctx)

	if err := manager.Put(ctx, "customer 7", token); err != nil {
		fmt.Println(err) // the token is stored nowhere: try again
		return
	}

	_, err := manager.Token(ctx, "customer 7")
	switch applebusiness.Troubleshoot(err).Action {
	case applebusiness.ActionReauthorize:
		fmt.Println("ask customer 7 to connect again")
	default:
		fmt.Println("error:", err)
	}
	// Output: error: <nil>
}

func ExampleManager_Token() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	ctx := context.Background()
	manager := grants.New(config, grants.NewMemoryStore(), nil)
	defer manager.Close(ctx)
	token := apple.Connect(config.ClientID)
	token.Expiry = time.Now() // it has to be refreshed
	_ = manager.Put(ctx, "customer 7", token)

	got, err := manager.Token(ctx, "customer 7")
	fmt.Println(got.AccessToken != token.AccessToken, err)

	_, err = manager.Token(ctx, "customer 8")
	fmt.Println(err)
	// Output:
	// true <nil>
	// applebusiness/grants: no such grant
}

// Requests to the API carry the customer's token; a token that the API refuses is replaced, and the request sent again.
func ExampleManager_Client() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	ctx := context.Background()
	manager := grants.New(config, grants.NewMemoryStore(), nil)
	defer manager.Close(ctx)
	token := apple.Connect(config.ClientID)
	token.AccessToken = "an old one"
	_ = manager.Put(ctx, "customer 7", token)

	response, err := manager.Client("customer 7").Get(apple.URL + "/api/v1/me")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	fmt.Println(response.StatusCode, len(body) > 0)
	// Output: 200 true
}

// Each process refreshes, now and then, what comes due and nobody uses.
func ExampleManager_RefreshDue() {
	var manager *grants.Manager // from grants.New
	keepAlive := func(ctx context.Context) {
		for {
			if err := manager.RefreshDue(ctx, 10*time.Minute); err != nil {
				slog.Error("grants are not kept alive", "error", err)
			}
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
				return
			}
		}
	}
	_ = keepAlive
}

// Metrics come from OnRefresh.
func ExampleOptions() {
	options := &grants.Options{
		HTTPClient: &http.Client{Timeout: 30 * time.Second},
		OnRefresh: func(refresh grants.Refresh) {
			switch {
			case refresh.Err != nil:
				slog.Warn("refresh failed", "grant", refresh.Grant, "reason", applebusiness.ReasonOf(refresh.Err), applebusiness.LogAttr(refresh.Err))
			case refresh.Unsaved:
				slog.Warn("a token is not stored yet", "grant", refresh.Grant)
			case refresh.Sent:
				slog.Info("refreshed", "grant", refresh.Grant, "took", refresh.Duration, "of that waiting", refresh.Waited)
			}
		},
	}
	_ = options
}
