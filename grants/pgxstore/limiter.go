package pgxstore

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		paused, err := l.store.exists(ctx, "limit", l.store.limit+`
			WHERE paused_until BETWEEN clock_timestamp() AND clock_timestamp() + $1::interval`, maxPause)
		if err != nil || !paused {
			return err
		}
	}
}

// take takes the next free time, and returns how far away it is.
func (l *Limiter) take(ctx context.Context) (time.Duration, error) {
	latest := time.Now().Add(maxQueue)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(latest) {
		latest = deadline
	}
	taken, _, err := query(ctx, l.store, "limit", once, pgx.RowTo[int64], `UPDATE `+l.store.limit+` SET
			next = CASE WHEN next BETWEEN clock_timestamp() AND clock_timestamp() + $3::interval
				THEN next ELSE clock_timestamp() END + $1::interval
		WHERE next <= clock_timestamp() + $2::interval OR next > clock_timestamp() + $3::interval
		RETURNING (extract(epoch FROM next - $1::interval - clock_timestamp()) * 1000000)::bigint`,
		time.Second/time.Duration(l.perSecond), latest, maxAhead)
	if len(taken) > 0 {
		return time.Duration(taken[0]) * time.Microsecond, nil
	}
	if err != nil {
		return 0, err
	}
	if exists, err := l.store.exists(ctx, "limit", l.store.limit); err != nil || !exists {
		return 0, cmp.Or(err, misused("limit", noLimitRow))
	}
	err = context.DeadlineExceeded
	text := fmt.Sprintf("the fleet's limit of %d requests a second would let this one wait too long: %v", l.perSecond, err)
	return 0, &storeError{"limit", text, err}
}

const noLimitRow = "the one row of the limit's table is missing: call Migrate"

// Pause lets no process of the fleet send a request for the duration d, an hour at most: those that wait already take
// another time, after the pause. A pause that ends later stays. [grants.Manager] calls it when Apple answers 429.
func (l *Limiter) Pause(ctx context.Context, d time.Duration) error {
	if err := l.misused("pause"); err != nil {
		return err
	}
	changed, err := l.store.exec(ctx, "pause", `UPDATE `+l.store.limit+` SET
			next = CASE WHEN next BETWEEN until AND clock_timestamp() + $2::interval THEN next ELSE until END,
			paused_until = CASE WHEN paused_until BETWEEN until AND clock_timestamp() + $3::interval THEN paused_until ELSE until END
		FROM (SELECT clock_timestamp() + $1::interval AS until) AS pause RETURNING true`, max(0, min(d, maxPause)), maxAhead, maxPause)
	if err == nil && changed == 0 {
		return misused("pause", noLimitRow)
	}
	return err
}

func (l *Limiter) misused(method string) error {
	if l == nil || l.store == nil || l.perSecond <= 0 {
		return misused(method, "the Limiter allows no requests: make it by Store.Limiter, with a positive number")
	}
	return nil
}
