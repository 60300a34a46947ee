package applebusiness_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

func TestVerifyRedirect(t *testing.T) {
	const mismatch = "applebusiness: state_mismatch: the state is not the expected one"
	const absent, unexpected = "applebusiness: state_mismatch: the redirect has no state", "applebusiness: state_mismatch: no state was expected"
	for _, test := range []struct {
		name, query, state, code, err string
	}{
		{"success", "code=abc&state=s1", "s1", "abc", ""},
		{"foreign parameters", "code=abc&state=s1&iss=a&iss=b&=", "s1", "abc", ""},
		{"Apple's error", "error=server_error&error_description=server+error&state=s1", "s1", "", `applebusiness: server_error: "server error"`},
		{"code beside an error", "code=abc&error=access_denied&state=s1", "s1", "", "applebusiness: user_denied: access_denied"},
		{"other state", "code=abc&state=s2", "s1", "", mismatch},
		{"no state", "code=abc", "s1", "", absent},
		{"an empty state", "code=abc&state=", "s1", "", absent},
		{"nothing expected", "code=abc&state=s1", "", "", unexpected},
		{"nothing expected, none sent", "code=abc", "", "", unexpected},
		{"nothing expected, an empty one sent", "code=abc&state=", "", "", unexpected},
		{"state comes before an error", "error=access_denied&state=s2", "s1", "", mismatch + " (unverified: the redirect claims access_denied)"},
		{"an error without state", "error=invalid_request&error_description=bad+request", "s1", "", absent + " (unverified: the redirect claims invalid_request)"},
		{"a refused error of another vocabulary", "error=PLEASE+CALL+555&state=s2", "s1", "", mismatch},
		{"a refused error beside a repeated state", "error=server_error&state=s1&state=s1", "s1", "", "applebusiness: malformed_redirect: state is repeated (unverified: the redirect claims server_error)"},
		{"state comes before a repeated code", "code=a&code=b&state=s2", "s1", "", mismatch},
		{"a repeated state comes first", "code=abc&state=s1&state=s1", "s1", "", "applebusiness: malformed_redirect: state is repeated"},
		{"state comes before decoding", "code=%zz&state=s2", "s1", "", mismatch},
		{"the state does not decode", "code=abc&state=s1%zz", "s1", "", "applebusiness: malformed_redirect: state cannot be decoded"},
		{"the state holds a semicolon", "code=abc&state=s1;x", "s1", "", "applebusiness: malformed_redirect: state cannot be decoded"},
		{"a state that decodes and one that does not", "code=abc&state=s1&state=%zz", "s1", "", "applebusiness: malformed_redirect: state is repeated"},
		{"the code does not decode", "code=%zz&state=s1", "s1", "", "applebusiness: malformed_redirect: code cannot be decoded"},
		{"a foreign piece does not decode", "code=good&state=s1&utm=100%", "s1", "good", ""},
		{"a foreign name does not decode", "code=good&state=s1&%zz=1;2", "s1", "good", ""},
		{"the description does not decode", "error=server_error&error_description=100%&state=s1", "s1", "", "applebusiness: server_error"},
		{"the code beside an error does not decode", "code=%zz&error=invalid_scope&error_description=scope+is+not+valid&state=s1", "s1", "", `applebusiness: invalid_scope: "scope is not valid"`},
		{"the user cancels", "error=user_cancelled_authorize&state=s1", "s1", "", `applebusiness: user_denied: "user_cancelled_authorize"`},
		{"repeated code", "code=a&code=b&state=s1", "s1", "", "applebusiness: malformed_redirect: code is repeated"},
		{"repeated description", "error=a&error_description=b&error_description=c&state=s1", "s1", "", "applebusiness: malformed_redirect: error_description is repeated"},
		{"neither", "state=s1", "s1", "", "applebusiness: malformed_redirect: neither code nor error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				r := httptest.NewRequest(method, "https://partner.example/callback?"+test.query, strings.NewReader("state=s1&code=from-the-body"))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				code, err := applebusiness.VerifyRedirect(r, test.state)
				assert.Equal(t, test.code, code)
				if test.err == "" {
					assert.NoError(t, err)
					continue
				}
				assert.EqualError(t, err, test.err)
				assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
				assert.NoError(t, errors.Unwrap(err))
				if errors.Is(err, applebusiness.ErrStateMismatch) || errors.Is(err, applebusiness.ErrMalformedRedirect) {
					assert.Empty(t, applebusiness.CodeOf(err), "what was claimed is not found")
				}
			}
		})
	}
	for _, r := range []*http.Request{nil, {}} {
		_, err := applebusiness.VerifyRedirect(r, "s1")
		assert.EqualError(t, err, "applebusiness: malformed_redirect: there is no request URL")
	}
}

// The parameters of Apple's POST are in its URL. A redirect that has them in the body is told apart.
func TestRedirectWithItsParametersInTheBody(t *testing.T) {
	for body, want := range map[string]string{
		"":                 "applebusiness: state_mismatch: the redirect has no state",
		"code=abc&state=s": "applebusiness: state_mismatch: the URL has no state; the parameters may be in the body",
	} {
		for _, url := range []string{"/callback", "/callback?tenant=7"} {
			_, err := applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodPost, url, strings.NewReader(body)), "s")
			assert.EqualError(t, err, want)
		}
		_, err := applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodGet, "/callback", strings.NewReader(body)), "s")
		assert.EqualError(t, err, "applebusiness: state_mismatch: the redirect has no state")
	}
}

// What no user has sent is refused before anything is looked at, so that a handler which verifies before it forgets the
// state loses nothing.
func TestNobodyComesBack(t *testing.T) {
	const good = "/callback?code=abc&state=s1"
	request := func(method, name, value string) *http.Request {
		r := httptest.NewRequest(method, good, nil)
		if name != "" {
			r.Header.Set(name, value)
		}
		return r
	}
	for _, test := range []struct{ method, name, value, want string }{
		{"HEAD", "", "", "HEAD"},
		{"OPTIONS", "", "", "OPTIONS"},
		{"GET", "Sec-Purpose", "prefetch", "what a browser fetches ahead"},
		{"GET", "Sec-Purpose", "prefetch;prerender", "what a browser fetches ahead"},
		{"GET", "Purpose", "Prefetch", "what a browser fetches ahead"},
		{"GET", "X-Moz", "prefetch", "what a browser fetches ahead"},
		{"POST", "Sec-Purpose", "prefetch;anonymous-client-ip", "what a browser fetches ahead"},
	} {
		for _, state := range []string{"s1", "", "another"} {
			code, err := applebusiness.VerifyRedirect(request(test.method, test.name, test.value), state)
			assert.Empty(t, code)
			assert.EqualError(t, err, "applebusiness: malformed_redirect: "+test.want+" is no user who comes back from Apple")
			assert.ErrorIs(t, err, applebusiness.ErrMalformedRedirect)
		}
	}
	for _, r := range []*http.Request{
		request("GET", "", ""), request("POST", "", ""), request("", "", ""), request("GET", "Purpose", "other"), request("GET", "X-Moz", ""), request("GET", "Sec-Fetch-Site", "cross-site"),
	} {
		code, err := applebusiness.VerifyRedirect(r, "s1")
		assert.NoError(t, err)
		assert.Equal(t, "abc", code)
	}
}

// A description that repeats the code or the state beside it does not keep them, either.
func TestRedirectDescriptionKeepsNoSecret(t *testing.T) {
	_, err := applebusiness.ParseRedirect("error=bad_c0de-SECRET&error_description=Code+c0de-SECRET+of+st4te-SECRET&error_uri=https://x.example/c0de-SECRET&code=c0de-SECRET&state=st4te-SECRET")
	var e *applebusiness.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, applebusiness.Code("bad_***"), e.Code)
	assert.Equal(t, "Code *** of ***", e.Description)
	assert.Equal(t, "https://x.example/***", e.URI)
	assert.EqualError(t, err, `applebusiness: "***": "Code *** of ***"`)
}

func TestRedirectIsNotPrinted(t *testing.T) {
	const want = "applebusiness.Redirect{Code: ***, State: ***}"
	redirect := applebusiness.Redirect{Code: "c0de-SECRET", State: "st4te-SECRET"}
	assert.Equal(t, want, fmt.Sprint(redirect))
	assert.Equal(t, want+" "+want, fmt.Sprintf("%+v %s", &redirect, redirect))
	assert.Equal(t, want, redirect.LogValue().String())
	text, err := json.Marshal(redirect)
	require.NoError(t, err)
	assert.Equal(t, `{"Code":"c0de-SECRET","State":"st4te-SECRET"}`, string(text), "the caller's own wish")
}

func TestCheckAuthorizationURL(t *testing.T) {
	good := url.Values{
		"response_type": {"code"}, "client_id": {"BUSINESSAPI.1"}, "redirect_uri": {"https://partner.example/callback"},
		"state": {"aZ09-._~"}, "code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}
	const absent = "\x00"
	missing := func(name string) []string {
		return []string{`applebusiness: invalid_request: "OAuth 2.0 Parameter: ` + name + ` missing"`}
	}
	text := func(code applebusiness.Code, reason applebusiness.Reason) []string {
		return []string{`applebusiness: ` + string(code) + `: "` + reason.Description() + `"`}
	}
	for _, test := range []struct {
		name, value string
		reason      applebusiness.Reason
		lines       []string
	}{
		{"foreign", "1", "", nil},
		{"scope", "OAUTH_LOCATION_READ", "", nil},
		{"code_challenge_method", absent, "", nil},
		{"redirect_uri", "http://127.0.0.1:8080/callback", "", nil},
		{"redirect_uri", "https://localhost.example/callback", "", nil},
		{"redirect_uri", "com.partner.app:/callback", "", nil},
		{"response_type", absent, applebusiness.ErrMissingParameter, missing("response_type")},
		{"response_type", "", applebusiness.ErrInvalidResponseType, text(applebusiness.CodeUnsupportedResponseType, applebusiness.ErrInvalidResponseType)},
		{"response_type", "token", applebusiness.ErrInvalidResponseType, text(applebusiness.CodeUnsupportedResponseType, applebusiness.ErrInvalidResponseType)},
		{"code_challenge_method", "plain", applebusiness.ErrInvalidChallengeMethod, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidChallengeMethod)},
		{"code_challenge_method", "", applebusiness.ErrInvalidChallengeMethod, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidChallengeMethod)},
		{"code_challenge", absent, applebusiness.ErrMissingParameter, missing("code_challenge")},
		{"code_challenge", "", applebusiness.ErrMissingParameter, missing("code_challenge")},
		{"client_id", absent, applebusiness.ErrMissingParameter, missing("client_id")},
		{"client_id", "", applebusiness.ErrEmptyClientID, text(applebusiness.CodeInvalidRequest, applebusiness.ErrEmptyClientID)},
		{"scope", "", applebusiness.ErrEmptyScope, text(applebusiness.CodeInvalidRequest, applebusiness.ErrEmptyScope)},
		{"redirect_uri", absent, applebusiness.ErrMissingParameter, missing("redirect_uri")},
		{"redirect_uri", "", applebusiness.ErrEmptyRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrEmptyRedirectURI)},
		{"redirect_uri", "/callback", applebusiness.ErrInvalidRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidRedirectURI)},
		{"redirect_uri", "//partner.example/callback", applebusiness.ErrInvalidRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidRedirectURI)},
		{"redirect_uri", "http:///callback", applebusiness.ErrInvalidRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidRedirectURI)},
		{"redirect_uri", "https:///callback", applebusiness.ErrInvalidRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidRedirectURI)},
		{"redirect_uri", "https://partner.example/callback#x", applebusiness.ErrInvalidRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidRedirectURI)},
		{"redirect_uri", "https://partner.example/callback#", applebusiness.ErrInvalidRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidRedirectURI)},
		{"redirect_uri", "https://partner.example/%zz", applebusiness.ErrInvalidRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrInvalidRedirectURI)},
		{"redirect_uri", "http://localhost:8080/callback", applebusiness.ErrLocalhostRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrLocalhostRedirectURI)},
		{"redirect_uri", "http://LOCALHOST./callback", applebusiness.ErrLocalhostRedirectURI, text(applebusiness.CodeInvalidRequest, applebusiness.ErrLocalhostRedirectURI)},
		{"state", absent, applebusiness.ErrMissingParameter, missing("state")},
		{"state", "", applebusiness.ErrMissingParameter, missing("state")},
		{"state", "a+b/c=", applebusiness.ErrUnsafeState, []string{"applebusiness: unsafe_state: state holds characters that need percent-encoding"}},
	} {
		t.Run(test.name+"="+test.value, func(t *testing.T) {
			query := make(url.Values)
			for name, values := range good {
				query[name] = values
			}
			query.Set(test.name, test.value)
			if test.value == absent {
				query.Del(test.name)
			}
			err := applebusiness.CheckAuthorizationURL("https://business.example/oauth2/v1/authorize?" + query.Encode())
			if test.reason == "" {
				assert.NoError(t, err)
				return
			}
			require.EqualError(t, err, strings.Join(test.lines, "\n"))
			assert.Equal(t, test.reason, applebusiness.ReasonOf(err))
			var e *applebusiness.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, applebusiness.AuthorizationEndpoint, e.Endpoint)
			if test.reason == applebusiness.ErrMissingParameter {
				assert.Equal(t, test.name, e.Parameter)
			}
		})
	}
	for _, undecodable := range []string{"https://x/\x00", "https://x/?a=%zz", "https://x/?" + good.Encode() + "&state=again"} {
		assert.EqualError(t, applebusiness.CheckAuthorizationURL(undecodable), `applebusiness: invalid_request: "bad request"`)
	}
	everything := applebusiness.CheckAuthorizationURL("")
	assert.Len(t, strings.Split(everything.Error(), "\n"), 5, "all mistakes at once")
}

func TestCheckAuthorizationURLOfOAuth2(t *testing.T) {
	config := &oauth2.Config{
		ClientID: "BUSINESSAPI.1", RedirectURL: "https://partner.example/callback",
		Endpoint: applebusiness.OAuth2Endpoint("https://business.example/", "https://api.example/"),
	}
	rawURL := config.AuthCodeURL(oauth2.GenerateVerifier(), oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	assert.NoError(t, applebusiness.CheckAuthorizationURL(rawURL))
	assert.True(t, strings.HasPrefix(rawURL, "https://business.example/oauth2/v1/authorize?"))
	assert.Equal(t, "https://api.example/api/v1/oauth2/token", config.Endpoint.TokenURL)
	assert.Equal(t, oauth2.AuthStyleInParams, config.Endpoint.AuthStyle)
	assert.Equal(t, config.Endpoint, applebusiness.OAuth2Endpoint("https://business.example", "https://api.example"))
}

func TestParseRedirect(t *testing.T) {
	long := "code=" + strings.Repeat("x", 64<<10)
	for query, want := range map[string]struct {
		redirect applebusiness.Redirect
		err      string
	}{
		"code=abc&state=s":             {applebusiness.Redirect{"abc", "s"}, ""},
		"?code=abc&state=s&utm=1&utm=": {applebusiness.Redirect{"abc", "s"}, ""},
		"code=abc":                     {applebusiness.Redirect{"abc", ""}, ""},
		"code=abc&error=&state=s":      {applebusiness.Redirect{"abc", "s"}, ""},
		"error=access_denied&state=s":  {applebusiness.Redirect{"", "s"}, "applebusiness: user_denied: access_denied"},
		"error=unsupported_response_type&error_description=response_type+must+be+code&state=xyzABC123": {applebusiness.Redirect{"", "xyzABC123"}, `applebusiness: unsupported_response_type: "response_type must be code"`},
		"error=x&code=abc&state=s":              {applebusiness.Redirect{"", "s"}, `applebusiness: "x"`},
		"":                                      {applebusiness.Redirect{}, "applebusiness: malformed_redirect: neither code nor error"},
		"?":                                     {applebusiness.Redirect{}, "applebusiness: malformed_redirect: neither code nor error"},
		"code=&state=s":                         {applebusiness.Redirect{"", "s"}, "applebusiness: malformed_redirect: neither code nor error"},
		"state=s&code=a&code=a":                 {applebusiness.Redirect{"", "s"}, "applebusiness: malformed_redirect: code is repeated"},
		"state=s&error=a&error=b":               {applebusiness.Redirect{"", "s"}, "applebusiness: malformed_redirect: error is repeated"},
		"state=s&error=a&error_uri=&error_uri=": {applebusiness.Redirect{"", "s"}, "applebusiness: malformed_redirect: error_uri is repeated"},
		"state=s&state=s&code=a":                {applebusiness.Redirect{}, "applebusiness: malformed_redirect: state is repeated"},
		"state=s&code=%zz":                      {applebusiness.Redirect{"", "s"}, "applebusiness: malformed_redirect: code cannot be decoded"},
		"state=s&code=a%ff":                     {applebusiness.Redirect{"", "s"}, "applebusiness: malformed_redirect: code cannot be decoded"},
		"state=s&code=a;b":                      {applebusiness.Redirect{"", "s"}, "applebusiness: malformed_redirect: code cannot be decoded"},
		long:                                    {applebusiness.Redirect{}, "applebusiness: malformed_redirect: the query is too long"},
	} {
		t.Run(query[:min(len(query), 80)], func(t *testing.T) {
			redirect, err := applebusiness.ParseRedirect(query)
			assert.Equal(t, want.redirect, redirect)
			if want.err == "" {
				assert.NoError(t, err)
				return
			}
			require.EqualError(t, err, want.err)
			var e *applebusiness.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, applebusiness.AuthorizationEndpoint, e.Endpoint)
			assert.Zero(t, e.StatusCode)
		})
	}
}

// A query as long as the limit is read.
func TestLongestQuery(t *testing.T) {
	query := "code=c&state=s&padding="
	query += strings.Repeat("x", 64<<10-len(query))
	redirect, err := applebusiness.ParseRedirect(query)
	require.NoError(t, err)
	assert.Equal(t, applebusiness.Redirect{Code: "c", State: "s"}, redirect)
	_, err = applebusiness.ParseRedirect(query + "x")
	assert.EqualError(t, err, "applebusiness: malformed_redirect: the query is too long")
}
