package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// asked is what a request may ask for, by names that are those of the JSON without the underscores.
type asked struct {
	Status, Times, Count             *int // Count is another word for Times
	Drop, Hang, TakesEffect, Expired bool
	Reason                           applebusiness.Reason
	Endpoint                         applebusiness.Endpoint
	Header                           map[string]string
	Advance, Duration                string // one word is as good as the other

	Body, Delay, GrantType, ClientID, RefreshToken, ClientSecret, Consent string
}

// route is a path below /_fake/, with the members of asked that it takes.
type route struct {
	method, path, members string
	do                    func(*program, asked) (any, error)
}

var routes = []route{
	{"GET", "health", "", func(*program, asked) (any, error) { return map[string]string{"status": "ok"}, nil }},
	{"POST", "reset", "", func(s *program, _ asked) (any, error) { s.server.Reset(); s.ahead.Store(0); return nil, nil }},
	{"POST", "fail", "reason status header body times count delay drop hang takes_effect endpoint grant_type client_id refresh_token", (*program).fail},
	{"POST", "heal", "", func(s *program, _ asked) (any, error) { s.server.Heal(); return nil, nil }},
	{"POST", "connect", "client_id expired", (*program).connect},
	{"POST", "revoke", "refresh_token", (*program).revoke},
	{"POST", "rotate-secret", "client_id client_secret", (*program).rotateSecret},
	{"POST", "delete-app", "client_id", func(s *program, asked asked) (any, error) { s.server.DeleteApp(s.client(asked)); return nil, nil }},
	{"POST", "consent", "consent", (*program).consent},
	{"GET", "clock", "", func(s *program, _ asked) (any, error) { return map[string]time.Time{"now": s.now()}, nil }},
	{"POST", "clock", "advance duration", (*program).advance},
	{"POST", "advance", "advance duration", (*program).advance},
	{"GET", "requests", "", (*program).requests},
	{"GET", "reasons", "", (*program).reasons},
}

// now is ahead of the wall clock by what a test has asked for.
func (s *program) now() time.Time { return time.Now().UTC().Add(time.Duration(s.ahead.Load())) }

// refusal is an error that is said with another status than 400.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

func unknown(format string, args ...any) error {
	return refusal{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

// ServeHTTP has the routes for tests beside the fake's.
func (s *program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, isSteering := strings.CutPrefix(r.URL.Path, "/_fake/")
	if !isSteering {
		s.fake.ServeHTTP(w, r)
		return
	}
	result, err := s.steer(w.Header(), r, path)
	status := http.StatusOK
	if err != nil {
		status, result = http.StatusBadRequest, map[string]string{"error": "fakeapple: " + err.Error()}
	}
	if refused, ok := errors.AsType[refusal](err); ok {
		status = refused.status
	}
	if result == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result)
}

// steer does what a request asks of a route.
func (s *program) steer(header http.Header, r *http.Request, path string) (result any, err error) {
	defer misuse(&err)
	var paths, allowed []string
	for _, route := range routes {
		paths = append(paths, route.path)
		switch {
		case route.path != path:
		case route.method == strings.Replace(r.Method, http.MethodHead, http.MethodGet, 1):
			asked, err := route.read(r)
			if err != nil {
				return nil, err
			}
			return route.do(s, asked)
		default:
			allowed = append(allowed, route.method)
		}
	}
	if len(allowed) == 0 {
		return nil, unknown("no such route; -h lists them: %s", strings.Join(slices.Compact(paths), ", "))
	}
	header.Set("Allow", strings.Join(allowed, ", "))
	return nil, refusal{http.StatusMethodNotAllowed, fmt.Sprintf("the route %s takes %s", path, strings.Join(allowed, " and "))}
}

// misuse makes an error of a panic of the package, which has a text for a test's author.
func misuse(err *error) {
	problem := recover()
	text, ok := problem.(string)
	text = strings.TrimPrefix(text, "applebusinesstest: ")
	switch {
	case unknowns.MatchString(text):
		*err = unknown("%s", strings.TrimPrefix(text, "FailNext: "))
	case ok:
		*err = errors.New(goNames.Replace(text))
	case problem != nil:
		panic(problem)
	}
}

// unknowns are the panics about a client or a token that is not known.
var unknowns = regexp.MustCompile("is not registered|was not issued here|has no customers")

// goNames replaces the package's names by those of the flags and of the steering.
var goNames = strings.NewReplacer(
	"FailNext: ", "", "Options: ", "",
	"AccessTokenLife", "-access-token-life", "RefreshTokenLife", "-refresh-token-life", "KeepRefreshToken", "-keep-refresh-token",
	"OmitRefreshToken", "-omit-refresh-token", "GracePeriod", "-grace-period", "RateLimit", "-rate-limit", "Trickle", "-trickle",
	"an Entry", "a reason", "Entry", "reason", "StatusCode", "status", "Header", "header", "Body", "body", "TakesEffect", "takes_effect",
	"Delay", "delay", "Hang", "hang", "Drop", "drop", "Endpoint", "endpoint", "GrantType", "grant_type", "RefreshToken", "refresh_token",
)

// read returns what a request asks for in its query, and in its body if that is a JSON object, whose Content-Type may be what curl
// and fetch say of a text. The body of fail?status=503 is the response's, as two of its headers are.
func (to route) read(r *http.Request) (into asked, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 1<<20))
	query, queryErr := url.ParseQuery(r.URL.RawQuery)
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isObject := bytes.HasPrefix(bytes.TrimSpace(body), []byte("{"))
	members := make(map[string]any)
	switch isResponse := to.path == "fail" && query.Has("status") && !query.Has("reason"); {
	case err != nil:
		return into, errors.New("the body cannot be read, or is longer than 1 MiB")
	case queryErr != nil:
		return into, errors.New("the query does not decode")
	case isResponse && isObject:
		return into, errors.New("with status in the query a body is the response's, and this one is a JSON object; " +
			"want all of it in a JSON object, the response's body as its member body, and no query")
	case isResponse && len(body) > 0 && query.Get("body") != "":
		return into, errors.New("the response's body is given twice")
	case isResponse:
		header := map[string]string{"Content-Type": r.Header.Get("Content-Type"), "Retry-After": r.Header.Get("Retry-After")}
		maps.DeleteFunc(header, func(_, value string) bool { return value == "" || value == "application/x-www-form-urlencoded" }) // curl's, unasked
		members["header"], members["body"] = header, query.Get("body")+string(body)
		delete(query, "body")
	case len(bytes.TrimSpace(body)) == 0:
	case !isObject || json.Unmarshal(body, &members) != nil:
		return into, errors.New("the body is no JSON object; want one, or parameters in the query")
	case !slices.Contains([]string{"", "application/json", "application/x-www-form-urlencoded", "text/plain"}, mediaType):
		return into, fmt.Errorf("the body is a JSON object, and the header Content-Type says %q; want application/json", mediaType)
	}
	for name, values := range query {
		if _, ok := members[name]; ok || len(values) > 1 {
			return into, fmt.Errorf("%q is given twice", name)
		}
		members[name] = values[0]
	}
	for name, value := range members {
		set := func(value any) error {
			text, _ := json.Marshal(map[string]any{strings.ReplaceAll(name, "_", ""): value})
			return json.Unmarshal(text, &into)
		}
		number := query.Get(name) // or a boolean
		switch {
		case !slices.Contains(strings.Fields(to.members), name):
			return into, fmt.Errorf("unknown field %q", name)
		case name != "body" && (value == "" || value == nil): // a variable of a shell that is not set, perhaps
			return into, fmt.Errorf("%q is empty", name)
		case set(value) != nil && (number == "null" || set(json.RawMessage(number)) != nil):
			return into, fmt.Errorf("%q has a value of the wrong type", name)
		}
	}
	return into, nil
}

func (s *program) fail(asked asked) (any, error) {
	entry, known := findRow(asked)
	delay, err := time.ParseDuration(cmp.Or(asked.Delay, "0"))
	times := cmp.Or(asked.Times, asked.Count)
	switch {
	case err != nil:
		return nil, errors.New("want a delay such as 2s")
	case times != nil && *times == 0 || asked.Times != nil && asked.Count != nil:
		return nil, errors.New("want times (or count, which is the same) above 0, or below 0 for all requests")
	case entry.Reason != asked.Reason:
		return nil, unknown("no row has the reason %q; known are %s", string(asked.Reason), strings.Join(known, ", "))
	case asked.Status != nil && *asked.Status == 0 && entry.Endpoint != applebusiness.AuthorizationEndpoint:
		return nil, errors.New("want a status from 200 to 999, or 0 with a reason of a redirect")
	case asked.Reason == "" && asked.Status == nil && !asked.Drop && !asked.Hang && !asked.TakesEffect && delay == 0:
		return nil, errors.New("want a reason, a status, drop, hang, or takes_effect with a delay")
	}
	next := applebusinesstest.Failure{
		Entry: entry, Header: make(http.Header), Body: asked.Body,
		TakesEffect: asked.TakesEffect, Delay: delay, Hang: asked.Hang, Drop: asked.Drop,
		Endpoint: asked.Endpoint, GrantType: asked.GrantType, ClientID: asked.ClientID, RefreshToken: asked.RefreshToken,
	}
	for name, value := range asked.Header {
		next.Header.Set(name, value)
	}
	if times != nil {
		next.Times = *times
	}
	if asked.Status != nil && asked.Reason == "" {
		next.StatusCode = *asked.Status
	}
	s.server.FailNext(next)
	return nil, nil
}

// findRow returns the first row with the reason that fits the endpoint and the status best, if these are given, and all reasons. A
// status that Apple does not document for the reason is put into the row; FailNext refuses another endpoint.
func findRow(asked asked) (row applebusiness.Entry, known []string) {
	best := -1
	for entry := range applebusiness.Catalog() {
		known = append(known, string(entry.Reason))
		fit := 0
		if entry.Endpoint == asked.Endpoint {
			fit = 2
		}
		if asked.Status != nil && entry.StatusCode == *asked.Status {
			fit++
		}
		if entry.Reason == asked.Reason && fit > best {
			row, best = entry, fit
		}
	}
	if asked.Status != nil && best >= 0 {
		row.StatusCode = *asked.Status
	}
	return row, known
}

// client returns the client_id that is asked for, or the app's.
func (s *program) client(asked asked) string { return cmp.Or(asked.ClientID, s.app.ClientID) }

func (s *program) connect(asked asked) (any, error) {
	connect := s.server.Connect
	if asked.Expired {
		connect = s.server.ConnectExpired
	}
	token := connect(s.client(asked))
	return map[string]any{
		"access_token": token.AccessToken, "refresh_token": token.RefreshToken, "token_type": token.TokenType, "expires_in": token.ExpiresIn,
	}, nil
}

func (s *program) revoke(asked asked) (any, error) {
	if asked.RefreshToken == "" {
		return nil, errors.New("refresh_token is missing")
	}
	s.server.Revoke(asked.RefreshToken)
	return nil, nil
}

func (s *program) rotateSecret(asked asked) (any, error) {
	given := slices.DeleteFunc([]string{asked.ClientSecret}, func(secret string) bool { return secret == "" })
	return map[string]string{"client_secret": s.server.RotateSecret(s.client(asked), given...)}, nil
}

func (s *program) consent(asked asked) (any, error) {
	var consent applebusinesstest.Consent
	if choice(&consent, consents)(asked.Consent) != nil {
		return nil, unknown("no consent is %q; known are ask, allow and deny", asked.Consent)
	}
	s.server.SetConsent(consent)
	return nil, nil
}

func (s *program) advance(asked asked) (any, error) {
	duration, err := time.ParseDuration(cmp.Or(asked.Advance, asked.Duration))
	if err != nil || duration < 0 || asked.Advance != "" && asked.Duration != "" {
		return nil, errors.New("want a duration such as 6m")
	}
	s.ahead.Add(int64(duration))
	return nil, nil
}

func (s *program) requests(asked) (any, error) {
	list := []map[string]any{}
	for _, r := range s.server.Requests() {
		list = append(list, map[string]any{
			"endpoint": r.Endpoint, "time": r.Time, "content_type": r.ContentType, "params": r.Params, "request_id": r.RequestID, "status": r.StatusCode,
		})
		if r.GrantType != "" {
			list[len(list)-1]["grant_type"] = r.GrantType
		}
	}
	return list, nil
}

func (s *program) reasons(asked) (any, error) {
	var list []map[string]any
	for e := range applebusiness.Catalog() {
		list = append(list, map[string]any{
			"reason": e.Reason, "endpoint": e.Endpoint, "status": e.StatusCode, "error": e.Code, "error_description": e.Description,
		})
	}
	return list, nil
}
