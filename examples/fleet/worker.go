package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// workerVariable holds the worker's configuration in its environment, as JSON.
const workerVariable = "FLEET_WORKER"

type workerConfig struct {
	Name     string
	Database string
	APIURL   string
	OAuth2   oauth2.Config
	Grants   []string
}

// event is what a worker reports on stdout, one JSON object a line.
type event struct {
	Grant  string
	Store  time.Duration `json:",omitzero"` // how long a Token took that went to the Store
	Window time.Duration `json:",omitzero"` // from Apple's answer to the end of the commit

	Error     string               `json:",omitzero"`
	Action    applebusiness.Action `json:",omitzero"`
	Reason    applebusiness.Reason `json:",omitzero"`
	GrantType string               `json:",omitzero"`
	RequestID string               `json:",omitzero"`
}

// work uses the tokens of all grants until stdin ends.
func work(config workerConfig) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	pool, err := pgxpool.New(ctx, config.Database)
	if err != nil {
		return err
	}
	defer pool.Close()

	transport := http.DefaultTransport.(*http.Transport).Clone()
	api := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	tokens := &http.Client{Transport: namedTransport{transport, config.Name}, Timeout: 10 * time.Second}
	ctx = applebusiness.WithJSON(context.WithValue(ctx, oauth2.HTTPClient, tokens), config.OAuth2.Endpoint.TokenURL)

	var (
		grants sync.WaitGroup
		mu     sync.Mutex
		stdout = json.NewEncoder(os.Stdout)
	)
	report := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		_ = stdout.Encode(e)
	}
	for _, grant := range config.Grants {
		store := &timedStore{Store: NewStore(pool, grant)}
		source := applebusiness.NewSharedTokenSource(ctx, &config.OAuth2, store)
		grants.Go(func() { useGrant(ctx, grant, store, source, api, config.APIURL, report) })
	}
	grants.Wait()
	return nil
}

// useGrant is what a service does with a grant, in a hurry.
func useGrant(ctx context.Context, grant string, store *timedStore, source *applebusiness.SharedTokenSource, api *http.Client, apiURL string, report func(event)) {
	for ctx.Err() == nil {
		store.used, store.window = false, 0
		start := time.Now()
		token, err := source.Token()
		if store.used {
			report(event{Grant: grant, Store: time.Since(start), Window: store.window})
		}
		pause := 50*time.Millisecond + rand.N(100*time.Millisecond)
		switch {
		case errors.Is(err, context.Canceled): // the end
		case err != nil:
			e := event{Grant: grant, Error: err.Error(), Action: applebusiness.Troubleshoot(err).Action, Reason: applebusiness.ReasonOf(err)}
			if failed, ok := errors.AsType[*applebusiness.Error](err); ok {
				e.GrantType, e.RequestID = failed.GrantType, failed.RequestID
			}
			report(e)
			pause = time.Second / 2
		case rand.N(20) == 0:
			status, err := me(ctx, api, apiURL, token)
			switch {
			case status == http.StatusUnauthorized:
				source.Invalidate(token)
				report(event{Grant: grant, Error: "status 401 at /api/v1/me"})
			case err != nil && ctx.Err() == nil:
				report(event{Grant: grant, Error: err.Error()})
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// me asks whose token it is.
func me(ctx context.Context, api *http.Client, apiURL string, token *oauth2.Token) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, apiURL+"/api/v1/me", nil)
	if err != nil {
		return 0, err
	}
	token.SetAuthHeader(r)
	response, err := api.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// namedTransport tells the fake who sends a token request.
type namedTransport struct {
	base http.RoundTripper
	name string
}

func (t namedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(workerHeader, t.name)
	return t.base.RoundTrip(r)
}

// timedStore is a Store that measures. It is used by one goroutine.
type timedStore struct {
	*Store
	used   bool
	window time.Duration
}

func (s *timedStore) Update(ctx context.Context, refresh func(context.Context, *oauth2.Token) (*oauth2.Token, error)) (*oauth2.Token, error) {
	s.used = true
	var answered time.Time
	token, err := s.Store.Update(ctx, func(ctx context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
		token, err := refresh(ctx, stored)
		if err == nil && !isSame(token, stored) {
			answered = time.Now()
		}
		return token, err
	})
	if err == nil && !answered.IsZero() {
		s.window = time.Since(answered)
	}
	return token, err
}
