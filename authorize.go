package applebusiness

import (
	"cmp"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
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
// from Apple: the error is [ErrMalformedRedirect], before anything else is looked at. So it is for a state that cannot be
// decoded or is repeated. If the state differs from the expected one, compared in constant time, or that is empty, it is
// [ErrStateMismatch]. Only then is the rest looked at, as [ParseRedirect] does.
//
// A redirect that is refused for its state may come from anybody. If it claims an error, the text names the claimed code,
// marked as unverified; errors.Is does not find it.
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
	found, err := decodeRedirect(r.URL.RawQuery)
	if err == nil {
		if wrong := found.wrongState(r, state); wrong != "" {
			err = &Error{Endpoint: AuthorizationEndpoint, Reason: ErrStateMismatch, detail: wrong}
		}
	}
	if err != nil {
		if claimed := Code(found.Error); claimed.isKnown() {
			err.(*Error).detail += " (unverified: the redirect claims " + string(claimed) + ")"
		}
		return "", err
	}
	return found.result()
}

// noPerson returns what sent r, if it was nobody who looks at a page.
func noPerson(r *http.Request) string {
	if r.Method == http.MethodHead || r.Method == http.MethodOptions {
		return r.Method
	}
	for _, name := range [...]string{"Sec-Purpose", "Purpose", "X-Moz"} {
		if strings.Contains(strings.ToLower(strings.Join(r.Header.Values(name), " ")), "prefetch") {
			return "what a browser fetches ahead"
		}
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
	texts
	code, state           string
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
	names := [...]string{"state", "code", "error", "error_description", "error_uri"}
	values := [...]*string{&found.state, &found.code, &found.Error, &found.Description, &found.URI}
	var seen [len(names)]bool
	for piece := range strings.SplitSeq(query, "&") {
		rawName, rawValue, _ := strings.Cut(piece, "=")
		name, _ := url.QueryUnescape(rawName) // "" if it does not decode
		i := slices.Index(names[:], name)
		if i < 0 {
			continue
		}
		value, valueErr := url.QueryUnescape(rawValue)
		decodes := valueErr == nil && !strings.Contains(rawValue, ";") && // as url.ParseQuery has it
			(name != "code" || utf8.ValidString(value)) // and JSON can carry it to the token endpoint
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
			*values[i] = value
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
	case q.Error != "":
		e := &Error{Endpoint: AuthorizationEndpoint}
		beside := tokenRequest(url.Values{"code": {q.code}, "state": {q.state}}.Encode()) // to be masked as what was sent is
		e.describe(q.texts, beside)
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
func isDenial(code Code) bool {
	return code == CodeAccessDenied || code == "user_cancelled_authorize"
}

func malformedRedirect(detail string) *Error {
	return &Error{Endpoint: AuthorizationEndpoint, Reason: ErrMalformedRedirect, detail: detail}
}

// CheckAuthorizationURL returns nil, or the errors.Join of an *Error for each mistake that can be seen in an authorization
// URL: the error that Apple documents for it. Nothing is sent. Apple may relax a rule, so call it in a test or at start-up
// rather than before each authorization request.
//
// By the rules of Apple's page on the [authorization request] it returns [ErrBadRequest] for what cannot be decoded or
// repeats a parameter; [ErrMissingParameter] for a missing response_type, client_id, redirect_uri, state or code_challenge;
// [ErrInvalidResponseType]; [ErrEmptyClientID], [ErrEmptyRedirectURI] and [ErrEmptyScope] for those present but empty;
// [ErrInvalidRedirectURI] for a redirect URI that is relative or has a fragment; [ErrLocalhostRedirectURI];
// [ErrInvalidChallengeMethod]; and [ErrUnsafeState] for a state with characters that need percent-encoding, which Apple does
// not promise to return as they were.
//
// [authorization request]: https://business.apple.com/docs/api/v1/oauth_apps/request_auth_code
func CheckAuthorizationURL(rawURL string) error {
	var query url.Values
	parsed, err := url.Parse(rawURL)
	if err == nil {
		query, err = url.ParseQuery(parsed.RawQuery)
	}
	if err != nil {
		return documentedError(ErrBadRequest)
	}
	var errs []error
	for _, parameter := range authorizationParameters {
		var wrong Reason
		switch values := query[parameter.name]; {
		case len(values) > 1:
			wrong = ErrBadRequest
		case len(values) == 1:
			wrong = parameter.check(values[0])
		case parameter.required:
			wrong = ErrMissingParameter
		}
		if wrong == "" {
			continue
		}
		e := documentedError(wrong)
		if wrong == ErrMissingParameter {
			e.Parameter, e.Description = parameter.name, strings.Replace(e.Description, "<parameter name>", parameter.name, 1)
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// authorizationParameters are the parameters of an authorization URL. check returns what is wrong with a value, or "".
var authorizationParameters = [...]struct {
	name     string
	required bool
	check    func(value string) Reason
}{
	{"response_type", true, func(value string) Reason { return unless(value == "code", ErrInvalidResponseType) }},
	{"client_id", true, func(value string) Reason { return unless(value != "", ErrEmptyClientID) }},
	{"redirect_uri", true, checkRedirectURI},
	{"state", true, checkState},
	{"code_challenge", true, func(value string) Reason { return unless(value != "", ErrMissingParameter) }},
	{"code_challenge_method", false, func(value string) Reason { return unless(value == "S256", ErrInvalidChallengeMethod) }},
	{"scope", false, func(value string) Reason { return unless(value != "", ErrEmptyScope) }},
}

func unless(good bool, otherwise Reason) Reason {
	if good {
		return ""
	}
	return otherwise
}

// unreserved are the characters that a URL never percent-encodes (RFC 3986 section 2.3).
const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

func checkState(state string) Reason {
	if state == "" {
		return ErrMissingParameter
	}
	return unless(strings.Trim(state, unreserved) == "", ErrUnsafeState)
}

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

// documentedError returns the error that the authorization endpoint would send for reason.
func documentedError(reason Reason) *Error {
	entry := reason.entry()
	e := &Error{Endpoint: AuthorizationEndpoint, Code: entry.Code, Description: entry.Description, Reason: reason}
	if reason == ErrUnsafeState {
		e.detail = "state holds characters that need percent-encoding"
	}
	return e
}
