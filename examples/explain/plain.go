package main

import (
	"html"
	"regexp"
	"strings"
)

var (
	colors  = regexp.MustCompile("\x1b\\[[0-9;]*m")
	doubled = regexp.MustCompile(`""\w[^"\n]*""`)
)

// plain returns text without a terminal's colors, with the newlines that syslog replaces, and with the quotes that HTML
// and CSV replace.
func plain(text string) string {
	if strings.Contains(text, "\x1b[") {
		text = colors.ReplaceAllLiteralString(text, "")
	}
	if strings.Contains(text, "&quot;") || strings.Contains(text, "&#3") {
		text = html.UnescapeString(text)
	}
	if doubled.MatchString(text) {
		text = strings.ReplaceAll(text, `""`, `"`)
	}
	return strings.ReplaceAll(text, "#012", "\n")
}

// joinResponse puts the two lines of a failure of golang.org/x/oauth2 together again where a log wrapped each one for
// itself: between them stand the end of the first one's wrapping and the beginning of the second one's.
func joinResponse(text string) string {
	first, second, isTwo := strings.Cut(text, "\n")
	status := strings.Index(first, "oauth2: cannot fetch token: ")
	response := strings.Index(second, "Response: ")
	if !isTwo || status < 0 || response <= 0 {
		return text
	}
	first = first[status:]
	if end := strings.IndexAny(first, `\"`); end >= 0 {
		first = first[:end]
	}
	second = second[response:]
	if strings.Contains(second, `\`) {
		second = unescape(second)
	}
	return first + "\n" + second
}
