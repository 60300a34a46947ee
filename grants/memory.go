package grants

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"
)

// MemoryStore is a [Store] in this process's memory: for tests, and for one process that may forget all grants when it
// ends. [DirStore] is one that does not forget. Its clock is this process's, by package time, so that it works in a bubble
// of testing/synctest.
//
// It keeps what the contract of Store names, as a database does: not a token's extra fields, not what an error wraps, and
// of a time no reading of the monotonic clock. A token that is not UTF-8 is an error. Its methods return the context's
// error, and change nothing, if the context has ended. The zero MemoryStore is empty and ready for use. It must not be
// copied after first use.
type MemoryStore struct {
	mu     sync.Mutex
	rows   map[hash]*row // by the name's hash, which is all that a DirStore knows of a file that it cannot read
	folder *folder       // a DirStore's, which writes each change before it is made here; nil: none
}

// hash stands for a text, such as the name of a grant in that of its file, and shows nothing of it.
type hash [sha256.Size]byte

func hashOf(text string) hash { return sha256.Sum256([]byte(text)) }

// row is one grant, as a DirStore's file holds it. It is never changed, but replaced by another.
type row struct {
	Grant      string          `json:"grant"`
	Version    int64           `json:"version"`
	Token      []byte          `json:"token"` // by SealToken
	Expiry     time.Time       `json:"expiry,omitzero"`
	Dead       json.RawMessage `json:"dead,omitempty"` // by MarshalVerdict
	Since      time.Time       `json:"since,omitzero"` // when Dead was set
	RetryAt    time.Time       `json:"retry_at,omitzero"`
	Unfinished bool            `json:"unfinished,omitempty"`
	Holder     string          `json:"holder,omitempty"` // of the lease
	Until      time.Time       `json:"until,omitzero"`   // when the lease runs out; zero if there is none, or if it was ended

	missing error // ErrNoGrant if there is no row, or why a DirStore cannot read it; nothing else is set then
}

func (r *row) leased(now time.Time) bool { return now.Before(r.Until) }
func (r *row) lapsed(now time.Time) bool { return !r.Until.IsZero() && !r.leased(now) }

// endLease ends holder's lease. One that has run out, whoever had it, is forgotten too: its only trace is the mark that
// the caller replaces.
func (r *row) endLease(holder string, now time.Time) {
	if r.Holder == holder || r.lapsed(now) {
		r.Holder, r.Until = "", time.Time{}
	}
}

// renew gives r a new token and no mark, under a version of 63 random bits, so that no grant has had it. The lease stays.
func (s *MemoryStore) renew(r *row, token *oauth2.Token) error {
	version := rand.Int64()
	sealed, err := SealToken(s.folder.keys(), r.Grant, version, token)
	if err != nil {
		return err
	}
	*r = row{Grant: r.Grant, Version: version, Token: sealed, Expiry: token.Expiry.Round(0), Holder: r.Holder, Until: r.Until}
	return nil
}

// record returns what the row says now.
func (s *MemoryStore) record(r *row, now time.Time) (Record, error) {
	token, err := OpenToken(s.folder.keys(), r.Grant, r.Version, r.Token)
	if err != nil {
		return Record{}, err
	}
	token.Expiry = r.Expiry
	dead, _ := UnmarshalVerdict(r.Dead) // which MarshalVerdict has made, or readRow has looked at
	mark := Mark{Dead: dead, RetryAt: r.RetryAt, Unfinished: r.Unfinished || r.lapsed(now)}
	return Record{Token: token, Mark: mark, Version: r.Version}, nil
}

// rule changes a copy of a grant's row, or returns why the row stays as it is.
type rule func(r *row, now time.Time) error

// change puts what rule makes of the grant's row in its place.
func (s *MemoryStore) change(ctx context.Context, grant string, rule rule) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	h := hashOf(grant)
	if s.folder != nil {
		return s.folder.change(ctx, s, h, rule)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.row(h)
	err := rule(&next, time.Now())
	if err == nil {
		s.set(h, &next)
	}
	return err
}

// update is change for a grant that there is; otherwise it returns none.
func (s *MemoryStore) update(ctx context.Context, grant string, none error, rule rule) error {
	return s.change(ctx, grant, func(r *row, now time.Time) error {
		switch r.missing {
		case nil:
			return rule(r, now)
		case ErrNoGrant:
			return none
		}
		return r.missing
	})
}

// row returns a copy of the row; mu is held.
func (s *MemoryStore) row(h hash) row { return *cmp.Or(s.rows[h], &row{missing: ErrNoGrant}) }

// set is called with mu held.
func (s *MemoryStore) set(h hash, next *row) {
	switch {
	case next.missing == ErrNoGrant:
		delete(s.rows, h)
		return
	case s.rows == nil:
		s.rows = make(map[hash]*row)
	}
	s.rows[h] = next
}

// usable returns why no method can do anything, or nil.
func (s *MemoryStore) usable(ctx context.Context) error {
	if s.folder != nil && !s.folder.isOpen.Load() {
		return errDirClosed
	}
	return ctx.Err()
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
	found := s.row(hashOf(grant))
	s.mu.Unlock()
	if found.missing != nil {
		return Record{}, found.missing
	}
	return s.record(&found, time.Now())
}

// Lease implements [Store].
func (s *MemoryStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (Record, error) {
	var leased Record
	err := s.update(ctx, grant, ErrNoGrant, func(r *row, now time.Time) (err error) {
		if r.leased(now) && r.Holder != holder {
			return ErrLeased
		}
		r.Unfinished = r.Unfinished || r.lapsed(now)
		r.Holder, r.Until = holder, now.Add(d)
		leased, err = s.record(r, now) // before the lease is taken, which nobody would end if this fails
		return err
	})
	if err != nil {
		return Record{}, err
	}
	return leased, nil
}

// Save implements [Store].
func (s *MemoryStore) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	return s.update(ctx, grant, ErrConflict, func(r *row, now time.Time) error {
		if r.Version != version {
			return ErrConflict
		}
		r.endLease(holder, now)
		return s.renew(r, token)
	})
}

// Mark implements [Store].
func (s *MemoryStore) Mark(ctx context.Context, grant, holder string, version int64, mark Mark) error {
	return s.update(ctx, grant, ErrConflict, func(r *row, now time.Time) error {
		if r.Version != version {
			return ErrConflict
		}
		r.endLease(holder, now)
		if r.Dead == nil {
			r.Since = now.UTC() // without the monotonic clock's reading
		}
		r.Dead, r.RetryAt, r.Unfinished = MarshalVerdict(mark.Dead), mark.RetryAt.Round(0), mark.Unfinished
		return nil
	})
}

// Release implements [Store].
func (s *MemoryStore) Release(ctx context.Context, grant, holder string) error {
	unchanged := errors.New("nothing has failed")
	err := s.update(ctx, grant, unchanged, func(r *row, now time.Time) error {
		if r.Holder != holder || !r.leased(now) { // a lease that has run out is left: it says that something is unfinished
			return unchanged
		}
		r.endLease(holder, now)
		return nil
	})
	if err == unchanged {
		return nil
	}
	return err
}

// Put implements [Store].
func (s *MemoryStore) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	return s.change(ctx, grant, func(r *row, _ time.Time) error {
		*r = row{Grant: grant}
		return s.renew(r, token)
	})
}

// Delete implements [Store].
func (s *MemoryStore) Delete(ctx context.Context, grant string) error {
	return s.change(ctx, grant, func(r *row, _ time.Time) error {
		*r = row{missing: ErrNoGrant}
		return nil
	})
}

// Due implements [Store]. It looks at every grant, and is never stale.
func (s *MemoryStore) Due(ctx context.Context, within time.Duration, limit int) ([]string, error) {
	expiry := func(r *row) time.Time { return r.Expiry }
	due, err := s.list(ctx, limit, expiry, func(r *row, now time.Time) bool {
		return r.Dead == nil && !r.leased(now) && !r.RetryAt.After(now) && !r.Expiry.IsZero() && !r.Expiry.After(now.Add(within))
	})
	names := make([]string, len(due))
	for i, r := range due {
		names[i] = r.Grant
	}
	return names, err
}

// Dead implements [Store].
func (s *MemoryStore) Dead(ctx context.Context, since time.Duration, after DeadGrant, limit int) ([]DeadGrant, error) {
	died := func(r *row) time.Time { return r.Since }
	rows, err := s.list(ctx, limit, died, func(r *row, now time.Time) bool {
		isAfter := cmp.Or(r.Since.Compare(after.Since), cmp.Compare(r.Grant, after.Grant)) > 0
		return r.Dead != nil && isAfter && !r.Since.After(now.Add(-since))
	})
	dead := make([]DeadGrant, len(rows))
	for i, r := range rows {
		verdict, _ := UnmarshalVerdict(r.Dead)
		dead[i] = DeadGrant{Grant: r.Grant, Error: verdict, Since: r.Since, Version: r.Version}
	}
	return dead, err
}

// list returns at most limit of the rows that are wanted, by a time of theirs, and then by name.
func (s *MemoryStore) list(ctx context.Context, limit int, at func(*row) time.Time, wanted func(*row, time.Time) bool) ([]*row, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	var found []*row
	s.mu.Lock()
	now := time.Now()
	for _, r := range s.rows {
		if wanted(r, now) {
			found = append(found, r)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(found, func(a, b *row) int { return cmp.Or(at(a).Compare(at(b)), cmp.Compare(a.Grant, b.Grant)) })
	return found[:min(len(found), max(limit, 0))], nil
}
