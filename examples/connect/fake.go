package main

import (
	"net/http"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// startFake starts a fake Apple Business where the redirect URL of settings is registered, and points them to it. It is
// at localhost, so that for a browser it is another site than this program at 127.0.0.1, as Apple is.
func startFake(s *settings) (*applebusinesstest.Server, error) {
	fake := applebusinesstest.NewUnstartedServer(&applebusinesstest.Options{Addr: "localhost:0"})
	fake.RegisterApp(applebusinesstest.App{
		ClientID:     fake.App.ClientID,
		ClientSecret: fake.App.ClientSecret,
		RedirectURIs: []string{s.redirectURL},
	})
	if err := fake.Start(); err != nil {
		return nil, err
	}
	s.clientID, s.clientSecret = fake.App.ClientID, fake.App.ClientSecret
	s.authURL, s.apiURL = fake.URL, fake.URL
	return fake, nil
}

// revoke lets the customer disconnect the partner at the fake.
func (a *app) revoke(w http.ResponseWriter, r *http.Request) {
	if record, err := a.store.Load(r.Context(), r.PathValue("id")); err == nil {
		a.fake.Revoke(record.Token.RefreshToken)
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// fail lets the next token request fail at the fake.
func (a *app) fail(w http.ResponseWriter, r *http.Request) {
	a.fake.FailWith(http.StatusServiceUnavailable, nil, "")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
