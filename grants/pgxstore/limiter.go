package pgxstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// maxQueue is how far ahead a request is planned at most. A plan for later than twice that comes from a clock that has been set
// back, and is dropped.
const maxQueue = 10 * time.Minute

// Limiter spreads the token requests of a whole fleet evenly over time. [Store.Limiter] makes one, for [grants.Options]; it is
// safe for concurrent use.
type Limiter struct {
	store     *Store
	perSecond int
}

// Limiter returns a Limiter of perSecond requests a second, for all processes together that use the Store's table. Give each
// process the same number.
func (s *Store) Limiter(perSecond int) *Limiter { return &Limiter{s, perSecond} }

// Wait returns nil when a request may be sent. It takes the next free time by one UPDATE of one row, and waits for it without a
// connection. If ctx would end before, Wait returns an error at once, which is [context.DeadlineExceeded], and the time stays
// free for others; a time that was taken is lost if ctx is canceled meanwhile. It returns the database's error if that fails.
func (l *Limiter) Wait(ctx context.Context) error {
	if l == nil || l.store == nil || l.perSecond <= 0 {
		return &storeError{"limit", errors.New("the Limiter allows no requests: make it by Store.Limiter, with a positive number")}
	}
	var wait time.Duration
	err := l.store.do(ctx, "limit", func(conn *pgxpool.Conn) error {
		atMost := maxQueue
		if deadline, ok := ctx.Deadline(); ok {
			atMost = min(atMost, time.Until(deadline))
		}
		var microseconds int64
		err := conn.QueryRow(ctx, `UPDATE `+l.store.limitTable()+` SET
				next = CASE WHEN next BETWEEN clock_timestamp() AND clock_timestamp() + $3::bigint * interval '1 microsecond'
					THEN next ELSE clock_timestamp() END + $1::bigint * interval '1 microsecond'
			WHERE next <= clock_timestamp() + $2::bigint * interval '1 microsecond'
				OR next > clock_timestamp() + $3::bigint * interval '1 microsecond'
			RETURNING (extract(epoch FROM next - clock_timestamp()) * 1000000)::bigint - $1::bigint`,
			pgx.QueryExecModeExec, (time.Second / time.Duration(l.perSecond)).Microseconds(), atMost.Microseconds(), (2 * maxQueue).Microseconds(),
		).Scan(&microseconds)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("the fleet's limit of %d requests a second would let this one wait too long: %w", l.perSecond, context.DeadlineExceeded)
		}
		wait = time.Duration(microseconds) * time.Microsecond
		return err
	})
	if err != nil || wait <= 0 {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
