package redact_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

const secret = "rt-7Ks9Qz2LmX4vB8nT"

// carriers has a value with a secret in it for each exported struct of this module, or a text that says why it needs none.
func carriers(t *testing.T) map[string]any {
	token := &oauth2.Token{AccessToken: secret, RefreshToken: secret, TokenType: "Bearer", Expiry: time.Now().Add(time.Hour)}
	failed := &applebusiness.Error{
		Endpoint: secret, Code: secret, Description: "Token " + secret + " is unknown", URI: "https://x.example/" + secret, Reason: secret,
		Parameter: secret, GrantType: secret, RequestID: secret,
	}
	config := &oauth2.Config{ClientID: "id", ClientSecret: secret, Endpoint: oauth2.Endpoint{TokenURL: "https://api.example/" + secret}}
	store := grants.NewMemoryStore()
	require.NoError(t, store.Put(context.Background(), "acme", token))
	client := &http.Client{Transport: &keeper{secret}}
	manager := grants.New(config, store, &grants.Options{HTTPClient: client})
	t.Cleanup(func() { _ = manager.Close(context.Background()) })
	_, err := manager.Token(context.Background(), "acme")
	require.NoError(t, err)
	dir, err := grants.NewDirStore(t.TempDir(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	require.NoError(t, dir.Put(context.Background(), "acme", token))
	return map[string]any{
		"applebusiness.Advice":   "words of this package",
		"applebusiness.Entry":    "Apple's table",
		"applebusiness.Error":    failed,
		"applebusiness.Redirect": applebusiness.Redirect{Code: secret, State: secret},
		"applebusiness.TokenSource": &applebusiness.TokenSource{
			Source: oauth2.StaticTokenSource(token), Stored: token, OnToken: func(*oauth2.Token) error { return errors.New(secret) },
		},
		"applebusiness.Transport": &applebusiness.Transport{TokenURL: "https://api.example/?" + secret, Base: client.Transport},

		"grants.Connection":       "Apple's names of a company",
		"grants.DeadGrant":        grants.DeadGrant{Grant: "acme", Error: failed},
		"grants.DirStore":         dir,
		"grants.Manager":          manager,
		"grants.Manager's client": manager.Client("acme"),
		"grants.Mark":             grants.Mark{Dead: failed},
		"grants.MemoryStore":      store,
		"grants.Options": grants.Options{
			HTTPClient: client, ClientSecret: func(context.Context) (string, error) { return secret, nil },
		},
		"grants.Record":     grants.Record{Token: token, Mark: grants.Mark{Dead: failed}},
		"grants.Refresh":    grants.Refresh{Grant: "acme", Err: failed},
		"grants.StoreError": &grants.StoreError{Grant: "acme", Err: &foreign{secret}},

		"applebusinesstest.App":            "made up by the fake, for a test to read",
		"applebusinesstest.Failure":        "written by a test",
		"applebusinesstest.Options":        "written by a test",
		"applebusinesstest.Request":        "what the fake was sent, for a test to read",
		"applebusinesstest.Server":         "made up by the fake, for a test to read",
		"applebusinesstest.ServiceAccount": "made up by the fake, for a test to read",
	}
}

// keeper is a RoundTripper that holds a secret.
type keeper struct{ Secret string }

func (k *keeper) RoundTrip(*http.Request) (*http.Response, error) { return nil, &foreign{k.Secret} }

// foreign is an error that exports what it says.
type foreign struct{ Text string }

func (f *foreign) Error() string { return "the server says " + f.Text }

// No verb of fmt, no handler of slog and no error text shows what the types of this module carry. The types are found in the
// source, so that a new one is not forgotten.
func TestCarriersDoNotShowWhatTheyCarry(t *testing.T) {
	t.Parallel()
	known := carriers(t)
	for _, folder := range []string{".", "grants", "grants/grantstest", "applebusinesstest"} {
		for _, name := range exportedStructs(t, "../../"+folder) {
			assert.Contains(t, known, name, "give it a value with a secret in it, or say why it needs none")
		}
	}
	for name, carrier := range known {
		if _, isReason := carrier.(string); isReason {
			continue
		}
		t.Run(name, func(t *testing.T) { assertHidden(t, carrier, secret) })
	}
}

func exportedStructs(t *testing.T, folder string) (names []string) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.go"))
	require.NoError(t, err)
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(file, func(node ast.Node) bool {
			spec, ok := node.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if _, isStruct := spec.Type.(*ast.StructType); isStruct && spec.Name.IsExported() && !strings.HasSuffix(path, "_test.go") {
				names = append(names, file.Name.Name+"."+spec.Name.Name)
			}
			return false
		})
	}
	return names
}

// assertHidden looks for the secrets in every rendering of carrier.
func assertHidden(t *testing.T, carrier any, secrets ...string) {
	t.Helper()
	for _, rendering := range renderings(carrier) {
		for _, secret := range secrets {
			if shows(rendering, secret) {
				t.Fatalf("shows %q: %.300s", secret, rendering)
			}
		}
	}
}

// renderings returns what fmt and slog make of v, of what it points to, and of what holds it.
func renderings(v any) (all []string) {
	values := []any{v, []any{v}, map[string]any{"k": v}, struct{ V any }{v}, &struct{ V any }{v}}
	if value := reflect.ValueOf(v); value.Kind() == reflect.Pointer && !value.IsNil() && !holdsLock(value.Type().Elem()) {
		values = append(values, value.Elem().Interface(), struct{ V any }{value.Elem().Interface()})
	}
	if err, ok := v.(error); ok {
		values = append(values, applebusiness.LogAttr(err), applebusiness.LogAttr(fmt.Errorf("customer 7: %w", err)))
		all = append(all, err.Error(), fmt.Sprint(applebusiness.Troubleshoot(err)), applebusiness.Label(err))
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} { // of other types, which fmt asks for no more
			all = append(all, fmt.Sprintf(format, fmt.Errorf("x: %w", err)), fmt.Sprintf(format, errors.Join(err, errors.New("x"))))
		}
		if text, jsonErr := json.Marshal(err); jsonErr == nil {
			all = append(all, string(text))
		}
	}
	for i, v := range values {
		for verb := 'A'; verb <= 'z'; verb++ {
			if verb == 'p' || verb == 'w' {
				continue // of what is no pointer, and outside Errorf: go vet refuses them, and fmt asks no Formatter
			}
			for _, flag := range []string{"", "+", "#", " ", "0", "-40."} {
				all = append(all, fmt.Sprintf("%"+flag+string(verb), v))
			}
		}
		all = append(all, logged(func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }, v))
		if i == 0 || !isWish(values[0]) {
			all = append(all, logged(func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) }, v))
		}
	}
	return all
}

func logged(handler func(io.Writer) slog.Handler, v any) string {
	var line bytes.Buffer
	slog.New(handler(&line)).Error("x", "v", v, slog.Group("g", "v", v))
	return line.String()
}

// isWish reports whether it is documented that the JSON of v holds what v carries.
func isWish(v any) bool {
	switch v.(type) {
	case applebusiness.Redirect, grants.Record:
		return true
	}
	return false
}

// holdsLock reports whether a value of the type must not be copied.
func holdsLock(kind reflect.Type) bool {
	if kind.Kind() != reflect.Struct {
		return false
	}
	if kind.PkgPath() == "sync" || kind.PkgPath() == "sync/atomic" {
		return true
	}
	for i := range kind.NumField() {
		if holdsLock(kind.Field(i).Type) {
			return true
		}
	}
	return false
}

// shows reports whether text holds the secret, as it is or as a verb of fmt, JSON or an encoding writes it.
func shows(text, secret string) bool {
	bytes := []byte(secret)
	forms := []string{secret, base64.StdEncoding.EncodeToString(bytes)}
	for _, format := range []string{"%x", "%X", "% x", "% X", "%d", "%o", "%b", "%U", "%O"} {
		forms = append(forms, strings.Trim(fmt.Sprintf(format, bytes), "[]"))
	}
	text = strings.ToLower(text)
	for _, form := range forms {
		if strings.Contains(text, strings.ToLower(form)) {
			return true
		}
	}
	return false
}

// What is sent, and must not be seen again.
var sent = map[string]string{
	"refresh_token": "rt-7Ks9Qz2LmX4vB8nT", "client_secret": "cs+0c5f1/aD29e=%zQ", "code": "c0de.5tG7~hJ9_kL2", "code_verifier": "v-Zx81Yw73Vu65Ts47Rq",
	"state": "st-4Pq8Wm1Xn5Yb", "client_id": "BUSINESSAPI.3f9d02c7",
}

// planted returns every encoding of a secret, and some of its halves.
func planted(secret string) map[string]string {
	all := make(map[string]string)
	for name, encode := range encodings {
		all[name] = encode(secret)
		switch name {
		case "plain", "upper case", "form", "base64", "hex", "reversed":
			all[name+" of the first half"] = encode(secret[:len(secret)/2+1])
			all[name+" of the second half"] = encode(secret[len(secret)/2-1:])
		}
	}
	return all
}

// assertNothingIsShown looks for the forms of a secret in what a person or a log reads of err.
func assertNothingIsShown(t *testing.T, forms map[string]string, err error, more ...string) {
	t.Helper()
	require.Error(t, err)
	texts := append(more, err.Error(), applebusiness.Label(err), applebusiness.Troubleshoot(err).Remedy)
	for _, v := range []any{err, fmt.Errorf("customer 7: %w", err), struct{ Err error }{err}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			texts = append(texts, fmt.Sprintf(format, v))
		}
		texts = append(texts, logged(func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }, v), logged(func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) }, v))
		if err, ok := v.(error); ok {
			texts = append(texts, logged(func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) }, applebusiness.LogAttr(err)))
		}
		if text, err := json.Marshal(v); err == nil {
			texts = append(texts, string(text))
		}
	}
	text := strings.ToLower(strings.Join(texts, "\n"))
	for encoding, form := range forms {
		if at := strings.Index(text, strings.ToLower(form)); at >= 0 {
			t.Fatalf("shows %q (%s): %s", form, encoding, text[max(0, at-100):min(len(text), at+100)])
		}
	}
}

// tokenRequest sends a refresh or an exchange through a Transport to a server, and returns what OnError and the caller get.
func tokenRequest(server *httptest.Server, isExchange bool) (errs []error) {
	config := &oauth2.Config{ClientID: sent["client_id"], ClientSecret: sent["client_secret"], Endpoint: applebusiness.OAuth2Endpoint(server.URL, server.URL)}
	client := &http.Client{Transport: &applebusiness.Transport{TokenURL: config.Endpoint.TokenURL, OnError: func(e *applebusiness.Error) { errs = append(errs, e) }}}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client)
	var err error
	if isExchange {
		_, err = config.Exchange(ctx, sent["code"], oauth2.VerifierOption(sent["code_verifier"]))
	} else {
		_, err = config.TokenSource(ctx, &oauth2.Token{RefreshToken: sent["refresh_token"]}).Token()
	}
	return append(errs, applebusiness.Wrap(err))
}

// Whatever a server puts where, nothing that was sent is seen again.
func TestNothingThatAServerRepeatsIsShown(t *testing.T) {
	t.Parallel()
	body := func(format string) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, echo string) {
			quoted, _ := json.Marshal(echo)
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, strings.ReplaceAll(format, "%s", strings.Trim(string(quoted), `"`)))
		}
	}
	for name, answer := range map[string]func(w http.ResponseWriter, echo string){
		"description":         body(`{"error":"invalid_grant","error_description":"Token %s is unknown"}`),
		"a whole description": body(`{"error":"invalid_grant","error_description":"%s"}`),
		"a row's parameter":   body(`{"error":"invalid_request","error_description":"OAuth 2.0 Parameter: %s missing"}`),
		"a row's list":        body(`{"error":"invalid_scope","error_description":"scope is invalid. Accepted values: %s"}`),
		"code":                body(`{"error":"%s","error_description":"d"}`),
		"a part of a code":    body(`{"error":"bad_%s"}`),
		"URI":                 body(`{"error":"invalid_client","error_uri":"https://x.example/%s"}`),
		"the resource API":    body(`[{"code":"%s","message":"Token %s"}]`),
		"errors":              body(`{"errors":[{"code":"%s","detail":"%s","title":"%s","id":"%s"}]}`),
		"a nested error":      body(`{"error":{"code":"%s","message":"%s"}}`),
		"names of members":    body(`{"%s":"%s","error":"x"}`),
		"a form":              body(`error=%s&error_description=%s`),
		"text":                body(`%s`),
		"HTML":                body(`<html><title>%s</title>%s</html>`),
		"broken JSON":         body(`{"error":"%s","error_description":"%s`),
		"request id":          func(w http.ResponseWriter, echo string) { w.Header().Set("apple-request-id", echo); w.WriteHeader(400) },
		"retry-after":         func(w http.ResponseWriter, echo string) { w.Header().Set("Retry-After", echo); w.WriteHeader(503) },
		"content type":        func(w http.ResponseWriter, echo string) { w.Header().Set("Content-Type", echo); w.WriteHeader(401) },
		"a success without token": func(w http.ResponseWriter, echo string) {
			_, _ = io.WriteString(w, `{"token":"`+url.QueryEscape(echo)+`"}`)
		},
		"a 200 that is an error": func(w http.ResponseWriter, echo string) {
			_, _ = io.WriteString(w, `{"error":"invalid_grant","error_description":"`+url.QueryEscape(echo)+`"}`)
		},
		"location": func(w http.ResponseWriter, echo string) {
			w.Header().Set("Location", "https://portal.example/?b="+url.QueryEscape(echo))
			w.WriteHeader(http.StatusFound)
		},
		"no HTTP": func(w http.ResponseWriter, echo string) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(conn, echo+"\r\n\r\n")
			_ = conn.Close()
		},
		"reason phrase": func(w http.ResponseWriter, echo string) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(conn, "HTTP/1.1 400 "+echo+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_ = conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var echo string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				answer(w, echo)
			}))
			defer server.Close()
			for _, field := range []string{"refresh_token", "client_secret", "code"} {
				secret := sent[field]
				forms := planted(secret)
				for _, echo = range forms {
					for _, err := range tokenRequest(server, field == "code") {
						assertNothingIsShown(t, forms, err)
						e, ok := errors.AsType[*applebusiness.Error](err)
						require.True(t, ok)
						assert.NotContains(t, fmt.Sprintf("%q", []string{string(e.Code), e.Description, e.URI, e.Parameter, e.RequestID}), secret)
					}
				}
			}
		})
	}
}

// Nor what somebody puts into the redirect.
func TestNothingOfARedirectIsShown(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{sent["code"], sent["state"]} {
		forms := planted(secret)
		for _, echo := range forms {
			for _, query := range []string{
				"error=%s&error_description=%s&error_uri=%s&state=", "error=invalid_request&error_description=Code+%s+is+unknown&state=", "error=access_denied&%s=%s&state=",
				"error=invalid_request&error_description=OAuth+2.0+Parameter:+%s+missing&state=", "code=%s&state=%s", "code=%s&state=", "code=%s&code=%s&state=", "%s", "code=%s%zz&state=",
			} {
				query = strings.ReplaceAll(query, "%s", url.QueryEscape(echo))
				if strings.HasSuffix(query, "state=") {
					query += url.QueryEscape(sent["state"])
				}
				if _, err := applebusiness.ParseRedirect(query); err != nil {
					assertNothingIsShown(t, forms, err)
				}
				for _, expected := range []string{sent["state"], "another", ""} {
					if _, err := applebusiness.VerifyRedirect(httptest.NewRequest(http.MethodPost, "/cb?"+query, nil), expected); err != nil {
						assertNothingIsShown(t, forms, err)
					}
				}
			}
		}
	}
}

// Nor what a database, a key service, a proxy or a RoundTripper says, or what stands in a row.
func TestNothingThatForeignCodeSaysIsShown(t *testing.T) {
	var echo string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.1 407 "+echo+"\r\nProxy-Authenticate: "+echo+"\r\n\r\n")
		_ = conn.Close()
	}))
	defer proxy.Close()
	proxied := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }}
	for _, secret := range []string{sent["refresh_token"], sent["client_secret"]} {
		forms := planted(secret)
		for _, echo = range forms {
			says := errors.New("cannot store " + echo + " here")
			for _, err := range []error{
				says, fmt.Errorf("%s: %w (%s)", echo, applebusiness.ErrServer, echo), fmt.Errorf("customer %s: %w", echo, &applebusiness.Error{StatusCode: 503}),
				&url.Error{Op: "Post", URL: "https://x.example/?" + url.QueryEscape(echo), Err: says}, fmt.Errorf("oauth2: cannot parse json: %s", echo), &net.OpError{Op: "dial", Err: says},
			} {
				assertNothingIsShown(t, forms, errors.New("what LogAttr makes of it"), logged(func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }, applebusiness.LogAttr(err)), fmt.Sprint(applebusiness.Label(err), applebusiness.Troubleshoot(err)))
			}
			dir, err := grants.NewDirStore(t.TempDir(), keyService{says})
			require.NoError(t, err)
			assertNothingIsShown(t, forms, dir.Put(context.Background(), "acme", &oauth2.Token{RefreshToken: secret}))
			require.NoError(t, dir.Close())
			verdict := &applebusiness.Error{
				Endpoint: applebusiness.Endpoint(echo), StatusCode: 400, Code: applebusiness.Code(echo), Description: "Token " + echo, Reason: applebusiness.Reason(echo),
				GrantType: echo, RequestID: echo, URI: "https://x.example/" + echo, Parameter: echo,
			}
			spent := &oauth2.Token{AccessToken: "at", RefreshToken: sent["refresh_token"], Expiry: time.Now().Add(-time.Hour)}
			for _, test := range map[string]struct {
				store  grants.Store
				base   http.RoundTripper
				secret func(context.Context) (string, error)
			}{
				"an error of Load":           {store: &fixedStore{err: says}},
				"a panic of Load":            {store: &fixedStore{panics: echo}},
				"a verdict":                  {store: &fixedStore{record: grants.Record{Token: spent, Version: 1, Mark: grants.Mark{Dead: verdict}}}},
				"a proxy":                    {store: &fixedStore{record: grants.Record{Token: spent, Version: 1}}, base: proxied},
				"an error of a RoundTripper": {store: &fixedStore{record: grants.Record{Token: spent, Version: 1}}, base: roundTripper(func() error { return says })},
				"an error of ClientSecret":   {store: &fixedStore{record: grants.Record{Token: spent, Version: 1}}, secret: func(context.Context) (string, error) { return "", says }},
				"a panic of ClientSecret":    {store: &fixedStore{record: grants.Record{Token: spent, Version: 1}}, secret: func(context.Context) (string, error) { panic(echo) }},
				"a panic of a RoundTripper":  {store: &fixedStore{record: grants.Record{Token: spent, Version: 1}}, base: roundTripper(func() error { panic(echo) })},
			} {
				var log bytes.Buffer
				config := &oauth2.Config{ClientID: sent["client_id"], ClientSecret: sent["client_secret"], Endpoint: applebusiness.OAuth2Endpoint("", "https://127.0.0.1:9")}
				manager := grants.New(config, test.store, &grants.Options{
					HTTPClient: &http.Client{Transport: test.base}, ClientSecret: test.secret, Logger: slog.New(slog.NewTextHandler(&log, nil)),
					OnRefresh: func(grants.Refresh) { panic(echo) },
				})
				_, err := manager.Token(context.Background(), "acme")
				_ = manager.Close(context.Background())
				assertNothingIsShown(t, forms, err, log.String())
			}
		}
	}
}

// Nor what the endpoint says that is asked whose a token is.
func TestNothingThatMeSaysIsShown(t *testing.T) {
	var echo string
	status := http.StatusOK
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/oauth2/token", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": sent["code"], "refresh_token": sent["refresh_token"], "token_type": "Bearer", "expires_in": 3600})
	})
	mux.HandleFunc("GET /api/v1/me", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("apple-request-id", echo)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": echo, "error_description": "Token " + echo, "org": echo})
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	config := &oauth2.Config{ClientID: sent["client_id"], ClientSecret: sent["client_secret"], Endpoint: applebusiness.OAuth2Endpoint(server.URL, server.URL)}
	for _, secret := range []string{sent["code"], sent["refresh_token"]} {
		forms := planted(secret)
		for _, echo = range forms {
			for _, status = range []int{http.StatusOK, http.StatusForbidden} {
				var log bytes.Buffer
				manager := grants.New(config, grants.NewMemoryStore(), &grants.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				r := httptest.NewRequest(http.MethodPost, "/cb?code="+url.QueryEscape(sent["code"])+"&state="+sent["state"], nil)
				_, err := manager.Connect(r, sent["state"], sent["code_verifier"])
				_ = manager.Close(context.Background())
				assertNothingIsShown(t, forms, err, log.String())
			}
		}
	}
}

// keyService is an AEAD that fails.
type keyService struct{ err error }

func (k keyService) Encrypt([]byte, []byte) ([]byte, error) { return nil, k.err }
func (k keyService) Decrypt([]byte, []byte) ([]byte, error) { return nil, k.err }

type roundTripper func() error

func (f roundTripper) RoundTrip(*http.Request) (*http.Response, error) { return nil, f() }

// fixedStore is a Store that always says the same.
type fixedStore struct {
	grants.Store
	record grants.Record
	err    error
	panics string
}

func (s *fixedStore) Load(context.Context, string) (grants.Record, error) {
	if s.panics != "" {
		panic(s.panics)
	}
	return s.record, s.err
}

func (s *fixedStore) Lease(context.Context, string, string, time.Duration) (grants.Record, error) {
	return s.record, s.err
}

func (s *fixedStore) Mark(context.Context, string, string, int64, grants.Mark) error { return s.err }
func (s *fixedStore) Release(context.Context, string, string) error                  { return s.err }
