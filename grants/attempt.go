package grants

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"golang.org/x/oauth2"
)

const (
	minPoll    = 50 * time.Millisecond // while a sibling refreshes
	maxPoll    = time.Second
	leaseAgain = 2 * time.Second  // retry Lease this often: Load does not show whether the sibling still has it
	saveTime   = 15 * time.Second // what a lease leaves after the request, for Save
	unsure     = 5 * time.Second  // for which Release is tried after a Lease that has failed, and may have taken effect
	grace      = maxSaveBackoff + time.Second
	maxRounds  = 8 // in which the row turned out to be another than it was a moment ago
)

// attempt is one try to have a good token of a grant, in a goroutine of its own. All who want the grant share it.
type attempt struct {
	m      *Manager
	grant  string
	e      *entry
	ctx    context.Context
	cancel context.CancelFunc
	holder string
	want   want

	finished chan struct{} // closed when the token is stored, too, or the lease is ended

	// Guarded by Manager.mu.
	outcome *outcome      // for callers of Token
	due     int           // calls of RefreshDue that wait until a is finished
	sent    bool          // a request whose response must not be lost
	judged  bool          // its outcome is known
	come    chan struct{} // closed when it is a's turn
	unsaved unsaved       // what it has brought

	// The goroutine's own, until a is finished.
	granted     bool // by Limit, and not used yet
	event       Refresh
	held        bool // the error is a pause's, or the held app's: RefreshDue waits for its end
	known       bool // the error is what others were told
	rounds      int
	leaseEnds   time.Time // zero: a has no lease; guarded by Manager.mu once there is an unsaved token
	leasedSince time.Time // a sibling has the lease
	leaseAt     time.Time // when to try for it again
	polls       int
	graced      int64 // the version whose successor had time to be stored
	sentAt      time.Duration
	remember    time.Duration // how long a failure is remembered that is not a's alone; 0: by the number of failures
	seen        []*oauth2.Token
}

// outcome is what the callers get who wait for an attempt together.
type outcome struct {
	callers int // who wait, guarded by Manager.mu

	done  chan struct{} // closed when there is a token or an error
	token *oauth2.Token
	err   error
}

// Outcomes that no caller sees.
var (
	errSkipped   = errors.New("nobody waits, and RefreshDue has ended or a sibling refreshes or has refreshed the grant")
	errLookAgain = errors.New("look at the row again")
)

// begin starts an attempt; m.mu is held.
func (m *Manager) begin(grant string, e *entry, want want) {
	a := &attempt{
		m: m, grant: grant, e: e, holder: rand.Text(), want: want,
		outcome: &outcome{done: make(chan struct{})}, finished: make(chan struct{}),
		event: Refresh{Grant: grant, Start: time.Now()},
	}
	a.ctx, a.cancel = context.WithCancel(m.queued)
	if c := e.current.Load(); c != nil && !want.due {
		a.want.replaces = c.token.AccessToken
	}
	e.attempt = a
	m.attempts[a] = struct{}{}
	m.spawn(a.run)
}

// run finds a token and hands it out. What follows, to store it or to end the lease, keeps nobody waiting.
func (a *attempt) run() {
	m := a.m
	token, err := a.refresh()
	unsaved := a.settle(token, err)
	a.cancel()
	switch {
	case unsaved:
		if a.event.Unsaved = !m.save(m.work, a); a.event.Unsaved {
			m.saveLater(a, minSaveBackoff)
		}
		m.mu.Lock()
		m.giveBack(a) // which was a probe of Save, too
		m.mu.Unlock()
	case !a.leaseEnds.IsZero():
		m.release(a, a.leaseEnds)
	}
	close(a.finished)
	if err != errSkipped {
		m.report(a.event)
	}
}

// release ends a's lease. What fails is tried again until the lease has run out, so that it does not block the grant.
func (m *Manager) release(a *attempt, ends time.Time) {
	retry(m.queued, func() bool {
		err := m.call(m.work, func(ctx context.Context) error { return m.store.Release(ctx, a.grant, a.holder) })
		return err == nil || errors.Is(err, ErrNoGrant) || time.Now().After(ends)
	})
}

// report calls OnRefresh.
func (m *Manager) report(event Refresh) {
	if m.options.OnRefresh != nil {
		_ = m.through(m.work, "OnRefresh", func(context.Context) error { m.options.OnRefresh(event); return nil })
	}
}

// refresh returns a good token of the grant, or why there is none.
func (a *attempt) refresh() (*oauth2.Token, error) {
	record, err := a.load()
	for err == nil {
		switch d := a.decide(record); d.do {
		case serve:
			return record.Token, nil
		case skip:
			return nil, errSkipped
		case refuse:
			return nil, d.err
		case repair:
			record, err = a.repair(record)
		case condemn:
			record, err = a.condemn(record, d.verdict)
		case send:
			if !a.ready() {
				record, err = a.acquire()
				continue
			}
			var token *oauth2.Token
			if token, record, err = a.send(record); token != nil {
				return token, nil
			}
		}
	}
	return nil, err
}

// decide asks decide, and notes what the row holds.
func (a *attempt) decide(record Record) decision {
	m, e := a.m, a.e
	m.mu.Lock()
	defer m.mu.Unlock()
	row := e.at(record.Version)
	refusal := m.unusableURL
	if refusal == nil && row.sent {
		refusal = m.remembered(e)
	}
	held := refusal == nil
	if held {
		refusal = m.refusal(a)
	}
	a.want.callers = a.outcome.callers > 0
	d := decide(record, memory{
		now: time.Now(), older: e.line.see(record.Token), bad: e.bad, verdict: row.verdict, refusal: refusal,
	}, a.want)
	if d.good {
		m.use(e, record.Token, false)
		if d.do != serve {
			a.give(record.Token, nil) // which is good enough for callers, and not for RefreshDue
		}
	}
	if d.do == skip {
		a.detach()
	}
	a.known, a.held = d.known, d.known && held
	return d
}

// give ends the wait of all callers; Manager.mu is held.
func (a *attempt) give(token *oauth2.Token, err error) {
	a.outcome.token, a.outcome.err = token, err
	close(a.outcome.done)
	a.outcome = &outcome{done: make(chan struct{})}
}

// ready reports whether a may send a request, and enough of its lease is left to store what comes.
func (a *attempt) ready() bool { return a.granted && time.Until(a.leaseEnds) >= a.m.timeout }

// acquire waits until a request may be sent, and takes the lease: the first write comes before the request, since where it
// fails, Save would fail too, with the only refresh token. It returns the row as it is then, or as it is meanwhile.
func (a *attempt) acquire() (Record, error) {
	if time.Now().Before(a.leaseAt) {
		return a.waitForSibling()
	}
	m := a.m
	var record Record
	err := m.takeTurn(a)
	if err == nil {
		record, err = a.lease()
	}
	if err == nil && (!record.Unfinished || a.graced == record.Version || a.knowsLost(record.Version)) {
		return record, nil
	}
	m.mu.Lock()
	m.giveBack(a)
	m.mu.Unlock()
	switch err {
	case nil: // whoever has fetched the successor and could not store it does so now
		a.graced = record.Version
		return a.loadAfter(grace)
	case errLookAgain:
		return a.load()
	case ErrLeased:
		now := time.Now()
		a.leaseAt = now.Add(leaseAgain)
		if a.leasedSince.IsZero() {
			a.leasedSince = now
		} else if now.Sub(a.leasedSince) > 2*m.leaseTime() {
			return Record{}, a.storeError(errForever)
		}
		return a.waitForSibling()
	}
	return Record{}, err
}

// knowsLost reports whether nobody can have the successor of this version: this Manager has lost the response itself, so
// shortly ago that no other lease can have run out since.
func (a *attempt) knowsLost(version int64) bool {
	m := a.m
	m.mu.Lock()
	defer m.mu.Unlock()
	lostAt := a.e.at(version).lostAt
	return lostAt != 0 && m.now()-lostAt < saveTime
}

// waitForSibling polls the row while a sibling has the lease, unless nobody waits for a.
func (a *attempt) waitForSibling() (Record, error) {
	a.m.mu.Lock()
	idle := a.outcome.callers == 0
	if idle {
		a.detach()
	}
	a.m.mu.Unlock()
	if idle {
		return Record{}, errSkipped
	}
	defer func() { a.polls++ }()
	return a.loadAfter(jitter(doubled(minPoll, maxPoll, a.polls)))
}

func (a *attempt) loadAfter(wait time.Duration) (Record, error) {
	defer a.addWaited(time.Now())
	if sleep(a.ctx, wait) != nil {
		return Record{}, a.ended()
	}
	return a.load()
}

func (a *attempt) addWaited(since time.Time) { a.event.Waited += time.Since(since) }

// again loads the row. It counts the rounds, so that a Store which breaks its contract does not keep anybody in a loop.
func (a *attempt) again(err error) (Record, error) {
	a.m.mu.Lock()
	a.sent = false // there is nothing to lose any more
	a.m.mu.Unlock()
	if a.rounds++; a.rounds > maxRounds {
		return Record{}, a.storeError(err)
	}
	return a.load()
}

// repair stores the newest token over a row that holds an earlier one, whose refresh token is spent.
func (a *attempt) repair(record Record) (Record, error) {
	m, e := a.m, a.e
	m.mu.Lock()
	newest, unsaved := e.line.newest, e.unsaved
	m.mu.Unlock()
	holder := a.holder
	if unsaved != nil {
		holder = unsaved.holder // whose lease ends with its token's Save
	}
	err := m.call(a.ctx, func(ctx context.Context) error {
		return m.store.Save(ctx, a.grant, holder, record.Version, copyToken(newest))
	})
	switch {
	case outdated(err):
		return a.again(err)
	case err != nil:
		return Record{}, a.callError(err)
	}
	if holder == a.holder {
		a.leaseEnds = time.Time{}
	}
	m.mu.Lock()
	if e.line.newest == newest {
		e.line.yielded = fingerprintsOf(record.Token)
	}
	if unsaved != nil && unsaved.unsaved.token == newest {
		unsaved.leaseEnds = time.Time{}
		m.settleSave(unsaved, true)
	}
	m.mu.Unlock()
	return a.again(errUnsettled)
}

// settle gives the outcome to all who wait, and remembers a failure. It reports whether a token has to be stored.
func (a *attempt) settle(token *oauth2.Token, err error) (unsaved bool) {
	m, e := a.m, a.e
	m.mu.Lock()
	defer m.mu.Unlock()
	a.judged, a.sent = true, a.sent && err == ErrClosed // its response is lost, and every Close says so
	a.event.Duration = time.Since(a.event.Start)
	a.event.Err = err
	a.detach()
	if unsaved = a.unsaved.token != nil; !unsaved {
		m.giveBack(a)
		e.drop()
		if !a.sent {
			delete(m.attempts, a)
		}
	}
	e.lookAt = m.now() + lookAgain
	var again time.Duration // until what comes due is refreshed again
	switch {
	case err == nil, err == ErrClosed:
	case err == errSkipped, a.known:
		again = jitter(lookAgain)
	case err == ErrNoGrant:
		if e.unsaved == nil && e.line.fetched == 0 {
			m.entries.CompareAndDelete(a.grant, e)
		}
	default:
		again = a.rememberFailure(err)
	}
	if c := e.current.Load(); c != nil && again > 0 && c.token.AccessToken == a.want.replaces {
		c.refreshAt.Store(int64(m.now() + again))
	}
	m.changed.wake()
	a.give(token, err)
	return unsaved
}

// rememberFailure keeps callers from asking again at once, the longer the more often the grant has failed alone. It returns
// how long what comes due is left alone; m.mu is held.
func (a *attempt) rememberFailure(err error) time.Duration {
	e, sent, wait, remember := a.e, a.event.Sent, waitOf(err), failureMemory
	e.failure, e.row.sent = err, sent
	if _, ok := err.(*StoreError); sent && !ok {
		remember = doubled(failureMemory, maxMemory, e.failures)
	}
	remember = cmp.Or(a.remember, max(wait, remember))
	e.until = a.m.now() + remember
	if wait > 0 && !sent { // it is the row's, and no failure of its own
		return min(wait, maxBackoff)
	}
	again := max(remember, jitter(2*backoff(e.failures)))
	e.failures++
	return again
}

// detach keeps callers from joining a; m.mu is held.
func (a *attempt) detach() {
	if a.e.attempt == a {
		a.e.attempt = nil
	}
}

func (a *attempt) load() (Record, error) {
	record, err := ask(a.ctx, a.m, func(ctx context.Context) (Record, error) { return a.m.store.Load(ctx, a.grant) })
	record, err = a.check(record, err)
	if a.want.version == 0 {
		a.want.version = record.Version
	}
	return record, err
}

// lease returns the Store's record, ErrLeased or what check makes of an error. It goes on when a ends, so that no lease
// begins after the Release that would have ended it.
func (a *attempt) lease() (Record, error) {
	m := a.m
	start := time.Now()
	record, err := ask(m.work, m, func(ctx context.Context) (Record, error) { return m.store.Lease(ctx, a.grant, a.holder, m.leaseTime()) })
	a.leaseEnds = time.Time{}
	switch {
	case errors.Is(err, ErrLeased):
		return Record{}, ErrLeased
	case err == nil:
		a.leaseEnds = start.Add(m.leaseTime())
	case !errors.Is(err, ErrNoGrant):
		a.leaseEnds = start.Add(unsure)
	}
	return a.check(record, err)
}

// leaseTime is long enough for a request and for the Save that follows.
func (m *Manager) leaseTime() time.Duration { return m.timeout + saveTime }

// check returns a record of the Store's that can be used.
func (a *attempt) check(record Record, err error) (Record, error) {
	if err == nil && record.Token == nil {
		err = errNoToken
	}
	if err != nil {
		return Record{}, a.callError(err)
	}
	record.Token = copyToken(record.Token) // whoever else has a pointer to it
	a.seen = append(a.seen, record.Token)
	return record, nil
}

// callError is what callers get for an error of the Store.
func (a *attempt) callError(err error) error {
	switch {
	case a.ctx.Err() != nil:
		return a.ended()
	case errors.Is(err, ErrNoGrant):
		return ErrNoGrant
	}
	return a.storeError(err)
}

func (a *attempt) storeError(err error) *StoreError {
	return newStoreError(a.grant, err, append(a.m.secrets(a.e), a.seen...)...)
}

// ended says why a's context has ended.
func (a *attempt) ended() error {
	if a.m.closed() {
		return ErrClosed
	}
	return errSkipped
}
