package main

import (
	"cmp"
	"encoding/hex"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// undoers undo one layer each of what logs, shells and mails do to a text. A text without the mark is left alone.
var undoers = []struct {
	mark string
	undo func(string) string
}{
	{"\x1b[", replace(`\x1b\[[0-9;]*m`, "")},                                       // a terminal's colors
	{"#0", strings.NewReplacer("#012", "\n", "#033", "\x1b", "#011", " ").Replace}, // syslog
	{`\`, decode(`(?s)\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{3}|.)`)},
	{"&", html.UnescapeString},
	{`""`, replace(`""(\w[^"\n]*)""`, `"$1"`)}, // CSV
	{"=\n", replace("=\n", "")},                // quoted-printable
	{"=3D", decode(`=[0-9A-F]{2}`)},
	{"\n>", replace(`\n(?:> ?)+`, "\n")}, // mail, and curl -v
	{"\xe2\x80", replace(`[“”„]`, `"`)},  // smart quotes
	{`"value"`, replace(`"(?:key|name|field)"\s*:\s*"([^"]*)"\s*,\s*"value"\s*:\s*(?:\{\s*"\w+"\s*:)?`, `"$1":`)}, // OpenTelemetry, HAR
}

func replace(pattern, replacement string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(text string) string { return compiled.ReplaceAllString(text, replacement) }
}

// decode returns a function that decodes the escapes which match pattern.
func decode(pattern string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(text string) string {
		return compiled.ReplaceAllStringFunc(text, func(escape string) string {
			if plain, err := hex.DecodeString(escape[1:]); err == nil && escape[0] != '\\' {
				return string(plain)
			} else if r, _, _, err := strconv.UnquoteChar(escape, '"'); err == nil {
				return string(r)
			}
			return escape[1:] // as of JSON's \/
		})
	}
}

var (
	urlWord = regexp.MustCompile("[^\\s\"`<>'|]+")
	percent = decode(`%[0-9A-Fa-f]{2}`)
	// plain says in our words what x/oauth2, net/http and gateways say in theirs.
	plain = strings.NewReplacer("too many requests", "429 too many requests", "bad gateway", "502 bad gateway",
		"service unavailable", "503 service unavailable", "service temporarily unavailable", "503 service unavailable",
		"gateway timeout", "504 gateway timeout", "gateway time-out", "504 gateway timeout",
		"upstream connect error", "503 service unavailable", "endpoint request timed out", "504 gateway timeout",
		"token expired and refresh token is not set", "applebusiness: no_refresh_token")
)

// undo returns text as it was before a log, a shell or a mail put it into something else, and without the queries of URLs.
func (f *facts) undo(text string) string {
	text = "\n" + strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	for range 32 { // JSON in JSON doubles the backslashes
		before := text
		for _, step := range undoers {
			if strings.Contains(text, step.mark) {
				text = step.undo(text)
			}
		}
		if text != before {
			continue
		} else if containsAny(text, "?", "error=", "code=") {
			text = urlWord.ReplaceAllStringFunc(text, f.takeQuery)
		}
		if text = percent(text); text == before {
			break
		}
	}
	return text
}

// takeQuery keeps the query of a word that is a callback's, and returns the word without any query. A form belongs to no URL and
// has no state.
func (f *facts) takeQuery(word string) string {
	path, query, isURL := strings.Cut(word, "?")
	query, _, _ = strings.Cut(strings.Trim(cmp.Or(query, path), ",;()[]{}"), "#")
	values, _ := url.ParseQuery(query)
	isKnown := codeWords[values.Get("error")] != "" || values.Has("state") || values.Has("error_description")
	if (isURL || values.Has("state")) && (strings.Contains("&"+query, "&error=") && isKnown || values.Has("code")) {
		f.redirects = append(f.redirects, query)
		return ""
	} else if isURL && strings.Contains(path, "/") { // somebody else's query
		return path
	}
	return word
}

// facts are what one record says, each for itself, wherever in the record it stands and whatever stands around it.
type facts struct {
	text, lower string   // undone, and in lower case
	redirects   []string // queries of callbacks, which are no longer in the text
	texts       []string // that Apple documents
	codes       []applebusiness.Code
	labels      []applebusiness.Reason
	said        map[string]string // what the members say
	status      int               // one that passes, if there are several
	isAnswer    bool              // a status begins a response
	value       string            // of an "error" that is not in our vocabulary
	isBody      bool              // which stands in the body of a response
	isDescribed bool              // there is an "error_description"
	isForeign   bool              // there is one that is not Apple's, or a client quotes what is not
	isList      bool              // of names
}

// collect returns the facts of a record.
func collect(record string) *facts {
	f := &facts{said: make(map[string]string)}
	f.text = f.undo(record)
	f.lower = plain.Replace(strings.ToLower(f.text))
	f.addTexts()
	for start := 0; start < len(f.lower); start++ {
		if word := wordAt(f.lower[start:]); word != "" {
			end := start + len(word)
			before, after := f.lower[max(0, start-40):start], f.lower[end:min(len(f.lower), end+400)]
			f.addMember(word, after)
			f.addWord(word, before, after)
			start = end
		}
	}
	return f
}

// codeWords and labelWords are the codes and the labels by themselves and by their constants, documented the texts, the longest
// first; all in lower case.
var codeWords, labelWords, documented = vocabulary()

func vocabulary() (codes map[string]applebusiness.Code, labels map[string]applebusiness.Reason, texts []string) {
	codes, labels = map[string]applebusiness.Code{"codenotfound": applebusiness.CodeNotFound}, make(map[string]applebusiness.Reason)
	for entry := range applebusiness.Catalog() {
		addNames(codes, "code", entry.Code)
		addNames(labels, "err", entry.Reason)
		text := strings.TrimRight(strings.ToLower(entry.Description), ".")
		if !common.MatchString(text) {
			texts = append(texts, text)
		}
	}
	addNames(codes, "code", "access_denied", "unauthorized_client", "unsupported_grant_type", "temporarily_unavailable")
	addNames(labels, "err", "state_mismatch", "malformed_redirect", "user_denied", "no_response", "rate_limited", "unavailable",
		"malformed_response", "unsafe_token_request", "no_refresh_token", "unsafe_state", "many_refusals")
	slices.SortStableFunc(texts, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return codes, labels, texts
}

// addNames adds each name by itself and by its constant's name.
func addNames[Name ~string](words map[string]Name, prefix string, names ...Name) {
	for _, name := range names {
		lower := strings.ToLower(string(name))
		words[lower], words[prefix+strings.ReplaceAll(lower, "_", "")] = name, name
	}
}

// levels are those of a log, from the 12th on of failures; some are Pino's and syslog's.
var levels = strings.Fields("info information debug trace notice verbose 10 20 30 5 6 7 " +
	"err error warn warning fatal critical severe panic alert 40 50 60 0 1 2 3 4")

// members are the names of members, without _, - and id, by the facts that they tell; values are those that a fact can have, if not
// any.
var (
	members = map[string]string{
		"action": "action", "impact": "impact", "endpoint": "endpoint", "granttype": "grant_type", "retryafter": "retry_after",
		"error": "error", "errorcode": "error", "errordescription": "description", "oauth2": "client", "applebusiness": "client",
		"level": "level", "severity": "level", "severitytext": "level", "lvl": "level", "loglevel": "level", "priority": "level",
		"customer": "customer", "grant": "customer", "tenant": "customer", "account": "customer", "merchant": "customer", "org": "customer",
	}
	values = map[string][]string{
		"action": {"retry", "start_over", "reauthorize", "fix_request", "fix_registration", "check_network"}, "level": levels,
		"impact": {"customer", "app", "service"}, "endpoint": {"token", "authorization"},
		"grant_type": {"authorization_code", "refresh_token", "client_credentials"},
	}
	unspelled = strings.NewReplacer("_", "", "-", "")
)

// sep stands between the name of a member and its value, in whatever notation.
const sep = "[\"'`\\]]*\\s*(?:=>|[:=]|, ')[\\s:=\\[(\"'`]*(?:string\\((?:\\d+\\) )?[\"']|[bu][\"'])?"

var (
	memberAt = regexp.MustCompile("^" + sep)
	isLabel  = regexp.MustCompile(`\b(?:reason|label)` + sep + `$`)
	valueEnd = regexp.MustCompile("^\\.? ?(?:$|[\"'`&,;\\])}<>#|]|[\\w.]+[:=])")
	noValue  = regexp.MustCompile(`^(?:$|["',0-9]|null|none|nil|false|true|undefined)`)

	// templates are the texts with a part that varies.
	templates = regexp.MustCompile(`oauth 2\.0 parameter: [\w.-]{1,64} missing|missing fields in post body [\w, ]{1,200} required|` +
		`(?:grant_type|scope) is invalid\. accepted values:[\w, ]{0,200}`)

	// common are the texts that every server says, which count in quotes or the like, and one that is a code.
	common   = regexp.MustCompile(`^(?:server error|bad request|invalid_request)$`)
	commonAt = regexp.MustCompile(`["'=:>\[()\]].?(server error|bad request)`)

	// distinct are the names that are hardly anything else's, wherever they stand; marked is what stands before the others, and
	// counted after one that is a member's.
	distinct = regexp.MustCompile(`^err|^code[^_]|refresh_token|grant_type|credentials|client_id|redirect_uri|response_type|` +
		`challenge_method|^invalid_(?:grant|client|scope)$|unauthorized_client`)
	marked = regexp.MustCompile(`(?:error\)?:? ?["'\[(]?|oauth2: "|applebusiness: |applebusiness\.|^\s*["'\[(]|` +
		`\b(?:error|error_?code|code|label|reason)` + sep + `)$`)
	counted = regexp.MustCompile(`^(?:=|["']\s*:|: ?\d|\.[a-z])`)

	answerAt = regexp.MustCompile("(?:(?:^|[\n\"'`=:>}])\\s*(?:< )?http/[0-9.]+|cannot fetch token:) $")
	statusAt = regexp.MustCompile(`(?:status|http|code|got|response|respond(?:ed|s)|return(?:ed|s)|answer(?:ed|s)?|` +
		`failed|error|token|success:|resulted in an?)(?:[\s:=>"'(\[/,\x60_-]|code|status|error|with|was|is|int|http|/[\d.]+")*$`)
	fraction  = regexp.MustCompile(`^\.[1-9]`)
	bodyAfter = regexp.MustCompile("^[^\\d\n\"'{}]{0,24}\\{")
	numbered  = regexp.MustCompile(`(?:\b|_)(?:customer|tenant|grant|account|org|user|id|line|port|pid|attempt|` +
		`ms|duration|latency|elapsed|took|bytes|size|count)[\s:=#"]*$|\.\w+:$`)
)

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
		for _, text := range commonAt.FindAllStringSubmatch(rest, -1) {
			f.texts = append(f.texts, text[1])
		}
		f.texts = append(f.texts, templates.FindAllString(rest, -1)...)
	}
	if containsAny(rest, applebusiness.GrantTypeAuthorizationCode, "the code was redeemed") { // as package grants says
		f.said["grant_type"] = applebusiness.GrantTypeAuthorizationCode
	}
}

// addMember adds what a member of this name says: the first value that it can have.
func (f *facts) addMember(name, after string) {
	fact := members[strings.TrimSuffix(unspelled.Replace(name), "id")]
	if fact == "" {
		return
	}
	between := memberAt.FindString(after)
	value := strings.TrimLeft(after[len(between):], " #")
	word := wordAt(value)
	quoted, _, isWhole := strings.Cut(value, `"`)
	switch {
	case between == "" && fact != "customer":
	case fact == "error":
		if codeWords[quoted] == "" && codeWords[word] == "" && labelWords[word] == "" && !noValue.MatchString(quoted) {
			f.value, f.isBody = cmp.Or(f.value, quoted), f.isBody || f.isAnswer && neterr.StatusOf(quoted) == 0
		}
	case fact == "client":
		if strings.HasSuffix(between, `: "`) && isWhole && codeWords[quoted] == "" && !f.isApples(value) {
			if f.isForeign = true; !strings.Contains(quoted, " ") || strings.Contains(quoted, ": ") {
				f.value, f.isDescribed = unknown, true
			} else if f.value != "" { // it has the client's name
				f.value = quoted
			}
		}
	case fact == "description":
		f.isDescribed = f.isDescribed || !noValue.MatchString(value)
		f.isForeign = f.isForeign || !noValue.MatchString(value) && !f.isApples(value)
	case f.said[fact] == "" && (values[fact] == nil || slices.Contains(values[fact], word)):
		f.said[fact] = word
	}
}

// addWord adds what a word says: it is in our vocabulary, or a status.
func (f *facts) addWord(word, before, after string) {
	code, label := codeWords[word], labelWords[word]
	isConstant := strings.HasPrefix(word, "err") || strings.Contains(before, "applebusiness")
	switch {
	case word == "404" && strings.HasPrefix(after, " not found") && marked.MatchString(before):
		f.codes = append(f.codes, applebusiness.CodeNotFound)
	case len(word) == 3 && word[0] >= '1' && word[0] <= '5':
		f.addNumber(word, before, after)
	case code == "" && label == "", counted.MatchString(after), strings.HasSuffix(before, "/"):
	case !distinct.MatchString(word) && !marked.MatchString(before) && len(f.texts) == 0:
	case code == "" && !strings.Contains(word, "_") && !isConstant && (f.said["endpoint"] == "" || !isLabel.MatchString(before)): // another's
	case isList(word, after):
		f.isList = true
	case code != "" && !isLabel.MatchString(before):
		f.codes = append(f.codes, code)
	case label != "":
		f.labels = append(f.labels, label)
	}
}

// addNumber is about three characters, which may be an HTTP status.
func (f *facts) addNumber(word, before, after string) {
	status, _ := strconv.Atoi(word)
	phrase := strings.ToLower(http.StatusText(status))
	isAnswer := answerAt.MatchString(before)
	f.isAnswer = f.isAnswer || isAnswer
	before = before[max(0, len(before)-24):]
	switch {
	case strings.HasSuffix(before, "."), fraction.MatchString(after):
	case isAnswer, phrase != "" && strings.HasPrefix(after, " "+phrase), statusAt.MatchString(before),
		bodyAfter.MatchString(after) && !numbered.MatchString(before), strings.TrimSpace(before+after) == "":
		f.addStatus(status, isAnswer)
	}
}

// addStatus adds a status. One that passes wins, whatever stands beside it, and one that fails over one that does not.
func (f *facts) addStatus(status int, isLater bool) {
	isPassports := status == http.StatusInternalServerError && strings.Contains(f.text, "TokenError") // which gives it to each error
	isBetter := f.status == 0 || f.status < 400 && status >= 400 || isLater && !neterr.StatusPasses(f.status)
	if status >= 200 && !isPassports && (isBetter || neterr.StatusPasses(status) && !neterr.StatusPasses(f.status)) {
		f.status = status
	}
}

// isApples reports whether a value begins with the whole of a text of Apple's.
func (f *facts) isApples(value string) bool {
	value = fold(value)
	return slices.ContainsFunc(f.texts, func(text string) bool {
		return strings.HasPrefix(value, text) && valueEnd.MatchString(value[len(text):])
	})
}

// isList reports whether another name follows a name as in a list.
func isList(word, after string) bool {
	rest := strings.TrimLeft(after, "\"'`|,/ []")
	next := wordAt(rest)
	return strings.ContainsAny(after[:len(after)-len(rest)], ",|/") && next != word && (codeWords[next] != "" || labelWords[next] != "")
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
