package grantstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// tokens is the first check: a token is put and read.
func tokens(c *check) {
	f := c.fixture()
	f.prepare([]call{put})
	f.try(call{method: "Load"})
}

// names puts two grants whose names are nearly the same: neither is the other.
func names(c *check) {
	ctx := context.Background()
	name, long := c.name(), c.prefix+strings.Repeat("x", 300-len(c.prefix)-1)
	for _, pair := range [][2]string{
		{name, strings.ToUpper(name)}, {name, name + " "}, {" " + name, name}, {name + "e", name + "é"}, {name + "é", name + "e\u0301"},
		{name + "ss", name + "ß"}, {name + "1", name + "01"}, {name + "/", name + "_"}, {name + "%", name + "x"}, {name + `'"\`, name + `'"`},
		{name + "/../" + name, name}, {name + ".", name + "\t"}, {long + "a", long + "b"}, {name + "€", name + "₭"},
	} {
		c.grants = append(c.grants, pair[:]...)
		for i, grant := range pair {
			_, err := c.store.Load(ctx, grant)
			c.expect(errors.Is(err, grants.ErrNoGrant), noGrant, "Load of %q returned %s, want ErrNoGrant: only %q may be there", grant, show(err), pair[0])
			err = c.store.Put(ctx, grant, token(fmt.Sprint(i), time.Hour))
			if err != nil && len(grant) > 200 {
				break // it is refused, and so not taken for another one
			}
			c.requireNil(err, putStores, fmt.Sprintf("Put of the grant %q", grant))
			c.expect(c.load(grant).Token.AccessToken == fmt.Sprint("access-", i), loadLast, "Put and Load of %q, and the token is another one", grant)
		}
		record, err := c.store.Load(ctx, pair[0])
		c.expect(err == nil && record.Token != nil && record.Token.AccessToken == "access-0", loadLast, "Put of %q, Put of %q, and Load of the first returned %s and not its token", pair[0], pair[1], show(err))
		for _, grant := range pair {
			c.requireNil(c.store.Delete(ctx, grant), deleteRemoves, "Delete")
		}
	}
}

// versions draws some: none comes twice, and none can be told from the one before.
func versions(c *check) {
	ctx, grant, same := context.Background(), c.name(), token("same", time.Hour)
	had, last, counted := make(map[int64]bool), int64(0), 0
	draw := func(done string, err error) int64 {
		c.requireNil(err, putStores, done)
		version := c.load(grant).Version
		c.require(!had[version], versionUnique, "%s, and Version is one that the grant has had", done)
		if off := version - last; -100 < off && off < 100 {
			counted++
		}
		had[version], last = true, version
		return version
	}
	for range 12 {
		old := draw("Put, Save, Delete, Put", c.store.Put(ctx, grant, same))
		saved := draw("Save", c.store.Save(ctx, grant, first, old, same))
		draw("Put over a grant", c.store.Put(ctx, grant, same))
		c.requireNil(c.store.Delete(ctx, grant), deleteRemoves, "Delete")
		draw("Put, Save, Delete, Put", c.store.Put(ctx, grant, same))
		for _, version := range []int64{old, saved} {
			err := c.store.Save(ctx, grant, first, version, token("late", time.Hour))
			c.expect(errors.Is(err, grants.ErrConflict), saveConflict, "Put, Save, Delete, Put, Save under an old version returned %s", show(err))
		}
		c.requireNil(c.store.Delete(ctx, grant), deleteRemoves, "Delete")
	}
	c.expect(counted < 6, versionRandom, "%d of %d times Version was nearly the one before", counted, len(had))
}

// ownMemory changes what it has handed over and what it was handed.
func ownMemory(c *check) {
	ctx, f := context.Background(), c.fixture()
	f.prepare([]call{put, marked})
	spoil := func(token *oauth2.Token) {
		if token != nil {
			token.AccessToken, token.RefreshToken, token.Expiry = "spoilt", "spoilt", time.Time{}
		}
	}
	unspoilt := func(done string) {
		record := c.load(f.grant)
		for _, d := range f.differences(f.row, &record) {
			c.expect(false, loadLast, "%s, Load, and %s", done, d.seen)
		}
	}
	for range 2 { // for each of two instances
		record := c.load(f.grant)
		spoil(record.Token)
		if record.Dead != nil {
			record.Dead.RequestID = "spoilt"
		}
		unspoilt("Load, a change of what it returned")
		record, err := c.store.Lease(ctx, f.grant, first, long)
		c.requireNil(err, leaseGives, "Lease")
		spoil(record.Token)
		unspoilt("Lease, a change of what it returned")
	}
	for _, store := range []func(*oauth2.Token) error{
		func(token *oauth2.Token) error { return c.store.Put(ctx, f.grant, token) },
		func(token *oauth2.Token) error {
			return c.store.Save(ctx, f.grant, first, c.load(f.grant).Version, token)
		},
	} {
		given := f.token("put")
		c.requireNil(store(given), putStores, "Put or Save")
		spoil(given)
		f.row, f.version = row{token: "put"}, c.load(f.grant).Version
		unspoilt("Put or Save, a change of the token that was given")
	}
	mark := f.mark("all")
	c.setMark(f.grant, f.version, mark)
	mark.Dead.RequestID = "spoilt"
	f.row, _ = marked.apply(f.row)
	unspoilt("Mark, a change of the Dead that was given")
}

// endedContext calls each method with a context that has ended. It may fail or take effect, but not panic or stay.
func endedContext(c *check) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := c.fixture()
	f.prepare([]call{put, held})
	try := func(method any, call func() error) {
		start := time.Now()
		err := call()
		var panicked *panicError
		c.expect(!errors.As(err, &panicked), contextEnd, "%v with a context that has ended returned %s", method, show(err))
		took := time.Since(start)
		c.require(took < patience/2, contextEnd, "%v with a context that has ended took %v", method, took.Round(time.Millisecond))
	}
	for _, call := range racing {
		try(call, func() error { _, err := f.call(ctx, call); return err })
	}
	try("Due", func() error { _, err := c.store.Due(ctx, time.Hour, 1); return err })
	try("Dead", func() error { _, err := c.store.Dead(ctx, 0, grants.DeadGrant{}, 1); return err })
}

// clock reads times again later: what is stored is an instant and not the time that was left.
func clock(c *check) {
	f := c.fixture()
	f.prepare([]call{put, marked})
	time.Sleep(c.tolerance() + time.Second)
	f.try(call{method: "Load"})
}

// leaseClock measures how long a lease runs.
func leaseClock(c *check) {
	grant, _ := c.put("measured", time.Hour)
	lease := func(holder string, d time.Duration) bool {
		_, err := c.store.Lease(context.Background(), grant, holder, d)
		return err == nil
	}
	start := time.Now()
	c.require(lease(first, measured), leaseGives, "Put, Lease failed")
	most := measured + c.tolerance()
	c.within(most+lag, func() bool { return lease(second, long) })
	took := time.Since(start).Round(time.Millisecond)
	c.expect(took >= measured-time.Second, oneClock, "a lease of %v ran out after %v", measured, took)
	c.expect(took <= most+4*pause, oneClock, "a lease of %v still ran after %v", measured, took)
}

// leaseRunsOn watches leases that have to run longer than the test: one of a minute, and one that was renewed.
func leaseRunsOn(c *check) {
	watched, renewed := c.fixture(), c.fixture()
	watched.prepare([]call{put, held})
	inTime := renewed.prepare([]call{put, ended, held})
	for _, watch := range []struct {
		f *fixture
		s sentence
		d time.Duration
	}{{renewed, leaseAgain, 2 * moderate}, {watched, leaseGives, capped}} {
		time.Sleep(time.Until(watch.f.start.Add(watch.d)))
		if watch.f == renewed && !inTime {
			continue
		}
		for _, d := range watch.f.look(watch.f.row) {
			c.expect(false, watch.s, "%s, and after %v %s", strings.Join(watch.f.done, ", "), watch.d, d.seen)
		}
	}
}
