package grants

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	sharedFailures = 3 // in a row, of two grants at least, hold the app
	minProbe       = time.Second
	maxProbe       = 30 * time.Second
	minSaveProbe   = 10 * time.Second // while Saves fail
	maxSaveProbe   = time.Minute

	recentOutcomes = 20 // of which
	manyRefusals   = 3  // and at least half are nobody's revocation
	recentTime     = time.Hour
	beliefTime     = 24 * time.Hour             // after which a grant that is still refused is dead all the same
	evidenceTime   = leaseAgain + 3*time.Second // for which the first refusal of a process waits for the outcomes beside it
)

// app is what hits all grants, as this process has found it. It is guarded by Manager.mu.
type app struct {
	trouble  gate // the last failures were no single grant's
	refusals gate // many grants are refused
	saves    gate // what is fetched cannot be stored
	api      gate // the API refuses tokens that are seconds old

	failures int    // that were no single grant's, in a row
	first    string // the grant of the first of them
	several  bool   // and they were of several grants

	recent  []*verdictNote // the last outcomes, each of another grant; the oldest first
	proven  bool           // a refresh has succeeded
	changed chan struct{}  // closed at the next outcome
	held    chan struct{}  // closed when something is held back, for those who wait in the queue

	apiRefused map[string]time.Duration // the grants whose fresh tokens the API has refused, and when
}

// gate holds requests back for as long as something lasts, but for one probe at a time. The zero gate is open.
type gate struct {
	cause error // nil: open
	wait  time.Duration
	next  time.Duration // when the next probe may be sent, by Manager.now
	probe *attempt      // which is under way
}

// refusal returns why a may not send now, or nil.
func (g *gate) refusal(a *attempt, now time.Duration) error {
	if g.cause == nil || a != nil && g.probe == a || g.probe == nil && now >= g.next {
		return nil
	}
	return withWait(g.cause, max(g.next-now, minProbe))
}

// shut closes the gate, or lets it wait longer after a failed probe. A failure of what was sent before it was closed
// changes no more than the cause's own Retry-After asks for. It reports whether the gate was open.
func (g *gate) shut(a *attempt, cause error, retryAfter time.Duration, now, least, most time.Duration) bool {
	wasOpen := g.cause == nil
	switch {
	case wasOpen:
		g.wait = least
	case g.probe == a:
		g.wait = min(2*g.wait, most)
	default:
		g.next = max(g.next, now+retryAfter)
		return false
	}
	g.cause, g.probe = cause, nil
	g.next = now + max(retryAfter, g.wait*3/4+rand.N(g.wait/4+1))
	return wasOpen
}

// open opens the gate, and reports whether it was closed.
func (g *gate) open() bool {
	was := g.cause != nil
	*g = gate{}
	return was
}

// refusal returns why a may not send now, whatever its row says; m.mu is held. A short pause is waited for instead.
func (m *Manager) refusal(a *attempt) error {
	now := m.now()
	if wait := m.queue.pausedUntil - now; wait > shortPause {
		return waitError(applebusiness.ErrRateLimited, wait)
	}
	for _, g := range m.app.gates() {
		if err := g.refusal(a, now); err != nil {
			return err
		}
	}
	return nil
}

func (p *app) gates() []*gate { return []*gate{&p.refusals, &p.trouble, &p.saves} }

// claim makes a the probe of the gates that are closed, or returns why it may not send.
func (m *Manager) claim(a *attempt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.refusal(a); err != nil {
		return err
	}
	for _, g := range m.app.gates() {
		if g.cause != nil {
			g.probe = a
		}
	}
	return nil
}

// unclaim ends a's probe, whose outcome nobody has noted; m.mu is held.
func (m *Manager) unclaim(a *attempt) {
	for _, g := range m.app.gates() {
		if g.probe == a {
			g.probe = nil
		}
	}
}

// wakeJudges lets those look again who wait for other outcomes; m.mu is held.
func (m *Manager) wakeJudges() {
	close(m.app.changed)
	m.app.changed = make(chan struct{})
}

// wakeQueue lets those look at their rows who wait in the queue; m.mu is held.
func (m *Manager) wakeQueue() {
	close(m.app.held)
	m.app.held = make(chan struct{})
}

// noteSuccess opens what held the app; m.mu is held. a is nil for a code exchange, which says nothing about refresh tokens.
func (m *Manager) noteSuccess(a *attempt) {
	m.noteAnswer()
	if a != nil {
		m.app.proven = true
		m.noteOutcome(&verdictNote{a: a, grant: a.grant})
		m.believeAgain()
	}
	m.wakeJudges()
}

// believeAgain opens the gate of many refusals; m.mu is held.
func (m *Manager) believeAgain() {
	if m.app.refusals.open() {
		m.tell(slog.LevelInfo, "refused grants are believed one by one again")
	}
}

// noteAnswer notes that Apple has answered as if nothing were wrong with the app; m.mu is held.
func (m *Manager) noteAnswer() {
	m.app.failures = 0
	if m.app.trouble.open() {
		m.tell(slog.LevelInfo, "token requests are no longer held back")
	}
}

// noteFailure notes a failed token request of the grant, and returns its error as others are to have it: with the time to
// the next probe, if the app is held now. a is nil for a code exchange.
func (m *Manager) noteFailure(a *attempt, grant string, k kind, e *applebusiness.Error) (held bool, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, now := &m.app, m.now()
	switch k {
	case alone, limited:
		return false, 0
	case refused: // a code, or one grant's refresh token: Apple has answered, and no other grant may be told that
		m.noteAnswer()
		return false, 0
	}
	if p.failures == 0 {
		p.first, p.several = grant, false
	}
	p.failures++
	p.several = p.several || grant != p.first
	if k != ours && p.trouble.cause == nil && (p.failures < sharedFailures || !p.several) {
		return false, 0
	}
	cause := *e
	if p.trouble.shut(a, &cause, e.RetryAfter, now, minProbe, maxProbe) {
		m.tell(slog.LevelError, "the token requests of all grants are held back", applebusiness.LogAttr(&cause))
		m.wakeQueue()
	}
	return true, max(p.trouble.next-now, 0)
}

// verdictNote is one of the last outcomes: a refusal, or a success.
type verdictNote struct {
	a          *attempt
	grant      string
	at         time.Duration
	refused    bool
	version    int64 // of the row that was refused
	unfinished bool  // as it was marked
	believed   bool  // whatever the others are
	recorded   bool  // the verdict may be in the Store
}

// noteOutcome adds n to the last outcomes, in the place of another one of its grant; m.mu is held.
func (m *Manager) noteOutcome(n *verdictNote) {
	p := &m.app
	n.at = m.now()
	p.recent = slices.DeleteFunc(p.recent, func(old *verdictNote) bool { return old.grant == n.grant || n.at-old.at > recentTime })
	p.recent = append(p.recent, n)
	p.recent = slices.Delete(p.recent, 0, max(0, len(p.recent)-recentOutcomes))
}

// many reports whether the last outcomes are nobody's revocation; m.mu is held.
func (p *app) many() bool {
	refusals := 0
	for _, n := range p.recent {
		if n.refused {
			refusals++
		}
	}
	return refusals >= manyRefusals && 2*refusals >= len(p.recent)
}

// noteRefusal notes that Apple has refused a's refresh token.
func (m *Manager) noteRefusal(a *attempt, record Record) *verdictNote {
	n := &verdictNote{a: a, grant: a.grant, refused: true, version: record.Version, unfinished: record.Unfinished}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := a.e
	if e.refusedVersion == record.Version && m.now()-e.refusedSince >= beliefTime {
		n.believed = true
		return n
	}
	m.noteOutcome(n)
	m.noteAnswer()
	m.wakeJudges()
	m.awaitEvidence(a)
	if !m.app.many() {
		m.believeAgain()
	}
	return n
}

// doubted returns what callers get because n is one of many refusals, or nil: then it is recorded next, or a Mark has been
// tried already, which may have taken effect also if it failed. m.mu must not be held.
func (m *Manager) doubted(n *verdictNote, marked bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.believed || !m.app.many() {
		n.recorded = true
		return nil
	}
	if marked || n.recorded {
		m.takeBack(n)
	}
	return m.doubt(n)
}

// doubt holds the app because of many refusals, and returns the error; m.mu is held.
func (m *Manager) doubt(n *verdictNote) error {
	p, now := &m.app, m.now()
	if e := n.a.e; e.refusedVersion != n.version {
		e.refusedVersion, e.refusedSince = n.version, now
	}
	if p.refusals.shut(n.a, waitError(applebusiness.ErrManyRefusals, 0), 0, now, minProbe, maxProbe) {
		m.tell(slog.LevelError, "many refresh tokens are refused, and none is taken for revoked: the wrong environment or client_id, a restored database, or Apple",
			slog.Int("refused", len(p.recent)))
		for _, n := range p.recent {
			if n.recorded {
				m.takeBack(n)
			}
		}
		m.wakeQueue()
	}
	return withWait(p.refusals.cause, max(p.refusals.next-now, minProbe))
}

// takeBack removes a verdict that may be recorded, if its token is still the grant's, in the background; m.mu is held.
func (m *Manager) takeBack(n *verdictNote) {
	n.recorded = false
	e := n.a.e
	if e.verdict != nil && e.verdict.note == n {
		e.verdict = nil
	}
	e.refusedVersion, e.refusedSince = n.version, m.now()
	e.failure = nil
	m.spawn(func() {
		retry(m.work, func() bool { // also while Close waits: nobody else knows that the row is wrong
			err := m.call(m.work, func(ctx context.Context) error {
				return m.store.Mark(ctx, n.grant, n.a.holder, n.version, Mark{Unfinished: n.unfinished})
			})
			return err == nil || errors.Is(err, ErrConflict) || errors.Is(err, ErrNoGrant)
		})
	})
}

// awaitEvidence lets the first refusal of a process wait a moment for the outcomes of what is under way beside it, since a
// process that was deployed wrong is refused for each grant. It gives up m.mu, which is held, while it waits.
func (m *Manager) awaitEvidence(a *attempt) {
	a.judged = true
	timer := time.NewTimer(evidenceTime)
	defer timer.Stop()
	for !m.app.proven && !m.app.many() && m.anyUnjudged() {
		changed := m.app.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			m.mu.Lock()
			return
		case <-m.work.Done(): // not sooner: what was sent brings evidence also while Close waits
			m.mu.Lock()
			return
		}
		m.mu.Lock()
	}
}

// anyUnjudged reports whether an attempt is under way whose outcome nobody knows; m.mu is held.
func (m *Manager) anyUnjudged() bool {
	for a := range m.attempts {
		if !a.settled && !a.judged {
			return true
		}
	}
	return false
}

const (
	minAPIProbe  = time.Minute // while the API refuses tokens that are seconds old
	maxAPIProbe  = time.Hour
	apiRefusals  = 3 // of fresh tokens, of different grants
	apiRefusedIn = 10 * time.Minute
)

// noteRefusedToken notes that the API has refused a token which had just replaced a refused one: what is wrong is not the
// token; m.mu is held.
func (m *Manager) noteRefusedToken(grant string) {
	p, now := &m.app, m.now()
	for old, at := range p.apiRefused {
		if now-at > apiRefusedIn {
			delete(p.apiRefused, old)
		}
	}
	if p.apiRefused == nil {
		p.apiRefused = make(map[string]time.Duration)
	}
	p.apiRefused[grant] = now
	if p.api.cause == nil && len(p.apiRefused) < apiRefusals || p.api.cause != nil && now < p.api.next {
		return
	}
	if p.api.shut(nil, errAPI, 0, now, minAPIProbe, maxAPIProbe) {
		m.tell(slog.LevelError, "the API refuses tokens that are seconds old: its 401s refresh no tokens now")
	}
	m.apiTroubled.Store(true)
}

// noteAPIWorks notes that the API has taken a token.
func (m *Manager) noteAPIWorks() {
	if !m.apiTroubled.Load() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.apiTroubled.Store(false)
	m.app.apiRefused = nil
	if m.app.api.open() {
		m.tell(slog.LevelInfo, "the API takes tokens again")
	}
}

var errAPI = errors.New("the API refuses every token")
