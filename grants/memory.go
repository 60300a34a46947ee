package grants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// MemoryStore is a [Store] in this process's memory: for tests, and for one process that may forget all grants when it
// ends. [DirStore] is one that does not forget. Its clock is this process's, by package time, so that it works in a bubble
// of testing/synctest.
//
// It keeps what the contract of Store names, as a database does: not a token's extra fields, not what an error wraps, and
// of a time no reading of the monotonic clock. Its methods return the context's error, and change nothing, if the context
// has ended. The zero MemoryStore is empty and ready for use. It must not be copied after first use.
type MemoryStore struct {
	mu     sync.Mutex
	grants map[string]*row
	folder *folder // a DirStore's, which writes each change before it is made here; nil: none
}

// row is one grant. It is never changed, but replaced by another.
type row struct {
	Record           // a DirStore's Token has the Expiry alone
	sealed []byte    // what a DirStore keeps of the token
	since  time.Time // when Dead was set
	holder string    // of the lease
	until  time.Time // when the lease runs out; zero if there is none, or if it was ended
	damage error     // why a DirStore cannot read the row; nothing else is set then
}

func (r *row) leased(now time.Time) bool { return now.Before(r.until) }
func (r *row) lapsed(now time.Time) bool { return !r.until.IsZero() && !r.leased(now) }

// endLease ends holder's lease. One that has run out, whoever had it, is forgotten too: its only trace is the mark that
// the caller replaces.
func (r *row) endLease(holder string, now time.Time) {
	if r.holder == holder || r.lapsed(now) {
		r.holder, r.until = "", time.Time{}
	}
}

// newRow returns the row of a grant with a new token.
func newRow(token *oauth2.Token) (*row, error) {
	if token == nil {
		return nil, errNothingToStore
	}
	kept := copyToken(token)
	kept.Expiry = kept.Expiry.Round(0)
	return &row{Record: Record{Token: kept, Version: newVersion()}}, nil
}

// rule is what a method of the contract does to a row. It gets nil if there is no such grant, and returns nil if there is to
// be none, and the same row if nothing changes.
type rule func(old *row, now time.Time) (*row, error)

// change replaces the grant's row by what rule makes of it.
func (s *MemoryStore) change(ctx context.Context, grant string, rule rule) error {
	if s.folder != nil {
		return s.folder.change(ctx, s, grant, rule)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := rule(s.grants[grant], time.Now())
	if err == nil {
		s.set(grant, next)
	}
	return err
}

// update is change for a rule that needs a row which can be read.
func (s *MemoryStore) update(ctx context.Context, grant string, rule rule) error {
	return s.change(ctx, grant, func(old *row, now time.Time) (*row, error) {
		if old != nil && old.damage != nil {
			return nil, old.damage
		}
		return rule(old, now)
	})
}

// set is called with mu held.
func (s *MemoryStore) set(grant string, next *row) {
	switch {
	case next == nil:
		delete(s.grants, grant)
		return
	case s.grants == nil:
		s.grants = make(map[string]*row)
	}
	s.grants[grant] = next
}

// usable returns why no method can do anything, or nil.
func (s *MemoryStore) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.folder != nil {
		return s.folder.usable()
	}
	return nil
}

// record returns a copy of what the row says now.
func (s *MemoryStore) record(grant string, r *row, now time.Time) (Record, error) {
	token := copyToken(r.Token)
	if s.folder != nil {
		var err error
		if token, err = s.folder.open(grant, r); err != nil {
			return Record{}, err
		}
	}
	mark := Mark{Dead: copyVerdict(r.Dead), RetryAt: r.RetryAt, Unfinished: r.Unfinished || r.lapsed(now)}
	return Record{Token: token, Mark: mark, Version: r.Version}, nil
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore { return new(MemoryStore) }

// Format writes the type and none of the tokens, whatever the verb. It implements [fmt.Formatter].
func (*MemoryStore) Format(state fmt.State, verb rune) {
	fmt.Fprintf(state, fmt.FormatString(state, verb), "grants.MemoryStore")
}

// LogValue returns the type and none of the tokens. It implements [slog.LogValuer].
func (*MemoryStore) LogValue() slog.Value { return slog.StringValue("grants.MemoryStore") }

// Load implements [Store].
func (s *MemoryStore) Load(ctx context.Context, grant string) (Record, error) {
	if err := s.usable(ctx); err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	found := s.grants[grant]
	if found == nil && s.folder != nil {
		found = s.folder.damaged[hashOf(grant)]
	}
	s.mu.Unlock()
	switch {
	case found == nil:
		return Record{}, ErrNoGrant
	case found.damage != nil:
		return Record{}, found.damage
	}
	return s.record(grant, found, time.Now())
}

// Lease implements [Store].
func (s *MemoryStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (Record, error) {
	var leased Record
	err := s.update(ctx, grant, func(old *row, now time.Time) (_ *row, err error) {
		switch {
		case old == nil:
			return nil, ErrNoGrant
		case old.leased(now) && old.holder != holder:
			return nil, ErrLeased
		}
		next := *old
		next.Unfinished = old.Unfinished || old.lapsed(now)
		next.holder, next.until = holder, now.Add(d)
		leased, err = s.record(grant, &next, now) // before the lease is taken, which nobody would end if this fails
		return &next, err
	})
	if err != nil {
		return Record{}, err
	}
	return leased, nil
}

// Save implements [Store].
func (s *MemoryStore) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	return s.update(ctx, grant, func(old *row, now time.Time) (*row, error) {
		if old == nil || old.Version != version {
			return nil, ErrConflict
		}
		next, err := newRow(token)
		if err != nil {
			return nil, err
		}
		next.holder, next.until = old.holder, old.until
		next.endLease(holder, now)
		return next, nil
	})
}

// Mark implements [Store].
func (s *MemoryStore) Mark(ctx context.Context, grant, holder string, version int64, mark Mark) error {
	return s.update(ctx, grant, func(old *row, now time.Time) (*row, error) {
		if old == nil || old.Version != version {
			return nil, ErrConflict
		}
		next := *old
		next.endLease(holder, now)
		if old.Dead == nil {
			next.since = now.UTC() // without the monotonic clock's reading
		}
		next.Mark = Mark{Dead: copyVerdict(mark.Dead), RetryAt: mark.RetryAt.Round(0), Unfinished: mark.Unfinished}
		return &next, nil
	})
}

// Release implements [Store].
func (s *MemoryStore) Release(ctx context.Context, grant, holder string) error {
	return s.update(ctx, grant, func(old *row, now time.Time) (*row, error) {
		// A lease that has run out is not ended: what it has left behind may be unfinished.
		if old == nil || old.holder != holder || !old.leased(now) {
			return old, nil
		}
		next := *old
		next.endLease(holder, now)
		return &next, nil
	})
}

// Put implements [Store].
func (s *MemoryStore) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	return s.change(ctx, grant, func(*row, time.Time) (*row, error) { return newRow(token) })
}

// Delete implements [Store].
func (s *MemoryStore) Delete(ctx context.Context, grant string) error {
	return s.change(ctx, grant, func(*row, time.Time) (*row, error) { return nil, nil })
}

// Due implements [Store]. It looks at every grant, and is never stale.
func (s *MemoryStore) Due(ctx context.Context, within time.Duration, limit int) ([]string, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	type candidate struct {
		grant  string
		expiry time.Time
	}
	var due []candidate
	s.mu.Lock()
	now := time.Now()
	for grant, row := range s.grants {
		expiry := row.Token.Expiry
		if row.Dead == nil && !row.leased(now) && !row.RetryAt.After(now) && !expiry.IsZero() && !expiry.After(now.Add(within)) {
			due = append(due, candidate{grant, expiry})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(due, func(a, b candidate) int {
		return cmp.Or(a.expiry.Compare(b.expiry), cmp.Compare(a.grant, b.grant))
	})
	names := make([]string, 0, min(len(due), max(limit, 0)))
	for _, candidate := range due[:cap(names)] {
		names = append(names, candidate.grant)
	}
	return names, nil
}

// Dead implements [Store].
func (s *MemoryStore) Dead(ctx context.Context, since time.Duration, after DeadGrant, limit int) ([]DeadGrant, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	byAge := func(a, b DeadGrant) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Grant, b.Grant)) }
	var dead []DeadGrant
	s.mu.Lock()
	latest := time.Now().Add(-since)
	for grant, row := range s.grants {
		found := DeadGrant{Grant: grant, Error: row.Dead, Since: row.since, Version: row.Version}
		if row.Dead != nil && !row.since.After(latest) && byAge(found, after) > 0 {
			dead = append(dead, found)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(dead, byAge)
	dead = dead[:min(len(dead), max(limit, 0))]
	for i := range dead {
		dead[i].Error = copyVerdict(dead[i].Error) // the row's is nobody else's
	}
	return dead, nil
}

var errNothingToStore = errors.New(prefix + "there is no token to store")

// newVersion returns a number that no grant has had: 63 random bits, so that a Store need not remember the old ones.
func newVersion() int64 { return rand.Int64() }

// copyToken returns what a Store keeps of token.
func copyToken(token *oauth2.Token) *oauth2.Token {
	return &oauth2.Token{
		AccessToken:  token.AccessToken,
		TokenType:    token.TokenType,
		RefreshToken: token.RefreshToken,
		Expiry:       token.Expiry,
	}
}

// copyVerdict returns what a Store keeps of e.
func copyVerdict(e *applebusiness.Error) *applebusiness.Error {
	kept, _ := UnmarshalVerdict(MarshalVerdict(e))
	return kept
}
