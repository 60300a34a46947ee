package main

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"html"
	"maps"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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

const unknown = "undocumented" // stands for a code that nobody documented

// understand returns the different failures that a pasted text tells of. A record is a line that begins as those of a log do, with
// what follows it.
func understand(input string) (found []*failure, err error) {
	input = strings.TrimSpace(strings.TrimPrefix(input, "\ufeff"))
	if input == "" {
		return nil, errors.New("the input is empty")
	} else if matches("dialect", input) {
		e := &applebusiness.Error{Reason: applebusiness.ErrMalformedResponse}
		return []*failure{newFailure(e, "", applebusiness.Troubleshoot(e))}, nil
	}
	records := []string{""}
	for line := range strings.SplitAfterSeq(input, "\n") {
		if matches("logLine", line) && !strings.Contains(line, "Response: ") {
			records = append(records, "")
		}
		records[len(records)-1] += line
	}
	seen, isOther := make(map[string]bool), false
	for _, record := range records {
		f := collect(record, len(input) < 300)
		for _, x := range f.failures() {
			if kind := x.Name + string(x.Action) + x.Code + x.Provider; !seen[kind] {
				seen[kind], found = true, append(found, x)
			}
		}
		isOther = isOther || f.status != 0 || f.isMention()
	}
	if len(found) == 0 && !isOther {
		found = nearest(input)
	}
	if len(found) == 0 {
		err = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	}
	return found, err
}

// nearest returns the row or the code that somebody nearly means who types a short text; nil if there is none.
func nearest(input string) []*failure {
	if len(input) > 128 || strings.ContainsAny(input, "{}=\n") {
		return nil
	}
	best, most := "", 0.7
	for _, name := range names {
		if part := similarity(input, name); part > most {
			best, most = name, part
		}
	}
	found := collect(best, true).failures()
	if len(found) == 0 {
		return nil
	}
	const remedy = "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."
	x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: remedy})
	x.Nearest = cmp.Or(found[0].Constant, found[0].Code)
	return []*failure{x}
}

var notLetters = regexp.MustCompile(`[^a-z0-9]+`)

// similarity returns which part of the pairs of letters in two texts is the same.
func similarity(a, b string) float64 {
	a, b = notLetters.ReplaceAllString(strings.ToLower(a), ""), notLetters.ReplaceAllString(b, "")
	same := 0
	for i := range max(len(a)-1, 0) {
		if strings.Contains(b, a[i:i+2]) {
			same++
		}
	}
	return 2 * float64(same) / float64(max(len(a)+len(b)-2, 1))
}

// failures returns what the record tells of: of another provider no more than whose error it is.
func (f *facts) failures() []*failure {
	found := f.find()
	mayBe := containsAny(f.lower, ".com", ".net", ".us", "aad", "unauthenticated", "revoked")
	if len(found) == 0 || !mayBe || strings.Contains(f.lower, "business.apple.com") {
		return found
	}
	for _, name := range []string{"Sign in with Apple", "another API of Apple's", "Microsoft", "Google", "another provider"} {
		if matches(name, f.lower) {
			const remedy = "Look it up where that provider documents its errors: nothing in it is about Apple Business."
			x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: remedy})
			x.Provider = name
			return []*failure{x}
		}
	}
	return found
}

// find returns the errors of callbacks and those that texts, labels and codes tell; without any what a response or the network tells.
func (f *facts) find() (found []*failure) {
	isSuccess := strings.Contains(f.lower, `access_token"`)
	for _, query := range f.redirects {
		_, err := applebusiness.ParseRedirect(query)
		if e, ok := errors.AsType[*applebusiness.Error](err); ok {
			found = f.add(found, e)
		}
		isSuccess = isSuccess || err == nil
	}
	if f.isMention() {
		return found
	} else if found = f.known(found); len(found) > 0 {
		return found
	}
	return f.unnamed(isSuccess)
}

// unnamed returns what a response, a code that nobody documented or the network tells.
func (f *facts) unnamed(isSuccess bool) []*failure {
	value, description, isQuoted := cmp.Or(f.said["client"], f.said["error"]), f.said["description"], f.said["client"] != ""
	isStatus, isLog, isOwn := neterr.StatusOf(value) != 0, matches("log", f.lower), f.said["endpoint"] != ""
	isCode := matches("codeLike", value) && (description != "" || !isLog || isOwn) || isOwn && f.said["code"] != "" ||
		isQuoted && (!strings.Contains(value, " ") || strings.Contains(value, ": "))
	isPage := isStatus && (!isLog || strings.Contains(f.lower, "oauth2/token")) // as frameworks have it
	isResponse := f.answer > 0 || containsAny(f.lower, `"response":{`, "applebusiness: ") || isPage || isOwn && f.said["action"] != ""
	if isCode && !isStatus {
		return f.add(nil, f.response(unknown, ""))
	} else if isResponse && (f.status >= 400 || f.status != 0 && !isSuccess) {
		return f.add(nil, f.response("", ""))
	}
	network, phrase := f.ofNetwork(), neterr.StatusOf(group("phrase", f.lower))
	switch isBare := f.isPaste && len(f.codes)+len(f.labels) == 0; {
	case network.Known:
		return []*failure{newFailure(new(applebusiness.Error), network.Words, f.adviceOf(network))}
	case value != "" && description != "":
		return f.add(nil, f.response(unknown, ""))
	case isBare && (phrase != 0 && !isLog || neterr.StatusPasses(f.status) || f.status == http.StatusNetworkAuthenticationRequired):
		f.status = max(f.status, phrase)
		return f.add(nil, f.response("", ""))
	}
	return nil
}

// isMention reports whether the record names errors and reports none: it counts or lists them, or tells of success.
func (f *facts) isMention() bool {
	isReport := f.isOwn() && f.said["action"] != "" || f.status >= 400 && len(f.codes) > 0 && f.said["description"] != "" && !f.isForeign
	start := f.text[:min(len(f.text), 120)]
	isInfo := (matches("infoLevel", f.said["level"]) || f.said["level"] == "" && matches("info", start)) && !matches("failing", start)
	isQuery := strings.Contains(f.lower, " where ") && containsAny(f.lower, "select ", "update ", "delete from ")
	return f.isList || isQuery || isInfo && !isReport || f.status == 0 && matches("mention", f.lower) ||
		containsAny(f.lower, "_total{", `"metric":`, `"__name__":`, "\n# help ")
}

// isOwn reports whether the record is one of package applebusiness, by its attributes.
func (f *facts) isOwn() bool {
	return f.said["endpoint"] != "" || f.said["impact"] != "" || len(f.labels) > 0
}

// known adds the errors that texts, labels and codes tell, each of which may tell one of its own.
func (f *facts) known(found []*failure) []*failure {
	isForeign := f.said["client"] != "" || f.isForeign && !matches("wrapped", f.said["error"])
	if f.isBody || isForeign && (f.said["client"] != "" || f.said["error"] != "") { // another one's error may quote Apple's
		return found
	}
	first, isOther := append(f.codes, "")[0], f.said["error"] != "" && f.said["description"] != ""
	for _, text := range f.texts {
		if e := f.response(first, text); !isForeign && (e.Code != "" || e.Reason.Description() != "" && !isOther) {
			found = f.add(found, e)
		}
	}
	for _, label := range f.labels {
		if len(found) == 0 || found[0].Reason != label {
			e := f.response(first, "")
			e.Reason = label
			found = f.add(found, e)
		}
	}
	for _, code := range f.codes {
		if len(found) == 0 || found[0].Code != string(code) {
			found = f.add(found, f.response(code, ""))
		}
	}
	return found
}

// response returns the error that a response with this code and text means.
func (f *facts) response(code applebusiness.Code, description string) *applebusiness.Error {
	body := fmt.Appendf(nil, `{"error":%q,"error_description":%q}`, string(code), description)
	header := http.Header{"Retry-After": {f.said["retry_after"]}, "Location": {"/"}} // which tells a redirect from what an edge drops
	e := applebusiness.ParseTokenError(f.status, header, body)
	if wait, err := time.ParseDuration(f.said["retry_after"]); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	return e
}

// add adds e to what was found, unless that is another way to say it.
func (f *facts) add(found []*failure, e *applebusiness.Error) []*failure {
	for _, x := range found {
		isLabel := e.Reason != "" && (x.Reason == e.Reason || e.Reason.Description() == "")
		if isLabel || e.Reason == "" && (x.Code == "" || x.Code == string(e.Code)) {
			return found
		}
	}
	if e.Endpoint != applebusiness.AuthorizationEndpoint {
		e.GrantType, e.Endpoint = f.said["grant_type"], applebusiness.Endpoint(f.said["endpoint"])
		for entry := range applebusiness.Catalog() {
			if (entry.Reason == e.Reason || e.Reason == "") && (entry.Code == e.Code || e.Code == "" && e.Reason != "") {
				e.Endpoint = cmp.Or(e.Endpoint, entry.Endpoint)
			}
		}
		if e.Endpoint == "" && !strings.Contains(f.text, "applebusiness: ") {
			e.Endpoint = applebusiness.TokenEndpoint
		}
	}
	network, advice := f.troubleshoot(e)
	return append(found, newFailure(e, network, advice))
}

// troubleshoot returns what failed in the network, if it is that, and what to do about e. The record's own action wins, but for a
// reconnect that e does not ask for.
func (f *facts) troubleshoot(e *applebusiness.Error) (network string, advice applebusiness.Advice) {
	advice = applebusiness.Troubleshoot(e)
	if e.Reason == applebusiness.ErrNoResponse {
		_, detail, _ := strings.Cut(f.text, "no_response: ")
		if known, ok := neterr.OfWords(detail); ok {
			network, advice = known.Words, f.adviceOf(known)
		} else if f.said["endpoint"] != "" {
			advice = applebusiness.Advice{} // the line says nothing because it knew nothing
		}
	}
	isGrant := e.Reason == applebusiness.ErrInvalidRefreshToken || e.Code == applebusiness.CodeInvalidGrant
	isDead := isGrant && !neterr.StatusPasses(e.StatusCode) && e.GrantType != applebusiness.GrantTypeAuthorizationCode
	action := applebusiness.Action(f.said["action"])
	if action != "" && action != advice.Action && f.isOwn() && (isDead || action != applebusiness.ActionReauthorize) {
		advice = applebusiness.Advice{Action: action, Impact: applebusiness.Impact(f.said["impact"])}
		advice.Remedy = "So says the line itself: the program that logged it knew the cause, which the line does not show."
	}
	return network, advice
}

// ofNetwork returns the failure of the network that the record tells of, a request that got no whole response.
func (f *facts) ofNetwork() neterr.Failure {
	sent := group("request", f.text)
	if sent == "" && matches("notApples", f.lower) {
		return neterr.Failure{}
	}
	return neterr.OfText(strings.TrimSpace(cmp.Or(sent, f.text)))
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	if strings.Contains(known.Words, "canceled") { // by whoever sent it
		return applebusiness.Advice{}
	} else if known.Passes && !known.Unsent {
		e := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.said["grant_type"]}
		return applebusiness.Troubleshoot(e)
	}
	return applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known})
}

// newFailure returns what is said about e, or about what failed in the network.
func newFailure(e *applebusiness.Error, network string, advice applebusiness.Advice) *failure {
	x := &failure{
		Constant: constant(e.Reason), Reason: e.Reason, Endpoint: e.Endpoint, Network: network,
		Code: string(words[strings.ToLower(string(e.Code))].Code), Status: e.StatusCode, Documented: e.Reason.Description() != "",
		GrantType: e.GrantType, Wait: int(math.Ceil(e.RetryAfter.Seconds())), Impact: advice.Impact, Causes: []map[string]string{},
		Action: advice.Action, Remedy: advice.Remedy,
	}
	if x.Name = cmp.Or(x.Constant, map[bool]string{true: "network"}[network != ""], unknown); e.Description != "" {
		x.Description = e.Reason.Description()
	}
	if matches("parameter", e.Parameter) {
		x.Parameter = e.Parameter
	}
	for _, c := range advice.Causes {
		x.Causes = append(x.Causes, map[string]string{"cause": string(c), "description": c.Description()})
	}
	return x
}

// constant returns the name of reason's constant, which its label is in snake case.
func constant(reason applebusiness.Reason) string {
	if reason == "" {
		return ""
	}
	return patterns["initial"][0].ReplaceAllStringFunc("err_"+string(reason), func(initial string) string {
		return strings.ToUpper(strings.TrimPrefix(initial, "_"))
	})
}
