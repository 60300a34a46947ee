package applebusiness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
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
		"JSON":       alreadyJSON,
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
		for _, viaContext := range []bool{true, false} {
			arrived := make(chan struct{})
			s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `{"access_token":"a"`)
				w.(http.Flusher).Flush()
				close(arrived)
				<-r.Context().Done()
			})
			client := &http.Client{}
			ctx := context.Background()
			if viaContext {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
			} else {
				client.Timeout = 200 * time.Millisecond
			}
			ctx = applebusiness.WithJSON(context.WithValue(ctx, oauth2.HTTPClient, client), s.config().Endpoint.TokenURL)
			_, err := s.config().Exchange(ctx, "the-code")
			<-arrived
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			var timeout net.Error
			require.ErrorAs(t, err, &timeout)
			assert.True(t, timeout.Timeout())
			if viaContext { // http.Client may replace the error, and so the grant, when its own Timeout fires
				assert.False(t, applebusiness.Retryable(err))
			}
		}
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

func TestWithJSON(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, tokenBody))
	endpoint := s.config().Endpoint
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	base := &recordingBase{}
	client := &http.Client{Transport: base, Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}
	ctx := applebusiness.WithJSON(context.WithValue(context.Background(), oauth2.HTTPClient, client), endpoint.TokenURL)
	wrapped := ctx.Value(oauth2.HTTPClient).(*http.Client)
	assert.Same(t, base, client.Transport, "the client is not changed")
	assert.Same(t, jar, wrapped.Jar)
	assert.Equal(t, time.Minute, wrapped.Timeout)
	assert.NotNil(t, wrapped.CheckRedirect)
	assert.Nil(t, http.DefaultClient.Transport)

	twice := applebusiness.WithJSON(s.context(), endpoint.TokenURL)
	_, err = s.config().Exchange(twice, "the-code")
	require.NoError(t, err)
	assert.Len(t, s.requests(), 1)
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

// What this package relies on in x/oauth2, so that an upgrade that changes it fails here by name.

func TestOAuth2SendsAForm(t *testing.T) {
	var got []*http.Request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = append(got, r) }))
	defer s.Close()
	config := &oauth2.Config{ClientID: "i", ClientSecret: "s", Endpoint: oauth2.Endpoint{TokenURL: s.URL}}
	_, err := config.Exchange(context.Background(), "c")
	require.Error(t, err)
	require.Len(t, got, 2, "AutoDetect: any failure makes it POST twice")
	for i, hasBasic := range []bool{true, false} {
		assert.Equal(t, "application/x-www-form-urlencoded", got[i].Header.Get("Content-Type"))
		_, _, ok := got[i].BasicAuth()
		assert.Equal(t, hasBasic, ok)
	}
}

func TestOAuth2UsesTheClientInTheContext(t *testing.T) {
	base := &recordingBase{}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: base})
	_, err := (&oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: "https://x.example", AuthStyle: oauth2.AuthStyleInParams}}).Exchange(ctx, "c")
	require.NoError(t, err)
	require.Len(t, base.requests, 1)
	assert.NotNil(t, base.requests[0].GetBody, "Wrap reads grant_type from it")
}

func TestOAuth2KeepsTheRefreshToken(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, `{"access_token":"a"}`))
	token, err := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "old"}).Token()
	require.NoError(t, err)
	assert.Equal(t, "old", token.RefreshToken)
}

func TestReuseTokenSourceHandsOutOnePointer(t *testing.T) {
	stored := &oauth2.Token{AccessToken: "a"}
	source := oauth2.ReuseTokenSource(stored, nil)
	token, err := source.Token()
	require.NoError(t, err)
	assert.Same(t, stored, token, "so TokenSource returns a copy")
}

func TestOAuth2PlainErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		stored string
		text   string
		reason applebusiness.Reason
		want   string
	}{
		{"not JSON", answerWith(200, "<html>secret</html>"), "r", "oauth2: cannot parse json: invalid character '<' looking for beginning of value",
			applebusiness.ErrMalformedResponse, "applebusiness: malformed_response: the response is not JSON"},
		{"not a form", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, "%zz")
		}, "r", `oauth2: cannot parse response: invalid URL escape "%zz"`,
			applebusiness.ErrMalformedResponse, "applebusiness: malformed_response: the response is not JSON"},
		{"no token", answerWith(200, "{}"), "r", "oauth2: server response missing access_token",
			applebusiness.ErrMalformedResponse, "applebusiness: malformed_response: the response holds no access_token"},
		{"no refresh token", nil, "", "oauth2: token expired and refresh token is not set",
			applebusiness.ErrNoRefreshToken, "applebusiness: no_refresh_token: the access token has expired and there is no refresh token"},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "{")
		}, "r", "oauth2: cannot fetch token: unexpected EOF",
			applebusiness.ErrNoResponse, "applebusiness: no_response: the response could not be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewServer(test.answer) // accepts x/oauth2's plain form
			defer s.Close()
			config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.URL, AuthStyle: oauth2.AuthStyleInParams}}
			source := config.TokenSource(context.Background(), &oauth2.Token{RefreshToken: test.stored})
			_, plain := source.Token()
			require.EqualError(t, plain, test.text)

			_, err := (&applebusiness.TokenSource{Source: source}).Token()
			assert.EqualError(t, err, test.want)
			assert.ErrorIs(t, err, test.reason)
			assert.Equal(t, applebusiness.TokenEndpoint, err.(*applebusiness.Error).Endpoint)

			_, err = oauth2.NewClient(context.Background(), source).Get(s.URL)
			assert.ErrorIs(t, applebusiness.Wrap(err), test.reason, "inside a *url.Error too")
			assert.ErrorIs(t, applebusiness.Wrap(errors.Join(io.EOF, fmt.Errorf("x: %w", plain))), test.reason)
		})
	}
}

func TestWrapLeavesTheRestAlone(t *testing.T) {
	documented := &applebusiness.Error{Reason: applebusiness.ErrServer}
	for _, err := range []error{
		nil, io.EOF, context.Canceled, errors.New("something about oauth2: cannot parse json"), documented,
		fmt.Errorf("customer 7: %w", documented), errors.Join(documented, &oauth2.RetrieveError{}), applebusiness.ErrServer, applebusiness.CodeInvalidGrant,
		&url.Error{Op: "Post", URL: "https://api.example", Err: context.DeadlineExceeded},
	} {
		assert.Equal(t, err, applebusiness.Wrap(err))
	}
	s := httptest.NewServer(nil)
	s.Close()
	_, err := (&oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.URL}}).Exchange(context.Background(), "c")
	require.Error(t, err)
	assert.Same(t, err, applebusiness.Wrap(err), "a refused connection is the network's error")
	assert.True(t, applebusiness.Retryable(err))
}

func TestWrapRetrieveError(t *testing.T) {
	s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("apple-request-id", "req-1")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(401)
		io.WriteString(w, deadBody)
	})
	config, ctx := s.config(), s.context()
	service := &clientcredentials.Config{ClientID: "i", ClientSecret: "s", TokenURL: config.Endpoint.TokenURL, AuthStyle: oauth2.AuthStyleInParams}
	refresher := config.TokenSource(ctx, &oauth2.Token{RefreshToken: "r"})
	for name, test := range map[string]struct {
		fail  func() error
		grant string
	}{
		"Exchange":          {func() error { _, err := config.Exchange(ctx, "c"); return applebusiness.Wrap(err) }, "authorization_code"},
		"refresh":           {func() error { _, err := (&applebusiness.TokenSource{Source: refresher}).Token(); return err }, "refresh_token"},
		"clientcredentials": {func() error { _, err := service.Token(ctx); return applebusiness.Wrap(err) }, "client_credentials"},
		"NewClient":         {func() error { _, err := oauth2.NewClient(ctx, refresher).Get(s.URL); return applebusiness.Wrap(err) }, "refresh_token"},
		"context before": {func() error {
			_, err := config.Exchange(ctx, "c")
			return applebusiness.Wrap(fmt.Errorf("customer 7: %w", err))
		}, "authorization_code"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.fail()
			e, ok := err.(*applebusiness.Error)
			require.True(t, ok)
			assert.EqualError(t, err, `applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)`)
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
			assert.Equal(t, test.grant, e.GrantType)
			assert.Equal(t, "req-1", e.RequestID)
			assert.Equal(t, 7*time.Second, e.RetryAfter)
			var failed *oauth2.RetrieveError
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, "invalid_grant", failed.ErrorCode)
			assert.Same(t, err, applebusiness.Wrap(err))
		})
	}
}

func TestWrapHandmadeRetrieveErrors(t *testing.T) {
	request := func(body string) *http.Response {
		r, err := http.NewRequest(http.MethodPost, "https://api.example", strings.NewReader(body))
		require.NoError(t, err)
		return &http.Response{StatusCode: 400, Request: r}
	}
	for name, test := range map[string]struct {
		err   *oauth2.RetrieveError
		text  string
		grant string
	}{
		"typed nil":       {nil, "applebusiness: malformed_response", ""},
		"zero":            {&oauth2.RetrieveError{}, "applebusiness: malformed_response", ""},
		"fields alone":    {&oauth2.RetrieveError{ErrorCode: "invalid_grant", ErrorDescription: "Invalid refresh_token"}, `applebusiness: invalid_grant: "Invalid refresh_token"`, ""},
		"body alone":      {&oauth2.RetrieveError{Body: []byte(deadBody)}, `applebusiness: invalid_grant: "Invalid refresh_token"`, ""},
		"404":             {&oauth2.RetrieveError{Response: &http.Response{StatusCode: 404}, ErrorCode: "invalid_request"}, `applebusiness: invalid_request (HTTP 404)`, ""},
		"no request body": {&oauth2.RetrieveError{Response: &http.Response{StatusCode: 400, Request: &http.Request{}}}, `applebusiness: malformed_response (HTTP 400)`, ""},
		"JSON request":    {&oauth2.RetrieveError{Response: request(`{"grant_type":"refresh_token"}`)}, `applebusiness: malformed_response (HTTP 400)`, "refresh_token"},
		"form request":    {&oauth2.RetrieveError{Response: request(`grant_type=refresh_token&x=%zz`)}, `applebusiness: malformed_response (HTTP 400)`, "refresh_token"},
	} {
		t.Run(name, func(t *testing.T) {
			err := applebusiness.Wrap(test.err)
			assert.EqualError(t, err, test.text)
			assert.Equal(t, test.grant, err.(*applebusiness.Error).GrantType)
			if name == "404" {
				assert.ErrorIs(t, err, applebusiness.ErrEndpointNotFound)
			}
		})
	}
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
