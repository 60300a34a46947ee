package applebusinesstest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// response is what the token endpoint or the resource API sends.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) write(w http.ResponseWriter) {
	for name, values := range r.header {
		for _, value := range values {
			w.Header().Add(name, value)
		}
	}
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, r.body)
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
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	params, isObject := decodeParams(mediaType, body)
	now := s.now()

	s.mu.Lock()
	s.record(applebusiness.TokenEndpoint, params, requestID)
	var sent response
	failure, fails := next(&s.tokenFailures)
	switch {
	case fails && !failure.TakesEffect:
		sent = response{failure.StatusCode, failure.Header, failure.Body}
	case len(bytes.TrimSpace(body)) == 0:
		sent = catalogResponse(applebusiness.ErrEmptyBody)
	case !isObject:
		sent = catalogResponse(applebusiness.ErrUnsupportedMediaType)
	default:
		sent = s.judgeToken(params, now)
	}
	s.mu.Unlock()
	delay := time.NewTimer(failure.Delay)
	defer delay.Stop()
	if failure.Hang {
		delay.Stop()
	}
	select {
	case <-delay.C:
	case <-r.Context().Done():
	}
	if failure.Hang || failure.Drop {
		panic(http.ErrAbortHandler) // net/http breaks the connection
	}
	sent.write(w)
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
	registered := s.clients[clientID]
	switch {
	case registered == nil:
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

// redeemCode is for grant_type authorization_code; s.mu is held.
func (s *Server) redeemCode(params url.Values, now time.Time) response {
	code := s.codes[params.Get("code")]
	valid := code != nil && !code.used && now.Before(code.expires) && !code.grant.dead &&
		code.grant.clientID == params.Get("client_id") &&
		code.redirectURI == params.Get("redirect_uri") &&
		code.challenge == oauth2.S256ChallengeFromVerifier(params.Get("code_verifier"))
	if code != nil {
		code.used = true
	}
	if !valid {
		return errorResponse(findEntry(applebusiness.TokenEndpoint, applebusiness.ErrInvalidRefreshToken, http.StatusBadRequest))
	}
	return jsonResponse(http.StatusOK, s.issue(code.grant, rand.Text(), now))
}

// refresh is for grant_type refresh_token; s.mu is held.
func (s *Server) refresh(params url.Values, now time.Time) response {
	name := params.Get("refresh_token")
	token := s.refreshTokens[name]
	if token == nil || !token.dies.IsZero() && !now.Before(token.dies) || token.grant.dead || token.grant.clientID != params.Get("client_id") {
		return errorResponse(findEntry(applebusiness.TokenEndpoint, applebusiness.ErrInvalidRefreshToken, http.StatusUnauthorized))
	}
	if !s.options.KeepRefreshToken {
		if token.dies.IsZero() {
			token.dies = now.Add(max(s.options.GracePeriod, 0))
		}
		name = rand.Text()
	}
	return jsonResponse(http.StatusOK, s.issue(token.grant, name, now))
}

// tokens is the token endpoint's success.
type tokens struct {
	AccessToken  string `json:"access_token"`
	ExpiresIn    int64  `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	TokenType    string `json:"token_type"`
}

// issue gives a grant a new access token, and a refresh token unless that is ""; s.mu is held.
func (s *Server) issue(to *grant, refresh string, now time.Time) tokens {
	issued := tokens{
		AccessToken:  rand.Text(),
		ExpiresIn:    int64(s.options.AccessTokenLife / time.Second),
		RefreshToken: refresh,
		TokenType:    "Bearer",
	}
	s.accessTokens[issued.AccessToken] = accessToken{grant: to, expires: now.Add(s.options.AccessTokenLife)}
	if refresh != "" {
		s.refreshTokens[refresh] = &refreshToken{grant: to}
	}
	return issued
}

// serveMe says which organisation an access token belongs to, or sends an error in the resource API's dialect.
func (s *Server) serveMe(w http.ResponseWriter, r *http.Request) {
	scheme, name, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	now := s.now()
	s.mu.Lock()
	token, ok := s.accessTokens[name]
	ok = ok && strings.EqualFold(scheme, "Bearer") && now.Before(token.expires) && !token.grant.dead
	s.mu.Unlock()
	if !ok {
		jsonResponse(http.StatusUnauthorized, []any{map[string]any{
			"code": "Unauthorized", "message": "Expired Token", "details": map[string]string{"header": "Authorization"},
		}}).write(w)
		return
	}
	jsonResponse(http.StatusOK, map[string]any{
		"user": map[string]string{"firstName": "Jane", "lastName": "Appleseed"},
		"orgDetails": map[string]string{
			"orgId":     fmt.Sprintf("org-%d", token.grant.organisation),
			"legalName": fmt.Sprintf("Example Company %d", token.grant.organisation),
		},
	}).write(w)
}
