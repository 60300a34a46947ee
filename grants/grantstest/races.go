package grantstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

const (
	fewestRaces = 3 // of two calls
	mostRaces   = 60
	raceTime    = 2 * time.Second // no more races after that
)

// outcome is what two calls at the same time have come to.
type outcome struct {
	records  [2]*grants.Record
	errs     [2]error
	took     [2]time.Duration
	record   *grants.Record // of a Load that follows
	loadErr  error
	probeErr error // of a Lease by another holder
}

// race returns a check that calls two methods at the same time, again and again, on a grant of a state. What they return
// and leave behind has to be what one after the other, in one order or in the other, would have.
func race(state []call, calls ...call) func(*check) {
	return func(c *check) {
		f := c.fixture()
		var took time.Duration
		for i := 0; i < fewestRaces || i < mostRaces && time.Since(f.start) < raceTime; i++ {
			f.prepare(state)
			last := i % 2 // the one that begins later, by a part of what a call takes
			o := f.atTheSameTime(calls, last, took*time.Duration(i%8)/8)
			took = o.took[1-last]
			if !f.explained(calls, o) {
				return
			}
		}
	}
}

func (f *fixture) atTheSameTime(calls []call, last int, delay time.Duration) *outcome {
	ctx, o := context.Background(), new(outcome)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range calls {
		wg.Go(func() {
			<-begin
			if i == last && delay > 100*time.Microsecond {
				time.Sleep(delay)
			}
			start := time.Now()
			o.records[i], o.errs[i] = f.call(ctx, calls[i])
			o.took[i] = time.Since(start)
		})
	}
	close(begin)
	wg.Wait()
	o.record, o.loadErr = f.call(ctx, call{method: "Load"})
	_, o.probeErr = f.call(ctx, call{method: "Lease", holder: third, d: long})
	return o
}

// explained says whether one of the two orders explains an outcome, and notes a violation if not.
func (f *fixture) explained(calls []call, o *outcome) bool {
	for i, err := range o.errs {
		known := err == nil || errors.Is(err, grants.ErrNoGrant) || errors.Is(err, grants.ErrLeased) || errors.Is(err, grants.ErrConflict)
		if !f.expect(known, concurrent, "%v and %v at the same time, and %v returned %s", calls[0], calls[1], calls[i], show(err)) {
			return false
		}
	}
	if f.explains(calls, o, 0) || f.explains(calls, o, 1) {
		return true
	}
	seen := show(o.loadErr)
	if o.loadErr == nil && o.record.Token != nil {
		seen = fmt.Sprintf("the token %q, a new Version %t, Dead %t, Unfinished %t; Lease by another holder returned %s", strings.TrimPrefix(o.record.Token.AccessToken, "access-"),
			o.record.Version != f.version, o.record.Dead != nil, o.record.Unfinished, show(o.probeErr))
	}
	return f.expect(false, atOnce, "%s, then at the same time %v (%s) and %v (%s), and Load shows %s: neither order explains that",
		strings.Join(f.done, ", "), calls[0], show(o.errs[0]), calls[1], show(o.errs[1]), seen)
}

// explains says whether the calls, one after the other, have the outcome.
func (f *fixture) explains(calls []call, o *outcome, earlier int) bool {
	r := f.row
	agrees := func(c call, record *grants.Record, err error) bool {
		before := r
		var want error
		r, want = c.apply(r)
		return same(err, want, before) && (record == nil || want != nil || len(f.differences(r, record)) == 0)
	}
	return agrees(calls[earlier], o.records[earlier], o.errs[earlier]) && agrees(calls[1-earlier], o.records[1-earlier], o.errs[1-earlier]) &&
		agrees(call{method: "Load"}, o.record, o.loadErr) && agrees(call{method: "Lease", holder: third}, nil, o.probeErr)
}
