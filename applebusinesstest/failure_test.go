package applebusinesstest_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

func TestEveryRow(t *testing.T) {
	server := newServer(t, &applebusinesstest.Options{Consent: applebusinesstest.ConsentAllow})
	config := newConfig(server)
	rows := 0
	for entry := range applebusiness.Catalog() {
		rows++
		server.FailEntry(entry)
		code := ""
		switch {
		case entry.Endpoint == applebusiness.AuthorizationEndpoint:
			response, _ := get(t, authURL(config))
			require.Equal(t, http.StatusFound, response.StatusCode)
			location, err := response.Location()
			require.NoError(t, err)
			redirect, err := applebusiness.ParseRedirect(location.RawQuery)
			assert.Equal(t, entry, entryOf(t, err))
			assert.Equal(t, state, redirect.State)
		case entry.Reason == applebusiness.ErrScopeNotAccepted:
			_, err := serviceToken(server, "business")
			assert.Equal(t, entry, entryOf(t, err))
		default:
			code = newCode(t, server, config)
			_, err := exchange(server, config, code)
			assert.Equal(t, entry, entryOf(t, err))
		}
		if code == "" {
			code = newCode(t, server, config)
		}
		token, err := exchange(server, config, code) // the failure is over, and had no effect
		require.NoError(t, err, "after %v", entry)
		assert.True(t, token.Valid())
	}
	assert.Equal(t, 25, rows)
}

func TestFail(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	server.Fail(applebusiness.ErrServer)
	server.FailWith(http.StatusTooManyRequests, http.Header{"retry-after": {"7"}}, "")
	server.Fail(applebusiness.ErrMissingParameter)
	server.Fail(applebusiness.ErrInvalidScope)
	server.FailEntry(applebusiness.Entry{Endpoint: applebusiness.TokenEndpoint, StatusCode: 418, Code: "own", Description: "text"})
	server.FailWith(500, nil, "<html>")

	redirected, err := server.Authorize(authURL(config))
	require.NoError(t, err)
	_, err = applebusiness.ParseRedirect(query(t, redirected))
	require.ErrorIs(t, err, applebusiness.ErrInvalidScope)

	code := newCode(t, server, config)
	fail := func() *applebusiness.Error {
		_, err := exchange(server, config, code)
		failed, ok := errors.AsType[*applebusiness.Error](err)
		require.True(t, ok)
		return failed
	}
	assert.Equal(t, applebusiness.ErrServer, fail().Reason)
	limited := fail()
	assert.Equal(t, http.StatusTooManyRequests, limited.StatusCode)
	assert.Equal(t, 7*time.Second, limited.RetryAfter)
	assert.Equal(t, "grant_type", fail().Parameter)
	assert.Equal(t, applebusiness.Code("own"), fail().Code)
	assert.Equal(t, http.StatusInternalServerError, fail().StatusCode)
	_, err = exchange(server, config, code)
	assert.NoError(t, err)
}

func TestLoseResponse(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	old := server.Connect(config.ClientID)
	server.LoseResponse()
	source := config.TokenSource(withClient(server), &oauth2.Token{RefreshToken: old.RefreshToken})
	_, err := source.Token()
	assert.ErrorIs(t, err, applebusiness.ErrNoResponse)
	assert.Len(t, server.Requests(), 1)
	_, err = source.Token()
	assert.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrInvalidRefreshToken, "it was replaced, and nobody has its successor")
}

func TestFailNext(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	first := server.Connect(config.ClientID)
	attempt := func(ctx context.Context) error {
		_, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: first.RefreshToken}).Token()
		return applebusiness.Wrap(err)
	}
	ctx := withClient(server)

	server.FailNext(applebusinesstest.Failure{StatusCode: 503, Header: http.Header{"Retry-After": {"7"}}, Times: 2})
	server.FailNext(applebusinesstest.Failure{Drop: true})
	for range 2 {
		assert.ErrorIs(t, attempt(ctx), applebusiness.ErrUnavailable)
	}
	assert.ErrorIs(t, attempt(ctx), applebusiness.ErrNoResponse)

	server.FailNext(applebusinesstest.Failure{StatusCode: 502, Times: -1})
	server.FailNext(applebusinesstest.Failure{Entry: applebusiness.Entry{Endpoint: applebusiness.AuthorizationEndpoint, Code: "x"}, Times: -1})
	for range 5 {
		assert.ErrorIs(t, attempt(ctx), applebusiness.ErrUnavailable)
		redirected, err := server.Authorize(authURL(config))
		require.NoError(t, err)
		_, err = applebusiness.ParseRedirect(query(t, redirected))
		require.ErrorIs(t, err, applebusiness.Code("x"))
	}
	server.Heal()
	redirected, err := server.Authorize(authURL(config))
	require.NoError(t, err)
	_, err = applebusiness.ParseRedirect(query(t, redirected))
	require.NoError(t, err)

	// A server that hangs lets go of a client that gives up, which it does here once the request has arrived.
	server.FailNext(applebusinesstest.Failure{Hang: true})
	arrived := len(server.Requests()) + 1
	waiting, giveUp := context.WithCancel(ctx)
	go func() {
		defer giveUp()
		for len(server.Requests()) < arrived {
			time.Sleep(time.Millisecond)
		}
	}()
	err = attempt(waiting)
	assert.ErrorIs(t, err, applebusiness.ErrNoResponse)
	assert.ErrorIs(t, err, context.Canceled)

	start := time.Now()
	server.FailNext(applebusinesstest.Failure{TakesEffect: true, Delay: 50 * time.Millisecond})
	assert.NoError(t, attempt(ctx))
	assert.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)
	assert.ErrorIs(t, attempt(ctx), applebusiness.ErrInvalidRefreshToken, "it took effect")
}

// A client that has ended its side of the connection, as netcat does, gets the response or none, and never a success nobody asked for.
func TestAHalfClosedConnection(t *testing.T) {
	server := newServer(t, nil)
	for delay, want := range map[time.Duration]string{0: "HTTP/1.1 503 ", time.Minute: ""} {
		server.FailNext(applebusinesstest.Failure{StatusCode: 503, Delay: delay})
		conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(conn, "POST /api/v1/oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		response, _ := io.ReadAll(conn)
		conn.Close()
		assert.True(t, strings.HasPrefix(string(response), want) && (want != "" || len(response) == 0), "%q", response)
	}
}

// A request takes effect, and its response is another one: the commonest way to lose a refresh token.
func TestStatusAfterTheEffect(t *testing.T) {
	for name, test := range map[string]struct {
		failure applebusinesstest.Failure
		want    error
	}{
		"a status": {applebusinesstest.Failure{StatusCode: 504, TakesEffect: true}, applebusiness.ErrUnavailable},
		"a row":    {applebusinesstest.Failure{Entry: findEntry(t, applebusiness.TokenEndpoint, applebusiness.ErrServer, 500), TakesEffect: true}, applebusiness.ErrServer},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t, nil)
			config := newConfig(server)
			token := server.ConnectExpired(config.ClientID)
			server.FailNext(test.failure)
			_, err := refresh(server, config, token.RefreshToken)
			require.ErrorIs(t, err, test.want)
			assert.Equal(t, cmp.Or(test.failure.StatusCode, test.failure.Entry.StatusCode), server.Requests()[0].StatusCode)
			_, err = refresh(server, config, token.RefreshToken)
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken, "it was replaced")
		})
	}
}

func TestEntryWithHeader(t *testing.T) {
	server := newServer(t, nil)
	server.FailNext(applebusinesstest.Failure{
		Entry: findEntry(t, applebusiness.TokenEndpoint, applebusiness.ErrServer, 500), Header: http.Header{"retry-after": {"7"}, "content-type": {"text/plain"}}, Times: 2,
	})
	_, err := refresh(server, newConfig(server), "unknown")
	failed, ok := errors.AsType[*applebusiness.Error](err)
	require.True(t, ok)
	assert.Equal(t, applebusiness.ErrServer, failed.Reason)
	assert.Equal(t, 7*time.Second, failed.RetryAfter)
	response, _ := send(t, http.MethodPost, server.Endpoint().TokenURL, "application/json", "{}")
	assert.Equal(t, []string{"text/plain"}, response.Header["Content-Type"])
}

// A failure can be for some requests only. The most specific queue comes first.
func TestFailuresForOne(t *testing.T) {
	server := newServer(t, &applebusinesstest.Options{KeepRefreshToken: true})
	server.RegisterApp(applebusinesstest.App{ClientID: "other", ClientSecret: "secret", RedirectURIs: server.App.RedirectURIs})
	config := newConfig(server)
	other := *config
	other.ClientID, other.ClientSecret = "other", "secret"
	one, two := server.ConnectExpired(config.ClientID), server.ConnectExpired(config.ClientID)
	code := newCode(t, server, config)

	status := func(do func() error) int {
		err := do()
		if failed, ok := errors.AsType[*applebusiness.Error](err); ok {
			return failed.StatusCode
		}
		require.NoError(t, err)
		return http.StatusOK
	}
	refreshing := func(config *oauth2.Config, token *oauth2.Token) func() error {
		return func() error { _, err := refresh(server, config, token.RefreshToken); return err }
	}
	exchanging := func() error { _, err := exchange(server, config, code); return err }

	// From the least specific to the most; each is asked for once.
	for i, failure := range []applebusinesstest.Failure{
		{},
		{GrantType: "refresh_token"},
		{ClientID: config.ClientID},
		{GrantType: "refresh_token", ClientID: config.ClientID},
		{RefreshToken: one.RefreshToken},
		{RefreshToken: one.RefreshToken, GrantType: "refresh_token"},
		{RefreshToken: one.RefreshToken, ClientID: config.ClientID},
		{RefreshToken: one.RefreshToken, GrantType: "refresh_token", ClientID: config.ClientID},
	} {
		failure.StatusCode = 500 + i
		server.FailNext(failure)
	}
	for _, want := range []int{507, 506, 505, 504} {
		assert.Equal(t, want, status(refreshing(config, one)))
	}
	assert.Equal(t, 503, status(refreshing(config, two)))
	assert.Equal(t, 502, status(exchanging))
	otherToken := server.ConnectExpired("other")
	assert.Equal(t, 501, status(refreshing(&other, otherToken)))
	assert.Equal(t, 500, status(refreshing(&other, otherToken)))
	for _, do := range []func() error{refreshing(config, one), refreshing(config, two), refreshing(&other, otherToken), exchanging} {
		assert.Equal(t, http.StatusOK, status(do))
	}

	server.FailNext(applebusinesstest.Failure{
		Entry: findEntry(t, applebusiness.AuthorizationEndpoint, applebusiness.ErrServer, 0), ClientID: "other", Times: -1,
	})
	newCode(t, server, config)
	redirected, err := server.Authorize(authURL(&other))
	require.NoError(t, err)
	_, err = applebusiness.ParseRedirect(query(t, redirected))
	assert.ErrorIs(t, err, applebusiness.ErrServer)
}

// A Failure of which a part would be ignored, or that fails nothing, is refused.
func TestFailNextPanics(t *testing.T) {
	server := newServer(t, nil)
	token := server.Connect(server.App.ClientID).RefreshToken
	row := findEntry(t, applebusiness.TokenEndpoint, applebusiness.ErrServer, 500)
	redirect := findEntry(t, applebusiness.AuthorizationEndpoint, applebusiness.ErrServer, 0)
	redirectWith := func(change func(*applebusiness.Entry)) applebusiness.Entry {
		entry := redirect
		change(&entry)
		return entry
	}
	header := http.Header{"Retry-After": {"7"}}
	const (
		twoResponses = "an Entry has a status and a body of its own; want no StatusCode and no Body beside it"
		atOnce       = "a redirect is sent at once; want no Header, TakesEffect, Delay, Hang or Drop beside an Entry of the authorization endpoint"
		byRedirect   = "the authorization endpoint fails by a redirect; want an Entry that has a Code and no StatusCode"
		noResponse   = "with Hang or Drop there is no response; want no Entry, StatusCode, Header or Body beside it"
		endless      = "a Hang does not end; want no Drop and no Delay beside it"
		ofMe         = "a request to me has no effect; want TakesEffect with nothing but a Delay"
		ofToken      = "only a token request has a GrantType or a RefreshToken"
		ofRefresh    = "only a request with the GrantType refresh_token has a RefreshToken"
	)
	for _, test := range []struct {
		failure applebusinesstest.Failure
		want    string
	}{
		{applebusinesstest.Failure{}, "the status 0 ends no request; want one from 200 to 999"},
		{applebusinesstest.Failure{Header: header}, "the status 0 ends no request; want one from 200 to 999"},
		{applebusinesstest.Failure{Body: "x", TakesEffect: true, Delay: 1}, "the status 0 ends no request; want one from 200 to 999"},
		{applebusinesstest.Failure{TakesEffect: true}, "TakesEffect alone is a success; want a StatusCode, an Entry, Delay, Hang or Drop beside it"},
		{applebusinesstest.Failure{Delay: time.Second}, "a Delay alone says no response; want TakesEffect beside it for the right one, late, or a StatusCode or an Entry"},
		{applebusinesstest.Failure{StatusCode: 500, Delay: -1}, "the Delay is negative"},
		{applebusinesstest.Failure{StatusCode: 204, Body: "x"}, "a response with the status 204 has no body"},
		{applebusinesstest.Failure{StatusCode: 304, Body: "x"}, "a response with the status 304 has no body"},
		{applebusinesstest.Failure{Entry: applebusiness.Entry{Endpoint: applebusiness.TokenEndpoint, StatusCode: 204, Code: "x"}}, "a response with the status 204 has no body"},
		{applebusinesstest.Failure{StatusCode: 500, Header: http.Header{"Retry After": {"7"}}}, "a header has a name that is none"},
		{applebusinesstest.Failure{Entry: row, StatusCode: 503}, twoResponses},
		{applebusinesstest.Failure{Entry: row, Body: "x"}, twoResponses},
		{applebusinesstest.Failure{Entry: redirect, StatusCode: 503}, twoResponses},
		{applebusinesstest.Failure{Entry: row, Endpoint: applebusinesstest.MeEndpoint}, `the Entry is of the endpoint "token", and Endpoint is "me"`},
		{applebusinesstest.Failure{StatusCode: 503, Endpoint: "x"}, `the Endpoint is "x"; want token, authorization or me`},
		{applebusinesstest.Failure{StatusCode: 503, Endpoint: applebusiness.AuthorizationEndpoint}, byRedirect},
		{applebusinesstest.Failure{Entry: redirectWith(func(e *applebusiness.Entry) { e.StatusCode = 500 })}, byRedirect},
		{applebusinesstest.Failure{Entry: redirectWith(func(e *applebusiness.Entry) { e.Code = "" })}, byRedirect},
		{applebusinesstest.Failure{Entry: redirect, Drop: true}, atOnce},
		{applebusinesstest.Failure{Entry: redirect, Hang: true}, atOnce},
		{applebusinesstest.Failure{Entry: redirect, Delay: time.Second}, atOnce},
		{applebusinesstest.Failure{Entry: redirect, TakesEffect: true}, atOnce},
		{applebusinesstest.Failure{Entry: redirect, Header: header}, atOnce},
		{applebusinesstest.Failure{Entry: row, Drop: true}, noResponse},
		{applebusinesstest.Failure{Entry: row, Hang: true}, noResponse},
		{applebusinesstest.Failure{StatusCode: 503, Drop: true}, noResponse},
		{applebusinesstest.Failure{StatusCode: 503, Hang: true, TakesEffect: true}, noResponse},
		{applebusinesstest.Failure{Header: header, Drop: true}, noResponse},
		{applebusinesstest.Failure{Body: "x", Hang: true}, noResponse},
		{applebusinesstest.Failure{Hang: true, Drop: true}, endless},
		{applebusinesstest.Failure{Hang: true, Delay: time.Second}, endless},
		{applebusinesstest.Failure{Endpoint: applebusinesstest.MeEndpoint, TakesEffect: true, StatusCode: 503}, ofMe},
		{applebusinesstest.Failure{Endpoint: applebusinesstest.MeEndpoint, TakesEffect: true, Drop: true}, ofMe},
		{applebusinesstest.Failure{Endpoint: applebusinesstest.MeEndpoint, TakesEffect: true, Drop: true, Delay: time.Second}, ofMe},
		{applebusinesstest.Failure{Endpoint: applebusinesstest.MeEndpoint, StatusCode: 503, GrantType: "refresh_token"}, ofToken},
		{applebusinesstest.Failure{Endpoint: applebusinesstest.MeEndpoint, StatusCode: 503, RefreshToken: token}, ofToken},
		{applebusinesstest.Failure{Entry: redirect, GrantType: "refresh_token"}, ofToken},
		{applebusinesstest.Failure{StatusCode: 503, GrantType: "refresh"}, `the GrantType is "refresh"; want authorization_code, refresh_token or client_credentials`},
		{applebusinesstest.Failure{StatusCode: 503, GrantType: "authorization_code", RefreshToken: token}, ofRefresh},
		{applebusinesstest.Failure{StatusCode: 503, RefreshToken: "unknown"}, "this refresh token was not issued here; 1 were"},
	} {
		assert.PanicsWithValue(t, "applebusinesstest: FailNext: "+test.want, func() { server.FailNext(test.failure) }, "%+v", test.failure)
	}
	_, err := refresh(server, newConfig(server), token)
	assert.NoError(t, err, "nothing of it is kept, and nothing is left locked")
}
