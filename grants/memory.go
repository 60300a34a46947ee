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
// ends. Its clock is this process's, by package time, so that it works in a bubble of testing/synctest.
//
// It keeps what the contract of Store names, as a database does: not a token's extra fields, and not what an error wraps.
// Its methods return the context's error, and change nothing, if the context has ended. The zero MemoryStore is empty and
// ready for use. It must not be copied after first use.
type MemoryStore struct {
	mu     sync.Mutex
	grants map[string]*memoryRow
}

// memoryRow is one grant. What it points to is never changed, and never handed out.
type memoryRow struct {
	Record
	since  time.Time // when Dead was set
	holder string    // of the lease
	until  time.Time // when the lease runs out; zero if there is none, or if it was ended
}

func (row *memoryRow) leased(now time.Time) bool { return now.Before(row.until) }
func (row *memoryRow) lapsed(now time.Time) bool { return !row.until.IsZero() && !row.leased(now) }

// endLease ends holder's lease. One that has run out, whoever had it, is forgotten too: its only trace is the mark that
// the caller replaces.
func (row *memoryRow) endLease(holder string, now time.Time) {
	if row.holder == holder || row.lapsed(now) {
		row.until = time.Time{}
	}
}

// record returns a copy of what the row says now.
func (row *memoryRow) record(now time.Time) Record {
	return Record{
		Token:   copyToken(row.Token),
		Mark:    Mark{Dead: copyVerdict(row.Dead), RetryAt: row.RetryAt, Unfinished: row.Unfinished || row.lapsed(now)},
		Version: row.Version,
	}
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
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.grants[grant]
	if !ok {
		return Record{}, ErrNoGrant
	}
	return row.record(time.Now()), nil
}

// Lease implements [Store].
func (s *MemoryStore) Lease(ctx context.Context, grant, holder string, d time.Duration) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.grants[grant]
	if !ok {
		return Record{}, ErrNoGrant
	}
	now := time.Now()
	if row.leased(now) && row.holder != holder {
		return Record{}, ErrLeased
	}
	row.Unfinished = row.Unfinished || row.lapsed(now)
	row.holder, row.until = holder, now.Add(d)
	return row.record(now), nil
}

// Save implements [Store].
func (s *MemoryStore) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	if err := storable(ctx, token); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.grants[grant]
	if !ok || row.Version != version {
		return ErrConflict
	}
	row.endLease(holder, time.Now())
	row.Record = Record{Token: copyToken(token), Version: newVersion()}
	return nil
}

// Mark implements [Store].
func (s *MemoryStore) Mark(ctx context.Context, grant, holder string, version int64, mark Mark) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.grants[grant]
	if !ok || row.Version != version {
		return ErrConflict
	}
	now := time.Now()
	row.endLease(holder, now)
	if mark.Dead == nil || row.Dead == nil {
		row.since = now
	}
	row.Mark = Mark{Dead: copyVerdict(mark.Dead), RetryAt: mark.RetryAt, Unfinished: mark.Unfinished}
	return nil
}

// Release implements [Store].
func (s *MemoryStore) Release(ctx context.Context, grant, holder string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A lease that has run out is not ended: what it has left behind may be unfinished.
	if row, ok := s.grants[grant]; ok && row.holder == holder && row.leased(time.Now()) {
		row.until = time.Time{}
	}
	return nil
}

// Put implements [Store].
func (s *MemoryStore) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	if err := storable(ctx, token); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants == nil {
		s.grants = make(map[string]*memoryRow)
	}
	s.grants[grant] = &memoryRow{Record: Record{Token: copyToken(token), Version: newVersion()}}
	return nil
}

// Delete implements [Store].
func (s *MemoryStore) Delete(ctx context.Context, grant string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.grants, grant)
	return nil
}

// Due implements [Store]. It looks at every grant, and is never stale.
func (s *MemoryStore) Due(ctx context.Context, before time.Duration, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil {
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
		if row.Dead == nil && !row.leased(now) && !row.RetryAt.After(now) && !expiry.IsZero() && !expiry.After(now.Add(before)) {
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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	byAge := func(a, b DeadGrant) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Grant, b.Grant)) }
	var dead []DeadGrant
	s.mu.Lock()
	latest := time.Now().Add(-since)
	for grant, row := range s.grants {
		found := DeadGrant{Grant: grant, Error: copyVerdict(row.Dead), Since: row.since, Version: row.Version}
		if row.Dead != nil && !row.since.After(latest) && (after.Grant == "" || byAge(found, after) > 0) {
			dead = append(dead, found)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(dead, byAge)
	return dead[:min(len(dead), max(limit, 0))], nil
}

// storable returns why nothing can be stored, or nil.
func storable(ctx context.Context, token *oauth2.Token) error {
	if token == nil {
		return errors.New("applebusiness/grants: there is no token to store")
	}
	return ctx.Err()
}

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
