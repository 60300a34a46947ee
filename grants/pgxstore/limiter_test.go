package pgxstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

func TestLimiter(t *testing.T) {
	pool, pooler := newPool(t, "DATABASE_URL"), newPool(t, "POOLER_URL")
	one, table := newStore(t, pool, pgxstore.Options{})
	other := pgxstore.New(pooler, &pgxstore.Options{Table: table})
	ctx := t.Context()

	var times []time.Time
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for _, store := range []*pgxstore.Store{one, other} {
		for range 5 {
			wg.Go(func() {
				if assert.NoError(t, store.Limiter(20).Wait(ctx)) {
					mu.Lock()
					defer mu.Unlock()
					times = append(times, time.Now())
				}
			})
		}
	}
	wg.Wait()
	assert.GreaterOrEqual(t, time.Since(start), 9*50*time.Millisecond, "ten requests, 20 a second, for both together")

	t.Run("a deadline", func(t *testing.T) {
		slow := one.Limiter(1)
		_, err := pool.Exec(ctx, `UPDATE `+table+`_limit SET next = now() + interval '1 minute'`) // as if others waited
		require.NoError(t, err)
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		before := next(t, pool, table)
		err = slow.Wait(short)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: limit: the fleet's limit of 1 requests a second would let this one wait too long: context deadline exceeded")
		assert.NoError(t, short.Err(), "it returns at once")
		assert.Equal(t, before, next(t, pool, table), "nothing is taken")
	})
	t.Run("a cancelled wait", func(t *testing.T) {
		cancelled, cancel := context.WithCancel(ctx)
		time.AfterFunc(20*time.Millisecond, cancel)
		require.ErrorIs(t, one.Limiter(1).Wait(cancelled), context.Canceled)
	})
	t.Run("a clock that was set back", func(t *testing.T) {
		_, err := pool.Exec(ctx, `UPDATE `+table+`_limit SET next = now() + interval '3 hours'`)
		require.NoError(t, err)
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		require.NoError(t, one.Limiter(1000).Wait(short))
	})
	t.Run("misuse", func(t *testing.T) {
		const text = "applebusiness/grants/pgxstore: limit: the Limiter allows no requests: make it by Store.Limiter, with a positive number"
		assert.EqualError(t, one.Limiter(0).Wait(ctx), text)
		assert.EqualError(t, new(pgxstore.Limiter).Wait(ctx), text)
	})
}

func next(t *testing.T, pool *pgxpool.Pool, table string) (next time.Time) {
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT next FROM "+table+"_limit").Scan(&next))
	return next
}

// While a pause runs nobody is let through: neither who comes later, nor who has waited since before, in any process.
func TestPause(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	one, table := newStore(t, pool, pgxstore.Options{})
	other := pgxstore.New(newPool(t, "POOLER_URL"), &pgxstore.Options{Table: table})
	ctx := t.Context()
	const pause = 2500 * time.Millisecond

	_, err := pool.Exec(ctx, "UPDATE "+table+"_limit SET next = now() + interval '2 seconds'")
	require.NoError(t, err)
	first := next(t, pool, table)
	waited := make(chan time.Time, 1)
	go func() {
		assert.NoError(t, other.Limiter(5).Wait(ctx)) // for two seconds, if there were no pause
		waited <- time.Now()
	}()
	require.Eventually(t, func() bool { return next(t, pool, table).After(first) }, 10*time.Second, time.Millisecond)
	start := time.Now()
	require.NoError(t, one.Limiter(5).Pause(ctx, pause))
	require.NoError(t, one.Limiter(5).Wait(ctx))
	assert.GreaterOrEqual(t, time.Since(start), pause)
	assert.GreaterOrEqual(t, (<-waited).Sub(start), pause)

	t.Run("a longer one stays", func(t *testing.T) {
		require.NoError(t, one.Limiter(5).Pause(ctx, 30*time.Minute))
		long := next(t, pool, table)
		require.NoError(t, one.Limiter(5).Pause(ctx, time.Second))
		require.NoError(t, one.Limiter(5).Pause(ctx, -time.Second))
		assert.Equal(t, long, next(t, pool, table))
		start := time.Now()
		assert.ErrorIs(t, other.Limiter(5).Wait(ctx), context.DeadlineExceeded)
		assert.Less(t, time.Since(start), time.Minute, "it returns at once")
	})
	t.Run("an hour at most", func(t *testing.T) {
		require.NoError(t, one.Limiter(5).Pause(ctx, 1000*time.Hour))
		var minutes float64
		require.NoError(t, pool.QueryRow(ctx, "SELECT extract(epoch FROM paused_until - now())::float8 / 60 FROM "+table+"_limit").Scan(&minutes))
		assert.InDelta(t, 60, minutes, 1)
	})
	t.Run("a clock that was set back", func(t *testing.T) {
		_, err := pool.Exec(ctx, "UPDATE "+table+"_limit SET next = now() + interval '5 hours', paused_until = now() + interval '5 hours'")
		require.NoError(t, err)
		require.NoError(t, one.Limiter(1000).Wait(ctx))
		_, err = pool.Exec(ctx, "UPDATE "+table+"_limit SET next = now() + interval '5 hours', paused_until = now() + interval '5 hours'")
		require.NoError(t, err)
		require.NoError(t, one.Limiter(1000).Pause(ctx, time.Minute))
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		assert.ErrorIs(t, one.Limiter(1000).Wait(short), context.DeadlineExceeded)
	})
	assert.Error(t, new(pgxstore.Limiter).Pause(ctx, time.Second))
}

// Eight processes at the limit, and how many of their requests fall into one second at most: what a server sees that counts
// any second, and not from one full second to the next.
func BenchmarkLimiter(b *testing.B) {
	_, table := newStore(b, newPool(b, "DATABASE_URL"), pgxstore.Options{})
	for _, perSecond := range []int{12, 13, 14, 15} {
		b.Run(fmt.Sprint(perSecond, " a second"), func(b *testing.B) {
			var mu sync.Mutex
			var sent []time.Time
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
				var wg sync.WaitGroup
				for range 8 {
					limiter := pgxstore.New(newPool(b, "DATABASE_URL"), &pgxstore.Options{Table: table}).Limiter(perSecond)
					for range 4 {
						wg.Go(func() {
							for limiter.Wait(ctx) == nil {
								mu.Lock()
								sent = append(sent, time.Now())
								mu.Unlock()
							}
						})
					}
				}
				wg.Wait()
				cancel()
			}
			b.ReportMetric(float64(mostInASecond(sent)), "most-in-1s")
			b.ReportMetric(float64(len(sent))/sent[len(sent)-1].Sub(sent[0]).Seconds(), "per-second")
		})
	}
}

// mostInASecond returns how many of the times, which are in order, fall into one second at most.
func mostInASecond(times []time.Time) (most int) {
	for i := range times {
		for j := i; j < len(times) && times[j].Sub(times[i]) < time.Second; j++ {
			most = max(most, j-i+1)
		}
	}
	return most
}
