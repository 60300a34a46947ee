package applebusinesstest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

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

// The user allows the partner's request, and Apple sends the browser back.
func ExampleServer_Authorize() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{
		ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, RedirectURL: server.App.RedirectURIs[0], Endpoint: server.Endpoint(),
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()

	redirectURL, err := server.Authorize(config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)))
	fmt.Println(err)
	code, err := applebusiness.VerifyRedirect(httptest.NewRequest("POST", redirectURL, nil), state)
	fmt.Println(err)
	token, err := config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	fmt.Println(token.Valid(), err)
	// Output:
	// <nil>
	// <nil>
	// true <nil>
}

// A customer who connected an hour ago, so that the first use of the token refreshes it.
func ExampleServer_ConnectExpired() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())

	old := server.ConnectExpired(config.ClientID)
	token, err := config.TokenSource(ctx, old).Token()
	fmt.Println(token.RefreshToken != old.RefreshToken, err)
	// Output: true <nil>
}

// "Invalid refresh_token" is in two rows of the token endpoint: Fail takes the first, with status 400, and this is the other.
func ExampleServer_FailEntry() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	for entry := range applebusiness.Catalog() {
		if entry.Endpoint == applebusiness.TokenEndpoint && entry.Reason == applebusiness.ErrInvalidRefreshToken && entry.StatusCode == 401 {
			server.FailEntry(entry)
		}
	}
	fmt.Println(refreshAt(server))
	// Output: applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)
}

// What is in none of Apple's tables: a rate limit, or the HTML of a proxy.
func ExampleServer_FailWith() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	server.FailWith(429, http.Header{"Retry-After": {"7"}}, "")
	server.FailWith(403, nil, "<html>Access denied</html>")
	fmt.Println(refreshAt(server))
	fmt.Println(refreshAt(server))
	// Output:
	// applebusiness: rate_limited (HTTP 429)
	// applebusiness: malformed_response (HTTP 403)
}

// Apple is down, and then it is not.
func ExampleServer_FailNext() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	server.FailNext(applebusinesstest.Failure{StatusCode: 503, Times: -1})
	fmt.Println(refreshAt(server))
	fmt.Println(refreshAt(server))
	server.Heal()
	fmt.Println(refreshAt(server))
	// Output:
	// applebusiness: unavailable (HTTP 503)
	// applebusiness: unavailable (HTTP 503)
	// <nil>
}

// A gateway loses the response to one customer's refresh, which has taken effect; the other customers notice nothing.
func ExampleFailure() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	one := server.ConnectExpired(config.ClientID)
	server.FailNext(applebusinesstest.Failure{StatusCode: 504, TakesEffect: true, RefreshToken: one.RefreshToken})

	fmt.Println(refreshAt(server))
	for range 2 {
		_, err := config.TokenSource(ctx, one).Token()
		fmt.Println(applebusiness.ReasonOf(applebusiness.Wrap(err)))
	}
	// Output:
	// <nil>
	// applebusiness: unavailable
	// applebusiness: invalid_refresh_token
}

// The client secret is replaced at Apple: it ends at once, and heals when it is configured.
func ExampleServer_RotateSecret() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	token := server.ConnectExpired(config.ClientID)

	secret := server.RotateSecret(config.ClientID)
	_, err := config.TokenSource(ctx, token).Token()
	fmt.Println(applebusiness.Wrap(err))
	config.ClientSecret = secret
	_, err = config.TokenSource(ctx, token).Token()
	fmt.Println(err)
	// Output:
	// applebusiness: invalid_client: "Invalid client_id or client_secret" (HTTP 401)
	// <nil>
}

// The app is deleted at Apple, and with it all its grants.
func ExampleServer_DeleteApp() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	token := server.ConnectExpired(config.ClientID)

	server.DeleteApp(config.ClientID)
	_, err := config.TokenSource(ctx, token).Token()
	fmt.Println(applebusiness.Wrap(err))
	// Output: applebusiness: invalid_request: "Invalid client_id" (HTTP 400)
}

// An app with the redirect URI of the program under test.
func ExampleServer_RegisterApp() {
	server := applebusinesstest.NewServer(&applebusinesstest.Options{Consent: applebusinesstest.ConsentAllow})
	defer server.Close()
	app := applebusinesstest.App{ClientID: "my-app", ClientSecret: "s3cret", RedirectURIs: []string{"http://127.0.0.1:8080/redirect"}}
	server.RegisterApp(app)
	config := &oauth2.Config{ClientID: app.ClientID, ClientSecret: app.ClientSecret, RedirectURL: app.RedirectURIs[0], Endpoint: server.Endpoint()}
	redirectURL, err := server.Authorize(config.AuthCodeURL("a-state", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())))
	fmt.Println(strings.HasPrefix(redirectURL, "http://127.0.0.1:8080/redirect?code="), err)
	// Output: true <nil>
}

// A Service Account has no customers and no refresh token.
func ExampleServer_RegisterServiceAccount() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	server.RegisterServiceAccount(applebusinesstest.ServiceAccount{ClientID: "reports", ClientSecret: "s3cret"})
	config := &clientcredentials.Config{
		ClientID: "reports", ClientSecret: "s3cret", Scopes: []string{"business"}, TokenURL: server.Endpoint().TokenURL, AuthStyle: oauth2.AuthStyleInParams,
	}
	token, err := config.Token(context.WithValue(context.Background(), oauth2.HTTPClient, server.Client()))
	fmt.Println(token.Valid(), token.RefreshToken == "", err)
	// Output: true true <nil>
}

// A revoked grant is asked about once.
func ExampleServer_Requests() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	token := server.ConnectExpired(config.ClientID)
	server.Revoke(token.RefreshToken)

	source := &applebusiness.TokenSource{Source: config.TokenSource(ctx, token), Hold: true}
	for range 10 {
		_, _ = source.Token()
	}
	for _, request := range server.Requests() {
		fmt.Println(request.Endpoint, request.GrantType, request.Params.Get("refresh_token"))
	}
	// Output: token refresh_token REDACTED
}

// A handler around the server's own, which tells what passes through it.
func ExampleNewUnstartedServer() {
	server := applebusinesstest.NewUnstartedServer(nil)
	apple := server.Config.Handler
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL.Path)
		apple.ServeHTTP(w, r)
	})
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	fmt.Println(refreshAt(server))
	// Output:
	// POST /api/v1/oauth2/token
	// <nil>
}

// refreshAt connects a customer, refreshes the token, and returns what came of it.
func refreshAt(server *applebusinesstest.Server) error {
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	_, err := config.TokenSource(ctx, server.ConnectExpired(config.ClientID)).Token()
	return applebusiness.Wrap(err)
}

// A customer has just connected, without the consent page.
func ExampleServer_Connect() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	token := server.Connect(server.App.ClientID)
	fmt.Println(token.Valid(), token.RefreshToken != "")
	// Output: true true
}

// The API says to which organisation a token belongs.
func ExampleServer_Client() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	token := server.Connect(server.App.ClientID)
	request, _ := http.NewRequest(http.MethodGet, server.URL+"/api/v1/me", nil)
	token.SetAuthHeader(request)
	response, err := server.Client().Do(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	fmt.Println(string(body))
	// Output: {"orgDetails":{"legalName":"Example Company 1","orgId":"org-1"},"user":{"firstName":"Jane","lastName":"Appleseed"}}
}

// One customer allows, the next one denies.
func ExampleServer_SetConsent() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, RedirectURL: server.App.RedirectURIs[0], Endpoint: server.Endpoint()}
	connect := func() error {
		redirectURL, err := server.Authorize(config.AuthCodeURL("a-state", oauth2.S256ChallengeOption("a-verifier")))
		if err != nil {
			return err
		}
		_, err = applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodPost, redirectURL, nil), "a-state")
		return err
	}
	fmt.Println(connect())
	server.SetConsent(applebusinesstest.ConsentDeny)
	fmt.Println(connect())
	// Output:
	// <nil>
	// applebusiness: user_denied: access_denied
}

// Tests that share a server begin anew.
func ExampleServer_Reset() {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	server.Fail(applebusiness.ErrServer)
	server.Reset()
	fmt.Println(refreshAt(server), len(server.Requests()))
	// Output: <nil> 1
}

// A server with one app and one Service Account, as Apple would know them.
func ExampleNewServer() {
	server := applebusinesstest.NewServer(&applebusinesstest.Options{AccessTokenLife: time.Minute})
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	token, err := config.TokenSource(ctx, server.ConnectExpired(config.ClientID)).Token()
	fmt.Println(time.Until(token.Expiry).Round(time.Minute), err)
	// Output: 1m0s <nil>
}
