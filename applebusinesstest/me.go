package applebusinesstest

import (
	"fmt"
	"net/http"
	"strings"
)

// serveMe says which organisation an access token belongs to, or sends an error in the resource API's dialect.
func (s *Server) serveMe(w http.ResponseWriter, r *http.Request) {
	scheme, name, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	now := s.now()
	s.mu.Lock()
	token, ok := s.accessTokens[name]
	ok = ok && strings.EqualFold(scheme, "Bearer")
	asked := selector{endpoint: MeEndpoint}
	if ok {
		asked.clientID = token.grant.clientID
	}
	failure, _ := s.next(asked)
	ok = ok && now.Before(token.expires) && !token.grant.dead
	s.mu.Unlock()
	sent := jsonResponse(http.StatusUnauthorized, []any{map[string]any{
		"code": "Unauthorized", "message": "Expired Token", "details": map[string]string{"header": "Authorization"},
	}})
	if ok {
		sent = jsonResponse(http.StatusOK, map[string]any{
			"user": map[string]string{"firstName": "Jane", "lastName": "Appleseed"},
			"orgDetails": map[string]string{
				"orgId":     fmt.Sprintf("org-%d", token.grant.organisation),
				"legalName": fmt.Sprintf("Example Company %d", token.grant.organisation),
			},
		})
	}
	s.send(w, r, failure, sent, nil)
}
