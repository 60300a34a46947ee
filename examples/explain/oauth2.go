package main

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

const oauth2Prefix = "oauth2: "

var oauth2Status = regexp.MustCompile(`^oauth2: cannot fetch token: ([1-5][0-9]{2})\b[^\n\\"{]{0,40}?(?:\n|$|\s?Response: |["\\])`)

// readOAuth2Text reads the text of an error of golang.org/x/oauth2.
func readOAuth2Text(p piece) (*finding, error) {
	text := p.text
	bodies := 0 // each costs as much as the text
	for {
		start := strings.Index(text, oauth2Prefix)
		if start < 0 || bodies > maxFailure {
			return nil, nil
		}
		text = text[start:]
		if match := oauth2Status.FindStringSubmatch(text[:min(len(text), 128)]); match != nil {
			body := strings.TrimPrefix(text[len(match[0]):], "Response: ")
			if strings.HasSuffix(match[0], `\`) || strings.HasPrefix(body, `{\`) {
				return nil, nil // still escaped
			}
			bodies++
			if status := statusOf(match[1]); !isSuccess(status) || !isToken(body) {
				return found(fromResponse(status, nil, body)), nil
			}
		} else if e := parseOAuth2Text(text); e != nil {
			return found(e), nil
		}
		text = text[len(oauth2Prefix):]
	}
}

func parseOAuth2Text(text string) *applebusiness.Error {
	window := text[:min(len(text), 8<<10)]
	if e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(errors.New(window[:min(len(window), 256)]))); ok && e.Reason != "" {
		return &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: e.Reason}
	}
	var quoted [2]string
	rest := strings.TrimPrefix(window, oauth2Prefix)
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
