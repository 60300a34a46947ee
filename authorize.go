package applebusiness

import (
	"cmp"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Redirect is what Apple's authorization endpoint sends to the redirect URI on success (RFC 6749 section 4.1.2). Both
// fields are as received; Code is a credential, keep it out of logs.
type Redirect struct {
	Code  string // lives 5 minutes, may be used once
	State string
}

// VerifyRedirect returns the authorization code of a redirect whose state is the expected one. Like [ParseRedirect] it
// reads the URL's query whatever the method: Apple documents a POST with the parameters in the query.
//
// State comes first. If it cannot be decoded or is repeated, the error is [ErrMalformedRedirect]. If it differs from the
// expected state, compared in constant time, or if the expected state is empty, the error is [ErrStateMismatch]. Only then
// is the rest looked at: the error is the one that Apple sent, also where a code stands beside it, or ErrMalformedRedirect
// if an OAuth parameter is repeated or there is neither a code nor an error. Another parameter that cannot be decoded
// counts as absent.
//
// A redirect that is refused for its state may come from anybody. If it claims an error, the text names the claimed code,
// marked as unverified; errors.Is does not find it.
//
// The expected state must come from the browser that started the flow, and be forgotten after its first use.
func VerifyRedirect(r *http.Request, state string) (code string, err error) {
	if r == nil || r.URL == nil {
		return "", malformedRedirect("there is no request URL")
	}
	found, err := decodeRedirect(r.URL.RawQuery)
	if err == nil && (state == "" || subtle.ConstantTimeCompare([]byte(found.state), []byte(state)) != 1) {
		err = &Error{
			Endpoint: AuthorizationEndpoint, Reason: ErrStateMismatch,
			detail: "the state is not the expected one",
		}
	}
	if err != nil {
		if claimed := Code(found.errorCode); claimed.isKnown() {
			err.(*Error).detail += " (unverified: the redirect claims " + string(claimed) + ")"
		}
		return "", err
	}
	return found.result()
}

// ParseRedirect returns the code and the state of a redirect's raw query; a leading "?" is allowed. It does not verify
// state: use [VerifyRedirect] in a handler.
//
// The error is an *Error: the one that Apple sent, also where a code stands beside it, or [ErrMalformedRedirect] if the
// query is longer than 64 KiB, its state cannot be decoded, it repeats an OAuth parameter or has neither a code nor an
// error. Other parameters are ignored, and one that cannot be decoded counts as absent. State is set even then, unless it
// is repeated.
func ParseRedirect(query string) (Redirect, error) {
	found, err := decodeRedirect(strings.TrimPrefix(query, "?"))
	redirect := Redirect{State: found.state}
	if err == nil {
		redirect.Code, err = found.result()
	}
	return redirect, err
}

// redirectQuery is what a redirect's query says.
type redirectQuery struct {
	code, errorCode, description, uri, state string

	repeated, undecodable string // a parameter other than state that is there twice, or that says nothing
}

// decodeRedirect decodes a redirect's query piece by piece, so that one that does not decode spoils only itself. The
// error is about state; the rest is decoded even then.
func decodeRedirect(query string) (redirectQuery, error) {
	var found redirectQuery
	var err error
	if len(query) > maxBody {
		return found, malformedRedirect("the query is too long")
	}
	var seen [5]bool
	for piece := range strings.SplitSeq(query, "&") {
		rawName, rawValue, _ := strings.Cut(piece, "=")
		name, nameErr := url.QueryUnescape(rawName)
		if nameErr != nil {
			continue
		}
		var target *string
		var i int
		switch name {
		case "state":
			i, target = 0, &found.state
		case "code":
			i, target = 1, &found.code
		case "error":
			i, target = 2, &found.errorCode
		case "error_description":
			i, target = 3, &found.description
		case "error_uri":
			i, target = 4, &found.uri
		default:
			continue
		}
		value, valueErr := url.QueryUnescape(rawValue)
		decodes := valueErr == nil && !strings.Contains(rawValue, ";") // as url.ParseQuery has it
		switch {
		case seen[i] && name == "state":
			err = malformedRedirect("state is repeated")
		case seen[i]:
			found.repeated = cmp.Or(found.repeated, name)
		case !decodes && name == "state":
			err = malformedRedirect("state cannot be decoded")
		case !decodes:
			found.undecodable = name
		default:
			*target = value
		}
		seen[i] = true
	}
	if err != nil {
		found.state = ""
	}
	return found, err
}

// result returns the code that the redirect brings, or its error.
func (q redirectQuery) result() (string, error) {
	switch {
	case q.repeated != "":
		return "", malformedRedirect(q.repeated + " is repeated")
	case q.errorCode != "":
		e := &Error{Endpoint: AuthorizationEndpoint}
		e.describe(q.errorCode, q.description, q.uri, nil)
		if e.Reason == "" && isDenial(e.Code) {
			e.Reason = ErrUserDenied
		}
		return "", e
	case q.code != "":
		return q.code, nil
	case q.undecodable != "":
		return "", malformedRedirect(q.undecodable + " cannot be decoded")
	}
	return "", malformedRedirect("neither code nor error")
}

// isDenial reports whether a code of the authorization endpoint says that somebody declined: RFC 6749's, and the one
// that clients of Sign in with Apple meet. Apple documents neither for Apple Business.
func isDenial(code Code) bool {
	return code == CodeAccessDenied || code == "user_cancelled_authorize"
}

func malformedRedirect(detail string) *Error {
	return &Error{Endpoint: AuthorizationEndpoint, Reason: ErrMalformedRedirect, detail: detail}
}

// CheckAuthorizationURL returns nil, or the errors.Join of an *Error for each mistake that can be seen in an authorization
// URL: the error that Apple documents for it. Nothing is sent. This package never calls it, and Apple may relax a rule, so
// call it in a test or at start-up rather than before each authorization request.
//
// It returns [ErrBadRequest] for what cannot be decoded or repeats a parameter; [ErrMissingParameter] for a missing
// response_type, client_id, redirect_uri, state or code_challenge; [ErrInvalidResponseType]; [ErrEmptyClientID],
// [ErrEmptyRedirectURI] and [ErrEmptyScope] for those present but empty; [ErrInvalidRedirectURI] for a redirect URI that
// is relative or has a fragment; [ErrLocalhostRedirectURI]; [ErrInvalidChallengeMethod]; and [ErrUnsafeState] for a
// state with characters that need percent-encoding, which Apple does not promise to return as they were.
//
// The rules are those of Apple's page on the [authorization request].
//
// [authorization request]: https://business.apple.com/docs/api/v1/oauth_apps/request_auth_code
func CheckAuthorizationURL(rawURL string) error {
	parsed, err := url.Parse(rawURL)
	if err != nil {
		return documentedError(AuthorizationEndpoint, ErrBadRequest)
	}
	query, err := url.ParseQuery(parsed.RawQuery)
	if err != nil {
		return documentedError(AuthorizationEndpoint, ErrBadRequest)
	}
	var errs []error
	add := func(reason Reason) { errs = append(errs, documentedError(AuthorizationEndpoint, reason)) }
	for _, name := range [...]string{"response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method", "scope"} {
		if len(query[name]) > 1 {
			add(ErrBadRequest)
			break
		}
	}
	for _, name := range [...]string{"response_type", "client_id", "redirect_uri", "state", "code_challenge"} {
		if !query.Has(name) || query.Get(name) == "" && (name == "state" || name == "code_challenge") {
			errs = append(errs, missingParameter(AuthorizationEndpoint, name))
		}
	}
	if query.Has("response_type") && query.Get("response_type") != "code" {
		add(ErrInvalidResponseType)
	}
	if query.Has("code_challenge_method") && query.Get("code_challenge_method") != "S256" {
		add(ErrInvalidChallengeMethod)
	}
	if query.Has("redirect_uri") {
		if reason := checkRedirectURI(query.Get("redirect_uri")); reason != "" {
			add(reason)
		}
	}
	if query.Has("scope") && query.Get("scope") == "" {
		add(ErrEmptyScope)
	}
	if query.Has("client_id") && query.Get("client_id") == "" {
		add(ErrEmptyClientID)
	}
	if strings.Trim(query.Get("state"), unreserved) != "" {
		errs = append(errs, &Error{
			Endpoint: AuthorizationEndpoint, Reason: ErrUnsafeState,
			detail: "state holds characters that need percent-encoding",
		})
	}
	return errors.Join(errs...)
}

// unreserved are the characters that a URL never percent-encodes (RFC 3986 section 2.3).
const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

func checkRedirectURI(redirectURI string) Reason {
	if redirectURI == "" {
		return ErrEmptyRedirectURI
	}
	parsed, err := url.Parse(redirectURI)
	isWeb := err == nil && (parsed.Scheme == "http" || parsed.Scheme == "https")
	switch {
	case err != nil, !parsed.IsAbs(), isWeb && parsed.Hostname() == "", strings.Contains(redirectURI, "#"):
		return ErrInvalidRedirectURI
	case strings.EqualFold(strings.TrimSuffix(parsed.Hostname(), "."), "localhost"):
		return ErrLocalhostRedirectURI
	}
	return ""
}

// documentedError returns the error that endpoint would send for reason.
func documentedError(endpoint Endpoint, reason Reason) *Error {
	e := &Error{Endpoint: endpoint, Reason: reason}
	for _, entry := range catalog {
		if entry.Reason == reason {
			e.Code, e.Description = entry.Code, entry.Description
			break
		}
	}
	return e
}

// missingParameter returns the error that endpoint would send for the lack of the parameter name.
func missingParameter(endpoint Endpoint, name string) *Error {
	e := documentedError(endpoint, ErrMissingParameter)
	e.Description = strings.Replace(e.Description, "<parameter name>", name, 1)
	e.Parameter = name
	return e
}
