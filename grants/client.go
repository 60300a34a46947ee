package grants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// What of a response that nobody gets is read, so that its connection can be used again: a new one costs about as much.
const (
	maxDrain  = 64 << 10
	drainTime = 250 * time.Millisecond
)

// Client returns an HTTP client for the API whose requests carry the grant's access token, from [Manager.Token] with the
// request's context. Each call returns a new client, with a Transport, CheckRedirect and Timeout as those of
// [Options.HTTPClient]; its Timeout covers the wait for a token too, and can be changed. It has no cookie jar, since what
// one customer's session is given must not be sent in another's.
//
// The token is sent to TokenURL's origin (scheme, host and port), to those of [Options.Origins] and, if TokenURL is on
// loopback, to loopback; over plain http to loopback alone. A request to anywhere else, such as a "next" link that names
// another host, fails before anything is sent, and with a wrong entry in Options.Origins every request does. A redirect to
// another origin is followed without the token, and so is what it redirects to.
//
// After a response with status 401 the token is invalidated, replaced once for all requests that met this, and the request
// is sent once more if it has no body or a GetBody: the caller gets the second response, whatever it is. The caller gets the
// first if the request cannot be sent again, or if there is no other token yet because this one has just replaced another
// that was refused. If the refresh failed, the request fails with that error, so that a customer who has revoked is seen as
// such; net/http puts a *url.Error around it, in which errors.Is and [applebusiness.Troubleshoot] find it.
//
// Token requests do not go through the client.
func (m *Manager) Client(grant string) *http.Client {
	client := m.httpClient()
	return &http.Client{Transport: &transport{m, grant}, CheckRedirect: client.CheckRedirect, Timeout: client.Timeout}
}

// httpClient returns what sends m's requests.
func (m *Manager) httpClient() *http.Client {
	if m == nil || m.client == nil {
		return new(http.Client)
	}
	return m.client
}

func (m *Manager) roundTrip(r *http.Request) (*http.Response, error) {
	response, err := cmp.Or(m.httpClient().Transport, http.DefaultTransport).RoundTrip(r)
	switch {
	case response == nil && err == nil:
		err = errors.New(prefix + "the HTTPClient's Transport returned neither a response nor an error")
	case response != nil && response.Body == nil:
		response.Body = http.NoBody // as http.Client has it
	}
	return response, err
}

// transport is what Client's RoundTripper is. Package fmt would show the Manager for a verb that does not fit, and for %w it
// does not ask for Format, so that nothing else may be in it.
type transport struct {
	m     *Manager
	grant string
}

// Format writes whose transport it is, for every verb.
func (t *transport) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "transport of grant %q", t.grant) }

// LogValue returns what Format writes.
func (t *transport) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(t)) }

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !isOwnRequest(r) {
		return t.m.roundTrip(r)
	}
	token, err := (*oauth2.Token)(nil), t.m.mayCarry(r.URL)
	if err == nil {
		token, err = t.m.Token(r.Context(), t.grant)
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	response, err := t.send(r, r.Body, token.AccessToken)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	t.m.Invalidate(t.grant, token)
	body, isEmpty := r.Body, r.Body == nil || r.Body == http.NoBody
	if !isEmpty && r.GetBody == nil {
		return response, nil
	}
	other, err := t.m.Token(r.Context(), t.grant)
	if err == nil && other.AccessToken == token.AccessToken {
		return response, nil
	}
	if err == nil && !isEmpty {
		if body, err = r.GetBody(); err != nil {
			return response, nil
		}
	}
	drain(response.Body)
	if err != nil {
		return nil, err
	}
	response, err = t.send(r, body, other.AccessToken)
	if err == nil && response.StatusCode == http.StatusUnauthorized {
		t.m.Invalidate(t.grant, other) // which is so new that the API's trouble may be another
	}
	return response, err
}

// send sends a copy of r. The response's Request is r, which does not show the token.
func (t *transport) send(r *http.Request, body io.ReadCloser, accessToken string) (*http.Response, error) {
	copied := r.Clone(r.Context())
	copied.Body = body
	if copied.Header == nil {
		copied.Header = make(http.Header)
	}
	copied.Header.Set("Authorization", "Bearer "+accessToken)
	response, err := t.m.roundTrip(copied)
	if response != nil {
		response.Request = r
		if response.StatusCode < 400 { // others may be a gateway's
			t.m.noteAPIWorks()
		}
	}
	return response, err
}

// CloseIdleConnections is called by the method of that name of http.Client.
func (t *transport) CloseIdleConnections() { t.m.httpClient().CloseIdleConnections() }

// drain reads and closes the body of a response that nobody gets.
func drain(body io.ReadCloser) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	go func() {
		defer cancel()
		defer func() { _ = recover() }() // a body of somebody else's
		buffer := make([]byte, 8<<10)
		for total, n := 0, 0; total < maxDrain && ctx.Err() == nil; total += n {
			var err error
			if n, err = body.Read(buffer); err != nil {
				return
			}
		}
	}()
	<-ctx.Done()
	_ = body.Close() // which ends a Read
}

// isOwnRequest reports whether r is the caller's request, or a redirect of it that has never left its origin.
func isOwnRequest(r *http.Request) bool {
	for cause := r.Response; cause != nil; cause = cause.Request.Response {
		if cause.Request == nil || originOf(cause.Request.URL) != originOf(r.URL) {
			return false
		}
	}
	return true
}

// mayCarry returns why a request to u must not carry a token, or nil.
func (m *Manager) mayCarry(u *url.URL) error {
	if m == nil || m.config == nil {
		return nil // there is no token
	}
	home, _ := url.Parse(m.config.Endpoint.TokenURL) // nil if it cannot be parsed
	there := originOf(u)
	isAllowed := there == originOf(home) || there.isLoopback() && originOf(home).isLoopback()
	for i, text := range m.options.Origins {
		listed, err := url.Parse(text)
		if err != nil || !isOrigin(listed) {
			return fmt.Errorf(prefix+`Options.Origins[%d] has to be a scheme and a host, such as "https://api.example.com", and nothing else; `+
				"with http the host has to be loopback", i)
		}
		isAllowed = isAllowed || there == originOf(listed)
	}
	switch {
	case u == nil || u.Host == "":
		return errors.New(prefix + "the request's URL has no host")
	case !there.isSafe():
		return fmt.Errorf(prefix+"a grant's token is sent by https, or by http to loopback, and not to %.200q", u.Scheme+"://"+u.Host)
	case !isAllowed:
		return fmt.Errorf(prefix+"a grant's token is sent to the origins of TokenURL and of Options.Origins, and not to %.200q",
			u.Scheme+"://"+u.Host)
	}
	return nil
}

// isOrigin reports whether u is a scheme and a host to which a token may be sent, and nothing else.
func isOrigin(u *url.URL) bool {
	plain := url.URL{Scheme: u.Scheme, Host: u.Host}
	return u.Host != "" && originOf(u).isSafe() && strings.TrimSuffix(u.String(), "/") == plain.String()
}

// origin is a scheme, a host and a port.
type origin struct{ scheme, host, port string }

// originOf returns the zero origin for no URL.
func originOf(u *url.URL) origin {
	if u == nil {
		return origin{}
	}
	scheme := strings.ToLower(u.Scheme)
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[scheme])
	return origin{scheme, strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), port}
}

// isSafe reports whether nobody on the way can read what is sent.
func (o origin) isSafe() bool { return o.scheme == "https" || o.scheme == "http" && o.isLoopback() }

func (o origin) isLoopback() bool {
	address, _ := netip.ParseAddr(o.host)
	return o.host == "localhost" || address.Unmap().IsLoopback()
}
