package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/seed-a5f25c57/applebusiness"
)

// networkFailures are the failures of the network as package applebusiness calls them, and as Go and other clients do,
// in lower case; the more exact ones first. Each is made into the error that it was, so that Troubleshoot can say what it
// says of that.
var networkFailures = []struct {
	words  string
	err    error
	isHTTP bool // only an HTTP client has this failure
	texts  []string
}{
	{"the proxy refused the connection", errors.New(http.StatusText(http.StatusProxyAuthRequired)), true, []string{"proxy authentication required"}},
	{"the request was canceled", context.Canceled, false, []string{"context canceled"}},
	{"DNS does not know the host", &net.DNSError{Err: "no such host", IsNotFound: true}, false,
		[]string{"no such host", "could not resolve host", "name or service not known", "enotfound", "nodename nor servname", "unknownhostexception", "err_name_not_resolved"}},
	{"DNS failed", &net.DNSError{Err: "server misbehaving", IsTemporary: true}, false,
		[]string{"server misbehaving", "temporary failure in name resolution", "eai_again"}},
	{"the TLS handshake timed out", timeout("net/http: TLS handshake timeout"), true, []string{"tls handshake timeout"}},
	{"TLS: the server does not speak it", errors.New("http: server gave HTTP response to HTTPS client"), true,
		[]string{"http response to https", "not look like a tls handshake", "wrong version number"}},
	{"TLS: the certificate is not trusted", errors.New("tls: failed to verify certificate: x509: "), false,
		[]string{"x509: ", "tls: failed to verify", "certificate verify failed", "certificate verification failed", "certificate problem",
			"self-signed certificate", "self signed certificate", "unable to get local issuer", "unable_to_verify_leaf", "pkix path", "err_cert_"}},
	{"TLS failed: an internal error", errors.New("remote error: tls: internal error"), false, []string{"tls: internal error", "tls: bad record mac", "tls: use of closed"}},
	{"TLS failed", errors.New("remote error: tls: handshake failure"), false, []string{"tls: ", "ssl routines", "ssl_error", "sslhandshake", "err_ssl_"}},
	{"the response is not HTTP", errors.New("net/http: malformed HTTP response"), true, []string{"malformed http", "malformed mime header", "malformed chunked"}},
	{"the redirects do not end", errors.New("stopped after 10 redirects"), true, []string{"stopped after 10 redirects"}},
	{"the URL's scheme is not HTTP", errors.New("unsupported protocol scheme"), true, []string{"unsupported protocol scheme"}},
	{"this process has too many open files", syscall.EMFILE, false, []string{"too many open files", "emfile"}},
	{"this process has no free port", syscall.EADDRNOTAVAIL, false, []string{"cannot assign requested address"}},
	{"the connection was refused", syscall.ECONNREFUSED, false, []string{"connection refused", "actively refused", "econnrefused", "err_connection_refused"}},
	{"the network is unreachable", syscall.ENETUNREACH, false, []string{"network is unreachable", "no route to host", "enetunreach", "ehostunreach"}},
	{"the connection was reset: HTTP/2 GOAWAY", errors.New("http2: server sent GOAWAY and closed the connection"), true, []string{"goaway"}},
	{"the connection was reset: HTTP/2 stream error", errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer"), true,
		[]string{"stream error: stream id", "http/2 stream "}},
	{"the connection was reset: HTTP/2 connection error", errors.New("connection error: PROTOCOL_ERROR"), true, []string{"connection error: "}},
	{"the connection was reset: HTTP/2", errors.New("http2: client connection lost"), true, []string{"http2: "}},
	{"the connection was reset", errors.New("http: server closed idle connection"), true, []string{"server closed idle connection", "transport connection broken"}},
	{"timed out", timeout("net/http: request canceled (Client.Timeout exceeded while awaiting headers)"), true,
		[]string{"client.timeout", "timeout awaiting response headers"}},
	{"timed out", timeout("i/o timeout"), false,
		[]string{"i/o timeout", "connection timed out", "operation timed out", "etimedout", "read timed out", "connect timed out", "econnaborted", "execution expired", "err_timed_out", "err_connection_timed_out"}},
	{"timed out", context.DeadlineExceeded, false, []string{"context deadline exceeded"}},
	{"the connection was reset", syscall.ECONNRESET, false,
		[]string{"connection reset", "connection was reset", "econnreset", "socket hang up", "connection aborted", "err_connection_reset", "err_connection_closed", "forcibly closed", "broken pipe", "epipe", "use of closed network connection"}},
	{"the response was truncated", io.ErrUnexpectedEOF, false, []string{"unexpected eof", "err_incomplete"}},
	{"the connection was reset", io.EOF, true, []string{": eof", "empty reply from server", "remote end closed connection"}},
}

// timeout is a net.Error that says so.
type timeout string

func (t timeout) Error() string { return string(t) }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

var (
	operation   = regexp.MustCompile(`\b(?:(dial|read|write) (?:tcp|udp)|(proxyconnect) tcp|(socks) connect)`)
	httpRequest = regexp.MustCompile(`(?:post|get) \\*["']?(?:https?:|\*\*\*)[^\s"']*\\*["']?: ([^"\\\n]*)`)
)

// inbound is what a server says about those who connect to it.
var inbound = []string{"http: tls handshake error from", "http: response.write", "http: panic serving", "accept tcp", "listen tcp"}

// readNetwork reads a failure of the network: a request that got no whole response.
func readNetwork(p piece) (*finding, error) {
	text := strings.ToLower(p.outside)
	if networkHints.index([]byte(text)) < 0 || containsAny(text, inbound...) {
		return nil, nil
	}
	request := httpRequest.FindStringSubmatch(text)
	words, err, isHTTP := "", error(nil), request != nil
	if isHTTP && isStatusText(request[1]) {
		words, err = "the proxy refused the connection", errors.New(http.StatusText(http.StatusProxyAuthRequired))
	}
	for _, failure := range networkFailures {
		if err == nil && slices.ContainsFunc(failure.texts, func(known string) bool {
			return strings.Contains(text, known) && (known != ": eof" || isHTTP || strings.Contains(text, "socks connect")) // which is the end of any file
		}) {
			words, err, isHTTP = failure.words, failure.err, isHTTP || failure.isHTTP
		}
	}
	if err == nil {
		return nil, nil
	}
	for _, match := range operation.FindAllStringSubmatch(text, 4) {
		if op := match[1] + match[2] + match[3]; op == "socks" {
			err = &net.OpError{Op: "socks connect", Net: "tcp", Err: err}
		} else {
			err = &net.OpError{Op: op, Net: "tcp", Err: err}
		}
	}
	if isHTTP {
		err = &url.Error{Op: "Post", Err: err}
	}
	return &finding{Error: &applebusiness.Error{}, network: words, err: err}, nil
}

// statusTexts are the texts of failed responses in lower case: Go says nothing else of a proxy that refuses to connect.
var statusTexts = func() []string {
	var texts []string
	for status := 400; status <= 599; status++ {
		if phrase := http.StatusText(status); phrase != "" {
			texts = append(texts, strings.ToLower(phrase))
		}
	}
	return texts
}()

func isStatusText(text string) bool {
	return slices.ContainsFunc(statusTexts, func(phrase string) bool { return strings.HasPrefix(text, phrase) })
}

// networkAdvice is Troubleshoot's about a failure of the network. Of one that no HTTP client is known to have had it may
// say nothing: what it says of the same failure in a request to Apple then serves with that condition.
func networkAdvice(err error) applebusiness.Advice {
	advice := applebusiness.Troubleshoot(err)
	if advice.Action == "" && !errors.Is(err, context.Canceled) {
		advice = applebusiness.Troubleshoot(&url.Error{Op: "Post", Err: err})
		advice.Impact = ""
		advice.Remedy = "If this was a request to Apple: " + advice.Remedy
	}
	return advice
}

// noResponse returns the error of a token request that Transport could not send, as the words after "no_response: " tell
// it; without a cause if they do not.
func noResponse(words, grantType string) *applebusiness.Error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var cause error
	for _, failure := range networkFailures {
		if cause == nil && strings.HasPrefix(words, failure.words) {
			cause = failure.err
		}
	}
	switch {
	case strings.HasPrefix(words, "the context had ended"):
		cancel()
	case cause == nil:
		return &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.ErrNoResponse, GrantType: grantType}
	}
	const tokenURL = "https://apple.example/token"
	transport := applebusiness.Transport{TokenURL: tokenURL, Base: failing{cause}}
	form := url.Values{"grant_type": {grantType}}.Encode()
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, tokenURL, strings.NewReader(form))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := transport.RoundTrip(request)
	if response != nil {
		_ = response.Body.Close()
	}
	e, _ := errors.AsType[*applebusiness.Error](err)
	return e
}

// failing is an http.RoundTripper whose requests get no response.
type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }
