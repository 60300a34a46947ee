package applebusiness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// Each benchmark stands beside its baseline: only the ratio of the two, from one run, says anything.
//
//	go test -run '^$' -bench . -count 6

var (
	benchBody  = []byte(`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`)
	benchQuery = "error=unsupported_response_type&error_description=response_type+must+be+code&state=xyzABC123"
	benchError = applebusiness.ParseTokenError(http.StatusUnauthorized, nil, benchBody)

	errSentinel = errors.New("invalid refresh token")
)

func BenchmarkIs(b *testing.B) {
	b.Run("Error", func(b *testing.B) {
		b.ReportAllocs()
		var err error = benchError
		for b.Loop() {
			if !errors.Is(err, applebusiness.ErrInvalidRefreshToken) {
				b.Fatal("not recognised")
			}
		}
	})
	b.Run("baseline", func(b *testing.B) {
		b.ReportAllocs()
		err := fmt.Errorf("applebusiness: %w", errSentinel)
		for b.Loop() {
			if !errors.Is(err, errSentinel) {
				b.Fatal("not recognised")
			}
		}
	})
}

// parsing is ParseTokenError beside encoding/json with the members of RFC 6749.
func parsing() map[string]func() {
	header := http.Header{"Content-Type": {"application/json"}}
	return map[string]func(){
		"Error": func() { applebusiness.ParseTokenError(http.StatusUnauthorized, header, benchBody) },
		"baseline": func() {
			var body struct {
				Error       string `json:"error"`
				Description string `json:"error_description"`
				URI         string `json:"error_uri"`
			}
			_ = json.Unmarshal(benchBody, &body)
		},
	}
}

// wrapping is a failure of x/oauth2 with its type beside the failure alone; the network is left out.
func wrapping() map[string]func() {
	base := roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 401, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(benchBody)), Request: r}, nil
	})
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: base})
	config := &oauth2.Config{ClientID: "id", ClientSecret: "secret", Endpoint: applebusiness.OAuth2Endpoint("", "https://api.example")}
	exchange := func() error {
		_, err := config.Exchange(ctx, "code")
		return err
	}
	return map[string]func(){"Wrap": func() { _ = applebusiness.Wrap(exchange()) }, "baseline": func() { _ = exchange() }}
}

func compare(b *testing.B, ways map[string]func()) {
	for name, way := range ways {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				way()
			}
		})
	}
}

func BenchmarkParseTokenError(b *testing.B) { compare(b, parsing()) }

func BenchmarkWrap(b *testing.B) { compare(b, wrapping()) }

func BenchmarkParseRedirect(b *testing.B) {
	b.Run("Redirect", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = applebusiness.ParseRedirect(benchQuery)
		}
	})
	b.Run("baseline", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = url.ParseQuery(benchQuery)
		}
	})
}

// A token request by Transport against x/oauth2's plain form request to the same loopback server.
func BenchmarkTransport(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, tokenBody)
	}))
	defer server.Close()
	config := &oauth2.Config{ClientID: "id", ClientSecret: "secret", Endpoint: applebusiness.OAuth2Endpoint("", server.URL)}
	for name, ctx := range map[string]context.Context{
		"Transport": applebusiness.WithJSON(context.Background(), config.Endpoint.TokenURL),
		"baseline":  context.Background(),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := config.Exchange(ctx, "code"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTokenSource(b *testing.B) {
	bare := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "access", RefreshToken: "refresh"})
	for name, source := range map[string]oauth2.TokenSource{
		"TokenSource": &applebusiness.TokenSource{Source: bare},
		"all fields": &applebusiness.TokenSource{
			Source: bare, Stored: &oauth2.Token{AccessToken: "access", RefreshToken: "refresh"},
			OnToken: func(*oauth2.Token) error { return nil }, OnError: func(error) {}, Hold: true,
		},
		"baseline": bare,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = source.Token()
			}
		})
	}
}

// What a benchmark would only report: asking an error what it is allocates nothing, a token costs its copy, and a failure
// with its type at most a quarter more than without.
func TestAllocations(t *testing.T) {
	var err error = benchError
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = errors.Is(err, applebusiness.ErrInvalidRefreshToken) }), "errors.Is, Reason")
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = errors.Is(err, applebusiness.CodeInvalidGrant) }), "errors.Is, Code")
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = errors.Is(err, applebusiness.ErrServer) }), "errors.Is, another Reason")

	for way, ways := range map[string]map[string]func(){"Error": parsing(), "Wrap": wrapping()} {
		assert.LessOrEqual(t, testing.AllocsPerRun(100, ways[way]), 1.25*testing.AllocsPerRun(100, ways["baseline"]), way)
	}

	bare := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "access"})
	for _, source := range []*applebusiness.TokenSource{
		{Source: bare},
		{Source: bare, Stored: &oauth2.Token{AccessToken: "access"}, OnToken: func(*oauth2.Token) error { return nil }, OnError: func(error) {}, Hold: true},
	} {
		assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _ = source.Token() }), 1.0, "TokenSource.Token")
	}
}
