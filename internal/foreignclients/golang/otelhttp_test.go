package golang

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// tracing is a recorder of spans, and a way to put otelhttp around a RoundTripper.
type tracing struct {
	recorder *tracetest.SpanRecorder
	around   func(http.RoundTripper) http.RoundTripper
}

func newTracing() tracing {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	return tracing{recorder, func(base http.RoundTripper) http.RoundTripper {
		return otelhttp.NewTransport(base, otelhttp.WithTracerProvider(provider))
	}}
}

// text returns everything that the spans hold: names, attributes, events, statuses.
func (tr tracing) text(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, span := range tracetest.SpanStubsFromReadOnlySpans(tr.recorder.Ended()) {
		encoded, err := json.Marshal(span)
		require.NoError(t, err)
		text.Write(encoded)
		text.WriteByte('\n')
	}
	return text.String()
}

// assertShowsNone asserts that no secret is in the spans, as it is, in an encoding or in part.
func (tr tracing) assertShowsNone(t *testing.T, secrets ...string) {
	t.Helper()
	for span := range strings.Lines(tr.text(t)) {
		for _, secret := range secrets {
			require.GreaterOrEqual(t, len(secret), 8)
			for _, form := range []string{secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)), secret[:8]} {
				assert.False(t, strings.Contains(span, form), "%q is in the span %s", form, span)
			}
		}
	}
}

// Nothing that a token request carries, and nothing that its response brings or echoes, is in a span of otelhttp: neither where it
// wraps the Transport (the errors that it records are the Transport's) nor where it is the Transport's Base.
func TestSpansHoldNoSecret(t *testing.T) {
	for name, wrap := range map[string]func(tr tracing, tokenURL string) http.RoundTripper{
		"outside": func(tr tracing, tokenURL string) http.RoundTripper {
			return tr.around(&applebusiness.Transport{TokenURL: tokenURL})
		},
		"inside": func(tr tracing, tokenURL string) http.RoundTripper {
			return &applebusiness.Transport{TokenURL: tokenURL, Base: tr.around(http.DefaultTransport)}
		},
		"both": func(tr tracing, tokenURL string) http.RoundTripper {
			return tr.around(&applebusiness.Transport{TokenURL: tokenURL, Base: tr.around(http.DefaultTransport)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			apple := applebusinesstest.NewServer(&applebusinesstest.Options{Consent: applebusinesstest.ConsentAllow, KeepRefreshToken: true})
			defer apple.Close()
			tr := newTracing()
			config := &oauth2.Config{
				ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, RedirectURL: apple.App.RedirectURIs[0], Endpoint: apple.Endpoint(),
			}
			ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: wrap(tr, config.Endpoint.TokenURL), Timeout: 10 * time.Second})
			state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
			redirected, err := apple.Authorize(config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)))
			require.NoError(t, err)
			code, err := applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodPost, redirected, nil), state)
			require.NoError(t, err)
			token, err := config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
			require.NoError(t, err)
			secrets := []string{config.ClientSecret, verifier, code, state, token.AccessToken, token.RefreshToken}

			_, err = config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
			require.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrInvalidRefreshToken)
			echo := strings.Join(secrets, " ")
			jsonHeader := http.Header{"Content-Type": {"application/json"}, "Apple-Request-Id": {echo}}
			echoed, err := json.Marshal(map[string]string{"error": "invalid_grant", "error_description": "Unknown: " + echo, "error_uri": "https://x.example/" + token.RefreshToken})
			require.NoError(t, err)
			there := apple.URL + "/?" + url.Values{"token": secrets}.Encode()
			for _, failure := range []applebusinesstest.Failure{
				{StatusCode: 400, Header: jsonHeader, Body: string(echoed)},
				{StatusCode: 503, Body: "<html>" + echo},
				{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: echo},
				{StatusCode: 200, Header: http.Header{"Content-Length": {"100000"}}, Body: echo},
				{StatusCode: 302, Header: http.Header{"Location": {there}}},
				{StatusCode: 307, Header: http.Header{"Location": {there}}},
				{StatusCode: 307, Header: http.Header{"Location": {"%zz" + token.RefreshToken}}},
				{StatusCode: 401, Header: http.Header{"Www-Authenticate": {echo}, "Retry-After": {token.RefreshToken}}},
				{TakesEffect: true, Drop: true},
			} {
				apple.FailNext(failure)
				_, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
				assert.Error(t, err, "%+v", failure)
			}
			refreshed, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
			require.NoError(t, err)
			secrets = append(secrets, refreshed.AccessToken, config.ClientID+":"+config.ClientSecret)

			apple.Close()
			_, err = config.TokenSource(ctx, &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
			require.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrNoResponse)

			tr.assertShowsNone(t, secrets...)
			assert.GreaterOrEqual(t, len(tr.recorder.Ended()), 10, "each request has a span")
			assert.Regexp(t, `"Description":"[^"]*(EOF|no_response)`, tr.text(t), "and what failed is in it")
		})
	}
}

// The same holds for a Manager, whose requests carry the access token, too.
func TestSpansOfAManagerHoldNoSecret(t *testing.T) {
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	tr := newTracing()
	config := &oauth2.Config{
		ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, RedirectURL: apple.App.RedirectURIs[0], Endpoint: apple.Endpoint(),
	}
	manager := grants.New(config, grants.NewMemoryStore(), &grants.Options{HTTPClient: &http.Client{Transport: tr.around(http.DefaultTransport)}})
	defer manager.Close(context.Background())
	expired := apple.ConnectExpired(config.ClientID)
	require.NoError(t, manager.Put(t.Context(), "customer 7", expired))
	apple.FailNext(applebusinesstest.Failure{Endpoint: applebusinesstest.MeEndpoint, StatusCode: 401, Body: expired.AccessToken})
	response, err := manager.Client("customer 7").Get(apple.URL + "/api/v1/me")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	token, err := manager.Token(t.Context(), "customer 7")
	require.NoError(t, err)
	state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	redirected, err := apple.Authorize(config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)))
	require.NoError(t, err)
	request := httptest.NewRequest(http.MethodPost, redirected, nil)
	connected, err := manager.Connect(request, state, verifier)
	require.NoError(t, err)
	fresh, err := manager.Token(t.Context(), connected.Grant)
	require.NoError(t, err)
	tr.assertShowsNone(t, state, verifier, request.URL.Query().Get("code"), fresh.AccessToken, fresh.RefreshToken)

	text := tr.text(t)
	tr.assertShowsNone(t, config.ClientSecret, expired.AccessToken, expired.RefreshToken, token.AccessToken, token.RefreshToken)
	assert.Contains(t, text, "/api/v1/oauth2/token")
	assert.Contains(t, text, "/api/v1/me")

	// And a secret in a span would be found.
	client := &http.Client{Transport: tr.around(http.DefaultTransport)}
	response, err = client.Get(apple.URL + "/?token=" + token.RefreshToken)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Contains(t, tr.text(t), token.RefreshToken)
}
