package applebusinesstest_test

import (
	"bytes"
	"errors"
	"html"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

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
