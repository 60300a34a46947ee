package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const verifier = "verifier-of-at-least-forty-three-characters-x"

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "fakeapple")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(folder)
		binary = filepath.Join(folder, "fakeapple")
		if runtime.GOOS == "windows" {
			binary += ".exe"
		}
		if output, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			panic(string(output))
		}
		return m.Run()
	}())
}

// fake is a running program, and its first line.

type fake struct {
	command          *exec.Cmd
	rest             *bufio.Reader
	AuthorizationURL string   `json:"authorization_url"`
	TokenURL         string   `json:"token_url"`
	APIURL           string   `json:"api_url"`
	ClientID         string   `json:"client_id"`
	ClientSecret     string   `json:"client_secret"`
	RedirectURIs     []string `json:"redirect_uris"`
	Certificate      string   `json:"certificate"`
}

func start(t *testing.T, args ...string) *fake {
	t.Helper()
	command := exec.Command(binary, args...)
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill() }) // harmless after Wait
	program := &fake{command: command, rest: bufio.NewReader(stdout)}
	line, err := program.rest.ReadBytes('\n')
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(line, program))
	return program
}

func (f *fake) config() *oauth2.Config {
	return &oauth2.Config{
		ClientID: f.ClientID, ClientSecret: f.ClientSecret, RedirectURL: f.RedirectURIs[0],
		Endpoint: oauth2.Endpoint{AuthURL: f.AuthorizationURL, TokenURL: f.TokenURL, AuthStyle: oauth2.AuthStyleInParams},
	}
}

func (f *fake) context() context.Context {
	return applebusiness.WithJSON(context.Background(), f.config().Endpoint.TokenURL)
}

// redirect returns what the authorization endpoint sends to the redirect URI.

func (f *fake) redirect(t *testing.T) (applebusiness.Redirect, error) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Get(f.config().AuthCodeURL("state", oauth2.S256ChallengeOption(verifier)))
	require.NoError(t, err)
	response.Body.Close()
	location, err := response.Location()
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(location.String(), f.RedirectURIs[0]))
	return applebusiness.ParseRedirect(location.RawQuery)
}

func (f *fake) connect(t *testing.T) *oauth2.Token {
	t.Helper()
	redirect, err := f.redirect(t)
	require.NoError(t, err)
	token, err := f.exchange(redirect.Code)
	require.NoError(t, err)
	return token
}

func (f *fake) exchange(code string) (*oauth2.Token, error) {
	token, err := f.config().Exchange(f.context(), code, oauth2.VerifierOption(verifier))
	return token, applebusiness.Wrap(err)
}

func (f *fake) refresh(token *oauth2.Token) (*oauth2.Token, error) {
	token, err := f.config().TokenSource(f.context(), &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
	return token, applebusiness.Wrap(err)
}

// steer sends a request to /_fake/ and returns the response's status.

func TestChoices(t *testing.T) {
	t.Run("deny", func(t *testing.T) {
		_, err := start(t, "-consent", "deny").redirect(t)
		assert.ErrorIs(t, err, applebusiness.CodeAccessDenied)
	})
	for _, args := range [][]string{{"-consent", "allow", "-deliver", "post"}, {}} {
		program := start(t, args...)
		response, err := http.Get(program.config().AuthCodeURL("state", oauth2.S256ChallengeOption(verifier)))
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		if len(args) == 0 {
			assert.Contains(t, string(body), "Allow")
		} else {
			assert.Contains(t, string(body), `<form method="post" action="`+program.RedirectURIs[0]+`?code=`)
		}
	}
}

func TestStops(t *testing.T) {
	for _, sign := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		program := start(t)
		response, err := http.Get(program.APIURL)
		require.NoError(t, err)
		response.Body.Close()
		require.NoError(t, program.command.Process.Signal(sign))
		rest, err := io.ReadAll(program.rest)
		assert.NoError(t, err)
		assert.Empty(t, rest, "one line is all")
		assert.NoError(t, program.command.Wait(), "%v", sign) // its port may be another program's by now, which is not to be disturbed
	}
}

func TestRefusesArguments(t *testing.T) {
	taken, err := url.Parse(start(t).APIURL)
	require.NoError(t, err)
	for _, test := range []struct {
		args []string
		exit int
		text string
	}{
		{[]string{"-deliver", "pigeon"}, 2, "unknown choice"},
		{[]string{"-consent", ""}, 2, "unknown choice"},
		{[]string{"-service-account", "id"}, 2, "want id:secret"},
		{[]string{"stray"}, 2, "fakeapple: unknown argument \"stray\""},
		{[]string{"-access-token-life", "500ms"}, 2, "fakeapple: -access-token-life is 500ms; want whole seconds, since expires_in has no others"},
		{[]string{"-access-token-life", "0"}, 2, "fakeapple: -access-token-life is 0; want whole seconds"},
		{[]string{"-grace-period", "-1s"}, 2, "fakeapple: -refresh-token-life, -grace-period, -trickle or -rate-limit is negative"},
		{[]string{"-grace-period", "1s", "-keep-refresh-token"}, 2, "fakeapple: -grace-period is for refresh tokens that are replaced; want no -keep-refresh-token and no -omit-refresh-token beside it"},
		{[]string{"-redirect-uri", "nope"}, 2, "fakeapple: RegisterApp: the redirect URI \"nope\" is not absolute, or has a fragment"},
		{[]string{"-public-url", "foo"}, 2, "fakeapple: -public-url is \"foo\"; want a URL such as https://apple.test:8443"},
		{[]string{"-public-url", "ftp://apple.test"}, 2, "fakeapple: -public-url is"},
		{[]string{"-public-url", "https:///x"}, 2, "fakeapple: -public-url is"},
		{[]string{"-public-url", "https://apple.test?x=1"}, 2, "fakeapple: -public-url is"},
		{[]string{"-public-url", "https://[::"}, 2, "fakeapple: -public-url is"},
		{[]string{"-addr", ""}, 2, "fakeapple: -addr is empty"},
		{[]string{"-client-id="}, 2, "fakeapple: -client-id is empty"},
		{[]string{"-client-secret", ""}, 2, "fakeapple: -client-secret is empty"},
		{[]string{"-public-url", ""}, 2, "fakeapple: -public-url is empty"},
		{[]string{"-client-id", "a", "-service-account", "a:b"}, 2, "fakeapple: -client-id and -service-account have both the client_id \"a\""},
		{[]string{"-addr", taken.Host}, 1, "fakeapple: applebusinesstest: listen"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		command := exec.CommandContext(ctx, binary, test.args...)
		output, err := command.CombinedOutput()
		assert.Error(t, err)
		assert.Equal(t, test.exit, command.ProcessState.ExitCode())
		assert.Contains(t, string(output), test.text)
	}
}

// call sends JSON to a route, and returns the status and the response.

// A test in any language steers the fake by JSON.

// A JSON object is read as one, whatever a client says of it unless it is told; a method that a route does not have is refused.

// Failures are for those whom a test names; /api/v1/me fails too.

// What a real server has is off until a flag says otherwise.
func TestRealServer(t *testing.T) {
	program := start(t, "-omit-refresh-token", "-refresh-token-life", "1h", "-reuse-ends-grant", "-trickle", "1us")
	_, connected := program.call(t, http.MethodPost, "connect", "")
	token := &oauth2.Token{RefreshToken: connected.(map[string]any)["refresh_token"].(string)}
	for range 2 {
		_, err := program.refresh(token)
		require.NoError(t, err)
	}
	require.Equal(t, http.StatusNoContent, program.steer(t, "clock?advance=2h", nil, ""))
	_, err := program.refresh(token)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)

	program = start(t, "-rate-limit", "2")
	statuses := make(chan int)
	for range 50 {
		go func() {
			response, err := http.Post(program.TokenURL, "application/json", strings.NewReader("{}"))
			if err != nil {
				statuses <- 0
				return
			}
			response.Body.Close()
			statuses <- response.StatusCode
		}()
	}
	count := make(map[int]int)
	for range 50 {
		count[<-statuses]++
	}
	assert.Positive(t, count[http.StatusTooManyRequests], "%v", count)
	assert.GreaterOrEqual(t, count[http.StatusBadRequest], 2, "%v", count)
}

// What never came to pass is said at the end, on stderr.

func TestReportsFailures(t *testing.T) {
	command := exec.Command(binary)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	var said struct {
		APIURL string `json:"api_url"`
	}
	require.NoError(t, json.NewDecoder(stdout).Decode(&said))
	response, err := http.Post(said.APIURL+"/_fake/fail?status=503", "", nil)
	require.NoError(t, err)
	response.Body.Close()
	require.NoError(t, command.Process.Signal(syscall.SIGTERM))
	require.NoError(t, command.Wait())
	assert.Contains(t, stderr.String(), "applebusinesstest: Close: a failure has not come to pass: ")
}

// What a test looks at is part of its result's key: go test does not take an older program's result for this one's.
func TestSources(t *testing.T) {
	for _, pattern := range []string{"*.go", "*.txt", "../../*.go", "../../applebusinesstest/*", "../../internal/*/*.go"} {
		sources, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, sources, pattern)
		for _, source := range sources {
			_, err := os.Stat(source)
			require.NoError(t, err)
		}
	}
}

func TestHelp(t *testing.T) {
	output, err := exec.Command(binary, "-h").CombinedOutput()
	require.NoError(t, err)
	text := string(output)
	assert.True(t, strings.HasPrefix(text, "Fakeapple is a fake Apple Business"))
	for _, flag := range []string{"addr", "client-id", "consent", "deliver", "redirect-uri", "service-account", "keep-refresh-token", "grace-period", "access-token-life", "public-url", "tls",
		"refresh-token-life", "omit-refresh-token", "reuse-ends-grant", "rate-limit", "trickle"} {
		assert.Contains(t, text, "\n  -"+flag)
	}
	for _, route := range []string{"health", "reset", "fail", "heal", "connect", "revoke", "rotate-secret", "delete-app", "consent", "clock", "requests", "reasons"} {
		assert.Regexp(t, `(?m)^  (GET |POST) `+route+`\b`, text)
	}
}
