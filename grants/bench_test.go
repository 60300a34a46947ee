package grants_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// warm returns a Manager that holds n grants in memory.
func warm(tb testing.TB, n int) (*grants.Manager, []string) {
	store := grants.NewMemoryStore()
	names := make([]string, n)
	m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: new(apple)}, Limit: limit(nil)})
	tb.Cleanup(func() { _ = m.Close(context.Background()) })
	for i := range names {
		names[i] = fmt.Sprint("customer-", i)
		require.NoError(tb, store.Put(tb.Context(), names[i], &oauth2.Token{
			AccessToken: fmt.Sprint("access-", i), RefreshToken: fmt.Sprint("refresh-", i), TokenType: "Bearer", Expiry: time.Now().Add(time.Hour)}))
		_, err := m.Token(tb.Context(), names[i])
		require.NoError(tb, err)
	}
	return m, names
}

// lookUp is the least that such a thing can do: a mutex, a map and a copy.
type lookUp struct {
	mu     sync.Mutex
	tokens map[string]*oauth2.Token
}

func (l *lookUp) token(grant string) *oauth2.Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := *l.tokens[grant]
	return &copied
}

func newLookUp(names []string) *lookUp {
	l := &lookUp{tokens: make(map[string]*oauth2.Token)}
	for _, name := range names {
		l.tokens[name] = &oauth2.Token{AccessToken: name, RefreshToken: name, Expiry: time.Now().Add(time.Hour)}
	}
	return l
}

var sink *oauth2.Token

// Token of a valid grant, compared with a mutex, a map and a copy.
func BenchmarkToken(b *testing.B) {
	m, names := warm(b, 1000)
	l := newLookUp(names)
	ctx := context.Background()
	b.Run("mutex and map", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink = l.token("customer-7")
		}
	})
	b.Run("Token", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink, _ = m.Token(ctx, "customer-7")
		}
	})
	b.Run("mutex and map, parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				l.token("customer-7")
			}
		})
	})
	b.Run("Token, parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_, _ = m.Token(ctx, "customer-7")
			}
		})
	})
}

// The bytes that a grant takes in a Manager, beside the Store's.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	for _, refreshed := range []bool{false, true} {
		b.Run(fmt.Sprintf("%d grants, refreshed=%v", n, refreshed), func(b *testing.B) {
			for b.Loop() {
				store := &emptyStore{left: time.Hour}
				if refreshed {
					store.left = -time.Hour
				}
				m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: new(fixedApple)}, Limit: limit(nil)})
				names := make([]string, n)
				for i := range names {
					names[i] = fmt.Sprint("customer-", i)
				}
				before := heap()
				for _, name := range names {
					_, err := m.Token(context.Background(), name)
					require.NoError(b, err)
				}
				time.Sleep(10 * time.Millisecond) // the last saves
				b.ReportMetric(float64(heap()-before)/n, "B/grant")
				require.NoError(b, m.Close(context.Background()))
			}
		})
	}
}

func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// emptyStore knows every grant, and remembers none.
type emptyStore struct {
	scripted
	left time.Duration
}

func (s *emptyStore) Load(_ context.Context, grant string) (grants.Record, error) {
	return grants.Record{Version: 1, Token: &oauth2.Token{
		AccessToken: "access-" + grant, RefreshToken: "refresh-" + grant, TokenType: "Bearer", Expiry: time.Now().Add(s.left)}}, nil
}

func (s *emptyStore) Lease(ctx context.Context, grant, _ string, _ time.Duration) (grants.Record, error) {
	return s.Load(ctx, grant)
}

// fixedApple gives everybody a token.
type fixedApple struct{}

func (*fixedApple) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Body.Close()
	return response(200, `{"access_token":"access-0123456789","refresh_token":"refresh-0123456789","token_type":"Bearer","expires_in":3600}`), nil
}

func BenchmarkGoroutinesOnOneGrant(b *testing.B) {
	m, _ := warm(b, 1)
	const goroutines = 10_000
	b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var group sync.WaitGroup
			for range goroutines {
				group.Go(func() {
					for range 100 {
						_, _ = m.Token(context.Background(), "customer-0")
					}
				})
			}
			group.Wait()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/goroutines/100, "ns/Token")
	})
}

// 10,000 goroutines that wait for one refresh.
func BenchmarkWaitForOneRefresh(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		m := grants.New(testConfig, &emptyStore{left: -time.Hour}, &grants.Options{HTTPClient: &http.Client{Transport: new(fixedApple)}, Limit: limit(nil)})
		var group sync.WaitGroup
		for range 10_000 {
			group.Go(func() { _, _ = m.Token(context.Background(), "customer-0") })
		}
		group.Wait()
		_ = m.Close(context.Background())
	}
}

func BenchmarkRefresh(b *testing.B) {
	m := grants.New(testConfig, &emptyStore{left: -time.Hour}, &grants.Options{HTTPClient: &http.Client{Transport: new(fixedApple)}, Limit: limit(nil)})
	b.ReportAllocs()
	for b.Loop() {
		token, err := m.Token(context.Background(), "customer-0")
		require.NoError(b, err)
		require.NoError(b, m.Put(context.Background(), "customer-0", token)) // forgets it
	}
	_ = m.Close(context.Background())
}

// Token of a valid grant is what every request of the partner's calls. How long it takes is BenchmarkToken's.
func TestTokenIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := warm(t, 1000)
		synctest.Wait() // what is done after a caller has its token allocates, too
		allocs := testing.AllocsPerRun(100, func() { sink, _ = m.Token(t.Context(), "customer-7") })
		assert.LessOrEqual(t, allocs, 1.0)
	})
}
