package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/seed-a5f25c57/applebusiness"
)

// The inputs that hold no error. None of these texts quotes the input.
var (
	errEmpty   = errors.New("the input is empty")
	errNothing = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	errHeaders = errors.New("the headers of the response cannot be read")
	errToken   = errors.New("this is a success, an access token: there is nothing to explain")
	errCode    = errors.New("this is a success, an authorization code: there is nothing to explain")
)

// understand returns the error that input holds.
func understand(input string) (*applebusiness.Error, error) {
	input = strings.TrimSpace(strings.TrimPrefix(input, "\ufeff"))
	if input == "" {
		return nil, errEmpty
	}
	if strings.HasPrefix(input, "HTTP/") {
		return fromResponse(input)
	}
	texts := unescapings(input)
	for _, find := range []func(string) *applebusiness.Error{fromOwnText, fromOAuth2Text, fromLogValue} {
		for _, text := range texts {
			if e := find(text); e != nil {
				return e, nil
			}
		}
	}
	for _, text := range texts {
		if e, err := fromJSON(text); e != nil || err != nil {
			return e, err
		}
	}
	return fromRedirect(texts[len(texts)-1]) // a URL holds no backslash: one in it stands for what it escapes
}

// unescapings returns text, and what it was before it was put into the quotes of a log, up to three times.
func unescapings(text string) []string {
	texts := []string{text}
	for len(texts) < 4 && strings.Contains(text, `\`) {
		text = unescape(text)
		texts = append(texts, text)
	}
	return texts
}

// unescape replaces Go's and JSON's escapes, wherever in text they stand.
func unescape(text string) string {
	var plain strings.Builder
	for {
		before, _, found := strings.Cut(text, `\`)
		plain.WriteString(before)
		if !found {
			return plain.String()
		}
		text = text[len(before):]
		r, multibyte, rest, err := strconv.UnquoteChar(text, '"')
		switch {
		case err != nil: // as in JSON's \/
			text = text[1:]
			continue
		case multibyte:
			plain.WriteRune(r)
		default:
			plain.WriteByte(byte(r))
		}
		text = rest
	}
}

var statusLine = regexp.MustCompile(`^HTTP/[0-9.]+ ([1-5][0-9]{2})(?: .*)?$`)

// fromResponse reads what curl -i prints: any number of header blocks, then the body, which is decoded already
// whatever the headers say.
func fromResponse(text string) (*applebusiness.Error, error) {
	reader := textproto.NewReader(bufio.NewReader(strings.NewReader(text)))
	for {
		line, _ := reader.ReadLine()
		status := statusLine.FindStringSubmatch(line)
		if status == nil {
			return nil, errHeaders
		}
		header, err := reader.ReadMIMEHeader()
		if err != nil && err != io.EOF {
			return nil, errHeaders // err quotes a header
		}
		if location := header.Get("Location"); isCallback(location) {
			return fromQuery(location)
		}
		// An interim answer, a proxy's, or a redirect that curl -L followed.
		if next, _ := reader.R.Peek(len("HTTP/")); string(next) == "HTTP/" {
			continue
		}
		body, err := io.ReadAll(reader.R)
		if err != nil {
			return nil, errHeaders
		}
		code, _ := strconv.Atoi(status[1])
		e, err := fromAnswer(code, http.Header(header), string(body))
		if err != nil {
			return nil, err
		}
		if e.Code == "" && e.Description == "" && e.Reason == "" && code < 300 {
			return nil, errNothing
		}
		return e, nil
	}
}

// fromAnswer returns the error that an answer of the token endpoint holds.
func fromAnswer(status int, header http.Header, body string) (*applebusiness.Error, error) {
	success := &http.Response{StatusCode: cmp.Or(status, http.StatusOK), Body: io.NopCloser(strings.NewReader(body))}
	if _, err := applebusiness.ParseTokenResponse(success); err == nil {
		return nil, errToken
	}
	e := applebusiness.ParseTokenError(status, header, []byte(body))
	if e.Reason == "" && !isConstant(e.Code) && !isErrorCode(body) {
		e.Code = ""
	}
	return e, nil
}

var codeWord = regexp.MustCompile(`^\w+$`)

// isErrorCode reports whether the unknown code that body holds is an error's. The body may also be a line of a log,
// whose "error" is any text, or that of a token request, whose "code" is a secret. So an error is a word or has a
// description, and a code has a message, as in Apple's resource API, and nothing of a request or a log beside it.
func isErrorCode(body string) bool {
	members := readMembers(body)
	if members["error"] != "" {
		return members["error_description"] != "" || codeWord.MatchString(members["error"])
	}
	for _, name := range []string{
		"access_token", "client_id", "client_secret", "code_verifier", "grant_type", "redirect_uri", "refresh_token", "state",
		"level", "severity",
	} {
		if _, ok := members[name]; ok {
			return false
		}
	}
	return members["message"] != ""
}

// readMembers returns the members of the object, or of the first one in the array, that body holds, as far as it can be
// read; "" for those that are no strings.
func readMembers(body string) map[string]string {
	members := make(map[string]string)
	decoder := json.NewDecoder(strings.NewReader(body))
	token, _ := decoder.Token()
	if token == json.Delim('[') {
		token, _ = decoder.Token()
	}
	if token != json.Delim('{') {
		return members
	}
	for decoder.More() {
		name, _ := decoder.Token()
		var value any
		if decoder.Decode(&value) != nil {
			break
		}
		key := strings.ToLower(fmt.Sprint(name)) // as encoding/json matches it
		if text, ok := value.(string); ok || members[key] == "" {
			members[key] = text
		}
	}
	return members
}

var objectStart = regexp.MustCompile(`\{\s*"`)

// fromJSON reads the objects in text as answers, also one inside another. It returns nil if none is.
func fromJSON(text string) (*applebusiness.Error, error) {
	const enough = 8 // each costs as much as the whole text
	for _, start := range objectStart.FindAllStringIndex(text, enough) {
		e, err := fromAnswer(0, nil, text[start[0]:])
		if err != nil {
			return nil, err
		}
		if e.Code != "" || e.Reason != "" {
			locate(e)
			return e, nil
		}
	}
	return nil, nil
}

// fromText returns the error of the token endpoint that these texts mean.
func fromText(status int, code, description string) *applebusiness.Error {
	body, _ := json.Marshal(struct {
		Error       string `json:"error,omitempty"`
		Description string `json:"error_description,omitempty"`
	}{code, description})
	return applebusiness.ParseTokenError(status, nil, body)
}

// locate sets the endpoint of an error that does not tell it: the one that Apple documents it for, if it is one only.
func locate(e *applebusiness.Error) {
	var endpoints []applebusiness.Endpoint
	for entry := range applebusiness.Catalog() {
		if entry.Reason == e.Reason && (entry.Code == e.Code || e.Code == "") && !slices.Contains(endpoints, entry.Endpoint) {
			endpoints = append(endpoints, entry.Endpoint)
		}
	}
	if len(endpoints) == 1 {
		e.Endpoint = endpoints[0]
	}
}

// fromOwnText finds what (*applebusiness.Error).Error returned.
func fromOwnText(text string) *applebusiness.Error {
	for {
		_, rest, found := strings.Cut(text, prefix)
		if !found {
			return nil
		}
		if e := parseOwnText(rest); e != nil {
			return e
		}
		text = rest
	}
}

var (
	ownWord   = regexp.MustCompile(`^(?:404 Not Found|\w+)`)
	ownStatus = regexp.MustCompile(`^[\w', ]*\(HTTP ([1-5][0-9]{2})\)`) // after what the package says itself
)

func parseOwnText(text string) *applebusiness.Error {
	var reason applebusiness.Reason
	var code string
	var quoted []string
	for more := true; more; {
		word := ownWord.FindString(text)
		switch {
		case strings.HasPrefix(text, `\`):
			return nil // still escaped
		case strings.HasPrefix(text, `"`):
			literal, err := strconv.QuotedPrefix(text)
			if err != nil {
				return nil
			}
			unquoted, _ := strconv.Unquote(literal)
			quoted = append(quoted, unquoted)
			text = text[len(literal):]
		case isConstant(applebusiness.Code(word)) && code == "":
			code = word
			text = text[len(word):]
		case isReason(applebusiness.Reason(word)) && reason == "":
			reason = applebusiness.Reason(word)
			text = text[len(word):]
		}
		text, more = strings.CutPrefix(text, ": ")
	}
	status := 0
	if match := ownStatus.FindStringSubmatch(text); match != nil {
		status, _ = strconv.Atoi(match[1])
	}

	var e *applebusiness.Error
	switch {
	case code != "" && len(quoted) > 0:
		e = fromText(status, code, quoted[0])
	case len(quoted) > 1:
		e = fromText(status, quoted[0], quoted[1])
	case len(quoted) == 1:
		e = fromText(status, "", quoted[0])
		if e.Reason == "" && !strings.Contains(quoted[0], " ") { // a code, rather than a text
			e = fromText(status, quoted[0], "")
		}
	case code != "":
		e = fromText(status, code, "")
	case reason != "" || status != 0 && (strings.HasPrefix(text, "no OAuth error was received") || strings.HasPrefix(text, "the answer could not be read")):
		e = &applebusiness.Error{StatusCode: status}
	default:
		return nil
	}
	e.Endpoint = ""
	if reason != "" {
		e.Reason = reason
	}
	locate(e)
	return e
}

var oauth2Status = regexp.MustCompile(`^oauth2: cannot fetch token: ([1-5][0-9]{2})\b[^\n\\]*\n?(?:Response: )?`)

// fromOAuth2Text finds the text of an error of golang.org/x/oauth2.
func fromOAuth2Text(text string) *applebusiness.Error {
	for {
		start := strings.Index(text, "oauth2: ")
		if start < 0 {
			return nil
		}
		text = text[start:]
		if e := parseOAuth2Text(text); e != nil {
			return e
		}
		text = text[len("oauth2: "):]
	}
}

func parseOAuth2Text(text string) *applebusiness.Error {
	if match := oauth2Status.FindStringSubmatch(text); match != nil {
		text = text[len(match[0]):]
		if strings.HasPrefix(text, `\`) {
			return nil // still escaped
		}
		status, _ := strconv.Atoi(match[1])
		e, err := fromAnswer(status, nil, text)
		if err != nil {
			return nil
		}
		return e
	}
	if e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(errors.New(text))); ok {
		return e
	}
	var quoted [2]string
	rest := strings.TrimPrefix(text, "oauth2: ")
	for i := range quoted {
		literal, err := strconv.QuotedPrefix(rest)
		if err != nil || literal[0] != '"' {
			break
		}
		quoted[i], _ = strconv.Unquote(literal)
		rest = strings.TrimPrefix(rest[len(literal):], " ")
	}
	if quoted[0] == "" {
		return nil
	}
	return fromText(0, quoted[0], quoted[1])
}

var (
	logPair   = regexp.MustCompile(`([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s="]+)`)
	snakeCase = regexp.MustCompile(`^[a-z]+(?:_[a-z]+)*$`)
)

// fromLogValue finds what (*applebusiness.Error).LogValue returned, as the handlers of log/slog print it.
func fromLogValue(text string) *applebusiness.Error {
	if start := objectStart.FindStringIndex(text); start != nil {
		var value any
		decoder := json.NewDecoder(strings.NewReader(text[start[0]:]))
		decoder.UseNumber()
		if decoder.Decode(&value) == nil {
			if e := findGroup(value); e != nil {
				return e
			}
		}
	}
	groups := make(map[string]map[string]string)
	var names []string
	for _, pair := range logPair.FindAllStringSubmatch(text, -1) {
		group, member := "", pair[1]
		if dot := strings.LastIndexByte(member, '.'); dot >= 0 {
			group, member = member[:dot], member[dot+1:]
		}
		value := pair[2]
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		if groups[group] == nil {
			groups[group] = make(map[string]string)
			names = append(names, group)
		}
		groups[group][member] = value
	}
	for _, name := range names {
		if e := fromGroup(groups[name]); e != nil {
			return e
		}
	}
	return nil
}

// findGroup looks for a group of LogValue in a decoded line of JSON.
func findGroup(value any) *applebusiness.Error {
	object, _ := value.(map[string]any)
	group := make(map[string]string)
	for name, value := range object {
		switch value := value.(type) {
		case string:
			group[name] = value
		case json.Number:
			group[name] = value.String()
		}
	}
	if e := fromGroup(group); e != nil {
		return e
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if e := findGroup(object[name]); e != nil {
			return e
		}
	}
	return nil
}

// fromGroup returns the error that a group of LogValue shows, nil if group is something else. A code that nobody knows
// is in snake case: any other may be an authorization code in somebody's log.
func fromGroup(group map[string]string) *applebusiness.Error {
	endpoint, reason, code := applebusiness.Endpoint(group["endpoint"]), applebusiness.Reason(group["reason"]), group["code"]
	switch endpoint {
	case applebusiness.TokenEndpoint, applebusiness.AuthorizationEndpoint:
	case "":
		if group["action"] == "" {
			return nil
		}
	default:
		return nil
	}
	if !isConstant(applebusiness.Code(code)) && !snakeCase.MatchString(code) {
		code = ""
	}
	if code == "" && !isReason(reason) {
		return nil
	}
	status, _ := strconv.Atoi(group["status"])
	if status < 100 || status > 599 {
		status = 0
	}
	e := fromText(status, code, group["description"])
	if isReason(reason) {
		e.Reason = reason
	}
	e.Endpoint = endpoint
	e.Parameter = group["parameter"]
	e.GrantType = group["grant_type"]
	e.RequestID = group["request_id"]
	if wait, err := time.ParseDuration(group["retry_after"]); err == nil {
		e.RetryAfter = max(wait, 0) // slog.TextHandler
	} else if wait, err := strconv.ParseInt(group["retry_after"], 10, 64); err == nil {
		e.RetryAfter = time.Duration(max(wait, 0)) // slog.JSONHandler
	}
	return e
}

var callbackQuery = regexp.MustCompile(`(?:^|&)(?:error|code)=`)

// isCallback reports whether location is a URL with the query of a callback, or that query.
func isCallback(location string) bool { return callbackQuery.MatchString(query(location)) }

// query returns the raw query of a URL, and text itself if it is none.
func query(text string) string {
	text, _, _ = strings.Cut(text, "#")
	if _, query, found := strings.Cut(text, "?"); found {
		return query
	}
	return text
}

// fromRedirect finds a callback's URL in text, which may also be its query.
func fromRedirect(text string) (*applebusiness.Error, error) {
	words := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"`<>", r) })
	for _, word := range words {
		word = strings.Trim(word, "',;()[]{}")
		if isCallback(word) && (strings.ContainsAny(word, "?&") || len(words) == 1) { // a log has error=x of its own
			return fromQuery(word)
		}
	}
	return nil, errNothing
}

func fromQuery(location string) (*applebusiness.Error, error) {
	_, err := applebusiness.ParseRedirect(query(location))
	if e, ok := errors.AsType[*applebusiness.Error](err); ok {
		return e, nil
	}
	return nil, errCode
}
