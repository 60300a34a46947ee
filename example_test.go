package applebusiness_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// The whole flow with golang.org/x/oauth2: authorization URL, callback, exchange, refresh, and what to do about an error.
func Example() {
	apple := applebusinesstest.NewServer(nil) // in production: Apple's two URLs
	defer apple.Close()
	endpoint := applebusiness.OAuth2Endpoint(apple.URL, apple.URL)
	config := &oauth2.Config{
		ClientID:     apple.App.ClientID,
		ClientSecret: apple.App.ClientSecret,
		RedirectURL:  apple.App.RedirectURIs[0],
		Endpoint:     endpoint,
	}
	// A context of the process, because x/oauth2 keeps it for later refreshes, and a client with a Timeout.
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: 10 * time.Second})
	ctx = applebusiness.WithJSON(ctx, endpoint.TokenURL)

	// Send the user to Apple, and keep state and verifier on the server for this browser.
	state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	authURL := config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))
	fmt.Println("authorization URL:", applebusiness.CheckAuthorizationURL(authURL))

	// Apple sends the user back.
	callbackURL, _ := apple.Authorize(authURL)
	code, err := applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodPost, callbackURL, nil), state)
	fmt.Println("callback:", err)
	token, err := config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	fmt.Println("exchange:", applebusiness.Wrap(err))

	// Later: the access token has expired, and the customer has disconnected the partner meanwhile.
	apple.Revoke(token.RefreshToken)
	token.Expiry = time.Now().Add(-time.Minute)
	source := &applebusiness.TokenSource{
		Source:  config.TokenSource(ctx, token),
		Stored:  token,
		OnToken: func(*oauth2.Token) error { return nil }, // save it for this customer
		Hold:    true,
	}
	_, err = source.Token()
	fmt.Println("refresh:", err)
	switch advice := applebusiness.Troubleshoot(err); advice.Action {
	case applebusiness.ActionRetry:
		fmt.Println("try again later")
	case applebusiness.ActionReauthorize:
		fmt.Println("ask to reconnect:", advice.Impact, advice.Causes)
	default:
		fmt.Println("tell the engineers:", advice.Remedy)
	}
	// Output:
	// authorization URL: <nil>
	// callback: <nil>
	// exchange: <nil>
	// refresh: applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)
	// ask to reconnect: customer [access_revoked refresh_token_replaced]
}

func ExampleParseTokenError() {
	body := []byte(`{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`)
	err := applebusiness.ParseTokenError(401, http.Header{"Apple-Request-Id": {"7f3c"}}, body)
	fmt.Println(err)
	fmt.Println(errors.Is(err, applebusiness.ErrInvalidCredentials), errors.Is(err, applebusiness.CodeInvalidClient), err.RequestID)
	// Output:
	// applebusiness: invalid_client: "Invalid client_id or client_secret" (HTTP 401)
	// true true 7f3c
}

func ExampleParseRedirect() {
	_, err := applebusiness.ParseRedirect("?error=unsupported_response_type&error_description=response_type+must+be+code&state=xyzABC123")
	fmt.Println(err)
	fmt.Println(applebusiness.Troubleshoot(err).Remedy)
	// Output:
	// applebusiness: unsupported_response_type: "response_type must be code"
	// Send response_type=code in the authorization URL.
}

func ExampleVerifyRedirect() {
	http.HandleFunc("/apple/callback", func(w http.ResponseWriter, r *http.Request) {
		code, err := applebusiness.VerifyRedirect(r, stateOf(r))
		switch {
		case errors.Is(err, applebusiness.ErrStateMismatch):
			http.Error(w, "This callback was not started here.", http.StatusBadRequest)
		case errors.Is(err, applebusiness.CodeAccessDenied):
			fmt.Fprintln(w, "The connection was not made.")
		case err != nil:
			http.Error(w, "Connecting failed, please start over.", http.StatusBadGateway)
		default:
			exchange(w, r, code)
		}
	})
}

func stateOf(*http.Request) string                            { return "" }
func exchange(http.ResponseWriter, *http.Request, string)     {}
func saveFor(customer string, token *oauth2.Token) error      { return nil }
func countFailure(reason applebusiness.Reason, action string) {}

func ExampleTokenSource() {
	var config oauth2.Config
	var stored *oauth2.Token
	ctx := applebusiness.WithJSON(context.Background(), config.Endpoint.TokenURL)
	source := &applebusiness.TokenSource{
		Source:  config.TokenSource(ctx, stored),
		Stored:  stored,
		OnToken: func(token *oauth2.Token) error { return saveFor("customer 7", token) },
		OnError: func(err error) {
			countFailure(applebusiness.ReasonOf(err), string(applebusiness.Troubleshoot(err).Action))
		},
		Hold: true,
	}
	client := oauth2.NewClient(ctx, source)
	_ = client
}

func ExampleWrap() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	account := clientcredentials.Config{
		ClientID:     apple.ServiceAccount.ClientID,
		ClientSecret: "an old secret",
		TokenURL:     apple.Endpoint().TokenURL,
		AuthStyle:    oauth2.AuthStyleInParams,
		Scopes:       []string{"business_connect"},
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, apple.Client())
	_, err := account.Token(ctx)
	err = fmt.Errorf("service account: %w", applebusiness.Wrap(err)) // wrap first, add context after
	fmt.Println(err)
	fmt.Println(applebusiness.Troubleshoot(err).Impact)
	// Output:
	// service account: applebusiness: invalid_client: "Invalid client_id or client_secret" (HTTP 401)
	// app
}

func ExampleTroubleshoot() {
	err := applebusiness.ParseTokenError(503, http.Header{"Retry-After": {"120"}}, nil)
	advice := applebusiness.Troubleshoot(err)
	fmt.Println(advice.Action, advice.Impact, applebusiness.Retryable(err), err.RetryAfter)
	// Output:
	// retry service true 2m0s
}

func ExampleReasonOf() {
	err := fmt.Errorf("customer 7: %w", applebusiness.ErrInvalidRefreshToken)
	switch applebusiness.ReasonOf(err) {
	case applebusiness.ErrInvalidRefreshToken:
		fmt.Println("disconnected, or replaced by a sibling process")
	case applebusiness.ErrInvalidCredentials:
		fmt.Println("the client secret was replaced")
	}
	// Output:
	// disconnected, or replaced by a sibling process
}

func ExampleCheckAuthorizationURL() {
	err := applebusiness.CheckAuthorizationURL("https://business.example/oauth2/v1/authorize?response_type=code" +
		"&client_id=BUSINESSAPI.1&redirect_uri=http://localhost:8080/callback&state=s1&code_challenge=abc")
	fmt.Println(err)
	// Output:
	// applebusiness: invalid_request: "localhost is not allowed for redirect_uri. Use the IP literal (127.0.0.1) instead"
}

func ExampleCatalog() {
	for entry := range applebusiness.Catalog() {
		if strings.HasPrefix(entry.Description, "Invalid refresh_token") {
			fmt.Println(entry.StatusCode, string(entry.Code), string(entry.Reason))
		}
	}
	// Output:
	// 400 invalid_grant invalid_refresh_token
	// 401 invalid_grant invalid_refresh_token
}
