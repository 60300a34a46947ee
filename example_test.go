package applebusiness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// The whole flow with golang.org/x/oauth2: authorization URL, redirect, exchange, refresh, and what to do about an error.
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
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: 30 * time.Second})
	ctx = applebusiness.WithJSON(ctx, endpoint.TokenURL)

	// Send the user to Apple, and keep state and verifier on the server for this browser.
	state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	authURL := config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))
	fmt.Println("authorization URL:", applebusiness.CheckAuthorizationURL(authURL))

	// Apple sends the user back.
	redirectURL, _ := apple.Authorize(authURL)
	code, err := applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodPost, redirectURL, nil), state)
	fmt.Println("redirect:", err)
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
	// redirect: <nil>
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

// A handler of the redirect URI. Here the state is a constant; it must be of the browser that started the flow.
func ExampleVerifyRedirect() {
	const state = "dBjftJeZ4CVP"
	handler := func(w http.ResponseWriter, r *http.Request) {
		code, err := applebusiness.VerifyRedirect(r, state)
		switch {
		case errors.Is(err, applebusiness.ErrStateMismatch), errors.Is(err, applebusiness.ErrMalformedRedirect):
			http.Error(w, "This connection was not started here.", http.StatusBadRequest) // the state is still good: forget it below
		case errors.Is(err, applebusiness.ErrUserDenied):
			fmt.Fprintln(w, "The connection was not made.")
		case err != nil:
			http.Error(w, "Connecting failed, please start over.", http.StatusBadGateway)
		default:
			fmt.Fprintln(w, "Exchange", code) // see the example of the package
		}
	}
	for _, query := range []string{"code=c0de&state=dBjftJeZ4CVP", "code=c0de&state=forged", "error=access_denied&state=dBjftJeZ4CVP", "error=server_error&state=dBjftJeZ4CVP"} {
		w := httptest.NewRecorder()
		handler(w, httptest.NewRequest(http.MethodPost, "/apple/redirect?"+query, nil))
		fmt.Print(w.Code, " ", w.Body)
	}
	// Output:
	// 200 Exchange c0de
	// 400 This connection was not started here.
	// 200 The connection was not made.
	// 502 Connecting failed, please start over.
}

// One process that refreshes a grant by x/oauth2. For more than one, or for many grants, there is package grants.
func ExampleTokenSource() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	stored := apple.ConnectExpired(config.ClientID)

	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: 30 * time.Second})
	ctx = applebusiness.WithJSON(ctx, config.Endpoint.TokenURL)
	source := &applebusiness.TokenSource{
		Source: config.TokenSource(ctx, stored),
		Stored: stored,
		OnToken: func(token *oauth2.Token) error {
			fmt.Println("save it:", token.RefreshToken != stored.RefreshToken)
			return nil
		},
		OnError: func(err error) { fmt.Println("count it:", applebusiness.Label(err)) },
		Hold:    true,
	}
	response, err := oauth2.NewClient(ctx, source).Get(apple.URL + "/api/v1/me")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	fmt.Println(response.Status)
	// Output:
	// save it: true
	// 200 OK
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

// The class of an error, also of one that nobody documented.
func ExampleCodeOf() {
	err := applebusiness.ParseTokenError(400, nil, []byte(`{"error":"slow_down"}`))
	fmt.Println(applebusiness.CodeOf(err) == "slow_down", errors.Is(err, applebusiness.Code("slow_down")))
	// Output: true true
}

// Both base URLs are configuration, one pair for each environment of Apple's.
func ExampleOAuth2Endpoint() {
	endpoint := applebusiness.OAuth2Endpoint("https://auth.example", "https://api.example/")
	fmt.Println(endpoint.AuthURL)
	fmt.Println(endpoint.TokenURL)
	// Output:
	// https://auth.example/oauth2/v1/authorize
	// https://api.example/api/v1/oauth2/token
}

// An HTTP client of one's own, without x/oauth2.
func ExampleParseTokenResponse() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	body, _ := json.Marshal(map[string]string{
		"grant_type": "refresh_token", "refresh_token": apple.Connect(apple.App.ClientID).RefreshToken,
		"client_id": apple.App.ClientID, "client_secret": apple.App.ClientSecret,
	})
	response, err := http.Post(apple.Endpoint().TokenURL, "application/json", bytes.NewReader(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := applebusiness.ParseTokenResponse(response) // closes the body
	fmt.Println(token.Valid(), err)
	// Output: true <nil>
}

// Any code that uses x/oauth2 sends JSON with this context.
func ExampleWithJSON() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	client := &http.Client{Timeout: 30 * time.Second} // the default has none
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client)
	ctx = applebusiness.WithJSON(ctx, config.Endpoint.TokenURL)

	token, err := config.TokenSource(ctx, apple.ConnectExpired(config.ClientID)).Token()
	fmt.Println(token.Valid(), err)
	// Output: true <nil>
}

// What on-call reads in the log is found in an error however it was wrapped.
func ExampleLogAttr() {
	err := applebusiness.ParseTokenError(503, http.Header{"Retry-After": {"120"}}, nil)
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	logger.Error("no token", "customer", "cus_7f3c", applebusiness.LogAttr(fmt.Errorf("refreshing early: %w", err)))
	// Output:
	// level=ERROR msg="no token" customer=cus_7f3c error.context="refreshing early" error.endpoint=token error.reason=unavailable error.status=503 error.retry_after=2m0s error.action=retry error.impact=service
}

// A library that hides why a refresh failed takes an http.Client: give it this one.
func ExampleTransport() {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &applebusiness.Transport{
			TokenURL: apple.Endpoint().TokenURL,
			OnError:  func(err *applebusiness.Error) { fmt.Println(err, "-", applebusiness.Troubleshoot(err).Action) },
		},
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"revoked"}, "client_id": {apple.App.ClientID}, "client_secret": {apple.App.ClientSecret}}
	response, err := client.PostForm(apple.Endpoint().TokenURL, form) // as the library sends it
	if err == nil {
		response.Body.Close()
	}
	// Output:
	// applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401) - reauthorize
}

func ExampleRetryable() {
	unavailable := applebusiness.ParseTokenError(503, nil, nil)
	unavailable.GrantType = applebusiness.GrantTypeRefreshToken
	fmt.Println(applebusiness.Retryable(unavailable))
	unavailable.GrantType = applebusiness.GrantTypeAuthorizationCode // the code may be spent
	fmt.Println(applebusiness.Retryable(unavailable), applebusiness.Troubleshoot(unavailable).Action)
	// Output:
	// true
	// false start_over
}

// A counter of failures by label. Only "undocumented" says that Apple's page has changed.
func ExampleLabel() {
	failures := make(map[string]int)
	for _, err := range []error{
		applebusiness.ParseTokenError(401, nil, []byte(`{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`)),
		applebusiness.ParseTokenError(400, nil, []byte(`{"error":"invalid_request","error_description":"a new text of Apple's"}`)),
		applebusiness.ParseTokenError(503, nil, nil),
		context.Canceled,
		errors.New("the database is down"),
	} {
		failures[applebusiness.Label(err)]++
	}
	fmt.Println(failures)
	// Output:
	// map[canceled:1 invalid_credentials:1 other:1 unavailable:1 undocumented:1]
}

// A code lives once. Only where the request certainly did not leave may it be sent again.
func ExampleError_Unsent() {
	endpoint := applebusiness.OAuth2Endpoint("", "http://127.0.0.1:1") // where nothing listens
	config := &oauth2.Config{ClientID: "id", ClientSecret: "secret", Endpoint: endpoint}
	_, err := config.Exchange(applebusiness.WithJSON(context.Background(), endpoint.TokenURL), "the-code")
	var failure *applebusiness.Error
	if errors.As(err, &failure) {
		fmt.Println(failure.Unsent(), failure)
	}
	// Output: true applebusiness: no_response: the connection was refused; nothing was sent
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
