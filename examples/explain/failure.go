package main

import (
	"cmp"
	"errors"
	"fmt"
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

const unknown = "undocumented" // stands for a code that nobody documented

var (
	// mention is a line of a test, of a list or of a metric.
	mention = regexp.MustCompile(`^\s*(?:=== |--- (?:pass|fail|skip)|ok\s|[-*] \S+\s*$|[\w:.]+(?:\{[^{}\n]*\})?` +
		`[ =:]\s?[\d.e+]+(?:\|\S*)?(?: \d+)?\s*$)`)
	infoAt    = regexp.MustCompile(`\b(?:INFO|DEBUG|TRACE|NOTICE)\b|^\s*I\d{4} \d\d:`)
	failingAt = regexp.MustCompile(`\b(?:ERR|WARN|FATAL|CRIT|SEVERE)`)
	logAt     = regexp.MustCompile(`\b(?:level|severity|lvl|loglevel|time|timestamp|ts|msg|logger|caller|stream|hostname|host)` + sep)
	codeAt    = regexp.MustCompile(`\bcode` + sep + `[a-z]+(?:_[a-z]+)*\b`)
	received  = regexp.MustCompile(`applebusiness: (?:no oauth error was received|"[^"]*") \(http`) // and no more
	codeLike  = regexp.MustCompile(`^[\w.-]+$`)
	phraseAt  = regexp.MustCompile(`\b(?:error|message|title|detail)` + sep + `([a-z -]+)"`)
	detailAt  = regexp.MustCompile(`(?s).*(?:detail` + sep + `|no_response: )(.*)`)
	request   = regexp.MustCompile(`(?i)(?:post|get) ["']?(?:https?:|\*\*\*)[^\s"']*["']?: ([^"\n]*)`)
	dialing   = regexp.MustCompile(`\b(?:dial|proxyconnect|socks connect) (?:tcp|udp).*`)
	// dialect begins an error of Apple's resource API or of its sister services, with its code.
	dialect = regexp.MustCompile(`^[\s\[]*\{\s*(?:"errors"\s*:\s*\[\s*\{\s*)?(?:"(?:id|status|title)"\s*:\s*"[^"]*"\s*,\s*)*` +
		`"code"\s*:\s*"([A-Za-z]+(?:[_. -][A-Za-z]+)*|[A-Z]{0,4}[-_]?[0-9]{1,6})"\s*,\s*"(?:message|title|detail)"`)
	logLine = regexp.MustCompile(`^(?:\S{0,24} *\| *)?[\[<]?(?:\d{4}[-/]\d\d[-/]\d\d[T ]|time=|level=|ts=|\d{1,3}>|` +
		`[A-Z][a-z]{2} [ \d]\d \d\d:|\{\s*"(?:time|level|ts|timestamp|@timestamp|severity|log|msg|message|lvl|_initiator|` +
		`startedDateTime|pageref|request|@message|insertId|jsonPayload|textPayload|eventId)"|\[\{"field")`)
	// notApples is what a failure of the network is about that is none on the way to Apple: databases, and those who connect to us.
	notApples = regexp.MustCompile(`(?:the store|options\.limit) failed|token was stored|` +
		`http: (?:tls handshake error from|response\.write|panic serving)|accept tcp|listen tcp|dial unix|` +
		`upstream|nginx|postgres|pgx|\bpq:|sql|redis|mongo|kafka|amqp|memcache|elastic|cassandra|etcd|smtp|ldap|database|` +
		`:(?:5432|6432|6379|3306|27017|9092|5672|11211|9200|9042|2379|25|389)\b`)
)

// providers have errors of the same kind, which these marks tell.
var providers = []struct {
	name string
	mark *regexp.Regexp
}{
	{"Sign in with Apple", regexp.MustCompile(`appleid\.apple\.com`)},
	{"another API of Apple's", regexp.MustCompile(`appstoreconnect|(?:account|api-business|api-school|mdmenrollment)\.apple\.com`)},
	{"Microsoft", regexp.MustCompile(`microsoftonline\.com|login\.(?:windows\.net|live\.com)|graph\.microsoft\.com|aadsts|aadb2c`)},
	{"Google", regexp.MustCompile(`googleapis\.com|accounts\.google\.com|"status": ?"unauthenticated"|token has been expired or revoked`)},
	{"another provider", regexp.MustCompile(`(?://|lookup )(?:[\w.-]*\.)?(?:amazonaws|amazoncognito|okta|auth0|github|gitlab|` +
		`facebook|salesforce|slack|stripe|paypal|linkedin|hubapi|intuit|myshopify|zoom|dropboxapi|atlassian|discord|twitter|` +
		`xero|spotify|yahoo|yelp|tiktok)\.(?:com|us)\b`)},
}

// failures returns what the record tells of: of another provider no more than whose error it is.
func (f *facts) failures() []*failure {
	found := f.find()
	mayBe := containsAny(f.lower, ".com", ".net", ".us", "aad", "unauthenticated", "revoked")
	isApples := strings.Contains(f.lower, "business.apple.com")
	for _, provider := range providers {
		if len(found) > 0 && mayBe && !isApples && provider.mark.MatchString(f.lower) {
			return []*failure{{
				Name: unknown, Provider: provider.name, Causes: []cause{},
				Remedy: "Look it up where that provider documents its errors: nothing in it is about Apple Business.",
			}}
		}
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
	}
	isOwn, isLog := f.said["endpoint"] != "", logAt.MatchString(f.lower)
	isRecorded := strings.Contains(f.lower, `"response":{`) && strings.Contains(f.lower, `"request":{`)
	isStatus := neterr.StatusOf(f.value) != 0 // as frameworks have it
	isPage := isStatus && (!isLog || strings.Contains(f.lower, "oauth2/token"))
	isResponse := f.isAnswer || received.MatchString(f.lower) || isRecorded || isPage || isOwn && f.said["action"] != ""
	isCode := !isStatus && codeLike.MatchString(f.value) && (f.isDescribed || !isLog || isOwn) || isOwn && codeAt.MatchString(f.lower)
	switch {
	case isCode && !isStatus:
		return f.add(nil, f.response(applebusiness.Code(cmp.Or(f.value, unknown)), ""))
	case isCode || isStatus && f.isDescribed && f.status == 0:
		return f.add(nil, f.response(unknown, ""))
	case isResponse && (f.status >= 400 || f.status != 0 && !isSuccess):
		return f.add(nil, f.response("", ""))
	}
	if network := f.ofNetwork(); network.Known {
		return []*failure{newFailure(new(applebusiness.Error), network.Words, f.adviceOf(network))}
	} else if f.value != "" && f.isDescribed {
		return f.add(nil, f.response(unknown, ""))
	}
	return nil
}

// isMention reports whether the record names errors and reports none: it counts or lists them, or tells of success.
func (f *facts) isMention() bool {
	start, level := f.text[:min(len(f.text), 120)], slices.Index(levels, f.said["level"])
	isReport := f.said["action"] != "" && f.isOwn() || f.isDescribed && !f.isForeign && len(f.codes) > 0 && f.status >= 400
	isQuery := strings.Contains(f.lower, " where ") && containsAny(f.lower, "select ", "update ", "delete from ")
	return f.isList || isQuery || mention.MatchString(f.lower) || containsAny(f.lower, "_total{", `"metric":`, `"__name__":`, "\n# help ") ||
		!isReport && level < 12 && (level >= 0 || infoAt.MatchString(start)) && !failingAt.MatchString(start)
}

// isOwn reports whether the record is one of package applebusiness, by its attributes.
func (f *facts) isOwn() bool {
	return f.said["endpoint"] != "" || f.said["impact"] != "" || len(f.labels) > 0
}

// known adds the errors that texts, labels and codes tell, each of which may tell one of its own.
func (f *facts) known(found []*failure) []*failure {
	isForeign := f.isForeign && !containsAny(f.value, "oauth2: ", "applebusiness: ") && !strings.HasPrefix(f.value, "http/")
	if f.isBody || isForeign && f.value != "" { // another one's error, which may quote Apple's
		return found
	}
	first := append(f.codes, "")[0]
	for _, text := range f.texts {
		e := f.response(first, text)
		if !isForeign && (e.Code != "" || e.Reason.Description() != "" && !(f.isDescribed && f.value != "")) {
			found = f.add(found, e)
		}
	}
	for _, label := range f.labels {
		isFound := slices.ContainsFunc(found, func(x *failure) bool { return x.Reason == label })
		if len(found) == 0 || label.Description() != "" && !isFound {
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

// response returns the error that a response with this code and text means.
func (f *facts) response(code applebusiness.Code, description string) *applebusiness.Error {
	body := fmt.Appendf(nil, `{"error":%q,"error_description":%q}`, string(code), description)
	header := http.Header{"Retry-After": {f.said["retry_after"]}}
	if strings.Contains(f.lower, "location: ") { // which tells a redirect from what an edge drops
		header.Set("Location", "/")
	}
	e := applebusiness.ParseTokenError(f.status, header, body)
	if wait, err := time.ParseDuration(f.said["retry_after"]); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	return e
}

// add adds e to what was found, unless that is another way to say it. What the record says beside the error counts: its own action
// wins, but for a reconnect that the error does not ask for.
func (f *facts) add(found []*failure, e *applebusiness.Error) []*failure {
	for _, x := range found {
		isLess := x.Code == string(e.Code) || x.Code == "" || x.Reason != "" && !x.Documented
		if e.Reason != "" && x.Reason == e.Reason || e.Reason == "" && isLess {
			return found
		}
	}
	if e.Endpoint != applebusiness.AuthorizationEndpoint {
		e.GrantType, e.Endpoint = f.said["grant_type"], cmp.Or(applebusiness.Endpoint(f.said["endpoint"]), documentedEndpoint(e))
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
	isGrant := e.Reason == applebusiness.ErrInvalidRefreshToken || e.Code == applebusiness.CodeInvalidGrant
	isDead := isGrant && !neterr.StatusPasses(e.StatusCode) && e.GrantType != applebusiness.GrantTypeAuthorizationCode
	action := applebusiness.Action(f.said["action"])
	if action != "" && action != advice.Action && f.isOwn() && (isDead || action != applebusiness.ActionReauthorize) {
		advice = applebusiness.Advice{Action: action, Impact: applebusiness.Impact(f.said["impact"])}
		advice.Remedy = "So says the line itself: the program that logged it knew the cause, which the line does not show."
	}
	return append(found, newFailure(e, network, advice))
}

// documentedEndpoint returns the endpoint that Apple documents an error for, if it is one only.
func documentedEndpoint(e *applebusiness.Error) (endpoint applebusiness.Endpoint) {
	for entry := range applebusiness.Catalog() {
		isIt := entry.Reason == e.Reason && (entry.Code == e.Code || e.Code == "") || e.Reason == "" && entry.Code == e.Code
		if isIt && endpoint != "" && endpoint != entry.Endpoint {
			return ""
		} else if isIt {
			endpoint = entry.Endpoint
		}
	}
	return endpoint
}

// ofNetwork returns the failure of the network that the record tells of, a request that got no whole response.
func (f *facts) ofNetwork() neterr.Failure {
	text, isRequest := strings.TrimSpace(f.text), false
	if sent := request.FindStringSubmatch(text); sent != nil {
		text, isRequest = strings.TrimSpace(sent[1]), true
	}
	isEnd := strings.HasSuffix(text, "EOF") && !strings.HasSuffix(text, "unexpected EOF") // of any file
	if !isRequest && (isEnd || notApples.MatchString(f.lower)) {
		return neterr.Failure{}
	}
	return neterr.OfText(cmp.Or(dialing.FindString(text), text))
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	advice := applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known})
	if strings.Contains(known.Words, "canceled") { // by whoever sent it
		return applebusiness.Advice{}
	} else if advice.Action == applebusiness.ActionRetry && !known.Unsent {
		e := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.said["grant_type"]}
		return applebusiness.Troubleshoot(e)
	}
	return advice
}

// understand returns the different failures that a pasted text tells of. A record is a line that begins as those of a log do, with
// what follows it.
func understand(input string) (found []*failure, err error) {
	input = strings.TrimSpace(strings.TrimPrefix(input, "\ufeff"))
	if input == "" {
		return nil, errors.New("the input is empty")
	}
	if x := typed(input); x != nil {
		return []*failure{x}, nil
	}
	records := []string{""}
	for line := range strings.SplitAfterSeq(input, "\n") {
		if logLine.MatchString(line) && !strings.Contains(line, "Response: ") {
			records = append(records, "")
		}
		records[len(records)-1] += line
	}
	seen, isOther := make(map[string]bool), false
	for _, record := range records {
		f := collect(record)
		more, names := f.failures(), len(f.codes)+len(f.labels)
		phrase := neterr.StatusOf(append(phraseAt.FindStringSubmatch(f.lower), "", "")[1])
		f.addStatus(phrase, false)
		isBare := phrase != 0 && !logAt.MatchString(f.lower) || neterr.StatusPasses(f.status) ||
			f.status == http.StatusNetworkAuthenticationRequired
		if len(more) == 0 && names == 0 && isBare && len(input) < 300 { // in a log it could be about any server
			more = f.add(nil, f.response("", ""))
		}
		for _, x := range more {
			if kind := x.Name + string(x.Action) + x.Code + x.Provider; !seen[kind] {
				seen[kind], found = true, append(found, x)
			}
		}
		isOther = isOther || f.status != 0 || f.isList || names+len(f.texts) > 0 && f.isMention()
	}
	if len(found) == 0 && !isOther {
		found = nearest(input)
	}
	if len(found) == 0 {
		err = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	}
	return found, err
}

// typed returns what somebody means who gives nothing but a label, a constant, a code or a text of Apple's, or the body of an
// error of Apple's resource API or its sister services; nil for anything else.
func typed(input string) *failure {
	name := strings.TrimPrefix(strings.ToLower(strings.Trim(input, " \t\r\n\"'`.,;:()[]{}")), "applebusiness.")
	e, none := &applebusiness.Error{Code: codeWords[name]}, new(facts)
	if e.Code == "" {
		e.Reason = labelWords[name]
	}
	if code := dialect.FindStringSubmatch(input); code != nil && codeWords[code[1]] == "" {
		e = applebusiness.ParseTokenError(0, nil, []byte(`{"code":"","message":"m"}`))
	} else if e.Code == "" && e.Reason == "" {
		if e = none.response("", name); e.Reason.Description() == "" {
			return nil
		}
	}
	return none.add(nil, e)[0]
}

// nearest returns the row or the code that somebody nearly means who types a short text; nil if there is none.
func nearest(input string) []*failure {
	if len(input) > 128 || strings.ContainsAny(input, "{}=\n") {
		return nil
	}
	best := slices.MaxFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(similarity(input, a), similarity(input, b)), cmp.Compare(a, b))
	})
	if similarity(input, best) <= 0.7 {
		return nil
	}
	x := typed(best)
	return []*failure{{
		Name: unknown, Nearest: cmp.Or(x.Constant, x.Code), Causes: []cause{},
		Remedy: "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's.",
	}}
}

var (
	names      = slices.Concat(documented, slices.Collect(maps.Keys(codeWords)), slices.Collect(maps.Keys(labelWords)))
	notLetters = regexp.MustCompile(`[^a-z0-9]+`)
)

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
