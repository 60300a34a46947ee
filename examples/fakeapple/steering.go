package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
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
	mux := http.NewServeMux()
	handle := func(pattern string, do func(r *http.Request) (any, error)) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /_fake/"+path, func(w http.ResponseWriter, r *http.Request) { respond(w, r, do) })
	}
	handle("GET health", func(*http.Request) (any, error) { return map[string]string{"status": "ok"}, nil })
	handle("POST reset", s.reset)
	handle("POST fail", s.fail)
	handle("POST heal", func(*http.Request) (any, error) { s.server.Heal(); return nil, nil })
	handle("POST connect", s.connect)
	handle("POST revoke", s.revoke)
	handle("POST rotate-secret", s.rotateSecret)
	handle("POST delete-app", s.deleteApp)
	handle("POST consent", s.consent)
	handle("GET clock", s.time)
	handle("POST clock", s.advance)
	handle("POST advance", s.advance)
	handle("GET requests", s.requests)
	handle("GET reasons", s.reasons)
	mux.HandleFunc("/_fake/", func(w http.ResponseWriter, r *http.Request) {
		respond(w, r, func(*http.Request) (any, error) {
			return nil, unknown("no such route; -h lists them: health, reset, fail, heal, connect, revoke, rotate-secret, delete-app, consent, clock, requests, reasons")
		})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_fake/") {
			mux.ServeHTTP(w, r)
			return
		}
		fake.ServeHTTP(w, r) // not behind the mux, which would redirect a path that is not clean
	})
}

// respond writes what do returns. The package panics about what it does not know, with a text for the test's author.
func respond(w http.ResponseWriter, r *http.Request, do func(*http.Request) (any, error)) {
	result, err := func() (result any, err error) {
		defer func() {
			if text, ok := recover().(string); ok {
				err = unknown(strings.TrimPrefix(text, "applebusinesstest: "))
			}
		}()
		return do(r)
	}()
	status := http.StatusOK
	var notKnown unknown
	switch {
	case errors.As(err, &notKnown):
		status = http.StatusNotFound
	case err != nil:
		status = http.StatusBadRequest
	case result == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err != nil {
		result = map[string]string{"error": "fakeapple: " + err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result)
}

// read sets the members of into, a pointer to a struct, from the body if that is JSON, and from the query.
func read(r *http.Request, into any) error {
	members := make(map[string]any)
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType == "application/json" {
		decoder := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
		if err := decoder.Decode(&members); err != nil && !errors.Is(err, io.EOF) {
			return errors.New("the body is no JSON object")
		}
	}
	return readMembers(members, r.URL.Query(), into)
}

// readMembers sets the members of into from JSON, and from a query.
func readMembers(members map[string]any, query url.Values, into any) error {
	for name, values := range query {
		members[name] = values[0]
		switch name {
		case "status", "count", "drop", "hang", "takes_effect", "expired": // numbers and booleans
			members[name] = json.RawMessage(values[0])
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		return errors.New("a parameter is neither a number nor true or false")
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func (s *steering) reset(*http.Request) (any, error) {
	s.server.Reset()
	s.clock.ahead.Store(0)
	return nil, nil
}

// failure is what a test asks for.
type failure struct {
	Reason      applebusiness.Reason `json:"reason"`
	Status      *int                 `json:"status"`
	Header      map[string]string    `json:"header"`
	Body        string               `json:"body"`
	Count       int                  `json:"count"`
	Delay       string               `json:"delay"`
	Drop        bool                 `json:"drop"`
	Hang        bool                 `json:"hang"`
	TakesEffect bool                 `json:"takes_effect"`
}

func (s *steering) fail(r *http.Request) (any, error) {
	var asked failure
	if query := r.URL.Query(); query.Has("status") && !query.Has("reason") { // the body is the response's
		if err := readMembers(make(map[string]any), query, &asked); err != nil {
			return nil, err
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return nil, errors.New("the body cannot be read")
		}
		asked.Body, asked.Header = string(body), make(map[string]string)
		for _, name := range [...]string{"Content-Type", "Retry-After"} {
			if value := r.Header.Get(name); value != "" {
				asked.Header[name] = value
			}
		}
	} else if err := read(r, &asked); err != nil {
		return nil, err
	}
	next := applebusinesstest.Failure{
		Body: asked.Body, Times: asked.Count, Drop: asked.Drop, Hang: asked.Hang, TakesEffect: asked.TakesEffect, Header: make(http.Header),
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
	switch {
	case asked.Status != nil && *asked.Status != 0 && (*asked.Status < 200 || *asked.Status > 999):
		return nil, errors.New("want a status from 200 to 999, or 0 for a redirect")
	case asked.Reason != "":
		entry, err := findRow(asked.Reason, asked.Status)
		if err != nil {
			return nil, err
		}
		next.Entry = entry
	case asked.Status != nil && *asked.Status != 0:
		next.StatusCode = *asked.Status
	case !asked.Drop && !asked.Hang && !asked.TakesEffect:
		return nil, errors.New("want a reason, a status, drop, hang or takes_effect")
	}
	s.server.FailNext(next)
	return nil, nil
}

// findRow returns the first row with the reason, and with the status if that is given. A status that Apple does not document for
// the reason is put into the first row of the token endpoint.
func findRow(reason applebusiness.Reason, status *int) (applebusiness.Entry, error) {
	var rows []applebusiness.Entry
	for entry := range applebusiness.Catalog() {
		if entry.Reason != reason {
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
	}
	rows[0].StatusCode = *status
	return rows[0], nil
}

// target is what concerns the app, or another client.
type target struct {
	ClientID string `json:"client_id"`
	Expired  bool   `json:"expired"`
}

func (s *steering) target(r *http.Request) (target, error) {
	to := target{ClientID: s.app.ClientID}
	return to, read(r, &to)
}

func (s *steering) connect(r *http.Request) (any, error) {
	to, err := s.target(r)
	if err != nil {
		return nil, err
	}
	connect := s.server.Connect
	if to.Expired {
		connect = s.server.ConnectExpired
	}
	token := connect(to.ClientID)
	life := token.ExpiresIn
	if to.Expired {
		life = 0
	}
	return map[string]any{
		"access_token": token.AccessToken, "refresh_token": token.RefreshToken, "token_type": token.TokenType, "expires_in": life,
	}, nil
}

func (s *steering) revoke(r *http.Request) (any, error) {
	var asked struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if asked.RefreshToken == "" {
		return nil, errors.New("refresh_token is missing")
	}
	s.server.Revoke(asked.RefreshToken)
	return nil, nil
}

func (s *steering) rotateSecret(r *http.Request) (any, error) {
	to, err := s.target(r)
	if err != nil {
		return nil, err
	}
	return map[string]string{"client_secret": s.server.RotateSecret(to.ClientID)}, nil
}

func (s *steering) deleteApp(r *http.Request) (any, error) {
	to, err := s.target(r)
	if err == nil {
		s.server.DeleteApp(to.ClientID)
	}
	return nil, err
}

func (s *steering) consent(r *http.Request) (any, error) {
	var asked struct {
		Consent string `json:"consent"`
	}
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	var consent applebusinesstest.Consent
	if choose(&consent, asked.Consent, consents) != nil {
		return nil, unknown(fmt.Sprintf("no consent is %q; known are ask, allow and deny", asked.Consent))
	}
	s.server.SetConsent(consent)
	return nil, nil
}

func (s *steering) time(*http.Request) (any, error) {
	return map[string]string{"now": s.clock.now().UTC().Format(time.RFC3339Nano)}, nil
}

func (s *steering) advance(r *http.Request) (any, error) {
	var asked struct {
		Advance  string `json:"advance"`
		Duration string `json:"duration"`
	}
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	duration, err := time.ParseDuration(asked.Advance + asked.Duration)
	if err != nil || duration < 0 {
		return nil, errors.New("want a duration such as 6m")
	}
	s.clock.ahead.Add(int64(duration))
	return nil, nil
}

func (s *steering) requests(*http.Request) (any, error) {
	type request struct {
		Endpoint  applebusiness.Endpoint `json:"endpoint"`
		GrantType string                 `json:"grant_type,omitempty"`
		Params    url.Values             `json:"params"`
		RequestID string                 `json:"request_id"`
	}
	list := []request{}
	for _, arrived := range s.server.Requests() {
		list = append(list, request{arrived.Endpoint, arrived.GrantType, arrived.Params, arrived.RequestID})
	}
	return list, nil
}

func (s *steering) reasons(*http.Request) (any, error) {
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
