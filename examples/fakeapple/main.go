// Fakeapple runs the fake Apple Business of package applebusinesstest as a program, for tests in any language: -h says how.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

//go:embed usage.txt
var usage string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := newProgram()
	status := 2
	if err == nil {
		status, err = 1, s.serve(ctx)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "fakeapple: %v\n", err)
		os.Exit(status)
	}
}

// program is a server, and what the command line says of it.
type program struct {
	options   applebusinesstest.Options
	app       applebusinesstest.App
	publicURL string
	tls       bool

	server *applebusinesstest.Server
	fake   http.Handler // the server's own
	ahead  atomic.Int64 // of the wall clock
}

// consents and deliveries are in the order of the package's constants.
var consents, deliveries = []string{"ask", "allow", "deny"}, []string{"get", "post"}

// newProgram reads the command line. The error says which flag would be ignored or is nonsense.
func newProgram() (s *program, err error) {
	s = new(program)
	o := &s.options
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.StringVar(&o.Addr, "addr", "127.0.0.1:0", "`address` to listen at")
	flag.StringVar(&s.app.ClientID, "client-id", "", "client_id of the app (default random)")
	flag.StringVar(&s.app.ClientSecret, "client-secret", "", "client secret of the app (default random)")
	flag.Func("redirect-uri", "redirect `URI` of the app; may be repeated", func(uri string) error { s.app.RedirectURIs = append(s.app.RedirectURIs, uri); return nil })
	account := flag.String("service-account", "", "client_id and secret of a Service Account, as `id:secret`")
	deliver := flag.String("deliver", "get", "how the redirect is delivered: `get|post`")
	consent := flag.String("consent", "ask", "what the user does: `ask|allow|deny`")
	flag.DurationVar(&o.AccessTokenLife, "access-token-life", time.Hour, "`duration` for which an access token is valid, in whole seconds")
	flag.DurationVar(&o.RefreshTokenLife, "refresh-token-life", 0, "`duration` for which a refresh token is valid, from when it is first issued (default no end)")
	flag.BoolVar(&o.KeepRefreshToken, "keep-refresh-token", false, "return the same refresh token from a refresh, instead of a new one")
	flag.BoolVar(&o.OmitRefreshToken, "omit-refresh-token", false, "return no refresh token from a refresh; the one that was sent stays valid")
	flag.DurationVar(&o.GracePeriod, "grace-period", 0, "`duration` for which a replaced refresh token still works")
	flag.BoolVar(&o.ReuseEndsGrant, "reuse-ends-grant", false, "end the grant when a replaced refresh token or a used code is sent again")
	flag.IntVar(&o.RateLimit, "rate-limit", 0, "token requests above `N` within a second get status 429 with Retry-After (default no limit)")
	flag.DurationVar(&o.Trickle, "trickle", 0, "pause of this `duration` before each byte of a token response's body")
	flag.StringVar(&s.publicURL, "public-url", "", "base `URL` under which clients reach this program, if it is another one")
	flag.BoolVar(&s.tls, "tls", false, "speak HTTPS, with a certificate made for this run")
	flag.Parse() // exits with status 2 for what is wrong, and with 0 for -h

	flag.Visit(func(f *flag.Flag) {
		if value, ok := f.Value.(flag.Getter); ok && value.Get() == "" { // a variable of a shell that is not set, perhaps
			err = fmt.Errorf("-%s is empty", f.Name)
		}
	})
	o.Deliver = applebusinesstest.Delivery(slices.Index(deliveries, *deliver))
	o.Consent = applebusinesstest.Consent(slices.Index(consents, *consent))
	accountID, accountSecret, _ := strings.Cut(*account, ":")
	public, publicErr := url.Parse(s.publicURL)
	switch {
	case o.Deliver < 0 || o.Consent < 0:
		return nil, errors.New("unknown choice of -deliver or -consent")
	case err != nil:
		return nil, err
	case flag.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q", flag.Arg(0))
	case o.AccessTokenLife == 0:
		return nil, errors.New("-access-token-life is 0; want whole seconds")
	case *account != "" && (accountID == "" || accountSecret == ""):
		return nil, errors.New("-service-account: want id:secret")
	case *account != "" && s.app.ClientID == accountID:
		return nil, fmt.Errorf("-client-id and -service-account have both the client_id %q", accountID)
	case s.publicURL != "" && (publicErr != nil || public.Host == "" || public.Scheme != "http" && public.Scheme != "https" || public.RawQuery != "" || public.Fragment != ""):
		return nil, fmt.Errorf("-public-url is %q; want a URL such as https://apple.test:8443", s.publicURL)
	}
	defer misuse(&err)
	o.Now = s.now
	s.server = applebusinesstest.NewUnstartedServer(o)
	s.fake, s.server.Config.Handler = s.server.Config.Handler, s
	s.app.ClientID = cmp.Or(s.app.ClientID, s.server.App.ClientID)
	s.app.ClientSecret = cmp.Or(s.app.ClientSecret, s.server.App.ClientSecret)
	if len(s.app.RedirectURIs) == 0 {
		s.app.RedirectURIs = s.server.App.RedirectURIs
	}
	if *account != "" {
		s.server.RegisterServiceAccount(applebusinesstest.ServiceAccount{ClientID: accountID, ClientSecret: accountSecret})
	}
	s.server.RegisterApp(s.app)
	return s, nil
}

// serve runs the server until ctx ends.
func (s *program) serve(ctx context.Context) error {
	said := make(map[string]any)
	if s.tls {
		pair, path, err := newCertificate(s.options.Addr, s.publicURL)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		said["certificate"] = path
		s.server.Config.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	if err := s.server.Start(); err != nil {
		return err
	}
	defer s.server.Close()
	if s.publicURL != "" {
		s.server.URL = strings.TrimRight(s.publicURL, "/")
	}
	said["authorization_url"], said["token_url"], said["api_url"] = s.server.Endpoint().AuthURL, s.server.Endpoint().TokenURL, s.server.URL
	said["client_id"], said["client_secret"], said["redirect_uris"] = s.app.ClientID, s.app.ClientSecret, s.app.RedirectURIs
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false) // leaves an & in a redirect URI readable
	_ = encoder.Encode(said)
	<-ctx.Done()
	return nil
}
