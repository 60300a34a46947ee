// Package applebusiness turns the OAuth 2.0 errors of Apple Business into Go errors, and says what to do about them.
//
// Apple's [error page] lists 25 rows over two endpoints, where one code can stand for opposite things: "invalid_grant" is a
// bug in one row and a customer who disconnected in another. This package holds that table ([Catalog]), finds the row that a
// response or a redirect means, and gives errors.Is the [Reason] (what exactly) and the [Code] (which class). [Troubleshoot]
// tells what to do and who is affected, and [Retryable] whether the same request may be sent again.
//
//	token, err := (&applebusiness.TokenSource{Source: config.TokenSource(ctx, stored)}).Token()
//	switch {
//	case err == nil:
//		use(token)
//	case errors.Is(err, applebusiness.ErrInvalidCredentials):
//		page("the client secret was replaced", err) // every customer is affected
//	default:
//		switch applebusiness.Troubleshoot(err).Action {
//		case applebusiness.ActionRetry:
//			tryLater(customer)
//		case applebusiness.ActionReauthorize:
//			askToReconnect(customer)
//		default:
//			slog.Error("Apple Business", applebusiness.LogAttr(err))
//		}
//	}
//
// Where to go from here: package grants keeps the grants of all customers alive. [WithJSON], [TokenSource] and [Wrap]
// are for golang.org/x/oauth2 without it, [ParseTokenResponse] and [ParseTokenError] for an HTTP client of your own,
// [VerifyRedirect] for the redirect URI, [LogAttr] for logs, [Label] for metrics, and package applebusinesstest for tests.
//
// Every function and method can be called from any number of goroutines. Zero values, a nil *Error, a request without a
// URL and a nil pointer in an error's tree do no harm, and nothing that comes from outside makes this package panic.
//
// Nothing that this package renders holds a body, a state or a credential. Texts of Apple's table are shown as they are,
// and of any other text what is recognised: words of at most 15 ASCII letters, numbers of up to 3 digits and the names of
// OAuth's parameters. The rest is ***, since a secret that a server repeats can be encoded in any way.
//
// None of this applies to the API of Apple Business Manager and Apple School Manager (device management), which signs in
// with a JWT assertion and the scope business.api.
//
// [error page]: https://business.apple.com/docs/api/v1/oauth_apps/errors
package applebusiness

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

const prefix = "applebusiness: "

// renderedText is how many bytes of a text from outside are shown at most; the fields hold more.
const renderedText = 256

// Error is an OAuth 2.0 error of Apple Business, or a failure that this package found itself.
//
// Its Reason and Code are matched by errors.Is. The zero Error is usable. An Error must not be changed once it is shared;
// its methods can be called concurrently, also on a nil *Error. Its fields hold more than is rendered, but after a token
// request never a value of 8 bytes and more that was sent.
type Error struct {
	Endpoint    Endpoint      `json:"-"`                           // "" if unknown
	StatusCode  int           `json:"-"`                           // HTTP status; 0 for a redirect
	Code        Code          `json:"error,omitempty"`             // as received, cut at 256 bytes; "" if there was none
	Description string        `json:"error_description,omitempty"` // as received, decoded; cut at 4 KiB on a rune boundary
	URI         string        `json:"error_uri,omitempty"`         // error_uri, cut at 4 KiB
	Reason      Reason        `json:"-"`                           // "" for an OAuth error that Apple's table does not list
	Parameter   string        `json:"-"`                           // the name in "OAuth 2.0 Parameter: <name> missing"
	GrantType   string        `json:"-"`                           // grant_type of the failed token request, where known
	RequestID   string        `json:"-"`                           // apple-request-id, to quote to Apple's support
	RetryAfter  time.Duration `json:"-"`                           // Retry-After (seconds or date), never negative, at most an hour

	// ResponseLost says that the response to an earlier request with the same token or code, and a new refresh token with
	// it, may never have arrived. Package grants sets it, and [Transport] where its request was written twice.
	ResponseLost bool `json:"-"`

	detail string // what this package has to say about a Reason of its own; holds nothing from outside
	err    error  // reached by Unwrap, never rendered

	unsent bool // the request certainly did not leave: no connection was made
	ended  bool // the caller's context had ended before anything was sent
	edge   bool // the response looks like those by which Apple's edge drops a request that works minutes later
}

// Error returns one line of ASCII, at most 2 KiB long: the code, the description in quotes and the status, each where known.
// The code of another server is quoted too. An example:
//
//	applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)
func (e *Error) Error() string {
	if e == nil {
		return prefix + "<nil>"
	}
	var parts []string
	if e.Reason != "" && (e.Reason.Description() == "" || e.Code == "" && e.Description == "") {
		parts = append(parts, e.Reason.text())
	}
	if e.Code != "" {
		parts = append(parts, e.Code.text())
	}
	if e.Description != "" {
		parts = append(parts, strconv.QuoteToASCII(e.shownDescription()))
	}
	if e.detail != "" {
		parts = append(parts, e.detail)
	}
	text := prefix + cmp.Or(strings.Join(parts, ": "), "no OAuth error was received")
	if e.StatusCode != 0 {
		text += " (HTTP " + strconv.Itoa(e.StatusCode) + ")"
	}
	return text
}

// shownDescription returns a text of Apple's table as it is, and what may be shown of any other.
func (e *Error) shownDescription() string {
	if matchText(e.Description) != "" {
		return redact.Cut(e.Description, renderedText)
	}
	return redact.Show(e.Description, renderedText)
}

// text returns c as the text of an error has it: quoted if it is not in this package's vocabulary.
func (c Code) text() string {
	if c.isKnown() {
		return string(c)
	}
	return strconv.Quote(c.shown())
}

func (c Code) shown() string {
	if c.isKnown() {
		return string(c)
	}
	return redact.Code(string(c))
}

// isKnown reports whether c is one of this package's constants: those with advice of their own, and one without.
func (c Code) isKnown() bool {
	_, known := adviceByCode[c]
	return known || c == CodeAccessDenied
}

// text returns r as renderings show it: bare if it is a label.
func (r Reason) text() string {
	if redact.Code(string(r)) != string(r) {
		return strconv.Quote(redact.Mask)
	}
	return string(r)
}

// Is reports whether target is the Reason or the Code of e. The status never matters.
func (e *Error) Is(target error) bool {
	return e != nil && (e.Reason != "" && target == e.Reason || e.Code != "" && target == e.Code)
}

// Unwrap returns the error that e was made from, such as an [*oauth2.RetrieveError], or nil. It may print secrets: log e.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.err
}

// Format writes what [Error.Error] returns, whatever the verb, also of an Error by value. It implements [fmt.Formatter].
func (e Error) Format(state fmt.State, verb rune) { formatText(state, verb, e.Error()) }

// formatText is the Format method of a type that is printed as text whatever the verb.
func formatText(state fmt.State, verb rune, text string) {
	fmt.Fprintf(state, fmt.FormatString(state, verb), text)
}

// MarshalJSON returns an object with the members of RFC 6749 section 5.2 (error, error_description and error_uri) that are
// known, as [Error.Error] shows them. An error_uri is shown if it is an https URL of nothing but words.
func (e Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(texts{Error: e.Code.shown(), Description: e.shownDescription(), URI: redact.URI(e.URI)})
}

// LogValue returns a group of endpoint, code, reason, description, detail (what this package found, in a fixed set of
// words), status, parameter, grant_type, request_id, retry_after (a text such as "30s"), response_lost, action and impact;
// empty ones are left out. Texts from outside are shown as in [Error.Error], and a request_id if it is a UUID or 26
// characters of base32 that are no text in disguise, or made of words and a number. It implements [slog.LogValuer];
// [LogAttr] finds an *Error inside another error too.
func (e *Error) LogValue() slog.Value {
	if e == nil {
		return slog.AnyValue(nil)
	}
	advice := Troubleshoot(e)
	return slog.GroupValue(withoutEmpty(
		slog.String("endpoint", redact.Code(string(e.Endpoint))),
		slog.String("code", e.Code.shown()),
		slog.String("reason", redact.Code(string(e.Reason))),
		slog.String("description", e.shownDescription()),
		slog.String("detail", e.detail),
		slog.Int("status", e.StatusCode),
		slog.String("parameter", redact.Code(e.Parameter)),
		slog.String("grant_type", redact.Code(e.GrantType)),
		slog.String("request_id", redact.RequestID(e.RequestID)),
		slog.String("retry_after", e.RetryAfter.String()), // of a Duration slog's JSON would show nanoseconds
		slog.Bool("response_lost", e.ResponseLost),
		slog.String("action", string(advice.Action)),
		slog.String("impact", string(advice.Impact)),
	)...)
}

func withoutEmpty(attrs ...slog.Attr) []slog.Attr {
	return slices.DeleteFunc(attrs, func(attr slog.Attr) bool {
		value := attr.Value.Any()
		return value == "" || value == int64(0) || value == false || value == "0s"
	})
}

// Timeout reports whether e is about a request that took too long, so that a *url.Error around it says so too.
func (e *Error) Timeout() bool { return e != nil && neterr.Timeout(e.err) }

// Unsent reports whether the token request certainly did not leave: no connection was made, the context had ended, or
// [Transport] refused it. What it carried is not spent: an authorization code can be exchanged again, even where [Retryable]
// is false because the request has to be corrected first. False means that nobody knows, as for an error that did not come
// out of Transport. Compare SafeToRetry of github.com/jackc/pgx/v5/pgconn.
func (e *Error) Unsent() bool { return e != nil && e.unsent }

// CodeOf returns the Code of the first *Error in err's tree, else the first bare [Code] in it, else "".
func CodeOf(err error) Code { return cmp.Or(find(err), new(Error)).Code }

// ReasonOf returns the Reason of the first *Error in err's tree, else the first bare [Reason] in it, else "". It serves for
// a switch; a metric takes [Label], since "" says both that Apple's page has changed and that the error is no OAuth error.
func ReasonOf(err error) Reason { return cmp.Or(find(err), new(Error)).Reason }

// Label returns a label for a metric, one of a bounded number: that of the [Reason] of what [Wrap] finds in err's tree, or
// "undocumented" for an OAuth error that Apple's table does not list: if their number rises, Apple's page has changed. For
// other errors it is "canceled" if a context was, "network" for a failure of the network, or "other"; for nil it is "".
func Label(err error) string {
	if err == nil {
		return ""
	}
	switch e := find(Wrap(err)); {
	case e != nil && e.Reason == "" && e.Code != "":
		return "undocumented"
	case e != nil:
		if _, isOurs := adviceByReason[e.Reason]; isOurs {
			return string(e.Reason)
		}
	case neterr.Is(err, context.Canceled):
		return "canceled"
	case neterr.Of(err).Known:
		return "network"
	}
	return "other"
}

// LogAttr returns an attribute with the key "error" for a log line about err. Its value is a group: the members of
// [Error.LogValue] for the *Error that [Wrap] finds anywhere in err's tree, and as "context" what was added around it. For
// another error it is err's text as "message", and the action and impact of [Troubleshoot] where there are any. Context
// and message are shown as [Error.Error] shows texts from outside, so a customer's id is better an attribute of its own.
//
//	slog.Error("refresh failed", "customer", id, applebusiness.LogAttr(err))
func LogAttr(err error) slog.Attr {
	if err == nil {
		return slog.Any("error", nil)
	}
	var attrs []slog.Attr
	if e := find(Wrap(err)); e != nil {
		attrs = append(withoutEmpty(slog.String("context", addedContext(err))), e.LogValue().Group()...)
	} else {
		advice := Troubleshoot(err)
		attrs = append(attrs, slog.String("message", redact.Show(neterr.Text(err), renderedText)))
		attrs = append(attrs, withoutEmpty(slog.String("action", string(advice.Action)), slog.String("impact", string(advice.Impact)))...)
	}
	return slog.Attr{Key: "error", Value: slog.GroupValue(attrs...)}
}

// addedContext returns what stands in err's text around the failure itself, the outermost error that is no mere wrapper.
func addedContext(err error) string {
	var failure error
	for _, node := range neterr.Tree(err) {
		switch node.(type) {
		case *Error, Reason, Code, *url.Error, oauth2Failure:
			failure = cmp.Or(failure, node)
		}
	}
	before, after, found := strings.Cut(neterr.Text(err), neterr.Text(failure))
	if failure == nil || !found {
		return ""
	}
	return redact.Show(strings.Trim(before+after, ": \n"), renderedText)
}

// find returns the first *Error in err's tree, else one for the first bare Reason or Code in it, else nil.
func find(err error) *Error {
	var bare *Error
	for _, node := range neterr.Tree(err) {
		switch node := node.(type) {
		case *Error:
			return node
		case Reason:
			bare = cmp.Or(bare, &Error{Reason: node})
		case Code:
			bare = cmp.Or(bare, &Error{Code: node})
		}
	}
	return bare
}
