package main

import (
	"html"
	"regexp"
	"strconv"
	"strings"
)

const maxDepth = 32 // of JSON in JSON, where each level doubles the backslashes

// steps undo one layer each of what logs, shells and mails do to a text. A text without the mark is left alone.
var steps = []struct {
	mark string
	undo func(string) string
}{
	{"\x1b[", replace(`\x1b\[[0-9;]*m`, "")},                                       // a terminal's colors
	{"#0", strings.NewReplacer("#012", "\n", "#033", "\x1b", "#011", " ").Replace}, // syslog
	{`\`, unescape},
	{"&", func(text string) string { return entity.ReplaceAllStringFunc(text, html.UnescapeString) }},
	{`""`, replace(`""(\w[^"\n]*)""`, `"$1"`)},                                                                    // CSV
	{"=\n", replace("=\n", "")},                                                                                   // quoted-printable
	{"=3D", func(text string) string { return decodeHex(text, '=') }},                                             // likewise
	{"=3A", func(text string) string { return decodeHex(text, '=') }},                                             // likewise
	{"\n>", replace(`\n(?:> ?)+`, "\n")},                                                                          // mail, and curl -v
	{"\n< ", replace(`\n< `, "\n")},                                                                               // curl -v
	{"\xe2\x80", replace(`[“”„]`, `"`)},                                                                           // smart quotes
	{"\xe2\x80", replace(`[‘’]`, `'`)},                                                                            // likewise
	{"`\"", replace("`\"", `"`)},                                                                                  // PowerShell
	{`":[`, func(text string) string { return numbers.ReplaceAllStringFunc(text, ofBytes) }},                      // journald
	{`"value"`, replace(`"(?:key|name|field)"\s*:\s*"([^"]*)"\s*,\s*"value"\s*:\s*(?:\{\s*"\w+"\s*:)?`, `"$1":`)}, // OpenTelemetry, HAR files
}

var (
	entity  = regexp.MustCompile(`&#?\w{2,8};`)
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
	for before, rest, found := strings.Cut(text, `\`); ; before, rest, found = strings.Cut(text, `\`) {
		if plain.WriteString(before); !found {
			return plain.String()
		}
		r, multibyte, tail, err := strconv.UnquoteChar(text[len(before):], '"')
		if text = tail; err != nil { // as in JSON's \/
			text = rest
		} else if multibyte {
			plain.WriteRune(r)
		} else {
			plain.WriteByte(byte(r))
		}
	}
}

// decodeHex replaces each mark that two hexadecimal digits follow.
func decodeHex(text string, mark byte) string {
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		value, err := strconv.ParseUint(text[min(i+1, len(text)):min(i+3, len(text))], 16, 8)
		if text[i] != mark || err != nil || i+2 >= len(text) {
			plain = append(plain, text[i])
			continue
		}
		plain = append(plain, byte(value))
		i += 2
	}
	return string(plain)
}

// ofBytes returns the text of an array of byte values, which is how journald writes a message with control characters.
func ofBytes(array string) string {
	plain := []byte{'"'}
	for number := range strings.SplitSeq(strings.Trim(array, "[] "), ",") {
		value, _ := strconv.ParseUint(strings.TrimSpace(number), 10, 8)
		plain = append(plain, byte(value))
	}
	return string(append(plain, '"'))
}
