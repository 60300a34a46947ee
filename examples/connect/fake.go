package main

import (
	"context"
	"net"
	"net/http"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// startFake starts a fake Apple Business for this program, which listens at an address, and points settings to it. It is at
// localhost, so that for a browser it is another site than this program at 127.0.0.1, as Apple is.
func startFake(s *settings, listening net.Addr) (*applebusinesstest.Server, error) {
	host, _, _ := net.SplitHostPort(s.addr)
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "127.0.0.1"
	}
	_, port, _ := net.SplitHostPort(listening.String())
	s.RedirectURL = "http://" + net.JoinHostPort(host, port) + redirectPath
	fake := applebusinesstest.NewUnstartedServer(&applebusinesstest.Options{Addr: "localhost:0"})
	s.ClientID, s.ClientSecret = fake.App.ClientID, fake.App.ClientSecret
	fake.RegisterApp(applebusinesstest.App{ClientID: s.ClientID, ClientSecret: s.ClientSecret, RedirectURIs: []string{s.RedirectURL}})
	if err := fake.Start(); err != nil {
		return nil, err
	}
	s.authURL, s.apiURL = fake.URL, fake.URL
	return fake, nil
}

// revoke lets the customer disconnect the partner at the fake.
func (a *app) revoke(ctx context.Context, id string) error {
	record, err := a.store.Load(ctx, id)
	if err == nil {
		a.fake.Revoke(record.Token.RefreshToken)
	}
	return err
}

// failOnce lets the next refresh fail.
func (a *app) failOnce(context.Context, string) error {
	a.fake.FailWith(http.StatusServiceUnavailable, nil, "")
	return nil
}
