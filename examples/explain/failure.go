package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

const unknown = "undocumented" // stands for a code that nobody documented

// understand returns the different failures that a pasted text tells of. A record is a line that begins as those of a log do, with
// what follows it.
func understand(input string) (found []*failure, err error) {
	input = strings.TrimSpace(strings.TrimPrefix(input, "\ufeff"))
	if input == "" {
		return nil, errors.New("the input is empty")
	} else if matches("dialect", input) {
		e := &applebusiness.Error{Reason: applebusiness.ErrMalformedResponse}
		return []*failure{newFailure(e, applebusiness.Troubleshoot(e))}, nil
	}
	records := []string{""}
	for line := range strings.SplitAfterSeq(input, "\n") {
		if matches("logLine", line) && !strings.Contains(line, "Response: ") {
			records = append(records, "")
		}
		records[len(records)-1] += line
	}
	seen, isOther := make(map[string]bool), false
	for _, record := range records {
		f := collect(record)
		f.isPaste = len(input) < 300
		for _, x := range f.failures() {
			if kind := x.Name + string(x.Action) + x.Code + x.Provider; !seen[kind] {
				seen[kind], found = true, append(found, x)
			}
		}
		isOther = isOther || f.status != 0 || f.isMention()
	}
	if len(found) == 0 && !isOther {
		found = nearest(input)
	}
	if len(found) == 0 {
		err = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	}
	return found, err
}

// nearest returns the row or the code that somebody nearly means who types a short text; nil if there is none.
func nearest(input string) []*failure {
	best, most := "", 0.7
	for _, name := range names {
		if part := similarity(input, name); part > most {
			best, most = name, part
		}
	}
	if best == "" || len(input) > 128 || strings.ContainsAny(input, "{}=\n") {
		return nil
	}
	found, _ := understand(best)
	const remedy = "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."
	x := newFailure(new(applebusiness.Error), applebusiness.Advice{Remedy: remedy})
	x.Nearest = cmp.Or(found[0].Constant, found[0].Code)
	return []*failure{x}
}

var notLetters = regexp.MustCompile(`[^a-z0-9]+`)

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

// failures returns what the record tells of: of another provider no more than whose error it is.
func (f *facts) failures() []*failure {
	found := f.find()
	if len(found) == 0 || !containsAny(f.lower, ".com", ".net", ".us", "aad", "unauthenticated", "revoked") {
		return found
	}
	for _, name := range []string{"Sign in with Apple", "another API of Apple's", "Microsoft", "Google", "another provider"} {
		if matches(name, f.lower) && !strings.Contains(f.lower, "business.apple.com") {
			const remedy = "Look it up where that provider documents its errors: nothing in it is about Apple Business."
			x := newFailure(new(applebusiness.Error), applebusiness.Advice{Remedy: remedy})
			x.Provider = name
			return []*failure{x}
		}
	}
	return found
}

// find returns the errors of callbacks and those that texts, labels and codes tell; without any what a response or the network tells.
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
	}
	value, description, isQuoted := cmp.Or(f.said["client"], f.said["error"]), f.said["description"], f.said["client"] != ""
	isStatus, isLog, isOwn := neterr.StatusOf(value) != 0, matches("log", f.lower), f.said["endpoint"] != ""
	isWrapped := containsAny(f.said["error"], "oauth2: ", "applebusiness: ", "http/")
	isForeign := isQuoted || description != "" && !isWrapped && !f.isApples(description)
	if !f.isBody && (value == "" || !isForeign) { // another one's error may quote Apple's
		found = f.known(found, isForeign, value != "" && description != "")
	}
	isCode := matches("codeLike", value) && (description != "" || !isLog || isOwn) || isOwn && f.said["code"] != "" ||
		isQuoted && (!strings.Contains(value, " ") || strings.Contains(value, ": "))
	isPage := isStatus && (!isLog || strings.Contains(f.lower, "oauth2/token")) // as frameworks have it
	isResponse := f.isAnswer || containsAny(f.lower, `"response":{`, "applebusiness: ") || isPage || isOwn && f.said["action"] != ""
	switch {
	case len(found) > 0:
		return found
	case isCode && !isStatus, isStatus && description != "" && f.status == 0:
		return f.add(nil, f.response(unknown, ""))
	case isResponse && (f.status >= 400 || f.status != 0 && !isSuccess):
		return f.add(nil, f.response("", ""))
	}
	if network := f.ofNetwork(); network.Known {
		x := newFailure(new(applebusiness.Error), f.adviceOf(network))
		x.Name, x.Network = "network", network.Words
		return []*failure{x}
	} else if value != "" && description != "" {
		return f.add(nil, f.response(unknown, ""))
	} else if !f.isPaste || len(f.codes)+len(f.labels) > 0 {
		return nil
	}
	phrase := neterr.StatusOf(group("phrase", f.lower))
	f.status = max(f.status, phrase)
	if phrase != 0 && !isLog || neterr.StatusPasses(f.status) || f.status == http.StatusNetworkAuthenticationRequired {
		return f.add(nil, f.response("", ""))
	}
	return nil
}

// isMention reports whether the record names errors and reports none: it counts or lists them, or tells of success.
func (f *facts) isMention() bool {
	isReport := f.isOwn() && f.said["action"] != "" || f.status >= 400 && len(f.codes) > 0 && f.isApples(f.said["description"])
	isInfo := matches("infoLevel", f.said["level"]) || f.said["level"] == "" && matches("info", f.text[:min(len(f.text), 120)])
	isQuery := strings.Contains(f.lower, " where ") && containsAny(f.lower, "select ", "update ", "delete from ")
	return f.isList || isQuery || isInfo && !isReport || f.status == 0 && matches("mention", f.lower) ||
		containsAny(f.lower, "_total{", `"metric":`, `"__name__":`, "\n# help ")
}

// isOwn reports whether the record is one of package applebusiness, by its attributes.
func (f *facts) isOwn() bool {
	return f.said["endpoint"] != "" || f.said["impact"] != "" || len(f.labels) > 0
}

// known adds the errors that texts, labels and codes tell, each of which may tell one of its own.
func (f *facts) known(found []*failure, isForeign, isOther bool) []*failure {
	first := append(f.codes, "")[0]
	for _, text := range f.texts {
		if e := f.response(first, text); !isForeign && (e.Code != "" || e.Reason.Description() != "" && !isOther) {
			found = f.add(found, e)
		}
	}
	for _, label := range f.labels {
		if e := f.response(first, ""); len(found) == 0 || label.Description() != "" {
			e.Reason = label
			found = f.add(found, e)
		}
	}
	for _, code := range f.codes {
		if len(found) == 0 || found[0].Code != string(code) {
			found = f.add(found, f.response(code, ""))
		}
	}
	return found
}

// response returns the error that a response with this code and text means.
func (f *facts) response(code applebusiness.Code, description string) *applebusiness.Error {
	body := fmt.Appendf(nil, `{"error":%q,"error_description":%q}`, string(code), description)
	header := http.Header{"Retry-After": {f.said["retry_after"]}, "Location": {"/"}} // which tells a redirect from what an edge drops
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
		if e.Reason != "" && x.Reason == e.Reason || e.Reason == "" && x.Code == string(e.Code) {
			return found
		}
	}
	if e.Endpoint != applebusiness.AuthorizationEndpoint {
		e.GrantType, e.Endpoint = f.said["grant_type"], applebusiness.Endpoint(f.said["endpoint"])
		for entry := range applebusiness.Catalog() {
			isIt := (entry.Reason == e.Reason || e.Reason == "") && (entry.Code == e.Code || e.Code == "" && e.Reason != "")
			if isIt && e.Endpoint == "" {
				e.Endpoint = entry.Endpoint
			}
		}
		if e.Endpoint == "" && !strings.Contains(f.text, "applebusiness: ") {
			e.Endpoint = applebusiness.TokenEndpoint
		}
	}
	network, advice := "", applebusiness.Troubleshoot(e)
	if e.Reason == applebusiness.ErrNoResponse {
		network = "a token request got no whole response"
		_, detail, _ := strings.Cut(f.text, "no_response: ")
		if known, ok := neterr.OfWords(detail); ok {
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
	x := newFailure(e, advice)
	x.Network = network
	return append(found, x)
}

// ofNetwork returns the failure of the network that the record tells of, a request that got no whole response.
func (f *facts) ofNetwork() neterr.Failure {
	if sent := group("request", f.text); sent != "" {
		return neterr.OfText(strings.TrimSpace(sent))
	} else if matches("notApples", f.lower) {
		return neterr.Failure{}
	}
	return neterr.OfText(strings.TrimSpace(f.text))
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	advice := applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known.Err()})
	if strings.Contains(known.Words, "canceled") { // by whoever sent it
		return applebusiness.Advice{}
	} else if advice.Action == applebusiness.ActionRetry && !known.Unsent {
		e := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.said["grant_type"]}
		return applebusiness.Troubleshoot(e)
	}
	return advice
}

// newFailure returns what is said about e.
func newFailure(e *applebusiness.Error, advice applebusiness.Advice) *failure {
	x := &failure{
		Constant: constant(e.Reason), Reason: e.Reason, Endpoint: e.Endpoint,
		Code: string(words[strings.ToLower(string(e.Code))].Code), Status: e.StatusCode, Documented: e.Reason.Description() != "",
		GrantType: e.GrantType, Wait: int(math.Ceil(e.RetryAfter.Seconds())), Impact: advice.Impact, Causes: []map[string]string{},
		Action: advice.Action, Remedy: advice.Remedy,
	}
	if x.Name = cmp.Or(x.Constant, unknown); e.Description != "" {
		x.Description = e.Reason.Description()
	}
	if matches("parameter", e.Parameter) {
		x.Parameter = e.Parameter
	}
	for _, c := range advice.Causes {
		x.Causes = append(x.Causes, map[string]string{"cause": string(c), "description": c.Description()})
	}
	return x
}

// constant returns the name of reason's constant, which its label is in snake case.
func constant(reason applebusiness.Reason) string {
	if reason == "" {
		return ""
	}
	return patterns["initial"].ReplaceAllStringFunc("err_"+string(reason), func(initial string) string {
		return strings.ToUpper(strings.TrimPrefix(initial, "_"))
	})
}
