// Package redact decides what may be shown of texts that came from outside.
//
// [Values] removes from a text what is known to be secret, so that it can be kept. [Show] is for whatever a person or a log
// reads: it shows what it recognises, since the ways in which a secret can be encoded cannot be enumerated.
package redact

import (
	"bytes"
	"encoding/base32"
	"encoding/hex"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Mask stands where a text held something that is not for a log.
const Mask = "***"

const (
	leastSecret = 8  // bytes; a shorter value stands in many a harmless text
	leastPart   = 12 // bytes of a longer value that are not shown either
	longestWord = 15
)

// Cut returns text, or what of it ends on a rune boundary within limit bytes.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// Values returns text with *** in the place of each secret, whatever the case of its letters, also as it stands in a URL,
// a form, HTML, JSON or a Go string, and in the place of each part of one from 12 bytes on. Secrets of fewer than 8 bytes
// are left.
func Values(text string, secrets ...string) string {
	lower, shown := lowerASCII.Replace(text), bytes.Repeat([]byte{1}, len(text))
	for _, secret := range secrets {
		if len(secret) < leastSecret {
			continue
		}
		for _, form := range [...]string{
			secret, url.QueryEscape(secret), url.PathEscape(secret), strings.ReplaceAll(secret, "+", " "),
			html.EscapeString(secret), strings.Trim(strconv.Quote(secret), `"`),
		} {
			hide(shown, lower, lowerASCII.Replace(form))
		}
	}
	var out strings.Builder
	for i := range len(text) {
		if shown[i] == 1 {
			out.WriteByte(text[i])
		} else if i == 0 || shown[i-1] == 1 {
			out.WriteString(Mask)
		}
	}
	return out.String()
}

// hide clears in shown each part of text that is a part of secret.
func hide(shown []byte, text, secret string) {
	least := min(len(secret), leastPart)
	for end := least; end <= len(text); end++ {
		if strings.Contains(secret, text[end-least:end]) {
			clear(shown[end-least : end])
		}
	}
}

// lowerASCII leaves every byte in its place, as strings.ToLower does not.
var lowerASCII = strings.NewReplacer(strings.Split("AaBbCcDdEeFfGgHhIiJjKkLlMmNnOoPpQqRrSsTtUuVvWwXxYyZz", "")...)

// Show returns one line of at most limit bytes with what may be shown of text: words (ASCII letters, at most 15, in lower
// case or with a capital first, with ' or - between them), numbers of up to 3 digits, the vocabulary of OAuth and the code
// after SQLSTATE, each with the punctuation around it. Anything else is ***, and so are single letters and numbers, or what
// is *** already, where three or more stand in a row: they may spell something.
func Show(text string, limit int) string {
	pieces := strings.Fields(text)
	scraps := 0 // in a row, up to here
	for i, piece := range pieces {
		shown, scrap := show(piece)
		if i > 0 && strings.HasSuffix(pieces[i-1], "SQLSTATE") && sqlState.MatchString(piece) {
			shown, scrap = piece, false
		}
		if !scrap {
			scraps = 0
		} else if scraps++; scraps >= 3 {
			pieces[i-2], pieces[i-1], shown = Mask, Mask, Mask
		}
		pieces[i] = shown
	}
	line := strings.Join(pieces, " ")
	if len(line) > limit { // never half a piece
		line = line[:max(strings.LastIndexByte(line[:limit+1], ' '), 0)]
	}
	return line
}

// show returns what may be shown of a text without spaces, and whether that is too little to mean anything alone.
func show(piece string) (shown string, scrap bool) {
	inner := strings.TrimLeft(piece, `("'[{<`)
	before := piece[:len(piece)-len(inner)]
	inner = strings.TrimRight(inner, `)"']}>.,:;!?`)
	after := piece[len(before)+len(inner):]
	switch {
	case len(before) > 2, len(after) > 3, inner == "" && len(piece) > 1:
		return Mask, true
	case inner == "", len(inner) == 1 && strings.Contains("-/=&+|", inner), number.MatchString(inner):
		return piece, true
	case isWord(inner):
		return piece, len(inner) == 1
	}
	return before + Mask + after, true
}

var (
	word     = regexp.MustCompile(`^[A-Za-z][a-z]*(['-][a-z]+)*$`)
	number   = regexp.MustCompile(`^[0-9]{1,3}$`)
	name     = regexp.MustCompile(`^[a-z_]{0,64}$`)
	sqlState = regexp.MustCompile(`^[0-9A-Z]{5}\)?$`)

	uuid     = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	base32ID = regexp.MustCompile(`^[A-Z2-7]{26}$`)
	shortID  = regexp.MustCompile(`^[-_.]*([A-Za-z][a-z]*[-_.]+)*([A-Za-z][a-z]*|[0-9]{1,3})?([-_.]+[A-Za-z][a-z]*)*[-_.]*$`)
)

func isWord(text string) bool {
	return len(text) <= longestWord && word.MatchString(text) || slices.Contains(vocabulary, text)
}

// vocabulary are the texts that Show recognises though they are no words: of OAuth, Apple's table, networks and databases.
var vocabulary = strings.Fields(`
	access_token authorization_code client_credentials client_id client_secret code_challenge code_challenge_method
	code_verifier error_description error_uri expires_in grant_type redirect_uri refresh_token response_type token_type
	access_denied internal_server_error invalid_client invalid_grant invalid_request invalid_scope server_error
	temporarily_unavailable unauthorized_client unsupported_grant_type unsupported_response_type
	business_connect 127.0.0.1 2.0 OAuth POST S256 IP AN_UNKNOWN_ERROR_OCCURRED
	applebusiness/grants applebusiness/grants/pgxstore DNS EOF ERROR GET HTTP HTTPS HTTP/1 HTTP/2 JSON SQL SQLSTATE TLS URI URL i/o`)

// Code returns code if it may be shown as the code of an error: up to 64 letters from a to z and underscores.
func Code(code string) string {
	if name.MatchString(code) {
		return code
	}
	return Mask
}

// RequestID returns id if it looks like one that a server has made: 128 bits as a UUID or in base32 (26 letters and digits,
// as Apple's x-apple-jingle-correlation-key) that are no text in disguise, or at most 15 bytes of words and a number with
// '-', '_' or '.' between them, such as "req-1". Of any other it returns what [Show] does: a secret can look like it.
func RequestID(id string) string {
	var bits []byte
	switch {
	case uuid.MatchString(id):
		bits, _ = hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	case base32ID.MatchString(id):
		bits, _ = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(id)
	}
	isText := !bytes.ContainsFunc(bits, func(r rune) bool { return r < ' ' || r > '~' })
	if isText && (len(id) > longestWord || !shortID.MatchString(id)) {
		return Show(id, 64)
	}
	return id
}

// URI returns uri if it is an https URL of nothing but words and numbers, without query, fragment and user; else ***.
func URI(uri string) string {
	rest, isShown := strings.CutPrefix(uri, "https://")
	for part := range strings.FieldsFuncSeq(rest, func(r rune) bool { return r == '/' || r == '.' }) {
		isShown = isShown && (number.MatchString(part) || isWord(part))
	}
	if uri == "" || isShown && len(uri) <= 256 {
		return uri
	}
	return Mask
}
