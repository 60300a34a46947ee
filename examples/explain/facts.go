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

// patterns are what is looked for, by name: see patterns.txt.
var patterns = func() map[string][]*regexp.Regexp {
	parts, compiled := []string(nil), make(map[string][]*regexp.Regexp)
	for line := range strings.Lines(patternLines) {
		name, text, isPattern := strings.Cut(strings.TrimSpace(line), "  ")
		text = strings.NewReplacer(parts...).Replace(strings.TrimSpace(text))
		if name == strings.ToUpper(name) {
			parts = append(parts, name, text)
		} else if isPattern && name[0] != '#' {
			compiled[name] = append(compiled[name], regexp.MustCompile(text))
		}
	}
	return compiled
}()

//go:embed patterns.txt
var patternLines string

func matches(name, text string) bool {
	return slices.ContainsFunc(patterns[name], func(pattern *regexp.Regexp) bool { return pattern.MatchString(text) })
}

// group returns what the group of a pattern holds.
func group(name, text string) string {
	return append(patterns[name][0].FindStringSubmatch(text), "", "")[1]
}

// rows returns the lines of a name themselves.
func rows(name string) (texts []string) {
	for _, pattern := range patterns[name] {
		texts = append(texts, pattern.String())
	}
	return texts
}

// steps undo one layer each of what logs, shells and mails do to a text.
var steps = []func(string) string{
	strings.NewReplacer("#012", "\n", "#033", "\x1b", "#011", " ", "\r\n", "\n", "\ufeff", "", // syslog
		"=\n", "", "=3D", "=", "“", `"`, "”", `"`, "„", `"`).Replace, // mail
	replace("\x1b[", `\x1b\[[0-9;]*m`, ""), // a terminal's colors
	func(text string) string { return escapes.ReplaceAllStringFunc(text, unescape) },
	html.UnescapeString,
	replace(`""`, `""(\w[^"\n]*)""`, `"$1"`), // CSV
	replace("\n>", `\n(?:> ?)+`, "\n"),       // mail, and curl -v
	replace(`"value"`, `"(?:key|name|field)"\s*:\s*"([^"]*)"\s*,\s*"value"\s*:\s*(?:\{\s*"\w+"\s*:)?`, `"$1":`), // OpenTelemetry, HAR
}

// replace returns a function that replaces what matches pattern in texts which hold mark.
func replace(mark, pattern, replacement string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(text string) string {
		if strings.Contains(text, mark) {
			return compiled.ReplaceAllString(text, replacement)
		}
		return text
	}
}

func unescape(escape string) string {
	if plain, err := strconv.Unquote(`"` + escape + `"`); err == nil {
		return plain
	}
	return escape[1:] // as of JSON's \/
}

var (
	escapes = regexp.MustCompile(`(?s)\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{3}|.)`)
	percent = replace("%", `%([0-9A-Fa-f]{2})`, `\x$1`)
	urlWord = regexp.MustCompile("[^\\s\"`<>'|]+")
	plain   = strings.NewReplacer(rows("plain")...) // says in our words what others say in theirs
)

// facts are what one record says, each for itself, wherever in the record it stands and whatever stands around it.
type facts struct {
	text, lower string   // undone, and in lower case
	redirects   []string // queries of callbacks, which are no longer in the text
	texts       []string // that Apple documents
	codes       []applebusiness.Code
	labels      []applebusiness.Reason
	said        map[string]string // what the members say, by the names of the facts
	status      int               // one that passes, if there are several
	answer      int               // where a status begins a response, if one does
	isForeign   bool              // there is an "error_description" that is not Apple's
	isBody      bool              // it has an "error" that is no code of ours
	isList      bool              // names stand in a list
	isPaste     bool              // it is a short text; in a log a bare status could be any server's
}

// collect returns the facts of a record.
func collect(record string, isPaste bool) *facts {
	f := &facts{text: "\n" + record, isPaste: isPaste, said: make(map[string]string)}
	for range 32 { // JSON in JSON doubles the backslashes
		before := f.text
		for _, step := range steps {
			f.text = step(f.text)
		}
		if f.text == before && containsAny(f.text, "?", "error=", "code=", "%") {
			f.text = percent(urlWord.ReplaceAllStringFunc(f.text, f.takeQuery))
		}
		if f.text == before {
			break
		}
	}
	f.lower = plain.Replace(strings.ToLower(f.text))
	f.addTexts()
	for start := 0; start < len(f.lower); start++ {
		if word := wordAt(f.lower[start:]); word != "" {
			f.addWord(word, start, start+len(word))
			start += len(word)
		}
	}
	f.addMembers()
	return f
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

// words are the codes and the labels by themselves and by their constants, documented the texts, the longest first; all in lower
// case. names are all of them.
var (
	words, documented = vocabulary()
	names             = slices.Concat(documented, slices.Sorted(maps.Keys(words)))
	listed            = regexp.MustCompile("^[\"'` \\[\\]]*[,|/][\"'`|,/ \\[\\]]*(?:" + strings.Join(names, "|") + `)\b`)
)

func vocabulary() (words map[string]applebusiness.Entry, texts []string) {
	entries := slices.Collect(applebusiness.Catalog())
	for _, code := range rows("otherCode") {
		entries = append(entries, applebusiness.Entry{Code: applebusiness.Code(code)})
	}
	for _, label := range rows("otherLabel") {
		entries = append(entries, applebusiness.Entry{Reason: applebusiness.Reason(label)})
	}
	words = make(map[string]applebusiness.Entry)
	for _, entry := range entries {
		code, label, text := strings.ToLower(string(entry.Code)), string(entry.Reason), strings.ToLower(entry.Description)
		for _, word := range []string{code, "code" + strings.NewReplacer("404 ", "", "_", "", " ", "").Replace(code)} {
			words[word] = applebusiness.Entry{Code: entry.Code, Reason: words[word].Reason}
		}
		for _, word := range []string{label, "err" + strings.ReplaceAll(label, "_", "")} {
			words[word] = applebusiness.Entry{Code: words[word].Code, Reason: entry.Reason}
		}
		if !matches("anybodys", text) {
			texts = append(texts, strings.TrimRight(text, "."))
		}
	}
	maps.DeleteFunc(words, func(_ string, meaning applebusiness.Entry) bool { return meaning == applebusiness.Entry{} })
	slices.SortStableFunc(texts, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return words, texts
}

// addTexts adds Apple's texts, of which the longer may hold a shorter one, and the exchange of a code also without its name.
func (f *facts) addTexts() {
	rest := fold(f.lower)
	for _, text := range documented {
		if strings.Contains(rest, text) {
			f.texts = append(f.texts, text)
			rest = strings.ReplaceAll(rest, text, "\x00")
		}
	}
	if containsAny(rest, "server e", "bad r", "oauth 2.0 p", "missing f", "accepted v") {
		for _, text := range patterns["template"][0].FindAllString(rest, -1) {
			f.texts = append(f.texts, strings.TrimLeft(text, "\"'=:>[()] "))
		}
	}
	if containsAny(rest, applebusiness.GrantTypeAuthorizationCode, "the code was redeemed") { // as package grants says
		f.said["grant_type"] = applebusiness.GrantTypeAuthorizationCode
	}
}

// addMembers adds what members say, of each fact the first value that it can have.
func (f *facts) addMembers() {
	for _, fact := range strings.Fields("action impact endpoint grant_type retry_after code error description client level customer") {
		for _, pattern := range patterns[fact] {
			if prefix, _ := pattern.LiteralPrefix(); !strings.Contains(f.lower, prefix) {
				continue // which is faster
			}
			for _, at := range pattern.FindAllStringSubmatchIndex(f.lower, -1) {
				value := f.lower[at[2]:at[3]]
				isOurs := (fact == "error" || fact == "client") && (words[value].Code != "" || words[wordAt(value)] != applebusiness.Entry{})
				if isOurs || matches("noValue", value) || wordAt(f.lower[max(0, at[0]-1):at[0]]) != "" {
					continue
				}
				f.said[fact] = cmp.Or(f.said[fact], value)
				f.isForeign = f.isForeign || fact == "description" && !f.isApples(f.lower[at[2]:min(len(f.lower), at[2]+400)])
				f.isBody = f.isBody || fact == "error" && f.answer > 0 && f.answer < at[0] && neterr.StatusOf(value) == 0
			}
		}
	}
}

// addWord adds what a word says: it is in our vocabulary, or a status.
func (f *facts) addWord(word string, start, end int) {
	before, after := f.lower[max(0, start-24):start], f.lower[end:min(len(f.lower), end+40)]
	meaning := words[word]
	isAlone := f.isPaste && strings.TrimSuffix(strings.Trim(f.lower, " \n\"'`.,;:()[]{}"), " not found") == word
	switch {
	case word == "404" && strings.HasPrefix(after, " not found") && (isAlone || matches("marked", before)):
		f.codes = append(f.codes, applebusiness.CodeNotFound)
	case len(word) == 3 && word[0] >= '1' && word[0] <= '5':
		f.addStatus(word, before, after, start)
	case meaning == applebusiness.Entry{}, matches("counted", after):
	case !isAlone && len(f.texts) == 0 && !matches("distinct", word) && !matches("marked", before):
	case !isAlone && meaning.Code == "" && !strings.Contains(word, "_") && word[:3] != "err" && group("endpoint", f.lower) == "": // another's
	case listed.MatchString(after):
		f.isList = true
	case meaning.Code != "":
		f.codes = append(f.codes, meaning.Code)
	default:
		f.labels = append(f.labels, meaning.Reason)
	}
}

// addStatus adds three characters that are an HTTP status. One that passes wins, whatever stands beside it, and one that fails over
// one that does not.
func (f *facts) addStatus(word, before, after string, start int) {
	status, _ := strconv.Atoi(word)
	phrase, isAnswer := strings.ToLower(http.StatusText(status)), strings.HasSuffix(before, " ") && matches("answer", before)
	isBetter := f.status == 0 || f.status < 400 && status >= 400 || isAnswer || neterr.StatusPasses(status)
	isPassports := word == "500" && strings.Contains(f.text, "TokenError") // which gives it to each error
	if isBetter && status >= 200 && !isPassports && !neterr.StatusPasses(f.status) &&
		(isAnswer || phrase != "" && strings.HasPrefix(after, " "+phrase) || matches("status", before) ||
			matches("bodyAfter", after) && !matches("numbered", before)) {
		f.status = status
	}
	if isAnswer {
		f.answer = cmp.Or(f.answer, start)
	}
}

// isApples reports whether a value begins with the whole of a text of Apple's.
func (f *facts) isApples(value string) bool {
	value = fold(value)
	return slices.ContainsFunc(f.texts, func(text string) bool {
		return strings.HasPrefix(value, text) && matches("valueEnd", value[len(text):])
	})
}

func containsAny(text string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
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

// fold returns text with single spaces.
func fold(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "+", " ")), " ")
}
