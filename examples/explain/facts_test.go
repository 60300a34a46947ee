package main

import (
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

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
	for _, name := range []string{"facts.go", "failure.go", "lines.go", "main.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		source += string(text)
	}
	used := map[string]bool{}
	for _, call := range regexp.MustCompile(`(?:matches\(|rewrite\(|patterns\[)"([^"]+)"`).FindAllStringSubmatch(source, -1) {
		used[call[1]] = true
	}
	for _, list := range regexp.MustCompile(`range \[\]string\{("[^}]+)\}`).FindAllStringSubmatch(source, -1) {
		for _, name := range strings.Split(strings.Trim(list[1], `"`), `", "`) {
			used[name] = true
			if strings.HasSuffix(name, " line") {
				used["after "+name] = true
			}
		}
	}
	delete(used, "after ") // which the name of a line follows
	assert.Equal(t, slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(patterns)))
}
