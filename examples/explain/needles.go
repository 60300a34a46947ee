package main

import (
	"bytes"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// needles finds the first of many short texts in one pass, whatever their case in ASCII. It looks at the last two bytes
// of a window as wide as the shortest needle, and moves the window past whatever no needle has there (the algorithm of
// Wu and Manber): of a text without needles it reads a part only.
type needles struct {
	width int
	shift [1 << 16]uint8      // by two bytes: how far the window may move, 0 if a needle may begin in it
	heads map[uint16][]string // needles in lower case, by the last two bytes of their first width bytes
}

func newNeedles(texts []string) *needles {
	n := &needles{width: len(texts[0]), heads: make(map[uint16][]string)}
	for _, text := range texts {
		n.width = min(n.width, len(text))
	}
	for pair := range n.shift {
		n.shift[pair] = uint8(n.width - 1)
	}
	for _, text := range texts {
		text = strings.ToLower(text)
		for end := 2; end <= n.width; end++ {
			for _, first := range bothCases(text[end-2]) {
				for _, second := range bothCases(text[end-1]) {
					pair := uint16(first)<<8 | uint16(second)
					n.shift[pair] = min(n.shift[pair], uint8(n.width-end))
					if end == n.width {
						n.heads[pair] = append(n.heads[pair], text)
					}
				}
			}
		}
	}
	return n
}

func bothCases(c byte) []byte {
	if c >= 'a' && c <= 'z' {
		return []byte{c, c - 'a' + 'A'}
	}
	return []byte{c}
}

// index returns where the first needle in text begins, or -1.
func (n *needles) index(text []byte) int {
	for end := n.width; end <= len(text); {
		pair := uint16(text[end-2])<<8 | uint16(text[end-1])
		shift := n.shift[pair]
		if shift > 0 {
			end += int(shift)
			continue
		}
		start := end - n.width
		for _, needle := range n.heads[pair] {
			if hasPrefixFold(text[start:], needle) {
				return start
			}
		}
		end++
	}
	return -1
}

// equalFold reports whether text is lower, which is in lower case, without regard to the case of ASCII letters.
func equalFold(text []byte, lower string) bool {
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Hints that tell little alone.
const (
	errorHint    = "error"    // the name of a member or a parameter, which has to have a value
	endpointHint = "endpoint" // the first member of a group of package applebusiness, which has to have others
)

// hints are what a line holds at least one of if it holds an error: a reader that needs another one has to add it. They
// are so chosen that few other lines hold one.
var hints = func() *needles {
	texts := append(separatedHints(),
		prefix[:len("applebusiness")], // also of a constant
		oauth2Prefix,
		errorHint,
		"reason",
		`"message":[`, `"message" : [`, `"message": [`, // journald's array of bytes
		`response":{`, `response": {`, `response\":{`, `response\": {`, "redirecturl", "retry-after", // of a HAR file
		"oauth 2.0 parameter: ", "missing fields in post body", " is invalid. accepted values: ",
	)
	for _, reason := range allReasons {
		texts = append(texts, reasonName(reason))
		if strings.Contains(string(reason), "_") {
			texts = append(texts, string(reason))
		}
	}
	for _, code := range allCodes {
		texts = append(texts, string(code), codeName(code))
	}
	for _, sentence := range sentences {
		texts = append(texts, sentence.Description)
	}
	return newNeedles(append(texts, networkTexts()...))
}()

// networkHints are what a text about a failure of the network holds at least one of.
var networkHints = newNeedles(networkTexts())

func networkTexts() []string {
	var texts []string
	for _, failure := range networkFailures {
		texts = append(texts, failure.texts...)
	}
	for _, phrase := range statusTexts {
		texts = append(texts, `": `+phrase)
	}
	return texts
}

// separatedHints are the hints of which most logs hold a part in each line: a status line but no request line, and the
// endpoint of a line of package applebusiness but no other.
func separatedHints() []string {
	var texts []string
	for _, version := range []string{"1.0", "1.1", "2", "2.0", "3"} {
		for _, class := range "2345" {
			texts = append(texts, "http/"+version+" "+string(class))
		}
	}
	for _, separator := range []string{"=", `="`, `=\"`, `":"`, `": "`, `\":\"`, `\": \"`, `\\\":\\\"`} {
		for _, endpoint := range []applebusiness.Endpoint{applebusiness.TokenEndpoint, applebusiness.AuthorizationEndpoint} {
			texts = append(texts, endpointHint+separator+string(endpoint))
		}
	}
	return texts
}

// mayHoldError is the cheap test before every reader: it reports false only if text certainly holds no error, or is a
// name alone.
func mayHoldError(text []byte) bool {
	for {
		start := hints.index(text)
		if start < 0 {
			return false
		}
		found := true
		switch text = text[start:]; {
		case hasPrefixFold(text, errorHint):
			found = hasValue(text[len(errorHint):])
		case hasPrefixFold(text, endpointHint):
			found = hasGroup(text[len(endpointHint):])
		}
		if found {
			return true
		}
		text = text[1:]
	}
}

// hasValue reports whether what follows a name gives it a value, unlike level=ERROR and "error":null.
func hasValue(rest []byte) bool {
	rest = bytes.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzCDU_-.") // as in error_description and errorCode
	rest = bytes.TrimLeft(rest, `"'\]> `)
	if len(rest) == 0 || rest[0] != ':' && rest[0] != '=' {
		return false
	}
	rest = bytes.TrimLeft(rest[1:], `> \`)
	for _, nothing := range []string{"null", `""`, `"\"`, "0", "false"} {
		if bytes.HasPrefix(rest, []byte(nothing)) {
			return false
		}
	}
	return true
}

// hasGroup reports whether what follows the endpoint may be the rest of a group of package applebusiness.
func hasGroup(rest []byte) bool {
	rest = rest[:min(len(rest), 96)]
	return bytes.Contains(rest, []byte("code")) || bytes.Contains(rest, []byte("reason")) || bytes.Contains(rest, []byte("action"))
}

func hasPrefixFold(text []byte, lower string) bool {
	return len(text) >= len(lower) && equalFold(text[:len(lower)], lower)
}

// isName reports whether line is nothing but a name that readName knows, such as "server", which would be no hint in any
// other line.
func isName(line []byte) bool {
	line = bytes.Trim(line, nameMarks)
	return len(line) <= maxName && names[string(bytes.TrimPrefix(bytes.ToLower(line), []byte(packageName)))] != nil
}
