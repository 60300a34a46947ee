package applebusiness

import (
	"cmp"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Redirect is what Apple's authorization endpoint sends to the redirect URI on success (RFC 6749 section 4.1.2). Both
// fields are as received, and neither is printed or logged: Code is a credential. Its JSON holds both.
type Redirect struct {
	Code  string // lives 5 minutes, may be used once
	State string
}

const redirectText = "applebusiness.Redirect{Code: ***, State: ***}"

// Format writes the type and none of the values, whatever the verb. It implements [fmt.Formatter].
func (Redirect) Format(state fmt.State, verb rune) { formatText(state, verb, redirectText) }

// LogValue returns the type and none of the values. It implements [slog.LogValuer].
func (Redirect) LogValue() slog.Value { return slog.StringValue(redirectText) }

// VerifyRedirect returns the authorization code of a redirect whose state is the expected one. Like [ParseRedirect] it
// reads the URL's query whatever the method: Apple documents a POST with the parameters in the query.
//
// HEAD, OPTIONS and what a browser fetches ahead (Sec-Purpose, Purpose or X-Moz with "prefetch") are no user who comes back
// from Apple: the error is [ErrMalformedRedirect], as for a state that cannot be decoded or is repeated. If the state
// differs from the expected one, compared in constant time, or that is empty, it is [ErrStateMismatch]. Only then is the
// rest looked at, as [ParseRedirect] does. A redirect that is refused for its state may come from anybody: the text names
// an error that it claims, marked as unverified, and errors.Is does not find it.
//
// The expected state must come from the browser that started the flow. Forget it after its first use, but only once
// VerifyRedirect has returned no error or an error of Apple's, or what a scanner fetches first ends the user's attempt.
//
// Apple sends the user back by a POST from its own site, and a browser leaves a SameSite=Lax cookie out of that. Where such
// a cookie leads to the state, use one for this attempt alone with SameSite=None and Secure, or answer a POST without a
// cookie by a redirect (303) to the same URL, since the cookie comes with the GET that follows.
func VerifyRedirect(r *http.Request, state string) (code string, err error) {
	if r == nil || r.URL == nil {
		return "", malformedRedirect("there is no request URL")
	}
	if sender := noPerson(r); sender != "" {
		return "", malformedRedirect(sender + " is no user who comes back from Apple")
	}
	found := decodeRedirect(r.URL.RawQuery)
	reason, wrong := ErrMalformedRedirect, found.malformed
	if wrong == "" {
		reason, wrong = ErrStateMismatch, found.wrongState(r, state)
	}
	if wrong == "" {
		return found.result()
	}
	if claimed := Code(found.Error); claimed.isKnown() {
		wrong += " (unverified: the redirect claims " + string(claimed) + ")"
	}
	return "", &Error{Endpoint: AuthorizationEndpoint, Reason: reason, detail: wrong}
}

// noPerson returns what sent r, if it was nobody who looks at a page.
func noPerson(r *http.Request) string {
	purposes := fmt.Sprint(r.Header["Sec-Purpose"], r.Header["Purpose"], r.Header["X-Moz"])
	switch {
	case r.Method == http.MethodHead || r.Method == http.MethodOptions:
		return r.Method
	case strings.Contains(strings.ToLower(purposes), "prefetch"):
		return "what a browser fetches ahead"
	}
	return ""
}

// wrongState returns what is wrong with the state of r's query, "" if it is the expected one.
func (q redirectQuery) wrongState(r *http.Request, expected string) string {
	switch {
	case expected == "":
		return "no state was expected"
	case q == (redirectQuery{}) && r.Method == http.MethodPost && r.ContentLength != 0:
		return "the URL has no state; the parameters may be in the body"
	case q.state == "":
		return "the redirect has no state"
	case subtle.ConstantTimeCompare([]byte(q.state), []byte(expected)) != 1:
		return "the state is not the expected one"
	}
	return ""
}

// ParseRedirect returns the code and the state of a redirect's raw query; a leading "?" is allowed. It does not verify
// state: use [VerifyRedirect] in a handler.
//
// The error is an *Error: the one that Apple sent, also where a code stands beside it, or [ErrMalformedRedirect] if the
// query is longer than 64 KiB, its state cannot be decoded, it repeats an OAuth parameter or has neither code nor error.
// Other parameters are ignored, and one that does not decode counts as absent. State is set even then, unless repeated.
func ParseRedirect(query string) (Redirect, error) {
	found := decodeRedirect(strings.TrimPrefix(query, "?"))
	code, err := found.result()
	return Redirect{code, found.state}, err
}

// redirectQuery is what a redirect's query says.
type redirectQuery struct {
	texts
	code, state           string
	malformed             string // what is wrong with state, or with the whole
	repeated, undecodable string // another parameter that is there twice, or that says nothing
}

// decodeRedirect decodes a redirect's query piece by piece, so that one that does not decode spoils only itself.
func decodeRedirect(query string) (found redirectQuery) {
	if len(query) > maxBody {
		return redirectQuery{malformed: "the query is too long"}
	}
	fields := map[string]*string{ // nil for one that was seen
		"state": &found.state, "code": &found.code, "error": &found.Error, "error_description": &found.Description, "error_uri": &found.URI,
	}
	for piece := range strings.SplitSeq(query, "&") {
		rawName, rawValue, _ := strings.Cut(piece, "=")
		name, _ := url.QueryUnescape(rawName) // "" if it does not decode
		field, isOurs := fields[name]
		if !isOurs {
			continue
		}
		fields[name] = nil
		value, err := url.QueryUnescape(rawValue)
		decodes := err == nil && !strings.Contains(rawValue, ";") && // as url.ParseQuery has it
			(name != "code" || utf8.ValidString(value)) // and JSON can carry it to the token endpoint
		switch {
		case field == nil && name == "state":
			found.malformed = "state is repeated"
		case field == nil:
			found.repeated = cmp.Or(found.repeated, name)
		case !decodes && name == "state":
			found.malformed = "state cannot be decoded"
		case !decodes:
			found.undecodable = name
		default:
			*field = value
		}
	}
	if found.malformed != "" {
		found.state = ""
	}
	return found
}

// result returns the code that the redirect brings, or its error.
func (q redirectQuery) result() (string, error) {
	switch {
	case q.malformed != "":
		return "", malformedRedirect(q.malformed)
	case q.repeated != "":
		return "", malformedRedirect(q.repeated + " is repeated")
	case q.Error != "":
		e := &Error{Endpoint: AuthorizationEndpoint}
		e.describe(q.texts, tokenRequest{url.Values{"code": {q.code}, "state": {q.state}}}) // masked as what was sent is
		if isDenial(e.Code) {
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
func isDenial(code Code) bool { return code == CodeAccessDenied || code == "user_cancelled_authorize" }

func malformedRedirect(detail string) *Error {
	return &Error{Endpoint: AuthorizationEndpoint, Reason: ErrMalformedRedirect, detail: detail}
}

// CheckAuthorizationURL returns nil, or the errors.Join of an *Error for each mistake that can be seen in an authorization
// URL: the error that Apple documents for it. Nothing is sent. Apple may relax a rule: call it in a test or at start-up alone.
//
// By the rules of Apple's page on the [authorization request] it returns [ErrBadRequest] for what cannot be decoded or
// repeats a parameter; [ErrMissingParameter] for a missing response_type, client_id, redirect_uri, state or code_challenge;
// [ErrInvalidResponseType]; [ErrEmptyClientID], [ErrEmptyRedirectURI] and [ErrEmptyScope] for those present but empty;
// [ErrInvalidRedirectURI] for a redirect URI that is relative or has a fragment; [ErrLocalhostRedirectURI];
// [ErrInvalidChallengeMethod]; and [ErrUnsafeState] for a state that percent-encoding might change on its way back.
//
// [authorization request]: https://business.apple.com/docs/api/v1/oauth_apps/request_auth_code
func CheckAuthorizationURL(rawURL string) error {
	var query url.Values
	parsed, err := url.Parse(rawURL)
	if err == nil {
		query, err = url.ParseQuery(parsed.RawQuery)
	}
	if err != nil {
		return documentedError(ErrBadRequest, "")
	}
	var errs []error
	for _, parameter := range authorizationParameters {
		var wrong Reason
		switch values := query[parameter.name]; {
		case len(values) > 1:
			wrong = ErrBadRequest
		case len(values) == 0 && parameter.required:
			wrong = ErrMissingParameter
		case len(values) == 1 && values[0] == "":
			wrong = parameter.empty
		case len(values) == 1 && parameter.check != nil:
			wrong = parameter.check(values[0])
		}
		if wrong != "" {
			errs = append(errs, documentedError(wrong, parameter.name))
		}
	}
	return errors.Join(errs...)
}

// authorizationParameters are those of an authorization URL. empty and check say what is wrong with a value.
var authorizationParameters = [...]struct {
	name     string
	required bool
	empty    Reason
	check    func(value string) Reason
}{
	{"response_type", true, ErrInvalidResponseType, func(value string) Reason { return unless(value == "code", ErrInvalidResponseType) }},
	{"client_id", true, ErrEmptyClientID, nil},
	{"redirect_uri", true, ErrEmptyRedirectURI, checkRedirectURI},
	{"state", true, ErrMissingParameter, func(value string) Reason { return unless(strings.Trim(value, unreserved) == "", ErrUnsafeState) }},
	{"code_challenge", true, ErrMissingParameter, nil},
	{"code_challenge_method", false, ErrInvalidChallengeMethod, func(value string) Reason { return unless(value == "S256", ErrInvalidChallengeMethod) }},
	{"scope", false, ErrEmptyScope, nil},
}

func unless(good bool, otherwise Reason) Reason {
	if good {
		return ""
	}
	return otherwise
}

// unreserved are the characters that a URL never percent-encodes (RFC 3986 section 2.3).
const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

func checkRedirectURI(redirectURI string) Reason {
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

// documentedError returns the error that the authorization endpoint would send for reason.
func documentedError(reason Reason, parameter string) *Error {
	entry := reason.entry()
	e := &Error{Endpoint: AuthorizationEndpoint, Code: entry.Code, Description: entry.Description, Reason: reason}
	switch reason {
	case ErrMissingParameter:
		e.Parameter, e.Description = parameter, strings.Replace(e.Description, "<parameter name>", parameter, 1)
	case ErrUnsafeState:
		e.detail = "state holds characters that need percent-encoding"
	}
	return e
}
