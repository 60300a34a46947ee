package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

// line is what -lines says of an input.
func line(input string) string {
	f, err := understand(input)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s: %s: %s", f.name(), orUnknown(f.advice().Action), f.text())
}

// Each reader reads its own example, which is understood wherever a log puts it.
func TestReaders(t *testing.T) {
	for i, want := range []string{
		"ErrUnavailable: retry: unavailable (HTTP 503)",
		"ErrUnavailable: retry: unavailable (HTTP 503)",
		"ErrUnavailable: retry: unavailable (HTTP 503)",
		`ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`,
		`ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`,
		`ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`,
		`ErrServer: start_over: server_error: "server error"`,
		`ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`,
		`ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`,
		`ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`,
		"network: check_network: DNS does not know the host",
	} {
		t.Run(readers[i].kind, func(t *testing.T) {
			example := readers[i].example
			reads := func(reader reader) bool {
				for _, piece := range unwrap(example) {
					if f, _ := reader.read(piece); f != nil {
						return true
					}
				}
				return false
			}
			for j, other := range readers[:i+1] {
				assert.Equal(t, i == j, reads(other), other.kind)
			}
			for name, input := range wrapped(example) {
				assert.Equal(t, want, line(input), "%s: %s", name, input)
				var stdout, stderr strings.Builder
				run([]string{"-lines"}, strings.NewReader(input), &stdout, &stderr)
				if !strings.Contains(input, "\n") {
					assert.True(t, strings.HasPrefix(stdout.String(), "1: "+want+"\n"), "%s: %s%s", name, stdout.String(), stderr.String())
				}
			}
		})
	}
}

func inJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

type members = map[string]any

// wrapped returns text as it is found in logs, by what wrote it.
func wrapped(text string) map[string]string {
	inputs := map[string]string{
		"alone":          text,
		"quoted":         strconv.Quote(text),
		"quoted twice":   strconv.Quote(strconv.Quote(text)),
		"slog text":      `time=2026-11-24T10:00:00Z level=WARN msg="refresh failed" customer=7 err=` + strconv.Quote(text),
		"slog JSON":      inJSON(members{"time": "2026-11-24T10:00:00Z", "level": "WARN", "msg": "refresh failed", "err": text}),
		"zap":            inJSON(members{"level": "error", "ts": 1.5, "caller": "app/main.go:3", "msg": text}),
		"zerolog":        inJSON(members{"level": "error", "error": text, "message": "refresh failed"}),
		"zap console":    "2026-11-24T10:00:00Z\tERROR\tapp/main.go:3\trefresh failed\t" + inJSON(members{"customer": 7, "error": text}),
		"logrus, colors": "\x1b[31mERRO\x1b[0m[0000] refresh failed \x1b[31merror\x1b[0m=" + strconv.Quote(text),
		"Docker":         inJSON(members{"log": text + "\n", "stream": "stderr", "time": "2026-11-24T10:00:00Z"}),
		"journald":       inJSON(members{"__CURSOR": "s=" + secret, "MESSAGE": text, "PRIORITY": "3"}),
		"Fluent Bit":     inJSON(members{"log": text, "kubernetes": members{"pod_name": "app-1", "labels": members{"app": "a"}}}),
		"Datadog":        inJSON(members{"id": "AQ", "attributes": members{"message": text, "status": "error", "tags": []string{"env:prod"}}}),
		"Datadog, own":   inJSON(members{"content": members{"attributes": members{"error": members{"message": text, "kind": "x"}}}}),
		"CloudWatch":     inJSON(members{"@timestamp": "2026-11-24", "@message": text, "@ptr": secret}),
		"Insights":       inJSON(members{"results": []any{[]any{members{"field": "@ptr", "value": secret}, members{"field": "@message", "value": text}}}}),
		"Google":         inJSON(members{"jsonPayload": members{"message": text}, "severity": "ERROR"}),
		"OpenTelemetry":  inJSON(members{"logRecords": []any{members{"body": members{"stringValue": text}}}}),
		"Loki":           inJSON(members{"streams": []any{members{"values": []any{[]any{"1700000000000000000", text}}}}}),
	}
	if !strings.Contains(text, "\n") {
		inputs["Kubernetes"] = "2026-11-24T10:00:00.123456789Z stderr F " + text
		inputs["Compose"] = "app-1  | " + text
		inputs["syslog"] = "<11>1 2026-11-24T10:00:00Z host app 42 - - " + text
	}
	numbers := make([]string, len(text))
	for i := range len(text) {
		numbers[i] = strconv.Itoa(int(text[i]))
	}
	inputs["journald, bytes"] = `{"__CURSOR":"s=` + secret + `","MESSAGE":[` + strings.Join(numbers, ",") + `]}`
	inputs["Docker in Kubernetes"] = "2026-11-24T10:00:00.123456789Z stderr F " + inputs["Docker"]
	inputs["slog in Docker in Datadog"] = inJSON(members{"attributes": members{"message": inJSON(members{"log": inputs["slog JSON"] + "\n"})}})
	return inputs
}

// However a program prints the error of a revoked grant, it is that row.
func TestRevokedGrant(t *testing.T) {
	for _, input := range []string{
		// Python
		`{'error_description': 'Invalid refresh_token', 'error_uri': None, 'ok': False, 'error': 'invalid_grant', 'state': '` + secret + `'}`,
		`{u'error_description': u'Invalid refresh_token', u'error': u'invalid_grant'}`,
		`resp.content=b'{"error":"invalid_grant","error_description":"Invalid refresh_token"}'`,
		`OrderedDict([('error', 'invalid_grant'), ('error_description', 'Invalid refresh_token')])`,
		"Traceback (most recent call last):\n  File \"/app/x.py\", line 3, in refresh\n    session.refresh_token(url, refresh_token='" + secret +
			"')\noauthlib.oauth2.rfc6749.errors.InvalidGrantError: (invalid_grant) Invalid refresh_token",
		`google.auth.exceptions.RefreshError: ('invalid_grant: Invalid refresh_token', {'error': 'invalid_grant'})`,
		// Ruby
		`{"error"=>"invalid_grant", "error_description"=>"Invalid refresh_token", "state"=>nil}`,
		`{:error=>"invalid_grant", :error_description=>"Invalid refresh_token"}`,
		`{error: "invalid_grant", error_description: "Invalid refresh_token"}`,
		`#<OAuth2::Error: invalid_grant: Invalid refresh_token>`,
		// Go
		`failed: map[client_id:abc error:invalid_grant error_description:Invalid refresh_token state:` + secret + `]`,
		`map[error:[invalid_grant] error_description:[Invalid refresh_token]]`,
		`map[string]any{"error":"invalid_grant", "error_description":"Invalid refresh_token"}`,
		`&{Error:invalid_grant ErrorDescription:Invalid refresh_token}`,
		// JavaScript
		"AxiosError: Request failed\n    at settle (x.js:1)\n  response: {\n    data: { error: 'invalid_grant', error_description: 'Invalid refresh_token' },\n" +
			"    config: { headers: { Authorization: 'Basic " + secret + "' }, data: 'refresh_token=" + secret + "' }\n  }",
		"[Object: null prototype] {\n  error: 'invalid_grant',\n  error_description: 'Invalid refresh_token'\n}",
		"Map(2) {\n  'error' => 'invalid_grant',\n  'error_description' => 'Invalid refresh_token'\n}",
		`OPError: invalid_grant (Invalid refresh_token)`,
		"TokenError: Invalid refresh_token\n    at parseErrorResponse {\n  code: 'invalid_grant',\n  uri: undefined,\n  status: 500 }",
		// others
		"Array\n(\n    [error] => invalid_grant\n    [error_description] => Invalid refresh_token\n)",
		"array(2) {\n  [\"error\"]=>\n  string(13) \"invalid_grant\"\n  [\"error_description\"]=>\n  string(21) \"Invalid refresh_token\"\n}",
		"Client error: `POST https://x.example/token?code=" + secret + "` resulted in a `400 Bad Request` response:\n" + body,
		`{error=invalid_grant, error_description=Invalid refresh_token}`,
		`org.springframework.security.oauth2.core.OAuth2AuthorizationException: [invalid_grant] Invalid refresh_token`,
		`Object {"error": String("invalid_grant"), "error_description": String("Invalid refresh_token")}`,
		`%{"error" => "invalid_grant", "error_description" => "Invalid refresh_token"}`,
		`WWW-Authenticate: Bearer error="invalid_grant", error_description="Invalid refresh_token"`,
		`error: invalid_grant` + "\n" + `error_description: Invalid refresh_token`,
		// forms, tables and pages
		`error_description=Invalid%20refresh_token&error=invalid_grant`,
		`token response 400: error=invalid_grant&error_description=Invalid+refresh_token`,
		`{"status":400,"body":"error=invalid_grant&error_description=Invalid+refresh_token"}`,
		`2026-11-24,ERROR,"{""error"":""invalid_grant"",""error_description"":""Invalid refresh_token""}"`,
		`<pre>{&quot;error&quot;:&quot;invalid_grant&quot;,&#34;error_description&#34;:&#34;Invalid refresh_token&#34;}</pre>`,
		// golang.org/x/oauth2
		"oauth2: cannot fetch token: 400 Bad Request\r\nResponse: " + body + "\r\n",
		"oauth2: cannot fetch token: 400 Bad Request\nResponse: error=invalid_grant&error_description=Invalid+refresh_token",
		"2026-11-24T10:00:00Z stderr F oauth2: cannot fetch token: 400 Bad Request\n2026-11-24T10:00:00Z stderr F Response: " + body,
		"app-1  | oauth2: cannot fetch token: 400 Bad Request\napp-1  | Response: " + body,
		inJSON(members{"log": "oauth2: cannot fetch token: 400 Bad Request\n"}) + "\n" + inJSON(members{"log": "Response: " + body + "\n"}),
		// names and sentences
		"invalid_refresh_token", "refresh failed: invalid_refresh_token", `err=ErrInvalidRefreshToken`, "  ERRINVALIDREFRESHTOKEN\n", "applebusiness.ErrInvalidRefreshToken", `"Invalid refresh_token."`,
		`{"msg":"invalid_refresh_token"}`, `errors.Is(err, applebusiness.ErrInvalidRefreshToken)`,
		`apple_errors_total{reason="invalid_refresh_token",code="invalid_grant"} 12`,
		`customer 12: Apple says Invalid refresh_token, giving up`,
	} {
		f, err := understand(input)
		if assert.NoError(t, err, input) {
			assert.Equal(t, applebusiness.ErrInvalidRefreshToken, f.Reason, input)
			assert.Equal(t, applebusiness.TokenEndpoint, f.Endpoint, input)
		}
	}
}

func TestNames(t *testing.T) {
	for input, want := range map[string]string{
		"invalid_grant": "CodeInvalidGrant", "INVALID_GRANT": "CodeInvalidGrant", "CodeAccessDenied": "CodeAccessDenied", "404 Not Found": "CodeNotFound",
		"server": "ErrServer", "no_response": "ErrNoResponse", "rate_limited": "ErrRateLimited", "missing_parameter": "ErrMissingParameter",
		"ErrNoRefreshToken": "ErrNoRefreshToken", "POST body is empty.": "ErrEmptyBody",
	} {
		f, err := understand(input)
		require.NoError(t, err, input)
		assert.Equal(t, want, explain(f).Constant, input)
	}
}

// The status, the wait and the request id are kept, whatever the body is.
func TestResponses(t *testing.T) {
	const verbose = "*   Trying 192.0.2.1:443...\n> POST /api/v1/oauth2/token HTTP/2\n> authorization: Basic " + secret + "\n> content-type: application/json\n>\n"
	const outage = "503 30s abc-12 unavailable"
	har := func(status int, body string) members {
		return members{
			"request": members{"method": "POST", "url": "https://x.example/?x=" + secret, "postData": members{"text": `{"grant_type":"refresh_token","refresh_token":"` + secret + `"}`}},
			"response": members{"status": status, "headers": []any{members{"name": "Retry-After", "value": "30"}, members{"name": "apple-request-id", "value": "abc-12"}},
				"content": members{"text": body}, "redirectURL": ""},
		}
	}
	page := members{"request": members{"method": "GET", "url": "https://x.example/"}, "response": members{"status": 404, "content": members{"text": "<html>"}}}
	for input, want := range map[string]string{
		verbose + "< HTTP/2 503 \n< retry-after: 30\n< apple-request-id: abc-12\n<\n<html>" + secret + "</html>\n* Connection #0 left intact":                 outage,
		strings.ReplaceAll(verbose+"< HTTP/1.1 503 X\n< Retry-After: 30\n< Apple-Request-Id: abc-12\n< \n<html>"+secret, "\n", "\r\n"):                        outage,
		verbose + "< HTTP/1.1 100 Continue\n<\n< HTTP/1.1 503 X\n< Retry-After: 30\n< Apple-Request-Id: abc-12\n<\n":                                          outage,
		verbose + "< HTTP/1.1 301 X\n< location: /y\n<\n" + verbose + "< HTTP/2 503\n< retry-after: 30\n< apple-request-id: abc-12\n<\n":                      outage,
		"HTTP/2 103\nlink: <x>\n\nHTTP/2 503\nretry-after: 30\napple-request-id: abc-12\n\n":                                                                  outage,
		"HTTP/1.1 301 X\nLocation: /y\n\n<html></html>HTTP/1.1 200 OK\nContent-Type: text/html\n\n<html>":                                                     "200 0s  malformed_response",
		"HTTP/2 302\nlocation: https://login.example/\n\n":                                                                                                    "302 0s  malformed_response",
		"$ curl -i x\nHTTP/1.0 503 X\nRetry-After: 30\nApple-Request-Id: abc-12\n\n<html>":                                                                    outage,
		`stderr="< HTTP/2 503\n< retry-after: 30\n< apple-request-id: abc-12\n<\n<html>"`:                                                                     outage,
		verbose + "} [9 bytes data]\n< HTTP/1.1 401 X\n< Retry-After: 30\n< apple-request-id: abc-12\n< \n{ [88 bytes data]\n\r100    88  100    88\n" + body: "401 30s abc-12 invalid_refresh_token",
		"POST /token HTTP/1.1\nAuthorization: Basic " + secret + "\n\n{\n  \"grant_type\": \"refresh_token\",\n  \"refresh_token\": \"" + secret + "\"\n}\n\n\n" +
			"HTTP/1.1 401 X\nRetry-After: 30\napple-request-id: abc-12\n\n" + body: "401 30s abc-12 invalid_refresh_token refresh_token",
		inJSON(har(401, body)):     "401 30s abc-12 invalid_refresh_token refresh_token",
		inJSON(har(503, "<html>")): outage + " refresh_token",
		inJSON(members{"log": members{"version": "1.2", "entries": []any{page, har(200, `{"access_token":"`+secret+`"}`), har(503, "")}}}): outage + " refresh_token",
	} {
		f, err := understand(input)
		if assert.NoError(t, err, input) {
			assert.Equal(t, want, strings.TrimSpace(fmt.Sprint(f.StatusCode, " ", f.RetryAfter, " ", f.RequestID, " ", string(f.Reason), " ", f.GrantType)), input)
		}
	}
}

// A failure of the network is called one, and has the advice that Troubleshoot gives it.
func TestNetwork(t *testing.T) {
	for input, want := range map[string]string{
		`dial tcp: lookup x.example: no such host`:                                                              "check_network: DNS does not know the host",
		`Post "https://x.example/?t=` + secret + `": tls: failed to verify certificate: x509: expired`:          "check_network: TLS: the certificate is not trusted",
		`http2: server sent GOAWAY and closed the connection; LastStreamID=1`:                                   "retry: the connection was reset: HTTP/2 GOAWAY",
		`read tcp 192.0.2.1:3->192.0.2.2:443: i/o timeout`:                                                      "retry: timed out",
		`Post "https://x.example/": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`: "retry: timed out",
		`Post "https://x.example/": EOF`:                                                                        "retry: the connection was reset",
		`Post "https://x.example/": unexpected EOF`:                                                             "retry: the response was truncated",
		`Post "https://x.example": Proxy Authentication Required`:                                               "check_network: the proxy refused the connection",
		`proxyconnect tcp: dial tcp 127.0.0.1:9: connect: connection refused`:                                   "retry: the connection was refused",
		`curl: (6) Could not resolve host: x.example`:                                                           "check_network: DNS does not know the host",
		`Error: connect ECONNREFUSED 192.0.2.1:443`:                                                             "retry: the connection was refused",
		`HTTPSConnectionPool(host='x', port=443): Read timed out. (read timeout=5)`:                             "retry: timed out",
		`java.net.UnknownHostException: x.example`:                                                              "check_network: DNS does not know the host",
		`net::ERR_NAME_NOT_RESOLVED`:                                                                            "check_network: DNS does not know the host",
		`http: server closed idle connection`:                                                                   "retry: the connection was reset",
	} {
		assert.Equal(t, "network: "+want, line(input), input)
		assert.Equal(t, "network: "+want, line(inJSON(members{"level": "error", "err": input})), input)
	}
	for _, input := range []string{`http: TLS handshake error from 192.0.2.1:5: EOF`, `level=ERROR msg="read config: EOF"`, `msg="connection closed"`} {
		assert.Equal(t, errNothing.Error(), line(input))
	}
}

// FuzzExplain plants secrets in each kind of input, around and beside what is fuzzed.
func FuzzExplain(f *testing.F) {
	shapes := uint(len(withSecrets("")))
	seeds := []string{
		"\x00\x1b[31m\u202e", "a\u2028\xff", "%00%1b%5b31m", "{\"message\":\"m\",\"code\":\"", "HTTP/1.1 100 Continue\r\n\r\nHTTP/2 401 \r\n\r\n" + body,
		"oauth2: cannot fetch token: 401 Unauthorized\nResponse: " + body, `err="applebusiness: \"x\" (HTTP 401)"`, "invalid_grant",
	}
	for _, reader := range readers {
		seeds = append(seeds, reader.example)
	}
	for shape := range shapes {
		for _, seed := range seeds {
			f.Add(shape, seed)
		}
	}
	f.Fuzz(func(t *testing.T, shape uint, text string) {
		if strings.Contains(text, secret) {
			return
		}
		input := withSecrets(text)[shape%shapes]
		for _, mode := range []string{"-json=false", "-json", "-lines"} {
			var stdout, stderr strings.Builder
			code := run([]string{mode}, strings.NewReader(input), &stdout, &stderr)
			assert.Equal(t, code == exitUnusable, stderr.Len() > 0)
			for _, output := range []string{stdout.String(), stderr.String()} {
				assert.NotContains(t, output, secret, input)
				for line := range strings.SplitSeq(output, "\n") {
					assert.False(t, strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", line)
				}
			}
			if mode == "-json" && code != exitUnusable {
				assert.True(t, json.Valid([]byte(stdout.String())), stdout.String())
			}
		}
	})
}

// withSecrets returns inputs of each kind with secrets, about whatever text is.
func withSecrets(text string) []string {
	names := []string{"state", "code", "access_token", "refresh_token", "client_secret", "code_verifier", "id_token", "password"}
	inputs := []string{text}
	add := func(format string, args ...any) { inputs = append(inputs, fmt.Sprintf(format, args...)) }
	list := func(pair, separator string) string {
		var pairs []string
		for _, name := range names {
			pairs = append(pairs, fmt.Sprintf(pair, name, secret))
		}
		return strings.Join(pairs, separator)
	}
	object, query, quoted, escaped := list("%q:%q", ","), list("%s=%s", "&"), inJSON(text), url.QueryEscape(text)
	const headers = "Authorization: Bearer " + secret + "\r\nSet-Cookie: session=" + secret + "\r\n"

	// bodies and logs
	add(`{%s,"error":%s}`, object, quoted)
	add(`{"error":%s,%s,"error_description":%[1]s}`, quoted, object)
	add(`{"error":"invalid_grant","error_description":%s}`, inJSON(text+" the token "+secret+" is unknown, Bearer "+secret))
	add(`[{%s,"message":%s}]`, object, quoted)
	add(`{"code":"E42","message":%s}`, inJSON("refresh_token="+secret+" rejected "+text))
	add(`{"level":"error","message":%s,"error":%s}`, inJSON("callback https://x.example/cb?"+query+" failed"), quoted)
	add(`{"attributes":{"message":%s}}`, inJSON(fmt.Sprintf(`{"log":%s}`, inJSON(fmt.Sprintf(`{%s,"error":%s}`, object, quoted)))))
	add("err=%q code=%s state=%s authorization=\"Bearer %[2]s\"", text, secret, secret)
	add("level=ERROR error.endpoint=token error.code=%q error.reason=%q error.description=%q error.request_id=%q error.parameter=%q", secret, text, "token "+secret, text, secret)
	// responses
	add("HTTP/1.1 400 X\r\n%s\r\n{%s,\"error\":%s}", headers, object, quoted)
	add("> POST /token?%s HTTP/2\n> %s\n< HTTP/2 400\n< retry-after: %s\n<\n%s", query, strings.TrimSpace(headers), text, text)
	add("POST /token HTTP/1.1\r\n%s\r\n%s\r\n\r\nHTTP/1.1 401 X\r\n\r\n{\"error\":%s}", headers, query, quoted)
	add(`{"request":{"url":"https://x.example/?%s","postData":{"text":%s}},"response":{"status":400,"content":{"text":%s}}}`, query, inJSON(query), quoted)
	// redirects
	add("HTTP/1.1 302 X\r\nLocation: /cb?error=%s&%s\r\n\r\n", escaped, query)
	add("https://x.example/cb?error=%s&error_description=%[1]s&%s", escaped, query)
	add("https://x.example/cb?error=x&error_description=%s+token+%s&%s", escaped, secret, query)
	// renderings and texts
	add("{%s, 'error': '%s', 'error_description': '%[2]s'}", list("'%s': '%s'", ", "), text)
	add("{%s, \"error\"=>%q, :error_description=>%[2]q}", list("%q=>%q", ", "), text)
	add("map[%s error:%s error_description:%[2]s]", list("%s:%s", " "), text)
	add("{ %s, error: '%s', error_description: 'code %s' }", list("%s: '%s'", ", "), text, secret)
	add("Array\n(\n%s    [error] => %s\n)", list("    [%s] => %s\n", ""), text)
	add("oauth2: %q %q %q code=%s", cmp.Or(text, "x"), text, secret, secret)
	add("oauth2: cannot fetch token: 400 Bad Request\nResponse: {%s,\"error\":%s}", object, quoted)
	add("applebusiness: %q: %q (HTTP 400): code %s", cmp.Or(text, "x"), text+" token "+secret, secret)
	add("Post \"https://x.example/?%s\": %s: no such host", query, text)
	return inputs
}

// What the package logs about a failure is understood as Troubleshoot understands the failure itself, with its grant type
// and without a cause in the line.
func TestOwnLines(t *testing.T) {
	var failures []error
	for _, grantType := range []string{applebusiness.GrantTypeRefreshToken, applebusiness.GrantTypeAuthorizationCode} {
		for _, status := range []int{0, 200, 302, 400, 403, 407, 408, 429, 500, 503, 520} {
			for _, body := range []string{"", body, `{"error":"slow_down","error_description":"wait a bit"}`, `{"code":"Unauthorized","message":"Expired Token"}`} {
				e := applebusiness.ParseTokenError(status, http.Header{"Retry-After": {"30"}}, []byte(body))
				e.GrantType = grantType
				failures = append(failures, e)
			}
		}
		for _, failure := range networkFailures {
			failures = append(failures, noResponse(failure.words, grantType))
		}
	}
	for _, query := range []string{"error=access_denied", "error=server_error&error_description=server+error", "error=a&error=b", "error=slow_down"} {
		_, err := applebusiness.ParseRedirect(query)
		failures = append(failures, err)
	}
	for _, failure := range failures {
		for _, attr := range []slog.Attr{slog.Any("err", failure), applebusiness.LogAttr(fmt.Errorf("customer 7: %w", failure))} {
			var text, object strings.Builder
			slog.New(slog.NewTextHandler(&text, nil)).Warn("failed", attr)
			slog.New(slog.NewJSONHandler(&object, nil)).Warn("failed", attr)
			for _, input := range []string{text.String(), object.String()} {
				require.True(t, mayHoldError([]byte(input)), input)
				f, err := understand(input)
				require.NoError(t, err, input)
				assert.Equal(t, applebusiness.ReasonOf(failure), f.Reason, input)
				assert.Equal(t, applebusiness.Troubleshoot(failure).Action, f.advice().Action, input)
			}
		}
	}
}

// What HTTP clients say of a status says enough if it passes. Among the lines of a log it is nobody's.
func TestStatusAlone(t *testing.T) {
	const u = "https://api.example/api/v1/oauth2/token?client_secret=" + secret
	for _, text := range []string{
		"AxiosError: Request failed with status code %d",
		`{"message":"Request failed with status code %d","name":"AxiosError","config":{"url":"` + u + `","data":"{\"refresh_token\":\"` + secret + `\"}"},"code":"ERR_BAD_RESPONSE"}`,
		"requests.exceptions.HTTPError: %d Server Error: Some Reason for url: " + u,
		"requests.exceptions.HTTPError: %d Client Error: Some Reason for url: " + u,
		"urllib.error.HTTPError: HTTP Error %d: Some Reason",
		"Response status code does not indicate success: %d (Some Reason).",
		"java.io.IOException: Server returned HTTP response code: %d for URL: " + u,
		"Server error: `POST " + u + "` resulted in a `%d Some Reason` response:",
		"Faraday::ServerError (the server responded with status %d)",
		"curl: (22) The requested URL returned error: %d",
	} {
		for status, want := range map[int]string{503: "ErrUnavailable", 429: "ErrRateLimited", 401: "", 404: "", 501: ""} {
			input := fmt.Sprintf(text, status)
			var stdout, stderr strings.Builder
			code := run(nil, strings.NewReader(input), &stdout, &stderr)
			assert.NotContains(t, stdout.String()+stderr.String(), secret)
			if want == "" {
				assert.Equal(t, exitUnusable, code, input)
				assert.Equal(t, "explain: "+errStatus.Error()+"\n", stderr.String(), input)
				continue
			}
			assert.Equal(t, exitUndocumented, code, input)
			assert.True(t, strings.HasPrefix(stdout.String(), want+", found by package applebusiness"), "%s: %s", input, stdout.String())

			stderr.Reset()
			assert.Equal(t, exitUnusable, run([]string{"-lines"}, strings.NewReader(input), new(strings.Builder), &stderr), input)
			assert.Equal(t, "explain: no line holds an OAuth error\n", stderr.String())
		}
	}
}
