package main

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// understand returns the different failures that a pasted text tells of.
func understand(input string) (found []*failure, err error) {
	input = strings.TrimSpace(strings.TrimPrefix(input, "\ufeff"))
	if f := typed(input); f != nil {
		return []*failure{f}, nil
	} else if input == "" {
		return nil, errEmpty
	}
	err = errNothing
	records := split(input)
	for _, record := range records {
		more, nothing := collect(record).failures()
		for _, f := range more {
			if !slices.ContainsFunc(found, func(other *failure) bool {
				return f.name() == other.name() && f.advice.Action == other.advice.Action && f.Code == other.Code
			}) {
				found = append(found, f)
			}
		}
		if nothing != errNothing {
			err = nothing
		}
	}
	if len(found) > 1 && len(records) > 1 { // another server may have answered another request
		found = slices.DeleteFunc(found, func(f *failure) bool { return f.Reason == applebusiness.ErrMalformedResponse })
	}
	if len(found) == 0 && len(records) == 1 && err == errNothing {
		if f := collect(input); len(f.statuses) > 0 && clientStatus.MatchString(f.text) {
			if err = errStatus; neterr.StatusPasses(f.status()) {
				found = []*failure{f.finish(f.response("", ""))}
			}
		}
	}
	if near := nearest(input); len(found) == 0 && near != nil && err == errNothing {
		found = []*failure{near}
	}
	if len(found) > 0 {
		err = nil
	}
	return found, err
}

// clientStatus is what HTTP clients say of a response of which they show nothing but the status. In a log it could be about
// any server, so it has to be all that somebody asks about.
var clientStatus = regexp.MustCompile(`(?i)(?:\bstatus(?:_?code| code)?|\bcode|\bwith status|\bhttp error|\bresponse code:|returned error:|does not indicate success:|resulted in a .|^\s*(?:http )?)["' =:]*[45][0-9]{2}\b|\b[45][0-9]{2} (?:client|server) error:`)

// typed returns what somebody means who gives nothing but a label, a constant, a code or a text of Apple's, or the body of an
// error of Apple's resource API or its sister services; nil for anything else.
func typed(input string) *failure {
	name := strings.TrimPrefix(strings.ToLower(strings.Trim(input, " \t\r\n\"'`.,;:()[]{}")), "applebusiness.")
	var members map[string]any
	_ = json.Unmarshal([]byte(strings.Trim(input, "[] \n")), &members)
	isDialect := members["message"] != nil || members["detail"] != nil
	if list, _ := members["errors"].([]any); len(list) > 0 {
		members, _ = list[0].(map[string]any)
		isDialect = members["code"] != nil
	}
	for name := range members {
		isDialect = isDialect && strings.Contains(" id status code title message detail details context source links meta target ", " "+name+" ")
	}
	e := &applebusiness.Error{Code: codeWords[name]}
	switch code, _ := members["code"].(string); {
	case e.Code != "":
	case labelWords[name] != "":
		e.Reason = labelWords[name]
	case isDialect && codeWords[code] == "" && errorName.MatchString(code):
		e = applebusiness.ParseTokenError(0, nil, []byte(`{"code":"","message":"m"}`))
	default:
		if e = applebusiness.ParseTokenError(0, nil, bodyOf("", name)); !isDocumented(e.Reason) {
			return nil
		}
	}
	return new(facts).finish(e)
}

var errorName = regexp.MustCompile(`^(?:[A-Za-z]+(?:[_. -][A-Za-z]+)*|[A-Z]{0,4}[-_]?[0-9]{1,6})$`)

// split returns the records of a paste: the lines that begin as those of a log do, and the entries of a list in JSON, each with
// what follows it.
func split(input string) (records []string) {
	input = entryAt.ReplaceAllString(input, "$1\n$2")
	start, end := 0, 0
	for line := range strings.SplitAfterSeq(input, "\n") {
		isResponse := strings.Contains(line, "Response: ") && fetched.MatchString(input[max(start, end-1024):end])
		if end > 0 && logLine.MatchString(line) && !isResponse {
			records = append(records, input[start:end])
			start = end
		}
		end += len(line)
	}
	return append(records, input[start:])
}

var (
	entryAt = regexp.MustCompile(`([\[,]\s*)(\{\s*"(?:_initiator|startedDateTime|pageref|request|time|level|ts|timestamp|@timestamp|severity|log|msg|message|lvl|@message|insertId|jsonPayload|textPayload|eventId)"|\[\{"field")`)
	logLine = regexp.MustCompile(`^(?:\S{0,24} *\| *)?[\[<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ]|time=|level=|ts=|\d{1,3}>|[A-Z][a-z]{2} [ \d]\d \d\d:|\{"(?:time|level|ts|timestamp|@timestamp|severity|log|msg|message|lvl)"|\{\s*"(?:_initiator|startedDateTime|pageref|request|@message|insertId|jsonPayload|textPayload|eventId)"|\[\{"field")`)
)

// nearest returns the row or the code that somebody nearly means who types a short text, nil if there is none.
func nearest(input string) *failure {
	if len(input) > 128 || strings.ContainsAny(input, "{}=\n") {
		return nil
	}
	best, score := "", 0.7
	names := slices.AppendSeq(slices.Collect(maps.Keys(codeWords)), maps.Keys(labelWords))
	for _, entry := range documented {
		names = append(names, entry.Description)
	}
	for _, name := range names {
		if s := similarity(input, name); s > score {
			best, score = name, s
		}
	}
	if best == "" {
		return nil
	}
	x := explain(typed(best))
	return &failure{Error: new(applebusiness.Error), nearest: x.Constant + ", " + cmp.Or(x.Code, strconv.Quote(x.Reason.Description())), advice: applebusiness.Advice{Remedy: "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."}}
}

// similarity returns which part of the pairs of letters in two texts is the same.
func similarity(a, b string) float64 {
	pairs, all, same := make(map[string]int), 0, 0
	for i, text := range []string{a, b} {
		text = notLetters.ReplaceAllString(strings.ToLower(text), "")
		for j := 2; j <= len(text); j++ {
			pair := text[j-2 : j]
			if all++; i == 0 {
				pairs[pair]++
			} else if pairs[pair]--; pairs[pair] >= 0 {
				same++
			}
		}
	}
	return 2 * float64(same) / float64(max(all, 1))
}

var notLetters = regexp.MustCompile(`[^a-z0-9]+`)
