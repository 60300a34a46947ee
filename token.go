package applebusiness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/oauth2"
)

// The grants of Apple's token endpoint.
const (
	grantAuthorizationCode = "authorization_code"
	grantRefreshToken      = "refresh_token"
	grantClientCredentials = "client_credentials"
)

// OAuth2Endpoint returns the endpoint for [oauth2.Config]. Both base URLs are configuration: Apple mails the API's to
// the partner, one for each environment, and does not document the host of the authorization page. A trailing slash
// does no harm.
//
// AuthStyle is AuthStyleInParams: with the zero value x/oauth2 answers a failure by sending the single-use code again.
//
// Source: https://business.apple.com/docs/api/v1/oauth_apps/request_auth_code and
// https://business.apple.com/docs/api/v1/oauth_apps/request_oauth20_token
func OAuth2Endpoint(authBaseURL, apiBaseURL string) oauth2.Endpoint {
	return oauth2.Endpoint{
		AuthURL:   strings.TrimRight(authBaseURL, "/") + "/oauth2/v1/authorize",
		TokenURL:  strings.TrimRight(apiBaseURL, "/") + "/api/v1/oauth2/token",
		AuthStyle: oauth2.AuthStyleInParams,
	}
}

// WithJSON returns a context that makes x/oauth2 send JSON to endpoint's token URL: it puts a [Transport] around the
// client that ctx holds under [oauth2.HTTPClient], or around [http.DefaultClient]. That client is not changed, and its
// Timeout, Jar and CheckRedirect stay in force. Applying it twice is harmless.
//
// Give ctx a client with a Timeout, since http.DefaultClient has none. And give Config.TokenSource a context of the
// process, not of a request: x/oauth2 keeps it, and every refresh after the request's end would fail.
func WithJSON(ctx context.Context, endpoint oauth2.Endpoint) context.Context {
	if ctx == nil {
		ctx = context.Background()
	}
	client, _ := ctx.Value(oauth2.HTTPClient).(*http.Client)
	if client == nil {
		client = http.DefaultClient
	}
	wrapped := *client
	wrapped.Transport = &Transport{TokenURL: endpoint.TokenURL, Base: client.Transport}
	return context.WithValue(ctx, oauth2.HTTPClient, &wrapped)
}

// Transport is an [http.RoundTripper] that sends the form of a token request as JSON, the only content that Apple's
// token endpoint takes. [WithJSON] hands one to x/oauth2.
//
// It acts on POSTs of a form to TokenURL, and passes every other request to Base as it is. It refuses, with
// [ErrUnsafeTokenRequest] and nothing sent: HTTP Basic credentials (the first of the two requests by which x/oauth2
// finds out the AuthStyle; the second then is the only one), a repeated field, a form that does not decode, a body over
// 64 KiB, and whatever request a redirect of a token request caused, since it could carry the secrets elsewhere.
//
// The answer is read inside RoundTrip, 64 KiB at most, so that a failed read keeps its cause: io.ErrUnexpectedEOF,
// context.DeadlineExceeded. JSON under another Content-Type is labelled application/json. The zero Transport refuses
// every POST. A Transport is safe for concurrent use if Base is.
type Transport struct {
	// TokenURL is the token endpoint, compared by scheme, host and path. If it is empty or cannot be parsed, every POST
	// is refused rather than let a form pass.
	TokenURL string
	// Base sends the requests; nil means [http.DefaultTransport].
	Base http.RoundTripper
}

// RoundTrip implements [http.RoundTripper]. The response's Request is r.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r == nil || r.URL == nil {
		return nil, unsafeRequest("there is no request URL")
	}
	var tokenURL *url.URL
	if t != nil && t.TokenURL != "" {
		tokenURL, _ = url.Parse(t.TokenURL)
	}
	switch {
	case isRedirectOfTokenRequest(r, tokenURL):
		return refuse(r, "the token endpoint answered with a redirect")
	case r.Method != http.MethodPost:
		return t.base().RoundTrip(r)
	case tokenURL == nil:
		return refuse(r, "the Transport has no usable TokenURL")
	case !isSameEndpoint(r.URL, tokenURL):
		return t.base().RoundTrip(r)
	case hasBasicCredentials(r):
		return refuse(r, "it carries HTTP Basic credentials; Apple wants client_id and client_secret in the body")
	case !isForm(r.Header):
		return t.base().RoundTrip(r)
	}
	form, err := readForm(r)
	if err != nil {
		return nil, err
	}
	response, err := t.base().RoundTrip(jsonRequest(r, form))
	if err != nil {
		return nil, &requestError{err, form["grant_type"]}
	}
	body, err := readBody(response.Body)
	if err != nil {
		return nil, &requestError{err, form["grant_type"]}
	}
	body = trimBody(body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	response.ContentLength = int64(len(body))
	response.Request = r
	if start := bytes.TrimLeft(body, " \t\r\n"); len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		if response.Header == nil {
			response.Header = make(http.Header)
		}
		response.Header.Set("Content-Type", "application/json")
	}
	return response, nil
}

// CloseIdleConnections calls Base's method of that name, if it has one.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

func (t *Transport) base() http.RoundTripper {
	if t == nil || t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

func unsafeRequest(detail string) *Error {
	return &Error{Endpoint: TokenEndpoint, Reason: ErrUnsafeTokenRequest, detail: detail}
}

// refuse closes the body of r, as a RoundTripper must.
func refuse(r *http.Request, detail string) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return nil, unsafeRequest(detail)
}

// isRedirectOfTokenRequest reports whether r is what http.Client sends because a token request was redirected.
func isRedirectOfTokenRequest(r *http.Request, tokenURL *url.URL) bool {
	for cause := r.Response; cause != nil && cause.Request != nil; cause = cause.Request.Response {
		earlier := cause.Request
		if tokenURL != nil && earlier.Method == http.MethodPost && earlier.URL != nil && isSameEndpoint(earlier.URL, tokenURL) {
			return true
		}
	}
	return false
}

func isSameEndpoint(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) &&
		strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b) &&
		cmp.Or(a.EscapedPath(), "/") == cmp.Or(b.EscapedPath(), "/")
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case strings.EqualFold(u.Scheme, "http"):
		return "80"
	default:
		return "443"
	}
}

func hasBasicCredentials(r *http.Request) bool {
	scheme, _, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	return strings.EqualFold(scheme, "Basic")
}

func isForm(header http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return mediaType == "application/x-www-form-urlencoded"
}

// readForm returns the fields of a token request's body, and closes it.
func readForm(r *http.Request) (map[string]string, error) {
	fields := make(map[string]string)
	if r.Body == nil {
		return fields, nil
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, unsafeRequest("its body is larger than 64 KiB")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, unsafeRequest("its form does not decode")
	}
	for name, values := range form {
		if len(values) > 1 {
			return nil, unsafeRequest("a field of its form is repeated")
		}
		if !utf8.ValidString(name) || !utf8.ValidString(values[0]) {
			return nil, unsafeRequest("a field of its form is not UTF-8")
		}
		fields[name] = values[0]
	}
	return fields, nil
}

// jsonRequest returns a copy of r that carries fields as one flat JSON object.
func jsonRequest(r *http.Request, fields map[string]string) *http.Request {
	body, _ := json.Marshal(fields) // strings always marshal
	out := r.Clone(r.Context())
	out.Header.Set("Content-Type", "application/json")
	out.Header.Set("Accept", "application/json")
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	out.ContentLength = int64(len(body))
	out.TransferEncoding = nil
	return out
}

// requestError is the network's error for a token request that got no answer, and remembers the grant: an
// authorization code may be spent by then.
type requestError struct {
	error
	grantType string
}

func (e *requestError) Unwrap() error { return e.error }

// Timeout lets the *url.Error around e see a timeout, which it does not unwrap for.
func (e *requestError) Timeout() bool {
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.error)
	return ok && timeout.Timeout()
}

// CheckTokenRequest returns what Apple's token endpoint would answer to these fields as far as they alone show it: nil,
// or the errors.Join of an *Error for each mistake. Nothing is sent, and nothing calls it but you.
//
// It returns [ErrEmptyBody] for no fields at all; [ErrMissingFields] for a client_credentials request that lacks
// client_id, client_secret or scope; [ErrMissingParameter] for any other field that its grant needs;
// [ErrInvalidGrantType]; and [ErrScopeNotAccepted] for a Service Account's scope other than business_connect (Apple's
// error page) or business (another page of Apple's).
//
// Source: https://business.apple.com/docs/api/v1/oauth_apps/request_oauth20_token
func CheckTokenRequest(fields url.Values) error {
	if len(fields) == 0 {
		return documentedError(TokenEndpoint, ErrEmptyBody)
	}
	var errs []error
	add := func(e *Error) {
		e.GrantType = fields.Get("grant_type")
		errs = append(errs, e)
	}
	var required []string
	switch fields.Get("grant_type") {
	case grantAuthorizationCode:
		required = []string{"client_id", "client_secret", "code", "code_verifier", "redirect_uri"}
	case grantRefreshToken:
		required = []string{"client_id", "client_secret", "refresh_token"}
	case grantClientCredentials:
		scope := fields.Get("scope")
		if fields.Get("client_id") == "" || fields.Get("client_secret") == "" || scope == "" {
			add(documentedError(TokenEndpoint, ErrMissingFields))
		}
		if scope != "" && scope != "business_connect" && scope != "business" {
			add(documentedError(TokenEndpoint, ErrScopeNotAccepted))
		}
	case "":
		required = []string{"grant_type"}
	default:
		errs = append(errs, documentedError(TokenEndpoint, ErrInvalidGrantType))
	}
	for _, name := range required {
		if fields.Get(name) == "" {
			add(missingParameter(TokenEndpoint, name))
		}
	}
	return errors.Join(errs...)
}

// TokenSource is an [oauth2.TokenSource] around another: it turns failures into an [*Error], saves what has to be
// saved, and can stop asking what cannot be answered.
//
// Set the fields before the first call of Token and leave them alone after it. Token can be called concurrently.
// Callbacks run one at a time, in the goroutine that called Token; other calls wait for them. A callback must not call
// Token of the same TokenSource, it would wait for itself. A panic in a callback or in Source reaches the caller of
// Token and leaves nothing locked.
//
// In a fleet of processes that share a grant, use a [SharedTokenSource]: where refresh tokens are replaced, six processes
// with a TokenSource each see one success and five "Invalid refresh_token".
type TokenSource struct {
	// Source is the source of tokens, such as oauth2.Config.TokenSource. Where only Source is set, it must be safe for
	// concurrent use; else its calls are serialised.
	Source oauth2.TokenSource
	// Stored is the token that is already saved: it is not reported to OnToken again.
	Stored *oauth2.Token
	// OnToken is called with a copy of each token whose access token, refresh token or expiry differs from the last
	// one's, before that token is returned: save it. If it returns an error, Token returns that error, and the next
	// call of Token saves again, without a second request.
	OnToken func(*oauth2.Token) error
	// OnError is called with each failure that Source returned, as Token will return it, network errors included. It is
	// not called for what Hold answers.
	OnError func(error)
	// Hold keeps Token from calling Source when that cannot succeed: after an error with [ActionReauthorize] for the
	// life of this value, so make a new TokenSource when the customer has reconnected; after one with a RetryAfter
	// until that has passed, answering with a copy that shows the remaining wait. Nothing else holds: a wrong client
	// secret, for one, heals when it is corrected.
	Hold bool

	mu      sync.Mutex
	last    *oauth2.Token // saved by OnToken
	unsaved *oauth2.Token // OnToken failed for it
	held    error
	until   time.Time // zero: held for good
}

// Token returns a copy of Source's token, since x/oauth2 writes into the tokens that it hands out. An error is what
// [Wrap] makes of Source's, or what OnToken returned.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	if s == nil || s.Source == nil {
		return nil, errNoSource
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
	e, _ := errors.AsType[*Error](err)
	switch {
	case !s.Hold:
	case Troubleshoot(err).Action == ActionReauthorize:
		s.held, s.until = err, time.Time{}
	case e != nil && e.RetryAfter > 0:
		s.held, s.until = err, time.Now().Add(e.RetryAfter)
	}
}

// holding returns the answer to a call that Hold keeps from Source, or nil.
func (s *TokenSource) holding() error {
	if s.held == nil || s.until.IsZero() {
		return s.held
	}
	wait := time.Until(s.until)
	if wait <= 0 {
		s.held = nil
		return nil
	}
	e, _ := errors.AsType[*Error](s.held)
	answer := *e
	answer.RetryAfter, answer.err = wait, s.held
	return &answer
}

// A Store keeps one grant's token where every process of the partner's service sees it.
//
// Update calls refresh with the stored token while no other process runs Update for the same grant, stores the token
// that refresh returns if it differs, and returns it. An error of refresh is returned as it is, after what the Store
// wants to record of it. Update must not call refresh once it has returned.
//
// A Store that has recorded that the grant needs reconnecting, or holds no token, calls refresh with nil: a process
// that could not store its newest token then gets rid of it, and any other has [ErrNoRefreshToken] returned.
type Store interface {
	Update(ctx context.Context, refresh func(ctx context.Context, stored *oauth2.Token) (*oauth2.Token, error)) (*oauth2.Token, error)
}

const (
	refreshTimeout = 30 * time.Second
	updateTimeout  = 3 * refreshTimeout // waiting for a sibling's refresh, then refreshing, then storing
	earlyExpiry    = 10 * time.Second   // as x/oauth2 has it in Token.Valid
	maxJitter      = 5 * time.Minute
)

// SharedTokenSource is an [oauth2.TokenSource] for one grant that many processes refresh: whoever comes first sends the
// one request, and the others use its token. [NewSharedTokenSource] makes one; it is safe for concurrent use.
type SharedTokenSource struct {
	ctx    context.Context
	config *oauth2.Config
	store  Store

	mu        sync.Mutex
	current   *oauth2.Token // as last returned by the Store
	refreshAt time.Time     // for current; zero: never
	bad       string        // the access token that Invalidate named
	unsaved   *oauth2.Token // fetched, not stored yet
	replaced  string        // the refresh token that fetched it
	dead      string        // the refresh token that deadErr is about
	deadErr   error
}

// NewSharedTokenSource returns a SharedTokenSource for the grant in store. The context must come from [WithJSON] and
// live as long as the process: no call starts after its end, but a refresh that has begun is finished, since its
// answer may hold the only refresh token that lives.
func NewSharedTokenSource(ctx context.Context, config *oauth2.Config, store Store) *SharedTokenSource {
	return &SharedTokenSource{ctx: ctx, config: config, store: store}
}

// Token returns a copy of the grant's token. While the one in memory is valid, that costs no call of the Store; it
// counts as expired up to 5 minutes early, by a random part of its remaining life, so that a deployment does not
// refresh all its grants in the same second.
//
// In the Store's Update, a stored token that is valid is used: a sibling was first. Else one request is sent with the
// stored refresh token, 30 seconds long at most, and a refresh token that the answer lacks is kept. A token that was
// fetched and could not be stored is offered to the Store again at the next call, before anything is sent. After an
// error with [ActionReauthorize] nothing is sent until the stored refresh token is another one. If a refresh before the
// expiry fails and [Retryable] is true, the token in memory is returned once more.
//
// An error is an [*Error] where Apple answered, else the network's or the Store's own. Token waits for the Store for 90
// seconds at most.
func (s *SharedTokenSource) Token() (*oauth2.Token, error) {
	if s == nil || s.ctx == nil || s.config == nil || s.store == nil {
		return nil, errNoStore
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isUsable(s.current) {
		return s.currentCopy(), nil
	}
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	offering := s.unsaved != nil
	err := s.update()
	if err == nil && offering && !s.isUsable(s.current) {
		err = s.update() // what has been stored at last is expired by now
	}
	if err != nil && (!s.current.Valid() || s.current.AccessToken == s.bad || !Retryable(err)) {
		return nil, err
	}
	return s.currentCopy(), nil
}

// Invalidate says that the API answered 401 to token although it has not expired. The next call of Token refreshes it,
// unless a sibling has done so already. A token other than the one in memory is ignored, as is nil. Invalidate waits for
// a call of Token that is under way.
func (s *SharedTokenSource) Invalidate(token *oauth2.Token) {
	if s == nil || token == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.AccessToken == token.AccessToken {
		s.bad = token.AccessToken
	}
}

func (s *SharedTokenSource) update() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), updateTimeout)
	defer cancel()
	token, err := s.store.Update(ctx, s.refresh)
	if err != nil {
		return Wrap(err)
	}
	if token == nil {
		return errNoStoredToken
	}
	s.unsaved = nil
	if s.current == nil || s.current.AccessToken != token.AccessToken || !s.current.Expiry.Equal(token.Expiry) {
		s.refreshAt = refreshTime(token.Expiry)
	}
	copied := *token
	s.current = &copied
	return nil
}

// refresh is what the Store calls, in Token's time.
func (s *SharedTokenSource) refresh(_ context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
	if s.unsaved != nil && (stored == nil || stored.RefreshToken == s.replaced) {
		copied := *s.unsaved
		return &copied, nil
	}
	s.unsaved = nil
	switch {
	case s.isUsable(stored):
		return stored, nil
	case stored == nil || stored.RefreshToken == "":
		return nil, &Error{Endpoint: TokenEndpoint, Reason: ErrNoRefreshToken, detail: "the Store holds no refresh token"}
	case stored.RefreshToken == s.dead:
		return nil, s.deadErr
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), refreshTimeout)
	defer cancel()
	token, err := copyToken(s.config.TokenSource(ctx, &oauth2.Token{RefreshToken: stored.RefreshToken}))
	if err != nil {
		if Troubleshoot(err).Action == ActionReauthorize {
			s.dead, s.deadErr = stored.RefreshToken, err
		}
		return nil, err
	}
	s.unsaved, s.replaced, s.bad = token, stored.RefreshToken, ""
	copied := *token
	return &copied, nil
}

// isUsable reports whether token can be returned without a refresh.
func (s *SharedTokenSource) isUsable(token *oauth2.Token) bool {
	if !token.Valid() || token.AccessToken == s.bad {
		return false
	}
	isCurrent := s.current != nil && s.current.AccessToken == token.AccessToken
	return !isCurrent || s.refreshAt.IsZero() || time.Now().Before(s.refreshAt)
}

func (s *SharedTokenSource) currentCopy() *oauth2.Token {
	copied := *s.current
	return &copied
}

// refreshTime returns when a token is refreshed: before it is expired, by up to a tenth of the time that is left.
func refreshTime(expiry time.Time) time.Time {
	if expiry.IsZero() {
		return time.Time{}
	}
	jitter := min(time.Until(expiry)/10, maxJitter)
	if jitter <= 0 {
		return expiry
	}
	return expiry.Add(-earlyExpiry - rand.N(jitter))
}

var (
	errNoStore       = errors.New(prefix + "the SharedTokenSource lacks a context, a config or a Store")
	errNoStoredToken = errors.New(prefix + "the Store returned neither a token nor an error")
)

// copyToken returns a copy of source's token, or its error wrapped.
func copyToken(source oauth2.TokenSource) (*oauth2.Token, error) {
	token, err := source.Token()
	if err != nil {
		return nil, Wrap(err)
	}
	if token == nil {
		return nil, &Error{Endpoint: TokenEndpoint, Reason: ErrMalformedResponse, detail: "the source returned no token"}
	}
	copied := *token
	return &copied, nil
}

func isSameToken(a, b *oauth2.Token) bool {
	return a != nil && b != nil &&
		a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken && a.Expiry.Equal(b.Expiry)
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
