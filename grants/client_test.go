package grants_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// api is a resource API that takes the tokens that it was told to take, and remembers what it was sent.
type api struct {
	latency time.Duration

	mu      sync.Mutex
	good    map[string]bool // access tokens; nil: all
	seen    []string        // Authorization
	bodies  []string
	open    int // bodies of responses that were not closed
	answers []func(*http.Request) *http.Response
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	body := ""
	if r.Body != nil {
		read, _ := io.ReadAll(r.Body)
		r.Body.Close()
		body = string(read)
	}
	time.Sleep(a.latency)
	a.mu.Lock()
	defer a.mu.Unlock()
	authorization := r.Header.Get("Authorization")
	a.seen, a.bodies = append(a.seen, authorization), append(a.bodies, body)
	answer := response(200, "fine")
	switch accessToken, _ := strings.CutPrefix(authorization, "Bearer "); {
	case len(a.answers) > 0:
		answer, a.answers = a.answers[0](r), a.answers[1:]
	case a.good != nil && !a.good[accessToken]:
		answer = response(401, `[{"code":"Unauthorized","message":"Expired Token"}]`)
	}
	a.open++
	answer.Body = &countedBody{answer.Body, a}
	answer.Request = r
	return answer, nil
}

type countedBody struct {
	io.ReadCloser
	api *api
}

func (b *countedBody) Close() error {
	b.api.mu.Lock()
	defer b.api.mu.Unlock()
	b.api.open--
	return b.ReadCloser.Close()
}

func (w *world) api() *api {
	api := new(api)
	w.apple.api = api.RoundTrip
	return api
}

// read returns a response's status and body, and closes it.
func read(t *testing.T, response *http.Response, err error) (int, string) {
	t.Helper()
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Empty(t, response.Request.Header.Get("Authorization"), "the token does not show in the response")
	return response.StatusCode, string(body)
}

func TestClient(t *testing.T) {
	t.Run("sets the token and leaves the request alone", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			api := w.api()
			m := w.process()
			w.connect("a", time.Hour)
			request, err := http.NewRequest("GET", apiURL, nil)
			require.NoError(t, err)
			request.Header = nil
			response, err := m.Client("a").Transport.RoundTrip(request)
			status, _ := read(t, response, err)
			assert.Equal(t, 200, status)
			assert.Equal(t, []string{"Bearer access-a-0"}, api.seen)
			assert.Nil(t, request.Header)
			assert.Same(t, request, response.Request)
			assert.Zero(t, api.open)
			assert.Nil(t, m.Client("a").Jar)
			assert.Equal(t, 30*time.Second, m.Client("a").Timeout)
		})
	})

	t.Run("no token, no request", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			api := w.api()
			m := w.process()
			body := &closeSpy{Reader: strings.NewReader("x")}
			request, err := http.NewRequest("POST", apiURL, body)
			require.NoError(t, err)
			_, err = m.Client("a").Do(request)
			require.ErrorIs(t, err, grants.ErrNoGrant)
			assert.True(t, body.closed)
			assert.Empty(t, api.seen)
		})
	})

	t.Run("a Transport that returns nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			m := w.process()
			w.connect("a", time.Hour)
			var first *http.Response
			w.apple.api = func(*http.Request) (*http.Response, error) { return first, nil }
			_, err := m.Client("a").Get(apiURL)
			require.ErrorContains(t, err, "neither a response nor an error")
			first = response(401, "")
			w.apple.api = func(*http.Request) (found *http.Response, _ error) { found, first = first, nil; return found, nil }
			_, err = m.Client("a").Get(apiURL)
			require.ErrorContains(t, err, "neither a response nor an error")
		})
	})

	t.Run("401: refreshes once for all, and sends again", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			api := w.api()
			w.apple.latency, api.latency = time.Second, time.Second
			api.good = map[string]bool{"access-a-1": true}
			m := w.process()
			w.connect("a", time.Hour)
			client := m.Client("a")
			var group sync.WaitGroup
			for range 10 {
				group.Go(func() {
					response, err := client.Post(apiURL, "text/plain", strings.NewReader("body"))
					status, body := read(t, response, err)
					assert.Equal(t, 200, status)
					assert.Equal(t, "fine", body)
				})
			}
			group.Wait()
			assert.Equal(t, 1, w.apple.requests())
			assert.Len(t, api.seen, 20)
			for _, body := range api.bodies {
				assert.Equal(t, "body", body)
			}
			assert.Zero(t, api.open, "the first responses are closed")
		})
	})

	t.Run("a second 401 is returned as it is", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			api := w.api()
			api.good = map[string]bool{}
			m := w.process()
			w.connect("a", time.Hour)
			for i := range 200 {
				response, err := m.Client("a").Get(apiURL)
				status, body := read(t, response, err)
				assert.Equal(t, 401, status)
				assert.Contains(t, body, "Expired Token")
				if i == 0 {
					assert.Equal(t, []string{"Bearer access-a-0", "Bearer access-a-1"}, api.seen)
				}
			}
			assert.Len(t, api.seen, 201, "a token that is seconds old is not replaced")
			assert.Equal(t, 1, w.apple.requests())
			assert.Zero(t, api.open)
		})
	})

	t.Run("an API that refuses every token, and then takes them again", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			api := w.api()
			api.good = map[string]bool{}
			m := w.process()
			get := func(grant string) int {
				response, err := m.Client(grant).Get(apiURL)
				status, _ := read(t, response, err)
				return status
			}
			for i := range 50 {
				w.connect(fmt.Sprint(i), time.Hour)
				assert.Equal(t, 401, get(fmt.Sprint(i)))
			}
			assert.LessOrEqual(t, w.apple.requests(), 4, "not a rotation for each grant")
			synctest.Wait()
			assert.Contains(t, w.logged(), "the API refuses tokens that are seconds old")

			api.answers = []func(*http.Request) *http.Response{
				func(*http.Request) *http.Response { return response(403, "a gateway's") },
				func(*http.Request) *http.Response { return response(400, "") },
				func(*http.Request) *http.Response { return response(503, "") },
			}
			assert.Equal(t, 403, get("20"))
			assert.Equal(t, 400, get("20"))
			assert.Equal(t, 503, get("20"))
			synctest.Wait()
			assert.Empty(t, w.logged(), "that says nothing about the token")
			api.good = nil
			assert.Equal(t, 200, get("20"))
			synctest.Wait()
			assert.Contains(t, w.logged(), "the API takes tokens again")
			before := w.apple.requests()
			api.good = map[string]bool{"access-30-1": true}
			assert.Equal(t, 200, get("30"), "a refused token is replaced again")
			assert.Equal(t, before+1, w.apple.requests())
		})
	})

	t.Run("what cannot be sent again is not", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			api := w.api()
			api.good = map[string]bool{"access-a-1": true}
			m := w.process()
			w.connect("a", time.Hour)
			response, err := m.Client("a").Post(apiURL, "text/plain", io.MultiReader(strings.NewReader("stream")))
			status, _ := read(t, response, err)
			assert.Equal(t, 401, status)
			assert.Zero(t, w.apple.requests())
			response, err = m.Client("a").Post(apiURL, "text/plain", io.MultiReader(strings.NewReader("stream")))
			status, _ = read(t, response, err)
			assert.Equal(t, 200, status, "but the token is replaced for the next one")
		})
	})

	t.Run("the refresh fails", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			api := w.api()
			api.good = map[string]bool{}
			m := w.process()
			w.connect("a", time.Hour)
			w.apple.revoke("a")
			_, err := m.Client("a").Get(apiURL)
			assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
			assert.Zero(t, api.open)
		})
	})

	t.Run("redirects", func(t *testing.T) {
		for name, test := range map[string]struct {
			to   []string
			want []string
		}{
			"to the same host":      {[]string{"https://apple.example/other"}, []string{"Bearer access-a-0", "Bearer access-a-0"}},
			"to the same port":      {[]string{"https://apple.example:443/other"}, []string{"Bearer access-a-0", "Bearer access-a-0"}},
			"to another host":       {[]string{"https://evil.example/"}, []string{"Bearer access-a-0", ""}},
			"to a subdomain":        {[]string{"https://x.apple.example/"}, []string{"Bearer access-a-0", ""}},
			"to another port":       {[]string{"https://apple.example:8443/"}, []string{"Bearer access-a-0", ""}},
			"to another scheme":     {[]string{"http://apple.example/"}, []string{"Bearer access-a-0", ""}},
			"to another and back":   {[]string{"https://evil.example/", apiURL}, []string{"Bearer access-a-0", "", ""}},
			"within and to another": {[]string{"https://apple.example/b", "https://evil.example/"}, []string{"Bearer access-a-0", "Bearer access-a-0", ""}},
		} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					api := w.api()
					for _, to := range test.to {
						api.answers = append(api.answers, func(*http.Request) *http.Response { return response(307, "", "Location", to) })
					}
					m := w.process()
					w.connect("a", time.Hour)
					response, err := m.Client("a").Get(apiURL)
					status, _ := read(t, response, err)
					assert.Equal(t, 200, status)
					assert.Equal(t, test.want, api.seen)
				})
			})
		}

		bubble(t, func(t *testing.T, w *world) { // a 401 of another host says nothing about the token
			api := w.api()
			api.answers = []func(*http.Request) *http.Response{
				func(*http.Request) *http.Response { return response(307, "", "Location", "https://evil.example/") },
				func(*http.Request) *http.Response { return response(401, "") },
			}
			m := w.process()
			w.connect("a", time.Hour)
			response, err := m.Client("a").Get(apiURL)
			status, _ := read(t, response, err)
			assert.Equal(t, 401, status)
			assert.Equal(t, "access-a-0", token(t, m, "a"))
			assert.Zero(t, w.apple.requests())
		})
	})

	t.Run("the caller's context", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.api()
			w.apple.fail(hang)
			m := w.process()
			w.connect("a", -time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, "GET", apiURL, nil)
			require.NoError(t, err)
			start := time.Now()
			_, err = m.Client("a").Do(request)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, time.Second, time.Since(start))
		})
	})

	t.Run("a RoundTripper that fails", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.apple.api = func(*http.Request) (*http.Response, error) { return nil, errDatabase }
			m := w.process()
			w.connect("a", time.Hour)
			_, err := m.Client("a").Get(apiURL)
			assert.ErrorIs(t, err, errDatabase)
		})
	})
}

type closeSpy struct {
	io.Reader
	closed bool
}

func (s *closeSpy) Close() error { s.closed = true; return nil }

// On a real network the connection is used again after a 401, and a large body of one does not have to be read.
func TestClientOnTheNetwork(t *testing.T) {
	var connections int
	for range 3 { // a machine that stands still while the body is read costs one more
		if connections = connectionsOfFive(t); connections == 1 {
			break
		}
	}
	assert.Equal(t, 1, connections)
}

// connectionsOfFive sends five requests with a token, of which the first meets a 401, and returns by how many connections.
func connectionsOfFive(t *testing.T) int {
	w := newWorld(t)
	connections := map[string]bool{}
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		connections[r.RemoteAddr] = true
		mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer access-a-1" {
			rw.WriteHeader(401)
		}
		_, _ = rw.Write(bytes.Repeat([]byte("x"), 5000))
	}))
	defer server.Close()
	w.apple.api = http.DefaultTransport.RoundTrip
	w.connect("a", time.Hour)
	m := w.process(func(o *grants.Options) { o.Origins = []string{server.URL, "http://127.0.0.1:1"} })
	client := m.Client("a")
	defer client.CloseIdleConnections()
	for range 5 {
		response, err := client.Get(server.URL)
		status, body := read(t, response, err)
		assert.Equal(t, 200, status)
		assert.Len(t, body, 5000)
	}
	_, err := client.Get("http://127.0.0.1:1/")
	require.Error(t, err)
	var failed *applebusiness.Error
	assert.False(t, errors.As(err, &failed), "the API's failure is not the token endpoint's")
	return len(connections)
}

// Where a grant's token may go, by TokenURL and Options.Origins.
func TestClientIsPinned(t *testing.T) {
	const (
		elsewhere = "applebusiness/grants: a grant's token is sent to the origins of TokenURL and of Options.Origins, and not to "
		plain     = "applebusiness/grants: a grant's token is sent by https, or by http to loopback, and not to "
		mistake   = "applebusiness/grants: Options.Origins[%d] has to be a scheme and a host, such as \"https://api.example.com\", and nothing else; with http the host has to be loopback"
	)
	wrong := func(i int) string { return fmt.Sprintf(mistake, i) }
	for _, test := range []struct {
		tokenURL string
		origins  []string
		url      string
		want     string // "" if the token is sent
	}{
		{tokenURL, nil, "https://apple.example/api/v1/me", ""},
		{tokenURL, nil, "https://APPLE.example:443/", ""},
		{tokenURL, nil, "https://apple.example./", ""},
		{tokenURL, nil, "https://user:SECRET@apple.example/", ""},
		{tokenURL, nil, "https://apple.example:8443/", elsewhere + `"https://apple.example:8443"`},
		{tokenURL, nil, "https://x.apple.example/", elsewhere + `"https://x.apple.example"`},
		{tokenURL, nil, "https://apple.example.evil.example/", elsewhere + `"https://apple.example.evil.example"`},
		{tokenURL, nil, "https://apple.example@evil.example/", elsewhere + `"https://evil.example"`},
		{tokenURL, nil, "https://user:SECRET@evil.example/?code=SECRET#SECRET", elsewhere + `"https://evil.example"`},
		{tokenURL, nil, "http://apple.example/", plain + `"http://apple.example"`},
		{tokenURL, nil, "http://apple.example:443/", plain + `"http://apple.example:443"`},
		{tokenURL, nil, "ftp://apple.example/", plain + `"ftp://apple.example"`},
		{tokenURL, nil, "http://127.0.0.1:8080/", elsewhere + `"http://127.0.0.1:8080"`},
		{tokenURL, nil, "https://localhost/", elsewhere + `"https://localhost"`},

		{tokenURL, []string{"https://api.example"}, "https://api.example/x", ""},
		{tokenURL, []string{"https://api.example/"}, "https://api.example/x", ""},
		{tokenURL, []string{"https://one.example", "HTTPS://API.example:443"}, "https://api.example/x", ""},
		{tokenURL, []string{"https://api.example"}, "https://apple.example/x", ""},
		{tokenURL, []string{"https://api.example"}, "https://other.example/x", elsewhere + `"https://other.example"`},
		{tokenURL, []string{"https://api.example"}, "http://api.example/x", plain + `"http://api.example"`},
		{tokenURL, []string{"http://localhost:8080"}, "http://localhost:8080/x", ""},
		{tokenURL, []string{"http://localhost:8080"}, "http://localhost:8081/x", elsewhere + `"http://localhost:8081"`},

		{"http://127.0.0.1:1/token", nil, "http://127.0.0.1:1/x", ""},
		{"http://127.0.0.1:1/token", nil, "http://localhost:2/x", ""},
		{"http://127.0.0.1:1/token", nil, "http://[::1]:2/x", ""},
		{"https://localhost/token", nil, "http://[::ffff:127.8.9.1]/x", ""},
		{"https://localhost/token", nil, "https://127.0.0.1/x", ""},
		{"http://127.0.0.1:1/token", nil, "https://apple.example/", elsewhere + `"https://apple.example"`},
		{"http://127.0.0.1:1/token", nil, "http://10.0.0.1/", plain + `"http://10.0.0.1"`},
		{"http://127.0.0.1:1/token", nil, "http://localhost.example/", plain + `"http://localhost.example"`},
		{"http://127.0.0.1:1/token", nil, "ftp://127.0.0.1/", plain + `"ftp://127.0.0.1"`},
		{"http://apple.example/token", nil, "http://apple.example/x", plain + `"http://apple.example"`},
		{"http://apple.example/token", nil, "https://apple.example/x", elsewhere + `"https://apple.example"`},

		{"", nil, "https://apple.example/x", elsewhere + `"https://apple.example"`},
		{"apple.example/token", nil, "https://apple.example/x", elsewhere + `"https://apple.example"`},
		{"https://apple.example\n/token", nil, "https://apple.example/x", elsewhere + `"https://apple.example"`},
		{"", []string{"https://apple.example"}, "https://apple.example/x", ""},

		{tokenURL, []string{"api.example"}, apiURL, wrong(0)},
		{tokenURL, []string{"api.example:443"}, apiURL, wrong(0)},
		{tokenURL, []string{"localhost:8080"}, apiURL, wrong(0)},
		{tokenURL, []string{"//api.example"}, apiURL, wrong(0)},
		{tokenURL, []string{"https://api.example", "https://api.example/v1"}, apiURL, wrong(1)},
		{tokenURL, []string{"https://api.example?x=SECRET"}, apiURL, wrong(0)},
		{tokenURL, []string{"https://api.example?"}, apiURL, wrong(0)},
		{tokenURL, []string{"https://api.example#x"}, apiURL, wrong(0)},
		{tokenURL, []string{"https://user:SECRET@api.example"}, apiURL, wrong(0)},
		{tokenURL, []string{"http://api.example"}, apiURL, wrong(0)},
		{tokenURL, []string{"ftp://api.example"}, apiURL, wrong(0)},
		{tokenURL, []string{"https://"}, apiURL, wrong(0)},
		{tokenURL, []string{""}, apiURL, wrong(0)},
		{tokenURL, []string{"https://api.example\n"}, apiURL, wrong(0)},
		{tokenURL, []string{"%SECRET"}, apiURL, wrong(0)},
	} {
		t.Run(fmt.Sprint(test.tokenURL, test.origins, test.url), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				api := w.api()
				api.answers = []func(*http.Request) *http.Response{func(*http.Request) *http.Response { return response(200, "") }}
				w.connect("a", time.Hour)
				config := *testConfig
				config.Endpoint.TokenURL = test.tokenURL
				m := grants.New(&config, w.store, &grants.Options{
					HTTPClient: &http.Client{Transport: roundTripper(api.RoundTrip)}, Limit: limit(nil), Origins: test.origins,
				})
				body := &closeSpy{Reader: strings.NewReader("x")}
				request, err := http.NewRequest("POST", test.url, body)
				require.NoError(t, err)
				response, err := m.Client("a").Transport.RoundTrip(request)
				if test.want == "" {
					read(t, response, err)
					assert.Equal(t, []string{"Bearer access-a-0"}, api.seen)
					return
				}
				require.EqualError(t, err, test.want)
				assert.True(t, body.closed)
				assert.Empty(t, api.seen, "nothing is sent")
				assert.False(t, applebusiness.Retryable(err))
				assert.Equal(t, applebusiness.ActionUnknown, applebusiness.Troubleshoot(err).Action)
			})
		})
	}

	t.Run("a URL without a host", func(t *testing.T) {
		w := newWorld(t)
		for _, u := range []*url.URL{nil, {}, {Scheme: "https", Path: "/x"}} {
			_, err := w.process().Client("a").Transport.RoundTrip(&http.Request{URL: u})
			assert.EqualError(t, err, "applebusiness/grants: the request's URL has no host")
		}
	})

	t.Run("an API that links elsewhere", func(t *testing.T) { // its next page is another host's, which answers 401
		var seen []string
		elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.Header.Get("Authorization"))
			rw.WriteHeader(401)
		}))
		defer elsewhere.Close()
		w := newWorld(t)
		w.apple.api = http.DefaultTransport.RoundTrip
		w.connect("a", time.Hour)
		m := w.process()
		for range 2 {
			_, err := m.Client("a").Get(elsewhere.URL + "/?code=SECRET")
			require.ErrorContains(t, err, "and not to "+strconv.Quote(elsewhere.URL))
			assert.ErrorContains(t, errors.Unwrap(err), "Options.Origins")
		}
		assert.Empty(t, seen)
		assert.Zero(t, w.apple.requests())
		assert.Equal(t, "access-a-0", token(t, m, "a"))
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What a Transport returns without a Body is an empty response, as for http.Client.
func TestClientWithoutABody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", time.Hour)
		w.apple.api = func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("Authorization") == "Bearer access-a-0" {
				return &http.Response{StatusCode: 401}, nil
			}
			return &http.Response{StatusCode: 204}, nil
		}
		response, err := m.Client("a").Get(apiURL)
		status, _ := read(t, response, err)
		assert.Equal(t, 204, status)
	})
}

// A 401 whose body does not end is waited for as long as a new connection takes, and not longer.
func TestClientDoesNotWaitForABody(t *testing.T) {
	for name, body := range map[string]func() io.ReadCloser{
		"nothing comes":        func() io.ReadCloser { reader, _ := io.Pipe(); return reader },
		"Close ends no Read":   func() io.ReadCloser { return &drip{pause: time.Hour} },
		"a byte now and then":  func() io.ReadCloser { return &drip{pause: 100 * time.Millisecond} },
		"a lot":                func() io.ReadCloser { return &drip{pause: time.Millisecond, size: 8 << 10} },
		"it panics":            func() io.ReadCloser { return io.NopCloser(panicReader{}) },
		"it ends in that time": func() io.ReadCloser { return &drip{pause: 100 * time.Millisecond, left: 2} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				api := w.api()
				api.answers = []func(*http.Request) *http.Response{func(*http.Request) *http.Response {
					refused := response(401, "")
					refused.Body = body()
					return refused
				}}
				m := w.process()
				w.connect("a", time.Hour)
				start := time.Now()
				response, err := m.Client("a").Get(apiURL)
				took := time.Since(start)
				status, _ := read(t, response, err)
				assert.Equal(t, 200, status)
				assert.Equal(t, []string{"Bearer access-a-0", "Bearer access-a-1"}, api.seen)
				want := map[string]time.Duration{"it ends in that time": 200 * time.Millisecond, "a lot": 8 * time.Millisecond, "it panics": 0}
				if _, ok := want[name]; !ok {
					want[name] = 250 * time.Millisecond
				}
				assert.Equal(t, want[name], took)
				assert.Zero(t, api.open)
				time.Sleep(time.Hour) // until the last Read has returned, since in a bubble every goroutine has to end
			})
		})
	}

	// And where a server stalls in the middle of one, on a real connection.
	w := newWorld(t)
	stalled := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer access-a-1" {
			rw.WriteHeader(401)
			_, _ = rw.Write([]byte("half"))
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
			close(stalled)
		}
	}))
	defer server.Close()
	w.apple.api = http.DefaultTransport.RoundTrip
	w.connect("a", time.Hour)
	response, err := w.process(func(o *grants.Options) { o.Origins = []string{server.URL} }).Client("a").Get(server.URL)
	status, _ := read(t, response, err)
	assert.Equal(t, 200, status)
	<-stalled // its connection is closed
}

// drip is a body that comes in small parts, and knows nothing of Close.
type drip struct {
	pause time.Duration
	size  int // of a part; 0: a byte
	left  int // parts; 0: it has no end
}

func (d *drip) Read(p []byte) (int, error) {
	time.Sleep(d.pause)
	if d.left--; d.left == 0 {
		return 1, io.EOF
	}
	if d.size > 0 {
		return min(d.size, len(p)), nil
	}
	return 1, nil
}

func (d *drip) Close() error { return nil }

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("body") }

// secretTransport is a RoundTripper whose value holds a secret.
type secretTransport struct{ key string }

func (secretTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, errDatabase }

func TestClientShowsNoSecret(t *testing.T) {
	config := *testConfig
	config.ClientSecret = "SECRET-client"
	m := grants.New(&config, grants.NewMemoryStore(), &grants.Options{HTTPClient: &http.Client{Transport: secretTransport{"SECRET-key"}}})
	require.NoError(t, m.Put(t.Context(), "a", &oauth2.Token{AccessToken: "SECRET-access", RefreshToken: "SECRET-refresh", Expiry: time.Now().Add(time.Hour)}))
	client := m.Client("a")
	_, err := client.Get(apiURL)
	require.ErrorIs(t, err, errDatabase)
	for _, value := range []any{client, *client, client.Transport} {
		showsNoSecret(t, value)
	}
	assert.Equal(t, `transport of grant "a"`, fmt.Sprintf("%d", client.Transport))
}
