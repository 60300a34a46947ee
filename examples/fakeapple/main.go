// Fakeapple runs the fake Apple Business of package applebusinesstest as a program, for tests in any language: see usage, which
// -h prints.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

const usage = `Fakeapple is a fake Apple Business for tests in any language: an OAuth server that responds as Apple documents, and
fails as a test asks.

  go build -o fakeapple ./examples/fakeapple
  ./fakeapple -client-id my-app -client-secret s3cret -redirect-uri http://127.0.0.1:8080/redirect -consent allow
  curl -d '{"reason":"invalid_refresh_token"}' -H 'Content-Type: application/json' http://127.0.0.1:PORT/_fake/fail

The first line on stdout is a JSON object: authorization_url, token_url, api_url, client_id, client_secret, redirect_uris, and
with -tls the path of the certificate. Requests are accepted from then on, until SIGINT or SIGTERM.

A test steers it by requests to api_url + /_fake/…, with a JSON object or with parameters in the query. The response is JSON, or
204 where there is nothing to say; 400 for a request that is wrong, 404 for a label, a client or a token that is not known, each
with an "error" that helps.

  GET  health                             {"status":"ok"}
  POST reset                              forgets grants, failures and requests, and sets the clock
  POST fail {"reason":"server"}           the next request fails with this row; "status" picks one of several, 0 the redirect
  POST fail {"status":503,"header":{"Retry-After":"7"},"body":""}
                                          the next token request; both take "count" (negative: until reset or heal),
                                          "delay" ("2s"), "drop", "hang" and "takes_effect" (only the response is affected)
  POST fail?status=503&count=3            the same with body, Content-Type and Retry-After as they are sent here
  POST heal                               forgets failures that have not come to pass
  POST connect {"expired":true}           a customer's token, of the app or of "client_id"
  POST revoke {"refresh_token":"…"}       the customer disconnects the partner
  POST rotate-secret                      a new client_secret, of the app or of "client_id"; the old one ends at once
  POST delete-app                         of the app or of "client_id", with all grants
  POST consent {"consent":"deny"}         what the user does: ask, allow or deny
  POST clock {"advance":"6m"}             the clock for all lifetimes; GET clock tells the time
  GET  requests                           what has arrived at the two endpoints, without secrets
  GET  reasons                            the rows of Apple's tables, with the label of each

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// settings are the command line.
type settings struct {
	options   applebusinesstest.Options
	app       applebusinesstest.App
	account   applebusinesstest.ServiceAccount
	publicURL string
	tls       bool
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if err := s.serve(ctx, stdout); err != nil {
		fmt.Fprintf(stderr, "fakeapple: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("fakeapple", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&s.options.Addr, "addr", "127.0.0.1:0", "`address` to listen at")
	flags.StringVar(&s.app.ClientID, "client-id", "", "client_id of the app (default random)")
	flags.StringVar(&s.app.ClientSecret, "client-secret", "", "client secret of the app (default random)")
	flags.Func("redirect-uri", "redirect `URI` of the app; may be repeated", func(uri string) error {
		s.app.RedirectURIs = append(s.app.RedirectURIs, uri)
		return nil
	})
	flags.Func("service-account", "client_id and secret of a Service Account, as `id:secret`", func(text string) error {
		var ok bool
		s.account.ClientID, s.account.ClientSecret, ok = strings.Cut(text, ":")
		if !ok || s.account.ClientID == "" || s.account.ClientSecret == "" {
			return errors.New("want id:secret")
		}
		return nil
	})
	flags.Func("deliver", "how the redirect is delivered: `get|post` (default get)", func(text string) error {
		return choose(&s.options.Deliver, text, map[string]applebusinesstest.Delivery{
			"get": applebusinesstest.DeliverGet, "post": applebusinesstest.DeliverPost,
		})
	})
	flags.Func("consent", "what the user does: `ask|allow|deny` (default ask)", func(text string) error {
		return choose(&s.options.Consent, text, consents)
	})
	flags.BoolVar(&s.options.KeepRefreshToken, "keep-refresh-token", false, "return the same refresh token from a refresh, instead of a new one")
	flags.DurationVar(&s.options.GracePeriod, "grace-period", 0, "`duration` for which a replaced refresh token still works")
	flags.DurationVar(&s.options.AccessTokenLife, "access-token-life", time.Hour, "`duration` for which an access token is valid, in whole seconds")
	flags.StringVar(&s.publicURL, "public-url", "", "base `URL` under which clients reach this program, if it is another one")
	flags.BoolVar(&s.tls, "tls", false, "speak HTTPS, with a certificate made for this run")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "fakeapple: unknown argument %q\n", flags.Arg(0))
		return s, errors.New("unknown argument")
	}
	return s, nil
}

var consents = map[string]applebusinesstest.Consent{
	"ask": applebusinesstest.ConsentAsk, "allow": applebusinesstest.ConsentAllow, "deny": applebusinesstest.ConsentDeny,
}

func choose[T any](to *T, text string, choices map[string]T) error {
	choice, ok := choices[text]
	if !ok {
		return errors.New("unknown choice")
	}
	*to = choice
	return nil
}

// serve runs the server until ctx ends.
func (s settings) serve(ctx context.Context, stdout io.Writer) error {
	var clock clock
	s.options.Now = clock.now
	server := applebusinesstest.NewUnstartedServer(&s.options)
	if s.app.ClientID == "" {
		s.app.ClientID = server.App.ClientID
	}
	if s.app.ClientSecret == "" {
		s.app.ClientSecret = server.App.ClientSecret
	}
	if len(s.app.RedirectURIs) == 0 {
		s.app.RedirectURIs = server.App.RedirectURIs
	}
	if s.account.ClientID != "" {
		server.RegisterServiceAccount(s.account)
	}
	server.RegisterApp(s.app)
	server.Config.Handler = newSteering(server, s.app, &clock, server.Config.Handler)

	certificate := ""
	if s.tls {
		pair, path, err := newCertificate(s.options.Addr, s.publicURL)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		certificate = path
		server.Config.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer server.Close()
	s.announce(stdout, server, certificate)
	<-ctx.Done()
	return nil
}

func (s settings) announce(w io.Writer, server *applebusinesstest.Server, certificate string) {
	if s.publicURL != "" {
		server.URL = strings.TrimRight(s.publicURL, "/")
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // leaves an & in a redirect URI readable
	_ = encoder.Encode(struct {
		AuthorizationURL string   `json:"authorization_url"`
		TokenURL         string   `json:"token_url"`
		APIURL           string   `json:"api_url"`
		ClientID         string   `json:"client_id"`
		ClientSecret     string   `json:"client_secret"`
		RedirectURIs     []string `json:"redirect_uris"`
		Certificate      string   `json:"certificate,omitempty"`
	}{
		server.Endpoint().AuthURL, server.Endpoint().TokenURL, server.URL,
		s.app.ClientID, s.app.ClientSecret, s.app.RedirectURIs, certificate,
	})
}
