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

// pattern is a line of patterns.txt: what is looked for, and what it stands for.
type pattern struct {
	*regexp.Regexp
	prefix, meaning string // a text without prefix need not be searched
}

//go:embed patterns.txt
var patternLines string

// patterns are the lines of patterns.txt by their names.
var patterns = func() map[string][]pattern {
	parts, byName := []string(nil), make(map[string][]pattern)
	line := regexp.MustCompile(`(?m)^(\w+(?: \w+)*) {2,}(.*?)(?: +-> ?(.*))?$`)
	for _, found := range line.FindAllStringSubmatch(patternLines, -1) {
		name, text := found[1], strings.NewReplacer(parts...).Replace(found[2])
		if name == strings.ToUpper(name) {
			parts = append(parts, name, text)
		} else {
			compiled := regexp.MustCompile(text)
			prefix, _ := compiled.LiteralPrefix()
			byName[name] = append(byName[name], pattern{compiled, prefix, found[3]})
		}
	}
	return byName
}()

func matches(name, text string) bool {
	return slices.ContainsFunc(patterns[name], func(p pattern) bool { return strings.Contains(text, p.prefix) && p.MatchString(text) })
}

// meaning returns what the first pattern of a name that matches stands for.
func meaning(name, text string) string {
	for _, p := range patterns[name] {
		if strings.Contains(text, p.prefix) && p.MatchString(text) {
			return p.meaning
		}
	}
	return ""
}

// rewrite puts in the place of what the patterns of a name match what they stand for.
func rewrite(name, text string) string {
	for _, p := range patterns[name] {
		if strings.Contains(text, p.prefix) {
			text = p.ReplaceAllString(text, p.meaning)
		}
	}
	return text
}

// words are Apple's texts, the codes and the labels, these by themselves and by their constants, with what they mean; all in lower
// case. names are their patterns by their first words, the longest first.
var words, names = func() (words map[string]applebusiness.Entry, names map[string][]pattern) {
	entries := slices.Collect(applebusiness.Catalog())
	for _, p := range patterns["label"] {
		entries = append(entries, applebusiness.Entry{Reason: applebusiness.Reason(p.String())})
	}
	for _, p := range patterns["code"] {
		entries = append(entries, applebusiness.Entry{Code: applebusiness.Code(p.String())})
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
	for _, none := range []string{"", "code", "err"} { // of an entry without a text, a code or a label
		delete(words, none)
	}
	for _, word := range slices.SortedFunc(maps.Keys(words), func(a, b string) int { return len(b) - len(a) }) {
		text := regexp.MustCompile("^" + rewrite("varying", regexp.QuoteMeta(word)))
		names[wordAt(word)] = append(names[wordAt(word)], pattern{text, "", word})
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

// wordAt returns the word with which a text in lower case begins.
func wordAt(text string) string {
	for i := range len(text) {
		if c := text[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return text[:i]
		}
	}
	return text
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
		if f.text == before && matches("mayBeURL", f.text) {
			f.text = patterns["url"][0].ReplaceAllStringFunc(f.text, f.takeQuery)
		}
		if f.text == before {
			f.text = rewrite("percent", f.text)
		}
		if f.text == before {
			break
		}
	}
	f.lower = rewrite("plain", strings.ToLower(f.text))
	f.addMembers("said")
	f.addWords()
	return f
}

func unescape(escape string) string {
	plain, _ := strconv.Unquote(`"` + escape + `"`)
	return plain
}

// takeQuery keeps the query of a word that is a callback's, and returns the word without any query. A form belongs to no URL and
// has no state.
func (f *facts) takeQuery(word string) string {
	path, query, isURL := strings.Cut(word, "?")
	query, _, _ = strings.Cut(strings.Trim(cmp.Or(query, path), ",;()[]{}"), "#")
	if matches("callback", query) {
		f.redirects = append(f.redirects, query)
		return ""
	} else if isURL && strings.Contains(path, "/") { // somebody else's query
		return path
	}
	return word
}

// addMembers adds what members say, of each fact the first value that it can have.
func (f *facts) addMembers(name string) {
	for _, p := range patterns[name] {
		for _, at := range p.FindAllStringSubmatchIndex(f.lower, strings.Count(f.lower, p.prefix)) {
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
	whole, end, last := strings.Trim(f.lower, " \n\"'`.,;:()[]{}"), 0, 0 // of a code or a label
	for start := 0; start < len(f.lower); start = end + 1 {
		word := wordAt(f.lower[start:])
		if end = start + len(word); word == "" {
			continue
		}
		before, after := f.lower[max(0, start-24):start], f.lower[end:]
		x, length := nameAt(f.lower[start:])
		name, isText := f.lower[start:start+length], x.Description != ""
		isAlone := f.isPaste && name == whole
		isMarked := length > 0 && (isAlone || isText && (!matches("common", name) || matches("described", before)) ||
			matches("distinct", name) || matches("marked", before))
		if length > 0 && !isMarked { // beside a text of Apple's a code is one
			next, _ := nameAt(strings.TrimLeft(after, `:"' `))
			isMarked = next.Description != ""
		}
		isOurs := isMarked && (isAlone || f.said["endpoint"] != "" || !matches("ordinary", name))
		f.isList = f.isList || length > 0 && last > 0 && matches("between", f.lower[last:start])
		switch {
		case word == applebusiness.GrantTypeAuthorizationCode:
			f.said["grant_type"] = word
		case isOurs && (isText || !matches("counted", after)):
			if end = start + length; isText {
				x = applebusiness.Entry{Description: strings.Join(strings.Fields(name), " ")}
			} else {
				last = end
			}
			f.names = append(f.names, x)
		case len(word) == 3 && word[0] >= '1' && word[0] <= '5':
			f.addStatus(word, before, after, start)
		}
	}
	f.sortNames()
}

// sortNames leaves out what another's error may quote of Apple's, and sorts the rest.
func (f *facts) sortNames() {
	isForeign := f.isForeign && !matches("wrapped", f.said["error"])
	isAnothers := f.said["client"] != "" || f.answer > 0 && f.foreign > f.answer || isForeign && f.said["error"] != ""
	f.names = slices.DeleteFunc(f.names, func(x applebusiness.Entry) bool {
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
	isAnswer := strings.HasSuffix(before, " ") && matches("answer", before)
	isBetter := f.status == 0 || f.status < 400 && status >= 400 || isAnswer || neterr.StatusPasses(status)
	isPassports := status == 500 && strings.Contains(f.text, "TokenError") // which gives it to each error
	if isBetter && status >= 200 && !isPassports && !neterr.StatusPasses(f.status) &&
		(isAnswer || matches("status", before) || matches("statusAfter", after) && !matches("numbered", before)) {
		f.status = status
	}
	if isAnswer {
		f.answer = cmp.Or(f.answer, start)
	}
}

// network returns what failed in the network, as a record of package applebusiness says, or a request, or else the text.
func (f *facts) network() (failed neterr.Failure) {
	_, words, isOwn := strings.Cut(f.text, "no_response: ")
	sent := append(patterns["request"][0].FindStringSubmatch(f.text), "", "")[1]
	if isOwn {
		failed, _ = neterr.OfWords(words)
	} else if failed = neterr.OfText(strings.TrimSpace(cmp.Or(sent, f.text))); failed.Known && sent == "" && matches("notApples", f.lower) {
		return neterr.Failure{}
	}
	return failed
}

// failures returns what the record tells of: of another provider no more than whose error it is.
func (f *facts) failures() (found []*failure) {
	for _, e := range f.told() {
		isTold := slices.ContainsFunc(found, func(x *failure) bool { // in another way
			isLabel := e.Reason != "" && (x.Reason == e.Reason || e.Reason.Description() == "")
			return isLabel || e.Reason == "" && (x.Code == "" || x.Code == string(e.Code))
		})
		if !isTold {
			found = append(found, f.failure(e))
		}
	}
	if provider := meaning("provider", f.lower); provider != "" && len(found) > 0 {
		const remedy = "Look it up where that provider documents its errors: nothing in it is about Apple Business."
		return []*failure{{Name: undocumented, Provider: provider, Causes: []map[string]string{}, Remedy: remedy}}
	}
	return found
}

// told returns the errors of callbacks and those that names tell; without any what a response or the network tells.
func (f *facts) told() (told []*applebusiness.Error) {
	for _, query := range f.redirects {
		_, err := applebusiness.ParseRedirect(query)
		if e, ok := errors.AsType[*applebusiness.Error](err); ok {
			told = append(told, e)
		}
	}
	if f.isMention() {
		return told
	}
	isOther := f.said["error"] != "" && f.said["description"] != ""
	for _, x := range f.names {
		if len(told) > 0 && (x.Reason != "" && x.Reason == told[0].Reason || x.Code != "" && x.Code == told[0].Code) {
			continue // which is faster
		}
		if e := f.response(x); x.Description == "" || e.Code != "" || e.Reason.Description() != "" && !isOther {
			told = append(told, e)
		}
	}
	if len(told) == 0 {
		return f.unnamed()
	}
	return told
}

// unnamed returns what a code that nobody documented, a response or the network tells.
func (f *facts) unnamed() []*applebusiness.Error {
	value, description := cmp.Or(f.said["client"], f.said["error"]), f.said["description"]
	isStatus, isLog, isOwn := neterr.StatusOf(value) != 0, matches("log", f.lower), f.said["endpoint"] != ""
	isCode := matches("codeLike", value) && (description != "" || !isLog || isOwn) || isOwn && f.said["code"] != "" ||
		matches("quotedCode", f.said["client"])
	isPage := isStatus && (!isLog || strings.Contains(f.lower, "oauth2/token")) // as frameworks have it
	isResponse := f.answer > 0 || matches("response", f.lower) || isPage || isOwn && f.said["action"] != ""
	isSuccess := len(f.redirects) > 0 || strings.Contains(f.lower, `access_token"`)
	f.addMembers("phrase")
	phrase, passes := neterr.StatusOf(f.said["phrase"]), neterr.StatusPasses(f.status)
	isBare := f.isPaste && (value == "" || description == "") &&
		(phrase != 0 && !isLog || passes || f.status == http.StatusNetworkAuthenticationRequired)
	switch isFailed := isResponse && (f.status >= 400 || f.status != 0 && !isSuccess); {
	case isCode && !isStatus:
		return []*applebusiness.Error{f.response(applebusiness.Entry{Code: undocumented})}
	case !isFailed && f.network().Known:
		return []*applebusiness.Error{{}}
	case isFailed, isBare:
		f.status = cmp.Or(f.status, phrase)
		return []*applebusiness.Error{f.response(applebusiness.Entry{})}
	case value != "" && description != "":
		return []*applebusiness.Error{f.response(applebusiness.Entry{Code: undocumented})}
	}
	return nil
}

// isMention reports whether the record names errors and reports none: it counts or lists them, or tells of success.
func (f *facts) isMention() bool {
	isReport := f.isOwn && f.said["action"] != "" || f.status >= 400 && f.code != "" && f.said["description"] != "" && !f.isForeign
	start := f.text[:min(len(f.text), 120)]
	isInfo := (matches("infoLevel", f.said["level"]) || f.said["level"] == "" && matches("info", start)) && !matches("failing", start)
	return f.isList || isInfo && !isReport || matches("query", f.lower) || f.status == 0 && matches("mention", f.lower)
}

// response returns the error that a response means which says this.
func (f *facts) response(x applebusiness.Entry) *applebusiness.Error {
	body := fmt.Appendf(nil, `{"error":%q,"error_description":%q}`, string(cmp.Or(x.Code, f.code)), x.Description)
	header := http.Header{"Retry-After": {f.said["retry_after"]}, "Location": {"/"}} // which tells a redirect from what an edge drops
	e := applebusiness.ParseTokenError(f.status, header, body)
	if wait, err := time.ParseDuration(f.said["retry_after"]); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	e.Reason, e.GrantType, e.Endpoint = cmp.Or(x.Reason, e.Reason), f.said["grant_type"], applebusiness.Endpoint(f.said["endpoint"])
	for entry := range applebusiness.Catalog() {
		if (entry.Reason == e.Reason || e.Reason == "") && (entry.Code == e.Code || e.Code == "" && e.Reason != "") {
			e.Endpoint = cmp.Or(e.Endpoint, entry.Endpoint)
		}
	}
	if e.Endpoint == "" && !strings.Contains(f.text, "applebusiness: ") {
		e.Endpoint = applebusiness.TokenEndpoint
	}
	return e
}

// failure returns what is said about e, or about what failed in the network if e says nothing; of that what Troubleshoot says of the
// same failure of a request to Apple. The record's own action wins, but for a reconnect that e does not ask for.
func (f *facts) failure(e *applebusiness.Error) *failure {
	var network neterr.Failure
	isBare := e.Reason == "" && e.Code == ""
	if isBare || e.Reason == applebusiness.ErrNoResponse {
		network = f.network()
	}
	isUnknown := e.Reason == applebusiness.ErrNoResponse && !network.Known && f.said["endpoint"] != "" // to whoever logged it
	advice := applebusiness.Troubleshoot(e)
	switch {
	case isUnknown, strings.Contains(network.Words, "canceled"): // by whoever sent it
		advice = applebusiness.Advice{}
	case network.Known && network.Passes && !network.Unsent:
		lost := applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.said["grant_type"]}
		advice = applebusiness.Troubleshoot(&lost)
	case network.Known:
		advice = applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: network})
	}
	isGrant := e.Reason == applebusiness.ErrInvalidRefreshToken || e.Code == applebusiness.CodeInvalidGrant
	isDead := isGrant && !neterr.StatusPasses(e.StatusCode) && e.GrantType != applebusiness.GrantTypeAuthorizationCode
	action := applebusiness.Action(f.said["action"])
	if action != "" && action != advice.Action && f.isOwn && !isBare && (isDead || action != applebusiness.ActionReauthorize) {
		advice = applebusiness.Advice{Action: action, Impact: applebusiness.Impact(f.said["impact"])}
		advice.Remedy = "So says the line itself: the program that logged it knew the cause, which the line does not show."
	}
	x := &failure{
		Constant: constant(e.Reason), Reason: e.Reason, Endpoint: e.Endpoint, Parameter: patterns["parameter"][0].FindString(e.Parameter),
		Code: string(words[strings.ToLower(string(e.Code))].Code), Status: e.StatusCode, Documented: e.Reason.Description() != "",
		GrantType: e.GrantType, Wait: int(math.Ceil(e.RetryAfter.Seconds())), Impact: advice.Impact, Causes: []map[string]string{},
		Action: advice.Action, Remedy: advice.Remedy,
	}
	if x.Name = cmp.Or(x.Constant, undocumented); network.Known {
		x.Name, x.Network = cmp.Or(x.Constant, "network"), network.Words
	}
	if e.Description != "" {
		x.Description = e.Reason.Description()
	}
	for _, c := range advice.Causes {
		x.Causes = append(x.Causes, map[string]string{"cause": string(c), "description": c.Description()})
	}
	return x
}

// failure is what a record tells of. Nothing in it came from outside but what is Apple's or ours. The members of its JSON are stable;
// those that are unknown are left out, except that action, impact and remedy are "" then.
type failure struct {
	Line        int                    `json:"line,omitempty"` // with -lines
	Name        string                 `json:"-"`              // what people read
	Constant    string                 `json:"constant,omitempty"`
	Reason      applebusiness.Reason   `json:"reason,omitempty"`
	Nearest     string                 `json:"nearest,omitempty"`
	Provider    string                 `json:"provider,omitempty"`
	Endpoint    applebusiness.Endpoint `json:"endpoint,omitempty"`
	Code        string                 `json:"code,omitempty"`
	Description string                 `json:"description,omitempty"`
	Network     string                 `json:"network,omitempty"`
	Status      int                    `json:"status,omitempty"`
	Documented  bool                   `json:"documented"`
	Parameter   string                 `json:"parameter,omitempty"`
	GrantType   string                 `json:"grant_type,omitempty"`
	Wait        int                    `json:"retry_after_seconds,omitempty"`
	Impact      applebusiness.Impact   `json:"impact"`
	Causes      []map[string]string    `json:"causes"`
	Action      applebusiness.Action   `json:"action"`
	Remedy      string                 `json:"remedy"`
}

const undocumented = "undocumented" // the name, and the code, of what nobody documented

// understand returns the different failures that a pasted text tells of. A record is a line that begins as those of a log do, with
// what follows it.
func understand(input string) (found []*failure, err error) {
	if input = strings.TrimSpace(input); input == "" {
		return nil, errors.New("the input is empty")
	}
	seen, isOther := make(map[string]bool), false
	for _, record := range strings.Split(rewrite("record", rewrite("dialect", input)), "␞") {
		f := collect(record, len(input) < 300)
		for _, x := range f.failures() {
			if kind := x.Name + string(x.Action) + x.Code + x.Provider; !seen[kind] {
				seen[kind], found = true, append(found, x)
			}
		}
		isOther = isOther || f.status != 0 || f.isMention()
	}
	if len(found) == 0 && !isOther && matches("typed", input) {
		found = nearest(strings.ToLower(input))
	}
	if len(found) == 0 {
		err = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	}
	return found, err
}

// nearest returns the row or the code that somebody nearly means who types a short text; nil if there is none.
func nearest(input string) []*failure {
	best := slices.MaxFunc(slices.Sorted(maps.Keys(words)), func(a, b string) int {
		return cmp.Compare(similarity(input, a), similarity(input, b))
	})
	if similarity(input, best) <= 0.7 {
		return nil
	}
	const remedy = "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."
	name := cmp.Or(constant(words[best].Reason), string(words[best].Code))
	return []*failure{{Name: undocumented, Nearest: name, Causes: []map[string]string{}, Remedy: remedy}}
}

// similarity returns which part of the pairs of letters in two texts is the same.
func similarity(a, b string) float64 {
	a, b = rewrite("noLetters", a), rewrite("noLetters", b)
	same := 0.0
	for i := range max(len(a)-1, 0) {
		if strings.Contains(b, a[i:i+2]) {
			same += 2
		}
	}
	return same / float64(len(a)+len(b)-2)
}

// constant returns the name of reason's constant, which its label is in snake case.
func constant(reason applebusiness.Reason) string {
	snake := strings.TrimSuffix("err_"+string(reason), "err_") // which is all of it if there is no reason
	return patterns["initial"][0].ReplaceAllStringFunc(snake, func(initial string) string {
		return strings.ToUpper(strings.TrimPrefix(initial, "_"))
	})
}
