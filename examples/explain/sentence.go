package main

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// sentences are the texts that Apple documents, the longest first, as far as they cannot be something else's.
var sentences = func() []applebusiness.Entry {
	var entries []applebusiness.Entry
	for entry := range applebusiness.Catalog() {
		switch entry.Reason {
		case applebusiness.ErrEndpointNotFound, applebusiness.ErrServer, applebusiness.ErrBadRequest:
			continue
		}
		entry.Description = strings.ToLower(entry.Description)
		entries = append(entries, entry)
	}
	slices.SortStableFunc(entries, func(a, b applebusiness.Entry) int { return cmp.Compare(len(b.Description), len(a.Description)) })
	return entries
}()

// templates are the texts of Apple's with a part that varies.
var templates = regexp.MustCompile(`(?i)OAuth 2\.0 Parameter: [\w.-]{1,64} missing|Missing fields in POST body [\w, ]{1,200} required\.?|(?:grant_type|scope) is invalid\. Accepted values: [\w, ]{1,200}`)

// applesText returns the error that a text of Apple's in text is, together with code if that fits; nil if there is none.
func applesText(text, code string) *applebusiness.Error {
	lower := strings.ToLower(text)
	if len(lower) != len(text) {
		return nil // the case of a letter changes its length: no text of Apple's is that
	}
	description := ""
	for _, entry := range sentences {
		if start := strings.Index(lower, entry.Description); start >= 0 {
			description = text[start : start+len(entry.Description)]
			break
		}
	}
	if description == "" && (strings.Contains(lower, " missing") || strings.Contains(lower, " required") || strings.Contains(lower, "accepted values")) {
		description = templates.FindString(text)
	}
	if description == "" {
		return nil
	}
	if e := fromText(0, code, description); code != "" && isDocumented(e.Reason) {
		return e
	}
	if e := fromText(0, "", description); isDocumented(e.Reason) {
		return e
	}
	return nil
}

// wordCodes are the codes that are nothing but OAuth's wherever they stand; markedCodes are those that other software
// uses too, so they have to follow what is said before an error.
var (
	wordCodes   = regexp.MustCompile(`(?:^|[^\w.=-])(invalid_grant|invalid_client|invalid_scope|unauthorized_client|unsupported_grant_type|unsupported_response_type)(?:$|[^\w=-])`)
	markedCodes = regexp.MustCompile(`(?:[Ee]rror: ["'\[(]?|[Ee]rror ["'\[(]|rror\) ["'\[(]?|^["'\[(])(invalid_request|server_error|internal_server_error|access_denied|temporarily_unavailable)\b`)
	reasonPair  = regexp.MustCompile(`reason\\*["']?\s*(?:=>|[:=])\s*\\*["']?([a-z]+(?:_[a-z]+)+)`)
	constant    = regexp.MustCompile(`\bapplebusiness\.((?:Err|Code)[A-Z]\w+)`)
)

// readSentence reads a text of Apple's, a code, a label or a constant in a text that somebody else wrote.
func readSentence(p piece) (*finding, error) {
	text := p.outside
	if p.object != nil {
		if reason, _ := p.object["reason"].(string); strings.Contains(reason, "_") {
			return fromReason(applebusiness.Reason(reason)), nil
		}
		return nil, nil
	}
	if f := readName(p); f != nil {
		return f, nil
	}
	code := ""
	if !containsAny(text, "invalid_", "unauthorized_client", "unsupported_", "_error", "access_denied", "temporarily_unavailable") {
		// no code is in it
	} else if match := wordCodes.FindStringSubmatch(text); match != nil {
		code = match[1]
	} else if match := markedCodes.FindStringSubmatch(text); match != nil {
		code = match[1]
	}
	if e := applesText(text, code); e != nil {
		e.StatusCode = p.status
		locate(e)
		return found(e), nil
	}
	if label := labelIn(text); label != "" {
		return fromName(label), nil
	}
	if match := findAfter("reason", reasonPair, text); match != nil && isReason(applebusiness.Reason(match[1])) {
		return fromReason(applebusiness.Reason(match[1])), nil
	}
	if code != "" {
		return fromCode(applebusiness.Code(code), p.status), nil
	}
	if match := findAfter(packageName, constant, text); match != nil {
		if f := fromName(match[1]); f != nil {
			return f, nil
		}
	}
	return nil, nil
}

// labels are the labels and the constants that are hardly anything else's wherever they stand.
var labels, labelNeedles = func() (*regexp.Regexp, *needles) {
	var words []string
	for _, reason := range allReasons {
		if isDocumented(reason) && containsAny(string(reason), "refresh_token", "grant_type", "credentials", "client_id", "redirect_uri", "response_type", "challenge_method") {
			words = append(words, string(reason), reasonName(reason))
		}
	}
	return regexp.MustCompile(`\b(?:` + strings.Join(words, "|") + `)\b`), newNeedles(words)
}()

// labelIn returns the first label or constant in text, "" if there is none.
func labelIn(text string) string {
	if labelNeedles.index([]byte(text)) < 0 {
		return ""
	}
	return labels.FindString(text)
}

// containsAny reports whether text contains one of the parts.
func containsAny(text string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// findAfter returns what pattern finds in text from word on: without it the pattern, which is slower, need not be tried.
func findAfter(word string, pattern *regexp.Regexp, text string) []string {
	start := strings.Index(text, word)
	if start < 0 {
		return nil
	}
	return pattern.FindStringSubmatch(text[start:])
}

const (
	packageName = "applebusiness."
	nameMarks   = " \t\r\n\"'`.,;:()[]{}" // that may stand around a name
	maxName     = 64
)

// names are the package's labels, its constants and the codes in lower case, and what they stand for.
var names = func() map[string]error {
	names := make(map[string]error)
	for _, code := range allCodes {
		names[strings.ToLower(string(code))], names[strings.ToLower(codeName(code))] = code, code
	}
	for _, reason := range allReasons {
		names[string(reason)], names[strings.ToLower(reasonName(reason))] = reason, reason
	}
	return names
}()

// fromName returns the error of a label, a constant or a code, nil if name is none.
func fromName(name string) *finding {
	switch named := names[strings.TrimPrefix(strings.ToLower(name), packageName)].(type) {
	case applebusiness.Reason:
		return fromReason(named)
	case applebusiness.Code:
		return fromCode(named, 0)
	}
	return nil
}

// readName reads a text that is nothing but a label, a constant's name, a code or a text of Apple's; nil if it is not.
func readName(p piece) *finding {
	name := strings.Trim(p.outside, nameMarks)
	if !p.whole || len(name) > 256 {
		return nil
	}
	if f := fromName(name); f != nil {
		return f
	}
	if len(name) > len("AN_UNKNOWN_ERROR_OCCURRED.") { // applesText finds a longer one
		return nil
	}
	if e := fromText(0, "", name); isDocumented(e.Reason) {
		locate(e)
		return found(e)
	}
	return nil
}

// fromCode returns the error of a code alone. Nothing tells where it came from, unless Apple documents it for one
// endpoint.
func fromCode(code applebusiness.Code, status int) *finding {
	e := fromText(status, string(code), "")
	e.Endpoint = ""
	var endpoints []applebusiness.Endpoint
	for entry := range applebusiness.Catalog() {
		if entry.Code == code && !slices.Contains(endpoints, entry.Endpoint) {
			endpoints = append(endpoints, entry.Endpoint)
		}
	}
	if len(endpoints) == 1 {
		e.Endpoint = endpoints[0]
	}
	return found(e)
}

func fromReason(reason applebusiness.Reason) *finding {
	if !isReason(reason) {
		return nil
	}
	e := &applebusiness.Error{Reason: reason}
	locate(e)
	return found(e)
}
