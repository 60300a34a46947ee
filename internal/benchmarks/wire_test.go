package benchmarks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// client is a way to use x/oauth2.
type client struct {
	name      string
	authStyle oauth2.AuthStyle
	library   bool // whether this library is put around x/oauth2
}

var clients = []client{
	{"x/oauth2 (AuthStyleAutoDetect)", oauth2.AuthStyleAutoDetect, false}, // its default
	{"x/oauth2 (AuthStyleInParams)", oauth2.AuthStyleInParams, false},
	{"with this library", oauth2.AuthStyleInParams, true},
}

// process is what one process of a service holds: a config with what it learnt of the AuthStyle, and an HTTP client.
func (c client) process(server *applebusinesstest.Server) (context.Context, *oauth2.Config) {
	config := &oauth2.Config{
		ClientID:     server.App.ClientID,
		ClientSecret: server.App.ClientSecret,
		RedirectURL:  server.App.RedirectURIs[0],
		Endpoint:     server.Endpoint(),
	}
	config.Endpoint.AuthStyle = c.authStyle
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: 10 * time.Second})
	if c.library {
		ctx = applebusiness.WithJSON(ctx, config.Endpoint.TokenURL)
	}
	return ctx, config
}

// failingExchange returns the requests that an exchange of a wrong code costs at a server that takes nothing but JSON, as
// Apple's does, and what the error is about in the end.
func failingExchange(c client) (int, applebusiness.Reason) {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	ctx, config := c.process(server)
	_, err := config.Exchange(ctx, "wrong", oauth2.VerifierOption("verifier"))
	return len(server.Requests()), applebusiness.ReasonOf(applebusiness.Wrap(err))
}

// revokedGrant returns the requests that 1,000 calls of Token cost once the customer has disconnected.
func revokedGrant(c client) (int, error) {
	server := newFormServer()
	defer server.Close()
	token := expire(server.Connect(server.App.ClientID))
	server.Revoke(token.RefreshToken)

	ctx, config := c.process(server)
	source := config.TokenSource(ctx, token)
	if c.library {
		source = &applebusiness.TokenSource{Source: source, Stored: token, Hold: true}
	}
	for range 1000 {
		if _, err := source.Token(); !saysRevoked(err) {
			return 0, fmt.Errorf("the error for a revoked grant is %v", err)
		}
	}
	return len(server.Requests()), nil
}

// fleetCount is what six processes see whose shared token expires, at a server that rotates refresh tokens.
type fleetCount struct {
	requests, tokens int
	revoked          int // processes that were told so, though the customer has revoked nothing
}

func fleet(c client) (fleetCount, error) {
	server := newFormServer()
	defer server.Close()
	token := expire(server.Connect(server.App.ClientID))
	store := grants.NewMemoryStore()
	if err := store.Put(context.Background(), "customer", token); err != nil {
		return fleetCount{}, err
	}

	var count fleetCount
	var failed error
	var mu sync.Mutex // guards count and failed
	var processes sync.WaitGroup
	for range 6 {
		ctx, config := c.process(server)
		source := config.TokenSource(ctx, token)
		if c.library {
			manager := grants.New(config, store, nil)
			defer manager.Close(ctx)
			source = manager.TokenSource(ctx, "customer")
		}
		processes.Go(func() {
			_, err := source.Token()
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				count.tokens++
			case saysRevoked(err):
				count.revoked++
			default:
				failed = err
			}
		})
	}
	processes.Wait()
	count.requests = len(server.Requests())
	return count, failed
}

func expire(token *oauth2.Token) *oauth2.Token {
	token.Expiry = time.Now().Add(-time.Minute)
	return token
}

// newFormServer returns a fake Apple that takes forms as well: with forms refused, x/oauth2 alone would never get to know
// about the grant.
func newFormServer() *applebusinesstest.Server {
	server := applebusinesstest.NewUnstartedServer(nil)
	apple := server.Config.Handler
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") == "application/x-www-form-urlencoded" {
			body, _ := io.ReadAll(r.Body)
			form, _ := url.ParseQuery(string(body))
			members := make(map[string]string)
			for name := range form {
				members[name] = form.Get(name)
			}
			body, _ = json.Marshal(members)
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
		}
		apple.ServeHTTP(w, r)
	})
	_ = server.Start() // a server that does not listen shows in what the clients return
	return server
}

func TestRequestsOnTheWire(t *testing.T) {
	tests := []struct {
		exchange int
		reason   applebusiness.Reason
		revoked  int
		fleet    fleetCount
	}{
		{2, applebusiness.ErrUnsupportedMediaType, 2000, fleetCount{requests: 12, tokens: 1, revoked: 5}},
		{1, applebusiness.ErrUnsupportedMediaType, 1000, fleetCount{requests: 6, tokens: 1, revoked: 5}},
		{1, applebusiness.ErrInvalidRefreshToken, 1, fleetCount{requests: 1, tokens: 6, revoked: 0}},
	}
	for i, want := range tests {
		t.Run(clients[i].name, func(t *testing.T) {
			if got, reason := failingExchange(clients[i]); got != want.exchange || reason != want.reason {
				t.Errorf("an exchange of a wrong code: got %d, %q, want %d, %q", got, reason, want.exchange, want.reason)
			}
			if got, err := revokedGrant(clients[i]); err != nil || got != want.revoked {
				t.Errorf("a revoked grant: got %d, %v, want %d", got, err, want.revoked)
			}
			if got, err := fleet(clients[i]); err != nil || got != want.fleet {
				t.Errorf("a fleet: got %+v, %v, want %+v", got, err, want.fleet)
			}
		})
	}
}
