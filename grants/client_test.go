package grants_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
	return nil
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
	m := w.process()
	client := m.Client("a")
	defer client.CloseIdleConnections()
	for range 5 {
		response, err := client.Get(server.URL)
		status, body := read(t, response, err)
		assert.Equal(t, 200, status)
		assert.Len(t, body, 5000)
	}
	assert.Len(t, connections, 1)
	_, err := client.Get("http://127.0.0.1:1/")
	require.Error(t, err)
	var failed *applebusiness.Error
	assert.False(t, errors.As(err, &failed), "the API's failure is not the token endpoint's")
}
