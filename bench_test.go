package applebusiness_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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

func BenchmarkParseTokenError(b *testing.B) {
	header := http.Header{"Content-Type": {"application/json"}}
	b.Run("Error", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			applebusiness.ParseTokenError(http.StatusUnauthorized, header, benchBody)
		}
	})
	b.Run("baseline", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var body struct {
				Error       string `json:"error"`
				Description string `json:"error_description"`
				URI         string `json:"error_uri"`
			}
			if err := json.Unmarshal(benchBody, &body); err != nil {
				b.Fatal(err)
			}
		}
	})
}

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

func BenchmarkTokenSource(b *testing.B) {
	source := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "access"})
	for name, source := range map[string]oauth2.TokenSource{
		"TokenSource": &applebusiness.TokenSource{Source: source},
		"baseline":    source,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = source.Token()
			}
		})
	}
}

// What a benchmark would only report: asking an error what it is allocates nothing, a token costs its copy.
func TestAllocations(t *testing.T) {
	var err error = benchError
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = errors.Is(err, applebusiness.ErrInvalidRefreshToken) }), "errors.Is, Reason")
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = errors.Is(err, applebusiness.CodeInvalidGrant) }), "errors.Is, Code")
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = errors.Is(err, applebusiness.ErrServer) }), "errors.Is, another Reason")

	source := applebusiness.TokenSource{Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "access"})}
	assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _ = source.Token() }), 1.0, "TokenSource.Token")
}
