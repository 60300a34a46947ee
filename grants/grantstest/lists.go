package grantstest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

const manyYears = 20 * 365 * 24 * time.Hour

// expiresIn is a Put of a token that expires after d.
func expiresIn(d time.Duration) call { return call{method: "Put", token: d.String()} }

func markOf(label string) call { return call{method: "Mark", holder: second, mark: label} }

// due looks at tokens that expired decades ago, so that other grants of the Store are not in the way, and then at others.
func due(c *check) {
	const ago = -manyYears
	last := c.fixture(expiresIn(ago - time.Hour))
	soonest := c.fixture(expiresIn(ago - 4*time.Hour))
	unfinished := c.fixture(expiresIn(ago-2*time.Hour), markOf("unfinished"))
	waited := c.fixture(expiresIn(ago-3*time.Hour), markOf("has waited"))
	imported := c.fixture(call{method: "Put", token: "refresh token alone"})
	dies := c.fixture(expiresIn(ago-5*time.Hour), markOf("dead"))
	c.fixture(expiresIn(ago-5*time.Hour), markOf("dead and undocumented"))
	waits := c.fixture(expiresIn(ago-6*time.Hour), markOf("wait"))
	leased := c.fixture(expiresIn(ago-7*time.Hour), held)
	c.fixture(call{method: "Put", token: "access token alone"})

	own := []*fixture{soonest, waited, unfinished, last, imported}
	c.expectDue(ago, dueReturns, "five grants are due; two are dead, and one each has to wait, is leased and has no Expiry", own...)
	c.expectDue(ago-150*time.Minute, dueBefore, "two tokens expired longer ago", own[:2]...)
	for limit := 1; limit <= 3; limit++ {
		var got []string
		ok := c.within(lag, func() bool {
			var err error
			got, err = c.dueOnce(context.Background(), ago, limit)
			mine := c.own(got)
			return err == nil && len(got) <= limit && len(mine) <= len(own) && slices.Equal(mine, c.names(own[:len(mine)]))
		})
		c.expect(ok, dueReturns, "Due with a limit of %d returned %d grants, or not the soonest", limit, len(got))
	}

	dies.prepare(markOf(""))
	waits.prepare(markOf(""))
	leased.prepare(call{method: "Release", holder: first})
	soonest.prepare(deleted)
	old := []*fixture{leased, waits, dies, waited, unfinished, last, imported}
	c.expectDue(ago, dueReturns, "one grant each is alive again, need not wait, was released and was deleted", old...)

	// The tokens of today.
	future, past := c.fixture(expiresIn(30*time.Minute)), c.fixture(expiresIn(-10*time.Minute))
	const done = "one token expires in 30m, and one expired 10m ago"
	withPast := append(slices.Clip(old), past)
	withFuture := append(slices.Clip(withPast), future)
	c.expectDue(time.Hour, dueReturns, done, withFuture...)
	c.expectDue(10*time.Minute, dueReturns, done, withPast...)
	c.expectDue(0, dueReturns, done, withPast...)
	c.expectDue(-time.Minute, dueBefore, done, withPast...)
	c.expectDue(-time.Hour, dueBefore, done, old...)
	future.prepare(call{method: "Save", holder: second, token: "3h"})
	c.expectDue(time.Hour, dueReturns, "Save of a token that expires in 3h", withPast...)
	c.expectDue(5*manyYears, dueExpiry, "one token has no Expiry", withFuture...)
}

// dueByTime waits until grants come due.
func dueByTime(c *check) {
	all := []*fixture{c.fixture(expiresIn(-2*time.Hour), expiring), c.fixture(expiresIn(-time.Hour), markOf("wait a second")), c.fixture(expiresIn(time.Second))}
	wait := time.Second + c.tolerance()
	c.within(wait, func() bool { return len(c.own(c.due(0))) == len(all) })
	c.expectDue(0, dueReturns, fmt.Sprintf("a lease ran out, RetryAt passed and a token expired within %v", wait), all...)
}

// expectDue notes a violation of s unless Due comes to list these of the check's grants and no others, in this order.
func (c *check) expectDue(before time.Duration, s sentence, done string, due ...*fixture) {
	var got []string
	ok := c.within(lag, func() bool {
		got = c.own(c.due(before))
		return slices.Equal(got, c.names(due))
	})
	c.expect(ok, s, "%s, but %v later Due(%v) lists %q of this check's grants, want %q", done, lag, before, got, c.names(due))
}

// due returns all that is due, on a database that may hold many other grants.
func (c *check) due(before time.Duration) []string {
	for limit := 1 << 12; ; limit <<= 3 {
		due, err := c.dueOnce(context.Background(), before, limit)
		c.require(err == nil && len(due) <= limit, dueReturns, "Due with a limit of %d returned %d grants and %s", limit, len(due), show(err))
		if len(due) < limit || limit >= 1<<24 {
			return due
		}
	}
}

func (c *check) dueOnce(ctx context.Context, before time.Duration, limit int) ([]string, error) {
	return guard(ctx, c, func(ctx context.Context, s grants.Store) ([]string, error) { return s.Due(ctx, before, limit) })
}

// own returns the ends of the names of this check's grants.
func (c *check) own(names []string) (own []string) {
	for _, grant := range names {
		if end, ok := strings.CutPrefix(grant, c.prefix); ok {
			own = append(own, end)
		}
	}
	return own
}

func (c *check) names(fixtures []*fixture) (names []string) {
	for _, f := range fixtures {
		names = append(names, f.grant)
	}
	return c.own(names)
}

// dead lets grants die, not in the order of their names, and come to life again.
func dead(c *check) {
	start := grants.DeadGrant{}
	list := []*fixture{c.fixture(put), c.fixture(expiresIn(-manyYears)), c.fixture(put), c.fixture(put), c.fixture(put)}
	slices.Reverse(list[:3])
	for i, label := range []string{"all", "dead", "dead", "dead and undocumented", "dead"} {
		list[i].prepare(markOf(label))
		if i < 3 {
			time.Sleep(rounding) // else a Store may take it for the same instant as the next one
		}
	}
	time.Sleep(rounding)
	list[0].prepare(held)
	c.fixture(put)

	found := c.expectDead(list, 0, start, 1000, deadReturns, "five grants died")
	c.expectDead(nil, time.Hour, start, 1000, deadReturns, "five grants died less than an hour ago")
	c.expectDead(list, time.Second/2, start, 1000, deadReturns, "five grants died more than half a second ago")
	list[1].prepare(markOf("all"))
	for i, again := range c.expectDead(list, 0, start, 1000, deadSince, "a second Mark of one of five") {
		c.expect(again.Since.Equal(found[i].Since), deadSince, "Dead, a second Mark of one of five, Dead, and Since is another one")
	}
	for i, after := range found {
		c.expectDead(list[i+1:], 0, after, 2, deadAfter, fmt.Sprintf("Dead after no. %d of five", i+1))
		after = grants.DeadGrant{Grant: after.Grant, Since: after.Since.UTC()} // what a job has to remember
		c.expectDead(list[i+1:], 0, after, 1000, deadAfter, fmt.Sprintf("Dead after no. %d of five, of which Grant and Since are known", i+1))
	}

	list[0].prepare(again)
	list[1].prepare(call{method: "Save", holder: second, token: "saved"})
	list[2].prepare(deleted)
	list[3].prepare(markOf("unfinished"))
	c.expectDead(list[4:], 0, start, 1000, deadStays, "of five one each was put, saved, deleted, and marked alive")
	c.expectDead(list[4:], 0, found[2], 1000, deadAfter, "Dead after one that was deleted")
	list[3].prepare(markOf("dead"))
	time.Sleep(rounding)
	c.expectDead([]*fixture{list[4], list[3]}, 0, start, 1000, deadSince, "one of two was alive meanwhile")
}

// expectDead notes a violation of s unless the pages of Dead list these of the check's grants, and returns them.
func (c *check) expectDead(want []*fixture, since time.Duration, after grants.DeadGrant, limit int, s sentence, done string) (own []grants.DeadGrant) {
	var names []string
	for more := true; more; {
		page, err := c.deadOnce(context.Background(), since, after, limit)
		c.require(err == nil && len(page) <= limit, deadReturns, "Dead with a limit of %d returned %d grants and %s", limit, len(page), show(err))
		more = len(page) == limit
		for _, dead := range page {
			ordered := after.Grant == "" || cmp.Or(dead.Since.Compare(after.Since), strings.Compare(dead.Grant, after.Grant)) > 0
			c.require(ordered, deadAfter, "Dead listed %q of %v after %q of %v", dead.Grant, dead.Since, after.Grant, after.Since)
			after = dead
			if strings.HasPrefix(dead.Grant, c.prefix) {
				own, names = append(own, dead), append(names, dead.Grant)
			}
		}
	}
	c.require(slices.Equal(c.own(names), c.names(want)), s, "%s, and Dead(%v) lists %q, want %q", done, since, c.own(names), c.names(want))
	for i, f := range want {
		c.expect(own[i].Version == f.version, s, "%s, and Dead's Version is not Load's", done)
		c.expect(own[i].Error != nil && slices.Equal(fields(own[i].Error), fields(f.mark(f.row.mark).Dead)), deadKept, "%s, and Dead's Error is %v", done, own[i].Error)
	}
	return own
}

func (c *check) deadOnce(ctx context.Context, since time.Duration, after grants.DeadGrant, limit int) ([]grants.DeadGrant, error) {
	return guard(ctx, c, func(ctx context.Context, s grants.Store) ([]grants.DeadGrant, error) {
		return s.Dead(ctx, since, after, limit)
	})
}
