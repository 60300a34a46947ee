package applebusiness_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

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
				w := served(silent)(t)
				w.client.Timeout = 400 * time.Millisecond
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

// A server that says nothing gives one verdict, however many requests wait for it.
func TestNetworkSilenceHasOneVerdict(t *testing.T) {
	w := served(silent)(t)
	w.client.Timeout = 200 * time.Millisecond
	type verdict struct {
		outcome
		grantType string
		deadline  bool
		reported  int
	}
	verdicts := make([]verdict, 50)
	var running sync.WaitGroup
	for i := range verdicts {
		running.Go(func() {
			_, reported, err := w.request(applebusiness.GrantTypeAuthorizationCode)
			v := verdict{outcome: outcomeOf(err), deadline: errors.Is(err, context.DeadlineExceeded), reported: len(reported)}
			if e, ok := errors.AsType[*applebusiness.Error](err); ok {
				v.grantType = e.GrantType
			}
			verdicts[i] = v
		})
	}
	running.Wait()
	for _, v := range verdicts {
		assert.Equal(t, verdict{startsOver, applebusiness.GrantTypeAuthorizationCode, true, 1}, v)
	}
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

// http2 returns the way to an HTTP/2 server that gives each whole request to then, until it returns false.
func http2(timeout time.Duration, then func(conn *tls.Conn, stream uint32) (more bool)) func(*testing.T) way {
	return func(t *testing.T) way {
		certificate, pool := testCertificate()
		listener := tls.NewListener(loopback(t), &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}})
		var requests atomic.Int32
		address := listening(t, listener, func(plain net.Conn) {
			conn := plain.(*tls.Conn)
			if _, err := io.ReadFull(conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
				return
			}
			writeFrame(conn, h2Settings, 0, 0)
			for head := make([]byte, 9); ; {
				if _, err := io.ReadFull(conn, head); err != nil {
					return
				}
				length := int64(binary.BigEndian.Uint32(head) >> 8)
				if _, err := io.CopyN(io.Discard, conn, length); err != nil {
					return
				}
				kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
				switch {
				case kind == h2Settings && flags&h2Ack == 0:
					writeFrame(conn, h2Settings, h2Ack, 0)
				case (kind == h2Headers || kind == h2Data) && flags&h2EndStream != 0:
					requests.Add(1)
					if !then(conn, stream) {
						return
					}
				}
			}
		})
		t.Cleanup(func() { assert.NotZero(t, requests.Load(), "nothing came by HTTP/2") })
		client := freshClient(t, &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}})
		client.Timeout = timeout
		return way{url: "https://" + address, client: client}
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
	const long, short = 20 * time.Second, 400 * time.Millisecond // short ends the repetitions
	contains := func(text string) func(*testing.T, *applebusiness.Error) {
		return func(t *testing.T, e *applebusiness.Error) { assert.ErrorContains(t, errors.Unwrap(e), text) }
	}
	for name, test := range map[string]fault{
		"GOAWAY": {start: http2(long, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2GoAway, 0, 0, stream, h2NoError)
			return hangUp(conn)
		}), text: "HTTP/2 GOAWAY", check: contains("server sent GOAWAY and closed the connection")},
		"GOAWAY, an error": {start: http2(long, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2GoAway, 0, 0, stream, h2InternalError)
			return hangUp(conn)
		}), text: "HTTP/2 GOAWAY", check: contains("INTERNAL_ERROR")},
		"GOAWAY, not processed": {start: http2(short, func(conn *tls.Conn, _ uint32) bool {
			writeFrame(conn, h2GoAway, 0, 0, 0, h2NoError)
			return hangUp(conn)
		})},
		"REFUSED_STREAM": {start: http2(short, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2Reset, 0, stream, h2RefusedStream)
			return true
		}), cause: context.DeadlineExceeded},
		"INTERNAL_ERROR": {start: http2(long, func(conn *tls.Conn, stream uint32) bool {
			writeFrame(conn, h2Reset, 0, stream, h2InternalError)
			return true
		}), text: "HTTP/2 stream error", check: contains("stream error: stream ID 1; INTERNAL_ERROR")},
		"closed": {start: http2(long, func(conn *tls.Conn, _ uint32) bool { return hangUp(conn) }), cause: io.ErrUnexpectedEOF},
		"reset": {start: http2(long, func(conn *tls.Conn, _ uint32) bool {
			_ = conn.NetConn().(*net.TCPConn).SetLinger(0)
			_ = conn.NetConn().Close()
			return false
		})},
		"silent": {start: http2(short, func(*tls.Conn, uint32) bool { return true }), cause: context.DeadlineExceeded},
	} {
		test.refresh, test.exchange = mayPass, startsOver
		t.Run(name, test.run)
	}
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
				client := freshClient(t, &http.Transport{})
				client.Timeout = 400 * time.Millisecond
				return way{url: "https://" + listening(t, loopback(t), drain), client: client}
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
