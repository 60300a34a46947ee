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
	token := s.accessTokens[name]
	if token == nil || !strings.EqualFold(scheme, "Bearer") {
		token = &credential{grant: &grant{dead: true}}
	}
	failure, _ := s.next(Failure{Endpoint: MeEndpoint, ClientID: token.grant.clientID})
	ok := !isOver(token.expires, now) && !token.grant.dead
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
	s.send(w, r, failure, sent, new(Request))
}
