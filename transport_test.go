package applebusiness_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	tokenPath    = "/api/v1/oauth2/token"
	tokenBody    = `{"access_token":"new-access","expires_in":3600,"refresh_token":"new-refresh","token_type":"Bearer"}`
	deadBody     = `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`
	mediaTypeRow = `{"error":"invalid_request","error_description":"Unsupported Media Type for POST body. Must be json."}`
)

// jsonOnlyServer is a token endpoint that accepts JSON only, as Apple's does, and keeps what it was sent.
type jsonOnlyServer struct {
	*httptest.Server
	answer http.HandlerFunc // for a well-formed request

	mu     sync.Mutex
	bodies []string
	fields []map[string]string
}

func newJSONOnlyServer(t testing.TB, answer http.HandlerFunc) *jsonOnlyServer {
	s := &jsonOnlyServer{answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *jsonOnlyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != tokenPath {
		fmt.Fprintf(w, "bearer %s", r.Header.Get("Authorization"))
		return
	}
	body, _ := io.ReadAll(r.Body)
	var fields map[string]string
	wellFormed := r.Method == http.MethodPost && r.Header.Get("Content-Type") == "application/json" &&
		r.Header.Get("Accept") == "application/json" && r.ContentLength == int64(len(body)) &&
		r.Header.Get("Authorization") == "" && json.Unmarshal(body, &fields) == nil
	s.mu.Lock()
	s.bodies = append(s.bodies, string(body))
	s.fields = append(s.fields, fields)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if !wellFormed {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, mediaTypeRow)
		return
	}
	s.answer(w, r)
}

func (s *jsonOnlyServer) requests() []map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]map[string]string(nil), s.fields...)
}

func (s *jsonOnlyServer) config() *oauth2.Config {
	return &oauth2.Config{
		ClientID: "id", ClientSecret: "client+secret/&%", RedirectURL: "https://partner.example/callback",
		Endpoint: applebusiness.OAuth2Endpoint("https://business.example", s.URL),
	}
}

func (s *jsonOnlyServer) context() context.Context {
	return applebusiness.WithJSON(context.Background(), s.config().Endpoint.TokenURL)
}

func answerWith(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestOAuth2SpeaksToApple(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, tokenBody))
	config, ctx := s.config(), s.context()

	t.Run("without the transport every request fails", func(t *testing.T) {
		_, err := config.Exchange(context.Background(), "the-code")
		assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrUnsupportedMediaType)
	})
	for name, test := range map[string]struct {
		token func() (*oauth2.Token, error)
		sent  map[string]string
	}{
		"authorization code": {
			func() (*oauth2.Token, error) {
				return config.Exchange(ctx, "the-code", oauth2.VerifierOption("the-verifier"))
			},
			map[string]string{
				"grant_type": "authorization_code", "client_id": "id", "client_secret": "client+secret/&%", "code": "the-code",
				"code_verifier": "the-verifier", "redirect_uri": "https://partner.example/callback",
			},
		},
		"refresh": {
			config.TokenSource(ctx, &oauth2.Token{RefreshToken: "old-refresh"}).Token,
			map[string]string{"grant_type": "refresh_token", "client_id": "id", "client_secret": "client+secret/&%", "refresh_token": "old-refresh"},
		},
		"service account, business": {
			(&clientcredentials.Config{ClientID: "sa", ClientSecret: "ss", TokenURL: s.URL + tokenPath, Scopes: []string{"business"}}).TokenSource(ctx).Token,
			map[string]string{"grant_type": "client_credentials", "client_id": "sa", "client_secret": "ss", "scope": "business"},
		},
		"service account, business_connect": {
			(&clientcredentials.Config{ClientID: "sa", ClientSecret: "ss", TokenURL: s.URL + tokenPath, Scopes: []string{"business_connect"}, AuthStyle: oauth2.AuthStyleInParams}).TokenSource(ctx).Token,
			map[string]string{"grant_type": "client_credentials", "client_id": "sa", "client_secret": "ss", "scope": "business_connect"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.requests())
			token, err := test.token()
			require.NoError(t, err)
			assert.Equal(t, "new-access", token.AccessToken)
			require.Len(t, s.requests(), before+1)
			assert.Equal(t, test.sent, s.requests()[before])
		})
	}
	t.Run("API calls", func(t *testing.T) {
		client := oauth2.NewClient(ctx, config.TokenSource(ctx, &oauth2.Token{RefreshToken: "old-refresh"}))
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			request, err := http.NewRequest(method, s.URL+"/api/v1/me", strings.NewReader("a=b"))
			require.NoError(t, err)
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			response, err := client.Do(request)
			require.NoError(t, err)
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			assert.Equal(t, "bearer Bearer new-access", string(body))
		}
	})
}

// With the zero AuthStyle x/oauth2 tries Basic credentials first; that one is refused before it leaves.
func TestAutoDetectSendsOneRequest(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		want   error
	}{{200, tokenBody, nil}, {400, deadBody, applebusiness.ErrInvalidRefreshToken}} {
		s := newJSONOnlyServer(t, answerWith(test.status, test.body))
		config := s.config()
		config.Endpoint.AuthStyle = oauth2.AuthStyleAutoDetect
		_, err := config.Exchange(s.context(), "the-code")
		assert.ErrorIs(t, applebusiness.Wrap(err), test.want)
		require.Len(t, s.requests(), 1)
		assert.Equal(t, "client+secret/&%", s.requests()[0]["client_secret"])
	}
}

func TestNoRedirectCarriesASecret(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, path := range []string{"/elsewhere", tokenPath} {
			t.Run(fmt.Sprint(status, path), func(t *testing.T) {
				var elsewhere atomic.Int32
				other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
				defer other.Close()
				s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Retry-After", "7")
					http.Redirect(w, r, other.URL+path+"?b=SECRET", status)
				})
				_, err := s.config().Exchange(s.context(), "the-code")
				assert.NotContains(t, fmt.Sprintf("%+v", err), "SECRET", "the Location")
				err = applebusiness.Wrap(err)
				assert.ErrorIs(t, err, applebusiness.ErrMalformedResponse)
				assert.EqualError(t, err, fmt.Sprintf("applebusiness: malformed_response: the token endpoint sent a redirect, which no token request may follow (HTTP %d)", status))
				assert.Equal(t, applebusiness.ActionCheckNetwork, applebusiness.Troubleshoot(err).Action)
				assert.Equal(t, 7*time.Second, err.(*applebusiness.Error).RetryAfter)
				assert.Zero(t, elsewhere.Load())
				assert.Len(t, s.requests(), 1)
			})
		}
	}
	t.Run("to itself", func(t *testing.T) {
		s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		})
		_, err := s.config().Exchange(s.context(), "the-code")
		assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrMalformedResponse)
		assert.Len(t, s.requests(), 1)
	})
	t.Run("an API's redirects are followed", func(t *testing.T) {
		var last string
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			last = r.URL.Path + " " + string(body)
			if r.URL.Path == "/a" {
				http.Redirect(w, r, "/b", http.StatusTemporaryRedirect)
			}
		}))
		defer api.Close()
		client := &http.Client{Transport: &applebusiness.Transport{TokenURL: api.URL + tokenPath}}
		response, err := client.PostForm(api.URL+"/a", url.Values{"x": {"1"}})
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, "/b x=1", last)
	})
}

// recordingBase is a RoundTripper that keeps what it was given.
type recordingBase struct {
	requests []*http.Request
	idle     int
}

func (b *recordingBase) RoundTrip(r *http.Request) (*http.Response, error) {
	b.requests = append(b.requests, r)
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(tokenBody)), Request: r}, nil
}
func (b *recordingBase) CloseIdleConnections() { b.idle++ }

func formRequest(tokenURL, form string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, tokenURL, nil)
	r.Body = &closeRecorder{Reader: strings.NewReader(form)}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	return r
}

func TestTransportRefuses(t *testing.T) {
	const tokenURL = "https://api.example/api/v1/oauth2/token"
	basic := formRequest(tokenURL, "grant_type=x")
	basic.Header.Set("Authorization", "basic aWQ6c2VjcmV0")
	for name, test := range map[string]struct {
		tokenURL string
		request  *http.Request
		detail   string
	}{
		"Basic credentials":         {tokenURL, basic, "it carries HTTP Basic credentials; Apple wants client_id and client_secret in the body"},
		"repeated field":            {tokenURL, formRequest(tokenURL, "code=secret&code=secret"), "a field of its form is repeated"},
		"bad escape":                {tokenURL, formRequest(tokenURL, "code=%zzsecret"), "its form does not decode"},
		"not UTF-8":                 {tokenURL, formRequest(tokenURL, "code=secret%ff"), "a field of its form is not UTF-8"},
		"name not UTF-8":            {tokenURL, formRequest(tokenURL, "%ff=secret"), "a field of its form is not UTF-8"},
		"65 KiB":                    {tokenURL, formRequest(tokenURL, "code="+strings.Repeat("x", 65<<10)), "its body is larger than 64 KiB"},
		"no TokenURL":               {"", formRequest(tokenURL, "code=secret"), "the Transport has no usable TokenURL"},
		"unparsable TokenURL":       {"https://api.example/\x00", formRequest(tokenURL, "code=secret"), "the Transport has no usable TokenURL"},
		"TokenURL without a scheme": {"api.example/api/v1/oauth2/token", formRequest(tokenURL, "code=secret"), "the Transport has no usable TokenURL"},
		"TokenURL without a host":   {"/api/v1/oauth2/token", formRequest(tokenURL, "code=secret"), "the Transport has no usable TokenURL"},
		"scheme in clear":           {tokenURL, formRequest("http://api.example/api/v1/oauth2/token", "code=secret"), "its scheme is not the TokenURL's"},
		"scheme in clear, port":     {tokenURL, formRequest("http://api.example:8080/api/v1/oauth2/token", "code=secret"), "its scheme is not the TokenURL's"},
		"no TokenURL, foreign":      {"", formRequest("https://other.example/", "code=secret"), "the Transport has no usable TokenURL"},
	} {
		t.Run(name, func(t *testing.T) {
			base := &recordingBase{}
			response, err := (&applebusiness.Transport{TokenURL: test.tokenURL, Base: base}).RoundTrip(test.request)
			assert.Nil(t, response)
			assert.EqualError(t, err, "applebusiness: unsafe_token_request: "+test.detail)
			assert.Empty(t, base.requests)
			assert.True(t, test.request.Body.(*closeRecorder).closed, "the body is closed")
		})
	}
	for _, transport := range []*applebusiness.Transport{{}} {
		for _, r := range []*http.Request{nil, {}, {Method: "POST"}, {Method: "POST", URL: &url.URL{}}} {
			_, err := transport.RoundTrip(r)
			assert.ErrorIs(t, err, applebusiness.ErrUnsafeTokenRequest)
		}
		transport.CloseIdleConnections()
	}
}

func TestTransportLeavesOtherRequestsAlone(t *testing.T) {
	const tokenURL = "https://api.example/api/v1/oauth2/token"
	get := httptest.NewRequest(http.MethodGet, tokenURL, nil)
	alreadyJSON := formRequest(tokenURL, "{}")
	alreadyJSON.Header.Set("Content-Type", "application/json")
	for name, r := range map[string]*http.Request{
		"GET":        get,
		"other host": formRequest("https://other.example/api/v1/oauth2/token", "a=b"),
		"other path": formRequest("https://api.example/api/v1/oauth2/token/", "a=b"),
		"other port": formRequest("https://api.example:8443/api/v1/oauth2/token", "a=b"),
		"http":       httptest.NewRequest(http.MethodGet, "http://api.example/api/v1/oauth2/token", nil),
		"JSON":       alreadyJSON,
		"much":       httptest.NewRequest(http.MethodPost, "https://api.example/api/v1/me", strings.NewReader("grant_type=x&"+strings.Repeat("x", 65<<10))),
	} {
		t.Run(name, func(t *testing.T) {
			base := &recordingBase{}
			transport := &applebusiness.Transport{TokenURL: tokenURL, Base: base}
			response, err := transport.RoundTrip(r)
			require.NoError(t, err)
			assert.Same(t, r, base.requests[0])
			assert.Empty(t, response.Header, "the answer is left alone too")
			transport.CloseIdleConnections()
			assert.Equal(t, 1, base.idle)
		})
	}
	_, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: roundTrip(func(*http.Request) (*http.Response, error) { return nil, errBroken })}).RoundTrip(alreadyJSON)
	assert.ErrorIs(t, err, errBroken)
	made, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusCreated, Header: http.Header{"Location": {"/x"}}}, nil
	})}).RoundTrip(alreadyJSON)
	require.NoError(t, err)
	assert.Equal(t, "/x", made.Header.Get("Location"), "which is no redirect")

	bare := formRequest("https://api.example/api/v1/oauth2/token/", "")
	bare.Body = nil
	_, err = (&applebusiness.Transport{TokenURL: tokenURL, Base: &recordingBase{}}).RoundTrip(bare)
	require.NoError(t, err)
	assert.Nil(t, bare.Body, "a form may have no body")

	reader, writer := io.Pipe()
	require.NoError(t, writer.Close())
	empty := formRequest("https://api.example/api/v1/oauth2/token/", "")
	empty.Body = reader // which cannot be read once it is closed
	base := &recordingBase{}
	_, err = (&applebusiness.Transport{TokenURL: tokenURL, Base: base}).RoundTrip(empty)
	require.NoError(t, err)
	sent, err := io.ReadAll(base.requests[0].Body)
	assert.NoError(t, err)
	assert.Empty(t, sent)
}

func TestTransportKeepsTheRoundTripperContract(t *testing.T) {
	base := &recordingBase{}
	transport := &applebusiness.Transport{TokenURL: "HTTPS://API.example:443/api/v1/oauth2/token?x", Base: base}
	r := formRequest("https://api.example/api/v1/oauth2/token", "grant_type=refresh_token&note=%3Cü%3E")
	r.Header.Set("X-Partner", "kept")
	r.TransferEncoding = []string{"chunked"}
	before, body := r.Header.Clone(), r.Body
	response, err := transport.RoundTrip(r)
	require.NoError(t, err)

	assert.Equal(t, before, r.Header, "the caller's request is not changed")
	assert.Same(t, body, r.Body)
	assert.True(t, body.(*closeRecorder).closed)
	assert.NotSame(t, r, response.Request, "its body is secret")
	assert.Equal(t, "https://api.example/api/v1/oauth2/token", response.Request.URL.String())
	assert.NotContains(t, fmt.Sprint(response.Request.Header), "kept")
	for _, get := range []func() (io.ReadCloser, error){response.Request.GetBody, func() (io.ReadCloser, error) { return response.Request.Body, nil }} {
		reader, err := get()
		require.NoError(t, err)
		public, err := io.ReadAll(reader)
		require.NoError(t, err)
		assert.Equal(t, "grant_type=refresh_token", string(public))
	}
	assert.Equal(t, int64(len(tokenBody)), response.ContentLength)

	sent := base.requests[0]
	assert.NotSame(t, r, sent)
	assert.Equal(t, "kept", sent.Header.Get("X-Partner"))
	assert.Equal(t, "application/json", sent.Header.Get("Content-Type"))
	assert.Equal(t, "application/json", sent.Header.Get("Accept"))
	assert.Empty(t, sent.TransferEncoding)
	for range 2 {
		copied, err := sent.GetBody()
		require.NoError(t, err)
		content, err := io.ReadAll(copied)
		require.NoError(t, err)
		assert.JSONEq(t, `{"grant_type":"refresh_token","note":"<ü>"}`, string(content))
		assert.Equal(t, int64(len(content)), sent.ContentLength)
	}
}

func TestMislabelledAnswers(t *testing.T) {
	for _, contentType := range []string{"text/plain", "application/x-www-form-urlencoded", "text/html; charset=utf-8", ""} {
		for _, mark := range []string{"", "\ufeff", "\n "} {
			s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Type"] = []string{contentType}
				io.WriteString(w, mark+tokenBody)
			})
			token, err := s.config().Exchange(s.context(), "the-code")
			require.NoError(t, err, contentType)
			assert.Equal(t, "new-access", token.AccessToken)
			assert.InDelta(t, 3600, time.Until(token.Expiry).Seconds(), 600)

			s.answer = func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Type"] = []string{contentType}
				w.WriteHeader(401)
				io.WriteString(w, mark+deadBody)
			}
			_, err = s.config().Exchange(s.context(), "the-code")
			var failed *oauth2.RetrieveError
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, "invalid_grant", failed.ErrorCode, "x/oauth2 itself understands the answer")
		}
	}
}

func TestFailedReadsKeepTheirCause(t *testing.T) {
	t.Run("broken off", func(t *testing.T) {
		s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"access_token":"a"`)
		})
		_, err := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "r"}).Token()
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Same(t, err, applebusiness.Wrap(err))
		assert.True(t, applebusiness.Retryable(err))
		_, err = s.config().Exchange(s.context(), "the-code")
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.False(t, applebusiness.Retryable(err), "the code may be spent")
		assert.Equal(t, applebusiness.ActionStartOver, applebusiness.Troubleshoot(err).Action)
	})
	t.Run("deadline in the middle of a body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, viaContext := range []bool{true, false} {
				w := piped(t, func(conn net.Conn) {
					r, err := http.ReadRequest(bufio.NewReader(conn))
					if assert.NoError(t, err) {
						_, _ = io.Copy(io.Discard, r.Body)
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n"+`{"access_token":"a"`)
						drain(conn)
					}
				})
				if viaContext {
					ctx, cancel := context.WithTimeout(context.Background(), w.client.Timeout)
					defer cancel()
					w.ctx, w.client.Timeout = ctx, 0
				}
				_, _, err := w.request(applebusiness.GrantTypeAuthorizationCode)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.ErrorContains(t, err, "the response timed out")
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				assert.True(t, timeout.Timeout())
				assert.False(t, applebusiness.Retryable(err))
			}
		})
	})
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
		_, err := s.config().Exchange(applebusiness.WithJSON(ctx, s.config().Endpoint.TokenURL), "the-code")
		assert.ErrorIs(t, err, context.Canceled)
		assert.False(t, applebusiness.Retryable(err))
	})
}

func TestTransportReadsABoundedAnswer(t *testing.T) {
	s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(401)
		io.WriteString(w, strings.TrimSuffix(deadBody, "}"))
		for range 1024 {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<10)); err != nil {
				return
			}
		}
	})
	_, err := s.config().Exchange(s.context(), "the-code")
	var failed *oauth2.RetrieveError
	require.ErrorAs(t, err, &failed)
	assert.Len(t, failed.Body, 64<<10)
	assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrInvalidRefreshToken)
}

func TestTransportConcurrently(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, tokenBody))
	ctx := s.context()
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			_, err := s.config().Exchange(ctx, fmt.Sprint("code", i))
			assert.NoError(t, err)
		})
	}
	group.Wait()
	codes := map[string]bool{}
	for _, fields := range s.requests() {
		codes[fields["code"]] = true
	}
	assert.Len(t, codes, 20)
}

// What each bound of Transport lets through, and what not.
func TestTransportBounds(t *testing.T) {
	const tokenURL = "https://api.example/api/v1/oauth2/token"
	send := func(status int, header http.Header, body, form string) (*http.Response, []*applebusiness.Error, error) {
		var reported []*applebusiness.Error
		transport := &applebusiness.Transport{
			TokenURL: tokenURL,
			Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
			}),
			OnError: func(e *applebusiness.Error) { reported = append(reported, e) },
		}
		response, err := transport.RoundTrip(formRequest(tokenURL, form))
		return response, reported, err
	}

	t.Run("the length of a secret that is masked", func(t *testing.T) {
		for value, masked := range map[string]bool{"1234567": false, "12345678": true} {
			_, reported, _ := send(400, nil, `{"error":"x","error_description":"see `+value+`"}`, "refresh_token="+value)
			require.Len(t, reported, 1)
			assert.Equal(t, masked, reported[0].Description == "see ***", reported[0].Description)
		}
	})
	t.Run("the letters of a secret in another case", func(t *testing.T) {
		for _, test := range [][2]string{{"A-secret-Z", "a-SECRET-z"}, {"a-secret-z", "A-SECRET-Z"}, {"@-secret-[", "@-SECRET-["}} {
			_, reported, _ := send(400, nil, `{"error":"x","error_description":"see `+test[1]+`"}`, "refresh_token="+url.QueryEscape(test[0]))
			assert.Equal(t, "see ***", reported[0].Description)
		}
		_, reported, _ := send(400, nil, `{"error":"x","error_description":"see `+"`-SECRET-{"+`"}`, "refresh_token="+url.QueryEscape("@-secret-["))
		assert.Equal(t, "see `-SECRET-{", reported[0].Description, "@ and [ are no letters")
	})
	t.Run("a secret within a secret", func(t *testing.T) {
		for range 20 { // the order of a form's fields is random
			_, reported, _ := send(400, nil, `{"error":"x","error_description":"see 12345678-and-more"}`, "client_secret=12345678&refresh_token=12345678-and-more")
			assert.Equal(t, "see ***", reported[0].Description)
		}
	})
	t.Run("redirects", func(t *testing.T) {
		for status, isRedirect := range map[int]bool{299: false, 300: true, 399: true, 400: false} {
			_, reported, _ := send(status, http.Header{"Location": {"https://other.example/"}}, "", "a=b")
			require.Len(t, reported, 1)
			assert.Equal(t, isRedirect, strings.Contains(reported[0].Error(), "the token endpoint sent a redirect"), status)
		}
		_, reported, _ := send(302, nil, "", "a=b")
		assert.NotContains(t, reported[0].Error(), "sent a redirect", "there is no Location")
	})
	t.Run("the largest form", func(t *testing.T) {
		_, _, err := send(400, nil, "", "a="+strings.Repeat("x", 64<<10-2))
		assert.NoError(t, err)
		_, _, err = send(400, nil, "", "a="+strings.Repeat("x", 64<<10-1))
		assert.EqualError(t, err, "applebusiness: unsafe_token_request: its body is larger than 64 KiB")
	})
	t.Run("the label of a body", func(t *testing.T) {
		for body, label := range map[string]string{`{"error":"x"}`: "application/json", `[{"code":"x"}]`: "application/json", "<html>": "text/html", "": "text/html"} {
			response, _, err := send(400, http.Header{"Content-Type": {"text/html"}}, body, "a=b")
			require.NoError(t, err)
			assert.Equal(t, label, response.Header.Get("Content-Type"), body)
		}
	})
	t.Run("requests that are passed on", func(t *testing.T) {
		base := &recordingBase{}
		transport := &applebusiness.Transport{TokenURL: tokenURL, Base: base}
		for i := range 3 {
			r := httptest.NewRequest(http.MethodGet, tokenURL, nil)
			_, err := transport.RoundTrip(r)
			require.NoError(t, err)
			assert.Same(t, r, base.requests[i], "one after the other: as they are")
		}
	})
	// http.Client judges a redirect by the response's Request.
	t.Run("the Request of a response to a request that is passed on", func(t *testing.T) {
		other := httptest.NewRequest(http.MethodGet, "https://other.example/", nil)
		for name, test := range map[string]struct {
			of   func(sent *http.Request) *http.Request
			want func(r *http.Request) *http.Request
		}{
			"none":          {func(*http.Request) *http.Request { return nil }, func(r *http.Request) *http.Request { return r }},
			"the one sent":  {func(sent *http.Request) *http.Request { return sent }, func(r *http.Request) *http.Request { return r }},
			"another's own": {func(*http.Request) *http.Request { return other }, func(*http.Request) *http.Request { return other }},
		} {
			t.Run(name, func(t *testing.T) {
				inner := false
				var transport *applebusiness.Transport
				transport = &applebusiness.Transport{TokenURL: tokenURL, Base: roundTrip(func(sent *http.Request) (*http.Response, error) {
					if !inner { // a second one beside it is not sent as it is
						inner = true
						r := httptest.NewRequest(http.MethodGet, "https://api.example/api/v1/me", nil)
						response, err := transport.RoundTrip(r)
						require.NoError(t, err)
						assert.Same(t, test.want(r), response.Request, "the second")
					}
					return &http.Response{StatusCode: 200, Body: http.NoBody, Request: test.of(sent)}, nil
				})}
				r := httptest.NewRequest(http.MethodGet, tokenURL, nil)
				response, err := transport.RoundTrip(r)
				require.NoError(t, err)
				assert.Same(t, test.want(r), response.Request)
			})
		}
	})
}

// A 2xx that is no success reaches x/oauth2 as an error with all that is known of it, whatever else is in the body.
func TestNoTokenAtStatus200(t *testing.T) {
	for _, body := range []string{
		`{"expires_in":3600,"token_type":"Bearer"}`, `{"access_token":"","expires_in":3600}`, `{"access_token":"a","expires_in":3600,"error":"x"}`,
		`{"error":"invalid_grant","error_description":"Invalid refresh_token","expires_in":3600}`,
	} {
		s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Apple-Request-Id", "7f3c")
			_, _ = io.WriteString(w, body)
		})
		_, err := s.config().Exchange(s.context(), "c")
		var failed *oauth2.RetrieveError
		require.ErrorAs(t, err, &failed, body)
		assert.NotEmpty(t, failed.ErrorCode, body)
		var e *applebusiness.Error
		require.ErrorAs(t, applebusiness.Wrap(err), &e)
		assert.Equal(t, "7f3c", e.RequestID, body)
	}
}

// expires_in 0 is a token that has expired, by a second and not by the margin of Valid.
func TestExpiresInZero(t *testing.T) {
	s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"a","expires_in":0}`)
	})
	token, err := s.config().Exchange(s.context(), "c")
	require.NoError(t, err)
	assert.True(t, token.Expiry.Before(time.Now()), token.Expiry)
}

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
		"after a semicolon":               {url: tokenURL + "/", form: "a=b;grant_type=x", refused: notItself},
		"beside what does not decode":     {url: tokenURL + "/", form: "%zz=b&a=%zz", passed: true},
		"too long to look through":        {url: tokenURL + "/", form: "a=" + strings.Repeat("x", 65<<10) + "&grant_type=x", refused: "its body is larger than 64 KiB"},
		"no grant_type, another path":     {url: tokenURL + "/", form: "a=b&c=grant_type", passed: true},
		"another host":                    {url: "https://other.example/api/v1/oauth2/token", form: secretful, passed: true},
		"http":                            {tokenURL: "http://api.example/token", url: "http://api.example/token", form: secretful, refused: plainHTTP},
		"http, 127.0.0.1":                 {tokenURL: "http://127.0.0.1:8080/token", url: "http://127.0.0.1:8080/token", form: secretful},
		"http, 127.9.9.9":                 {tokenURL: "http://127.9.9.9/token", url: "http://127.9.9.9/token", form: secretful},
		"http, ::1":                       {tokenURL: "http://[::1]/token", url: "http://[::1]/token", form: secretful},
		"http, localhost":                 {tokenURL: "http://localhost/token", url: "http://LOCALHOST/token", form: secretful},
		"http, a private network":         {tokenURL: "http://10.0.0.1/token", url: "http://10.0.0.1/token", form: secretful, refused: plainHTTP},
		"http, a name like loopback's":    {tokenURL: "http://127.0.0.1.evil.example/", url: "http://127.0.0.1.evil.example/", form: secretful, refused: plainHTTP},
		"TokenURL without a host":         {tokenURL: "https:///token", url: tokenURL, form: secretful, refused: "the Transport has no usable TokenURL"},
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

func TestOnlyAuthorizationIsBasic(t *testing.T) {
	const tokenURL = "https://api.example/api/v1/oauth2/token"
	r := formRequest(tokenURL, "grant_type=refresh_token")
	r.Header.Set("X-Note", "Basic facts")
	_, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: &recordingBase{}}).RoundTrip(r)
	assert.NoError(t, err)
}

func TestAnErrorInARedirectIsThatError(t *testing.T) {
	const tokenURL = "https://api.example/api/v1/oauth2/token"
	base := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"/"}}, Body: io.NopCloser(strings.NewReader(deadBody))}, nil
	})
	response, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: base}).RoundTrip(formRequest(tokenURL, "grant_type=refresh_token"))
	require.NoError(t, err)
	_, err = applebusiness.ParseTokenResponse(response)
	assert.EqualError(t, err, `applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 302)`)
	assert.Empty(t, response.Header["Location"])
}

// Whoever sends a request because of a redirect shows it by the chain of responses, which net/http keeps in the requests.
func TestTransportLooksAtTheChainOfRedirects(t *testing.T) {
	const tokenURL = "https://api.example/api/v1/oauth2/token"
	elsewhere := httptest.NewRequest(http.MethodGet, "https://other.example/", nil)
	for _, test := range []struct {
		method  string
		earlier *http.Request
		refused bool
	}{
		{http.MethodGet, formRequest(tokenURL, "grant_type=refresh_token"), true},
		{http.MethodPost, formRequest(tokenURL, "grant_type=refresh_token"), true},
		{http.MethodPost, elsewhere, false},
		{http.MethodGet, httptest.NewRequest(http.MethodGet, tokenURL, nil), false},
		{http.MethodGet, elsewhere, false},
		{http.MethodPost, nil, true}, // a RoundTripper has removed it
		{http.MethodGet, nil, false},
	} {
		r := httptest.NewRequest(test.method, "https://other.example/", nil)
		r.Response = &http.Response{StatusCode: http.StatusSeeOther, Request: test.earlier}
		_, err := (&applebusiness.Transport{TokenURL: tokenURL, Base: &recordingBase{}}).RoundTrip(r)
		assert.Equal(t, test.refused, errors.Is(err, applebusiness.ErrMalformedResponse), "%s after %v", test.method, test.earlier)
		assert.Equal(t, test.refused, err != nil)
	}
}

// The Transport for token requests is made once for each Base, and http.DefaultTransport may be another one later.
func TestTransportUsesTheBaseOfToday(t *testing.T) {
	var dialed []string
	base := func(name string) *http.Transport {
		return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dialed = append(dialed, name)
			return nil, io.ErrClosedPipe
		}}
	}
	first, second := base("first"), base("second")
	transport := &applebusiness.Transport{TokenURL: "http://127.0.0.1/"}
	for _, transport.Base = range []http.RoundTripper{first, first, second} {
		_, err := transport.RoundTrip(formRequest(transport.TokenURL, "grant_type=refresh_token"))
		assert.ErrorIs(t, err, io.ErrClosedPipe)
	}
	assert.Equal(t, []string{"first", "first", "second"}, dialed)
}

// A limit of Base's connections is one for all token requests.
func TestTokenRequestsShareMaxConnsPerHost(t *testing.T) {
	var inside, most atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if now := inside.Add(1); now > most.Load() {
			most.Store(now)
		}
		time.Sleep(10 * time.Millisecond)
		inside.Add(-1)
		io.WriteString(w, tokenBody)
	}))
	defer s.Close()
	transport := &applebusiness.Transport{TokenURL: s.URL, Base: &http.Transport{MaxConnsPerHost: 1}}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			_, err := transport.RoundTrip(formRequest(s.URL, "grant_type=refresh_token"))
			assert.NoError(t, err)
		})
	}
	group.Wait()
	assert.EqualValues(t, 1, most.Load())
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

// sickEdge returns a server behind a NAT, and who trusts it. On each connection it answers two requests and then 503.
func sickEdge(t *testing.T, http2 bool) (nat *nat, pool *x509.CertPool) {
	type key struct{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		assert.Equal(t, http2, r.ProtoMajor == 2)
		if r.Context().Value(key{}).(*atomic.Int32).Add(1) > 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "<html><center>Apple</center></html>")
			return
		}
		_, _ = io.WriteString(w, tokenBody)
	}))
	server.EnableHTTP2 = http2
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, key{}, new(atomic.Int32))
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	pool = x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return newNAT(t, server.Listener.Addr().String()), pool
}

// Requests to the API leave a connection that a NAT then forgets, or on which the edge in front of the server answers two
// requests and then 503. No token request meets it, by HTTP/1 and by HTTP/2.
func TestTokenRequestsHaveAConnectionOfTheirOwn(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		newTransport := func(t *testing.T, pool *x509.CertPool) *http.Transport {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
			if http2 {
				transport = new(http.Transport)
				transport.CloseIdleConnections() // sets up its own HTTP/2
				transport.TLSClientConfig.RootCAs = pool
			}
			t.Cleanup(transport.CloseIdleConnections)
			return transport
		}
		fetch := func(t *testing.T, w way) {
			for grantType := range tokenRequests {
				token, _, err := w.request(grantType)
				if assert.NoError(t, err) { // not require: it may run in a goroutine
					assert.Equal(t, "new-access", token.AccessToken)
				}
			}
		}
		t.Run(fmt.Sprintf("HTTP/2 %t, beside requests to the API", http2), func(t *testing.T) {
			t.Parallel()
			nat, pool := sickEdge(t, http2)
			transport := newTransport(t, pool)
			w := way{url: "https://" + nat.address, client: &http.Client{Transport: transport, Timeout: 20 * time.Second}}
			for range 6 {
				response, err := w.client.Get(w.url + "/api/v1/me")
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				nat.forget()
				fetch(t, w)
				transport.CloseIdleConnections() // or the next GET meets what was forgotten
			}
		})
		t.Run(fmt.Sprintf("HTTP/2 %t, by another RoundTripper", http2), func(t *testing.T) { // which keeps what is not closed
			t.Parallel()
			nat, pool := sickEdge(t, http2)
			base := roundTrip(newTransport(t, pool).RoundTrip)
			w := way{url: "https://" + nat.address, client: &http.Client{Transport: base, Timeout: 20 * time.Second}}
			for range 6 {
				fetch(t, w)
				nat.forget()
			}
		})
		t.Run(fmt.Sprintf("HTTP/2 %t, WithJSON applied twice", http2), func(t *testing.T) {
			t.Parallel()
			nat, pool := sickEdge(t, http2)
			transport := newTransport(t, pool)
			w := way{url: "https://" + nat.address, client: &http.Client{Timeout: 20 * time.Second}}
			w.client.Transport = &applebusiness.Transport{TokenURL: w.url + tokenPath, Base: transport}
			response, err := w.client.Get(w.url + "/api/v1/me")
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			nat.forget()
			fetch(t, w)
		})
		t.Run(fmt.Sprintf("HTTP/2 %t, many at once", http2), func(t *testing.T) {
			t.Parallel()
			nat, pool := sickEdge(t, http2)
			w := way{url: "https://" + nat.address, client: &http.Client{Transport: newTransport(t, pool), Timeout: 20 * time.Second}}
			var together sync.WaitGroup
			for range 20 {
				together.Go(func() { fetch(t, w) })
			}
			together.Wait()
		})
	}
}

// Also where Transport only forwards a request, it returns a response or an error.
func TestBaseThatReturnsNothing(t *testing.T) {
	transport := &applebusiness.Transport{TokenURL: "https://api.example/token", Base: roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil })}
	for _, r := range []*http.Request{
		httptest.NewRequest(http.MethodGet, "https://api.example/api/v1/me", nil),
		httptest.NewRequest(http.MethodPost, "https://api.example/token", strings.NewReader("{}")),
	} {
		response, err := transport.RoundTrip(r)
		assert.Nil(t, response)
		assert.EqualError(t, err, "applebusiness: the Transport's Base returned neither a response nor an error")
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
			retrying := retries(len(test.answers))
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

// retries sends a request again until there is a response without a status of 5xx, so often at most.
func retries(most int) roundTrip {
	return func(r *http.Request) (response *http.Response, err error) {
		for range most {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
			if response, err = http.DefaultTransport.RoundTrip(r); err == nil && response.StatusCode < 500 {
				break
			}
		}
		return response, err
	}
}

// panickingError is an error of foreign code at its worst.
type panickingError struct{}

func (panickingError) Error() string { panic("Error") }
func (panickingError) Is(error) bool { panic("Is") }
func (panickingError) Unwrap() error { panic("Unwrap") }
func (panickingError) Timeout() bool { panic("Timeout") }

// What a Base returns may panic when it is looked at, or join itself until no machine can count it.
func TestTransportSurvivesForeignErrors(t *testing.T) {
	joined := error(syscall.ECONNREFUSED)
	for range 60 {
		joined = errors.Join(joined, joined)
	}
	for name, err := range map[string]error{
		"panics": panickingError{}, "a nil pointer": (*net.OpError)(nil), "joined": errors.Join(panickingError{}, io.EOF), "joined sixty times": joined,
	} {
		t.Run(name, func(t *testing.T) {
			base := roundTrip(func(*http.Request) (*http.Response, error) { return nil, err })
			_, failure := (&applebusiness.Transport{TokenURL: "https://api.example/token", Base: base}).RoundTrip(formRequest("https://api.example/token", "grant_type=refresh_token"))
			e, ok := failure.(*applebusiness.Error)
			require.True(t, ok)
			for _, err := range []error{e, err, fmt.Errorf("x: %w", failure), &url.Error{Op: "Post", Err: err}} {
				applebusiness.Troubleshoot(err)
				applebusiness.Retryable(err)
				applebusiness.Label(err)
				applebusiness.ReasonOf(err)
				applebusiness.CodeOf(err)
				_ = applebusiness.LogAttr(err).String()
				_ = applebusiness.Wrap(err)
			}
			assert.Equal(t, outcome{applebusiness.ErrNoResponse, applebusiness.ActionRetry, applebusiness.ImpactService, true}, outcomeOf(e))
			assert.False(t, e.Timeout())
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

// networkSecrets stand in each token request of tokenRequests.
var networkSecrets = []string{"secret-of-the-client", "refresh-of-the-customer", "code-of-the-customer", "verifier-of-the-customer"}

// tokenRequests are the two requests on which a customer's connection depends.
var tokenRequests = map[string]func(context.Context, *oauth2.Config) (*oauth2.Token, error){
	applebusiness.GrantTypeRefreshToken: func(ctx context.Context, config *oauth2.Config) (*oauth2.Token, error) {
		return config.TokenSource(ctx, &oauth2.Token{RefreshToken: networkSecrets[1]}).Token()
	},
	applebusiness.GrantTypeAuthorizationCode: func(ctx context.Context, config *oauth2.Config) (*oauth2.Token, error) {
		return config.Exchange(ctx, networkSecrets[2], oauth2.VerifierOption(networkSecrets[3]))
	},
}

// way is how a token request travels: to which base URL, by which client, in which context.
type way struct {
	url    string
	client *http.Client
	ctx    context.Context // nil: context.Background()
}

// request sends a token request with x/oauth2 and WithJSON, and returns also what OnError got.
func (w way) request(grantType string) (token *oauth2.Token, reported []*applebusiness.Error, err error) {
	config := &oauth2.Config{ClientID: "id", ClientSecret: networkSecrets[0], Endpoint: applebusiness.OAuth2Endpoint("https://business.example", w.url)}
	ctx := w.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	ctx = applebusiness.WithJSON(context.WithValue(ctx, oauth2.HTTPClient, w.client), config.Endpoint.TokenURL)
	transport := ctx.Value(oauth2.HTTPClient).(*http.Client).Transport.(*applebusiness.Transport)
	transport.OnError = func(e *applebusiness.Error) { reported = append(reported, e) }
	token, err = tokenRequests[grantType](ctx, config)
	return token, reported, err
}

// fault is a way on which a token request fails, and what the caller is told about it.
type fault struct {
	start             func(t *testing.T) way
	refresh, exchange outcome
	cause             error                                      // by errors.Is
	text              string                                     // how the *Error puts it
	check             func(t *testing.T, e *applebusiness.Error) // of the rest
}

func (f fault) run(t *testing.T) {
	t.Helper()
	t.Parallel()
	for grantType, want := range map[string]outcome{
		applebusiness.GrantTypeRefreshToken:      f.refresh,
		applebusiness.GrantTypeAuthorizationCode: f.exchange,
	} {
		t.Run(grantType, func(t *testing.T) {
			t.Parallel()
			token, reported, err := f.start(t).request(grantType)
			require.Error(t, err)
			assert.Nil(t, token)
			err = applebusiness.Wrap(err)
			assert.Equal(t, want, outcomeOf(err), "%v", err)
			if f.cause != nil {
				assert.ErrorIs(t, err, f.cause)
			}
			e, ok := errors.AsType[*applebusiness.Error](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, grantType, e.GrantType)
			if assert.Len(t, reported, 1, "OnError") {
				assert.Equal(t, e.Error(), reported[0].Error())
				assert.Equal(t, want, outcomeOf(reported[0]))
			}
			assert.Contains(t, e.Error(), f.text)
			for _, secret := range networkSecrets {
				assert.NotContains(t, e.Error(), secret)
			}
			if f.check != nil {
				f.check(t, e)
			}
		})
	}
}

// The outcomes that most of the network has: of a request that may have been sent, of one that was not, and of one for
// which waiting does not help.
var (
	mayPass     = outcome{applebusiness.ErrNoResponse, applebusiness.ActionRetry, applebusiness.ImpactService, true}
	startsOver  = outcome{applebusiness.ErrNoResponse, applebusiness.ActionStartOver, applebusiness.ImpactService, false}
	unreachable = outcome{applebusiness.ErrNoResponse, applebusiness.ActionCheckNetwork, applebusiness.ImpactService, false}
	endedBefore = outcome{applebusiness.ErrNoResponse, applebusiness.ActionFixRequest, applebusiness.ImpactUnknown, false}
)

// freshClient returns a client whose connections are its own, and end with the test.
func freshClient(t *testing.T, transport *http.Transport) *http.Client {
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// served returns the way to a server over loopback.
func served(handler http.HandlerFunc) func(*testing.T) way {
	return func(t *testing.T) way {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return way{url: server.URL, client: freshClient(t, &http.Transport{})}
	}
}

// piped returns the way to a server without a network, for tests in which the clock stands still until everybody waits.
func piped(t *testing.T, serve func(net.Conn)) way {
	dial := func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go serve(theirs)
		return ours, nil
	}
	return way{url: "http://127.0.0.1", client: freshClient(t, &http.Transport{DialContext: dial})}
}

// taken returns a handler that reads the request and then has the connection for itself.
func taken(then func(*net.TCPConn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		then(conn.(*net.TCPConn))
	}
}

// raw returns a handler that writes text as it is and closes the connection.
func raw(text string) http.HandlerFunc {
	return taken(func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) })
}

// listening returns the address of a listener that hands each connection to serve.
func listening(t *testing.T, listener net.Listener, serve func(net.Conn)) string {
	var running sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return listener.Addr().String()
}

func loopback(t *testing.T) net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}

// drain reads until the other side goes.
func drain(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// nowhere returns an address on which nothing listens, and nothing will: port 1 is for root alone.
const nowhere = "127.0.0.1:1"

func silent(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// deadline is a context whose deadline comes when the test says so, however slow the machine is.
type deadline struct {
	context.Context
	done   chan struct{}
	arrive func()
}

func newDeadline() deadline {
	done := make(chan struct{})
	return deadline{context.Background(), done, sync.OnceFunc(func() { close(done) })}
}

func (d deadline) Done() <-chan struct{} { return d.done }

func (d deadline) Err() error {
	select {
	case <-d.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestNetworkConnections(t *testing.T) {
	for name, test := range map[string]fault{
		"nothing listens": {
			start: func(t *testing.T) way {
				return way{url: "http://" + nowhere, client: freshClient(t, &http.Transport{})}
			},
			refresh: mayPass, exchange: mayPass, cause: syscall.ECONNREFUSED, text: "the connection was refused",
		},
		"closed when the request arrives": {
			start: served(taken(func(*net.TCPConn) {})), refresh: mayPass, exchange: startsOver, cause: io.EOF, text: "the connection was reset",
		},
		"reset": {
			start:   served(taken(func(conn *net.TCPConn) { _ = conn.SetLinger(0) })),
			refresh: mayPass, exchange: startsOver, cause: syscall.ECONNRESET, text: "the connection was reset",
		},
		"silent": {
			start: func(t *testing.T) way {
				ctx := newDeadline()
				w := served(func(w http.ResponseWriter, r *http.Request) {
					ctx.arrive()
					silent(w, r)
				})(t)
				w.ctx = ctx
				return w
			},
			refresh: mayPass, exchange: startsOver, cause: context.DeadlineExceeded, text: "timed out",
			check: func(t *testing.T, e *applebusiness.Error) { assert.True(t, e.Timeout()) },
		},
		"deadline before": {
			start: func(t *testing.T) way {
				w := served(answerWith(200, tokenBody))(t)
				ctx, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
				t.Cleanup(cancel)
				w.ctx = ctx
				return w
			},
			refresh: endedBefore, exchange: endedBefore, text: "the context had ended before anything was sent", cause: context.DeadlineExceeded,
		},
		"canceled before": {
			start: func(t *testing.T) way {
				w := served(answerWith(200, tokenBody))(t)
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				w.ctx = ctx
				return w
			},
			refresh: endedBefore, exchange: endedBefore, text: "the context had ended before anything was sent", cause: context.Canceled,
		},
		"canceled in flight": {
			start: func(t *testing.T) way {
				ctx, cancel := context.WithCancel(context.Background())
				t.Cleanup(cancel)
				w := served(func(w http.ResponseWriter, r *http.Request) {
					cancel()
					silent(w, r)
				})(t)
				w.ctx = ctx
				return w
			},
			refresh:  outcome{reason: applebusiness.ErrNoResponse},
			exchange: startsOver, cause: context.Canceled,
		},
		"Base returns an empty response beside its error": {
			start: func(*testing.T) way {
				return way{url: "https://api.example", client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					return new(http.Response), &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
				})}}
			},
			refresh:  outcome{applebusiness.ErrNoResponse, applebusiness.ActionRetry, applebusiness.ImpactService, true},
			exchange: outcome{applebusiness.ErrNoResponse, applebusiness.ActionRetry, applebusiness.ImpactService, true},
		},
		"Base returns nothing": {
			start: func(*testing.T) way {
				return way{url: "https://api.example", client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil })}}
			},
			refresh:  outcome{applebusiness.ErrNoResponse, applebusiness.ActionFixRequest, applebusiness.ImpactApp, false},
			exchange: outcome{applebusiness.ErrNoResponse, applebusiness.ActionFixRequest, applebusiness.ImpactApp, false},
		},
	} {
		t.Run(name, test.run)
	}
}

// A server that says nothing gives one verdict, however many requests wait for it, half a second before the client's Timeout.
func TestNetworkSilenceHasOneVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, drain)
		type verdict struct {
			outcome
			grantType string
			deadline  bool
			reported  int
			after     time.Duration
		}
		verdicts, start := make([]verdict, 50), time.Now()
		var running sync.WaitGroup
		for i := range verdicts {
			running.Go(func() {
				_, reported, err := w.request(applebusiness.GrantTypeAuthorizationCode)
				v := verdict{outcome: outcomeOf(err), deadline: errors.Is(err, context.DeadlineExceeded), reported: len(reported), after: time.Since(start)}
				if e, ok := errors.AsType[*applebusiness.Error](err); ok {
					v.grantType = e.GrantType
				}
				verdicts[i] = v
			})
		}
		running.Wait()
		for _, v := range verdicts {
			assert.Equal(t, verdict{startsOver, applebusiness.GrantTypeAuthorizationCode, true, 1, w.client.Timeout - 500*time.Millisecond}, v)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// testCertificate returns the certificate of httptest for 127.0.0.1, and who trusts it.
func testCertificate() (tls.Certificate, *x509.CertPool) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server.TLS.Certificates[0], pool
}

// The frames of HTTP/2 that the tests write (RFC 9113 section 6).
const (
	h2Data, h2Headers, h2Reset, h2Settings, h2GoAway = 0, 1, 3, 4, 7
	h2EndStream, h2Ack                               = 1, 1

	h2NoError, h2InternalError, h2RefusedStream = 0, 2, 7
)

func writeFrame(conn net.Conn, kind, flags byte, stream uint32, payload ...uint32) {
	frame := make([]byte, 9, 17)
	for _, word := range payload {
		frame = binary.BigEndian.AppendUint32(frame, word)
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-9)<<8|uint32(kind))
	frame[4] = flags
	binary.BigEndian.PutUint32(frame[5:], stream)
	_, _ = conn.Write(frame)
}

// readFrame reads a frame, and skips what it carries.
func readFrame(conn net.Conn) (kind, flags byte, stream uint32, err error) {
	head := make([]byte, 9)
	if _, err := io.ReadFull(conn, head); err != nil {
		return 0, 0, 0, err
	}
	_, err = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head)>>8))
	return head[3], head[4], binary.BigEndian.Uint32(head[5:]), err
}

// http2 returns the way to an HTTP/2 server that gives each whole request to then, until it returns false. The deadline comes
// with request number last; 0 is none.
func http2(last int32, then func(conn *tls.Conn, stream uint32) (more bool)) func(*testing.T) way {
	return func(t *testing.T) way {
		certificate, pool := testCertificate()
		listener := tls.NewListener(loopback(t), &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}})
		var requests atomic.Int32
		ctx := newDeadline()
		address := listening(t, listener, func(plain net.Conn) {
			conn := plain.(*tls.Conn)
			if _, err := io.ReadFull(conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
				return
			}
			writeFrame(conn, h2Settings, 0, 0)
			for {
				kind, flags, stream, err := readFrame(conn)
				switch {
				case err != nil:
					return
				case kind == h2Settings && flags&h2Ack == 0:
					writeFrame(conn, h2Settings, h2Ack, 0)
				case (kind == h2Headers || kind == h2Data) && flags&h2EndStream != 0:
					if requests.Add(1) == last {
						ctx.arrive()
					}
					if !then(conn, stream) {
						return
					}
				}
			}
		})
		t.Cleanup(func() { assert.NotZero(t, requests.Load(), "nothing came by HTTP/2") })
		client := freshClient(t, &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}})
		return way{url: "https://" + address, client: client, ctx: ctx}
	}
}

// hangUp ends a connection so that all that was written arrives.
func hangUp(conn *tls.Conn) bool {
	_ = conn.CloseWrite()
	drain(conn)
	return false
}

// An authorization code that went out by HTTP/2 is never sent again, though net/http itself repeats what was refused.
func TestNetworkHTTP2(t *testing.T) {
	contains := func(text string) func(*testing.T, *applebusiness.Error) {
		return func(t *testing.T, e *applebusiness.Error) { assert.ErrorContains(t, errors.Unwrap(e), text) }
	}
	for name, test := range map[string]fault{
		"GOAWAY": {start: http2(0, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2GoAway, 0, 0, stream, h2NoError)
			return hangUp(conn)
		}), text: "HTTP/2 GOAWAY", check: contains("server sent GOAWAY and closed the connection")},
		"GOAWAY, an error": {start: http2(0, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2GoAway, 0, 0, stream, h2InternalError)
			return hangUp(conn)
		}), text: "HTTP/2 GOAWAY", check: contains("INTERNAL_ERROR")},
		"GOAWAY, not processed": {start: http2(3, func(conn *tls.Conn, _ uint32) bool {
			writeFrame(conn, h2GoAway, 0, 0, 0, h2NoError)
			return hangUp(conn)
		})},
		"REFUSED_STREAM": {start: http2(3, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2Reset, 0, stream, h2RefusedStream)
			return true
		}), cause: context.DeadlineExceeded},
		"INTERNAL_ERROR": {start: http2(0, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2Reset, 0, stream, h2InternalError)
			return true
		}), text: "HTTP/2 stream error", check: contains("stream error: stream ID 1; INTERNAL_ERROR")},
		"closed": {start: http2(0, func(conn *tls.Conn, _ uint32) bool { return hangUp(conn) }), cause: io.ErrUnexpectedEOF},
		"reset": {start: http2(0, func(conn *tls.Conn, _ uint32) bool {
			_ = conn.NetConn().(*net.TCPConn).SetLinger(0)
			_ = conn.NetConn().Close()
			return false
		})},
		"silent": {start: http2(1, func(*tls.Conn, uint32) bool { return true }), cause: context.DeadlineExceeded},
	} {
		test.refresh, test.exchange = mayPass, startsOver
		t.Run(name, test.run)
	}
}

// net/http sends again, each time on a new connection, what HTTP/2 has refused unprocessed. That is no storm.
func TestRefusedStreamsArePaced(t *testing.T) {
	t.Parallel()
	start := time.Now()
	w := http2(4, func(conn *tls.Conn, stream uint32) bool {
		writeFrame(conn, h2Reset, 0, stream, h2RefusedStream)
		return true
	})(t)
	_, _, err := w.request(applebusiness.GrantTypeRefreshToken)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.GreaterOrEqual(t, time.Since(start), 350*time.Millisecond) // 50, 100 and 200 ms
}

func TestNetworkProxies(t *testing.T) {
	// The endpoint is never reached: what the proxy says to CONNECT is all.
	proxied := func(proxy string, t *testing.T) way {
		return way{url: "https://api.example", client: freshClient(t, &http.Transport{Proxy: http.ProxyURL(must(url.Parse("http://" + proxy)))})}
	}
	responds := func(status int) func(*testing.T) way {
		return func(t *testing.T) way {
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, http.MethodConnect, r.Method)
				w.WriteHeader(status)
			}))
			t.Cleanup(proxy.Close)
			return proxied(proxy.Listener.Addr().String(), t)
		}
	}
	for name, test := range map[string]fault{
		"407": {start: responds(407), text: "the proxy refused the connection", refresh: unreachable, exchange: unreachable},
		"403": {start: responds(403), text: "the proxy refused the connection", refresh: unreachable, exchange: unreachable},
		"502": {start: responds(502), text: "the proxy refused the connection", refresh: mayPass, exchange: mayPass},
		"503": {start: responds(503), text: "the proxy refused the connection", refresh: mayPass, exchange: mayPass},
		"504": {start: responds(504), text: "the proxy refused the connection", refresh: mayPass, exchange: mayPass},
		"nothing listens": {
			start:   func(t *testing.T) way { return proxied(nowhere, t) },
			refresh: mayPass, exchange: mayPass, cause: syscall.ECONNREFUSED, text: "the connection was refused",
		},
		"hangs up": {
			start:   func(t *testing.T) way { return proxied(listening(t, loopback(t), func(net.Conn) {}), t) },
			refresh: mayPass, exchange: mayPass,
		},
	} {
		t.Run(name, test.run)
	}
}

func unsent(t *testing.T, e *applebusiness.Error) { assert.True(t, e.Unsent()) }

func TestNetworkTLS(t *testing.T) {
	encrypted := func(config *tls.Config) func(*testing.T) way {
		return func(t *testing.T) way {
			server := httptest.NewUnstartedServer(answerWith(200, tokenBody))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			t.Cleanup(server.Close)
			config := config.Clone()
			if config.ServerName != "" {
				config.RootCAs = x509.NewCertPool()
				config.RootCAs.AddCert(server.Certificate())
			}
			return way{url: server.URL, client: freshClient(t, &http.Transport{TLSClientConfig: config})}
		}
	}
	for name, test := range map[string]fault{
		"unknown CA": {
			text:    "TLS: the certificate is not trusted: its authority is unknown; nothing was sent",
			start:   encrypted(&tls.Config{RootCAs: x509.NewCertPool()}),
			refresh: unreachable, exchange: unreachable,
			check: func(t *testing.T, e *applebusiness.Error) {
				_, ok := errors.AsType[x509.UnknownAuthorityError](e)
				assert.True(t, ok)
			},
		},
		"wrong host": {
			text:    "TLS: the certificate is not trusted: it is for another host; nothing was sent",
			start:   encrypted(&tls.Config{ServerName: "wrong.test"}),
			refresh: unreachable, exchange: unreachable,
			check: func(t *testing.T, e *applebusiness.Error) {
				_, ok := errors.AsType[x509.HostnameError](e)
				assert.True(t, ok)
			},
		},
		"expired": {
			text:    "TLS: the certificate is not trusted: it has expired; nothing was sent",
			start:   encrypted(&tls.Config{ServerName: "example.com", Time: func() time.Time { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }}),
			refresh: unreachable, exchange: unreachable, check: unsent,
		},
		"a slow clock": {
			text:    "TLS: the certificate is not trusted: it is not valid yet, or the clock of this machine is slow; nothing was sent",
			start:   encrypted(&tls.Config{ServerName: "example.com", Time: func() time.Time { return time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC) }}),
			refresh: unreachable, exchange: unreachable, check: unsent,
		},
		"plain HTTP": {
			text: "TLS: the server does not speak it",
			start: func(t *testing.T) way {
				server := httptest.NewUnstartedServer(answerWith(200, tokenBody))
				server.Config.ErrorLog = log.New(io.Discard, "", 0)
				server.Start()
				t.Cleanup(server.Close)
				return way{url: "https://" + server.Listener.Addr().String(), client: freshClient(t, &http.Transport{})}
			},
			refresh: unreachable, exchange: unreachable,
			check: func(t *testing.T, e *applebusiness.Error) {
				_, ok := errors.AsType[tls.RecordHeaderError](e)
				assert.True(t, ok)
			},
		},
		"handshake times out": {
			text: "the TLS handshake timed out",
			start: func(t *testing.T) way {
				return way{url: "https://" + listening(t, loopback(t), drain), client: freshClient(t, &http.Transport{TLSHandshakeTimeout: 50 * time.Millisecond})}
			},
			refresh: mayPass, exchange: mayPass,
			check: func(t *testing.T, e *applebusiness.Error) { assert.True(t, e.Timeout()) },
		},
		"the deadline comes in the handshake": {
			start: func(t *testing.T) way {
				ctx := newDeadline()
				address := listening(t, loopback(t), func(conn net.Conn) {
					_, _ = conn.Read(make([]byte, 1))
					ctx.arrive()
					drain(conn)
				})
				return way{url: "https://" + address, client: freshClient(t, &http.Transport{}), ctx: ctx}
			},
			refresh: mayPass, exchange: mayPass, cause: context.DeadlineExceeded,
		},
		"handshake breaks off": {
			start: func(t *testing.T) way {
				return way{url: "https://" + listening(t, loopback(t), func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<14)) }), client: freshClient(t, &http.Transport{})}
			},
			refresh: mayPass, exchange: mayPass,
		},
	} {
		t.Run(name, test.run)
	}
}

func TestNetworkBodies(t *testing.T) {
	const head = "Content-Type: application/json\r\nContent-Length: 5000\r\n"
	for name, test := range map[string]fault{
		"429 cut": {
			start:    served(raw("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\n" + head + "\r\n<html>")),
			refresh:  outcome{applebusiness.ErrNoResponse, applebusiness.ActionRetry, applebusiness.ImpactApp, true},
			exchange: outcome{applebusiness.ErrNoResponse, applebusiness.ActionRetry, applebusiness.ImpactApp, true},
			cause:    io.ErrUnexpectedEOF,
			check: func(t *testing.T, e *applebusiness.Error) {
				assert.Equal(t, 429, e.StatusCode)
				assert.Equal(t, 30*time.Second, e.RetryAfter)
			},
		},
		"400 cut after the error": {
			start:    served(raw("HTTP/1.1 400 Bad Request\r\n" + head + "\r\n" + strings.TrimSuffix(deadBody, "}") + `,"pad":"x`)),
			refresh:  outcome{applebusiness.ErrInvalidRefreshToken, applebusiness.ActionReauthorize, applebusiness.ImpactCustomer, false},
			exchange: outcome{applebusiness.ErrInvalidRefreshToken, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
			cause:    applebusiness.CodeInvalidGrant,
			check:    func(t *testing.T, e *applebusiness.Error) { assert.Equal(t, 400, e.StatusCode) },
		},
		"200 cut": {
			start:   served(raw("HTTP/1.1 200 OK\r\n" + head + "\r\n" + tokenBody[:40])),
			refresh: mayPass, exchange: startsOver, cause: io.ErrUnexpectedEOF, text: "truncated",
		},
		"200 cut before the body": {
			start:   served(raw("HTTP/1.1 200 OK\r\n" + head + "\r\n")),
			refresh: mayPass, exchange: startsOver, cause: io.ErrUnexpectedEOF, text: "truncated",
		},
		"a cut header": {
			start:   served(raw("HTTP/1.1 200 OK\r\nContent-Type: appl")),
			refresh: mayPass, exchange: startsOver, cause: io.ErrUnexpectedEOF, text: "the connection was reset",
		},
		"400, unlabelled gzip": {
			start:    served(answerWith(400, gzipped(deadBody))),
			refresh:  outcome{applebusiness.ErrInvalidRefreshToken, applebusiness.ActionReauthorize, applebusiness.ImpactCustomer, false},
			exchange: outcome{applebusiness.ErrInvalidRefreshToken, applebusiness.ActionStartOver, applebusiness.ImpactCustomer, false},
			cause:    applebusiness.CodeInvalidGrant,
		},
	} {
		t.Run(name, test.run)
	}
	for name, handler := range map[string]http.HandlerFunc{
		"a whole token, then cut": raw("HTTP/1.1 200 OK\r\n" + head + "\r\n" + tokenBody),
		"unlabelled gzip":         answerWith(200, gzipped(tokenBody)),
	} {
		for grantType := range tokenRequests {
			t.Run(name+" "+grantType, func(t *testing.T) {
				t.Parallel()
				token, reported, err := served(handler)(t).request(grantType)
				require.NoError(t, err)
				assert.Equal(t, "new-access", token.AccessToken)
				assert.Equal(t, "new-refresh", token.RefreshToken)
				assert.Empty(t, reported)
			})
		}
	}
}

// redirecting returns a server that redirects everything by 307 to another host, and what arrives there.
func redirecting(t *testing.T) (first *httptest.Server, arrived *atomic.Int32) {
	arrived = new(atomic.Int32)
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	t.Cleanup(other.Close)
	first = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/elsewhere", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(first.Close)
	return first, arrived
}

// No RoundTripper around or below a Transport makes a redirect carry a secret, or hides the grant type.
func TestNetworkRoundTrippers(t *testing.T) {
	forgetful := roundTrip(func(r *http.Request) (*http.Response, error) {
		response, err := http.DefaultTransport.RoundTrip(r)
		if response != nil {
			response.Request = nil
		}
		return response, err
	})
	foreign := outcome{applebusiness.ErrMalformedResponse, applebusiness.ActionCheckNetwork, applebusiness.ImpactService, false}
	is307 := func(t *testing.T, e *applebusiness.Error) { assert.Equal(t, 307, e.StatusCode) }
	t.Run("a 307, Base forgets the request", fault{
		start: func(t *testing.T) way {
			server, arrived := redirecting(t)
			t.Cleanup(func() { assert.Zero(t, arrived.Load()) })
			return way{url: server.URL, client: &http.Client{Transport: forgetful}}
		},
		refresh: foreign, exchange: foreign, check: is307,
	}.run)
	for name, test := range map[string]struct{ method, contentType, body string }{
		"JSON of the caller's own": {http.MethodPost, "application/json", `{"client_secret":"secret-of-the-client"}`},
		"JSON, post":               {"post", "application/json", `{"client_secret":"secret-of-the-client"}`},
		"a form, post":             {"post", "application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=refresh-of-the-customer"},
		"a form, Post":             {"Post", "application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=refresh-of-the-customer"},
	} {
		for base, transport := range map[string]http.RoundTripper{"": nil, ", Base forgets the request": forgetful} {
			t.Run(name+base, func(t *testing.T) {
				server, arrived := redirecting(t)
				var reported []*applebusiness.Error
				client := &http.Client{Transport: &applebusiness.Transport{
					TokenURL: server.URL + tokenPath, Base: transport, OnError: func(e *applebusiness.Error) { reported = append(reported, e) },
				}}
				request, err := http.NewRequest(test.method, server.URL+tokenPath, strings.NewReader(test.body))
				require.NoError(t, err)
				request.Header.Set("Content-Type", test.contentType)
				response, err := client.Do(request)
				require.NoError(t, err, "a redirect that is not followed is a response")
				assert.NotContains(t, fmt.Sprint(response.Header), "elsewhere")
				_, err = applebusiness.ParseTokenResponse(response)
				assert.Equal(t, foreign, outcomeOf(err), "%v", err)
				assert.Zero(t, arrived.Load())
				if assert.Len(t, reported, 1, "OnError") {
					is307(t, reported[0])
				}
			})
		}
	}
	t.Run("post", func(t *testing.T) {
		s := newJSONOnlyServer(t, answerWith(200, tokenBody))
		client := &http.Client{Transport: &applebusiness.Transport{TokenURL: s.URL + tokenPath}}
		request, err := http.NewRequest("post", s.URL+tokenPath, strings.NewReader("grant_type=refresh_token"))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		response, err := client.Do(request)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, 200, response.StatusCode)
		assert.Equal(t, []map[string]string{{"grant_type": "refresh_token"}}, s.requests())
	})
	for name, drop := range map[string]func(base http.RoundTripper, r *http.Request) (*http.Response, error){
		"before": func(base http.RoundTripper, r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.GetBody = nil
			return base.RoundTrip(r)
		},
		"after": func(base http.RoundTripper, r *http.Request) (*http.Response, error) {
			response, err := base.RoundTrip(r)
			if response != nil {
				response.Request.GetBody = nil
			}
			return response, err
		},
		"after, a copy": func(base http.RoundTripper, r *http.Request) (*http.Response, error) {
			response, err := base.RoundTrip(r)
			if response != nil {
				response.Request = response.Request.Clone(r.Context())
				response.Request.GetBody = nil
			}
			return response, err
		},
	} {
		for grantType, request := range tokenRequests {
			t.Run("GetBody dropped "+name+" "+grantType, func(t *testing.T) {
				s := newJSONOnlyServer(t, answerWith(400, deadBody))
				transport := &applebusiness.Transport{TokenURL: s.config().Endpoint.TokenURL}
				client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) { return drop(transport, r) })}
				_, err := request(context.WithValue(context.Background(), oauth2.HTTPClient, client), s.config())
				e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(err))
				require.True(t, ok)
				assert.Equal(t, grantType, e.GrantType)
				assert.ErrorIs(t, e, applebusiness.ErrInvalidRefreshToken)
			})
		}
	}
}

// A Transport that is its own Base says so rather than call itself for ever.
func TestNetworkOwnBase(t *testing.T) {
	const base = "https://api.example"
	tooDeep := errors.New("it called itself")
	around := func(inner *http.RoundTripper) http.RoundTripper {
		var depth atomic.Int32
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if depth.Add(1) > 20 {
				return nil, tooDeep
			}
			defer depth.Add(-1)
			return (*inner).RoundTrip(r.Clone(r.Context()))
		})
	}
	for name, build := range map[string]func(t *testing.T, transport *applebusiness.Transport){
		"http.DefaultTransport": func(t *testing.T, transport *applebusiness.Transport) {
			before := http.DefaultTransport
			t.Cleanup(func() { http.DefaultTransport = before })
			http.DefaultTransport = transport
		},
		"http.DefaultTransport, through a wrapper": func(t *testing.T, transport *applebusiness.Transport) {
			before := http.DefaultTransport
			t.Cleanup(func() { http.DefaultTransport = before })
			var inner http.RoundTripper = transport
			http.DefaultTransport = around(&inner)
		},
		"Base": func(_ *testing.T, transport *applebusiness.Transport) { transport.Base = transport },
		"Base, through a wrapper": func(_ *testing.T, transport *applebusiness.Transport) {
			var inner http.RoundTripper = transport
			transport.Base = around(&inner)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var reported []*applebusiness.Error
			config := &oauth2.Config{Endpoint: applebusiness.OAuth2Endpoint("", base)}
			transport := &applebusiness.Transport{TokenURL: config.Endpoint.TokenURL, OnError: func(e *applebusiness.Error) { reported = append(reported, e) }}
			build(t, transport)
			client := &http.Client{Transport: transport}
			want := outcome{applebusiness.ErrUnsafeTokenRequest, applebusiness.ActionFixRequest, applebusiness.ImpactApp, false}
			for grantType, request := range tokenRequests {
				reported = nil
				_, err := request(context.WithValue(context.Background(), oauth2.HTTPClient, client), config)
				assert.Equal(t, want, outcomeOf(err), "%v", err)
				assert.NotErrorIs(t, err, tooDeep)
				if assert.Len(t, reported, 1, "OnError") {
					assert.Equal(t, grantType, reported[0].GrantType)
				}
			}
			_, err := client.Get(base + "/api/v1/me")
			assert.ErrorIs(t, err, applebusiness.ErrUnsafeTokenRequest)
			assert.NotErrorIs(t, err, tooDeep)
		})
	}
}

// What net/http says by text only: through a Transport, and in the *url.Error of a client without one.
func TestNetworkTexts(t *testing.T) {
	for text, exchange := range map[string]outcome{
		"http: server closed idle connection": startsOver,
		`http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=""`: startsOver,
		"stream error: stream ID 1; INTERNAL_ERROR; received from peer":                                   startsOver,
		"stream error: stream ID 3; REFUSED_STREAM":                                                       startsOver,
		"http2: client connection lost":                                                                   startsOver,
		"net/http: TLS handshake timeout":                                                                 mayPass,
		"proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused":                             mayPass,
		"dial tcp: lookup api.example: i/o timeout":                                                       mayPass,
		"giving up after 3 attempts: dial tcp 127.0.0.1:1: connect: connection refused":                   startsOver, // who knows what the others were
	} {
		t.Run(text, fault{
			start: func(*testing.T) way {
				return way{url: "https://api.example", client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return nil, errors.New(text) })}}
			},
			refresh: mayPass, exchange: exchange,
		}.run)
		bare := &url.Error{Op: "Post", URL: "https://api.example", Err: errors.New(text)}
		assert.Equal(t, outcome{"", applebusiness.ActionRetry, applebusiness.ImpactService, true}, outcomeOf(bare), text)
	}
	t.Run("proxyconnect", fault{
		start: func(*testing.T) way {
			refused := &net.OpError{Op: "proxyconnect", Net: "tcp", Err: &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("connect: %w", syscall.ECONNREFUSED)}}
			return way{url: "https://api.example", client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return nil, refused })}}
		},
		refresh: mayPass, exchange: mayPass, cause: syscall.ECONNREFUSED, text: "the connection was refused",
	}.run)
	foreign := &url.Error{Op: "Post", URL: "https://api.example", Err: errors.New("a RoundTripper of the caller's own gave up")}
	assert.Equal(t, outcome{}, outcomeOf(foreign))
}

// hijack returns a handler that answers with raw bytes on the connection.
func hijack(answer func(net.Conn, <-chan struct{})) func(<-chan struct{}) http.HandlerFunc {
	return func(done <-chan struct{}) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			answer(conn, done)
		}
	}
}

func plain(handler http.HandlerFunc) func(<-chan struct{}) http.HandlerFunc {
	return func(<-chan struct{}) http.HandlerFunc { return handler }
}

// trickle writes a byte each time, until the client goes away or the test is over.
func trickle(conn net.Conn, done <-chan struct{}, text string, pause time.Duration) {
	for i := 0; ; i++ {
		if _, err := conn.Write([]byte{text[i%len(text)]}); err != nil {
			return
		}
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
	}
}

func TestFaultsOnTheNetwork(t *testing.T) { // beside no other test, since it counts goroutines
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, err := zip.Write(make([]byte, 16<<20))
	require.NoError(t, err)
	require.NoError(t, zip.Close())
	for name, test := range map[string]struct {
		answer func(done <-chan struct{}) http.HandlerFunc
		action applebusiness.Action
		target error
	}{
		"no answer":         {hijack(func(_ net.Conn, done <-chan struct{}) { <-done }), applebusiness.ActionRetry, context.DeadlineExceeded},
		"headers never end": {hijack(func(c net.Conn, done <-chan struct{}) { io.WriteString(c, head); <-done }), applebusiness.ActionRetry, context.DeadlineExceeded},
		"body never ends":   {hijack(func(c net.Conn, done <-chan struct{}) { io.WriteString(c, head+"Content-Length: 100\r\n\r\n{"); <-done }), applebusiness.ActionRetry, context.DeadlineExceeded},
		"one byte a second": {hijack(func(c net.Conn, done <-chan struct{}) {
			io.WriteString(c, head+"\r\n")
			trickle(c, done, " ", time.Second)
		}), applebusiness.ActionRetry, context.DeadlineExceeded},
		"reset":          {hijack(func(c net.Conn, _ <-chan struct{}) { c.(*net.TCPConn).SetLinger(0) }), applebusiness.ActionRetry, nil},
		"closed at once": {hijack(func(net.Conn, <-chan struct{}) {}), applebusiness.ActionRetry, io.EOF},
		"truncated": {hijack(func(c net.Conn, _ <-chan struct{}) {
			io.WriteString(c, head+"Content-Length: 1000\r\n\r\n"+tokenBody[:len(tokenBody)-1])
		}), applebusiness.ActionRetry, io.ErrUnexpectedEOF},
		"chunk cut": {hijack(func(c net.Conn, _ <-chan struct{}) {
			io.WriteString(c, head+"Transfer-Encoding: chunked\r\n\r\nff\r\n{")
		}), applebusiness.ActionRetry, io.ErrUnexpectedEOF},
		"Content-Length lies": {hijack(func(c net.Conn, _ <-chan struct{}) { io.WriteString(c, head+"Content-Length: 10\r\n\r\n"+tokenBody) }), applebusiness.ActionCheckNetwork, applebusiness.ErrMalformedResponse},
		"Content-Length twice": {hijack(func(c net.Conn, _ <-chan struct{}) {
			io.WriteString(c, head+"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}")
		}), applebusiness.ActionCheckNetwork, nil},
		"not HTTP": {hijack(func(c net.Conn, _ <-chan struct{}) { io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n") }), applebusiness.ActionCheckNetwork, nil},
		"endless header": {hijack(func(c net.Conn, _ <-chan struct{}) {
			io.WriteString(c, head)
			for {
				if _, err := fmt.Fprintf(c, "X-Endless: %s\r\n", strings.Repeat("x", 4<<10)); err != nil {
					return
				}
			}
		}), applebusiness.ActionCheckNetwork, nil},
		"gzip bomb": {plain(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}), applebusiness.ActionCheckNetwork, applebusiness.ErrMalformedResponse},
		"redirect loop": {plain(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusPermanentRedirect)
		}), applebusiness.ActionCheckNetwork, applebusiness.ErrMalformedResponse},
		"HTML at 200": {plain(answerWith(200, "<html><h1>Sign in to the hotel's network</h1></html>")), applebusiness.ActionCheckNetwork, applebusiness.ErrMalformedResponse},
		"HTML at 502": {plain(answerWith(502, "<html>")), applebusiness.ActionRetry, nil},
		"429": {plain(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		}), applebusiness.ActionRetry, nil},
	} {
		t.Run(name, func(t *testing.T) {
			goroutines := runtime.NumGoroutine()
			done := make(chan struct{})
			var open atomic.Int32
			ctx, answer := newDeadline(), test.answer(done)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.target == context.DeadlineExceeded {
					time.AfterFunc(300*time.Millisecond, ctx.arrive)
				}
				answer(w, r)
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				switch state {
				case http.StateNew:
					open.Add(1)
				case http.StateClosed, http.StateHijacked: // a hijacked one is closed by its handler
					open.Add(-1)
				}
			}
			server.Start()
			transport := &http.Transport{}
			config := &oauth2.Config{Endpoint: applebusiness.OAuth2Endpoint("", server.URL)}
			withJSON := applebusiness.WithJSON(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport}), config.Endpoint.TokenURL)

			var reported error
			source := &applebusiness.TokenSource{Source: config.TokenSource(withJSON, &oauth2.Token{RefreshToken: "r"}), OnError: func(err error) { reported = err }, Hold: true}
			_, err := source.Token()
			require.Error(t, err)
			assert.Same(t, reported, err)
			if test.target != nil {
				assert.ErrorIs(t, err, test.target)
			}
			assert.Equal(t, test.action, applebusiness.Troubleshoot(err).Action, "%v", err)
			assert.Equal(t, test.action, applebusiness.Troubleshoot(applebusiness.Wrap(err)).Action)
			assert.Equal(t, test.action == applebusiness.ActionRetry, applebusiness.Retryable(err))

			close(done)
			transport.CloseIdleConnections()
			server.Close()
			for range 1000 { // not assert.Eventually, which has goroutines of its own
				if open.Load() == 0 && runtime.NumGoroutine() <= goroutines {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			assert.Zero(t, open.Load(), "connections")
			assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines, "goroutines")
		})
	}
}

// A body of a success that never ends costs no more memory than its bound.
func TestEndlessBodyIsBounded(t *testing.T) {
	server := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
		block := bytes.Repeat([]byte(" "), 64<<10)
		for range 1024 { // 64 MiB
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := server.config().Exchange(server.context(), "c")
	runtime.ReadMemStats(&after)
	assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrMalformedResponse)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20))
}

// A URL's Opaque is what goes over the wire, whatever its Path says.
func TestTransportJudgesTheOpaquePart(t *testing.T) {
	transport := &applebusiness.Transport{TokenURL: "https://api.example" + tokenPath, Base: roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("sent")
		return nil, io.EOF
	})}
	r := formRequest("https://api.example"+tokenPath, "grant_type=refresh_token&refresh_token=rt")
	r.URL.Opaque = "/elsewhere"
	_, err := transport.RoundTrip(r)
	assert.ErrorIs(t, err, applebusiness.ErrUnsafeTokenRequest)
}

// Transport has read a labelled gzip, so the response does not say any longer that it is one.
func TestTransportUnlabelsWhatItUnzips(t *testing.T) {
	for _, status := range []int{200, 400} {
		var body bytes.Buffer
		zip := gzip.NewWriter(&body)
		_, _ = io.WriteString(zip, map[int]string{200: tokenBody, 400: deadBody}[status])
		require.NoError(t, zip.Close())
		transport := &applebusiness.Transport{TokenURL: "https://api.example" + tokenPath, Base: roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Encoding": {"gzip"}}, Body: io.NopCloser(bytes.NewReader(body.Bytes()))}, nil
		})}
		response, err := transport.RoundTrip(formRequest("https://api.example"+tokenPath, "grant_type=refresh_token&refresh_token=rt"))
		require.NoError(t, err)
		assert.Empty(t, response.Header["Content-Encoding"])
		assert.Equal(t, "application/json", response.Header.Get("Content-Type"))
		plain, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		assert.True(t, json.Valid(plain), "%q", plain)
	}
}

func TestCloseIdleConnectionsOfItsOwnBase(t *testing.T) {
	transport := new(applebusiness.Transport)
	transport.Base = transport
	transport.CloseIdleConnections()
}

func TestCloseIdleConnectionsOfABaseThatHasNone(t *testing.T) {
	assert.NotPanics(t, (&applebusiness.Transport{Base: roundTrip(nil)}).CloseIdleConnections)
}
