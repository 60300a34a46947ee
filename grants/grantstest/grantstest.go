// Package grantstest tries the contract of [grants.Store] on an implementation of it.
package grantstest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

const (
	prefix    = "applebusiness/grants/grantstest: "
	long      = time.Minute            // a lease that outlasts the test
	watched   = 11 * time.Second       // how much of it is watched
	moderate  = 2 * time.Second        // a lease that is still running a moment later, even where it was rounded to a second
	measured  = 3 * time.Second        // a lease whose end is timed: a second of rounding leaves more than half of it
	short     = 300 * time.Millisecond // a lease that is waited for
	rounding  = 1500 * time.Millisecond
	lag       = 2 * time.Second // what Due may be stale
	pause     = 20 * time.Millisecond
	patience  = 10 * time.Second // for one call
	atMost    = 1 << 20          // grants that are due
	manyYears = 20 * 365 * 24 * time.Hour
)

// TestStore tries each sentence of the contract of [grants.Store] on store. It returns nil, or an error for each sentence
// that does not hold, joined by [errors.Join]: the method, the sentence in quotes, and what was done and seen.
//
// It tries each method on a grant in each state, each two methods at the same time, and what time brings, with some thousand
// calls from many goroutines; run it under the race detector. It uses grants of random names only, and deletes them at the
// end, so that it can run on a database that others use. It takes about eleven seconds, since it watches a lease for so
// long, and no time in a bubble of testing/synctest, if the Store runs in one. Each call gets a context of ten seconds.
//
// It leaves a Store the freedom that a database needs. A time may be rounded to a second, and one that is over a century
// away may be stored as a century; [grants.Store.Due] may be stale for two seconds; a name of more than 200 bytes may be
// refused; a deleted grant may be ErrNoGrant to Save and Mark; a context that has ended may be ignored by a method that
// does not wait. It cannot see whether Load reads from the primary, and whether all processes have one clock: for that, run
// it on a host whose clock is off. For what only a second instance of the Store can see, use [TestStores].
func TestStore(store grants.Store) error { return TestStores(store, store) }

// TestStores is [TestStore] on two instances of a Store that share a database, as two processes have them: each call goes
// to one or the other. It finds what an instance keeps to itself, such as a cache or a lock.
func TestStores(one, other grants.Store) error {
	if one == nil || other == nil {
		return errors.New(prefix + "the Store is nil")
	}
	tries := append([]func(*check){func(c *check) { c.fixture(put).try(load) }, names, versions, leaseClock, due, dueByTime, dead, endedContext,
		runsOn(leaseGives, watched, put, held), runsOn(leaseAgain, 2*moderate, put, ended, held)}, callChecks()...)
	tested := &tested{stores: [2]grants.Store{one, other}, told: make(map[sentence]bool)}
	run := "grantstest-" + strings.ToLower(rand.Text()) + "-"
	var wg sync.WaitGroup
	for i, try := range tries {
		c := &check{tested: tested, prefix: fmt.Sprintf("%s%d-", run, i)}
		c.calls.Store(uint32(i)) // so that not all begin with the same instance
		wg.Go(func() { c.run(try) })
		if i > 0 {
			continue
		}
		if wg.Wait(); len(tested.errs) > 0 { // the first check is tried alone: if nothing works, one error says so
			return errors.Join(tested.errs...)
		}
	}
	wg.Wait()
	varied := bits.OnesCount64(tested.set.Load() & tested.unset.Load())
	tested.expect(varied >= 32, versionRandom, "over the whole test Version varied in %d bits", varied)
	return errors.Join(tested.errs...)
}

// tested is the Store under test, and what was seen of it in all checks.
type tested struct {
	stores     [2]grants.Store
	stuck      atomic.Bool   // a call has not returned: another one may not either
	set, unset atomic.Uint64 // which bits were set and unset in a Version

	mu      sync.Mutex
	slowest time.Duration // of all calls
	errs    []error       // one for each sentence that does not hold
	told    map[sentence]bool
}

// check is one run of one function.
type check struct {
	*tested
	calls    atomic.Uint32
	prefix   string // of the names of its grants
	fixtures []*fixture
}

// run calls try, and deletes the grants that it has made.
func (c *check) run(try func(*check)) {
	defer func() {
		for _, f := range c.fixtures {
			_, err := f.call(context.Background(), deleted)
			if !c.expect(err == nil, deleteRemoves, "Delete returned %s; the grants whose names begin with %q have to be deleted by hand", show(err), c.prefix) {
				return
			}
		}
	}()
	try(c)
}

// expect notes a violation of s unless ok.
func (t *tested) expect(ok bool, s sentence, seen string, args ...any) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !ok && !t.told[s] {
		t.told[s] = true
		t.errs = append(t.errs, fmt.Errorf("%s%s: %q: %s", prefix, s.of, s.text, fmt.Sprintf(seen, args...)))
	}
	return ok
}

// require is expect, and ends the check unless ok: what follows would say nothing.
func (c *check) require(ok bool, s sentence, seen string, args ...any) {
	if !c.expect(ok, s, seen, args...) {
		runtime.Goexit() // which run has a goroutine for
	}
}

func show(err error) string {
	for name, known := range map[string]error{
		"nil": nil, "ErrNoGrant": grants.ErrNoGrant, "ErrLeased": grants.ErrLeased, "ErrConflict": grants.ErrConflict,
	} {
		if errors.Is(err, known) {
			return name
		}
	}
	return fmt.Sprintf("%q", err.Error())
}

// near says whether got is want, but for rounding and the time that the calls took.
func (c *check) near(want, got time.Time) bool {
	const century = 5 * manyYears
	if time.Until(want) > century {
		return time.Until(got) > century-time.Hour
	}
	return want.IsZero() == got.IsZero() && got.Sub(want).Abs() <= c.tolerance()
}

// within calls ok until it returns true, at most for d.
func (c *check) within(d time.Duration, ok func() bool) bool {
	end := time.Now().Add(d)
	for !ok() {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// tolerance returns by how much a time may be off: what rounding takes, and the time that a request and a response of the
// Store's database are under way.
func (c *check) tolerance() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return rounding + min(2*c.slowest, lag)
}

var errStuck = fmt.Errorf("the call did not return within %v, though its context ended after %v", 2*patience, patience)

var errPanic = errors.New("panic")

// guard calls a method of one instance of the Store or the other, in an order that has no period. It makes panics and
// endless calls errors.
func guard[T any](ctx context.Context, c *check, call func(context.Context, grants.Store) (T, error)) (T, error) {
	if c.stuck.Load() {
		return *new(T), errStuck
	}
	store := c.stores[bits.OnesCount32(c.calls.Add(1))%2]
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start, done := time.Now(), make(chan struct{})
	var v T
	var e error
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				e = fmt.Errorf("%w: %v", errPanic, p)
			}
		}()
		v, e = call(ctx, store)
	}()
	select {
	case <-done:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.slowest = max(c.slowest, time.Since(start))
		return v, e
	case <-time.After(2 * patience):
		c.stuck.Store(true)
		return *new(T), errStuck
	}
}
