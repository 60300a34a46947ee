package applebusiness

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"golang.org/x/oauth2"
)

// TokenSource is an [oauth2.TokenSource] around another, whose failures it turns into an [*Error].
type TokenSource struct {
	// Source is the source of tokens, such as oauth2.Config.TokenSource. It must be safe for concurrent use.
	Source oauth2.TokenSource
}

// Token returns a copy of Source's token: x/oauth2 writes into the tokens that it hands out. An error is what [Wrap]
// makes of Source's. Token is as safe for concurrent use as Source.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	if s == nil || s.Source == nil {
		return nil, errNoSource
	}
	token, err := s.Source.Token()
	if err != nil {
		return nil, Wrap(err)
	}
	if token == nil {
		return nil, &Error{Endpoint: TokenEndpoint, Reason: ErrMalformedResponse, detail: "the source returned no token"}
	}
	copied := *token
	return &copied, nil
}

var errNoSource = errors.New(prefix + "the TokenSource has no Source")

// requestGrantType returns the grant_type of a token request, and "" if it cannot be had. It looks at nothing else:
// the rest of the request is secret.
func requestGrantType(request *http.Request) string {
	if request == nil || request.GetBody == nil {
		return ""
	}
	reader, err := request.GetBody()
	if err != nil {
		return ""
	}
	body, err := readBody(reader)
	if err != nil {
		return ""
	}
	var fields struct {
		GrantType string `json:"grant_type"`
	}
	if json.Unmarshal(body, &fields) == nil {
		return cut(fields.GrantType, maxCode)
	}
	form, _ := url.ParseQuery(string(body))
	return cut(form.Get("grant_type"), maxCode)
}
