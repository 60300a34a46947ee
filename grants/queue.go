package grants

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	requestsPerSecond = 15 // what Apple publishes
	slowest           = 1.0
	recovery          = 0.5 // requests a second, for each second without a response with status 429

	shortPause  = time.Second // a pause that an attempt waits for
	spareLife   = time.Second
	turnTime    = 250 * time.Millisecond // after Limit; a lease that takes longer keeps no other grant waiting
	lookAgain   = 2 * time.Second        // how often a waiting attempt looks whether a sibling was faster
	lookSpacing = 20 * time.Millisecond
)

// queue is where attempts wait for Limit, which one of them at a time asks: first those that a caller waits for, then
// those in the background, each in the order of arrival. Its fields are guarded by Manager.mu.
type queue struct {
	limit interface{ Wait(context.Context) error }
	own   *limiter // limit, unless it is the caller's

	waiting  []*attempt
	arrivals int64
	turn     *attempt // whose turn it is: it asks Limit, and then tries for the lease
	// What Limit granted and no request used is the next one's, for a while: in a fleet most attempts find that a sibling
	// has the lease.
	spareUntil time.Duration

	pausedUntil time.Duration // since a response with status 429
	pauses      int           // in a row
}

// errLookAgain means that the attempt has waited for a while and should look at the row again before it waits on.
var errLookAgain = errors.New("look again")

// takeTurn waits until a may send a request. It keeps its turn until commit or giveBack.
func (m *Manager) takeTurn(a *attempt) error {
	defer a.addWaited(time.Now())
	m.mu.Lock()
	if a.arrival == 0 {
		m.queue.arrivals++
		a.arrival = m.queue.arrivals
	}
	a.myTurn = make(chan struct{})
	m.queue.waiting = append(m.queue.waiting, a)
	patience := max(lookAgain, time.Duration(len(m.queue.waiting))*lookSpacing)
	m.next()
	m.mu.Unlock()

	timer := time.NewTimer(jitter(patience))
	defer timer.Stop()
	select {
	case <-a.myTurn:
	case <-timer.C:
		if m.leaveQueue(a) {
			return errLookAgain
		}
	case <-a.ctx.Done():
		if m.leaveQueue(a) {
			return a.ended()
		}
	}

	m.mu.Lock()
	spare := m.now() < m.queue.spareUntil
	m.queue.spareUntil = 0
	m.mu.Unlock()
	if !spare {
		if err := safely(func() error { return m.queue.limit.Wait(a.ctx) }); err != nil {
			m.pass(a)
			if a.ctx.Err() != nil {
				return a.ended()
			}
			return a.storeError(&limitError{err})
		}
	}
	time.AfterFunc(turnTime, func() { m.pass(a) })
	return nil
}

// pass ends a's turn.
func (m *Manager) pass(a *attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.passLocked(a)
}

func (m *Manager) passLocked(a *attempt) {
	if m.queue.turn == a {
		m.queue.turn = nil
		m.next()
	}
}

// next gives the turn to whoever is next; m.mu is held.
func (m *Manager) next() {
	if m.queue.turn != nil || len(m.queue.waiting) == 0 {
		return
	}
	first := 0
	for i, a := range m.queue.waiting {
		best := m.queue.waiting[first]
		if a.callers > 0 != (best.callers > 0) {
			if a.callers > 0 {
				first = i
			}
		} else if a.arrival < best.arrival {
			first = i
		}
	}
	m.queue.turn = m.queue.waiting[first]
	m.queue.waiting = slices.Delete(m.queue.waiting, first, first+1)
	close(m.queue.turn.myTurn)
}

// leaveQueue takes a out of the queue, and reports false if it has the turn already.
func (m *Manager) leaveQueue(a *attempt) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.Index(m.queue.waiting, a)
	if i >= 0 {
		m.queue.waiting = slices.Delete(m.queue.waiting, i, i+1)
	}
	return i >= 0
}

// giveBack ends a's turn, in which no request was sent.
func (m *Manager) giveBack(a *attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue.spareUntil = m.now() + spareLife
	m.passLocked(a)
}

// pause notes a response with status 429, and returns how long nothing is sent now.
func (m *Manager) pause(retryAfter time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.queue.own != nil {
		m.queue.own.slowDown()
	}
	now := m.now()
	if retryAfter <= 0 {
		retryAfter = backoff(m.queue.pauses)
	}
	m.queue.pauses++
	m.queue.pausedUntil = max(m.queue.pausedUntil, now+retryAfter)
	return m.queue.pausedUntil - now
}

// paused returns how long nothing is sent.
func (m *Manager) paused() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, m.queue.pausedUntil-m.now())
}

// limitError is a failure of Options.Limit.
type limitError struct{ err error }

func (e *limitError) Error() string { return "limit: " + textOf(e.err) }
func (e *limitError) Unwrap() error { return e.err }

// limiter is the Limit of a Manager that was given none. The zero limiter is ready for use.
type limiter struct {
	mu       sync.Mutex
	last     time.Time // when the last request was allowed, or will be
	slowed   time.Time // zero: never
	slowedTo float64   // requests a second
}

// Wait allows requestsPerSecond, one at a time.
func (l *limiter) Wait(ctx context.Context) error {
	l.mu.Lock()
	now := time.Now()
	at := l.last.Add(time.Duration(float64(time.Second) / l.rate(now)))
	if at.Before(now) {
		at = now
	}
	l.last = at
	l.mu.Unlock()
	return sleep(ctx, at.Sub(now))
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
	if l.slowed.IsZero() {
		return requestsPerSecond
	}
	return min(requestsPerSecond, l.slowedTo+recovery*now.Sub(l.slowed).Seconds())
}
