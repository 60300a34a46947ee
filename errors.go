// Package applebusiness turns the OAuth 2.0 errors of Apple Business into Go errors, and says what to do about them.
//
// Apple's error page lists 25 rows over two endpoints, where one code can stand for opposite things: "invalid_grant"
// is a bug in one row and a customer who disconnected in another. This package holds that table ([Catalog]), finds
// the row that an answer means, and gives two levels to errors.Is: the [Reason] (what exactly) and the [Code] (which
// class). [Troubleshoot] tells what to do and who is affected.
//
//	token, err := (&applebusiness.TokenSource{Source: config.TokenSource(ctx, stored)}).Token()
//	switch {
//	case err == nil:
//		use(token)
//	case errors.Is(err, applebusiness.ErrInvalidCredentials):
//		page("the client secret was replaced", err) // every customer is affected
//	default:
//		switch advice := applebusiness.Troubleshoot(err); advice.Action {
//		case applebusiness.ActionRetry:
//			later(err)
//		case applebusiness.ActionReauthorize:
//			askToReconnect(customer, advice.Remedy)
//		default:
//			slog.Error("Apple Business", "error", err)
//		}
//	}
//
// Where to go from here: [TokenSource] and [Wrap] for failures of golang.org/x/oauth2, [ParseTokenResponse] and
// [ParseTokenError] for an HTTP client of your own, [VerifyCallback] for the redirect URI.
//
// Every function and method can be called from any number of goroutines, and none panics on a nil, zero or hostile
// argument. Nothing that this package renders holds a body, a URL, a state or a credential.
//
// Apple Business is not the API of Apple Business Manager or Apple School Manager (device management): that one signs
// in with a JWT assertion and the scope business.api, and none of this applies to it.
//
// Source: https://business.apple.com/docs/api/v1/oauth_apps/errors
package applebusiness

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/oauth2"
)

const prefix = "applebusiness: "

// What a rendering shows at most of a text from outside, in bytes; the fields hold more.
const (
	renderedCode        = 64
	renderedDescription = 256
)

// Error is an OAuth 2.0 error of Apple Business, or a failure that this package found itself.
//
// Its Reason and Code are matched by errors.Is. The zero Error is usable. An Error must not be changed once it is
// shared; its methods can then be called concurrently, also on a nil *Error.
type Error struct {
	Endpoint    Endpoint      `json:"-"`                           // "" if unknown
	StatusCode  int           `json:"-"`                           // HTTP status; 0 for a redirect
	Code        Code          `json:"error,omitempty"`             // as received, cut at 256 bytes; "" if none was
	Description string        `json:"error_description,omitempty"` // as received, decoded; cut at 4 KiB on a rune boundary
	URI         string        `json:"error_uri,omitempty"`         // error_uri, cut at 4 KiB
	Reason      Reason        `json:"-"`                           // "" if neither Apple's tables nor this package know it
	Parameter   string        `json:"-"`                           // the name in "OAuth 2.0 Parameter: <name> missing"
	GrantType   string        `json:"-"`                           // grant_type of the failed token request, where known
	RequestID   string        `json:"-"`                           // apple-request-id, to quote to Apple's support
	RetryAfter  time.Duration `json:"-"`                           // Retry-After (seconds or date), never negative, at most an hour

	detail string // what this package has to say about a Reason of its own; holds nothing from outside
	err    error  // reached by Unwrap, never rendered
}

// Error returns one line of printable text, at most 2 KiB long: the code, the description in quotes and the status,
// each where known. The code of another server is quoted too. An example:
//
//	applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)
func (e *Error) Error() string {
	if e == nil {
		return prefix + "<nil>"
	}
	var parts []string
	own := e.Reason != "" && e.Reason.Description() == ""
	if own || e.Reason != "" && e.Code == "" && e.Description == "" {
		parts = append(parts, e.Reason.text())
	}
	if e.Code != "" {
		parts = append(parts, e.Code.text())
	}
	if e.Description != "" {
		parts = append(parts, strconv.Quote(cut(e.Description, renderedDescription)))
	}
	if e.detail != "" {
		parts = append(parts, e.detail)
	}
	if len(parts) == 0 {
		parts = append(parts, "no OAuth error was received")
	}
	text := prefix + strings.Join(parts, ": ")
	if e.StatusCode != 0 {
		text += " (HTTP " + strconv.Itoa(e.StatusCode) + ")"
	}
	return text
}

// Is reports whether target is the Reason or the Code of e. The status never matters.
func (e *Error) Is(target error) bool {
	if e == nil {
		return false
	}
	switch target := target.(type) {
	case Reason:
		return target != "" && target == e.Reason
	case Code:
		return target != "" && target == e.Code
	}
	return false
}

// Unwrap returns the error that e was made from, such as an [*oauth2.RetrieveError], or nil. That error may print
// secrets: log e instead.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.err
}

// Format writes what [Error.Error] returns for every verb, so that an Error printed by value shows no more than one
// printed by pointer. It implements [fmt.Formatter].
func (e Error) Format(state fmt.State, verb rune) {
	if state != nil {
		fmt.Fprintf(state, fmt.FormatString(state, verb), e.Error())
	}
}

// LogValue returns a group of endpoint, code, reason, description, status, parameter, grant_type, request_id,
// retry_after, action and impact; empty ones are left out. Texts from outside are freed of control characters and
// cut as in [Error.Error]. It implements [slog.LogValuer].
func (e *Error) LogValue() slog.Value {
	if e == nil {
		return slog.AnyValue(nil)
	}
	advice := Troubleshoot(e)
	attrs := make([]slog.Attr, 0, 11)
	add := func(key, value string, limit int) {
		if value != "" {
			attrs = append(attrs, slog.String(key, printable(value, limit)))
		}
	}
	add("endpoint", string(e.Endpoint), renderedCode)
	add("code", string(e.Code), renderedCode)
	add("reason", string(e.Reason), renderedCode)
	add("description", e.Description, renderedDescription)
	if e.StatusCode != 0 {
		attrs = append(attrs, slog.Int("status", e.StatusCode))
	}
	add("parameter", e.Parameter, renderedCode)
	add("grant_type", e.GrantType, renderedCode)
	add("request_id", e.RequestID, renderedCode)
	if e.RetryAfter != 0 {
		attrs = append(attrs, slog.Duration("retry_after", e.RetryAfter))
	}
	add("action", string(advice.Action), renderedCode)
	add("impact", string(advice.Impact), renderedCode)
	return slog.GroupValue(attrs...)
}

// MarshalJSON returns an object with the members of RFC 6749 section 5.2 and no others: error, error_description and
// error_uri, empty ones left out; null for a nil *Error. The texts are whole, not cut as in [Error.Error].
func (e *Error) MarshalJSON() ([]byte, error) {
	if e == nil {
		return []byte("null"), nil
	}
	return json.Marshal(*e) // the value has no MarshalJSON; the field tags say the rest
}

// CodeOf returns the Code of the first *Error in err's tree, else the first bare [Code] in it, else "".
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e.Code
	}
	code, _ := errors.AsType[Code](err)
	return code
}

// ReasonOf returns the Reason of the first *Error in err's tree, else the first bare [Reason] in it, else "". It
// serves for a switch, and as a metric's label: its values are bounded in number.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e.Reason
	}
	reason, _ := errors.AsType[Reason](err)
	return reason
}

// Wrap returns an *Error around err if a failure of golang.org/x/oauth2 is anywhere in err's tree: an
// [*oauth2.RetrieveError] (from Config.Exchange, a TokenSource, clientcredentials, or inside the *url.Error of a
// client that oauth2.NewClient made), or one of its plain errors, which become [ErrMalformedResponse] or
// [ErrNoRefreshToken]. Anything else is returned unchanged: an *Error, a context's or the network's error, nil.
//
// Wrap first, add context after: the text of the *Error is its own, so context that was added before does not show.
// errors.Is and errors.As still reach err. The GrantType is read from the request that failed, and nothing else is.
func Wrap(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return err
	}
	if failed, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return wrapRetrieveError(failed, err)
	}
	if reason, detail := plainReason(err); reason != "" {
		return &Error{Endpoint: TokenEndpoint, Reason: reason, detail: detail, err: err}
	}
	return err
}

func wrapRetrieveError(failed *oauth2.RetrieveError, err error) *Error {
	if failed == nil {
		return &Error{Endpoint: TokenEndpoint} // without err, whose nil pointer panics when it is printed
	}
	var e *Error
	if response := failed.Response; response != nil {
		e = ParseTokenError(response.StatusCode, response.Header, failed.Body)
		e.GrantType = requestGrantType(response.Request)
	} else {
		e = ParseTokenError(0, nil, failed.Body)
	}
	if e.Code == "" && e.Description == "" {
		e.describe(failed.ErrorCode, failed.ErrorDescription, failed.ErrorURI)
	}
	e.err = err
	return e
}

// plainReasons are the errors of x/oauth2 that have no type, by the beginning of their text.
var plainReasons = []struct {
	text   string
	reason Reason
	detail string
}{
	{"oauth2: token expired and refresh token is not set", ErrNoRefreshToken, "the access token has expired and there is no refresh token"},
	{"oauth2: server response missing access_token", ErrMalformedResponse, "the answer holds no access_token"},
	{"oauth2: cannot parse json", ErrMalformedResponse, "the answer is not JSON"},
	{"oauth2: cannot parse response", ErrMalformedResponse, "the answer is not JSON"},
	{"oauth2: cannot fetch token", ErrMalformedResponse, "the answer could not be read"},
}

// plainReason looks for an untyped error of x/oauth2 in err's tree. It asks only errors made by errors.New for their
// text: a foreign Error method can panic.
func plainReason(err error) (Reason, string) {
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		return plainReason(wrapper.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range wrapper.Unwrap() {
			if reason, detail := plainReason(err); reason != "" {
				return reason, detail
			}
		}
	}
	if reflect.TypeOf(err) == errorStringType {
		for _, plain := range plainReasons {
			if strings.HasPrefix(err.Error(), plain.text) {
				return plain.reason, plain.detail
			}
		}
	}
	return "", ""
}

var errorStringType = reflect.TypeOf(errors.New(""))

// text returns c as renderings show it: bare if it is in this package's vocabulary, else quoted.
func (c Code) text() string {
	switch c {
	case CodeInvalidRequest, CodeInvalidClient, CodeInvalidGrant, CodeInvalidScope, CodeUnsupportedResponseType,
		CodeServerError, CodeInternalServerError, CodeNotFound,
		CodeAccessDenied, CodeUnauthorizedClient, CodeUnsupportedGrantType, CodeTemporarilyUnavailable:
		return string(c)
	}
	return strconv.Quote(cut(string(c), renderedCode))
}

// text returns r as renderings show it: bare if it is a label, else quoted.
func (r Reason) text() string {
	if isName(string(r)) && len(r) <= renderedCode {
		return string(r)
	}
	return strconv.Quote(cut(string(r), renderedCode))
}

// cut returns text, or what of it ends on a rune boundary within limit bytes.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// printable returns text cut at limit, with U+FFFD for whatever cannot be printed.
func printable(text string, limit int) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, cut(text, limit))
}
