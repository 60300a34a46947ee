package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

func quote(text string) string { b, _ := json.Marshal(text); return strings.Trim(string(b), "") }

const rowBody = `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`

// wrappings put a body, a status ("" for none) and a grant_type ("" for none) into what a log or a shell makes of them.
var wrappings = map[string]func(status, grant string) string{
	"status before the body": func(s, g string) string { return pre("status=", s) + pre("grant_type=", g) + rowBody },
	"status after the body":  func(s, g string) string { return rowBody + post(" status=", s) + post(" grant_type=", g) },
	"status text before": func(s, g string) string {
		return map[string]string{"": "", "401": "401 Unauthorized: ", "503": "503 Service Unavailable: "}[s] + rowBody + post(" grant_type=", g)
	},
	"HTTP NNN:": func(s, g string) string {
		if s != "" {
			s = "HTTP " + s + ": "
		}
		return "token refresh failed: " + s + rowBody + post(" (grant_type: ", g)
	},
	"http.status": func(s, g string) string {
		return `level=ERROR msg="refresh failed"` + post(" http.status=", s) + post(" oauth.grant_type=", g) + " body=" + strconv.Quote(rowBody)
	},
	"httpRequest": func(s, g string) string {
		if s == "" {
			s = "0"
		}
		return fmt.Sprintf(`{"severity":"ERROR","httpRequest":{"status":%s},"jsonPayload":{"grant_type":%q,"body":%s}}`, s, g, quote(rowBody))
	},
	"response": func(s, g string) string {
		if s == "" {
			return rowBody + post("\ngrant_type=", g)
		}
		return "HTTP/1.1 " + s + " X\r\nContent-Type: application/json\r\n\r\n" + rowBody + post("\n\ngrant_type=", g)
	},
	"curl -v": func(s, g string) string {
		if s == "" {
			s = "400"
		}
		return "> POST /token HTTP/2\n> content-type: application/json\n>\n" + pre("} grant_type=", g) + "\n< HTTP/2 " + s + "\n< content-type: application/json\n<\n" + rowBody
	},
	"own text": func(s, g string) string {
		if s != "" {
			s = " (HTTP " + s + ")"
		}
		return `time=2026-11-24T10:00:00Z level=WARN msg=failed err="applebusiness: invalid_grant: \"Invalid refresh_token\"` + s + `"` + post(" grant_type=", g)
	},
	"x/oauth2": func(s, g string) string {
		if s == "" {
			return `oauth2: "invalid_grant" "Invalid refresh_token"` + post(" grant_type=", g)
		}
		return "oauth2: cannot fetch token: " + s + " X\nResponse: " + rowBody + post("\ngrant_type=", g)
	},
	"docker": func(s, g string) string {
		return fmt.Sprintf(`{"log":%s,"stream":"stderr","time":"2026-11-24T10:00:00Z"}`, quote(`{"level":"error"`+post(`,"status":`, s)+`,"grant_type":"`+g+`","err":`+quote(rowBody)+"}"))
	},
	"three deep": func(s, g string) string {
		return quote(quote(quote(pre("status ", s) + rowBody + post(" grant_type=", g))))
	},
	"percent": func(s, g string) string {
		return url.QueryEscape(pre("status=", s) + rowBody + post(" grant_type=", g))
	},
	"percent twice": func(s, g string) string {
		return url.QueryEscape(url.QueryEscape(pre("status=", s) + rowBody + post(" grant_type=", g)))
	},
	"HTML": func(s, g string) string {
		return "<pre>" + html.EscapeString(pre("status: ", s)+rowBody+post(" grant_type: ", g)) + "</pre>"
	},
	"CSV": func(s, g string) string {
		return "2026-11-24,ERROR,\"" + strings.ReplaceAll(rowBody, `"`, `""`) + "\"" + post(",status=", s) + post(",grant_type=", g)
	},
	"smart quotes": func(s, g string) string {
		return pre("status ", s) + strings.NewReplacer(`{"`, "{“", `":"`, "”:“", `","`, "”,“", `"}`, "”}").Replace(rowBody) + post(" grant_type=", g)
	},
	"mail": func(s, g string) string {
		return "> Hi,\n> we see\n" + "> " + pre("status ", s) + "\n> {\"error\":\"invalid_grant\",\"error_description\":\"Invalid\n> refresh_token\"}\n" + post("> grant_type=", g)
	},
	"nested mail": func(s, g string) string {
		return "> > " + pre("status ", s) + "\n> > " + rowBody + "\n" + post("> > grant_type=", g)
	},
	"quoted-printable": func(s, g string) string {
		return strings.ReplaceAll(pre("status=", s)+rowBody+post(" grant_type=", g), "=", "=3D")[:20] + "=\n" + strings.ReplaceAll(pre("status=", s)+rowBody+post(" grant_type=", g), "=", "=3D")[20:]
	},
	"colors": func(s, g string) string {
		return "\x1b[31mERRO\x1b[0m[0000] refresh \x1b[31merror\x1b[0m=" + strconv.Quote(rowBody) + post(" \x1b[31mstatus\x1b[0m=", s) + post(" \x1b[31mgrant_type\x1b[0m=", g)
	},
	"Python": func(s, g string) string {
		return "{'error': 'invalid_grant', 'error_description': 'Invalid refresh_token'" + post(", 'status_code': ", s) + post(", 'grant_type': '", g) + "'}"
	},
	"Ruby": func(s, g string) string {
		return `{:error=>"invalid_grant", :error_description=>"Invalid refresh_token"` + post(", :status=>", s) + post(`, :grant_type=>"`, g) + `"}`
	},
	"Go map": func(s, g string) string {
		return "map[error:invalid_grant error_description:Invalid refresh_token" + post(" grant_type:", g) + post(" status:", s) + "]"
	},
	"JS": func(s, g string) string {
		return "{\n  error: 'invalid_grant',\n  error_description: 'Invalid refresh_token'" + post(",\n  status: ", s) + post(",\n  grant_type: '", g) + "'\n}"
	},
	"form": func(s, g string) string {
		return pre("status ", s) + "body error=invalid_grant&error_description=Invalid+refresh_token" + post(" grant_type=", g)
	},
	"decoded form": func(s, g string) string {
		return pre("status ", s) + "error=invalid_grant&error_description=Invalid refresh_token" + post("&grant_type=", g)
	},
	"HAR": func(s, g string) string {
		if s == "" {
			s = "400"
		}
		return fmt.Sprintf(`{"request":{"url":"https://x.example/token","postData":{"params":[{"name":"grant_type","value":%q}]}},"response":{"status":%s,"content":{"text":%s}}}`, g, s, quote(rowBody))
	},
	"OTel": func(s, g string) string {
		if s == "" {
			s = "400"
		}
		return fmt.Sprintf(`{"severityText":"ERROR","attributes":[{"key":"http.status_code","value":{"intValue":%s}},{"key":"grant_type","value":{"stringValue":%q}}],"body":{"stringValue":%s}}`, s, g, quote(rowBody))
	},
	"prose": func(s, g string) string {
		if s != "" {
			s = " got " + s + ":"
		}
		return "customer 12:" + s + " invalid_grant: Invalid refresh_token" + post(" grant_type=", g)
	},
}

func pre(name, value string) string {
	if value == "" {
		return ""
	}
	return name + value + " "
}
func post(name, value string) string {
	if value == "" {
		return ""
	}
	return name + value
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	for name, wrap := range wrappings {
		for _, status := range []string{"", "401", "503"} {
			for _, grant := range []string{"", "refresh_token", "authorization_code"} {
				want := "reauthorize"
				switch {
				case grant == "authorization_code":
					want = "start_over"
				case status == "503":
					want = "retry"
				}
				input := wrap(status, grant)
				found, err := understand(input)
				if assert.NoError(t, err, "%s: %s", name, input) {
					assert.Len(t, found, 1)
					assert.Equal(t, want, string(found[0].Action), "%s %s %s: %s", name, status, grant, input)
				}
			}
		}
	}
}

// Each row of the catalog is found in each wrapping.
func TestRows(t *testing.T) {
	t.Parallel()
	for name, wrap := range wrappings {
		for entry := range applebusiness.Catalog() {
			if entry.Reason == applebusiness.ErrEndpointNotFound {
				continue
			}
			text := strings.ReplaceAll(entry.Description, "<parameter name>", "code")
			input := wrap("", "")
			switch {
			case strings.HasPrefix(name, "percent"):
				continue
			case name == "form":
				input = strings.ReplaceAll(input, "Invalid+refresh_token", url.QueryEscape(text))
			case name == "mail":
				input = strings.ReplaceAll(input, "Invalid\n> refresh_token", strings.Replace(text, " ", "\n> ", 1))
			case name == "quoted-printable":
				continue
			}
			input = strings.ReplaceAll(strings.ReplaceAll(input, "invalid_grant", string(entry.Code)), "Invalid refresh_token", text)
			found, err := understand(input)
			if assert.NoError(t, err, "%s: %s", name, input) {
				assert.Len(t, found, 1, "%s: %s", name, input)
				assert.Equal(t, entry.Reason, found[0].Reason, "%s: %s", name, input)
				assert.Equal(t, string(entry.Code), found[0].Code, "%s: %s", name, input)
			}
		}
	}
}

// A status counts wherever it stands, and no other number does.
func TestStatus(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]string{
		"%s (503 Service Unavailable)": "retry", "%s returned 503": "retry", "[503] %s": "retry", "503 | %s": "retry", "-> 503 %s": "retry", "rc=503 %s": "retry", "503 from apple: %s": "retry",
		"Status: 503 Service Unavailable\n\n%s": "retry", ":status: 503\n\n%s": "retry", "<503 SERVICE_UNAVAILABLE,%s,[]>": "retry", "Bad Gateway %s": "retry", "upstream said 520: %s": "retry",
		"StatusCode: 503, ReasonPhrase: 'Service Unavailable', Content: %s": "retry", `{"res":{"statusCode":503},"err":%s}`: "retry", `{"status":503.0,"body":%s}`: "retry",
		"http.status_code: Int(503) %s": "retry", `"POST /token HTTP/1.1" 503 %s`: "retry", "HTTP error! status: 429 %s": "retry",
		"customer=503 %s": "reauthorize", "customer 503: %s": "reauthorize", "duration_ms=512 %s": "reauthorize", `{"duration":512,"err":%s}`: "reauthorize", "10:00:00.503 ERROR %s": "reauthorize",
		"app/main.go:503\trefresh failed\t%s": "reauthorize", "bytes=512 status=401 %s": "reauthorize",
	} {
		input = fmt.Sprintf(input, rowBody)
		assert.Equal(t, want, actionOf(input), input)
	}
}

// A revoked grant, as shells, mails, logs and languages show it.
func TestWrapped(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/wrapped.jsonl")
	require.NoError(t, err)
	for line := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n") {
		var input string
		require.NoError(t, json.Unmarshal([]byte(line), &input))
		assert.Equal(t, "reauthorize", actionOf(input), input)
		if !strings.Contains(input, "\n") {
			var stdout, stderr strings.Builder
			run([]string{"-lines"}, strings.NewReader(input), &stdout, &stderr)
			assert.True(t, strings.HasPrefix(stdout.String(), "1: ErrInvalidRefreshToken: reauthorize: "), "%s: %s", input, stdout.String())
		}
	}
}

// Each line of patterns.txt is used, and what is looked for is there.
func TestPatterns(t *testing.T) {
	source := ""
	for _, name := range []string{"facts.go", "lines.go", "main.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		source += string(text)
	}
	used := map[string]bool{"after open": true}
	for _, call := range regexp.MustCompile(`(?:matches\(|meaning\(|rewrite\(|addMembers\(|patterns\[)"([^"]+)"`).FindAllStringSubmatch(source, -1) {
		used[call[1]] = true
	}
	for _, p := range patterns["begin"] {
		used[p.meaning] = true // what may follow
	}
	for _, p := range slices.Concat(patterns["said"], patterns["phrase"]) {
		assert.Contains(t, source, `"`+p.meaning+`"`, "a fact")
	}
	assert.Equal(t, slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(patterns)))
}

// entry is an input of testdata/corpus.jsonl, with what the first version of this program said of it.
type entry struct {
	Name, Action string
	Now          string // what this one says, where it differs
	Input        string
}

func corpus(t testing.TB) (entries []entry) {
	data, err := os.ReadFile("testdata/corpus.jsonl")
	require.NoError(t, err)
	for line := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n") {
		var e entry
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		entries = append(entries, e)
	}
	return entries
}

// actionOf is what the program says of an input: "nothing", or the action of the first failure in it.
func actionOf(input string) string {
	found, _ := understand(input)
	if len(found) == 0 {
		return "nothing"
	}
	return cmp.Or(string(found[0].Action), "unknown")
}

// Every input has the action that the first version of this program gave it, or the other one that the file says it has now; and nobody
// is asked to reconnect who was not.
func TestCorpus(t *testing.T) {
	for entries := range slices.Chunk(corpus(t), 200) {
		t.Run(entries[0].Name, func(t *testing.T) {
			t.Parallel()
			for _, e := range entries {
				got := actionOf(e.Input)
				assert.Equal(t, cmp.Or(e.Now, e.Action), got, e.Input)
				if got == "reauthorize" {
					assert.Equal(t, "reauthorize", e.Action, e.Input)
				}
			}
		})
	}
}

func TestMentions(t *testing.T) {
	t.Parallel()
	for _, input := range []string{
		`time=2026-11-24T10:00:00Z level=INFO msg="customer 7 reconnected" reason=invalid_refresh_token`,
		`{"level":"info","msg":"healed","previous":"applebusiness: invalid_grant: \"Invalid refresh_token\" (HTTP 401)"}`,
		`2026-11-24T10:00:00Z INFO  policy: "Invalid refresh_token" asks to reconnect`,
		`apple_errors_total{reason="invalid_refresh_token"} 12`,
		`apple.errors.invalid_grant:1|c`,
		`level=WARN msg=counts invalid_refresh_token=12 invalid_client=3`,
		`level=WARN retry_on="server_error, temporarily_unavailable" reconnect_on="invalid_grant, invalid_client"`,
		`{"level":30,"msg":"healed after invalid_grant: Invalid refresh_token"}`, `{"PRIORITY":"6","MESSAGE":"healed after invalid_grant: Invalid refresh_token"}`,
		`=== RUN   TestTroubleshoot/invalid_refresh_token`, `--- PASS: TestTroubleshoot/invalid_refresh_token (0.00s)`,
		`level=DEBUG msg=query sql="SELECT grant FROM dead WHERE reason = 'invalid_refresh_token'"`, `SELECT count(*) FROM dead WHERE reason = 'invalid_refresh_token'`,
		`192.0.2.1 - - [24/Nov/2026:10:00:00 +0000] "GET /admin/grants?reason=invalid_refresh_token HTTP/1.1" 200 5`,
		`open testdata/responses/invalid_refresh_token.http: no such file or directory`, "- invalid_refresh_token",
		`{"error_codes":["invalid_grant","invalid_client","invalid_scope"]}`, `INFO  [main] loaded codes invalid_grant, invalid_client, server_error`,
	} {
		assert.Equal(t, "nothing", actionOf(input), input)
		stdout, _, code := execute(t, input+"\n", "-lines")
		assert.Empty(t, stdout, input)
		assert.Equal(t, exitUnusable, code)
	}
	for input, want := range map[string]string{
		`{"level":50,"msg":"refresh failed: invalid_grant: Invalid refresh_token"}`:                                               "reauthorize",
		`level=INFO msg=failed error.endpoint=token error.reason=invalid_refresh_token error.action=reauthorize`:                  "reauthorize",
		`level=INFO msg=response status=401 body="{\"error\":\"invalid_grant\",\"error_description\":\"Invalid refresh_token\"}"`: "reauthorize",
		`level=WARN msg=failed err="Post \"https://x.example/token\": context canceled"`:                                          "unknown",
		`error="oauth2: \"slow down\" \"Invalid refresh_token\""`:                                                                 "nothing",
		`{"error":"unauthorized","error_description":"x"}`:                                                                        "unknown", `{'error': 'server_error'}`: "start_over",
		`level=INFO msg=request path="/callback?error=access_denied&state=x"`:                                                                           "start_over",
		`level=WARN msg=failed err="applebusiness: no_response: timed out" grant_type=authorization_code`:                                               "start_over",
		`level=WARN msg=failed err="Post \"https://x.example/token\": context deadline exceeded" grant_type=authorization_code`:                         "start_over",
		`level=WARN msg=failed err="Post \"https://x.example/token\": dial tcp 1.2.3.4:443: connect: connection refused" grant_type=authorization_code`: "retry",
		`level=WARN error.endpoint=token error.reason=invalid_refresh_token error.action=start_over`:                                                    "start_over",
		`level=WARN error.endpoint=token error.reason=invalid_refresh_token error.status=503 error.action=reauthorize`:                                  "retry",
		`level=WARN error.endpoint=token error.reason=invalid_credentials error.action=reauthorize`:                                                     "fix_registration",
		`level=WARN error.endpoint=token error.reason=invalid_refresh_token error.grant_type=authorization_code error.action=reauthorize`:               "start_over",
	} {
		assert.Equal(t, want, actionOf(input), input)
	}
}

// What is not Apple's is called so, and is nothing in a log.
func TestNotApples(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]string{
		`{"error":"invalid_grant","error_description":"AADSTS700082: The refresh token has expired.","grant_type":"refresh_token"}`:             "Microsoft",
		`{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED","error":"invalid_grant"}}`: "Google",
		`Post "https://appleid.apple.com/auth/token": oauth2: "invalid_grant" "Invalid refresh_token"`:                                          "Sign in with Apple",
		`Post "https://oauth2.googleapis.com/token": dial tcp: lookup oauth2.googleapis.com: i/o timeout`:                                       "Google",
		`Post "https://api.stripe.com/v1/charges": context deadline exceeded`:                                                                   "another provider",
	} {
		found, err := understand(input)
		if assert.NoError(t, err, input) {
			assert.Equal(t, want, found[0].Provider, input)
			assert.Empty(t, found[0].Action, input)
		}
		stdout, _, _ := execute(t, input+"\n", "-lines")
		assert.Empty(t, stdout, input)
	}
	for _, input := range []string{
		`dial tcp 127.0.0.1:5432: connect: connection refused`,
		`redis: connection pool: dial tcp 10.0.0.1:6379: i/o timeout`,
		`pq: unexpected EOF`, `failed to connect to postgres: context deadline exceeded`,
		`2026/11/24 10:00:00 [error] 12#12: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 192.0.2.1`,
		`http: TLS handshake error from 192.0.2.1:5: EOF`, `level=ERROR msg="read config: EOF"`, `msg="connection closed"`,
		`192.0.2.1 - - [24/Nov/2026:10:00:00 +0000] "GET /search?error=timeout HTTP/1.1" 200 5`,
		`level=ERROR error="applebusiness/grants: the Store failed for grant \"7\": \"*** connect: connection refused\""`,
		`applebusiness/grants: Options.Limit failed for grant "7": "i/o timeout"`,
		`applebusiness/grants: closed before the newest token was stored of "7": "context deadline exceeded"`,
	} {
		assert.Equal(t, "nothing", actionOf(input), input)
	}
	assert.Equal(t, "start_over", actionOf("applebusiness/grants: the code was redeemed, but the API does not say which organisation it is of: "+
		"status 503: applebusiness: unavailable"), "the code is spent")
	assert.Equal(t, "reauthorize", actionOf(`Post "https://business.apple.com/api/v1/oauth2/token": oauth2: "invalid_grant" "Invalid refresh_token"`))
	for input, want := range map[string]string{
		`{"timestamp":"2026-11-24","status":400,"error":"Bad Request","path":"/api/v1/oauth2/token"}`:         "check_network",
		`{"timestamp":"2026-11-24","status":503,"error":"Service Unavailable","path":"/api/v1/oauth2/token"}`: "retry",
		`{"statusCode":401,"message":"Unauthorized","error":"Unauthorized"}`:                                  "check_network",
		`503 Service Unavailable`: "retry", `HTTP 429`: "retry", `401 Unauthorized`: "nothing", `HTTP 511`: "check_network",
	} {
		assert.Equal(t, want, actionOf(input), input)
	}
	for input, want := range map[string]string{
		`{"code":500,"message":"server error"}`: "retry", `{"message":"Internal server error"}`: "retry", `{"message":"Endpoint request timed out"}`: "retry",
		"upstream connect error or disconnect/reset before headers. reset reason: connection timeout":                                           "retry",
		"<html>\n<head><title>503 Service Temporarily Unavailable</title></head>\n<body>\n<center><h1>503 Service Temporarily Unavailable</h1>": "retry",
		"<title>504 Gateway Time-out</title>": "retry", `{"message":"Bad Request"}`: "check_network", `{"error":"Bad Request"}`: "check_network",
		`{"message":"Forbidden"}`: "check_network", `{"title":"Not Found","status":404}`: "check_network", `{"code":400,"message":"bad request"}`: "check_network",
		`{"level":"error","message":"Forbidden"}`: "nothing", `{"message":"Forbidden request"}`: "nothing",
	} {
		assert.Equal(t, want, actionOf(input), input)
		stdout, _, _ := execute(t, input+"\n", "-lines")
		assert.Empty(t, stdout, "of any server: %s", input)
	}
}

// A text that is nearly one of Apple's gets the nearest row, and no advice.
func TestNearest(t *testing.T) {
	for input, want := range map[string]string{
		"Invalid refresh token": "ErrInvalidRefreshToken", "invalid grant": "invalid_grant", "invalid client id or secret": "ErrInvalidCredentials",
		"unsuported media type": "ErrUnsupportedMediaType", "invalid_refresh_tokens": "ErrInvalidRefreshToken", "redirect uri is not valid": "ErrInvalidRedirectURI",
		`"Invalid refresh token"`: "ErrInvalidRefreshToken", "401 Invalid refresh token": "ErrInvalidRefreshToken", "invalid-grant?": "invalid_grant",
		"customer 7: invalid grant!": "invalid_grant",
	} {
		stdout, _, code := execute(t, "", input)
		assert.True(t, strings.Contains(stdout, "\n  Apple documents no such text; the nearest row is "+want+"\n"), "%s: %s", input, stdout)
		assert.Contains(t, stdout, "  action     unknown\n")
		assert.Equal(t, exitUndocumented, code)
	}
	for _, input := range []string{"hello world", "refresh", "invalid token", "timeout", "error"} {
		assert.Equal(t, "nothing", actionOf(input), input)
	}
}

// Whoever types a name is told what it is, in whatever letters.
func TestNames(t *testing.T) {
	t.Parallel()
	for name, meaning := range words {
		if meaning.Description != "" && matches("common", name) {
			continue // which is anybody's
		}
		for _, input := range []string{name, strings.ToUpper(name), "`" + name + "`", name + "."} {
			found, err := understand(input)
			if assert.NoError(t, err, input) && assert.Len(t, found, 1, input) {
				assert.Empty(t, found[0].Nearest, input)
			}
		}
	}
}

// Two errors in one paste are said to be two; the same one twice is one.
func TestTwo(t *testing.T) {
	first := `time=2026-11-24T10:00:00Z level=WARN err="applebusiness: invalid_client: \"Invalid client_id or client_secret\" (HTTP 401)" grant_type=authorization_code` + "\n"
	second := `time=2026-11-24T10:00:01Z level=WARN err="applebusiness: invalid_grant: \"Invalid refresh_token\" (HTTP 401)"` + "\n"
	stdout, _, code := execute(t, first+second+second+first)
	assert.True(t, strings.HasPrefix(stdout, "Error 1 of 2 different ones: ErrInvalidCredentials, documented by Apple\n"), stdout)
	assert.Contains(t, stdout, "\nError 2 of 2 different ones: ErrInvalidRefreshToken, documented by Apple\n")
	assert.Contains(t, stdout, "  action     reauthorize\n", "a grant_type counts for its own line")
	assert.Equal(t, exitDocumented, code)
	stdout, _, _ = execute(t, second+second)
	assert.True(t, strings.HasPrefix(stdout, "ErrInvalidRefreshToken, documented by Apple\n"), stdout)
	stdout, _, _ = execute(t, `oauth2: "invalid_client" "Invalid client_id or client_secret", before that: oauth2: "invalid_grant" "Invalid refresh_token"`)
	assert.Contains(t, stdout, "2 of 2 different ones")
	stdout, _, _ = execute(t, "GET /cb?error=a&state=x 302\nGET /cb?error=b&state=y 302\n")
	assert.True(t, strings.HasPrefix(stdout, "undocumented\n"), stdout)
}

// FuzzExplain plants secrets in and around the inputs of the corpus: whatever they are made into, nothing of them is printed, and
// nothing but printable characters is.
func FuzzExplain(f *testing.F) {
	every := 8
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		every = 32 // which takes long, and tells the race detector nothing more
	}
	for i, e := range corpus(f) {
		if i%every == 0 {
			f.Add(e.Input)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		const other = "qZ7vK2mN9xW4pL8t"
		if strings.Contains(text, other) {
			return
		}
		for _, input := range []string{
			text, strings.ReplaceAll(text, secret, other), strings.ReplaceAll(text, "token", "token "+other), strings.ReplaceAll(text, "\"error\"", `"code":"`+other+`","error"`),
			text + " code=" + other + "&state=" + other, `{"error":` + quote(text) + `,"error_description":"` + other + `"}`, "?error=" + url.QueryEscape(text) + "&error_description=" + other + "&state=" + other,
		} {
			for _, mode := range []string{"-json=false", "-json", "-lines"} {
				var stdout, stderr strings.Builder
				code := run([]string{mode}, strings.NewReader(input), &stdout, &stderr)
				assert.Equal(t, code == exitUnusable, stderr.Len() > 0)
				output := stdout.String() + stderr.String()
				if strings.Contains(output, secret) || strings.Contains(strings.ToLower(output), strings.ToLower(other)) {
					t.Errorf("a secret is shown of %q:\n%s", input, output)
				}
				if strings.ContainsFunc(output, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
					t.Errorf("%q is shown of %q", output, input)
				}
			}
		}
	})
}
