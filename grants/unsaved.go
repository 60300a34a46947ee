package grants

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/oauth2"
)

const (
	minSaveBackoff = 50 * time.Millisecond
	maxSaveBackoff = 5 * time.Second
)

// unsavedToken is a token that was fetched, and is not stored yet. Its fields are guarded by Manager.mu.
type unsavedToken struct {
	e       *entry
	grant   string
	holder  string
	version int64 // of the row that it replaces
	token   *oauth2.Token
	err     error // of the last try
	tries   int
	timer   *time.Timer
}

// save tries once to store u, and reports whether that is settled: it is stored, or the row has a newer token.
func (m *Manager) save(ctx context.Context, u *unsavedToken) bool {
	m.mu.Lock()
	version := u.version
	m.mu.Unlock()
	err := m.call(ctx, func(ctx context.Context) error {
		return m.store.Save(ctx, u.grant, u.holder, version, copyToken(u.token))
	})
	if err == nil {
		m.settleSave(u, true)
		return true
	}
	isConflict := errors.Is(err, ErrConflict) || errors.Is(err, ErrNoGrant)
	var record Record
	if isConflict {
		// Either an earlier try has stored the token although it failed, or somebody else was faster.
		loadErr := m.call(ctx, func(ctx context.Context) (err error) {
			record, err = m.store.Load(ctx, u.grant)
			return err
		})
		switch {
		case errors.Is(loadErr, ErrNoGrant):
			m.settleSave(u, false)
			return true
		case loadErr != nil:
			err, isConflict = loadErr, false
		case record.Token == nil:
			err, isConflict = errNoToken, false
		}
	}
	m.mu.Lock()
	isOlder := isConflict && m.isOlder(u.e, record.Token)
	if isOlder {
		u.version = record.Version // a failover to an older copy: replace that
	}
	u.err = err
	u.tries++
	m.mu.Unlock()
	if !isConflict || isOlder {
		return false
	}
	m.settleSave(u, isSame(record.Token, u.token))
	return true
}

// settleSave forgets u. If the row has another token, that of u is not handed out any more.
func (m *Manager) settleSave(u *unsavedToken, stored bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.unsaved, u)
	if u.e.unsaved == u {
		u.e.unsaved = nil
	}
	m.drop(u.grant, u.e)
	if h := u.e.held.Load(); !stored && h != nil && h.token.AccessToken == u.token.AccessToken {
		u.e.held.Store(nil)
	}
}

// saveLater tries again after a while, until u is settled or the Manager is closed. In between no goroutine waits.
func (m *Manager) saveLater(u *unsavedToken) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed.Load() {
		return
	}
	u.timer = time.AfterFunc(saveBackoff(u.tries), func() {
		m.mu.Lock()
		_, isUnsaved := m.unsaved[u]
		if !isUnsaved || m.closed.Load() {
			m.mu.Unlock()
			return
		}
		m.active++
		m.mu.Unlock()
		defer m.end()
		if !m.save(m.work, u) {
			m.saveLater(u)
		}
	})
}

func isSame(a, b *oauth2.Token) bool {
	return a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken
}

func saveBackoff(tries int) time.Duration {
	return jitter(min(maxSaveBackoff, minSaveBackoff<<min(tries, 10)))
}

// backoff returns the wait after so many failures in a row, doubling from a second to a minute.
func backoff(failures int) time.Duration { return min(maxBackoff, time.Second<<min(failures, 10)) }

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
