package benchmarks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"testing"

	"github.com/ory/fosite"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// response is one of Apple's errors, as it is on the wire.
type response struct {
	status int
	header http.Header
	body   []byte
}

// disconnected is what Apple sends once the customer has disconnected; wrongGrantType has the same code.
const (
	disconnected   = "row10_invalid_refresh_token_401.http"
	wrongGrantType = "row01_invalid_grant_type.http"
)

// readResponse needs this folder as the working directory.
func readResponse(name string) (response, error) {
	raw, err := os.Open("../../testdata/responses/" + name)
	if err != nil {
		return response{}, err
	}
	defer raw.Close()
	found, err := http.ReadResponse(bufio.NewReader(raw), nil)
	if err != nil {
		return response{}, err
	}
	body, err := io.ReadAll(found.Body)
	return response{found.StatusCode, found.Header, body}, err
}

// contender is one way to do a job. It reports whether it found out what happened.
type contender struct {
	name string
	run  func() bool
}

// decoders decode the body of a response and ask whether the customer has disconnected. The first one is the yardstick.
//
// What they find out differs. The peers tell "invalid_grant", which can be a wrong grant_type as well; only this library
// says what the description means. A user of a peer can compare the text by hand, as the yardstick does, and then has to
// know Apple's texts and in what they may differ.
func decoders(apple response) []contender {
	return []contender{
		{"encoding/json, two fields, ==", func() bool {
			var body struct {
				Error       string `json:"error"`
				Description string `json:"error_description"`
			}
			err := json.Unmarshal(apple.body, &body)
			return err == nil && body.Error == "invalid_grant" && body.Description == "Invalid refresh_token"
		}},
		{"applebusiness.ParseTokenError", func() bool {
			return applebusiness.ParseTokenError(apple.status, apple.header, apple.body) != nil
		}},
		{"applebusiness.ParseTokenError, errors.Is", func() bool {
			err := applebusiness.ParseTokenError(apple.status, apple.header, apple.body)
			return errors.Is(err, applebusiness.ErrInvalidRefreshToken)
		}},
		{"zitadel oidc.Error, errors.Is", func() bool {
			var failed oidc.Error
			err := json.Unmarshal(apple.body, &failed)
			return err == nil && errors.Is(&failed, oidc.ErrInvalidGrant())
		}},
		{"ory fosite.RFC6749Error, errors.Is", func() bool {
			var failed fosite.RFC6749Error
			err := json.Unmarshal(apple.body, &failed)
			failed.CodeField = fosite.ErrInvalidGrant.CodeField // its Is compares a status that the body lacks; Apple's can be 400 or 401
			return err == nil && errors.Is(&failed, fosite.ErrInvalidGrant)
		}},
	}
}

// tokenRequests get the response through all of x/oauth2, whose error comes out of a token request and of nothing else. No
// network is involved: cannedTransport has the response. The first one is the yardstick.
func tokenRequests(apple response) []contender {
	config := &oauth2.Config{ClientID: "id", ClientSecret: "secret", Endpoint: applebusiness.OAuth2Endpoint("", "https://apple.example")}
	plain := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: cannedTransport{apple}})
	withJSON := applebusiness.WithJSON(plain, config.Endpoint.TokenURL)
	return []contender{
		{"x/oauth2, errors.As, ErrorCode", func() bool {
			_, err := config.TokenSource(plain, expired("r0")).Token()
			failed, ok := errors.AsType[*oauth2.RetrieveError](err)
			return ok && failed.ErrorCode == "invalid_grant"
		}},
		{"x/oauth2 with Wrap, errors.Is", func() bool {
			_, err := config.TokenSource(plain, expired("r0")).Token()
			return errors.Is(applebusiness.Wrap(err), applebusiness.ErrInvalidRefreshToken)
		}},
		{"x/oauth2 with WithJSON and Wrap, errors.Is", func() bool {
			_, err := config.TokenSource(withJSON, expired("r0")).Token()
			return errors.Is(applebusiness.Wrap(err), applebusiness.ErrInvalidRefreshToken)
		}},
	}
}

// cannedTransport responds to every request alike.
type cannedTransport struct{ canned response }

func (t cannedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	_, err := io.Copy(io.Discard, r.Body)
	r.Body.Close()
	return &http.Response{
		StatusCode: t.canned.status,
		Header:     t.canned.header.Clone(),
		Body:       io.NopCloser(bytes.NewReader(t.canned.body)),
		Request:    r,
	}, err
}

var errSentinel = errors.New("invalid refresh token")

// matchers are errors.Is on an error that is there already. The first one is the yardstick.
func matchers(apple response) []contender {
	wrapped := fmt.Errorf("token: %w", errSentinel)
	var failed error = applebusiness.ParseTokenError(apple.status, apple.header, apple.body)
	return []contender{
		{"a sentinel wrapped by fmt.Errorf", func() bool { return errors.Is(wrapped, errSentinel) }},
		{"*applebusiness.Error and a Reason", func() bool { return errors.Is(failed, applebusiness.ErrInvalidRefreshToken) }},
		{"*applebusiness.Error and a Code", func() bool { return errors.Is(failed, applebusiness.CodeInvalidGrant) }},
	}
}

// The first of each group is the yardstick.
func BenchmarkError(b *testing.B) {
	apple, err := readResponse(disconnected)
	if err != nil {
		b.Fatal(err)
	}
	for name, group := range map[string][]contender{
		"decode": decoders(apple), "token request": tokenRequests(apple), "errors.Is": matchers(apple), "valid token": validTokens(),
	} {
		for _, c := range group {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					c.run()
				}
			})
		}
	}
}

func readTestResponse(t *testing.T, name string) response {
	t.Helper()
	apple, err := readResponse(name)
	if err != nil {
		t.Fatal(err)
	}
	return apple
}

func TestEveryContenderRecognisesTheError(t *testing.T) {
	apple := readTestResponse(t, disconnected)
	for _, group := range [][]contender{decoders(apple), tokenRequests(apple), matchers(apple)} {
		for _, c := range group {
			if !c.run() {
				t.Errorf("%s does not recognise the error", c.name)
			}
		}
	}
}

// A wrong grant_type is no customer who disconnected.
func TestOnlyTheDescriptionTells(t *testing.T) {
	want := map[string]bool{ // whether it is taken for one
		"encoding/json, two fields, ==":              false,
		"applebusiness.ParseTokenError":              true, // decodes only
		"applebusiness.ParseTokenError, errors.Is":   false,
		"zitadel oidc.Error, errors.Is":              true,
		"ory fosite.RFC6749Error, errors.Is":         true,
		"x/oauth2, errors.As, ErrorCode":             true,
		"x/oauth2 with Wrap, errors.Is":              false,
		"x/oauth2 with WithJSON and Wrap, errors.Is": false,
	}
	apple := readTestResponse(t, wrongGrantType)
	got := make(map[string]bool)
	for _, c := range append(decoders(apple), tokenRequests(apple)...) {
		got[c.name] = c.run()
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
