package pgxstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxQueue = 10 * time.Minute // how far ahead a request is planned at most
	maxPause = time.Hour
	// A plan for later than that comes from a clock that has been set back, and is dropped.
	maxAhead = maxPause + 2*maxQueue
)

// Limiter spreads the token requests of a whole fleet evenly over time. [Store.Limiter] makes one, for [grants.Options]; it is
// safe for concurrent use.
type Limiter struct {
	store     *Store
	perSecond int
}

// Limiter returns a Limiter of perSecond requests a second, for all processes together that use the Store's table. Give each
// process the same number, and leave a margin: requests that are sent evenly arrive unevenly. With n a second, and a network
// that delays one request by t seconds more than another, a server sees up to n*(1+t)+1 within one second. For a limit of 15
// that it counts strictly, 12 allow for a sixth of a second.
func (s *Store) Limiter(perSecond int) *Limiter { return &Limiter{s, perSecond} }

// Wait returns nil when a request may be sent. It takes the next free time by one UPDATE of one row, and waits for it without a
// connection; if [Limiter.Pause] was called meanwhile, it takes another one after the pause. If ctx would end before, or the
// time is more than ten minutes away, Wait returns an error at once, which is [context.DeadlineExceeded], and the time stays
// free for others; a time that was taken is lost if ctx is canceled meanwhile. It returns the database's error if that fails.
func (l *Limiter) Wait(ctx context.Context) error {
	if err := l.misused("limit"); err != nil {
		return err
	}
	for {
		wait, err := l.take(ctx)
		if err != nil || wait <= 0 {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		var paused bool
		err = l.store.do(ctx, "limit", repeatable, func(conn *pgxpool.Conn) error {
			return conn.QueryRow(ctx, `SELECT paused_until BETWEEN clock_timestamp() AND clock_timestamp() + $1::bigint * interval '1 microsecond'
				FROM `+l.store.limitTable(), pgx.QueryExecModeExec, maxPause.Microseconds()).Scan(&paused)
		})
		if err != nil || !paused {
			return err
		}
	}
}

// take takes the next free time, and returns how far away it is.
func (l *Limiter) take(ctx context.Context) (wait time.Duration, err error) {
	err = l.store.do(ctx, "limit", once, func(conn *pgxpool.Conn) error {
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
			pgx.QueryExecModeExec, (time.Second / time.Duration(l.perSecond)).Microseconds(), atMost.Microseconds(), maxAhead.Microseconds(),
		).Scan(&microseconds)
		wait = time.Duration(microseconds) * time.Microsecond
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		var exists bool
		err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+l.store.limitTable()+`)`, pgx.QueryExecModeExec).Scan(&exists)
		switch {
		case err != nil:
			return err
		case !exists:
			return misused("limit", noLimitRow)
		}
		text := fmt.Sprintf("the fleet's limit of %d requests a second would let this one wait too long: %v", l.perSecond, context.DeadlineExceeded)
		return &storeError{"limit", text, context.DeadlineExceeded}
	})
	return wait, err
}

const noLimitRow = "the one row of the limit's table is missing: call Migrate"

// Pause lets no process of the fleet send a request for the duration d, an hour at most: those that wait already take
// another time, after the pause. A pause that ends later stays. [grants.Manager] calls it when Apple answers 429.
func (l *Limiter) Pause(ctx context.Context, d time.Duration) error {
	if err := l.misused("pause"); err != nil {
		return err
	}
	return l.store.do(ctx, "pause", once, func(conn *pgxpool.Conn) error {
		tag, err := conn.Exec(ctx, `UPDATE `+l.store.limitTable()+` SET
				next = CASE WHEN next BETWEEN until AND clock_timestamp() + $2::bigint * interval '1 microsecond' THEN next ELSE until END,
				paused_until = CASE WHEN paused_until BETWEEN until AND clock_timestamp() + $3::bigint * interval '1 microsecond' THEN paused_until ELSE until END
			FROM (SELECT clock_timestamp() + $1::bigint * interval '1 microsecond' AS until) AS pause`,
			pgx.QueryExecModeExec, max(0, min(d, maxPause)).Microseconds(), maxAhead.Microseconds(), maxPause.Microseconds())
		if err == nil && tag.RowsAffected() == 0 {
			return misused("pause", noLimitRow)
		}
		return err
	})
}

func (l *Limiter) misused(method string) error {
	if l == nil || l.store == nil || l.perSecond <= 0 {
		return misused(method, "the Limiter allows no requests: make it by Store.Limiter, with a positive number")
	}
	return nil
}
