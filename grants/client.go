package grants

import (
	"io"
	"net/http"
	"net/url"
	"strings"
)

const maxDrain = 64 << 10

// Client returns an HTTP client for the API whose requests carry the grant's access token, from [Manager.Token] with the
// request's context. Each call returns a new client, with a Transport, CheckRedirect and Timeout as those of
// [Options.HTTPClient]; its Timeout covers the wait for a token too, and can be changed. It has no cookie jar, since what
// one customer's session is given must not be sent in another's.
//
// If the response has status 401, the token is invalidated, replaced once for all requests that met this, and the request
// is sent once more if it has no body or a GetBody. What the second response is, the caller gets. The first is what the
// caller gets if the request cannot be sent again, or if there is no other token yet because this one has just replaced
// another that was refused. If there is no other token because the refresh failed, the request fails with that error, so
// that a customer who has revoked is seen as such; net/http puts a *url.Error around it, in which errors.Is and
// [applebusiness.Troubleshoot] find it.
//
// A redirect to another scheme, host or port is followed without the token. Token requests do not go through the client.
func (m *Manager) Client(grant string) *http.Client {
	client := new(http.Client)
	if m != nil && m.client != nil {
		client.Transport, client.CheckRedirect, client.Timeout = m.client.Transport, m.client.CheckRedirect, m.client.Timeout
	}
	client.Transport = &transport{m, grant, client.Transport}
	return client
}

// transport is what Client's RoundTripper is.
type transport struct {
	m     *Manager
	grant string
	base  http.RoundTripper // nil: http.DefaultTransport
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !isOwnRequest(r) {
		return t.baseTransport().RoundTrip(r)
	}
	token, err := t.m.Token(r.Context(), t.grant)
	if err != nil {
		closeBody(r.Body)
		return nil, err
	}
	response, err := t.send(r, r.Body, token.AccessToken)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	t.m.Invalidate(t.grant, token)
	body := r.Body
	if body != nil && body != http.NoBody {
		if r.GetBody == nil {
			return response, nil
		}
		if body, err = r.GetBody(); err != nil {
			return response, nil
		}
	}
	other, err := t.m.Token(r.Context(), t.grant)
	if err == nil && other.AccessToken == token.AccessToken {
		closeBody(body)
		return response, nil
	}
	// The connection can be used again if the response has been read.
	_, _ = io.CopyN(io.Discard, response.Body, maxDrain)
	closeBody(response.Body)
	if err != nil {
		closeBody(body)
		return nil, err
	}
	return t.send(r, body, other.AccessToken)
}

// send sends a copy of r. The response's Request is r, which does not show the token.
func (t *transport) send(r *http.Request, body io.ReadCloser, accessToken string) (*http.Response, error) {
	copied := r.Clone(r.Context())
	copied.Body = body
	if copied.Header == nil {
		copied.Header = make(http.Header)
	}
	copied.Header.Set("Authorization", "Bearer "+accessToken)
	response, err := t.baseTransport().RoundTrip(copied)
	if response != nil {
		response.Request = r
	}
	return response, err
}

// CloseIdleConnections is called by the method of that name of http.Client.
func (t *transport) CloseIdleConnections() {
	if base, ok := t.baseTransport().(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

func (t *transport) baseTransport() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}

func closeBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}

// isOwnRequest reports whether r is the caller's request, or a redirect of it that has never left its origin.
func isOwnRequest(r *http.Request) bool {
	for cause := r.Response; cause != nil; cause = cause.Request.Response {
		if cause.Request == nil || !isSameOrigin(cause.Request.URL, r.URL) {
			return false
		}
	}
	return true
}

func isSameOrigin(a, b *url.URL) bool {
	return a != nil && b != nil && strings.EqualFold(a.Scheme, b.Scheme) &&
		strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case strings.EqualFold(u.Scheme, "http"):
		return "80"
	}
	return "443"
}
