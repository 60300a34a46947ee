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
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

// Transport is an [http.RoundTripper] that sends the form of a token request as JSON, the only content that Apple's
// token endpoint takes, and gives each failure a type. [WithJSON] hands one to x/oauth2.
//
// It acts on POSTs of a form to TokenURL, and passes every other request to Base as it is. It refuses, with
// [ErrUnsafeTokenRequest] and nothing sent: HTTP Basic credentials (the first of the two requests by which x/oauth2
// finds out the AuthStyle; the second then is the only one), a request to TokenURL's host and path by another scheme, a
// repeated field, a form that does not decode, and a body over 64 KiB. A request that a redirect of a token request
// caused is refused with [ErrMalformedResponse] and the status of that redirect, since it could carry the secrets
// elsewhere.
//
// A whole response is returned whatever its status. It is read inside RoundTrip, 1 MiB of a 2xx and 64 KiB of any other.
// A response that breaks off is returned if it is no 2xx, or if what came is a whole JSON object with an access token.
// Where nothing can be returned the error is an *Error with [ErrNoResponse], the grant_type and, for errors.Is, the cause:
// context.DeadlineExceeded, io.ErrUnexpectedEOF, syscall.ECONNREFUSED. RoundTrip ends before the deadline of its request,
// by a quarter of the time that is left and half a second at most, because http.Client would replace its error at the
// deadline by one that has lost all that.
//
// x/oauth2 loses what it does not expect, so the body that it gets is made to fit where need be: an unlabelled gzip is
// read, JSON is labelled application/json, expires_in becomes a whole number of seconds as [ParseTokenResponse] reads it,
// and a 2xx that holds no token gets an "error" member. The response's Request holds the URL and the grant_type, and none
// of the secrets.
//
// Whatever the response says, values of the request are not shown again: those of 8 bytes and more stand as *** in the
// Code, Description, URI, Parameter and RequestID of the *Error, except for grant_type and scope. Texts and codes of the
// catalog stay as they are, and a success is not touched.
//
// The zero Transport refuses every POST. A Transport is safe for concurrent use if Base is.
type Transport struct {
	// TokenURL is the token endpoint, compared by scheme, host and path. If it lacks a scheme or a host, every POST is
	// refused rather than let a form pass.
	TokenURL string
	// Base sends the requests; nil means [http.DefaultTransport]. A Transport that would be its own Base, also through
	// another RoundTripper, returns an error.
	Base http.RoundTripper
	// OnError is called with each token request that failed, with a response or without, but not with the refused Basic
	// probe. It is for libraries that hide why: RefreshTokens of zitadel/oidc returns an error of its own type, and
	// RefreshTokenWithIDToken of goth a text with the status; rclone retries and logs a text, and oauth2-proxy drops the
	// session. Give such a library an http.Client with this Transport. OnError is called in the goroutine of RoundTrip,
	// before it returns, and may be called concurrently.
	OnError func(*Error)

	passing atomic.Int32 // requests that are passed on at the moment
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
	tokenURL, _ := url.Parse(t.TokenURL)
	usable := tokenURL != nil && tokenURL.Scheme != "" && tokenURL.Host != ""
	isPost := strings.EqualFold(r.Method, http.MethodPost)
	switch first, caused := redirectedTokenRequest(r, tokenURL); {
	case caused:
		return t.refuse(r, t.redirectRefused(first))
	case !isPost:
		return t.pass(r)
	case !usable:
		return t.refuse(r, unsafeRequest("the Transport has no usable TokenURL"))
	case !isSamePlace(r.URL, tokenURL):
		return t.pass(r)
	case !strings.EqualFold(r.URL.Scheme, tokenURL.Scheme):
		return t.refuse(r, unsafeRequest("its scheme is not the TokenURL's"))
	case port(r.URL) != port(tokenURL):
		return t.pass(r)
	case hasBasicCredentials(r):
		closeBody(r) // not reported: x/oauth2 sends the request again, as it should be
		return nil, unsafeRequest("it carries HTTP Basic credentials; Apple wants client_id and client_secret in the body")
	case !isForm(r.Header):
		return t.pass(r)
	}
	form, failure := readForm(r)
	if failure != nil {
		return t.refuse(r, failure)
	}
	response, failure := t.send(r, form)
	if failure != nil {
		failure.Endpoint, failure.GrantType = TokenEndpoint, redact.Cut(form["grant_type"], maxCode) // a new *Error, nobody has it yet
		return nil, t.report(failure)
	}
	return response, nil
}

// send sends a token request and returns a whole response, or why there is none.
func (t *Transport) send(r *http.Request, form map[string]string) (*http.Response, *Error) {
	if err := r.Context().Err(); err != nil {
		return nil, &Error{Reason: ErrNoResponse, detail: "the context had ended before anything was sent", err: err, ended: true, unsent: true}
	}
	if r.Context().Value(ownBase{t}) != nil {
		return nil, unsafeRequest(isItsOwnBase)
	}
	ctx, cancel := earlierDeadline(context.WithValue(r.Context(), ownBase{t}, true))
	defer cancel()
	var looked, connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { looked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	response, err := t.base().RoundTrip(jsonRequest(r.WithContext(ctx), form))
	if err == nil && response == nil {
		err = errNoResult
	}
	if err != nil {
		if e := find(err); e != nil { // another Transport's
			copied := *e
			return nil, &copied
		}
		failed := neterr.Of(err)
		e := &Error{Reason: ErrNoResponse, detail: failed.Words, err: err}
		e.unsent = !connected.Load() && (failed.Unsent || looked.Load())
		switch {
		case err == errNoResult:
			e.detail = "the Transport's Base returned neither a response nor an error"
		case e.unsent:
			e.detail += "; nothing was sent"
		}
		return nil, e
	}
	body, readErr := readResponse(response)
	return t.finish(r, response, body, readErr, form)
}

// finish makes of what Base returned what x/oauth2 understands. If the response breaks off and holds nothing, it returns
// why there is none.
func (t *Transport) finish(r *http.Request, response *http.Response, body []byte, readErr error, form map[string]string) (*http.Response, *Error) {
	if response.Header == nil {
		response.Header = make(http.Header)
	}
	response.Request = publicRequest(r, form["grant_type"])
	if isSuccess(response.StatusCode) {
		if fitted := fitToken(body); fitted != nil {
			return withBody(response, fitted), nil
		}
	}
	failure := parseFailure(response, body, readErr, &tokenRequest{fields: form})
	switch isRedirect := response.StatusCode >= 300 && response.StatusCode <= 399 && response.Header.Get("Location") != ""; {
	case isSuccess(response.StatusCode) && failure.Reason == ErrNoResponse:
		return nil, failure
	case isSuccess(response.StatusCode):
		body = fitError(body, failure)
	case isRedirect && failure.Reason == ErrMalformedResponse:
		failure.detail = redirected
	}
	_ = t.report(failure)
	response.Request = carry(response.Request, failure)
	return withBody(response, body), nil
}

// pass hands a request that is no token request to Base.
func (t *Transport) pass(r *http.Request) (*http.Response, error) {
	base := t.base()
	if base == http.RoundTripper(t) || r.Context().Value(ownBase{t}) != nil {
		closeBody(r)
		return nil, unsafeRequest(isItsOwnBase)
	}
	sent := r
	if _, ok := base.(*http.Transport); !ok { // it may lead back to t, which shows at the second pass
		defer t.passing.Add(-1)
		if t.passing.Add(1) > 1 {
			sent = r.WithContext(context.WithValue(r.Context(), ownBase{t}, true))
		}
	}
	response, err := base.RoundTrip(sent)
	switch {
	case response != nil && (response.Request == nil || sent != r && response.Request == sent):
		response.Request = r // a redirect is judged by it
	case response == nil && err == nil:
		err = errNoResult
	}
	return response, err
}

const isItsOwnBase = "the Transport is its own Base: set Base to another RoundTripper"

var errNoResult = errors.New(prefix + "the Transport's Base returned neither a response nor an error")

// CloseIdleConnections calls Base's method of that name, if it has one.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.base().(interface{ CloseIdleConnections() }); ok && base != any(t) {
		base.CloseIdleConnections()
	}
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

// report hands failure to OnError, and returns it.
func (t *Transport) report(failure *Error) error {
	if t.OnError != nil {
		t.OnError(failure)
	}
	return failure
}

func unsafeRequest(detail string) *Error {
	return &Error{Endpoint: TokenEndpoint, Reason: ErrUnsafeTokenRequest, detail: detail, unsent: true}
}

// refuse closes the body of r, as a RoundTripper must.
func (t *Transport) refuse(r *http.Request, failure *Error) (*http.Response, error) {
	closeBody(r)
	if carriedError(causeOf(r)) == failure {
		return nil, failure // reported with the response
	}
	return nil, t.report(failure)
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// causeOf returns the request whose response made http.Client send r, or nil.
func causeOf(r *http.Request) *http.Request {
	if r.Response == nil {
		return nil
	}
	return r.Response.Request
}

// redirectedTokenRequest reports whether http.Client sends r because a token request was redirected, and returns the
// token endpoint's response. Where a RoundTripper has removed a request from that chain nobody can tell, and a POST is
// taken for one.
func redirectedTokenRequest(r *http.Request, tokenURL *url.URL) (first *http.Response, caused bool) {
	for response := r.Response; response != nil; {
		earlier := response.Request
		if earlier == nil {
			return response, strings.EqualFold(r.Method, http.MethodPost)
		}
		if strings.EqualFold(earlier.Method, http.MethodPost) && earlier.URL != nil && tokenURL != nil && isSamePlace(earlier.URL, tokenURL) {
			return response, true
		}
		response = earlier.Response
	}
	return nil, false
}

// redirectRefused returns the error for a redirect of a token request: the one that came with its response, if there is.
func (t *Transport) redirectRefused(first *http.Response) *Error {
	if e := carriedError(first.Request); e != nil {
		return e
	}
	return &Error{
		Endpoint: TokenEndpoint, StatusCode: first.StatusCode, Reason: ErrMalformedResponse,
		GrantType: readTokenRequest(first.Request).grantType(), detail: redirected,
	}
}

const redirected = "the token endpoint sent a redirect, which no token request may follow"

// isSamePlace compares host and path.
func isSamePlace(a, b *url.URL) bool {
	host := func(u *url.URL) string { return strings.TrimSuffix(u.Hostname(), ".") }
	return strings.EqualFold(host(a), host(b)) && cmp.Or(a.Path, "/") == cmp.Or(b.Path, "/")
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
	mediaType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), formType)
}

const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
)

// readForm returns the fields of a token request's body, and closes it.
func readForm(r *http.Request) (map[string]string, *Error) {
	fields := make(map[string]string)
	if r.Body == nil {
		return fields, nil
	}
	defer r.Body.Close()
	body, err := readAll(r.Body, maxBody+1)
	if err != nil {
		e := unsafeRequest("its body cannot be read")
		e.err = err
		return nil, e
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
	out.Method = http.MethodPost
	out.Header.Set("Content-Type", jsonType)
	out.Header.Set("Accept", jsonType)
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	out.ContentLength = int64(len(body))
	out.TransferEncoding = nil
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

// publicRequest returns what of a token request may be seen by whoever gets its response: where it went, and the
// grant_type.
func publicRequest(r *http.Request, grantType string) *http.Request {
	form := url.Values{"grant_type": {grantType}}.Encode()
	public := &http.Request{
		Method:        http.MethodPost,
		URL:           &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: r.URL.Path, RawPath: r.URL.RawPath},
		Proto:         r.Proto,
		ProtoMajor:    r.ProtoMajor,
		ProtoMinor:    r.ProtoMinor,
		Host:          r.Host,
		Header:        http.Header{"Content-Type": {formType}},
		ContentLength: int64(len(form)),
		Response:      r.Response,
		GetBody:       func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(form)), nil },
	}
	public.Body = &publicBody{Reader: strings.NewReader(form), form: form}
	return public.WithContext(r.Context())
}

// publicBody is the body of a public request, from which readTokenRequest has the form where a RoundTripper dropped GetBody.
type publicBody struct {
	*strings.Reader
	form string
}

func (*publicBody) Close() error { return nil }

// carried is the value under which a response's Request holds the failure that the response means.
type carried struct {
	request *http.Request // not a copy of it, which may be about something else
	failure *Error
}

type carriedKey struct{}

// carry returns a copy of request that holds failure.
func carry(request *http.Request, failure *Error) *http.Request {
	value := &carried{failure: failure}
	value.request = request.WithContext(context.WithValue(request.Context(), carriedKey{}, value))
	return value.request
}

// carriedError returns the failure that request holds, or nil.
func carriedError(request *http.Request) *Error {
	if request == nil {
		return nil
	}
	value, _ := request.Context().Value(carriedKey{}).(*carried)
	if value == nil || value.request != request {
		return nil
	}
	return value.failure
}

// withBody gives response a body that was read.
func withBody(response *http.Response, body []byte) *http.Response {
	body = trimMark(body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	response.ContentLength = int64(len(body))
	response.TransferEncoding = nil
	if strings.EqualFold(response.Header.Get("Content-Encoding"), "gzip") {
		response.Header.Del("Content-Encoding") // unzipped by now
	}
	if isSuccess(response.StatusCode) || len(body) > 0 && (body[0] == '{' || body[0] == '[') {
		response.Header.Set("Content-Type", jsonType)
	}
	return response
}

// wireToken is what x/oauth2 takes: one member of another type, and it takes nothing.
type wireToken struct {
	AccessToken  string      `json:"access_token"`
	TokenType    string      `json:"token_type"`
	RefreshToken string      `json:"refresh_token"`
	ExpiresIn    json.Number `json:"expires_in"`
	Error        string      `json:"error"`
	Description  string      `json:"error_description"`
	URI          string      `json:"error_uri"`
}

// fitToken returns the body of a success so that x/oauth2 reads the same token from it as [ParseTokenResponse] does, and
// nil for one without a token. A body of which it does so anyway is returned as it is.
func fitToken(body []byte) []byte {
	var plain wireToken
	if err := json.Unmarshal(trimMark(body), &plain); err == nil && plain.AccessToken != "" && plain.Error == "" {
		if seconds, err := plain.ExpiresIn.Int64(); err == nil && seconds != 0 {
			return body
		}
	}
	found, value, ok := decodeSuccess(body)
	if !ok {
		return nil
	}
	members := make(map[string]json.RawMessage)
	decodes(value, &members)
	for name := range members {
		switch strings.ToLower(name) {
		case "access_token", "token_type", "refresh_token", "expires_in", "error", "error_description", "error_uri":
			delete(members, name)
		}
	}
	seconds := int64(parseLife(found.ExpiresIn, value) / time.Second)
	if seconds == 0 {
		seconds = -1 // x/oauth2 takes 0 for a token that never expires
	}
	members["expires_in"] = json.RawMessage(strconv.FormatInt(seconds, 10))
	for name, member := range map[string]any{"access_token": found.AccessToken, "token_type": found.TokenType, "refresh_token": found.RefreshToken} {
		if text, ok := member.(string); ok {
			members[name], _ = json.Marshal(text)
		}
	}
	fitted, _ := json.Marshal(members)
	return fitted
}

// fitError returns the body of a 2xx without a token so that x/oauth2 takes it for an error, and the response with it. A
// body of which it does so anyway is returned as it is.
func fitError(body []byte, failure *Error) []byte {
	var plain wireToken
	if json.Unmarshal(trimMark(body), &plain) == nil && plain.Error != "" {
		return body
	}
	fitted := *failure
	fitted.Code = cmp.Or(fitted.Code, Code(fitted.Reason))
	body, _ = json.Marshal(&fitted)
	return body
}
