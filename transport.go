package applebusiness

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

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
	// OnError is called with each token request that failed.
	OnError func(*Error)
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
