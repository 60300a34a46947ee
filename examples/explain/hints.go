package main

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// hints are what a record holds at least one of if it tells of a failure, in lower case by their first four bytes, so chosen
// that few others hold one. begins tells the same of four bytes for sure if they begin none.
var hints, begins = func() (map[uint32][]string, *[1 << 16]bool) {
	texts := []string{"error", "endpoint", "applebusiness", "oauth2: ", "reason", "retry-after", `"message":[`, `response":{`, `response\":{`, `response\\\":{`, ": eof",
		"oauth 2.0 parameter: ", "missing fields in post body", " is invalid. accepted values:"}
	for _, version := range []string{"1.0", "1.1", "2", "3"} {
		texts = append(texts, "http/"+version+" 3", "http/"+version+" 4", "http/"+version+" 5")
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(codeWords)), slices.Collect(maps.Keys(labelWords))) {
		if strings.Contains(name, "_") || strings.HasPrefix(name, "err") || strings.HasPrefix(name, "code") {
			texts = append(texts, name)
		}
	}
	for _, entry := range documented {
		if !isCommon(entry.Reason) {
			texts = append(texts, entry.Description)
		}
	}
	heads, begins := make(map[uint32][]string), new([1 << 16]bool)
	for _, text := range slices.AppendSeq(texts, neterr.Needles()) {
		var four uint32
		for i := range 4 {
			four = four<<8 | uint32(text[i]|' ')
		}
		heads[four] = append(heads[four], text)
		begins[hash(four)] = true
	}
	return heads, begins
}()

func hash(four uint32) uint16 { return uint16(four * 0x9e3779b1 >> 16) }

// valued is what follows the name of an error that has a value, unlike level=ERROR and "error":null.
var valued = regexp.MustCompile(`^[\w.-]*(?:[\\"'\]> ]|&\w+;)*[:=](?:[\\"'>\[ ]|&\w+;)*(?:[^\s\\"'0nf,}]|n[^u]|nu[^l]|f[^a]|0\w)`)

// mayTell is the cheap test before everything else: it is false only if text certainly tells of no failure.
func mayTell(text []byte) bool {
	var four uint32
	for i, c := range text {
		if four = four<<8 | uint32(c|' '); !begins[hash(four)] {
			continue
		}
		for _, hint := range hints[four] {
			rest := text[max(0, i-3):]
			if len(rest) < len(hint) || !strings.EqualFold(string(rest[:len(hint)]), hint) {
				continue
			}
			rest = rest[len(hint):min(len(rest), len(hint)+96)]
			isGroup := bytes.Contains(rest, []byte("code")) || bytes.Contains(rest, []byte("reason")) || bytes.Contains(rest, []byte("action"))
			if hint == "error" && valued.Match(rest) || hint == "endpoint" && isGroup || hint != "error" && hint != "endpoint" {
				return true
			}
		}
	}
	return false
}
