package grantstest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

const manyYears = 20 * 365 * 24 * time.Hour

// due looks at tokens that expired decades ago, so that other grants of the Store are not in the way, and then at others.
func due(c *check) {
	ctx, version := context.Background(), make(map[string]int64)
	put := func(text string, age time.Duration) string {
		grant, v := c.put(text, -age)
		version[grant] = v
		return grant
	}
	mark := func(grant string, mark grants.Mark) string {
		c.setMark(grant, version[grant], mark)
		return grant
	}
	last := put("last", manyYears+time.Hour)
	soonest := put("soonest", manyYears+4*time.Hour)
	unfinished := mark(put("unfinished", manyYears+2*time.Hour), grants.Mark{Unfinished: true})
	waited := mark(put("has waited", manyYears+3*time.Hour), grants.Mark{RetryAt: time.Now().Add(-time.Hour)})
	imported := c.name()
	c.requireNil(c.store.Put(ctx, imported, &oauth2.Token{RefreshToken: "alone", Expiry: time.Now().Add(-manyYears - 30*time.Minute)}), putStores, "Put")

	dead := mark(put("dead", manyYears+5*time.Hour), grants.Mark{Dead: verdict()})
	mark(put("dead too", manyYears+5*time.Hour), grants.Mark{Dead: undocumented()})
	waits := mark(put("waits", manyYears+6*time.Hour), grants.Mark{RetryAt: time.Now().Add(time.Hour)})
	leased := put("leased", manyYears+7*time.Hour)
	_, err := c.store.Lease(ctx, leased, first, long)
	c.requireNil(err, leaseGives, "Lease")
	c.requireNil(c.store.Put(ctx, c.name(), &oauth2.Token{AccessToken: "endless"}), putStores, "Put")

	own := []string{soonest, waited, unfinished, last, imported}
	c.expectDue(-manyYears, dueReturns, "five grants are due; two are dead, and one each has to wait, is leased and has no Expiry", own...)
	c.expectDue(-manyYears-150*time.Minute, dueBefore, "two tokens expired longer ago", own[:2]...)
	for limit := 1; limit <= 3; limit++ {
		var got []string
		ok := c.within(lag, func() bool {
			var err error
			got, err = c.store.Due(ctx, -manyYears, limit)
			c.requireNil(err, dueReturns, "Due")
			mine := c.own(got)
			return len(got) <= limit && len(mine) <= len(own) && slices.Equal(mine, c.own(own)[:len(mine)])
		})
		c.expect(ok, dueReturns, "Due with a limit of %d returned %d grants, or not the soonest", limit, len(got))
	}

	mark(dead, grants.Mark{})
	mark(waits, grants.Mark{})
	c.requireNil(c.store.Release(ctx, leased, first), releaseEnds, "Release")
	c.requireNil(c.store.Delete(ctx, soonest), deleteRemoves, "Delete")
	old := []string{leased, waits, dead, waited, unfinished, last, imported}
	c.expectDue(-manyYears, dueReturns, "one grant each is alive again, need not wait, was released and was deleted", old...)

	// The tokens of today.
	future, past := put("future", -30*time.Minute), put("past", 10*time.Minute)
	const done = "one token expires in 30m, and one expired 10m ago"
	withPast := append(slices.Clip(old), past)
	withFuture := append(slices.Clip(withPast), future)
	c.expectDue(time.Hour, dueReturns, done, withFuture...)
	c.expectDue(10*time.Minute, dueReturns, done, withPast...)
	c.expectDue(0, dueReturns, done, withPast...)
	c.expectDue(-time.Minute, dueBefore, done, withPast...)
	c.expectDue(-time.Hour, dueBefore, done, old...)
	c.requireNil(c.store.Save(ctx, future, second, version[future], token("renewed", 3*time.Hour)), saveStores, "Save")
	c.expectDue(time.Hour, dueReturns, "Save of a token that expires in 3h", withPast...)
	c.expectDue(5*manyYears, dueExpiry, "one token has no Expiry", withFuture...)
}

// dueByTime waits until grants come due.
func dueByTime(c *check) {
	expires, _ := c.put("expires", time.Second)
	waits, version := c.put("waits", -time.Hour)
	c.setMark(waits, version, grants.Mark{RetryAt: time.Now().Add(time.Second)})
	leased, _ := c.put("leased", -2*time.Hour)
	_, err := c.store.Lease(context.Background(), leased, first, short)
	c.requireNil(err, leaseGives, "Lease")
	wait := time.Second + c.tolerance()
	c.within(wait, func() bool { return len(c.own(c.due(0))) == 3 })
	c.expectDue(0, dueReturns, fmt.Sprintf("a lease ran out, RetryAt passed and a token expired within %v", wait), leased, waits, expires)
}

// expectDue notes a violation of s unless Due comes to list these of the check's grants and no others, in this order.
func (c *check) expectDue(before time.Duration, s sentence, done string, due ...string) {
	var got []string
	ok := c.within(lag, func() bool {
		got = c.own(c.due(before))
		return slices.Equal(got, c.own(due))
	})
	c.expect(ok, s, "%s, but %v later Due(%v) lists %q of this check's grants, want %q", done, lag, before, got, c.own(due))
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

// own returns the end of the names of this check's grants.
func (c *check) own(names []string) (own []string) {
	for _, grant := range names {
		if end, ok := strings.CutPrefix(grant, c.prefix); ok {
			own = append(own, end)
		}
	}
	return own
}

// dead lets grants die, and come to life again.
func dead(c *check) {
	ctx, verdicts := context.Background(), []grants.Mark{
		{Dead: verdict()}, {Dead: undocumented()}, {Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true}, {Dead: verdict()}, {Dead: verdict()},
	}
	start, byName := time.Now(), make([]grants.DeadGrant, len(verdicts))
	for i, mark := range verdicts {
		grant, version := c.put(fmt.Sprint(i), []time.Duration{time.Hour, -manyYears}[i%2])
		byName[i] = grants.DeadGrant{Grant: grant, Error: mark.Dead, Version: version}
	}
	var list []grants.DeadGrant // what has to be listed
	for _, i := range []int{4, 3, 0, 1, 2} {
		list = append(list, byName[i])
		c.setMark(byName[i].Grant, byName[i].Version, verdicts[i])
		if i >= 2 {
			time.Sleep(rounding) // else a Store may take it for the same instant as the next one
		}
	}
	_, err := c.store.Lease(ctx, list[0].Grant, first, long)
	c.requireNil(err, leaseGives, "Lease")
	c.put("alive", -time.Hour)

	found := c.dead(0, grants.DeadGrant{}, 1000)
	c.requireDead(list, found, deadReturns, "five grants are dead")
	none := c.dead(time.Hour, grants.DeadGrant{}, 1000)
	c.expect(len(none) == 0, deadReturns, "Dead(1h) lists %d grants that died %v ago", len(none), time.Since(start).Round(time.Millisecond))
	for i := range found {
		c.requireDead(list[i+1:], c.dead(0, found[i], 2), deadAfter, fmt.Sprintf("Dead after no. %d of five", i+1))
		utc := grants.DeadGrant{Grant: found[i].Grant, Since: found[i].Since.UTC()} // what a job has to remember
		c.requireDead(list[i+1:], c.dead(0, utc, 1000), deadAfter, fmt.Sprintf("Dead after no. %d of five, of which Grant and Since are known", i+1))
	}

	time.Sleep(rounding + time.Second)
	elapsed := c.dead(time.Second, grants.DeadGrant{}, 1000)
	c.requireDead(list, elapsed, deadReturns, fmt.Sprintf("five grants died %v ago, and Dead(1s)", time.Since(start).Round(time.Millisecond)))
	c.setMark(list[1].Grant, list[1].Version, grants.Mark{Dead: verdict()})
	list[1].Error = verdict()
	later := c.dead(0, grants.DeadGrant{}, 1000)
	c.requireDead(list, later, deadSince, "a second Mark of one of five")
	for i := range later {
		c.expect(later[i].Since.Equal(found[i].Since) && elapsed[i].Since.Equal(found[i].Since), deadSince, "Dead, and %v later Since is another one", time.Since(start).Round(time.Millisecond))
	}

	// One each is put, saved, deleted and marked alive.
	c.requireNil(c.store.Put(ctx, list[0].Grant, token("anew", time.Hour)), putStores, "Put")
	c.requireNil(c.store.Save(ctx, list[1].Grant, second, list[1].Version, token("anew", time.Hour)), saveStores, "Save")
	c.requireNil(c.store.Delete(ctx, list[2].Grant), deleteRemoves, "Delete")
	c.setMark(list[3].Grant, list[3].Version, grants.Mark{Unfinished: true})
	c.requireDead(list[4:], c.dead(0, grants.DeadGrant{}, 1000), deadStays, "of five one each was put, saved, deleted, and marked alive")
	c.requireDead(list[4:], c.dead(0, found[2], 1000), deadAfter, "of five four are alive, and Dead after one that was deleted")

	// It dies again.
	list[3].Error = verdict()
	c.setMark(list[3].Grant, list[3].Version, grants.Mark{Dead: verdict()})
	time.Sleep(rounding)
	again := c.dead(0, grants.DeadGrant{}, 1000)
	c.requireDead([]grants.DeadGrant{list[4], list[3]}, again, deadSince, "one of two was marked alive, and then dead again")
}

// dead returns the check's grants of all pages of Dead.
func (c *check) dead(since time.Duration, after grants.DeadGrant, limit int) (own []grants.DeadGrant) {
	for {
		page, err := c.store.Dead(context.Background(), since, after, limit)
		c.requireNil(err, deadReturns, "Dead")
		c.require(len(page) <= limit, deadReturns, "Dead with a limit of %d returned %d grants", limit, len(page))
		for _, found := range page {
			before := after
			after = found
			c.require(before.Grant == "" || found.Since.After(before.Since) || found.Since.Equal(before.Since) && found.Grant > before.Grant, deadAfter,
				"Dead listed %q of %v after %q of %v", found.Grant, found.Since, before.Grant, before.Since)
			if strings.HasPrefix(found.Grant, c.prefix) {
				own = append(own, found)
			}
		}
		if len(page) < limit {
			return own
		}
	}
}

// requireDead notes a violation of s unless these were found, but for Since.
func (c *check) requireDead(want, found []grants.DeadGrant, s sentence, done string) {
	names := func(list []grants.DeadGrant) (names []string) {
		for _, dead := range list {
			names = append(names, dead.Grant)
		}
		return c.own(names)
	}
	c.require(slices.Equal(names(found), names(want)), s, "%s, and Dead lists %q, want %q", done, names(found), names(want))
	for i := range want {
		c.expect(found[i].Version == want[i].Version, s, "%s, and Dead's Version is not Load's", done)
		c.expect(found[i].Error != nil && slices.Equal(fields(found[i].Error), fields(want[i].Error)), deadKept, "%s, and Dead's Error is %v", done, found[i].Error)
	}
}
