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

	t.Run("an ended context changes nothing", func(t *testing.T) {
		store := grants.NewMemoryStore()
		require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{AccessToken: "access"}))
		before, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = store.Load(ctx, "a")
		require.ErrorIs(t, err, context.Canceled)
		_, err = store.Lease(ctx, "a", "holder", time.Minute)
		require.ErrorIs(t, err, context.Canceled)
		_, err = store.Due(ctx, time.Hour, 1)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, store.Save(ctx, "a", "holder", before.Version, &oauth2.Token{}), context.Canceled)
		require.ErrorIs(t, store.Mark(ctx, "a", "holder", before.Version, grants.Mark{Unfinished: true}), context.Canceled)
		require.ErrorIs(t, store.Put(ctx, "a", &oauth2.Token{}), context.Canceled)
		require.ErrorIs(t, store.Release(ctx, "a", "holder"), context.Canceled)
		require.ErrorIs(t, store.Delete(ctx, "a"), context.Canceled)
		after, err := store.Load(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, before, after)
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
