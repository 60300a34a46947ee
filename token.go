package applebusiness

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

// The values of grant_type that Apple's token endpoint takes. A caller of [ParseTokenError] sets [Error.GrantType] to the
// one that was sent, before the error is given to [Troubleshoot].
const (
	GrantTypeAuthorizationCode = "authorization_code"
	GrantTypeRefreshToken      = "refresh_token"
	GrantTypeClientCredentials = "client_credentials"
)

// OAuth2Endpoint returns the endpoint for [oauth2.Config], with the paths of Apple's pages on the [authorization request]
// and the [token request]. Both base URLs are configuration, with or without a slash at the end: Apple mails the API's to
// the partner, one for each environment, and does not document the authorization page's. AuthStyle is AuthStyleInParams:
// with the zero value x/oauth2 reacts to a failure by sending the single-use code again.
//
// [authorization request]: https://business.apple.com/docs/api/v1/oauth_apps/request_auth_code
// [token request]: https://business.apple.com/docs/api/v1/oauth_apps/request_oauth20_token
func OAuth2Endpoint(authBaseURL, apiBaseURL string) oauth2.Endpoint {
	return oauth2.Endpoint{
		AuthURL:   strings.TrimRight(authBaseURL, "/") + "/oauth2/v1/authorize",
		TokenURL:  strings.TrimRight(apiBaseURL, "/") + "/api/v1/oauth2/token",
		AuthStyle: oauth2.AuthStyleInParams,
	}
}

// WithJSON returns a copy of ctx with which x/oauth2 sends JSON to tokenURL: by a [Transport] in a copy of the client that
// ctx holds under [oauth2.HTTPClient], or of [http.DefaultClient]. To apply WithJSON twice does no harm.
//
// That client must send a request once (see [Transport.Base]) and should have a Timeout, which http.DefaultClient has not.
// Give Config.TokenSource a context of the process: x/oauth2 keeps it, and after the end of a request's every refresh fails.
func WithJSON(ctx context.Context, tokenURL string) context.Context {
	client, _ := ctx.Value(oauth2.HTTPClient).(*http.Client)
	if client == nil {
		client = http.DefaultClient
	}
	wrapped := *client
	wrapped.Transport = &Transport{TokenURL: tokenURL, Base: client.Transport}
	return context.WithValue(ctx, oauth2.HTTPClient, &wrapped)
}

// Wrap returns an *Error around err if a failure of golang.org/x/oauth2 is anywhere in err's tree: an
// [*oauth2.RetrieveError], or a plain error, which becomes [ErrMalformedResponse], [ErrNoResponse] or [ErrNoRefreshToken].
// Anything else is returned unchanged: an error with an *Error in its tree, a context's or the network's error, nil.
//
// Wrap first, add context after: the text of the *Error is its own, so context that was added before does not show.
// errors.Is and errors.As still reach err. Of the request that failed, the *Error shows the grant_type and nothing else.
func Wrap(err error) error {
	if failed, ok := err.(*oauth2.RetrieveError); ok && failed == nil {
		return ParseTokenError(0, nil, nil) // without err, whose nil pointer panics when it is printed
	}
	var failed *oauth2.RetrieveError
	var plain *Error
	for _, node := range neterr.Tree(err) {
		switch node := node.(type) {
		case *Error:
			return err
		case *oauth2.RetrieveError:
			failed = cmp.Or(failed, node)
		case interface{ Unwrap() error }, interface{ Unwrap() []error }: // a plain one wraps nothing
		default:
			plain = cmp.Or(plain, plainError(neterr.Text(node)))
		}
	}
	e := plain
	if failed != nil {
		e = readRetrieveError(failed)
	}
	switch {
	case e == nil:
		return err
	case e.err != nil:
		e.err = errors.Join(err, e.err)
	default:
		e.err = err
	}
	return e
}

// readRetrieveError returns a new *Error for the response that failed holds.
func readRetrieveError(failed *oauth2.RetrieveError) *Error {
	response := cmp.Or(failed.Response, new(http.Response))
	if known := carried(response.Request); known != nil {
		e := *known // the other one is shared
		return &e
	}
	found := texts{Error: failed.ErrorCode, Description: failed.ErrorDescription, URI: failed.ErrorURI}
	return parseError(response.StatusCode, response.Header, failed.Body, readTokenRequest(response.Request), found)
}

// plainErrors are the errors of x/oauth2 that have no type, by the beginning of their text.
var plainErrors = map[string]Error{
	"oauth2: token expired and refresh token is not set": {
		Reason: ErrNoRefreshToken, detail: "the access token has expired and there is no refresh token", unsent: true,
	},
	"oauth2: server response missing access_token": {Reason: ErrMalformedResponse, detail: "the response holds no access_token"},
	"oauth2: cannot parse":                         {Reason: ErrMalformedResponse, detail: "the response is not JSON"},
	"oauth2: cannot fetch token":                   {Reason: ErrNoResponse, detail: "the response could not be read"},
}

// plainError returns an *Error for the text of one of plainErrors, else nil.
func plainError(text string) *Error {
	for beginning, e := range plainErrors {
		// What follows is a status if the text was a RetrieveError's.
		if after, found := strings.CutPrefix(text, beginning); found && strings.IndexAny(after, "0123456789") != len(": ") {
			e.Endpoint = TokenEndpoint
			return &e
		}
	}
	return nil
}

// oauth2Failure is the error with a type that Wrap looks for.
type oauth2Failure = *oauth2.RetrieveError

// TokenSource is an [oauth2.TokenSource] around another that makes failures an [*Error], saves tokens, and can stop sending
// requests that must fail.
//
// Set the fields before the first call of Token, and not after it. Callbacks run one at a time, in the goroutine that
// called Token; other calls wait, so a callback must not call Token of the same TokenSource. A panic in a callback or in
// Source reaches the caller of Token and leaves nothing locked.
//
// A TokenSource knows of no other process. Where several processes refresh one grant and refresh tokens are replaced, only
// the first one succeeds and the others are told "Invalid refresh_token": use package grants there.
type TokenSource struct {
	// Source is the source of tokens, such as oauth2.Config.TokenSource. Its calls are serialised unless only Source is set.
	Source oauth2.TokenSource
	// Stored is the token that is already saved: it is not reported to OnToken again.
	Stored *oauth2.Token
	// OnToken is called with a copy of each token whose access token, refresh token or expiry differs from the last one's,
	// before it is returned: save it. Token returns an error of OnToken's, and its next call saves again without a request.
	OnToken func(*oauth2.Token) error
	// OnError is called with each failure of Source, as Token will return it, network errors included, and not for those by
	// which Hold keeps Token from calling Source.
	OnError func(error)
	// Hold keeps Token from calling Source when that cannot succeed: after an error with [ActionReauthorize] for the life of
	// this value, so make a new one when the customer has reconnected; after one with a RetryAfter until that has passed,
	// returning a copy that shows the remaining wait. Nothing else holds: a wrong client secret heals when it is corrected.
	Hold bool

	mu      sync.Mutex
	last    *oauth2.Token // saved by OnToken
	unsaved *oauth2.Token // OnToken failed for it
	held    error
	until   time.Time // zero: held for good
}

// Format writes the type and none of its tokens, whatever the verb. It implements [fmt.Formatter].
func (*TokenSource) Format(state fmt.State, verb rune) {
	formatText(state, verb, "applebusiness.TokenSource")
}

// LogValue returns the type and none of its tokens. It implements [slog.LogValuer].
func (*TokenSource) LogValue() slog.Value { return slog.StringValue("applebusiness.TokenSource") }

// Token returns a copy of Source's token, since x/oauth2 writes into the tokens that it hands out. An error is what
// [Wrap] makes of Source's, or what OnToken returned; a text that cannot be a token (see [ParseTokenResponse]) is
// [ErrMalformedResponse], so that OnToken saves none over one that works.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	if s == nil || s.Source == nil {
		return nil, errors.New(prefix + "the TokenSource has no Source")
	}
	if s.OnToken == nil && s.OnError == nil && !s.Hold {
		return copyToken(s.Source)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsaved != nil {
		if token, err := s.save(s.unsaved); err != nil || token.Valid() {
			return token, err
		}
	}
	if err := s.holding(); err != nil {
		return nil, err
	}
	token, err := copyToken(s.Source)
	if err != nil {
		s.hold(err)
		if s.OnError != nil {
			s.OnError(err)
		}
		return nil, err
	}
	if s.OnToken == nil || isSameToken(token, cmp.Or(s.last, s.Stored)) {
		return token, nil
	}
	return s.save(token)
}

// save reports a copy of token to OnToken, and returns another copy if it was saved.
func (s *TokenSource) save(token *oauth2.Token) (*oauth2.Token, error) {
	s.unsaved = token // stays if OnToken fails or panics
	reported, returned := *token, *token
	if err := s.OnToken(&reported); err != nil {
		return nil, err
	}
	s.last, s.unsaved = token, nil
	return &returned, nil
}

// hold remembers err if it says that the next requests cannot succeed.
func (s *TokenSource) hold(err error) {
	e := find(err)
	switch {
	case !s.Hold:
	case Troubleshoot(err).Action == ActionReauthorize:
		s.held, s.until = err, time.Time{}
	case e != nil: // for no time at all, mostly
		s.held, s.until = err, time.Now().Add(e.RetryAfter)
	}
}

// holding returns the error of a call that Hold keeps from Source, or nil.
func (s *TokenSource) holding() error {
	wait := time.Until(s.until)
	switch {
	case s.until.IsZero():
		return s.held
	case wait <= 0:
		return nil
	}
	remaining := *find(s.held)
	remaining.RetryAfter, remaining.err = wait, s.held
	return &remaining
}

// copyToken returns a copy of source's token, or its error wrapped.
func copyToken(source oauth2.TokenSource) (*oauth2.Token, error) {
	token, err := source.Token()
	if err != nil {
		return nil, Wrap(err)
	}
	var detail string
	switch {
	case token == nil:
		detail = "the source returned no token"
	case token.AccessToken != "" && !isToken(token.AccessToken):
		detail = "the source returned an access token that is none"
	case token.RefreshToken != "" && !isToken(token.RefreshToken):
		detail = "the source returned a refresh token that is none"
	default:
		copied := *token
		return &copied, nil
	}
	return nil, &Error{Endpoint: TokenEndpoint, Reason: ErrMalformedResponse, detail: detail}
}

func isSameToken(a, b *oauth2.Token) bool {
	return b != nil && a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken && a.Expiry.Equal(b.Expiry)
}

// tokenRequest is the form that a token request carried, for its grant_type and for what has to be masked; empty if unknown.
type tokenRequest struct{ url.Values }

// readTokenRequest returns nothing for a request whose body cannot be had again.
func readTokenRequest(request *http.Request) tokenRequest {
	if request == nil || request.GetBody == nil {
		return tokenRequest{}
	}
	reader, err := request.GetBody()
	if err != nil || reader == nil {
		return tokenRequest{}
	}
	defer reader.Close()
	body, _ := readAll(reader, maxBody)
	form, _ := url.ParseQuery(strings.ReplaceAll(string(body), ";", "%3B")) // as far as it decodes
	if found, _ := decodeMembers(body); found != nil {
		form = make(url.Values)
		for name := range found {
			form.Set(name, found.text(name))
		}
	}
	return tokenRequest{form}
}

// grantType returns the grant_type, "" if there is none.
func (r tokenRequest) grantType() string { return redact.Cut(r.Get("grant_type"), maxCode) }

// mask returns at most limit bytes of text without the values of the request, but for the public grant_type and scope.
func (r tokenRequest) mask(text string, limit int) string {
	if text == "" {
		return ""
	}
	var secrets []string
	for name, values := range r.Values {
		if name != "grant_type" && name != "scope" {
			secrets = append(secrets, values...)
		}
	}
	return redact.Cut(redact.Values(text, secrets...), limit)
}

// publicRequest returns what of a token request may be seen by whoever gets its response: where it went, and the
// grant_type. It holds the failure that the response means, if there is one.
func publicRequest(r *http.Request, grantType string, failure *Error) *http.Request {
	form := url.Values{"grant_type": {grantType}}.Encode()
	public, _ := http.NewRequestWithContext(r.Context(), http.MethodPost, "", strings.NewReader(form))
	public.URL = &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: r.URL.Path, RawPath: r.URL.RawPath}
	public.Host, public.Response = r.Host, r.Response
	public.Header.Set("Content-Type", formType)
	public.Body = &publicBody{public.Body, failure}
	return public
}

// publicBody is the body of a public request, which keeps the failure where a RoundTripper copies the request.
type publicBody struct {
	io.ReadCloser
	failure *Error
}

// carried returns the failure that a public request holds, and nil for another request.
func carried(request *http.Request) *Error {
	if request != nil {
		if body, ok := request.Body.(*publicBody); ok {
			return body.failure
		}
	}
	return nil
}

// fitToken returns the body of a success, whose token is given, so that x/oauth2 reads the same token from it.
func fitToken(token *oauth2.Token, body []byte) []byte {
	fields, _ := decodeMembers(body)
	for name := range fields {
		switch strings.ToLower(name) { // x/oauth2 rejects the whole body if one of these has another type
		case "access_token", "token_type", "refresh_token", "expires_in", "error", "error_description", "error_uri":
			delete(fields, name)
		}
	}
	for name, value := range map[string]any{
		"access_token": token.AccessToken, "token_type": token.TokenType, "refresh_token": token.RefreshToken,
		"expires_in": cmp.Or(token.ExpiresIn, -1), // x/oauth2 takes 0 for a token that never expires
	} {
		if value != "" {
			fields[name], _ = json.Marshal(value)
		}
	}
	fitted, _ := json.Marshal(fields)
	return fitted
}

// fitError returns a body that x/oauth2 takes for the error that a 2xx without a token means.
func fitError(e *Error) []byte {
	fitted, _ := json.Marshal(texts{Error: cmp.Or(string(e.Code), string(e.Reason)), Description: e.Description, URI: e.URI})
	return fitted
}
