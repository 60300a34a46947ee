package applebusiness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// outcome is what a caller is told about a failure.
type outcome struct {
	reason    applebusiness.Reason
	action    applebusiness.Action
	impact    applebusiness.Impact
	retryable bool
}

func outcomeOf(err error) outcome {
	advice := applebusiness.Troubleshoot(err)
	return outcome{applebusiness.ReasonOf(err), advice.Action, advice.Impact, applebusiness.Retryable(err)}
}

// Situations from reports of people who run OAuth clients: a response to a refresh and to a code exchange, through
// x/oauth2, and the same response given to ParseTokenError.
func TestVerdictOnAResponse(t *testing.T) {
	type o = outcome
	const (
		retry, startOver, reauthorize = applebusiness.ActionRetry, applebusiness.ActionStartOver, applebusiness.ActionReauthorize
		fixRequest, checkNetwork      = applebusiness.ActionFixRequest, applebusiness.ActionCheckNetwork
		unknown                       = applebusiness.ActionUnknown
		app, service, customer, nobod = applebusiness.ImpactApp, applebusiness.ImpactService, applebusiness.ImpactCustomer, applebusiness.ImpactUnknown
		empty                         = applebusiness.Reason("")
	)
	const html = "<html><head><title>403 Forbidden</title></head><body><hr><center>%s</center></body></html>\n"
	for name, test := range map[string]struct {
		status            int
		header            http.Header
		body              string
		refresh, exchange outcome
	}{
		"gateway timeout":           {504, http.Header{"Retry-After": {"5"}}, "", o{applebusiness.ErrUnavailable, retry, service, true}, o{applebusiness.ErrUnavailable, startOver, service, false}},
		"outage":                    {503, nil, "<html>", o{applebusiness.ErrUnavailable, retry, service, true}, o{applebusiness.ErrUnavailable, startOver, service, false}},
		"request timeout":           {408, nil, "", o{applebusiness.ErrUnavailable, retry, service, true}, o{applebusiness.ErrUnavailable, startOver, service, false}},
		"too early":                 {425, nil, "", o{applebusiness.ErrUnavailable, retry, service, true}, o{applebusiness.ErrUnavailable, startOver, service, false}},
		"Cloudflare's 520":          {520, nil, "", o{applebusiness.ErrUnavailable, retry, service, true}, o{applebusiness.ErrUnavailable, startOver, service, false}},
		"Cloudflare's 520, a row":   {520, nil, deadBody, o{applebusiness.ErrInvalidRefreshToken, retry, service, true}, o{applebusiness.ErrInvalidRefreshToken, startOver, service, false}},
		"599":                       {599, nil, "", o{applebusiness.ErrUnavailable, retry, service, true}, o{applebusiness.ErrUnavailable, startOver, service, false}},
		"501":                       {501, nil, "", o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"505, a row":                {505, nil, deadBody, o{applebusiness.ErrInvalidRefreshToken, checkNetwork, service, false}, o{applebusiness.ErrInvalidRefreshToken, checkNetwork, service, false}},
		"rate limit":                {429, nil, "", o{applebusiness.ErrRateLimited, retry, app, true}, o{applebusiness.ErrRateLimited, retry, app, true}},
		"rate limit, a gateway's":   {429, nil, `{"error":"slow_down"}`, o{applebusiness.ErrRateLimited, retry, app, true}, o{applebusiness.ErrRateLimited, retry, app, true}},
		"rate limit, minutes":       {429, http.Header{"Retry-After": {"60"}}, "", o{applebusiness.ErrRateLimited, retry, app, true}, o{applebusiness.ErrRateLimited, startOver, app, false}},
		"rate limit, Apple's code":  {429, nil, `{"error":"invalid_request","error_description":"Too many requests"}`, o{empty, retry, app, true}, o{empty, retry, app, true}},
		"server error":              {500, nil, `{"error":"internal_server_error","error_description":"server error"}`, o{applebusiness.ErrServer, retry, service, true}, o{applebusiness.ErrServer, startOver, service, false}},
		"drift at an outage":        {503, nil, `{"error":"invalid_grant","error_description":"new words"}`, o{empty, retry, service, true}, o{empty, startOver, service, false}},
		"dead":                      {400, nil, deadBody, o{applebusiness.ErrInvalidRefreshToken, reauthorize, customer, false}, o{applebusiness.ErrInvalidRefreshToken, startOver, customer, false}},
		"dead, reworded":            {400, nil, `{"error":"invalid_grant","error_description":"new words"}`, o{empty, reauthorize, customer, false}, o{empty, startOver, customer, false}},
		"gateway policy":            {403, nil, `{"error":"access_denied"}`, o{empty, unknown, nobod, false}, o{empty, unknown, nobod, false}},
		"proxy's 403":               {403, nil, fmt.Sprintf(html, "nginx"), o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"proxy's 407":               {407, nil, "", o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"Apple's edge, 403":         {403, nil, fmt.Sprintf(html, "Apple"), o{applebusiness.ErrMalformedResponse, retry, service, true}, o{applebusiness.ErrMalformedResponse, startOver, service, false}},
		"Apple's edge, 204":         {204, nil, "", o{applebusiness.ErrMalformedResponse, retry, service, true}, o{applebusiness.ErrMalformedResponse, startOver, service, false}},
		"Apple's edge, 302":         {302, nil, "", o{applebusiness.ErrMalformedResponse, retry, service, true}, o{applebusiness.ErrMalformedResponse, startOver, service, false}},
		"Apple's edge, 300":         {300, nil, "", o{applebusiness.ErrMalformedResponse, retry, service, true}, o{applebusiness.ErrMalformedResponse, startOver, service, false}},
		"Apple's edge, 399":         {399, nil, "", o{applebusiness.ErrMalformedResponse, retry, service, true}, o{applebusiness.ErrMalformedResponse, startOver, service, false}},
		"Apple's HTML at 401":       {401, nil, fmt.Sprintf(html, "Apple"), o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"Apple's HTML at 200":       {200, nil, fmt.Sprintf(html, "Apple"), o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"HTML at 200":               {200, nil, "<html>Sign in</html>", o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"HTML with a form in it":    {200, nil, "<html>access_token=1&access_token=1</html>", o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"another dialect":           {401, nil, `[{"code":"Unauthorized","message":"Expired Token"}]`, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"another dialect at 200":    {200, nil, `{"code":"Unauthorized","message":"Expired Token"}`, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}, o{applebusiness.ErrMalformedResponse, checkNetwork, service, false}},
		"form-encoded error at 200": {200, nil, "error=invalid_grant&error_description=Invalid+refresh_token", o{applebusiness.ErrInvalidRefreshToken, reauthorize, customer, false}, o{applebusiness.ErrInvalidRefreshToken, startOver, customer, false}},
		"missing code":              {400, nil, `{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: code missing"}`, o{applebusiness.ErrMissingParameter, fixRequest, nobod, false}, o{applebusiness.ErrMissingParameter, fixRequest, nobod, false}},
		"missing verifier":          {400, nil, `{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: Code_Verifier missing"}`, o{applebusiness.ErrMissingParameter, fixRequest, nobod, false}, o{applebusiness.ErrMissingParameter, fixRequest, nobod, false}},
		"missing redirect_uri":      {400, nil, `{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: redirect_uri missing"}`, o{applebusiness.ErrMissingParameter, fixRequest, app, false}, o{applebusiness.ErrMissingParameter, fixRequest, app, false}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				w.Header().Set("apple-request-id", "req-1")
				maps.Copy(w.Header(), test.header)
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			})
			config, ctx := s.config(), s.context()
			_, refresh := config.TokenSource(ctx, &oauth2.Token{RefreshToken: "r"}).Token()
			_, exchange := config.Exchange(ctx, "the-code", oauth2.VerifierOption("the-verifier"))
			for grant, got := range map[string]struct {
				err  error
				want outcome
			}{"refresh_token": {refresh, test.refresh}, "authorization_code": {exchange, test.exchange}} {
				err := applebusiness.Wrap(got.err)
				assert.Equal(t, got.want, outcomeOf(err), "%s: %v", grant, err)
				e, ok := errors.AsType[*applebusiness.Error](err)
				require.True(t, ok)
				assert.Equal(t, test.status, e.StatusCode)
				assert.Equal(t, grant, e.GrantType)
				assert.Equal(t, "req-1", e.RequestID)

				header := maps.Clone(test.header)
				parsed := applebusiness.ParseTokenError(test.status, header, []byte(test.body))
				parsed.GrantType = grant
				assert.Equal(t, got.want, outcomeOf(parsed), "ParseTokenError, %s: %v", grant, parsed)
				assert.Equal(t, parsed.Error(), e.Error())
			}
		})
	}
	t.Run("client_credentials", func(t *testing.T) {
		e := applebusiness.ParseTokenError(400, nil, []byte(deadBody))
		e.GrantType = applebusiness.GrantTypeClientCredentials
		assert.Equal(t, o{applebusiness.ErrInvalidRefreshToken, fixRequest, app, false}, outcomeOf(e))
	})
	t.Run("wrong verifier", func(t *testing.T) {
		e := &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: applebusiness.GrantTypeAuthorizationCode}
		assert.Contains(t, applebusiness.Troubleshoot(e).Causes, applebusiness.CauseVerifierMismatch)
	})
	t.Run("an earlier response was lost", func(t *testing.T) {
		e := &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: applebusiness.GrantTypeRefreshToken, ResponseLost: true}
		assert.Equal(t, applebusiness.CauseResponseLost, applebusiness.Troubleshoot(e).Causes[0])
		assert.NotContains(t, applebusiness.Troubleshoot(applebusiness.ErrInvalidRefreshToken).Causes, applebusiness.CauseResponseLost)
	})
}

// Nothing that arrives at the redirect URI is a dead grant, and none of it is sent again.
func TestVerdictOnARedirect(t *testing.T) {
	type o = outcome
	for query, want := range map[string]outcome{
		"error=server_error&error_description=server+error&state=s1":             {applebusiness.ErrServer, applebusiness.ActionStartOver, applebusiness.ImpactService, false},
		"error=temporarily_unavailable&state=s1":                                 {"", applebusiness.ActionStartOver, applebusiness.ImpactService, false},
		"error=access_denied&state=s1":                                           {applebusiness.ErrUserDenied, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
		"error=user_cancelled_authorize&state=s1":                                {applebusiness.ErrUserDenied, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
		"error=invalid_grant&error_description=Invalid+refresh_token&state=s1":   {applebusiness.ErrInvalidRefreshToken, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
		"error=invalid_grant&state=s1":                                           {"", applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
		"error=invalid_scope&error_description=scope+is+not+valid&state=s1":      {applebusiness.ErrInvalidScope, applebusiness.ActionFixRequest, applebusiness.ImpactApp, false},
		"error=something_new&state=s1":                                           {"", applebusiness.ActionUnknown, applebusiness.ImpactUnknown, false},
		"code=x&state=evil":                                                      {applebusiness.ErrStateMismatch, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
		"error=invalid_grant&error_description=Invalid+refresh_token&state=evil": {applebusiness.ErrStateMismatch, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
		"state=s1": {applebusiness.ErrMalformedRedirect, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
	} {
		_, err := applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodPost, "/?"+query, nil), "s1")
		assert.Equal(t, want, outcomeOf(err), query)
	}
	// The text says both who may have denied.
	remedy := applebusiness.Troubleshoot(applebusiness.ErrUserDenied).Remedy
	assert.Contains(t, remedy, "user declined")
	assert.Contains(t, remedy, "Apple denied")
	// At the token endpoint, or where the endpoint is not known, access_denied is no user.
	for _, endpoint := range []applebusiness.Endpoint{"", applebusiness.TokenEndpoint} {
		e := &applebusiness.Error{Endpoint: endpoint, StatusCode: 403, Code: applebusiness.CodeAccessDenied, GrantType: "refresh_token"}
		assert.Equal(t, o{}, outcomeOf(e))
	}
}

// The two ways to a token give the same one for the same bytes.
func TestTwoPathsToAToken(t *testing.T) {
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
		"beyond a float64":             {`{"access_token":"a","refresh_token":"r","expires_in":1e400}`, (1<<31 - 1) * time.Second, ""},
		"beyond an int64":              {`{"access_token":"a","refresh_token":"r","expires_in":99999999999999999999}`, (1<<31 - 1) * time.Second, ""},
		"beyond a float64, a sibling":  {`{"access_token":"a","refresh_token":"r","expires_in":3600,"x":1e400,"org":"42"}`, time.Hour, "42"},
		"absent":                       {`{"access_token":"a","refresh_token":"r"}`, time.Hour, ""},
		"null":                         {`{"access_token":"a","refresh_token":"r","expires_in":null}`, time.Hour, ""},
		"no number":                    {`{"access_token":"a","refresh_token":"r","expires_in":"soon","org":"42"}`, time.Hour, "42"},
		"another type":                 {`{"access_token":"a","refresh_token":"r","expires_in":[3600]}`, time.Hour, ""},
		"token_type of another type":   {`{"access_token":"a","refresh_token":"r","token_type":7,"expires_in":3600}`, time.Hour, ""},
		"description of another type":  {`{"access_token":"a","refresh_token":"r","error_description":[],"error_uri":7,"expires_in":3600}`, time.Hour, ""},
		"error is null":                {`{"access_token":"a","refresh_token":"r","error":null,"expires_in":3600}`, time.Hour, ""},
		"error is empty":               {`{"access_token":"a","refresh_token":"r","error":"","expires_in":3600}`, time.Hour, ""},
		"names in capitals":            {`{"Access_Token":"a","REFRESH_TOKEN":"r","expires_in":3600}`, time.Hour, ""},
		"a later duplicate":            {`{"access_token":"x","access_token":"a","refresh_token":"r","expires_in":1,"expires_in":3600}`, time.Hour, ""},
		"byte order mark":              {"\ufeff" + `{"access_token":"a","refresh_token":"r","expires_in":3600}`, time.Hour, ""},
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

// What a server repeats of the request is not shown again.
func TestEchoedSecretsAreMasked(t *testing.T) {
	const refresh, code, verifier, secret = "rt-SECRET+/%", "code-SECRET", "verifier-SECRET", "client+secret/&%"
	for name, test := range map[string]struct {
		body, header, want string // %s stands for the echo
		status             int
	}{
		"in the description":     {`{"error":"invalid_grant","error_description":"Token %s is unknown"}`, "", `applebusiness: invalid_grant: "Token *** is unknown" (HTTP 400)`, 400},
		"the whole description":  {`{"error":"invalid_grant","error_description":"%s"}`, "", `applebusiness: invalid_grant: "***" (HTTP 400)`, 400},
		"in the code":            {`{"error":"bad_%s","error_description":"d"}`, "", `applebusiness: "***": "d" (HTTP 400)`, 400},
		"in the URI":             {`{"error":"invalid_client","error_uri":"https://x.example/?t=%s"}`, "", `applebusiness: invalid_client (HTTP 400)`, 400},
		"in the parameter":       {`{"error":"invalid_request","error_description":"%s %s"}`, "", `applebusiness: invalid_request: "*** ***" (HTTP 400)`, 400},
		"in another dialect":     {`[{"code":"Unauthorized","message":"Token %s"}]`, "", `applebusiness: malformed_response: "***": "Token ***" (HTTP 401)`, 401},
		"in the request id":      {`{"error":"invalid_client"}`, "%s", `applebusiness: invalid_client (HTTP 400)`, 400},
		"at 200":                 {`{"error":"invalid_grant","error_description":"Token %s is unknown"}`, "", `applebusiness: invalid_grant: "Token *** is unknown" (HTTP 200)`, 200},
		"behind a long text":     {`{"error":"x","error_description":"` + strings.Repeat("x", 240) + ` %s"}`, "", `applebusiness: "x": "*** ***" (HTTP 400)`, 400},
		"at the end of 4 KiB":    {`{"error":"x","error_description":"` + strings.Repeat("x", 4<<10-5) + `%s"}`, "", `applebusiness: "x": "***" (HTTP 400)`, 400},
		"a row stays as it is":   {`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`, "", `applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 400)`, 400},
		"a public value stays":   {`{"error":"x","error_description":"grant_type refresh_token or authorization_code"}`, "", `applebusiness: "x": "grant_type refresh_token or authorization_code" (HTTP 400)`, 400},
		"a short value stays":    {`{"error":"x","error_description":"id id id"}`, "", `applebusiness: "x": "id id id" (HTTP 400)`, 400},
		"echoed without a body":  {`%s`, "", `applebusiness: unavailable (HTTP 503)`, 503},
		"in a form-coded error":  {`error=invalid_grant&error_description=Token:%s`, "", "", 400},
		"beside a wrong success": {`{"message":"%s"}`, "", `applebusiness: malformed_response: "***": a success without an access_token (HTTP 200)`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			for _, value := range []string{refresh, code, verifier, secret} {
				for _, echo := range []string{value, url.QueryEscape(value), url.PathEscape(value), strings.ToUpper(value), strings.ToLower(url.QueryEscape(value))} {
					quoted := strings.Trim(string(must(json.Marshal(echo))), `"`)
					var reported []*applebusiness.Error
					s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("apple-request-id", strings.ReplaceAll(test.header, "%s", echo))
						w.WriteHeader(test.status)
						io.WriteString(w, strings.ReplaceAll(test.body, "%s", quoted))
					})
					client := &http.Client{Transport: &applebusiness.Transport{TokenURL: s.config().Endpoint.TokenURL, OnError: func(e *applebusiness.Error) { reported = append(reported, e) }}}
					ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client)
					_, refreshErr := s.config().TokenSource(ctx, &oauth2.Token{RefreshToken: refresh}).Token()
					_, exchangeErr := s.config().Exchange(ctx, code, oauth2.VerifierOption(verifier))
					sent := []string{refresh, secret}
					for i, err := range []error{applebusiness.Wrap(refreshErr), applebusiness.Wrap(exchangeErr)} {
						if i == 1 {
							sent = []string{code, verifier, secret}
						}
						if !slices.Contains(sent, value) {
							continue
						}
						if test.want != "" {
							assert.EqualError(t, err, test.want)
						}
						for _, text := range append(renderings(t, err), fmt.Sprint(reported[i]), applebusiness.LogAttr(fmt.Errorf("customer 7: %w", err)).String()) {
							assert.NotContains(t, text, value)
							assert.NotContains(t, text, echo)
							assert.NotContains(t, text, "SECRET")
						}
					}
				}
			}
		})
	}
	t.Run("a success is not touched", func(t *testing.T) {
		s := newJSONOnlyServer(t, answerWith(200, `{"access_token":"`+refresh+`","refresh_token":"`+refresh+`","expires_in":3600}`))
		token, err := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: refresh}).Token()
		require.NoError(t, err)
		assert.Equal(t, refresh, token.AccessToken)
		assert.Equal(t, refresh, token.RefreshToken)
	})
	t.Run("without Transport", func(t *testing.T) {
		s := httptest.NewServer(answerWith(400, `{"error":"invalid_grant","error_description":"Token `+code+` is unknown"}`))
		defer s.Close()
		config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.URL, AuthStyle: oauth2.AuthStyleInParams}}
		_, err := config.Exchange(context.Background(), code)
		assert.EqualError(t, applebusiness.Wrap(err), `applebusiness: invalid_grant: "Token *** is unknown" (HTTP 400)`)
	})
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// What is attached to a log line is found wherever it stands in err's tree.
func TestLogAttr(t *testing.T) {
	dead := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token",
		Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token", RetryAfter: 7 * time.Second}
	const members = `"endpoint":"token","code":"invalid_grant","reason":"invalid_refresh_token","description":"Invalid refresh_token","status":401,"grant_type":"refresh_token","retry_after":"7s","action":"reauthorize","impact":"customer"`
	s := httptest.NewServer(answerWith(503, "SECRET"))
	defer s.Close()
	config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.URL + "/?secret=SECRET", AuthStyle: oauth2.AuthStyleInParams}}
	_, retrieve := config.Exchange(context.Background(), "code-SECRET")
	refused := &url.Error{Op: "Post", URL: "https://api.example/?SECRET", Err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
	const outage = `"endpoint":"token","reason":"unavailable","status":503,"grant_type":"authorization_code","action":"start_over","impact":"service"`
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"nil":                   {nil, `null`},
		"bare":                  {dead, `{` + members + `}`},
		"wrapped":               {fmt.Errorf("customer 7: %w", dead), `{"context":"customer 7",` + members + `}`},
		"wrapped on both sides": {fmt.Errorf("customer 7: %w (try 3)", dead), `{"context":"customer 7: (try 3)",` + members + `}`},
		"joined":                {errors.Join(errors.New("x"), dead), `{"context":"x",` + members + `}`},
		"x/oauth2's":            {retrieve, `{` + outage + `}`},
		"x/oauth2's, wrapped":   {fmt.Errorf("customer 7: %w", retrieve), `{"context":"customer 7",` + outage + `}`},
		"x/oauth2's, in a client's error": {fmt.Errorf("customer 7: %w", &url.Error{Op: "Get", URL: "https://x.example/?SECRET", Err: retrieve}),
			`{"context":"customer 7",` + outage + `}`},
		"a URL in the context":   {fmt.Errorf("GET https://x.example/cb?code=SECRET from /cb?state=SECRET&x: %w", dead), `{"context":"GET *** from ***",` + members + `}`},
		"a Reason":               {fmt.Errorf("x: %w", applebusiness.ErrServer), `{"context":"x","reason":"server","action":"retry","impact":"service"}`},
		"the network's":          {fmt.Errorf("customer 7: %w", refused), `{"message":"customer 7: Post \"***\": dial tcp: connection refused","action":"retry","impact":"service"}`},
		"foreign":                {errors.New("disk\nfull"), `{"message":"disk full"}`},
		"one that hides another": {hidden{dead}, `{"message":"the store failed"}`},
	} {
		t.Run(name, func(t *testing.T) {
			var line bytes.Buffer
			slog.New(slog.NewJSONHandler(&line, nil)).Error("m", applebusiness.LogAttr(test.err))
			_, attr, _ := strings.Cut(strings.TrimSuffix(line.String(), "}\n"), `"error":`)
			assert.Equal(t, test.want, attr)
			line.Reset()
			slog.New(slog.NewTextHandler(&line, nil)).Error("m", applebusiness.LogAttr(test.err))
			assert.Equal(t, 1, strings.Count(line.String(), "\n"))
			assert.NotContains(t, line.String(), "SECRET")
			if strings.Contains(test.want, "7s") {
				assert.Contains(t, line.String(), "error.retry_after=7s")
			}
		})
	}
}

// hidden is somebody else's failure, whatever it wraps.
type hidden struct{ err error }

func (h hidden) Error() string { return "the store failed" }
func (h hidden) Unwrap() error { return h.err }
func (h hidden) Foreign()      {}

func TestForeignErrorsAreNotAdvisedOn(t *testing.T) {
	dead := &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, Code: applebusiness.CodeInvalidGrant}
	for _, err := range []error{
		hidden{dead}, fmt.Errorf("x: %w", hidden{dead}), hidden{&oauth2.RetrieveError{Response: &http.Response{StatusCode: 400}}},
		hidden{&url.Error{Op: "Post", Err: context.DeadlineExceeded}}, hidden{applebusiness.ErrServer}, hidden{errors.New("oauth2: cannot parse json")},
	} {
		assert.Equal(t, outcome{}, outcomeOf(err))
		assert.Empty(t, applebusiness.CodeOf(err))
		assert.Equal(t, err, applebusiness.Wrap(err))
	}
	assert.ErrorIs(t, hidden{dead}, applebusiness.ErrInvalidRefreshToken, "errors.Is is the standard library's")
	assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(errors.Join(hidden{errors.New("x")}, dead)).Action)
}

// A nil pointer somewhere in a tree is nobody's failure.
func TestNilPointersInATree(t *testing.T) {
	for _, none := range []error{
		(*net.OpError)(nil), (*url.Error)(nil), (*oauth2.RetrieveError)(nil), (*net.DNSError)(nil), (*applebusiness.Error)(nil), (*http.MaxBytesError)(nil),
	} {
		for _, err := range []error{none, errors.Join(io.EOF, none), &url.Error{Op: "Post", URL: "https://x.example", Err: none}} {
			assert.NotPanics(t, func() {
				applebusiness.Troubleshoot(err)
				applebusiness.Retryable(err)
				applebusiness.ReasonOf(err)
				applebusiness.CodeOf(err)
				applebusiness.Wrap(err)
				_ = applebusiness.LogAttr(err).String()
				applebusiness.Troubleshoot(applebusiness.Wrap(err))
			}, "%T", none)
		}
		real := &applebusiness.Error{Reason: applebusiness.ErrServer}
		assert.Equal(t, applebusiness.ErrServer, applebusiness.ReasonOf(errors.Join(none, real)))
	}
}

// A failure that is not known to come from an HTTP client is never described as Apple's.
func TestOtherPeoplesFailures(t *testing.T) {
	database := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5432}, Err: syscall.ECONNREFUSED}
	wrongURL := fmt.Sprint("https://api.example", ":x") // no constant, of which staticcheck would complain
	for name, err := range map[string]error{
		"refused": database, "wrapped": fmt.Errorf("store: %w", database), "deadline": context.DeadlineExceeded, "EOF": io.EOF,
		"unexpected EOF": io.ErrUnexpectedEOF, "text": errors.New("dial tcp 127.0.0.1:5432: connect: connection refused"),
		"unknown host":             &net.DNSError{Err: "no such host", IsNotFound: true},
		"a foreign RoundTripper's": &url.Error{Op: "Post", URL: "https://api.example", Err: errors.New("couldn't fetch token: invalid_grant")},
		"a URL that is wrong":      must(func() (error, error) { _, err := url.Parse(wrongURL); return err, nil }()),
	} {
		advice := applebusiness.Troubleshoot(err)
		assert.Equal(t, applebusiness.ImpactUnknown, advice.Impact, name)
		assert.NotContains(t, advice.Remedy, "Apple", name)
		assert.Contains(t, []applebusiness.Action{applebusiness.ActionUnknown, applebusiness.ActionRetry}, advice.Action, name)
	}
	assert.Equal(t, outcome{"", applebusiness.ActionRetry, applebusiness.ImpactUnknown, true}, outcomeOf(context.DeadlineExceeded))
	assert.Equal(t, applebusiness.Advice{}, applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: errors.New("couldn't fetch token: invalid_grant")}))
	files := &net.OpError{Op: "dial", Err: syscall.EMFILE}
	assert.Equal(t, outcome{"", applebusiness.ActionRetry, applebusiness.ImpactApp, true}, outcomeOf(files))
	assert.Equal(t, outcome{"", applebusiness.ActionRetry, applebusiness.ImpactApp, true}, outcomeOf(&url.Error{Op: "Post", Err: files}))
}
