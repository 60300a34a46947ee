package grants

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	requestsPerSecond = 15 // what Apple publishes
	slowest           = 1.0
	recovery          = 0.5 // requests a second, for each second without a response with status 429

	shortPause  = time.Second            // a pause that an attempt waits for
	refusedWait = 5 * time.Second        // until Limit is asked again that has refused to let a request wait
	spareLife   = time.Second            // an unused grant of Limit passes to the next attempt for that long
	turnTime    = 250 * time.Millisecond // a turn ends after that, even if Lease has not returned
	lookSpacing = 20 * time.Millisecond  // the longer the queue, the less often each in it looks at its row
)

// queue is where attempts wait for Limit, which one of them at a time asks: first those that a caller waits for, then
// those in the background, each in the order in which they began. Its fields are guarded by Manager.mu.
type queue struct {
	limit  interface{ Wait(context.Context) error }
	asking chan struct{} // holds a value while Limit is asked

	waiting    []*attempt
	turn       *attempt      // who asks Limit, and then tries for the lease
	spareUntil time.Duration // in a fleet most attempts find that a sibling has the lease, and do not use what Limit granted

	pausedUntil time.Duration // since a response with status 429
	pauseBegan  time.Duration
	pauses      int // in a row
}

// takeTurn waits until a may try for the lease, and send a request. It keeps its turn until it sends, or giveBack.
func (m *Manager) takeTurn(a *attempt) error {
	defer a.addWaited(time.Now())
	m.mu.Lock()
	m.giveBack(a) // where the lease has become too short
	a.come = make(chan struct{})
	m.queue.waiting = append(m.queue.waiting, a)
	look := time.After(jitter(max(lookAgain, time.Duration(len(m.queue.waiting))*lookSpacing)))
	held := m.app.held
	m.next()
	m.mu.Unlock()
	select {
	case <-a.come:
	case <-look:
		return errLookAgain
	case <-held:
		return errLookAgain
	case <-a.ctx.Done():
		return a.ended()
	}
	if err := m.askLimit(a); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a.granted = true
	time.AfterFunc(turnTime, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.pass(a)
	})
	if m.now() < m.queue.pausedUntil || m.refusal(a) != nil {
		return errLookAgain
	}
	for _, g := range m.app.gates() {
		if g.cause != nil {
			g.probe = a
		}
	}
	return nil
}

// askLimit asks Limit after a short pause, unless what it granted to another attempt was not used.
func (m *Manager) askLimit(a *attempt) error {
	m.mu.Lock()
	now := m.now()
	spare, pause := now < m.queue.spareUntil, min(m.queue.pausedUntil-now, shortPause)
	m.queue.spareUntil = 0
	m.mu.Unlock()
	if spare {
		return nil
	}
	err := sleep(a.ctx, pause)
	if err == nil {
		err = m.waitForLimit(a.ctx)
	}
	switch {
	case err == nil:
		return nil
	case a.ctx.Err() != nil:
		return a.ended()
	case errors.Is(err, context.DeadlineExceeded): // it would let this one wait too long: a pause of the fleet's, say
		a.held = true
		return waitError(applebusiness.ErrRateLimited, refusedWait)
	}
	return a.storeError(&limitError{err})
}

// waitForLimit asks Limit, one goroutine at a time.
func (m *Manager) waitForLimit(ctx context.Context) error {
	return m.through(ctx, "Options.Limit", func(ctx context.Context) error {
		select {
		case m.queue.asking <- struct{}{}:
			defer func() { <-m.queue.asking }()
		case <-ctx.Done():
			return ctx.Err()
		}
		return m.queue.limit.Wait(ctx)
	})
}

// pass ends a's turn; m.mu is held.
func (m *Manager) pass(a *attempt) {
	if m.queue.turn == a {
		m.queue.turn = nil
		m.next()
	}
}

// next gives the turn to whoever is next; m.mu is held.
func (m *Manager) next() {
	q := &m.queue
	if q.turn != nil || len(q.waiting) == 0 {
		return
	}
	q.turn = slices.MinFunc(q.waiting, func(a, b *attempt) int {
		awaited := cmp.Compare(min(b.outcome.callers, 1), min(a.outcome.callers, 1))
		return cmp.Or(awaited, a.event.Start.Compare(b.event.Start))
	})
	q.leave(q.turn)
	close(q.turn.come)
}

func (q *queue) leave(a *attempt) {
	if i := slices.Index(q.waiting, a); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
}

// giveBack ends a's turn, in which no request was sent, or its wait for one, and its probe; m.mu is held.
func (m *Manager) giveBack(a *attempt) {
	for _, g := range m.app.gates() {
		if g.probe == a {
			g.probe = nil
		}
	}
	q, now := &m.queue, m.now()
	q.leave(a)
	if a.granted && now >= q.pausedUntil {
		q.spareUntil = now + spareLife
	}
	a.granted = false
	m.pass(a)
}

// pause notes a 429, and returns how long nothing is sent. What was sent before the pause began belongs to the same event.
func (m *Manager) pause(sentAt, retryAfter time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	q, now := &m.queue, m.now()
	if first := q.pauses == 0 || sentAt >= q.pauseBegan; first {
		if retryAfter <= 0 {
			retryAfter = backoff(q.pauses)
		}
		q.pauses++
		q.pauseBegan = max(now, 1)
		if own, ok := q.limit.(*limiter); ok {
			own.slowDown()
		}
	}
	if now+retryAfter > q.pausedUntil {
		q.pausedUntil = now + retryAfter
		m.pauseFleet(retryAfter)
	}
	q.spareUntil = 0
	if q.pausedUntil-now > shortPause {
		m.app.held.wake()
	}
	return q.pausedUntil - now
}

// pauseFleet tells Limit, if that is the fleet's; m.mu is held.
func (m *Manager) pauseFleet(d time.Duration) {
	fleet, ok := m.queue.limit.(interface {
		Pause(context.Context, time.Duration) error
	})
	if !ok {
		return
	}
	m.spawn(func() {
		ctx, cancel := context.WithTimeout(m.queued, storeTimeout)
		defer cancel()
		_ = m.through(ctx, "Options.Limit", func(ctx context.Context) error { return fleet.Pause(ctx, d) })
	})
}

// limiter is the Limit of a Manager that was given none. The zero limiter is ready for use.
type limiter struct {
	mu       sync.Mutex
	last     time.Time // when the last request was allowed, or will be
	slowed   time.Time // long ago, if never
	slowedTo float64   // requests a second
}

// Wait allows requestsPerSecond, one at a time.
func (l *limiter) Wait(ctx context.Context) error {
	l.mu.Lock()
	now := time.Now()
	wait := max(0, l.last.Sub(now)+time.Duration(float64(time.Second)/l.rate(now)))
	l.last = now.Add(wait)
	l.mu.Unlock()
	return sleep(ctx, wait)
}

// slowDown halves the rate.
func (l *limiter) slowDown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.slowedTo, l.slowed = max(slowest, l.rate(now)/2), now
}

// rate returns the requests a second; l.mu is held.
func (l *limiter) rate(now time.Time) float64 {
	return min(requestsPerSecond, l.slowedTo+recovery*now.Sub(l.slowed).Seconds())
}
