package applebusiness

import (
	"iter"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Endpoint names the OAuth 2.0 endpoint that an error came from.
type Endpoint string

const (
	// TokenEndpoint is where codes and refresh tokens are exchanged for access tokens (RFC 6749 section 3.2).
	TokenEndpoint Endpoint = "token"
	// AuthorizationEndpoint is where the user consents; its errors arrive at the redirect URI (RFC 6749 section 3.1).
	AuthorizationEndpoint Endpoint = "authorization"
)

// Code is the value of the "error" member or parameter: the class of an error (RFC 6749 sections 4.1.2.1 and 5.2).
// It is itself an error, so that errors.Is(err, CodeInvalidGrant) works. A code that nobody documented survives as it was
// received: errors.Is(err, Code("slow_down")). One Code can stand for opposite things, so prefer [Reason] for decisions.
type Code string

// Error returns the package prefix and the code, quoted unless it is one of this package's constants.
func (c Code) Error() string { return prefix + c.text() }

// The codes of Apple's error tables.
const (
	// CodeInvalidRequest is sent when a parameter is missing, empty or malformed; fix the request.
	CodeInvalidRequest Code = "invalid_request"
	// CodeInvalidClient is sent when the client_id or client_secret is wrong; fix the app's credentials.
	CodeInvalidClient Code = "invalid_client"
	// CodeInvalidGrant is sent for a wrong grant_type and for a dead grant alike; look at the Reason before acting.
	CodeInvalidGrant Code = "invalid_grant"
	// CodeInvalidScope is sent when the scope is not one that Apple accepts; fix the request.
	CodeInvalidScope Code = "invalid_scope"
	// CodeUnsupportedResponseType is sent when response_type is not "code"; fix the authorization URL.
	CodeUnsupportedResponseType Code = "unsupported_response_type"
	// CodeServerError is sent by the authorization endpoint when Apple fails; try again later.
	CodeServerError Code = "server_error"
	// CodeInternalServerError is sent by the token endpoint when Apple fails; try again later.
	CodeInternalServerError Code = "internal_server_error"
	// CodeNotFound is sent when the token URL's path does not exist; fix the URL.
	CodeNotFound Code = "404 Not Found"
)

// The other codes of RFC 6749. Apple does not document that it sends them.
const (
	// CodeAccessDenied is sent, by RFC 6749, when the user or Apple denies the request; offer to start again.
	CodeAccessDenied Code = "access_denied"
	// CodeUnauthorizedClient is sent, by RFC 6749, when the app may not use this grant; fix the registration.
	CodeUnauthorizedClient Code = "unauthorized_client"
	// CodeUnsupportedGrantType is sent, by RFC 6749, when grant_type is unknown to the server; fix the request.
	CodeUnsupportedGrantType Code = "unsupported_grant_type"
	// CodeTemporarilyUnavailable is sent, by RFC 6749, when the server is overloaded or in maintenance; try again later.
	CodeTemporarilyUnavailable Code = "temporarily_unavailable"
)

// Reason says what exactly went wrong. Its value is a label that stays when Apple rewords a text, one of a bounded number.
// It is itself an error, so that errors.Is(err, ErrInvalidRefreshToken) works and a mock can return it bare.
//
// The empty Reason means that an OAuth error arrived whose code or text Apple's table does not list. Outages, proxies, denials
// and lost connections have Reasons of their own, so a rising count of the empty one means that Apple's page has changed.
type Reason string

// Error returns the package prefix and the label.
func (r Reason) Error() string { return prefix + r.text() }

// Description returns the text that Apple's table gives for r, and "" for a Reason that is not in it.
func (r Reason) Description() string { return r.entry().Description }

// entry returns the first row about r.
func (r Reason) entry() Entry {
	for _, entry := range catalog {
		if entry.Reason == r {
			return entry
		}
	}
	return Entry{}
}

// Token endpoint, in Apple's order.
const (
	// ErrInvalidGrantType is sent as "grant_type is invalid. Accepted values: refresh_token, client_credentials, authorization_code"; fix grant_type.
	ErrInvalidGrantType Reason = "invalid_grant_type"
	// ErrInvalidRefreshToken is sent as "Invalid refresh_token", for a dead refresh token and for an expired or used authorization code; see [Troubleshoot].
	ErrInvalidRefreshToken Reason = "invalid_refresh_token"
	// ErrInvalidClientID is sent as "Invalid client_id"; configure the client_id of the registered app.
	ErrInvalidClientID Reason = "invalid_client_id"
	// ErrMissingFields is sent as "Missing fields in POST body client_id, client_secret, grant_type and scope required."; send all of them.
	ErrMissingFields Reason = "missing_fields"
	// ErrMissingParameter is sent as "OAuth 2.0 Parameter: <parameter name> missing"; send the one that [Error.Parameter] names.
	ErrMissingParameter Reason = "missing_parameter"
	// ErrEmptyBody is sent as "POST body is empty."; send the parameters in the body.
	ErrEmptyBody Reason = "empty_body"
	// ErrUnsupportedMediaType is sent as "Unsupported Media Type for POST body. Must be json."; send JSON.
	ErrUnsupportedMediaType Reason = "unsupported_media_type"
	// ErrScopeNotAccepted is sent to a Service Account as "scope is invalid. Accepted values: business_connect"; fix the scope. Another page of Apple's says "business".
	ErrScopeNotAccepted Reason = "scope_not_accepted"
	// ErrInvalidCredentials is sent as "Invalid client_id or client_secret"; configure the current client secret.
	ErrInvalidCredentials Reason = "invalid_credentials"
	// ErrEndpointNotFound is sent at status 404 with "404 Not Found" and "invalid_request", in either order; fix the token URL.
	ErrEndpointNotFound Reason = "endpoint_not_found"
	// ErrUnknownServerError is sent as "AN_UNKNOWN_ERROR_OCCURRED"; try again later.
	ErrUnknownServerError Reason = "unknown_server_error"
	// ErrServer is sent as "server error" by both endpoints; try again later.
	ErrServer Reason = "server"
)

// Authorization endpoint, in Apple's order; [ErrServer] is shared.
const (
	// ErrInvalidResponseType is sent as "response_type must be code"; send response_type=code.
	ErrInvalidResponseType Reason = "invalid_response_type"
	// ErrInvalidChallengeMethod is sent as "code_challenge_method must be S256"; send S256.
	ErrInvalidChallengeMethod Reason = "invalid_challenge_method"
	// ErrUnregisteredClientID is sent as "client_id does not match a registered OAuth app"; configure the client_id of the registered app.
	ErrUnregisteredClientID Reason = "unregistered_client_id"
	// ErrBadRequest is sent as "bad request"; compare the authorization URL with Apple's page.
	ErrBadRequest Reason = "bad_request"
	// ErrEmptyRedirectURI is sent as "redirect_uri must not be empty string"; send the redirect URI.
	ErrEmptyRedirectURI Reason = "empty_redirect_uri"
	// ErrInvalidRedirectURI is sent as "redirect_uri is not valid"; send an absolute URI without a fragment.
	ErrInvalidRedirectURI Reason = "invalid_redirect_uri"
	// ErrLocalhostRedirectURI is sent as "localhost is not allowed for redirect_uri. Use the IP literal (127.0.0.1) instead"; use the IP literal.
	ErrLocalhostRedirectURI Reason = "localhost_redirect_uri"
	// ErrUnregisteredRedirectURI is sent as "redirect_uri does not match one of the registered redirect_uri on OAuth app"; register it, letter for letter.
	ErrUnregisteredRedirectURI Reason = "unregistered_redirect_uri"
	// ErrEmptyScope is sent as "scope must not be empty string"; leave scope out.
	ErrEmptyScope Reason = "empty_scope"
	// ErrInvalidScope is sent as "scope is not valid"; leave scope out, partners cannot choose it.
	ErrInvalidScope Reason = "invalid_scope"
	// ErrEmptyClientID is sent as "client_id must not be empty string"; configure the client_id.
	ErrEmptyClientID Reason = "empty_client_id"
)

// Found by this package; not in the catalog.
const (
	// ErrStateMismatch is returned by [VerifyRedirect] when the redirect's state is not the expected one; refuse the redirect.
	ErrStateMismatch Reason = "state_mismatch"
	// ErrMalformedRedirect is returned when a redirect's state cannot be decoded, a parameter is repeated, or there is neither a code nor an error; refuse the redirect.
	ErrMalformedRedirect Reason = "malformed_redirect"
	// ErrUserDenied is returned when the redirect says that the user declined on Apple's consent page; offer to start again.
	ErrUserDenied Reason = "user_denied"
	// ErrNoResponse is returned when a token request got no whole response: name resolution, connecting, TLS or the transfer failed, or it took too long.
	ErrNoResponse Reason = "no_response"
	// ErrRateLimited is returned for status 429; wait for [Error.RetryAfter] and send less.
	ErrRateLimited Reason = "rate_limited"
	// ErrUnavailable is returned for a transient status (408, 425, and 5xx except 501, 505 and 511) in a response without an OAuth error; try again later.
	ErrUnavailable Reason = "unavailable"
	// ErrMalformedResponse is returned for any other response without an OAuth error, such as a 2xx without a token, a 3xx, or a proxy's 403 or 407; look at what stands between you and Apple.
	ErrMalformedResponse Reason = "malformed_response"
	// ErrUnsafeTokenRequest is returned when a token request is refused before it is sent; fix the request.
	ErrUnsafeTokenRequest Reason = "unsafe_token_request"
	// ErrNoRefreshToken is returned when the access token has expired and there is no refresh token, and by Put and Connect of package grants for a token that has none; load or store the one that has it.
	ErrNoRefreshToken Reason = "no_refresh_token"
	// ErrUnsafeState is returned for a state with characters that need percent-encoding; use [golang.org/x/oauth2.GenerateVerifier]'s alphabet.
	ErrUnsafeState Reason = "unsafe_state"
	// ErrManyRefusals is returned by package grants when Apple refuses the refresh tokens of many customers at once; look for the wrong environment or client_id, a restored database or a fault of Apple's, and ask nobody to reconnect.
	ErrManyRefusals Reason = "many_refusals"
)

// Entry is one row of Apple's error tables.
type Entry struct {
	Endpoint    Endpoint
	StatusCode  int // HTTP status; 0 for a redirect, which has none
	Code        Code
	Description string
	Reason      Reason
}

// Catalog returns the 25 rows of Apple's [error tables], in Apple's order. Several rows can have the same Reason, and rows that
// have the same description always do. The sequence can be ranged over any number of times, also concurrently.
//
// [error tables]: https://business.apple.com/docs/api/v1/oauth_apps/errors
func Catalog() iter.Seq[Entry] { return slices.Values(catalog[:]) }

// catalog is never written to: the array stays in this package, and Catalog yields copies of its rows.
var catalog = [...]Entry{
	// Token endpoint errors
	{TokenEndpoint, 400, CodeInvalidGrant, "grant_type is invalid. Accepted values: refresh_token, client_credentials, authorization_code", ErrInvalidGrantType},
	{TokenEndpoint, 400, CodeInvalidGrant, "Invalid refresh_token", ErrInvalidRefreshToken},
	{TokenEndpoint, 400, CodeInvalidRequest, "Invalid client_id", ErrInvalidClientID},
	{TokenEndpoint, 400, CodeInvalidRequest, "Missing fields in POST body client_id, client_secret, grant_type and scope required.", ErrMissingFields},
	{TokenEndpoint, 400, CodeInvalidRequest, "OAuth 2.0 Parameter: <parameter name> missing", ErrMissingParameter},
	{TokenEndpoint, 400, CodeInvalidRequest, "POST body is empty.", ErrEmptyBody},
	{TokenEndpoint, 400, CodeInvalidRequest, "Unsupported Media Type for POST body. Must be json.", ErrUnsupportedMediaType},
	{TokenEndpoint, 400, CodeInvalidScope, "scope is invalid. Accepted values: business_connect", ErrScopeNotAccepted}, // Service Account only
	{TokenEndpoint, 401, CodeInvalidClient, "Invalid client_id or client_secret", ErrInvalidCredentials},
	{TokenEndpoint, 401, CodeInvalidGrant, "Invalid refresh_token", ErrInvalidRefreshToken},
	{TokenEndpoint, 404, CodeNotFound, "invalid_request", ErrEndpointNotFound}, // the columns look swapped on Apple's page
	{TokenEndpoint, 500, CodeInternalServerError, "AN_UNKNOWN_ERROR_OCCURRED", ErrUnknownServerError},
	{TokenEndpoint, 500, CodeInternalServerError, "server error", ErrServer},
	// Authorization code errors
	{AuthorizationEndpoint, 0, CodeUnsupportedResponseType, "response_type must be code", ErrInvalidResponseType},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "code_challenge_method must be S256", ErrInvalidChallengeMethod},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "client_id does not match a registered OAuth app", ErrUnregisteredClientID},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "bad request", ErrBadRequest},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "redirect_uri must not be empty string", ErrEmptyRedirectURI},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "redirect_uri is not valid", ErrInvalidRedirectURI},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "localhost is not allowed for redirect_uri. Use the IP literal (127.0.0.1) instead", ErrLocalhostRedirectURI},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "redirect_uri does not match one of the registered redirect_uri on OAuth app", ErrUnregisteredRedirectURI},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "scope must not be empty string", ErrEmptyScope},
	{AuthorizationEndpoint, 0, CodeInvalidScope, "scope is not valid", ErrInvalidScope},
	{AuthorizationEndpoint, 0, CodeInvalidRequest, "client_id must not be empty string", ErrEmptyClientID},
	{AuthorizationEndpoint, 0, CodeServerError, "server error", ErrServer},
}

// patterns are the documented texts with a part that varies: a parameter's name, in the characters of RFC 6749 appendix A, or
// a list of names as Apple writes it ("a, b and c"), which may be empty.
var patterns = map[Reason]*regexp.Regexp{
	ErrMissingParameter: regexp.MustCompile(`(?i)^OAuth 2\.0 Parameter: ([\w.-]+) missing$`),
	ErrMissingFields:    regexp.MustCompile(`(?i)^Missing fields in POST body ` + list + ` required$`),
	ErrInvalidGrantType: regexp.MustCompile(`(?i)^grant_type is invalid\. Accepted values:` + list + `$`),
	ErrScopeNotAccepted: regexp.MustCompile(`(?i)^scope is invalid\. Accepted values:` + list + `$`),
}

const list = ` ?[\w.-]*(?: ?(?:,| and | or ) ?[\w.-]*)* ?`

// reasons is the catalog arranged for matching: by Apple's text, as it is and as foldText leaves it.
var reasons = func() map[string]Reason {
	found := make(map[string]Reason)
	for _, entry := range catalog {
		if entry.Reason != ErrEndpointNotFound { // its text is a code too: see isNotFound
			found[entry.Description], found[foldText(entry.Description)] = entry.Reason, entry.Reason
		}
	}
	return found
}()

// match returns the Reason that a code and a description mean, and the parameter that the description names.
func match(statusCode int, code Code, description string) (reason Reason, parameter string) {
	reason, parameter = matchDescription(description)
	isCommon := reason == ErrBadRequest || reason == ErrServer // every server says so: Apple's only beside Apple's code
	isListed := slices.ContainsFunc(catalog[:], func(entry Entry) bool { return entry.Reason == reason && entry.Code == code })
	switch {
	case reason != "" && (isListed || code == "" && !isCommon):
		return reason, parameter
	case statusCode == http.StatusNotFound && isNotFound(code, description):
		return ErrEndpointNotFound, ""
	}
	return "", ""
}

// matchDescription is match for a description with whatever code.
func matchDescription(description string) (reason Reason, parameter string) {
	if reason = matchText(description); reason != "" {
		return reason, ""
	}
	text := spaceText(description)
	for reason, pattern := range patterns {
		if found := pattern.FindStringSubmatch(text); found != nil {
			return reason, strings.Join(found[1:], "")
		}
	}
	return "", ""
}

// matchText is matchDescription without the texts that vary.
func matchText(description string) Reason {
	if reason := reasons[description]; reason != "" {
		return reason
	}
	return reasons[foldText(description)]
}

// isNotFound reports whether a response at 404 holds the catalog's row for it, in either order of the columns, or half.
func isNotFound(code Code, description string) bool {
	text := foldText(description)
	return (code == "" || code == CodeNotFound || code == CodeInvalidRequest) &&
		(text == "" || text == foldText(string(CodeNotFound)) || text == string(CodeInvalidRequest)) &&
		(code != "" || text != "")
}

// foldText returns text without regard to case, to runs of space or "+", and to a full stop at its end.
func foldText(text string) string { return strings.ToLower(spaceText(text)) }

// spaceText is foldText that leaves the case.
func spaceText(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '+' })
	return strings.TrimRight(strings.Join(words, " "), ". ")
}
