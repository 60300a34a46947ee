package grantstest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

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

// fixture returns a grant, on which the calls of a state have been made.
func (c *check) fixture(state ...call) *fixture {
	f := &fixture{check: c, grant: fmt.Sprintf("%s%d-a", c.prefix, len(c.fixtures)), start: time.Now()}
	c.fixtures = append(c.fixtures, f)
	f.prepare(state...)
	return f
}

// token returns the token of a label, which may be the time until it expires.
func (f *fixture) token(label string) *oauth2.Token {
	token := &oauth2.Token{AccessToken: "access-" + label, RefreshToken: "refresh-" + label, TokenType: "Bearer", Expiry: f.start.Add(time.Hour)}
	switch label {
	case "refresh token alone":
		return &oauth2.Token{RefreshToken: token.RefreshToken, Expiry: f.start.Add(-manyYears)}
	case "access token alone":
		return &oauth2.Token{AccessToken: token.AccessToken}
	case "renewed": // the refresh token stays
		token.RefreshToken, token.Expiry = "refresh-put", f.start.Add(2*time.Hour)
	case "of 4 KiB":
		token.AccessToken = strings.Repeat("0123456789abcdef", 256)
		token.RefreshToken = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~==" // all that a token can hold
	case "year 9999":
		token.Expiry = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	case "sooner":
		token.Expiry = f.start.Add(time.Minute).In(time.FixedZone("", 5*3600))
	}
	if d, err := time.ParseDuration(label); err == nil {
		token.Expiry = f.start.Add(d)
	}
	return token
}

// mark returns the mark of a label.
func (f *fixture) mark(label string) grants.Mark {
	mark := grants.Mark{Unfinished: label == "unfinished" || label == "all"}
	switch label {
	case "dead", "all": // a row of Apple's table with all that a Store keeps
		mark.Dead = &applebusiness.Error{
			Endpoint: applebusiness.TokenEndpoint, StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token",
			Reason: applebusiness.ErrInvalidRefreshToken, GrantType: applebusiness.GrantTypeRefreshToken, RequestID: "4f1c9a52-6c1e-4b7a-9d53-0e2f7b8a91c4", ResponseLost: true,
		}
	case "dead and undocumented": // nothing of it can be looked up in a table
		mark.Dead = &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, StatusCode: 400, Code: "grant_is_gone", GrantType: applebusiness.GrantTypeRefreshToken}
	}
	if d, ok := map[string]time.Duration{"wait": time.Hour, "all": time.Hour, "wait a second": time.Second, "has waited": -time.Hour}[label]; ok {
		mark.RetryAt = f.start.Add(d)
	}
	return mark
}

// call calls a method of the Store, and returns the record if it returns one.
func (f *fixture) call(ctx context.Context, c call) (none grants.Record, err error) {
	if c.method == wait {
		f.wait()
		return none, nil
	}
	version, token, mark := map[string]int64{"": f.version, earlier: f.earlier}[c.under], f.token(c.token), f.mark(c.mark)
	defer spoil(grants.Record{Token: token, Mark: mark})
	return guard(ctx, f.check, func(ctx context.Context, s grants.Store) (grants.Record, error) {
		switch c.method {
		case "Load":
			return s.Load(ctx, f.grant)
		case "Lease":
			return s.Lease(ctx, f.grant, c.holder, c.d)
		case "Save":
			return none, s.Save(ctx, f.grant, c.holder, version, token)
		case "Mark":
			return none, s.Mark(ctx, f.grant, c.holder, version, mark)
		case "Release":
			return none, s.Release(ctx, f.grant, c.holder)
		case "Due":
			_, err := s.Due(ctx, time.Hour, 1)
			return none, err
		case "Dead":
			_, err := s.Dead(ctx, 0, grants.DeadGrant{}, 1)
			return none, err
		case "Put":
			return none, s.Put(ctx, f.grant, token)
		}
		return none, s.Delete(ctx, f.grant)
	})
}

// spoil changes what a Store was given, or what it has returned: a Store has its own memory.
func spoil(record grants.Record) {
	if record.Token != nil {
		*record.Token = oauth2.Token{AccessToken: "spoilt"}
	}
	if record.Dead != nil {
		*record.Dead = applebusiness.Error{RequestID: "spoilt"}
	}
}

// load returns the record of a grant that was put, without its secrets.
func (f *fixture) load() grants.Record {
	record, err := f.call(context.Background(), load)
	f.require(err == nil && record.Token != nil, loadLast, "%s, and Load returned %s, want a Token", strings.Join(f.done, ", "), show(err))
	f.set.Or(uint64(record.Version))
	f.unset.Or(^uint64(record.Version))
	spoil(record)
	return record
}

func (f *fixture) wait() {
	if f.row.holder == "" {
		time.Sleep(moderate + moderate/4)
		return
	}
	atMost := short + f.tolerance() + lag
	f.require(f.within(atMost, func() bool { return f.load().Unfinished }), leaseUnfinished,
		"%s, and Load shows no Unfinished within %v", strings.Join(f.done, ", "), atMost)
}

// prepare makes calls that have to succeed.
func (f *fixture) prepare(state ...call) {
	for _, c := range state {
		if c.d == moderate {
			f.leased = time.Now()
		}
		record, err := f.call(context.Background(), c)
		f.done = append(f.done, c.String())
		f.require(err == nil, c.breaks(f.row, nil, "result"), "%s returned %s, want nil", strings.Join(f.done, ", "), show(err))
		f.row, _ = c.apply(f.row)
		spoil(record)
		if f.row.fresh {
			version := f.load().Version
			f.row.fresh, f.earlier, f.version = false, cmp.Or(f.version, version^1), version
		}
		if !f.leased.IsZero() && c.method != wait && time.Since(f.leased) > moderate/2 {
			runtime.Goexit() // the lease may have run out, which it should not have
		}
	}
}

// try calls a method, and looks at what it returns and at what it leaves behind.
func (f *fixture) try(c call) {
	after, found := f.judge(f.outcome(c), f.row)
	_, want := c.apply(f.row)
	for _, d := range append(found, f.look(after)...) {
		f.expect(false, c.breaks(f.row, want, d.wrong), "%s: %s", strings.Join(append(f.done, c.String()), ", "), d.seen)
	}
}

// look returns what Load, and then Lease by another holder, show that is not as in r.
func (f *fixture) look(r row) []difference {
	_, found := f.judge(f.outcome(load), r)
	if len(found) > 0 && found[0].wrong == "result" {
		found[0].wrong = "token"
	}
	leased := f.outcome(probe)
	_, want := probe.apply(r)
	return note(found, same(leased.err, want, r), "lease", "Lease by another holder returned %s, want %s", show(leased.err), show(want))
}

// judge returns what of an outcome of a call on r is not as it should be, and what the call should make of r.
func (f *fixture) judge(o outcome, r row) (after row, found []difference) {
	after, want := o.apply(r)
	found = note(nil, same(o.err, want, r), "result", "%v returned %s, want %s", o.call, show(o.err), show(want))
	if o.err == nil && want == nil && (o.method == "Load" || o.method == "Lease") {
		found = append(found, f.differences(after, o.record)...)
	}
	return after, found
}

// difference is what of a grant is not as it should be.
type difference struct{ wrong, seen string }

func note(found []difference, ok bool, wrong, seen string, args ...any) []difference {
	if ok {
		return found
	}
	return append(found, difference{wrong, fmt.Sprintf(seen, args...)})
}

// differences returns what of a record is not as in r.
func (f *fixture) differences(r row, record grants.Record) (found []difference) {
	got, token, mark := record.Token, f.token(r.token), f.mark(r.mark)
	if got == nil {
		return []difference{{"record", "there is no Token"}}
	}
	kept := got.AccessToken == token.AccessToken && got.RefreshToken == token.RefreshToken && got.TokenType == token.TokenType
	found = note(found, kept || mark.Dead == nil, "kept", "the token is not the one of %q, whole", r.token)
	found = note(found, kept, "token", "the token is not the one of %q, whole", r.token)
	found = note(found, f.near(token.Expiry, got.Expiry), "expiry", "the token's Expiry is %v, want %v", got.Expiry, token.Expiry)
	found = note(found, (record.Version != f.version) == r.fresh, "token", "whether Version has changed is %t", !r.fresh)
	found = note(found, (record.Dead != nil) == (mark.Dead != nil), "mark", "whether Dead is set is %t", record.Dead != nil)
	if record.Dead != nil && mark.Dead != nil {
		found = note(found, slices.Equal(fields(record.Dead), fields(mark.Dead)), "dead", "Dead is %q, want %q", fields(record.Dead), fields(mark.Dead))
	}
	found = note(found, !mark.RetryAt.IsZero() || record.RetryAt.IsZero(), "mark", "RetryAt is %v, want none", record.RetryAt)
	found = note(found, mark.RetryAt.IsZero() || f.near(mark.RetryAt, record.RetryAt), "retry", "RetryAt is %v, want %v", record.RetryAt, mark.RetryAt)
	return note(found, record.Unfinished == (r.unfinished || r.over), "unfinished", "Unfinished is %t", record.Unfinished)
}

// fields returns what a Store keeps of a verdict.
func fields(e *applebusiness.Error) []string {
	return []string{string(e.Endpoint), fmt.Sprint(e.StatusCode), string(e.Code), e.Description, string(e.Reason), e.GrantType, e.RequestID, fmt.Sprint(e.ResponseLost)}
}

// same says whether err is what was wanted of a call on r.
func same(err, want error, r row) bool {
	return errors.Is(err, want) || want == grants.ErrConflict && r.token == "" && errors.Is(err, grants.ErrNoGrant)
}

const fewestRaces, mostRaces, raceTime = 3, 25, 2 * time.Second // of two calls; after that time there are no more

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
				s := map[bool]sentence{false: atOnce, true: concurrent}[strings.Contains(show(one.err)+show(other.err), `"`)]
				f.expect(false, s, "%s, then at the same time %v and %v, and then %v, which neither order explains", strings.Join(f.done, ", "), one, other, after)
				return
			}
		}
	}
}

// outcome is what a call came to.
type outcome struct {
	call
	record grants.Record
	err    error
	took   time.Duration
}

func (f *fixture) outcome(c call) outcome {
	start := time.Now()
	record, err := f.call(context.Background(), c)
	return outcome{c, record, err, time.Since(start)}
}

func (o outcome) String() string {
	if o.err != nil || o.record.Token == nil {
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
