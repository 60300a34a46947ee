package grants_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

func TestMemoryStore(t *testing.T) {
	t.Run("the zero one works", func(t *testing.T) {
		var store grants.MemoryStore
		_, err := store.Load(t.Context(), "a")
		require.ErrorIs(t, err, grants.ErrNoGrant)
		require.NoError(t, store.Delete(t.Context(), "a"))
		require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{AccessToken: "access"}))
		record, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, "access", record.Token.AccessToken)
	})

	t.Run("a lease by package time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := grants.NewMemoryStore()
			require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh", Expiry: time.Now().Add(time.Hour)}))
			_, err := store.Lease(t.Context(), "a", "first", time.Minute)
			require.NoError(t, err)
			time.Sleep(time.Minute - 1)
			_, err = store.Lease(t.Context(), "a", "second", time.Minute)
			require.ErrorIs(t, err, grants.ErrLeased)
			time.Sleep(time.Nanosecond)
			record, err := store.Lease(t.Context(), "a", "second", time.Minute)
			require.NoError(t, err)
			assert.True(t, record.Unfinished)
			require.NoError(t, store.Release(t.Context(), "a", "second"))
			record, err = store.Load(t.Context(), "a")
			require.NoError(t, err)
			assert.True(t, record.Unfinished, "what Lease has found stays after a Release")
		})
	})

	t.Run("a lease that ran out before a verdict leaves nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := grants.NewMemoryStore()
			require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "refresh"}))
			record, err := store.Lease(t.Context(), "a", "first", time.Second)
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			require.NoError(t, store.Mark(t.Context(), "a", "second", record.Version, grants.Mark{}))
			record, err = store.Load(t.Context(), "a")
			require.NoError(t, err)
			assert.False(t, record.Unfinished)
		})
	})

	t.Run("keeps what the contract names, and no more", func(t *testing.T) {
		store := grants.NewMemoryStore()
		token := (&oauth2.Token{AccessToken: "access", RefreshToken: "refresh", TokenType: "Bearer"}).WithExtra(map[string]any{"id": "extra"})
		require.NoError(t, store.Put(t.Context(), "a", token))
		record, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		assert.Nil(t, record.Token.Extra("id"))

		dead := applebusiness.ParseTokenError(401, nil, []byte(`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`))
		require.NoError(t, store.Mark(t.Context(), "a", "", record.Version, grants.Mark{Dead: dead}))
		record, err = store.Load(t.Context(), "a")
		require.NoError(t, err)
		require.NotSame(t, dead, record.Dead)
		assert.Equal(t, dead.Error(), record.Dead.Error())
		assert.NoError(t, errors.Unwrap(record.Dead))
	})

	t.Run("nothing to store", func(t *testing.T) {
		store := grants.NewMemoryStore()
		require.Error(t, store.Put(t.Context(), "a", nil))
		require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{}))
		record, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		require.Error(t, store.Save(t.Context(), "a", "", record.Version, nil))
	})

	t.Run("an ended context changes nothing", func(t *testing.T) { endedContext(t, grants.NewMemoryStore()) })

	t.Run("keeps no reading of the monotonic clock", func(t *testing.T) {
		store := grants.NewMemoryStore()
		now := time.Now()
		require.Contains(t, now.String(), "m=")
		expiresAt := func() *oauth2.Token { return &oauth2.Token{RefreshToken: "refresh", Expiry: now} }
		require.NoError(t, store.Put(t.Context(), "a", expiresAt()))
		for range 2 {
			record, err := store.Lease(t.Context(), "a", "holder", time.Minute)
			require.NoError(t, err)
			assert.NotContains(t, record.Token.Expiry.String(), "m=")
			assert.True(t, now.Equal(record.Token.Expiry))
			require.NoError(t, store.Save(t.Context(), "a", "holder", record.Version, expiresAt()))
		}
		record, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		require.NoError(t, store.Mark(t.Context(), "a", "", record.Version, grants.Mark{RetryAt: now, Dead: new(applebusiness.Error)}))
		record, err = store.Load(t.Context(), "a")
		require.NoError(t, err)
		assert.NotContains(t, record.RetryAt.String(), "m=")
		dead, err := store.Dead(t.Context(), 0, grants.DeadGrant{}, 1)
		require.NoError(t, err)
		assert.NotContains(t, dead[0].Since.String(), "m=")
	})

	t.Run("times at the ends of the calendar", func(t *testing.T) {
		store := grants.NewMemoryStore()
		for name, expiry := range map[string]time.Time{
			"never": {}, "9999": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), "292277026596": time.Unix(math.MaxInt64-62135596800, 0), "1": time.Time{}.Add(1),
		} {
			require.NoError(t, store.Put(t.Context(), name, &oauth2.Token{Expiry: expiry}))
			record, err := store.Load(t.Context(), name)
			require.NoError(t, err)
			assert.True(t, expiry.Equal(record.Token.Expiry), name)
		}
		for _, before := range []time.Duration{math.MinInt64, 0, math.MaxInt64} {
			due, err := store.Due(t.Context(), before, 10)
			require.NoError(t, err)
			assert.Equal(t, []string{"1"}, due, before)
		}
		for range 2 {
			_, err := store.Lease(t.Context(), "never", "holder", math.MaxInt64)
			require.NoError(t, err)
			_, err = store.Lease(t.Context(), "never", "another", math.MaxInt64)
			require.ErrorIs(t, err, grants.ErrLeased)
		}
	})

	t.Run("what is handed out is a copy", func(t *testing.T) {
		store := grants.NewMemoryStore()
		token := &oauth2.Token{AccessToken: "access", RefreshToken: "refresh"}
		verdict := &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, StatusCode: 401}
		require.NoError(t, store.Put(t.Context(), "a", token))
		token.RefreshToken = "changed"
		record, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		require.NoError(t, store.Mark(t.Context(), "a", "", record.Version, grants.Mark{Dead: verdict}))
		verdict.StatusCode, record.Token.RefreshToken = 1, "changed"
		for range 2 {
			record, err = store.Load(t.Context(), "a")
			require.NoError(t, err)
			assert.Equal(t, "refresh", record.Token.RefreshToken)
			assert.Equal(t, 401, record.Dead.StatusCode)
			list, err := store.Dead(t.Context(), 0, grants.DeadGrant{}, 1)
			require.NoError(t, err)
			assert.Equal(t, 401, list[0].Error.StatusCode)
			record.Token.RefreshToken, record.Dead.StatusCode, list[0].Error.StatusCode = "changed", 1, 1
		}
	})

	t.Run("due at any limit", func(t *testing.T) {
		store := grants.NewMemoryStore()
		for i := range 3 {
			require.NoError(t, store.Put(t.Context(), fmt.Sprint(i), &oauth2.Token{Expiry: time.Now().Add(time.Duration(-i) * time.Minute)}))
		}
		for limit, want := range map[int][]string{-1: {}, 0: {}, 1: {"2"}, 3: {"2", "1", "0"}, math.MaxInt: {"2", "1", "0"}} {
			due, err := store.Due(t.Context(), time.Hour, limit)
			require.NoError(t, err)
			assert.Equal(t, want, due, limit)
		}
	})
}

// The mail job pages through the dead grants by what it was given last, and mails each once.
func TestMemoryStoreDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := grants.NewMemoryStore()
		verdict := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Reason: applebusiness.ErrInvalidRefreshToken}
		condemn := func(name string) {
			record, err := store.Load(t.Context(), name)
			require.NoError(t, err)
			require.NoError(t, store.Mark(t.Context(), name, "", record.Version, grants.Mark{Dead: verdict}))
		}
		names := func(since time.Duration, after grants.DeadGrant, limit int) (names []string, last grants.DeadGrant) {
			list, err := store.Dead(t.Context(), since, after, limit)
			require.NoError(t, err)
			for _, dead := range list {
				record, err := store.Load(t.Context(), dead.Grant)
				require.NoError(t, err)
				assert.Equal(t, record.Version, dead.Version)
				assert.Equal(t, record.Dead, dead.Error)
				names, last = append(names, dead.Grant), dead
			}
			return names, last
		}
		for _, name := range []string{"alive", "b", "a", "c", "", "d"} {
			require.NoError(t, store.Put(t.Context(), name, &oauth2.Token{RefreshToken: name}))
		}
		condemn("d")
		time.Sleep(time.Minute)
		for _, name := range []string{"b", "a", "", "c"} { // at one instant
			condemn(name)
		}

		all, _ := names(0, grants.DeadGrant{}, 10)
		require.Equal(t, []string{"d", "", "a", "b", "c"}, all)
		var paged []string
		for page, last := names(0, grants.DeadGrant{}, 2); len(page) > 0; page, last = names(0, last, 2) {
			paged = append(paged, page...)
		}
		assert.Equal(t, all, paged)
		for limit, want := range map[int]int{-1: 0, 0: 0, 3: 3, math.MaxInt: 5} {
			page, _ := names(0, grants.DeadGrant{}, limit)
			assert.Len(t, page, want, limit)
		}

		page, d := names(time.Minute, grants.DeadGrant{}, 10)
		assert.Equal(t, []string{"d"}, page, "for at least a minute")
		page, _ = names(time.Minute+1, grants.DeadGrant{}, 10)
		assert.Empty(t, page)

		time.Sleep(time.Hour)
		condemn("d")
		_, again := names(time.Minute, grants.DeadGrant{}, 1)
		assert.Equal(t, d, again, "a second verdict does not move it")
		require.NoError(t, store.Put(t.Context(), "d", &oauth2.Token{RefreshToken: "new"}))
		page, _ = names(0, grants.DeadGrant{}, 1)
		assert.Equal(t, []string{""}, page, "a customer who is back is not on the list")
		condemn("d")
		_, again = names(0, grants.DeadGrant{Grant: "c", Since: time.Now().Add(-time.Second)}, 1)
		assert.Equal(t, time.Now().UTC().Round(0), again.Since)
		assert.NotEqual(t, d.Version, again.Version)
		assert.Nil(t, d.Error.Unwrap())
	})
}

// callAll calls each method of store for the grant "a", Put and Delete last, and returns the errors.
func callAll(ctx context.Context, store grants.Store) map[string]error {
	record, loadErr := store.Load(ctx, "a")
	errs := map[string]error{"Load": loadErr}
	_, errs["Lease"] = store.Lease(ctx, "a", "holder", time.Minute)
	errs["Mark"] = store.Mark(ctx, "a", "holder", record.Version, grants.Mark{Unfinished: true})
	errs["Save"] = store.Save(ctx, "a", "holder", record.Version, &oauth2.Token{})
	errs["Release"] = store.Release(ctx, "a", "holder")
	_, errs["Due"] = store.Due(ctx, time.Hour, 1)
	_, errs["Dead"] = store.Dead(ctx, 0, grants.DeadGrant{}, 1)
	errs["Put"] = store.Put(ctx, "a", &oauth2.Token{})
	errs["Delete"] = store.Delete(ctx, "a")
	return errs
}

// endedContext tries that a context which has ended changes nothing.
func endedContext(t *testing.T, store grants.Store) {
	require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{AccessToken: "access"}))
	before, err := store.Load(t.Context(), "a")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for method, err := range callAll(ctx, store) {
		assert.ErrorIs(t, err, context.Canceled, method)
	}
	after, err := store.Load(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, before, after)
}
