package grants_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// partner is what a partner's web application needs to connect customers.
type partner struct {
	config  *oauth2.Config
	manager *grants.Manager
}

// loginCookie and a state are the name of the cookie that has the verifier: each tab of a browser can have one. Not every
// browser keeps it over http: for http://127.0.0.1 in development leave out __Host- and Secure.
const loginCookie = "__Host-apple-"

// start is behind the link "Connect Apple Business".
func (p *partner) start(w http.ResponseWriter, r *http.Request) {
	state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	http.SetCookie(w, &http.Cookie{
		Name: loginCookie + state, Value: verifier, MaxAge: 600, // seconds, as long as Connect knows the outcome
		Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, p.config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
}

// redirect is at the redirect URL, for GET and POST.
func (p *partner) redirect(w http.ResponseWriter, r *http.Request) {
	var state, verifier string
	back, _ := applebusiness.ParseRedirect(r.URL.RawQuery)
	if cookie, err := r.Cookie(loginCookie + back.State); err == nil { // this browser has started it
		state, verifier = back.State, cookie.Value
	} else if r.Method == http.MethodPost { // from another site it brings no cookie; the browser's GET does
		http.Redirect(w, r, r.URL.RequestURI(), http.StatusSeeOther)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute) // if the browser gives up, it is noted all the same
	defer cancel()
	connection, err := p.manager.Connect(r.WithContext(ctx), state, verifier)
	if err != nil {
		slog.Warn("not connected", applebusiness.LogAttr(err))
		http.Redirect(w, r, "/not-connected?action="+string(applebusiness.Troubleshoot(err).Action), http.StatusSeeOther)
		return
	}
	// Here note in your database that connection.Grant is of the customer who is signed in; a session cookie with SameSite=Strict is not sent here.
	slog.Debug("connected", "grant", connection.Grant, "name", connection.Name)
	http.Redirect(w, r, "/connected", http.StatusSeeOther) // away from the URL with the code
}

// sentences are what a customer reads, in your languages: one for each Action, and one for none.
var sentences = map[applebusiness.Action]string{
	applebusiness.ActionUnknown:         "Connecting takes longer than usual. Please connect again in a few minutes.",
	applebusiness.ActionRetry:           "Apple Business is busy at the moment. Please connect again in a minute.",
	applebusiness.ActionStartOver:       "The connection was not made. Please connect again.",
	applebusiness.ActionReauthorize:     "The connection to Apple Business has ended. Please connect again.", // from Token, not from Connect
	applebusiness.ActionFixRequest:      "Something went wrong on our side. We are looking into it.",
	applebusiness.ActionFixRegistration: "We have to renew our own access to Apple Business. We are on it.",
	applebusiness.ActionCheckNetwork:    "We cannot reach Apple Business. We are looking into it.",
}

// notConnected is at /not-connected.
func notConnected(w http.ResponseWriter, r *http.Request) {
	text, ok := sentences[applebusiness.Action(r.FormValue("action"))]
	if !ok {
		text = sentences[applebusiness.ActionUnknown]
	}
	http.Error(w, text, http.StatusBadRequest) // no success, or a browser may show what it has fetched ahead
}

// Two handlers connect a customer: one sends the browser to Apple's consent page, and the other is where it comes back, once or
// twice.
func ExampleManager_Connect() {
	apple := applebusinesstest.NewServer(nil) // in the place of Apple
	defer apple.Close()
	config := &oauth2.Config{
		ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, RedirectURL: apple.App.RedirectURIs[0],
		Endpoint: apple.Endpoint(), // in production: applebusiness.OAuth2Endpoint
	}
	p := &partner{config, grants.New(config, grants.NewMemoryStore(), nil)}

	// A browser follows the link, and the user allows.
	started := httptest.NewRecorder()
	p.start(started, httptest.NewRequest(http.MethodGet, "/start", nil))
	back, _ := apple.Authorize(started.Header().Get("Location"))
	arrive := func(cookies []*http.Cookie) {
		request := httptest.NewRequest(http.MethodGet, back, nil)
		for _, cookie := range cookies {
			request.AddCookie(cookie)
		}
		arrived := httptest.NewRecorder()
		p.redirect(arrived, request)
		fmt.Println(arrived.Header().Get("Location"))
	}
	arrive(started.Result().Cookies())
	arrive(started.Result().Cookies()) // the browser loads the page again
	arrive(nil)                        // another browser, which reads:
	shown := httptest.NewRecorder()
	notConnected(shown, httptest.NewRequest(http.MethodGet, "/not-connected?action=start_over", nil))
	fmt.Print(shown.Body)
	// Output:
	// /connected
	// /connected
	// /not-connected?action=start_over
	// The connection was not made. Please connect again.
}
