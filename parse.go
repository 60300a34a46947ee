package applebusiness

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

const (
	maxBody        = 64 << 10 // of an error response, a request or a query
	maxTokenBody   = 1 << 20  // of a success, as x/oauth2 has it
	maxCode        = 256
	maxDescription = 4 << 10

	documentedLife = 60 * time.Minute // of an access token
	longestLife    = 24 * time.Hour
)

// ParseTokenResponse returns the token that a response of the token endpoint holds, or an *Error. It reads at most 1 MiB
// of a 2xx body and 64 KiB of any other, and closes it.
//
// A success is a 2xx whose body is a JSON object with an access_token and without an error. A token is a text of printable
// ASCII without space (RFC 6749 appendix A): with anything else as access_token or refresh_token a response is no success,
// lest it replace a token that works. A refresh_token of null or "" counts as absent. Expiry comes from expires_in, any
// number or numeric text of seconds: 0 or less means expired at once, and where it is absent, cannot be read or is over 24
// hours (milliseconds, or an instant) it is Apple's documented 60 minutes. Token.Extra gives the other members. A 2xx with
// an error is that error, and with anything else [ErrMalformedResponse].
//
// A body that breaks off is searched too; if it holds neither a token nor an error, the *Error is [ErrNoResponse] around
// what the read returned. The rest is as [ParseTokenError] has it. Values of response.Request's body are masked as
// [Transport] masks them, and its grant_type becomes [Error.GrantType].
func ParseTokenResponse(response *http.Response) (*oauth2.Token, error) {
	if response == nil {
		return nil, &Error{Endpoint: TokenEndpoint, Reason: ErrMalformedResponse, detail: "there is no response"}
	}
	_, token, failure := parseResponse(response, readTokenRequest(response.Request))
	if token != nil {
		return token, nil
	}
	return nil, cmp.Or(carried(response.Request), failure)
}

// parseResponse reads a response, closes it, and returns its body, unzipped, and the token or the failure that it means.
func parseResponse(response *http.Response, sent tokenRequest) (body []byte, token *oauth2.Token, e *Error) {
	var readErr error
	if response.Body != nil {
		defer response.Body.Close()
		limit := maxBody
		if isSuccess(response.StatusCode) {
			limit = maxTokenBody
		}
		body, readErr = readAll(response.Body, limit)
		body = unzip(body, limit)
	}
	if token, _ = parseToken(body); token != nil && isSuccess(response.StatusCode) {
		return body, token, nil
	}
	e = parseError(response.StatusCode, response.Header, body, sent, texts{})
	if e.err = readErr; readErr == nil || e.Code != "" || e.Description != "" {
		return body, nil, e
	}
	e.Reason, e.detail = ErrNoResponse, "the response was truncated"
	switch {
	case neterr.Timeout(readErr):
		e.detail = "the response timed out"
	case neterr.Is(readErr, gzip.ErrHeader):
		e.detail = "the response is labelled gzip and is not"
	}
	return body, nil, e
}

// ParseTokenError returns the error that 64 KiB of a token endpoint's response hold, whatever its content type; never nil.
//
// Besides RFC 6749's members it understands a form-encoded error and three other dialects: code and message as of Apple's
// resource API, also in an array; errors with code and detail; and error with code and message. An error is found although
// another member has a wrong type, a byte order mark precedes, the body is gzip without a label, or it is cut after it.
//
// Retry-After becomes [Error.RetryAfter] at whatever status: seconds, also with a fraction or the first of a list; and less
// the response's own Date, if any, a date in HTTP's forms or with a numeric zone, or seconds or milliseconds since 1970.
//
// An "error" of several words, or one that is the reason phrase of an HTTP status ("Bad Request", "Unauthorized"), is a
// framework's page and no OAuth error. A response without an OAuth error has a Reason of its own: [ErrRateLimited] at 429,
// [ErrUnavailable] at 408, 425 and 5xx except 501, 505 and 511, else [ErrMalformedResponse].
func ParseTokenError(statusCode int, header http.Header, body []byte) *Error {
	return parseError(statusCode, header, body, tokenRequest{}, texts{})
}

// parseError is ParseTokenError with the request, whose values are masked, and with what x/oauth2 has found in the body.
func parseError(statusCode int, header http.Header, body []byte, sent tokenRequest, found texts) *Error {
	body = unzip(body[:min(len(body), maxBody)], maxBody)
	if found.Error == "" {
		found = decodeTexts(body)
	}
	e := &Error{Endpoint: TokenEndpoint, StatusCode: statusCode, GrantType: sent.grantType()}
	e.RequestID = sent.mask(header.Get("Apple-Request-Id"), maxCode)
	if wait := header.Get("Retry-After"); wait != "" {
		e.RetryAfter = neterr.RetryAfter(wait, header.Get("Date"))
	}
	e.describe(found, sent)
	e.classify(found.Error, header, body)
	return e
}

// describe sets the texts that were received, in which values of the request are masked, and what they mean.
func (e *Error) describe(found texts, sent tokenRequest) {
	code, description := cmp.Or(found.Error, found.Code), cmp.Or(found.Description, found.Message)
	e.Code, e.Description = Code(redact.Cut(code, maxCode)), redact.Cut(description, maxDescription)
	e.Reason, e.Parameter = match(e.StatusCode, e.Code, e.Description)
	if !e.Code.isKnown() {
		e.Code = Code(sent.mask(code, maxCode))
	}
	if matchText(e.Description) == "" {
		e.Description = sent.mask(description, maxDescription)
	}
	e.URI, e.Parameter = sent.mask(found.URI, maxDescription), sent.mask(e.Parameter, maxDescription)
}

// classify sets the Reason of a response that is no OAuth error of Apple's table. member is its "error", "" if it has none.
func (e *Error) classify(member string, header http.Header, body []byte) {
	switch {
	case isSuccess(e.StatusCode) && !isCode(member):
		e.Reason, e.Parameter = ErrMalformedResponse, ""
		_, e.detail = parseToken(body)
	case e.Reason != "" || isCode(member) && (e.StatusCode != http.StatusTooManyRequests || e.Code.isKnown()):
		return // an undocumented OAuth error keeps the empty Reason
	case e.StatusCode == http.StatusTooManyRequests:
		e.Reason = ErrRateLimited
	case neterr.StatusPasses(e.StatusCode):
		e.Reason = ErrUnavailable
	default:
		e.Reason = ErrMalformedResponse
	}
	e.edge = isEdge(e.StatusCode, header, body)
}

// isCode reports whether an "error" member can be the code of an OAuth error. A sentence is none, nor a number, nor the
// reason phrase of an HTTP status, which frameworks put there.
func isCode(member string) bool {
	return Code(member).isKnown() ||
		strings.Trim(member, "0123456789") != "" && !strings.ContainsFunc(member, unicode.IsSpace) && neterr.StatusOf(member) == 0
}

// isEdge reports whether a response looks like those by which the edge in front of Apple's services drops a request: an
// empty 204, a 3xx without Location, or HTML of its own that ends in "Apple".
func isEdge(statusCode int, header http.Header, body []byte) bool {
	return statusCode == http.StatusNoContent && len(body) == 0 ||
		statusCode >= 300 && statusCode <= 399 && len(header["Location"]) == 0 ||
		(statusCode == http.StatusForbidden || statusCode == http.StatusNotFound) && edgePage.Match(body)
}

var edgePage = regexp.MustCompile(`(?s)^\s*<.*Apple\s*(<[^<]*>\s*)*$`)

// texts is what an error response can hold: RFC 6749's members, and code and message of other dialects.
type texts struct {
	Error       string `json:"error,omitempty"`
	Description string `json:"error_description,omitempty"`
	URI         string `json:"error_uri,omitempty"`
	Code        string `json:"-"`
	Message     string `json:"-"`
}

// decodeTexts returns whatever can be read from body, members or a form.
func decodeTexts(body []byte) (t texts) {
	if _ = json.Unmarshal(body, &t); t.Error != "" && t.Description != "" { // mostly; what it does not take is looked for below
		return t
	}
	found, _ := decodeMembers(body)
	if found == nil {
		text := string(bytes.TrimSpace(trimMark(body)))
		form, _ := url.ParseQuery(text)                                       // as far as it decodes
		if form.Has("error") && !strings.ContainsAny(text, " \t\r\n<>\"{}") { // nothing but a form
			t = texts{Error: form.Get("error"), Description: form.Get("error_description"), URI: form.Get("error_uri")}
		}
		return t
	}
	t = texts{found.text("error"), found.text("error_description"), found.text("error_uri"), found.text("code"), found.text("message")}
	for _, name := range [...]string{"errors", "error"} {
		if t == (texts{}) {
			nested, _ := decodeMembers(found.get(name))
			t.Code, t.Message = nested.text("code"), cmp.Or(nested.text("message"), nested.text("detail"), nested.text("title"))
		}
	}
	return t
}

// members are those of a JSON object.
type members map[string]json.RawMessage

// decodeMembers returns the members of an object, or of the first in an array, and whether body begins with a whole object.
func decodeMembers(body []byte) (found members, isObject bool) {
	body = trimMark(body)
	object := trimMark(bytes.TrimPrefix(body, []byte("[")))
	if !bytes.HasPrefix(object, []byte("{")) {
		return nil, false
	}
	decoder := json.NewDecoder(bytes.NewReader(object))
	_, _ = decoder.Token()
	found = make(members)
	for decoder.More() {
		token, _ := decoder.Token() // where it fails the next call does
		var member json.RawMessage
		if decoder.Decode(&member) != nil {
			return found, false
		}
		name, _ := token.(string)
		found[name] = member
	}
	end, _ := decoder.Token()
	return found, body[0] == '{' && end == json.Delim('}')
}

// get returns a member whose name may have other letters, and nil for null and for an empty text.
func (m members) get(name string) json.RawMessage {
	member, spelled := m[name], ""
	for other := range m {
		if (member == nil || spelled != "") && other > spelled && strings.EqualFold(other, name) { // in no order
			member, spelled = m[other], other
		}
	}
	if text := string(member); text == "null" || text == `""` {
		return nil
	}
	return member
}

// text returns "" for a member of another type.
func (m members) text(name string) (text string) {
	_ = json.Unmarshal(m.get(name), &text)
	return text
}

// isToken reports whether text can be an access token or a refresh token: VSCHAR without space.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// parseToken returns the token that the body of a success holds, or nil and what it is instead.
func parseToken(body []byte) (token *oauth2.Token, instead string) {
	found, isObject := decodeMembers(body)
	token = &oauth2.Token{AccessToken: found.text("access_token"), RefreshToken: found.text("refresh_token")}
	switch {
	case !isObject || found.get("access_token") == nil:
		return nil, "a success without an access_token" + kindOf(body)
	case !isToken(token.AccessToken):
		return nil, "a success whose access_token is no token"
	case found.get("refresh_token") != nil && !isToken(token.RefreshToken):
		return nil, "a success whose refresh_token is no token"
	case !slices.Contains([]string{"", "false", "0", "{}", "[]"}, string(found.get("error"))): // those say that there is none
		return nil, "a success with an error beside its access_token"
	}
	life := parseLife(found.get("expires_in"))
	token.Expiry, token.ExpiresIn = time.Now().Add(life), int64(life/time.Second)
	if name := found.text("token_type"); isToken(name) {
		token.TokenType = name
	}
	var all map[string]any
	_ = json.NewDecoder(bytes.NewReader(trimMark(body))).Decode(&all) // a number that no float64 holds is left out
	return token.WithExtra(all), ""
}

// kindOf says what a body without an access_token is, unless it is an object or unknown.
func kindOf(body []byte) string {
	text := bytes.TrimSpace(trimMark(body))
	switch isValid := json.Valid(text); {
	case body == nil, isValid && text[0] == '{':
		return ""
	case isValid:
		return ": the body is JSON, but no object"
	case len(text) == 0:
		return ": the body is empty"
	case text[0] == '<':
		return ": the body is HTML or XML"
	case text[0] == '{':
		return ": the body is broken JSON"
	}
	return ": the body is not JSON"
}

// parseLife returns the life of an access token: what expires_in says, never negative and at most a day, or as documented.
func parseLife(member json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Trim(string(member), `" `), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(seconds) || seconds > longestLife.Seconds() { // milliseconds, or an instant
		return documentedLife
	}
	return time.Duration(max(seconds, 0)) * time.Second
}

// readAll reads at most limit bytes.
func readAll(reader io.Reader, limit int) ([]byte, error) {
	return io.ReadAll(io.LimitReader(reader, int64(limit)))
}

// unzip returns at most limit bytes of what body holds, if it is gzip. A server and a proxy may both have zipped it.
func unzip(body []byte, limit int) []byte {
	for i := 0; i < 2 && bytes.HasPrefix(body, []byte("\x1f\x8b")); i++ {
		reader, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			break
		}
		body, _ = readAll(reader, limit)
	}
	return body
}

// trimMark returns body without a byte order mark and leading space.
func trimMark(body []byte) []byte { return bytes.TrimLeft(body, "\ufeff \t\r\n") }

func isSuccess(statusCode int) bool { return statusCode >= 200 && statusCode <= 299 }

// readBody returns the body of a request, which it closes, or why it is not to be sent.
func readBody(r *http.Request) ([]byte, *Error) {
	if r.Body == nil {
		return nil, nil
	}
	defer r.Body.Close()
	body, err := readAll(r.Body, maxBody+1)
	switch {
	case err != nil:
		failure := unsafeRequest("its body cannot be read")
		failure.err = err
		return nil, failure
	case len(body) > maxBody:
		return nil, unsafeRequest("its body is larger than 64 KiB")
	}
	return body, nil
}

// readForm returns the body of a token request, which has each field once.
func readForm(r *http.Request) (form tokenRequest, failure *Error) {
	body, failure := readBody(r)
	if failure != nil {
		return form, failure
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return form, unsafeRequest("its form does not decode")
	}
	for name, several := range values {
		if len(several) > 1 {
			return form, unsafeRequest("a field of its form is repeated")
		}
		if !utf8.ValidString(name) || !utf8.ValidString(several[0]) {
			return form, unsafeRequest("a field of its form is not UTF-8")
		}
	}
	return tokenRequest{values}, nil
}
