package main

import (
	"cmp"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/seed-a5f25c57/applebusiness"
)

// facts are what one record says, each for itself, wherever in the record it stands and whatever stands around it.
type facts struct {
	text, folded string   // undone; and in lower case, with one space for each run of them
	redirects    []string // queries of callbacks, which are no longer in the text
	codes        []applebusiness.Code
	labels       []applebusiness.Reason
	texts        []applebusiness.Entry // that Apple documents
	grants       []string
	statuses     []int
	last         int // status in the last line that begins a response
	wait         string
	endpoint     applebusiness.Endpoint
	action       applebusiness.Action // what the record itself says, as the impact
	impact       applebusiness.Impact
	at, customer string

	isUnknown     bool // an "error" looks like a code that nobody documented
	isOther       bool // an "error" is no code
	isOtherBody   bool // and stands in the body of a response
	isFramework   bool // an "error" is the name of a status
	isUnknownCode bool // a "code" is one that nobody documented
	isDescribed   bool // there is an "error_description"
	isForeign     bool // there is one, or a text of x/oauth2 or ours, that is not Apple's
	isMoved       bool // there is a "location"
	isSuccess     bool // there is an access token or an authorization code
	isLog         bool // there are members of a log's line
	isMention     bool // the record names errors and reports none: it counts or lists them, or tells of success
}

var (
	codeWords, labelWords, documented = vocabulary()

	// distinct are the names that are hardly anything else's, wherever they stand; marked is what stands before the others, and counted after one that is a member's.
	distinct = regexp.MustCompile(`^err|^code[^_]|refresh_token|grant_type|credentials|client_id|redirect_uri|response_type|challenge_method|^invalid_(?:grant|client|scope)$|unauthorized_client`)
	marked   = regexp.MustCompile(`(?:[Ee]rror\)?:? ?["'\[(]?|oauth2: "|applebusiness: |applebusiness\.|^\s*["'\[(])$`)
	counted  = regexp.MustCompile(`^(?:=|["']\s*:|: ?\d)`)

	templates    = regexp.MustCompile(`oauth 2\.0 parameter: [\w.-]{1,64} missing|missing fields in post body [\w, ]{1,200} required|(?:grant_type|scope) is invalid\. accepted values:[\w, ]{0,200}`)
	valueEnd     = regexp.MustCompile("^\\.? ?(?:$|[\"'`&,;\\])}<>#|]|[\\w.]+[:=])")
	commonBefore = regexp.MustCompile(`["'=:>[()\]] ?$`)
	quoted       = regexp.MustCompile(`(?:oauth2|applebusiness): "([^"]*"?)`)
	snakeCase    = regexp.MustCompile(`^[a-z]+(?:_[a-z]+)*$`)
	urlWord      = regexp.MustCompile("[^\\s\"`<>'|]+")
	outgoing     = regexp.MustCompile("(?i)(?:post|get) [\"'`]$")
	valueType    = regexp.MustCompile(`^(?:[Ss]tring\((?:\d+\) )?|[bu])["']`) // in PHP, Rust and Python
	metric       = regexp.MustCompile(`^\s*[\w:.]+(?:\{[^{}\n]*\})?[ =:]\s?[\d.e+]+(?:\|\S*)?(?: \d+)?\s*$|^[^{]*_total\{`)
	clock        = regexp.MustCompile(`\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d`)

	responseStart = regexp.MustCompile(`HTTP/[0-9.]+ [1-5]\d\d|oauth2: cannot fetch token: [1-5]\d\d`)
	statusLine    = regexp.MustCompile("(?:^|[\n\"'`=:>}])\\s*(?:< )?HTTP/[0-9.]+ $")
	statusBefore  = regexp.MustCompile(`(?i)(?:status|http|code|got|response|respond(?:ed|s)|return(?:ed|s)|answer(?:ed|s)?|failed|error|token|success:|resulted in an?)(?:[\s:="'(\[/,\x60-]|code|status|error|with|was|is|http|/[\d.]+")*$`)
)

// vocabulary returns the codes and the labels by themselves and by their constants, and the texts, the longest first; in lower case.
func vocabulary() (map[string]applebusiness.Code, map[string]applebusiness.Reason, []applebusiness.Entry) {
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
}

// collect returns the facts of a record.
func collect(record string) *facts {
	f := &facts{text: undo(record)}
	for range 3 { // percent within percent
		f.takeRedirects()
		if !strings.Contains(f.text, "%") {
			break
		}
		f.text = undo(decodeHex(f.text, '%'))
	}
	f.folded = fold(f.text)
	f.findTexts()
	f.findWords()
	for _, match := range ifAny(quoted, f.text, `oauth2: "`, `applebusiness: "`) {
		if value, _, isWhole := strings.Cut(match[1], `"`); isWhole && codeWords[value] == "" && !isApples(match[1]) {
			f.isForeign = true
			f.isUnknown = f.isUnknown || !strings.Contains(value, " ") || strings.Contains(value, ": ")
			f.isDescribed = f.isDescribed || f.isUnknown
		}
	}
	if f.at = strings.NewReplacer("/", "-", " ", "T").Replace(clock.FindString(f.text)); len(f.at) == len("02-Jan-2006:15:04:05")+0 {
		at, _ := time.Parse("02-Jan-2006:15:04:05", f.at)
		f.at = at.Format("2006-01-02T15:04:05")
	}
	f.isMention = f.isMention || metric.MatchString(f.text)
	return f
}

func fold(text string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return unicode.IsSpace(r) || r == '+' }), " ")
}

// ifAny returns what pattern, which is slow, finds in text, if one of the marks is there.
func ifAny(pattern *regexp.Regexp, text string, marks ...string) [][]string {
	if !slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(text, mark) }) {
		return nil
	}
	return pattern.FindAllStringSubmatch(text, -1)
}

// takeRedirects moves the queries of callbacks from the text to redirects. A form belongs to no URL and has no state.
func (f *facts) takeRedirects() {
	if !strings.Contains(f.text, "error=") && !strings.Contains(f.text, "code=") {
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
		if (isError || isCode) && !outgoing.MatchString(f.text[max(0, at[0]-6):at[0]]) {
			f.redirects = append(f.redirects, query)
			rest, done = rest+f.text[done:at[0]], at[1]
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
		f.texts = append(f.texts, applebusiness.Entry{Reason: applebusiness.ParseTokenError(0, nil, body("", match[0])).Reason, Description: match[0]})
	}
}

func isCommon(reason applebusiness.Reason) bool {
	return reason == applebusiness.ErrServer || reason == applebusiness.ErrBadRequest
}

// isApples reports whether a value begins with the whole of a text of Apple's.
func isApples(value string) bool {
	value = fold(value[:min(len(value), 400)])
	rest, ok := strings.CutPrefix(value, "invalid_request") // of the row at 404
	for _, entry := range documented {
		if !ok {
			rest, ok = strings.CutPrefix(value, entry.Description)
			ok = ok && valueEnd.MatchString(rest)
		}
	}
	if at := templates.FindStringIndex(value); !ok && at != nil && at[0] == 0 {
		rest, ok = value[at[1]:], true
	}
	return ok && valueEnd.MatchString(rest)
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// wordAt returns the end of the word that begins at start.
func wordAt(text string, start int) int {
	for start < len(text) && isWordByte(text[start]) {
		start++
	}
	return start
}

// findWords goes over the words: names of members in whatever notation, the values that count, and our vocabulary.
func (f *facts) findWords() {
	valueAt, name, last, isInfo, isFailing := -1, "", "", false, false
	for start, end := 0, 0; start < len(f.text); start = max(end, start+1) {
		if end = wordAt(f.text, start); end == start {
			continue
		}
		word, of := strings.ToLower(f.text[start:end]), ""
		if start == valueAt {
			of = name
		}
		if at := valueOf(f.text, end); at >= 0 {
			valueAt, name = at, strings.NewReplacer("_", "", "-", "").Replace(word)
			f.member(name, f.text[at:])
		}
		if strings.HasSuffix(of, "level") || of == "severity" || of == "lvl" || of == "severitytext" || start < 120 && f.text[start:end] == strings.ToUpper(word) {
			isInfo = isInfo || slices.Contains([]string{"info", "information", "debug", "trace", "notice", "verbose"}, word)
			isFailing = isFailing || slices.Contains([]string{"error", "err", "erro", "warn", "warning", "fatal", "critical", "severe", "panic", "alert"}, word)
		}
		if last == "customer" && word[0] <= '9' {
			f.customer = cmp.Or(f.customer, word)
		}
		f.word(word, of, start, end)
		last = word
	}
	if isInfo && !isFailing && !(f.action != "" && f.isOwn() || f.isDescribed && !f.isForeign && len(f.codes) > 0 && f.httpStatus() >= 400) {
		f.isMention = true
	}
}

// valueOf returns where the value of the name that ends at end begins, -1 if it is no name.
func valueOf(text string, end int) int {
	rest := strings.TrimLeft(text[end:], "\"'`]")
	isQuoted := len(rest) < len(text)-end
	switch rest = strings.TrimLeft(rest, " \t\n"); {
	case strings.HasPrefix(rest, "=>"):
		rest = rest[2:]
	case strings.HasPrefix(rest, ":"), strings.HasPrefix(rest, "="), isQuoted && strings.HasPrefix(rest, ", '"):
		rest = rest[1:]
	default:
		return -1
	}
	rest = strings.TrimLeft(rest, " \t\n:=[(\"'`")
	return len(text) - len(rest) + len(valueType.FindString(rest))
}

// member is about a member with a value.
func (f *facts) member(name, value string) {
	word := value[:wordAt(value, 0)]
	switch name {
	case "error", "errorcode":
		text, _, _ := strings.Cut(strings.ToLower(value), `"`)
		switch lower := strings.ToLower(word); {
		case text == "", text[0] == ',', text[0] >= '0' && text[0] <= '9' && codeWords[text] == "", slices.Contains([]string{"null", "none", "nil", "false", "true", "undefined"}, lower):
		case isPhrase(text):
			f.isFramework = true
		case codeWords[lower] != "", codeWords[text] != "", labelWords[lower] != "":
		case word != "" && len(text) == len(word):
			f.isUnknown = true
		default:
			f.isOther = true
			f.isOtherBody = f.isOtherBody || responseStart.MatchString(f.text[:len(f.text)-len(value)])
		}
	case "errordescription":
		if value != "" && value[0] != ',' && word != "null" && word != "None" {
			f.isDescribed, f.isForeign = true, f.isForeign || !isApples(value)
		}
	case "code":
		f.isUnknownCode = f.isUnknownCode || snakeCase.MatchString(word)
	case "retryafter":
		f.wait = cmp.Or(f.wait, word)
	case "location":
		f.isMoved = true
	case "accesstoken":
		f.isSuccess = true
	case "level", "severity", "lvl", "loglevel", "time", "timestamp", "ts", "msg", "logger", "caller", "stream", "hostname", "host":
		f.isLog = true
	case "customer", "customerid", "grant", "grantid", "tenant", "tenantid", "account", "accountid", "org", "orgid", "merchant", "merchantid":
		f.customer = cmp.Or(f.customer, word)
	}
}

// isPhrase reports whether text is the name of a failed status, as frameworks say it; that of 404 Apple documents with its number.
func isPhrase(text string) bool {
	for status := 400; status <= 599; status++ {
		if phrase := http.StatusText(status); len(phrase) == len(text) && strings.EqualFold(phrase, text) && phrase != "" {
			return true
		}
	}
	return false
}

// word is about a word, which is the value of the member of, if that is not empty.
func (f *facts) word(word, of string, start, end int) {
	before, after := f.text[max(0, start-40):start], f.text[end:min(len(f.text), end+40)]
	switch code, label := codeWords[word], labelWords[word]; {
	case of == "granttype" && (word == applebusiness.GrantTypeAuthorizationCode || word == applebusiness.GrantTypeRefreshToken || word == applebusiness.GrantTypeClientCredentials):
		f.grants = append(f.grants, word)
	case of == "action" && slices.Contains(actions, applebusiness.Action(word)):
		f.action = applebusiness.Action(word)
	case of == "impact":
		f.impact = applebusiness.Impact(word)
	case of == "endpoint" && (word == string(applebusiness.TokenEndpoint) || word == string(applebusiness.AuthorizationEndpoint)):
		f.endpoint = applebusiness.Endpoint(word)
	case word == "404" && strings.HasPrefix(strings.ToLower(after), " not found") && (of == "error" || strings.HasSuffix(before, prefix)):
		f.codes = append(f.codes, applebusiness.CodeNotFound)
	case len(word) == 3:
		f.status(word, of, before, after)
	case code == "" && label == "" || counted.MatchString(after) || of == "errordescription" && code != "":
	case !slices.Contains([]string{"error", "errorcode", "code", "label"}, of) && !(of == "reason" && (f.endpoint != "" || strings.Contains(word, "_"))) && !distinct.MatchString(word) && !marked.MatchString(before):
	default:
		f.isMention = f.isMention || isList(word, after)
		if code != "" && of != "reason" && of != "label" {
			f.codes = append(f.codes, code)
		} else if label != "" {
			f.labels = append(f.labels, label)
		}
	}
}

// isList reports whether another name follows a name as in a list.
func isList(word, after string) bool {
	next := strings.TrimLeft(after, "\"'`|,/ []")
	if !strings.ContainsAny(after[:len(after)-len(next)], ",|/") {
		return false
	}
	next = strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(next, "or "), "and "))
	next = next[:wordAt(next, 0)]
	return next != word && (codeWords[next] != "" || labelWords[next] != "")
}

// status is about three characters, which may be an HTTP status.
func (f *facts) status(word, of, before, after string) {
	status, err := strconv.Atoi(word)
	if err != nil || status < 100 || status > 599 || strings.HasSuffix(before, ".") || len(after) > 1 && after[0] == '.' && after[1] >= '0' && after[1] <= '9' {
		return
	}
	phrase := http.StatusText(status)
	switch {
	case statusLine.MatchString(before):
		f.last = status
	case strings.HasSuffix(of, "status"), strings.HasSuffix(of, "code") && (of != "code" || status >= 400), statusBefore.MatchString(before),
		phrase != "" && len(after) > len(phrase) && strings.EqualFold(after[1:len(phrase)+1], phrase):
		f.statuses = append(f.statuses, status)
	}
}
