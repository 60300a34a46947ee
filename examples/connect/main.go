// Connect is the partner's side of Apple Business as a small web application: it connects customers, shows their
// connections, and says what to do when one fails.
//
//	go run ./examples/connect
//
// That runs against the fake Apple Business of package applebusinesstest. For a real environment name it; the client secret
// comes from the environment, since everybody on the machine can read a command line:
//
//	export APPLE_BUSINESS_CLIENT_SECRET=…
//	go run ./examples/connect -addr 127.0.0.1:8080 -client-id … -redirect-url http://127.0.0.1:8080/redirect \
//		-auth-url … -api-url …
//
// Its first line on stdout names the URL to open. SIGINT or SIGTERM stops it. With -dir it keeps the connections in a folder.
// It is an example, and has no accounts: whoever can open its page sees and changes all connections.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

const (
	secretVariable = "APPLE_BUSINESS_CLIENT_SECRET"

	redirectPath   = "/redirect"      // with the fake
	appleTimeout   = 30 * time.Second // for one request to Apple: a shorter one can lose a refresh token
	stopTimeout    = 2 * appleTimeout // a refresh that has begun is finished
	loginLife      = 10 * time.Minute // as long as the Manager knows what became of a redirect
	connectTimeout = time.Minute      // for all that Apple and the database are asked
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// settings are the command line, and the client secret.
type settings struct {
	oauth2.Config
	addr, authURL, apiURL string
	dir                   string // "": connections are in memory only
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	given := settings{Config: oauth2.Config{ClientSecret: getenv(secretVariable)}}
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&given.addr, "addr", "", "`address` to listen at (default with the fake: 127.0.0.1 and a free port)")
	flags.StringVar(&given.ClientID, "client-id", "", "client_id of the app; its secret is read from "+secretVariable)
	flags.StringVar(&given.RedirectURL, "redirect-url", "", "`URL` of this program, with any path, as registered with the app at Apple")
	flags.StringVar(&given.authURL, "auth-url", "", "base `URL` of the authorization endpoint, without /oauth2/v1/authorize")
	flags.StringVar(&given.apiURL, "api-url", "", "base `URL` of the API, without /api/v1")
	flags.StringVar(&given.dir, "dir", "", "`folder` to keep the connections in, not with the fake (default: in memory)")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "connect: unknown argument %q\n", flags.Arg(0))
		return 2
	}
	if err := given.serve(ctx, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "connect: %s\n", strings.ReplaceAll(err.Error(), "\n", "\nconnect: "))
		return 1
	}
	return 0
}

// serve runs the web application until ctx is done.
func (s *settings) serve(ctx context.Context, stdout, stderr io.Writer) error {
	withFake := s.ClientID+s.ClientSecret+s.RedirectURL+s.authURL+s.apiURL+s.dir == ""
	if withFake {
		s.addr = cmp.Or(s.addr, "127.0.0.1:0")
	}
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	var fake *applebusinesstest.Server
	if withFake {
		if fake, err = startFake(s, listener.Addr()); err != nil {
			return err
		}
		defer fake.Close()
	}
	s.Endpoint = applebusiness.OAuth2Endpoint(s.authURL, s.apiURL)
	if err := s.check(); err != nil {
		return err
	}
	var store grants.Store = grants.NewMemoryStore()
	if s.dir != "" {
		folder, err := grants.NewDirStore(s.dir, nil)
		if err != nil {
			return err
		}
		defer folder.Close()
		store = folder
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	app, err := newApp(s, store, fake, log)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: app.handler(), ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), MaxHeaderBytes: 64 << 10,
		ReadTimeout: 10 * time.Second, WriteTimeout: 3 * appleTimeout, IdleTimeout: time.Minute,
	}
	go app.keepAlive(ctx)
	fmt.Fprintf(stdout, "Open %s\n", app.home)
	if fake != nil {
		fmt.Fprintf(stdout, "Apple Business is the fake at %s\n", fake.URL)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		err = within(stopTimeout, server.Shutdown) // the handlers use the Manager
	}
	return errors.Join(err, within(stopTimeout, app.manager.Close))
}

// within calls f with a context that ends after d.
func within(d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return f(ctx)
}

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

// check returns all that is wrong with the settings, before a customer meets it.
func (s *settings) check() error {
	var missing, wrong error
	for _, setting := range [...]struct{ name, value string }{
		{"-addr", s.addr}, {"-client-id", s.ClientID}, {secretVariable, s.ClientSecret},
		{"-redirect-url", s.RedirectURL}, {"-auth-url", s.authURL}, {"-api-url", s.apiURL},
	} {
		address, err := url.Parse(setting.value)
		switch {
		case setting.value == "":
			missing = errors.Join(missing, errors.New(setting.name+" is missing"))
		case strings.HasSuffix(setting.name, "-url") && (err != nil || !secure(address)):
			wrong = errors.Join(wrong, errors.New(setting.name+" has to be an https address, or an http address of this machine, without user and query"))
		case setting.name == "-redirect-url" && (!freePath.MatchString(address.Path) || slices.Contains(ownPaths, address.Path)):
			wrong = errors.Join(wrong, errors.New(setting.name+" has to have a path of its own, such as "+redirectPath))
		}
	}
	if missing != nil {
		return missing
	}
	example := s.AuthCodeURL(oauth2.GenerateVerifier(), oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))
	return errors.Join(applebusiness.CheckAuthorizationURL(example), wrong)
}

// secure reports whether nobody else reads what is sent to an address, which says nothing but the server and a path.
func secure(address *url.URL) bool {
	here := address.Hostname() == "localhost" || net.ParseIP(address.Hostname()).IsLoopback()
	return address.Hostname() != "" && (address.Scheme == "https" || address.Scheme == "http" && here) &&
		address.User == nil && address.RawQuery == "" && address.Fragment == ""
}

// freePath is a path that the mux takes as it is, and ownPaths are this program's.
var freePath, ownPaths = regexp.MustCompile(`^/(?:[\w-]+/)*[\w-]+$`), []string{"/connect", "/not-connected", "/other"}
