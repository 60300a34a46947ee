package main

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// exchange is one response among those that a client printed.
type exchange struct {
	status int
	header http.Header
	body   strings.Builder
}

var (
	statusLine  = regexp.MustCompile(`^HTTP/[0-9.]+ ([1-5][0-9]{2})\b`)
	glued       = regexp.MustCompile(`([>}])(HTTP/[0-9.]+ [1-5][0-9]{2}\b)`) // after a body without a newline
	requestLine = regexp.MustCompile(`(?m)^(?:> )?(?:GET|POST) (\S*\?\S*) HTTP/`)
)

// readResponse reads what curl -i, curl -v or HTTPie prints: any number of responses, maybe with the requests, and the
// last one's body, which is decoded already whatever the headers say.
func readResponse(p piece) (*finding, error) {
	text := p.text
	start := responseStart(text)
	if start < 0 {
		if p.whole && strings.HasPrefix(text, "HTTP/") {
			return nil, errHeaders
		}
		return nil, nil
	}
	if match := requestLine.FindStringSubmatch(text[:start]); match != nil && isCallback(match[1]) {
		return fromQuery(match[1])
	}
	responses, ok := parseResponses(text[start:])
	if !ok && p.whole && start == 0 {
		return nil, errHeaders
	}
	for _, response := range responses {
		if location := response.header.Get("Location"); isCallback(location) {
			return fromQuery(location)
		}
	}
	last := responses[len(responses)-1]
	if last.status < 200 {
		return nil, nil
	}
	return fromExchange(last.status, last.header, last.body.String())
}

func fromExchange(status int, header http.Header, body string) (*finding, error) {
	if isSuccess(status) && isToken(body) {
		return nil, errToken
	}
	e := fromResponse(status, header, body)
	if e.Code == "" && e.Description == "" && e.Reason == "" && status < 300 {
		return nil, nil
	}
	return found(e), nil
}

func isSuccess(status int) bool { return status >= 200 && status <= 299 }

// isToken reports whether body is that of a success.
func isToken(body string) bool {
	response := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	response.Body = readCloser{strings.NewReader(body)}
	_, err := applebusiness.ParseTokenResponse(response)
	return err == nil
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// responseStart returns where in text the first status line begins, or -1. It stands at the beginning of a line, after
// the mark of curl -v, or at the beginning of a string.
func responseStart(text string) int {
	for start := 0; ; start += len("HTTP/") {
		next := strings.Index(text[start:], "HTTP/")
		if next < 0 {
			return -1
		}
		start += next
		status, _, _ := strings.Cut(text[start:], "\n")
		if !statusLine.MatchString(status[:min(len(status), 32)]) || strings.Contains(status[:min(len(status), 256)], `\`) { // still escaped
			continue
		}
		line := text[strings.LastIndexByte(text[:start], '\n')+1 : start]
		if strings.HasSuffix(line, "< ") {
			line = strings.TrimSuffix(line, "< ")
			start -= len("< ")
		}
		if line = strings.TrimSpace(line); line == "" || strings.ContainsAny(line[len(line)-1:], "\"'`=:") {
			return start
		}
	}
}

// parseResponses splits text at its status lines. It reports false if a header cannot be read.
func parseResponses(text string) (responses []*exchange, ok bool) {
	ok = true
	text = glued.ReplaceAllString(text, "$1\n$2")
	verbose := strings.HasPrefix(text, "< ")
	inHeader := false
	for line := range strings.SplitSeq(text, "\n") {
		ofHeader := !verbose
		if verbose {
			switch mark, rest, _ := strings.Cut(strings.TrimRight(line, "\r"), " "); {
			case mark == "<" || line == "<\r":
				ofHeader = true
				line = rest
			case mark == ">" || mark == "*" || strings.HasSuffix(rest, "bytes data]") && (mark == "{" || mark == "}"):
				continue
			}
		}
		trimmed := strings.TrimSpace(line)
		if ofHeader || !inHeader { // curl -v -i prints each header twice
			if match := statusLine.FindStringSubmatch(trimmed[:min(len(trimmed), 32)]); match != nil {
				responses = append(responses, &exchange{status: statusOf(match[1]), header: make(http.Header)})
				inHeader = true
				continue
			}
		}
		last := responses[len(responses)-1]
		name, value, isField := strings.Cut(trimmed, ":")
		switch {
		case !inHeader:
			last.body.WriteString(line)
			last.body.WriteByte('\n')
		case trimmed == "":
			inHeader = false
		case isField:
			last.header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		default:
			inHeader = false
			ok = ok && last.body.Len() > 0
			last.body.WriteString(line)
			last.body.WriteByte('\n')
		}
	}
	return responses, ok
}

// clientStatus is what HTTP clients say of a response of which they show nothing but the status.
var clientStatus = regexp.MustCompile(`(?i)(?:\bstatus code|\bwith status|\bhttp error|\bresponse code:|returned error:|does not indicate success:|resulted in a .) ?([45][0-9]{2})\b|\b([45][0-9]{2}) (?:client|server) error:`)

// readStatus reads a text that nothing else understands. In a log it could be about any server, so it has to be all that
// somebody asks about. Where the status does not say enough, the body would.
func readStatus(input string) (*finding, error) {
	match := clientStatus.FindStringSubmatch(input)
	if match == nil {
		return nil, errNothing
	}
	e := applebusiness.ParseTokenError(statusOf(match[1]+match[2]), nil, nil)
	if e.Reason == applebusiness.ErrMalformedResponse {
		return nil, errStatus
	}
	f := found(e)
	f.complete(input)
	return f, nil
}
