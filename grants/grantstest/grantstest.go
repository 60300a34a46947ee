// Package grantstest tries the contract of [grants.Store] on an implementation of it.
package grantstest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

const prefix = "applebusiness/grants/grantstest: "

const (
	long     = time.Minute            // a lease that outlasts the test
	moderate = 2 * time.Second        // a lease that is still running a moment later, even where it was rounded to a second
	measured = 3 * time.Second        // a lease whose end is timed: a second of rounding leaves more than half of it
	short    = 300 * time.Millisecond // a lease that is waited for
	rounding = 1500 * time.Millisecond
	lag      = 2 * time.Second // what Due may be stale
	pause    = 20 * time.Millisecond
	patience = 10 * time.Second // for one call
)

// TestStore tries each sentence of the contract of [grants.Store] on store. It returns nil, or an error for each sentence
// that does not hold, joined by [errors.Join]: the method, the sentence in quotes, and what was done and seen.
//
//	func TestMyStore(t *testing.T) {
//		if err := grantstest.TestStore(NewMyStore(database)); err != nil {
//			t.Fatal(err)
//		}
//	}
//
// It uses grants of random names only, and deletes them at the end, so that it can run on a database that others use. It
// takes about four seconds, most of them spent on waiting for leases to run out, and runs in a bubble of testing/synctest
// if the Store does. Each call gets a context of ten seconds. Run it under the race detector: it calls from many
// goroutines.
//
// It leaves a Store the freedom that a database needs. A time may be rounded to a second; [grants.Store.Due] may be stale
// for two; a deleted grant may be ErrNoGrant to Save and Mark; a context that has ended may be ignored by a method that
// does not wait. What one process cannot see is not tried: that Load reads from the primary, that a version does not repeat
// after a failover, and that the clock is the same for all processes. For the latter, run it on a host whose clock is off.
func TestStore(store grants.Store) error {
	if store == nil {
		return errors.New(prefix + "the Store is nil")
	}
	guarded := &guardedStore{store: store}
	run := "grantstest-" + strings.ToLower(rand.Text()) + "-"
	all := make([]*check, len(checks))
	for i := range checks {
		all[i] = &check{store: guarded, prefix: fmt.Sprintf("%s%d-", run, i)}
	}

	// The first one is tried alone: if nothing works, one error says so.
	all[0].run(checks[0])
	if len(all[0].violations) == 0 {
		var wg sync.WaitGroup
		for i := 1; i < len(checks); i++ {
			wg.Go(func() { all[i].run(checks[i]) })
		}
		wg.Wait()
	}

	var errs []error
	reported := make(map[sentence]bool)
	for _, c := range all {
		c.deleteGrants()
		for _, violation := range c.violations {
			if !reported[violation.sentence] {
				reported[violation.sentence] = true
				errs = append(errs, violation)
			}
		}
	}
	return errors.Join(errs...)
}

// sentence is a sentence of the contract, or the part of it that is tried.
type sentence struct{ of, text string }

// violation is a sentence that does not hold.
type violation struct {
	sentence
	seen string
}

func (v *violation) Error() string {
	return fmt.Sprintf("%s%s: %q: %s", prefix, v.of, v.text, v.seen)
}

// check is one run of one function of checks. Its methods are for one goroutine.
type check struct {
	store      *guardedStore
	prefix     string // of the names of its grants
	grants     []string
	violations []*violation
}

type stop struct{}

func (c *check) run(try func(*check)) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(stop); !ok {
				panic(p)
			}
		}
	}()
	try(c)
}

// expect notes a violation of s unless ok.
func (c *check) expect(ok bool, s sentence, seen string, args ...any) bool {
	if !ok {
		c.violations = append(c.violations, &violation{s, fmt.Sprintf(seen, args...)})
	}
	return ok
}

// require is expect, and ends the check unless ok: what follows would say nothing.
func (c *check) require(ok bool, s sentence, seen string, args ...any) {
	if !c.expect(ok, s, seen, args...) {
		panic(stop{})
	}
}

// expectError notes a violation of s unless err is one of targets.
func (c *check) expectError(err error, s sentence, done string, targets ...error) bool {
	names := make([]string, len(targets))
	for i, target := range targets {
		if errors.Is(err, target) {
			return true
		}
		names[i] = nameOf(target)
	}
	return c.expect(false, s, "%s returned %s, want %s", done, show(err), strings.Join(names, " or "))
}

// requireNil is require for a call that has to succeed.
func (c *check) requireNil(err error, s sentence, done string) {
	c.require(err == nil, s, "%s returned %s, want nil", done, show(err))
}

func nameOf(target error) string {
	switch target {
	case grants.ErrNoGrant:
		return "ErrNoGrant"
	case grants.ErrLeased:
		return "ErrLeased"
	case grants.ErrConflict:
		return "ErrConflict"
	}
	return show(target)
}

func show(err error) string {
	switch {
	case err == nil:
		return "nil"
	case errors.Is(err, grants.ErrNoGrant), errors.Is(err, grants.ErrLeased), errors.Is(err, grants.ErrConflict):
		return nameOf(err)
	}
	return fmt.Sprintf("%q", err.Error())
}

// name returns a new grant's name, and remembers to delete it.
func (c *check) name() string {
	grant := fmt.Sprintf("%s%d-a", c.prefix, len(c.grants))
	c.grants = append(c.grants, grant)
	return grant
}

// put makes a grant with token, and returns its name and its record.
func (c *check) put(token *oauth2.Token) (string, grants.Record) {
	grant := c.name()
	return grant, c.putAs(grant, token)
}

func (c *check) putAs(grant string, token *oauth2.Token) grants.Record {
	c.requireNil(c.store.Put(context.Background(), grant, token), putStores, "Put")
	return c.load(grant)
}

// load returns the record of a grant that was put.
func (c *check) load(grant string) grants.Record {
	record, err := c.store.Load(context.Background(), grant)
	c.requireNil(err, loadLast, "Load after a Put")
	c.require(record.Token != nil, loadLast, "Load returned a Record without a Token")
	return record
}

// lease gives the grant to holder, which has to succeed.
func (c *check) lease(grant, holder string, d time.Duration) grants.Record {
	record, err := c.store.Lease(context.Background(), grant, holder, d)
	c.requireNil(err, leaseGives, "Lease of a grant that nobody else holds")
	c.require(record.Token != nil, leaseGives, "Lease returned a Record without a Token")
	return record
}

// leaseTo lets another holder have the grant as soon as the lease that runs out within d has done so.
func (c *check) leaseTo(grant, holder string, d time.Duration) grants.Record {
	var record grants.Record
	c.require(c.within(d+c.tolerance()+lag, func() bool {
		var err error
		record, err = c.store.Lease(context.Background(), grant, holder, long)
		return err == nil && record.Token != nil
	}), leaseDuration, "a lease of %v still ran %v later", d, d+c.tolerance()+lag)
	return record
}

// expectLeased notes a violation of s unless somebody holds the grant.
func (c *check) expectLeased(grant string, s sentence, done string) bool {
	_, err := c.store.Lease(context.Background(), grant, "somebody else", long)
	return c.expectError(err, s, done+", then Lease by another holder", grants.ErrLeased)
}

// expectFree notes a violation of s unless nobody holds the grant. It leaves the grant to a new holder.
func (c *check) expectFree(grant string, s sentence, done string) {
	_, err := c.store.Lease(context.Background(), grant, "the next", long)
	c.expect(err == nil, s, "%s, then Lease by another holder returned %s, want nil", done, show(err))
}

// expectToken notes a violation of s for each field of want that got has lost.
func (c *check) expectToken(want, got *oauth2.Token, s sentence, done string) {
	const lost = "%s, and the token's %s is not what was stored"
	c.expect(got.AccessToken == want.AccessToken, s, lost, done, "AccessToken")
	c.expect(got.RefreshToken == want.RefreshToken, s, lost, done, "RefreshToken")
	c.expect(got.TokenType == want.TokenType, s, lost, done, "TokenType")
	c.expectTime(want.Expiry, got.Expiry, recordExpiry, done+", and the token's Expiry")
}

// expectTime notes a violation of s unless got is want, but for rounding and the time that the calls took.
func (c *check) expectTime(want, got time.Time, s sentence, done string) {
	if want.IsZero() || got.IsZero() {
		c.expect(want.IsZero() == got.IsZero(), s, "%s is %v, want %v", done, got, want)
		return
	}
	off := got.Sub(want)
	c.expect(off.Abs() <= c.tolerance(), s, "%s is off by %v", done, off.Round(time.Millisecond))
}

// expectMark notes a violation of s for each member of want that got has lost.
func (c *check) expectMark(want, got grants.Mark, s sentence, done string) {
	if c.expect((want.Dead == nil) == (got.Dead == nil), s, "%s, and whether Dead is nil is %t, want %t", done, got.Dead == nil, want.Dead == nil) && want.Dead != nil {
		const lost = "%s, and Dead's %s is %q, want %q"
		c.expect(got.Dead.Endpoint == want.Dead.Endpoint, deadKept, lost, done, "Endpoint", got.Dead.Endpoint, want.Dead.Endpoint)
		c.expect(got.Dead.StatusCode == want.Dead.StatusCode, deadKept, "%s, and Dead's StatusCode is %d, want %d", done, got.Dead.StatusCode, want.Dead.StatusCode)
		c.expect(got.Dead.Code == want.Dead.Code, deadKept, lost, done, "Code", string(got.Dead.Code), string(want.Dead.Code))
		c.expect(got.Dead.Description == want.Dead.Description, deadKept, lost, done, "Description", got.Dead.Description, want.Dead.Description)
		c.expect(got.Dead.Reason == want.Dead.Reason, deadKept, lost, done, "Reason", string(got.Dead.Reason), string(want.Dead.Reason))
		c.expect(got.Dead.GrantType == want.Dead.GrantType, deadKept, lost, done, "GrantType", got.Dead.GrantType, want.Dead.GrantType)
		c.expect(got.Dead.RequestID == want.Dead.RequestID, deadKept, lost, done, "RequestID", got.Dead.RequestID, want.Dead.RequestID)
		c.expect(got.Dead.ResponseLost == want.Dead.ResponseLost, deadKept, "%s, and Dead's ResponseLost is %t, want %t", done, got.Dead.ResponseLost, want.Dead.ResponseLost)
	}
	if want.RetryAt.IsZero() {
		c.expect(got.RetryAt.IsZero(), s, "%s, and RetryAt is %v, want none", done, got.RetryAt)
	} else {
		c.expectTime(want.RetryAt, got.RetryAt, markRetryAt, done+", and RetryAt")
	}
	c.expect(got.Unfinished == want.Unfinished, s, "%s, and Unfinished is %t, want %t", done, got.Unfinished, want.Unfinished)
}

// expectSame notes a violation of s unless got is want, which was read before.
func (c *check) expectSame(want, got grants.Record, s sentence, done string) {
	c.expect(got.Version == want.Version, s, "%s, and Version is another one", done)
	c.expectToken(want.Token, got.Token, s, done)
	c.expectMark(want.Mark, got.Mark, s, done)
}

// expectDue notes a violation of s unless Due comes to list these of the check's grants and no others, in this order.
func (c *check) expectDue(before time.Duration, s sentence, done string, due ...string) {
	var got, want []string
	for _, grant := range due {
		want = append(want, strings.TrimPrefix(grant, c.prefix))
	}
	ok := c.within(lag, func() bool {
		got = nil
		for _, grant := range c.due(before) {
			if strings.HasPrefix(grant, c.prefix) {
				got = append(got, strings.TrimPrefix(grant, c.prefix))
			}
		}
		return slices.Equal(got, want)
	})
	c.expect(ok, s, "%s, but %v later Due(%v) lists %q of this check's grants, want %q", done, lag, before, got, want)
}

// due returns all that is due, on a database that may hold many other grants.
func (c *check) due(before time.Duration) []string {
	for limit := 1 << 12; ; limit <<= 3 {
		due, err := c.store.Due(context.Background(), before, limit)
		c.requireNil(err, dueReturns, "Due")
		c.require(len(due) <= limit, dueReturns, "Due with a limit of %d returned %d grants", limit, len(due))
		if len(due) < limit || limit >= 1<<24 {
			return due
		}
	}
}

// within calls ok until it returns true, at most for d.
func (c *check) within(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(pause) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// tolerance returns by how much a time may be off: what rounding takes, and the time that a request and a response of the
// Store's database are under way.
func (c *check) tolerance() time.Duration {
	return rounding + min(2*time.Duration(c.store.slowest.Load()), lag)
}

// deleteGrants removes what the check has made, also in a Store that is wrong.
func (c *check) deleteGrants() {
	for _, grant := range c.grants {
		if err := c.store.Delete(context.Background(), grant); err != nil {
			c.expect(false, deleteRemoves, "Delete returned %s; the grants whose names begin with %q have to be deleted by hand", show(err), c.prefix)
			return
		}
	}
}

// guardedStore is the Store under test, whose panics and endless calls are errors.
type guardedStore struct {
	store   grants.Store
	slowest atomic.Int64 // what the slowest call took, in nanoseconds
	stuck   atomic.Bool  // a call has not returned: another one may not either
}

var errStuck = fmt.Errorf("the call did not return within %v, though its context ended after %v", 2*patience, patience)

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func guard[T any](ctx context.Context, g *guardedStore, call func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	if g.stuck.Load() {
		return *new(T), errStuck
	}
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
		r.value, r.err = call(ctx)
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

func (g *guardedStore) Load(ctx context.Context, grant string) (grants.Record, error) {
	return guard(ctx, g, func(ctx context.Context) (grants.Record, error) { return g.store.Load(ctx, grant) })
}

func (g *guardedStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	return guard(ctx, g, func(ctx context.Context) (grants.Record, error) { return g.store.Lease(ctx, grant, holder, d) })
}

func (g *guardedStore) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	_, err := guard(ctx, g, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.store.Save(ctx, grant, holder, version, token)
	})
	return err
}

func (g *guardedStore) Mark(ctx context.Context, grant, holder string, version int64, mark grants.Mark) error {
	_, err := guard(ctx, g, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.store.Mark(ctx, grant, holder, version, mark)
	})
	return err
}

func (g *guardedStore) Release(ctx context.Context, grant, holder string) error {
	_, err := guard(ctx, g, func(ctx context.Context) (struct{}, error) { return struct{}{}, g.store.Release(ctx, grant, holder) })
	return err
}

func (g *guardedStore) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	_, err := guard(ctx, g, func(ctx context.Context) (struct{}, error) { return struct{}{}, g.store.Put(ctx, grant, token) })
	return err
}

func (g *guardedStore) Delete(ctx context.Context, grant string) error {
	_, err := guard(ctx, g, func(ctx context.Context) (struct{}, error) { return struct{}{}, g.store.Delete(ctx, grant) })
	return err
}

func (g *guardedStore) Due(ctx context.Context, before time.Duration, limit int) ([]string, error) {
	return guard(ctx, g, func(ctx context.Context) ([]string, error) { return g.store.Due(ctx, before, limit) })
}
