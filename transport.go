package applebusiness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// Transport is an [http.RoundTripper] that sends the form of a token request as JSON, the only content that Apple's
// token endpoint takes, and gives each failure a type. [WithJSON] hands one to x/oauth2.
//
// It acts on POSTs of a form to TokenURL, and passes other requests to Base as they are. With [ErrUnsafeTokenRequest] and
// nothing sent it refuses what could carry a secret to where it does not belong: a form with a grant_type that goes to
// TokenURL's host but not to TokenURL itself (a slash more, other letters, another port), plain http to a host that is not
// loopback, HTTP Basic credentials (x/oauth2 tries them first to find out the AuthStyle, and then goes without), a repeated
// field, a form that does not decode, and one over 64 KiB. No redirect of a token request is followed: the response loses
// its Location, which http.Client would show in an error, and a request that such a redirect caused is refused with
// [ErrMalformedResponse] and the status of the redirect.
//
// A token request has a connection of its own, and asks for no encoding. A kept connection can be dead without a word or
// lead to a server that fails, and a refresh that times out on it may have spent its refresh token. Each costs a handshake.
//
// A whole response is returned whatever its status, read inside RoundTrip: 1 MiB of a 2xx and 64 KiB of any other. One that
// breaks off is returned if it is no 2xx, or if what came is a whole JSON object with an access token. Otherwise the error
// is an *Error with [ErrNoResponse], the grant_type and, for errors.Is, the cause. RoundTrip ends before its request's
// deadline, by a quarter of the time left and half a second at most: there http.Client replaces its error by a poorer one.
//
// x/oauth2 loses what it does not expect, so the body that it gets is made to fit: a gzip is read, JSON is labelled
// application/json, a token is as [ParseTokenResponse] reads it, and a 2xx that holds none gets an "error" member. The
// response's Request holds the URL and the grant_type, and none of the secrets. In the texts of the *Error that are not of
// the catalog, values of the request of 8 bytes and more, other than grant_type and scope, stand as ***.
//
// The zero Transport refuses every POST. A Transport is safe for concurrent use if Base is; it must not be copied.
type Transport struct {
	// TokenURL is compared by scheme, host, port and path. Unless it is an absolute http or https URL, every POST is refused.
	TokenURL string
	// Base sends the requests; nil means [http.DefaultTransport]. Of an *http.Transport the settings are used (but not what
	// RegisterProtocol added) and no kept connection; another RoundTripper is told by Request.Close to keep none. A
	// Transport that would be its own Base, also through another RoundTripper, returns an error.
	//
	// Base must send a request once: whoever sends a refresh again spends the refresh token, whose successor was in the lost
	// response, and reports the refusal of the second. So do, as they come, go-retryablehttp, failsafe-go, resty v2 and
	// heimdall. Where Base supports net/http/httptrace, a refusal after a second write has [Error.ResponseLost].
	Base http.RoundTripper
	// OnError is called for each token request that failed, but not for a refused Basic one, before RoundTrip returns, in
	// its goroutine, and maybe concurrently. It is for libraries that hide why, such as zitadel/oidc, goth, rclone and
	// oauth2-proxy: give them an http.Client with this Transport.
	OnError func(*Error)

	forwarding atomic.Int32 // requests that are forwarded at the moment

	mu           sync.Mutex
	like, unkept *http.Transport // Base, and one like it without its connections, which keeps none
}

// Format writes the type and nothing of what it holds, whatever the verb. It implements [fmt.Formatter].
func (*Transport) Format(state fmt.State, verb rune) {
	formatText(state, verb, "applebusiness.Transport")
}

// LogValue returns the type and nothing of what it holds. It implements [slog.LogValuer].
func (*Transport) LogValue() slog.Value { return slog.StringValue("applebusiness.Transport") }

// ownBase marks the context of a request that a Transport has sent, to find one that is its own Base.
type ownBase struct{ t *Transport }

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r == nil || r.URL == nil {
		return nil, unsafeRequest("there is no request URL")
	}
	if r.Context().Value(ownBase{t}) != nil {
		return drop(r, unsafeRequest("the Transport is its own Base: set Base to another RoundTripper"))
	}
	endpoint := t.endpoint()
	if first := redirectOfToken(r, endpoint); first != nil {
		return drop(r, t.report(redirectRefused(first, first.Request)))
	}
	isToken, failure := judge(r, endpoint)
	switch {
	case failure != nil:
		return drop(r, t.report(failure))
	case !isToken:
		return t.forward(r, t.base())
	case headerBegins(r.Header, "Authorization", "Basic"):
		// Not reported: x/oauth2 sends the request again, as it should be.
		return drop(r, unsafeRequest("it carries HTTP Basic credentials; Apple wants client_id and client_secret in the body"))
	case !isForm(r):
		response, err := t.forward(r, t.unkeptBase())
		if response != nil && isRedirect(response) {
			response = t.withFailure(r, response, redirectRefused(response, r))
		}
		return response, err
	}
	form, failure := readForm(r)
	if failure != nil {
		return drop(r, t.report(failure))
	}
	response, failure := t.send(r, form)
	if failure != nil {
		failure.Endpoint, failure.GrantType = TokenEndpoint, form.grantType() // a new *Error, nobody has it yet
		return nil, t.report(failure)
	}
	return response, nil
}

// judge reports whether r is a POST to the token endpoint, or returns why it must not be sent: what is not quite one fails.
func judge(r *http.Request, endpoint place) (isToken bool, failure *Error) {
	target := placeOf(r.URL)
	switch {
	case endpoint == place{} && isPost(r):
		return false, unsafeRequest("the Transport has no usable TokenURL")
	case endpoint == place{}, target.host != endpoint.host:
		return false, nil
	case isPost(r) && target.path == endpoint.path && target.scheme != endpoint.scheme:
		return false, unsafeRequest("its scheme is not the TokenURL's")
	case !isPost(r) || target != endpoint:
		return false, lookForGrantType(r)
	case target.scheme == "http" && !target.isLoopback():
		return false, unsafeRequest("plain http would show its secrets; use https, which only loopback may do without")
	}
	return true, nil
}

// lookForGrantType returns why r must not be sent if it is a form with a grant_type, or one that cannot be read.
func lookForGrantType(r *http.Request) *Error {
	if !isForm(r) {
		return nil
	}
	body, failure := readBody(r)
	if body != nil { // a RoundTripper may consume a body, and the next one has to find it whole
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	for piece := range strings.FieldsFuncSeq(string(body), func(r rune) bool { return r == '&' || r == ';' }) {
		name, _, _ := strings.Cut(piece, "=")
		if name, _ = url.QueryUnescape(name); strings.EqualFold(strings.TrimSpace(name), "grant_type") {
			return unsafeRequest("a form with a grant_type goes to the TokenURL's host, and not to the TokenURL itself")
		}
	}
	return failure
}

// send sends a token request and returns a whole response, or why there is none.
func (t *Transport) send(r *http.Request, form tokenRequest) (*http.Response, *Error) {
	if err := r.Context().Err(); err != nil {
		return nil, &Error{Reason: ErrNoResponse, detail: "the context had ended before anything was sent", err: err, ended: true, unsent: true}
	}
	var looked, connected atomic.Bool // for a connection; it had one
	var writes atomic.Int32           // several where Base sends again
	ctx, cancel := earlierDeadline(context.WithValue(r.Context(), ownBase{t}, true))
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { looked.Store(true) },
		GotConn:      func(httptrace.GotConnInfo) { connected.Store(true) },
		WroteHeaders: func() { writes.Add(1) },
	})
	out := jsonRequest(ctx, r, form)
	base := t.unkeptBase()
	if _, ok := base.(*http.Transport); ok {
		pace(out)
	}
	response, err := base.RoundTrip(out)
	if response != nil && (err == nil || response.StatusCode != 0) {
		return t.finish(response, r, form, writes.Load() > 1)
	}
	if e := find(err); e != nil { // another Transport's
		copied := *e
		return nil, &copied
	}
	if err == nil {
		return nil, &Error{Reason: ErrNoResponse, detail: strings.TrimPrefix(errNoResult.Error(), prefix), err: errNoResult}
	}
	failed := neterr.Of(err)
	e := &Error{Reason: ErrNoResponse, detail: failed.Words, err: err, unsent: !connected.Load() && (failed.Unsent || looked.Load())}
	if e.unsent {
		e.detail += nothingSent
	}
	return nil, e
}

// finish rewrites the response to r so that x/oauth2 decodes it, or returns why there is none if it breaks off.
func (t *Transport) finish(response *http.Response, r *http.Request, sent tokenRequest, again bool) (*http.Response, *Error) {
	if response.Header == nil {
		response.Header = make(http.Header)
	}
	body, token, failure := parseResponse(response, sent)
	if token != nil {
		response.Request = publicRequest(r, sent.grantType(), nil)
		return withBody(response, fitToken(token, body)), nil
	}
	failure.ResponseLost = again && failure.isDeadGrant()
	switch {
	case isSuccess(response.StatusCode) && failure.Reason == ErrNoResponse:
		return nil, failure
	case isSuccess(response.StatusCode):
		body = fitError(failure)
	case isRedirect(response) && failure.Reason == ErrMalformedResponse:
		failure.detail = redirected
	}
	return withBody(t.withFailure(r, response, failure), body), nil
}

// withFailure reports failure, and returns response with it, and without what would make http.Client follow a redirect.
func (t *Transport) withFailure(r *http.Request, response *http.Response, failure *Error) *http.Response {
	response.Header.Del("Location")
	t.report(failure)
	response.Request = publicRequest(r, failure.GrantType, failure)
	return response
}

// forward hands a request to base as it is.
func (t *Transport) forward(r *http.Request, base http.RoundTripper) (*http.Response, error) {
	sent := r
	if _, ok := base.(*http.Transport); !ok { // it may lead back to t, which shows at the second pass
		defer t.forwarding.Add(-1)
		if t.forwarding.Add(1) > 1 {
			sent = r.WithContext(context.WithValue(r.Context(), ownBase{t}, true))
		}
	}
	response, err := base.RoundTrip(sent)
	switch {
	case response == nil && err == nil:
		return nil, errNoResult
	case response != nil && (response.Request == nil || response.Request == sent):
		response.Request = r // a redirect is judged by it
	}
	return response, err
}

var errNoResult = errors.New(prefix + "the Transport's Base returned neither a response nor an error")

// CloseIdleConnections calls Base's method of that name, if it has one.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok && base != any(t) {
		base.CloseIdleConnections()
	}
}

func (t *Transport) base() http.RoundTripper { return cmp.Or(t.Base, http.DefaultTransport) }

// unkeptBase returns Base, or one like it that keeps no connections: Request.Close would take one that an API request left.
func (t *Transport) unkeptBase() http.RoundTripper {
	base, ok := t.base().(*http.Transport)
	if !ok {
		return t.base()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.like != base {
		t.like, t.unkept = base, base.Clone()
		t.unkept.DisableKeepAlives = true
		if base.TLSNextProto["h2"] != nil { // it has base's connections of HTTP/2
			t.unkept.TLSNextProto, t.unkept.ForceAttemptHTTP2 = nil, true
		}
	}
	return t.unkept
}

// pace makes net/http wait before it sends r again: what HTTP/2 refuses unprocessed, each time on a new connection.
func pace(r *http.Request) {
	getBody, wait := r.GetBody, 50*time.Millisecond
	r.GetBody = func() (io.ReadCloser, error) {
		select {
		case <-time.After(wait):
			wait *= 2
			return getBody()
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func (t *Transport) report(failure *Error) *Error {
	if t.OnError != nil {
		t.OnError(failure)
	}
	return failure
}

func unsafeRequest(detail string) *Error {
	return &Error{Endpoint: TokenEndpoint, Reason: ErrUnsafeTokenRequest, detail: detail, unsent: true}
}

// drop returns failure, and closes the body of r, as a RoundTripper must.
func drop(r *http.Request, failure *Error) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return nil, failure
}

// redirectOfToken returns the response by which a token request was redirected, if http.Client sends r because of it, or
// nil. Where a RoundTripper has removed a request from that chain nobody can tell, and a POST is taken for one.
func redirectOfToken(r *http.Request, endpoint place) *http.Response {
	for response := r.Response; response != nil; response = response.Request.Response {
		earlier := response.Request
		switch {
		case earlier == nil && !isPost(r):
			return nil
		case earlier == nil, isPost(earlier) && (placeOf(earlier.URL) == endpoint || readTokenRequest(earlier).grantType() != ""):
			return response
		}
	}
	return nil
}

// redirectRefused returns the error for a redirect of the token request r.
func redirectRefused(response *http.Response, r *http.Request) *Error {
	e := parseError(response.StatusCode, response.Header, nil, readTokenRequest(r), texts{})
	e.Reason, e.detail, e.edge = ErrMalformedResponse, redirected, false
	return e
}

const redirected, nothingSent = "the token endpoint sent a redirect, which no token request may follow", "; nothing was sent"

func isRedirect(response *http.Response) bool {
	return response.StatusCode >= 300 && response.StatusCode <= 399 && response.Header.Get("Location") != ""
}

func isPost(r *http.Request) bool { return strings.EqualFold(r.Method, http.MethodPost) }

// place is where a request goes, as URLs are compared.
type place struct{ scheme, host, port, path string }

func placeOf(u *url.URL) place {
	if u == nil {
		return place{}
	}
	scheme := strings.ToLower(u.Scheme)
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	port := map[string]string{"http": "80", "https": "443"}[scheme]
	return place{scheme, host, cmp.Or(u.Port(), port), cmp.Or(u.Opaque, u.EscapedPath(), "/")}
}

// endpoint returns the place of TokenURL, the zero place if that is no absolute URL of HTTP.
func (t *Transport) endpoint() place {
	parsed, _ := url.Parse(t.TokenURL)
	if p := placeOf(parsed); p.host != "" && (p.scheme == "http" || p.scheme == "https") {
		return p
	}
	return place{}
}

func (p place) isLoopback() bool {
	address, _ := netip.ParseAddr(p.host)
	return p.host == "localhost" || address.IsLoopback()
}

// headerBegins reports whether a value of a header, however its name is written in the map, has a beginning.
func headerBegins(header http.Header, name, beginning string) bool {
	for key, values := range header {
		for _, value := range values {
			value = strings.TrimSpace(value)
			if strings.EqualFold(key, name) && strings.EqualFold(value[:min(len(value), len(beginning))], beginning) {
				return true
			}
		}
	}
	return false
}

func isForm(r *http.Request) bool { return headerBegins(r.Header, "Content-Type", formType) }

const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
)

// jsonRequest returns a copy of r that carries form as one flat JSON object, on a connection of its own.
func jsonRequest(ctx context.Context, r *http.Request, form tokenRequest) *http.Request {
	fields := make(map[string]string)
	for name := range form.Values {
		fields[name] = form.Get(name)
	}
	body, _ := json.Marshal(fields) // strings always marshal
	out := r.Clone(ctx)
	out.Method = http.MethodPost
	for name, value := range map[string]string{"Content-Type": jsonType, "Accept": jsonType, "Accept-Encoding": "identity"} {
		maps.DeleteFunc(out.Header, func(key string, _ []string) bool { return strings.EqualFold(key, name) })
		out.Header.Set(name, value)
	}
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	out.ContentLength, out.TransferEncoding, out.Close = int64(len(body)), nil, true
	return out
}

// earlierDeadline returns a context that ends a little before parent does.
func earlierDeadline(parent context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := parent.Deadline()
	if !ok {
		return context.WithCancel(parent)
	}
	return context.WithDeadline(parent, deadline.Add(-min(time.Until(deadline)/4, 500*time.Millisecond)))
}

// withBody gives response a body that was read.
func withBody(response *http.Response, body []byte) *http.Response {
	body = trimMark(body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	response.ContentLength, response.TransferEncoding = int64(len(body)), nil
	if strings.HasSuffix(strings.ToLower(response.Header.Get("Content-Encoding")), "gzip") {
		response.Header.Del("Content-Encoding") // unzipped by now
	}
	if len(body) > 0 && (body[0] == '{' || body[0] == '[') {
		response.Header.Set("Content-Type", jsonType)
	}
	return response
}
