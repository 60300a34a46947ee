package main

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// bodyOf returns a body of the token endpoint with these members.
func bodyOf(code, description string) []byte {
	body, _ := json.Marshal(struct {
		Error       string `json:"error,omitempty"`
		Description string `json:"error_description,omitempty"`
	}{code, description})
	return body
}

var codeWord = regexp.MustCompile(`^\w+$`)

// readBody reads an object as the body of a response, which may stand in a line of a log.
func readBody(p piece) (*finding, error) {
	if p.object == nil {
		return nil, nil
	}
	members := make(map[string]any, len(p.object))
	for name, value := range p.object {
		if name = fold(name); members[name] == nil || p.object[name] != nil {
			members[name] = value
		}
	}
	e := fromMembers(members, p.status)
	if e == nil {
		if token, _ := members["accesstoken"].(string); token != "" && members["error"] == nil {
			return nil, errToken
		}
		return nil, nil
	}
	locate(e)
	return found(e), nil
}

// fromMembers returns the error that members, by their folded names, are, nil if they are something else. They may be
// those of a log, whose "error" is any text, or those of a token request, whose "code" is a secret.
func fromMembers(members map[string]any, status int) *applebusiness.Error {
	text := func(name string) string { text, _ := members[name].(string); return text }
	code, description := text("error"), text("errordescription")
	if code == "" {
		code = text("errorcode")
	}
	isLog := hasAny(members, "level", "severity", "lvl", "loglevel", "time", "timestamp", "@timestamp", "ts", "msg", "logger", "caller", "stream", "hostname", "host")
	if !isLog && status == 0 {
		status = number(members, "status", "statuscode", "httpstatus")
	}
	if code == "" && description == "" {
		return fromDialect(members, isLog, status)
	}
	e := fromText(status, code, description)
	for _, name := range []string{"message", "msg", "detail", "details", "description", "reason", "errormessage"} {
		if e.Description != "" {
			break
		}
		if text := text(name); text != "" && len(text) <= 256 && mayHoldError([]byte(text)) {
			if other := fromText(status, code, text); isDocumented(other.Reason) {
				e = other // any other text is not the server's
			}
		}
	}
	switch {
	case isDocumented(e.Reason), isConstant(e.Code):
	case description == "" && names[strings.ToLower(code)] != nil:
		return nil // a label or a constant, which is readName's
	case code == "" || !codeWord.MatchString(code) && description == "" || isLog && description == "":
		return nil
	}
	return e
}

// fromDialect returns the error that members are in the dialect of Apple's resource API (code, message) or in the one of
// its sister services (status, code, detail). Those come alone: beside anything else a code may be secret.
func fromDialect(members map[string]any, isLog bool, status int) *applebusiness.Error {
	text := func(name string) string { text, _ := members[name].(string); return text }
	code, description := text("code"), text("message")
	if description == "" {
		description = text("detail")
	}
	if code == "" || description == "" {
		return nil
	}
	body, _ := json.Marshal(map[string]string{"code": code, "message": description})
	e := applebusiness.ParseTokenError(status, nil, body)
	if isConstant(e.Code) || isDocumented(e.Reason) {
		return e
	}
	for name := range members {
		switch name {
		case "id", "status", "code", "title", "message", "detail", "details", "context", "source", "links", "meta", "target":
		default:
			return nil
		}
	}
	if isLog || !isErrorName(code) {
		return nil
	}
	return e
}

var errorName = regexp.MustCompile(`^(?:[A-Za-z]+(?:[_. -][A-Za-z]+)*|[A-Z]{0,4}[-_]?[0-9]{1,6})$`)

// isErrorName reports whether a code looks like the name or the number of an error, rather than like a secret.
func isErrorName(code string) bool {
	if len(code) > 48 || !errorName.MatchString(code) {
		return false
	}
	return !strings.ContainsFunc(code, func(r rune) bool { return r >= '0' && r <= '9' }) || len(code) <= 8
}

func hasAny(members map[string]any, names ...string) bool {
	for _, name := range names {
		if _, ok := members[name]; ok {
			return true
		}
	}
	return false
}

// fromResponse returns the error that a response of the token endpoint holds, whatever it is.
func fromResponse(status int, header http.Header, body string) *applebusiness.Error {
	e := applebusiness.ParseTokenError(status, header, []byte(body))
	if isDocumented(e.Reason) || isConstant(e.Code) {
		return e
	}
	for _, p := range unwrap(body) {
		f, _ := readBody(p)
		switch {
		case f == nil:
		case e.Code == "" && f.Code != "": // something else stands before the body
			return applebusiness.ParseTokenError(status, header, bodyOf(string(f.Code), f.Description))
		case f.Code == e.Code:
			return e
		}
	}
	return applebusiness.ParseTokenError(status, header, nil) // the code is no error's
}
