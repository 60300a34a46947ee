package main_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/seed-a5f25c57/applebusiness"
)

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
		`400 fail {"reason":"bad_request","drop":true}`:               `a redirect is sent at once; want no header, takes_effect, delay, hang or drop beside a reason of the authorization endpoint`,
		`400 fail {"reason":"bad_request","delay":"1s"}`:              `a redirect is sent at once; want no header, takes_effect, delay, hang or drop beside a reason of the authorization endpoint`,
		`400 fail {"reason":"server","body":"x"}`:                     `a reason has a status and a body of its own; `,
		`400 fail {"status":503,"drop":true}`:                         `with hang or drop there is no response; `,
		`400 fail {"delay":"1s"}`:                                     `a delay alone says no response; want takes_effect beside it`,
		`400 fail {"takes_effect":true}`:                              `takes_effect alone is a success; `,
		`400 fail {"status":503,"times":0}`:                           `want times (or count, which is the same) above 0, `,
		`400 fail {"status":503,"times":1,"count":1}`:                 `want times (or count, which is the same) above 0, `,
		`400 fail {"status":503,"grant_type":"refresh"}`:              `the grant_type is "refresh"; `,
		`404 fail {"status":503,"refresh_token":"unknown"}`:           `this refresh token was not issued here; `,
		`404 fail {"status":503,"client_id":"unknown"}`:               `the client_id "unknown" is not registered; `,
		`400 fail?status=503 {"error":"invalid_grant"}`:               `with status in the query a body is the response's, and this one is a JSON object; `,
		`400 fail?status=503&body=x y`:                                `the response's body is given twice`,
		`404 revoke {"refresh_token":"unknown"}`:                      `Revoke: this refresh token was not issued here; `,
		`404 connect {"client_id":"unknown"}`:                         `Connect: the client_id "unknown" is not registered; ["`,
		`400 rotate-secret {"client_secret":"","client_id":"my-app"}`: `"client_secret" is empty`,
		`400 rotate-secret?client_id= `:                               `"client_id" is empty`,
		`400 connect {"client_id":null}`:                              `"client_id" is empty`,
		`400 fail {"status":503,"refresh_token":""}`:                  `"refresh_token" is empty`,
		`400 rotate-secret {"expired":true}`:                          `unknown field "expired"`,
		`400 delete-app {"expired":true}`:                             `unknown field "expired"`,
		`400 heal {"x":1}`:                                            `unknown field "x"`,
		`400 fail {"reason":"server","endpoint":"me"}`:                `the reason is of the endpoint "token", and endpoint is "me"`,
		`400 fail {"reason":"server","endpoint":"me","status":503}`:   `the reason is of the endpoint "token", and endpoint is "me"`,
		`400 fail {"reason":"bad_request","status":400}`:              `the authorization endpoint fails by a redirect; `,
		`400 fail {"status":"x"}`:                                     `"status" has a value of the wrong type`,
		`400 fail {"reason":"server","header":{"Retry-After":7}}`:     `"header" has a value of the wrong type`,
		`400 fail?drop=yes `:                                          `"drop" has a value of the wrong type`,
		`400 fail?drop=true&times=null `:                              `"times" has a value of the wrong type`,
		`400 fail {"Reason":"server"}`:                                `unknown field "Reason"`,
		`400 fail {"status":0,"drop":true}`:                           `want a status from 200 to 999, or 0 with a reason of a redirect`,
		`400 clock {"advance":"6m","duration":"6m"}`:                  `want a duration such as 6m`,
		`405 requests {}`:                                             `the route requests takes GET`,
		`400 fail?status=503 ` + strings.Repeat("x", 1<<20+1):         `the body cannot be read, or is longer than 1 MiB`,
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
