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
var patterns = func() map[string]*regexp.Regexp {
	texts, parts, compiled := make(map[string]string), []string(nil), make(map[string]*regexp.Regexp)
	for line := range strings.Lines(patternLines) {
		name, text, isPattern := strings.Cut(strings.TrimSpace(line), "  ")
		text = strings.NewReplacer(parts...).Replace(strings.TrimSpace(text))
		if name == strings.ToUpper(name) {
			parts = append(parts, name, text)
		} else if isPattern && name[0] != '#' {
			texts[name] += "|" + text
			compiled[name] = regexp.MustCompile("(?:" + texts[name][1:] + ")")
		}
	}
	return compiled
}()

//go:embed patterns.txt
var patternLines string

func matches(pattern, text string) bool { return patterns[pattern].MatchString(text) }

// group returns what the group of a pattern holds.
func group(pattern, text string) string {
	if found := patterns[pattern].FindStringSubmatchIndex(text); found != nil {
		return text[found[2]:found[3]]
	}
	return ""
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
	r, isRune, _, err := strconv.UnquoteChar(escape, '"')
	switch {
	case err != nil:
		return escape[1:] // as of JSON's \/
	case isRune:
		return string(r)
	}
	return string([]byte{byte(r)})
}

var (
	escapes = regexp.MustCompile(`(?s)\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{3}|.)`)
	percent = replace("%", `%([0-9A-Fa-f]{2})`, `\x$1`)
	urlWord = regexp.MustCompile("[^\\s\"`<>'|]+")
	// plain says in our words what x/oauth2, net/http and gateways say in theirs.
	plain = strings.NewReplacer("too many requests", "429 too many requests", "bad gateway", "502 bad gateway",
		"service unavailable", "503 service unavailable", "service temporarily unavailable", "503 service unavailable",
		"gateway timeout", "504 gateway timeout", "gateway time-out", "504 gateway timeout",
		"upstream connect error", "503 service unavailable", "endpoint request timed out", "504 gateway timeout",
		"token expired and refresh token is not set", "applebusiness: no_refresh_token")
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
	isAnswer    bool              // a status begins a response
	isBody      bool              // it has an "error" that is no code of ours
	isList      bool              // names stand in a list
	isPaste     bool              // and a short one, not a log, in which a bare status could be any server's
}

// collect returns the facts of a record.
func collect(record string) *facts {
	f := &facts{text: "\n" + record, said: make(map[string]string)}
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
			end := start + len(word)
			before, after := f.lower[max(0, start-28):start], f.lower[end:min(len(f.lower), end+400)]
			f.addMember(word, after)
			f.addWord(word, before, after)
			start = end
		}
	}
	return f
}

// takeQuery keeps the query of a word that is a callback's, and returns the word without any query. A form belongs to no URL and
// has no state.
func (f *facts) takeQuery(word string) string {
	path, query, isURL := strings.Cut(word, "?")
	query, _, _ = strings.Cut(strings.Trim(cmp.Or(query, path), ",;()[]{}"), "#")
	values, _ := url.ParseQuery(query)
	isKnown := words[values.Get("error")].Code != "" || values.Has("state")
	switch {
	case (isURL || values.Has("state")) && (strings.Contains("&"+query, "&error=") && isKnown || values.Has("code")):
		f.redirects = append(f.redirects, query)
		return ""
	case isURL && strings.Contains(path, "/"): // somebody else's query
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
	for _, code := range strings.Fields("access_denied unauthorized_client unsupported_grant_type temporarily_unavailable") {
		entries = append(entries, applebusiness.Entry{Code: applebusiness.Code(code)})
	}
	for _, label := range strings.Fields("state_mismatch malformed_redirect user_denied no_response rate_limited unavailable " +
		"malformed_response unsafe_token_request no_refresh_token unsafe_state many_refusals") {
		entries = append(entries, applebusiness.Entry{Reason: applebusiness.Reason(label)})
	}
	words = map[string]applebusiness.Entry{"codenotfound": {Code: applebusiness.CodeNotFound}}
	for _, entry := range entries {
		code, label, text := strings.ToLower(string(entry.Code)), string(entry.Reason), strings.ToLower(entry.Description)
		for _, word := range []string{code, "code" + strings.ReplaceAll(code, "_", "")} {
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

// members are the facts that members of these names tell, in lower case and without _, - and id.
var members = map[string]string{
	"action": "action", "impact": "impact", "endpoint": "endpoint", "granttype": "grant_type", "retryafter": "retry_after",
	"code": "code", "error": "error", "errorcode": "error", "errordescription": "description", "oauth2": "client", "applebusiness": "client",
	"level": "level", "severity": "level", "severitytext": "level", "lvl": "level", "loglevel": "level", "priority": "level",
	"customer": "customer", "grant": "customer", "tenant": "customer", "account": "customer", "merchant": "customer", "org": "customer",
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
		for _, text := range patterns["template"].FindAllString(rest, -1) {
			f.texts = append(f.texts, strings.TrimLeft(text, "\"'=:>[()] "))
		}
	}
	if strings.Contains(rest, applebusiness.GrantTypeAuthorizationCode) {
		f.said["grant_type"] = applebusiness.GrantTypeAuthorizationCode
	}
}

// addMember adds what a member of this name says: the first value that it can have, of a description one that is not Apple's.
func (f *facts) addMember(name, after string) {
	fact := members[strings.TrimSuffix(strings.ReplaceAll(strings.ReplaceAll(name, "_", ""), "-", ""), "id")]
	if fact == "" || f.said[fact] != "" && fact != "description" {
		return
	}
	value := group(fact, after)
	isOurs := words[value].Code != "" || words[wordAt(value)] != applebusiness.Entry{} || matches("noValue", value)
	switch {
	case value == "", isOurs && (fact == "error" || fact == "client"):
	case fact != "description" || f.said[fact] == "" || !f.isApples(value):
		f.said[fact] = value
		f.isBody = f.isBody || fact == "error" && f.isAnswer && neterr.StatusOf(value) == 0
	}
}

// addWord adds what a word says: it is in our vocabulary, or a status.
func (f *facts) addWord(word, before, after string) {
	meaning, all := words[word], strings.Trim(f.lower, " \n\"'`.,;:()[]{}")
	isAlone := all == word || all == word+" not found"
	switch {
	case word == "404" && strings.HasPrefix(after, " not found") && (isAlone || matches("marked", before)):
		f.codes = append(f.codes, applebusiness.CodeNotFound)
	case len(word) == 3 && word[0] >= '1' && word[0] <= '5':
		f.addStatus(word, before, after)
	case meaning == applebusiness.Entry{}, matches("counted", after):
	case !isAlone && !matches("distinct", word) && !matches("marked", before) && len(f.texts) == 0:
	case !isAlone && meaning.Code == "" && !strings.Contains(word, "_") && word[:3] != "err" && f.said["endpoint"] == "": // another's
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
func (f *facts) addStatus(word, before, after string) {
	status, _ := strconv.Atoi(word)
	phrase, isAnswer := strings.ToLower(http.StatusText(status)), matches("answer", before)
	isOne := isAnswer || phrase != "" && strings.HasPrefix(after, " "+phrase) || matches("status", before) ||
		matches("bodyAfter", after) && !matches("numbered", before)
	isBetter := f.status == 0 || f.status < 400 && status >= 400 || isAnswer || neterr.StatusPasses(status)
	isPassports := word == "500" && strings.Contains(f.text, "TokenError") // which gives it to each error
	if isOne && status >= 200 && !isPassports && isBetter && !neterr.StatusPasses(f.status) {
		f.status = status
	}
	f.isAnswer = f.isAnswer || isAnswer
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
	end := 0
	for end < len(text) && (text[end] >= 'a' && text[end] <= 'z' || text[end] >= '0' && text[end] <= '9' || text[end] == '_' || text[end] == '-') {
		end++
	}
	return text[:end]
}

// fold returns text with single spaces.
func fold(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "+", " ")), " ")
}
