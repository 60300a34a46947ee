package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
		body + strings.Repeat(" ", maxLine+maxRead), // longer than the buffer
		"dial tcp 1.2.3.4:443: i/o timeout",
		`{"error":"invalid_client"}`, // the last line has no newline
	}, "\n")
	const want = `1: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"
2: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token" (HTTP 401)
3: ErrInvalidResponseType: fix_request: unsupported_response_type: "response_type must be code"
6: undocumented: unknown: "slow\ndown"
7: ErrInvalidResponseType: fix_request: unsupported_response_type: "response_type must be code"
9: undocumented: unknown: access_denied
10: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"
11: network: retry: timed out
12: undocumented: fix_registration: invalid_client

COUNT  REASON                  ACTION
3      ErrInvalidRefreshToken  reauthorize
2      ErrInvalidResponseType  fix_request
2      undocumented            unknown
1      network                 retry
1      undocumented            fix_registration
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
			[]string{`1: ErrUnavailable: retry: unavailable (HTTP 503)`}, 1},
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
		{"an object without end", "if x {\n" + strings.Repeat("  y\n", maxLines) + body + "\n",
			[]string{fmt.Sprintf(`%d: ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"`, maxLines+2)}, maxLines + 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, size := range []int{1, 10, maxRead} {
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
	require.Len(t, lines, 2)
	for i, want := range []explanationOfLine{
		{Line: 2, explanation: explanation{Constant: "ErrInvalidRefreshToken", Action: "reauthorize"}},
		{Line: 4, explanation: explanation{Constant: "ErrServer", Action: "retry"}},
	} {
		var got explanationOfLine
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &got))
		assert.Equal(t, want, explanationOfLine{Line: got.Line, explanation: explanation{Constant: got.Constant, Action: got.Action}})
	}
	assert.Empty(t, stderr)
	assert.Equal(t, exitDocumented, code)
}

func compress(t testing.TB, text string) string {
	t.Helper()
	var compressed bytes.Buffer
	writer := gzip.NewWriter(&compressed)
	_, err := writer.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	return compressed.String()
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	plain, packed := write("app.log", "a\n"+body+"\n"), write("app.log.1", compress(t, body+"\nb\n")+compress(t, "c\n"+body))
	cut := write("cut.gz", compress(t, strings.Repeat(body+"\n", 1000))[:60])
	odd := write("a\x1b[31m.log", body)
	const is = `ErrInvalidRefreshToken: reauthorize: invalid_grant: "Invalid refresh_token"` + "\n"
	const table = "\nCOUNT  REASON                  ACTION\n"

	stdout, stderr, code := execute(t, "", "-lines", plain)
	assert.Equal(t, "2: "+is+table+"1      ErrInvalidRefreshToken  reauthorize\n1      nothing to explain\n", stdout)
	assert.Empty(t, stderr)
	assert.Equal(t, exitDocumented, code)

	stdout, _, code = execute(t, compress(t, body), "-lines", plain, packed, "-")
	assert.Equal(t, plain+":2: "+is+packed+":1: "+is+packed+":4: "+is+"-:1: "+is+table+
		"4      ErrInvalidRefreshToken  reauthorize\n3      nothing to explain\n", stdout)
	assert.Equal(t, exitDocumented, code)

	stdout, _, _ = execute(t, "", "-lines", "-json", plain, packed)
	assert.Equal(t, 3, strings.Count(stdout, "\n"))
	assert.Contains(t, stdout, `"line":4`)

	stdout, stderr, code = execute(t, "", "-lines", secret, plain, dir)
	assert.Contains(t, stdout, ":2: "+is)
	assert.Equal(t, "explain: argument 1 is no file that can be read\nargument 3 is no file that can be read\n", stderr)
	assert.Equal(t, exitUnusable, code)

	_, stderr, code = execute(t, "", "-lines", cut)
	assert.Contains(t, stderr, "explain: the file cannot be read\n")
	assert.Equal(t, exitUnusable, code)

	stdout, _, _ = execute(t, "", "-lines", odd, plain)
	assert.NotContains(t, stdout, "\x1b")

	for _, stdin := range []string{compress(t, body), body} {
		stdout, _, code = execute(t, stdin, "-")
		assert.Contains(t, stdout, "ErrInvalidRefreshToken, documented by Apple\n")
		assert.Equal(t, exitDocumented, code)
	}
	stdout, _, code = execute(t, "", write("body.json", body))
	assert.Contains(t, stdout, "ErrInvalidRefreshToken, documented by Apple\n")
	assert.Equal(t, exitDocumented, code)
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
		{"endless object", 1 << 8, func(i int) string { return "x {\n" + strings.Repeat(" y\n", 16<<10) }, "explain: no line holds an OAuth error\n"},
		{"distinct codes", 4_000, func(i int) string { return fmt.Sprintf("{\"error\":\"%0250d\"}\n", i) }, ""},
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
			assert.Less(t, stdin.after, stdin.before+512<<10)
		})
	}
}

func TestProgress(t *testing.T) {
	terminal, written := io.Pipe()
	counter := progress{terminal: written}
	counter.bytes.Store(12_345_678)
	counter.lines.Store(90)
	counter.failures.Store(3)
	stop := counter.show(time.Millisecond)
	const want = clearLine + "explain: 12 MB, 90 lines, 3 errors"
	shown := make([]byte, len(want))
	_, err := io.ReadFull(terminal, shown)
	require.NoError(t, err)
	assert.Equal(t, want, string(shown))

	rest := make(chan string)
	go func() {
		all, _ := io.ReadAll(terminal)
		rest <- string(all)
	}()
	stop()
	require.NoError(t, written.Close())
	assert.Empty(t, strings.ReplaceAll(strings.ReplaceAll(<-rest, want, ""), clearLine, ""))
	assert.False(t, counter.isShown, "it is taken away at the end")

	var screen strings.Builder
	counter = progress{terminal: &screen, isShown: true}
	_, err = output{&screen, &counter}.Write([]byte("1: found\n"))
	require.NoError(t, err)
	assert.Equal(t, clearLine+"1: found\n", screen.String())
	assert.False(t, isTerminal(&screen))
}

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errors.New(secret) }
func (broken) Write([]byte) (int, error) { return 0, errors.New("the pipe is closed") }

func TestBrokenPipes(t *testing.T) {
	for _, args := range [][]string{{"-json=false"}, {"-json"}, {"-lines"}, {"-lines", "-json"}} {
		var stderr strings.Builder
		assert.Equal(t, exitUnusable, run(args, broken{}, io.Discard, &stderr))
		assert.Equal(t, "explain: standard input cannot be read\n", stderr.String())
	}
	for _, args := range [][]string{{"-json=false"}, {"-json"}, {"-lines"}, {"-lines", "-json"}, {"-list"}} {
		var stderr strings.Builder
		assert.Equal(t, exitUnusable, run(args, strings.NewReader(body), broken{}, &stderr))
		assert.Equal(t, "explain: the pipe is closed\n", stderr.String())
	}
}
