package applebusiness

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
)

// Action says what the caller should do about an error.
type Action string

const (
	// ActionUnknown is for an error that neither Apple's tables nor this package know: read its description.
	ActionUnknown Action = ""
	// ActionRetry means that Apple, or the way to it, fails at the moment: try again later. Whether the very same
	// request may be sent again is what [Retryable] says.
	ActionRetry Action = "retry"
	// ActionStartOver means that this attempt to connect failed: let the user start again. Nothing that is stored is affected.
	ActionStartOver Action = "start_over"
	// ActionReauthorize means that the customer has to go through Apple's consent page again.
	ActionReauthorize Action = "reauthorize"
	// ActionFixRequest means that the code that builds the request, or its configuration, is wrong.
	ActionFixRequest Action = "fix_request"
	// ActionFixRegistration means that the request does not fit what is registered at Apple: client_id, client secret
	// or redirect URI.
	ActionFixRegistration Action = "fix_registration"
	// ActionCheckNetwork means that something other than Apple's OAuth endpoint answered, or nothing did.
	ActionCheckNetwork Action = "check_network"
)

// Impact says who is affected by an error.
type Impact string

const (
	// ImpactUnknown is for an error that does not tell whom it affects.
	ImpactUnknown Impact = ""
	// ImpactCustomer means this grant, and no other customer's.
	ImpactCustomer Impact = "customer"
	// ImpactApp means the partner's app, and so all customers.
	ImpactApp Impact = "app"
	// ImpactService means Apple or the way to it, and so everybody for a while.
	ImpactService Impact = "service"
)

// Cause is a likely reason for an error, as a stable label.
type Cause string

// Apple's troubleshooting table names these two.
const (
	// CauseAccessRevoked means that the customer revoked the partner's access to their Apple Business account.
	CauseAccessRevoked Cause = "access_revoked"
	// CauseAuthorizationCodeExpired means that an authorization code was passed after its 5 minutes.
	CauseAuthorizationCodeExpired Cause = "authorization_code_expired"
)

// These are inferred from how OAuth 2.0 and Apple's endpoints behave; Apple does not list them.
const (
	// CauseAuthorizationCodeUsed means that an authorization code was passed a second time.
	CauseAuthorizationCodeUsed Cause = "authorization_code_used"
	// CauseRefreshTokenReplaced means that another process of the partner refreshed first and holds the newer token.
	CauseRefreshTokenReplaced Cause = "refresh_token_replaced"
	// CauseClientSecretReplaced means that a new client secret was made at Apple, which ends the old one at once.
	CauseClientSecretReplaced Cause = "client_secret_replaced"
	// CauseAppRemoved means that the partner's app was deleted at Apple, which ends all grants for good.
	CauseAppRemoved Cause = "app_removed"
	// CauseResponseLost means that the response to an earlier refresh was lost, and with it the refresh token that it brought.
	CauseResponseLost Cause = "response_lost"
	// CauseVerifierMismatch means that the code_verifier or the redirect_uri was not the one that the code was asked for with.
	CauseVerifierMismatch Cause = "verifier_mismatch"
	// CauseUserDenied means that the user declined on Apple's consent page.
	CauseUserDenied Cause = "user_denied"
)

// Description returns a sentence for c, and "" for a Cause that this package does not know.
func (c Cause) Description() string {
	switch c {
	case CauseAccessRevoked:
		return "The customer revoked the partner's access to their Apple Business account."
	case CauseAuthorizationCodeExpired:
		return "The authorization code was older than 5 minutes."
	case CauseAuthorizationCodeUsed:
		return "The authorization code had been used before."
	case CauseRefreshTokenReplaced:
		return "Another process refreshed this grant first, and its refresh token is the valid one."
	case CauseClientSecretReplaced:
		return "The client secret was replaced at Apple, which ends the old one at once."
	case CauseAppRemoved:
		return "The app was deleted at Apple, which ends all its grants."
	case CauseResponseLost:
		return "The response to an earlier refresh was lost, and with it the new refresh token."
	case CauseVerifierMismatch:
		return "The code_verifier was not the one that belongs to this authorization code."
	case CauseUserDenied:
		return "The user declined on Apple's consent page."
	}
	return ""
}

// Advice is what to do about an error. The zero Advice means that nothing is known, or that there is no error.
type Advice struct {
	Action Action
	Impact Impact
	Causes []Cause // likeliest first; the caller's own slice
	Remedy string  // sentences for a person; their wording may change
}

// Troubleshoot returns what to do about the first *Error in err's tree, or else about the first bare [Reason] or
// [Code], or else about the failure of a context or of the network. It returns the zero Advice for nil, for
// context.Canceled and for errors that it does not know.
//
// A transient status (408, 425, 429, 500, 502, 503, 504) beats the code: during an outage nobody is asked to
// reconnect. After an authorization_code request it means [ActionReauthorize], since the code may be spent, except with
// 429 or a Retry-After. "Invalid refresh_token" has two causes by Apple's table, and a third in a fleet of processes;
// the GrantType tells which to look at.
func Troubleshoot(err error) Advice {
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e.advice()
	}
	if reason, ok := errors.AsType[Reason](err); ok {
		return (&Error{Reason: reason}).advice()
	}
	if code, ok := errors.AsType[Code](err); ok {
		return (&Error{Code: code}).advice()
	}
	e := &Error{err: err}
	if failed, ok := errors.AsType[*requestError](err); ok {
		e.GrantType = failed.grantType
	}
	return e.advice()
}

// Retryable reports whether the very same request may be sent again, after [Error.RetryAfter] and with a backoff.
//
// It is true where [Troubleshoot] says [ActionRetry], except for an error of the authorization endpoint, where sending
// the browser back at once makes a redirect loop. It is never true once a context was canceled, nor for an
// authorization_code request unless Apple answered 429 or with a Retry-After. Where only the network failed, the grant
// is known if [Transport] sent the request and no http.Client.Timeout ended it; if in doubt, let the user start over
// rather than send a code again.
func Retryable(err error) bool {
	if Troubleshoot(err).Action != ActionRetry || errors.Is(err, context.Canceled) {
		return false
	}
	e, ok := errors.AsType[*Error](err)
	return !ok || e == nil || e.Endpoint != AuthorizationEndpoint
}

// advice is Troubleshoot for one Error; the Causes are a copy.
func (e *Error) advice() Advice {
	advice := e.lookUpAdvice()
	if advice.Action == ActionRetry && e.GrantType == GrantTypeAuthorizationCode &&
		e.StatusCode != http.StatusTooManyRequests && e.RetryAfter == 0 {
		advice = adviceSpentCode
	}
	advice.Causes = slices.Clone(advice.Causes)
	return advice
}

func (e *Error) lookUpAdvice() Advice {
	if isTransient(e.StatusCode) {
		return adviceTransient
	}
	if e.Reason == ErrInvalidRefreshToken || e.Reason == "" && e.Code == CodeInvalidGrant {
		if advice, ok := adviceByGrant[e.GrantType]; ok {
			return advice
		}
	}
	if advice, ok := adviceByError[e.Reason]; ok {
		return advice
	}
	if advice, ok := adviceByError[e.Code]; ok {
		return advice
	}
	if e.Code != "" {
		return adviceUndocumented
	}
	if advice := networkAdvice(e.err); advice.Action != ActionUnknown {
		return advice
	}
	if e.StatusCode >= 300 {
		return adviceForeignAnswer
	}
	return Advice{}
}

func isTransient(statusCode int) bool {
	switch statusCode {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// networkAdvice tells a failure that passes (a timeout, a connection refused or broken) from one that does not (an
// unknown host, a certificate, a redirect loop).
func networkAdvice(err error) Advice {
	if err == nil || errors.Is(err, context.Canceled) {
		return Advice{}
	}
	failed, isNetwork := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isNetwork && failed.Timeout():
		return adviceConnection
	case isUnknownHost(err):
		return adviceUnreachable
	case isBrokenConnection(err):
		return adviceConnection
	case isNetwork:
		return adviceUnreachable
	}
	return Advice{}
}

func isUnknownHost(err error) bool {
	failed, ok := errors.AsType[*net.DNSError](err)
	return ok && failed.IsNotFound
}

func isBrokenConnection(err error) bool {
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		return failed.Op == "dial" || failed.Op == "read" || failed.Op == "write"
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// The advice that several errors share.
var (
	adviceTransient = Advice{
		ActionRetry, ImpactService, nil,
		"Apple's service fails or is overloaded. Try again later with a backoff; nobody has to reconnect.",
	}
	adviceConnection = Advice{
		ActionRetry, ImpactService, nil,
		"The connection to the endpoint failed or took too long. Try again later with a backoff; nobody has to reconnect.",
	}
	adviceUnreachable = Advice{
		ActionCheckNetwork, ImpactService, nil,
		"The endpoint cannot be reached. Check the host in the token URL, name resolution, the proxy and the trusted certificates.",
	}
	adviceForeignAnswer = Advice{
		ActionCheckNetwork, ImpactService, nil,
		"The answer is none of Apple's OAuth endpoint. Check the token URL, and what proxy, firewall or gateway stands before it.",
	}
	adviceSpentCode = Advice{
		ActionReauthorize, ImpactCustomer, nil,
		"Do not send the authorization code again, it may be spent. Let the user start over with a new authorization request.",
	}
	adviceUndocumented = Advice{
		ActionUnknown, ImpactUnknown, nil,
		"Apple does not document this error. Read its code and description, and ask nobody to reconnect because of it.",
	}
	adviceCredentials = Advice{
		ActionFixRegistration, ImpactApp, []Cause{CauseClientSecretReplaced, CauseAppRemoved},
		"Configure the current client_id and client secret in every process. All customers are affected, and none has to reconnect.",
	}
	adviceClientID = Advice{
		ActionFixRegistration, ImpactApp, []Cause{CauseAppRemoved},
		"Configure the client_id of the app as registered at Apple for this environment.",
	}
	adviceResponseType = Advice{
		ActionFixRequest, ImpactApp, nil,
		"Send response_type=code in the authorization URL.",
	}
	adviceGrantType = Advice{
		ActionFixRequest, ImpactApp, nil,
		"Send grant_type as authorization_code, refresh_token or client_credentials.",
	}
	adviceTokenURL = Advice{
		ActionFixRequest, ImpactApp, nil,
		"Correct the token URL: it is the URL that Apple mailed for this environment, followed by /api/v1/oauth2/token.",
	}
	adviceDeadGrant = Advice{
		ActionReauthorize, ImpactCustomer, []Cause{CauseAccessRevoked, CauseRefreshTokenReplaced},
		"Read the stored token again: if its refresh token is another one by now, a sibling process has replaced it and the grant is alive. Only otherwise ask this customer to reconnect.",
	}
)

// adviceByGrant refines "Invalid refresh_token", and an invalid_grant without a text that is known, by the grant_type
// of the request. That there is one that Apple accepts excludes the code's other meaning.
var adviceByGrant = map[string]Advice{
	GrantTypeAuthorizationCode: {
		ActionReauthorize, ImpactCustomer, []Cause{CauseAuthorizationCodeExpired, CauseAuthorizationCodeUsed},
		"The authorization code is expired or was used. Let the user start over with a new authorization request, and exchange its code once, within 5 minutes.",
	},
	GrantTypeRefreshToken: adviceDeadGrant,
}

// adviceByError holds the advice for each Reason, and for each Code alone.
var adviceByError = map[error]Advice{
	// Token endpoint
	ErrInvalidGrantType: adviceGrantType,
	ErrInvalidRefreshToken: {
		ActionReauthorize, ImpactCustomer, []Cause{CauseAccessRevoked, CauseAuthorizationCodeExpired, CauseRefreshTokenReplaced},
		"Read the stored token again: if its refresh token is another one by now, the grant is alive. Only otherwise ask this customer to reconnect; if an authorization code was sent, let the user start over.",
	},
	ErrInvalidClientID: adviceClientID,
	ErrMissingFields: {
		ActionFixRequest, ImpactApp, nil,
		"Send client_id, client_secret, grant_type and scope in the body.",
	},
	ErrMissingParameter: {
		ActionFixRequest, ImpactApp, nil,
		"Send the parameter that the description names.",
	},
	ErrEmptyBody: {
		ActionFixRequest, ImpactApp, nil,
		"Send the parameters as a JSON object in the request body; a redirect or a proxy may have dropped it.",
	},
	ErrUnsupportedMediaType: {
		ActionFixRequest, ImpactApp, nil,
		"Send the request body as JSON with Content-Type: application/json; plain x/oauth2 sends a form.",
	},
	ErrScopeNotAccepted: {
		ActionFixRequest, ImpactApp, nil,
		"Send the scope that the description lists; Apple's pages name business_connect and business.",
	},
	ErrInvalidCredentials: adviceCredentials,
	ErrEndpointNotFound:   adviceTokenURL,
	ErrUnknownServerError: adviceTransient,
	ErrServer:             adviceTransient,

	// Authorization endpoint
	ErrInvalidResponseType: adviceResponseType,
	ErrInvalidChallengeMethod: {
		ActionFixRequest, ImpactApp, nil,
		"Send code_challenge_method=S256 in the authorization URL, with the SHA-256 of the code verifier.",
	},
	ErrUnregisteredClientID: adviceClientID,
	ErrBadRequest: {
		ActionFixRequest, ImpactApp, nil,
		"Compare each parameter of the authorization URL with Apple's page; CheckAuthorizationURL finds the known mistakes.",
	},
	ErrEmptyRedirectURI: {
		ActionFixRequest, ImpactApp, nil,
		"Send one of the app's registered redirect URIs as redirect_uri.",
	},
	ErrInvalidRedirectURI: {
		ActionFixRequest, ImpactApp, nil,
		"Send redirect_uri as an absolute URI without a fragment.",
	},
	ErrLocalhostRedirectURI: {
		ActionFixRequest, ImpactApp, nil,
		"Use 127.0.0.1 instead of localhost in redirect_uri, and register it so.",
	},
	ErrUnregisteredRedirectURI: {
		ActionFixRegistration, ImpactApp, nil,
		"Register the redirect URI with the app at Apple, letter for letter as it is sent.",
	},
	ErrEmptyScope: {
		ActionFixRequest, ImpactApp, nil,
		"Leave scope out of the authorization URL.",
	},
	ErrInvalidScope: {
		ActionFixRequest, ImpactApp, nil,
		"Leave scope out of the authorization URL: partners cannot choose it.",
	},
	ErrEmptyClientID: {
		ActionFixRequest, ImpactApp, nil,
		"Send the app's client_id in the authorization URL; the configuration seems to lack it.",
	},

	// Found by this package
	ErrStateMismatch: {
		ActionReauthorize, ImpactCustomer, nil,
		"Refuse the callback, change nothing that is stored, and let the user start over. If many users see this, their state gets lost: a callback by POST brings no SameSite=Lax cookie.",
	},
	ErrMalformedRedirect: {
		ActionReauthorize, ImpactCustomer, nil,
		"Refuse the callback, change nothing that is stored, and let the user start over.",
	},
	ErrMalformedResponse: {
		ActionCheckNetwork, ImpactService, nil,
		"The token endpoint's answer holds no token. Check the token URL, and what proxy, firewall or gateway stands before it.",
	},
	ErrUnsafeTokenRequest: {
		ActionFixRequest, ImpactApp, nil,
		"Nothing was sent. Send the credentials in the body (oauth2.AuthStyleInParams), each field once, to the token URL itself.",
	},
	ErrNoRefreshToken: {
		ActionReauthorize, ImpactCustomer, nil,
		"Read the stored token again, with its refresh token. Only if there is none ask this customer to reconnect; a Service Account asks for a new token with its client credentials instead.",
	},
	ErrUnsafeState: {
		ActionFixRequest, ImpactApp, nil,
		"Build state from letters, digits, '-', '.', '_' and '~', as oauth2.GenerateVerifier does.",
	},

	// A Code alone
	CodeInvalidRequest: {
		ActionFixRequest, ImpactApp, nil,
		"Compare each parameter of the request with Apple's page; the description may name the wrong one.",
	},
	CodeInvalidClient: adviceCredentials,
	CodeInvalidGrant: {
		ActionFixRequest, ImpactUnknown, nil,
		"Look at grant_type first: this code stands for a wrong grant_type and for a dead grant alike, so ask nobody to reconnect on it alone.",
	},
	CodeInvalidScope: {
		ActionFixRequest, ImpactApp, nil,
		"Correct scope: a Service Account sends business_connect or business, an authorization URL sends none.",
	},
	CodeUnsupportedResponseType: adviceResponseType,
	CodeServerError:             adviceTransient,
	CodeInternalServerError:     adviceTransient,
	CodeNotFound:                adviceTokenURL,
	CodeAccessDenied: {
		ActionReauthorize, ImpactCustomer, []Cause{CauseUserDenied},
		"Nothing is broken. Say that the connection was not made, and offer to start over.",
	},
	CodeUnauthorizedClient: {
		ActionFixRegistration, ImpactApp, nil,
		"Have the app enabled for this grant at Apple, and check that its client_id is the one for this environment.",
	},
	CodeUnsupportedGrantType:   adviceGrantType,
	CodeTemporarilyUnavailable: adviceTransient,
}
