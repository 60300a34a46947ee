package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"github.com/seed-a5f25c57/applebusiness"
)

// networkFailures are the failures of the network as Go and other clients name them, in lower case; the more exact ones
// first. Each is made into the error that Go returned, so that Troubleshoot can say what it says of that.
var networkFailures = []struct {
	words string // what this program calls it
	err   error
	http  bool // only an HTTP client has this failure
	texts []string
}{
	{"the caller gave up", context.Canceled, false, []string{"context canceled"}},
	{"the proxy refused", errors.New("Proxy Authentication Required"), true, []string{"proxy authentication required"}},
	{"no such host", &net.DNSError{Err: "no such host", IsNotFound: true}, false,
		[]string{"no such host", "could not resolve host", "name or service not known", "enotfound", "nodename nor servname"}},
	{"name resolution failed for now", &net.DNSError{Err: "server misbehaving", IsTemporary: true}, false,
		[]string{"server misbehaving", "temporary failure in name resolution", "eai_again"}},
	{"the TLS handshake took too long", timeout("net/http: TLS handshake timeout"), true, []string{"tls handshake timeout"}},
	{"the certificate was not accepted", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, false,
		[]string{"x509: ", "certificate verify failed", "certificate verification failed", "ssl certificate problem", "self-signed certificate", "self signed certificate", "unable to get local issuer"}},
	{"the peer does not speak HTTP", errors.New("malformed HTTP response"), true, []string{"malformed http"}},
	{"the peer does not speak TLS", errors.New("http: server gave HTTP response to HTTPS client"), true, []string{"server gave http response to https client"}},
	{"TLS failed", &net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}, false, []string{"remote error: tls: ", "tls: ", "ssl_error", "ssl routines"}},
	{"too many redirects", errors.New("stopped after 10 redirects"), true, []string{"stopped after 10 redirects"}},
	{"this process has too many open files", &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EMFILE}, false, []string{"too many open files"}},
	{"the connection was refused", syscall.ECONNREFUSED, false, []string{"connection refused", "econnrefused"}},
	{"the network cannot be reached", syscall.ENETUNREACH, false, []string{"network is unreachable", "no route to host", "enetunreach", "ehostunreach"}},
	{"HTTP/2: the server closed the connection", errors.New("http2: server sent GOAWAY and closed the connection"), true, []string{"goaway"}},
	{"HTTP/2: the stream broke", errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer"), true, []string{"stream error: stream id"}},
	{"HTTP/2: the connection was lost", errors.New("http2: client connection lost"), true, []string{"client connection lost"}},
	{"a kept connection was closed by the server", errors.New("http: server closed idle connection"), true, []string{"server closed idle connection"}},
	{"it timed out", timeout("net/http: request canceled (Client.Timeout exceeded while awaiting headers)"), true, []string{"client.timeout exceeded"}},
	{"it timed out", timeout("i/o timeout"), false, []string{"i/o timeout", "connection timed out", "operation timed out", "etimedout", "read timed out", "connect timed out", "connection timeout", "econnaborted"}},
	{"it timed out", context.DeadlineExceeded, false, []string{"context deadline exceeded"}},
	{"the connection was reset", syscall.ECONNRESET, false, []string{"connection reset", "econnreset", "socket hang up", "connection aborted"}},
	{"the connection broke", syscall.EPIPE, false, []string{"broken pipe", "epipe"}},
	{"the response was cut", io.ErrUnexpectedEOF, false, []string{"unexpected eof"}},
	{"the connection was closed without a response", io.EOF, true, []string{": eof", "empty reply from server", "remote end closed connection"}},
}

// timeout is a net.Error that says so.
type timeout string

func (t timeout) Error() string { return string(t) }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

var (
	operation  = regexp.MustCompile(`(?i)\b(dial|read|write) (?:tcp|udp)|(proxyconnect) tcp|(socks) connect`)
	httpClient = regexp.MustCompile(`(?i)\b(?:Post|Get) \\*["']?(?:https?:|\*\*\*)`)
)

// inbound is what a server says about those who connect to it.
var inbound = []string{"http: tls handshake error from", "http: server closed", "http: response.write", "http: panic serving", "accept tcp", "listen tcp"}

// readNetwork reads a failure of the network: a request that got no whole response.
func readNetwork(p piece) (*finding, error) {
	text := strings.ToLower(p.outside)
	for _, mine := range inbound {
		if strings.Contains(text, mine) {
			return nil, nil
		}
	}
	for _, failure := range networkFailures {
		for _, known := range failure.texts {
			if !strings.Contains(text, known) {
				continue
			}
			isHTTP := httpClient.MatchString(p.outside)
			if known == ": eof" && !isHTTP {
				continue // the end of any file
			}
			err := failure.err
			for _, match := range operation.FindAllStringSubmatch(p.outside, 4) {
				if failure.http && match[2] == "" {
					continue
				}
				err = &net.OpError{Op: strings.ToLower(match[1] + match[2] + match[3]), Net: "tcp", Err: err}
			}
			if isHTTP || failure.http {
				err = &url.Error{Op: "Post", URL: "", Err: err}
			}
			return &finding{Error: &applebusiness.Error{}, network: failure.words, err: err}, nil
		}
	}
	return nil, nil
}
