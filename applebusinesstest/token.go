package applebusinesstest

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// response is what the token endpoint or the resource API sends.
type response struct {
	status int
	header http.Header
	body   string
}

func jsonResponse(status int, body any) response {
	encoded, _ := json.Marshal(body) // only this package's own structs of strings and numbers
	return response{status, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, string(encoded)}
}

// errorResponse is a row of the token endpoint's table on the wire.
func errorResponse(entry applebusiness.Entry) response {
	return jsonResponse(entry.StatusCode, struct {
		Error       applebusiness.Code `json:"error"`
		Description string             `json:"error_description,omitempty"`
	}{entry.Code, entry.Description})
}

// catalogResponse is the first row of the token endpoint's table that is about a reason and, unless it is 0, has the status.
func catalogResponse(reason applebusiness.Reason, status int) response {
	return errorResponse(findEntry(applebusiness.TokenEndpoint, reason, status))
}

// findEntry returns the catalog's first row about a reason; an endpoint or a status that is not zero has to be the row's too.
func findEntry(endpoint applebusiness.Endpoint, reason applebusiness.Reason, status int) applebusiness.Entry {
	for entry := range applebusiness.Catalog() {
		if entry.Reason == reason && (endpoint == "" || endpoint == entry.Endpoint) && (status == 0 || status == entry.StatusCode) {
			return entry
		}
	}
	return applebusiness.Entry{}
}

func missingParameter(name string) string {
	return strings.Replace(applebusiness.ErrMissingParameter.Description(), "<parameter name>", name, 1)
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 64<<10)) // one that breaks off or is longer does not decode
	contentType := r.Header.Get("Content-Type")
	params, isObject := decodeParams(contentType, body)
	grantType := params.Get("grant_type")
	now := s.now()

	s.mu.Lock()
	arrived := s.record(Request{
		Endpoint: applebusiness.TokenEndpoint, Time: now, GrantType: grantType, ContentType: contentType, Params: params, RequestID: w.Header().Get(requestIDHeader),
	})
	failure, fails := s.limit(now)
	if !fails {
		failure, fails = s.next(Failure{
			Endpoint: applebusiness.TokenEndpoint, GrantType: grantType, ClientID: params.Get("client_id"), RefreshToken: params.Get("refresh_token"),
		})
	}
	var sent response
	switch {
	case fails && !failure.TakesEffect: // and so the request has no effect
	case len(bytes.TrimSpace(body)) == 0:
		sent = catalogResponse(applebusiness.ErrEmptyBody, 0)
	case !isObject:
		sent = catalogResponse(applebusiness.ErrUnsupportedMediaType, 0)
	default:
		sent = s.judgeToken(params, now)
	}
	s.mu.Unlock()
	s.send(w, r, failure, sent, arrived)
}

// limit fails a token request that is above the RateLimit; s.mu is held.
func (s *Server) limit(now time.Time) (failure Failure, fails bool) {
	s.admitted = slices.DeleteFunc(s.admitted, func(t time.Time) bool { return now.Sub(t) >= time.Second })
	if len(s.admitted) < s.options.RateLimit {
		s.admitted = append(s.admitted, now)
		return Failure{}, false
	}
	return Failure{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}, s.options.RateLimit > 0
}

// send writes a response, or what a failure makes of it, and keeps its status in the request.
func (s *Server) send(w http.ResponseWriter, r *http.Request, failure Failure, sent response, request *Request) {
	if failure.StatusCode != 0 {
		sent = response{failure.StatusCode, failure.Header, failure.Body}
	}
	if failure.Hang {
		<-r.Context().Done()
	}
	isLeft := failure.Delay > 0 && !pause(r, failure.Delay)
	if failure.Hang || failure.Drop || isLeft {
		panic(http.ErrAbortHandler) // net/http breaks the connection; a return would be an empty 200
	}
	s.mu.Lock()
	request.StatusCode = sent.status
	s.mu.Unlock()
	maps.Copy(w.Header(), sent.header)
	w.WriteHeader(sent.status)
	if s.options.Trickle == 0 || r.URL.Path != tokenPath {
		_, _ = io.WriteString(w, sent.body)
		return
	}
	for i := range len(sent.body) {
		_ = http.NewResponseController(w).Flush() // the header at first
		if !pause(r, s.options.Trickle) {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, sent.body[i:i+1])
	}
}

// pause waits, and returns false if nobody waits for the response any more.
func pause(r *http.Request, d time.Duration) bool {
	select {
	case <-r.Context().Done():
	case <-time.After(d):
	}
	return r.Context().Err() == nil
}

// decodeParams returns the string members of a JSON object, and of a form too: a request that is refused is still recorded.
func decodeParams(contentType string, body []byte) (params url.Values, isObject bool) {
	if mediaType, _, _ := mime.ParseMediaType(contentType); mediaType != "application/json" {
		params, _ = url.ParseQuery(string(body))
		return params, false
	}
	var members map[string]any
	err := json.Unmarshal(body, &members)
	params = url.Values{}
	for name, value := range members {
		if text, ok := value.(string); ok {
			params.Set(name, text)
		}
	}
	return params, err == nil && members != nil
}

// requiredParams are those of each grant_type, in the order in which they are missed.
var requiredParams = map[string][]string{
	"":                                       {"grant_type"},
	applebusiness.GrantTypeAuthorizationCode: {"client_id", "client_secret", "code", "code_verifier", "redirect_uri"},
	applebusiness.GrantTypeRefreshToken:      {"client_id", "client_secret", "refresh_token"},
	applebusiness.GrantTypeClientCredentials: {"client_id", "client_secret", "scope"},
}

// judgeToken judges a token request; s.mu is held. See https://business.apple.com/docs/api/v1/oauth_apps/request_oauth20_token.
func (s *Server) judgeToken(params url.Values, now time.Time) response {
	clientID, grantType, scope := params.Get("client_id"), params.Get("grant_type"), params.Get("scope")
	isService := grantType == applebusiness.GrantTypeClientCredentials
	required, isGrantType := requiredParams[grantType]
	missing := slices.IndexFunc(required, func(name string) bool { return params.Get(name) == "" })
	registered, isRegistered := s.clients[clientID]
	switch {
	case len(params) == 0:
		return catalogResponse(applebusiness.ErrEmptyBody, 0)
	case !isGrantType:
		return catalogResponse(applebusiness.ErrInvalidGrantType, 0)
	case missing >= 0 && isService:
		return catalogResponse(applebusiness.ErrMissingFields, 0)
	case missing >= 0:
		entry := findEntry(applebusiness.TokenEndpoint, applebusiness.ErrMissingParameter, 0)
		entry.Description = missingParameter(required[missing])
		return errorResponse(entry)
	case isService && scope != "business_connect" && scope != "business": // Apple's error page has the first, another page the second
		return catalogResponse(applebusiness.ErrScopeNotAccepted, 0)
	case !isRegistered:
		return catalogResponse(applebusiness.ErrInvalidClientID, 0)
	case registered.ClientSecret != params.Get("client_secret"):
		return catalogResponse(applebusiness.ErrInvalidCredentials, 0)
	case registered.serviceAccount != isService:
		return errorResponse(applebusiness.Entry{StatusCode: http.StatusBadRequest, Code: applebusiness.CodeUnauthorizedClient})
	case isService:
		return jsonResponse(http.StatusOK, s.issue(s.newGrant(clientID), "", now, 0))
	case grantType == applebusiness.GrantTypeRefreshToken:
		return s.refresh(params, now)
	}
	return s.redeemCode(params, now)
}
