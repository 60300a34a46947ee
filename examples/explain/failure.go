package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// failure is what a record tells of: an OAuth error, a failure of the network, or something that is not Apple's. Nothing in
// it came from outside but what is Apple's or ours.
type failure struct {
	*applebusiness.Error
	advice   applebusiness.Advice
	network  string // what failed in the network
	provider string // whose error it is, if not Apple's
	nearest  string // the row that somebody who typed a text nearly meant
}

// The inputs that hold no failure. None of these texts quotes the input.
var (
	errEmpty   = errors.New("the input is empty")
	errNothing = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	errStatus  = errors.New("this says nothing but a status: what it means is said in the body of the response")
	errToken   = errors.New("this is a success, an access token: there is nothing to explain")
	errCode    = errors.New("this is a success, an authorization code: there is nothing to explain")
	errMention = errors.New("this names an error and reports none: give the name alone to have it explained")
)

const unknownCode = "undocumented" // stands for a code that nobody documented, and is not shown

// body returns the body of a response of the token endpoint.
func body(code, description string) []byte {
	body, _ := json.Marshal(map[string]string{"error": code, "error_description": description})
	return body
}

// failures returns what the record tells of. The error says why there is nothing.
func (f *facts) failures() ([]*failure, error) {
	found, err := f.ownFailures()
	if name := f.provider(); len(found) > 0 && name != "" {
		found = []*failure{{Error: new(applebusiness.Error), provider: name, advice: applebusiness.Advice{Remedy: "Look it up where that provider documents its errors: nothing in it is about Apple Business."}}}
	}
	return found, err
}

func (f *facts) ownFailures() (found []*failure, nothing error) {
	has := func(same func(other *failure) bool) bool { return slices.ContainsFunc(found, same) }
	add := func(e *applebusiness.Error) {
		if !has(func(other *failure) bool { return other.Reason == e.Reason && other.Code == e.Code }) {
			found = append(found, f.finish(e))
		}
	}
	nothing = errNothing
	for _, query := range f.redirects {
		_, err := applebusiness.ParseRedirect(query)
		if e, ok := errors.AsType[*applebusiness.Error](err); ok {
			add(e)
		} else {
			f.isSuccess, nothing = true, errCode
		}
	}
	if f.isMention {
		if len(f.codes)+len(f.texts)+len(f.labels) > 0 {
			nothing = errMention
		}
		return found, nothing
	}
	if f.isForeign || f.isOtherBody {
		f.texts = nil // another one's error, which may quote Apple's
	}
	if f.isOtherBody || f.isForeign && (f.isUnknown || f.isOther) {
		f.codes, f.labels = nil, nil
	}
	codes := slices.Clone(f.codes)
	for _, text := range f.texts {
		e := f.fitting(text)
		if isOfAnother := e.Code == "" && f.isUnknown && f.isDescribed; !isOfAnother && (e.Reason != "" || !isCommon(text.Reason)) {
			codes = slices.DeleteFunc(codes, func(code applebusiness.Code) bool { return code == e.Code })
			add(e)
		}
	}
	for _, label := range f.labels {
		if !has(func(other *failure) bool { return other.Reason == label }) && (len(found) == 0 || isDocumented(label)) {
			e := f.response(string(append(f.codes, "")[0]), "")
			e.Reason = label
			add(e)
		}
	}
	for _, code := range codes {
		if !has(func(other *failure) bool {
			return other.Code == code || other.Code == "" || !isDocumented(other.Reason) && other.Reason != ""
		}) {
			add(f.response(string(code), ""))
		}
	}
	if len(found) > 0 {
		return found, nothing
	}
	switch e, failed := f.otherwise(), f.ofNetwork(); {
	case e != nil:
		add(e)
	case failed != nil:
		found = append(found, failed)
	case f.isOther && f.isDescribed:
		add(f.response(unknownCode, ""))
	case f.isSuccess && nothing == errNothing:
		nothing = errToken
	}
	return found, nothing
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
	header := make(http.Header)
	if f.wait != "" {
		header.Set("Retry-After", f.wait)
	}
	if f.isMoved {
		header.Set("Location", "/")
	}
	e := applebusiness.ParseTokenError(f.httpStatus(), header, body(code, description))
	if wait, err := time.ParseDuration(f.wait); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	return e
}

// fetched is what x/oauth2 and this package say of a status.
var fetched = regexp.MustCompile(`oauth2: cannot fetch token: [1-5]\d\d|applebusiness: (?:no OAuth error was received|"[^"]*") \(HTTP`)

// otherwise returns an error that no code, text or label tells: one that nobody documented, or a response without any.
func (f *facts) otherwise() *applebusiness.Error {
	status, isFetched := f.httpStatus(), fetched.MatchString(f.text)
	isResponse := f.last != 0 || isFetched || f.endpoint != "" && f.action != "" || f.isFramework && (!f.isLog || strings.Contains(f.text, "oauth2/token")) ||
		strings.Contains(f.text, `"response":{`) && strings.Contains(f.text, `"request":{`)
	if _, text, ok := strings.Cut(f.text, "oauth2: "); ok && !isFetched {
		if e, _ := errors.AsType[*applebusiness.Error](applebusiness.Wrap(errors.New("oauth2: " + text))); e != nil && e.Reason != "" {
			return e
		}
	}
	switch {
	case f.isUnknown && (f.isDescribed || !f.isLog), f.endpoint != "" && (f.action != "" && status == 0 || f.isUnknown || f.isUnknownCode):
		return f.response(unknownCode, "")
	case isResponse && status != 0 && !(f.isSuccess && status < 400):
		return f.response("", "")
	}
	return nil
}

// httpStatus returns the status of the response. One that passes wins, whatever stands beside it.
func (f *facts) httpStatus() (best int) {
	statuses := f.statuses
	if f.last >= 200 {
		statuses = append([]int{f.last}, statuses...)
	}
	for _, status := range statuses {
		isPassports := status == http.StatusInternalServerError && strings.Contains(f.text, "TokenError") // which gives it to each error
		if !isPassports && (best == 0 || best < 400 && status >= 400 || neterr.StatusPasses(status) && !neterr.StatusPasses(best)) {
			best = status
		}
	}
	return best
}

// grant returns the grant_type. Of several the one counts after which nobody is asked to reconnect.
func (f *facts) grant() string {
	slices.Sort(f.grants) // authorization_code comes first
	return append(f.grants, "")[0]
}

// finish sets what the record says beside the error, asks for advice, and takes away what is neither Apple's nor ours.
func (f *facts) finish(e *applebusiness.Error) *failure {
	if e.Endpoint != applebusiness.AuthorizationEndpoint {
		if e.Endpoint = f.endpoint; e.Endpoint == "" {
			e.Endpoint = documentedEndpoint(e)
		}
		if e.Endpoint != applebusiness.AuthorizationEndpoint {
			e.GrantType = f.grant()
		}
	}
	failed := &failure{Error: e, advice: applebusiness.Troubleshoot(e)}
	if e.Reason == applebusiness.ErrNoResponse {
		failed.network = "a token request got no whole response"
		if known, words := f.noResponse(); words != "" {
			failed.network, failed.advice = words, f.adviceOf(known)
		} else if f.endpoint != "" {
			failed.advice = applebusiness.Advice{} // the line says nothing because it knew nothing
		}
	}
	isSafe := f.action != applebusiness.ActionReauthorize || !neterr.StatusPasses(e.StatusCode) && f.grant() != applebusiness.GrantTypeAuthorizationCode
	if f.action != "" && f.isOwn() && f.action != failed.advice.Action && isSafe {
		failed.advice = applebusiness.Advice{Action: f.action, Impact: f.impact, Remedy: "So says the line itself: the program that logged it knew the cause, which the line does not show."}
	}
	if shown := *e; true {
		if codeWords[strings.ToLower(string(e.Code))] == "" {
			shown.Code = ""
		}
		if shown.Description = ""; isDocumented(e.Reason) && e.Description != "" {
			shown.Description = e.Reason.Description()
		}
		if !strings.Contains(" client_id client_secret code code_challenge code_challenge_method code_verifier grant_type redirect_uri refresh_token response_type scope state ", " "+e.Parameter+" ") {
			shown.Parameter = ""
		}
		shown.URI, shown.RequestID = "", ""
		failed.Error = &shown
	}
	return failed
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

var (
	request = regexp.MustCompile(`(?i)(?:post|get) ["']?(?:https?:|\*\*\*)[^\s"']*["']?: ([^"\n]*)`)
	dialing = regexp.MustCompile(`\b(?:dial|proxyconnect|socks connect) (?:tcp|udp)`)
	// notApples is what a failure of the network is about that is none on the way to Apple: databases, and those who connect to us.
	notApples = regexp.MustCompile(`http: (?:tls handshake error from|response\.write|panic serving)|accept tcp|listen tcp|dial unix|upstream|nginx|postgres|pgx|\bpq:|sql|redis|mongo|kafka|amqp|memcache|elastic|` +
		`cassandra|etcd|smtp|ldap|database|:(?:5432|6432|6379|3306|27017|9092|5672|11211|9200|9042|2379|25|389)\b`)
)

// ofNetwork returns the failure of the network that the record tells of: a request that got no whole response. Nil if there is none.
func (f *facts) ofNetwork() *failure {
	text, sent := strings.TrimSpace(f.text), request.FindStringSubmatch(f.text)
	if sent != nil {
		text = strings.TrimSpace(sent[1])
	} else if notApples.MatchString(strings.ToLower(text)) || strings.HasSuffix(text, "EOF") && !strings.HasSuffix(text, "unexpected EOF") { // the end of any file
		return nil
	}
	if at := dialing.FindStringIndex(text); at != nil {
		text = text[at[0]:]
	}
	known := neterr.OfText(text)
	if !known.Known {
		return nil
	}
	failed := &failure{Error: new(applebusiness.Error), network: known.Words, advice: f.adviceOf(known)}
	if sent == nil && !known.HTTP && failed.advice.Action != "" {
		failed.advice.Impact, failed.advice.Remedy = "", "If this was a request to Apple: "+failed.advice.Remedy
	}
	return failed
}

// noResponse returns the failure that a line of package applebusiness tells in its words.
func (f *facts) noResponse() (neterr.Failure, string) {
	for _, mark := range []string{"no_response: ", "detail=", `detail="`, `"detail":"`} {
		if _, words, ok := strings.Cut(f.text, mark); ok {
			if known, ok := neterr.OfWords(strings.TrimPrefix(words, `"`)); ok {
				return known, known.Words
			}
		}
	}
	return neterr.Failure{}, ""
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	if strings.Contains(known.Words, "canceled") {
		return applebusiness.Advice{}
	}
	advice := applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known.Err()})
	if f.grant() == applebusiness.GrantTypeAuthorizationCode && advice.Action == applebusiness.ActionRetry && !known.Unsent {
		advice = applebusiness.Troubleshoot(&applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.grant()})
	}
	return advice
}

// provider returns who else than Apple Business the record is about, "" if nobody is named.
func (f *facts) provider() (name string) {
	for mark, provider := range providerMarks {
		if strings.Contains(f.folded, mark) {
			return provider
		}
	}
	for _, match := range ifAny(host, f.folded, "//", "lookup ") {
		for domain, more := match[1], true; more; _, domain, more = strings.Cut(domain, ".") {
			if domain == "business.apple.com" || domain == "businessconnect.apple.com" {
				return ""
			}
			name = cmp.Or(name, providers[domain])
		}
	}
	return name
}

var (
	host          = regexp.MustCompile(`(?://|lookup )([\w.-]+)`)
	providerMarks = map[string]string{
		"aadsts": "Microsoft", "aadb2c": "Microsoft", `"status":"unauthenticated"`: "Google", `"status": "unauthenticated"`: "Google",
		"token has been expired or revoked": "Google", "appleid.apple.com": "Sign in with Apple",
	}
	providers = func() map[string]string {
		domains := make(map[string]string)
		for line := range strings.SplitSeq(`another API of Apple's: api.appstoreconnect.apple.com account.apple.com api-business.apple.com api-school.apple.com mdmenrollment.apple.com
			Microsoft: microsoftonline.com login.windows.net login.live.com graph.microsoft.com
			Google: googleapis.com accounts.google.com
			Amazon: amazonaws.com amazoncognito.com amazon.com
			another provider: okta.com auth0.com github.com gitlab.com facebook.com instagram.com salesforce.com slack.com stripe.com paypal.com linkedin.com hubapi.com intuit.com
			another provider: myshopify.com shopify.com zoom.us dropboxapi.com atlassian.com discord.com twitter.com x.com xero.com spotify.com yahoo.com yelp.com tiktok.com zendesk.com`, "\n") {
			name, hosts, _ := strings.Cut(strings.TrimSpace(line), ": ")
			for domain := range strings.FieldsSeq(hosts) {
				domains[domain] = name
			}
		}
		return domains
	}()
)

var _ = fmt.Sprint
