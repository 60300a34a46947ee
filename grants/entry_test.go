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

		isSweeping := func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.sweeping
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
		_, err = m.Token(t.Context(), "none")
		require.ErrorIs(t, err, ErrNoGrant)
		assert.False(t, knows("none"))

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
		assert.False(t, isSweeping(), "nothing is left to sweep")

		put("later", 10*time.Hour)
		_, err = m.Token(t.Context(), "later")
		require.NoError(t, err)
		assert.True(t, isSweeping())
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

func TestJitter(t *testing.T) {
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		d := jitter(time.Minute)
		low, high = min(low, d), max(high, d)
	}
	assert.GreaterOrEqual(t, low, 30*time.Second)
	assert.Less(t, low, 35*time.Second)
	assert.LessOrEqual(t, high, time.Minute)
	assert.Greater(t, high, 55*time.Second)
	assert.Zero(t, jitter(0))
}

// slowStore takes a second to answer Load, so that an attempt is under way for as long.
type slowStore struct{ *MemoryStore }

func (s slowStore) Load(ctx context.Context, grant string) (Record, error) {
	time.Sleep(time.Second)
	return s.MemoryStore.Load(ctx, grant)
}

// To the instant: when something in memory is used, refreshed and forgotten.
func TestInstantsOfAnEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(new(oauth2.Config), slowStore{NewMemoryStore()}, nil)
		defer m.Close(context.Background())
		h := &current{token: new(oauth2.Token), expires: 2 * time.Hour}
		used := func(e *entry) time.Duration { return time.Duration(e.used.Load()) }

		e := new(entry)
		assert.True(t, m.touch(e, h, time.Minute-1))
		assert.Zero(t, used(e))
		assert.True(t, m.touch(e, h, time.Minute))
		assert.Equal(t, time.Minute, used(e), "noted once a minute")
		assert.True(t, m.touch(e, h, time.Hour+time.Minute-1))
		e.used.Store(0)
		assert.False(t, m.touch(e, h, time.Hour), "nobody has used it for an hour")
		e.used.Store(int64(2 * time.Hour))
		assert.True(t, m.touch(e, h, 2*time.Hour-1))
		assert.False(t, m.touch(e, h, 2*time.Hour), "it has expired")

		for name, test := range map[string]struct {
			entry *entry
			after time.Duration
		}{
			"a token":                        {func() *entry { e := new(entry); e.current.Store(h); return e }(), time.Hour},
			"a token that was fetched":       {&entry{asked: true, line: lineage{fetched: 1}}, time.Hour + 10*time.Minute},
			"a token that nobody asked for":  {&entry{line: lineage{fetched: time.Minute}}, 11 * time.Minute},
			"a refusal that is not believed": {&entry{row: rowMemory{refusedSince: 1}}, 25*time.Hour + 1},
			"a verdict":                      {&entry{row: rowMemory{verdict: new(verdict)}}, time.Hour + 10*time.Minute},
			"a failure":                      {&entry{until: time.Minute}, time.Minute},
			"a failure that counts":          {&entry{until: time.Minute, failure: errGivenUp, row: rowMemory{sent: true}}, time.Minute + maxMemory},
		} {
			assert.False(t, m.forgettable(test.entry, test.after-1), name)
			assert.True(t, m.forgettable(test.entry, test.after), name)
		}

		isRefreshed := func(e *entry) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return e.attempt != nil
		}
		e = new(entry)
		e.current.Store(h)
		h.refreshAt.Store(int64(m.now() + time.Second))
		m.entries.Store("a", e)
		_, err := m.Token(t.Context(), "a")
		require.NoError(t, err)
		assert.False(t, isRefreshed(e))
		time.Sleep(time.Second)
		_, err = m.Token(t.Context(), "a")
		require.NoError(t, err)
		assert.True(t, isRefreshed(e), "from that instant on")
	})
}
