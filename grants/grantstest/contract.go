package grantstest

import (
	"cmp"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// sentence is a sentence of the contract, or the part of it that is tried, word for word as in package grants.
type sentence struct{ of, text string }

var (
	recordExpiry      = sentence{"Record.Token", "Its Expiry is by this process's clock: the Store converts it from its own."}
	recordDead        = sentence{"Record.Token", "It is kept when Dead is set."}
	versionStays      = sentence{"Record.Version", "Version changes exactly when Token does."}
	versionUnique     = sentence{"Record.Version", "It never repeats for a grant's name: not after Delete and Put"}
	versionRandom     = sentence{"Record.Version", "not after a failover to an older copy, so a Store draws it at random."}
	deadKept          = sentence{"Mark.Dead", "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost."}
	markRetryAt       = sentence{"Mark.RetryAt", "by this process's clock: the Store converts it as it does a token's Expiry."}
	atOnce            = sentence{"Store", "Each method takes effect at one instant"}
	concurrent        = sentence{"Store", "All methods can be called concurrently"}
	contextEnd        = sentence{"Store", "it returns soon after its context ends."}
	oneClock          = sentence{"Store", "whether a lease has run out, a token expires or RetryAt has passed is decided by one clock"}
	loadLast          = sentence{"Load", "Load returns the grant's record as last written"}
	loadNone          = sentence{"Load", "It returns ErrNoGrant if there is none."}
	leaseGives        = sentence{"Lease", "Lease gives holder the grant for the duration d, and returns its record."}
	leaseExcludes     = sentence{"Lease", "It returns ErrLeased while another holder's lease runs"}
	leaseNone         = sentence{"Lease", "and ErrNoGrant if there is no such grant."}
	leaseAgain        = sentence{"Lease", "To the same holder it gives the lease again, from now on."}
	leaseUnfinished   = sentence{"Lease", "A lease that has run out without Save, Mark or Release makes the record Unfinished, for Load as for Lease."}
	unfinishedStays   = sentence{"Lease", "It stays so until a Save, a Put or a Mark."}
	saveStores        = sentence{"Save", "Save stores token under a new version, removes the mark, and ends holder's lease"}
	saveWhoever       = sentence{"Save", "if the grant's version is still version, whoever holds the lease."}
	saveConflict      = sentence{"Save", "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing."}
	saveNever         = sentence{"Save", "It never makes a grant."}
	markReplaces      = sentence{"Mark", "Mark replaces the mark and ends holder's lease"}
	markWhoever       = sentence{"Mark", "if the grant's version is still version, whoever holds the lease."}
	markConflict      = sentence{"Mark", "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing."}
	markStays         = sentence{"Mark", "Token and version stay."}
	releaseEnds       = sentence{"Release", "Release ends holder's lease, and nobody else's."}
	releaseUnfinished = sentence{"Release", "What Lease has found Unfinished stays so."}
	releaseNil        = sentence{"Release", "It returns nil if holder has no lease, or if there is no such grant."}
	putStores         = sentence{"Put", "Put stores token under a new version, whatever was there"}
	putClears         = sentence{"Put", "the grant is made if need be, and its mark and its lease are gone."}
	deleteRemoves     = sentence{"Delete", "Delete removes the grant."}
	deleteNil         = sentence{"Delete", "It returns nil if there is none."}
	dueReturns        = sentence{"Due", "Due returns at most limit grants that are alive, not leased, whose RetryAt has passed, and whose token expires within the given time, the soonest first."}
	dueNegative       = sentence{"Due", "A negative within means tokens that expired at least that long ago."}
	dueExpiry         = sentence{"Due", "A token without an Expiry is never due."}
	deadReturns       = sentence{"Dead", "Dead returns at most limit grants that have been dead for at least the duration since, the longest dead first, and by name among those that died at the same instant."}
	deadAfter         = sentence{"Dead", "It begins with the first one that comes after the given one in this order; the zero DeadGrant is before all."}
	deadStays         = sentence{"Dead", "A grant stays in the list until it is put again, saved, deleted, or marked without Dead."}
	deadSince         = sentence{"Dead", "Since is when the verdict was marked, and is the same at each call; a Mark of a grant that is dead already does not move it."}
)

// broken are the sentences that do not hold if a call returns something else, or leaves something else behind: by the
// method, and by what is wrong.
var broken = map[string]map[string]sentence{
	"":        {"expiry": recordExpiry, "retry": markRetryAt, "dead": deadKept, "kept": recordDead},
	"Load":    {"result": loadLast, "refused": loadNone, "unfinished": leaseUnfinished, "": loadLast},
	"Lease":   {"refused": leaseExcludes, "none": leaseNone, "again": leaseAgain, "token": versionStays, "lease": leaseExcludes, "unfinished": unfinishedStays, "over": leaseUnfinished, "": leaseGives},
	"Save":    {"none": saveNever, "result": saveWhoever, "refused": saveConflict, "": saveStores},
	"Mark":    {"result": markWhoever, "refused": markConflict, "token": markStays, "": markReplaces},
	"Release": {"none": releaseNil, "token": versionStays, "unfinished": releaseUnfinished, "over": unfinishedStays, "": releaseEnds},
	"Put":     {"mark": putClears, "unfinished": putClears, "lease": putClears, "": putStores},
	"Delete":  {"none": deleteNil, "": deleteRemoves},
}

// row is a grant as the contract has it, and call.apply is the contract. The zero row is no grant.
type row struct {
	token      string // a label, see fixture.token
	fresh      bool   // the version is another one than the fixture's
	mark       string // a label, see fixture.mark
	unfinished bool
	holder     string // of the lease
	over       bool   // the lease has run out
}

// call is a call of a method. Save and Mark are called under the grant's version, unless under says another.
type call struct {
	method, holder, token, mark, under string
	d                                  time.Duration
}

func (c call) String() string {
	return strings.Join(strings.Fields(strings.Join([]string{c.method, c.token, c.mark, c.under, c.holder}, " ")), " ")
}

// Two holders whose names differ at the end, as those of a Manager may, and one whose name begins with another letter; and
// what else Save and Mark are called under.
const (
	first   = "holder-26-letters-long-no-1"
	second  = "holder-26-letters-long-no-2"
	third   = "Another-26-letters-long-no-1"
	earlier = "under-another-version"
	zero    = "under-version-0"
)

// apply returns what the call makes of a row, and what it returns.
func (c call) apply(r row) (row, error) {
	switch c.method {
	case "Load", "Lease":
		switch {
		case r.token == "":
			return r, grants.ErrNoGrant
		case c.method == "Load":
			return r, nil
		case r.holder != "" && !r.over && r.holder != c.holder:
			return r, grants.ErrLeased
		}
		r.unfinished = r.unfinished || r.over
		r.holder, r.over = c.holder, false
	case "Save", "Mark":
		if r.token == "" || r.fresh || c.under != "" {
			return r, grants.ErrConflict
		}
		if r.holder == c.holder || r.over {
			r.holder, r.over = "", false
		}
		r.mark, r.unfinished = c.mark, c.mark == "unfinished" || c.mark == "all"
		if c.method == "Save" {
			r.token, r.fresh = c.token, true
		}
	case "Release":
		if r.holder == c.holder && !r.over {
			r.holder = ""
		}
	case "Put":
		r = row{token: c.token, fresh: true}
	case "Delete":
		r = row{}
	case wait:
		r.over = r.holder != ""
	}
	return r, nil
}

// breaks returns the sentence that does not hold if, after a call on r that had to return want, this is wrong: the result,
// or what the grant is then.
func (c call) breaks(r row, want error, wrong string) sentence {
	of, noGrant, result := broken[c.method], r.token == "", wrong == "result"
	switch {
	case broken[""][wrong].text != "":
		of = broken[""]
	case noGrant && (c.method == "Lease" || c.method == "Delete" && result || c.method == "Save" && !result),
		c.method == "Release" && r.holder != c.holder && result:
		wrong = "none"
	case want != nil:
		wrong = "refused"
	case r.over && wrong == "unfinished" && of["over"].text != "":
		wrong = "over"
	case r.holder == c.holder && wrong != "token" && wrong != "lease" && of["again"].text != "":
		wrong = "again"
	}
	return cmp.Or(of[wrong], of[""])
}

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
	tokens = []string{"put", "renewed", "sooner", "-1h", "refresh token alone", "access token alone", "year 9999", "of 4 KiB"}
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
