package applebusinesstest

import (
	"net/http"
	"net/url"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// Request is a request that arrived at one of the two endpoints.
type Request struct {
	Endpoint    applebusiness.Endpoint
	Time        time.Time  // of its arrival, by Options.Now
	GrantType   string     // of a token request
	ContentType string     // the header Content-Type, as it was sent
	Params      url.Values // the query, or the members of the body; secrets are replaced by "REDACTED"
	RequestID   string     // the apple-request-id of the response
	StatusCode  int        // of the response; 0: there was none, or not yet
}

// Requests returns what arrived at the two endpoints so far, through HTTP or Authorize, in order. What the user does on
// the consent page is not among it.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var requests []Request
	for i, request := range s.requests {
		requests = append(requests, *request)
		requests[i].Params = cloneValues(request.Params)
	}
	return requests
}

// record keeps a request without its secrets; s.mu is held.
func (s *Server) record(request Request) *Request {
	request.Params = cloneValues(request.Params)
	for _, secret := range [...]string{"client_secret", "code", "code_verifier", "refresh_token"} {
		for i := range request.Params[secret] {
			request.Params[secret][i] = "REDACTED"
		}
	}
	s.requests = append(s.requests, &request)
	return &request
}

func cloneValues(values url.Values) url.Values { return url.Values(http.Header(values).Clone()) }
