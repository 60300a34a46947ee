package applebusiness_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// What looks like a token request and is not quite one carries no secret anywhere.
func TestTransportFailsClosed(t *testing.T) {
	const (
		tokenURL  = "https://api.example/api/v1/oauth2/token"
		secretful = "grant_type=refresh_token&refresh_token=secret"
		notItself = "a form with a grant_type goes to the TokenURL's host, and not to the TokenURL itself"
		plainHTTP = "plain http would show its secrets; use https, which only loopback may do without"
	)
	for name, test := range map[string]struct {
		tokenURL, url, form string
		refused             string // "" if it is sent as JSON
		passed              bool   // if it is sent as it is
	}{
		"itself":                          {url: tokenURL, form: secretful},
		"itself, host in capitals":        {url: "https://API.example/api/v1/oauth2/token", form: secretful},
		"itself, host with a full stop":   {url: "https://api.example./api/v1/oauth2/token", form: secretful},
		"itself, port":                    {url: "https://api.example:443/api/v1/oauth2/token", form: secretful},
		"a slash more":                    {url: tokenURL + "/", form: secretful, refused: notItself},
		"two slashes":                     {url: "https://api.example//api/v1/oauth2/token", form: secretful, refused: notItself},
		"another case":                    {url: "https://api.example/api/v1/oauth2/Token", form: secretful, refused: notItself},
		"another port":                    {url: "https://api.example:8443/api/v1/oauth2/token", form: secretful, refused: notItself},
		"another spelling of the slash":   {url: "https://api.example/api/v1/oauth2%2ftoken", form: secretful, refused: notItself},
		"the root":                        {url: "https://api.example", form: secretful, refused: notItself},
		"by http, another path":           {url: "http://api.example/token", form: secretful, refused: notItself},
		"grant_type percent-encoded":      {url: tokenURL + "/", form: "a=b&grant%5Ftype=x", refused: notItself},
		"Grant_Type":                      {url: tokenURL + "/", form: "Grant_Type=x", refused: notItself},
		"too long to look through":        {url: tokenURL + "/", form: "a=" + strings.Repeat("x", 65<<10) + "&grant_type=x", refused: "a form of over 64 KiB goes to the TokenURL's host"},
		"no grant_type, another path":     {url: tokenURL + "/", form: "a=b&c=grant_type", passed: true},
		"another host":                    {url: "https://other.example/api/v1/oauth2/token", form: secretful, passed: true},
		"http":                            {tokenURL: "http://api.example/token", url: "http://api.example/token", form: secretful, refused: plainHTTP},
		"http, 127.0.0.1":                 {tokenURL: "http://127.0.0.1:8080/token", url: "http://127.0.0.1:8080/token", form: secretful},
		"http, 127.9.9.9":                 {tokenURL: "http://127.9.9.9/token", url: "http://127.9.9.9/token", form: secretful},
		"http, ::1":                       {tokenURL: "http://[::1]/token", url: "http://[::1]/token", form: secretful},
		"http, localhost":                 {tokenURL: "http://localhost/token", url: "http://LOCALHOST/token", form: secretful},
		"http, a private network":         {tokenURL: "http://10.0.0.1/token", url: "http://10.0.0.1/token", form: secretful, refused: plainHTTP},
		"http, a name like loopback's":    {tokenURL: "http://127.0.0.1.evil.example/", url: "http://127.0.0.1.evil.example/", form: secretful, refused: plainHTTP},
		"TokenURL of another scheme":      {tokenURL: "ftp://api.example/token", url: "ftp://api.example/token", form: secretful, refused: "the Transport has no usable TokenURL"},
		"TokenURL with a line end":        {tokenURL: tokenURL + "\n", url: tokenURL, form: secretful, refused: "the Transport has no usable TokenURL"},
		"TokenURL with a space before it": {tokenURL: " " + tokenURL, url: tokenURL, form: secretful, refused: "the Transport has no usable TokenURL"},
	} {
		t.Run(name, func(t *testing.T) {
			base := &recordingBase{}
			var reported []*applebusiness.Error
			transport := &applebusiness.Transport{TokenURL: tokenURL, Base: base, OnError: func(e *applebusiness.Error) { reported = append(reported, e) }}
			if test.tokenURL != "" {
				transport.TokenURL = test.tokenURL
			}
			r := formRequest("https://api.example", test.form)
			r.URL = must(url.Parse(test.url))
			response, err := transport.RoundTrip(r)
			if test.refused != "" {
				assert.EqualError(t, err, "applebusiness: unsafe_token_request: "+test.refused)
				assert.Empty(t, base.requests)
				if assert.Len(t, reported, 1) {
					assert.True(t, reported[0].Unsent())
				}
				return
			}
			require.NoError(t, err)
			require.NotNil(t, response)
			require.Len(t, base.requests, 1)
			sent, err := io.ReadAll(base.requests[0].Body)
			require.NoError(t, err)
			if test.passed {
				assert.Equal(t, test.form, string(sent))
				return
			}
			assert.JSONEq(t, `{"grant_type":"refresh_token","refresh_token":"secret"}`, string(sent))
		})
	}
	t.Run("PUT", func(t *testing.T) {
		r := formRequest(tokenURL, secretful)
		r.Method = http.MethodPut
		_, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: &recordingBase{}}).RoundTrip(r)
		assert.EqualError(t, err, "applebusiness: unsafe_token_request: "+notItself)
	})
	t.Run("JSON by http", func(t *testing.T) {
		r := formRequest("http://api.example/token", `{"grant_type":"refresh_token"}`)
		r.Header.Set("Content-Type", "application/json")
		_, err := (&applebusiness.Transport{TokenURL: "http://api.example/token", Base: &recordingBase{}}).RoundTrip(r)
		assert.EqualError(t, err, "applebusiness: unsafe_token_request: "+plainHTTP)
	})
	t.Run("a body that cannot be read", func(t *testing.T) {
		r := formRequest(tokenURL+"/", "")
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader("a=b"), brokenReader{}))
		_, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: &recordingBase{}}).RoundTrip(r)
		assert.EqualError(t, err, "applebusiness: unsafe_token_request: its body cannot be read")
		assert.ErrorIs(t, err, errBroken)
	})
	for name, header := range map[string]http.Header{
		"a tab":           {"Authorization": {"Basic\taWQ6c2VjcmV0"}},
		"a space before":  {"Authorization": {" basic  aWQ6c2VjcmV0"}},
		"the second":      {"Authorization": {"Bearer x", "BASIC aWQ6c2VjcmV0"}},
		"a name in lower": {"authorization": {"Basic aWQ6c2VjcmV0"}},
	} {
		t.Run("Basic, "+name, func(t *testing.T) {
			r := formRequest(tokenURL, secretful)
			for key, values := range header {
				r.Header[key] = values
			}
			base := &recordingBase{}
			_, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: base}).RoundTrip(r)
			assert.EqualError(t, err, "applebusiness: unsafe_token_request: it carries HTTP Basic credentials; Apple wants client_id and client_secret in the body")
			assert.Empty(t, base.requests)
		})
	}
	t.Run("content-type in lower letters", func(t *testing.T) {
		r := formRequest(tokenURL, secretful)
		r.Header = http.Header{"content-type": {"application/x-www-form-urlencoded"}, "accept": {"text/html"}}
		base := &recordingBase{}
		_, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: base}).RoundTrip(r)
		require.NoError(t, err)
		assert.Equal(t, http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}, "Accept-Encoding": {"identity"}}, base.requests[0].Header)
	})
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

// A slash too many in the TokenURL of x/oauth2 and not in Transport's sent the form, and followed its redirect.
func TestTransportFollowsNoRedirectOfAGrant(t *testing.T) {
	server, arrived := redirecting(t)
	for name, tokenURL := range map[string]string{
		"of TokenURL's host": server.URL + tokenPath, "of another host": "https://api.example" + tokenPath,
	} {
		t.Run(name, func(t *testing.T) {
			config := &oauth2.Config{ClientID: "id", ClientSecret: "secret", Endpoint: applebusiness.OAuth2Endpoint("", server.URL)}
			config.Endpoint.TokenURL += "/"
			_, err := config.Exchange(applebusiness.WithJSON(context.Background(), tokenURL), "the-code")
			want := applebusiness.ErrUnsafeTokenRequest
			if tokenURL != server.URL+tokenPath {
				want = applebusiness.ErrMalformedResponse
			}
			assert.ErrorIs(t, err, want)
			assert.Zero(t, arrived.Load())
		})
	}
}

// nat forwards connections to a server, and can forget those that are open: what comes on them leads nowhere, and nobody
// is told.
type nat struct {
	address string
	mu      sync.Mutex
	epoch   *atomic.Bool // forgotten
}

func newNAT(t *testing.T, server string) *nat {
	n := &nat{epoch: new(atomic.Bool)}
	n.address = listening(t, loopback(t), func(conn net.Conn) {
		n.mu.Lock()
		forgotten := n.epoch
		n.mu.Unlock()
		backend, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		defer backend.Close()
		var running sync.WaitGroup
		forward := func(to, from net.Conn) {
			defer backend.Close()
			for block := make([]byte, 4<<10); ; {
				n, err := from.Read(block)
				if err != nil {
					return
				}
				if !forgotten.Load() {
					_, _ = to.Write(block[:n])
				}
			}
		}
		running.Go(func() { forward(conn, backend) })
		forward(backend, conn)
		running.Wait()
	})
	return n
}

func (n *nat) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.epoch.Store(true)
	n.epoch = new(atomic.Bool)
}

// countedConns is a handler that tells which request of its connection each one is.
func countedConns(server *httptest.Server, then func(w http.ResponseWriter, r *http.Request, requests int32)) {
	type key struct{}
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, key{}, new(atomic.Int32))
	}
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		then(w, r, r.Context().Value(key{}).(*atomic.Int32).Add(1))
	})
}

// Requests to the API leave a connection that a NAT then forgets, or on which the edge in front of the server answers two
// requests and then 503. No token request meets it, by HTTP/1 and by HTTP/2.
func TestTokenRequestsHaveAConnectionOfTheirOwn(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for kind, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{
			"a Transport of net/http": func(base http.RoundTripper) http.RoundTripper { return base },
			"another RoundTripper":    func(base http.RoundTripper) http.RoundTripper { return roundTrip(base.RoundTrip) },
		} {
			t.Run(protocol+", "+kind, func(t *testing.T) {
				t.Parallel()
				server := httptest.NewUnstartedServer(nil)
				server.EnableHTTP2 = protocol == "HTTP/2.0"
				countedConns(server, func(w http.ResponseWriter, r *http.Request, requests int32) {
					assert.Equal(t, protocol, r.Proto)
					if r.URL.Path == tokenPath {
						assert.Equal(t, "identity", r.Header.Get("Accept-Encoding"))
					}
					if requests > 2 {
						w.WriteHeader(http.StatusServiceUnavailable)
						_, _ = io.WriteString(w, "<html><center>Apple</center></html>")
						return
					}
					_, _ = io.WriteString(w, tokenBody)
				})
				server.StartTLS()
				t.Cleanup(server.Close)
				pool := x509.NewCertPool()
				pool.AddCert(server.Certificate())
				nat := newNAT(t, server.Listener.Addr().String())
				transport := new(http.Transport)
				if server.EnableHTTP2 {
					transport.CloseIdleConnections() // sets up its own HTTP/2
					transport.TLSClientConfig.RootCAs = pool
				} else {
					transport.TLSClientConfig = &tls.Config{RootCAs: pool}
				}
				t.Cleanup(transport.CloseIdleConnections)
				w := way{url: "https://" + nat.address, client: &http.Client{Transport: wrap(transport), Timeout: 2 * time.Second}}
				for range 6 {
					if kind != "another RoundTripper" { // which takes the connection that the API left, if there is one
						response, err := w.client.Get(w.url + "/api/v1/me")
						if err == nil {
							_, _ = io.Copy(io.Discard, response.Body)
							response.Body.Close()
						}
					}
					nat.forget()
					for grantType := range tokenRequests {
						token, _, err := w.request(grantType)
						require.NoError(t, err)
						assert.Equal(t, "new-access", token.AccessToken)
					}
					transport.CloseIdleConnections() // or the next GET meets what was forgotten
				}
				var together sync.WaitGroup
				for range 20 {
					together.Go(func() {
						_, _, err := w.request(applebusiness.GrantTypeRefreshToken)
						assert.NoError(t, err)
					})
				}
				together.Wait()
			})
		}
	}
}

// A Base that sends again spends the refresh token: what the second request is told is not the whole truth.
func TestTransportSeesASecondWrite(t *testing.T) {
	for name, test := range map[string]struct {
		answers []int // of the server: 0 hangs up, 200 is a success that is not seen, else the refusal
		lost    bool
	}{
		"once":                       {[]int{400}, false},
		"again after a hang-up":      {[]int{0, 400}, true},
		"again after a 503":          {[]int{503, 400}, true},
		"again, and again a 503":     {[]int{503, 503}, false},
		"again, and then a new code": {[]int{503, 401}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch status := test.answers[min(int(requests.Add(1)), len(test.answers))-1]; status {
				case 0:
					taken(func(*net.TCPConn) {})(w, r)
				case 401:
					w.WriteHeader(status)
					_, _ = io.WriteString(w, `{"error":"invalid_grant","error_description":"new words"}`)
				default:
					w.WriteHeader(status)
					if status == 400 {
						_, _ = io.WriteString(w, deadBody)
					}
				}
			}))
			t.Cleanup(server.Close)
			retrying := roundTrip(func(r *http.Request) (response *http.Response, err error) {
				for range test.answers {
					if r.Body, err = r.GetBody(); err != nil {
						return nil, err
					}
					if response, err = http.DefaultTransport.RoundTrip(r); err == nil && response.StatusCode < 500 {
						break
					}
				}
				return response, err
			})
			_, reported, err := way{url: server.URL, client: &http.Client{Transport: retrying}}.request(applebusiness.GrantTypeRefreshToken)
			e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(err))
			require.True(t, ok, "%v", err)
			assert.Equal(t, test.lost, e.ResponseLost)
			assert.Equal(t, test.lost, reported[0].ResponseLost)
			causes := applebusiness.Troubleshoot(e).Causes
			assert.Equal(t, test.lost, len(causes) > 0 && causes[0] == applebusiness.CauseResponseLost, causes)
			assert.Equal(t, len(test.answers), int(requests.Load()))
		})
	}
}

// What a Base has sent once is not unsent because a later try of its own found no connection.
func TestUnsentIsAboutEveryTry(t *testing.T) {
	server := httptest.NewServer(taken(func(*net.TCPConn) {}))
	t.Cleanup(server.Close)
	for name, test := range map[string]struct {
		tries []string
		want  bool
	}{
		"nothing listens":             {[]string{nowhere}, true},
		"twice":                       {[]string{nowhere, nowhere}, true},
		"sent, then nothing listens":  {[]string{server.Listener.Addr().String(), nowhere}, false},
		"nothing listens, then sent ": {[]string{nowhere, server.Listener.Addr().String()}, false},
	} {
		t.Run(name, func(t *testing.T) {
			retrying := roundTrip(func(r *http.Request) (response *http.Response, err error) {
				for _, address := range test.tries {
					out := r.Clone(r.Context())
					out.Body, _ = r.GetBody()
					out.URL.Scheme, out.URL.Host = "http", address
					response, err = http.DefaultTransport.RoundTrip(out)
				}
				return response, err
			})
			_, _, err := way{url: "https://api.example", client: &http.Client{Transport: retrying}}.request(applebusiness.GrantTypeAuthorizationCode)
			e, ok := errors.AsType[*applebusiness.Error](err)
			require.True(t, ok)
			assert.Equal(t, test.want, e.Unsent(), "%v", err)
			assert.Equal(t, test.want, applebusiness.Retryable(err))
			assert.Equal(t, test.want, strings.HasSuffix(e.Error(), "; nothing was sent"), fmt.Sprint(e))
		})
	}
}
