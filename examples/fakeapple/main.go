// Fakeapple runs the fake Apple Business of package applebusinesstest as a program, for tests in any language.
//
//	go run ./examples/fakeapple -client-id my-app -client-secret s3cret -redirect-uri http://127.0.0.1:8080/redirect -consent allow
//
// Its first line on stdout is a JSON object with authorization_url, token_url, api_url, client_id, client_secret and
// redirect_uris; it accepts requests from then on, until SIGINT or SIGTERM. A test steers it by
//
//	POST /_fake/fail?reason=server[&status=500]   the next request fails so; status picks the row, 0 the redirect
//	POST /_fake/fail?status=503                   the next token request; body, Content-Type and Retry-After as sent here
//	POST /_fake/revoke?refresh_token=…            the customer disconnects the partner
//	POST /_fake/advance?duration=6m               the clock for all lifetimes
//
// whose response is 204, or 400 with a line of text. The reasons are the library's labels, such as invalid_refresh_token.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

func main() {
	var (
		options applebusinesstest.Options
		app     applebusinesstest.App
		account applebusinesstest.ServiceAccount
		advance atomic.Int64 // nanoseconds
	)
	options.Now = func() time.Time { return time.Now().Add(time.Duration(advance.Load())) }
	flag.StringVar(&options.Addr, "addr", "127.0.0.1:0", "`address` to listen at")
	flag.StringVar(&app.ClientID, "client-id", "", "client_id of the app (default random)")
	flag.StringVar(&app.ClientSecret, "client-secret", "", "client secret of the app (default random)")
	flag.Func("redirect-uri", "redirect `URI` of the app; may be repeated", func(uri string) error {
		app.RedirectURIs = append(app.RedirectURIs, uri)
		return nil
	})
	flag.Func("service-account", "client_id and secret of a Service Account, as `id:secret`", func(text string) error {
		var ok bool
		account.ClientID, account.ClientSecret, ok = strings.Cut(text, ":")
		if !ok || account.ClientID == "" || account.ClientSecret == "" {
			return errors.New("want id:secret")
		}
		return nil
	})
	flag.Func("deliver", "how the redirect is delivered: `get|post` (default get)", func(text string) error {
		return choose(&options.Deliver, text, map[string]applebusinesstest.Delivery{
			"get": applebusinesstest.DeliverGet, "post": applebusinesstest.DeliverPost,
		})
	})
	flag.Func("consent", "what the user does: `ask|allow|deny` (default ask)", func(text string) error {
		return choose(&options.Consent, text, map[string]applebusinesstest.Consent{
			"ask": applebusinesstest.ConsentAsk, "allow": applebusinesstest.ConsentAllow, "deny": applebusinesstest.ConsentDeny,
		})
	})
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "fakeapple: unknown argument %q\n", flag.Arg(0))
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := applebusinesstest.NewUnstartedServer(&options)
	if app.ClientID == "" {
		app.ClientID = server.App.ClientID
	}
	if app.ClientSecret == "" {
		app.ClientSecret = server.App.ClientSecret
	}
	if len(app.RedirectURIs) == 0 {
		app.RedirectURIs = server.App.RedirectURIs
	}
	if account.ClientID != "" {
		server.RegisterServiceAccount(account)
	}
	server.RegisterApp(app)
	server.Config.Handler = steer(server, &advance)
	if err := server.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "fakeapple: %v\n", err)
		os.Exit(1)
	}
	defer server.Close()
	announce(os.Stdout, server, app)
	<-ctx.Done()
}

func choose[T any](to *T, text string, choices map[string]T) error {
	choice, ok := choices[text]
	if !ok {
		return errors.New("unknown choice")
	}
	*to = choice
	return nil
}

func announce(w io.Writer, server *applebusinesstest.Server, app applebusinesstest.App) {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // leaves an & in a redirect URI readable
	_ = encoder.Encode(struct {
		AuthorizationURL string   `json:"authorization_url"`
		TokenURL         string   `json:"token_url"`
		APIURL           string   `json:"api_url"`
		ClientID         string   `json:"client_id"`
		ClientSecret     string   `json:"client_secret"`
		RedirectURIs     []string `json:"redirect_uris"`
	}{
		server.Endpoint().AuthURL, server.Endpoint().TokenURL, server.URL,
		app.ClientID, app.ClientSecret, app.RedirectURIs,
	})
}

// steer returns the server's handler with the routes for tests beside it.
func steer(server *applebusinesstest.Server, advance *atomic.Int64) http.Handler {
	next, mux := server.Config.Handler, http.NewServeMux()
	handle := func(pattern string, do func(r *http.Request, query url.Values) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := do(r, r.URL.Query()); err != nil {
				http.Error(w, "fakeapple: "+err.Error(), http.StatusBadRequest)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	handle("POST /_fake/fail", func(r *http.Request, query url.Values) error { return fail(server, r, query) })
	handle("POST /_fake/revoke", func(_ *http.Request, query url.Values) error {
		if query.Get("refresh_token") == "" {
			return errors.New("refresh_token is missing")
		}
		server.Revoke(query.Get("refresh_token"))
		return nil
	})
	handle("POST /_fake/advance", func(_ *http.Request, query url.Values) error {
		duration, err := time.ParseDuration(query.Get("duration"))
		if err != nil || duration < 0 {
			return errors.New("want a duration such as 6m")
		}
		advance.Add(int64(duration))
		return nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_fake/") {
			mux.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r) // not behind the mux, which would redirect a path that is not clean
	})
}

func fail(server *applebusinesstest.Server, r *http.Request, query url.Values) error {
	status, err := strconv.Atoi(query.Get("status"))
	if query.Has("status") && (err != nil || status != 0 && (status < 200 || status > 999)) {
		return errors.New("want a status from 200 to 999, or 0 for a redirect")
	}
	reason := applebusiness.Reason(query.Get("reason"))
	if reason == "" {
		return failWith(server, r, status)
	}
	var rows []applebusiness.Entry
	for entry := range applebusiness.Catalog() {
		if entry.Reason != reason {
			continue
		}
		if !query.Has("status") || entry.StatusCode == status {
			server.FailEntry(entry)
			return nil
		}
		rows = append(rows, entry)
	}
	if len(rows) == 0 || status == 0 {
		return fmt.Errorf("no row has the reason %q and this status", reason)
	}
	rows[0].StatusCode = status // one that Apple does not document for it
	server.FailEntry(rows[0])
	return nil
}

func failWith(server *applebusinesstest.Server, r *http.Request, status int) error {
	if status == 0 {
		return errors.New("reason or status is missing")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return errors.New("the body cannot be read")
	}
	header := http.Header{}
	for _, name := range [...]string{"Content-Type", "Retry-After"} {
		if value := r.Header.Get(name); value != "" {
			header.Set(name, value)
		}
	}
	server.FailWith(status, header, string(body))
	return nil
}
