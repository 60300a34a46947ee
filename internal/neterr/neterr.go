// Package neterr knows the failures of the network: it tells them by their texts and types, says in words of its own
// what failed, and whether it passes. It also walks through an error's tree without trusting what is in there.
package neterr

import (
	"io"
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
}

// Error returns the words. A Failure stands for the error of which only its text is left.
func (f Failure) Error() string { return f.Words }

const (
	passes = 1 << iota
	unsent
	own
	lasts = 0
)

// row is a Failure with the texts that tell of it.
type row struct {
	Failure
	needles []string
}

// told returns a row. The needles have "|" between them.
func told(words string, kind int, needles string) row {
	return row{Failure{words, true, kind&passes != 0, kind&unsent != 0, kind&own != 0}, strings.Split(needles, "|")}
}

const (
	canceled        = "the request was canceled"
	notTrusted      = "TLS: the certificate is not trusted"
	proxyRefuses    = "the proxy refused the connection"
	proxyRefusesNow = proxyRefuses + " for the moment"
)

// failures are told by the texts of Go's packages, since most have no exported type, and of other clients. The texts are
// in lower case, and "…" in one stands for anything. The first row that matches is it: those that do not pass come
// first, for their text may hold another one's, and the more exact before the less exact.
var failures = []row{
	told(canceled, lasts, "context canceled|operation was canceled"),
	told("the response is not HTTP", lasts, "malformed http|malformed mime header|malformed chunked encoding|multiple content-length|"+
		"bad content-length|unsupported transfer encoding|too many transfer encodings|server response headers exceeded|"+
		"invalid byte in chunk length"),
	told("DNS does not know the host", unsent, "no such host|could not resolve host|name or service not known|enotfound|"+
		"nodename nor servname|unknownhostexception|err_name_not_resolved|no address associated with hostname"),
	told(notTrusted+": it is not valid yet, or the clock of this machine is slow", unsent, ""+
		"certificate has expired or is not yet valid…is before|certificate is not yet valid|cert_not_yet_valid|certificatenotyetvalid"),
	told(notTrusted+": it has expired", unsent, "certificate has expired|certificate is expired|cert_has_expired|certificateexpired|"+
		"err_cert_date_invalid"),
	told(notTrusted+": it is for another host", unsent, "certificate is valid for|certificate is not valid for|"+
		"cannot validate certificate for|certificate name does not match|relies on legacy common name|no alternative certificate subject name|"+
		"certificate's altnames|hostname mismatch|no subject alternative|err_cert_common_name_invalid"),
	told(notTrusted+": its authority is unknown", unsent, "certificate signed by unknown authority|certificate is not trusted|"+
		"failed to load system roots|self-signed certificate|self signed certificate|unable to get local issuer|"+
		"unable to verify the first certificate|unable_to_verify_leaf|unable_to_get_issuer|self_signed_cert|pkix path|"+
		"err_cert_authority_invalid"),
	told(notTrusted, unsent, "x509: |tls: failed to verify certificate|certificate verify failed|certificate verification failed|"+
		"certificate problem|err_cert_"),
	told("TLS: the server does not speak it", lasts, "tls: first record does not look like a tls handshake|http response to https client|"+
		"wrong version number"),
	told("the TLS connection broke", passes, "tls: internal error|tls: bad record mac|tls: use of closed connection"),
	told("the TLS handshake timed out", passes|unsent, "tls handshake timeout"),
	told("TLS failed", lasts, "tls: |ssl routines|ssl_error|sslhandshake|err_ssl_"),
	told("the URL's scheme is not HTTP", unsent, "unsupported protocol scheme"),
	told("the URL has no host", unsent, "no host in request url"),
	told("the redirects do not end", lasts, "stopped after 10 redirects"),
	told("this process has too many open files", passes|unsent|own, "too many open files|emfile"),
	told("this process has no free port", passes|unsent|own, "cannot assign requested address|can't assign requested address|"+
		"only one usage of each socket address|eaddrnotavail"),
	told("this process has no buffer space", passes|own, "no buffer space available|lacked sufficient buffer space"),
	told("DNS failed", passes|unsent, "server misbehaving|temporary failure in name resolution|temporary error during hostname resolution|"+
		"eai_again"),
	told("the connection was refused", passes, "connection refused|actively refused|econnrefused|err_connection_refused"),
	told("the network is unreachable", passes, "network is unreachable|no route to host|network is down|host is down|unreachable network|"+
		"unreachable host|enetunreach|ehostunreach"),
	told("timed out", passes, "i/o timeout|context deadline exceeded|client.timeout|timeout awaiting response headers|connection timed out|"+
		"operation timed out|read timed out|connect timed out|did not properly respond|etimedout|econnaborted|execution expired|err_timed_out|"+
		"err_connection_timed_out"),
	told("the connection was reset: HTTP/2 GOAWAY", passes, "goaway"),
	told("the connection was reset: HTTP/2 stream error", passes, "stream error: |http/2 stream "),
	told("the connection was reset: HTTP/2 connection error", passes, "connection error: "),
	told("the connection was reset: HTTP/2", passes, "http2: "),
	told("the connection was reset", passes, "connection reset|connection was reset|broken pipe|forcibly closed|"+
		"use of closed network connection|connection abort|connection was aborted|socket hang up|server closed idle connection|"+
		"transport connection broken|remote end closed connection|empty reply from server|econnreset|epipe|err_connection_reset|"+
		"err_connection_closed"),
	told("the response was truncated", passes, "unexpected eof|err_incomplete"),
	told(proxyRefusesNow, passes, proxyRefusesNow), // of a real one there is the status: see OfText
	told(proxyRefuses, lasts, proxyRefuses),
}

// Needles returns the texts in lower case of which OfText looks for any, besides the end of a connection and a proxy's status.
func Needles() (needles []string) {
	for _, row := range failures {
		for _, needle := range row.needles {
			needle, _, _ = strings.Cut(needle, "…")
			needles = append(needles, needle)
		}
	}
	return needles
}

// Of returns what is known about err, an error of an HTTP client or of the network. An error that is not known passes:
// that is right for what a Transport returns, and elsewhere Known says that it is not.
func Of(err error) Failure {
	text, dns := Text(err), "" // what DNS says
	var isKnown, isUnsent bool
	for _, node := range Tree(err) {
		switch node := node.(type) {
		case Failure:
			return node
		case *url.Error: // its URL may hold any word
			text = Text(node.Err)
		case *net.OpError:
			isKnown, isUnsent = true, isUnsent || slices.Contains(connecting, node.Op)
		case *net.DNSError:
			if dns, isUnsent = "server misbehaving", true; node.IsNotFound {
				dns = "no such host"
			}
		}
	}
	found := OfText(text)
	switch {
	case dns != "" && !found.Own && found.Words != canceled:
		found = OfText(dns)
	case found.Known:
	case Timeout(err):
		found = OfText("i/o timeout")
	case Is(err, io.EOF), Is(err, io.ErrUnexpectedEOF):
		found = OfText("EOF")
	}
	found.Known, found.Unsent = found.Known || isKnown, found.Unsent || isUnsent
	return found
}

// connecting are the operations of package net that come before anything is sent.
var connecting = []string{"dial", "proxyconnect", "socks connect"}

// OfText returns what is known about the failure that text tells of, the text of an error without the URL around it.
// Where nothing is known it is the zero Failure but for Words and Passes.
func OfText(text string) Failure {
	lower := strings.ToLower(text)
	switch status := StatusOf(text); {
	case StatusPasses(status): // net/http says no more of a proxy that refuses CONNECT
		lower = proxyRefusesNow
	case status != 0:
		lower = proxyRefuses
	}
	found := Failure{Words: "the connection failed", Passes: true}
	i := slices.IndexFunc(failures, func(row row) bool {
		return text == row.Words || slices.ContainsFunc(row.needles, func(needle string) bool { return contains(lower, needle) })
	})
	switch {
	case i >= 0:
		found = failures[i].Failure
	case text == "EOF", strings.HasSuffix(text, ": EOF"):
		found = OfText("connection reset")
	}
	operation, _, _ := strings.Cut(text, " tcp") // of a *net.OpError of which only the text is left
	found.Unsent = found.Unsent || slices.Contains(connecting, operation)
	return found
}

// OfWords returns the failure that this package calls so, and whether there is one. Other words may follow.
func OfWords(words string) (found Failure, ok bool) {
	for _, row := range failures {
		if strings.HasPrefix(words, row.Words) {
			return row.Failure, true
		}
	}
	return found, false
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

// StatusOf returns the status from 400 to 511 of which text is the reason phrase, in whatever letters, or 0.
func StatusOf(text string) int {
	for status := http.StatusBadRequest; status <= http.StatusNetworkAuthenticationRequired; status++ {
		if text != "" && strings.EqualFold(text, http.StatusText(status)) {
			return status
		}
	}
	return 0
}

// StatusPasses reports whether the same request may succeed later, since an HTTP status says that the server fails now.
func StatusPasses(status int) bool {
	passing := []int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}
	lasting := []int{http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired}
	return slices.Contains(passing, status) || status >= 500 && status <= 599 && !slices.Contains(lasting, status)
}
