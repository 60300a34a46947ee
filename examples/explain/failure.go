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

var errNothing = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")

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
	// dialect begins an error of Apple's resource API or of its sister services, with its code.
	dialect = regexp.MustCompile(`^[\s\[]*\{\s*(?:"errors"\s*:\s*\[\s*\{\s*)?(?:"(?:id|status|title)"\s*:\s*"[^"]*"\s*,\s*)*"code"\s*:\s*"([A-Za-z]+(?:[_. -][A-Za-z]+)*|[A-Z]{0,4}[-_]?[0-9]{1,6})"\s*,\s*"(?:message|title|detail)"`)
	logLine = regexp.MustCompile(`^(?:\S{0,24} *\| *)?[\[<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ]|time=|level=|ts=|\d{1,3}>|[A-Z][a-z]{2} [ \d]\d \d\d:|\{\s*"(?:time|level|ts|timestamp|@timestamp|severity|log|msg|message|lvl|_initiator|startedDateTime|pageref|request|@message|insertId|jsonPayload|textPayload|eventId)"|\[\{"field")`)
	// notApples is what a failure of the network is about that is none on the way to Apple: databases, and those who connect to us.
	notApples = regexp.MustCompile(`http: (?:tls handshake error from|response\.write|panic serving)|accept tcp|listen tcp|dial unix|upstream|nginx|postgres|pgx|\bpq:|sql|redis|mongo|kafka|amqp|memcache|elastic|` +
		`cassandra|etcd|smtp|ldap|database|:(?:5432|6432|6379|3306|27017|9092|5672|11211|9200|9042|2379|25|389)\b`)
	// providers have errors of the same kind; providerMarks has a group for each.
	providers     = []string{"Sign in with Apple", "another API of Apple's", "Microsoft", "Google", "another provider"}
	providerMarks = regexp.MustCompile(`(appleid\.apple\.com)|(appstoreconnect|(?:account|api-business|api-school|mdmenrollment)\.apple\.com)|(microsoftonline\.com|login\.(?:windows\.net|live\.com)|graph\.microsoft\.com|aadsts|aadb2c)|` +
		`(googleapis\.com|accounts\.google\.com|"status": ?"unauthenticated"|token has been expired or revoked)|` +
		`((?://|lookup )(?:[\w.-]*\.)?(?:amazonaws|amazoncognito|okta|auth0|github|gitlab|facebook|salesforce|slack|stripe|paypal|linkedin|hubapi|intuit|myshopify|zoom|dropboxapi|atlassian|discord|twitter|xero|spotify|yahoo|yelp|tiktok)\.(?:com|us)\b)`)
)

const unknown = "undocumented" // stands for a code that nobody documented

// failures returns what the record tells of: of another provider no more than whose error it is.
func (f *facts) failures() []*failure {
	found := f.find()
	if len(found) == 0 || !containsAny(f.lower, ".com", ".net", ".us", "aad", "unauthenticated", "revoked") || strings.Contains(f.lower, "business.apple.com") {
		return found
	}
	if groups := providerMarks.FindStringSubmatch(f.lower); groups != nil {
		x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: "Look it up where that provider documents its errors: nothing in it is about Apple Business."})
		x.Provider = providers[slices.IndexFunc(groups[1:], func(group string) bool { return group != "" })]
		return []*failure{x}
	}
	return found
}

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
	} else if e := f.otherwise(isSuccess); e != nil {
		return f.add(nil, e)
	} else if x := f.ofNetwork(); x != nil {
		return []*failure{x}
	} else if f.value != "" && f.isDescribed {
		return f.add(nil, f.response(unknown, ""))
	}
	return nil
}

// isMention reports whether the record names errors and reports none: it counts or lists them, or tells of success.
func (f *facts) isMention() bool {
	start := f.text[:min(len(f.text), 120)]
	isReport := f.said["action"] != "" && f.isOwn() || f.isDescribed && !f.isForeign && !f.isQuoted && len(f.codes) > 0 && f.status >= 400
	level := slices.Index(strings.Fields(levels), f.said["level"]) // from 12 on of failures
	isInfo := (level >= 0 || infoAt.MatchString(start)) && level < 12 && !failingAt.MatchString(start) && !isReport
	isQuery := strings.Contains(f.lower, " where ") && containsAny(f.lower, "select ", "update ", "delete from ")
	return f.isList || isInfo || isQuery || mention.MatchString(f.lower) || containsAny(f.lower, "_total{", `"metric":`, `"__name__":`, "\n# help ")
}

// add adds e to what was found, unless that is another way to say it.
func (f *facts) add(found []*failure, e *applebusiness.Error) []*failure {
	if slices.ContainsFunc(found, func(other *failure) bool {
		if e.Reason != "" {
			return other.Reason == e.Reason
		}
		return other.Code == string(e.Code) || other.Code == "" || other.Reason != "" && !isDocumented(other.Reason)
	}) {
		return found
	}
	return append(found, f.finish(e))
}

// known adds the errors that texts, labels and codes tell, each of which may tell one of its own. A text belongs to the code for
// which Apple documents it, if that is there.
func (f *facts) known(found []*failure) []*failure {
	isForeign := f.isQuoted || f.isForeign && !containsAny(f.value, "oauth2: ", "applebusiness: ") && !strings.HasPrefix(f.value, "http/")
	if f.isBody || isForeign && f.value != "" { // another one's error, which may quote Apple's
		return found
	}
	first := append(f.codes, "")[0]
	for _, text := range f.texts {
		e := f.response(first, text.Description)
		if fit := slices.IndexFunc(f.codes, func(code applebusiness.Code) bool { return f.response(code, text.Description).Reason == text.Reason }); fit > 0 {
			e = f.response(f.codes[fit], text.Description)
		}
		isOfAnother := isForeign || e.Code == "" && f.isDescribed && codeLike.MatchString(f.value)
		if !isOfAnother && !(isCommon(text.Reason) && (e.Code == "" || e.Reason == "")) {
			found = f.add(found, e)
		}
	}
	for _, label := range f.labels {
		if len(found) == 0 || isDocumented(label) {
			e := f.response(first, "")
			e.Reason = label
			found = f.add(found, e)
		}
	}
	for _, code := range f.codes {
		if !slices.ContainsFunc(found, func(other *failure) bool { return other.Code == string(code) }) {
			found = f.add(found, f.response(code, ""))
		}
	}
	return found
}

// isOwn reports whether the record is one of package applebusiness, by its attributes.
func (f *facts) isOwn() bool {
	return f.said["endpoint"] != "" || f.said["impact"] != "" || len(f.labels) > 0
}

// response returns the error that a response with this code and text means.
func (f *facts) response(code applebusiness.Code, description string) *applebusiness.Error {
	body, _ := json.Marshal(map[string]string{"error": string(code), "error_description": description})
	header := http.Header{"Retry-After": {f.said["retryafter"]}}
	if strings.Contains(f.lower, "location: ") { // which tells a redirect from what an edge drops
		header.Set("Location", "/")
	}
	e := applebusiness.ParseTokenError(f.status, header, body)
	if wait, err := time.ParseDuration(f.said["retryafter"]); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	return e
}

// otherwise returns an error that no code, text or label tells: one that nobody documented, or a response without any.
func (f *facts) otherwise(isSuccess bool) *applebusiness.Error {
	isFetched, isOwn, isLog := fetched.MatchString(f.lower), f.said["endpoint"] != "", logAt.MatchString(f.lower)
	isRecorded := strings.Contains(f.lower, `"response":{`) && strings.Contains(f.lower, `"request":{`)
	isResponse := f.isShown || isFetched || isRecorded || isOwn && f.said["action"] != "" || f.isFramework && (!isLog || strings.Contains(f.lower, "oauth2/token"))
	switch {
	case codeLike.MatchString(f.value) && (f.isDescribed || !isLog || isOwn), isOwn && (f.said["action"] != "" && f.status == 0 || codeAt.MatchString(f.lower)), f.isFramework && f.isDescribed && f.status == 0:
		return f.response(applebusiness.Code(cmp.Or(f.value, unknown)), "")
	case isResponse && (f.status >= 400 || f.status != 0 && !isSuccess):
		return f.response("", "")
	}
	return nil
}

// finish sets what the record says beside the error, and asks for advice. What the record itself says to do wins, but for a
// reconnect that the error does not ask for.
func (f *facts) finish(e *applebusiness.Error) *failure {
	if e.Endpoint != applebusiness.AuthorizationEndpoint {
		e.GrantType, e.Endpoint = f.said["granttype"], cmp.Or(applebusiness.Endpoint(f.said["endpoint"]), documentedEndpoint(e))
		if e.Endpoint == "" && f.text != "" && !strings.Contains(f.text, "applebusiness: ") {
			e.Endpoint = applebusiness.TokenEndpoint
		}
	}
	network, advice := "", applebusiness.Troubleshoot(e)
	if e.Reason == applebusiness.ErrNoResponse {
		network = "a token request got no whole response"
		if known, ok := neterr.OfWords(detailAt.ReplaceAllString(f.text, "$1")); ok {
			network, advice = known.Words, f.adviceOf(known)
		} else if f.said["endpoint"] != "" {
			advice = applebusiness.Advice{} // the line says nothing because it knew nothing
		}
	}
	isDead := (e.Reason == applebusiness.ErrInvalidRefreshToken || e.Code == applebusiness.CodeInvalidGrant) && !neterr.StatusPasses(e.StatusCode) && e.GrantType != applebusiness.GrantTypeAuthorizationCode
	if action := applebusiness.Action(f.said["action"]); action != "" && f.isOwn() && action != advice.Action && (isDead || action != applebusiness.ActionReauthorize) {
		advice = applebusiness.Advice{Action: action, Impact: applebusiness.Impact(f.said["impact"]), Remedy: "So says the line itself: the program that logged it knew the cause, which the line does not show."}
	}
	return newFailure(e, network, advice)
}

// documentedEndpoint returns the endpoint that Apple documents an error for, if it is one only.
func documentedEndpoint(e *applebusiness.Error) (endpoint applebusiness.Endpoint) {
	for entry := range applebusiness.Catalog() {
		if entry.Reason == e.Reason && (entry.Code == e.Code || e.Code == "") || e.Reason == "" && entry.Code == e.Code {
			if endpoint != "" && endpoint != entry.Endpoint {
				return ""
			}
			endpoint = entry.Endpoint
		}
	}
	return endpoint
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
	return newFailure(new(applebusiness.Error), known.Words, f.adviceOf(known))
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	advice := applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known.Err()})
	if strings.Contains(known.Words, "canceled") { // by whoever sent it
		return applebusiness.Advice{}
	} else if f.said["granttype"] == applebusiness.GrantTypeAuthorizationCode && advice.Action == applebusiness.ActionRetry && !known.Unsent {
		return applebusiness.Troubleshoot(&applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.said["granttype"]})
	}
	return advice
}

// understand returns the different failures that a pasted text tells of. A record is a line that begins as those of a log do, with
// what follows it.
func understand(input string) (found []*failure, err error) {
	if input = strings.TrimSpace(strings.TrimPrefix(input, "\ufeff")); input == "" {
		return nil, errors.New("the input is empty")
	} else if x := typed(input); x != nil {
		return []*failure{x}, nil
	}
	var records []string
	for line := range strings.SplitAfterSeq(input, "\n") {
		if len(records) == 0 || logLine.MatchString(line) && !strings.Contains(line, "Response: ") {
			records = append(records, "")
		}
		records[len(records)-1] += line
	}
	isOther := false
	for _, record := range records {
		f := collect(record)
		more := f.failures()
		isOther = isOther || f.status != 0 || f.isList || f.isMention() && len(f.codes)+len(f.texts)+len(f.labels) > 0
		if len(more) == 0 && len(f.codes)+len(f.texts)+len(f.labels) == 0 && neterr.StatusPasses(f.status) && len(input) < 300 { // in a log it could be about any server
			more = f.add(nil, f.response("", ""))
		}
		for _, x := range more {
			if !slices.ContainsFunc(found, func(other *failure) bool {
				return x.Name == other.Name && x.Action == other.Action && x.Code == other.Code && x.Provider == other.Provider
			}) {
				found = append(found, x)
			}
		}
	}
	if len(found) == 0 && !isOther {
		found = nearest(input)
	}
	if len(found) == 0 {
		return nil, errNothing
	}
	return found, nil
}

// typed returns what somebody means who gives nothing but a label, a constant, a code or a text of Apple's, or the body of an
// error of Apple's resource API or its sister services; nil for anything else.
func typed(input string) *failure {
	name := strings.TrimPrefix(strings.ToLower(strings.Trim(input, " \t\r\n\"'`.,;:()[]{}")), "applebusiness.")
	e := &applebusiness.Error{Code: codeWords[name]}
	if e.Code == "" {
		e.Reason = labelWords[name]
	}
	if e.Code == "" && e.Reason == "" {
		e = new(facts).response("", name)
	}
	if code := dialect.FindStringSubmatch(input); code != nil && codeWords[code[1]] == "" {
		e = applebusiness.ParseTokenError(0, nil, []byte(`{"code":"","message":"m"}`))
	} else if e.Code == "" && labelWords[name] == "" && !isDocumented(e.Reason) {
		return nil
	}
	return new(facts).finish(e)
}

// nearest returns the row or the code that somebody nearly means who types a short text.
func nearest(input string) []*failure {
	names := slices.AppendSeq(slices.Collect(maps.Keys(codeWords)), maps.Keys(labelWords))
	for _, entry := range documented {
		names = append(names, entry.Description)
	}
	best := slices.MaxFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(similarity(input, a), similarity(input, b)), cmp.Compare(a, b))
	})
	if len(input) > 128 || strings.ContainsAny(input, "{}=\n") || similarity(input, best) <= 0.7 {
		return nil
	}
	x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."})
	row := typed(best)
	x.Nearest = cmp.Or(row.Constant, row.Code)
	return []*failure{x}
}

var notLetters = regexp.MustCompile(`[^a-z0-9]+`)

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
