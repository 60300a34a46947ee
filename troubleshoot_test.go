package applebusiness_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// Every Reason has advice of its own, so that it does not fall back to that of its Code.
func TestEveryReasonHasAdvice(t *testing.T) {
	for _, c := range constants(t, "codes.go") {
		var bare error
		switch c.typ {
		case "Reason":
			bare = applebusiness.Reason(c.value)
		case "Code":
			bare = applebusiness.Code(c.value)
			if bare == applebusiness.CodeAccessDenied { // who denied is known only with the endpoint
				assert.Equal(t, applebusiness.ActionUnknown, applebusiness.Troubleshoot(bare).Action)
				continue
			}
		default:
			continue
		}
		advice := applebusiness.Troubleshoot(bare)
		assert.NotEqual(t, applebusiness.ActionUnknown, advice.Action, c.name)
		assert.NotEmpty(t, advice.Remedy, c.name)
		if bare != applebusiness.CodeInvalidGrant && bare != applebusiness.ErrNoRefreshToken { // one stands for opposite things, the other for one lost session
			assert.NotEqual(t, applebusiness.ImpactUnknown, advice.Impact, c.name)
		}
		assert.Equal(t, advice, applebusiness.Troubleshoot(fmt.Errorf("wrapped: %w", errors.Join(io.EOF, bare))), c.name)
		for _, cause := range advice.Causes {
			assert.NotEmpty(t, cause.Description(), cause)
		}
	}
	for _, c := range constants(t, "troubleshoot.go") {
		if c.typ == "Cause" {
			assert.NotEmpty(t, applebusiness.Cause(c.value).Description(), c.name)
		}
	}
	assert.Empty(t, applebusiness.Cause("unheard_of").Description())
}

func TestTroubleshoot(t *testing.T) {
	none := []applebusiness.Cause(nil)
	post := func(err error) error { return &url.Error{Op: "Post", URL: "https://api.example", Err: err} }
	for _, test := range []struct {
		name      string
		err       error
		action    applebusiness.Action
		impact    applebusiness.Impact
		causes    []applebusiness.Cause
		retryable bool
	}{
		{"nil", nil, applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},
		{"nil *Error", (*applebusiness.Error)(nil), applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},
		{"zero Error", &applebusiness.Error{}, applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},
		{"foreign", errors.New("x"), applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},

		// One Reason, three meanings.
		{"dead grant", &applebusiness.Error{StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"},
			applebusiness.ActionReauthorize, applebusiness.ImpactCustomer, []applebusiness.Cause{applebusiness.CauseAccessRevoked, applebusiness.CauseRefreshTokenReplaced}, false},
		{"dead code", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "authorization_code"},
			applebusiness.ActionStartOver, applebusiness.ImpactCustomer, []applebusiness.Cause{applebusiness.CauseAuthorizationCodeExpired, applebusiness.CauseAuthorizationCodeUsed, applebusiness.CauseVerifierMismatch}, false},
		{"dead, grant unknown", applebusiness.ErrInvalidRefreshToken,
			applebusiness.ActionReauthorize, applebusiness.ImpactCustomer, []applebusiness.Cause{applebusiness.CauseAccessRevoked, applebusiness.CauseAuthorizationCodeExpired, applebusiness.CauseRefreshTokenReplaced}, false},
		{"wrong secret", &applebusiness.Error{StatusCode: 401, Code: applebusiness.CodeInvalidClient, Reason: applebusiness.ErrInvalidCredentials, GrantType: "refresh_token"},
			applebusiness.ActionFixRegistration, applebusiness.ImpactApp, []applebusiness.Cause{applebusiness.CauseClientSecretReplaced, applebusiness.CauseAppRemoved}, false},

		// invalid_grant without a text that is known.
		{"invalid_grant alone", applebusiness.CodeInvalidGrant, applebusiness.ActionFixRequest, applebusiness.ImpactUnknown, none, false},
		{"invalid_grant, reworded, refresh", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidGrant, Description: "new words", GrantType: "refresh_token"},
			applebusiness.ActionReauthorize, applebusiness.ImpactCustomer, []applebusiness.Cause{applebusiness.CauseAccessRevoked, applebusiness.CauseRefreshTokenReplaced}, false},
		{"invalid_grant, a text of another code, refresh", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidGrant, Description: "invalid client_id or client_secret.", GrantType: "refresh_token"},
			applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},
		{"invalid_grant, known text, refresh", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidGrantType, GrantType: "refresh_token"},
			applebusiness.ActionFixRequest, applebusiness.ImpactApp, none, false},
		{"invalid_grant, client_credentials", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidGrant, GrantType: "client_credentials"},
			applebusiness.ActionFixRequest, applebusiness.ImpactUnknown, none, false},

		// A transient status beats the code: nobody is asked to reconnect during an outage.
		{"dead grant at 503", &applebusiness.Error{StatusCode: 503, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"},
			applebusiness.ActionRetry, applebusiness.ImpactService, none, true},
		{"unknown code at 429", &applebusiness.Error{StatusCode: 429, Code: "TooManyRequests"}, applebusiness.ActionRetry, applebusiness.ImpactApp, none, true},
		{"server error", applebusiness.ErrServer, applebusiness.ActionRetry, applebusiness.ImpactService, none, true},
		{"server error at 400", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeServerError, Reason: applebusiness.ErrServer}, applebusiness.ActionRetry, applebusiness.ImpactService, none, true},

		// An authorization code may be spent.
		{"exchange at 500", &applebusiness.Error{StatusCode: 500, Code: applebusiness.CodeInternalServerError, Reason: applebusiness.ErrServer, GrantType: "authorization_code"},
			applebusiness.ActionStartOver, applebusiness.ImpactService, none, false},
		{"exchange at 429", &applebusiness.Error{StatusCode: 429, GrantType: "authorization_code"}, applebusiness.ActionRetry, applebusiness.ImpactApp, none, true},
		{"exchange at 429, 59 s", &applebusiness.Error{StatusCode: 429, RetryAfter: 59 * time.Second, GrantType: "authorization_code"}, applebusiness.ActionRetry, applebusiness.ImpactApp, none, true},
		{"exchange at 429, a minute", &applebusiness.Error{StatusCode: 429, RetryAfter: time.Minute, GrantType: "authorization_code"}, applebusiness.ActionStartOver, applebusiness.ImpactApp, none, false},
		{"exchange at 503 with Retry-After", &applebusiness.Error{StatusCode: 503, RetryAfter: time.Second, GrantType: "authorization_code"}, applebusiness.ActionStartOver, applebusiness.ImpactService, none, false},
		{"exchange at 400 with Retry-After", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken, RetryAfter: time.Second, GrantType: "authorization_code"},
			applebusiness.ActionStartOver, applebusiness.ImpactCustomer, []applebusiness.Cause{applebusiness.CauseAuthorizationCodeExpired, applebusiness.CauseAuthorizationCodeUsed, applebusiness.CauseVerifierMismatch}, false},

		// The authorization endpoint is never asked again at once.
		{"redirect: server error", &applebusiness.Error{Endpoint: applebusiness.AuthorizationEndpoint, Code: applebusiness.CodeServerError, Reason: applebusiness.ErrServer}, applebusiness.ActionStartOver, applebusiness.ImpactService, none, false},
		{"redirect: unavailable", &applebusiness.Error{Endpoint: applebusiness.AuthorizationEndpoint, Code: applebusiness.CodeTemporarilyUnavailable}, applebusiness.ActionStartOver, applebusiness.ImpactService, none, false},
		{"redirect: denied", &applebusiness.Error{Endpoint: applebusiness.AuthorizationEndpoint, Code: applebusiness.CodeAccessDenied}, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, []applebusiness.Cause{applebusiness.CauseUserDenied}, false},

		// Answers that are none of Apple's endpoint.
		{"bare 403", &applebusiness.Error{StatusCode: 403}, applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"bare 404", &applebusiness.Error{StatusCode: 404}, applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"bare 302", &applebusiness.Error{StatusCode: 302}, applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"bare 501", &applebusiness.Error{StatusCode: 501}, applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"text without a code", &applebusiness.Error{StatusCode: 400, Description: "x"}, applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"unknown code", &applebusiness.Error{StatusCode: 400, Code: "slow_down"}, applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},
		{"unknown Reason, known code", &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidScope, Reason: "unheard_of"}, applebusiness.ActionFixRequest, applebusiness.ImpactApp, none, false},

		// Contexts and the network.
		{"canceled", context.Canceled, applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},
		{"canceled request", post(context.Canceled), applebusiness.ActionUnknown, applebusiness.ImpactUnknown, none, false},
		{"503, then canceled", errors.Join(&applebusiness.Error{StatusCode: 503}, context.Canceled), applebusiness.ActionRetry, applebusiness.ImpactService, none, false},
		{"deadline", post(context.DeadlineExceeded), applebusiness.ActionRetry, applebusiness.ImpactService, none, true},
		{"os deadline", os.ErrDeadlineExceeded, applebusiness.ActionRetry, applebusiness.ImpactUnknown, none, true},
		{"refused", post(&net.OpError{Op: "dial", Err: &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}}), applebusiness.ActionRetry, applebusiness.ImpactService, none, true},
		{"reset", post(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), applebusiness.ActionRetry, applebusiness.ImpactService, none, true},
		{"broken off", post(io.ErrUnexpectedEOF), applebusiness.ActionRetry, applebusiness.ImpactService, none, true},
		{"name server times out", post(&net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}), applebusiness.ActionRetry, applebusiness.ImpactService, none, true},
		{"unknown host", post(&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}), applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"certificate", post(x509.UnknownAuthorityError{}), applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"TLS alert", post(&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}), applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
		{"redirect loop", post(errors.New("stopped after 10 redirects")), applebusiness.ActionCheckNetwork, applebusiness.ImpactService, none, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			advice := applebusiness.Troubleshoot(test.err)
			assert.Equal(t, test.action, advice.Action)
			assert.Equal(t, test.impact, advice.Impact)
			assert.Equal(t, test.causes, advice.Causes)
			assert.Equal(t, test.retryable, applebusiness.Retryable(test.err))
			if test.err != nil {
				wrapped := fmt.Errorf("customer 7: %w", test.err)
				assert.Equal(t, advice, applebusiness.Troubleshoot(wrapped))
				assert.Equal(t, test.retryable, applebusiness.Retryable(wrapped))
			}
		})
	}
}

func TestTransientStatuses(t *testing.T) {
	transient := func(status int) bool {
		switch status {
		case 408, 425, 429:
			return true
		case 501, 505, 511:
			return false
		}
		return status >= 500 && status <= 599
	}
	for status := -1; status < 1000; status++ {
		failed := &applebusiness.Error{StatusCode: status}
		assert.Equal(t, transient(status), applebusiness.Retryable(failed), status)
		assert.False(t, applebusiness.Retryable(&applebusiness.Error{StatusCode: status, Endpoint: applebusiness.AuthorizationEndpoint}), status)
		assert.Equal(t, status == 429, applebusiness.Retryable(&applebusiness.Error{StatusCode: status, GrantType: "authorization_code"}), status)
		if status >= 300 && !transient(status) {
			assert.Equal(t, applebusiness.ActionCheckNetwork, applebusiness.Troubleshoot(failed).Action, status)
		}
		for _, grant := range []string{"", "refresh_token", "authorization_code", "client_credentials"} {
			dead := &applebusiness.Error{StatusCode: status, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken, GrantType: grant}
			mayBeDead := (grant == "" || grant == "refresh_token") && status < 500 && !transient(status)
			assert.Equal(t, mayBeDead, applebusiness.Troubleshoot(dead).Action == applebusiness.ActionReauthorize, "%d %s", status, grant)
		}
	}
}

// What is done about a refresh that failed begins with the token that a sibling process may have stored by now.
func TestRemedyInAFleet(t *testing.T) {
	for _, grant := range []string{"refresh_token", ""} {
		advice := applebusiness.Troubleshoot(&applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: grant})
		assert.Regexp(t, "^Read the stored token again", advice.Remedy)
		assert.Contains(t, advice.Causes, applebusiness.CauseRefreshTokenReplaced)
	}
}

func TestCausesAreTheCallersOwn(t *testing.T) {
	applebusiness.Troubleshoot(applebusiness.ErrInvalidCredentials).Causes[0] = "changed"
	assert.Equal(t, applebusiness.CauseClientSecretReplaced, applebusiness.Troubleshoot(applebusiness.ErrInvalidCredentials).Causes[0])
}

// A response that was lost explains a refresh token or a code that is dead, and nothing else.
func TestResponseLostIsTheLikeliestCause(t *testing.T) {
	for _, test := range []struct {
		reason applebusiness.Reason
		grant  string
		want   bool
	}{
		{applebusiness.ErrInvalidRefreshToken, "refresh_token", true},
		{applebusiness.ErrInvalidRefreshToken, "authorization_code", true},
		{applebusiness.ErrInvalidRefreshToken, "client_credentials", false},
		{applebusiness.ErrUserDenied, "", false},
		{applebusiness.ErrInvalidCredentials, "refresh_token", false},
	} {
		causes := applebusiness.Troubleshoot(&applebusiness.Error{Reason: test.reason, GrantType: test.grant, ResponseLost: true}).Causes
		assert.Equal(t, test.want, slices.Index(causes, applebusiness.CauseResponseLost) == 0, test)
		assert.Equal(t, test.want, slices.Contains(causes, applebusiness.CauseResponseLost), test)
	}
}

// Apple may edit the list of the row about grant_type, or the words before it: that is nobody's dead grant.
func TestARewordedRowAboutGrantTypeIsNoDeadGrant(t *testing.T) {
	for _, text := range []string{
		"grant_type is invalid. Accepted values: [refresh_token, authorization_code]", "grant_type is invalid. Accepted values: urn:ietf:params:oauth:grant-type:device_code",
		`grant_type is invalid. Accepted values: "refresh_token"; "authorization_code"`, "Grant_type+is not valid.", "grant_type is invalid",
	} {
		e := &applebusiness.Error{StatusCode: 400, Code: applebusiness.CodeInvalidGrant, Description: text, GrantType: applebusiness.GrantTypeRefreshToken}
		assert.Equal(t, applebusiness.ActionUnknown, applebusiness.Troubleshoot(e).Action, text)
	}
}

func TestInvalidGrantWithATextOfAnotherRow(t *testing.T) {
	for grant, want := range map[string]applebusiness.Action{
		applebusiness.GrantTypeRefreshToken: applebusiness.ActionUnknown, "": applebusiness.ActionFixRequest, applebusiness.GrantTypeClientCredentials: applebusiness.ActionFixRequest,
	} {
		e := applebusiness.ParseTokenError(400, nil, []byte(`{"error":"invalid_grant","error_description":"Invalid client_id"}`))
		e.GrantType = grant
		assert.Equal(t, want, applebusiness.Troubleshoot(e).Action, grant)
	}
}

// slow is an error that says that it is about time, and nothing else.
type slow struct{}

func (slow) Error() string { return "slow" }
func (slow) Timeout() bool { return true }

// Whose connection a bare error is about it does not say, and a text alone may be anything.
func TestBareErrorsOfTheNetwork(t *testing.T) {
	for _, test := range []struct {
		err  error
		want applebusiness.Action
	}{
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, applebusiness.ActionRetry},
		{slow{}, applebusiness.ActionRetry},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, applebusiness.ActionUnknown},
		{errors.New("connection refused"), applebusiness.ActionUnknown},
	} {
		advice := applebusiness.Troubleshoot(test.err)
		assert.Equal(t, test.want, advice.Action, test.err)
		assert.Equal(t, applebusiness.ImpactUnknown, advice.Impact, test.err)
	}
}

func TestOwnLimitIsTheApps(t *testing.T) {
	transport := &applebusiness.Transport{TokenURL: "https://api.example/", Base: roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.EMFILE}
	})}
	_, err := transport.RoundTrip(formRequest("https://api.example/", "grant_type=refresh_token"))
	advice := applebusiness.Troubleshoot(err)
	assert.Equal(t, applebusiness.ActionRetry, advice.Action)
	assert.Equal(t, applebusiness.ImpactApp, advice.Impact)
}

func TestARateLimitNeedsNoStatus(t *testing.T) {
	e := &applebusiness.Error{Reason: applebusiness.ErrRateLimited, GrantType: applebusiness.GrantTypeAuthorizationCode}
	assert.Equal(t, applebusiness.ActionRetry, applebusiness.Troubleshoot(e).Action, "nothing was spent")
	assert.True(t, applebusiness.Retryable(e))
}

// Over statuses, codes, texts and grant types: nobody is asked to reconnect, and no code is sent again, for anything else.
func TestVerdictsEverywhere(t *testing.T) {
	codes := map[applebusiness.Code]bool{"": true, "access_denied": true, "unauthorized_client": true, "invalid_token": true, "slow_down": true}
	texts := map[string]bool{"": true, "The refresh token has expired": true}
	for entry := range applebusiness.Catalog() {
		codes[entry.Code], texts[entry.Description] = true, true
	}
	for _, status := range []int{0, 200, 204, 302, 400, 401, 403, 404, 408, 425, 429, 499, 500, 501, 502, 503, 505, 520, 599, 600, 999} {
		for code := range codes {
			for text := range texts {
				body := must(json.Marshal(map[string]string{"error": string(code), "error_description": text}))
				for _, grantType := range []string{"", "refresh_token", "authorization_code", "client_credentials", "password"} {
					assertVerdictIsCareful(t, status, code, text, grantType, applebusiness.ParseTokenError(status, nil, body))
				}
			}
		}
	}
}

func assertVerdictIsCareful(t *testing.T, status int, code applebusiness.Code, text, grantType string, e *applebusiness.Error) {
	t.Helper()
	e.GrantType = grantType
	got := fmt.Sprintf("%d %q %q after %q", status, code, text, grantType)
	action := applebusiness.Troubleshoot(e).Action
	if action == applebusiness.ActionReauthorize {
		assert.Less(t, status, 500, got)
		assert.NotContains(t, []int{408, 425, 429}, status, got)
		assert.Contains(t, []string{"", "refresh_token"}, grantType, got)
		isRow := (code == "" || code == "invalid_grant") && text == "Invalid refresh_token"
		isUnknown := code == "invalid_grant" && grantType == "refresh_token" && (text == "" || text == "The refresh token has expired" || text == "invalid_request")
		assert.True(t, isRow || isUnknown, got)
	}
	if applebusiness.Retryable(e) {
		assert.Equal(t, applebusiness.ActionRetry, action, got)
		assert.True(t, grantType != "authorization_code" || status == 429, got)
	}
}

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
		"Apple's edge, 404":         {404, nil, fmt.Sprintf(html, "Apple"), o{applebusiness.ErrMalformedResponse, retry, service, true}, o{applebusiness.ErrMalformedResponse, startOver, service, false}},
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
