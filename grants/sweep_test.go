package grants

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What a Manager remembers nobody sees from outside, except by its memory.
func TestWhatNobodyUsesIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryStore()
		refuse := roundTrip(func(*http.Request) (*http.Response, error) { return nil, errors.New("no network") })
		m := New(&oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: "https://apple.example/token"}}, store, &Options{HTTPClient: &http.Client{Transport: refuse}})
		defer m.Close(context.Background())
		put := func(grant string, left time.Duration) {
			require.NoError(t, store.Put(t.Context(), grant, &oauth2.Token{AccessToken: grant, RefreshToken: grant, Expiry: time.Now().Add(left)}))
		}
		knows := func(grant string) bool {
			_, ok := m.entries.Load(grant)
			return ok
		}

		put("used", 10*time.Hour)
		put("idle", 10*time.Hour)
		put("failing", -time.Minute)
		for _, grant := range []string{"used", "idle"} {
			_, err := m.Token(t.Context(), grant)
			require.NoError(t, err)
		}
		_, err := m.Token(t.Context(), "failing")
		require.ErrorIs(t, err, applebusiness.ErrNoResponse)

		time.Sleep(30 * time.Second)
		assert.True(t, knows("failing"), "not swept yet")
		for range 29 { // less often than the sweep looks
			time.Sleep(2 * time.Minute)
			assert.True(t, knows("used"))
			assert.True(t, knows("idle"))
			_, err := m.Token(t.Context(), "used")
			require.NoError(t, err)
		}
		time.Sleep(3 * time.Minute)
		assert.True(t, knows("used"), "it was used within the hour")
		assert.False(t, knows("idle"), "an hour has passed")
		assert.False(t, knows("failing"), "it never had a token")

		time.Sleep(2 * time.Hour)
		assert.False(t, knows("used"))
		assert.Nil(t, m.sweeper, "nothing is left to sweep")

		put("later", 10*time.Hour)
		_, err = m.Token(t.Context(), "later")
		require.NoError(t, err)
		assert.NotNil(t, m.sweeper)
	})
}

// A failure that Apple wants to be left alone about is remembered for as long as that.
func TestFailureIsRememberedInSpiteOfTheSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(new(oauth2.Config), NewMemoryStore(), nil)
		defer m.Close(context.Background())
		m.mu.Lock()
		e := m.entry("a")
		e.failure, e.until = ErrNoGrant, m.now()+10*time.Minute
		m.mu.Unlock()
		time.Sleep(9 * time.Minute)
		_, ok := m.entries.Load("a")
		assert.True(t, ok)
		time.Sleep(3 * time.Minute)
		_, ok = m.entries.Load("a")
		assert.False(t, ok)
	})
}
