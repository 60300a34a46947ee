package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// failure is what a record tells of. Nothing in it came from outside but what is Apple's or ours. The members of its JSON are stable;
// those that are unknown are left out, except that action, impact and remedy are "" then.
type failure struct {
	Line        int                    `json:"line,omitempty"` // with -lines
	Name        string                 `json:"-"`              // what people read
	Constant    string                 `json:"constant,omitempty"`
	Reason      applebusiness.Reason   `json:"reason,omitempty"`
	Nearest     string                 `json:"nearest,omitempty"`
	Provider    string                 `json:"provider,omitempty"`
	Endpoint    applebusiness.Endpoint `json:"endpoint,omitempty"`
	Code        string                 `json:"code,omitempty"`
	Description string                 `json:"description,omitempty"`
	Network     string                 `json:"network,omitempty"`
	Status      int                    `json:"status,omitempty"`
	Documented  bool                   `json:"documented"`
	Parameter   string                 `json:"parameter,omitempty"`
	GrantType   string                 `json:"grant_type,omitempty"`
	Wait        int                    `json:"retry_after_seconds,omitempty"`
	Impact      applebusiness.Impact   `json:"impact"`
	Causes      []map[string]string    `json:"causes"`
	Action      applebusiness.Action   `json:"action"`
	Remedy      string                 `json:"remedy"`
}

const unknown = "undocumented" // stands for a code that nobody documented

// understand returns the different failures that a pasted text tells of. A record is a line that begins as those of a log do, with
// what follows it.
func understand(input string) (found []*failure, err error) {
	if input = strings.TrimSpace(input); input == "" {
		return nil, errors.New("the input is empty")
	}
	seen := make(map[string]bool)
	for _, record := range strings.Split(rewrite("record", rewrite("dialect", input)), "␞") {
		for _, x := range collect(record, len(input) < 300).failures() {
			if kind := x.Name + string(x.Action) + x.Code + x.Provider; !seen[kind] {
				seen[kind], found = true, append(found, x)
			}
		}
	}
	if len(found) == 0 && matches("typed", input) {
		found = nearest(input)
	}
	if len(found) == 0 {
		err = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	}
	return found, err
}

// nearest returns the row or the code that somebody nearly means who types a short text; nil if there is none.
func nearest(input string) []*failure {
	best := slices.MaxFunc(slices.Sorted(maps.Keys(words)), func(a, b string) int {
		return cmp.Compare(similarity(input, a), similarity(input, b))
	})
	if similarity(input, best) <= 0.7 {
		return nil
	}
	const remedy = "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."
	x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: remedy})
	x.Nearest = cmp.Or(constant(words[best].Reason), string(words[best].Code))
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

// failures returns what the record tells of: the errors of callbacks and those that its names tell; without any what a response or
// the network tells; and of another provider no more than whose error it is.
func (f *facts) failures() (found []*failure) {
	for _, query := range f.redirects {
		_, err := applebusiness.ParseRedirect(query)
		if e, ok := errors.AsType[*applebusiness.Error](err); ok {
			found = f.add(found, e)
		}
	}
	if isOther := f.said["error"] != "" && f.said["description"] != ""; !f.isMention() {
		for _, x := range f.names {
			if e := f.response(x); x.Description == "" || e.Code != "" || e.Reason.Description() != "" && !isOther {
				found = f.add(found, e)
			}
		}
		if len(found) == 0 {
			found = f.unnamed()
		}
	}
	i := slices.IndexFunc(patterns["provider"], func(p pattern) bool { return p.MatchString(f.lower) })
	if len(found) == 0 || i <= 0 { // the first one is Apple Business
		return found
	}
	const remedy = "Look it up where that provider documents its errors: nothing in it is about Apple Business."
	x := newFailure(new(applebusiness.Error), "", applebusiness.Advice{Remedy: remedy})
	x.Provider = patterns["provider"][i].meaning
	return []*failure{x}
}

// unnamed returns what a response, a code that nobody documented or the network tells.
func (f *facts) unnamed() []*failure {
	value, description := cmp.Or(f.said["client"], f.said["error"]), f.said["description"]
	isStatus, isLog, isOwn := neterr.StatusOf(value) != 0, matches("log", f.lower), f.said["endpoint"] != ""
	isCode := matches("codeLike", value) && (description != "" || !isLog || isOwn) || isOwn && f.said["code"] != "" ||
		matches("quotedCode", f.said["client"])
	isPage := isStatus && (!isLog || strings.Contains(f.lower, "oauth2/token")) // as frameworks have it
	isResponse := f.answer > 0 || matches("response", f.lower) || isPage || isOwn && f.said["action"] != ""
	isSuccess := len(f.redirects) > 0 || strings.Contains(f.lower, `access_token"`)
	network, phrase := f.ofNetwork(), neterr.StatusOf(f.said["phrase"])
	switch isBare := f.isPaste && len(f.names) == 0; {
	case isCode && !isStatus:
		return f.add(nil, f.response(applebusiness.Entry{Code: unknown}))
	case isResponse && (f.status >= 400 || f.status != 0 && !isSuccess):
		return f.add(nil, f.response(applebusiness.Entry{}))
	case network.Known:
		return []*failure{newFailure(new(applebusiness.Error), network.Words, f.adviceOf(network))}
	case value != "" && description != "":
		return f.add(nil, f.response(applebusiness.Entry{Code: unknown}))
	case isBare && (phrase != 0 && !isLog || neterr.StatusPasses(f.status) || f.status == http.StatusNetworkAuthenticationRequired):
		f.status = max(f.status, phrase)
		return f.add(nil, f.response(applebusiness.Entry{}))
	}
	return nil
}

// isMention reports whether the record names errors and reports none: it counts or lists them, or tells of success.
func (f *facts) isMention() bool {
	isReport := f.isOwn && f.said["action"] != "" || f.status >= 400 && f.code != "" && f.said["description"] != "" && !f.isForeign
	start := f.text[:min(len(f.text), 120)]
	isInfo := (matches("infoLevel", f.said["level"]) || f.said["level"] == "" && matches("info", start)) && !matches("failing", start)
	return f.isList || isInfo && !isReport || matches("query", f.lower) || f.status == 0 && matches("mention", f.lower)
}

// response returns the error that a response means which says this.
func (f *facts) response(x applebusiness.Entry) *applebusiness.Error {
	code := cmp.Or(x.Code, f.code)
	body := fmt.Appendf(nil, `{"error":%q,"error_description":%q}`, string(code), x.Description)
	header := http.Header{"Retry-After": {f.said["retry_after"]}, "Location": {"/"}} // which tells a redirect from what an edge drops
	e := applebusiness.ParseTokenError(f.status, header, body)
	if wait, err := time.ParseDuration(f.said["retry_after"]); err == nil {
		e.RetryAfter = max(wait, 0)
	}
	e.Reason, e.GrantType, e.Endpoint = cmp.Or(x.Reason, e.Reason), f.said["grant_type"], applebusiness.Endpoint(f.said["endpoint"])
	for entry := range applebusiness.Catalog() {
		if (entry.Reason == e.Reason || e.Reason == "") && (entry.Code == e.Code || e.Code == "" && e.Reason != "") {
			e.Endpoint = cmp.Or(e.Endpoint, entry.Endpoint)
		}
	}
	if e.Endpoint == "" && !strings.Contains(f.text, "applebusiness: ") {
		e.Endpoint = applebusiness.TokenEndpoint
	}
	return e
}

// add adds e to what was found, unless that is another way to say it.
func (f *facts) add(found []*failure, e *applebusiness.Error) []*failure {
	for _, x := range found {
		isLabel := e.Reason != "" && (x.Reason == e.Reason || e.Reason.Description() == "")
		if isLabel || e.Reason == "" && (x.Code == "" || x.Code == string(e.Code)) {
			return found
		}
	}
	network, advice := f.troubleshoot(e)
	return append(found, newFailure(e, network, advice))
}

// troubleshoot returns what failed in the network, if it is that, and what to do about e. The record's own action wins, but for a
// reconnect that e does not ask for.
func (f *facts) troubleshoot(e *applebusiness.Error) (network string, advice applebusiness.Advice) {
	advice = applebusiness.Troubleshoot(e)
	if e.Reason == applebusiness.ErrNoResponse {
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
	if action != "" && action != advice.Action && f.isOwn && (isDead || action != applebusiness.ActionReauthorize) {
		advice = applebusiness.Advice{Action: action, Impact: applebusiness.Impact(f.said["impact"])}
		advice.Remedy = "So says the line itself: the program that logged it knew the cause, which the line does not show."
	}
	return network, advice
}

// ofNetwork returns the failure of the network that the record tells of, a request that got no whole response.
func (f *facts) ofNetwork() neterr.Failure {
	sent := append(patterns["request"][0].FindStringSubmatch(f.text), "", "")[1]
	if sent == "" && matches("notApples", f.lower) {
		return neterr.Failure{}
	}
	return neterr.OfText(strings.TrimSpace(cmp.Or(sent, f.text)))
}

// adviceOf returns what to do about a failure of the network: what Troubleshoot says of the same failure of a request to Apple.
func (f *facts) adviceOf(known neterr.Failure) applebusiness.Advice {
	if strings.Contains(known.Words, "canceled") { // by whoever sent it
		return applebusiness.Advice{}
	} else if known.Passes && !known.Unsent {
		e := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: f.said["grant_type"]}
		return applebusiness.Troubleshoot(e)
	}
	return applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: known})
}

// newFailure returns what is said about e, or about what failed in the network.
func newFailure(e *applebusiness.Error, network string, advice applebusiness.Advice) *failure {
	x := &failure{
		Constant: constant(e.Reason), Reason: e.Reason, Endpoint: e.Endpoint, Network: network,
		Code: string(words[strings.ToLower(string(e.Code))].Code), Status: e.StatusCode, Documented: e.Reason.Description() != "",
		GrantType: e.GrantType, Wait: int(math.Ceil(e.RetryAfter.Seconds())), Impact: advice.Impact, Causes: []map[string]string{},
		Action: advice.Action, Remedy: advice.Remedy,
	}
	if x.Name = cmp.Or(x.Constant, map[bool]string{true: "network"}[network != ""], unknown); e.Description != "" {
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
	return patterns["initial"][0].ReplaceAllStringFunc("err_"+string(reason), func(initial string) string {
		return strings.ToUpper(strings.TrimPrefix(initial, "_"))
	})
}
