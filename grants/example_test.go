package grants_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
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

// Put imports a grant that another program has connected, of which only the refresh token is known. A customer who
// connects here needs no Put: see Manager.Connect.
func ExampleManager_Put() {
	apple := applebusinesstest.NewServer(nil) // in the place of Apple
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	imported := apple.Connect(config.ClientID).RefreshToken
	ctx := context.Background()
	manager := grants.New(config, grants.NewMemoryStore(), nil)
	defer manager.Close(ctx)

	if err := manager.Put(ctx, "org-7", &oauth2.Token{RefreshToken: imported}); err != nil {
		fmt.Println(err) // it may be stored or not: put it again
		return
	}
	token, err := manager.Token(ctx, "org-7")
	fmt.Println(token.Valid(), err)
	// Output: true <nil>
}

// An operator revives a grant that was called dead by mistake: the Store has kept its token, and Put takes the verdict away.
func ExampleManager_Put_revive() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	ctx := context.Background()
	store := grants.NewMemoryStore()
	manager := grants.New(config, store, nil)
	defer manager.Close(ctx)
	token := apple.Connect(config.ClientID)
	token.Expiry = time.Now()
	_ = manager.Put(ctx, "customer 7", token)

	apple.Fail(applebusiness.ErrInvalidRefreshToken) // Apple errs
	_, err := manager.Token(ctx, "customer 7")
	fmt.Println(applebusiness.Troubleshoot(err).Action)

	record, _ := store.Load(ctx, "customer 7")
	_ = manager.Put(ctx, "customer 7", record.Token)
	_, err = manager.Token(ctx, "customer 7")
	fmt.Println(err)
	// Output:
	// reauthorize
	// <nil>
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
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	ctx, cancel := context.WithCancel(context.Background()) // of the process
	defer cancel()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	manager := grants.New(config, grants.NewMemoryStore(), &grants.Options{OnRefresh: func(refresh grants.Refresh) {
		fmt.Println(refresh.Grant, refresh.Err)
		cancel() // so that this example ends
	}})
	_ = manager.Put(ctx, "customer 7", apple.ConnectExpired(config.ClientID))

	for ctx.Err() == nil {
		if err := manager.RefreshDue(ctx, 10*time.Minute); err != nil && ctx.Err() == nil {
			slog.Error("grants are not kept alive", "error", err)
		}
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
		}
	}
	// Output: customer 7 <nil>
}

// Metrics come from OnRefresh.
func ExampleOptions() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	manager := grants.New(config, grants.NewMemoryStore(), &grants.Options{
		HTTPClient: &http.Client{Timeout: 30 * time.Second},
		OnRefresh: func(refresh grants.Refresh) {
			switch {
			case refresh.Err != nil:
				fmt.Println("failed:", refresh.Grant, refresh.Label())
			case refresh.Unsaved:
				fmt.Println("not stored yet:", refresh.Grant)
			case refresh.Sent:
				fmt.Println("refreshed:", refresh.Grant) // in refresh.Duration, refresh.Waited of it for Limit and for siblings
			}
		},
	})
	ctx := context.Background()
	_ = manager.Put(ctx, "customer 7", apple.ConnectExpired(config.ClientID))
	_, _ = manager.Token(ctx, "customer 7")
	_ = manager.Close(ctx)
	// Output: refreshed: customer 7
}

// The client secret comes from a vault: one that was replaced is asked for when Apple refuses the old one.
func ExampleOptions_clientSecret() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	inVault := apple.App.ClientSecret
	config := &oauth2.Config{ClientID: apple.App.ClientID, Endpoint: apple.Endpoint()} // without a ClientSecret
	manager := grants.New(config, grants.NewMemoryStore(), &grants.Options{
		ClientSecret: func(ctx context.Context) (string, error) { // in production: log here if the vault fails
			fmt.Println("the vault is asked")
			return inVault, nil
		},
	})
	ctx := context.Background()
	defer manager.Close(ctx)
	for _, customer := range []string{"customer 7", "customer 8", "customer 9"} {
		_ = manager.Put(ctx, customer, apple.ConnectExpired(config.ClientID))
	}

	_, err := manager.Token(ctx, "customer 7")
	fmt.Println(err)
	_, err = manager.Token(ctx, "customer 8")
	fmt.Println(err)
	inVault = apple.RotateSecret(config.ClientID)
	_, err = manager.Token(ctx, "customer 9")
	fmt.Println(err)
	// Output:
	// the vault is asked
	// <nil>
	// <nil>
	// the vault is asked
	// <nil>
}

// The mail job looks at all who have to connect again, a page at a time, and tells each once. With any other Store it is the
// same.
func ExampleMemoryStore_Dead() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	ctx := context.Background()
	store := grants.NewMemoryStore()
	manager := grants.New(config, store, nil)
	defer manager.Close(ctx)
	token := apple.ConnectExpired(config.ClientID)
	_ = manager.Put(ctx, "customer 7", token)
	apple.Revoke(token.RefreshToken) // the customer disconnects
	_ = manager.RefreshDue(ctx, 10*time.Minute)

	type key struct {
		grant   string
		version int64 // another one when the customer has connected again
	}
	told := make(map[key]bool) // in production: a table of your database
	mailJob := func() error {
		const page = 100
		for after, more := (grants.DeadGrant{}), true; more; {
			dead, err := store.Dead(ctx, 0, after, page) // in production: for an hour, so that a wrong verdict can heal
			if err != nil {
				return err
			}
			for _, found := range dead {
				if k := (key{found.Grant, found.Version}); !told[k] {
					fmt.Println("ask", found.Grant, "to connect again:", applebusiness.Troubleshoot(found.Error).Causes[0])
					told[k] = true
				}
				after = found
			}
			more = len(dead) == page
		}
		return nil
	}
	fmt.Println(mailJob())
	fmt.Println(mailJob())
	// Output:
	// ask customer 7 to connect again: access_revoked
	// <nil>
	// <nil>
}

// newManager returns a Manager for a fake Apple, with a customer who has connected.
func newManager() (*grants.Manager, func()) {
	apple := applebusinesstest.NewServer(nil)
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	manager := grants.New(config, grants.NewMemoryStore(), nil)
	if err := manager.Put(context.Background(), "customer 7", apple.Connect(config.ClientID)); err != nil {
		fmt.Println(err)
	}
	return manager, apple.Close
}

// One Manager for each process. With pgxstore, the Store and the Limit are pgxstore.New(pool, nil) and its Limiter(12).
func ExampleNew() {
	apple := applebusinesstest.NewServer(nil) // in production: Apple's two URLs, see applebusiness.OAuth2Endpoint
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	manager := grants.New(config, grants.NewMemoryStore(), &grants.Options{
		HTTPClient: &http.Client{Timeout: 30 * time.Second}, // it has time to wait for Apple
	})
	ctx := context.Background()
	defer manager.Close(ctx)

	_ = manager.Put(ctx, "customer 7", apple.ConnectExpired(config.ClientID))
	token, err := manager.Token(ctx, "customer 7")
	fmt.Println(token.Valid(), err)
	// Output: true <nil>
}

// The customer disconnects in the partner's own settings. Apple documents no way to tell it.
func ExampleManager_Delete() {
	manager, end := newManager()
	defer end()
	ctx := context.Background()
	fmt.Println(manager.Delete(ctx, "customer 7"))
	_, err := manager.Token(ctx, "customer 7")
	fmt.Println(errors.Is(err, grants.ErrNoGrant))
	// Output:
	// <nil>
	// true
}

// An API that is not called by Client has sent status 401: the next token is another one.
func ExampleManager_Invalidate() {
	manager, end := newManager()
	defer end()
	ctx := context.Background()
	refused, _ := manager.Token(ctx, "customer 7")
	manager.Invalidate("customer 7", refused)
	token, err := manager.Token(ctx, "customer 7")
	fmt.Println(token.AccessToken != refused.AccessToken, err)
	// Output: true <nil>
}

// For code that takes an oauth2.TokenSource.
func ExampleManager_TokenSource() {
	manager, end := newManager()
	defer end()
	var source oauth2.TokenSource = manager.TokenSource(context.Background(), "customer 7")
	token, err := source.Token()
	fmt.Println(token.Valid(), err)
	// Output: true <nil>
}

// At the end of the process, after the HTTP server and before the Store or its pool: with time for a request that is under
// way, so not with the context that a signal has ended.
func ExampleManager_Close() {
	manager, end := newManager()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := manager.Close(ctx); err != nil {
		slog.Error("these grants are lost unless Close is called again", "error", err)
	}
	_, err := manager.Token(ctx, "customer 7")
	fmt.Println(errors.Is(err, grants.ErrClosed))
	// Output: true
}

func ExampleRefresh_Label() {
	var mu sync.Mutex
	requests := make(map[string]int) // in production: a counter with this label
	options := &grants.Options{OnRefresh: func(refresh grants.Refresh) {
		mu.Lock()
		defer mu.Unlock()
		requests[refresh.Label()]++
	}}
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	ctx := context.Background()
	manager := grants.New(config, grants.NewMemoryStore(), options)
	_ = manager.Put(ctx, "customer 7", apple.ConnectExpired(config.ClientID))
	_, _ = manager.Token(ctx, "customer 7")
	_, _ = manager.Token(ctx, "customer 8")
	_ = manager.Close(ctx) // it waits for OnRefresh, too
	mu.Lock()
	defer mu.Unlock()
	fmt.Println(requests)
	// Output: map[no_grant:1 ok:1]
}
