package grants

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	expiryMargin       = 10 * time.Second // a token counts as expired that much early, as in x/oauth2's Token.Valid
	maxEarly           = 5 * time.Minute  // and is refreshed in the background at most that much before
	minInterval        = time.Second      // between two refreshes of a token that lives for seconds
	invalidateInterval = time.Minute      // between two refreshes because of 401s

	failureMemory = time.Second
	maxMemory     = 5 * time.Minute // for one grant that fails alone
	lookAgain     = 2 * time.Second // how often the row is looked at while nothing may be sent
	idleTime      = time.Hour
	fetchedTime   = 10 * time.Minute // for which the newest token is known, though nobody uses it
	sweepInterval = time.Minute
	never         = time.Duration(1<<63 - 1)
)

// entry is what a Manager knows of one grant. Put and Delete replace it, and leave an attempt under way to the old one.
type entry struct {
	current atomic.Pointer[current] // what Token returns
	used    atomic.Int64            // the now of the last use, to the minute

	// Guarded by Manager.mu.
	attempt  *attempt
	asked    bool          // a caller has asked for it; otherwise its token goes with its attempt
	bad      string        // the access token that Invalidate named, until there is another one
	line     lineage       //
	unsaved  *attempt      // that brought line's newest token, until that is stored
	row      rowMemory     // of the row that was looked at last
	failures int           // in a row
	outages  int           // among them
	failure  error         // is returned until
	until    time.Duration //
	lookAt   time.Duration // but from then on the row is looked at before
}

// rowMemory is what a Manager knows of a row beside what that holds. With another version it is about nothing.
type rowMemory struct {
	version      int64
	sent         bool          // entry.failure is about a request with its refresh token
	verdict      *verdict      // that could not be recorded
	lostAt       time.Duration // when this Manager has marked it Unfinished itself; 0: it has not
	refusedSince time.Duration // and nobody believes it; 0: it is not refused
}

// at returns what is known of the row with a version; Manager.mu is held.
func (e *entry) at(version int64) *rowMemory {
	if e.row.version != version {
		e.row = rowMemory{version: version}
	}
	return &e.row
}

// current is a token that can be returned without a call of the Store, by the clock of Manager.now.
type current struct {
	token     *oauth2.Token
	expires   time.Duration
	guarded   time.Duration // until then Invalidate is ignored
	refreshAt atomic.Int64
}

// entry returns the entry of a grant, a new one if need be; m.mu is held.
func (m *Manager) entry(grant string) *entry {
	if found, ok := m.entries.Load(grant); ok {
		return found.(*entry)
	}
	e := new(entry)
	e.used.Store(int64(m.now()))
	m.entries.Store(grant, e)
	m.sweepLater()
	return e
}

// sweepLater lets the sweep come, if that is not on its way; m.mu is held.
func (m *Manager) sweepLater() {
	if !m.sweeping && !m.closed() {
		m.sweeping = true
		time.AfterFunc(sweepInterval, m.sweep)
	}
}

// sweep forgets what nobody has used for an hour, and sooner what never had a token.
func (m *Manager) sweep() {
	empty := true
	m.entries.Range(func(grant, found any) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		if e := found.(*entry); m.forgettable(e, m.now()) {
			m.entries.CompareAndDelete(grant, e)
		} else {
			empty = false
		}
		return true
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweeping = false
	if !empty {
		m.sweepLater()
	}
}

// forgettable reports whether e is of no more use; m.mu is held.
func (m *Manager) forgettable(e *entry, now time.Duration) bool {
	idle := now - time.Duration(e.used.Load())
	switch {
	case e.attempt != nil || e.unsaved != nil:
		return false
	case e.row.refusedSince != 0 && now-e.row.refusedSince < beliefTime+idleTime:
		return false
	case e.row.verdict != nil || e.line.fetched != 0 && e.asked:
		return idle >= idleTime+fetchedTime // known until it comes due, also if it is used once an hour
	case e.line.fetched != 0:
		return now-e.line.fetched >= fetchedTime
	case e.current.Load() != nil || e.bad != "":
		return idle >= idleTime
	case e.failure != nil && e.row.sent:
		return now >= e.until+maxMemory // or the next failure would count as the first
	}
	return now >= e.until
}

// drop forgets a token that nobody has asked for; Manager.mu is held. The entry goes with the next sweep.
func (e *entry) drop() {
	if !e.asked && e.unsaved == nil {
		e.current.Store(nil)
	}
}

// touch notes that e is used, and reports whether c can be returned. Once a minute it looks at the wall clock, too: the
// other one stands still while a virtual machine is suspended.
func (m *Manager) touch(e *entry, c *current, now time.Duration) bool {
	idle := now - time.Duration(e.used.Load())
	if now >= c.expires || idle >= idleTime {
		return false
	}
	if idle >= sweepInterval {
		if wall := c.token.Expiry.Round(0); !wall.IsZero() && time.Now().After(wall) {
			return false
		}
		e.used.Store(int64(now))
	}
	return true
}

// use makes token what Token returns; m.mu is held. One that was fetched just now is used for a second at least.
func (m *Manager) use(e *entry, token *oauth2.Token, fetched bool) {
	if c := e.current.Load(); c != nil && c.token.AccessToken == token.AccessToken && !fetched {
		return
	}
	now := m.now()
	c := &current{token: token, expires: never}
	c.refreshAt.Store(int64(never))
	if !token.Expiry.IsZero() {
		left := time.Until(token.Expiry)
		life := left - min(expiryMargin, left/2)
		if fetched {
			life = max(life, minInterval)
		}
		c.expires = now + min(life, never-now)
		early := min(left/10, maxEarly)
		early -= rand.N(max(early/2, 1)) // or a deployment would refresh all its grants in the same second
		if early > 0 && life-early >= minInterval {
			c.refreshAt.Store(int64(c.expires - early))
		}
	}
	if e.bad != "" {
		c.guarded = now + invalidateInterval
		e.bad = ""
	}
	e.current.Store(c)
	e.failure, e.failures, e.outages = nil, 0, 0
}

// remembered returns the failure that e's callers get without a look at the row, with what is left to wait; m.mu is held.
func (m *Manager) remembered(e *entry) error {
	now := m.now()
	if e.failure == nil || now >= e.until {
		return nil
	}
	if waitOf(e.failure) == 0 {
		return e.failure
	}
	return withWait(e.failure, e.until-now)
}

// waitOf returns what the error of a failed refresh has in RetryAfter.
func waitOf(err error) time.Duration {
	switch e := err.(type) {
	case *applebusiness.Error:
		return e.RetryAfter
	case interface{ Unwrap() []error }: // tokenFailure's, as in withWait
		return waitOf(e.Unwrap()[0])
	}
	return 0
}

// lastResort returns the current token in the last seconds of its life, or err, with which a refresh has failed.
func (e *entry) lastResort(err error) (*oauth2.Token, error) {
	c := e.current.Load()
	if c == nil || err == ErrClosed || err == ErrNoGrant || time.Until(c.token.Expiry) <= 0 {
		return nil, err
	}
	return copyToken(c.token), nil
}

// secrets returns the tokens that e knows. Manager.mu must not be held, nor while an error's text is made with them.
func (m *Manager) secrets(e *entry) []*oauth2.Token {
	m.mu.Lock()
	defer m.mu.Unlock()
	var tokens []*oauth2.Token
	if c := e.current.Load(); c != nil {
		tokens = append(tokens, c.token)
	}
	return append(tokens, e.line.newest, &oauth2.Token{AccessToken: e.bad})
}
