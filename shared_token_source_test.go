package applebusiness_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// memoryStore is a Store whose storing can be made to fail.
type memoryStore struct {
	mu      sync.Mutex
	token   *oauth2.Token
	updates int
	fail    error
	needs   error // recorded: the grant needs reconnecting
}

func (s *memoryStore) Update(ctx context.Context, refresh func(context.Context, *oauth2.Token) (*oauth2.Token, error)) (*oauth2.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates++
	stored := s.token
	if s.needs != nil {
		stored = nil
	}
	token, err := refresh(ctx, stored)
	switch {
	case err != nil && s.needs != nil:
		return nil, s.needs
	case err != nil:
		return nil, err
	case s.fail != nil:
		return nil, s.fail
	case ctx.Err() != nil: // as a database's commit would fail
		return nil, ctx.Err()
	}
	s.token, s.needs = token, nil
	return token, nil
}

// rotatingServer gives each refresh token out once and answers "Invalid refresh_token" to any other.
type rotatingServer struct {
	*jsonOnlyServer
	mu       sync.Mutex
	refresh  string
	n        int
	rejected atomic.Int32
}

func newRotatingServer(t testing.TB) *rotatingServer {
	s := &rotatingServer{refresh: "r0"}
	s.jsonOnlyServer = newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		sent := s.requests()
		if sent[len(sent)-1]["refresh_token"] != s.refresh {
			s.rejected.Add(1)
			w.WriteHeader(401)
			io.WriteString(w, deadBody)
			return
		}
		s.n++
		s.refresh = fmt.Sprint("r", s.n)
		fmt.Fprintf(w, `{"access_token":"a%d","refresh_token":"r%d","expires_in":3600}`, s.n, s.n)
	})
	return s
}

func (s *rotatingServer) source(store applebusiness.Store) *applebusiness.SharedTokenSource {
	return applebusiness.NewSharedTokenSource(s.context(), s.config(), store)
}

func expired(refreshToken string) *oauth2.Token {
	return &oauth2.Token{AccessToken: "old", RefreshToken: refreshToken, Expiry: time.Now().Add(-time.Minute)}
}

func TestFleetRefreshesOnce(t *testing.T) {
	s := newRotatingServer(t)
	store := &memoryStore{token: expired("r0")}
	var group sync.WaitGroup
	for range 6 { // processes
		source := s.source(store)
		for range 20 {
			group.Go(func() {
				token, err := source.Token()
				if assert.NoError(t, err) {
					assert.Equal(t, "a1", token.AccessToken)
					token.AccessToken = "changed" // a copy
				}
			})
		}
	}
	group.Wait()
	assert.Len(t, s.requests(), 1)
	assert.Equal(t, 6, store.updates, "a valid token in memory costs no Store call")
	assert.Equal(t, "r1", store.token.RefreshToken)
}

func TestInvalidateRefreshesOnceForTheFleet(t *testing.T) {
	s := newRotatingServer(t)
	store := &memoryStore{token: &oauth2.Token{AccessToken: "a0", RefreshToken: "r0", Expiry: time.Now().Add(time.Hour)}}
	var sources []*applebusiness.SharedTokenSource
	for range 3 {
		source := s.source(store)
		token, err := source.Token()
		require.NoError(t, err)
		assert.Equal(t, "a0", token.AccessToken, "a stored token that is valid is used without a request")
		sources = append(sources, source)
	}
	late := s.source(store)
	for _, source := range append(sources, late) {
		source.Invalidate(nil)
		source.Invalidate(&oauth2.Token{AccessToken: "a0"})
		token, err := source.Token()
		require.NoError(t, err)
		assert.Equal(t, "a1", token.AccessToken)
		source.Invalidate(&oauth2.Token{AccessToken: "a0"}) // a late 401 to the old token
	}
	for _, source := range sources {
		token, err := source.Token()
		require.NoError(t, err)
		assert.Equal(t, "a1", token.AccessToken)
	}
	assert.Len(t, s.requests(), 1)
}

func TestRevokedGrantInAFleet(t *testing.T) {
	s := newRotatingServer(t)
	store := &memoryStore{token: expired("revoked")}
	source := s.source(store)
	for range 3 {
		_, err := source.Token()
		var e *applebusiness.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, applebusiness.ErrInvalidRefreshToken, e.Reason)
		assert.Equal(t, "refresh_token", e.GrantType)
		assert.Equal(t, []applebusiness.Cause{applebusiness.CauseAccessRevoked, applebusiness.CauseRefreshTokenReplaced}, applebusiness.Troubleshoot(err).Causes)
	}
	assert.Len(t, s.requests(), 1, "a refresh token that Apple has refused is not sent again")

	store.token = expired("r0") // the customer has reconnected
	token, err := source.Token()
	require.NoError(t, err)
	assert.Equal(t, "a1", token.AccessToken)
}

func TestFetchedButNotStored(t *testing.T) {
	for name, expire := range map[string]bool{"valid": false, "expired meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			full := errors.New("disk full")
			s := newRotatingServer(t)
			store := &memoryStore{token: expired("r0"), fail: full}
			source := s.source(store)
			for range 3 {
				_, err := source.Token()
				assert.ErrorIs(t, err, full)
			}
			assert.Len(t, s.requests(), 1)

			// Meanwhile a sibling was refused the old refresh token and recorded that.
			_, err := s.source(&memoryStore{token: expired("r0")}).Token()
			require.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
			store.fail, store.needs = nil, err
			_, err = s.source(store).Token()
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)

			if expire {
				source.Invalidate(&oauth2.Token{AccessToken: "a1"})
			}
			token, err := source.Token()
			require.NoError(t, err)
			want := map[bool]string{false: "a1", true: "a2"}[expire]
			assert.Equal(t, want, token.AccessToken)
			assert.Equal(t, want, store.token.AccessToken)
			assert.NoError(t, store.needs)
		})
	}
	t.Run("the customer has reconnected meanwhile", func(t *testing.T) {
		s := newRotatingServer(t)
		store := &memoryStore{token: expired("r0"), fail: errors.New("disk full")}
		source := s.source(store)
		_, err := source.Token()
		require.Error(t, err)
		store.fail, store.token = nil, &oauth2.Token{AccessToken: "new", RefreshToken: "new", Expiry: time.Now().Add(time.Hour)}
		token, err := source.Token()
		require.NoError(t, err)
		assert.Equal(t, "new", token.AccessToken)
		assert.Equal(t, "new", store.token.AccessToken)
	})
}

func TestRefreshIsFinishedAfterCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		io.WriteString(w, tokenBody)
	})
	store := &memoryStore{token: expired("r")}
	source := applebusiness.NewSharedTokenSource(applebusiness.WithJSON(ctx, s.config().Endpoint.TokenURL), s.config(), store)
	token, err := source.Token()
	require.NoError(t, err)
	assert.Equal(t, "new-access", token.AccessToken)
	assert.Equal(t, "new-refresh", store.token.RefreshToken)

	source.Invalidate(token)
	_, err = source.Token()
	assert.ErrorIs(t, err, context.Canceled, "no call starts after the context's end")
	assert.Len(t, s.requests(), 1)
}

func TestRefreshKeepsTheOldRefreshToken(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, `{"access_token":"a","expires_in":3600}`))
	store := &memoryStore{token: expired("kept")}
	_, err := applebusiness.NewSharedTokenSource(s.context(), s.config(), store).Token()
	require.NoError(t, err)
	assert.Equal(t, "kept", store.token.RefreshToken)
}

// jitterServer answers from memory, so that the clock of a synctest bubble applies.
type jitterServer struct{ fail bool }

func (s *jitterServer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &http.Response{StatusCode: 200, Request: r, Body: http.NoBody}
	if s.fail {
		w.StatusCode = 503
		return w, nil
	}
	w.Body = io.NopCloser(strings.NewReader(tokenBody))
	return w, nil
}

func TestEarlyExpiryIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := &oauth2.Config{Endpoint: applebusiness.OAuth2Endpoint("", "https://api.example")}
		server := &jitterServer{}
		ctx := applebusiness.WithJSON(context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: server}), config.Endpoint.TokenURL)
		expiry := time.Now().Add(time.Hour)
		refreshed := map[time.Duration]int{}
		for range 50 {
			source := applebusiness.NewSharedTokenSource(ctx, config, &memoryStore{token: &oauth2.Token{AccessToken: "a0", RefreshToken: "r0", Expiry: expiry}})
			for {
				token, err := source.Token()
				require.NoError(t, err)
				if token.AccessToken != "a0" {
					break
				}
				time.Sleep(time.Second)
			}
			left := time.Until(expiry)
			assert.GreaterOrEqual(t, left, 8*time.Second)
			assert.LessOrEqual(t, left, 10*time.Second+5*time.Minute)
			refreshed[left.Round(10*time.Second)]++
			expiry = time.Now().Add(time.Hour)
		}
		assert.Greater(t, len(refreshed), 10, "not all in the same second")
	})
}

func TestOutageBeforeTheExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := &oauth2.Config{Endpoint: applebusiness.OAuth2Endpoint("", "https://api.example")}
		server := &jitterServer{fail: true}
		ctx := applebusiness.WithJSON(context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: server}), config.Endpoint.TokenURL)
		source := applebusiness.NewSharedTokenSource(ctx, config, &memoryStore{token: &oauth2.Token{AccessToken: "a0", RefreshToken: "r0", Expiry: time.Now().Add(time.Hour)}})
		_, err := source.Token()
		require.NoError(t, err)
		time.Sleep(time.Hour - 11*time.Second)
		token, err := source.Token()
		require.NoError(t, err, "the token in memory serves until it has expired")
		assert.Equal(t, "a0", token.AccessToken)
		time.Sleep(2 * time.Second)
		_, err = source.Token()
		assert.Equal(t, applebusiness.ActionRetry, applebusiness.Troubleshoot(err).Action)
	})
}

func TestSharedTokenSourceZeroValues(t *testing.T) {
	var none *applebusiness.SharedTokenSource
	var noContext context.Context
	none.Invalidate(&oauth2.Token{})
	ctx, config := context.Background(), &oauth2.Config{}
	for _, source := range []*applebusiness.SharedTokenSource{
		none, {}, applebusiness.NewSharedTokenSource(noContext, config, &memoryStore{}),
		applebusiness.NewSharedTokenSource(ctx, nil, &memoryStore{}), applebusiness.NewSharedTokenSource(ctx, config, nil),
	} {
		_, err := source.Token()
		assert.EqualError(t, err, "applebusiness: the SharedTokenSource lacks a context, a config or a Store")
	}
	_, err := applebusiness.NewSharedTokenSource(ctx, config, &memoryStore{}).Token()
	assert.EqualError(t, err, "applebusiness: no_refresh_token: the Store holds no refresh token")
	_, err = applebusiness.NewSharedTokenSource(ctx, config, emptyStore{}).Token()
	assert.EqualError(t, err, "applebusiness: the Store returned neither a token nor an error")
}

type emptyStore struct{}

func (emptyStore) Update(context.Context, func(context.Context, *oauth2.Token) (*oauth2.Token, error)) (*oauth2.Token, error) {
	return nil, nil
}
