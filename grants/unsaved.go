package grants

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/oauth2"
)

const (
	minSaveBackoff = 50 * time.Millisecond
	maxSaveBackoff = 5 * time.Second
	goneTime       = time.Minute // for which a grant has to be gone from the Store before its unsaved token is given up
	maxBackoff     = time.Minute
)

// unsaved is a token that an attempt brought, and that is not stored yet. It is guarded by Manager.mu.
type unsaved struct {
	token   *oauth2.Token // nil: none
	version int64         // of the row that it replaces
	since   time.Time     // when it was fetched
	tries   int
	err     error     // of the last try
	goneAt  time.Time // since when the Store has no such grant
}

// owe lets a bring the grant's newest token, which replaces that of the row with a version; m.mu is held.
func (m *Manager) owe(a *attempt, token *oauth2.Token, version int64) {
	a.unsaved = unsaved{token: token, version: version, since: time.Now()}
	a.e.unsaved = a
	m.attempts[a] = struct{}{}
}

// save tries once to store what a has brought, and reports whether that is settled: it is stored, or the row has a newer one.
func (m *Manager) save(ctx context.Context, a *attempt) bool {
	u, e := &a.unsaved, a.e
	m.mu.Lock()
	token, version := u.token, u.version
	m.mu.Unlock()
	if token == nil {
		return true // somebody else has stored it
	}
	err := m.call(ctx, func(ctx context.Context) error {
		return m.store.Save(ctx, a.grant, a.holder, version, copyToken(token))
	})
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		a.leaseEnds = time.Time{}
		m.settleSave(a, true)
		return true
	}
	var row Record
	if outdated(err) {
		// An earlier try has stored the token although it failed, or somebody else was faster.
		row, err = ask(ctx, m, func(ctx context.Context) (Record, error) { return m.store.Load(ctx, a.grant) })
		if err == nil && row.Token == nil {
			err = errNoToken
		}
	}
	gone := errors.Is(err, ErrNoGrant)
	cause := newStoreError("", err, m.secrets(e)...) // which callers of other grants get, too
	m.mu.Lock()
	defer m.mu.Unlock()
	u.tries++
	if !gone {
		u.goneAt = time.Time{}
	}
	switch {
	case gone:
		u.goneAt = cmp.Or(u.goneAt, time.Now())
		if found, _ := m.entries.Load(a.grant); found != any(e) || time.Since(u.goneAt) >= goneTime {
			m.settleSave(a, false)
			return true
		}
	case err == nil && e.line.older(row.Token): // a failover to an older copy: replace that
		u.version, err = row.Version, ErrConflict
	case err == nil:
		m.settleSave(a, same(row.Token, token))
		return true
	case u.tries == 1: // one row that cannot be written holds up nobody for long
		m.shut(&m.app.saves, a, cause, 0, slog.String("grant", a.grant), slog.String("error", cause.Error()))
	}
	u.err = err
	return false
}

// settleSave forgets what a has brought. If the row has another token, this one is not handed out any more. Unless a Save has
// just ended the lease, that is released: it may have been renewed since one that took effect; m.mu is held.
func (m *Manager) settleSave(a *attempt, stored bool) {
	e, u := a.e, a.unsaved
	if u.token == nil {
		return
	}
	a.unsaved.token = nil
	if ends := a.leaseEnds; !ends.IsZero() {
		m.spawn(func() { m.release(a, ends) })
	}
	delete(m.attempts, a)
	if e.unsaved == a {
		e.unsaved = nil
	}
	e.drop()
	if !stored {
		if c := e.current.Load(); c != nil && c.token.AccessToken == u.token.AccessToken {
			e.current.Store(nil)
		}
		return
	}
	m.open(&m.app.saves)
	if u.tries > 0 {
		m.spawn(func() { m.report(Refresh{Grant: a.grant, Start: u.since, Duration: time.Since(u.since)}) })
	}
}

// saveLater tries again after a wait, until that is settled or the Manager is closed. In between no goroutine waits.
func (m *Manager) saveLater(a *attempt, wait time.Duration) {
	time.AfterFunc(wait, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.closed() {
			return
		}
		m.spawn(func() {
			if wait := m.saveAgain(m.work, a); wait > 0 {
				m.saveLater(a, wait)
			}
		})
	})
}

// saveAgain renews the lease and tries once more. It returns the wait until the next try, or 0 if that is settled. Tries begin
// within maxSaveBackoff, also where the Store hangs: a sibling that has seen the lease run out waits for the grace alone.
func (m *Manager) saveAgain(ctx context.Context, a *attempt) time.Duration {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, maxSaveBackoff)
	defer cancel()
	m.renew(ctx, a)
	if m.save(ctx, a) {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(saveBackoff(a.unsaved.tries)-time.Since(start), 1)
}

// renew takes a's lease again, or says in the row that nothing may be sent, so that no sibling sends the spent refresh token.
func (m *Manager) renew(ctx context.Context, a *attempt) {
	m.mu.Lock()
	due := a.unsaved.token != nil && time.Until(a.leaseEnds) < m.leaseTime()*2/3
	version := a.unsaved.version
	m.mu.Unlock()
	if !due {
		return
	}
	ends := time.Now().Add(m.leaseTime())
	ctx, cancel := context.WithTimeout(ctx, maxSaveBackoff/2) // the rest is for Save
	defer cancel()
	_, err := ask(ctx, m, func(ctx context.Context) (Record, error) { return m.store.Lease(ctx, a.grant, a.holder, m.leaseTime()) })
	if errors.Is(err, ErrLeased) { // it ran out, and a sibling has the grant: that looks at the row once more before it sends
		err = m.call(ctx, func(ctx context.Context) error {
			return m.store.Mark(ctx, a.grant, a.holder, version, Mark{Unfinished: true, RetryAt: ends})
		})
	}
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if a.leaseEnds = ends; a.unsaved.token == nil { // a later attempt has stored it meanwhile
			m.spawn(func() { m.release(a, ends) })
		}
	}
}

// retry calls f until it reports that nothing is left to do, or ctx ends while it waits for the next try.
func retry(ctx context.Context, f func() bool) {
	for tries := 0; !f() && sleep(ctx, saveBackoff(tries)) == nil; tries++ {
	}
}

func saveBackoff(tries int) time.Duration {
	return jitter(doubled(minSaveBackoff, maxSaveBackoff, tries))
}

func backoff(failures int) time.Duration { return doubled(time.Second, maxBackoff, failures) }

// doubled returns least, doubled so many times, or most.
func doubled(least, most time.Duration, times int) time.Duration {
	return min(most, least<<min(times, 10))
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
