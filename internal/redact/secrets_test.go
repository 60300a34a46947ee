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
	"net/http"
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
