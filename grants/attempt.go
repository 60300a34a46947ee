package grants

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	minPoll    = 50 * time.Millisecond // while a sibling refreshes
	maxPoll    = time.Second
	leaseAgain = 2 * time.Second // it may have died or given up its lease, which a Load does not show
	maxRounds  = 8               // in which the row turned out to be another than it was a moment ago
)

// attempt is one try to have a good token of a grant, in a goroutine of its own. All who want the grant share it.
type attempt struct {
	m      *Manager
	grant  string
	e      *entry
	due    bool          // RefreshDue's: the token must live longer than
	within time.Duration // from now
	ctx    context.Context
	cancel context.CancelFunc
	holder string

	// Guarded by Manager.mu.
	outcome  *outcome // for callers
	final    *outcome // for watchers: when all is done
	callers  int      // of Token
	watchers int      // of RefreshDue
	sent     bool     // a request whose response must not be lost
	settled  bool
	arrival  int64 // in the queue
	myTurn   chan struct{}

	// The goroutine's own.
	replaces     string // the access token that was held at the start
	firstVersion int64
	rounds       int
	leased       bool
	unsaved      *unsavedToken
	remember     time.Duration // how long a failure is remembered
	seen         []*oauth2.Token
	event        Refresh
}

// outcome is what those who wait get. Its fields do not change after done is closed.
type outcome struct {
	done  chan struct{}
	token *oauth2.Token
	err   error
}

// step is what to do after a look at a row.
type step int

const (
	stepSend  step = iota // its refresh token has to be sent
	stepDone              // there is a token or an error
	stepAgain             // the row is another one by now: load it
)

// Outcomes that no caller sees.
var (
	errSkipped   = errors.New("nobody waits, and a sibling refreshes or has refreshed the grant")
	errAbandoned = errors.New("RefreshDue was ended")
)

// begin starts an attempt; m.mu is held.
func (m *Manager) begin(a *attempt) *attempt {
	a.m = m
	a.holder = rand.Text()
	a.ctx, a.cancel = context.WithCancel(m.queued)
	a.outcome = &outcome{done: make(chan struct{})}
	a.final = &outcome{done: make(chan struct{})}
	if h := a.e.held.Load(); h != nil && !a.due {
		a.replaces = h.token.AccessToken
	}
	a.event = Refresh{Grant: a.grant, Start: time.Now()}
	a.remember = failureMemory
	a.e.attempt = a
	m.attempts[a] = struct{}{}
	m.active++
	go a.run()
	return a
}

// end is called at the end of each goroutine.
func (m *Manager) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active--
	if m.active == 0 && m.idle != nil {
		close(m.idle)
		m.idle = nil
	}
}

// run finds a token and hands it out. What follows, to store it or to end the lease, keeps nobody waiting.
func (a *attempt) run() {
	m := a.m
	defer m.end()
	defer func() {
		a.cancel()
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.attempts, a)
		m.passLocked(a)
		a.final.err = a.event.Err
		close(a.final.done)
	}()
	err := a.handOut()
	switch {
	case a.unsaved != nil:
		if a.event.Unsaved = !m.save(m.work, a.unsaved); a.event.Unsaved {
			m.saveLater(a.unsaved)
		}
	case a.leased:
		_ = m.call(m.work, func(ctx context.Context) error { return m.store.Release(ctx, a.grant, a.holder) })
	}
	if m.options.OnRefresh != nil && err != errSkipped && err != errAbandoned {
		_ = safely(func() error { m.options.OnRefresh(a.event); return nil })
	}
}

// handOut gives all who wait what refresh returns.
func (a *attempt) handOut() error {
	var token *oauth2.Token
	err := error(a.storeError(errors.New("the goroutine was ended by what it called")))
	defer func() { a.settle(token, err) }() // also if a Store calls runtime.Goexit, as a test's FailNow does
	err = safely(func() (err error) {
		token, err = a.refresh()
		return err
	})
	return err
}

// refresh returns a good token of the grant, or why there is none.
func (a *attempt) refresh() (*oauth2.Token, error) {
	m := a.m
	poll := minPoll
	var leasedSince, leaseAt time.Time // a sibling has the lease, and when to try for it again
	for {
		record, err := a.load()
		if err != nil {
			return nil, err
		}
		switch step, token, err := a.look(record); step {
		case stepDone:
			return token, err
		case stepAgain:
			continue
		}

		// A request has to be sent. Not now?
		if err := a.waitForPause(); err != nil {
			return nil, err
		}
		if time.Now().Before(leaseAt) {
			if err := a.poll(&poll); err != nil {
				return nil, err
			}
			continue
		}
		switch err := m.takeTurn(a); {
		case err == errLookAgain:
			continue
		case err != nil:
			return nil, err
		}
		if err := a.waitForPause(); err != nil {
			return nil, err
		}

		// The first write comes before the request: where it fails, Save would fail too, with the only refresh token.
		before := time.Now()
		record, err = a.lease()
		if err != nil {
			m.giveBack(a)
			if !errors.Is(err, ErrLeased) {
				return nil, err
			}
			if leasedSince.IsZero() {
				leasedSince = before
			} else if time.Since(leasedSince) > 2*m.leaseTime() {
				return nil, a.storeError(errForever)
			}
			leaseAt = time.Now().Add(leaseAgain)
			if err := a.poll(&poll); err != nil {
				return nil, err
			}
			continue
		}
		next, token, err := a.look(record)
		if next == stepSend && time.Since(before) > saveTime {
			next, err = a.again(errUnsettled) // Lease took so long that the time to save is used up
		}
		if next == stepSend && !a.commit() {
			next, token, err = stepDone, nil, a.ended()
		}
		if next == stepSend {
			if token, err = a.request(record.Token.RefreshToken); err == nil {
				return a.keep(record, token), nil
			}
			next, err = a.failed(record, err)
		} else {
			m.giveBack(a)
		}
		if next == stepDone {
			return token, err
		}
	}
}

// look decides what to do about a row, and does what the Store is needed for.
func (a *attempt) look(record Record) (step, *oauth2.Token, error) {
	m, e, row := a.m, a.e, record.Token
	m.mu.Lock()
	older := m.isOlder(e, row)
	var newest *oauth2.Token
	if older {
		newest = e.fetched.token
	}
	isGood := a.isGood(row, record.Version)
	if isGood && !older {
		m.hold(e, row, false)
	}
	left := never
	if !row.Expiry.IsZero() {
		left = time.Until(row.Expiry)
	}
	isDue := a.due && left <= a.within && row.AccessToken != ""
	if isGood && !older && isDue {
		a.publish(row, nil) // it serves those who came meanwhile
	}
	isIdle := a.due && !isDue && a.callers == 0 && row.AccessToken != "" && row.AccessToken != e.bad
	if isIdle && !older {
		a.detach()
	}
	if e.verdict != nil && e.verdict.version != record.Version {
		e.verdict = nil // it was about another token, or about this one before somebody put it in again
	}
	verdict := e.verdict
	m.mu.Unlock()

	switch {
	case older:
		return a.replaceOlder(record, newest)
	case isGood && !isDue:
		return stepDone, row, nil
	case isIdle:
		return stepDone, nil, errSkipped
	case verdict != nil:
		next, err := a.condemn(record, verdict)
		return next, nil, err
	case record.Dead != nil:
		dead := *record.Dead
		return stepDone, nil, &dead
	case row.RefreshToken == "":
		return stepDone, nil, noRefreshToken()
	}
	if wait := time.Until(record.RetryAt); wait > 0 {
		a.remember = wait
		return stepDone, nil, waitError(applebusiness.ErrUnavailable, wait)
	}
	return stepSend, nil, nil
}

// isGood reports whether a row's token can be handed out; m.mu is held.
func (a *attempt) isGood(row *oauth2.Token, version int64) bool {
	if row.AccessToken == "" || row.AccessToken == a.replaces || row.AccessToken == a.e.bad {
		return false
	}
	if row.Expiry.IsZero() {
		return true
	}
	left := time.Until(row.Expiry)
	isFresh := version != a.firstVersion // a sibling has fetched it while this attempt waited
	return left > expiryMargin || isFresh && left > 0
}

// replaceOlder stores newest over a row that holds a token which newest has replaced: a Save that failed has not been
// made up for, or the database has lost what it had. The row's refresh token is spent, whatever its mark says.
func (a *attempt) replaceOlder(record Record, newest *oauth2.Token) (step, *oauth2.Token, error) {
	m := a.m
	err := m.call(a.ctx, func(ctx context.Context) error {
		return m.store.Save(ctx, a.grant, a.holder, record.Version, copyToken(newest))
	})
	if err != nil {
		if errors.Is(err, ErrConflict) || errors.Is(err, ErrNoGrant) {
			next, err := a.again(err)
			return next, nil, err
		}
		return stepDone, nil, a.callError(err)
	}
	a.leased = false
	m.mu.Lock()
	if u := a.e.unsaved; u != nil && u.token == newest {
		delete(m.unsaved, u)
		a.e.unsaved = nil
	}
	isGood := a.isGood(newest, record.Version)
	if isGood {
		m.hold(a.e, newest, false)
	}
	m.mu.Unlock()
	if isGood && !a.due {
		return stepDone, newest, nil
	}
	next, err := a.again(errUnsettled)
	return next, nil, err
}

// again counts the rounds, so that a Store which breaks its contract does not keep anybody in a loop.
func (a *attempt) again(err error) (step, error) {
	if a.rounds++; a.rounds > maxRounds {
		return stepDone, a.storeError(err)
	}
	return stepAgain, nil
}

// waitForPause waits out a short pause after a response with status 429, and returns an error for a long one.
func (a *attempt) waitForPause() error {
	wait := a.m.paused()
	if wait > shortPause {
		a.remember = wait
		return waitError(applebusiness.ErrRateLimited, wait)
	}
	return a.sleep(wait)
}

// poll waits for a sibling, unless nobody waits for a.
func (a *attempt) poll(d *time.Duration) error {
	if a.m.isIdle(a) {
		return errSkipped
	}
	wait := jitter(*d)
	*d = min(2**d, maxPoll)
	return a.sleep(wait)
}

func (a *attempt) sleep(d time.Duration) error {
	defer a.addWaited(time.Now())
	if sleep(a.ctx, d) != nil {
		return a.ended()
	}
	return nil
}

func (a *attempt) addWaited(since time.Time) { a.event.Waited += time.Since(since) }

// isIdle reports whether no caller waits for a, and sees to it that none comes.
func (m *Manager) isIdle(a *attempt) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.callers > 0 {
		return false
	}
	a.detach()
	return true
}

// detach keeps callers from joining a; m.mu is held.
func (a *attempt) detach() {
	if a.e.attempt == a {
		a.e.attempt = nil
	}
}

// abandon ends an attempt that RefreshDue began and nobody waits for, unless its request was sent; m.mu is held.
func (m *Manager) abandon(a *attempt) {
	if a.due && a.callers == 0 && a.watchers == 0 && !a.sent {
		a.detach()
		a.cancel()
	}
}

// commit reports whether the request may be sent. From then on Close waits for its response.
func (a *attempt) commit() bool {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.ctx.Err() != nil {
		return false
	}
	a.sent, a.event.Sent = true, true
	a.m.passLocked(a)
	return true
}

// request sends a refresh token to Apple. It does not end with the callers' contexts, nor with Close.
func (a *attempt) request(refreshToken string) (*oauth2.Token, error) {
	m := a.m
	ctx, cancel := context.WithTimeout(m.work, m.timeout)
	defer cancel()
	var token *oauth2.Token
	err := safely(func() (err error) {
		token, err = m.config.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
		return err
	})
	if err == nil && (token == nil || token.AccessToken == "") {
		err = waitError(applebusiness.ErrMalformedResponse, 0)
	}
	return token, err
}

// keep makes the token that was fetched with record's the grant's newest, which is stored next.
func (a *attempt) keep(record Record, token *oauth2.Token) *oauth2.Token {
	m, e := a.m, a.e
	token = copyToken(token)
	if token.RefreshToken == "" {
		token.RefreshToken = record.Token.RefreshToken
	}
	a.leased = false // Save ends the lease
	a.seen = append(a.seen, token)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue.pauses = 0
	m.noteFetched(e, record.Token, token)
	m.hold(e, token, true)
	a.unsaved = &unsavedToken{e: e, grant: a.grant, holder: a.holder, version: record.Version, token: token}
	e.unsaved = a.unsaved
	m.unsaved[a.unsaved] = struct{}{}
	return token
}

// failed records what a request came to that brought no token.
func (a *attempt) failed(record Record, err error) (step, error) {
	m := a.m
	if m.work.Err() != nil {
		a.leased = false // nothing can be written any more: the lease runs out, and makes the record Unfinished
		return stepDone, ErrClosed
	}
	e, failure := a.tokenFailure(err)
	advice := applebusiness.Troubleshoot(failure)
	mark := Mark{Unfinished: record.Unfinished || mayBeLost(e)}
	switch {
	case advice.Action == applebusiness.ActionReauthorize && isRefusal(e):
		dead := *e
		dead.ResponseLost = record.Unfinished
		return a.condemn(record, &verdict{record.Version, &dead})

	case e.StatusCode == http.StatusTooManyRequests || e.Reason == applebusiness.ErrRateLimited:
		a.remember = m.pause(e.RetryAfter)
		return stepDone, withWait(failure, a.remember)

	case isOutage(e) && advice.Action == applebusiness.ActionRetry && advice.Impact == applebusiness.ImpactService:
		m.mu.Lock()
		a.remember = cmp.Or(e.RetryAfter, backoff(a.e.outages))
		a.e.outages++
		m.mu.Unlock()
		failure = withWait(failure, a.remember)
		mark.RetryAt = time.Now().Add(a.remember + jitter(time.Second))

	case mark.Unfinished == record.Unfinished:
		return stepDone, failure // of this process alone; Release follows
	}
	switch err := a.mark(record.Version, mark); {
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNoGrant):
		return a.again(err) // somebody has put in another token meanwhile
	case err != nil && mark.Unfinished:
		a.leased = false // no Release: a lease that runs out says the same
	}
	return stepDone, failure
}

// condemn records that Apple has refused the record's refresh token for good. Nobody is told before that is recorded,
// since only then is it still the grant's token.
func (a *attempt) condemn(record Record, v *verdict) (step, error) {
	m := a.m
	dead := *v.err
	err := a.mark(record.Version, Mark{Dead: &dead, Unfinished: record.Unfinished})
	m.mu.Lock()
	if a.e.verdict = v; err == nil {
		a.e.verdict = nil
	}
	m.mu.Unlock()
	switch {
	case err == nil:
		return stepDone, v.err
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNoGrant):
		return a.again(err)
	}
	return stepDone, a.storeError(err) // the verdict is recorded at the next chance, without a request
}

func (a *attempt) mark(version int64, mark Mark) error {
	err := a.m.call(a.m.work, func(ctx context.Context) error {
		return a.m.store.Mark(ctx, a.grant, a.holder, version, mark)
	})
	if err == nil {
		a.leased = false
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.sent = false // there is nothing to lose any more
	return err
}

// settle gives the outcome to all who wait, and remembers a failure.
func (a *attempt) settle(token *oauth2.Token, err error) {
	m, e := a.m, a.e
	m.mu.Lock()
	defer m.mu.Unlock()
	a.settled = true
	a.event.Duration = time.Since(a.event.Start)
	a.event.Err = err
	a.detach()
	h := e.held.Load()
	switch {
	case err == nil, err == ErrClosed, err == errAbandoned:
	case err == errSkipped:
		if h != nil {
			h.refreshAt.Store(int64(m.now() + jitter(lookAgain)))
		}
	case err == ErrNoGrant:
		m.entries.CompareAndDelete(a.grant, e)
	default:
		if h != nil {
			h.refreshAt.Store(int64(m.now() + max(a.remember, jitter(2*backoff(e.failures)))))
		}
		e.failures++
		e.failure, e.until = err, m.now()+a.remember
	}
	m.drop(a.grant, e)
	a.publish(token, err)
}

// drop forgets an entry that only RefreshDue has used; m.mu is held.
func (m *Manager) drop(grant string, e *entry) {
	if !e.kept && e.unsaved == nil && e.verdict == nil && e.attempt == nil {
		m.entries.CompareAndDelete(grant, e)
	}
}

// publish gives callers their outcome, and prepares another for those who come later; m.mu is held.
func (a *attempt) publish(token *oauth2.Token, err error) {
	a.outcome.token, a.outcome.err = token, err
	close(a.outcome.done)
	a.outcome = &outcome{done: make(chan struct{})}
	a.callers = 0
}

// call runs f, which calls the Store, for a limited time.
func (m *Manager) call(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return safely(func() error { return f(ctx) })
}

func (a *attempt) load() (Record, error) {
	var record Record
	err := a.m.call(a.ctx, func(ctx context.Context) (err error) {
		record, err = a.m.store.Load(ctx, a.grant)
		return err
	})
	record, err = a.check(record, err)
	if a.firstVersion == 0 {
		a.firstVersion = record.Version
	}
	return record, err
}

// lease returns the Store's record, ErrLeased or what check makes of an error.
func (a *attempt) lease() (Record, error) {
	var record Record
	err := a.m.call(a.ctx, func(ctx context.Context) (err error) {
		record, err = a.m.store.Lease(ctx, a.grant, a.holder, a.m.leaseTime())
		return err
	})
	if errors.Is(err, ErrLeased) {
		return Record{}, ErrLeased
	}
	a.leased = !errors.Is(err, ErrNoGrant) // after any other error it may be
	return a.check(record, err)
}

// leaseTime is long enough for a request and for the Save that follows.
func (m *Manager) leaseTime() time.Duration { return m.timeout + saveTime }

// check returns a record of the Store's that can be used.
func (a *attempt) check(record Record, err error) (Record, error) {
	switch {
	case err != nil:
		return Record{}, a.callError(err)
	case record.Token == nil:
		return Record{}, a.storeError(errNoToken)
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
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	return newStoreError(a.grant, err, append(a.seen, a.e.secrets()...)...)
}

// ended says why a's context has ended.
func (a *attempt) ended() error {
	if a.m.closed.Load() {
		return ErrClosed
	}
	return errAbandoned
}

// tokenFailure returns the *Error of a failed request, and what callers get for it.
func (a *attempt) tokenFailure(err error) (*applebusiness.Error, error) {
	if _, ok := errors.AsType[*panicError](err); ok {
		e := waitError(applebusiness.ErrNoResponse, 0)
		return e, &transportPanic{e, err, mask(textOf(err), a.seen)}
	}
	if e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(err)); ok && e != nil {
		return e, e
	}
	e := waitError(applebusiness.ErrNoResponse, 0)
	return e, e
}

// isRefusal reports whether Apple has said that the refresh token is invalid: nothing else may end a grant.
func isRefusal(e *applebusiness.Error) bool {
	return e.StatusCode != 0 && e.StatusCode < 500 &&
		(e.Reason == applebusiness.ErrInvalidRefreshToken || e.Reason == "" && e.Code == applebusiness.CodeInvalidGrant)
}

// isOutage reports whether other processes should wait too. Whether the cause is this process alone, the advice says.
func isOutage(e *applebusiness.Error) bool {
	switch e.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return e.StatusCode >= 500 || e.Reason == applebusiness.ErrNoResponse || e.Reason == applebusiness.ErrUnavailable
}

// mayBeLost reports whether Apple may have replaced the refresh token in a response that did not arrive.
func mayBeLost(e *applebusiness.Error) bool {
	switch {
	case e.Reason == applebusiness.ErrNoResponse:
		return !wasNeverSent(e)
	case e.StatusCode >= 500:
		return e.StatusCode != http.StatusServiceUnavailable
	case e.Reason == applebusiness.ErrMalformedResponse:
		return e.StatusCode < 300 // 0 where x/oauth2 does not tell
	}
	return false
}

// wasNeverSent reports whether a request failed before it had a connection.
func wasNeverSent(e *applebusiness.Error) bool {
	exchange := *e // a code may be sent again only if nothing was sent
	exchange.GrantType = applebusiness.GrantTypeAuthorizationCode
	_, noHost := errors.AsType[*net.DNSError](e)
	_, noTrust := errors.AsType[*tls.CertificateVerificationError](e)
	return noHost || noTrust || applebusiness.Retryable(&exchange)
}
