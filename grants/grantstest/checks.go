package grantstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// The contract, word for word as in package grants.
var (
	noGrant       = sentence{"ErrNoGrant", "ErrNoGrant is returned for a grant that the Store does not hold."}
	recordExpiry  = sentence{"Record.Token", "Its Expiry is by this process's clock: the Store converts it from its own."}
	recordDead    = sentence{"Record.Token", "It is kept when Dead is set."}
	versionStays  = sentence{"Record.Version", "Version changes exactly when Token does."}
	versionUnique = sentence{"Record.Version", "It never repeats for a grant's name: not after Delete and Put"}
	deadKept      = sentence{"Mark.Dead", "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost."}
	markRetryAt   = sentence{"Mark.RetryAt", "by this process's clock: the Store converts it as it does a token's Expiry."}

	atOnce     = sentence{"Store", "Each method takes effect at one instant"}
	concurrent = sentence{"Store", "All methods can be called concurrently"}
	contextEnd = sentence{"Store", "it returns soon after its context ends."}

	loadLast = sentence{"Load", "Load returns the grant's record as last written"}
	loadNone = sentence{"Load", "It returns ErrNoGrant if there is none."}

	leaseGives      = sentence{"Lease", "Lease gives holder the grant for the duration d, and returns its record."}
	leaseExcludes   = sentence{"Lease", "It returns ErrLeased while another holder's lease runs"}
	leaseDuration   = sentence{"Store", "whether a lease has run out, a token expires or RetryAt has passed is decided by one clock"}
	leaseNone       = sentence{"Lease", "and ErrNoGrant if there is no such grant."}
	leaseAgain      = sentence{"Lease", "To the same holder it gives the lease again, from now on."}
	leaseUnfinished = sentence{"Lease", "A lease that has run out without Save, Mark or Release makes the record Unfinished, for Load as for Lease."}
	unfinishedStays = sentence{"Lease", "It stays so until a Save, a Put or a Mark."}

	saveStores   = sentence{"Save", "Save stores token under a new version, removes the mark, and ends holder's lease"}
	saveWhoever  = sentence{"Save", "if the grant's version is still version, whoever holds the lease."}
	saveConflict = sentence{"Save", "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing."}
	saveNever    = sentence{"Save", "It never makes a grant."}

	markReplaces = sentence{"Mark", "Mark replaces the mark and ends holder's lease"}
	markWhoever  = sentence{"Mark", "if the grant's version is still version, whoever holds the lease."}
	markConflict = sentence{"Mark", "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing."}
	markStays    = sentence{"Mark", "Token and version stay."}

	releaseEnds       = sentence{"Release", "Release ends holder's lease, and nobody else's."}
	releaseUnfinished = sentence{"Release", "What Lease has found Unfinished stays so."}
	releaseNil        = sentence{"Release", "It returns nil if holder has no lease, or if there is no such grant."}

	putStores = sentence{"Put", "Put stores token under a new version, whatever was there"}
	putClears = sentence{"Put", "the grant is made if need be, and its mark and its lease are gone."}

	deleteRemoves = sentence{"Delete", "Delete removes the grant."}
	deleteNil     = sentence{"Delete", "It returns nil if there is none."}

	dueReturns = sentence{"Due", "Due returns at most limit grants that are alive, not leased, whose RetryAt has passed, and whose token expires within before from now, the soonest first."}
	dueBefore  = sentence{"Due", "A negative before means tokens that expired at least that long ago."}
	dueExpiry  = sentence{"Due", "A token without an Expiry is never due."}
)

var checks = []func(*check){
	tokens, // first: if this fails, nothing works
	names,
	unknownGrant,
	putAgain,
	versions,
	lease,
	save,
	saveOldVersion,
	mark,
	markOldVersion,
	release,
	deleted,
	leaseRunsOut,
	leaseRunsOutAndIsSaved,
	leaseIsEnded,
	formerHolder,
	clock,
	leaseClock,
	due,
	dueByTime,
	leaseAtOnce,
	saveAtOnce,
	ownMemory,
	endedContext,
}

func token(text string, expires time.Duration) *oauth2.Token {
	return &oauth2.Token{
		AccessToken:  "access-" + text,
		RefreshToken: "refresh-" + text,
		TokenType:    "Bearer",
		Expiry:       time.Now().Add(expires),
	}
}

// verdict is a row of Apple's table with all that a Store keeps.
func verdict() *applebusiness.Error {
	return &applebusiness.Error{
		Endpoint:     applebusiness.TokenEndpoint,
		StatusCode:   401,
		Code:         applebusiness.CodeInvalidGrant,
		Description:  "Invalid refresh_token",
		Reason:       applebusiness.ErrInvalidRefreshToken,
		GrantType:    applebusiness.GrantTypeRefreshToken,
		RequestID:    "4f1c9a52-request-id",
		ResponseLost: true,
	}
}

// unlisted is a verdict that no table has: nothing of it can be looked up.
func unlisted() *applebusiness.Error {
	return &applebusiness.Error{
		Endpoint:   applebusiness.TokenEndpoint,
		StatusCode: 400,
		Code:       "grant_is_gone",
		GrantType:  applebusiness.GrantTypeRefreshToken,
	}
}

func tokens(c *check) {
	bare := token("bare", time.Hour)
	bare.RefreshToken, bare.TokenType, bare.Expiry = "", "", time.Time{}
	for _, want := range []*oauth2.Token{
		token("plain", time.Hour),
		token("expired", -time.Hour),
		token(strings.Repeat("0123456789abcdef", 256), 0), // a JWT of 4 KiB
		bare,
	} {
		grant, first := c.put(want)
		c.expectToken(want, first.Token, loadLast, "Put, Load")
		c.expectMark(grants.Mark{}, first.Mark, putClears, "Put of a new grant, Load")
		second := c.load(grant)
		c.expect(first.Version == second.Version, versionStays, "Load, Load, and Version is another one")
	}
}

func names(c *check) {
	grant, _ := c.put(token("name", time.Hour))
	_, err := c.store.Load(context.Background(), strings.ToUpper(grant))
	c.expectError(err, noGrant, fmt.Sprintf("Put of %q, Load of %q", grant, strings.ToUpper(grant)), grants.ErrNoGrant)
	_, err = c.store.Load(context.Background(), grant+" ")
	c.expectError(err, noGrant, fmt.Sprintf("Put of %q, Load of %q", grant, grant+" "), grants.ErrNoGrant)

	for _, odd := range []string{"é/ü", "a b", `'"\`, "%_*"} {
		grant := c.name() + odd
		c.grants = append(c.grants, grant)
		want := token("odd name", time.Hour)
		record := c.putAs(grant, want)
		c.expectToken(want, record.Token, loadLast, fmt.Sprintf("Put and Load of the grant %q", grant))
	}
}

func unknownGrant(c *check) {
	ctx, grant := context.Background(), c.name()
	gone := func(s sentence, done string) {
		_, err := c.store.Load(ctx, grant)
		c.expectError(err, s, done+", then Load of a grant that nobody put", grants.ErrNoGrant)
	}
	_, err := c.store.Load(ctx, grant)
	c.expectError(err, loadNone, "Load of a grant that nobody put", grants.ErrNoGrant)
	_, err = c.store.Lease(ctx, grant, "holder", long)
	c.expectError(err, leaseNone, "Lease of a grant that nobody put", grants.ErrNoGrant)
	gone(leaseNone, "Lease")
	for _, version := range []int64{0, 1, -1} {
		err = c.store.Save(ctx, grant, "holder", version, token("unknown", time.Hour))
		c.expectError(err, saveConflict, "Save to a grant that nobody put", grants.ErrConflict, grants.ErrNoGrant)
		gone(saveNever, "Save")
		err = c.store.Mark(ctx, grant, "holder", version, grants.Mark{Unfinished: true})
		c.expectError(err, markConflict, "Mark of a grant that nobody put", grants.ErrConflict, grants.ErrNoGrant)
		gone(markConflict, "Mark")
	}
	err = c.store.Release(ctx, grant, "holder")
	c.expect(err == nil, releaseNil, "Release of a grant that nobody put returned %s", show(err))
	err = c.store.Delete(ctx, grant)
	c.expect(err == nil, deleteNil, "Delete of a grant that nobody put returned %s", show(err))
}

func putAgain(c *check) {
	ctx, same := context.Background(), token("same", time.Hour)
	grant, first := c.put(same)
	second := c.putAs(grant, same)
	c.expect(second.Version != first.Version, putStores, "Put, Put of the same token again, and Version is the same")

	c.lease(grant, "holder", long)
	want := grants.Mark{Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true}
	c.requireNil(c.store.Mark(ctx, grant, "nobody", second.Version, want), markWhoever, "Mark while another holder's lease runs")
	other := token("other", 2*time.Hour)
	third := c.putAs(grant, other)
	c.expect(third.Version != second.Version, putStores, "Put over a grant, and Version is the same")
	c.expectToken(other, third.Token, putStores, "Put over a grant, Load")
	c.expectMark(grants.Mark{}, third.Mark, putClears, "Mark, Put, Load")
	c.expectFree(grant, putClears, "Lease, Put")
}

func versions(c *check) {
	ctx, grant, same := context.Background(), c.name(), token("same", time.Hour)
	seen := make(map[int64]bool)
	note := func(record grants.Record, done string) {
		c.require(!seen[record.Version], versionUnique, "%s, and Version is one that the grant has had", done)
		seen[record.Version] = true
	}
	for range 12 {
		record := c.putAs(grant, same)
		note(record, "Put, Delete, Put")
		old := record.Version
		c.requireNil(c.store.Save(ctx, grant, "holder", record.Version, same), saveStores, "Save under the version that Load returned")
		note(c.load(grant), "Put, Save, Delete, Put, Save")
		c.requireNil(c.store.Delete(ctx, grant), deleteRemoves, "Delete")
		record = c.putAs(grant, same)
		note(record, "Put, Save, Delete, Put")
		err := c.store.Save(ctx, grant, "holder", old, token("late", time.Hour))
		c.expectError(err, saveConflict, "Put, Delete, Put, Save under the first Put's version", grants.ErrConflict)
		c.requireNil(c.store.Delete(ctx, grant), deleteRemoves, "Delete")
	}
}

func lease(c *check) {
	ctx := context.Background()
	grant, before := c.put(token("lease", time.Hour))
	leased := c.lease(grant, "first", long)
	c.expectSame(before, leased, leaseGives, "Put, Lease")
	c.expectLeased(grant, leaseExcludes, fmt.Sprintf("Lease for %v", long))
	c.expectSame(before, c.load(grant), versionStays, "Lease, Load")

	again, err := c.store.Lease(ctx, grant, "first", long)
	if c.expect(err == nil, leaseAgain, "Lease, Lease by the same holder returned %s", show(err)) && again.Token != nil {
		c.expectSame(before, again, leaseAgain, "Lease, Lease by the same holder before the first ran out")
	}
	c.expectLeased(grant, leaseExcludes, "Lease, Lease by the same holder")

	// The first of two leases runs out, the second does not.
	renewed, _ := c.put(token("renewed", time.Hour))
	c.lease(renewed, "first", short)
	if _, err := c.store.Lease(ctx, renewed, "first", long); err == nil {
		time.Sleep(short + pause)
		c.expectLeased(renewed, leaseAgain, fmt.Sprintf("Lease for %v, Lease by the same holder for %v, a wait of %v", short, long, short))
	}

	// What is dead can be leased: a Store does not decide who sends a request.
	dead, record := c.put(token("dead", time.Hour))
	want := grants.Mark{Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true}
	c.requireNil(c.store.Mark(ctx, dead, "holder", record.Version, want), markReplaces, "Mark")
	record = c.lease(dead, "first", long)
	c.expectMark(want, record.Mark, leaseGives, "Mark, Lease")
	c.expect(record.Token.RefreshToken == "refresh-dead", recordDead, "Mark with Dead, Lease, and the RefreshToken is not what was stored")
}

func save(c *check) {
	ctx := context.Background()
	grant, before := c.put(token("before", time.Hour))
	c.lease(grant, "holder", long)
	mark := grants.Mark{Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true}
	c.requireNil(c.store.Mark(ctx, grant, "nobody", before.Version, mark), markWhoever, "Mark while another holder's lease runs")
	want := token("after", 2*time.Hour)
	c.requireNil(c.store.Save(ctx, grant, "holder", before.Version, want), saveStores, "Save under the version that Load returned")
	after := c.load(grant)
	c.expect(after.Version != before.Version, saveStores, "Save, and Version is the same")
	c.expectToken(want, after.Token, saveStores, "Save, Load")
	c.expectMark(grants.Mark{}, after.Mark, saveStores, "Mark, Save, Load")
	c.expectFree(grant, saveStores, "Lease, Save")

	// Without a lease, and while another holder has one.
	c.requireNil(c.store.Save(ctx, grant, "nobody", after.Version, want), saveWhoever, "Save by one that has no lease, while another's runs,")
	again := c.load(grant)
	c.expect(again.Version != after.Version, saveStores, "Save of the same token, and Version is the same")
	c.expectLeased(grant, saveStores, "Lease, Save by one that has no lease")
	c.expectLeased(grant, saveStores, "Lease, Save by one that has no lease")
}

func saveOldVersion(c *check) {
	ctx := context.Background()
	grant, old := c.put(token("old", time.Hour))
	mark := grants.Mark{Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true}
	c.putAs(grant, token("new", 2*time.Hour))
	current := c.lease(grant, "holder", long)
	c.requireNil(c.store.Mark(ctx, grant, "nobody", current.Version, mark), markWhoever, "Mark while another holder's lease runs")
	current = c.load(grant)
	for _, version := range []int64{old.Version, current.Version + 1, current.Version - 1, 0} {
		if version == current.Version {
			continue
		}
		err := c.store.Save(ctx, grant, "holder", version, token("late", 3*time.Hour))
		c.expectError(err, saveConflict, "Save under a version that is not the grant's", grants.ErrConflict)
	}
	c.expectSame(current, c.load(grant), saveConflict, "Save under a version that is not the grant's, Load")
	c.expectLeased(grant, saveConflict, "Lease, Save by the holder under a version that is not the grant's")
}

func mark(c *check) {
	ctx := context.Background()
	grant, before := c.put(token("before", time.Hour))
	for _, want := range []grants.Mark{
		{Dead: verdict()},
		{Dead: unlisted(), RetryAt: time.Now().Add(time.Hour)},
		{RetryAt: time.Now().Add(30 * time.Second)},
		{Unfinished: true},
		{Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true},
		{},
	} {
		c.lease(grant, "holder", long)
		c.requireNil(c.store.Mark(ctx, grant, "holder", before.Version, want), markReplaces, "Mark under the version that Load returned")
		after := c.load(grant)
		c.expectMark(want, after.Mark, markReplaces, "Mark, Load")
		c.expect(after.Version == before.Version, markStays, "Mark, and Version is another one")
		c.expectToken(before.Token, after.Token, markStays, "Mark, Load")
		if want.Dead != nil {
			c.expectToken(before.Token, after.Token, recordDead, "Mark with Dead, Load")
		}
		c.expectFree(grant, markReplaces, "Lease, Mark")
		c.requireNil(c.store.Release(ctx, grant, "the next"), releaseEnds, "Release")
	}

	// Without a lease, and while another holder has one.
	c.lease(grant, "holder", long)
	c.requireNil(c.store.Mark(ctx, grant, "nobody", before.Version, grants.Mark{Unfinished: true}), markWhoever, "Mark by one that has no lease, while another's runs,")
	c.expect(c.load(grant).Unfinished, markWhoever, "Mark by one that has no lease, while another's runs, and Unfinished is false")
	c.expectLeased(grant, markReplaces, "Lease, Mark by one that has no lease")
}

func markOldVersion(c *check) {
	ctx := context.Background()
	grant, old := c.put(token("old", time.Hour))
	c.putAs(grant, token("new", 2*time.Hour))
	current := c.lease(grant, "holder", long)
	for _, version := range []int64{old.Version, current.Version + 1, current.Version - 1, 0} {
		if version == current.Version {
			continue
		}
		err := c.store.Mark(ctx, grant, "holder", version, grants.Mark{Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true})
		c.expectError(err, markConflict, "Mark under a version that is not the grant's", grants.ErrConflict)
	}
	c.expectSame(current, c.load(grant), markConflict, "Mark under a version that is not the grant's, Load")
	c.expectLeased(grant, markConflict, "Lease, Mark by the holder under a version that is not the grant's")
}

func release(c *check) {
	ctx := context.Background()
	grant, before := c.put(token("release", time.Hour))
	err := c.store.Release(ctx, grant, "holder")
	c.expect(err == nil, releaseNil, "Release of a grant that nobody has leased returned %s", show(err))

	c.lease(grant, "holder", long)
	err = c.store.Release(ctx, grant, "nobody")
	c.expect(err == nil, releaseNil, "Release by one that has no lease, while another's runs, returned %s", show(err))
	c.expectLeased(grant, releaseEnds, "Lease, Release by one that has no lease")

	c.requireNil(c.store.Release(ctx, grant, "holder"), releaseEnds, "Release by the holder")
	c.expectSame(before, c.load(grant), versionStays, "Lease, Release, Load")
	c.expectFree(grant, releaseEnds, "Lease, Release")
	c.expect(!c.load(grant).Unfinished, leaseUnfinished, "Lease, Release before it ran out, Lease by another holder, and Unfinished is true")
}

func deleted(c *check) {
	ctx := context.Background()
	grant, before := c.put(token("deleted", time.Hour))
	c.lease(grant, "holder", long)
	mark := grants.Mark{Dead: verdict(), RetryAt: time.Now().Add(time.Hour), Unfinished: true}
	c.requireNil(c.store.Mark(ctx, grant, "nobody", before.Version, mark), markWhoever, "Mark while another holder's lease runs")
	c.requireNil(c.store.Delete(ctx, grant), deleteRemoves, "Delete")

	gone := func(s sentence, done string) {
		_, err := c.store.Load(ctx, grant)
		c.expectError(err, s, done+", Load", grants.ErrNoGrant)
	}
	gone(deleteRemoves, "Delete")
	_, err := c.store.Lease(ctx, grant, "holder", long)
	c.expectError(err, leaseNone, "Delete, Lease", grants.ErrNoGrant)
	gone(leaseNone, "Delete, Lease")
	err = c.store.Save(ctx, grant, "holder", before.Version, token("late", time.Hour))
	c.expectError(err, saveConflict, "Delete, Save under the version that the grant had", grants.ErrConflict, grants.ErrNoGrant)
	gone(saveNever, "Delete, Save")
	err = c.store.Mark(ctx, grant, "holder", before.Version, mark)
	c.expectError(err, markConflict, "Delete, Mark under the version that the grant had", grants.ErrConflict, grants.ErrNoGrant)
	gone(markConflict, "Delete, Mark")
	err = c.store.Release(ctx, grant, "holder")
	c.expect(err == nil, releaseNil, "Delete, Release returned %s", show(err))
	gone(releaseNil, "Delete, Release")
	err = c.store.Delete(ctx, grant)
	c.expect(err == nil, deleteNil, "Delete, Delete returned %s", show(err))

	after := c.putAs(grant, token("anew", time.Hour))
	c.expectMark(grants.Mark{}, after.Mark, putClears, "Mark, Delete, Put, Load")
	c.expectFree(grant, putClears, "Lease, Delete, Put")
}

// leaseRunsOut leaves a lease to itself: Load says so, then Lease, until somebody has found out what became of it.
func leaseRunsOut(c *check) {
	ctx := context.Background()
	grant, before := c.put(token("left", time.Hour))
	c.lease(grant, "first", short)
	wait := short + c.tolerance() + lag
	c.require(c.within(wait, func() bool { return c.load(grant).Unfinished }), leaseUnfinished,
		"Lease for %v, and Load shows no Unfinished within %v", short, wait)
	done := "a lease ran out"
	for _, holder := range []string{"second", "third"} {
		done += ", Lease by another holder"
		record := c.lease(grant, holder, long)
		c.expect(record.Version == before.Version, versionStays, "%s, and Version is another one", done)
		c.expect(record.Unfinished, leaseUnfinished, "%s, and Unfinished is false", done)
		c.expect(c.load(grant).Unfinished, unfinishedStays, "%s, Load, and Unfinished is false", done)
		done += ", Release by it"
		c.requireNil(c.store.Release(ctx, grant, holder), releaseEnds, "Release by the holder")
		c.expect(c.load(grant).Unfinished, releaseUnfinished, "%s, Load, and Unfinished is false", done)
	}
	c.lease(grant, "fourth", long)
	c.requireNil(c.store.Mark(ctx, grant, "fourth", before.Version, grants.Mark{}), markReplaces, "Mark by the holder")
	c.expect(!c.load(grant).Unfinished, markReplaces, "%s, Lease by another holder, Mark with Unfinished false, Load, and Unfinished is true", done)
}

// leaseRunsOutAndIsSaved comes back to a lease that has run out. Nobody else has written meanwhile, so all is well.
func leaseRunsOutAndIsSaved(c *check) {
	ctx := context.Background()
	saved, before := c.put(token("saved late", time.Hour))
	marked, _ := c.put(token("marked late", time.Hour))
	replaced, _ := c.put(token("replaced", time.Hour))
	all := []string{saved, marked, replaced}
	for _, grant := range all {
		c.lease(grant, "first", short)
	}
	wait := short + c.tolerance() + lag
	for _, grant := range all {
		c.require(c.within(wait, func() bool { return c.load(grant).Unfinished }), leaseUnfinished,
			"Lease for %v, and Load shows no Unfinished within %v", short, wait)
	}

	want := token("late", 2*time.Hour)
	c.requireNil(c.store.Save(ctx, saved, "first", before.Version, want), saveWhoever, "a lease ran out, and Save by its holder under the same version")
	after := c.load(saved)
	c.expectToken(want, after.Token, saveStores, "a lease ran out, Save by its holder, Load")
	c.expect(!after.Unfinished, saveStores, "a lease ran out, Save by its holder, Load, and Unfinished is true")
	c.expectFree(saved, saveStores, "a lease ran out, Save by its holder")
	c.expect(!c.load(saved).Unfinished, saveStores, "a lease ran out, Save by its holder, Lease, Load, and Unfinished is true")

	before = c.load(marked)
	c.requireNil(c.store.Mark(ctx, marked, "first", before.Version, grants.Mark{}), markWhoever, "a lease ran out, and Mark by its holder under the same version")
	c.expect(!c.load(marked).Unfinished, markReplaces, "a lease ran out, Mark by its holder with Unfinished false, Load, and Unfinished is true")

	after = c.putAs(replaced, want)
	c.expect(!after.Unfinished, putClears, "a lease ran out, Put, Load, and Unfinished is true")
}

// leaseIsEnded looks at leases that were ended when their time has come: nothing was left unfinished.
func leaseIsEnded(c *check) {
	ctx := context.Background()
	type ended struct {
		grant, done string
	}
	var all []ended
	for done, end := range map[string]func(grant string, version int64) error{
		"Release": func(grant string, _ int64) error { return c.store.Release(ctx, grant, "holder") },
		"Mark": func(grant string, version int64) error {
			return c.store.Mark(ctx, grant, "holder", version, grants.Mark{})
		},
		"Save": func(grant string, version int64) error {
			return c.store.Save(ctx, grant, "holder", version, token("saved", time.Hour))
		},
	} {
		grant, record := c.put(token("ended", time.Hour))
		start := time.Now()
		c.lease(grant, "holder", moderate)
		if end(grant, record.Version) == nil && time.Since(start) < moderate/2 { // else it may have run out before
			all = append(all, ended{grant, done})
		}
	}
	time.Sleep(moderate + moderate/4)
	for _, ended := range all {
		c.expect(!c.load(ended.grant).Unfinished, leaseUnfinished, "Lease, %s before it ran out, Load when it would have run out, and Unfinished is true", ended.done)
	}
}

// formerHolder has lost its grants to another holder, whose leases it must not end.
func formerHolder(c *check) {
	ctx := context.Background()
	saved, before := c.put(token("saved", time.Hour))
	released, _ := c.put(token("released", time.Hour))
	marked, _ := c.put(token("marked", time.Hour))
	for _, grant := range []string{saved, released, marked} {
		c.lease(grant, "former", short)
	}
	for _, grant := range []string{saved, released, marked} {
		record := c.leaseTo(grant, "present", short)
		c.expect(record.Unfinished, leaseUnfinished, "a lease ran out, Lease by another holder, and Unfinished is false")
	}

	want := token("late", 2*time.Hour)
	c.requireNil(c.store.Save(ctx, saved, "former", before.Version, want), saveWhoever, "Save by a former holder under the same version, while another's lease runs,")
	c.expectToken(want, c.load(saved).Token, saveStores, "Save by a former holder, Load")
	c.expectLeased(saved, saveStores, "Lease, Save by a former holder")

	c.requireNil(c.store.Mark(ctx, marked, "former", c.load(marked).Version, grants.Mark{}), markWhoever, "Mark by a former holder under the same version, while another's lease runs,")
	c.expectLeased(marked, markReplaces, "Lease, Mark by a former holder")

	err := c.store.Release(ctx, released, "former")
	c.expect(err == nil, releaseNil, "Release by a former holder returned %s", show(err))
	c.expectLeased(released, releaseEnds, "Lease, Release by a former holder")
}

// clock reads times twice: what is stored is an instant and not the time that was left.
func clock(c *check) {
	ctx, want := context.Background(), token("clock", 10*time.Minute)
	grant, record := c.put(want)
	mark := grants.Mark{RetryAt: time.Now().Add(5 * time.Minute)}
	c.requireNil(c.store.Mark(ctx, grant, "holder", record.Version, mark), markReplaces, "Mark")
	for _, wait := range []time.Duration{0, c.tolerance() + time.Second} {
		time.Sleep(wait)
		record = c.load(grant)
		c.expectTime(want.Expiry, record.Token.Expiry, recordExpiry, fmt.Sprintf("Put, Load %v later, and the token's Expiry", wait))
		c.expectTime(mark.RetryAt, record.RetryAt, markRetryAt, fmt.Sprintf("Mark, Load %v later, and RetryAt", wait))
	}
}

// leaseClock measures how long a lease runs.
func leaseClock(c *check) {
	ctx := context.Background()
	grant, _ := c.put(token("measured", time.Hour))
	start := time.Now()
	c.lease(grant, "first", measured)
	var end time.Time
	most := measured + c.tolerance()
	c.within(most+lag, func() bool {
		_, err := c.store.Lease(ctx, grant, "second", long)
		end = time.Now()
		return err == nil
	})
	took := end.Sub(start)
	c.expect(took >= measured-time.Second, leaseDuration, "a lease of %v ran out after %v", measured, took.Round(time.Millisecond))
	c.expect(took <= most+4*pause, leaseDuration, "a lease of %v still ran after %v", measured, took.Round(time.Millisecond))
}

// due looks at tokens that expired decades ago, so that other grants of the Store are not in the way.
func due(c *check) {
	ctx := context.Background()
	const ago = 20 * 365 * 24 * time.Hour
	put := func(text string, age time.Duration) (string, int64) {
		grant, record := c.put(token(text, -age))
		return grant, record.Version
	}
	last, _ := put("last", ago+time.Hour)
	first, _ := put("first", ago+4*time.Hour)
	unfinished, version := put("unfinished", ago+2*time.Hour)
	c.requireNil(c.store.Mark(ctx, unfinished, "holder", version, grants.Mark{Unfinished: true}), markReplaces, "Mark")
	waited, version := put("has waited", ago+3*time.Hour)
	c.requireNil(c.store.Mark(ctx, waited, "holder", version, grants.Mark{RetryAt: time.Now().Add(-time.Hour)}), markReplaces, "Mark")

	dead, deadVersion := put("dead", ago+5*time.Hour)
	c.requireNil(c.store.Mark(ctx, dead, "holder", deadVersion, grants.Mark{Dead: verdict()}), markReplaces, "Mark")
	waits, waitsVersion := put("waits", ago+6*time.Hour)
	c.requireNil(c.store.Mark(ctx, waits, "holder", waitsVersion, grants.Mark{RetryAt: time.Now().Add(time.Hour)}), markReplaces, "Mark")
	leased, _ := put("leased", ago+7*time.Hour)
	c.lease(leased, "holder", long)
	endless := token("endless", 0)
	endless.Expiry = time.Time{}
	c.put(endless)

	c.expectDue(-ago, dueReturns, "four grants are due, and one each is dead, has to wait, is leased and has no Expiry", first, waited, unfinished, last)
	c.expectDue(-ago-150*time.Minute, dueBefore, fmt.Sprintf("two tokens expired more than %v ago", ago+150*time.Minute), first, waited)
	own := []string{first, waited, unfinished, last}
	for limit := 1; limit <= 3; limit++ {
		var got []string
		ok := c.within(lag, func() bool {
			var err error
			got, err = c.store.Due(ctx, -ago, limit)
			c.requireNil(err, dueReturns, "Due")
			next := 0
			for _, grant := range got {
				if strings.HasPrefix(grant, c.prefix) {
					if next >= len(own) || grant != own[next] {
						return false
					}
					next++
				}
			}
			return len(got) <= limit
		})
		c.expect(ok, dueReturns, "Due with a limit of %d returned %d grants, or not the soonest", limit, len(got))
	}

	c.requireNil(c.store.Mark(ctx, dead, "holder", deadVersion, grants.Mark{}), markReplaces, "Mark")
	c.requireNil(c.store.Mark(ctx, waits, "holder", waitsVersion, grants.Mark{}), markReplaces, "Mark")
	c.requireNil(c.store.Release(ctx, leased, "holder"), releaseEnds, "Release")
	c.requireNil(c.store.Delete(ctx, first), deleteRemoves, "Delete")
	c.expectDue(-ago, dueReturns, "one grant each is alive again, need not wait, was released and was deleted", leased, waits, dead, waited, unfinished, last)

	// The tokens of today.
	future, version := put("future", -30*time.Minute)
	past, _ := put("past", 10*time.Minute)
	old := []string{leased, waits, dead, waited, unfinished, last}
	c.expectDue(time.Hour, dueReturns, "one token expires in 30m, and one expired 10m ago", append(old[:6:6], past, future)...)
	c.expectDue(10*time.Minute, dueReturns, "one token expires in 30m, and one expired 10m ago", append(old[:6:6], past)...)
	c.expectDue(0, dueReturns, "one token expires in 30m, and one expired 10m ago", append(old[:6:6], past)...)
	c.expectDue(-time.Minute, dueBefore, "one token expired 10m ago", append(old[:6:6], past)...)
	c.expectDue(-time.Hour, dueBefore, "one token expired 10m ago", old...)
	c.requireNil(c.store.Save(ctx, future, "holder", version, token("renewed", 3*time.Hour)), saveStores, "Save")
	c.expectDue(time.Hour, dueReturns, "Save of a token that expires in 3h", append(old[:6:6], past)...)
	c.expectDue(100*365*24*time.Hour, dueExpiry, "one token has no Expiry", append(old[:6:6], past, future)...)
}

// dueByTime waits until grants come due.
func dueByTime(c *check) {
	ctx := context.Background()
	expires, _ := c.put(token("expires", time.Second))
	waits, record := c.put(token("waits", -time.Hour))
	c.requireNil(c.store.Mark(ctx, waits, "holder", record.Version, grants.Mark{RetryAt: time.Now().Add(time.Second)}), markReplaces, "Mark")
	leased, _ := c.put(token("leased", -2*time.Hour))
	c.lease(leased, "holder", short)
	wait := time.Second + c.tolerance()
	c.within(wait, func() bool {
		own := 0
		for _, grant := range c.due(0) {
			if strings.HasPrefix(grant, c.prefix) {
				own++
			}
		}
		return own == 3
	})
	c.expectDue(0, dueReturns, fmt.Sprintf("a lease ran out, RetryAt passed and a token expired within %v", wait), leased, waits, expires)
}

const rivals = 8

// leaseAtOnce lets many holders ask for one grant.
func leaseAtOnce(c *check) {
	for range 3 {
		grant, _ := c.put(token("contested", time.Hour))
		errs := atTheSameTime(func(i int) error {
			_, err := c.store.Lease(context.Background(), grant, fmt.Sprintf("holder %d", i), long)
			return err
		})
		c.expectOne(errs, grants.ErrLeased, "Lease")
	}
}

// saveAtOnce lets many processes save a token under one version.
func saveAtOnce(c *check) {
	for range 3 {
		grant, record := c.put(token("contested", time.Hour))
		errs := atTheSameTime(func(i int) error {
			return c.store.Save(context.Background(), grant, "holder", record.Version, token(fmt.Sprint(i), time.Hour))
		})
		if !c.expectOne(errs, grants.ErrConflict, "Save under one version") {
			continue
		}
		got := c.load(grant).Token.AccessToken
		for i, err := range errs {
			if err == nil {
				c.expect(got == "access-"+fmt.Sprint(i), saveConflict, "of %d concurrent calls of Save one returned nil, and Load returns another one's token", rivals)
			}
		}
	}
}

func atTheSameTime(call func(i int) error) []error {
	errs, start := make([]error, rivals), make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			<-start
			errs[i] = call(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// expectOne notes a violation unless one call has won and all others have lost.
func (c *check) expectOne(errs []error, lost error, done string) bool {
	won, ok := 0, true
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, lost) {
			ok = c.expect(false, concurrent, "of %d concurrent calls of %s one returned %s, want nil or %s", rivals, done, show(err), nameOf(lost)) && ok
		}
	}
	return c.expect(won == 1, atOnce, "of %d concurrent calls of %s %d returned nil, want 1", rivals, done, won) && ok
}

// ownMemory changes what it has handed over and what it was handed.
func ownMemory(c *check) {
	ctx, s := context.Background(), loadLast
	put, save, dead := token("own", time.Hour), token("own", time.Hour), verdict()
	want, wantMark := *put, grants.Mark{Dead: verdict()}
	spoil := func(token *oauth2.Token) {
		token.AccessToken, token.RefreshToken, token.Expiry = "spoilt", "spoilt", time.Time{}
	}

	grant, record := c.put(put)
	spoil(put)
	c.expectToken(&want, c.load(grant).Token, s, "Put, a change of the token that was put, Load")
	c.requireNil(c.store.Save(ctx, grant, "holder", record.Version, save), saveStores, "Save")
	spoil(save)
	record = c.load(grant)
	c.expectToken(&want, record.Token, s, "Save, a change of the token that was saved, Load")
	spoil(record.Token)
	c.expectToken(&want, c.load(grant).Token, s, "Load, a change of the token that it returned, Load")
	spoil(c.lease(grant, "holder", long).Token)
	c.expectToken(&want, c.load(grant).Token, s, "Lease, a change of the token that it returned, Load")

	c.requireNil(c.store.Mark(ctx, grant, "holder", record.Version, grants.Mark{Dead: dead}), markReplaces, "Mark")
	dead.RequestID = "spoilt"
	record = c.load(grant)
	c.expect(record.Dead != nil && record.Dead.RequestID == wantMark.Dead.RequestID, s, "Mark, a change of the Dead that was marked, Load, and Dead has changed")
	if record.Dead != nil {
		record.Dead.RequestID = "spoilt"
	}
	record = c.load(grant)
	c.expect(record.Dead != nil && record.Dead.RequestID == wantMark.Dead.RequestID, s, "Load, a change of the Dead that it returned, Load, and Dead has changed")
}

// endedContext calls each method with a context that has ended. It may fail or take effect, but not panic or stay.
func endedContext(c *check) {
	grant, record := c.put(token("ended", time.Hour))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, call := range []struct {
		method string
		call   func() error
	}{
		{"Load", func() error { _, err := c.store.Load(ctx, grant); return err }},
		{"Lease", func() error { _, err := c.store.Lease(ctx, grant, "holder", short); return err }},
		{"Lease", func() error { _, err := c.store.Lease(ctx, grant, "another", short); return err }},
		{"Save", func() error {
			return c.store.Save(ctx, grant, "holder", record.Version, token("late", time.Hour))
		}},
		{"Mark", func() error { return c.store.Mark(ctx, grant, "holder", record.Version, grants.Mark{}) }},
		{"Release", func() error { return c.store.Release(ctx, grant, "holder") }},
		{"Put", func() error { return c.store.Put(ctx, grant, token("late", time.Hour)) }},
		{"Due", func() error { _, err := c.store.Due(ctx, time.Hour, 1); return err }},
		{"Delete", func() error { return c.store.Delete(ctx, grant) }},
	} {
		start := time.Now()
		err := call.call()
		var panicked *panicError
		c.expect(!errors.As(err, &panicked), contextEnd, "%s with a context that has ended returned %s", call.method, show(err))
		took := time.Since(start)
		c.require(took < patience/2, contextEnd, "%s with a context that has ended took %v", call.method, took.Round(time.Millisecond))
	}
}
