package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// piece is a part of an input as somebody wrote it, before a log, a client or a shell put it into something else:
// either a text or a JSON object.
type piece struct {
	text    string
	outside string         // what of text is outside the JSON objects in it
	object  map[string]any // nil for a text
	status  int            // the HTTP status that stands beside, 0 if none does
	whole   bool           // it is the whole input, or the name of an error and the whole of a string
}

const (
	maxDepth   = 32 // of strings in strings, each of which may also hold nested objects
	maxPieces  = 512
	maxFailure = 4 // JSON that cannot be read, in one text; each costs as much as the text
)

// unwrapper collects pieces. It bounds their number, and what they hold together, so that no input costs more than a
// multiple of its length.
type unwrapper struct {
	pieces []piece
	left   int // bytes
}

// unwrap returns the pieces of input, outer ones first.
func unwrap(input string) []piece {
	u := unwrapper{left: 16*len(input) + 64<<10}
	u.text(input, 0, 0)
	if len(u.pieces) > 0 {
		u.pieces[0].whole = true
	}
	return u.pieces
}

func (u *unwrapper) text(text string, status, depth int) {
	u.left -= len(text)
	if depth > maxDepth || len(u.pieces) >= maxPieces || u.left < 0 {
		return
	}
	place := len(u.pieces)
	u.pieces = append(u.pieces, piece{text: text, status: status})
	var outside strings.Builder
	rest := text
	for failures := 0; failures < maxFailure; {
		start := objectStart(rest)
		if start < 0 {
			break
		}
		object, length, isWhole := decodeObject(rest[start:])
		if !isWhole {
			failures++
		}
		if object != nil {
			outside.WriteString(rest[:start])
			u.object(object, max(status, statusBefore(rest[:start])), depth+1)
		} else {
			outside.WriteString(rest[:start+length])
		}
		rest = rest[start+length:]
	}
	outside.WriteString(rest)
	u.pieces[place].outside = outside.String()
	if escaped := u.pieces[place].outside; strings.Contains(escaped, `\`) {
		u.text(unescape(escaped), status, depth+1)
	}
}

// objectStart returns where a JSON object with members begins in text, or -1.
func objectStart(text string) int {
	for start := 0; ; start++ {
		next := strings.IndexByte(text[start:], '{')
		if next < 0 {
			return -1
		}
		start += next
		if strings.HasPrefix(strings.TrimLeft(text[start+1:min(len(text), start+256)], " \t\r\n"), `"`) {
			return start
		}
	}
}

// decodeObject returns the object at the beginning of text and its length. Of one that is cut or malformed it returns the
// members before that, nil if there are none.
func decodeObject(text string) (object map[string]any, length int, isWhole bool) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	err := decoder.Decode(&object)
	if err == nil {
		return object, int(decoder.InputOffset()), true
	}
	object = make(map[string]any)
	decoder = json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	_, _ = decoder.Token()
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			break
		}
		var value any
		if decoder.Decode(&value) != nil {
			break
		}
		object[fmt.Sprint(name)] = value
	}
	if len(object) == 0 {
		return nil, 1, false
	}
	if err == io.ErrUnexpectedEOF {
		return object, len(text), false
	}
	return object, int(decoder.InputOffset()), false
}

func (u *unwrapper) object(object map[string]any, status, depth int) {
	if depth > maxDepth || len(u.pieces) >= maxPieces {
		return
	}
	own := number(object, "status", "statuscode", "httpstatus", "httpcode", "responsestatus")
	u.pieces = append(u.pieces, piece{object: object, status: status})
	for _, name := range slices.SortedFunc(maps.Keys(object), compareNames) {
		inner := status
		switch fold(name) {
		case "body", "data", "response", "responsebody", "responsetext", "content", "payload", "text":
			inner = max(status, own)
		}
		u.value(object[name], inner, depth+1)
	}
}

func (u *unwrapper) value(value any, status, depth int) {
	switch value := value.(type) {
	case map[string]any:
		u.object(value, status, depth)
	case string:
		if name := isName([]byte(value)); name || mayHoldError([]byte(value)) || strings.Contains(value, "HTTP/") {
			place := len(u.pieces)
			u.text(value, status, depth)
			if place < len(u.pieces) {
				u.pieces[place].whole = name && strings.ContainsAny(value, "_EC") // no common word
			}
		}
	case []any:
		if text := bytesOf(value); text != "" {
			u.text(text, status, depth)
			return
		}
		if object := pairsOf(value); object != nil {
			u.object(object, status, depth)
			return
		}
		for _, item := range value {
			u.value(item, status, depth+1)
		}
	}
}

// compareNames sorts the members that hold the failure itself before those that may only mention it.
func compareNames(a, b string) int {
	rank := func(name string) int {
		switch fold(name) {
		case "error", "err", "exception":
			return 0
		case "response", "responsebody", "body", "data":
			return 1
		case "request", "config", "headers":
			return 3
		}
		return 2
	}
	if a, b := rank(a), rank(b); a != b {
		return a - b
	}
	return strings.Compare(a, b)
}

// bytesOf returns the text of an array of byte values, which is how journald writes a message with control characters.
func bytesOf(array []any) string {
	text := make([]byte, 0, len(array))
	for _, item := range array {
		value, ok := item.(json.Number)
		if !ok {
			return ""
		}
		b, err := strconv.ParseUint(value.String(), 10, 8)
		if err != nil {
			return ""
		}
		text = append(text, byte(b))
	}
	return string(text)
}

// pairsOf returns the members of an array of objects with a key and a value each, which is how OpenTelemetry writes
// attributes; nil if array is none.
func pairsOf(array []any) map[string]any {
	object := make(map[string]any)
	for _, item := range array {
		pair, _ := item.(map[string]any)
		key, ok := pair["key"].(string)
		if !ok {
			return nil
		}
		value := pair["value"]
		if typed, ok := value.(map[string]any); ok && len(typed) == 1 {
			for _, value = range typed {
			}
		}
		object[key] = value
	}
	if len(object) == 0 {
		return nil
	}
	return object
}

// fold returns the name of a member without regard to case and underscores.
func fold(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// number returns the HTTP status that one of the members, by their folded names, holds, and 0 if none does.
func number(object map[string]any, names ...string) int {
	for name, value := range object {
		if slices.Contains(names, fold(name)) {
			if status := statusOf(fmt.Sprint(value)); status != 0 {
				return status
			}
		}
	}
	return 0
}

// statusOf returns the HTTP status that text is, and 0 if it is none.
func statusOf(text string) int {
	status, err := strconv.Atoi(text)
	if err != nil || status < 100 || status > 599 {
		return 0
	}
	return status
}

var statusWords = regexp.MustCompile(`(?i)(?:status|http|code|got|response|returned|failed)\D{0,12}\b([1-5][0-9]{2})\b\D{0,20}$`)

// statusBefore returns the HTTP status that the end of text names, as in "unexpected status 503: " before a body.
func statusBefore(text string) int {
	if match := statusWords.FindStringSubmatch(text[max(0, len(text)-64):]); match != nil {
		return statusOf(match[1])
	}
	return 0
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
