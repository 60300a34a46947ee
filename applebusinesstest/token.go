package applebusinesstest

import (
	"bytes"
	"encoding/json"
	"io"
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
	return response{
		status: status,
		header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}},
		body:   string(encoded),
	}
}

// errorResponse is a row of the token endpoint's table on the wire.
func errorResponse(entry applebusiness.Entry) response {
	return jsonResponse(entry.StatusCode, struct {
		Error       applebusiness.Code `json:"error"`
		Description string             `json:"error_description,omitempty"`
	}{entry.Code, entry.Description})
}

// catalogResponse is the first row of the token endpoint's table that is about a reason.
func catalogResponse(reason applebusiness.Reason) response {
	return errorResponse(findEntry(applebusiness.TokenEndpoint, reason, 0))
}

// findEntry returns the catalog's first row for an endpoint, a reason and, unless it is 0, a status.
func findEntry(endpoint applebusiness.Endpoint, reason applebusiness.Reason, status int) applebusiness.Entry {
	for entry := range applebusiness.Catalog() {
		if entry.Endpoint == endpoint && entry.Reason == reason && (status == 0 || status == entry.StatusCode) {
			return entry
		}
	}
	return applebusiness.Entry{Endpoint: endpoint, StatusCode: http.StatusBadRequest, Code: applebusiness.CodeInvalidRequest}
}

func missingParameter(name string) string {
	return strings.Replace(applebusiness.ErrMissingParameter.Description(), "<parameter name>", name, 1)
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request, requestID string) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxBody)) // one that breaks off or is longer does not decode
	contentType := r.Header.Get("Content-Type")
	mediaType, _, _ := mime.ParseMediaType(contentType)
	params, isObject := decodeParams(mediaType, body)
	grantType := params.Get("grant_type")
	now := s.now()

	s.mu.Lock()
	arrived := s.record(Request{
		Endpoint: applebusiness.TokenEndpoint, Time: now, GrantType: grantType, ContentType: contentType, Params: params, RequestID: requestID,
	})
	var failure Failure
	fails, isAdmitted := false, s.admit(now)
	if isAdmitted {
		failure, fails = s.next(selector{applebusiness.TokenEndpoint, grantType, params.Get("client_id"), params.Get("refresh_token")})
	}
	var sent response
	switch {
	case !isAdmitted:
		sent = response{status: http.StatusTooManyRequests, header: http.Header{"Retry-After": {"1"}}}
	case fails && !failure.TakesEffect: // and so the request has no effect
	case len(bytes.TrimSpace(body)) == 0:
		sent = catalogResponse(applebusiness.ErrEmptyBody)
	case !isObject:
		sent = catalogResponse(applebusiness.ErrUnsupportedMediaType)
	default:
		sent = s.judgeToken(params, now)
	}
	s.mu.Unlock()
	s.send(w, r, failure, sent, arrived)
}

// admit says whether a token request is within the RateLimit; s.mu is held.
func (s *Server) admit(now time.Time) bool {
	if s.options.RateLimit == 0 {
		return true
	}
	s.admitted = slices.DeleteFunc(s.admitted, func(t time.Time) bool { return now.Sub(t) >= time.Second })
	if len(s.admitted) >= s.options.RateLimit {
		return false
	}
	s.admitted = append(s.admitted, now)
	return true
}

// send writes a response, or what a failure makes of it, and keeps its status in the request, unless that is nil.
func (s *Server) send(w http.ResponseWriter, r *http.Request, failure Failure, sent response, request *Request) {
	if failure.StatusCode != 0 {
		sent = response{failure.StatusCode, failure.Header, failure.Body}
	}
	if failure.Hang {
		<-r.Context().Done()
	}
	isWaiting := pause(r, failure.Delay)
	if failure.Hang || failure.Drop {
		panic(http.ErrAbortHandler) // net/http breaks the connection
	}
	if !isWaiting {
		return
	}
	if request != nil {
		s.mu.Lock()
		request.StatusCode = sent.status
		s.mu.Unlock()
	}
	for name, values := range sent.header {
		for _, value := range values {
			w.Header().Add(name, value)
		}
	}
	w.WriteHeader(sent.status)
	if s.options.Trickle == 0 || r.URL.Path != tokenPath {
		_, _ = io.WriteString(w, sent.body)
		return
	}
	for i := range len(sent.body) {
		_ = http.NewResponseController(w).Flush() // the header at first
		if !pause(r, s.options.Trickle) {
			return
		}
		_, _ = io.WriteString(w, sent.body[i:i+1])
	}
}

// pause waits, and returns false if nobody waits for the response any more.
func pause(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-timer.C:
		return r.Context().Err() == nil
	}
}

// decodeParams returns the members of a JSON object that are strings. A form is decoded too, since a request that is
// refused is still recorded.
func decodeParams(mediaType string, body []byte) (params url.Values, isObject bool) {
	if mediaType != "application/json" {
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

// judgeToken judges the parameters of a token request; s.mu is held.
func (s *Server) judgeToken(params url.Values, now time.Time) response {
	if reason, parameter := checkParams(params); reason != "" {
		entry := findEntry(applebusiness.TokenEndpoint, reason, 0)
		if parameter != "" {
			entry.Description = missingParameter(parameter)
		}
		return errorResponse(entry)
	}
	clientID, grantType := params.Get("client_id"), params.Get("grant_type")
	registered, ok := s.clients[clientID]
	switch {
	case !ok:
		return catalogResponse(applebusiness.ErrInvalidClientID)
	case registered.secret != params.Get("client_secret"):
		return catalogResponse(applebusiness.ErrInvalidCredentials)
	case registered.serviceAccount != (grantType == applebusiness.GrantTypeClientCredentials):
		return errorResponse(applebusiness.Entry{StatusCode: http.StatusBadRequest, Code: applebusiness.CodeUnauthorizedClient})
	}
	switch grantType {
	case applebusiness.GrantTypeAuthorizationCode:
		return s.redeemCode(params, now)
	case applebusiness.GrantTypeRefreshToken:
		return s.refresh(params, now)
	}
	return jsonResponse(http.StatusOK, s.issue(s.newGrant(clientID), "", now))
}

// checkParams returns the Reason for which Apple's documentation has a token request with these parameters refused before
// any of them is looked up, and the parameter that is missing; "" for none.
//
// Documentation: https://business.apple.com/docs/api/v1/oauth_apps/request_oauth20_token
func checkParams(params url.Values) (reason applebusiness.Reason, parameter string) {
	if len(params) == 0 {
		return applebusiness.ErrEmptyBody, ""
	}
	var required []string
	switch params.Get("grant_type") {
	case applebusiness.GrantTypeAuthorizationCode:
		required = []string{"client_id", "client_secret", "code", "code_verifier", "redirect_uri"}
	case applebusiness.GrantTypeRefreshToken:
		required = []string{"client_id", "client_secret", "refresh_token"}
	case applebusiness.GrantTypeClientCredentials:
		switch scope := params.Get("scope"); {
		case params.Get("client_id") == "" || params.Get("client_secret") == "" || scope == "":
			return applebusiness.ErrMissingFields, ""
		case scope != "business_connect" && scope != "business": // Apple's error page has the first, another page the second
			return applebusiness.ErrScopeNotAccepted, ""
		}
	case "":
		required = []string{"grant_type"}
	default:
		return applebusiness.ErrInvalidGrantType, ""
	}
	for _, name := range required {
		if params.Get(name) == "" {
			return applebusiness.ErrMissingParameter, name
		}
	}
	return "", ""
}
