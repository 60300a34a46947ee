package applebusiness

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

const (
	maxBody        = 64 << 10 // of a token response or a query
	maxCode        = 256
	maxDescription = 4 << 10
	maxRetryAfter  = time.Hour
)

// ParseTokenResponse returns the token that a response of the token endpoint holds, or an *Error. It reads at most
// 64 KiB of the body, and closes it.
//
// A success is a 2xx with an access_token and without an error: Expiry comes from expires_in, a number or a numeric
// string of seconds, and Token.Extra gives the other members. A 2xx with an error is that error, and with anything else
// [ErrMalformedResponse]. A body that cannot be read to its end is searched for an error too; the *Error then unwraps
// to what the read returned. See [ParseTokenError] for the rest.
func ParseTokenResponse(response *http.Response) (*oauth2.Token, error) {
	if response == nil {
		return nil, &Error{Endpoint: TokenEndpoint, Reason: ErrMalformedResponse, detail: "there is no response"}
	}
	body, readErr := readBody(response.Body)
	if isSuccess(response.StatusCode) && readErr == nil {
		if token := parseToken(body); token != nil {
			return token, nil
		}
	}
	e := ParseTokenError(response.StatusCode, response.Header, body)
	e.GrantType = requestGrantType(response.Request)
	if readErr != nil {
		e.err = readErr
		if e.Reason == ErrMalformedResponse || e.Code == "" && e.Description == "" {
			e.Reason, e.detail = "", "the answer could not be read"
		}
	}
	return nil, e
}

// ParseTokenError returns the error that an answer of the token endpoint holds; never nil. The body is searched up to
// 64 KiB, whatever its content type says.
//
// Besides RFC 6749's members it understands the code and message of Apple's resource API, also in an array. An error
// is found although another member has a wrong type, a byte order mark precedes, or the body is cut after it. What is
// no OAuth answer (the HTML of a proxy, an empty body) gives an *Error with its status and an empty Code. With a 2xx
// status, a body without an error is [ErrMalformedResponse].
func ParseTokenError(statusCode int, header http.Header, body []byte) *Error {
	var parsed struct { // one allocation, not two
		failure Error
		answer  answer
	}
	e, answer := &parsed.failure, &parsed.answer
	*e = Error{
		Endpoint:   TokenEndpoint,
		StatusCode: statusCode,
		RequestID:  cut(first(header["Apple-Request-Id"]), maxCode), // the canonical names, which Get would check first
		RetryAfter: parseRetryAfter(first(header["Retry-After"])),
	}
	answer.decode(body)
	e.describe(
		cmp.Or(answer.Error, answer.Code),
		cmp.Or(answer.Description, answer.Message),
		answer.URI,
	)
	if isSuccess(statusCode) && answer.Error == "" {
		e.Reason, e.Parameter, e.detail = ErrMalformedResponse, "", "a success without an access_token"
	}
	return e
}

// first returns "" if there are no values.
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// ParseRedirect returns the code and the state of a redirect's raw query; a leading "?" is allowed. It does not verify
// state: use [VerifyRedirect] in a handler.
//
// The error is an *Error: the one that Apple sent, also where a code stands beside it, or [ErrMalformedRedirect] if the
// query cannot be decoded, is longer than 64 KiB, repeats an OAuth parameter or has neither a code nor an error. Other
// parameters are ignored. State is set even then, unless it is repeated.
func ParseRedirect(query string) (Redirect, error) {
	callback, err := decodeCallback(strings.TrimPrefix(query, "?"))
	redirect := Redirect{State: callback.state}
	if err == nil {
		redirect.Code, err = callback.result()
	}
	return redirect, err
}

// callback is what a redirect's query says.
type callback struct {
	code, errorCode, description, uri, state string

	repeated string // a parameter other than state that is there twice
}

// decodeCallback decodes a redirect's query, and refuses one whose state is doubtful. It returns no map, so that the
// decoded query stays on the stack.
func decodeCallback(query string) (callback, error) {
	if len(query) > maxBody {
		return callback{}, malformedRedirect("the query is too long")
	}
	values, err := url.ParseQuery(query)
	if len(values["state"]) > 1 {
		return callback{}, malformedRedirect("state is repeated")
	}
	state := values.Get("state")
	if err != nil {
		return callback{state: state}, malformedRedirect("the query cannot be decoded") // err quotes the query
	}
	found := callback{
		code: values.Get("code"), errorCode: values.Get("error"),
		description: values.Get("error_description"), uri: values.Get("error_uri"), state: state,
	}
	for _, name := range [...]string{"code", "error", "error_description", "error_uri"} {
		if found.repeated == "" && len(values[name]) > 1 {
			found.repeated = name
		}
	}
	return found, nil
}

// result returns the code that the redirect brings, or its error.
func (c callback) result() (string, error) {
	switch {
	case c.repeated != "":
		return "", malformedRedirect(c.repeated + " is repeated")
	case c.errorCode != "":
		e := &Error{Endpoint: AuthorizationEndpoint}
		e.describe(c.errorCode, c.description, c.uri)
		return "", e
	case c.code != "":
		return c.code, nil
	}
	return "", malformedRedirect("neither code nor error")
}

func malformedRedirect(detail string) *Error {
	return &Error{Endpoint: AuthorizationEndpoint, Reason: ErrMalformedRedirect, detail: detail}
}

// answer is what an error answer can hold: RFC 6749's members, and those of Apple's resource API.
type answer struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	URI         string `json:"error_uri"`
	Code        string `json:"code"`
	Message     string `json:"message"`
}

// decode sets whatever members can be read from body.
func (a *answer) decode(body []byte) {
	body = trimBody(body)
	err := json.Unmarshal(body, a)
	if _, wrongType := errors.AsType[*json.UnmarshalTypeError](err); err == nil || wrongType && body[0] == '{' {
		return // a member of a wrong type is skipped, the others are set
	}
	// An array, or broken: read member by member as far as it goes.
	decoder := json.NewDecoder(bytes.NewReader(body))
	token, _ := decoder.Token()
	if token == json.Delim('[') {
		token, _ = decoder.Token()
	}
	*a = answer{}
	if token != json.Delim('{') {
		return
	}
	members := map[string]*string{
		"error": &a.Error, "error_description": &a.Description, "error_uri": &a.URI,
		"code": &a.Code, "message": &a.Message,
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			break
		}
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			break
		}
		if name, _ := name.(string); members[name] != nil {
			_ = json.Unmarshal(value, members[name])
		}
	}
}

// parseToken returns the token that the body of a success holds, or nil.
func parseToken(body []byte) *oauth2.Token {
	var members map[string]any
	if json.Unmarshal(trimBody(body), &members) != nil {
		return nil
	}
	text := func(name string) string { value, _ := members[name].(string); return value }
	failure := members["error"]
	if text("access_token") == "" || failure != nil && failure != "" {
		return nil
	}
	token := &oauth2.Token{
		AccessToken:  text("access_token"),
		TokenType:    text("token_type"),
		RefreshToken: text("refresh_token"),
	}
	seconds, ok := members["expires_in"].(float64)
	if !ok {
		number, err := strconv.ParseFloat(text("expires_in"), 64)
		seconds, ok = number, err == nil && !math.IsNaN(number)
	}
	if ok {
		token.ExpiresIn = int64(min(max(seconds, 0), math.MaxInt32))
		token.Expiry = time.Now().Add(time.Duration(token.ExpiresIn) * time.Second)
	}
	return token.WithExtra(members)
}

// readBody reads at most maxBody bytes, and closes body.
func readBody(body io.ReadCloser) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, maxBody))
}

func trimBody(body []byte) []byte {
	return bytes.TrimPrefix(body[:min(len(body), maxBody)], []byte("\ufeff"))
}

func isSuccess(statusCode int) bool { return statusCode >= 200 && statusCode <= 299 }

// parseRetryAfter returns the wait that a Retry-After header asks for (RFC 9110 section 10.2.3), 0 if it cannot be read.
func parseRetryAfter(value string) time.Duration {
	if value == "" {
		return 0 // as nearly always; to fail at parsing it would cost a third of the whole error
	}
	wait := time.Duration(0)
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		wait = time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = time.Until(date)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// describe sets the texts that were received, and what they mean.
func (e *Error) describe(code, description, uri string) {
	e.Code = Code(cut(code, maxCode))
	e.Description = cut(description, maxDescription)
	e.URI = cut(uri, maxDescription)
	e.Reason, e.Parameter = match(e.StatusCode, e.Code, e.Description)
}

// patterns are the documented texts with a part that varies, in the catalog's words before and after it.
var patterns = [...]struct {
	before, after string
	reason        Reason
}{
	{"OAuth 2.0 Parameter: ", " missing", ErrMissingParameter},
	{"Missing fields in POST body ", " required", ErrMissingFields},
	{"grant_type is invalid. Accepted values:", "", ErrInvalidGrantType},
	{"scope is invalid. Accepted values:", "", ErrScopeNotAccepted},
}

// index is the catalog arranged for matching, so that a match costs the same however long the catalog grows.
var index = newIndex()

type catalogIndex struct {
	byText map[string]Reason // by Apple's text, as it is and as foldText leaves it
	codes  map[Reason][]Code // that Apple lists
}

func newIndex() catalogIndex {
	index := catalogIndex{byText: make(map[string]Reason), codes: make(map[Reason][]Code)}
	for _, entry := range catalog {
		index.codes[entry.Reason] = append(index.codes[entry.Reason], entry.Code)
		if entry.Reason != ErrEndpointNotFound { // its text is a code too: see isNotFound
			index.byText[entry.Description] = entry.Reason
			index.byText[foldText(entry.Description)] = entry.Reason
		}
	}
	return index
}

// match returns the Reason that a code and a description mean, and the parameter that the description names.
func match(statusCode int, code Code, description string) (reason Reason, parameter string) {
	reason = index.byText[description]
	if reason == "" {
		reason = index.byText[foldText(description)]
	}
	if reason == "" {
		reason, parameter = matchPattern(spaceText(description))
	}
	switch {
	case reason != "" && (code == "" || slices.Contains(index.codes[reason], code)):
		return reason, parameter
	case statusCode == http.StatusNotFound && isNotFound(code, description):
		return ErrEndpointNotFound, ""
	}
	return "", ""
}

func matchPattern(text string) (reason Reason, parameter string) {
	for _, pattern := range patterns {
		end := len(text) - len(pattern.after)
		if end < len(pattern.before) || !strings.EqualFold(text[:len(pattern.before)], pattern.before) ||
			!strings.EqualFold(text[end:], pattern.after) {
			continue
		}
		varying := text[len(pattern.before):end]
		switch {
		case pattern.reason == ErrMissingParameter && isName(varying):
			return pattern.reason, varying
		case pattern.reason != ErrMissingParameter && isList(varying):
			return pattern.reason, ""
		}
	}
	return "", ""
}

// isNotFound reports whether an answer at 404 holds the catalog's row for it, in either order of the columns, or half
// of it.
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

// isName reports whether text is a parameter name in the characters of RFC 6749 appendix A.
func isName(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
	})
}

// isList reports whether text is a list of names as Apple writes it: "a, b and c", or nothing.
func isList(text string) bool {
	text = strings.NewReplacer(" and ", ",", " or ", ",").Replace(strings.ToLower(text))
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" && !isName(item) {
			return false
		}
	}
	return true
}

// requestGrantType returns the grant_type of a token request, and "" if it cannot be had. It looks at nothing else:
// the rest of the request is secret.
func requestGrantType(request *http.Request) string {
	if request == nil || request.GetBody == nil {
		return ""
	}
	reader, err := request.GetBody()
	if err != nil {
		return ""
	}
	body, err := readBody(reader)
	if err != nil {
		return ""
	}
	var fields struct {
		GrantType string `json:"grant_type"`
	}
	if json.Unmarshal(body, &fields) == nil {
		return cut(fields.GrantType, maxCode)
	}
	form, _ := url.ParseQuery(string(body))
	return cut(form.Get("grant_type"), maxCode)
}
