package grants

import (
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

// unsavedToken is a token that was fetched, and is not stored yet. Its fields are guarded by Manager.mu.
type unsavedToken struct {
	a         *attempt // that fetched it, whose lease it has
	version   int64    // of the row that it replaces
	token     *oauth2.Token
	err       error // of the last try
	tries     int
	leaseEnds time.Time // unless it is renewed
	goneAt    time.Time // since when the Store has no such grant
	since     time.Time // when it was fetched
}

// save tries once to store u, and reports whether that is settled: it is stored, or the row has a newer token.
func (m *Manager) save(ctx context.Context, u *unsavedToken) bool {
	grant, e := u.a.grant, u.a.e
	m.mu.Lock()
	version := u.version
	m.mu.Unlock()
	err := m.call(ctx, func(ctx context.Context) error {
		return m.store.Save(ctx, grant, u.a.holder, version, copyToken(u.token))
	})
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.settleSave(u, true)
		return true
	}
	var row Record
	if outdated(err) {
		// An earlier try has stored the token although it failed, or somebody else was faster.
		row, err = ask(ctx, m, func(ctx context.Context) (Record, error) { return m.store.Load(ctx, grant) })
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
		if u.goneAt.IsZero() {
			u.goneAt = time.Now()
		}
		if found, _ := m.entries.Load(grant); found != any(e) || time.Since(u.goneAt) >= goneTime {
			m.settleSave(u, false)
			return true
		}
	case err == nil && e.line.older(m, row.Token): // a failover to an older copy: replace that
		u.version, err = row.Version, ErrConflict
	case err == nil:
		m.settleSave(u, same(row.Token, u.token))
		return true
	case u.tries == 1: // one row that cannot be written holds up nobody for long
		m.shut(&m.app.saves, u.a, cause, 0, slog.String("grant", grant), slog.String("error", cause.Error()))
	}
	u.err = err
	return false
}

// settleSave forgets u. If the row has another token, that of u is not handed out any more; m.mu is held.
func (m *Manager) settleSave(u *unsavedToken, stored bool) {
	e := u.a.e
	_, unsaved := m.unsaved[u]
	delete(m.unsaved, u)
	if e.unsaved == u {
		e.unsaved = nil
	}
	e.drop()
	if !stored {
		if c := e.current.Load(); c != nil && c.token.AccessToken == u.token.AccessToken {
			e.current.Store(nil)
		}
		ends := u.leaseEnds // no Save has ended the lease
		m.spawn(func() { m.release(u.a, ends) })
		return
	}
	m.open(&m.app.saves)
	if u.tries > 0 && unsaved {
		m.spawn(func() { m.report(Refresh{Grant: u.a.grant, Start: u.since, Duration: time.Since(u.since)}) })
	}
}

// saveLater tries again after a wait, until u is settled or the Manager is closed. In between no goroutine waits.
func (m *Manager) saveLater(u *unsavedToken, wait time.Duration) {
	time.AfterFunc(wait, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, unsaved := m.unsaved[u]; !unsaved || m.closed() {
			return
		}
		m.spawn(func() {
			if wait := m.saveAgain(m.work, u); wait > 0 {
				m.saveLater(u, wait)
			}
		})
	})
}

// saveAgain renews the lease and tries once more to store u. It returns the wait until the next try, or 0 if u is settled.
// Also where the Store hangs the next try begins within maxSaveBackoff of this one: a sibling that has seen the lease run
// out waits for no more than the grace.
func (m *Manager) saveAgain(ctx context.Context, u *unsavedToken) time.Duration {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, maxSaveBackoff)
	defer cancel()
	m.renew(ctx, u)
	if m.save(ctx, u) {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(saveBackoff(u.tries)-time.Since(start), 1)
}

// renew takes u's lease again, or says in the row that nothing may be sent, so that no sibling sends the refresh token that
// u's replaces.
func (m *Manager) renew(ctx context.Context, u *unsavedToken) {
	m.mu.Lock()
	due, version := time.Until(u.leaseEnds) < m.leaseTime()*2/3, u.version
	m.mu.Unlock()
	if !due {
		return
	}
	ends := time.Now().Add(m.leaseTime())
	ctx, cancel := context.WithTimeout(ctx, maxSaveBackoff/2) // the rest is for Save
	defer cancel()
	_, err := ask(ctx, m, func(ctx context.Context) (Record, error) {
		return m.store.Lease(ctx, u.a.grant, u.a.holder, m.leaseTime())
	})
	if errors.Is(err, ErrLeased) { // it ran out, and a sibling has the grant: that looks at the row once more before it sends
		err = m.call(ctx, func(ctx context.Context) error {
			return m.store.Mark(ctx, u.a.grant, u.a.holder, version, Mark{Unfinished: true, RetryAt: ends})
		})
	}
	if err == nil {
		m.mu.Lock()
		u.leaseEnds = ends
		m.mu.Unlock()
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
