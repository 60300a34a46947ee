package applebusinesstest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const (
	state    = "state-1"
	verifier = "verifier-of-at-least-forty-three-characters-x"
)

// clock is one that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newServer(t *testing.T, options *applebusinesstest.Options) *applebusinesstest.Server {
	t.Helper()
	server := applebusinesstest.NewServer(options)
	require.NotEmpty(t, server.URL)
	t.Cleanup(server.Close)
	return server
}

func newConfig(server *applebusinesstest.Server) *oauth2.Config {
	return &oauth2.Config{
		ClientID:     server.App.ClientID,
		ClientSecret: server.App.ClientSecret,
		RedirectURL:  server.App.RedirectURIs[0],
		Endpoint:     server.Endpoint(),
	}
}

func withClient(server *applebusinesstest.Server) context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
}

func authURL(config *oauth2.Config) string {
	return config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))
}

// newCode returns a code that the user's consent brought.
func newCode(t *testing.T, server *applebusinesstest.Server, config *oauth2.Config) string {
	t.Helper()
	redirected, err := server.Authorize(authURL(config))
	require.NoError(t, err)
	redirect, err := applebusiness.ParseRedirect(query(t, redirected))
	require.NoError(t, err)
	require.Equal(t, state, redirect.State)
	return redirect.Code
}

func exchange(server *applebusinesstest.Server, config *oauth2.Config, code string) (*oauth2.Token, error) {
	token, err := config.Exchange(withClient(server), code, oauth2.VerifierOption(verifier))
	return token, applebusiness.Wrap(err)
}

func refresh(server *applebusinesstest.Server, config *oauth2.Config, refreshToken string) (*oauth2.Token, error) {
	token, err := config.TokenSource(withClient(server), &oauth2.Token{RefreshToken: refreshToken}).Token()
	return token, applebusiness.Wrap(err)
}

func serviceToken(server *applebusinesstest.Server, scope string) (*oauth2.Token, error) {
	config := &clientcredentials.Config{
		ClientID:     server.ServiceAccount.ClientID,
		ClientSecret: server.ServiceAccount.ClientSecret,
		TokenURL:     server.Endpoint().TokenURL,
		Scopes:       []string{scope},
		AuthStyle:    oauth2.AuthStyleInParams,
	}
	token, err := config.Token(withClient(server))
	return token, applebusiness.Wrap(err)
}

// entryOf returns the row that an error came from, with the template's placeholder put back.
func entryOf(t *testing.T, err error) applebusiness.Entry {
	t.Helper()
	failed, ok := errors.AsType[*applebusiness.Error](err)
	require.True(t, ok, "%v", err)
	if failed.Parameter != "" {
		failed.Description = strings.Replace(failed.Description, failed.Parameter, "<parameter name>", 1)
	}
	return applebusiness.Entry{
		Endpoint: failed.Endpoint, StatusCode: failed.StatusCode, Code: failed.Code,
		Description: failed.Description, Reason: failed.Reason,
	}
}

func findEntry(t *testing.T, endpoint applebusiness.Endpoint, reason applebusiness.Reason, status int) applebusiness.Entry {
	t.Helper()
	for entry := range applebusiness.Catalog() {
		if entry.Endpoint == endpoint && entry.Reason == reason && entry.StatusCode == status {
			return entry
		}
	}
	require.Fail(t, "no such row", "%s %s %d", endpoint, reason, status)
	return applebusiness.Entry{}
}

func query(t *testing.T, rawURL string) string {
	t.Helper()
	parsed, err := url.Parse(rawURL)
	require.NoError(t, err)
	return parsed.RawQuery
}

// do sends a request without following redirects.
func do(t *testing.T, request *http.Request) (*http.Response, string) {
	t.Helper()
	client := &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.NotEmpty(t, response.Header.Get("apple-request-id"))
	return response, string(body)
}

func send(t *testing.T, method, target, contentType, body string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, target, strings.NewReader(body))
	require.NoError(t, err)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return do(t, request)
}

func get(t *testing.T, target string) (*http.Response, string) {
	t.Helper()
	return send(t, http.MethodGet, target, "", "")
}

func me(t *testing.T, server *applebusinesstest.Server, authorization string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, server.URL+"/api/v1/me", nil)
	require.NoError(t, err)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	response, body := do(t, request)
	return response.StatusCode, body
}

// All rows of Apple's tables come back over HTTP as the very same row, one request each.
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

// What a request can do wrong at the token endpoint has the row that is about it as its response.
func TestTokenRequestProvokes(t *testing.T) {
	server := newServer(t, nil)
	app, account := server.App, server.ServiceAccount
	exchange := map[string]any{
		"grant_type": "authorization_code", "client_id": app.ClientID, "client_secret": app.ClientSecret,
		"code": "unknown", "code_verifier": verifier, "redirect_uri": app.RedirectURIs[0],
	}
	refresh := map[string]any{
		"grant_type": "refresh_token", "client_id": app.ClientID, "client_secret": app.ClientSecret, "refresh_token": "unknown",
	}
	service := map[string]any{
		"grant_type": "client_credentials", "client_id": account.ClientID, "client_secret": account.ClientSecret, "scope": "business",
	}
	body := func(base map[string]any, changes ...any) string {
		changed := map[string]any{}
		for name, value := range base {
			changed[name] = value
		}
		for i := 0; i < len(changes); i += 2 {
			changed[changes[i].(string)] = changes[i+1]
		}
		encoded, err := json.Marshal(changed)
		require.NoError(t, err)
		return string(encoded)
	}
	const jsonType, formType = "application/json", "application/x-www-form-urlencoded"
	for _, test := range []struct {
		name, path, contentType, body string
		status                        int
		reason                        applebusiness.Reason
		parameter                     string
	}{
		{"unknown grant_type", "", jsonType, body(exchange, "grant_type", "password"), 400, applebusiness.ErrInvalidGrantType, ""},
		{"no grant_type", "", jsonType, body(exchange, "grant_type", ""), 400, applebusiness.ErrMissingParameter, "grant_type"},
		{"unknown code", "", jsonType, body(exchange), 400, applebusiness.ErrInvalidRefreshToken, ""},
		{"unknown client", "", jsonType, body(refresh, "client_id", "unknown"), 400, applebusiness.ErrInvalidClientID, ""},
		{"no scope", "", jsonType, body(service, "scope", ""), 400, applebusiness.ErrMissingFields, ""},
		{"no verifier", "", jsonType, body(exchange, "code_verifier", ""), 400, applebusiness.ErrMissingParameter, "code_verifier"},
		{"no refresh token", "", jsonType, body(refresh, "refresh_token", ""), 400, applebusiness.ErrMissingParameter, "refresh_token"},
		{"a number", "", jsonType, body(refresh, "refresh_token", 7), 400, applebusiness.ErrMissingParameter, "refresh_token"},
		{"empty", "", jsonType, "", 400, applebusiness.ErrEmptyBody, ""},
		{"empty without a type", "", "", "", 400, applebusiness.ErrEmptyBody, ""},
		{"blank", "", jsonType, " \n", 400, applebusiness.ErrEmptyBody, ""},
		{"form", "", formType, "grant_type=refresh_token", 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"no type", "", "", body(refresh), 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"charset", "", jsonType + "; charset=utf-8", body(refresh), 401, applebusiness.ErrInvalidRefreshToken, ""},
		{"broken JSON", "", jsonType, `{"grant_type":"refresh_token"`, 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"null", "", jsonType, `null`, 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"empty object", "", jsonType, `{}`, 400, applebusiness.ErrEmptyBody, ""},
		{"array", "", jsonType, `[1]`, 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"too long", "", jsonType, body(refresh, "refresh_token", strings.Repeat("x", 64<<10)), 400, applebusiness.ErrUnsupportedMediaType, ""},
		{"scope", "", jsonType, body(service, "scope", "business.api"), 400, applebusiness.ErrScopeNotAccepted, ""},
		{"wrong secret", "", jsonType, body(refresh, "client_secret", "wrong"), 401, applebusiness.ErrInvalidCredentials, ""},
		{"wrong secret of the Service Account", "", jsonType, body(service, "client_secret", "wrong"), 401, applebusiness.ErrInvalidCredentials, ""},
		{"unknown refresh token", "", jsonType, body(refresh), 401, applebusiness.ErrInvalidRefreshToken, ""},
		{"unknown path", "/", jsonType, body(refresh), 404, applebusiness.ErrEndpointNotFound, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, text := send(t, http.MethodPost, server.Endpoint().TokenURL+test.path, test.contentType, test.body)
			failed := applebusiness.ParseTokenError(response.StatusCode, response.Header, []byte(text))
			assert.Equal(t, findEntry(t, applebusiness.TokenEndpoint, test.reason, test.status), entryOf(t, failed))
			if test.parameter != "" {
				assert.Equal(t, test.parameter, failed.Parameter)
			}
			assert.Equal(t, "application/json", response.Header.Get("Content-Type"))
			assert.Equal(t, "no-store", response.Header.Get("Cache-Control"))
		})
	}
	for name, base := range map[string]map[string]any{"authorization_code": exchange, "refresh_token": refresh, "client_credentials": service} {
		for field := range base {
			t.Run(name+" without "+field, func(t *testing.T) {
				response, text := send(t, http.MethodPost, server.Endpoint().TokenURL, jsonType, body(base, field, ""))
				failed := applebusiness.ParseTokenError(response.StatusCode, response.Header, []byte(text))
				if name == "client_credentials" && field != "grant_type" {
					assert.ErrorIs(t, failed, applebusiness.ErrMissingFields)
					return
				}
				assert.ErrorIs(t, failed, applebusiness.ErrMissingParameter)
				assert.Equal(t, field, failed.Parameter)
			})
		}
	}
	t.Run("grant of the other kind", func(t *testing.T) {
		for _, text := range []string{
			body(service, "client_id", app.ClientID, "client_secret", app.ClientSecret),
			body(refresh, "client_id", account.ClientID, "client_secret", account.ClientSecret),
		} {
			response, text := send(t, http.MethodPost, server.Endpoint().TokenURL, jsonType, text)
			assert.Equal(t, http.StatusBadRequest, response.StatusCode)
			assert.JSONEq(t, `{"error":"unauthorized_client"}`, text)
		}
	})
}

// Plain x/oauth2 cannot talk to Apple, and the fake does not hide it.
func TestPlainOAuth2Fails(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	_, err := config.Exchange(context.Background(), "code", oauth2.VerifierOption(verifier))
	require.ErrorIs(t, applebusiness.Wrap(err), applebusiness.ErrUnsupportedMediaType)
	requests := server.Requests()
	require.Len(t, requests, 1)
	assert.Equal(t, "authorization_code", requests[0].GrantType)
}

// What a request can do wrong at the authorization endpoint has the row that is about it as its response: at a registered
// redirect URI, or on a page if there is none.
func TestAuthorizationRequestProvokes(t *testing.T) {
	server := newServer(t, &applebusinesstest.Options{Consent: applebusinesstest.ConsentAllow})
	config := newConfig(server)
	registered := config.RedirectURL
	for _, test := range []struct {
		name, parameter, value string // the value "-" leaves the parameter out
		reason                 applebusiness.Reason
		redirected             string // the URL that Authorize returns
	}{
		{"response_type", "response_type", "token", applebusiness.ErrInvalidResponseType, registered},
		{"code_challenge_method", "code_challenge_method", "plain", applebusiness.ErrInvalidChallengeMethod, registered},
		{"unknown client", "client_id", "unknown", applebusiness.ErrUnregisteredClientID, registered},
		{"Service Account", "client_id", server.ServiceAccount.ClientID, applebusiness.ErrUnregisteredClientID, registered},
		{"state", "state", "a b", applebusiness.ErrBadRequest, registered},
		{"empty redirect_uri", "redirect_uri", "", applebusiness.ErrEmptyRedirectURI, registered},
		{"relative redirect_uri", "redirect_uri", "/callback", applebusiness.ErrInvalidRedirectURI, registered},
		{"fragment", "redirect_uri", "https://partner.example/other#top", applebusiness.ErrInvalidRedirectURI, "https://partner.example/other"},
		{"localhost", "redirect_uri", "http://localhost/callback", applebusiness.ErrLocalhostRedirectURI, "http://localhost/callback"},
		{"unregistered", "redirect_uri", registered + "?more=1", applebusiness.ErrUnregisteredRedirectURI, registered + "?more=1"},
		{"empty scope", "scope", "", applebusiness.ErrEmptyScope, registered},
		{"scope", "scope", "OAUTH_BRAND_READ business", applebusiness.ErrInvalidScope, registered},
		{"empty client_id", "client_id", "", applebusiness.ErrEmptyClientID, registered},
		{"no code_challenge", "code_challenge", "-", applebusiness.ErrMissingParameter, registered},
		{"no state", "state", "-", applebusiness.ErrMissingParameter, registered},
		{"no client_id", "client_id", "-", applebusiness.ErrMissingParameter, registered},
		{"no redirect_uri", "redirect_uri", "-", applebusiness.ErrMissingParameter, registered},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked, err := url.Parse(authURL(config))
			require.NoError(t, err)
			params := asked.Query()
			params.Set(test.parameter, test.value)
			if test.value == "-" {
				params.Del(test.parameter)
			}
			asked.RawQuery = params.Encode()

			want := findDescription(test.reason, test.parameter)
			redirected, err := server.Authorize(asked.String())
			require.NoError(t, err)
			assert.True(t, strings.HasPrefix(redirected, test.redirected), redirected)
			redirect, err := applebusiness.ParseRedirect(query(t, redirected))
			failed, ok := errors.AsType[*applebusiness.Error](err)
			require.True(t, ok, redirected)
			assert.Equal(t, test.reason, failed.Reason)
			assert.Equal(t, want, failed.Description)
			assert.Equal(t, params.Get("state"), redirect.State)

			response, page := get(t, asked.String())
			if params.Get("redirect_uri") == registered && params.Get("client_id") == config.ClientID {
				assert.Equal(t, http.StatusFound, response.StatusCode)
				assert.Equal(t, redirected, response.Header.Get("Location"))
				return
			}
			assert.Equal(t, http.StatusBadRequest, response.StatusCode)
			assert.Empty(t, response.Header.Get("Location"), "nobody is sent to a URI that is not registered")
			assert.Contains(t, html.UnescapeString(page), want)
		})
	}
	t.Run("bad query", func(t *testing.T) {
		for _, more := range []string{"&state=again", "&x=%zz"} {
			response, _ := get(t, authURL(config)+more)
			location, err := response.Location()
			require.NoError(t, err)
			_, err = applebusiness.ParseRedirect(location.RawQuery)
			assert.ErrorIs(t, err, applebusiness.ErrBadRequest)
		}
	})
}

func findDescription(reason applebusiness.Reason, parameter string) string {
	return strings.Replace(reason.Description(), "<parameter name>", parameter, 1)
}

// A browser brings the redirect to the partner, by both ways of delivery and for both choices.
func TestConsentPage(t *testing.T) {
	for name, deliver := range map[string]applebusinesstest.Delivery{
		http.MethodGet: applebusinesstest.DeliverGet, http.MethodPost: applebusinesstest.DeliverPost,
	} {
		t.Run(name, func(t *testing.T) {
			type arrival struct {
				method, code string
				err          error
			}
			arrivals := make(chan arrival, 1)
			partner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				code, err := applebusiness.VerifyRedirect(r, state)
				arrivals <- arrival{r.Method, code, err}
			}))
			defer partner.Close()
			server := newServer(t, &applebusinesstest.Options{Deliver: deliver})
			app := applebusinesstest.App{ClientID: "app&<b>", ClientSecret: "secret", RedirectURIs: []string{partner.URL + "/callback?tenant=1"}}
			server.RegisterApp(app)
			config := newConfig(server)
			config.ClientID, config.ClientSecret, config.RedirectURL = app.ClientID, app.ClientSecret, app.RedirectURIs[0]

			choose := func(choice string) arrival {
				response, page := get(t, authURL(config))
				require.Equal(t, http.StatusOK, response.StatusCode)
				assert.Contains(t, page, "app&amp;&lt;b&gt;")
				assert.Contains(t, page, `value="allow"`)
				assert.Contains(t, page, `value="deny"`)
				response, page = send(t, http.MethodPost, authURL(config), "application/x-www-form-urlencoded", "consent="+choice)
				target := response.Header.Get("Location")
				if deliver == applebusinesstest.DeliverPost {
					require.Equal(t, http.StatusOK, response.StatusCode)
					target = html.UnescapeString(regexp.MustCompile(`action="([^"]*)"`).FindStringSubmatch(page)[1])
				} else {
					require.Equal(t, http.StatusFound, response.StatusCode)
				}
				request, err := http.NewRequest(name, target, nil)
				require.NoError(t, err)
				assert.Equal(t, "1", request.URL.Query().Get("tenant"))
				response, err = http.DefaultClient.Do(request)
				require.NoError(t, err)
				response.Body.Close()
				return <-arrivals
			}
			allowed := choose("allow")
			require.NoError(t, allowed.err)
			assert.Equal(t, name, allowed.method)
			_, err := exchange(server, config, allowed.code)
			assert.NoError(t, err)

			denied := choose("deny")
			assert.ErrorIs(t, denied.err, applebusiness.CodeAccessDenied)
			assert.Equal(t, name, denied.method)

			response, _ := send(t, http.MethodPost, authURL(config), "application/x-www-form-urlencoded", "consent=what")
			assert.Equal(t, http.StatusOK, response.StatusCode, "asked again")
			assert.Len(t, server.Requests(), 3, "the consent page's own form is not among the requests")
		})
	}
}

func TestAuthorize(t *testing.T) {
	t.Run("deny", func(t *testing.T) {
		server := newServer(t, &applebusinesstest.Options{Consent: applebusinesstest.ConsentDeny})
		redirected, err := server.Authorize(authURL(newConfig(server)))
		require.NoError(t, err)
		assert.Equal(t, server.App.RedirectURIs[0]+"?error=access_denied&state="+state, redirected)
		response, _ := get(t, authURL(newConfig(server)))
		assert.Equal(t, redirected, response.Header.Get("Location"))
	})
	t.Run("another server", func(t *testing.T) {
		server := newServer(t, nil)
		for _, foreign := range []string{"", "https://apple.example/oauth2/v1/authorize?x=1", server.URL, "http://[::", "\x00"} {
			_, err := server.Authorize(foreign)
			assert.ErrorContains(t, err, "applebusinesstest: ")
		}
		assert.Empty(t, server.Requests())
	})
	t.Run("no redirect URI at all", func(t *testing.T) {
		server := newServer(t, nil)
		server.RegisterApp(applebusinesstest.App{ClientID: "bare"})
		_, err := server.Authorize(server.Endpoint().AuthURL + "?client_id=bare")
		assert.ErrorContains(t, err, "redirect URI")
	})
}

// Codes die by use, by age and by the wrong partner.
func TestCode(t *testing.T) {
	clock := newClock()
	server := newServer(t, &applebusinesstest.Options{Now: clock.Now})
	config := newConfig(server)
	dead := func(t *testing.T, err error) {
		t.Helper()
		want := findEntry(t, applebusiness.TokenEndpoint, applebusiness.ErrInvalidRefreshToken, 400)
		assert.Equal(t, want, entryOf(t, err))
	}
	t.Run("used", func(t *testing.T) {
		code := newCode(t, server, config)
		token, err := exchange(server, config, code)
		require.NoError(t, err)
		assert.Equal(t, "Bearer", token.TokenType)
		assert.EqualValues(t, 3600, token.ExpiresIn)
		_, err = exchange(server, config, code)
		dead(t, err)
		_, err = refresh(server, config, token.RefreshToken)
		assert.NoError(t, err, "the grant is alive")
	})
	t.Run("age", func(t *testing.T) {
		old := newCode(t, server, config)
		clock.Advance(time.Second)
		code := newCode(t, server, config)
		clock.Advance(5*time.Minute - time.Second)
		_, err := exchange(server, config, old)
		dead(t, err)
		_, err = exchange(server, config, code)
		assert.NoError(t, err)
	})
	t.Run("verifier", func(t *testing.T) {
		code := newCode(t, server, config)
		_, err := config.Exchange(withClient(server), code, oauth2.VerifierOption("another"))
		dead(t, applebusiness.Wrap(err))
		_, err = exchange(server, config, code)
		dead(t, err)
	})
	t.Run("redirect_uri", func(t *testing.T) {
		other := *config
		other.RedirectURL += "/other"
		_, err := exchange(server, &other, newCode(t, server, config))
		dead(t, err)
	})
	t.Run("another app", func(t *testing.T) {
		other := *config
		other.ClientID, other.ClientSecret = "other", "secret"
		server.RegisterApp(applebusinesstest.App{ClientID: "other", ClientSecret: "secret", RedirectURIs: []string{other.RedirectURL}})
		_, err := exchange(server, &other, newCode(t, server, config))
		dead(t, err)
	})
}

func TestRefreshToken(t *testing.T) {
	dead := func(t *testing.T, err error) {
		t.Helper()
		want := findEntry(t, applebusiness.TokenEndpoint, applebusiness.ErrInvalidRefreshToken, 401)
		assert.Equal(t, want, entryOf(t, err))
	}
	t.Run("rotates", func(t *testing.T) {
		server := newServer(t, nil)
		config := newConfig(server)
		first := server.Connect(config.ClientID)
		second, err := refresh(server, config, first.RefreshToken)
		require.NoError(t, err)
		assert.NotEqual(t, first.RefreshToken, second.RefreshToken)
		_, err = refresh(server, config, first.RefreshToken)
		dead(t, err)
		_, err = refresh(server, config, second.RefreshToken)
		assert.NoError(t, err)
	})
	t.Run("stays", func(t *testing.T) {
		server := newServer(t, &applebusinesstest.Options{KeepRefreshToken: true})
		config := newConfig(server)
		token := server.Connect(config.ClientID)
		for range 3 {
			refreshed, err := refresh(server, config, token.RefreshToken)
			require.NoError(t, err)
			assert.Equal(t, token.RefreshToken, refreshed.RefreshToken)
			assert.NotEqual(t, token.AccessToken, refreshed.AccessToken)
		}
	})
	t.Run("another app", func(t *testing.T) {
		server := newServer(t, nil)
		config := newConfig(server)
		token := server.Connect(config.ClientID)
		server.RegisterApp(applebusinesstest.App{ClientID: "other", ClientSecret: "secret"})
		config.ClientID, config.ClientSecret = "other", "secret"
		_, err := refresh(server, config, token.RefreshToken)
		dead(t, err)
	})
	t.Run("revoked by any of the chain", func(t *testing.T) {
		server := newServer(t, nil)
		config := newConfig(server)
		other := server.Connect(config.ClientID)
		first := server.Connect(config.ClientID)
		second, err := refresh(server, config, first.RefreshToken)
		require.NoError(t, err)
		server.Revoke(first.RefreshToken)
		_, err = refresh(server, config, second.RefreshToken)
		dead(t, err)
		for _, token := range []*oauth2.Token{first, second} {
			status, _ := me(t, server, "Bearer "+token.AccessToken)
			assert.Equal(t, http.StatusUnauthorized, status)
		}
		status, _ := me(t, server, "Bearer "+other.AccessToken)
		assert.Equal(t, http.StatusOK, status)
	})
}

func TestServiceAccount(t *testing.T) {
	server := newServer(t, nil)
	for _, scope := range []string{"business", "business_connect"} {
		token, err := serviceToken(server, scope)
		require.NoError(t, err)
		assert.Empty(t, token.RefreshToken)
		status, _ := me(t, server, "Bearer "+token.AccessToken)
		assert.Equal(t, http.StatusOK, status)
	}
	server.DeleteApp(server.ServiceAccount.ClientID)
	_, err := serviceToken(server, "business")
	assert.ErrorIs(t, err, applebusiness.ErrInvalidClientID)
}

func TestSecretAndApp(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	code := newCode(t, server, config)

	secret := server.RotateSecret(config.ClientID)
	_, err := refresh(server, config, token.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrInvalidCredentials)
	config.ClientSecret = secret
	token, err = refresh(server, config, token.RefreshToken)
	require.NoError(t, err, "grants stay")

	server.DeleteApp(config.ClientID)
	_, err = refresh(server, config, token.RefreshToken)
	require.ErrorIs(t, err, applebusiness.ErrInvalidClientID)
	status, _ := me(t, server, "Bearer "+token.AccessToken)
	assert.Equal(t, http.StatusUnauthorized, status)

	server.RegisterApp(applebusinesstest.App{ClientID: config.ClientID, ClientSecret: secret})
	_, err = refresh(server, config, token.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken, "deleted is deleted")
	_, err = exchange(server, config, code)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
}

func TestMe(t *testing.T) {
	clock := newClock()
	server := newServer(t, &applebusinesstest.Options{Now: clock.Now})
	organisations := map[string]bool{}
	token := server.Connect(server.App.ClientID)
	for _, token := range []*oauth2.Token{token, server.Connect(server.App.ClientID)} {
		assert.True(t, token.Valid())
		client := newConfig(server).Client(withClient(server), token)
		response, err := client.Get(server.URL + "/api/v1/me")
		require.NoError(t, err)
		defer response.Body.Close()
		var me struct {
			User       struct{ FirstName, LastName string }
			OrgDetails struct{ OrgID, LegalName string }
		}
		require.NoError(t, json.NewDecoder(response.Body).Decode(&me))
		assert.NotEmpty(t, me.User.FirstName)
		assert.NotEmpty(t, me.User.LastName)
		assert.NotEmpty(t, me.OrgDetails.LegalName)
		organisations[me.OrgDetails.OrgID] = true
	}
	assert.Len(t, organisations, 2)

	clock.Advance(60*time.Minute - time.Nanosecond)
	status, _ := me(t, server, "bearer "+token.AccessToken)
	assert.Equal(t, http.StatusOK, status)
	clock.Advance(time.Nanosecond)
	for _, authorization := range []string{"Bearer " + token.AccessToken, "Bearer unknown", "Basic " + token.AccessToken, "Bearer", ""} {
		status, body := me(t, server, authorization)
		assert.Equal(t, http.StatusUnauthorized, status)
		assert.JSONEq(t, `[{"code":"Unauthorized","message":"Expired Token","details":{"header":"Authorization"}}]`, body)
	}
}

// Failures queue, for each endpoint by itself.
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

func TestRequests(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	code := newCode(t, server, config)
	_, err := exchange(server, config, code)
	require.NoError(t, err)
	server.Fail(applebusiness.ErrServer)
	_, err = refresh(server, config, "secret")
	failed, ok := errors.AsType[*applebusiness.Error](err)
	require.True(t, ok)

	requests := server.Requests()
	require.Len(t, requests, 3)
	assert.Equal(t, applebusiness.AuthorizationEndpoint, requests[0].Endpoint)
	assert.Equal(t, state, requests[0].Params.Get("state"))
	assert.Empty(t, requests[0].GrantType)
	assert.Equal(t, applebusinesstest.Request{
		Endpoint: applebusiness.TokenEndpoint, GrantType: "authorization_code", RequestID: requests[1].RequestID,
		Params: url.Values{
			"grant_type": {"authorization_code"}, "client_id": {config.ClientID}, "redirect_uri": {config.RedirectURL},
			"client_secret": {"REDACTED"}, "code": {"REDACTED"}, "code_verifier": {"REDACTED"},
		},
	}, requests[1])
	assert.Equal(t, "REDACTED", requests[2].Params.Get("refresh_token"))
	assert.Equal(t, failed.RequestID, requests[2].RequestID)

	requests[1].Params.Set("client_id", "changed")
	assert.Equal(t, config.ClientID, server.Requests()[1].Params.Get("client_id"), "the caller's own copy")
}

// What a test does wrong panics, with a text that helps.
func TestMisusePanics(t *testing.T) {
	server := newServer(t, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	token := applebusiness.TokenEndpoint
	for want, misuse := range map[string]func(){
		`applebusinesstest: Fail: no row of Apple's tables has the Reason "unknown"; applebusiness.Catalog has them all`:        func() { server.Fail("unknown") },
		`applebusinesstest: Fail: no row of Apple's tables has the Reason "state_mismatch"; applebusiness.Catalog has them all`: func() { server.Fail(applebusiness.ErrStateMismatch) },
		`applebusinesstest: Fail: no row of Apple's tables has the Reason ""; applebusiness.Catalog has them all`:               func() { server.Fail("") },
		`applebusinesstest: FailNext: the Entry is of neither endpoint but of "x"`:                                              func() { server.FailEntry(applebusiness.Entry{Endpoint: "x"}) },
		`applebusinesstest: FailNext: the status 0 ends no request; want one from 200 to 999`:                                   func() { server.FailEntry(applebusiness.Entry{Endpoint: token, Code: "x"}) },
		`applebusinesstest: FailNext: the status 199 ends no request; want one from 200 to 999`:                                 func() { server.FailWith(199, nil, "") },
		`applebusinesstest: FailNext: the status 1000 ends no request; want one from 200 to 999`:                                func() { server.FailWith(1000, nil, "") },
		`applebusinesstest: Revoke: this refresh token was not issued here; 0 were`:                                             func() { server.Revoke("s3cret") },
		`applebusinesstest: Connect: a Service Account has no customers who connect`:                                            func() { server.Connect(server.ServiceAccount.ClientID) },
		`applebusinesstest: listen tcp ` + listener.Addr().String() + `: bind: address already in use`:                          func() { applebusinesstest.NewServer(&applebusinesstest.Options{Addr: listener.Addr().String()}) },
	} {
		assert.PanicsWithValue(t, want, misuse)
	}
	known := fmt.Sprintf("%q are", []string{server.App.ClientID, server.ServiceAccount.ClientID})
	for method, misuse := range map[string]func(){
		"Connect":        func() { server.Connect("unknown") },
		"ConnectExpired": func() { server.ConnectExpired("unknown") },
		"RotateSecret":   func() { server.RotateSecret("unknown") },
		"DeleteApp":      func() { server.DeleteApp("unknown") },
	} {
		assert.PanicsWithValue(t, fmt.Sprintf(`applebusinesstest: %s: the client_id "unknown" is not registered; %s`, strings.TrimSuffix(method, "Expired"), known), misuse)
	}
	assert.NotPanics(t, func() { server.RotateSecret(server.App.ClientID) }, "nothing is left locked")

	for _, status := range []int{200, 999} { // the first and the last that end a request
		server.FailWith(status, nil, "{}")
		response, err := http.Post(server.Endpoint().TokenURL, "application/json", strings.NewReader("{}"))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.Equal(t, status, response.StatusCode)
	}
}

// What comes over the network, and what nobody started, is no reason to panic.
func TestZero(t *testing.T) {
	for name, server := range map[string]*applebusinesstest.Server{
		"zero": {}, "unstarted": applebusinesstest.NewUnstartedServer(nil), "started": newServer(t, nil),
	} {
		t.Run(name, func(t *testing.T) {
			assert.Empty(t, server.Requests())
			assert.NotNil(t, server.Client())
			server.Heal()
			_, err := server.Authorize("\x00")
			assert.Error(t, err)
			server.Close()
			server.Close()
		})
	}
	t.Run("a zero Server can be started", func(t *testing.T) {
		var server applebusinesstest.Server
		require.NoError(t, server.Start())
		defer server.Close()
		require.ErrorContains(t, server.Start(), "applebusinesstest: ")
		_, err := refresh(&server, &oauth2.Config{ClientID: "a", ClientSecret: "b", Endpoint: server.Endpoint()}, "c")
		assert.ErrorIs(t, err, applebusiness.ErrInvalidClientID)
	})
}

func TestAddr(t *testing.T) {
	t.Run("as written", func(t *testing.T) {
		server := newServer(t, &applebusinesstest.Options{Addr: "localhost:0"})
		assert.True(t, strings.HasPrefix(server.URL, "http://localhost:"), server.URL)
		response, _ := get(t, server.URL)
		assert.Equal(t, http.StatusNotFound, response.StatusCode)
	})
	t.Run("taken", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer listener.Close()
		options := &applebusinesstest.Options{Addr: listener.Addr().String()}
		assert.ErrorContains(t, applebusinesstest.NewUnstartedServer(options).Start(), "applebusinesstest: ")
	})
	t.Run("wrapped", func(t *testing.T) {
		server := applebusinesstest.NewUnstartedServer(nil)
		mux := http.NewServeMux()
		mux.Handle("/", server.Config.Handler)
		mux.HandleFunc("/extra", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
		server.Config.Handler = mux
		require.NoError(t, server.Start())
		defer server.Close()
		response, err := http.Get(server.URL + "/extra")
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, http.StatusTeapot, response.StatusCode)
		_, err = serviceToken(server, "business")
		assert.NoError(t, err)
	})
}

// Many processes with one refresh token: one wins.
func TestConcurrentUse(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	results := make(chan error, 6)
	for range cap(results) {
		go func() {
			server.Connect(config.ClientID)
			server.Requests()
			_, err := refresh(server, config, token.RefreshToken)
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		if err := <-results; err == nil {
			won++
		} else {
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
		}
	}
	assert.Equal(t, 1, won)
}

// A refresh token that was replaced works for the grace period, counted from its first use; so does its successor.
func TestGracePeriod(t *testing.T) {
	now := time.Now()
	server := applebusinesstest.NewServer(&applebusinesstest.Options{GracePeriod: time.Minute, Now: func() time.Time { return now }})
	defer server.Close()
	config := newConfig(server)
	old := server.Connect(config.ClientID)
	refresh := func(refreshToken string) (*oauth2.Token, error) {
		token, err := config.TokenSource(withClient(server), &oauth2.Token{RefreshToken: refreshToken}).Token()
		return token, applebusiness.Wrap(err)
	}
	first, err := refresh(old.RefreshToken)
	require.NoError(t, err)
	now = now.Add(time.Minute - time.Second)
	second, err := refresh(old.RefreshToken)
	require.NoError(t, err, "within the grace period")
	assert.NotEqual(t, first.RefreshToken, second.RefreshToken)
	now = now.Add(time.Second)
	_, err = refresh(old.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken, "a second use does not prolong it")
	_, err = refresh(first.RefreshToken)
	assert.NoError(t, err)
	_, err = refresh(second.RefreshToken)
	assert.NoError(t, err)
	server.Revoke(old.RefreshToken)
	_, err = refresh(second.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
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

	// A server that hangs lets go of a client that gives up.
	server.FailNext(applebusinesstest.Failure{Hang: true})
	client := server.Client()
	client.Timeout = 200 * time.Millisecond
	err = attempt(context.WithValue(context.Background(), oauth2.HTTPClient, client))
	assert.ErrorIs(t, err, applebusiness.ErrNoResponse)
	assert.ErrorIs(t, err, context.DeadlineExceeded)

	start := time.Now()
	server.FailNext(applebusinesstest.Failure{TakesEffect: true, Delay: 50 * time.Millisecond})
	assert.NoError(t, attempt(ctx))
	assert.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)
	assert.ErrorIs(t, attempt(ctx), applebusiness.ErrInvalidRefreshToken, "it took effect")
}

func TestConnectExpired(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.ConnectExpired(config.ClientID)
	assert.False(t, token.Valid())
	request, err := http.NewRequest(http.MethodGet, server.URL+"/api/v1/me", nil)
	require.NoError(t, err)
	token.SetAuthHeader(request)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode, "for the server it has expired too")
	_, err = config.TokenSource(withClient(server), token).Token()
	assert.NoError(t, err)
}

// The wire says what Apple documents; the log says what is wrong with the state, and not the state.
func TestRefusedStateIsLogged(t *testing.T) {
	server := applebusinesstest.NewUnstartedServer(nil)
	var logged bytes.Buffer
	server.Config.ErrorLog = log.New(&logged, "", 0)
	require.NoError(t, server.Start())
	defer server.Close()
	config := newConfig(server)
	redirected, err := server.Authorize(config.AuthCodeURL("s3cr+t=", oauth2.S256ChallengeOption("v")))
	require.NoError(t, err)
	_, err = applebusiness.ParseRedirect(query(t, redirected))
	require.ErrorIs(t, err, applebusiness.ErrBadRequest)
	assert.Equal(t, "applebusinesstest: the state of an authorization request holds '+' at byte 4, which needs percent-encoding: "+
		"Apple does not promise to return it as it was; use letters, digits and -._~\n", logged.String())
}

func TestResetAndSetConsent(t *testing.T) {
	server := newServer(t, nil)
	config := newConfig(server)
	token := server.Connect(config.ClientID)
	code := newCode(t, server, config)
	server.Fail(applebusiness.ErrServer)
	server.Fail(applebusiness.ErrBadRequest)
	server.Reset()
	assert.Empty(t, server.Requests())
	_, err := refresh(server, config, token.RefreshToken)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	_, err = exchange(server, config, code)
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	_, err = exchange(server, config, newCode(t, server, config))
	assert.NoError(t, err, "the app is still registered")

	server.SetConsent(applebusinesstest.ConsentDeny)
	redirected, err := server.Authorize(authURL(config))
	require.NoError(t, err)
	_, err = applebusiness.ParseRedirect(query(t, redirected))
	assert.ErrorIs(t, err, applebusiness.ErrUserDenied)
}

// Close cuts off a request that hangs, and its client is told.
func TestCloseCutsOff(t *testing.T) {
	server := applebusinesstest.NewServer(nil)
	config := newConfig(server)
	token := server.ConnectExpired(config.ClientID)
	server.FailNext(applebusinesstest.Failure{Hang: true})
	client := &http.Client{Transport: &applebusiness.Transport{TokenURL: config.Endpoint.TokenURL}} // it would wait for ever
	ended := make(chan error)
	go func() {
		_, err := config.TokenSource(context.WithValue(context.Background(), oauth2.HTTPClient, client), token).Token()
		ended <- err
	}()
	require.Eventually(t, func() bool { return len(server.Requests()) == 1 }, 10*time.Second, time.Millisecond)
	server.Close()
	assert.ErrorIs(t, applebusiness.Wrap(<-ended), applebusiness.ErrNoResponse)
}
