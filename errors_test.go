package applebusiness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

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
		`applebusiness: "Invalid refresh_token"`:  {Reason: applebusiness.ErrInvalidRefreshToken, Description: "Invalid refresh_token"},
		`applebusiness: "INVALID+REFRESH_TOKEN"`:  {Description: "INVALID+REFRESH_TOKEN"}, // Apple's, but for its letters
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
	assert.False(t, e.Timeout())
	assert.False(t, e.Unsent())
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
	assert.Contains(t, applebusiness.ParseTokenError(404, nil, []byte(`{"error":"404 Not Found"}`)).LogValue().String(), "code=404 Not Found ")
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

// A request id is for Apple's support, so it is in the log; a secret that stands in its place is not.
func TestRequestIDIsLogged(t *testing.T) {
	for _, id := range []string{"7f9c24e8-3b1a-4c0d-9e5f-6a7b8c9d0e1f", "ULXRE3CVPI4RR6U2BVWQYQ5YFE", "req-1"} {
		s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("apple-request-id", id)
			w.WriteHeader(401)
			io.WriteString(w, `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`)
		})
		for _, token := range []string{"rt-SECRET", id, id + "-more", "more-" + strings.ToLower(id)} {
			_, err := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: token}).Token()
			attr := applebusiness.LogAttr(applebusiness.Wrap(err)).String()
			if token == "rt-SECRET" || len(id) < 8 { // so short a value is no secret
				assert.Contains(t, attr, " request_id="+id+" ")
			} else {
				assert.Contains(t, attr, " request_id=*** ", token)
			}
		}
	}
	for _, text := range []string{"rt-SECRET", "ABCDEFGH1234", "NB2W45DFOIZA", "68756e74-6572-322d-6875-6e746572322d", "NB2W45DFOIZC22DVNZ2GK4RSFU"} { // the last two are hunter2-hunter2-
		e := applebusiness.ParseTokenError(401, http.Header{"Apple-Request-Id": {text}}, nil)
		assert.Contains(t, e.LogValue().String(), " request_id=*** ", text)
		assert.Equal(t, text, e.RequestID)
	}
}

// The words that Error has of this package's own are in the log, too.
func TestDetailIsLogged(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, "<html>Sign in</html>"))
	_, fetched := s.config().Exchange(s.context(), "code")
	_, mismatch := applebusiness.VerifyRedirect(httptest.NewRequest("GET", "/?code=c&state=x&error=access_denied", nil), "s1")
	for _, err := range []error{applebusiness.Wrap(fetched), mismatch, applebusiness.CheckAuthorizationURL("https://x.example/?response_type=code&client_id=i&redirect_uri=x:/y&state=a+b&code_challenge=c")} {
		var e *applebusiness.Error
		require.ErrorAs(t, err, &e)
		var detail string
		for _, attr := range e.LogValue().Group() {
			if attr.Key == "detail" {
				detail = attr.Value.String()
			}
		}
		require.NotEmpty(t, detail, err)
		assert.Contains(t, err.Error(), detail)
		assert.Contains(t, applebusiness.LogAttr(fmt.Errorf("x: %w", err)).String(), "detail="+detail)
	}
}

func TestLabel(t *testing.T) {
	post := func(err error) error { return &url.Error{Op: "Post", URL: "https://api.example", Err: err} }
	undocumented := applebusiness.ParseTokenError(400, nil, []byte(`{"error":"invalid_request","error_description":"new words"}`))
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{applebusiness.ErrInvalidRefreshToken, "invalid_refresh_token"},
		{fmt.Errorf("x: %w", &applebusiness.Error{StatusCode: 503, Reason: applebusiness.ErrUnavailable}), "unavailable"},
		{applebusiness.ErrManyRefusals, "many_refusals"},
		{&oauth2.RetrieveError{Response: &http.Response{StatusCode: 502}}, "unavailable"},
		{errors.New("oauth2: token expired and refresh token is not set"), "no_refresh_token"},
		{undocumented, "undocumented"},
		{fmt.Errorf("x: %w", post(undocumented)), "undocumented"},
		{applebusiness.Code("slow_down"), "undocumented"},
		{&applebusiness.Error{}, "other"},
		{(*applebusiness.Error)(nil), "other"},
		{&applebusiness.Error{StatusCode: 400, Description: "x"}, "other"},
		{applebusiness.Reason("a label of somebody's own"), "other"},
		{errors.Join(applebusiness.ErrServer, context.Canceled), "server"},
		{errors.Join(&applebusiness.Error{}, io.EOF), "other"},
		{context.Canceled, "canceled"},
		{post(context.Canceled), "canceled"},
		{context.DeadlineExceeded, "network"},
		{post(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), "network"},
		{post(io.EOF), "network"},
		{errors.New("disk full"), "other"},
		{hidden{applebusiness.ErrServer}, "other"},
		{hidden{context.Canceled}, "other"},
	} {
		assert.Equal(t, test.want, applebusiness.Label(test.err), "%v", test.err)
	}
	for _, c := range constants(t, "codes.go") {
		if c.typ == "Reason" {
			assert.Equal(t, c.value, applebusiness.Label(applebusiness.Reason(c.value)))
		}
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
	// What a terminal or a browser would obey is not in it.
	for _, hostile := range []string{"\u202e", "\u2066", "\u200b", "\u2060", "\ufeff", "\x1b[2J", "\x00", "\u0085", "\u2028"} {
		text, err := json.Marshal(&applebusiness.Error{Code: applebusiness.Code("a" + hostile), Description: "two" + hostile + "words " + hostile + " here", URI: "https://x.example/" + hostile})
		require.NoError(t, err)
		assert.Regexp(t, `^{"error":"\*\*\*","error_description":"[ -~]+ here","error_uri":"\*\*\*"}$`, string(text))
	}
	decoded := new(applebusiness.Error)
	require.NoError(t, json.Unmarshal([]byte(`{"error":"slow_down","error_description":"d","error_uri":"u"}`), decoded))
	assert.Equal(t, &applebusiness.Error{Code: "slow_down", Description: "d", URI: "u"}, decoded)
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

// What a server repeats of the request is not shown again. Package redact's tests look for other encodings and parts.
func TestEchoedSecretsAreMasked(t *testing.T) {
	const refresh, secret = "rt-SECRET+/%", "client+secret/&%"
	for name, test := range map[string]struct {
		body, header, want string // %s stands for the echo
		status             int
	}{
		"in the description":     {`{"error":"invalid_grant","error_description":"Token %s is unknown"}`, "", `applebusiness: invalid_grant: "Token *** is unknown" (HTTP 400)`, 400},
		"the whole description":  {`{"error":"invalid_grant","error_description":"%s"}`, "", `applebusiness: invalid_grant: "***" (HTTP 400)`, 400},
		"in the code":            {`{"error":"bad_%s","error_description":"d"}`, "", `applebusiness: "***": "d" (HTTP 400)`, 400},
		"in the URI":             {`{"error":"invalid_client","error_uri":"https://x.example/?t=%s"}`, "", `applebusiness: invalid_client (HTTP 400)`, 400},
		"in the parameter":       {`{"error":"invalid_request","error_description":"%s %s"}`, "", `applebusiness: invalid_request: "*** ***" (HTTP 400)`, 400},
		"in another dialect":     {`[{"code":"Unauthorized","message":"Token %s"}]`, "", `applebusiness: malformed_response: "***": "Token ***" (HTTP 401)`, 401},
		"in the request id":      {`{"error":"invalid_client"}`, "%s", `applebusiness: invalid_client (HTTP 400)`, 400},
		"at 200":                 {`{"error":"invalid_grant","error_description":"Token %s is unknown"}`, "", `applebusiness: invalid_grant: "Token *** is unknown" (HTTP 200)`, 200},
		"behind a long text":     {`{"error":"x","error_description":"` + strings.Repeat("x", 240) + ` %s"}`, "", `applebusiness: "x": "*** ***" (HTTP 400)`, 400},
		"at the end of 4 KiB":    {`{"error":"x","error_description":"` + strings.Repeat("x", 4<<10-5) + `%s"}`, "", `applebusiness: "x": "***" (HTTP 400)`, 400},
		"a row stays as it is":   {`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`, "", `applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 400)`, 400},
		"a public value stays":   {`{"error":"x","error_description":"grant_type refresh_token or authorization_code"}`, "", `applebusiness: "x": "grant_type refresh_token or authorization_code" (HTTP 400)`, 400},
		"a short value stays":    {`{"error":"x","error_description":"id id id"}`, "", `applebusiness: "x": "id id id" (HTTP 400)`, 400},
		"echoed without a body":  {`%s`, "", `applebusiness: unavailable (HTTP 503)`, 503},
		"in a form-coded error":  {`error=invalid_grant&error_description=Token:%s`, "", "", 400},
		"beside a wrong success": {`{"message":"%s"}`, "", `applebusiness: malformed_response: "***": a success without an access_token (HTTP 200)`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			for _, echo := range []string{refresh, secret, url.QueryEscape(secret), strings.ToUpper(refresh)} {
				quoted := strings.Trim(string(must(json.Marshal(echo))), `"`)
				s := newJSONOnlyServer(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("apple-request-id", strings.ReplaceAll(test.header, "%s", echo))
					w.WriteHeader(test.status)
					io.WriteString(w, strings.ReplaceAll(test.body, "%s", quoted))
				})
				config := s.config()
				config.ClientSecret = secret
				_, err := config.TokenSource(s.context(), &oauth2.Token{RefreshToken: refresh}).Token()
				err = applebusiness.Wrap(err)
				if test.want != "" {
					assert.EqualError(t, err, test.want)
				}
				for _, text := range append(renderings(t, err), applebusiness.LogAttr(fmt.Errorf("customer 7: %w", err)).String()) {
					assert.NotContains(t, text, echo)
					assert.NotContains(t, text, "SECRET")
				}
			}
		})
	}
	t.Run("a success is not touched", func(t *testing.T) {
		s := newJSONOnlyServer(t, answerWith(200, `{"access_token":"`+refresh+`","refresh_token":"`+refresh+`","expires_in":3600}`))
		token, err := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: refresh}).Token()
		require.NoError(t, err)
		assert.Equal(t, refresh, token.AccessToken)
		assert.Equal(t, refresh, token.RefreshToken)
	})
	t.Run("without Transport", func(t *testing.T) {
		s := httptest.NewServer(answerWith(400, `{"error":"invalid_grant","error_description":"Token `+refresh+` is unknown"}`))
		defer s.Close()
		config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.URL, AuthStyle: oauth2.AuthStyleInParams}}
		_, err := config.Exchange(context.Background(), refresh)
		assert.EqualError(t, applebusiness.Wrap(err), `applebusiness: invalid_grant: "Token *** is unknown" (HTTP 400)`)
	})
}

// What is attached to a log line is found wherever it stands in err's tree.
func TestLogAttr(t *testing.T) {
	dead := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token",
		Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token", RetryAfter: 7 * time.Second}
	const members = `"endpoint":"token","code":"invalid_grant","reason":"invalid_refresh_token","description":"Invalid refresh_token","status":401,"grant_type":"refresh_token","retry_after":"7s","action":"reauthorize","impact":"customer"`
	s := httptest.NewServer(answerWith(503, "SECRET"))
	defer s.Close()
	config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.URL + "/?secret=SECRET", AuthStyle: oauth2.AuthStyleInParams}}
	_, retrieve := config.Exchange(context.Background(), "code-SECRET")
	refused := &url.Error{Op: "Post", URL: "https://api.example/?SECRET", Err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
	const outage = `"endpoint":"token","reason":"unavailable","status":503,"grant_type":"authorization_code","action":"start_over","impact":"service"`
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"nil":                   {nil, `null`},
		"bare":                  {dead, `{` + members + `}`},
		"wrapped":               {fmt.Errorf("customer 7: %w", dead), `{"context":"customer 7",` + members + `}`},
		"wrapped on both sides": {fmt.Errorf("customer 7: %w (try 3)", dead), `{"context":"customer 7: (try 3)",` + members + `}`},
		"joined":                {errors.Join(errors.New("x"), dead), `{"context":"x",` + members + `}`},
		"x/oauth2's":            {retrieve, `{` + outage + `}`},
		"x/oauth2's, wrapped":   {fmt.Errorf("customer 7: %w", retrieve), `{"context":"customer 7",` + outage + `}`},
		"x/oauth2's, in a client's error": {fmt.Errorf("customer 7: %w", &url.Error{Op: "Get", URL: "https://x.example/?SECRET", Err: retrieve}),
			`{"context":"customer 7",` + outage + `}`},
		"a URL in the context": {fmt.Errorf("GET https://x.example/cb?code=SECRET from /cb?state=SECRET&x: %w", dead), `{"context":"GET *** from ***",` + members + `}`},
		"a Reason":             {fmt.Errorf("x: %w", applebusiness.ErrServer), `{"context":"x","reason":"server","action":"retry","impact":"service"}`},
		"the network's":        {fmt.Errorf("customer 7: %w", refused), `{"message":"customer 7: Post \"***\": dial tcp: connection refused","action":"retry","impact":"service"}`},
		"x/oauth2's, without a type": {fmt.Errorf("customer 7: %w", errors.New("oauth2: token expired and refresh token is not set")),
			`{"endpoint":"token","reason":"no_refresh_token","detail":"the access token has expired and there is no refresh token","action":"fix_request"}`},
		"in one of another text": {mute{dead}, `{` + members + `}`},
		"foreign":                {errors.New("disk\nfull"), `{"message":"disk full"}`},
		"one that hides another": {hidden{dead}, `{"message":"the store failed"}`},
	} {
		t.Run(name, func(t *testing.T) {
			var line bytes.Buffer
			slog.New(slog.NewJSONHandler(&line, nil)).Error("m", applebusiness.LogAttr(test.err))
			_, attr, _ := strings.Cut(strings.TrimSuffix(line.String(), "}\n"), `"error":`)
			assert.Equal(t, test.want, attr)
			line.Reset()
			slog.New(slog.NewTextHandler(&line, nil)).Error("m", applebusiness.LogAttr(test.err))
			assert.Equal(t, 1, strings.Count(line.String(), "\n"))
			assert.NotContains(t, line.String(), "SECRET")
			if strings.Contains(test.want, "7s") {
				assert.Contains(t, line.String(), "error.retry_after=7s")
			}
		})
	}
}

// mute wraps an error and does not quote it.
type mute struct{ error }

func (mute) Error() string   { return "it failed" }
func (m mute) Unwrap() error { return m.error }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
