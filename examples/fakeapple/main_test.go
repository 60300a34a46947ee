package main_test

import (
	"bufio"
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
	"golang.org/x/oauth2/clientcredentials"

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

// steer sends a request to /_fake/ and returns the answer's status.
func (f *fake) steer(t *testing.T, route string, header http.Header, body string) int {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, f.APIURL+"/_fake/"+route, strings.NewReader(body))
	require.NoError(t, err)
	if header != nil {
		request.Header = header
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	response.Body.Close()
	return response.StatusCode
}

func TestFlowAndSteering(t *testing.T) {
	program := start(t, "-client-id", "my-app", "-client-secret", "s3cret", "-consent", "allow",
		"-redirect-uri", "https://partner.example/callback?a=1&b=2", "-redirect-uri", "https://partner.example/other",
		"-service-account", "account:pass:word")
	assert.Equal(t, "my-app", program.ClientID)
	assert.Equal(t, "s3cret", program.ClientSecret)
	assert.Equal(t, []string{"https://partner.example/callback?a=1&b=2", "https://partner.example/other"}, program.RedirectURIs)

	token := program.connect(t)
	assert.Equal(t, http.StatusNoContent, program.steer(t, "revoke?refresh_token="+token.RefreshToken, nil, ""))
	_, err := program.refresh(token)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)

	t.Run("advance", func(t *testing.T) {
		redirect, err := program.redirect(t)
		require.NoError(t, err)
		assert.Equal(t, http.StatusNoContent, program.steer(t, "advance?duration=6m", nil, ""))
		_, err = program.exchange(redirect.Code)
		assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	})
	t.Run("fail", func(t *testing.T) {
		token := program.connect(t)
		for _, test := range []struct {
			route  string
			status int
			reason applebusiness.Reason
		}{
			{"fail?reason=server", 500, applebusiness.ErrServer},
			{"fail?reason=server&status=500", 500, applebusiness.ErrServer},
			{"fail?reason=server&status=503", 503, applebusiness.ErrServer},
			{"fail?reason=invalid_refresh_token", 400, applebusiness.ErrInvalidRefreshToken},
			{"fail?reason=invalid_refresh_token&status=401", 401, applebusiness.ErrInvalidRefreshToken},
		} {
			assert.Equal(t, http.StatusNoContent, program.steer(t, test.route, nil, ""))
			_, err := program.refresh(token)
			var failed *applebusiness.Error
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, test.status, failed.StatusCode, test.route)
			assert.Equal(t, test.reason, failed.Reason, test.route)
		}
		assert.Equal(t, http.StatusNoContent, program.steer(t, "fail?reason=server&status=0", nil, ""))
		_, err := program.redirect(t)
		assert.ErrorIs(t, err, applebusiness.ErrServer)

		header := http.Header{"Content-Type": {"text/html"}, "Retry-After": {"7"}}
		assert.Equal(t, http.StatusNoContent, program.steer(t, "fail?status=503", header, "<html>"))
		response, err := http.Post(program.TokenURL, "application/json", strings.NewReader("{}"))
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		assert.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
		assert.Equal(t, "<html>", string(body))
		assert.Equal(t, "text/html", response.Header.Get("Content-Type"))
		assert.Equal(t, "7", response.Header.Get("Retry-After"))

		_, err = program.refresh(token)
		assert.NoError(t, err)
	})
	t.Run("Service Account", func(t *testing.T) {
		config := &clientcredentials.Config{
			ClientID: "account", ClientSecret: "pass:word", TokenURL: program.TokenURL,
			Scopes: []string{"business"}, AuthStyle: oauth2.AuthStyleInParams,
		}
		_, err := config.Token(program.context())
		assert.NoError(t, err)
	})
	t.Run("wrong steering", func(t *testing.T) {
		for _, route := range []string{
			"fail", "fail?reason=unknown", "fail?reason=server&status=x", "fail?status=100", "fail?status=1000", "fail?status=",
			"fail?reason=invalid_refresh_token&status=0", "revoke", "advance", "advance?duration=-1s", "advance?duration=x",
		} {
			assert.Equal(t, http.StatusBadRequest, program.steer(t, route, nil, ""), route)
		}
		assert.Equal(t, http.StatusNotFound, program.steer(t, "unknown", nil, ""))
	})
	t.Run("unknown path", func(t *testing.T) {
		program := *program
		program.TokenURL = program.APIURL + "//api/v1/oauth2/token"
		_, err := program.refresh(token)
		assert.ErrorIs(t, err, applebusiness.ErrEndpointNotFound)
	})
}

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
		assert.NoError(t, program.command.Wait(), "%v", sign)
		_, err = http.Get(program.APIURL)
		assert.Error(t, err, "nothing listens any more")
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
		{[]string{"stray"}, 2, "unknown argument"},
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
