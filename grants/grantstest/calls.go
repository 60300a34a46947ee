package grantstest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

const wait = "wait" // no method: the lease runs out, or would have if it had not been ended

// What a grant is made to be, before each call is tried on it.
var (
	load     = call{method: "Load"}
	probe    = call{method: "Lease", holder: third, d: long}
	put      = call{method: "Put", token: "put"}
	again    = call{method: "Put", token: "put again"}
	held     = call{method: "Lease", holder: first, d: long}
	marked   = call{method: "Mark", holder: second, mark: "all"}
	deleted  = call{method: "Delete"}
	expiring = call{method: "Lease", holder: first, d: short}    // a lease that is waited for
	ended    = call{method: "Lease", holder: first, d: moderate} // a lease that is ended before
	waited   = call{method: wait}
	byOther  = call{method: "Lease", holder: second, d: long}

	states = [][]call{
		{},
		{put},
		{put, again},
		{put, marked},
		{put, held},
		{put, held, held},
		{put, held, marked},
		{put, held, marked, again},
		{put, held, marked, deleted},
		{put, held, marked, deleted, again},
		{put, held, {method: "Save", holder: second, token: "saved by another"}},
		{put, marked, waited}, // what is stored are times, and not how much time is left
		{put, expiring, waited},
		{put, held, expiring, waited},
		{put, expiring, waited, byOther},
		{put, expiring, waited, byOther, {method: "Release", holder: second}},
		{put, ended, {method: "Release", holder: first}, waited},
		{put, ended, {method: "Mark", holder: first}, waited},
		{put, ended, {method: "Save", holder: first, token: "saved"}, waited},
	}

	tried = []call{
		load, held, byOther, deleted,
		{method: "Save", holder: first, token: "new"}, {method: "Save", holder: second, token: "new"},
		{method: "Save", holder: first, token: "new", under: earlier}, {method: "Save", holder: first, token: "new", under: zero},
		{method: "Mark", holder: first, mark: "all"}, {method: "Mark", holder: second},
		{method: "Mark", holder: first, mark: "all", under: earlier}, {method: "Mark", holder: first, mark: "all", under: zero},
		{method: "Release", holder: first}, {method: "Release", holder: second},
		{method: "Put", token: "new"},
	}
	racing = []call{
		load, held, byOther, deleted,
		{method: "Save", holder: first, token: "saved"}, {method: "Put", token: "put meanwhile"},
		{method: "Mark", holder: first, mark: "all"}, {method: "Mark", holder: second}, {method: "Release", holder: first},
	}

	// What is stored.
	tokens = []string{"put", "sooner", "-1h", "refresh token alone", "access token alone", "year 9999", "of 4 KiB"}
	marks  = []string{"dead", "dead and undocumented", "wait", "unfinished"}
)

// callChecks returns a check for each call on each state of a grant, and for each two calls at the same time.
func callChecks() (checks []func(*check)) {
	try := func(state []call, calls ...call) {
		for _, call := range calls {
			checks = append(checks, func(c *check) { c.fixture(state...).try(call) })
		}
	}
	for _, state := range states {
		try(state, tried...)
	}
	rich := [][]call{{put}, {put, held, marked}}
	for _, state := range rich {
		for _, token := range tokens {
			try(state, call{method: "Put", token: token}, call{method: "Save", holder: second, token: token})
		}
		for _, mark := range marks {
			try(state, call{method: "Mark", holder: first, mark: mark})
		}
	}
	for i, one := range racing {
		for _, other := range racing[i:] {
			if other.token != "" {
				other.token += " by the other"
			}
			for _, state := range rich {
				checks = append(checks, race(state, one, other))
			}
		}
	}
	return checks
}

const (
	fewestRaces = 3 // of two calls
	mostRaces   = 25
	raceTime    = 2 * time.Second // no more races after that
)

// race returns a check that calls two methods at the same time, again and again, on a grant of a state. What they return
// and leave behind has to be what one after the other, in one order or in the other, would have.
func race(state []call, calls ...call) func(*check) {
	return func(c *check) {
		f, took := c.fixture(), time.Duration(0)
		for i := 0; i < fewestRaces || i < mostRaces && time.Since(f.start) < raceTime; i++ {
			f.row, f.done = row{}, nil
			f.prepare(state...)
			outcomes, last := make([]outcome, len(calls)), i%2
			var wg sync.WaitGroup
			begin := make(chan struct{})
			for j := range calls {
				wg.Go(func() {
					<-begin
					if delay := took * time.Duration(i%8) / 8; j == last && delay > 100*time.Microsecond {
						time.Sleep(delay) // to begin in the midst of the other one
					}
					outcomes[j] = f.outcome(calls[j])
				})
			}
			close(begin)
			wg.Wait()
			took = outcomes[1-last].took
			one, other, after := outcomes[0], outcomes[1], []outcome{f.outcome(load), f.outcome(probe)}
			if !f.explains(append([]outcome{one, other}, after...)) && !f.explains(append([]outcome{other, one}, after...)) {
				s := map[bool]sentence{true: atOnce, false: concurrent}[one.known() && other.known()]
				f.expect(false, s, "%s, then at the same time %v and %v, and then %v, which neither order explains", strings.Join(f.done, ", "), one, other, after)
				return
			}
		}
	}
}

// outcome is what a call came to.
type outcome struct {
	call
	record *grants.Record
	err    error
	took   time.Duration
}

func (f *fixture) outcome(c call) outcome {
	start := time.Now()
	record, err := f.call(context.Background(), c)
	return outcome{c, record, err, time.Since(start)}
}

func (o outcome) known() bool { return !strings.HasPrefix(show(o.err), `"`) }

func (o outcome) String() string {
	if o.err != nil || o.record == nil || o.record.Token == nil {
		return fmt.Sprintf("%v (%s)", o.call, show(o.err))
	}
	return fmt.Sprintf("%v (the token %q, Dead %t, Unfinished %t)", o.call, o.record.Token.AccessToken, o.record.Dead != nil, o.record.Unfinished)
}

// explains says whether calls in this order have these outcomes.
func (f *fixture) explains(order []outcome) bool {
	r, found := f.row, []difference(nil)
	for _, o := range order {
		if r, found = f.judge(o, r); len(found) > 0 {
			return false
		}
	}
	return true
}
