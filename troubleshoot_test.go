package applebusiness_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

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
					e := applebusiness.ParseTokenError(status, nil, body)
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
			}
		}
	}
}
