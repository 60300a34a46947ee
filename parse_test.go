package applebusiness_test

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// wireFile returns the raw message of one row of the oracle.
func wireFile(t *testing.T, folder string, row int) *bufio.Reader {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("testdata/%s/row%02d_*.http", folder, row))
	require.NoError(t, err)
	require.Len(t, paths, 1)
	raw, err := os.ReadFile(paths[0])
	require.NoError(t, err)
	return bufio.NewReader(bytes.NewReader(raw))
}

// assertMeansOnly asserts that err is reason and code for errors.Is, and no other of each.
func assertMeansOnly(t *testing.T, err error, reason applebusiness.Reason, code applebusiness.Code) {
	t.Helper()
	for _, other := range append(reasons, applebusiness.ErrStateMismatch, applebusiness.ErrMalformedRedirect, applebusiness.ErrMalformedResponse, applebusiness.ErrUnsafeTokenRequest, applebusiness.ErrNoRefreshToken, applebusiness.ErrUnsafeState, "") {
		assert.Equal(t, other == reason && other != "", errors.Is(err, other), "errors.Is(err, %s)", other)
	}
	for _, other := range []applebusiness.Code{
		applebusiness.CodeInvalidRequest, applebusiness.CodeInvalidClient, applebusiness.CodeInvalidGrant, applebusiness.CodeInvalidScope, applebusiness.CodeUnsupportedResponseType, applebusiness.CodeServerError,
		applebusiness.CodeInternalServerError, applebusiness.CodeNotFound, applebusiness.CodeAccessDenied, applebusiness.CodeUnauthorizedClient, applebusiness.CodeUnsupportedGrantType, applebusiness.CodeTemporarilyUnavailable, "",
	} {
		assert.Equal(t, other == code && other != "", errors.Is(err, other), "errors.Is(err, %s)", other)
	}
}

func TestEachRowOnTheWire(t *testing.T) {
	for i, row := range oracle(t) {
		t.Run(fmt.Sprintf("row%02d", i+1), func(t *testing.T) {
			var err error
			requestID := ""
			switch row.endpoint {
			case applebusiness.TokenEndpoint:
				requestID = fmt.Sprintf("5b2f0f9c-row-%02d", i+1)
				response, readErr := http.ReadResponse(wireFile(t, "responses", i+1), nil)
				require.NoError(t, readErr)
				_, err = applebusiness.ParseTokenResponse(response)
			case applebusiness.AuthorizationEndpoint:
				request, readErr := http.ReadRequest(wireFile(t, "redirects", i+1))
				require.NoError(t, readErr)
				var code string
				code, err = applebusiness.VerifyRedirect(request, "xyzABC123")
				assert.Empty(t, code)
				redirect, again := applebusiness.ParseRedirect("?" + request.URL.RawQuery)
				assert.Equal(t, err, again)
				assert.Equal(t, applebusiness.Redirect{State: "xyzABC123"}, redirect)
			}
			var e *applebusiness.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, &applebusiness.Error{
				Endpoint: row.endpoint, StatusCode: row.status, Code: row.code, Description: row.description,
				Reason: reasons[i], RequestID: requestID,
			}, e)
			assertMeansOnly(t, err, reasons[i], row.code)
			assert.Equal(t, row.code, applebusiness.CodeOf(err))
			assert.Equal(t, reasons[i], applebusiness.ReasonOf(err))
		})
	}
}

// gzipped returns text as a server sends it that does not say so.
func gzipped(text string) string {
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(writer, text)
	_ = writer.Close()
	return zipped.String()
}

func TestSalvage(t *testing.T) {
	const dead = `{"error":"invalid_grant","error_description":"Invalid refresh_token"`
	for name, test := range map[string]struct {
		body        string
		code        applebusiness.Code
		description string
		reason      applebusiness.Reason
	}{
		"sibling of a wrong type":         {`{"error":"invalid_grant","expires_in":"abc"}`, applebusiness.CodeInvalidGrant, "", ""},
		"member of a wrong type":          {`{"error":"invalid_grant","error_description":["x"],"error_uri":7}`, applebusiness.CodeInvalidGrant, "", ""},
		"description before a wrong type": {dead + `,"code":401}`, applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"leading space and a wrong type":  {"\n " + dead + `,"code":401}`, applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"byte order mark":                 {"\ufeff" + dead + "}", applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"cut in a later member":           {dead + `,"timestamp":"2026-`, applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"cut in a later name":             {dead + `,"time`, applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"cut in the description":          {`{"error":"invalid_grant","error_description":"Invalid ref`, applebusiness.CodeInvalidGrant, "", ""},
		"text after the object":           {dead + "}\n<!-- proxy -->", applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"cut after a wrong type":          {`{"trace":{"a":[1,2]},"error_uri":7,"error":"invalid_grant","x":`, applebusiness.CodeInvalidGrant, "", ""},
		"Apple's other dialect":           {`{"code":"Unauthorized","message":"Expired Token"}`, "Unauthorized", "Expired Token", applebusiness.ErrUnavailable},
		"the same in an array":            {`[{"code":"Unauthorized","message":"Expired Token","details":{"header":"Authorization"}}]`, "Unauthorized", "Expired Token", applebusiness.ErrUnavailable},
		"the same cut":                    {`[{"code":"Unauthorized","message":"Expired Token","details":{"hea`, "Unauthorized", "Expired Token", applebusiness.ErrUnavailable},
		"both dialects":                   {dead + `,"code":"X","message":"Y"}`, applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"description alone":               {`{"error_description":"Invalid refresh_token"}`, "", "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"error is an object":              {`{"error":{"code":"invalid_grant","message":"m"}}`, "invalid_grant", "m", applebusiness.ErrUnavailable},
		"error is a number":               {`{"error":42}`, "", "", applebusiness.ErrUnavailable},
		"empty array":                     {`[]`, "", "", applebusiness.ErrUnavailable},
		"array of others":                 {`["error",{"error":"x"}]`, "", "", applebusiness.ErrUnavailable},
		"null":                            {`null`, "", "", applebusiness.ErrUnavailable},
		"string":                          {`"error"`, "", "", applebusiness.ErrUnavailable},
		"HTML":                            {`<html><h1>502 Bad Gateway</h1></html>`, "", "", applebusiness.ErrUnavailable},
		"empty":                           {``, "", "", applebusiness.ErrUnavailable},
		"byte order mark alone":           {"\ufeff", "", "", applebusiness.ErrUnavailable},
		"form":                            {`error=invalid_grant&error_description=x`, applebusiness.CodeInvalidGrant, "x", ""},
		"form of a row":                   {`error=invalid_grant&error_description=Invalid+refresh_token`, applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"HTML with a form in it":          {`<a href="?x&error=invalid_grant&error_description=Invalid+refresh_token&y">`, "", "", applebusiness.ErrUnavailable},
		"an envelope":                     {`{"errors":[{"status":"401","code":"NOT_AUTHORIZED","detail":"d"}]}`, "NOT_AUTHORIZED", "d", applebusiness.ErrUnavailable},
		"an envelope with a title":        {`{"errors":[{"status":401,"code":"NOT_AUTHORIZED","title":"t"}]}`, "NOT_AUTHORIZED", "t", applebusiness.ErrUnavailable},
		"an envelope cut":                 {`{"errors":[{"code":"NOT_AUTHORIZED","detail":"d"}],"trace":"7`, "NOT_AUTHORIZED", "d", applebusiness.ErrUnavailable},
		"an empty envelope":               {`{"errors":[]}`, "", "", applebusiness.ErrUnavailable},
		"an envelope of another type":     {`{"errors":"x"}`, "", "", applebusiness.ErrUnavailable},
		"gzip without a label":            {gzipped(dead + "}"), applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"gzip that is cut":                {gzipped(dead + `,"x":"` + strings.Repeat("0123456789abcdef", 64))[:90], applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"gzip in name only":               {"\x1f\x8b" + dead + "}", "", "", applebusiness.ErrUnavailable},
		"2 MiB after the error":           {dead + `,"x":"` + strings.Repeat("x", 2<<20) + `"}`, applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
		"2 MiB of text":                   {strings.Repeat("x", 2<<20), "", "", applebusiness.ErrUnavailable},
		"100,000 brackets":                {strings.Repeat("[", 100_000), "", "", applebusiness.ErrUnavailable},
		"100,000 nested objects":          {strings.Repeat(`{"error":`, 100_000), "", "", applebusiness.ErrUnavailable},
		"100,000 brackets after it":       {dead + `,"x":` + strings.Repeat("[", 100_000), applebusiness.CodeInvalidGrant, "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken},
	} {
		t.Run(name, func(t *testing.T) {
			for _, contentType := range []string{"application/json", "text/plain", "application/x-www-form-urlencoded", ""} {
				_, err := applebusiness.ParseTokenResponse(&http.Response{
					StatusCode: 502,
					Header:     http.Header{"Content-Type": {contentType}},
					Body:       io.NopCloser(strings.NewReader(test.body)),
				})
				assert.Equal(t, &applebusiness.Error{
					Endpoint: applebusiness.TokenEndpoint, StatusCode: 502, Code: test.code, Description: test.description, Reason: test.reason,
				}, err)
			}
		})
	}
}

func TestLongTextsAreCut(t *testing.T) {
	body, err := json.Marshal(map[string]string{
		"error": strings.Repeat("c", 300), "error_description": "x" + strings.Repeat("ü", 3000), "error_uri": strings.Repeat("u", 5000),
	})
	require.NoError(t, err)
	e := applebusiness.ParseTokenError(400, http.Header{"Apple-Request-Id": {strings.Repeat("r", 300)}}, body)
	assert.Equal(t, strings.Repeat("c", 256), string(e.Code))
	assert.Equal(t, "x"+strings.Repeat("ü", 2047), e.Description, "cut on a rune boundary within 4 KiB")
	assert.Len(t, e.URI, 4096)
	assert.Len(t, e.RequestID, 256)
	assert.LessOrEqual(t, len(e.Error()), 2<<10)
}

func TestParsingIsBounded(t *testing.T) {
	body := []byte(strings.Repeat(`{"error":[`, 1<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	applebusiness.ParseTokenError(500, nil, body)
	runtime.ReadMemStats(&after)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
}

func TestParseTokenResponseSuccess(t *testing.T) {
	for name, test := range map[string]struct {
		expiresIn string
		want      time.Duration
	}{
		"number":            {`3600`, time.Hour},
		"numeric string":    {`"3600"`, time.Hour},
		"fraction":          {`3600.7`, time.Hour},
		"zero":              {`0`, 0},
		"negative":          {`-5`, 0},
		"a day":             {`86400`, 24 * time.Hour},
		"over a day":        {`86401`, time.Hour},
		"milliseconds":      {`3600000`, time.Hour},
		"an instant":        {`1764091200000`, time.Hour},
		"beyond an int32":   {`1e300`, time.Hour},
		"infinite string":   {`"Inf"`, time.Hour},
		"beyond a float64":  {`1e400`, time.Hour},
		"below a float64":   {`-1e400`, 0},
		"with space":        {`" 3600 "`, time.Hour},
		"not a number":      {`"NaN"`, time.Hour},
		"no number at all":  {`"abc"`, time.Hour},
		"of another type":   {`[1]`, time.Hour},
		"null":              {`null`, time.Hour},
		"a later duplicate": {`1,"expires_in":3600`, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the clock stands still
				token, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(
					`{"access_token":"a","refresh_token":"r","token_type":"bearer","org":"42","error":null,"expires_in":` + test.expiresIn + `}`))})
				require.NoError(t, err)
				assert.Equal(t, "a", token.AccessToken)
				assert.Equal(t, "r", token.RefreshToken)
				assert.Equal(t, "Bearer", token.Type())
				assert.Equal(t, "42", token.Extra("org"))
				assert.Equal(t, test.want, time.Until(token.Expiry))
				assert.Equal(t, int64(test.want/time.Second), token.ExpiresIn)
			})
		})
	}
}

func TestATokenAtAnotherStatusIsNone(t *testing.T) {
	for _, status := range []int{0, 199, 300, 400, 503} {
		token, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(tokenBody))})
		assert.Nil(t, token)
		assert.Error(t, err, status)
	}
}

// What came before a response broke off says more than that it did.
func TestDescriptionsThatBreakOff(t *testing.T) {
	for body, want := range map[string]applebusiness.Error{
		`{"message":"Expired Token",`:                                 {Description: "Expired Token"},
		`{"error":"invalid_grant","message":"Invalid refresh_token",`: {Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token"},
		`{"code":"slow_down","error_description":"Wait a little",`:    {Code: "slow_down", Description: "Wait a little"},
	} {
		reader := io.MultiReader(strings.NewReader(body), brokenReader{})
		_, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: http.StatusBadRequest, Body: io.NopCloser(reader)})
		assert.NotErrorIs(t, err, applebusiness.ErrNoResponse)
		assert.Equal(t, want.Code, applebusiness.CodeOf(err), body)
		assert.Equal(t, want.Description, err.(*applebusiness.Error).Description, body)
	}
}

func TestParseTokenResponseAtSuccess(t *testing.T) {
	for body, want := range map[string]*applebusiness.Error{
		`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`: {Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token", Reason: applebusiness.ErrInvalidRefreshToken},
		`{"error":"x","access_token":"secret"}`:                                 {Code: "x"},
		`{"error":"x","access_token":"secret","cut":`:                           {Code: "x"},
		`{"error":42,"access_token":"secret"}`:                                  {Reason: applebusiness.ErrMalformedResponse},
		`{"access_token":""}`:                                                   {Reason: applebusiness.ErrMalformedResponse},
		`{"access_token":42}`:                                                   {Reason: applebusiness.ErrMalformedResponse},
		`{"access_token":"secret","cut":`:                                       {Reason: applebusiness.ErrMalformedResponse},
		`{"code":"Unauthorized","message":"Expired Token"}`:                     {Code: "Unauthorized", Description: "Expired Token", Reason: applebusiness.ErrMalformedResponse},
		`{"message":"OAuth 2.0 Parameter: code missing"}`:                       {Description: "OAuth 2.0 Parameter: code missing", Reason: applebusiness.ErrMalformedResponse},
		`{}`:            {Reason: applebusiness.ErrMalformedResponse},
		`[]`:            {Reason: applebusiness.ErrMalformedResponse},
		`null`:          {Reason: applebusiness.ErrMalformedResponse},
		``:              {Reason: applebusiness.ErrMalformedResponse},
		`<html></html>`: {Reason: applebusiness.ErrMalformedResponse},
	} {
		t.Run(body, func(t *testing.T) {
			for _, status := range []int{200, 204, 299} {
				token, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))})
				assert.Nil(t, token)
				var e *applebusiness.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, want.Code, e.Code)
				assert.Equal(t, want.Description, e.Description)
				assert.Equal(t, want.Reason, e.Reason)
				assert.Equal(t, status, e.StatusCode)
				assert.Empty(t, e.Parameter)
				assert.NotContains(t, err.Error(), "secret")
			}
		})
	}
	_, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: 200})
	assert.EqualError(t, err, `applebusiness: malformed_response: a success without an access_token (HTTP 200)`)
	_, err = applebusiness.ParseTokenResponse(nil)
	assert.EqualError(t, err, `applebusiness: malformed_response: there is no response`)
	_, err = applebusiness.ParseTokenResponse(&http.Response{})
	assert.EqualError(t, err, `applebusiness: malformed_response`)
}

type closeRecorder struct {
	io.Reader
	read   int
	closed bool
}

func (r *closeRecorder) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.read += n
	return n, err
}
func (r *closeRecorder) Close() error { r.closed = true; return nil }

func TestParseTokenResponseReadsAndCloses(t *testing.T) {
	for status, limit := range map[int]int{200: 1 << 20, 400: 64 << 10} {
		endless := &closeRecorder{Reader: strings.NewReader(strings.Repeat(" ", 2<<20))}
		_, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: status, Body: endless})
		assert.ErrorIs(t, err, applebusiness.ErrMalformedResponse)
		assert.Equal(t, limit, endless.read)
		assert.True(t, endless.closed)
	}

	for name, test := range map[string]struct {
		status int
		body   string
		text   string
	}{
		"success":           {200, `{"access_token":"a"`, `applebusiness: no_response: the response was truncated (HTTP 200)`},
		"nothing yet":       {401, ``, `applebusiness: no_response: the response was truncated (HTTP 401)`},
		"error came before": {401, `{"error":"invalid_client","x":`, `applebusiness: invalid_client (HTTP 401)`},
	} {
		t.Run(name, func(t *testing.T) {
			broken := &closeRecorder{Reader: io.MultiReader(strings.NewReader(test.body), iotest.ErrReader(io.ErrUnexpectedEOF))}
			_, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: test.status, Body: broken})
			assert.EqualError(t, err, test.text)
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.True(t, broken.closed)
		})
	}
}

func TestHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands still
		for value, want := range map[string]time.Duration{
			"":                         0,
			"0":                        0,
			"30":                       30 * time.Second,
			"-30":                      0,
			"-9223372037":              0,
			"3600":                     time.Hour,
			"86400":                    time.Hour,
			"99999999999999999999999":  time.Hour,
			"-99999999999999999999999": 0,
			"1.5":                      2 * time.Second,
			"0.1":                      time.Second,
			" 30 ":                     30 * time.Second,
			"30, 60":                   30 * time.Second,
			"30,":                      30 * time.Second,
			"1e3":                      0,
			"0x10":                     0,
			"1.2.3":                    0,
			".":                        0,
			"inf":                      0,
			"soon":                     0,
			time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat): 90 * time.Second,
			time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat):       0,
			time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat):   time.Hour,
		} {
			e := applebusiness.ParseTokenError(429, http.Header{"Retry-After": {value}, "Apple-Request-Id": {"abc"}}, nil)
			assert.Equal(t, want, e.RetryAfter, value)
			assert.Equal(t, "abc", e.RequestID)
		}
	})
}

// both returns the failure that a response means to ParseTokenError, and after asserting that it is the same, through
// Transport and x/oauth2.
func both(t *testing.T, status int, header http.Header, body string) *applebusiness.Error {
	t.Helper()
	s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil // or Go's server sets it
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	_, err := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "old-refresh"}).Token()
	require.Error(t, err)
	sent, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(err))
	require.True(t, ok, "%v", err)
	e := applebusiness.ParseTokenError(status, header, []byte(body))
	e.GrantType = applebusiness.GrantTypeRefreshToken
	assert.Equal(t, e.Error(), sent.Error())
	assert.Equal(t, outcomeOf(e), outcomeOf(sent))
	assert.Equal(t, e.RetryAfter, sent.RetryAfter)
	return e
}

// What frameworks, gateways and portals say by default is no OAuth error: the empty Reason means that Apple's page has
// changed, and none of these shall look like it, or like a row of Apple's.
func TestBodiesThatAreNoOAuthErrors(t *testing.T) {
	const malformed, unavailable = applebusiness.ErrMalformedResponse, applebusiness.ErrUnavailable
	for _, test := range []struct {
		status int
		body   string
		want   applebusiness.Reason
	}{
		{400, `{"timestamp":"2026-11-27T20:15:37Z","status":400,"error":"Bad Request","path":"/api/v1/oauth2/token"}`, malformed},
		{401, `{"timestamp":"2026-11-27T20:15:37Z","status":401,"error":"Unauthorized","path":"/api/v1/oauth2/token"}`, malformed},
		{404, `{"timestamp":"2026-11-27T20:15:37Z","status":404,"error":"Not Found","path":"/api/v1/oauth2/token"}`, malformed},
		{405, `{"timestamp":"2026-11-27T20:15:37Z","status":405,"error":"Method Not Allowed","path":"/api/v1/oauth2/token"}`, malformed},
		{415, `{"timestamp":"2026-11-27T20:15:37Z","status":415,"error":"Unsupported Media Type","path":"/api/v1/oauth2/token"}`, malformed},
		{500, `{"timestamp":"2026-11-27T20:15:37Z","status":500,"error":"Internal Server Error","path":"/api/v1/oauth2/token"}`, unavailable},
		{502, `{"status":502,"error":"Bad Gateway"}`, unavailable},
		{503, `{"status":503,"error":"Service Unavailable"}`, unavailable},
		{504, `{"status":504,"error":"Gateway Timeout"}`, unavailable},
		{429, `{"status":429,"error":"Too Many Requests"}`, applebusiness.ErrRateLimited},
		{400, `{"statusCode":400,"message":"Bad Request","error":"bad request"}`, malformed},
		{401, `{"statusCode":401,"message":["Invalid refresh_token"],"error":"UNAUTHORIZED"}`, malformed},
		{401, `{"statusCode":401,"message":"Invalid refresh_token","error":"Unauthorized"}`, malformed},
		{401, `{"error":"unauthorized"}`, malformed},
		{500, `{"statusCode":500,"code":"FST_ERR","error":"Internal Server Error","message":"server error"}`, unavailable},
		{400, `{"message":"Bad Request"}`, malformed},
		{400, `{"message":"bad request"}`, malformed},
		{403, `{"message":"Forbidden"}`, malformed},
		{500, `{"code":500,"message":"server error"}`, unavailable},
		{500, `{"code":"500","message":"server error"}`, unavailable},
		{400, `{"error":{"code":400,"message":"bad request","status":"INVALID_ARGUMENT"}}`, malformed},
		{503, `{"error":{"code":503,"message":"server error","status":"UNAVAILABLE"}}`, unavailable},
		{400, `{"errors":[{"code":"X","detail":"bad request"}]}`, malformed},
		{400, `{"error_description":"bad request"}`, malformed},
		{400, `{"type":"about:blank","title":"bad request","status":400,"detail":"bad request"}`, malformed},
		{403, `{"error":"Access to this API has been disallowed"}`, malformed},
		{400, `{"error":"something\twent wrong"}`, malformed},
		{400, `{"error":"400"}`, malformed},
		{520, `error code: 520`, unavailable},
		{503, `upstream connect error or disconnect/reset before headers. reset reason: connection termination`, unavailable},
		{511, `<html>Sign in to the network</html>`, malformed},
		{511, `{"error":"Network Authentication Required"}`, malformed},
		// These are OAuth errors, or rows.
		{400, `{"message":"Invalid refresh_token"}`, applebusiness.ErrInvalidRefreshToken},
		{400, `{"code":"invalid_request","message":"bad request"}`, applebusiness.ErrBadRequest},
		{400, `{"error":"invalid_request","error_description":"bad request"}`, applebusiness.ErrBadRequest},
		{500, `{"error":"internal_server_error","error_description":"server error"}`, applebusiness.ErrServer},
		{404, `{"error":"404 Not Found"}`, applebusiness.ErrEndpointNotFound},
		{400, `{"error":"404 Not Found"}`, ""},
		{400, `{"error":"slow_down"}`, ""},
		{400, `{"error":"https://problems.example/7"}`, ""},
		{404, `{"error":"not_found"}`, ""},
	} {
		t.Run(fmt.Sprint(test.status, test.body), func(t *testing.T) {
			e := both(t, test.status, nil, test.body)
			assert.Equal(t, test.want, e.Reason)
			switch test.want {
			case malformed:
				assert.Equal(t, applebusiness.ActionCheckNetwork, applebusiness.Troubleshoot(e).Action)
				assert.NotEqual(t, "undocumented", applebusiness.Label(e))
			case unavailable:
				assert.Equal(t, applebusiness.ActionRetry, applebusiness.Troubleshoot(e).Action)
			case "":
				assert.Equal(t, "undocumented", applebusiness.Label(e))
			}
		})
	}
	// A text that means another error than its code does not make a grant dead, though it is one that every server says.
	for _, text := range []string{"bad request", "Server error.", "POST body is empty.", "Too Many Requests", "service unavailable.", "Internal Server Error", "Gateway+Timeout"} {
		e := &applebusiness.Error{Code: applebusiness.CodeInvalidGrant, Description: text, GrantType: applebusiness.GrantTypeRefreshToken}
		assert.Equal(t, applebusiness.ActionUnknown, applebusiness.Troubleshoot(e).Action, text)
	}
}

// On-call reads in one line what a success without a token was.
func TestWhatASuccessWithoutATokenWas(t *testing.T) {
	seen := make(map[string]bool)
	for body, want := range map[string]string{
		``:                                       "a success without an access_token: the body is empty",
		" \n":                                    "a success without an access_token: the body is empty",
		`<html><body>Sign in</body></html>`:      "a success without an access_token: the body is HTML or XML",
		"\ufeff" + `<?xml version="1.0"?>`:       "a success without an access_token: the body is HTML or XML",
		`{"expires_in":3600}`:                    "a success without an access_token",
		`{"access_token":null}`:                  "a success without an access_token",
		`{"access_token":""}`:                    "a success without an access_token",
		`{"access_token":"a","expires_`:          "a success without an access_token: the body is broken JSON",
		`access_token=a&expires_in=3600`:         "a success without an access_token: the body is not JSON",
		`OK`:                                     "a success without an access_token: the body is not JSON",
		`[{"access_token":"a"}]`:                 "a success without an access_token: the body is JSON, but no object",
		`"a"`:                                    "a success without an access_token: the body is JSON, but no object",
		`{"access_token":7}`:                     "a success whose access_token is no token",
		`{"access_token":"at\n"}`:                "a success whose access_token is no token",
		`{"access_token":"a","refresh_token":7}`: "a success whose refresh_token is no token",
		`{"access_token":"a","error":"Not Found"}`: "a success with an error beside its access_token",
		`{"access_token":"a","error":true}`:        "a success with an error beside its access_token",
	} {
		e := both(t, 200, nil, body)
		assert.ErrorIs(t, e, applebusiness.ErrMalformedResponse, body)
		assert.True(t, strings.HasSuffix(e.Error(), ": "+want+" (HTTP 200)"), "%s: %v", body, e)
		seen[want] = true
	}
	assert.Len(t, seen, 9)
}

// What cannot be a token replaces none that works, on neither path.
func TestWhatATokenIs(t *testing.T) {
	const nbsp, dots = "\u00a0", "\u2022\u2022\u2022\u2022"
	for name, bad := range map[string]string{
		"not UTF-8": "\"rt\xd4\"", "newline": `"rt\n"`, "newline before": `"\nrt"`, "NUL": `"rt\u0000"`, "space": `"r t"`, "tab": `"rt\t"`, "DEL": `"rt\u007f"`, "dots": `"` + dots + `"`,
		"no-break space": `"rt` + nbsp + `"`, "lone surrogate": `"rt\ud800"`, "accent": `"é"`, "number": `12345`, "list": `["rt"]`, "object": `{"value":"rt"}`, "true": `true`, "false": `false`,
	} {
		for member, body := range map[string]string{
			"refresh_token": `{"access_token":"a","refresh_token":` + bad + `,"token_type":"Bearer","expires_in":3600}`,
			"access_token":  `{"access_token":` + bad + `,"refresh_token":"r","token_type":"Bearer","expires_in":3600}`,
		} {
			t.Run(name+" "+member, func(t *testing.T) {
				e := both(t, 200, nil, body)
				assert.EqualError(t, e, "applebusiness: malformed_response: a success whose "+member+" is no token (HTTP 200)")
				token, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))})
				assert.Nil(t, token)
				assert.EqualError(t, err, e.Error())
			})
		}
	}
	for name, test := range map[string]struct{ body, access, refresh, tokenType string }{
		"no refresh token":              {`{"access_token":"a","token_type":"Bearer","expires_in":3600}`, "a", "", "Bearer"},
		"null":                          {`{"access_token":"a","refresh_token":null,"expires_in":3600}`, "a", "", "Bearer"},
		"empty":                         {`{"access_token":"a","refresh_token":"","expires_in":3600}`, "a", "", "Bearer"},
		"all of VSCHAR":                 {`{"access_token":"!\"#$%&'()*+,-./0:;<=>?@A[\\]^_` + "`" + `a{|}~","refresh_token":"r","expires_in":3600}`, "!\"#$%&'()*+,-./0:;<=>?@A[\\]^_`a{|}~", "r", "Bearer"},
		"a token_type that is":          {`{"access_token":"a","refresh_token":"r","token_type":"mac","expires_in":3600}`, "a", "r", "MAC"},
		"a token_type that is no token": {`{"access_token":"a","refresh_token":"r","token_type":"Bearer\n","expires_in":3600}`, "a", "r", "Bearer"},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := applebusiness.ParseTokenResponse(&http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(test.body))})
			require.NoError(t, err)
			s := newJSONOnlyServer(t, answerWith(200, test.body))
			fetched, err := s.config().Exchange(s.context(), "the-code")
			require.NoError(t, err)
			for _, token := range []*oauth2.Token{parsed, fetched} {
				assert.Equal(t, []string{test.access, test.refresh, test.tokenType}, []string{token.AccessToken, token.RefreshToken, token.Type()})
				assert.True(t, token.Valid())
			}
			fetched, err = s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "old-refresh"}).Token()
			require.NoError(t, err)
			assert.Equal(t, cmp.Or(test.refresh, "old-refresh"), fetched.RefreshToken, "the old one stays where none comes")
		})
	}
}

// A body that is labelled gzip and is not, or is and is not labelled, or both, holds what it holds.
func TestLabelledGzip(t *testing.T) {
	for _, label := range []string{"", "gzip", "x-gzip"} {
		for name, encode := range map[string]func(string) string{
			"plain":      func(body string) string { return body },
			"gzip":       gzipped,
			"gzip twice": func(body string) string { return gzipped(gzipped(body)) },
		} {
			t.Run(label+" "+name, func(t *testing.T) {
				status, body := 200, tokenBody
				s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
					assert.Equal(t, "identity", r.Header.Get("Accept-Encoding"))
					if label != "" {
						w.Header().Set("Content-Encoding", label)
					}
					w.WriteHeader(status)
					_, _ = io.WriteString(w, encode(body))
				})
				token, err := s.config().Exchange(s.context(), "the-code")
				require.NoError(t, err)
				assert.Equal(t, "new-refresh", token.RefreshToken)
				status, body = 400, deadBody
				_, err = s.config().Exchange(s.context(), "the-code")
				assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrInvalidRefreshToken)
			})
		}
	}
}

// A client that unzips by itself has lost such a body: the error says why.
func TestLabelledGzipWithoutTransport(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, tokenBody)
	}))
	defer server.Close()
	response, err := http.Post(server.URL, "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	_, err = applebusiness.ParseTokenResponse(response)
	assert.EqualError(t, err, "applebusiness: no_response: the response is labelled gzip and is not (HTTP 200)")
}

// Retry-After is kept at every status that is a failure.
func TestRetryAfterAtAnyStatus(t *testing.T) {
	date := time.Now().Add(-2 * time.Hour).UTC()
	for _, status := range []int{200, 202, 204, 301, 302, 307, 400, 401, 403, 404, 429, 500, 503} {
		header := http.Header{"Retry-After": {date.Add(7 * time.Second).Format(http.TimeFormat)}, "Date": {date.Format(http.TimeFormat)}}
		if status/100 == 3 {
			header.Set("Location", "https://portal.example/")
			e := redirectError(t, status, header)
			assert.Equal(t, 7*time.Second, e.RetryAfter, status)
			continue
		}
		e := both(t, status, header, "")
		assert.Equal(t, 7*time.Second, e.RetryAfter, status)
	}
}

// redirectError returns the failure of a token request that was redirected.
func redirectError(t *testing.T, status int, header http.Header) *applebusiness.Error {
	s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
	})
	_, err := s.config().Exchange(s.context(), "the-code")
	e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(err))
	require.True(t, ok, "%v", err)
	assert.ErrorIs(t, e, applebusiness.ErrMalformedResponse)
	return e
}

// The two ways to a token give the same one for the same bytes.
func TestTwoPathsToAToken(t *testing.T) {
	t.Parallel()
	const pad = `"pad":"`
	for name, test := range map[string]struct {
		body  string
		life  time.Duration // of the token; none: no token
		extra string
	}{
		"plain":                        {`{"access_token":"a","refresh_token":"r","token_type":"bearer","expires_in":3600,"org":"42"}`, time.Hour, "42"},
		"fraction":                     {`{"access_token":"a","refresh_token":"r","expires_in":3600.0}`, time.Hour, ""},
		"fraction as text":             {`{"access_token":"a","refresh_token":"r","expires_in":"3600.5"}`, time.Hour, ""},
		"text":                         {`{"access_token":"a","refresh_token":"r","expires_in":"3600"}`, time.Hour, ""},
		"exponent":                     {`{"access_token":"a","refresh_token":"r","expires_in":3.6e3}`, time.Hour, ""},
		"zero":                         {`{"access_token":"a","refresh_token":"r","expires_in":0}`, 0, ""},
		"negative":                     {`{"access_token":"a","refresh_token":"r","expires_in":-5}`, 0, ""},
		"negative fraction":            {`{"access_token":"a","refresh_token":"r","expires_in":-0.5}`, 0, ""},
		"beyond a float64":             {`{"access_token":"a","refresh_token":"r","expires_in":1e400}`, time.Hour, ""},
		"beyond an int64":              {`{"access_token":"a","refresh_token":"r","expires_in":99999999999999999999}`, time.Hour, ""},
		"beyond a float64, a sibling":  {`{"access_token":"a","refresh_token":"r","expires_in":3600,"x":1e400,"org":"42"}`, time.Hour, "42"},
		"a day":                        {`{"access_token":"a","refresh_token":"r","expires_in":86400}`, 24 * time.Hour, ""},
		"milliseconds":                 {`{"access_token":"a","refresh_token":"r","expires_in":3600000}`, time.Hour, ""},
		"an instant in milliseconds":   {`{"access_token":"a","refresh_token":"r","expires_in":"1764091200000","org":"42"}`, time.Hour, "42"},
		"absent":                       {`{"access_token":"a","refresh_token":"r"}`, time.Hour, ""},
		"null":                         {`{"access_token":"a","refresh_token":"r","expires_in":null}`, time.Hour, ""},
		"no number":                    {`{"access_token":"a","refresh_token":"r","expires_in":"soon","org":"42"}`, time.Hour, "42"},
		"another type":                 {`{"access_token":"a","refresh_token":"r","expires_in":[3600]}`, time.Hour, ""},
		"token_type of another type":   {`{"access_token":"a","refresh_token":"r","token_type":7,"expires_in":3600}`, time.Hour, ""},
		"description of another type":  {`{"access_token":"a","refresh_token":"r","error_description":[],"error_uri":7,"expires_in":3600}`, time.Hour, ""},
		"error is null":                {`{"access_token":"a","refresh_token":"r","error":null,"expires_in":3600}`, time.Hour, ""},
		"error is empty":               {`{"access_token":"a","refresh_token":"r","error":"","expires_in":3600}`, time.Hour, ""},
		"error is false":               {`{"access_token":"a","refresh_token":"r","error":false,"expires_in":3600}`, time.Hour, ""},
		"error is zero":                {`{"access_token":"a","refresh_token":"r","error":0,"expires_in":3600}`, time.Hour, ""},
		"error is an empty object":     {`{"access_token":"a","refresh_token":"r","error":{},"expires_in":3600}`, time.Hour, ""},
		"error is an empty list":       {`{"access_token":"a","refresh_token":"r","error":[],"expires_in":3600}`, time.Hour, ""},
		"names in capitals":            {`{"Access_Token":"a","REFRESH_TOKEN":"r","expires_in":3600}`, time.Hour, ""},
		"two spellings of one name":    {`{"access_token":"a","Refresh_Token":"r","REFRESH_TOKEN":"x","expires_in":3600}`, time.Hour, ""},
		"a later duplicate":            {`{"access_token":"x","access_token":"a","refresh_token":"r","expires_in":1,"expires_in":3600}`, time.Hour, ""},
		"byte order mark":              {"\ufeff" + `{"access_token":"a","refresh_token":"r","expires_in":3600}`, time.Hour, ""},
		"byte order mark after space":  {"\r\n \ufeff" + `{"access_token":"a","refresh_token":"r","expires_in":3600}`, time.Hour, ""},
		"text after it":                {`{"access_token":"a","refresh_token":"r","expires_in":3600}` + "\n<!-- proxy -->", time.Hour, ""},
		"unlabelled gzip":              {gzipped(`{"access_token":"a","refresh_token":"r","expires_in":3600}`), time.Hour, ""},
		"100 KiB":                      {`{` + pad + strings.Repeat("x", 100<<10) + `","access_token":"a","refresh_token":"r","expires_in":3600}`, time.Hour, ""},
		"nearly 1 MiB":                 {`{` + pad + strings.Repeat("x", 1<<20-100) + `","access_token":"a","refresh_token":"r","expires_in":3600}`, time.Hour, ""},
		"over 1 MiB":                   {`{` + pad + strings.Repeat("x", 1<<20) + `","access_token":"a","refresh_token":"r","expires_in":3600}`, -1, ""},
		"access_token of another type": {`{"access_token":7,"refresh_token":"r"}`, -1, ""},
		"an empty access_token":        {`{"access_token":"","refresh_token":"r"}`, -1, ""},
		"an error beside it":           {`{"access_token":"a","refresh_token":"r","error":"x"}`, -1, ""},
		"an array":                     {`[{"access_token":"a","refresh_token":"r"}]`, -1, ""},
		"a form":                       {`access_token=a&refresh_token=r&expires_in=3600`, -1, ""},
		"HTML":                         {`<html>access_token=a&refresh_token=r</html>`, -1, ""},
		"nothing":                      {``, -1, ""},
	} {
		for _, contentType := range []string{"application/json", "text/plain", "application/x-www-form-urlencoded", ""} {
			t.Run(name+" "+contentType, func(t *testing.T) {
				s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header()["Content-Type"] = []string{contentType}
					io.WriteString(w, test.body)
				})
				parsed, parseErr := applebusiness.ParseTokenResponse(&http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(test.body))})
				fetched, fetchErr := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "old"}).Token()
				if test.life < 0 {
					assert.Equal(t, outcomeOf(parseErr), outcomeOf(applebusiness.Wrap(fetchErr)))
					assert.Equal(t, parseErr.Error(), applebusiness.Wrap(fetchErr).Error())
					return
				}
				require.NoError(t, parseErr)
				require.NoError(t, fetchErr)
				for path, token := range map[string]*oauth2.Token{"ParseTokenResponse": parsed, "x/oauth2": fetched} {
					assert.Equal(t, "a", token.AccessToken, path)
					assert.Equal(t, "r", token.RefreshToken, path)
					assert.Equal(t, "Bearer", token.Type(), path)
					assert.False(t, token.Expiry.IsZero(), path)
					assert.InDelta(t, test.life.Seconds(), time.Until(token.Expiry).Seconds(), 60, path)
					assert.Equal(t, test.life > 0, token.Valid(), path)
					if test.extra != "" {
						assert.Equal(t, test.extra, token.Extra("org"), path)
					}
				}
			})
		}
	}
}

func TestFormWithoutAnErrorIsNone(t *testing.T) {
	assert.Empty(t, applebusiness.ParseTokenError(400, nil, []byte("error_description=d&error_uri=u")).Description)
	assert.Equal(t, "d", applebusiness.ParseTokenError(400, nil, []byte("error=x&error_description=d")).Description)
}
