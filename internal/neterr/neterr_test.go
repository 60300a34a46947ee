package neterr

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOf(t *testing.T) {
	dns := func(err string, notFound bool) error {
		return &net.OpError{Op: "dial", Err: &net.DNSError{Err: err, Name: "goaway.example", IsNotFound: notFound}}
	}
	certificate := &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now()}
	expired := func(detail string) error {
		return x509.CertificateInvalidError{Cert: certificate, Reason: x509.Expired, Detail: "current time 2026-11-27T21:15:37+01:00 is " + detail + " 2026-01-01T00:00:00Z"}
	}
	for _, test := range []struct {
		err  error
		want Failure
	}{
		{nil, Failure{Words: "the connection failed", Passes: true}},
		{errors.New("the disk is full"), Failure{Words: "the connection failed", Passes: true}},
		{io.EOF, Failure{Words: "the connection was reset", Known: true, Passes: true}},
		{fmt.Errorf("%w!", io.EOF), Failure{Words: "the connection was reset", Known: true, Passes: true}},
		{io.ErrUnexpectedEOF, Failure{Words: "the response was truncated", Known: true, Passes: true}},
		{errors.New("Post: EOF"), Failure{Words: "the connection was reset", Known: true, Passes: true}},
		{errors.New("EOF"), Failure{Words: "the connection was reset", Known: true, Passes: true}},
		{slow{}, Failure{Words: "timed out", Known: true, Passes: true}},
		{context.Canceled, Failure{Words: "the request was canceled", Known: true}},
		{context.DeadlineExceeded, Failure{Words: "timed out", Known: true, Passes: true}},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, Failure{Words: "the connection was refused", Known: true, Passes: true, Unsent: true}},
		{&net.OpError{Op: "socks connect", Err: syscall.ECONNRESET}, Failure{Words: "the connection was reset", Known: true, Passes: true, Unsent: true}},
		{&net.OpError{Op: "proxyconnect", Err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}}, Failure{Words: "the connection was reset", Known: true, Passes: true, Unsent: true}},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, Failure{Words: "the connection was reset", Known: true, Passes: true}},
		{&net.OpError{Op: "dial", Err: syscall.EMFILE}, Failure{Words: "this process has too many open files", Known: true, Passes: true, Unsent: true, Own: true}},
		{&net.OpError{Op: "dial", Err: syscall.ENOBUFS}, Failure{Words: "this process has no buffer space", Known: true, Passes: true, Unsent: true, Own: true}},
		{&net.OpError{Op: "write", Err: syscall.ENOBUFS}, Failure{Words: "this process has no buffer space", Known: true, Passes: true, Own: true}},
		{errors.New("timed out"), Failure{Words: "timed out", Known: true, Passes: true}},
		{errors.New("unexpected EOF\nPost: EOF"), Failure{Words: "the response was truncated", Known: true, Passes: true}},
		{errors.New("timed out waiting for a lock"), Failure{Words: "the connection failed", Passes: true}},
		{quiet{io.ErrUnexpectedEOF}, Failure{Words: "the connection was reset", Known: true, Passes: true}},
		{&net.OpError{Op: "dial", Err: errors.New("unheard of")}, Failure{Words: "the connection failed", Known: true, Passes: true, Unsent: true}},
		{dns("no such host", true), Failure{Words: "DNS does not know the host", Known: true, Unsent: true}},
		{dns("server misbehaving", false), Failure{Words: "DNS failed", Known: true, Passes: true, Unsent: true}},
		{dns("i/o timeout", false), Failure{Words: "DNS failed", Known: true, Passes: true, Unsent: true}},
		{dns("socket: too many open files", false), Failure{Words: "this process has too many open files", Known: true, Passes: true, Unsent: true, Own: true}},
		{dns("operation was canceled", false), Failure{Words: "the request was canceled", Known: true, Unsent: true}},
		{expired("before"), Failure{Words: "TLS: the certificate is not trusted: it is not valid yet, or the clock of this machine is slow", Known: true, Unsent: true}},
		{expired("after"), Failure{Words: "TLS: the certificate is not trusted: it has expired", Known: true, Unsent: true}},
		{x509.HostnameError{Certificate: certificate, Host: "wrong.test"}, Failure{Words: "TLS: the certificate is not trusted: it is for another host", Known: true, Unsent: true}},
		{x509.UnknownAuthorityError{}, Failure{Words: "TLS: the certificate is not trusted: its authority is unknown", Known: true, Unsent: true}},
		{x509.CertificateInvalidError{Reason: x509.TooManyIntermediates}, Failure{Words: "TLS: the certificate is not trusted", Known: true, Unsent: true}},
		{errors.New("remote error: tls: handshake failure"), Failure{Words: "TLS failed", Known: true}},
		{errors.New("remote error: tls: internal error"), Failure{Words: "the TLS connection broke", Known: true, Passes: true}},
		{errors.New("net/http: TLS handshake timeout"), Failure{Words: "the TLS handshake timed out", Known: true, Passes: true, Unsent: true}},
		{errors.New("Proxy Authentication Required"), Failure{Words: "the proxy refused the connection", Known: true}},
		{errors.New("Bad Gateway"), Failure{Words: "the proxy refused the connection for the moment", Known: true, Passes: true}},
		{errors.New("proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused"), Failure{Words: "the connection was refused", Known: true, Passes: true, Unsent: true}},
		{errors.New("giving up after 3 attempts: dial tcp 127.0.0.1:1: connect: connection refused"), Failure{Words: "the connection was refused", Known: true, Passes: true}},
		{&url.Error{Op: "Post", URL: "https://goaway.example/no%20such%20host", Err: errors.New("http: server closed idle connection")}, Failure{Words: "the connection was reset", Known: true, Passes: true}},
		{errors.New("HTTP 404: resourceNotFound"), Failure{Words: "the connection failed", Passes: true}}, // holds "enotfound"
	} {
		assert.Equal(t, test.want, Of(test.err), "%v", test.err)
	}
}

// quiet does not quote what it wraps.
type quiet struct{ error }

func (quiet) Error() string   { return "quiet" }
func (q quiet) Unwrap() error { return q.error }

// slow is an error that only its type tells.
type slow struct{}

func (slow) Error() string { return "the deadline is over" }
func (slow) Timeout() bool { return true }

// No two rows have the same words, and each can be found by its words and by what other programs say.
func TestTable(t *testing.T) {
	words := make(map[string]bool)
	for _, row := range failures {
		assert.False(t, words[row.Words], row.Words)
		words[row.Words] = true
		for _, needle := range row.needles {
			assert.Equal(t, strings.ToLower(needle), needle)
			found := OfText(strings.ReplaceAll("x "+needle, "…", " y "))
			assert.Equal(t, row.Words, found.Words, needle)
			assert.Equal(t, row.Passes, found.Passes, needle)
		}
		found, ok := OfWords(row.Words + "; nothing was sent")
		require.True(t, ok)
		assert.Equal(t, row.Words, found.Words)
		assert.Equal(t, found, Of(&url.Error{Op: "Post", Err: found}), row.Words)
	}
	_, ok := OfWords("the disk is full")
	assert.False(t, ok)
	assert.False(t, Of(&url.Error{Op: "Post", Err: Failure{}}).Known)
	assert.Contains(t, Needles(), "certificate has expired or is not yet valid")
	assert.NotContains(t, Needles(), "")
}

func TestContains(t *testing.T) {
	for _, test := range []struct {
		text, needle string
		want         bool
	}{
		{"getaddrinfo enotfound x", "enotfound", true}, {"enotfound", "enotfound", true}, {"filenotfound", "enotfound", false},
		{"filenotfound, 'enotfound'", "enotfound", true}, {"aenotfound", "enotfound", false}, {"zenotfound", "enotfound", false}, {"{enotfound}", "enotfound", true},
		{"a and then b", "a…b", true}, {"b and then a", "a…b", false}, {"", "a", false},
	} {
		assert.Equal(t, test.want, contains(test.text, test.needle), test)
	}
}

func TestStatusPasses(t *testing.T) {
	var passing []int
	for status := -1; status < 1000; status++ {
		if StatusPasses(status) && (status < 500 || status > 511) {
			passing = append(passing, status)
		}
	}
	assert.Equal(t, append([]int{408, 425, 429}, passing[3:]...), passing)
	assert.Equal(t, 599, passing[len(passing)-1])
	for status, want := range map[int]bool{500: true, 501: false, 502: true, 504: true, 505: false, 510: true, http.StatusNetworkAuthenticationRequired: false} {
		assert.Equal(t, want, StatusPasses(status), status)
	}
}

func TestStatusOf(t *testing.T) {
	for text, want := range map[string]int{"": 0, "Bad Request": 400, "bad REQUEST": 400, "bad_request": 0, "Network Authentication Required": 511, "OK": 0, "Bad Request.": 0} {
		assert.Equal(t, want, StatusOf(text), text)
	}
}
