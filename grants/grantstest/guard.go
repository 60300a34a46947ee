package grantstest

import (
	"context"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// guardedStore is the Store under test, whose panics and endless calls are errors. Its calls go to one instance or the
// other, in an order that has no period.
type guardedStore struct {
	*seen
	stores [2]grants.Store
	calls  atomic.Uint32
}

// seen is what was seen of the Store in all checks.
type seen struct {
	slowest    atomic.Int64  // what the slowest call took, in nanoseconds
	stuck      atomic.Bool   // a call has not returned: another one may not either
	set, unset atomic.Uint64 // which bits were set and unset in a Version
}

var errStuck = fmt.Errorf("the call did not return within %v, though its context ended after %v", 2*patience, patience)

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func guard[T any](ctx context.Context, g *guardedStore, call func(context.Context, grants.Store) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	if g.stuck.Load() {
		return *new(T), errStuck
	}
	store := g.stores[bits.OnesCount32(g.calls.Add(1))%2]
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = &panicError{p}
			}
			done <- r
		}()
		r.value, r.err = call(ctx, store)
	}()
	timer := time.NewTimer(2 * patience)
	defer timer.Stop()
	select {
	case r := <-done:
		took := int64(time.Since(start))
		for old := g.slowest.Load(); took > old && !g.slowest.CompareAndSwap(old, took); old = g.slowest.Load() {
		}
		return r.value, r.err
	case <-timer.C:
		g.stuck.Store(true)
		return *new(T), errStuck
	}
}

func guardError(ctx context.Context, g *guardedStore, call func(context.Context, grants.Store) error) error {
	_, err := guard(ctx, g, func(ctx context.Context, s grants.Store) (struct{}, error) { return struct{}{}, call(ctx, s) })
	return err
}

func (g *guardedStore) note(record grants.Record, err error) (grants.Record, error) {
	if err == nil {
		g.set.Or(uint64(record.Version))
		g.unset.Or(^uint64(record.Version))
	}
	return record, err
}

func (g *guardedStore) Load(ctx context.Context, grant string) (grants.Record, error) {
	return g.note(guard(ctx, g, func(ctx context.Context, s grants.Store) (grants.Record, error) { return s.Load(ctx, grant) }))
}

func (g *guardedStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	return guard(ctx, g, func(ctx context.Context, s grants.Store) (grants.Record, error) {
		return s.Lease(ctx, grant, holder, d)
	})
}

func (g *guardedStore) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	return guardError(ctx, g, func(ctx context.Context, s grants.Store) error { return s.Save(ctx, grant, holder, version, token) })
}

func (g *guardedStore) Mark(ctx context.Context, grant, holder string, version int64, mark grants.Mark) error {
	return guardError(ctx, g, func(ctx context.Context, s grants.Store) error { return s.Mark(ctx, grant, holder, version, mark) })
}

func (g *guardedStore) Release(ctx context.Context, grant, holder string) error {
	return guardError(ctx, g, func(ctx context.Context, s grants.Store) error { return s.Release(ctx, grant, holder) })
}

func (g *guardedStore) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	return guardError(ctx, g, func(ctx context.Context, s grants.Store) error { return s.Put(ctx, grant, token) })
}

func (g *guardedStore) Delete(ctx context.Context, grant string) error {
	return guardError(ctx, g, func(ctx context.Context, s grants.Store) error { return s.Delete(ctx, grant) })
}

func (g *guardedStore) Due(ctx context.Context, before time.Duration, limit int) ([]string, error) {
	return guard(ctx, g, func(ctx context.Context, s grants.Store) ([]string, error) { return s.Due(ctx, before, limit) })
}

func (g *guardedStore) Dead(ctx context.Context, since time.Duration, after grants.DeadGrant, limit int) ([]grants.DeadGrant, error) {
	return guard(ctx, g, func(ctx context.Context, s grants.Store) ([]grants.DeadGrant, error) {
		return s.Dead(ctx, since, after, limit)
	})
}
