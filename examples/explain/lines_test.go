package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

func TestLines(t *testing.T) {
	log := strings.Join([]string{
		body,
		`err="applebusiness: invalid_grant: \"Invalid refresh_token\" (HTTP 401)"` + "\r",
		"POST /callback" + redirect + " HTTP/1.1",
		"hello " + secret,
		"",
		`oauth2: "slow\ndown"`,
		redirect[1:],
		"?code=" + secret,
		"applebusiness: access_denied",
		body + strings.Repeat(" ", maxLine+maxLine/4), // longer than the buffer
		"dial tcp 1.2.3.4:443: i/o timeout",
		`{"error":"invalid_client"}`, // the last line has no newline
	}, "\n")
	const want = `1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"
2: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)
3: ErrInvalidResponseType: fix_request: unsupported_response_type: "response_type must be code"
6: undocumented: unknown
7: ErrInvalidResponseType: fix_request: unsupported_response_type: "response_type must be code"
9: undocumented: unknown: access_denied
10: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"
11: network: retry: timed out
12: undocumented: fix_registration: invalid_client

COUNT  REASON                  ACTION            FIRST  LAST  CUSTOMERS  LINE
3      ErrInvalidRefreshToken  reauthorize       -      -     0          1
2      ErrInvalidResponseType  fix_request       -      -     0          3
2      undocumented            unknown           -      -     0          6
1      network                 retry             -      -     0          11
1      undocumented            fix_registration  -      -     0          12
3      nothing to explain
`
	stdout, stderr, code := execute(t, log, "-lines")
	assert.Equal(t, want, stdout)
	assert.Empty(t, stderr)
	assert.Equal(t, exitUndocumented, code)

	// However the lines arrive.
	for _, size := range []int{1, 7, 4096} {
		var stdout, stderr strings.Builder
		run([]string{"-lines"}, &portions{strings.NewReader(log[:strings.Index(log, body+" ")]), size}, &stdout, &stderr)
		assert.True(t, strings.HasPrefix(stdout.String(), want[:strings.Index(want, "10: ")]), stdout.String())
		assert.Contains(t, stdout.String(), "3      nothing to explain\n")
	}

	stdout, _, code = execute(t, body+"\nhello\n", "-lines")
	assert.Contains(t, stdout, "\n1      nothing to explain\n")
	assert.Equal(t, exitDocumented, code)

	stdout, stderr, code = execute(t, "hello\n", "-lines")
	assert.Empty(t, stdout)
	assert.Equal(t, "explain: no line holds an OAuth error\n", stderr)
	assert.Equal(t, exitUnusable, code)
}

// portions is a reader of a few bytes at a time.
type portions struct {
	io.Reader
	size int
}

func (p *portions) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }

// What a log writes over several lines counts once, with the number of the first line, however the lines arrive.
func TestRecords(t *testing.T) {
	const (
		indented    = "{\n  \"error\": \"invalid_grant\",\n  \"error_description\": \"Invalid refresh_token\"\n}"
		refused503  = `: ErrInvalidRefreshToken: retry: invalid_grant: "Invalid refresh_token" (HTTP 503)`
		startOver   = `: ErrInvalidRefreshToken: start_over: invalid_grant: "Invalid refresh_token" (HTTP 401)`
		unavailable = "1: ErrUnavailable: retry (HTTP 503)"
	)
	for _, test := range []struct {
		name, log string
		want      []string
		others    int
	}{
		{"x/oauth2", "a\noauth2: cannot fetch token: 401 Unauthorized\nResponse: " + body + "\nb\n",
			[]string{`2: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`}, 2},
		{"x/oauth2 at the end", "oauth2: cannot fetch token: 401 Unauthorized\nResponse: " + body,
			[]string{`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`}, 0},
		{"x/oauth2 without its response", "oauth2: cannot fetch token: 503 Service Unavailable\nb\n",
			[]string{`1: ErrUnavailable: retry (HTTP 503)`}, 1},
		{"x/oauth2 twice", strings.Repeat("oauth2: cannot fetch token: 401 Unauthorized\nResponse: "+body+"\n", 2),
			[]string{
				`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`,
				`3: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`,
			}, 0},
		{"x/oauth2 in Docker", `{"log":"oauth2: cannot fetch token: 401 Unauthorized\n","stream":"stderr"}` + "\n" +
			`{"log":"Response: ` + strings.ReplaceAll(body, `"`, `\"`) + `\n","stream":"stderr"}` + "\n",
			[]string{`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`}, 0},
		{"x/oauth2 in Kubernetes", "2026-11-24T00:00:00Z stderr F oauth2: cannot fetch token: 401 Unauthorized\n2026-11-24T00:00:00Z stderr F Response: " + body + "\n",
			[]string{`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`}, 0},
		{"JavaScript", "refresh failed {\n  error: 'invalid_grant',\n  error_description: 'Invalid refresh_token'\n}\nb\n",
			[]string{`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`}, 1},
		{"JavaScript with its stack", "TokenError: Invalid refresh_token\n    at f (/x.js:1)\n    at g (/x.js:2) {\n  code: 'invalid_grant',\n  status: 500\n}\nb\n",
			[]string{`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`}, 1},
		{"a stack without members", "TokenError: Invalid refresh_token\n    at f (/x.js:1)\nb\n", []string{`1: ErrInvalidRefreshToken: reauthorize: "Invalid refresh_token"`}, 2},
		{"JSON", "{\n  \"error\": \"invalid_grant\",\n  \"error_description\": \"Invalid refresh_token\"\n}\n" + body + "\n",
			[]string{
				`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`,
				`5: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`,
			}, 0},
		{"Ruby", "OAuth2::Error (invalid_grant: Invalid refresh_token\n" + body + "):\n",
			[]string{`1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`}, 0},
		{"no object", "if x {\n" + body + "\n",
			[]string{`2: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`}, 1},
		{"a response", "a\nHTTP/1.1 503 Service Unavailable\r\nA: b\r\nEmpty:\r\nRetry-After: 5\r\n\r\n" + body + "\r\nb\n", []string{"2" + refused503}, 2},
		{"a response with chunks", "HTTP/1.1 503 X\nA: b\n\n45\n" + body + "\n0\n", []string{"1" + refused503}, 1},
		{"a response with an indented body", "HTTP/1.1 503 X\nA: b\n\n" + indented + "\nb\n", []string{"1" + refused503}, 1},
		{"a response with lines of a body", "HTTP/1.1 503 X\n\n" + strings.ReplaceAll(indented, "  ", "") + "\nb\n", []string{"1" + refused503}, 1},
		{"a response that is cut", "HTTP/1.1 503 X\n\n" + indented[:len(indented)-1], []string{"1" + refused503}, 0},
		{"curl -v", "* Connected\n> POST /x HTTP/2\n> host: x\n>\n} [5 bytes data]\n< HTTP/2 503 \n< date: x\n<\n{ [69 bytes data]\n* left intact\n" + body,
			[]string{"6" + refused503}, 5},
		{"curl -v, the body first", "< HTTP/2 503\n< date: x\n< \n" + body + "* Connection #0 left intact\n", []string{"1" + refused503}, 0},
		{"a status and a body", "status 503, body:\n" + body + "\nstatus 503, body:\n" + indented + "\nb\n", []string{"1" + refused503, "3" + refused503}, 1},
		{"a status, an empty line and a body", "response 503:\n\n" + body + "\nb\n", []string{"1" + refused503}, 1},
		{"a status on its line", "Status: 503 Service Unavailable\nA: b\n\n" + body + "\nstatus=503\n" + body + "\n", []string{"1" + refused503, "5" + refused503}, 0},
		{"a status and other lines", "status=503\nworker: applebusiness: invalid_client\nb\n", []string{"2: undocumented: fix_registration: invalid_client"}, 2},
		{"x/oauth2 with a body that quotes it", "oauth2: cannot fetch token: 503 X\nResponse: " + body[:len(body)-1] + `,"x":"oauth2: y"}` + "\n", []string{"1" + refused503}, 0},
		{"x/oauth2 with an indented body", "oauth2: cannot fetch token: 503 Service Unavailable\nResponse: " + indented + "\n", []string{"1" + refused503}, 0},
		{"an exchange", "POST /token HTTP/1.1\nHost: x\n\ngrant_type=authorization_code\n\nHTTP/1.1 401 Unauthorized\nA: b\n\n" + body + "\n" + body + "\n",
			[]string{"4" + startOver, `10: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`}, 3},
		{"an exchange of curl's", "$ curl -i https://x -d grant_type=authorization_code\nHTTP/1.1 401 Unauthorized\n\n" + indented, []string{"1" + startOver}, 0},
		{"a form and another line", "grant_type=authorization_code&code=x\n2026-11-24 hello\n" + body, []string{`3: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`}, 2},
		{"a tunnel first", "HTTP/1.1 200 Connection established\n\nHTTP/1.1 503 X\n\n" + body, []string{"1" + refused503}, 0},
		{"a success", "HTTP/1.1 200 OK\n\n{\"access_token\":\"x\"}\n" + body, []string{`4: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`}, 3},
		{"two responses", "HTTP/1.1 503 X\n\nHTTP/1.1 401 Unauthorized\n\n" + body,
			[]string{unavailable, `3: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)`}, 0},
		{"a response and a line of a log", "HTTP/1.1 503 X\nA: b\n\n" + `{"error":"invalid_client","level":"error","msg":"x"}` + "\n", []string{unavailable, "4: undocumented: fix_registration: invalid_client"}, 0},
		{"a response and a text", "HTTP/1.1 503 X\n" + `{"error":"applebusiness: invalid_client","customer":7}` + "\n", []string{unavailable, "2: undocumented: fix_registration: invalid_client"}, 0},
		{"a response and an error", "HTTP/1.1 503 X\napplebusiness: invalid_client\nINFO: x\n", []string{unavailable, "2: undocumented: fix_registration: invalid_client"}, 1},
		{"a response with a page", "HTTP/1.1 503 X\n\n<html>\n<title>503 Service Temporarily Unavailable</title>\n", []string{unavailable}, 2},
		{"a response without end", "HTTP/1.1 503 X\n" + strings.Repeat("a: b\n", maxLines) + "b\n", []string{unavailable}, 2},
		{"an object without end", "if x {\n" + strings.Repeat("  y\n", maxLines) + body + "\n",
			[]string{fmt.Sprintf(`%d: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`, maxLines+2)}, maxLines + 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, size := range []int{1, 10, 1 << 16} {
				var stdout, stderr strings.Builder
				run([]string{"-lines"}, &portions{strings.NewReader(test.log), size}, &stdout, &stderr)
				lines, table, _ := strings.Cut(stdout.String(), "\n\n")
				assert.Equal(t, test.want, strings.Split(lines, "\n"), stderr.String())
				if test.others > 0 {
					assert.Regexp(t, fmt.Sprintf(`(?m)^%d +nothing to explain$`, test.others), table)
				} else {
					assert.NotContains(t, table, "nothing to explain")
				}
			}
		})
	}
}

func TestLinesJSON(t *testing.T) {
	stdout, stderr, code := execute(t, "a\n"+body+"\nb\nErrServer\n", "-lines", "-json")
	lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
	require.Len(t, lines, 3)
	for i, want := range []failure{
		{Line: 2, Constant: "ErrInvalidRefreshToken", Action: "reauthorize"},
		{Line: 4, Constant: "ErrServer", Action: "retry"},
	} {
		var got failure
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &got))
		assert.Equal(t, want, failure{Line: got.Line, Constant: got.Constant, Action: got.Action})
	}
	assert.Equal(t, `{"others":2,"summary":[{"count":1,"reason":"ErrInvalidRefreshToken","action":"reauthorize","customers":0,"line":2},`+
		`{"count":1,"reason":"ErrServer","action":"retry","customers":0,"line":4}]}`, lines[2])
	assert.Empty(t, stderr)
	assert.Equal(t, exitDocumented, code)
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.log")
	require.NoError(t, os.WriteFile(path, []byte("a\n"+body+"\n"), 0o600))
	stdout, stderr, code := execute(t, "", "-lines", path)
	assert.True(t, strings.HasPrefix(stdout, "2: ErrInvalidRefreshToken: reauthorize: "), stdout)
	assert.Empty(t, stderr)
	assert.Equal(t, exitDocumented, code)

	stdout, _, code = execute(t, "", path)
	assert.True(t, strings.HasPrefix(stdout, "ErrInvalidRefreshToken, documented by Apple\n"), stdout)
	assert.Equal(t, exitDocumented, code)

	for _, mode := range []string{"-lines", "-json=false"} {
		_, stderr, code = execute(t, "", mode, dir)
		assert.Equal(t, "explain: the input cannot be read\n", stderr)
		assert.Equal(t, exitUnusable, code)
	}
}

// What was found is shown while the log goes on.
func TestLinesAreShownAtOnce(t *testing.T) {
	stdin, log := io.Pipe()
	stdout, output := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		run([]string{"-lines"}, stdin, output, io.Discard)
		_ = output.Close()
	}()
	_, err := io.WriteString(log, body+"\n")
	require.NoError(t, err)
	shown := make([]byte, 2)
	_, err = io.ReadFull(stdout, shown) // waits for ever if nothing is
	require.NoError(t, err)
	assert.Equal(t, "1:", string(shown))
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	require.NoError(t, log.Close())
	<-done
}

// generator is a reader of what next returns, "" being the end. It measures what memory the reader's user holds.
type generator struct {
	next          func() string
	rest          string
	before, after uint64
}

func (g *generator) Read(p []byte) (int, error) {
	if g.before == 0 {
		g.before = heap()
	}
	if g.rest == "" {
		g.rest = g.next()
	}
	if g.rest == "" {
		g.after = heap()
		return 0, io.EOF
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func TestLinesConstantMemory(t *testing.T) {
	for _, test := range []struct {
		name  string
		times int
		next  func(i int) string
		want  string
	}{
		{"endless line", 1 << 8, func(int) string { return strings.Repeat("x", 64<<10) }, "explain: no line holds an OAuth error\n"},
		{"endless object", 1 << 6, func(i int) string { return "x {\n" + strings.Repeat(" y\n", 16<<10) }, "explain: no line holds an OAuth error\n"},
		{"long lines of an object", 1 << 4, func(i int) string { return "x {\n" + strings.Repeat(" "+strings.Repeat("y", 60<<10)+"\n", 60) }, "explain: no line holds an OAuth error\n"},
		{"distinct codes", 4_000, func(i int) string { return fmt.Sprintf("{\"error\":\"x%0249d\"}\n", i) }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := 0
			stdin := &generator{next: func() string {
				if i++; i > test.times {
					return ""
				}
				return test.next(i)
			}}
			var stderr strings.Builder
			run([]string{"-lines"}, stdin, io.Discard, &stderr)
			assert.Equal(t, test.want, stderr.String())
			assert.Less(t, stdin.after, stdin.before+2<<20, "the buffer, and little more")
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errors.New(secret) }
func (broken) Write([]byte) (int, error) { return 0, errors.New("the pipe is closed") }

func TestBrokenPipes(t *testing.T) {
	for _, args := range [][]string{{"-json=false"}, {"-json"}, {"-lines"}, {"-lines", "-json"}} {
		var stderr strings.Builder
		assert.Equal(t, exitUnusable, run(args, broken{}, io.Discard, &stderr))
		assert.Equal(t, "explain: the input cannot be read\n", stderr.String())
	}
	for _, args := range [][]string{{"-json=false"}, {"-json"}, {"-lines"}, {"-lines", "-json"}} {
		var stderr strings.Builder
		assert.Equal(t, exitUnusable, run(args, strings.NewReader(body), broken{}, &stderr))
		assert.Equal(t, "explain: the pipe is closed\n", stderr.String())
	}
}

// The summary says when, for how many customers and where first; an interrupt prints it too.
func TestSummary(t *testing.T) {
	log := `time=2026-11-24T10:00:00Z level=WARN msg=failed customer=7 err="applebusiness: invalid_grant: \"Invalid refresh_token\" (HTTP 401)"
time=2026-11-24T10:00:05Z level=INFO msg=ok
time=2026-11-24T10:00:09Z level=WARN msg=failed customer=7 err="applebusiness: invalid_grant: \"Invalid refresh_token\" (HTTP 401)"
192.0.2.1 - - [24/Nov/2026:11:30:00 +0000] "POST /callback?error=access_denied&state=x HTTP/1.1" 302 5
2026/11/24 09:00:00 customer 8: applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)
`
	const want = "COUNT  REASON                  ACTION       FIRST                LAST                 CUSTOMERS  LINE\n" +
		"3      ErrInvalidRefreshToken  reauthorize  2026-11-24T09:00:00  2026-11-24T10:00:09  2          1\n" +
		"1      ErrUserDenied           start_over   2026-11-24T11:30:00  2026-11-24T11:30:00  0          4\n" +
		"1      nothing to explain\n"
	stdout, _, code := execute(t, log, "-lines")
	assert.Contains(t, stdout, want)
	assert.Equal(t, exitUndocumented, code)

	if runtime.GOOS == "windows" {
		return // which has no such signal
	}
	path, err := build()
	require.NoError(t, err)
	command := exec.Command(path, "-lines")
	stdin, err := command.StdinPipe()
	require.NoError(t, err)
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	_, err = io.WriteString(stdin, log)
	require.NoError(t, err)
	lines := bufio.NewReader(output)
	for range 4 {
		_, err = lines.ReadString('\n')
		require.NoError(t, err)
	}
	require.NoError(t, command.Process.Signal(os.Interrupt))
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	assert.Equal(t, "\n"+want, string(rest))
	assert.Error(t, command.Wait(), "status 1")
	assert.Equal(t, exitUndocumented, command.ProcessState.ExitCode())
}

// Requests to other servers are not on the way to Apple.
func TestLinesOfOthers(t *testing.T) {
	stdout, _, code := execute(t, strings.Join([]string{
		`level=ERROR msg="webhook failed" err="Post \"https://partner.example/hook\": context deadline exceeded"`,
		`Get "https://10.0.0.1:443/api/v1/pods": dial tcp 10.0.0.1:443: connect: connection refused`,
		`{"level":"error","error":"rpc error: code = Unavailable desc = unavailable"}`,
		`192.0.2.1 - - [24/Nov/2026:11:30:00 +0000] "POST /api HTTP/1.1" 503 5`,
		`{"level":"error","error":"invalid credentials","code":"402"}`,
		`level=error msg="call to \"billing\" (HTTP 500)"`,
		`level=error msg="billing answered HTTP/1.1 500 twice"`,
	}, "\n"), "-lines")
	assert.Empty(t, stdout)
	assert.Equal(t, exitUnusable, code)
	stdout, _, _ = execute(t, `err="Post \"https://business.apple.com/api/v1/oauth2/token\": context deadline exceeded"`, "-lines")
	assert.Contains(t, stdout, "1: network: retry: timed out\n")
}

// A line that begins with an object is another one's body only if it is one.
func TestLinesThatFollow(t *testing.T) {
	record := `{"level":"error","msg":"refresh failed","error":"applebusiness: invalid_client: \"Invalid client_id or client_secret\" (HTTP 401)"}` + "\n"
	record = `{"error":"invalid_client: Invalid client_id or client_secret","level":"error","msg":"refresh failed"}` + "\n" + record
	for _, first := range []string{"OAuth2::Error: invalid_grant\n", "oauth2: cannot fetch token: 503 Service Unavailable\n", "refresh failed: invalid_grant:\n", "TokenError: invalid_grant\n"} {
		stdout, _, _ := execute(t, first+record+record, "-lines")
		assert.Equal(t, 4, strings.Count(stdout, ": ErrInvalidCredentials: fix_registration: "), stdout)
		assert.True(t, strings.HasPrefix(stdout, "1: "), stdout)
	}
	stdout, _, _ := execute(t, "Client error: `POST https://x.example/token` resulted in a `400 Bad Request` response:\n"+body+"\n"+record, "-lines")
	assert.True(t, strings.HasPrefix(stdout, "1: ErrInvalidRefreshToken: reauthorize: "), stdout)
	assert.Contains(t, stdout, "\n3: ErrInvalidCredentials: ")
}

// BenchmarkLines reads a log of slog's JSON, of which every twentieth line holds an error; BenchmarkJQ does so with jq.
func BenchmarkLines(b *testing.B) {
	path := writeLog(b)
	for b.Loop() {
		log, err := os.Open(path)
		require.NoError(b, err)
		_, err = explainLines(log, false, io.Discard)
		require.NoError(b, err)
		require.NoError(b, log.Close())
	}
}

func BenchmarkJQ(b *testing.B) {
	if _, err := exec.LookPath("jq"); err != nil {
		b.Skip("jq is not installed")
	}
	path := writeLog(b)
	for b.Loop() {
		require.NoError(b, exec.Command("jq", "-c", "select(.error)", path).Run())
	}
}

func writeLog(b *testing.B) string {
	path := filepath.Join(b.TempDir(), "app.log")
	file, err := os.Create(path)
	require.NoError(b, err)
	log := slog.New(slog.NewJSONHandler(file, nil))
	failure := applebusiness.ParseTokenError(http.StatusUnauthorized, nil, []byte(body))
	for i := range 40_000 {
		switch {
		case i%40 == 0:
			log.Error("refresh failed", "customer", i, "error", failure)
		case i%20 == 0:
			log.Error("refresh failed", "customer", i, "error", fmt.Errorf("customer %d: %w", i, failure).Error())
		case i%3 == 0:
			log.Info("token refreshed", "customer", i, "endpoint", "token", "duration", 230*time.Millisecond, "grant_type", "refresh_token")
		default:
			log.Info("request", "method", "GET", "path", fmt.Sprintf("/v1/places/%d/hours", i), "status", 200, "bytes", 5120+i%700,
				"duration", 12*time.Millisecond, "user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101", "trace_id", fmt.Sprintf("%032x", i))
		}
	}
	info, err := file.Stat()
	require.NoError(b, err)
	b.SetBytes(info.Size())
	require.NoError(b, file.Close())
	return path
}
