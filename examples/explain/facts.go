package main

import (
	"cmp"
	"html"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/seed-a5f25c57/applebusiness"
)

// facts are what one record says, each for itself, wherever in the record it stands and whatever stands around it.
type facts struct {
	text, lower, folded string   // undone; in lower case; and with one space for each run of them
	redirects           []string // queries of callbacks, which are no longer in the text
	codes               []applebusiness.Code
	labels              []applebusiness.Reason
	texts               []applebusiness.Entry // that Apple documents
	statuses            []int
	shown               int                  // the status in the last line that begins a response
	value               string               // of an "error" that is not in our vocabulary; "" if there is none
	isFramework         bool                 // an "error" is the name of a status
	isBody              bool                 // which stands in the body of a response that is shown
	isDescribed         bool                 // there is an "error_description"
	isForeign           bool                 // there is one that is not Apple's, or a text of x/oauth2's or of ours that quotes no code
	action              applebusiness.Action // what the record says itself, as the impact
	impact              applebusiness.Impact
	endpoint            applebusiness.Endpoint
	grant, wait         string
	isMention           bool // the record names errors and reports none: it counts or lists them, or tells of success
}

// sep stands between the name of a member and its value, in whatever notation.
const sep = "[\"'`\\]]*\\s*(?:=>|[:=]|, ')[\\s:=\\[(\"'`]*(?:string\\((?:\\d+\\) )?[\"']|[bu][\"'])?"

var (
	otherCodeAt = regexp.MustCompile(`\bcode` + sep + `[a-z]+(?:_[a-z]+)*\b`)
	memberAt    = regexp.MustCompile(`^(?:_?id)?` + sep)
	infoAt      = regexp.MustCompile(`\b(?:INFO|DEBUG|TRACE|NOTICE)\b|^\s*I\d{4} \d\d:`)
	failingAt   = regexp.MustCompile(`\b(?:ERR|WARN|FATAL|CRIT|SEVERE)`)
	labelAt     = regexp.MustCompile(`\b(?:reason|label)` + sep + `$`)
	logAt       = regexp.MustCompile(`\b(?:level|severity|lvl|loglevel|time|timestamp|ts|msg|logger|caller|stream|hostname|host)` + sep)

	// distinct are the names that are hardly anything else's, wherever they stand; marked is what stands before the others, and counted after one that is a member's.
	distinct = regexp.MustCompile(`^err|^code[^_]|refresh_token|grant_type|credentials|client_id|redirect_uri|response_type|challenge_method|^invalid_(?:grant|client|scope)$|unauthorized_client`)
	marked   = regexp.MustCompile(`(?:error\)?:? ?["'\[(]?|oauth2: "|applebusiness: |applebusiness\.|^\s*["'\[(]|\b(?:error|error_?code|code|label|reason)` + sep + `)$`)
	counted  = regexp.MustCompile(`^(?:=|["']\s*:|: ?\d|\.[a-z])`)
	item     = regexp.MustCompile(`^\s*[-*] $`)
	aside    = regexp.MustCompile(`^\s*(?:=== |--- (?:PASS|FAIL|SKIP)|ok\s)`) // what go test prints
	query    = regexp.MustCompile(`\b(?:select|insert into|update|delete from) .*\b(?:from|values|set|where)\b`)
	metric   = regexp.MustCompile(`^\s*[\w:.]+(?:\{[^{}\n]*\})?[ =:]\s?[\d.e+]+(?:\|\S*)?(?: \d+)?\s*$`)

	templates    = regexp.MustCompile(`oauth 2\.0 parameter: [\w.-]{1,64} missing|missing fields in post body [\w, ]{1,200} required|(?:grant_type|scope) is invalid\. accepted values:[\w, ]{0,200}`)
	valueEnd     = regexp.MustCompile("^\\.? ?(?:$|[\"'`&,;\\])}<>#|]|[\\w.]+[:=])")
	commonBefore = regexp.MustCompile(`["'=:>[()\]] ?$`)
	quoted       = regexp.MustCompile(`(?:oauth2|applebusiness): "([^"]*)"`)
	noValue      = regexp.MustCompile(`^(?:$|["',0-9]|null|none|nil|false|true|undefined)`)
	urlWord      = regexp.MustCompile("[^\\s\"`<>'|]+")
	outgoing     = regexp.MustCompile("(?i)(?:post|get) [\"'`]$")
	statusLine   = regexp.MustCompile("(?:^|[\n\"'`=:>}])\\s*(?:< )?http/[0-9.]+ $")
	shownAt      = regexp.MustCompile(`http/[0-9.]+ [1-5]\d\d|cannot fetch token: [1-5]\d\d`)
	bodyAfter    = regexp.MustCompile("^[^\\d\n\"'{}]{0,24}\\{")
	numbered     = regexp.MustCompile(`(?:\b|_)(?:customer|tenant|grant|account|org|user|id|line|port|pid|attempt|ms|duration|latency|elapsed|took|bytes|size|count)[\s:=#"]*$|\.\w+:$`)
	statusBefore = regexp.MustCompile(`(?:status|http|code|got|response|respond(?:ed|s)|return(?:ed|s)|answer(?:ed|s)?|failed|error|token|success:|resulted in an?)(?:[\s:=>"'(\[/,\x60_-]|code|status|error|with|was|is|int|http|/[\d.]+")*$`)
)

// codeWords and labelWords are the codes and the labels by themselves and by their constants, documented the texts, the longest
// first; in lower case.
var codeWords, labelWords, documented = func() (map[string]applebusiness.Code, map[string]applebusiness.Reason, []applebusiness.Entry) {
	codes, labels, texts := make(map[string]applebusiness.Code), make(map[string]applebusiness.Reason), []applebusiness.Entry(nil)
	for _, code := range allCodes {
		codes[strings.ToLower(string(code))], codes[strings.ToLower(codeName(code))] = code, code
	}
	for _, reason := range allReasons {
		labels[string(reason)], labels[strings.ToLower(reasonName(reason))] = reason, reason
	}
	for entry := range applebusiness.Catalog() {
		if entry.Description = strings.TrimRight(strings.ToLower(entry.Description), "."); entry.Reason != applebusiness.ErrEndpointNotFound { // whose text is a code
			texts = append(texts, entry)
		}
	}
	slices.SortStableFunc(texts, func(a, b applebusiness.Entry) int { return cmp.Compare(len(b.Description), len(a.Description)) })
	return codes, labels, texts
}()

// collect returns the facts of a record.
func collect(record string) *facts {
	f := &facts{text: undo(record)}
	for range 3 { // percent within percent
		if f.takeRedirects(); !strings.Contains(f.text, "%") {
			break
		}
		f.text = undo(decodeHex(f.text, '%'))
	}
	f.text = strings.ToValidUTF8(f.text, "?")
	f.lower, f.folded = strings.Map(lower, f.text), fold(f.text)
	f.action = applebusiness.Action(f.first("retry start_over reauthorize fix_request fix_registration check_network", "action"))
	f.impact = applebusiness.Impact(f.first("customer app service", "impact"))
	f.endpoint = applebusiness.Endpoint(f.first("token authorization", "endpoint"))
	f.wait = f.first("", "retry-after", "retry_after", "retryafter")
	f.grant = cmp.Or(f.first("authorization_code", "grant_type", "granttype"), f.first("refresh_token client_credentials", "grant_type", "granttype")) // of several the one after which nobody is asked to reconnect
	if f.grant == "" && strings.Contains(f.lower, "authorization_code") && !strings.Contains(f.lower, "accepted values") {                             // named without its name
		f.grant = applebusiness.GrantTypeAuthorizationCode
	}
	f.findTexts()
	f.findWords()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		if strings.Contains(f.lower, strings.ToLower(http.StatusText(status))) {
			f.statuses = append(f.statuses, status)
		}
	}
	f.findErrors()
	f.isMention = f.isMention || f.tellsOfSuccess() || aside.MatchString(f.text) || len(f.codes)+len(f.texts) == 0 && len(f.labels) > 0 && f.is(query) || containsAny(f.lower, "_total{", `"metric":`, `"__name__":`, "\n# help ") || len(f.text) < 256 && metric.MatchString(f.text)
	return f
}

// findErrors looks at the errors and descriptions that are not in our vocabulary.
func (f *facts) findErrors() {
	shown := append(shownAt.FindStringIndex(f.lower), len(f.lower))[0]
	for at := range f.members("error", "error_code", "errorcode") {
		value, _, _ := strings.Cut(f.lower[at:min(len(f.lower), at+256)], `"`)
		word := value[:wordAt(value, 0)]
		isObject := strings.HasPrefix(value, "{") && !strings.ContainsAny(f.lower[at-1:at], "\"'`")
		switch {
		case isObject, codeWords[word] != "", codeWords[value] != "", labelWords[word] != "", noValue.MatchString(value):
		case slices.Contains(phrases, value):
			f.isFramework = true
		default:
			f.value = cmp.Or(f.value, f.text[at:at+len(value)])
			f.isBody = f.isBody || at > shown
		}
	}
	for at := range f.members("error_description", "errordescription") {
		if !noValue.MatchString(f.lower[at:min(len(f.lower), at+9)]) {
			f.isDescribed, f.isForeign = true, f.isForeign || !isApples(f.lower[at:])
		}
	}
	for _, match := range ifAny(quoted, f.lower, `oauth2: "`, `applebusiness: "`) {
		if value := match[1]; codeWords[value] == "" && !isApples(value+`"`) {
			if f.isForeign = true; !strings.Contains(value, " ") || strings.Contains(value, ": ") {
				f.value, f.isDescribed = unknown, true
			}
		}
	}
}

// tellsOfSuccess reports whether the record is one of a level at which nothing fails, unless it shows a failed response or is ours.
func (f *facts) tellsOfSuccess() bool {
	start := f.text[:min(len(f.text), 120)]
	if !strings.HasPrefix(start, "\nI") && !containsAny(f.lower, "info", "debug", "trace", "notice", "verbose", `"level":1`, `"level":2`, `"level":3`, `"level":5`, `"level":6`, `"level":7`, `"priority":"5`, `"priority":"6`, `"priority":"7`) {
		return false
	}
	names := []string{"level", "severity", "lvl", "severitytext", "loglevel", "priority"} // Pino's levels are numbers, and those of syslog
	isInfo := infoAt.MatchString(start) || f.first("info information debug trace notice verbose 10 20 30 5 6 7", names...) != ""
	isFailing := failingAt.MatchString(start) || f.first("err error warn warning fatal critical severe panic alert 40 50 60 0 1 2 3 4", names...) != ""
	isReport := f.action != "" && f.isOwn() || f.isDescribed && !f.isForeign && len(f.codes) > 0 && f.status() >= 400
	return isInfo && !isFailing && !isReport
}

// members returns where the values of the members of these names begin.
func (f *facts) members(names ...string) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, name := range names {
			for before, rest, ok := strings.Cut(f.lower, name); ok; before, rest, ok = strings.Cut(rest, name) {
				c := (" " + before)[len(before)]
				sep := memberAt.FindStringIndex(rest[:min(len(rest), 64)])
				if isName := !(c >= 'a' && c <= 'z' || c == '_') && sep != nil; isName && !yield(len(f.lower)-len(rest)+sep[1]) {
					return
				}
			}
		}
	}
}

// first returns the first value, a word, of a member of these names that is one of the words; any if there are none.
func (f *facts) first(words string, names ...string) string {
	for at := range f.members(names...) {
		if word := f.lower[at:wordAt(f.lower, at)]; word != "" && (words == "" || slices.Contains(strings.Fields(words), word)) {
			return word
		}
	}
	return ""
}

func (f *facts) is(pattern *regexp.Regexp) bool { return pattern.MatchString(f.lower) }

// phrases are the names of the failed statuses, in lower case, as frameworks give them for an error.
var phrases = func() (phrases []string) {
	for status := 400; status <= 599; status++ {
		if phrase := strings.ToLower(http.StatusText(status)); phrase != "" {
			phrases = append(phrases, phrase)
		}
	}
	return phrases
}()

// lower leaves every byte in its place, as strings.ToLower does not.
func lower(r rune) rune {
	if r >= 'A' && r <= 'Z' {
		r += 'a' - 'A'
	}
	return r
}

func fold(text string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return unicode.IsSpace(r) || r == '+' }), " ")
}

// ifAny returns what pattern, which is slow, finds in text, if one of the marks is there.
func ifAny(pattern *regexp.Regexp, text string, marks ...string) [][]string {
	if !containsAny(text, marks...) {
		return nil
	}
	return pattern.FindAllStringSubmatch(text, -1)
}

func containsAny(text string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// takeRedirects moves the queries of callbacks from the text to redirects. A form belongs to no URL and has no state.
func (f *facts) takeRedirects() {
	if !strings.Contains(f.text, "error=") && !strings.Contains(f.text, "code=") && !strings.Contains(f.text, "?") {
		return
	}
	words, done, rest := urlWord.FindAllStringIndex(f.text, -1), 0, ""
	for _, at := range words {
		word, _, _ := strings.Cut(strings.Trim(f.text[at[0]:at[1]], ",;()[]{}"), "#")
		query := word[strings.IndexByte(word, '?')+1:]
		isURL, alone := len(query) < len(word), len(words) == 1
		values, _ := url.ParseQuery(query)
		isKnown := codeWords[values.Get("error")] != "" || values.Has("state") || values.Has("error_description")
		isForm := !isURL && !values.Has("state") && len(values["error"]) == 1 && !strings.Contains(query, "/")
		isError := strings.Contains("&"+query, "&error=") && (isKnown || alone) && !isForm && (isURL || alone || strings.Contains(query, "&"))
		isCode := values.Has("code") && (isURL || values.Has("state"))
		if outgoing.MatchString(f.text[max(0, at[0]-6):at[0]]) {
			continue
		} else if isError || isCode {
			f.redirects = append(f.redirects, query)
			rest, done = rest+f.text[done:at[0]], at[1]
		} else if start := strings.IndexByte(f.text[at[0]:at[1]], '?'); isURL && strings.Contains(word[:len(word)-len(query)], "/") { // somebody else's query
			rest, done = rest+f.text[done:at[0]+start], at[1]
		}
	}
	f.text = rest + f.text[done:]
}

// findTexts finds the texts that Apple documents. What every server says counts only if it is the whole of a text.
func (f *facts) findTexts() {
	text := f.folded
	for _, entry := range documented {
		start := strings.Index(text, entry.Description)
		if start < 0 || slices.ContainsFunc(f.texts, func(known applebusiness.Entry) bool { return known.Reason == entry.Reason }) {
			continue
		}
		if !isCommon(entry.Reason) || commonBefore.MatchString(text[max(0, start-4):start]) {
			f.texts = append(f.texts, entry)
			text = strings.ReplaceAll(text, entry.Description, "\x00")
		}
	}
	for _, match := range ifAny(templates, text, "oauth 2.0 p", "missing f", "accepted v") {
		f.texts = append(f.texts, applebusiness.Entry{Reason: applebusiness.ParseTokenError(0, nil, bodyOf("", match[0])).Reason, Description: match[0]})
	}
}

func isCommon(reason applebusiness.Reason) bool {
	return reason == applebusiness.ErrServer || reason == applebusiness.ErrBadRequest
}

// isApples reports whether a value begins with the whole of a text of Apple's.
func isApples(value string) bool {
	value = fold(value[:min(len(value), 400)])
	texts := []string{"invalid_request"} // of the row at 404
	for _, entry := range documented {
		texts = append(texts, entry.Description)
	}
	if at := templates.FindStringIndex(value); at != nil && at[0] == 0 {
		texts = append(texts, value[:at[1]])
	}
	return slices.ContainsFunc(texts, func(text string) bool {
		return strings.HasPrefix(value, text) && valueEnd.MatchString(value[len(text):])
	})
}

// wordAt returns the end of the word, in lower case, that begins at start.
func wordAt(text string, start int) int {
	for ; start < len(text); start++ {
		if c := text[start]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			break
		}
	}
	return start
}

// findWords goes over the words for our vocabulary and for statuses.
func (f *facts) findWords() {
	for start, end := 0, 0; start < len(f.lower); start = max(end, start+1) {
		if end = wordAt(f.lower, start); end == start {
			continue
		}
		word, before, after := f.lower[start:end], f.lower[max(0, start-40):start], f.lower[end:min(len(f.lower), end+40)]
		code, label := codeWords[word], labelWords[word]
		switch {
		case word == "404" && strings.HasPrefix(after, " not found") && marked.MatchString(before):
			f.codes = append(f.codes, applebusiness.CodeNotFound)
		case len(word) == 3 && word[0] >= '1' && word[0] <= '5' && len(f.statuses) < 64:
			f.findStatus(word, before, after)
		case code == "" && label == "" || counted.MatchString(after), strings.HasSuffix(before, "/"), !distinct.MatchString(word) && !marked.MatchString(before) && !isApples(strings.TrimLeft(f.lower[end:], "\"': )]")):
		case code == "" && !strings.Contains(word, "_") && !strings.HasPrefix(word, "err") && !strings.Contains(before, "applebusiness") && !(labelAt.MatchString(before) && f.endpoint != ""): // another one's word
		default:
			f.isMention = f.isMention || isList(word, after) || item.MatchString(before) && strings.TrimSpace(after) == ""
			if code != "" && !labelAt.MatchString(before) {
				f.codes = append(f.codes, code)
			} else if label != "" {
				f.labels = append(f.labels, label)
			}
		}
	}
}

// isList reports whether another name follows a name as in a list.
func isList(word, after string) bool {
	next := strings.TrimLeft(after, "\"'`|,/ []")
	if !strings.ContainsAny(after[:len(after)-len(next)], ",|/") {
		return false
	}
	next = strings.TrimPrefix(strings.TrimPrefix(next, "or "), "and ")
	next = next[:wordAt(next, 0)]
	return next != word && (codeWords[next] != "" || labelWords[next] != "")
}

// findStatus is about three characters, which may be an HTTP status.
func (f *facts) findStatus(word, before, after string) {
	status, err := strconv.Atoi(word)
	if err != nil || strings.HasSuffix(before, ".") || len(after) > 1 && after[0] == '.' && after[1] >= '1' && after[1] <= '9' {
		return
	}
	before = before[max(0, len(before)-24):]
	if phrase := strings.ToLower(http.StatusText(status)); strings.Contains(before, "http/") && statusLine.MatchString(before) {
		f.shown = status
	} else if phrase != "" && strings.HasPrefix(after, " "+phrase) || statusBefore.MatchString(before) || bodyAfter.MatchString(after) && !numbered.MatchString(before) || strings.TrimSpace(before+after) == "" {
		f.statuses = append(f.statuses, status)
	}
}

const maxDepth = 32 // of JSON in JSON, where each level doubles the backslashes

// steps undo one layer each of what logs, shells and mails do to a text. A text without the mark is left alone.
var steps = []struct {
	mark string
	undo func(string) string
}{
	{"\x1b[", replace(`\x1b\[[0-9;]*m`, "")},                                       // a terminal's colors
	{"#0", strings.NewReplacer("#012", "\n", "#033", "\x1b", "#011", " ").Replace}, // syslog
	{`\`, unescape},
	{"&", func(text string) string { return entity.ReplaceAllStringFunc(text, html.UnescapeString) }},
	{`""`, replace(`""(\w[^"\n]*)""`, `"$1"`)},                                                                    // CSV
	{"=\n", replace("=\n", "")},                                                                                   // quoted-printable
	{"=3D", func(text string) string { return decodeHex(text, '=') }},                                             // likewise
	{"=3A", func(text string) string { return decodeHex(text, '=') }},                                             // likewise
	{"\n>", replace(`\n(?:> ?)+`, "\n")},                                                                          // mail, and curl -v
	{"\n< ", replace(`\n< `, "\n")},                                                                               // curl -v
	{"\xe2\x80", replace(`[“”„]`, `"`)},                                                                           // smart quotes
	{"\xe2\x80", replace(`[‘’]`, `'`)},                                                                            // likewise
	{"`\"", replace("`\"", `"`)},                                                                                  // PowerShell
	{`":[`, func(text string) string { return numbers.ReplaceAllStringFunc(text, ofBytes) }},                      // journald
	{`"value"`, replace(`"(?:key|name|field)"\s*:\s*"([^"]*)"\s*,\s*"value"\s*:\s*(?:\{\s*"\w+"\s*:)?`, `"$1":`)}, // OpenTelemetry, HAR files
}

var (
	entity  = regexp.MustCompile(`&#?\w{2,8};`)
	numbers = regexp.MustCompile(`\[\s*\d{1,3}(?:\s*,\s*\d{1,3}){7,}\s*\]`)
)

func replace(pattern, replacement string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(text string) string { return compiled.ReplaceAllString(text, replacement) }
}

// undo returns text as it was before a log, a shell or a mail put it into something else.
func undo(text string) string {
	text = "\n" + strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	for range maxDepth {
		before := text
		for _, step := range steps {
			if strings.Contains(text, step.mark) {
				text = step.undo(text)
			}
		}
		if text == before {
			break
		}
	}
	return text
}

// unescape replaces the escapes of Go, JSON and JavaScript, wherever in text they stand.
func unescape(text string) string {
	var plain strings.Builder
	for before, rest, found := strings.Cut(text, `\`); ; before, rest, found = strings.Cut(text, `\`) {
		if plain.WriteString(before); !found {
			return plain.String()
		}
		r, multibyte, tail, err := strconv.UnquoteChar(text[len(before):], '"')
		if text = tail; err != nil { // as in JSON's \/
			text = rest
		} else if multibyte {
			plain.WriteRune(r)
		} else {
			plain.WriteByte(byte(r))
		}
	}
}

// decodeHex replaces each mark that two hexadecimal digits follow.
func decodeHex(text string, mark byte) string {
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		value, err := strconv.ParseUint(text[min(i+1, len(text)):min(i+3, len(text))], 16, 8)
		if text[i] != mark || err != nil || i+2 >= len(text) {
			plain = append(plain, text[i])
			continue
		}
		plain = append(plain, byte(value))
		i += 2
	}
	return string(plain)
}

// ofBytes returns the text of an array of byte values, which is how journald writes a message with control characters.
func ofBytes(array string) string {
	plain := []byte{'"'}
	for number := range strings.SplitSeq(strings.Trim(array, "[] "), ",") {
		value, _ := strconv.ParseUint(strings.TrimSpace(number), 10, 8)
		plain = append(plain, byte(value))
	}
	return string(append(plain, '"'))
}
