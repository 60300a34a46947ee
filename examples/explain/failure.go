package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// The inputs that hold no failure. None of these texts quotes the input.
var (
	errEmpty   = errors.New("the input is empty")
	errNothing = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	errStatus  = errors.New("this says nothing but a status: what it means is said in the body of the response")
	errToken   = errors.New("this is a success, an access token: there is nothing to explain")
	errCode    = errors.New("this is a success, an authorization code: there is nothing to explain")
	errMention = errors.New("this names an error and reports none: give the name alone to have it explained")
)

var (
	mention   = regexp.MustCompile(`^\s*(?:=== |--- (?:pass|fail|skip)|ok\s|[-*] \S+\s*$|[\w:.]+(?:\{[^{}\n]*\})?[ =:]\s?[\d.e+]+(?:\|\S*)?(?: \d+)?\s*$)`)
	infoAt    = regexp.MustCompile(`\b(?:INFO|DEBUG|TRACE|NOTICE)\b|^\s*I\d{4} \d\d:`)
	failingAt = regexp.MustCompile(`\b(?:ERR|WARN|FATAL|CRIT|SEVERE)`)
	logAt     = regexp.MustCompile(`\b(?:level|severity|lvl|loglevel|time|timestamp|ts|msg|logger|caller|stream|hostname|host)` + sep)
	codeAt    = regexp.MustCompile(`\bcode` + sep + `[a-z]+(?:_[a-z]+)*\b`)
	codeLike  = regexp.MustCompile(`^[\w.-]+$`)
	fetched   = regexp.MustCompile(`oauth2: cannot fetch token: [1-5]\d\d|applebusiness: (?:no oauth error was received|"[^"]*") \(http`) // and no more
	detailAt  = regexp.MustCompile(`(?s).*(?:detail` + sep + `|no_response: )(.*)`)
	request   = regexp.MustCompile(`(?i)(?:post|get) ["']?(?:https?:|\*\*\*)[^\s"']*["']?: ([^"\n]*)`)
	dialing   = regexp.MustCompile(`\b(?:dial|proxyconnect|socks connect) (?:tcp|udp).*`)
	// notApples is what a failure of the network is about that is none on the way to Apple: databases, and those who connect to us.
	notApples = regexp.MustCompile(`http: (?:tls handshake error from|response\.write|panic serving)|accept tcp|listen tcp|dial unix|upstream|nginx|postgres|pgx|\bpq:|sql|redis|mongo|kafka|amqp|memcache|elastic|` +
		`cassandra|etcd|smtp|ldap|database|:(?:5432|6432|6379|3306|27017|9092|5672|11211|9200|9042|2379|25|389)\b`)
)

// providers are those who have errors of the same kind, in the order of the groups of providersMarks.
var (
	providers      = []string{"Sign in with Apple", "another API of Apple's", "Microsoft", "Google", "another provider"}
	providersMarks = regexp.MustCompile(`(appleid\.apple\.com)|(appstoreconnect|(?:account|api-business|api-school|mdmenrollment)\.apple\.com)|(microsoftonline\.com|login\.(?:windows\.net|live\.com)|graph\.microsoft\.com|aadsts|aadb2c)|` +
		`(googleapis\.com|accounts\.google\.com|"status": ?"unauthenticated"|token has been expired or revoked)|` +
		`((?://|lookup )(?:[\w.-]*\.)?(?:amazonaws|amazoncognito|okta|auth0|github|gitlab|facebook|salesforce|slack|stripe|paypal|linkedin|hubapi|intuit|myshopify|zoom|dropboxapi|atlassian|discord|twitter|xero|spotify|yahoo|yelp|tiktok)\.(?:com|us)\b)`)
)

const unknown = "undocumented" // stands for a code that nobody documented

// bodyOf returns the body of a response of the token endpoint.
func bodyOf(code, description string) []byte {
	body, _ := json.Marshal(map[string]string{"error": code, "error_description": description})
	return body
}

// failures returns what the record tells of. The error says why there is nothing.
func (f *facts) failures() (found []*failure, nothing error) {
	nothing = errNothing
	for _, query := range f.redirects {
		_, err := applebusiness.ParseRedirect(query)
		if e, ok := errors.AsType[*applebusiness.Error](err); ok {
			found = f.add(found, e)
		} else {
			nothing = errCode
		}
	}
	if f.isMention() {
		if len(f.codes)+len(f.texts)+len(f.labels) > 0 {
			nothing = errMention
		}
		return found, nothing
	}
	if found = f.known(found); len(found) > 0 {
		return found, nothing
	}
	isToken := strings.Contains(f.lower, `access_token"`)
	switch e, failed := f.otherwise(isToken || nothing == errCode), f.ofNetwork(); {
	case e != nil:
		found = f.add(found, e)
	case failed != nil:
		found = append(found, failed)
	case f.value != "" && f.isDescribed:
		found = f.add(found, f.response(unknown, ""))
	case nothing == errNothing && isToken:
		nothing = errToken
	}
	return found, nothing
}

// isMention reports whether the record names errors and reports none: it counts or lists them, or tells of success.
func (f *facts) isMention() bool {
	start := f.text[:min(len(f.text), 120)]
	isReport := f.action != "" && f.isOwn() || f.isDescribed && !f.isForeign && len(f.codes) > 0 && f.status >= 400
	isQuery := strings.Contains(f.lower, " where ") && containsAny(f.lower, "select ", "update ", "delete from ")
	return f.isList || isQuery || mention.MatchString(f.lower) || containsAny(f.lower, "_total{", `"metric":`, `"__name__":`, "\n# help ") || (f.isInfo || infoAt.MatchString(start)) && !f.isFailing && !failingAt.MatchString(start) && !isReport
}

// add adds e to what was found, unless that is another way to say it.
func (f *facts) add(found []*failure, e *applebusiness.Error) []*failure {
	if slices.ContainsFunc(found, func(other *failure) bool {
		return other.Reason == e.Reason && other.Code == string(e.Code) || e.Reason == "" && (other.Code == string(e.Code) || other.Code == "" || other.Reason != "" && !isDocumented(other.Reason))
	}) {
		return found
	}
	return append(found, f.finish(e))
}

// known adds the errors that texts, labels and codes tell, each of which may tell one of its own.
func (f *facts) known(found []*failure) []*failure {
	isForeign := f.isForeign && !containsAny(f.value, "oauth2: ", "applebusiness: ", "http/")
	if f.isBody || isForeign && f.value != "" { // another one's error, which may quote Apple's
		return found
	}
	for _, text := range f.texts {
		e := f.fitting(text)
		isOfAnother := isForeign || e.Code == "" && f.isDescribed && codeLike.MatchString(f.value)
		if !isOfAnother && !(isCommon(text.Reason) && (e.Code == "" || e.Reason == "")) {
			found = f.add(found, e)
		}
	}
	for _, label := range f.labels {
		if len(found) == 0 || isDocumented(label) && !slices.ContainsFunc(found, func(other *failure) bool { return other.Reason == label }) {
			e := f.response(string(append(f.codes, "")[0]), "")
			e.Reason = label
			found = f.add(found, e)
		}
	}
	for _, code := range f.codes {
		if !slices.ContainsFunc(found, func(other *failure) bool { return other.Code == string(code) }) {
			found = f.add(found, f.response(string(code), ""))
		}
	}
	return found
}

// isOwn reports whether the record is one of package applebusiness, by its attributes.
func (f *facts) isOwn() bool { return f.endpoint != "" || f.impact != "" || len(f.labels) > 0 }

// fitting returns the error of a text and the code that it came with: the one that Apple documents for it, if it is there.
func (f *facts) fitting(text applebusiness.Entry) *applebusiness.Error {
	for _, code := range f.codes {
		if e := f.response(string(code), text.Description); e.Reason == text.Reason {
			return e
		}
	}
	return f.response(string(append(f.codes, "")[0]), text.Description)
}

// response returns the error that a response with this code and text means.
func (f *facts) response(code, description string) *applebusiness.Error {
	header := http.Header{"Retry-After": {f.wait}}
	if strings.Contains(f.lower, "location: ") {
		header.Set("Location", "/")
	}
	e := applebusiness.ParseTokenError(f.status, header, bodyOf(code, description))
	if wait, err := time.ParseDuration(f.wait); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	return e
}

// otherwise returns an error that no code, text or label tells: one that nobody documented, or a response without any.
func (f *facts) otherwise(isSuccess bool) *applebusiness.Error {
	isFetched, isOwn, isLog := fetched.MatchString(f.lower), f.endpoint != "", logAt.MatchString(f.lower)
	isResponse := f.isShown || isFetched || isOwn && f.action != "" || f.isFramework && (!isLog || strings.Contains(f.lower, "oauth2/token")) || strings.Contains(f.lower, `"response":{`) && strings.Contains(f.lower, `"request":{`)
	if _, text, ok := strings.Cut(f.text, "oauth2: "); ok && !isFetched {
		if e, _ := errors.AsType[*applebusiness.Error](applebusiness.Wrap(errors.New("oauth2: " + text))); e != nil && e.Reason != "" {
			return e
		}
	}
	switch {
	case codeLike.MatchString(f.value) && (f.isDescribed || !isLog || isOwn), isOwn && (f.action != "" && f.status == 0 || codeAt.MatchString(f.lower)), f.isFramework && f.isDescribed && f.status == 0:
		return f.response(cmp.Or(f.value, unknown), "")
	case isResponse && (f.status >= 400 || f.status != 0 && !isSuccess):
		return f.response("", "")
	}
	return nil
}

// finish sets what the record says beside the error, and asks for advice.
func (f *facts) finish(e *applebusiness.Error) *failure {
	if e.Endpoint != applebusiness.AuthorizationEndpoint {
		e.GrantType = f.grant
		if e.Endpoint = cmp.Or(f.endpoint, documentedEndpoint(e)); e.Endpoint == "" && f.text != "" && !strings.Contains(f.text, "applebusiness: ") {
			e.Endpoint = applebusiness.TokenEndpoint
		}
	}
	if containsAny(f.lower, ".com", ".net", ".us", "aad", "unauthenticated", "revoked") && !strings.Contains(f.lower, "business.apple.com") {
		if groups := providersMarks.FindStringSubmatch(f.lower); groups != nil {
			x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: "Look it up where that provider documents its errors: nothing in it is about Apple Business."})
			x.Provider = providers[slices.IndexFunc(groups[1:], func(group string) bool { return group != "" })]
			return x
		}
	}
	network, advice := "", applebusiness.Troubleshoot(e)
	if e.Reason == applebusiness.ErrNoResponse {
		network = "a token request got no whole response"
		if known, ok := neterr.OfWords(detailAt.ReplaceAllString(f.text, "$1")); ok {
			network, advice = known.Words, f.adviceOf(known)
		} else if f.endpoint != "" {
			advice = applebusiness.Advice{} // the line says nothing because it knew nothing
		}
	}
	isDead := (e.Reason == applebusiness.ErrInvalidRefreshToken || e.Code == applebusiness.CodeInvalidGrant) && !neterr.StatusPasses(e.StatusCode) && e.GrantType != applebusiness.GrantTypeAuthorizationCode
	if f.action != "" && f.isOwn() && f.action != advice.Action && (isDead || f.action != applebusiness.ActionReauthorize) {
		advice = applebusiness.Advice{Action: f.action, Impact: f.impact, Remedy: "So says the line itself: the program that logged it knew the cause, which the line does not show."}
	}
	return newFailure(e, network, advice)
}

// documentedEndpoint returns the endpoint that Apple documents an error for, if it does.
func documentedEndpoint(e *applebusiness.Error) applebusiness.Endpoint {
	for entry := range applebusiness.Catalog() {
		if entry.Reason == e.Reason && (entry.Code == e.Code || e.Code == "") {
			return entry.Endpoint
		}
	}
	return ""
}

// ofNetwork returns the failure of the network that the record tells of: a request that got no whole response. Nil if there is none.
func (f *facts) ofNetwork() *failure {
	text, sent := strings.TrimSpace(f.text), request.FindStringSubmatch(f.text)
	if sent != nil {
		text = strings.TrimSpace(sent[1])
	} else if notApples.MatchString(f.lower) || strings.HasSuffix(text, "EOF") && !strings.HasSuffix(text, "unexpected EOF") { // the end of any file
		return nil
	}
	known := neterr.OfText(cmp.Or(dialing.FindString(text), text))
	if !known.Known {
		return nil
	}
	advice := f.adviceOf(known)
	if sent == nil && !known.HTTP && advice.Action != "" {
		advice.Impact, advice.Remedy = "", "If this was a request to Apple: "+advice.Remedy
	}
	if x := f.finish(new(applebusiness.Error)); x.Provider != "" {
		return x
	}
	return newFailure(new(applebusiness.Error), known.Words, advice)
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	advice := applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known.Err()})
	if strings.Contains(known.Words, "canceled") {
		return applebusiness.Advice{}
	} else if f.grant == applebusiness.GrantTypeAuthorizationCode && advice.Action == applebusiness.ActionRetry && !known.Unsent {
		advice = applebusiness.Troubleshoot(&applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.grant})
	}
	return advice
}

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
				return f.Name == other.Name && f.Action == other.Action && f.Code == other.Code && f.Provider == other.Provider
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
	if len(found) > 0 || err != errNothing {
		return found, nil1(found, err)
	}
	if f := collect(input); len(records) == 1 && f.status >= 400 && len(input) < 300 { // in a log it could be about any server
		if neterr.StatusPasses(f.status) {
			return []*failure{f.finish(f.response("", ""))}, nil
		}
		return nil, errStatus
	}
	if near := nearest(input); near != nil {
		return []*failure{near}, nil
	}
	return nil, err
}

func nil1(found []*failure, err error) error {
	if len(found) > 0 {
		return nil
	}
	return err
}

// typed returns what somebody means who gives nothing but a label, a constant, a code or a text of Apple's, or the body of an
// error of Apple's resource API or its sister services; nil for anything else.
func typed(input string) *failure {
	name := strings.TrimPrefix(strings.ToLower(strings.Trim(input, " \t\r\n\"'`.,;:()[]{}")), "applebusiness.")
	e := &applebusiness.Error{Code: codeWords[name], Reason: labelWords[name]}
	if e.Code != "" {
		e.Reason = ""
	} else if e.Reason == "" {
		if e = applebusiness.ParseTokenError(0, nil, bodyOf("", name)); !isDocumented(e.Reason) {
			if !isDialect(input) {
				return nil
			}
			e = applebusiness.ParseTokenError(0, nil, []byte(`{"code":"","message":"m"}`))
		}
	}
	return new(facts).finish(e)
}

// dialect is an error of Apple's resource API or of its sister services.
type dialect struct {
	ID, Status, Title, Message, Detail, Details, Context, Source, Links, Meta any
	Code                                                                      string
	Errors                                                                    []dialect
}

func isDialect(input string) bool {
	var body dialect
	decoder := json.NewDecoder(strings.NewReader(strings.Trim(input, "[] \n")))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&body) != nil {
		return false
	}
	isIn := len(body.Errors) > 0
	body = append(body.Errors, body)[0]
	return (isIn || body.Message != nil || body.Detail != nil) && codeWords[body.Code] == "" && errorName.MatchString(body.Code)
}

var errorName = regexp.MustCompile(`^(?:[A-Za-z]+(?:[_. -][A-Za-z]+)*|[A-Z]{0,4}[-_]?[0-9]{1,6})$`)

// split returns the records of a paste: the lines that begin as those of a log do, each with what follows it.
func split(input string) (records []string) {
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

var logLine = regexp.MustCompile(`^(?:\S{0,24} *\| *)?[\[<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ]|time=|level=|ts=|\d{1,3}>|[A-Z][a-z]{2} [ \d]\d \d\d:|\{\s*"(?:time|level|ts|timestamp|@timestamp|severity|log|msg|message|lvl|_initiator|startedDateTime|pageref|request|@message|insertId|jsonPayload|textPayload|eventId)"|\[\{"field")`)

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
	x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."})
	row := typed(best)
	x.Nearest = cmp.Or(row.Constant, row.Code)
	return x
}

// similarity returns which part of the pairs of letters in two texts is the same.
func similarity(a, b string) float64 {
	a, b = notLetters.ReplaceAllString(strings.ToLower(a), ""), notLetters.ReplaceAllString(strings.ToLower(b), "")
	same := 0
	for i := range max(len(a)-1, 0) {
		if strings.Contains(b, a[i:i+2]) {
			same++
		}
	}
	return 2 * float64(same) / float64(max(len(a)+len(b)-2, 1))
}

var notLetters = regexp.MustCompile(`[^a-z0-9]+`)
