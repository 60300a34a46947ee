package main

import (
	"cmp"
	_ "embed"
	"html"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// pattern is a line of patterns.txt: what is looked for, and what it stands for.
type pattern struct {
	*regexp.Regexp
	meaning string
}

//go:embed patterns.txt
var patternLines string

// patterns are the lines of patterns.txt by their names.
var patterns = func() map[string][]pattern {
	parts, byName := []string(nil), make(map[string][]pattern)
	for line := range strings.Lines(patternLines) {
		name, text, isPattern := strings.Cut(strings.TrimSpace(line), "  ")
		text, meaning, _ := strings.Cut(strings.NewReplacer(parts...).Replace(strings.TrimSpace(text)), "  ->")
		if name == strings.ToUpper(name) {
			parts = append(parts, name, text)
		} else if isPattern && name[0] != '#' {
			byName[name] = append(byName[name], pattern{regexp.MustCompile(text), strings.TrimSpace(meaning)})
		}
	}
	return byName
}()

func matches(name, text string) bool {
	return slices.ContainsFunc(patterns[name], func(p pattern) bool { return p.MatchString(text) })
}

// meaning returns what the first pattern of a name that matches stands for.
func meaning(name, text string) string {
	for _, p := range patterns[name] {
		if p.MatchString(text) {
			return p.meaning
		}
	}
	return ""
}

// rewrite puts in the place of what the patterns of a name match what they stand for.
func rewrite(name, text string) string {
	for _, p := range patterns[name] {
		text = p.ReplaceAllString(text, p.meaning)
	}
	return text
}

// words are Apple's texts, the codes and the labels, these by themselves and by their constants, with what they mean; all in lower
// case. names are their patterns by their first words, the longest first.
var words, names = func() (words map[string]applebusiness.Entry, names map[string][]pattern) {
	entries := slices.Collect(applebusiness.Catalog())
	for _, p := range patterns["others"] {
		entries = append(entries, applebusiness.Entry{Reason: applebusiness.Reason(p.String()), Code: applebusiness.Code(p.meaning)})
	}
	words, names = make(map[string]applebusiness.Entry), make(map[string][]pattern)
	for _, entry := range slices.Backward(entries) { // the first row's meaning stays
		code, label, text := strings.ToLower(string(entry.Code)), string(entry.Reason), strings.ToLower(entry.Description)
		words[strings.TrimRight(text, ".")] = applebusiness.Entry{Reason: entry.Reason, Description: text}
		words[label] = applebusiness.Entry{Reason: entry.Reason}
		words["err"+strings.ReplaceAll(label, "_", "")] = words[label]
		words[code] = applebusiness.Entry{Code: entry.Code}
		words["code"+strings.NewReplacer("404 ", "", "_", "", " ", "").Replace(code)] = words[code]
	}
	delete(words, "")
	delete(words, "code") // of a label without one
	for _, word := range slices.SortedFunc(maps.Keys(words), func(a, b string) int { return len(b) - len(a) }) {
		text := regexp.MustCompile("^" + rewrite("varying", regexp.QuoteMeta(word)))
		names[wordAt(word)] = append(names[wordAt(word)], pattern{text, word})
	}
	return words, names
}()

// nameAt returns the meaning of the name with which a text in lower case begins, and how long that is there.
func nameAt(text string) (meaning applebusiness.Entry, length int) {
	for _, p := range names[wordAt(text)] {
		if at := p.FindStringIndex(text); at != nil {
			return words[p.meaning], at[1]
		}
	}
	return meaning, 0
}

// facts are what one record says, each for itself, wherever in the record it stands and whatever stands around it.
type facts struct {
	text, lower     string                // undone, and in lower case
	redirects       []string              // queries of callbacks, which are no longer in the text
	names           []applebusiness.Entry // texts, labels and codes in this order, each with only that member
	code            applebusiness.Code    // the first one
	said            map[string]string     // what the members say, by the facts
	status          int                   // one that passes, if there are several
	answer, foreign int                   // where a status begins a response, and where the last "error" is that is no code of ours
	isForeign       bool                  // there is an "error_description" that is not Apple's
	isList          bool                  // names stand in a list
	isOwn           bool                  // it is of package applebusiness, by its attributes
	isPaste         bool                  // it is a short text; in a log a bare status could be any server's
}

// collect returns the facts of a record.
func collect(record string, isPaste bool) *facts {
	f := &facts{text: "\n" + record, isPaste: isPaste, said: make(map[string]string)}
	for range 32 { // JSON in JSON doubles the backslashes
		before := f.text
		f.text = html.UnescapeString(patterns["escape"][0].ReplaceAllStringFunc(rewrite("undo", f.text), unescape))
		if f.text == before {
			f.text = rewrite("percent", patterns["url"][0].ReplaceAllStringFunc(f.text, f.takeQuery))
		}
		if f.text == before {
			break
		}
	}
	f.lower = rewrite("plain", strings.ToLower(f.text))
	f.addMembers()
	f.addWords()
	return f
}

func unescape(escape string) string {
	if plain, err := strconv.Unquote(`"` + escape + `"`); err == nil {
		return plain
	}
	return escape[1:] // as of JSON's \/
}

// takeQuery keeps the query of a word that is a callback's, and returns the word without any query. A form belongs to no URL and
// has no state.
func (f *facts) takeQuery(word string) string {
	path, query, isURL := strings.Cut(word, "?")
	query, _, _ = strings.Cut(strings.Trim(cmp.Or(query, path), ",;()[]{}"), "#")
	values, _ := url.ParseQuery(query)
	isKnown := words[values.Get("error")].Code != "" || values.Has("state")
	if (isURL || values.Has("state")) && (strings.Contains("&"+query, "&error=") && isKnown || values.Has("code")) {
		f.redirects = append(f.redirects, query)
		return ""
	} else if isURL && strings.Contains(path, "/") { // somebody else's query
		return path
	}
	return word
}

// addMembers adds what members say, of each fact the first value that it can have.
func (f *facts) addMembers() {
	for _, p := range patterns["said"] {
		for _, at := range p.FindAllStringSubmatchIndex(f.lower, -1) {
			fact, value := p.meaning, f.lower[at[2]:at[3]]
			found, length := nameAt(f.lower[at[2]:])
			isOurs := (fact == "error" || fact == "client") && length > 0 && found.Description == ""
			if isOurs || matches("noValue", value) || wordAt(f.lower[max(0, at[0]-1):at[0]]) != "" {
				continue
			}
			f.said[fact] = cmp.Or(f.said[fact], value)
			if fact == "error" && neterr.StatusOf(value) == 0 {
				f.foreign = max(f.foreign, at[0])
			}
			f.isForeign = f.isForeign || fact == "description" && (found.Description == "" || !matches("valueEnd", f.lower[at[2]+length:]))
		}
	}
}

// addWords adds what the words say that are names or a status.
func (f *facts) addWords() {
	var unmarked []applebusiness.Entry // which count only beside a text of Apple's
	hasText, last, whole := false, 0, strings.Trim(f.lower, " \n\"'`.,;:()[]{}")
	for start, end := 0, 0; start < len(f.lower); start = end + 1 {
		word := wordAt(f.lower[start:])
		x, length := nameAt(f.lower[start:])
		end = start + len(word)
		before, after, name := f.lower[max(0, start-24):start], f.lower[end:], f.lower[start:start+length]
		isAlone, isText, isCommon := f.isPaste && name == whole, x.Description != "", matches("common", name)
		isMarked := isAlone || isText && !isCommon || matches("distinct", name) || matches("marked", before)
		isOurs := isAlone || f.said["endpoint"] != "" || !matches("ordinary", name)
		switch {
		case word == applebusiness.GrantTypeAuthorizationCode:
			f.said["grant_type"] = word
		case isText && isMarked:
			hasText, end = true, start+length
			f.names = append(f.names, applebusiness.Entry{Description: strings.Join(strings.Fields(name), " ")})
		case length > 0 && !isText && (isMarked || !isCommon) && isOurs && !matches("counted", after):
			f.isList = f.isList || last > 0 && matches("between", f.lower[last:start])
			end, last = start+length, start+length
			if isMarked {
				f.names = append(f.names, x)
			} else {
				unmarked = append(unmarked, x)
			}
		case len(word) == 3:
			f.addStatus(word, before, after, start)
		}
	}
	if hasText {
		f.names = append(f.names, unmarked...)
	}
	isForeign := f.isForeign && !matches("wrapped", f.said["error"])
	isAnothers := f.said["client"] != "" || f.answer > 0 && f.foreign > f.answer || isForeign && f.said["error"] != ""
	f.names = slices.DeleteFunc(f.names, func(x applebusiness.Entry) bool { // another's error may quote Apple's
		return isAnothers || isForeign && x.Description != ""
	})
	slices.SortStableFunc(f.names, func(a, b applebusiness.Entry) int { // the longer texts first
		return cmp.Or(len(b.Description)-len(a.Description), min(len(a.Code), 1)-min(len(b.Code), 1))
	})
	f.isOwn = f.said["endpoint"] != "" || f.said["impact"] != ""
	for _, x := range f.names {
		f.code, f.isOwn = cmp.Or(f.code, x.Code), f.isOwn || x.Reason != ""
	}
}

// addStatus adds three characters that are an HTTP status. One that passes wins, whatever stands beside it, and one that fails over
// one that does not.
func (f *facts) addStatus(word, before, after string, start int) {
	status, _ := strconv.Atoi(word)
	phrase, isAnswer := strings.ToLower(http.StatusText(status)), status > 0 && matches("answer", before)
	isBetter := f.status == 0 || f.status < 400 && status >= 400 || isAnswer || neterr.StatusPasses(status)
	isPassports := status == 500 && strings.Contains(f.text, "TokenError") // which gives it to each error
	if isBetter && !isPassports && status >= 200 && status < 600 && !neterr.StatusPasses(f.status) &&
		(isAnswer || phrase != "" && strings.HasPrefix(after, " "+phrase) || matches("status", before) ||
			matches("bodyAfter", after) && !matches("numbered", before)) {
		f.status = status
	}
	if isAnswer {
		f.answer = cmp.Or(f.answer, start)
	}
}

// wordAt returns the word with which a text in lower case begins.
func wordAt(text string) string {
	for i := range len(text) {
		if c := text[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return text[:i]
		}
	}
	return text
}
