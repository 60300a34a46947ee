package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// fromText returns the error of the token endpoint that these texts mean.
func fromText(status int, code, description string) *applebusiness.Error {
	return applebusiness.ParseTokenError(status, nil, bodyOf(code, description))
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

// readOwnText reads what (*applebusiness.Error).Error returned.
func readOwnText(p piece) (*finding, error) {
	text := p.text
	for {
		_, rest, more := strings.Cut(text, prefix)
		if !more {
			return nil, nil
		}
		if e := parseOwnText(rest); e != nil {
			return found(e), nil
		}
		text = rest
	}
}

var (
	ownWord   = regexp.MustCompile(`^(?:404 Not Found|\w+)`)
	ownStatus = regexp.MustCompile(`^[\w', ]{0,200}\(HTTP ([1-5][0-9]{2})\)`) // after what the package says itself
)

func parseOwnText(text string) *applebusiness.Error {
	var reason applebusiness.Reason
	var code string
	var quoted []string
	for more := true; more && len(quoted) < 3; {
		word := ownWord.FindString(text[:min(len(text), 100)])
		switch {
		case strings.HasPrefix(text, `\`):
			return nil // still escaped
		case strings.HasPrefix(text, `"`):
			literal, err := strconv.QuotedPrefix(text[:min(len(text), 8<<10)])
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
	if match := ownStatus.FindStringSubmatch(text[:min(len(text), 256)]); match != nil {
		status = statusOf(match[1])
	}

	var e *applebusiness.Error
	switch {
	case code != "" && len(quoted) > 0:
		e = fromText(status, code, quoted[0])
	case len(quoted) > 1:
		e = fromText(status, quoted[0], quoted[1])
	case len(quoted) == 1:
		e = fromText(status, "", quoted[0])
		if !isDocumented(e.Reason) && !strings.Contains(quoted[0], " ") { // a code, rather than a text
			e = fromText(status, quoted[0], "")
		}
	case code != "":
		e = fromText(status, code, "")
	case reason == applebusiness.ErrNoResponse:
		e = noResponse(text, "")
		e.StatusCode = status
		return e
	case reason != "":
		e = &applebusiness.Error{StatusCode: status}
	case status != 0 && strings.HasPrefix(text, "no OAuth error was received"):
		e = fromText(status, "", "")
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

// attributes are the members of a group of attributes, as texts.
type attributes map[string]string

// readAttributes reads what (*applebusiness.Error).LogValue or applebusiness.LogAttr returned, as the handlers of
// log/slog print it.
func readAttributes(p piece) (*finding, error) {
	groups := make(map[string]attributes)
	var names []string
	add := func(name, value string) {
		group := ""
		if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
			group, name = name[:dot], name[dot+1:]
		}
		if groups[group] == nil {
			groups[group] = make(attributes)
			names = append(names, group)
		}
		groups[group][name] = value
	}
	switch {
	case p.object != nil:
		isGroup := false
		for name := range p.object {
			isGroup = isGroup || strings.HasSuffix(name, "endpoint") || strings.HasSuffix(name, "action")
		}
		for name, value := range p.object {
			switch value.(type) {
			case string, json.Number, bool:
				if isGroup {
					add(name, fmt.Sprint(value))
				}
			}
		}
		slices.Sort(names)
	case strings.Contains(p.outside, "endpoint=") || strings.Contains(p.outside, "action="):
		for _, pair := range logPair.FindAllStringSubmatch(p.outside, -1) {
			value := pair[2]
			if unquoted, err := strconv.Unquote(value); err == nil {
				value = unquoted
			}
			add(strings.TrimLeft(pair[1], "[({'`>"), strings.TrimRight(value, ")]}'`"))
			for _, inner := range logPair.FindAllStringSubmatch(value, -1) { // a line in another one
				add(pair[1]+"/"+inner[1], strings.Trim(inner[2], `"`))
			}
		}
	}
	for _, name := range names {
		if f := fromAttributes(groups[name]); f != nil {
			return f, nil
		}
	}
	return nil, nil
}

var (
	logPair   = regexp.MustCompile(`([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s="<]+)`)
	snakeCase = regexp.MustCompile(`^[a-z]+(?:_[a-z]+)*$`)
)

// fromAttributes returns the failure that a group shows, nil if the group is something else. A code that nobody knows
// is in snake case: any other may be an authorization code in somebody's log.
func fromAttributes(group attributes) *finding {
	endpoint, reason, code := applebusiness.Endpoint(group["endpoint"]), applebusiness.Reason(group["reason"]), group["code"]
	action, impact := applebusiness.Action(group["action"]), applebusiness.Impact(group["impact"])
	status := statusOf(group["status"])
	if !isAction(action) {
		action = ""
	}
	if !isConstant(applebusiness.Code(code)) && !snakeCase.MatchString(code) {
		code = ""
	}
	if !isReason(reason) {
		reason = ""
	}
	switch endpoint {
	case applebusiness.TokenEndpoint, applebusiness.AuthorizationEndpoint:
		if code == "" && reason == "" && (action == "" || status == 0) {
			return nil
		}
	case "":
		if action == "" || code == "" && reason == "" {
			return nil
		}
	default:
		return nil
	}
	e := fromText(status, code, group["description"])
	if reason != "" {
		e.Reason = reason
	}
	e.Endpoint = endpoint
	e.Parameter = group["parameter"]
	e.GrantType = group["grant_type"]
	e.RequestID = group["request_id"]
	e.RetryAfter = wait(group["retry_after"])
	e.ResponseLost = group["response_lost"] == "true"
	f := found(e)
	if reason == applebusiness.ErrNoResponse || reason == applebusiness.ErrMalformedResponse {
		f.isSaid, f.action, f.impact = action != "" || reason == applebusiness.ErrNoResponse, action, impact
	}
	return f
}

// wait returns the duration that an attribute shows: as a text, or, by an older package in slog's JSON, in nanoseconds.
func wait(text string) time.Duration {
	if wait, err := time.ParseDuration(text); err == nil {
		return max(wait, 0)
	}
	nanoseconds, _ := strconv.ParseInt(text, 10, 64)
	return time.Duration(max(nanoseconds, 0))
}

func isAction(action applebusiness.Action) bool {
	switch action {
	case applebusiness.ActionRetry, applebusiness.ActionStartOver, applebusiness.ActionReauthorize, applebusiness.ActionFixRequest,
		applebusiness.ActionFixRegistration, applebusiness.ActionCheckNetwork:
		return true
	}
	return false
}
