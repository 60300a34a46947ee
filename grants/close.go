package grants

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"golang.org/x/oauth2"
)

// Close ends the Manager. What waits to be sent is given up, with ErrClosed for its callers; what was sent is finished,
// and what could not be stored yet is stored, with as many tries as it takes. Close returns nil when that is done. If ctx
// ends before, it returns an error that names the grants whose newest token is not stored; once no other Close waits,
// nothing goes on in the background. Call Close again to try again, since after the process has ended those grants are
// lost. What was on its way from Apple when the last Close gave up is lost then, and named by every later Close.
//
// Give ctx more time than a token request can take, and never the context that the end of the process has ended, such as
// that of signal.NotifyContext: with it Close gives up at once. Close the Manager after the HTTP server, whose handlers use
// it, and before the Store or its pool.
//
// After Close every method returns [ErrClosed], and Token even where a token is valid. Close can be called any number of
// times.
func (m *Manager) Close(ctx context.Context) error {
	if m == nil || m.stop == nil {
		return nil
	}
	m.beginClose()
	m.waitUntilIdle(ctx)
	m.mu.Lock()
	unsaved := slices.Collect(maps.Keys(m.unsaved))
	m.mu.Unlock()
	_ = forEach(ctx, unsaved, func(ctx context.Context, u *unsavedToken) error {
		for wait := m.saveAgain(ctx, u); wait > 0; wait = m.saveAgain(ctx, u) {
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		}
		return nil
	})
	m.completeConnects(ctx)
	m.waitUntilIdle(ctx) // what that has begun
	return m.endClose(ctx)
}

// beginClose stops what has not been sent.
func (m *Manager) beginClose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closers++
	m.stop()
	if m.sweeper != nil {
		m.sweeper.Stop()
		m.sweeper = nil
	}
}

// spawn calls f in a goroutine that Close waits for; m.mu is held.
func (m *Manager) spawn(f func()) {
	m.active++
	go func() {
		defer func() { // a Logger may end its goroutine
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.active--; m.active == 0 && m.idle != nil {
				close(m.idle)
				m.idle = nil
			}
		}()
		f()
	}()
}

// waitUntilIdle waits until no goroutine is left, or ctx ends.
func (m *Manager) waitUntilIdle(ctx context.Context) {
	m.mu.Lock()
	if m.active > 0 && m.idle == nil {
		m.idle = make(chan struct{})
	}
	idle := m.idle
	m.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// left is what a Close leaves of a grant: the token, unless it may be on its way, and why it is not stored.
type left struct {
	token *oauth2.Token
	err   error
}

// endClose gives up if ctx has ended and no other Close waits. Its error names what is left.
func (m *Manager) endClose(ctx context.Context) error {
	all := m.allLeft(ctx)
	if len(all) == 0 {
		return nil
	}
	errs := make(map[string]*StoreError)
	for grant, l := range all {
		errs[grant] = newStoreError(grant, l.err, l.token)
	}
	return newCloseError(errs)
}

func (m *Manager) allLeft(ctx context.Context) map[string]left {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closers--
	ended := cmp.Or(ctx.Err(), context.Canceled)
	givesUp := ctx.Err() != nil && m.closers == 0
	all := make(map[string]left)
	for grant := range m.givenUp {
		all[grant] = left{err: errGivenUp}
	}
	for a := range m.attempts {
		if a.sent {
			all[a.grant] = left{err: ended}
			if givesUp {
				m.givenUp[a.grant] = true
			}
		}
	}
	if givesUp {
		m.giveUp()
	}
	for u := range m.unsaved {
		all[u.a.grant] = left{u.token, cmp.Or(u.err, ended)}
	}
	for _, c := range m.connects {
		if c.pending {
			all[c.connection.Grant] = left{c.token, cmp.Or(c.failure, ctx.Err(), errGivenUp)}
		}
	}
	return all
}
