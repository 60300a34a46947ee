package main

import (
	"html"
	"regexp"
	"strconv"
	"strings"
)

const maxDepth = 32 // of JSON in JSON: each level doubles the backslashes

// steps undo one layer each of what logs, shells and mails do to a text. A text without the mark is left alone.
var steps = []struct {
	mark string
	undo func(string) string
}{
	{"\x1b[", replace(`\x1b\[[0-9;]*m`, "")},                                       // a terminal's colors
	{"#0", strings.NewReplacer("#012", "\n", "#033", "\x1b", "#011", " ").Replace}, // syslog
	{`\`, unescape},
	{"&", func(text string) string { return entity.ReplaceAllStringFunc(text, html.UnescapeString) }},
	{`""`, func(text string) string { // CSV
		if doubled.MatchString(text) {
			text = strings.ReplaceAll(text, `""`, `"`)
		}
		return text
	}},
	{"=\n", replace("=\n", "")}, // quoted-printable
	{"=3D", func(text string) string { return decodeHex(text, '=') }},
	{"\n>", replace(`\n(?:> ?)+`, "\n")}, // mail, and curl -v
	{"\n< ", replace(`\n< `, "\n")},
	{"\xe2\x80", strings.NewReplacer("“", `"`, "”", `"`, "„", `"`, "‘", "'", "’", "'").Replace},
	{"`\"", replace("`\"", `"`)}, // PowerShell
	{`":[`, bytesOf},
	{`"value"`, replace(`"(?:key|name|field)"\s*:\s*"([^"]*)"\s*,\s*"value"\s*:\s*(?:\{\s*"\w+"\s*:)?`, `"$1":`)}, // OpenTelemetry, HAR files
}

var (
	entity  = regexp.MustCompile(`&#?\w{2,8};`)
	doubled = regexp.MustCompile(`""\w`)
	numbers = regexp.MustCompile(`\[\s*\d{1,3}(?:\s*,\s*\d{1,3}){7,}\s*\]`)
)

func replace(pattern, replacement string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(text string) string { return compiled.ReplaceAllString(text, replacement) }
}

// undo returns text as it was before a log, a shell or a mail put it into something else.
func undo(text string) string {
	text = "\n" + strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	for range maxDepth {
		before := text
		for _, step := range steps {
			if strings.Contains(text, step.mark) {
				text = step.undo(text)
			}
		}
		if text == before {
			break
		}
	}
	return text
}

// unescape replaces the escapes of Go, JSON and JavaScript, wherever in text they stand.
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

// decodeHex replaces each mark that two hexadecimal digits follow.
func decodeHex(text string, mark byte) string {
	var plain strings.Builder
	for {
		before, rest, found := strings.Cut(text, string(mark))
		plain.WriteString(before)
		if !found {
			return plain.String()
		}
		if value, err := strconv.ParseUint(rest[:min(2, len(rest))], 16, 8); err == nil && len(rest) > 1 {
			plain.WriteByte(byte(value))
			text = rest[2:]
			continue
		}
		plain.WriteByte(mark)
		text = rest
	}
}

// bytesOf replaces arrays of byte values, which is how journald writes a message with control characters.
func bytesOf(text string) string {
	return numbers.ReplaceAllStringFunc(text, func(array string) string {
		var plain []byte
		for number := range strings.SplitSeq(strings.Trim(array, "[] "), ",") {
			value, err := strconv.ParseUint(strings.TrimSpace(number), 10, 8)
			if err != nil {
				return array
			}
			plain = append(plain, byte(value))
		}
		return `"` + string(plain) + `"`
	})
}
