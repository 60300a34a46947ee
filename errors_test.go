package applebusiness_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

// What a person reads is fixed to the letter.
func TestErrorText(t *testing.T) {
	for want, e := range map[string]*applebusiness.Error{
		`applebusiness: <nil>`:                                  nil,
		`applebusiness: no OAuth error was received`:            {},
		`applebusiness: no OAuth error was received (HTTP 502)`: {StatusCode: 502},
		`applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)`: {
			StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token", Reason: applebusiness.ErrInvalidRefreshToken,
		},
		`applebusiness: 404 Not Found: "invalid_request" (HTTP 404)`: {
			StatusCode: 404, Code: applebusiness.CodeNotFound, Description: "invalid_request", Reason: applebusiness.ErrEndpointNotFound,
		},
		`applebusiness: access_denied`: {Code: applebusiness.CodeAccessDenied},
		`applebusiness: "slow_down": "two lines \"quoted\" ***" (HTTP 400)`: {
			StatusCode: 400, Code: "slow_down", Description: "two\nlines \"quoted\" \u202e",
		},
		`applebusiness: "***": "Token *** of client_id *** is unknown" (HTTP 400)`: {
			StatusCode: 400, Code: "E42", Description: "Token cnQtU0VDUkVU of client_id BUSINESSAPI.7 is unknown",
		},
		`applebusiness: invalid_request: "OAuth 2.0 Parameter: code_verifier missing" (HTTP 400)`: {
			StatusCode: 400, Code: applebusiness.CodeInvalidRequest, Description: "OAuth 2.0 Parameter: code_verifier missing", Reason: applebusiness.ErrMissingParameter,
		},
		`applebusiness: invalid_scope: "scope is invalid. Accepted values: ***, business_connect" (HTTP 400)`: {
			StatusCode: 400, Code: applebusiness.CodeInvalidScope, Description: "scope is invalid. Accepted values: rt-SECRET, business_connect", Reason: applebusiness.ErrScopeNotAccepted,
		},
		`applebusiness: "***"`:                    {Reason: "rt-SECRET"},
		`applebusiness: "only a text" (HTTP 400)`: {StatusCode: 400, Description: "only a text"},
		`applebusiness: invalid_refresh_token`:    {Reason: applebusiness.ErrInvalidRefreshToken},
		`applebusiness: state_mismatch`:           {Reason: applebusiness.ErrStateMismatch},
	} {
		assert.Equal(t, want, e.Error())
		if e != nil {
			assert.Equal(t, want, fmt.Sprintf("%v", *e))
			assert.Equal(t, want, fmt.Sprintf("%+v", e))
		}
	}
}

func TestNilError(t *testing.T) {
	var e *applebusiness.Error
	assert.False(t, e.Is(applebusiness.ErrServer))
	assert.NoError(t, e.Unwrap())
	assert.Equal(t, slog.KindAny, e.LogValue().Kind())
	text, err := json.Marshal(e)
	require.NoError(t, err)
	assert.Equal(t, "null", string(text))
	assert.Equal(t, "<nil>", fmt.Sprintf("%v", e))
	assert.Empty(t, applebusiness.CodeOf(e))
	assert.Empty(t, applebusiness.ReasonOf(e))
}

func TestCodeOfAndReasonOf(t *testing.T) {
	e := &applebusiness.Error{Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken}
	for _, test := range []struct {
		name   string
		err    error
		code   applebusiness.Code
		reason applebusiness.Reason
	}{
		{"nil", nil, "", ""},
		{"foreign", io.EOF, "", ""},
		{"Error", e, applebusiness.CodeInvalidGrant, applebusiness.ErrInvalidRefreshToken},
		{"wrapped", fmt.Errorf("x: %w", e), applebusiness.CodeInvalidGrant, applebusiness.ErrInvalidRefreshToken},
		{"joined", errors.Join(io.EOF, e), applebusiness.CodeInvalidGrant, applebusiness.ErrInvalidRefreshToken},
		{"first of two", errors.Join(e, &applebusiness.Error{Code: applebusiness.CodeServerError, Reason: applebusiness.ErrServer}), applebusiness.CodeInvalidGrant, applebusiness.ErrInvalidRefreshToken},
		{"undocumented", &applebusiness.Error{Code: "slow_down"}, "slow_down", ""},
		{"bare Reason", fmt.Errorf("x: %w", applebusiness.ErrServer), "", applebusiness.ErrServer},
		{"bare Code", errors.Join(io.EOF, applebusiness.CodeInvalidScope), applebusiness.CodeInvalidScope, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.code, applebusiness.CodeOf(test.err))
			assert.Equal(t, test.reason, applebusiness.ReasonOf(test.err))
		})
	}
}

func TestIs(t *testing.T) {
	e := &applebusiness.Error{StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken}
	assertMeansOnly(t, e, applebusiness.ErrInvalidRefreshToken, applebusiness.CodeInvalidGrant)
	assertMeansOnly(t, fmt.Errorf("x: %w", e), applebusiness.ErrInvalidRefreshToken, applebusiness.CodeInvalidGrant)
	assertMeansOnly(t, errors.Join(io.EOF, e), applebusiness.ErrInvalidRefreshToken, applebusiness.CodeInvalidGrant)
	assert.NotErrorIs(t, e, &applebusiness.Error{StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Reason: applebusiness.ErrInvalidRefreshToken}, "errors are not compared by value")
	assertMeansOnly(t, &applebusiness.Error{}, "", "")
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = errors.Is(e, applebusiness.ErrInvalidRefreshToken) }))
}

func TestLogValue(t *testing.T) {
	e := &applebusiness.Error{
		Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token", URI: "https://x.example",
		Reason: applebusiness.ErrInvalidRefreshToken, Parameter: "p", GrantType: "refresh_token", RequestID: "req-1", RetryAfter: 5 * time.Second,
	}
	assert.Equal(t, "[endpoint=token code=invalid_grant reason=invalid_refresh_token description=Invalid refresh_token status=401 "+
		"parameter=p grant_type=refresh_token request_id=req-1 retry_after=5s action=reauthorize impact=customer]", e.LogValue().String())
	assert.Equal(t, "[]", (&applebusiness.Error{}).LogValue().String())
	assert.Equal(t, "[code=slow_down]", (&applebusiness.Error{Code: "slow_down"}).LogValue().String())

	hostile := &applebusiness.Error{Code: "a\nb", Description: "\x1b[2J" + strings.Repeat("\u202e", 1000), RequestID: "r\r\nx"}
	var line bytes.Buffer
	slog.New(slog.NewTextHandler(&line, nil)).Error("failed", "error", hostile)
	assert.Equal(t, 1, strings.Count(line.String(), "\n"))
	assert.Less(t, line.Len(), 2<<10)
	for _, attr := range hostile.LogValue().Group() {
		assert.Equal(t, -1, strings.IndexFunc(attr.Value.String(), func(r rune) bool { return !unicode.IsPrint(r) }), attr.Key)
	}
}

func TestMarshalJSON(t *testing.T) {
	e := &applebusiness.Error{
		Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token", URI: "https://x.example/e",
		Reason: applebusiness.ErrInvalidRefreshToken, Parameter: "p", GrantType: "refresh_token", RequestID: "req-1", RetryAfter: time.Second,
	}
	for _, v := range []any{e, *e} {
		text, err := json.Marshal(v)
		require.NoError(t, err)
		assert.Equal(t, `{"error":"invalid_grant","error_description":"Invalid refresh_token","error_uri":"https://x.example/e"}`, string(text))
	}
	text, err := json.Marshal(&applebusiness.Error{Reason: applebusiness.ErrStateMismatch})
	require.NoError(t, err)
	assert.Equal(t, `{}`, string(text))
}

// renderings returns every way in which err reaches a log or a person.
func renderings(t testing.TB, err error) []string {
	all := []string{err.Error()}
	add := func(v any) {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			all = append(all, fmt.Sprintf(format, v))
		}
		text, jsonErr := json.Marshal(v)
		require.NoError(t, jsonErr)
		all = append(all, string(text))
		var line bytes.Buffer
		slog.New(slog.NewTextHandler(&line, nil)).Error("x", "error", v)
		slog.New(slog.NewJSONHandler(&line, nil)).Error("x", "error", v)
		all = append(all, line.String())
	}
	add(err)
	add(struct{ Err error }{err})
	if e, ok := errors.AsType[*applebusiness.Error](err); ok && e != nil {
		add(*e)
		all = append(all, e.LogValue().String())
	}
	return all
}

func TestSecretsAreNotRendered(t *testing.T) {
	const secret = "hunter2"
	body := `{"error":"invalid_grant","error_description":"Invalid refresh_token","client_secret":"hunter2","refresh_token":"hunter2","access_token":"hunter2"}`
	s := newJSONOnlyServer(t, answerWith(400, body))
	config := s.config()
	config.ClientID, config.ClientSecret = secret+"-id", secret+"-secret"
	_, exchanged := config.Exchange(s.context(), secret+"-code")
	_, redirected := applebusiness.ParseRedirect("error=access_denied&state=hunter2&code=hunter2&client_id=hunter2")
	_, undecodable := applebusiness.ParseRedirect("state=hunter2&code=hunter2%zz")
	_, mismatch := applebusiness.VerifyRedirect(httptest.NewRequest("GET", "/?code=hunter2&state=hunter2", nil), "other")
	_, malformed := applebusiness.ParseTokenResponse(&http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"refresh_token":"hunter2"}`))})
	_, refused := (&applebusiness.Transport{TokenURL: "https://api.example/?k=hunter2"}).RoundTrip(formRequest("https://u:hunter2@api.example/", "code=hunter2&code=hunter2"))
	for name, err := range map[string]error{
		"exchange": applebusiness.Wrap(exchanged), "html": applebusiness.ParseTokenError(502, nil, []byte("<html>hunter2")), "redirect": redirected, "undecodable": undecodable,
		"mismatch": mismatch, "malformed": malformed, "refused": refused,
		"URL check": applebusiness.CheckAuthorizationURL("https://x.example/?client_id=hunter2&state=hunter2=&redirect_uri=hunter2&response_type=hunter2"),
	} {
		require.Error(t, err, name)
		for _, text := range renderings(t, err) {
			assert.NotContains(t, text, secret, name)
			assert.NotContains(t, text, fmt.Sprintf("%x", secret), name)
		}
	}
}

// A text as long as a limit is whole, one byte more is cut, and never within a rune.
func TestLimits(t *testing.T) {
	for _, test := range []struct {
		limit int
		field func(text string) string
	}{
		{256, func(text string) string {
			return string(applebusiness.ParseTokenError(400, nil, fmt.Appendf(nil, `{"error":%q}`, text)).Code)
		}},
		{4096, func(text string) string {
			return applebusiness.ParseTokenError(400, nil, fmt.Appendf(nil, `{"error":"x","error_description":%q}`, text)).Description
		}},
		{4096, func(text string) string {
			return applebusiness.ParseTokenError(400, nil, fmt.Appendf(nil, `{"error":"x","error_uri":%q}`, text)).URI
		}},
		{256, func(text string) string {
			return applebusiness.ParseTokenError(400, http.Header{"Apple-Request-Id": {text}}, nil).RequestID
		}},
	} {
		whole := strings.Repeat("a", test.limit)
		assert.Equal(t, whole, test.field(whole), test.limit)
		assert.Equal(t, whole, test.field(whole+"a"), test.limit)
		short := whole[:test.limit-1]
		assert.Equal(t, short+"a", test.field(short+"aé"), test.limit)
		assert.Equal(t, short, test.field(short+"é"), "not half of a rune")
	}
	label := strings.Repeat("a", 64)
	assert.Equal(t, "applebusiness: "+label, applebusiness.Reason(label).Error())
	assert.Equal(t, `applebusiness: "***"`, applebusiness.Reason(label+"a").Error())
	assert.Equal(t, `applebusiness: "`+label+`"`, applebusiness.Code(label).Error())
	assert.Equal(t, `applebusiness: "***"`, applebusiness.Code(label+"a").Error())
	assert.Equal(t, `applebusiness: "`+strings.Repeat("word ", 51)+`w"`, (&applebusiness.Error{Description: strings.Repeat("word ", 51) + "w words"}).Error())
}
