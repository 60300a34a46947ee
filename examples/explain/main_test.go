package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// binaryDir is where the program is built for the tests that run it.
var binaryDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "explain")
	if err != nil {
		panic(err)
	}
	binaryDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaryDir, "explain.exe")
	output, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return path, nil
})

// execute runs the program in an empty directory, as an installed one would be.
func execute(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	var out, errOut bytes.Buffer
	command := exec.Command(path, args...)
	command.Dir, command.Stdin, command.Stdout, command.Stderr = t.TempDir(), strings.NewReader(stdin), &out, &errOut
	if err := command.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
	}
	return out.String(), errOut.String(), command.ProcessState.ExitCode()
}

const (
	secret = "S3cr3t-xyzABC123"

	body     = `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`
	redirect = `?error=unsupported_response_type&error_description=response_type+must+be+code&state=` + secret
)

// What a person reads is fixed to the letter, but for the remedies, which are the package's.
func TestText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, input string
		err         error // whose remedy it is
		want        string
		code        int
	}{
		{"documented", "HTTP/2 401 \r\napple-request-id: abc-1\r\nretry-after: 7\r\n\r\n" + body, applebusiness.ErrInvalidRefreshToken, `
ErrInvalidRefreshToken, documented by Apple
  endpoint   token
  code       invalid_grant
  text       "Invalid refresh_token"
  status     HTTP 401
  wait       7 seconds before the next request
  affected   customer
  causes     The customer revoked the partner's access to their Apple Business account.
             The authorization code was older than 5 minutes.
             Another process refreshed this grant first, and its refresh token is the valid one.
  action     reauthorize
             REMEDY
`, 0},
		{"Apple's example of a redirect", redirect, applebusiness.ErrInvalidResponseType, `
ErrInvalidResponseType, documented by Apple
  endpoint   authorization
  code       unsupported_response_type
  text       "response_type must be code"
  affected   app
  action     fix_request
             REMEDY
`, 0},
		{"status unknown", `{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: redirect_uri missing"}`, applebusiness.ErrMissingParameter, `
ErrMissingParameter, documented by Apple
  endpoint   token
  code       invalid_request
  text       "OAuth 2.0 Parameter: <parameter name> missing"
  parameter  redirect_uri
  affected   app
  action     fix_request
             REMEDY
`, 0},
		{"a denial", "?error=access_denied", applebusiness.ErrUserDenied, `
ErrUserDenied
  endpoint   authorization
  code       access_denied
  affected   customer
  causes     The user declined on Apple's consent page.
  action     start_over
             REMEDY
`, 1},
		{"a code of RFC 6749", `{"error":"unauthorized_client"}`, applebusiness.CodeUnauthorizedClient, `
undocumented
  endpoint   token
  code       unauthorized_client
  affected   app
  action     fix_registration
             REMEDY
`, 1},
		{"a code of nobody's", `{"error":"slow\ndown","error_description":"two\nlines \u202e"}`, applebusiness.Code("slow_down"), `
undocumented
  endpoint   token
  action     unknown
             REMEDY
`, 1},
		{"found by the package", `oauth2: token expired and refresh token is not set`, applebusiness.ErrNoRefreshToken, `
ErrNoRefreshToken
  endpoint   token
  action     fix_request
             REMEDY
`, 1},
		{"a proxy's response", "HTTP/1.1 407 Proxy Authentication Required\nContent-Type: text/html\n\n<html>" + secret, applebusiness.ErrMalformedResponse, `
ErrMalformedResponse
  endpoint   token
  status     HTTP 407
  affected   service
  action     check_network
             REMEDY
`, 1},
		{"the network", `Post "https://apple.example/?` + secret + `": dial tcp: lookup apple.example: no such host`, noSuchHost, `
network
  network    DNS does not know the host
  affected   service
  action     check_network
             REMEDY
`, 1},
		{"the network, through the package", `applebusiness: no_response: timed out`, applebusiness.ErrNoResponse, `
ErrNoResponse
  network    timed out
  affected   service
  action     retry
             REMEDY
`, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := strings.ReplaceAll(strings.TrimPrefix(test.want, "\n"), "REMEDY", applebusiness.Troubleshoot(test.err).Remedy)
			for _, stdin := range []bool{false, true} {
				var stdout, stderr string
				var code int
				if stdin {
					stdout, stderr, code = execute(t, test.input)
				} else {
					stdout, stderr, code = execute(t, "", test.input)
				}
				assert.Equal(t, want, stdout)
				assert.Empty(t, stderr)
				assert.Equal(t, test.code, code)
			}
		})
	}
}

var noSuchHost = &url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}}

// So are the members that a program reads.
func TestJSON(t *testing.T) {
	stdout, stderr, code := execute(t,
		"HTTP/1.1 400 Bad Request\r\nApple-Request-Id: abc-1\r\nRetry-After: 7\r\n\r\n"+
			`{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: redirect_uri missing"}`, "-json")
	assert.Equal(t, `{
  "constant": "ErrMissingParameter",
  "reason": "missing_parameter",
  "endpoint": "token",
  "code": "invalid_request",
  "description": "OAuth 2.0 Parameter: <parameter name> missing",
  "status": 400,
  "documented": true,
  "parameter": "redirect_uri",
  "retry_after_seconds": 7,
  "impact": "app",
  "causes": [],
  "action": "fix_request",
  "remedy": "`+applebusiness.Troubleshoot(applebusiness.ErrMissingParameter).Remedy+`"
}
`, stdout)
	assert.Empty(t, stderr)
	assert.Equal(t, 0, code)

	stdout, _, code = execute(t, "", "-json", `{"error":"\u202e<\u0000","error_description":"\ud83d\ude00\udb40\udc01"}`)
	assert.Equal(t, `{
  "endpoint": "token",
  "documented": false,
  "impact": "",
  "causes": [],
  "action": "",
  "remedy": "Apple does not document this error. Read its code and description, and ask nobody to reconnect because of it."
}
`, stdout)
	assert.Equal(t, 1, code)

	stdout, _, _ = execute(t, "", "-json", `{"error":"invalid_client"}`)
	assert.Contains(t, stdout, `
  "causes": [
    {
      "cause": "client_secret_replaced",
      "description": "The client secret was replaced at Apple, which ends the old one at once."
    },
    {
      "cause": "app_removed",
      "description": "The app was deleted at Apple, which ends all its grants."
    }
  ],
`)
}

func TestInputs(t *testing.T) {
	deadGrant := failure{
		Constant: "ErrInvalidRefreshToken", Endpoint: "token", Code: "invalid_grant", Description: "Invalid refresh_token",
	}
	deadGrant401 := deadGrant
	deadGrant401.Status = 401
	responseType := failure{
		Constant: "ErrInvalidResponseType", Endpoint: "authorization", Code: "unsupported_response_type", Description: "response_type must be code",
	}
	unknown := func(status int) failure { return failure{Endpoint: "token", Status: status} }
	response := func(constant string, status int) failure {
		return failure{Constant: constant, Endpoint: "token", Status: status}
	}
	for _, test := range []struct {
		name, input string
		want        failure
	}{
		// JSON bodies
		{"JSON", body, deadGrant},
		{"JSON after a byte order mark", "\ufeff \n" + body + "\n", deadGrant},
		{"JSON that is cut", body[:len(body)-1] + `,"state":"` + secret, deadGrant},
		{"JSON of a redirect's error", `{"error":"unsupported_response_type","error_description":"response_type must be code"}`, responseType},
		{"JSON with secrets", `{"state":"` + secret + `","code":"` + secret + `","access_token":5,` + body[1:], deadGrant},
		{"Apple's other dialect", `[{"code":"Unauthorized","message":"Expired Token","details":{"header":"` + secret + `"}}]`, failure{Constant: "ErrMalformedResponse"}},

		// HTTP responses
		{"HTTP/1.1", "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\nSet-Cookie: " + secret + "\r\n\r\n" + body, deadGrant401},
		{"HTTP/2 with LF", "HTTP/2 401\ncontent-type: application/json\n\n" + body + "\n", deadGrant401},
		{"a proxy first", "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nHTTP/2 401 \r\n\r\n" + body, deadGrant401},
		{"a redirect first", "HTTP/1.1 301 Moved\r\nLocation: https://x.example/?a=b\r\n\r\nHTTP/2 401 \r\n\r\n" + body, deadGrant401},
		{"a redirect's error", "HTTP/2 302\r\nLocation: https://x.example/cb" + redirect + "\r\n\r\n<html>", responseType},
		{"a redirect's error that was followed", "HTTP/2 302\r\nlocation: /cb" + redirect + "\r\n\r\nHTTP/2 200\r\n\r\n<html>", responseType},
		{"headers only", "HTTP/1.1 502 Bad Gateway\r\nServer: x", response("ErrUnavailable", 502)},
		{"a success without a token", "HTTP/1.1 200 OK\r\n\r\n{}", failure{Constant: "ErrMalformedResponse", Endpoint: "token", Status: 200}},
		{"a token in a failure", "HTTP/1.1 500 X\r\n\r\n" + `{"access_token":"` + secret + `"}`, response("ErrUnavailable", 500)},
		{"a code without a message", "HTTP/1.1 400 X\r\n\r\n" + `{"code":"` + secret + `"}`, response("ErrMalformedResponse", 400)},

		// Redirects
		{"a URL", "https://x.example/cb" + redirect + "#" + secret, responseType},
		{"a fragment after the description", redirect[:strings.Index(redirect, "&state")] + "#" + secret, responseType},
		{"a query", redirect[1:], responseType},
		{"a query with a question mark", redirect, responseType},
		{"state first", "state=" + secret + "&" + redirect[1:strings.Index(redirect, "&state")], responseType},
		{"a code beside the error", redirect + "&code=" + secret, responseType},
		{"a request line", "POST /callback" + redirect + " HTTP/1.1", responseType},
		{"a line of an access log", `1.2.3.4 - - [24/Nov/2026:00:00:00 +0000] "POST /callback` + redirect + ` HTTP/1.1" 302 5 "https://y.example/?b=c"`, responseType},
		{"an access log in JSON", `{"request":"POST /callback?state=` + secret + `\u0026` + redirect[1:strings.Index(redirect, "&state")] + ` HTTP/1.1"}`, responseType},
		{"in single quotes", `GET 'https://x.example/cb` + redirect[:strings.Index(redirect, "&state")] + `', 5`, responseType},
		{"a query in a line of a log", `level=ERROR error=none query="` + redirect[1:] + `"`, responseType},
		{"cannot be decoded", "https://x.example/cb?error=%zz&state=" + secret, failure{Constant: "ErrMalformedRedirect", Endpoint: "authorization"}},
		{"repeated", redirect + "&error=" + secret, failure{Constant: "ErrMalformedRedirect", Endpoint: "authorization"}},

		// The text of x/oauth2
		{"x/oauth2", `2026/11/24 12:00:00 refresh: oauth2: "invalid_grant" "Invalid refresh_token" "https://x.example/"`, deadGrant},
		{"x/oauth2, code only", `oauth2: "slow_down"`, unknown(0)},
		{"x/oauth2 with the body", "oauth2: cannot fetch token: 401 Unauthorized\nResponse: " + body, deadGrant401},
		{"x/oauth2 with the body in slog's text", `err="oauth2: cannot fetch token: 401 Unauthorized\nResponse: ` + strings.ReplaceAll(body, `"`, `\"`) + `" b=c`, deadGrant401},
		{"x/oauth2 with a secret body", "oauth2: cannot fetch token: 502 Bad Gateway\nResponse: <html>" + secret, response("ErrUnavailable", 502)},

		// Our own text
		{"own text", `applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)`, deadGrant401},
		{"own text after the package's name", `applebusiness: refresh failed: applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401), customer 5`, deadGrant401},
		{"own text, 404", `applebusiness: 404 Not Found: "invalid_request" (HTTP 404)`, failure{Constant: "ErrEndpointNotFound", Endpoint: "token", Status: 404, Code: "404 Not Found"}},
		{"own text, unknown code", `applebusiness: "slow_down": "two\nlines" (HTTP 400)`, failure{Status: 400}},
		{"own text, unknown code only", `applebusiness: "slow_down" (HTTP 400)`, failure{Status: 400}},
		{"own text, description only", `applebusiness: "only a text" (HTTP 400)`, failure{Constant: "ErrMalformedResponse", Status: 400}},
		{"own text, code only", `err="applebusiness: access_denied" a=b`, failure{Code: "access_denied"}},
		{"own text, Reason only", `applebusiness: invalid_refresh_token`, failure{Constant: "ErrInvalidRefreshToken", Endpoint: "token"}},
		{"own text, own Reason", `applebusiness: state_mismatch: the state is not the expected one`, failure{Constant: "ErrStateMismatch"}},
		{"own text, own Reason and a code", `applebusiness: malformed_response: "X": "m": a success without an access_token (HTTP 200)`, failure{Constant: "ErrMalformedResponse", Status: 200}},
		{"own text, status only", `applebusiness: no OAuth error was received (HTTP 502)`, failure{Constant: "ErrUnavailable", Status: 502}},
		{"a server error tells its endpoint by its code", `applebusiness: server_error: "server error"`, failure{Constant: "ErrServer", Endpoint: "authorization", Code: "server_error", Description: "server error"}},

		// Our own group
		{"group of a code", `level=ERROR error.endpoint=token error.code=slow_down error.status=400`, unknown(400)},
		{"group with no such status", `error.endpoint=token error.code=slow_down error.status=-5`, unknown(0)},
		{"group with a secret", `{"endpoint":"token","reason":"bad_request","code":"` + secret + `"}`, failure{Constant: "ErrBadRequest", Endpoint: "token"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, code := execute(t, test.input, "-json")
			var got failure
			require.NoError(t, json.Unmarshal([]byte(stdout), &got), stderr)
			assert.Equal(t, test.want, failure{
				Constant: got.Constant, Endpoint: got.Endpoint, Status: got.Status, Code: got.Code, Description: got.Description,
			})
			assert.NotContains(t, stdout, secret)
			assert.Empty(t, stderr)
			assert.Equal(t, got.Documented, code == exitDocumented)
		})
	}
}

func TestUnusable(t *testing.T) {
	const nothing = "explain: no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log\n"
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"empty", "", nil, "explain: the input is empty\n"},
		{"blank", " \r\n", nil, "explain: the input is empty\n"},
		{"too long", strings.Repeat("x", maxInput+1), nil, "explain: the input is longer than 1 MiB\n"},
		{"something else", "", []string{"hello " + secret}, nothing},
		{"JSON of something else", "", []string{`{"level":"info","message":"` + secret + `"}`}, nothing},
		{"a log with a code", "", []string{`{"level":"info","code":"` + secret + `","message":"x"}`}, nothing},
		{"a log with an error", "", []string{`{"level":"error","error":"Post https://x.example/?s=` + secret + `: refused"}`}, nothing},
		{"a token request", "", []string{`{"grant_type":"authorization_code","code":"` + secret + `","message":"x"}`}, nothing},
		{"a token request in capitals", "", []string{`{"Grant_Type":"authorization_code","CODE":"` + secret + `","message":"x"}`}, nothing},
		{"a group of something else", "", []string{`endpoint=/token code=` + secret + ` reason=server`}, nothing},
		{"a group with a secret", "", []string{`endpoint=token code=` + secret}, nothing},
		{"a group with no endpoint", "", []string{`reason=server code=` + secret}, nothing},
		{"an interim answer", "HTTP/1.1 100 Continue\r\n\r\n", nil, nothing},
		{"own text of something else", "", []string{`applebusiness: the TokenSource has no Source`}, nothing},
		{"own text that is cut", "", []string{`applebusiness: "cut`}, nothing},
		{"x/oauth2 text that is cut", "", []string{`oauth2: "cut`}, nothing},
		{"no status line", "HTTP/ " + secret + "\r\n\r\n", nil, nothing},
		{"a code", "", []string{"https://x.example/cb?code=" + secret + "&state=" + secret}, nothing},
		{"a code in a response", "HTTP/2 302\r\nlocation: /cb?code=" + secret + "\r\n\r\n", nil, nothing},
		{"a token", "", []string{`{"access_token":"` + secret + `","refresh_token":"` + secret + `"}`}, nothing},
		{"a token in a response", "HTTP/2 200\r\n\r\n" + `{"access_token":"` + secret + `"}`, nil, nothing},
		{"two inputs", "", []string{"a", "b"}, "explain: give one INPUT, in quotes\n"},
		{"lines and an input", "", []string{"-lines", secret}, "explain: the argument is no file that can be read\n"},
		{"an empty argument", body, []string{""}, "explain: the input is empty\n"},
		{"no lines", "", []string{"-lines"}, "explain: no line holds an OAuth error\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, code := execute(t, test.stdin, test.args...)
			assert.Empty(t, stdout)
			assert.Equal(t, test.want, stderr)
			assert.Equal(t, exitUnusable, code)
		})
	}
}

// The whole help fits on a screen of 24 lines of 80 characters.
func TestUsage(t *testing.T) {
	stdout, stderr, code := execute(t, "", "-h")
	assert.Empty(t, stdout)
	assert.Equal(t, usage, stderr)
	assert.Equal(t, 0, code)
	assert.LessOrEqual(t, strings.Count(usage, "\n"), 24)
	for line := range strings.SplitSeq(usage, "\n") {
		assert.LessOrEqual(t, len(line), 80, line)
	}

	_, stderr, code = execute(t, "", "-x")
	assert.Equal(t, "flag provided but not defined: -x\n"+usage, stderr)
	assert.Equal(t, exitUnusable, code)
}

// The examples in the usage text are true.
func TestUsageExamples(t *testing.T) {
	for _, test := range []struct {
		input, want string
		code        int
	}{
		{`oauth2: "invalid_grant" "Invalid refresh_token"`, "ErrInvalidRefreshToken, documented by Apple\n", exitDocumented},
		{"https://partner.example/callback?error=access_denied&state=xyz", "ErrUserDenied\n", exitUndocumented},
	} {
		require.Contains(t, usage, "\n  explain '"+test.input+"'\n")
		stdout, _, code := execute(t, "", test.input)
		assert.True(t, strings.HasPrefix(stdout, test.want), stdout)
		assert.Equal(t, test.code, code)
	}
}

// An endless input is refused rather than kept.
func TestEndlessInput(t *testing.T) {
	var stderr strings.Builder
	stdin := &generator{next: func() string { return strings.Repeat("x", 64<<10) }}
	assert.Equal(t, exitUnusable, run(nil, stdin, io.Discard, &stderr))
	assert.Equal(t, "explain: the input is longer than 1 MiB\n", stderr.String())
}

// rendered returns the error of a row, and what the library, Apple and x/oauth2 make of it.
func rendered(t *testing.T, entry applebusiness.Entry) (want *applebusiness.Error, inputs map[string]string) {
	description := strings.ReplaceAll(entry.Description, "<parameter name>", "code")
	body, err := json.Marshal(map[string]string{"error": string(entry.Code), "error_description": description})
	require.NoError(t, err)
	inputs = make(map[string]string)
	if entry.Endpoint == applebusiness.TokenEndpoint {
		header := http.Header{"Apple-Request-Id": {"id 1"}, "Retry-After": {"30"}}
		want = applebusiness.ParseTokenError(entry.StatusCode, header, body)
		want.GrantType = "refresh_token"
		inputs["HTTP"] = fmt.Sprintf("HTTP/2 %d\r\n\r\n%s", entry.StatusCode, body)
		inputs["x/oauth2"] = (&oauth2.RetrieveError{ErrorCode: string(entry.Code), ErrorDescription: description}).Error()
		inputs["x/oauth2, other dialect"] = (&oauth2.RetrieveError{Response: &http.Response{Status: strconv.Itoa(entry.StatusCode) + " X"}, Body: body}).Error()
		if entry.Reason == applebusiness.ErrEndpointNotFound { // its text means nothing without its status
			delete(inputs, "x/oauth2")
		} else {
			inputs["JSON"] = string(body)
		}
	} else {
		query := url.Values{"error": {string(entry.Code)}, "error_description": {description}}.Encode()
		_, err = applebusiness.ParseRedirect(query)
		require.ErrorAs(t, err, &want)
		inputs["query"] = query
		inputs["JSON"] = string(body)
	}
	inputs["own text"] = want.Error()
	return want, inputs
}

// Whatever the library or x/oauth2 prints about a row of the catalog is understood as that row.
func TestCatalogRoundTrip(t *testing.T) {
	t.Parallel()
	for entry := range applebusiness.Catalog() {
		want, inputs := rendered(t, entry)
		for name, input := range inputs {
			var text, object strings.Builder
			slog.New(slog.NewTextHandler(&text, nil)).Error("failed", "err", errors.New(input), "state", secret)
			slog.New(slog.NewJSONHandler(&object, nil)).Error("failed", "error", errors.New(input), "code", secret)
			logged := map[string]string{name: input, name + " in slog's text": text.String(), name + " in slog's JSON": object.String()}
			if strings.HasPrefix(input, "HTTP/") {
				logged = map[string]string{name: input}
			}
			for name, input := range logged {
				found, err := understand(input)
				if assert.NoError(t, err, name) && assert.Len(t, found, 1, input) {
					x := found[0]
					assert.Equal(t, []any{want.Reason, string(want.Code), want.Parameter, want.Endpoint}, []any{x.Reason, x.Code, x.Parameter, x.Endpoint}, "%s: %s", name, input)
				}
			}
		}

		// The group of LogValue tells all.
		var text, object strings.Builder
		slog.New(slog.NewTextHandler(&text, nil)).WithGroup("app").Error("failed", "code", secret, "error", want)
		slog.New(slog.NewJSONHandler(&object, nil)).WithGroup("app").Error("failed", "code", secret, "error", want)
		for _, input := range []string{text.String(), object.String(), "2026-11-24 " + object.String()} {
			found, err := understand(input)
			if assert.NoError(t, err, input) && assert.Len(t, found, 1, input) {
				e := found[0]
				assert.Equal(t, []any{want.Reason, string(want.Code), want.Parameter, want.Endpoint, want.StatusCode, want.GrantType, want.RetryAfter}, []any{e.Reason, e.Code, e.Parameter, e.Endpoint, e.Status, e.GrantType, time.Duration(e.Wait) * time.Second}, input)
			}
		}
	}
}

// Every constant's name is the one in the source, and every Reason is known.
func TestConstantNames(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "codes.go"), nil, 0)
	require.NoError(t, err)
	reasons, codes := 0, 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || spec.Type == nil {
			return true
		}
		value, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		label, err := strconv.Unquote(value.Value)
		require.NoError(t, err)
		switch fmt.Sprint(spec.Type) {
		case "Reason":
			reasons++
			if words[label].Code != applebusiness.Code(label) { // which one of them is too
				assert.Equal(t, applebusiness.Reason(label), words[label].Reason)
			}
			assert.Equal(t, applebusiness.Reason(label), words[strings.ToLower(spec.Names[0].Name)].Reason)
			assert.Equal(t, spec.Names[0].Name, constant(applebusiness.Reason(label)))
		case "Code":
			codes++
			assert.Equal(t, applebusiness.Code(label), words[strings.ToLower(label)].Code)
			assert.Equal(t, applebusiness.Code(label), words[strings.ToLower(spec.Names[0].Name)].Code)
		}
		return true
	})
	assert.GreaterOrEqual(t, reasons, 29)
	assert.GreaterOrEqual(t, codes, 12)
}

func TestRetryAfterOfALog(t *testing.T) {
	for input, want := range map[string]time.Duration{
		`endpoint=token code=slow_down retry_after=1m30s`:                         90 * time.Second,
		`endpoint=token code=slow_down retry_after=-5s`:                           0,
		`{"endpoint":"token","code":"slow_down","retry_after":-1}`:                0,
		`{"endpoint":"token","code":"slow_down","retry_after":"soon"}`:            0,
		`{"endpoint":"token","code":"slow_down","retry_after":"30s"}`:             30 * time.Second,
		`{"error":{"a":{"endpoint":"token","code":"slow_down"}},"retry_after":5}`: 5 * time.Second,
	} {
		found, err := understand(input)
		require.NoError(t, err, input)
		assert.Equal(t, want, time.Duration(found[0].Wait)*time.Second, input)
	}
}
