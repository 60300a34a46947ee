package applebusinesstest

import (
	"context"
	"sync"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// MemoryStore is an [applebusiness.Store] in memory, for tests: several SharedTokenSources with one MemoryStore behave
// as a fleet of processes with one database. The zero MemoryStore holds no token. Its methods can be called from any
// number of goroutines.
type MemoryStore struct {
	updating sync.Mutex // held during an Update

	mu    sync.Mutex // guards what follows
	token *oauth2.Token
	needs error // says that the customer has to reconnect
}

// NewMemoryStore returns a MemoryStore that holds a copy of token, or nothing if token is nil.
func NewMemoryStore(token *oauth2.Token) *MemoryStore {
	store := new(MemoryStore)
	store.set(token, nil)
	return store
}

// Put stores a copy of token as if the customer had just connected; nil empties the MemoryStore. It waits for an Update
// under way.
func (s *MemoryStore) Put(token *oauth2.Token) {
	s.updating.Lock()
	defer s.updating.Unlock()
	s.set(token, nil)
}

// Stored returns a copy of the token, or nil if there is none. It does not wait for an Update under way.
func (s *MemoryStore) Stored() *oauth2.Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return copyToken(s.token)
}

// Update is the method of [applebusiness.Store]. An error with ActionReauthorize is remembered, and returned until there
// is a new token. If ctx ends during refresh, nothing is stored and its error is returned, as by a database.
func (s *MemoryStore) Update(ctx context.Context, refresh func(ctx context.Context, stored *oauth2.Token) (*oauth2.Token, error)) (*oauth2.Token, error) {
	s.updating.Lock()
	defer s.updating.Unlock()
	s.mu.Lock()
	stored, needs := copyToken(s.token), s.needs
	s.mu.Unlock()
	if needs != nil {
		stored = nil
	}
	token, err := refresh(ctx, stored)
	switch {
	case err != nil && needs != nil:
		return nil, needs
	case err != nil:
		if applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize && stored != nil {
			s.set(stored, err)
		}
		return nil, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case token != nil:
		s.set(token, nil)
	}
	return copyToken(token), nil
}

func (s *MemoryStore) set(token *oauth2.Token, needs error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.needs = copyToken(token), needs
}

func copyToken(token *oauth2.Token) *oauth2.Token {
	if token == nil {
		return nil
	}
	copied := *token
	return &copied
}
