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

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// steering is the fake's handler with the routes for tests beside it.
type steering struct {
	server *applebusinesstest.Server
	app    applebusinesstest.App
	clock  *clock
}

// unknown is an error about a label, a client or a token that is not known.
type unknown string

func (u unknown) Error() string { return string(u) }

func newSteering(server *applebusinesstest.Server, app applebusinesstest.App, clock *clock, fake http.Handler) http.Handler {
	s := &steering{server, app, clock}
	routes := map[string]http.HandlerFunc{
		"GET health":         route(func(struct{}) (any, error) { return map[string]string{"status": "ok"}, nil }),
		"POST reset":         route(s.reset),
		"POST fail":          s.fail,
		"POST heal":          route(func(struct{}) (any, error) { server.Heal(); return nil, nil }),
		"POST connect":       route(s.connect),
		"POST revoke":        route(s.revoke),
		"POST rotate-secret": route(s.rotateSecret),
		"POST delete-app":    route(s.deleteApp),
		"POST consent":       route(s.consent),
		"GET clock":          route(s.time),
		"POST clock":         route(s.advance),
		"POST advance":       route(s.advance),
		"GET requests":       route(s.requests),
		"GET reasons":        route(s.reasons),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, isSteering := strings.CutPrefix(r.URL.Path, "/_fake/")
		if !isSteering {
			fake.ServeHTTP(w, r)
			return
		}
		var allowed []string
		for _, method := range [...]string{http.MethodGet, http.MethodPost} {
			if routes[method+" "+path] != nil {
				allowed = append(allowed, method)
			}
		}
		switch do := routes[strings.Replace(r.Method, http.MethodHead, http.MethodGet, 1)+" "+path]; {
		case do != nil:
			do(w, r)
		case len(allowed) > 0:
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			write(w, http.StatusMethodNotAllowed, fmt.Errorf("the route %s takes %s", path, strings.Join(allowed, " and ")))
		default:
			write(w, http.StatusNotFound, errors.New("no such route; -h lists them: health, reset, fail, heal, connect, revoke, rotate-secret, delete-app, consent, clock, requests, reasons"))
		}
	})
}

// route handles requests whose parameters are the members of T, a struct.
func route[T any](do func(asked T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		respond(w, func() (any, error) {
			var asked T
			if err := read(r, &asked); err != nil {
				return nil, err
			}
			return do(asked)
		})
	}
}

// respond writes what do returns. The package panics about what is wrong, with a text for the test's author.
func respond(w http.ResponseWriter, do func() (any, error)) {
	var result any
	err := misuse(func() (err error) {
		result, err = do()
		return err
	})
	var notKnown unknown
	switch {
	case errors.As(err, &notKnown):
		write(w, http.StatusNotFound, err)
	case err != nil:
		write(w, http.StatusBadRequest, err)
	case result == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		write(w, http.StatusOK, result)
	}
}

// misuse returns do's error, or as an error the text with which the package panics.
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

// read sets the members of into, a pointer to a struct, from the body and from the query. A body is JSON, whatever its Content-Type
// says of the text that it is; curl and fetch say something else unless they are told.
func read(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return errors.New("the body cannot be read")
	}
	members := make(map[string]any)
	switch mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case len(bytes.TrimSpace(body)) == 0:
	case !isObject(body) || json.Unmarshal(body, &members) != nil:
		return errors.New("the body is no JSON object; want one, or parameters in the query")
	case !slices.Contains([]string{"", "application/json", "application/x-www-form-urlencoded", "text/plain"}, mediaType):
		return fmt.Errorf("the body is a JSON object, and the header Content-Type says %q; want application/json", mediaType)
	}
	return readMembers(members, r.URL.RawQuery, into)
}

func isObject(body []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) }

// readMembers sets the members of into from JSON, and from a query.
func readMembers(members map[string]any, rawQuery string, into any) error {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return errors.New("the query does not decode")
	}
	for name, values := range query {
		if members[name] != nil || len(values) > 1 {
			return fmt.Errorf("%q is given twice", name)
		}
		members[name] = values[0]
		switch name {
		case "status", "times", "count", "drop", "hang", "takes_effect", "expired": // numbers and booleans
			members[name] = json.RawMessage(values[0])
		}
	}
	for name, value := range members {
		if name != "body" && (value == "" || value == nil) { // a variable of a shell that is not set, perhaps
			return fmt.Errorf("%q is empty", name)
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		return errors.New("a parameter is neither a number nor true or false")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func (s *steering) reset(struct{}) (any, error) {
	s.server.Reset()
	s.clock.ahead.Store(0)
	return nil, nil
}

// failure is what a test asks for.
type failure struct {
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
}

// fail takes a body as the response's where the query has a status and no reason.
func (s *steering) fail(w http.ResponseWriter, r *http.Request) {
	if query := r.URL.Query(); !query.Has("status") || query.Has("reason") {
		route(s.failNext)(w, r)
		return
	}
	respond(w, func() (any, error) {
		var asked failure
		if err := asked.readResponse(r); err != nil {
			return nil, err
		}
		return s.failNext(asked)
	})
}

func (s *steering) failNext(asked failure) (any, error) {
	next := applebusinesstest.Failure{
		Header: make(http.Header), Body: asked.Body, TakesEffect: asked.TakesEffect, Hang: asked.Hang, Drop: asked.Drop,
		Endpoint: asked.Endpoint, GrantType: asked.GrantType, ClientID: asked.ClientID, RefreshToken: asked.RefreshToken,
	}
	for name, value := range asked.Header {
		next.Header.Set(name, value)
	}
	if asked.Delay != "" {
		var err error
		if next.Delay, err = time.ParseDuration(asked.Delay); err != nil || next.Delay < 0 {
			return nil, errors.New("want a delay such as 2s")
		}
	}
	if times := cmp.Or(asked.Times, asked.Count); times != nil {
		next.Times = *times
		if *times == 0 || asked.Times != nil && asked.Count != nil {
			return nil, errors.New("want times (or count, which is the same) above 0, or below 0 for all requests")
		}
	}
	switch {
	case asked.Reason != "":
		entry, err := findRow(asked)
		if err != nil {
			return nil, err
		}
		next.Entry = entry
	case asked.Status != nil:
		next.StatusCode = *asked.Status
		if *asked.Status < 200 || *asked.Status > 999 {
			return nil, errors.New("want a status from 200 to 999, or with a reason 0 for a redirect")
		}
	case !asked.Drop && !asked.Hang && !asked.TakesEffect && next.Delay == 0:
		return nil, errors.New("want a reason, a status, drop, hang, or takes_effect with a delay")
	}
	s.server.FailNext(next)
	return nil, nil
}

// readResponse takes the query as what a test asks for, and the body and two headers as the response's.
func (f *failure) readResponse(r *http.Request) error {
	if err := readMembers(make(map[string]any), r.URL.RawQuery, f); err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	switch {
	case err != nil:
		return errors.New("the body cannot be read")
	case f.Body != "" && len(body) > 0:
		return errors.New("the response's body is given twice")
	case isObject(body):
		return errors.New("with status in the query a body is the response's, and this one is a JSON object; " +
			"want all of it in a JSON object, the response's body as its member body, and no query")
	}
	f.Body, f.Header = f.Body+string(body), make(map[string]string)
	for _, name := range [...]string{"Content-Type", "Retry-After"} {
		if value := r.Header.Get(name); value != "" && value != "application/x-www-form-urlencoded" { // curl says that unasked
			f.Header[name] = value
		}
	}
	return nil
}

// findRow returns the first row with the reason, and with the status and the endpoint if they are given. A status that Apple does
// not document for the reason is put into the first row of the token endpoint.
func findRow(asked failure) (applebusiness.Entry, error) {
	reason, status := asked.Reason, asked.Status
	var rows []applebusiness.Entry
	for entry := range applebusiness.Catalog() {
		if entry.Reason != reason || asked.Endpoint != "" && asked.Endpoint != entry.Endpoint {
			continue
		}
		if status == nil || entry.StatusCode == *status {
			return entry, nil
		}
		rows = append(rows, entry)
	}
	switch {
	case len(rows) == 0:
		var known []string
		for entry := range applebusiness.Catalog() {
			known = append(known, string(entry.Reason))
		}
		return applebusiness.Entry{}, unknown(fmt.Sprintf("no row has the reason %q; known are %s", string(reason), strings.Join(known, ", ")))
	case *status == 0:
		return applebusiness.Entry{}, fmt.Errorf("%q is no error of a redirect", string(reason))
	case *status < 200 || *status > 999:
		return applebusiness.Entry{}, errors.New("want a status from 200 to 999, or 0 for a redirect")
	}
	rows[0].StatusCode = *status
	return rows[0], nil
}

func (s *steering) connect(asked struct {
	ClientID string `json:"client_id"`
	Expired  bool   `json:"expired"`
}) (any, error) {
	connect := s.server.Connect
	if asked.Expired {
		connect = s.server.ConnectExpired
	}
	token := connect(cmp.Or(asked.ClientID, s.app.ClientID))
	return map[string]any{
		"access_token": token.AccessToken, "refresh_token": token.RefreshToken, "token_type": token.TokenType, "expires_in": token.ExpiresIn,
	}, nil
}

func (s *steering) revoke(asked struct {
	RefreshToken string `json:"refresh_token"`
}) (any, error) {
	if asked.RefreshToken == "" {
		return nil, errors.New("refresh_token is missing")
	}
	s.server.Revoke(asked.RefreshToken)
	return nil, nil
}

func (s *steering) rotateSecret(asked struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}) (any, error) {
	var given []string
	if asked.ClientSecret != "" {
		given = []string{asked.ClientSecret}
	}
	return map[string]string{"client_secret": s.server.RotateSecret(cmp.Or(asked.ClientID, s.app.ClientID), given...)}, nil
}

func (s *steering) deleteApp(asked struct {
	ClientID string `json:"client_id"`
}) (any, error) {
	s.server.DeleteApp(cmp.Or(asked.ClientID, s.app.ClientID))
	return nil, nil
}

func (s *steering) consent(asked struct {
	Consent string `json:"consent"`
}) (any, error) {
	var consent applebusinesstest.Consent
	if choose(&consent, asked.Consent, consents) != nil {
		return nil, unknown(fmt.Sprintf("no consent is %q; known are ask, allow and deny", asked.Consent))
	}
	s.server.SetConsent(consent)
	return nil, nil
}

func (s *steering) time(struct{}) (any, error) {
	return map[string]string{"now": s.clock.now().UTC().Format(time.RFC3339Nano)}, nil
}

func (s *steering) advance(asked struct {
	Advance  string `json:"advance"`
	Duration string `json:"duration"`
}) (any, error) {
	duration, err := time.ParseDuration(asked.Advance + asked.Duration)
	if err != nil || duration < 0 {
		return nil, errors.New("want a duration such as 6m")
	}
	s.clock.ahead.Add(int64(duration))
	return nil, nil
}

func (s *steering) requests(struct{}) (any, error) {
	type request struct {
		Endpoint    applebusiness.Endpoint `json:"endpoint"`
		Time        string                 `json:"time"`
		GrantType   string                 `json:"grant_type,omitempty"`
		ContentType string                 `json:"content_type"`
		Params      url.Values             `json:"params"`
		RequestID   string                 `json:"request_id"`
		Status      int                    `json:"status"`
	}
	list := []request{}
	for _, arrived := range s.server.Requests() {
		list = append(list, request{
			arrived.Endpoint, arrived.Time.UTC().Format(time.RFC3339Nano), arrived.GrantType, arrived.ContentType, arrived.Params, arrived.RequestID, arrived.StatusCode,
		})
	}
	return list, nil
}

func (s *steering) reasons(struct{}) (any, error) {
	type row struct {
		Reason      string                 `json:"reason"`
		Endpoint    applebusiness.Endpoint `json:"endpoint"`
		Status      int                    `json:"status"`
		Error       string                 `json:"error"`
		Description string                 `json:"error_description"`
	}
	var list []row
	for entry := range applebusiness.Catalog() {
		list = append(list, row{string(entry.Reason), entry.Endpoint, entry.StatusCode, string(entry.Code), entry.Description})
	}
	return list, nil
}
