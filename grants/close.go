package grants

import (
	"cmp"
	"context"

	"golang.org/x/oauth2"
)

// Close ends the Manager. What waits to be sent is given up, with ErrClosed for its callers; what was sent, and a Put, is
// finished, and what could not be stored yet is stored, with as many tries as it takes. Close returns nil when that is
// done. If ctx ends before, it returns an error that names the grants whose newest token is not stored; once no other
// Close waits, nothing goes on in the background. Call Close again to try again, since after the process has ended those
// grants are lost. What was on its way from Apple when the last Close gave up is lost then, and named by every later one.
//
// Give ctx more time than a token request can take, and never the context that the end of the process has ended, such as
// that of signal.NotifyContext: with it Close gives up at once. Close the Manager after the HTTP server, whose handlers use
// it, and before the Store or its pool.
//
// After Close every method returns [ErrClosed], and Token even where a token is valid. Close can be called repeatedly.
func (m *Manager) Close(ctx context.Context) error {
	if m == nil || m.stop == nil {
		return nil
	}
	m.mu.Lock()
	m.closers++
	m.stop()
	m.until(ctx, m.idle)
	var unsaved []*attempt
	for a := range m.attempts {
		if a.unsaved.token != nil {
			unsaved = append(unsaved, a)
		}
	}
	m.mu.Unlock()
	_ = forEach(ctx, unsaved, func(ctx context.Context, a *attempt) error {
		for wait := m.saveAgain(ctx, a); wait > 0 && sleep(ctx, wait) == nil; wait = m.saveAgain(ctx, a) {
		}
		return nil
	})
	m.completeConnects(ctx)
	return m.endClose(ctx)
}

// spawn calls f in a goroutine that Close waits for; m.mu is held.
func (m *Manager) spawn(f func()) {
	m.active++
	go func() {
		defer func() { // a Logger may end its goroutine
			m.mu.Lock()
			defer m.mu.Unlock()
			m.ended()
		}()
		f()
	}()
}

// ended is called at the end of what Close waits for; m.mu is held.
func (m *Manager) ended() {
	if m.active--; m.idle() {
		m.changed.wake()
	}
}

func (m *Manager) idle() bool { return m.active == 0 }

// until returns when done, asked after each change, reports true, or ctx ends. It waits without m.mu, which is held.
func (m *Manager) until(ctx context.Context, done func() bool) {
	for ctx.Err() == nil && !done() {
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		m.mu.Lock()
	}
}

// left is what a Close leaves of a grant: the token, unless it may be on its way, and why it is not stored.
type left struct {
	token *oauth2.Token
	err   error
}

// endClose waits for what Close has begun, and gives up if ctx ends and no other Close waits. Its error names what is left.
func (m *Manager) endClose(ctx context.Context) error {
	all := make(map[string]left)
	m.mu.Lock()
	m.until(ctx, m.idle)
	m.closers--
	ended := cmp.Or(ctx.Err(), context.Canceled)
	lost := ended
	if m.work.Err() != nil {
		lost = errGivenUp
	}
	for a := range m.attempts {
		if u := a.unsaved; u.token != nil {
			all[a.grant] = left{u.token, cmp.Or(u.err, ended)}
		} else if a.sent {
			all[a.grant] = left{err: lost}
		}
	}
	for _, c := range m.connects {
		if c.pending {
			all[c.connection.Grant] = left{c.token, cmp.Or(c.failure, ctx.Err(), errGivenUp)}
		}
	}
	if ctx.Err() != nil && m.closers == 0 {
		m.giveUp()
	}
	m.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	return newCloseError(all)
}
