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
	"strconv"
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
	codeLike = regexp.MustCompile(`^[\w.-]+$`)
	clock    = regexp.MustCompile(`\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d`)
	fetched  = regexp.MustCompile(`oauth2: cannot fetch token: [1-5]\d\d|applebusiness: (?:no oauth error was received|"[^"]*") \(http`) // and no more
	request  = regexp.MustCompile(`(?i)(?:post|get) ["']?(?:https?:|\*\*\*)[^\s"']*["']?: ([^"\n]*)`)
	dialing  = regexp.MustCompile(`\b(?:dial|proxyconnect|socks connect) (?:tcp|udp)`)
	// notApples is what a failure of the network is about that is none on the way to Apple: databases, and those who connect to us.
	notApples = regexp.MustCompile(`http: (?:tls handshake error from|response\.write|panic serving)|accept tcp|listen tcp|dial unix|upstream|nginx|postgres|pgx|\bpq:|sql|redis|mongo|kafka|amqp|memcache|elastic|` +
		`cassandra|etcd|smtp|ldap|database|:(?:5432|6432|6379|3306|27017|9092|5672|11211|9200|9042|2379|25|389)\b`)
	notApplesHost = regexp.MustCompile(`(?://|lookup )(?:[\w.-]*\.)?(?:(appleid\.apple\.com)|((?:appstoreconnect|account|api-business|api-school|mdmenrollment)\.apple\.com)|(microsoftonline\.com|login\.(?:windows\.net|live\.com)|graph\.microsoft\.com)|(googleapis\.com|accounts\.google\.com)|` +
		`(amazonaws\.com|amazoncognito\.com|okta\.com|auth0\.com|github\.com|gitlab\.com|facebook\.com|salesforce\.com|slack\.com|stripe\.com|paypal\.com|linkedin\.com|hubapi\.com|intuit\.com|myshopify\.com|zoom\.us|dropboxapi\.com|atlassian\.com|discord\.com|twitter\.com|xero\.com|spotify\.com|yahoo\.com|yelp\.com|tiktok\.com))(?:[/:"'\s]|$)`)
	providers     = []string{"Sign in with Apple", "another API of Apple's", "Microsoft", "Google", "another provider"}
	notApplesText = regexp.MustCompile(`(appleid\.apple\.com)|(appstoreconnect)|(aadsts|aadb2c)|("status": ?"unauthenticated"|token has been expired or revoked)`)
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
	if f.isMention {
		if len(f.codes)+len(f.texts)+len(f.labels) > 0 {
			nothing = errMention
		}
		return found, nothing
	}
	if found = f.known(found); len(found) > 0 {
		return found, nothing
	}
	switch e, failed := f.otherwise(nothing == errCode), f.ofNetwork(); {
	case e != nil:
		found = f.add(found, e)
	case failed != nil:
		found = append(found, failed)
	case f.value != "" && f.isDescribed:
		found = f.add(found, f.response(unknown, ""))
	case nothing == errNothing && strings.Contains(f.lower, "access_token\""):
		nothing = errToken
	}
	return found, nothing
}

// add adds e to what was found, if it is another error.
func (f *facts) add(found []*failure, e *applebusiness.Error) []*failure {
	if slices.ContainsFunc(found, func(other *failure) bool { return other.Reason == e.Reason && other.Code == e.Code }) {
		return found
	}
	return append(found, f.finish(e))
}

// known adds the errors that texts, labels and codes tell, each of which may tell one of its own.
func (f *facts) known(found []*failure) []*failure {
	texts, codes, labels := f.texts, f.codes, f.labels
	if f.isForeign || f.isBody {
		texts = nil // another one's error, which may quote Apple's
	}
	if f.isBody || f.isForeign && f.value != "" {
		codes, labels = nil, nil
	}
	for _, text := range texts {
		e := f.fitting(text)
		isOfAnother := e.Code == "" && f.isDescribed && codeLike.MatchString(f.value)
		if !isOfAnother && !(isCommon(text.Reason) && (e.Code == "" || e.Reason == "")) {
			codes = slices.DeleteFunc(slices.Clone(codes), func(code applebusiness.Code) bool { return code == e.Code })
			found = f.add(found, e)
		}
	}
	for _, label := range labels {
		if len(found) == 0 || isDocumented(label) && !slices.ContainsFunc(found, func(other *failure) bool { return other.Reason == label }) {
			e := f.response(string(append(f.codes, "")[0]), "")
			e.Reason = label
			found = f.add(found, e)
		}
	}
	for _, code := range codes {
		if !slices.ContainsFunc(found, func(other *failure) bool {
			return other.Code == code || other.Code == "" || !isDocumented(other.Reason) && other.Reason != ""
		}) {
			found = f.add(found, f.response(string(code), ""))
		}
	}
	return found
}

// provider returns who else than Apple Business the record is about, "" if nobody is named.
func (f *facts) provider() string {
	if strings.Contains(f.lower, "business.apple.com") {
		return ""
	}
	for _, match := range append(ifAny(notApplesHost, f.lower, "//", "lookup "), ifAny(notApplesText, f.lower, "apple.com", "appstore", "aad", "unauthenticated", "revoked")...) {
		return providers[slices.IndexFunc(match[1:], func(group string) bool { return group != "" })]
	}
	return ""
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
	e := applebusiness.ParseTokenError(f.status(), header, bodyOf(code, description))
	if wait, err := time.ParseDuration(f.wait); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	return e
}

// otherwise returns an error that no code, text or label tells: one that nobody documented, or a response without any.
func (f *facts) otherwise(isCode bool) *applebusiness.Error {
	status, isFetched, isOwn, isLog := f.status(), f.is(fetched), f.endpoint != "", f.is(logAt)
	isResponse := f.shown != 0 || isFetched || isOwn && f.action != "" || f.isFramework && (!isLog || strings.Contains(f.lower, "oauth2/token")) || strings.Contains(f.lower, `"response":{`) && strings.Contains(f.lower, `"request":{`)
	if _, text, ok := strings.Cut(f.text, "oauth2: "); ok && !isFetched {
		if e, _ := errors.AsType[*applebusiness.Error](applebusiness.Wrap(errors.New("oauth2: " + text))); e != nil && e.Reason != "" {
			return e
		}
	}
	switch {
	case codeLike.MatchString(f.value) && (f.isDescribed || !isLog || isOwn), isOwn && (f.action != "" && status == 0 || f.is(otherCodeAt)):
		return f.response(cmp.Or(f.value, unknown), "")
	case f.isFramework && f.isDescribed && status == 0:
		return f.response(unknown, "")
	case isResponse && status != 0 && !(isCode || strings.Contains(f.lower, "access_token\"")) || isResponse && status >= 400:
		return f.response("", "")
	}
	return nil
}

// status returns the HTTP status of the response. One that passes wins, whatever stands beside it.
func (f *facts) status() (best int) {
	for _, status := range append([]int{f.shown}, f.statuses...) {
		isPassports := status == http.StatusInternalServerError && strings.Contains(f.text, "TokenError") // which gives it to each error
		if status >= 200 && !isPassports && (best == 0 || best < 400 && status >= 400 || neterr.StatusPasses(status) && !neterr.StatusPasses(best)) {
			best = status
		}
	}
	return best
}

// finish sets what the record says beside the error, and asks for advice.
func (f *facts) finish(e *applebusiness.Error) *failure {
	if e.Endpoint != applebusiness.AuthorizationEndpoint {
		if e.Endpoint = cmp.Or(f.endpoint, documentedEndpoint(e)); e.Endpoint == "" && f.text != "" && (e.Reason == applebusiness.ErrNoResponse || !strings.Contains(f.text, prefix)) {
			e.Endpoint = applebusiness.TokenEndpoint
		}
		if e.Endpoint != applebusiness.AuthorizationEndpoint {
			e.GrantType = f.grant
		}
	}
	failed := &failure{Error: e, advice: applebusiness.Troubleshoot(e)}
	if e.Reason == applebusiness.ErrNoResponse {
		failed.network = "a token request got no whole response"
		_, words, _ := strings.Cut(f.text, "no_response: ")
		if known, ok := neterr.OfWords(cmp.Or(words, detailAt.ReplaceAllString(f.text, "$1"))); ok {
			failed.network, failed.advice = known.Words, f.adviceOf(known)
		} else if f.endpoint != "" {
			failed.advice = applebusiness.Advice{} // the line says nothing because it knew nothing
		}
	}
	isDead := (e.Reason == applebusiness.ErrInvalidRefreshToken || e.Code == applebusiness.CodeInvalidGrant) && !neterr.StatusPasses(e.StatusCode) && e.GrantType != applebusiness.GrantTypeAuthorizationCode
	if f.action != "" && f.isOwn() && f.action != failed.advice.Action && (isDead || f.action != applebusiness.ActionReauthorize) {
		failed.advice = applebusiness.Advice{Action: f.action, Impact: f.impact, Remedy: "So says the line itself: the program that logged it knew the cause, which the line does not show."}
	}
	if failed.provider = f.provider(); failed.provider != "" {
		failed.Error, failed.network, failed.advice = new(applebusiness.Error), "", applebusiness.Advice{Remedy: "Look it up where that provider documents its errors: nothing in it is about Apple Business."}
	}
	return failed
}

var detailAt = regexp.MustCompile(`(?s).*detail` + sep + `(.*)`)

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
	if at := dialing.FindStringIndex(text); at != nil {
		text = text[at[0]:]
	}
	known := neterr.OfText(text)
	if !known.Known {
		return nil
	}
	failed := f.finish(new(applebusiness.Error))
	if failed.provider == "" {
		failed.Error, failed.network, failed.advice = new(applebusiness.Error), known.Words, f.adviceOf(known)
	}
	if sent == nil && !known.HTTP && failed.advice.Action != "" {
		failed.advice.Impact, failed.advice.Remedy = "", "If this was a request to Apple: "+failed.advice.Remedy
	}
	return failed
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	if strings.Contains(known.Words, "canceled") {
		return applebusiness.Advice{}
	}
	advice := applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known.Err()})
	if f.grant == applebusiness.GrantTypeAuthorizationCode && advice.Action == applebusiness.ActionRetry && !known.Unsent {
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
				return f.name() == other.name() && f.advice.Action == other.advice.Action && f.Code == other.Code
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
	if len(found) == 0 && len(records) == 1 && err == errNothing {
		if f := collect(input); len(f.statuses) > 0 && clientStatus.MatchString(f.text) {
			if err = errStatus; neterr.StatusPasses(f.status()) {
				found = []*failure{f.finish(f.response("", ""))}
			}
		}
	}
	if near := nearest(input); len(found) == 0 && near != nil && err == errNothing {
		found = []*failure{near}
	}
	if len(found) > 0 {
		err = nil
	}
	return found, err
}

// clientStatus is what HTTP clients say of a response of which they show nothing but the status. In a log it could be about
// any server, so it has to be all that somebody asks about.
var clientStatus = regexp.MustCompile(`(?i)(?:\bstatus(?:_?code| code)?|\bcode|\bwith status|\bhttp error|\bresponse code:|returned error:|does not indicate success:|resulted in a .|^\s*(?:http )?)["' =:]*[45][0-9]{2}\b|\b[45][0-9]{2} (?:client|server) error:`)

// typed returns what somebody means who gives nothing but a label, a constant, a code or a text of Apple's, or the body of an
// error of Apple's resource API or its sister services; nil for anything else.
func typed(input string) *failure {
	name := strings.TrimPrefix(strings.ToLower(strings.Trim(input, " \t\r\n\"'`.,;:()[]{}")), "applebusiness.")
	var members map[string]any
	_ = json.Unmarshal([]byte(strings.Trim(input, "[] \n")), &members)
	isDialect := members["message"] != nil || members["detail"] != nil
	if list, _ := members["errors"].([]any); len(list) > 0 {
		members, _ = list[0].(map[string]any)
		isDialect = members["code"] != nil
	}
	for name := range members {
		isDialect = isDialect && strings.Contains(" id status code title message detail details context source links meta target ", " "+name+" ")
	}
	e := &applebusiness.Error{Code: codeWords[name]}
	switch code, _ := members["code"].(string); {
	case e.Code != "":
	case labelWords[name] != "":
		e.Reason = labelWords[name]
	case isDialect && codeWords[code] == "" && errorName.MatchString(code):
		e = applebusiness.ParseTokenError(0, nil, []byte(`{"code":"","message":"m"}`))
	default:
		if e = applebusiness.ParseTokenError(0, nil, bodyOf("", name)); !isDocumented(e.Reason) {
			return nil
		}
	}
	return new(facts).finish(e)
}

var errorName = regexp.MustCompile(`^(?:[A-Za-z]+(?:[_. -][A-Za-z]+)*|[A-Z]{0,4}[-_]?[0-9]{1,6})$`)

// split returns the records of a paste: the lines that begin as those of a log do, and the entries of a list in JSON, each with
// what follows it.
func split(input string) (records []string) {
	input = entryAt.ReplaceAllString(input, "$1\n$2")
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

var (
	entryAt = regexp.MustCompile(`([\[,]\s*)(\{\s*"(?:_initiator|startedDateTime|pageref|request|time|level|ts|timestamp|@timestamp|severity|log|msg|message|lvl|@message|insertId|jsonPayload|textPayload|eventId)"|\[\{"field")`)
	logLine = regexp.MustCompile(`^(?:\S{0,24} *\| *)?[\[<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ]|time=|level=|ts=|\d{1,3}>|[A-Z][a-z]{2} [ \d]\d \d\d:|\{"(?:time|level|ts|timestamp|@timestamp|severity|log|msg|message|lvl)"|\{\s*"(?:_initiator|startedDateTime|pageref|request|@message|insertId|jsonPayload|textPayload|eventId)"|\[\{"field")`)
)

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
	x := explain(typed(best))
	return &failure{Error: new(applebusiness.Error), nearest: x.Constant + ", " + cmp.Or(x.Code, strconv.Quote(x.Reason.Description())), advice: applebusiness.Advice{Remedy: "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."}}
}

// similarity returns which part of the pairs of letters in two texts is the same.
func similarity(a, b string) float64 {
	pairs, all, same := make(map[string]int), 0, 0
	for i, text := range []string{a, b} {
		text = notLetters.ReplaceAllString(strings.ToLower(text), "")
		for j := 2; j <= len(text); j++ {
			pair := text[j-2 : j]
			if all++; i == 0 {
				pairs[pair]++
			} else if pairs[pair]--; pairs[pair] >= 0 {
				same++
			}
		}
	}
	return 2 * float64(same) / float64(max(all, 1))
}

var notLetters = regexp.MustCompile(`[^a-z0-9]+`)
