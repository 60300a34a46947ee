package grantstest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// simple is the first check: a token is put and read.
func simple(c *check) { c.fixture(put).try(load) }

// names puts two grants whose names are nearly the same: neither is the other.
func names(c *check) {
	one, other, long := c.fixture(), c.fixture(), c.prefix+strings.Repeat("x", 300-len(c.prefix)-1)
	name := one.grant
	for _, pair := range [][2]string{
		{name, strings.ToUpper(name)}, {name, name + " "}, {" " + name, name}, {name + "e", name + "é"}, {name + "é", name + "e\u0301"},
		{name + "ss", name + "ß"}, {name + "1", name + "01"}, {name + "/", name + "_"}, {name + "%", name + "x"}, {name + `'"\`, name + `'"`},
		{name + "/../" + name, name}, {name + ".", name + "\t"}, {long + "a", long + "b"}, {name + "€", name + "₭"},
	} {
		one.grant, one.row, one.done = pair[0], row{}, []string{"with names such as " + pair[0][len(name):] + " and " + pair[1][len(name)-1:]}
		other.grant, other.row, other.done = pair[1], row{}, one.done
		if len(pair[0]) > 200 {
			if _, err := one.call(context.Background(), put); err != nil {
				continue // it is refused, and so not taken for another one
			}
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
	save := call{method: "Save", holder: first, token: "put"}
	for range 12 {
		for _, call := range []call{put, save, put, deleted, put, deleted} {
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
		f.prepare(put)
		f.try(call{method: "Save", holder: first, token: "late", under: earlier})
		f.prepare(deleted)
	}
	c.expect(near < 6, versionRandom, "%d of %d times Version was nearly the one before", near, len(had))
}

// endedContext calls each method with a context that has ended. It may fail or take effect, but not panic or stay.
func endedContext(c *check) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := c.fixture(put, held)
	try := func(method any, call func() error) {
		start := time.Now()
		err := call()
		c.expect(!errors.As(err, new(*panicError)), contextEnd, "%v with a context that has ended returned %s", method, show(err))
		took := time.Since(start)
		c.require(took < patience/2, contextEnd, "%v with a context that has ended took %v", method, took.Round(time.Millisecond))
	}
	for _, call := range racing {
		try(call, func() error { _, err := f.call(ctx, call); return err })
	}
	try("Due", func() error { _, err := c.dueOnce(ctx, time.Hour, 1); return err })
	try("Dead", func() error { _, err := c.deadOnce(ctx, 0, grants.DeadGrant{}, 1); return err })
}

// clock reads times again later: what is stored is an instant and not the time that was left.
func clock(c *check) {
	f := c.fixture(put, marked)
	time.Sleep(c.tolerance() + time.Second)
	f.try(load)
}

// leaseClock measures how long a lease runs.
func leaseClock(c *check) {
	f, start := c.fixture(put), time.Now()
	f.prepare(call{method: "Lease", holder: first, d: measured})
	most := measured + c.tolerance()
	c.within(most+lag, func() bool { _, err := f.call(context.Background(), probe); return err == nil })
	took := time.Since(start).Round(time.Millisecond)
	c.expect(took >= measured-time.Second, oneClock, "a lease of %v ran out after %v", measured, took)
	c.expect(took <= most+4*pause, oneClock, "a lease of %v still ran after %v", measured, took)
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
