package benchmarks

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// lockedMap is the least that can hold the tokens of many grants: a mutex, a map and a copy.
type lockedMap struct {
	mu     sync.Mutex
	tokens map[string]*oauth2.Token
}

func (l *lockedMap) token(grant string) *oauth2.Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := *l.tokens[grant]
	return &copied
}

// validTokens get the token of one of 1,000 grants, which is valid. The first one is the yardstick.
func validTokens() []contender {
	const n, wanted = 1000, "customer-7"
	ctx := context.Background()
	store := grants.NewMemoryStore()
	manager := grants.New(new(oauth2.Config), store, nil)
	l := &lockedMap{tokens: make(map[string]*oauth2.Token)}
	for i := range n {
		name := fmt.Sprint("customer-", i)
		l.tokens[name] = &oauth2.Token{AccessToken: "a", RefreshToken: "r", TokenType: "Bearer", Expiry: time.Now().Add(24 * time.Hour)}
		_ = store.Put(ctx, name, l.tokens[name])
		_, _ = manager.Token(ctx, name)
	}
	reuse := oauth2.ReuseTokenSource(l.token(wanted), nil)
	return []contender{
		{"a mutex, a map and a copy", func() bool { return l.token(wanted).Valid() }},
		{"x/oauth2's ReuseTokenSource, of one grant", func() bool {
			token, err := reuse.Token()
			return err == nil && token.Valid()
		}},
		{"grants.Manager's Token", func() bool {
			token, err := manager.Token(ctx, wanted)
			return err == nil && token.Valid()
		}},
	}
}
