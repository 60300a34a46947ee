package grantstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

const wait = "wait" // no method: the lease runs out, or would have if it had not been ended

// What a grant is made to be, before each call is tried on it.
var (
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
		{put, expiring, waited},
		{put, held, expiring, waited},
		{put, expiring, waited, byOther},
		{put, expiring, waited, byOther, {method: "Release", holder: second}},
		{put, ended, {method: "Release", holder: first}, waited},
		{put, ended, {method: "Mark", holder: first}, waited},
		{put, ended, {method: "Save", holder: first, token: "saved"}, waited},
	}

	tried = []call{
		{method: "Load"}, held, byOther, deleted,
		{method: "Save", holder: first, token: "new"},
		{method: "Save", holder: second, token: "new"},
		{method: "Save", holder: first, token: "new", under: earlier},
		{method: "Save", holder: first, token: "new", under: zero},
		{method: "Mark", holder: first, mark: "all"},
		{method: "Mark", holder: second},
		{method: "Mark", holder: first, mark: "all", under: earlier},
		{method: "Mark", holder: first, mark: "all", under: zero},
		{method: "Release", holder: first},
		{method: "Release", holder: second},
		{method: "Put", token: "new"},
	}

	// What is stored, which is tried on two states alone.
	values = []call{
		{method: "Save", holder: first, token: "put"}, // the same
		{method: "Save", holder: second, token: "sooner"},
		{method: "Save", holder: second, token: "access token alone"},
		{method: "Mark", holder: first, mark: "dead"},
		{method: "Mark", holder: first, mark: "dead and undocumented"},
		{method: "Mark", holder: second, mark: "wait"},
		{method: "Mark", holder: second, mark: "unfinished"},
		{method: "Put", token: "put"},
		{method: "Put", token: "sooner"},
		{method: "Put", token: "expired"},
		{method: "Put", token: "refresh token alone"},
		{method: "Put", token: "access token alone"},
		{method: "Put", token: "year 9999"},
		{method: "Put", token: "of 4 KiB"},
	}

	racing = []call{
		{method: "Load"}, held, byOther,
		{method: "Save", holder: first, token: "saved"},
		{method: "Mark", holder: first, mark: "all"},
		{method: "Mark", holder: second},
		{method: "Release", holder: first},
		{method: "Put", token: "put meanwhile"},
		deleted,
	}
)

// callChecks returns a check for each call on each state of a grant, and for each two calls at the same time.
func callChecks() (checks []func(*check)) {
	try := func(states [][]call, calls []call) {
		for _, state := range states {
			for _, call := range calls {
				checks = append(checks, func(c *check) {
					if f := c.fixture(); f.prepare(state) {
						f.try(call)
					}
				})
			}
		}
	}
	rich := [][]call{{put}, {put, held, marked}}
	try(states, tried)
	try(rich, values)
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

// fixture is a grant, and what it has to be by the contract.
type fixture struct {
	*check
	grant   string
	start   time.Time // from which times are told
	row     row
	done    []string // what was called
	leased  time.Time
	version int64
	earlier int64 // the version before
}

func (c *check) fixture() *fixture { return &fixture{check: c, grant: c.name(), start: time.Now()} }

// token returns the token of a label.
func (f *fixture) token(label string) *oauth2.Token {
	token := &oauth2.Token{AccessToken: "access-" + label, RefreshToken: "refresh-" + label, TokenType: "Bearer"}
	switch label {
	case "refresh token alone":
		return &oauth2.Token{RefreshToken: token.RefreshToken, Expiry: f.start.Add(-time.Hour)}
	case "access token alone":
		return &oauth2.Token{AccessToken: token.AccessToken}
	case "of 4 KiB":
		token.AccessToken = strings.Repeat("0123456789abcdef", 256)
		token.Expiry = f.start.Add(time.Hour)
	case "year 9999":
		token.Expiry = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	case "expired":
		token.Expiry = f.start.Add(-time.Hour)
	case "sooner":
		token.Expiry = f.start.Add(time.Minute).In(time.FixedZone("", 5*3600))
	default:
		token.Expiry = f.start.Add(time.Hour)
	}
	return token
}

// mark returns the mark of a label.
func (f *fixture) mark(label string) (mark grants.Mark) {
	switch label {
	case "dead":
		mark.Dead = verdict()
	case "dead and undocumented": // of which nothing can be looked up in a table
		mark.Dead = undocumented()
	case "wait":
		mark.RetryAt = f.start.Add(time.Minute)
	case "all":
		mark = grants.Mark{Dead: verdict(), RetryAt: f.start.Add(time.Hour)}
	}
	mark.Unfinished = isUnfinished(label)
	return mark
}

func isUnfinished(mark string) bool { return mark == "unfinished" || mark == "all" }

// call calls a method of the Store, and returns the record if it returns one.
func (f *fixture) call(ctx context.Context, c call) (record *grants.Record, err error) {
	version := map[string]int64{"": f.version, earlier: f.earlier}[c.under]
	record = new(grants.Record)
	switch c.method {
	case "Load":
		*record, err = f.store.Load(ctx, f.grant)
		return record, err
	case "Lease":
		*record, err = f.store.Lease(ctx, f.grant, c.holder, c.d)
		return record, err
	case "Save":
		err = f.store.Save(ctx, f.grant, c.holder, version, f.token(c.token))
	case "Mark":
		err = f.store.Mark(ctx, f.grant, c.holder, version, f.mark(c.mark))
	case "Release":
		err = f.store.Release(ctx, f.grant, c.holder)
	case "Put":
		err = f.store.Put(ctx, f.grant, f.token(c.token))
	case "Delete":
		err = f.store.Delete(ctx, f.grant)
	case wait:
		f.wait()
	}
	return nil, err
}

func (f *fixture) wait() {
	if f.row.holder == "" {
		time.Sleep(moderate + moderate/4)
		return
	}
	atMost := short + f.tolerance() + lag
	f.require(f.within(atMost, func() bool { return f.load(f.grant).Unfinished }), leaseUnfinished,
		"%s, and Load shows no Unfinished within %v", strings.Join(f.done, ", "), atMost)
}

// prepare brings the grant into a state, in which each call has to succeed. It returns false if that took so long that a
// lease may have run out which should not.
func (f *fixture) prepare(state []call) bool {
	f.row, f.done = row{}, nil
	for _, c := range state {
		start := time.Now()
		_, err := f.call(context.Background(), c)
		f.done = append(f.done, c.String())
		f.require(err == nil, c.breaks(f.row, nil, "result"), "%s returned %s, want nil", strings.Join(f.done, ", "), show(err))
		f.row, _ = c.apply(f.row)
		if f.row.fresh {
			f.row.fresh, f.earlier, f.version = false, f.version, f.load(f.grant).Version
		}
		if c.d == moderate {
			f.leased = start
		} else if !f.leased.IsZero() && c.method != wait && time.Since(f.leased) > moderate/2 {
			return false
		}
	}
	if f.earlier == 0 {
		f.earlier = f.version ^ 1
	}
	return true
}

// try calls a method, and looks at what it returns and at what it leaves behind.
func (f *fixture) try(c call) {
	if c.under == zero && f.version == 0 {
		return
	}
	after, want := c.apply(f.row)
	record, err := f.call(context.Background(), c)
	done := strings.Join(append(f.done, c.String()), ", ")
	f.expect(same(err, want, f.row), c.breaks(f.row, want, "result"), "%s returned %s, want %s", done, show(err), show(want))
	if record != nil && err == nil && want == nil {
		for _, d := range f.differences(after, record) {
			f.expect(false, d.or(c.breaks(f.row, want, d.wrong)), "%s, and in what it returned %s", done, d.seen)
		}
	}
	for _, d := range f.look(after) {
		f.expect(false, d.or(c.breaks(f.row, want, d.wrong)), "%s, then %s", done, d.seen)
	}
}

// look returns what Load, and then Lease by another holder, show that is not as in r.
func (f *fixture) look(r row) []difference {
	load, probe := call{method: "Load"}, call{method: "Lease", holder: third, d: long}
	record, err := f.call(context.Background(), load)
	_, want := load.apply(r)
	if !same(err, want, r) {
		return []difference{{"token", "Load returned " + show(err) + ", want " + show(want), sentence{}}}
	}
	if want != nil {
		return nil
	}
	found := f.differences(r, record)
	_, err = f.call(context.Background(), probe)
	if _, want := probe.apply(r); !same(err, want, r) {
		found = append(found, difference{"lease", "Lease by another holder returned " + show(err) + ", want " + show(want), sentence{}})
	}
	return found
}

// difference is what of a record is not as it should be.
type difference struct {
	wrong, seen string
	sentence    sentence // that is broken, whatever the call; or none
}

func (d difference) or(s sentence) sentence {
	if d.sentence != (sentence{}) {
		return d.sentence
	}
	return s
}

// differences returns what of a record is not as in r.
func (f *fixture) differences(r row, record *grants.Record) (found []difference) {
	note := func(ok bool, wrong string, s sentence, seen string, args ...any) {
		if !ok {
			found = append(found, difference{wrong, fmt.Sprintf(seen, args...), s})
		}
	}
	got, token, mark := record.Token, f.token(r.token), f.mark(r.mark)
	if got == nil {
		return []difference{{"record", "there is no Token", sentence{}}}
	}
	lost := sentence{}
	if mark.Dead != nil && !r.fresh && got.RefreshToken == "" {
		lost = recordDead
	}
	note(got.AccessToken == token.AccessToken && got.RefreshToken == token.RefreshToken && got.TokenType == token.TokenType,
		"token", lost, "the token is not the one of %.40q, whole", r.token)
	note(f.near(token.Expiry, got.Expiry), "token", recordExpiry, "the token's Expiry is %v, want %v", got.Expiry, token.Expiry)
	note((record.Version != f.version) == r.fresh, "token", sentence{}, "whether Version has changed is %t", !r.fresh)
	note((record.Dead != nil) == (mark.Dead != nil), "mark", sentence{}, "whether Dead is set is %t", record.Dead != nil)
	if record.Dead != nil && mark.Dead != nil {
		note(slices.Equal(fields(record.Dead), fields(mark.Dead)), "mark", deadKept, "Dead is %q, want %q", fields(record.Dead), fields(mark.Dead))
	}
	if record.RetryAt.IsZero() || mark.RetryAt.IsZero() {
		note(record.RetryAt.IsZero() == mark.RetryAt.IsZero(), "mark", sentence{}.unless(!mark.RetryAt.IsZero(), markRetryAt), "RetryAt is %v, want %v", record.RetryAt, mark.RetryAt)
	} else {
		note(f.near(mark.RetryAt, record.RetryAt), "mark", markRetryAt, "RetryAt is %v, want %v", record.RetryAt, mark.RetryAt)
	}
	note(record.Unfinished == (r.unfinished || r.over), "unfinished", sentence{}, "Unfinished is %t", record.Unfinished)
	return found
}

// same says whether err is what was wanted of a call on r.
func same(err, want error, r row) bool {
	if want == nil || err == nil {
		return want == err
	}
	return errors.Is(err, want) || want == grants.ErrConflict && r.token == "" && errors.Is(err, grants.ErrNoGrant)
}
