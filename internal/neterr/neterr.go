// Package neterr knows the failures of the network: it tells them by their texts and types, says in words of its own
// what failed, and whether it passes. It also walks through an error's tree without trusting what is in there.
package neterr

import (
	"cmp"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Failure is what is known about a failure of the network. The zero Failure is one that nothing is known about.
type Failure struct {
	Words  string // what failed, in words of this package
	Known  bool   // to be a failure of the network
	Passes bool   // the same request may succeed later
	Unsent bool   // the request certainly did not leave, if this was its only try
	Own    bool   // this process lacks something
	HTTP   bool   // only an HTTP client has this failure

	needle string
}

type kind uint

const (
	passes kind = 1 << iota
	unsent
	own
	isHTTP
	lasts kind = 0
)

type row struct {
	words   string
	kind    kind
	needles []string
}

const (
	canceled        = "the request was canceled"
	noHost          = "DNS does not know the host"
	noDNS           = "DNS failed"
	notTrusted      = "TLS: the certificate is not trusted"
	proxyRefuses    = "the proxy refused the connection"
	proxyRefusesNow = proxyRefuses + " for the moment"
)

// failures are told by the texts of Go's packages, since most have no exported type, and of other clients. The texts are
// in lower case, and "…" in one stands for anything. The first row that matches is it: those that do not pass come
// first, for their text may hold another one's, and the more exact before the less exact.
var failures = []row{
	{canceled, lasts, []string{"context canceled", "operation was canceled"}},
	{"the response is not HTTP", lasts | isHTTP, []string{
		"malformed http", "malformed mime header", "malformed chunked encoding", "multiple content-length", "bad content-length",
		"unsupported transfer encoding", "too many transfer encodings", "server response headers exceeded", "invalid byte in chunk length",
	}},
	{noHost, lasts | unsent, []string{
		"no such host", "could not resolve host", "name or service not known", "enotfound", "nodename nor servname", "unknownhostexception", "err_name_not_resolved",
		"no address associated with hostname",
	}},
	{notTrusted + ": it is not valid yet, or the clock of this machine is slow", lasts | unsent, []string{
		"certificate has expired or is not yet valid…is before", "certificate is not yet valid", "cert_not_yet_valid", "certificatenotyetvalid",
	}},
	{notTrusted + ": it has expired", lasts | unsent, []string{
		"certificate has expired", "certificate is expired", "cert_has_expired", "certificateexpired", "err_cert_date_invalid",
	}},
	{notTrusted + ": it is for another host", lasts | unsent, []string{
		"certificate is valid for", "certificate is not valid for", "cannot validate certificate for", "certificate name does not match", "relies on legacy common name",
		"no alternative certificate subject name", "certificate's altnames", "hostname mismatch", "no subject alternative", "err_cert_common_name_invalid",
	}},
	{notTrusted + ": its authority is unknown", lasts | unsent, []string{
		"certificate signed by unknown authority", "certificate is not trusted", "failed to load system roots", "self-signed certificate", "self signed certificate",
		"unable to get local issuer", "unable to verify the first certificate", "unable_to_verify_leaf", "unable_to_get_issuer", "self_signed_cert", "pkix path", "err_cert_authority_invalid",
	}},
	{notTrusted, lasts | unsent, []string{
		"x509: ", "tls: failed to verify certificate", "certificate verify failed", "certificate verification failed", "certificate problem", "err_cert_",
	}},
	{"TLS: the server does not speak it", lasts, []string{
		"tls: first record does not look like a tls handshake", "http response to https client", "wrong version number",
	}},
	{"the TLS connection broke", passes, []string{"tls: internal error", "tls: bad record mac", "tls: use of closed connection"}},
	{"the TLS handshake timed out", passes | unsent | isHTTP, []string{"tls handshake timeout"}},
	{"TLS failed", lasts, []string{"tls: ", "ssl routines", "ssl_error", "sslhandshake", "err_ssl_"}},
	{"the URL's scheme is not HTTP", lasts | unsent | isHTTP, []string{"unsupported protocol scheme"}},
	{"the URL has no host", lasts | unsent | isHTTP, []string{"no host in request url"}},
	{"the redirects do not end", lasts | isHTTP, []string{"stopped after 10 redirects"}},
	{"this process has too many open files", passes | unsent | own, []string{"too many open files", "emfile"}},
	{"this process has no free port", passes | unsent | own, []string{
		"cannot assign requested address", "can't assign requested address", "only one usage of each socket address", "eaddrnotavail",
		"no buffer space available", "lacked sufficient buffer space",
	}},
	{noDNS, passes | unsent, []string{"server misbehaving", "temporary failure in name resolution", "temporary error during hostname resolution", "eai_again"}},
	{"the connection was refused", passes, []string{"connection refused", "actively refused", "econnrefused", "err_connection_refused"}},
	{"the network is unreachable", passes, []string{"network is unreachable", "no route to host", "network is down", "host is down", "unreachable network", "unreachable host", "enetunreach", "ehostunreach"}},
	{"timed out", passes | isHTTP, []string{"client.timeout", "timeout awaiting response headers"}},
	{"timed out", passes, []string{
		"i/o timeout", "context deadline exceeded", "connection timed out", "operation timed out", "read timed out", "connect timed out", "did not properly respond",
		"etimedout", "econnaborted", "execution expired", "err_timed_out", "err_connection_timed_out",
	}},
	{"the connection was reset: HTTP/2 GOAWAY", passes | isHTTP, []string{"goaway"}},
	{"the connection was reset: HTTP/2 stream error", passes | isHTTP, []string{"stream error: ", "http/2 stream "}},
	{"the connection was reset: HTTP/2 connection error", passes | isHTTP, []string{"connection error: "}},
	{"the connection was reset: HTTP/2", passes | isHTTP, []string{"http2: "}},
	{"the connection was reset", passes | isHTTP, []string{"server closed idle connection", "transport connection broken"}},
	{"the connection was reset", passes, []string{
		"connection reset", "connection was reset", "broken pipe", "forcibly closed", "use of closed network connection", "connection abort", "connection was aborted", "socket hang up",
		"econnreset", "epipe", "err_connection_reset", "err_connection_closed", "empty reply from server", "remote end closed connection",
	}},
	{"the response was truncated", passes, []string{"unexpected eof", "err_incomplete"}},
	{proxyRefusesNow, passes | isHTTP, []string{proxyRefusesNow}}, // of a real one there is the status: see OfText
	{proxyRefuses, lasts | isHTTP, []string{proxyRefuses}},
}

// Needles returns the texts in lower case of which OfText looks for any, for a reader of many lines. It knows a little
// more than that: the end of a connection, and what a proxy says.
func Needles() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, row := range failures {
			for _, needle := range row.needles {
				needle, _, _ = strings.Cut(needle, "…")
				if !yield(needle) {
					return
				}
			}
		}
	}
}

// Of returns what is known about err, an error of an HTTP client or of the network. An error that is not known passes:
// that is right for what a Transport returns, and elsewhere Known says that it is not.
func Of(err error) Failure {
	text := Text(err)
	Visit(err, func(node error) bool { // a URL may hold any word
		if wrapper, ok := node.(*url.Error); ok {
			text = Text(wrapper.Err)
		}
		return false
	})
	found := OfText(text)
	switch {
	case found.Known:
	case Timeout(err):
		found = Failure{Words: "timed out", Known: true, Passes: true}
	case Is(err, io.EOF) || Is(err, io.ErrUnexpectedEOF):
		found = Failure{Words: "the connection was reset", Known: true, Passes: true}
	}
	Visit(err, func(node error) bool {
		switch node := node.(type) {
		case *net.OpError:
			found.Known = true
			found.Unsent = found.Unsent || connects(node.Op)
		case *net.DNSError:
			if !found.Own && found.Words != canceled {
				words := noDNS
				if node.IsNotFound {
					words = noHost
				}
				found, _ = OfWords(words)
			}
			found.Unsent = true
		}
		return false
	})
	return found
}

// connects reports whether an operation of package net comes before anything is sent.
func connects(operation string) bool {
	return operation == "dial" || operation == "proxyconnect" || operation == "socks connect"
}

// OfText returns what is known about the failure that text tells of, the text of an error without the URL around it.
// Where nothing is known it is the zero Failure but for Words and Passes.
func OfText(text string) (found Failure) {
	lower, status := strings.ToLower(text), StatusOf(text)
	for _, row := range failures {
		at := slices.IndexFunc(row.needles, func(needle string) bool { return contains(lower, needle) })
		if at >= 0 {
			found = row.failure(row.needles[at])
			break
		}
	}
	switch {
	case found.Known:
	case StatusPasses(status): // net/http says no more of a proxy that refuses CONNECT
		found, _ = OfWords(proxyRefusesNow)
	case status != 0:
		found, _ = OfWords(proxyRefuses)
	case text == "EOF" || strings.HasSuffix(text, ": EOF"):
		found = Failure{Words: "the connection was reset", Known: true, Passes: true, HTTP: true, needle: "EOF"}
	default:
		found = Failure{Words: "the connection failed", Passes: true}
	}
	operation, _, _ := strings.Cut(text, " tcp") // of a *net.OpError of which only the text is left
	found.Unsent = found.Unsent || connects(operation)
	return found
}

// OfWords returns the failure that this package calls so, and whether there is one. Other words may follow.
func OfWords(words string) (found Failure, ok bool) {
	for _, row := range failures {
		if strings.HasPrefix(words, row.words) && len(row.words) > len(found.Words) {
			found = row.failure(row.needles[0])
		}
	}
	return found, found.Known
}

func (r row) failure(needle string) Failure {
	return Failure{
		Words: r.words, Known: true, Passes: r.kind&passes != 0, Unsent: r.kind&unsent != 0, Own: r.kind&own != 0, HTTP: r.kind&isHTTP != 0,
		needle: needle,
	}
}

// Err returns an error of which Of knows the same, for one that has only the text of the real one; nil for a Failure that
// is not Known.
func (f Failure) Err() error {
	if !f.Known {
		return nil
	}
	return errors.New(strings.ReplaceAll(cmp.Or(f.needle, f.Words), "…", " "))
}

// contains is strings.Contains of a needle at the beginning of a word, in which "…" stands for anything.
func contains(text, needle string) bool {
	needle, rest, _ := strings.Cut(needle, "…")
	for at := 0; ; at++ {
		next := strings.Index(text[at:], needle)
		if next < 0 {
			return false
		}
		if at += next; at == 0 || text[at-1] < 'a' || text[at-1] > 'z' {
			return strings.Contains(text[at+len(needle):], rest)
		}
	}
}

// StatusOf returns the status from 400 to 511 of which text is the reason phrase, in whatever letters, and 0 for another
// text.
func StatusOf(text string) int {
	for status := http.StatusBadRequest; status <= http.StatusNetworkAuthenticationRequired; status++ {
		if text != "" && strings.EqualFold(text, http.StatusText(status)) {
			return status
		}
	}
	return 0
}

// StatusPasses reports whether an HTTP status says that the server fails at the moment, so that the same request may
// succeed later.
func StatusPasses(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
		return false
	}
	return status >= 500 && status <= 599
}
