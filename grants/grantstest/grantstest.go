// Package grantstest tries the contract of [grants.Store] on an implementation of it.
package grantstest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

const prefix = "applebusiness/grants/grantstest: "

const (
	long     = time.Minute            // a lease that outlasts the test
	moderate = 2 * time.Second        // a lease that is still running a moment later, even where it was rounded to a second
	measured = 3 * time.Second        // a lease whose end is timed: a second of rounding leaves more than half of it
	short    = 300 * time.Millisecond // a lease that is waited for
	capped   = 11 * time.Second       // how long a lease is watched
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
// It tries each method on a grant in each state, each two methods at the same time, and what time brings. It uses grants of
// random names only, and deletes them at the end, so that it can run on a database that others use. It takes about eleven
// seconds, since it watches a lease for so long, and no time in a bubble of testing/synctest, if the Store runs in one. It
// calls from many goroutines, some thousand times, and each call gets a context of ten seconds. Run it under the race
// detector.
//
// It leaves a Store the freedom that a database needs. A time may be rounded to a second, and one that is over a century
// away may be stored as a century; [grants.Store.Due] may be stale for two seconds; a name of more than 200 bytes may be
// refused; a deleted grant may be ErrNoGrant to Save and Mark; a context that has ended may be ignored by a method that
// does not wait. What one process cannot see is not tried: that Load reads from the primary, and that the clock is the same
// for all processes. For the latter, run it on a host whose clock is off. For what only a second instance of the Store can
// see, use [TestStores].
func TestStore(store grants.Store) error { return TestStores(store, store) }

// TestStores is [TestStore] on two instances of a Store that share a database, as two processes have them: each call goes
// to one or the other. It finds what an instance keeps to itself, such as a cache or a lock.
func TestStores(one, other grants.Store) error {
	if one == nil || other == nil {
		return errors.New(prefix + "the Store is nil")
	}
	tries := append([]func(*check){tokens, names, versions, clock, leaseClock, leaseRunsOn, due, dueByTime, dead, ownMemory, endedContext}, callChecks()...)
	shared := new(seen)
	run := "grantstest-" + strings.ToLower(rand.Text()) + "-"
	checks := make([]*check, len(tries))
	for i := range checks {
		checks[i] = &check{store: &guardedStore{seen: shared, stores: [2]grants.Store{one, other}}, prefix: fmt.Sprintf("%s%d-", run, i)}
		checks[i].store.calls.Store(uint32(i)) // so that not all begin with the same instance
	}

	// The first one is tried alone: if nothing works, one error says so.
	checks[0].run(tries[0])
	if len(checks[0].violations) == 0 {
		var wg sync.WaitGroup
		for i := 1; i < len(checks); i++ {
			wg.Go(func() { checks[i].run(tries[i]) })
		}
		wg.Wait()
		varied := bits.OnesCount64(shared.set.Load() & shared.unset.Load())
		checks[0].expect(varied >= 32, versionRandom, "over the whole test Version varied in %d bits", varied)
	}

	var errs []error
	reported := make(map[sentence]bool)
	for _, c := range checks {
		for _, violation := range c.violations {
			if !reported[violation.sentence] {
				reported[violation.sentence] = true
				errs = append(errs, violation)
			}
		}
	}
	return errors.Join(errs...)
}

// violation is a sentence that does not hold.
type violation struct {
	sentence
	seen string
}

func (v *violation) Error() string {
	return fmt.Sprintf("%s%s: %q: %s", prefix, v.of, v.text, v.seen)
}

// check is one run of one function. Its methods are for one goroutine.
type check struct {
	store      *guardedStore
	prefix     string // of the names of its grants
	grants     []string
	violations []*violation
}

type stop struct{}

// run calls try, and deletes the grants that it has made.
func (c *check) run(try func(*check)) {
	defer func() {
		p := recover()
		if _, ok := p.(stop); p != nil && !ok {
			panic(p)
		}
		for _, grant := range c.grants {
			if err := c.store.Delete(context.Background(), grant); err != nil {
				c.expect(false, deleteRemoves, "Delete returned %s; the grants whose names begin with %q have to be deleted by hand", show(err), c.prefix)
				return
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

// requireNil is require for a call that has to succeed.
func (c *check) requireNil(err error, s sentence, done string) {
	c.require(err == nil, s, "%s returned %s, want nil", done, show(err))
}

func show(err error) string {
	switch {
	case err == nil:
		return "nil"
	case errors.Is(err, grants.ErrNoGrant):
		return "ErrNoGrant"
	case errors.Is(err, grants.ErrLeased):
		return "ErrLeased"
	case errors.Is(err, grants.ErrConflict):
		return "ErrConflict"
	}
	return fmt.Sprintf("%q", err.Error())
}

// name returns a new grant's name, and remembers to delete it.
func (c *check) name() string {
	grant := fmt.Sprintf("%s%d-a", c.prefix, len(c.grants))
	c.grants = append(c.grants, grant)
	return grant
}

// put makes a grant with a token that expires after some time, and returns its name and its version.
func (c *check) put(text string, expires time.Duration) (grant string, version int64) {
	grant = c.name()
	c.requireNil(c.store.Put(context.Background(), grant, token(text, expires)), putStores, "Put")
	return grant, c.load(grant).Version
}

// load returns the record of a grant that was put.
func (c *check) load(grant string) grants.Record {
	record, err := c.store.Load(context.Background(), grant)
	c.requireNil(err, loadLast, "Load after a Put")
	c.require(record.Token != nil, loadLast, "Load returned a Record without a Token")
	return record
}

// setMark marks a grant, by nobody who has its lease.
func (c *check) setMark(grant string, version int64, mark grants.Mark) {
	c.requireNil(c.store.Mark(context.Background(), grant, second, version, mark), markReplaces, "Mark")
}

func token(text string, expires time.Duration) *oauth2.Token {
	return &oauth2.Token{AccessToken: "access-" + text, RefreshToken: "refresh-" + text, TokenType: "Bearer", Expiry: time.Now().Add(expires)}
}

// verdict is a row of Apple's table with all that a Store keeps.
func verdict() *applebusiness.Error {
	return &applebusiness.Error{
		Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token",
		Reason: applebusiness.ErrInvalidRefreshToken, GrantType: applebusiness.GrantTypeRefreshToken, RequestID: "4f1c9a52-request-id", ResponseLost: true,
	}
}

// undocumented is a verdict that no table has: nothing of it can be looked up.
func undocumented() *applebusiness.Error {
	return &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, StatusCode: 400, Code: "grant_is_gone", GrantType: applebusiness.GrantTypeRefreshToken}
}

// fields returns what a Store keeps of a verdict.
func fields(e *applebusiness.Error) []string {
	return []string{
		string(e.Endpoint), fmt.Sprint(e.StatusCode), string(e.Code), e.Description, string(e.Reason), e.GrantType, e.RequestID, fmt.Sprint(e.ResponseLost),
	}
}

// near says whether got is want, but for rounding and the time that the calls took.
func (c *check) near(want, got time.Time) bool {
	const century = 100 * 365 * 24 * time.Hour
	if want.IsZero() || got.IsZero() || time.Until(want) > century {
		return want.IsZero() == got.IsZero() && (want.IsZero() || time.Until(got) > century-time.Hour)
	}
	return got.Sub(want).Abs() <= c.tolerance()
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
