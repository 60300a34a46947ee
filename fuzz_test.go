package applebusiness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// planted is put where secrets stand; it must appear in no rendering.
const planted = "planted-7Q3Z"

// isFuzzing reports whether this process tries inputs of the fuzzing engine, and not the seeds.
func isFuzzing() bool {
	worker := flag.Lookup("test.fuzzworker")
	return worker != nil && worker.Value.String() == "true"
}

// assertSafe asserts what holds for every error of this package, whatever it was made from.
func assertSafe(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*applebusiness.Error](err)
	require.True(t, ok)
	text := e.Error()
	assert.LessOrEqual(t, len(text), 2<<10)
	assert.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", text)
	assert.LessOrEqual(t, len(e.Code), 256)
	assert.LessOrEqual(t, len(e.Description), 4<<10)
	assert.NotContains(t, text, planted)
	applebusiness.Troubleshoot(err)
	applebusiness.Retryable(err)
	if isFuzzing() && crc32.ChecksumIEEE([]byte(text))%16 != 0 { // the renderings take most of the time; what is found runs again as a seed
		return
	}
	for _, rendering := range renderings(t, err) {
		assert.NotContains(t, rendering, planted)
	}
	encoded, jsonErr := json.Marshal(e)
	require.NoError(t, jsonErr)
	var shown struct {
		Description string `json:"error_description"`
	}
	require.NoError(t, json.Unmarshal(encoded, &shown))
	// A documented text whose list is in odd letters is shown in part, as any text that is not Apple's to the letter.
	if utf8.ValidString(string(e.Code)) && shown.Description == e.Description && e.Reason.Description() != "" {
		again := applebusiness.ParseTokenError(e.StatusCode, nil, encoded)
		assert.Equal(t, []string{string(e.Code), e.Description, string(e.Reason)}, []string{string(again.Code), again.Description, string(again.Reason)})
	}
}

func FuzzParseTokenError(f *testing.F) {
	f.Fuzz(func(t *testing.T, status int, header, body string) {
		if strings.Contains(header+body, "planted") {
			t.Skip()
		}
		e := applebusiness.ParseTokenError(status, http.Header{"Retry-After": {header}, "Apple-Request-Id": {header}}, []byte(body))
		assertSafe(t, e)
		assert.GreaterOrEqual(t, e.RetryAfter, time.Duration(0))

		// What is recognised is recognised in other letters and with other spaces.
		if e.Reason.Description() == "" || e.Parameter != "" || !isASCII(e.Description) {
			return
		}
		for _, text := range []string{strings.ToUpper(e.Description), strings.ReplaceAll(e.Description, " ", "++ "), e.Description + "."} {
			respelled, err := json.Marshal(map[string]string{"error": string(e.Code), "error_description": text})
			require.NoError(t, err)
			assert.Equal(t, e.Reason, applebusiness.ParseTokenError(status, nil, respelled).Reason, text)
		}
	})
}

func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}

func FuzzParseTokenResponse(f *testing.F) {
	f.Fuzz(func(t *testing.T, status int, body string) {
		if strings.Contains(body, "planted") {
			t.Skip()
		}
		token, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))})
		fetched, fetchErr := fetchedFrom(status, body)
		if err == nil {
			assert.True(t, status >= 200 && status <= 299)
			assert.Regexp(t, `^[!-~]+$`, token.AccessToken)
			assert.Regexp(t, `^[!-~]*$`, token.RefreshToken)
			life := time.Until(token.Expiry)
			assert.True(t, life <= 24*time.Hour, life)
			require.NoError(t, fetchErr, "the other path")
			assert.Equal(t, []string{token.AccessToken, token.RefreshToken, token.Type()}, []string{fetched.AccessToken, fetched.RefreshToken, fetched.Type()})
			assert.InDelta(t, life.Seconds(), time.Until(fetched.Expiry).Seconds(), 10)
			return
		}
		assert.Nil(t, token)
		assert.Equal(t, err.Error(), fetchErr.Error(), "the other path")
		assertSafe(t, err)
		// The same with secrets beside it.
		if beside, found := strings.CutPrefix(body, "{"); found {
			body = `{"client_secret":"` + planted + `","refresh_token":"` + planted + `",` + beside
			if _, err = applebusiness.ParseTokenResponse(&http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}); err != nil {
				assertSafe(t, err)
			}
		}
	})
}

// fetchedFrom returns the token that x/oauth2 makes of a response by way of Transport.
func fetchedFrom(status int, body string) (*oauth2.Token, error) {
	config := &oauth2.Config{Endpoint: applebusiness.OAuth2Endpoint("", "https://api.example")}
	base := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body))}, nil
	})
	client := &http.Client{Transport: &applebusiness.Transport{TokenURL: config.Endpoint.TokenURL, Base: base}}
	token, err := config.Exchange(context.WithValue(context.Background(), oauth2.HTTPClient, client), "the-code")
	return token, applebusiness.Wrap(err)
}

func FuzzParseRedirect(f *testing.F) {
	f.Fuzz(func(t *testing.T, query string) {
		if strings.Contains(query, "planted") {
			t.Skip()
		}
		redirect, err := applebusiness.ParseRedirect(query)
		if err == nil {
			assert.NotEmpty(t, redirect.Code)
			return
		}
		assert.Empty(t, redirect.Code)
		assertSafe(t, err)
		if _, err = applebusiness.ParseRedirect(query + "&state=" + planted + "&code=" + planted + "&client_id=" + planted); err != nil {
			assertSafe(t, err)
		}
	})
}

func FuzzVerifyRedirect(f *testing.F) {
	f.Fuzz(func(t *testing.T, method, query, state string) {
		if strings.Contains(query+state, "planted") {
			t.Skip()
		}
		code, err := applebusiness.VerifyRedirect(&http.Request{Method: method, URL: &url.URL{RawQuery: query}}, state)
		if err == nil {
			values, _ := url.ParseQuery(query) // without the pieces that do not decode
			assert.Equal(t, []string{state}, values["state"])
			assert.Equal(t, []string{code}, values["code"])
			assert.NotEmpty(t, state)
			assert.NotEmpty(t, code)
			return
		}
		assert.Empty(t, code)
		assertSafe(t, err)
		_, err = applebusiness.VerifyRedirect(&http.Request{Method: method, URL: &url.URL{RawQuery: query + "&code=" + planted}}, planted)
		assertSafe(t, err)
	})
}

func FuzzTransport(f *testing.F) {
	const tokenURL = "https://api.example/api/v1/oauth2/token"
	f.Fuzz(func(t *testing.T, method, contentType, authorization, form string) {
		base := &recordingBase{}
		target, err := url.Parse(tokenURL)
		require.NoError(t, err)
		r := &http.Request{
			Method: method, URL: target, Body: io.NopCloser(strings.NewReader(form)),
			Header: http.Header{"Content-Type": {contentType}, "Authorization": {authorization}},
		}
		response, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: base}).RoundTrip(r)
		if err != nil {
			assert.ErrorIs(t, err, applebusiness.ErrUnsafeTokenRequest)
			assert.Empty(t, base.requests, "nothing is sent")
			return
		}
		require.Len(t, base.requests, 1)
		if base.requests[0] == r {
			assert.Same(t, r, response.Request)
			assert.False(t, strings.EqualFold(method, http.MethodPost) && contentType == "application/x-www-form-urlencoded", "no form passes")
			return
		}
		public, err := io.ReadAll(response.Request.Body)
		require.NoError(t, err)
		assert.Regexp(t, "^grant_type=[^&]*$", string(public))
		sent, err := io.ReadAll(base.requests[0].Body)
		require.NoError(t, err)
		var fields map[string]string
		require.NoError(t, json.Unmarshal(sent, &fields), "a flat object of strings")
		values, err := url.ParseQuery(form)
		require.NoError(t, err)
		assert.Len(t, fields, len(values))
		for name, value := range fields {
			assert.Equal(t, []string{value}, values[name])
		}
		assert.Equal(t, int64(len(sent)), base.requests[0].ContentLength)
	})
}

// No form with a grant_type goes to TokenURL's host but to TokenURL itself.
func FuzzTransportElsewhere(f *testing.F) {
	for _, path := range []string{"/api/v1/oauth2/token", "/api/v1/oauth2/token/", "//api/v1/oauth2/token", "/api/v1/oauth2%2Ftoken", "/API/v1/oauth2/token", ""} {
		f.Add("https", "api.example", path, "grant_type=refresh_token&refresh_token=x")
	}
	f.Add("http", "API.example.:80", "/api/v1/oauth2/token", "%67rant_type=x")
	f.Add("https", "api.example:8443", "/", "a=b;grant_type=x")
	f.Fuzz(func(t *testing.T, scheme, host, path, form string) {
		target := &url.URL{Scheme: scheme, Host: host, Path: path}
		base := &recordingBase{}
		r := &http.Request{Method: http.MethodPost, URL: target, Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, Body: io.NopCloser(strings.NewReader(form))}
		_, err := (&applebusiness.Transport{TokenURL: "https://api.example/api/v1/oauth2/token", Base: base}).RoundTrip(r)
		values, _ := url.ParseQuery(form)
		if err != nil || !values.Has("grant_type") || !strings.EqualFold(strings.TrimSuffix(target.Hostname(), "."), "api.example") {
			return
		}
		require.Len(t, base.requests, 1)
		assert.Equal(t, "application/json", base.requests[0].Header.Get("Content-Type"))
		assert.Equal(t, "/api/v1/oauth2/token", path)
		assert.True(t, strings.EqualFold(scheme, "https"), scheme)
		assert.Contains(t, []string{"", "443"}, target.Port())
	})
}

func FuzzWrap(f *testing.F) {
	f.Fuzz(func(t *testing.T, status int, contentType, code, description string, body []byte) {
		if strings.Contains(code+description+string(body), "planted") || bytes.Contains(body, []byte("planted")) {
			t.Skip()
		}
		request, err := http.NewRequest(http.MethodPost, "https://api.example/?secret="+planted, strings.NewReader("grant_type=refresh_token&refresh_token="+planted))
		require.NoError(t, err)
		failed := &oauth2.RetrieveError{
			Response:  &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Request: request},
			Body:      append(body, []byte(planted)...),
			ErrorCode: code, ErrorDescription: description,
		}
		wrapped := applebusiness.Wrap(&url.Error{Op: "Post", URL: "https://api.example/?secret=" + planted, Err: failed})
		assert.ErrorIs(t, wrapped, failed)
		e, ok := wrapped.(*applebusiness.Error)
		require.True(t, ok)
		assert.Equal(t, "refresh_token", e.GrantType)
		assertSafe(t, wrapped)
	})
}
