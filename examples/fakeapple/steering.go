package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// clock runs ahead of the wall clock by what a test has asked for.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().UTC().Add(time.Duration(c.ahead.Load())) }

// steering is the fake's handler with the routes for tests beside it.
type steering struct {
	server *applebusinesstest.Server
	app    applebusinesstest.App
	clock  *clock
	fake   http.Handler
}

// asked is what a request may ask for; members that are no texts are named in isNoText too.
type asked struct {
	Reason       applebusiness.Reason   `json:"reason"`
	Status       *int                   `json:"status"`
	Header       map[string]string      `json:"header"`
	Body         string                 `json:"body"`
	Times        *int                   `json:"times"`
	Count        *int                   `json:"count"` // another word for times
	Delay        string                 `json:"delay"`
	Drop         bool                   `json:"drop"`
	Hang         bool                   `json:"hang"`
	TakesEffect  bool                   `json:"takes_effect"`
	Endpoint     applebusiness.Endpoint `json:"endpoint"`
	GrantType    string                 `json:"grant_type"`
	ClientID     string                 `json:"client_id"`
	RefreshToken string                 `json:"refresh_token"`
	ClientSecret string                 `json:"client_secret"`
	Expired      bool                   `json:"expired"`
	Consent      string                 `json:"consent"`
	Advance      string                 `json:"advance"`
	Duration     string                 `json:"duration"` // another word for advance
}

var isNoText = map[string]bool{"status": true, "times": true, "count": true, "drop": true, "hang": true, "takes_effect": true, "expired": true}

// route is a path below /_fake/, with the members of asked that it takes.
type route struct {
	method, path, members string
	do                    func(*steering, asked) (any, error)
}

var routes = []route{
	{"GET", "health", "", func(*steering, asked) (any, error) { return map[string]string{"status": "ok"}, nil }},
	{"POST", "reset", "", (*steering).reset},
	{"POST", "fail", "reason status header body times count delay drop hang takes_effect endpoint grant_type client_id refresh_token", (*steering).fail},
	{"POST", "heal", "", func(s *steering, _ asked) (any, error) { s.server.Heal(); return nil, nil }},
	{"POST", "connect", "client_id expired", (*steering).connect},
	{"POST", "revoke", "refresh_token", (*steering).revoke},
	{"POST", "rotate-secret", "client_id client_secret", (*steering).rotateSecret},
	{"POST", "delete-app", "client_id", func(s *steering, asked asked) (any, error) { s.server.DeleteApp(s.client(asked)); return nil, nil }},
	{"POST", "consent", "consent", (*steering).consent},
	{"GET", "clock", "", func(s *steering, _ asked) (any, error) { return map[string]time.Time{"now": s.clock.now()}, nil }},
	{"POST", "clock", "advance duration", (*steering).advance},
	{"GET", "requests", "", (*steering).requests},
	{"GET", "reasons", "", (*steering).reasons},
}

func (s *steering) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, isSteering := strings.CutPrefix(r.URL.Path, "/_fake/")
	if !isSteering {
		s.fake.ServeHTTP(w, r)
		return
	}
	if path == "advance" { // another word for it
		path = "clock"
	}
	var paths, allowed []string
	for _, route := range routes {
		paths = append(paths, route.path)
		if route.path != path {
			continue
		}
		if route.method == strings.Replace(r.Method, http.MethodHead, http.MethodGet, 1) {
			s.respond(w, r, route)
			return
		}
		allowed = append(allowed, route.method)
	}
	if len(allowed) == 0 {
		write(w, http.StatusNotFound, fmt.Errorf("no such route; -h lists them: %s", strings.Join(slices.Compact(paths), ", ")))
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	write(w, http.StatusMethodNotAllowed, fmt.Errorf("the route %s takes %s", path, strings.Join(allowed, " and ")))
}

// respond does what a request asks for, and writes what came of it.
func (s *steering) respond(w http.ResponseWriter, r *http.Request, to route) {
	var result any
	err := misuse(func() error {
		asked, err := to.read(r)
		if err == nil {
			result, err = to.do(s, asked)
		}
		return err
	})
	_, notKnown := errors.AsType[unknown](err)
	switch {
	case notKnown:
		write(w, http.StatusNotFound, err)
	case err != nil:
		write(w, http.StatusBadRequest, err)
	case result == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		write(w, http.StatusOK, result)
	}
}

// unknown is an error about a label, a client or a token that is not known.
type unknown string

func (u unknown) Error() string { return string(u) }

// misuse returns do's error, or as an error the text for a test's author with which the package panics.
func misuse(do func() error) (err error) {
	defer func() {
		if text, ok := recover().(string); ok {
			text = strings.TrimPrefix(text, "applebusinesstest: ")
			err = errors.New(goNames.Replace(text))
			if unknowns.MatchString(text) {
				err = unknown(strings.TrimPrefix(text, "FailNext: "))
			}
		}
	}()
	return do()
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

// write writes JSON; an error is an object with its text.
func write(w http.ResponseWriter, status int, result any) {
	if err, ok := result.(error); ok {
		result = map[string]string{"error": "fakeapple: " + err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result)
}

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
		header := make(map[string]string)
		for _, name := range [...]string{"Content-Type", "Retry-After"} {
			if value := r.Header.Get(name); value != "" && value != "application/x-www-form-urlencoded" { // curl says that unasked
				header[name] = value
			}
		}
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
		if isNoText[name] && values[0] != "" {
			members[name] = json.RawMessage(values[0])
		}
	}
	return into, to.decode(members, &into)
}

// decode sets what is asked for from the members, unless the route does not take one.
func (to route) decode(members map[string]any, into *asked) error {
	for name, value := range members {
		if !slices.Contains(strings.Fields(to.members), name) {
			return fmt.Errorf("unknown field %q", name)
		}
		if name != "body" && (value == "" || value == nil) { // a variable of a shell that is not set, perhaps
			return fmt.Errorf("%q is empty", name)
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		return errors.New("a parameter is neither a number nor true or false")
	}
	err = json.Unmarshal(text, into)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%q cannot be a %s", wrong.Field, wrong.Value)
	}
	return err
}

func (s *steering) reset(asked) (any, error) {
	s.server.Reset()
	s.clock.ahead.Store(0)
	return nil, nil
}

func (s *steering) fail(asked asked) (any, error) {
	next := applebusinesstest.Failure{
		Header: make(http.Header), Body: asked.Body, TakesEffect: asked.TakesEffect, Hang: asked.Hang, Drop: asked.Drop,
		Endpoint: asked.Endpoint, GrantType: asked.GrantType, ClientID: asked.ClientID, RefreshToken: asked.RefreshToken,
	}
	for name, value := range asked.Header {
		next.Header.Set(name, value)
	}
	var err error
	if next.Delay, err = time.ParseDuration(cmp.Or(asked.Delay, "0")); err != nil || next.Delay < 0 {
		return nil, errors.New("want a delay such as 2s")
	}
	if times := cmp.Or(asked.Times, asked.Count); times != nil {
		next.Times = *times
		if *times == 0 || asked.Times != nil && asked.Count != nil {
			return nil, errors.New("want times (or count, which is the same) above 0, or below 0 for all requests")
		}
	}
	switch {
	case asked.Reason != "":
		if next.Entry, err = findRow(asked); err != nil {
			return nil, err
		}
	case asked.Status != nil && *asked.Status == 0:
		return nil, errors.New("want a status from 200 to 999, or with a reason 0 for a redirect")
	case asked.Status != nil:
		next.StatusCode = *asked.Status
	case !asked.Drop && !asked.Hang && !asked.TakesEffect && next.Delay == 0:
		return nil, errors.New("want a reason, a status, drop, hang, or takes_effect with a delay")
	}
	s.server.FailNext(next)
	return nil, nil
}

// findRow returns the first row with the reason, and with the status and the endpoint if they are given. A status that Apple does
// not document for the reason is put into the first row.
func findRow(asked asked) (applebusiness.Entry, error) {
	var rows []applebusiness.Entry
	var known []string
	for entry := range applebusiness.Catalog() {
		if asked.Endpoint != "" && asked.Endpoint != entry.Endpoint {
			continue
		}
		known = append(known, string(entry.Reason))
		if entry.Reason == asked.Reason {
			if asked.Status == nil || entry.StatusCode == *asked.Status {
				return entry, nil
			}
			rows = append(rows, entry)
		}
	}
	switch {
	case len(rows) == 0 && asked.Endpoint != "":
		return applebusiness.Entry{}, unknown(fmt.Sprintf("no row of the endpoint %q has the reason %q; known are %q", string(asked.Endpoint), string(asked.Reason), known))
	case len(rows) == 0:
		return applebusiness.Entry{}, unknown(fmt.Sprintf("no row has the reason %q; known are %s", string(asked.Reason), strings.Join(known, ", ")))
	case *asked.Status == 0:
		return applebusiness.Entry{}, fmt.Errorf("%q is no error of a redirect", string(asked.Reason))
	}
	rows[0].StatusCode = *asked.Status
	return rows[0], nil
}

// client returns the client_id that is asked for, or the app's.
func (s *steering) client(asked asked) string { return cmp.Or(asked.ClientID, s.app.ClientID) }

func (s *steering) connect(asked asked) (any, error) {
	connect := s.server.Connect
	if asked.Expired {
		connect = s.server.ConnectExpired
	}
	token := connect(s.client(asked))
	return map[string]any{
		"access_token": token.AccessToken, "refresh_token": token.RefreshToken, "token_type": token.TokenType, "expires_in": token.ExpiresIn,
	}, nil
}

func (s *steering) revoke(asked asked) (any, error) {
	if asked.RefreshToken == "" {
		return nil, errors.New("refresh_token is missing")
	}
	s.server.Revoke(asked.RefreshToken)
	return nil, nil
}

func (s *steering) rotateSecret(asked asked) (any, error) {
	var given []string
	if asked.ClientSecret != "" {
		given = []string{asked.ClientSecret}
	}
	return map[string]string{"client_secret": s.server.RotateSecret(s.client(asked), given...)}, nil
}

func (s *steering) consent(asked asked) (any, error) {
	consent, ok := consents[asked.Consent]
	if !ok {
		return nil, unknown(fmt.Sprintf("no consent is %q; known are ask, allow and deny", asked.Consent))
	}
	s.server.SetConsent(consent)
	return nil, nil
}

func (s *steering) advance(asked asked) (any, error) {
	duration, err := time.ParseDuration(cmp.Or(asked.Advance, asked.Duration))
	if err != nil || duration < 0 || asked.Advance != "" && asked.Duration != "" {
		return nil, errors.New("want a duration such as 6m")
	}
	s.clock.ahead.Add(int64(duration))
	return nil, nil
}

// The fields are those of the package's types, in their order.

func (s *steering) requests(asked) (any, error) {
	type request struct {
		Endpoint    applebusiness.Endpoint `json:"endpoint"`
		Time        time.Time              `json:"time"`
		GrantType   string                 `json:"grant_type,omitempty"`
		ContentType string                 `json:"content_type"`
		Params      url.Values             `json:"params"`
		RequestID   string                 `json:"request_id"`
		StatusCode  int                    `json:"status"`
	}
	list := []request{}
	for _, arrived := range s.server.Requests() {
		list = append(list, request(arrived))
	}
	return list, nil
}

func (s *steering) reasons(asked) (any, error) {
	type row struct {
		Endpoint    applebusiness.Endpoint `json:"endpoint"`
		StatusCode  int                    `json:"status"`
		Code        applebusiness.Code     `json:"error"`
		Description string                 `json:"error_description"`
		Reason      applebusiness.Reason   `json:"reason"`
	}
	var list []row
	for entry := range applebusiness.Catalog() {
		list = append(list, row(entry))
	}
	return list, nil
}
