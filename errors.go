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
// [ParseTokenError] for an HTTP client of your own, [VerifyRedirect] for the redirect URI.
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
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
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

	// ResponseLost says that an earlier refresh of this grant may have been answered with a refresh token that never
	// arrived. Only package grants sets it.
	ResponseLost bool `json:"-"`

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

// Timeout reports whether e is about a request that took too long, so that a *url.Error around it says so too.
func (e *Error) Timeout() bool {
	if e == nil {
		return false
	}
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.err)
	return ok && timeout.Timeout()
}

// LogAttr returns the attribute "error" for a log line.
func LogAttr(err error) slog.Attr { return slog.Any("error", err) }

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
