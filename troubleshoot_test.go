package applebusiness_test

import (
	"context"
	"crypto/x509"
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

	. "github.com/seed-a5f25c57/applebusiness"
)

// Every Reason has advice of its own, so that it does not fall back to that of its Code.
func TestEveryReasonHasAdvice(t *testing.T) {
	for _, c := range constants(t, "codes.go") {
		var bare error
		switch c.typ {
		case "Reason":
			bare = Reason(c.value)
		case "Code":
			bare = Code(c.value)
		default:
			continue
		}
		advice := Troubleshoot(bare)
		assert.NotEqual(t, ActionUnknown, advice.Action, c.name)
		assert.NotEmpty(t, advice.Remedy, c.name)
		if bare != CodeInvalidGrant { // stands for opposite things
			assert.NotEqual(t, ImpactUnknown, advice.Impact, c.name)
		}
		assert.Equal(t, advice, Troubleshoot(fmt.Errorf("wrapped: %w", errors.Join(io.EOF, bare))), c.name)
		for _, cause := range advice.Causes {
			assert.NotEmpty(t, cause.Description(), cause)
		}
	}
	for _, c := range constants(t, "troubleshoot.go") {
		if c.typ == "Cause" {
			assert.NotEmpty(t, Cause(c.value).Description(), c.name)
		}
	}
	assert.Empty(t, Cause("unheard_of").Description())
}

func TestTroubleshoot(t *testing.T) {
	none := []Cause(nil)
	post := func(err error) error { return &url.Error{Op: "Post", URL: "https://api.example", Err: err} }
	for _, test := range []struct {
		name      string
		err       error
		action    Action
		impact    Impact
		causes    []Cause
		retryable bool
	}{
		{"nil", nil, ActionUnknown, ImpactUnknown, none, false},
		{"nil *Error", (*Error)(nil), ActionUnknown, ImpactUnknown, none, false},
		{"zero Error", &Error{}, ActionUnknown, ImpactUnknown, none, false},
		{"foreign", errors.New("x"), ActionUnknown, ImpactUnknown, none, false},

		// One Reason, three meanings.
		{"dead grant", &Error{StatusCode: 401, Code: CodeInvalidGrant, Reason: ErrInvalidRefreshToken, GrantType: "refresh_token"},
			ActionReauthorize, ImpactCustomer, []Cause{CauseAccessRevoked, CauseRefreshTokenReplaced}, false},
		{"dead code", &Error{StatusCode: 400, Code: CodeInvalidGrant, Reason: ErrInvalidRefreshToken, GrantType: "authorization_code"},
			ActionReauthorize, ImpactCustomer, []Cause{CauseAuthorizationCodeExpired, CauseAuthorizationCodeUsed}, false},
		{"dead, grant unknown", ErrInvalidRefreshToken,
			ActionReauthorize, ImpactCustomer, []Cause{CauseAccessRevoked, CauseAuthorizationCodeExpired, CauseRefreshTokenReplaced}, false},
		{"wrong secret", &Error{StatusCode: 401, Code: CodeInvalidClient, Reason: ErrInvalidCredentials, GrantType: "refresh_token"},
			ActionFixRegistration, ImpactPartner, []Cause{CauseClientSecretReplaced, CauseAppRemoved}, false},

		// invalid_grant without a text that is known.
		{"invalid_grant alone", CodeInvalidGrant, ActionFixRequest, ImpactUnknown, none, false},
		{"invalid_grant, reworded, refresh", &Error{StatusCode: 400, Code: CodeInvalidGrant, Description: "new words", GrantType: "refresh_token"},
			ActionReauthorize, ImpactCustomer, []Cause{CauseAccessRevoked, CauseRefreshTokenReplaced}, false},
		{"invalid_grant, known text, refresh", &Error{StatusCode: 400, Code: CodeInvalidGrant, Reason: ErrInvalidGrantType, GrantType: "refresh_token"},
			ActionFixRequest, ImpactPartner, none, false},
		{"invalid_grant, client_credentials", &Error{StatusCode: 400, Code: CodeInvalidGrant, GrantType: "client_credentials"},
			ActionFixRequest, ImpactUnknown, none, false},

		// A transient status beats the code: nobody is asked to reconnect during an outage.
		{"dead grant at 503", &Error{StatusCode: 503, Code: CodeInvalidGrant, Reason: ErrInvalidRefreshToken, GrantType: "refresh_token"},
			ActionRetry, ImpactService, none, true},
		{"unknown code at 429", &Error{StatusCode: 429, Code: "TooManyRequests"}, ActionRetry, ImpactService, none, true},
		{"server error", ErrServer, ActionRetry, ImpactService, none, true},
		{"server error at 400", &Error{StatusCode: 400, Code: CodeServerError, Reason: ErrServer}, ActionRetry, ImpactService, none, true},

		// An authorization code may be spent.
		{"exchange at 500", &Error{StatusCode: 500, Code: CodeInternalServerError, Reason: ErrServer, GrantType: "authorization_code"},
			ActionReauthorize, ImpactCustomer, none, false},
		{"exchange at 429", &Error{StatusCode: 429, GrantType: "authorization_code"}, ActionRetry, ImpactService, none, true},
		{"exchange at 503 with Retry-After", &Error{StatusCode: 503, RetryAfter: time.Second, GrantType: "authorization_code"}, ActionRetry, ImpactService, none, true},
		{"exchange at 400 with Retry-After", &Error{StatusCode: 400, Code: CodeInvalidGrant, Reason: ErrInvalidRefreshToken, RetryAfter: time.Second, GrantType: "authorization_code"},
			ActionReauthorize, ImpactCustomer, []Cause{CauseAuthorizationCodeExpired, CauseAuthorizationCodeUsed}, false},

		// The authorization endpoint is never asked again at once.
		{"redirect: server error", &Error{Endpoint: AuthorizationEndpoint, Code: CodeServerError, Reason: ErrServer}, ActionRetry, ImpactService, none, false},
		{"redirect: unavailable", &Error{Endpoint: AuthorizationEndpoint, Code: CodeTemporarilyUnavailable}, ActionRetry, ImpactService, none, false},
		{"redirect: denied", &Error{Endpoint: AuthorizationEndpoint, Code: CodeAccessDenied}, ActionReauthorize, ImpactCustomer, []Cause{CauseUserDenied}, false},

		// Answers that are none of Apple's endpoint.
		{"bare 403", &Error{StatusCode: 403}, ActionCheckNetwork, ImpactService, none, false},
		{"bare 404", &Error{StatusCode: 404}, ActionCheckNetwork, ImpactService, none, false},
		{"bare 302", &Error{StatusCode: 302}, ActionCheckNetwork, ImpactService, none, false},
		{"bare 501", &Error{StatusCode: 501}, ActionCheckNetwork, ImpactService, none, false},
		{"text without a code", &Error{StatusCode: 400, Description: "x"}, ActionCheckNetwork, ImpactService, none, false},
		{"unknown code", &Error{StatusCode: 400, Code: "slow_down"}, ActionUnknown, ImpactUnknown, none, false},
		{"unknown Reason, known code", &Error{StatusCode: 400, Code: CodeInvalidScope, Reason: "unheard_of"}, ActionFixRequest, ImpactPartner, none, false},

		// Contexts and the network.
		{"canceled", context.Canceled, ActionUnknown, ImpactUnknown, none, false},
		{"canceled request", post(context.Canceled), ActionUnknown, ImpactUnknown, none, false},
		{"503, then canceled", errors.Join(&Error{StatusCode: 503}, context.Canceled), ActionRetry, ImpactService, none, false},
		{"deadline", post(context.DeadlineExceeded), ActionRetry, ImpactService, none, true},
		{"os deadline", os.ErrDeadlineExceeded, ActionRetry, ImpactService, none, true},
		{"refused", post(&net.OpError{Op: "dial", Err: &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}}), ActionRetry, ImpactService, none, true},
		{"reset", post(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), ActionRetry, ImpactService, none, true},
		{"broken off", post(io.ErrUnexpectedEOF), ActionRetry, ImpactService, none, true},
		{"name server times out", post(&net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}), ActionRetry, ImpactService, none, true},
		{"unknown host", post(&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}), ActionCheckNetwork, ImpactService, none, false},
		{"certificate", post(x509.UnknownAuthorityError{}), ActionCheckNetwork, ImpactService, none, false},
		{"TLS alert", post(&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}), ActionCheckNetwork, ImpactService, none, false},
		{"redirect loop", post(errors.New("stopped after 10 redirects")), ActionCheckNetwork, ImpactService, none, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			advice := Troubleshoot(test.err)
			assert.Equal(t, test.action, advice.Action)
			assert.Equal(t, test.impact, advice.Impact)
			assert.Equal(t, test.causes, advice.Causes)
			assert.Equal(t, test.retryable, Retryable(test.err))
			if test.err != nil {
				wrapped := fmt.Errorf("customer 7: %w", test.err)
				assert.Equal(t, advice, Troubleshoot(wrapped))
				assert.Equal(t, test.retryable, Retryable(wrapped))
			}
		})
	}
}

func TestTransientStatuses(t *testing.T) {
	transient := map[int]bool{408: true, 425: true, 429: true, 500: true, 502: true, 503: true, 504: true}
	for status := -1; status < 1000; status++ {
		assert.Equal(t, transient[status], Retryable(&Error{StatusCode: status}), status)
		assert.False(t, Retryable(&Error{StatusCode: status, Endpoint: AuthorizationEndpoint}), status)
		assert.Equal(t, status == 429, Retryable(&Error{StatusCode: status, GrantType: "authorization_code"}), status)
		if status >= 400 && status < 500 && !transient[status] {
			assert.Equal(t, ActionCheckNetwork, Troubleshoot(&Error{StatusCode: status}).Action, status)
		}
	}
}

// What is done about a refresh that failed begins with the token that a sibling process may have stored by now.
func TestRemedyInAFleet(t *testing.T) {
	for _, grant := range []string{"refresh_token", ""} {
		advice := Troubleshoot(&Error{Reason: ErrInvalidRefreshToken, GrantType: grant})
		assert.Regexp(t, "^Read the stored token again", advice.Remedy)
		assert.Contains(t, advice.Causes, CauseRefreshTokenReplaced)
	}
}

func TestCausesAreTheCallersOwn(t *testing.T) {
	Troubleshoot(ErrInvalidCredentials).Causes[0] = "changed"
	assert.Equal(t, CauseClientSecretReplaced, Troubleshoot(ErrInvalidCredentials).Causes[0])
}
