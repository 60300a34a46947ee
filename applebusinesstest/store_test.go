package applebusinesstest_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// expire returns the token as it is when its time is over.
func expire(token *oauth2.Token) *oauth2.Token {
	expired := *token
	expired.Expiry = time.Now().Add(-time.Minute)
	return &expired
}

func TestMemoryStoreServesAFleet(t *testing.T) {
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, server.Client())
	token := expire(server.Connect(config.ClientID))
	store := applebusinesstest.NewMemoryStore(token)
	fleet := make([]*applebusiness.SharedTokenSource, 6)
	for i := range fleet {
		fleet[i] = applebusiness.NewSharedTokenSource(ctx, config, store)
	}
	all := func(check func(*oauth2.Token, error)) {
		var group sync.WaitGroup
		for _, source := range fleet {
			group.Go(func() { check(source.Token()) })
		}
		group.Wait()
	}

	all(func(got *oauth2.Token, err error) {
		if assert.NoError(t, err) {
			assert.NotEqual(t, token.AccessToken, got.AccessToken)
		}
	})
	assert.Len(t, server.Requests(), 1)
	assert.NotEqual(t, token.RefreshToken, store.Stored().RefreshToken)

	server.Revoke(store.Stored().RefreshToken)
	for _, source := range fleet {
		source.Invalidate(store.Stored())
	}
	all(func(_ *oauth2.Token, err error) {
		assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
		assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
	})
	assert.Len(t, server.Requests(), 2, "a revoked grant costs the fleet one request")

	store.Put(server.Connect(config.ClientID))
	all(func(got *oauth2.Token, err error) {
		if assert.NoError(t, err) {
			assert.Equal(t, store.Stored().AccessToken, got.AccessToken)
		}
	})
	assert.Len(t, server.Requests(), 2)
}

func TestMemoryStoreKeepsItsTokenToItself(t *testing.T) {
	var store applebusinesstest.MemoryStore
	assert.Nil(t, store.Stored())
	token := &oauth2.Token{RefreshToken: "r1"}
	returned, err := store.Update(context.Background(), func(_ context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
		assert.Nil(t, stored)
		return token, nil
	})
	require.NoError(t, err)
	token.RefreshToken, returned.RefreshToken, store.Stored().RefreshToken = "x", "x", "x"
	assert.Equal(t, "r1", store.Stored().RefreshToken)
	store.Put(nil)
	assert.Nil(t, store.Stored())
}

func TestMemoryStoreErrors(t *testing.T) {
	network := errors.New("connection refused")
	revoked := &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for name, test := range map[string]struct {
		ctx        context.Context
		err, want  error
		remembered error
	}{
		"another error is forgotten":  {context.Background(), network, network, nil},
		"a revoked grant is kept":     {context.Background(), revoked, revoked, revoked},
		"an ended context stores not": {ended, nil, context.Canceled, nil},
	} {
		t.Run(name, func(t *testing.T) {
			store := applebusinesstest.NewMemoryStore(&oauth2.Token{RefreshToken: "r1"})
			_, err := store.Update(test.ctx, func(_ context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
				assert.Equal(t, "r1", stored.RefreshToken)
				return &oauth2.Token{RefreshToken: "r2"}, test.err
			})
			assert.Equal(t, test.want, err)
			assert.Equal(t, "r1", store.Stored().RefreshToken)

			other := errors.New("no token")
			_, err = store.Update(context.Background(), func(_ context.Context, stored *oauth2.Token) (*oauth2.Token, error) {
				assert.Equal(t, test.remembered == nil, stored != nil, "a dead token is not offered again")
				return nil, other
			})
			if test.remembered != nil {
				assert.Equal(t, test.remembered, err)
			} else {
				assert.Equal(t, other, err)
			}
		})
	}
}

func TestAccessTokenLife(t *testing.T) {
	for life, want := range map[time.Duration]int64{0: 3600, -time.Second: 3600, time.Millisecond: 3600, 90*time.Second + time.Millisecond: 90} {
		now := time.Now()
		server := applebusinesstest.NewServer(&applebusinesstest.Options{AccessTokenLife: life, Now: func() time.Time { return now }})
		token := server.Connect(server.App.ClientID)
		assert.Equal(t, want, token.ExpiresIn, "%v", life)
		assert.WithinDuration(t, now.Add(time.Duration(want)*time.Second), token.Expiry, 10*time.Second)
		status, _ := me(t, server, "Bearer "+token.AccessToken)
		assert.Equal(t, 200, status)
		now = now.Add(time.Duration(want) * time.Second)
		status, _ = me(t, server, "Bearer "+token.AccessToken)
		assert.Equal(t, 401, status)
		server.Close()
	}
}
