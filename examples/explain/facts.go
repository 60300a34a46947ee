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
	{`\`, replaceFunc(`(?s)\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{3}|.)`, unescape)},
	{"&", replaceFunc(`&#?\w{2,8};`, html.UnescapeString)},
	{`""`, replace(`""(\w[^"\n]*)""`, `"$1"`)}, // CSV
	{"=\n", replace("=\n", "")},                // quoted-printable
	{"=3D", replaceFunc(`=[0-9A-F]{2}`, unhex)},
	{"\n>", replace(`\n(?:> ?)+`, "\n")},                                                                          // mail, and curl -v
	{"\xe2\x80", replace(`[“”„]`, `"`)},                                                                           // smart quotes
	{`"value"`, replace(`"(?:key|name|field)"\s*:\s*"([^"]*)"\s*,\s*"value"\s*:\s*(?:\{\s*"\w+"\s*:)?`, `"$1":`)}, // OpenTelemetry, HAR
}

func replace(pattern, replacement string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(text string) string { return compiled.ReplaceAllString(text, replacement) }
}

func replaceFunc(pattern string, function func(string) string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(text string) string { return compiled.ReplaceAllStringFunc(text, function) }
}

var percent = replaceFunc(`%[0-9A-Fa-f]{2}`, unhex)

func unhex(escape string) string {
	plain, _ := hex.DecodeString(escape[1:])
	return string(plain)
}

func unescape(escape string) string {
	r, _, _, err := strconv.UnquoteChar(escape, '"')
	if err != nil { // as of JSON's \/
		return escape[1:]
	}
	return string(r)
}

// undo returns text as it was before a log, a shell or a mail put it into something else.
func undo(text string) string {
	text = "\n" + strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	for range 32 { // JSON in JSON doubles the backslashes
		before := text
		for _, step := range undoers {
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

// facts are what one record says, each for itself, wherever in the record it stands and whatever stands around it.
type facts struct {
	text, lower       string   // undone, and in lower case
	redirects         []string // queries of callbacks, which are no longer in the text
	codes             []applebusiness.Code
	labels            []applebusiness.Reason
	texts             []applebusiness.Entry // that Apple documents
	status            int                   // one that passes, if there are several
	isShown, isAnswer bool                  // the status begins a response, or stands in a line that does
	value             string                // of an "error" that is not in our vocabulary
	isBody            bool                  // which stands in the body of a response
	isFramework       bool                  // an "error" is the name of a status
	isDescribed       bool                  // there is an "error_description"
	isForeign         bool                  // there is one that is not Apple's
	isQuoted          bool                  // a client quotes what is neither a code nor a text of Apple\'s
	isList            bool                  // of names
	said              map[string]string     // what the members say, by their names
}

// codeWords and labelWords are the codes and the labels by themselves and by their constants, documented the texts, the longest
// first; in lower case.
var codeWords, labelWords, documented = func() (map[string]applebusiness.Code, map[string]applebusiness.Reason, []applebusiness.Entry) {
	codes, labels, texts := map[string]applebusiness.Code{"codenotfound": applebusiness.CodeNotFound}, make(map[string]applebusiness.Reason), slices.Collect(applebusiness.Catalog())
	for _, entry := range append(texts, undocumented...) {
		codes[strings.ToLower(string(entry.Code))], codes["code"+strings.ReplaceAll(string(entry.Code), "_", "")] = entry.Code, entry.Code
		labels[string(entry.Reason)], labels["err"+strings.ReplaceAll(string(entry.Reason), "_", "")] = entry.Reason, entry.Reason
	}
	for _, none := range []string{"", "code", "err"} {
		delete(codes, none)
		delete(labels, none)
	}
	for i := range texts {
		texts[i].Description = strings.TrimRight(strings.ToLower(texts[i].Description), ".")
	}
	texts = slices.DeleteFunc(texts, func(entry applebusiness.Entry) bool { return entry.Reason == applebusiness.ErrEndpointNotFound }) // whose text is a code
	slices.SortStableFunc(texts, func(a, b applebusiness.Entry) int { return cmp.Compare(len(b.Description), len(a.Description)) })
	return codes, labels, texts
}()

// undocumented are the names of package applebusiness that its catalog does not have.
var undocumented = []applebusiness.Entry{
	{Code: applebusiness.CodeAccessDenied}, {Code: applebusiness.CodeUnauthorizedClient}, {Code: applebusiness.CodeUnsupportedGrantType}, {Code: applebusiness.CodeTemporarilyUnavailable},
	{Reason: applebusiness.ErrStateMismatch}, {Reason: applebusiness.ErrMalformedRedirect}, {Reason: applebusiness.ErrUserDenied}, {Reason: applebusiness.ErrNoResponse}, {Reason: applebusiness.ErrRateLimited},
	{Reason: applebusiness.ErrUnavailable}, {Reason: applebusiness.ErrMalformedResponse}, {Reason: applebusiness.ErrUnsafeTokenRequest}, {Reason: applebusiness.ErrNoRefreshToken}, {Reason: applebusiness.ErrUnsafeState},
	{Reason: applebusiness.ErrManyRefusals},
}

// constant returns the name of reason's constant, which its label is in snake case.
func constant(reason applebusiness.Reason) string {
	name := "Err"
	for word := range strings.SplitSeq(string(reason), "_") {
		if word == "id" || word == "uri" {
			word = strings.ToUpper(word)
		}
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return name
}

func isDocumented(reason applebusiness.Reason) bool { return reason.Description() != "" }

// sep stands between the name of a member and its value, in whatever notation.
const sep = "[\"'`\\]]*\\s*(?:=>|[:=]|, ')[\\s:=\\[(\"'`]*(?:string\\((?:\\d+\\) )?[\"']|[bu][\"'])?"

var (
	memberAt = regexp.MustCompile("^" + sep)
	urlWord  = regexp.MustCompile("[^\\s\"`<>'|]+")
	isLabel  = regexp.MustCompile(`\b(?:reason|label)` + sep + `$`)

	// distinct are the names that are hardly anything else's, wherever they stand; marked is what stands before the others, and
	// counted after one that is a member's.
	distinct  = regexp.MustCompile(`^err|^code[^_]|refresh_token|grant_type|credentials|client_id|redirect_uri|response_type|challenge_method|^invalid_(?:grant|client|scope)$|unauthorized_client`)
	marked    = regexp.MustCompile(`(?:error\)?:? ?["'\[(]?|oauth2: "|applebusiness: |applebusiness\.|^\s*["'\[(]|\b(?:error|error_?code|code|label|reason)` + sep + `)$`)
	counted   = regexp.MustCompile(`^(?:=|["']\s*:|: ?\d|\.[a-z])`)
	templates = regexp.MustCompile(`oauth 2\.0 parameter: [\w.-]{1,64} missing|missing fields in post body [\w, ]{1,200} required|(?:grant_type|scope) is invalid\. accepted values:[\w, ]{0,200}`)
	valueEnd  = regexp.MustCompile("^\\.? ?(?:$|[\"'`&,;\\])}<>#|]|[\\w.]+[:=])")
	noValue   = regexp.MustCompile(`^(?:$|["',0-9]|null|none|nil|false|true|undefined)`)

	statusLine   = regexp.MustCompile("(?:^|[\n\"'`=:>}])\\s*(?:< )?http/[0-9.]+ $|cannot fetch token: $")
	answerAt     = regexp.MustCompile(`(?:http/[0-9.]+|cannot fetch token:) $`)
	bodyAfter    = regexp.MustCompile("^[^\\d\n\"'{}]{0,24}\\{")
	numbered     = regexp.MustCompile(`(?:\b|_)(?:customer|tenant|grant|account|org|user|id|line|port|pid|attempt|ms|duration|latency|elapsed|took|bytes|size|count)[\s:=#"]*$|\.\w+:$`)
	statusBefore = regexp.MustCompile(`(?:status|http|code|got|response|respond(?:ed|s)|return(?:ed|s)|answer(?:ed|s)?|failed|error|token|success:|resulted in an?)(?:[\s:=>"'(\[/,\x60_-]|code|status|error|with|was|is|int|http|/[\d.]+")*$`)
)

// collect returns the facts of a record.
func collect(record string) *facts {
	f := &facts{text: undo(record), said: make(map[string]string)}
	for range 3 { // percent within percent
		if containsAny(f.text, "?", "error=", "code=") {
			f.text = urlWord.ReplaceAllStringFunc(f.text, f.takeQuery)
		}
		if !strings.Contains(f.text, "%") {
			break
		}
		f.text = undo(percent(f.text))
	}
	f.lower = strings.ToLower(f.text)
	folded := fold(f.lower)
	for _, entry := range documented {
		if end := strings.Index(folded, entry.Description) + len(entry.Description); end >= len(entry.Description) && (!isCommon(entry.Reason) || strings.ContainsAny(folded[max(0, end-len(entry.Description)-2):end], `"'=:>[()]`)) {
			f.texts = append(f.texts, entry)
			folded = strings.ReplaceAll(folded, entry.Description, "\x00")
		}
	}
	if containsAny(folded, "oauth 2.0 p", "missing f", "accepted v") {
		for _, text := range templates.FindAllString(folded, -1) {
			f.texts = append(f.texts, applebusiness.Entry{Reason: f.response("", text).Reason, Description: text})
		}
	}
	for start, end := 0, 0; start < len(f.lower); start = max(end, start+1) {
		if end = wordEnd(f.lower, start); end > start {
			word, before, after := f.lower[start:end], f.lower[max(0, start-40):start], f.lower[end:min(len(f.lower), end+400)]
			f.addMember(word, after)
			f.addWord(word, before, after)
		}
	}
	for _, status := range []int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		if strings.Contains(f.lower, strings.ToLower(http.StatusText(status))) {
			f.addStatus(status, false)
		}
	}
	if strings.Contains(f.lower, "token expired and refresh token is not set") { // x/oauth2's
		f.labels = append(f.labels, applebusiness.ErrNoRefreshToken)
	}
	if f.said["granttype"] == "" && strings.Contains(f.lower, "authorization_code") && !strings.Contains(f.lower, "accepted values") { // named without its name
		f.said["granttype"] = applebusiness.GrantTypeAuthorizationCode
	}
	return f
}

// takeQuery keeps the query of a word that is a callback's, and returns the word without any query. A form belongs to no URL and
// has no state.
func (f *facts) takeQuery(word string) string {
	path, query, isURL := strings.Cut(word, "?")
	query, _, _ = strings.Cut(strings.Trim(cmp.Or(query, path), ",;()[]{}"), "#")
	values, _ := url.ParseQuery(query)
	isKnown := codeWords[values.Get("error")] != "" || values.Has("state") || values.Has("error_description")
	switch {
	case (isURL || values.Has("state")) && (strings.Contains("&"+query, "&error=") && isKnown || values.Has("code")):
		f.redirects = append(f.redirects, query)
		return ""
	case isURL && strings.Contains(path, "/"): // somebody else's query
		return path
	}
	return word
}

const levels = "info information debug trace notice verbose 10 20 30 5 6 7 err error warn warning fatal critical severe panic alert 40 50 60 0 1 2 3 4" // of Pino and syslog, too

// members are the names of the members that count, without _, - and id, and the values of each, if not any is one.
var members = map[string]string{
	"action": "retry start_over reauthorize fix_request fix_registration check_network", "impact": "customer app service", "endpoint": "token authorization",
	"granttype": "authorization_code refresh_token client_credentials", "retryafter": "", "error": "", "errorcode": "", "errordescription": "", "oauth2": "", "applebusiness": "",
	"level": levels, "severity": levels, "severitytext": levels, "lvl": levels, "loglevel": levels, "priority": levels,
	"customer": "", "grant": "", "tenant": "", "account": "", "merchant": "", "org": "",
}

var unspelled = strings.NewReplacer("_", "", "-", "")

// addMember adds what a member of this name says: the first value that it can have, but of several grant_types the one after which
// nobody is asked to reconnect.
func (f *facts) addMember(name, after string) {
	name = strings.TrimSuffix(unspelled.Replace(name), "id")
	words, isMember := members[name]
	if !isMember {
		return
	}
	end := append(memberAt.FindStringIndex(after), 0, 0)[1]
	if end == 0 && name != "customer" {
		return
	}
	value := strings.TrimLeft(after[end:], " #")
	word := value[:wordEnd(value, 0)]
	switch name {
	case "error", "errorcode":
		f.addError(value, word, false)
	case "oauth2", "applebusiness":
		if strings.HasSuffix(after[:end], ": \"") {
			f.addError(value, word, true)
		}
	case "errordescription":
		if !noValue.MatchString(value) {
			f.isDescribed, f.isForeign = true, f.isForeign || !isApples(value)
		}
	default:
		if words == levels {
			name = "level"
		}
		if (f.said[name] == "" || word == "authorization_code") && (words == "" || slices.Contains(strings.Fields(words), word)) {
			f.said[name] = word
		}
	}
}

// addError is about the value of an error, or about what x/oauth2 and package applebusiness quote: a code, or the text instead of one.
func (f *facts) addError(value, word string, isQuoted bool) {
	value, _, isWhole := strings.Cut(value, `"`)
	switch {
	case codeWords[value] != "", !isQuoted && (codeWords[word] != "" || labelWords[word] != "" || noValue.MatchString(value)):
	case isQuoted && isWhole && !isApples(value+`"`):
		if f.isQuoted = true; !strings.Contains(value, " ") || strings.Contains(value, ": ") {
			f.value, f.isDescribed = unknown, true
		}
	case isQuoted:
	case neterr.StatusOf(value) != 0:
		f.isFramework = true
	default:
		f.value, f.isBody = cmp.Or(f.value, value), f.isBody || f.isAnswer
	}
}

// addWord adds what a word says: it is in our vocabulary, or a status.
func (f *facts) addWord(word, before, after string) {
	code, label := codeWords[word], labelWords[word]
	switch {
	case word == "404" && strings.HasPrefix(after, " not found") && marked.MatchString(before):
		f.codes = append(f.codes, applebusiness.CodeNotFound)
	case len(word) == 3 && word[0] >= '1' && word[0] <= '5':
		f.addNumber(word, before[max(0, len(before)-24):], after)
	case code == "" && label == "", counted.MatchString(after), strings.HasSuffix(before, "/"):
	case !distinct.MatchString(word) && !marked.MatchString(before) && !isApples(strings.TrimLeft(after, "\"': )]")):
	case code == "" && !strings.Contains(word, "_") && !strings.HasPrefix(word, "err") && !strings.Contains(before, "applebusiness") && !(isLabel.MatchString(before) && f.said["endpoint"] != ""): // another one's word
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
	f.isAnswer = f.isAnswer || answerAt.MatchString(before)
	switch {
	case strings.HasSuffix(before, "."), len(after) > 1 && after[0] == '.' && after[1] >= '1' && after[1] <= '9': // of a number with a fraction
	case statusLine.MatchString(before):
		f.isShown = true
		f.addStatus(status, true)
	case phrase != "" && strings.HasPrefix(after, " "+phrase), statusBefore.MatchString(before), bodyAfter.MatchString(after) && !numbered.MatchString(before), strings.TrimSpace(before+after) == "":
		f.addStatus(status, false)
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

func containsAny(text string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// wordEnd returns the end of the word, in lower case, that begins at start.
func wordEnd(text string, start int) int {
	for ; start < len(text); start++ {
		if c := text[start]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			break
		}
	}
	return start
}

func fold(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "+", " ")), " ")
}

func isCommon(reason applebusiness.Reason) bool {
	return reason == applebusiness.ErrServer || reason == applebusiness.ErrBadRequest
}

// isApples reports whether a value begins with the whole of a text of Apple's.
func isApples(value string) bool {
	value = fold(value)
	var texts []string
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

// isList reports whether another name follows a name as in a list.
func isList(word, after string) bool {
	rest := strings.TrimLeft(after, "\"'`|,/ []")
	next := rest[:wordEnd(rest, 0)]
	return strings.ContainsAny(after[:len(after)-len(rest)], ",|/") && next != word && (codeWords[next] != "" || labelWords[next] != "")
}
