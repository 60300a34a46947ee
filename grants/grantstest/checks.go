package grantstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// names puts two grants whose names are nearly the same: neither is the other.
func names(c *check) {
	one, other, long := c.fixture(), c.fixture(), c.prefix+strings.Repeat("x", 300-len(c.prefix)-1)
	name := one.grant
	for _, pair := range [][2]string{
		{name, strings.ToUpper(name)}, {name, name + " "}, {" " + name, name}, {name + "e", name + "é"}, {name + "é", name + "e\u0301"},
		{name + "ss", name + "ß"}, {name + "1", name + "01"}, {name + "/", name + "_"}, {name + "%", name + "x"}, {name + `'"\`, name + `'"`},
		{name + "/../" + name, name}, {name + ".", name + "\t"}, {long + "a", long + "b"}, {name + "€", name + "₭"},
		{name + "😀", name + "😁"}, {name + "Ａ", name + "A"}, {name + "K", name + "\u212a"}, {name + "+a", name + " a"}, {name + "%2F", name + "/"},
		{name + "'", name + "''"}, {name + ":a", name + ":b"}, {name + ".", name}, {name + "/", name}, {name + "\n", name},
	} {
		one.grant, one.row, one.done = pair[0], row{}, []string{fmt.Sprintf("with names such as %q and %q", pair[0][len(name):], pair[1][len(name)-1:])}
		other.grant, other.row, other.done = pair[1], row{}, one.done
		if _, err := one.call(context.Background(), put); err != nil && len(pair[0]) > 200 {
			continue // it is refused, and so not taken for another one
		}
		one.prepare(put)
		other.try(load)
		other.prepare(again)
		one.try(load)
		one.prepare(deleted)
		other.try(load)
		other.prepare(deleted)
	}
}

// versions draws some: none comes twice, and none can be told from the one before.
func versions(c *check) {
	f, had, last, near := c.fixture(), make(map[int64]bool), int64(0), 0
	for range 12 {
		for _, call := range []call{put, {method: "Save", holder: first, token: "put"}, put, deleted, put, deleted} {
			f.prepare(call)
			if call.method == "Delete" {
				continue
			}
			f.require(!had[f.version], versionUnique, "%v after others, and Version is one that the grant has had", call)
			if off := f.version - last; -100 < off && off < 100 {
				near++
			}
			had[f.version], last = true, f.version
		}
	}
	c.expect(near < 6, versionRandom, "%d of %d times Version was nearly the one before", near, len(had))
}

// endedContext calls each method with a context that has ended. It may fail or take effect, but not panic or stay.
func endedContext(c *check) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := c.fixture(put, held)
	for _, call := range append(slices.Clone(racing), call{method: "Due"}, call{method: "Dead"}) {
		start := time.Now()
		_, err := f.call(ctx, call)
		ok := !errors.Is(err, errPanic) && time.Since(start) < patience/2
		c.require(ok, contextEnd, "%v with a context that has ended returned %s after %v", call, show(err), time.Since(start))
	}
}

// leaseClock measures how long a lease runs.
func leaseClock(c *check) {
	f, start := c.fixture(put), time.Now()
	f.prepare(call{method: "Lease", holder: first, d: measured})
	most := measured + c.tolerance()
	c.within(most+lag, func() bool { _, err := f.call(context.Background(), probe); return err == nil })
	took := time.Since(start).Round(time.Millisecond)
	c.expect(took >= measured-time.Second && took <= most+4*pause, oneClock, "a lease of %v ran for %v", measured, took)
}

// runsOn returns a check that a lease still runs after d.
func runsOn(s sentence, d time.Duration, state ...call) func(*check) {
	return func(c *check) {
		f := c.fixture(state...)
		time.Sleep(d)
		for _, found := range f.look(f.row) {
			c.expect(false, s, "%s, and after %v %s", strings.Join(f.done, ", "), d, found.seen)
		}
	}
}

// expiresIn is a Put of a token that expires after d.
func expiresIn(d time.Duration) call { return call{method: "Put", token: d.String()} }
func markOf(label string) call       { return call{method: "Mark", holder: second, mark: label} }

// due looks at tokens that expired decades ago, so that other grants of the Store are not in the way, and then at today's.
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
	c.expectDue(ago-150*time.Minute, dueNegative, "two tokens expired longer ago", own[:2]...)
	for limit := 1; limit <= 3; limit++ {
		c.expect(c.within(lag, func() bool {
			got := c.due(ago, limit)
			return len(got) <= len(own) && slices.Equal(got, namesOf(own[:len(got)]))
		}), dueReturns, "Due with a limit of %d does not return the soonest", limit)
	}

	dies.prepare(markOf(""))
	waits.prepare(markOf(""))
	leased.prepare(call{method: "Release", holder: first})
	soonest.prepare(deleted)
	old := []*fixture{leased, waits, dies, waited, unfinished, last, imported}
	c.expectDue(ago, dueReturns, "one grant each is alive again, need not wait, was released and was deleted", old...)

	future, past := c.fixture(expiresIn(30*time.Minute)), c.fixture(expiresIn(-10*time.Minute))
	const done = "one token expires in 30m, and one expired 10m ago"
	withPast := append(slices.Clip(old), past)
	withFuture := append(slices.Clip(withPast), future)
	c.expectDue(time.Hour, dueReturns, done, withFuture...)
	c.expectDue(0, dueReturns, done, withPast...)
	c.expectDue(-time.Minute, dueNegative, done, withPast...)
	c.expectDue(-time.Hour, dueNegative, done, old...)
	future.prepare(call{method: "Save", holder: second, token: "3h"})
	c.expectDue(time.Hour, dueReturns, "Save of a token that expires in 3h", withPast...)
	c.expectDue(5*manyYears, dueExpiry, "one token has no Expiry", withFuture...)
}

// dueByTime waits until grants come due.
func dueByTime(c *check) {
	all := []*fixture{c.fixture(expiresIn(-2*time.Hour), expiring), c.fixture(expiresIn(-time.Hour), markOf("wait a second")), c.fixture(expiresIn(time.Second))}
	wait := time.Second + c.tolerance()
	c.within(wait, func() bool { return len(c.due(0, atMost)) == len(all) })
	c.expectDue(0, dueReturns, fmt.Sprintf("a lease ran out, RetryAt passed and a token expired within %v", wait), all...)
}

// expectDue notes a violation of s unless Due comes to list these of the check's grants and no others, in this order.
func (c *check) expectDue(before time.Duration, s sentence, done string, due ...*fixture) {
	ok := c.within(lag, func() bool { return slices.Equal(c.due(before, atMost), namesOf(due)) })
	c.expect(ok, s, "%s, but %v later Due(%v) lists %q of this check's grants, want %q", done, lag, before, c.due(before, atMost), namesOf(due))
}

// due returns what is due of the check's grants, on a database that may hold many others.
func (c *check) due(before time.Duration, limit int) []string {
	due, err := guard(context.Background(), c, func(ctx context.Context, s grants.Store) ([]string, error) { return s.Due(ctx, before, limit) })
	c.require(err == nil && len(due) <= limit, dueReturns, "Due with a limit of %d returned %d grants and %s", limit, len(due), show(err))
	return slices.DeleteFunc(due, func(grant string) bool { return !strings.HasPrefix(grant, c.prefix) })
}

func namesOf(fixtures []*fixture) (names []string) {
	for _, f := range fixtures {
		names = append(names, f.grant)
	}
	return names
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
		page, err := guard(context.Background(), c, func(ctx context.Context, s grants.Store) ([]grants.DeadGrant, error) {
			return s.Dead(ctx, since, after, limit)
		})
		c.require(err == nil && len(page) <= limit, deadReturns, "Dead with a limit of %d returned %d grants and %s", limit, len(page), show(err))
		more = len(page) == limit
		for _, dead := range page {
			again := dead.Grant == after.Grant && dead.Since.Equal(after.Since) // another's grant may have died again
			c.require(!again && !slices.Contains(names, dead.Grant), deadAfter, "%s, and Dead listed %q twice", done, dead.Grant)
			if strings.HasPrefix(dead.Grant, c.prefix) {
				own, names = append(own, dead), append(names, dead.Grant)
			}
		}
		if more {
			after = page[limit-1]
		}
	}
	c.require(slices.Equal(names, namesOf(want)), s, "%s, and Dead(%v) lists %q, want %q", done, since, names, namesOf(want))
	for i, f := range want {
		c.expect(own[i].Version == f.version, s, "%s, and Dead's Version is not Load's", done)
		c.expect(own[i].Error != nil && slices.Equal(fields(own[i].Error), fields(f.mark(f.row.mark).Dead)), deadKept, "%s, and Dead's Error is %v", done, own[i].Error)
	}
	return own
}
