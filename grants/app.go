package grants

import (
	"context"
	"errors"
	"log/slog"
	"maps"
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
	minAPIProbe    = time.Minute // while the API refuses tokens that are seconds old
	maxAPIProbe    = time.Hour

	recentVerdicts = 20 // of which
	manyRefusals   = 3  // and at least half are nobody's revocation
	recentTime     = time.Hour
	beliefTime     = 24 * time.Hour             // after which a grant that is still refused is dead all the same
	evidenceTime   = leaseAgain + 3*time.Second // for which the first refusal of a process waits for the verdicts beside it

	tellAgain = time.Minute // until the Logger is told of the same trouble again

	apiRefusals  = 3 // of fresh tokens, of different grants
	apiRefusedIn = 10 * time.Minute
)

// app is what hits all grants, as this process has found it. It is guarded by Manager.mu.
type app struct {
	trouble  gate // the last failures were no single grant's
	refusals gate // many grants are refused
	saves    gate // what is fetched cannot be stored
	api      gate // the API refuses tokens that are seconds old

	failed []string // the grants of the last failures that were no single grant's, with no answer since

	recent []*verdict // each of another grant; the oldest first
	proven bool       // a refresh has succeeded
	held   signal     // something is held back, which those look at who wait in the queue

	apiRefused map[string]time.Duration // the grants whose fresh tokens the API has refused, and when
	apiProbe   string                   // the grant whose token was replaced last while api is shut
}

func newApp() app {
	return app{
		trouble: gate{least: minProbe, most: maxProbe,
			shutText: "the token requests of all grants are held back", openText: "token requests are no longer held back"},
		refusals: gate{least: minProbe, most: maxProbe,
			shutText: "many refresh tokens are refused, and none is taken for revoked: " +
				"the wrong environment or client_id, a restored database, or Apple",
			openText: "refused grants are believed one by one again"},
		saves: gate{least: minSaveProbe, most: maxSaveProbe,
			shutText: "a token cannot be stored, and no other is fetched meanwhile", openText: "tokens can be stored again"},
		api: gate{least: minAPIProbe, most: maxAPIProbe,
			shutText: "the API refuses tokens that are seconds old: its 401s refresh no tokens now", openText: "the API takes tokens again"},
		held:       make(signal),
		apiRefused: make(map[string]time.Duration),
	}
}

// signal is closed, and replaced by another one, to wake all who wait for it.
type signal chan struct{}

func (s *signal) wake() {
	close(*s)
	*s = make(signal)
}

// gate holds requests back for as long as something lasts, but for one probe at a time.
type gate struct {
	least, most        time.Duration // between two probes
	shutText, openText string        // for the Logger

	cause  error         // nil: open
	probes int           // that have failed
	next   time.Duration // when the next probe may be sent, by Manager.now
	probe  *attempt      // which is under way
	told   bool          // the Logger was told
	toldAt time.Duration // when; 0: never
}

// shut closes g, or lets it wait longer after a failed probe, and reports whether it was open. A failure of what was sent
// before it was closed changes no more than the cause's own Retry-After asks for; m.mu is held.
func (m *Manager) shut(g *gate, a *attempt, cause error, retryAfter time.Duration, attrs ...slog.Attr) bool {
	wasOpen, now := g.cause == nil, m.now()
	switch {
	case wasOpen:
		g.probes = 0
		m.app.held.wake()
	case g.probe == a:
		g.probes++
	default:
		g.next = max(g.next, now+retryAfter)
		return false
	}
	wait := max(retryAfter, jitter(doubled(g.least, g.most, g.probes)))
	g.cause, g.probe, g.next = cause, nil, now+wait
	if wasOpen {
		if g.told = g.toldAt == 0 || now-g.toldAt >= tellAgain; g.told { // a gate may flap
			g.toldAt = max(now, 1)
			m.tell(slog.LevelError, g.shutText, append(attrs, slog.String("next_try_in", wait.Round(time.Millisecond).String()))...)
		}
	}
	return wasOpen
}

// open opens g; m.mu is held.
func (m *Manager) open(g *gate) {
	if g.cause != nil {
		g.cause, g.probe = nil, nil
		if g.told {
			m.tell(slog.LevelInfo, g.openText)
		}
	}
}

// refusal returns why a may not send now, whatever its row says; m.mu is held. A short pause is waited for instead.
func (m *Manager) refusal(a *attempt) error {
	now := m.now()
	if wait := m.queue.pausedUntil - now; wait > shortPause {
		return waitError(applebusiness.ErrRateLimited, wait)
	}
	for _, g := range m.app.gates() {
		if g.cause != nil && (a == nil || g.probe != a) && (g.probe != nil || now < g.next) {
			return withWait(g.cause, max(g.next-now, minProbe))
		}
	}
	return nil
}

func (p *app) gates() []*gate { return []*gate{&p.refusals, &p.trouble, &p.saves} }

// noteAnswer notes that Apple has answered as if nothing were wrong with the app; m.mu is held.
func (m *Manager) noteAnswer() {
	m.app.failed = nil
	m.open(&m.app.trouble)
}

// noteFailure notes a failed request, whose a is nil for a code exchange. If it holds the app, the next probe is after wait.
func (m *Manager) noteFailure(a *attempt, grant string, k kind, e *applebusiness.Error) (held bool, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.app
	switch k {
	case alone, limited:
		return false, 0
	case refused: // a code, or one grant's refresh token: Apple has answered, and no other grant may be told that
		m.noteAnswer()
		return false, 0
	}
	p.failed = append(p.failed, grant)
	p.failed = slices.Delete(p.failed, 0, max(0, len(p.failed)-sharedFailures))
	several := len(p.failed) == sharedFailures && slices.ContainsFunc(p.failed, func(other string) bool { return other != grant })
	if k != ours && p.trouble.cause == nil && !several {
		return false, 0
	}
	cause := *e
	m.shut(&p.trouble, a, &cause, e.RetryAfter, applebusiness.LogAttr(&cause))
	return true, max(p.trouble.next-m.now(), 0)
}

// verdict is what Apple has said about the refresh token of a row.
type verdict struct {
	a          *attempt // that has sent it
	at         time.Duration
	err        *applebusiness.Error // it is refused, for good; nil: it is not
	version    int64                // of the row
	unfinished bool                 // as that was marked
	believed   bool                 // whatever the others are
	recorded   bool                 // the Store may have it
}

// noteVerdict adds v to the recent ones, in the place of another one of its grant; m.mu is held.
func (m *Manager) noteVerdict(v *verdict) {
	p := &m.app
	v.at = m.now()
	p.recent = slices.DeleteFunc(p.recent, func(old *verdict) bool { return old.a.grant == v.a.grant || v.at-old.at > recentTime })
	p.recent = append(p.recent, v)
	p.recent = slices.Delete(p.recent, 0, max(0, len(p.recent)-recentVerdicts))
	m.noteAnswer()
	m.changed.wake()
}

// many reports whether the recent refusals are nobody's revocation; m.mu is held.
func (p *app) many() bool {
	refusals := 0
	for _, v := range p.recent {
		if v.err != nil {
			refusals++
		}
	}
	return refusals >= manyRefusals && 2*refusals >= len(p.recent)
}

// noteRefusal notes that Apple has refused the record's refresh token, and waits for evidence.
func (m *Manager) noteRefusal(a *attempt, record Record, err *applebusiness.Error) *verdict {
	v := &verdict{a: a, err: err, version: record.Version, unfinished: record.Unfinished}
	m.mu.Lock()
	defer m.mu.Unlock()
	if since := a.e.at(record.Version).refusedSince; since != 0 && m.now()-since >= beliefTime {
		v.believed = true
		return v
	}
	m.noteVerdict(v)
	// The first refusal of a process waits a moment for the verdicts on what is under way beside it, also while Close waits:
	// a process that was deployed wrong is refused for each grant.
	a.judged = true
	ctx, cancel := context.WithTimeout(m.work, evidenceTime)
	defer cancel()
	m.until(ctx, func() bool {
		for other := range m.attempts {
			if !other.judged {
				return m.app.proven || m.app.many()
			}
		}
		return true
	})
	if !m.app.many() {
		m.open(&m.app.refusals)
	}
	return v
}

// doubted returns what callers get because v is one of many refusals, and holds the app; or nil: then it is recorded next,
// or a Mark has been tried already, which may have taken effect also if it failed. m.mu must not be held.
func (m *Manager) doubted(v *verdict, marked bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.app
	if v.believed || !p.many() {
		v.recorded = true
		return nil
	}
	if marked || v.recorded {
		m.takeBack(v)
	}
	if row := v.a.e.at(v.version); row.refusedSince == 0 {
		row.refusedSince = max(m.now(), 1)
	}
	if m.shut(&p.refusals, v.a, waitError(applebusiness.ErrManyRefusals, 0), 0, slog.Int("refused", len(p.recent))) {
		for _, v := range p.recent {
			if v.recorded {
				m.takeBack(v)
			}
		}
	}
	return withWait(p.refusals.cause, max(p.refusals.next-m.now(), minProbe))
}

// takeBack removes a verdict that may be recorded, if its token is still the grant's, in the background; m.mu is held.
func (m *Manager) takeBack(v *verdict) {
	v.recorded = false
	e := v.a.e
	e.failure = nil
	if e.row.version == v.version {
		e.row.verdict, e.row.refusedSince = nil, max(m.now(), 1)
	}
	m.spawn(func() {
		retry(m.work, func() bool { // also while Close waits: nobody else knows that the row is wrong
			err := m.call(m.work, func(ctx context.Context) error {
				return m.store.Mark(ctx, v.a.grant, v.a.holder, v.version, Mark{Unfinished: v.unfinished})
			})
			return err == nil || outdated(err)
		})
	})
}

// noteRefusedToken notes that the API has refused a token that had just replaced a refused one; m.mu is held.
func (m *Manager) noteRefusedToken(grant string) {
	p, now := &m.app, m.now()
	maps.DeleteFunc(p.apiRefused, func(_ string, at time.Duration) bool { return now-at > apiRefusedIn })
	p.apiRefused[grant] = now
	if p.api.cause == nil && len(p.apiRefused) >= apiRefusals {
		m.shut(&p.api, nil, errAPI, 0)
		p.apiProbe = ""
	}
}

// probesAPI reports whether a grant's refused token is to be replaced while the API seems to refuse every token: one is now and
// then, as a probe. If the token that the last probe brought was not refused too, the API takes tokens again, of which a
// program with a client of its own gives no other sign; m.mu is held.
func (m *Manager) probesAPI(grant string) bool {
	p := &m.app
	if m.now() < p.api.next {
		return false
	}
	if _, again := p.apiRefused[p.apiProbe]; p.apiProbe != "" && !again {
		m.openAPI()
		return true
	}
	m.shut(&p.api, nil, errAPI, 0)
	delete(p.apiRefused, grant)
	p.apiProbe = grant
	return true
}

// noteAPIWorks notes that the API has taken a token.
func (m *Manager) noteAPIWorks() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.openAPI()
}

func (m *Manager) openAPI() {
	clear(m.app.apiRefused)
	m.open(&m.app.api)
}

var errAPI = errors.New("the API refuses every token")
