package applebusiness_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

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

func TestFaultsOnTheNetwork(t *testing.T) {
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
			server := httptest.NewUnstartedServer(test.answer(done))
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
			deadline := 30 * time.Second // long enough for a slow machine, and never reached
			if test.target == context.DeadlineExceeded {
				deadline = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			ctx = applebusiness.WithJSON(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport}), config.Endpoint.TokenURL)

			var reported error
			source := &applebusiness.TokenSource{Source: config.TokenSource(ctx, &oauth2.Token{RefreshToken: "r"}), OnError: func(err error) { reported = err }, Hold: true}
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
