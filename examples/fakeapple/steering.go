package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
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

// asked is what a request asks for, by names that are those of the JSON without the underscores: a Failure, of which some fields
// are said in other words, and what the other routes take.
type asked struct {
	applebusinesstest.Failure
	Reason                   applebusiness.Reason
	Status, Times, Count     *int // Count is another word for Times
	Header                   map[string]string
	Delay, Advance, Duration string // of the last two, one word is as good as the other
	Expired                  bool
	ClientSecret, Consent    string
}

// routes are the methods and paths below /_fake/, with the members of asked that each takes.
var routes = []struct{ method, path, members string }{
	{"GET", "health", ""},
	{"POST", "reset", ""},
	{"POST", "fail", "reason status header body times count delay drop hang takes_effect endpoint grant_type client_id refresh_token"},
	{"POST", "heal", ""},
	{"POST", "connect", "client_id expired"},
	{"POST", "revoke", "refresh_token"},
	{"POST", "rotate-secret", "client_id client_secret"},
	{"POST", "delete-app", "client_id"},
	{"POST", "consent", "consent"},
	{"GET", "clock", ""},
	{"POST", "clock", "advance duration"},
	{"POST", "advance", "advance duration"},
	{"GET", "requests", ""},
	{"GET", "reasons", ""},
}

// do does what is asked of a route; a nil result is nothing to say.
func (s *program) do(route string, asked asked) (result any, err error) {
	clientID := cmp.Or(asked.ClientID, s.app.ClientID)
	switch route {
	case "GET health":
		return map[string]string{"status": "ok"}, nil
	case "POST reset":
		s.server.Reset()
		s.ahead.Store(0)
	case "POST fail":
		return nil, s.fail(asked)
	case "POST heal":
		s.server.Heal()
	case "POST connect":
		connect := s.server.Connect
		if asked.Expired {
			connect = s.server.ConnectExpired
		}
		token := connect(clientID)
		return map[string]any{
			"access_token": token.AccessToken, "refresh_token": token.RefreshToken, "token_type": token.TokenType, "expires_in": token.ExpiresIn,
		}, nil
	case "POST revoke":
		if asked.RefreshToken == "" {
			return nil, errors.New("refresh_token is missing")
		}
		s.server.Revoke(asked.RefreshToken)
	case "POST rotate-secret":
		return map[string]string{"client_secret": s.server.RotateSecret(clientID, cmp.Or(asked.ClientSecret, rand.Text()))}, nil
	case "POST delete-app":
		s.server.DeleteApp(clientID)
	case "POST consent":
		consent := slices.Index(consents, asked.Consent)
		if consent < 0 {
			return nil, fmt.Errorf("no consent is %q; known are ask, allow and deny", asked.Consent)
		}
		s.server.SetConsent(applebusinesstest.Consent(consent))
	case "GET clock":
		return map[string]time.Time{"now": s.now()}, nil
	case "POST clock", "POST advance":
		duration, err := time.ParseDuration(cmp.Or(asked.Advance, asked.Duration))
		if err != nil || duration < 0 || asked.Advance != "" && asked.Duration != "" {
			return nil, errors.New("want a duration such as 6m")
		}
		s.ahead.Add(int64(duration))
	case "GET requests":
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
	case "GET reasons":
		var list []map[string]any
		for e := range applebusiness.Catalog() {
			list = append(list, map[string]any{
				"reason": e.Reason, "endpoint": e.Endpoint, "status": e.StatusCode, "error": e.Code, "error_description": e.Description,
			})
		}
		return list, nil
	}
	return nil, nil
}

// now is ahead of the wall clock by what a test has asked for.
func (s *program) now() time.Time { return time.Now().UTC().Add(time.Duration(s.ahead.Load())) }

// unknown is what is said of a route, label, client or token that is not known.
var unknown = regexp.MustCompile("^no (such route|row has|consent is)|is not registered|was not issued here|has no customers")

// ServeHTTP has the routes for tests beside the fake's.
func (s *program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, isSteering := strings.CutPrefix(r.URL.Path, "/_fake/")
	if !isSteering {
		s.fake.ServeHTTP(w, r)
		return
	}
	status := http.StatusOK
	result, err := s.steer(w.Header(), r, path)
	switch {
	case err == nil && result == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	case w.Header().Get("Allow") != "":
		status = http.StatusMethodNotAllowed
	case err != nil && unknown.MatchString(err.Error()):
		status = http.StatusNotFound
	case err != nil:
		status = http.StatusBadRequest
	}
	if err != nil {
		result = map[string]string{"error": "fakeapple: " + err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result)
}

// steer does what a request asks of a path.
func (s *program) steer(header http.Header, r *http.Request, path string) (result any, err error) {
	defer misuse(&err)
	var paths, allowed []string
	for _, route := range routes {
		paths = append(paths, route.path)
		switch {
		case route.path != path:
		case route.method == strings.Replace(r.Method, http.MethodHead, http.MethodGet, 1):
			asked, err := read(r, path, strings.Fields(route.members))
			if err != nil {
				return nil, err
			}
			return s.do(route.method+" "+path, asked)
		default:
			allowed = append(allowed, route.method)
		}
	}
	if len(allowed) == 0 {
		return nil, fmt.Errorf("no such route; -h lists them: %s", strings.Join(slices.Compact(paths), ", "))
	}
	header.Set("Allow", strings.Join(allowed, ", "))
	return nil, fmt.Errorf("the route %s takes %s", path, strings.Join(allowed, " and "))
}

// misuse makes an error of a panic of the package, which has a text for a test's author.
func misuse(err *error) {
	switch problem := recover().(type) {
	case nil:
	case string:
		*err = errors.New(goNames.Replace(strings.TrimPrefix(problem, "applebusinesstest: ")))
	default:
		panic(problem)
	}
}

// goNames replaces the package's names by those of the flags and of the steering.
var goNames = strings.NewReplacer(
	"FailNext: ", "", "Options: ", "",
	"AccessTokenLife", "-access-token-life", "RefreshTokenLife", "-refresh-token-life", "KeepRefreshToken", "-keep-refresh-token",
	"OmitRefreshToken", "-omit-refresh-token", "GracePeriod", "-grace-period", "RateLimit", "-rate-limit", "Trickle", "-trickle",
	"an Entry", "a reason", "Entry", "reason", "StatusCode", "status", "Header", "header", "Body", "body", "TakesEffect", "takes_effect",
	"Delay", "delay", "Hang", "hang", "Drop", "drop", "Endpoint", "endpoint", "GrantType", "grant_type", "RefreshToken", "refresh_token",
)

// read returns what a request to a path asks for in its query, and in its body if that is a JSON object, whose Content-Type may be
// what curl and fetch say of a text. The body of fail?status=503 is the response's, as two of its headers are.
func read(r *http.Request, path string, names []string) (into asked, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 1<<20))
	query, queryErr := url.ParseQuery(r.URL.RawQuery)
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isObject := bytes.HasPrefix(bytes.TrimSpace(body), []byte("{"))
	members := make(map[string]any)
	switch isResponse := path == "fail" && query.Has("status") && !query.Has("reason"); {
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
		case !slices.Contains(names, name):
			return into, fmt.Errorf("unknown field %q", name)
		case name != "body" && (value == "" || value == nil): // a variable of a shell that is not set, perhaps
			return into, fmt.Errorf("%q is empty", name)
		case set(value) != nil && (number == "null" || set(json.RawMessage(number)) != nil):
			return into, fmt.Errorf("%q has a value of the wrong type", name)
		}
	}
	return into, nil
}

func (s *program) fail(asked asked) (err error) {
	row, known := findRow(asked)
	times := cmp.Or(asked.Times, asked.Count, new(1))
	next := asked.Failure
	next.Entry, next.Times, next.Header = row, *times, make(http.Header)
	next.Delay, err = time.ParseDuration(cmp.Or(asked.Delay, "0"))
	for name, value := range asked.Header {
		next.Header.Set(name, value)
	}
	switch {
	case err != nil:
		return errors.New("want a delay such as 2s")
	case *times == 0 || asked.Times != nil && asked.Count != nil:
		return errors.New("want times (or count, which is the same) above 0, or below 0 for all requests")
	case row.Reason != asked.Reason:
		return fmt.Errorf("no row has the reason %q; known are %s", string(asked.Reason), strings.Join(known, ", "))
	case asked.Status == nil && asked.Reason == "" && !next.Drop && !next.Hang && !next.TakesEffect && next.Delay == 0:
		return errors.New("want a reason, a status, drop, hang, or takes_effect with a delay")
	case asked.Status == nil:
	case *asked.Status == 0 && row.Endpoint != applebusiness.AuthorizationEndpoint:
		return errors.New("want a status from 200 to 999, or 0 with a reason of a redirect")
	case asked.Reason != "": // FailNext refuses one that no response can have
		next.Entry.StatusCode = *asked.Status
	default:
		next.StatusCode = *asked.Status
	}
	s.server.FailNext(next)
	return nil
}

// findRow returns the row with the reason, and all reasons. Of two it is the one with the status or of the endpoint that is asked for,
// and else the first.
func findRow(asked asked) (row applebusiness.Entry, known []string) {
	for entry := range applebusiness.Catalog() {
		known = append(known, string(entry.Reason))
		fits := asked.Status != nil && entry.StatusCode == *asked.Status || entry.Endpoint == asked.Endpoint && row.Endpoint != asked.Endpoint
		if entry.Reason == asked.Reason && (row.Reason == "" || fits) {
			row = entry
		}
	}
	return row, known
}
