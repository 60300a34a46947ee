package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
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

		assert.Equal(t, http.StatusNoContent, program.steer(t, "fail?status=503&count=2&delay=1ms", nil, ""))
		for range 2 {
			_, err = program.refresh(token)
			assert.ErrorIs(t, err, applebusiness.ErrUnavailable)
		}
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
			"fail", "fail?reason=server&status=x", "fail?drop=maybe", "fail?reason=server&delay=-1s", "fail?nonsense=1", "fail?status=100", "fail?status=1000", "fail?status=",
			"fail?reason=invalid_refresh_token&status=0", "revoke", "advance", "advance?duration=-1s", "advance?duration=x",
		} {
			assert.Equal(t, http.StatusBadRequest, program.steer(t, route, nil, ""), route)
		}
		for _, route := range []string{
			"unknown", "fail?reason=unknown", "revoke?refresh_token=unknown", "rotate-secret?client_id=unknown", "delete-app?client_id=unknown",
			"connect?client_id=account", "consent?consent=perhaps",
		} {
			assert.Equal(t, http.StatusNotFound, program.steer(t, route, nil, ""), route)
		}
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
		{[]string{"stray"}, 2, "fakeapple: unknown argument \"stray\""},
		{[]string{"-access-token-life", "500ms"}, 2, "fakeapple: Options: AccessTokenLife is 500ms; want whole seconds, since expires_in has no others"},
		{[]string{"-access-token-life", "0"}, 2, "fakeapple: -access-token-life is 0; want whole seconds"},
		{[]string{"-grace-period", "-1s"}, 2, "fakeapple: Options: RefreshTokenLife, GracePeriod, Trickle or RateLimit is negative"},
		{[]string{"-grace-period", "1s", "-keep-refresh-token"}, 2, "fakeapple: Options: GracePeriod is for refresh tokens that are replaced; "},
		{[]string{"-redirect-uri", "nope"}, 2, "fakeapple: RegisterApp: the redirect URI \"nope\" is not absolute, or has a fragment"},
		{[]string{"-public-url", "foo"}, 2, "fakeapple: -public-url is \"foo\"; want a URL such as https://apple.test:8443"},
		{[]string{"-public-url", "ftp://apple.test"}, 2, "fakeapple: -public-url is"},
		{[]string{"-public-url", "https:///x"}, 2, "fakeapple: -public-url is"},
		{[]string{"-public-url", "https://apple.test?x=1"}, 2, "fakeapple: -public-url is"},
		{[]string{"-public-url", "https://[::"}, 2, "fakeapple: -public-url is"},
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
func (f *fake) call(t *testing.T, method, route, body string) (int, any) {
	t.Helper()
	request, err := http.NewRequest(method, f.APIURL+"/_fake/"+route, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	var decoded any
	if response.StatusCode != http.StatusNoContent {
		assert.Equal(t, "application/json", response.Header.Get("Content-Type"))
		require.NoError(t, json.NewDecoder(response.Body).Decode(&decoded))
	}
	return response.StatusCode, decoded
}

// A test in any language steers the fake by JSON.
func TestSteeringByJSON(t *testing.T) {
	program := start(t, "-client-id", "my-app", "-client-secret", "s3cret", "-consent", "allow", "-redirect-uri", "https://partner.example/redirect")
	done := func(route, body string) {
		t.Helper()
		status, response := program.call(t, http.MethodPost, route, body)
		assert.Equal(t, http.StatusNoContent, status, "%s: %v", route, response)
	}
	status, response := program.call(t, http.MethodGet, "health", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, map[string]any{"status": "ok"}, response)
	_, response = program.call(t, http.MethodGet, "reasons", "")
	assert.Len(t, response, 25)
	assert.Equal(t, map[string]any{
		"reason": "invalid_grant_type", "endpoint": "token", "status": 400.0, "error": "invalid_grant",
		"error_description": "grant_type is invalid. Accepted values: refresh_token, client_credentials, authorization_code",
	}, response.([]any)[0])

	_, connected := program.call(t, http.MethodPost, "connect", `{"expired":true}`)
	refreshToken, _ := connected.(map[string]any)["refresh_token"].(string)
	require.NotEmpty(t, refreshToken)
	assert.Equal(t, -60.0, connected.(map[string]any)["expires_in"])
	attempt := func() error {
		token, err := program.refresh(&oauth2.Token{RefreshToken: refreshToken})
		if err == nil {
			refreshToken = token.RefreshToken
		}
		return err
	}
	require.NoError(t, attempt())

	done("fail", `{"status":503,"header":{"Retry-After":"7"},"body":"<html>","count":2}`)
	for range 2 {
		var failed *applebusiness.Error
		require.ErrorAs(t, attempt(), &failed)
		assert.Equal(t, 503, failed.StatusCode)
		assert.Equal(t, 7*time.Second, failed.RetryAfter)
	}
	require.NoError(t, attempt())
	done("fail", `{"drop":true}`)
	assert.ErrorIs(t, attempt(), applebusiness.ErrNoResponse)
	done("fail", `{"reason":"server","count":-1,"delay":"1ms"}`)
	for range 3 {
		assert.ErrorIs(t, attempt(), applebusiness.ErrServer)
	}
	done("heal", "")
	require.NoError(t, attempt())

	done("consent", `{"consent":"deny"}`)
	_, err := program.redirect(t)
	assert.ErrorIs(t, err, applebusiness.ErrUserDenied)
	done("consent", `{"consent":"allow"}`)

	redirect, err := program.redirect(t)
	require.NoError(t, err)
	done("clock", `{"advance":"6m"}`)
	_, clock := program.call(t, http.MethodGet, "clock", "")
	now, err := time.Parse(time.RFC3339Nano, clock.(map[string]any)["now"].(string))
	require.NoError(t, err)
	assert.Greater(t, time.Until(now), 5*time.Minute)
	_, err = program.exchange(redirect.Code)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)

	_, requests := program.call(t, http.MethodGet, "requests", "")
	last := requests.([]any)[len(requests.([]any))-1].(map[string]any)
	assert.Equal(t, "authorization_code", last["grant_type"])
	assert.Equal(t, []any{"REDACTED"}, last["params"].(map[string]any)["client_secret"])
	assert.Equal(t, 400.0, last["status"])
	assert.Equal(t, "application/json", last["content_type"])
	arrived, err := time.Parse(time.RFC3339Nano, last["time"].(string))
	require.NoError(t, err)
	assert.False(t, arrived.Before(now), "by the same clock")

	_, rotated := program.call(t, http.MethodPost, "rotate-secret", "")
	assert.ErrorIs(t, attempt(), applebusiness.ErrInvalidCredentials)
	program.ClientSecret = rotated.(map[string]any)["client_secret"].(string)
	require.NoError(t, attempt())
	_, rotated = program.call(t, http.MethodPost, "rotate-secret", `{"client_secret":"given"}`)
	program.ClientSecret = "given"
	require.NoError(t, attempt())
	assert.Equal(t, map[string]any{"client_secret": "given"}, rotated)

	done("revoke", `{"refresh_token":"`+refreshToken+`"}`)
	assert.ErrorIs(t, attempt(), applebusiness.ErrInvalidRefreshToken)

	done("reset", "")
	_, requests = program.call(t, http.MethodGet, "requests", "")
	assert.Empty(t, requests)
	program.ClientSecret = "s3cret" // as at the start
	require.NotNil(t, program.connect(t))
	done("delete-app", "")
	assert.ErrorIs(t, attempt(), applebusiness.ErrInvalidClientID)
	done("reset", "")
	require.NotNil(t, program.connect(t), "the app is back")

	for route, want := range map[string]string{
		`404 fail {"reason":"unknown"}`:                               `no row has the reason "unknown"; known are invalid_grant_type, `,
		`400 fail {"reason":"server","x":1}`:                          `unknown field "x"`,
		`400 fail {`:                                                  `the body is no JSON object; want one, or parameters in the query`,
		`400 fail reason=server`:                                      `the body is no JSON object; want one, or parameters in the query`,
		`400 fail {"reason":"server"}{"drop":true}`:                   `the body is no JSON object`,
		`400 fail?drop=true {"drop":true}`:                            `"drop" is given twice`,
		`400 fail?status=503&status=504 `:                             `"status" is given twice`,
		`400 fail?x=%zz `:                                             `the query does not decode`,
		`400 fail {"reason":"bad_request","drop":true}`:               `FailNext: a redirect is sent at once; `,
		`400 fail {"reason":"bad_request","delay":"1s"}`:              `FailNext: a redirect is sent at once; `,
		`400 fail {"reason":"server","body":"x"}`:                     `FailNext: an Entry has a status and a body of its own; `,
		`400 fail {"status":503,"drop":true}`:                         `FailNext: with Hang or Drop there is no response; `,
		`400 fail {"delay":"1s"}`:                                     `FailNext: a Delay alone says no response; want TakesEffect beside it`,
		`400 fail {"takes_effect":true}`:                              `FailNext: TakesEffect alone is a success; `,
		`400 fail {"status":503,"times":0}`:                           `want times (or count, which is the same) above 0, `,
		`400 fail {"status":503,"times":1,"count":1}`:                 `want times (or count, which is the same) above 0, `,
		`400 fail {"status":503,"grant_type":"refresh"}`:              `FailNext: the GrantType is "refresh"; `,
		`404 fail {"status":503,"refresh_token":"unknown"}`:           `FailNext: this refresh token was not issued here; `,
		`404 fail {"status":503,"client_id":"unknown"}`:               `FailNext: the client_id "unknown" is not registered; `,
		`400 fail?status=503 {"error":"invalid_grant"}`:               `with status in the query a body is the response's, and this one is a JSON object; `,
		`400 fail?status=503&body=x y`:                                `the response's body is given twice`,
		`404 revoke {"refresh_token":"unknown"}`:                      `Revoke: this refresh token was not issued here; `,
		`404 connect {"client_id":"unknown"}`:                         `Connect: the client_id "unknown" is not registered; ["`,
		`400 rotate-secret {"client_secret":"","client_id":"my-app"}`: `RotateSecret: want one secret that is not empty, or none`,
		`400 rotate-secret {"expired":true}`:                          `unknown field "expired"`,
		`400 delete-app {"expired":true}`:                             `unknown field "expired"`,
		`400 heal {"x":1}`:                                            `unknown field "x"`,
		`404 consent {"consent":"x"}`:                                 `no consent is "x"; known are ask, allow and deny`,
		`404 nonsense {}`:                                             `no such route; -h lists them: health, reset, `,
		`405 health {}`:                                               `the route health takes GET`,
	} {
		wantStatus, route, _ := strings.Cut(route, " ")
		path, body, _ := strings.Cut(route, " ")
		status, response := program.call(t, http.MethodPost, path, body)
		assert.Equal(t, wantStatus, strconv.Itoa(status), route)
		assert.True(t, strings.HasPrefix(response.(map[string]any)["error"].(string), "fakeapple: "+want), "%s: %v", route, response)
	}
}

// A JSON object is read as one, whatever a client says of it unless it is told; a method that a route does not have is refused.
func TestSteeringByAnyClient(t *testing.T) {
	program := start(t)
	for contentType, want := range map[string]int{"": 204, "application/x-www-form-urlencoded": 204, "text/plain;charset=UTF-8": 204, "text/html": 400} {
		assert.Equal(t, want, program.steer(t, "fail", http.Header{"Content-Type": {contentType}}, ` {"status":503}`), contentType)
	}
	_, err := program.refresh(&oauth2.Token{RefreshToken: "unknown"})
	assert.ErrorIs(t, err, applebusiness.ErrUnavailable)
	status, response := program.call(t, http.MethodPost, "rotate-secret?client_id=unknown", "")
	assert.Equal(t, 404, status, response)

	for method, allow := range map[string]string{http.MethodGet: "POST", http.MethodPut: "POST", http.MethodHead: "POST"} {
		request, err := http.NewRequest(method, program.APIURL+"/_fake/fail", nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
		assert.Equal(t, allow, response.Header.Get("Allow"))
	}
	request, err := http.NewRequest(http.MethodDelete, program.APIURL+"/_fake/clock", nil)
	require.NoError(t, err)
	deleted, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	deleted.Body.Close()
	assert.Equal(t, "GET, POST", deleted.Header.Get("Allow"))
	head, err := http.Head(program.APIURL + "/_fake/health")
	require.NoError(t, err)
	head.Body.Close()
	assert.Equal(t, http.StatusOK, head.StatusCode)

	// What curl says of a body unasked is not taken for the response's.
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	require.Equal(t, http.StatusNoContent, program.steer(t, "heal", nil, ""))
	require.Equal(t, http.StatusNoContent, program.steer(t, "fail?status=503", form, "<html>"))
	failed, err := http.Post(program.TokenURL, "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	failed.Body.Close()
	assert.Equal(t, "text/html; charset=utf-8", failed.Header.Get("Content-Type"))
}

// Failures are for those whom a test names; /api/v1/me fails too.
func TestSteeringForOne(t *testing.T) {
	program := start(t)
	connect := func() (access string, token *oauth2.Token) {
		_, connected := program.call(t, http.MethodPost, "connect", "")
		members := connected.(map[string]any)
		return members["access_token"].(string), &oauth2.Token{RefreshToken: members["refresh_token"].(string)}
	}
	access, one := connect()
	_, two := connect()
	fail := func(body string) {
		t.Helper()
		status, response := program.call(t, http.MethodPost, "fail", body)
		require.Equal(t, http.StatusNoContent, status, response)
	}
	fail(`{"status":504,"takes_effect":true,"grant_type":"refresh_token","client_id":"` + program.ClientID + `","refresh_token":"` + one.RefreshToken + `"}`)
	_, err := program.refresh(two)
	require.NoError(t, err)
	_, err = program.refresh(one)
	require.ErrorIs(t, err, applebusiness.ErrUnavailable)
	_, err = program.refresh(one)
	require.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)

	fail(`{"status":503,"endpoint":"me","times":2}`)
	for _, want := range []int{503, 503, 200} {
		request, err := http.NewRequest(http.MethodGet, program.APIURL+"/api/v1/me", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+access)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, want, response.StatusCode)
	}
	fail(`{"reason":"server","endpoint":"authorization","header":{}}`)
	_, err = program.redirect(t)
	assert.ErrorIs(t, err, applebusiness.ErrServer)
}

// What a real server has is off until a flag says otherwise.
func TestRealServer(t *testing.T) {
	program := start(t, "-omit-refresh-token", "-rate-limit", "2", "-refresh-token-life", "1h", "-reuse-ends-grant", "-trickle", "1ms")
	_, connected := program.call(t, http.MethodPost, "connect", "")
	token := &oauth2.Token{RefreshToken: connected.(map[string]any)["refresh_token"].(string)}
	_, err := program.refresh(token)
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, program.steer(t, "clock?advance=2h", nil, ""))
	_, err = program.refresh(token)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	for range 100 { // some three of them are within a second
		if _, err = program.refresh(token); errors.Is(err, applebusiness.ErrRateLimited) {
			break
		}
	}
	assert.ErrorIs(t, err, applebusiness.ErrRateLimited)
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

func TestTLSAndPublicURL(t *testing.T) {
	command := exec.Command(binary, "-tls", "-public-url", "https://apple.test:8443/")
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	defer command.Process.Kill()
	var said struct {
		TokenURL    string `json:"token_url"`
		APIURL      string `json:"api_url"`
		Certificate string `json:"certificate"`
	}
	require.NoError(t, json.NewDecoder(stdout).Decode(&said))
	assert.Equal(t, "https://apple.test:8443/api/v1/oauth2/token", said.TokenURL)
	assert.Equal(t, "https://apple.test:8443", said.APIURL)
	text, err := os.ReadFile(said.Certificate)
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	for _, host := range []string{"localhost", "127.0.0.1", "apple.test"} {
		assert.NoError(t, certificate.VerifyHostname(host))
	}
	require.NoError(t, command.Process.Signal(syscall.SIGTERM))
	require.NoError(t, command.Wait())
	assert.NoFileExists(t, said.Certificate)

	program := start(t, "-tls", "-addr", "localhost:0")
	assert.True(t, strings.HasPrefix(program.APIURL, "https://localhost:"), program.APIURL)
	pool := x509.NewCertPool()
	text, err = os.ReadFile(program.Certificate)
	require.NoError(t, err)
	require.True(t, pool.AppendCertsFromPEM(text))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	response, err := client.Get(program.APIURL + "/_fake/health")
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusOK, response.StatusCode)
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
