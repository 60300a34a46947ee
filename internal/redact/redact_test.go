package redact_test

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"

	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

func TestCut(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 0, ""}, {"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"abé", 4, "abé"}, {"abé", 3, "ab"}, {"abéd", 4, "abé"}, {"\x80\x80", 1, ""},
	} {
		assert.Equal(t, test.want, redact.Cut(test.text, test.limit))
	}
}

func TestValues(t *testing.T) {
	const token, short = "rt-SECRET+/%<&>\"\\", "rt-SECRE"
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"Token is unknown", "Token is unknown"},
		{"Token " + token + " is unknown", "Token *** is unknown"},
		{"bad_" + token + token, "bad_***"},
		{token + " " + token, "*** ***"},
		{"q=" + url.QueryEscape(token) + "&x", "q=***&x"},
		{url.PathEscape(token), "***"},
		{strings.ReplaceAll(token, "+", " "), "***"},
		{html.EscapeString(token), "***"},
		{strconv.Quote(token), `"***"`},
		{strings.ToUpper(token), "***"},
		{strings.ToLower(url.QueryEscape(token)), "***"},
		{"É " + token, "É ***"},
		{"the first of it: " + token[:12], "the first of it: ***"},
		{"the last of it: " + token[len(token)-12:] + ".", "the last of it: ***."},
		{"too little of it: " + token[:11], "too little of it: " + token[:11]},
		{"two parts: " + token[4:] + token[:12], "two parts: ***"},
	} {
		assert.Equal(t, test.want, redact.Values(test.text, "another", token), test.text)
	}
	assert.Equal(t, "x *** y ***", redact.Values("x "+short+" y longer"+short, short, "longer"+short), "8 bytes are a secret, whichever comes first")
	assert.Equal(t, "x rt-SECR y", redact.Values("x rt-SECR y", "rt-SECR"), "7 bytes are none")
	assert.Equal(t, "***", redact.Values("AZ-AZ-AZ", "az-az-az"), "from A to Z")
	assert.Equal(t, ";;;;;;;;", redact.Values(";;;;;;;;", "[[[[[[[["), "and nothing but letters")
	assert.Equal(t, strings.Repeat("x", 20), redact.Values(strings.Repeat("x", 20), "", "y"))
}

func TestShow(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"Token is unknown", "Token is unknown"},
		{"  two\nlines\tand \r\n more  ", "two lines and more"},
		{`It's a "read-only" (well, mostly) one: [yes]; no? 503 times!`, `It's a "read-only" (well, mostly) one: [yes]; no? 503 times!`},
		{"a word of fifteen: transformations", "a word of fifteen: transformations"},
		{"internationalise", "***"},
		{"correct-horse-battery", "***"},
		{"camelCase UPPER Ab-Cd snake_case a1 1a 1234 -7 +5 1.5 3s", "*** *** *** *** *** *** *** *** *** *** ***"},
		{"up to 999 of 999", "up to 999 of 999"},
		{"dial tcp 127.0.0.1:5432: connect: connection refused", "dial tcp ***: connect: connection refused"},
		{`Post "https://api.example/?x=SECRET": EOF`, `Post "***": EOF`},
		{"a\u200bb \u202eabc é naïve ａｂｃ", "*** *** *** *** ***"},
		{"((x)) (((x", "((x)) ***"},
		{"for ever... and ever....", "for ever... and ***"},
		{"( )) word", "( *** word"},
		{"refresh_token of client_id is no my_token", "refresh_token of client_id is no ***"},
		{"S e c r e t", "*** *** *** *** *** ***"},
		{"[104 117 110 116]", "*** *** *** ***"},
		{"104, 117, and 110", "104, 117, and 110"},
		{"73 6f 74", "*** *** ***"},
		{"ERROR: cannot execute INSERT here (SQLSTATE 25006) 25006", "ERROR: cannot execute *** here (SQLSTATE 25006) ***"},
		{"SQLSTATE rt-SE SQLSTATE 123456 xSQLSTATE 42P01", "SQLSTATE *** SQLSTATE *** *** ***"},
		{"applebusiness/grants: no such grant", "applebusiness/grants: no such grant"},
		{"one - two / three", "one - two / three"},
		{"§ x", "*** x"},
		{"\x80\xff x", "*** x"},
	} {
		assert.Equal(t, test.want, redact.Show(test.text, 256), test.text)
	}
	assert.Equal(t, "some of it", redact.Show("some of it is left", 12), "never half a word")
	assert.Equal(t, "some of", redact.Show("some of it", 7))
	assert.Equal(t, "some", redact.Show("some", 4))
	assert.Empty(t, redact.Show("some", 3))
}

func TestCode(t *testing.T) {
	for _, code := range []string{"", "slow_down", strings.Repeat("a", 64)} {
		assert.Equal(t, code, redact.Code(code))
	}
	for _, code := range []string{"Slow_down", "a b", "a1", "a-b", "NOT_AUTHORIZED", strings.Repeat("a", 65), "é", "a\n"} {
		assert.Equal(t, redact.Mask, redact.Code(code), code)
	}
}

func TestRequestID(t *testing.T) {
	for _, id := range []string{"", "7f9c24e8-3b1a-4c0d-9e5f-6a7b8c9d0e1f", "7F9C24E8-3B1A-4C0D-9E5F-6A7B8C9D0E1F", "01890a5d-ac96-774b-bcce-b302099a8057", "12345678-1234-1234-1234-123456789012",
		"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "req-1", "abc-12", "a_b.c", "id 1", "request-abcd-12",
		"ULXRE3CVPI4RR6U2BVWQYQ5YFE", "2222222222222222222222ABCD"} {
		assert.Equal(t, id, redact.RequestID(id))
	}
	asUUID := func(digits string) string {
		return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]}, "-")
	}
	for _, id := range []string{
		asUUID(hex.EncodeToString([]byte("hunter2-hunter2-"))), strings.ToUpper(asUUID(hex.EncodeToString([]byte("0123456789abcdef")))), "7f9c24e83b1a4c0d9e5f6a7b8c9d0e1f", "8f-3b1a-4c0d-9e5f-6a7b8c9d0e1f",
		strings.TrimRight(base32.StdEncoding.EncodeToString([]byte("hunter2-hunter2-")), "="), strings.TrimRight(base32.StdEncoding.EncodeToString([]byte("0c5f1aD29e~ ~xyz")), "="), // 128 bits, but a text
		"ulxre3cvpi4rr6u2bvwqyq5yfe", "ULXRE3CVPI4RR6U2BVWQYQ5YF", "ULXRE3CVPI4RR6U2BVWQYQ5YFEA", "ABCDEFGH1234", "NB2W45DFOIZA", "RT7KS9QZ2LMX4VB8NT7KS9QZ2L", // a secret can look like these
		"7f3c", "rt-SECRET", "104-117-110-116", "hunter2", "a-b-c-d-e-f-g-h-i", "é",
	} {
		assert.Equal(t, redact.Mask, redact.RequestID(id), id)
	}
}

func TestURI(t *testing.T) {
	for _, uri := range []string{"", "https://x.example/e", "https://developer.apple.com/documentation/errors/503", "https://" + strings.Repeat("a/", 124)} {
		assert.Equal(t, uri, redact.URI(uri))
	}
	for _, uri := range []string{
		"http://x.example/e", "https://x.example/?e", "https://x.example/#e", "https://u:p@x.example/", "https://x.example/rt-SECRET",
		"javascript:alert", "https://x.example/\u202e", "https://" + strings.Repeat("a/", 124) + "a", "x",
	} {
		assert.Equal(t, redact.Mask, redact.URI(uri), uri)
	}
}

// encodings are ways in which a secret gets into a text by accident.
var encodings = map[string]func(string) string{
	"plain":           func(s string) string { return s },
	"upper case":      strings.ToUpper,
	"form":            url.QueryEscape,
	"form, twice":     func(s string) string { return url.QueryEscape(url.QueryEscape(s)) },
	"every byte in %": func(s string) string { return strings.ReplaceAll(fmt.Sprintf("% x", s), " ", "%") },
	"base64":          func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64url":       func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"basic":           func(s string) string { return base64.StdEncoding.EncodeToString([]byte("id:" + s)) },
	"base32":          func(s string) string { return base32.StdEncoding.EncodeToString([]byte(s)) },
	"hex":             func(s string) string { return hex.EncodeToString([]byte(s)) },
	"hex with spaces": func(s string) string { return fmt.Sprintf("% x", s) },
	"bytes":           func(s string) string { return fmt.Sprint([]byte(s)) },
	"quoted":          strconv.Quote,
	"\\u":             func(s string) string { return strings.ReplaceAll(fmt.Sprintf("% x", s), " ", `\u00`) },
	"HTML":            html.EscapeString,
	"letter, letter":  func(s string) string { return strings.Join(strings.Split(s, ""), " ") },
	"reversed":        func(s string) string { b := []byte(s); slices.Reverse(b); return string(b) },
	"JWT": func(s string) string {
		return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(s)) + "."
	},
	"a part":       func(s string) string { return s[:len(s)/2] + "…" },
	"another part": func(s string) string { return s[len(s)/2:] },
}

// No encoding of a secret is shown, though nothing here knows the secret.
func TestNoEncodingIsShown(t *testing.T) {
	for _, secret := range []string{"rt-7Ks9Qz2LmX4vB8nT", "0c5f1aD29e", "client.SECRET+/%&=9", "7f9c24e8-3b1a-4c0d-9e5f-6a7b8c9d0e1f"} {
		for name, encode := range encodings {
			encoded := encode(secret)
			for _, shown := range []string{redact.Show("Token "+encoded+" is unknown", 256), redact.Show(encoded, 256), redact.Code(encoded), redact.URI("https://x.example/" + encoded)} {
				assert.NotContains(t, shown, encoded, name)
				assert.Empty(t, strings.NewReplacer("Token ", "", " is unknown", "", "*", "", `"`, "", "[", "", "]", "", ".", "", " ", "").Replace(shown), name)
			}
			if name != "plain" && name != "upper case" && name != "quoted" && name != "HTML" && name != "form" && name != "form, twice" { // a UUID stays one; Values knows it
				assert.NotContains(t, redact.RequestID(encoded), encoded, name)
			}
		}
	}
}

func FuzzShow(f *testing.F) {
	for _, text := range []string{"Token rt-SECRET is unknown", "S e c r e t", "(\"'", "\x80 é", "1 2 3 a-b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		shown := redact.Show(text, 256)
		assert.LessOrEqual(t, len(shown), 256)
		assert.True(t, utf8.ValidString(shown))
		for _, r := range shown {
			assert.True(t, r >= ' ' && r < 0x7f, "%q", shown)
		}
		assert.Equal(t, shown, redact.Show(shown, 256), "shown again it is the same")
		redact.Values(text, "a secret", text)
		if len(text) >= 8 {
			assert.NotContains(t, redact.Values("a "+text, text), text)
		}
	})
}
