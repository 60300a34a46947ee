package grants

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	defaultRequestTimeout = 30 * time.Second
	storeTimeout          = 10 * time.Second // for each call of the Store that a caller's context does not bound
	saveTime              = 15 * time.Second // what a lease leaves after the request, for Save
	expiryMargin          = 10 * time.Second // a token counts as expired that much early, as in x/oauth2's Token.Valid
	lastPatience          = time.Second      // for a refresh that begins as late as that
	maxEarly              = 5 * time.Minute  // and is refreshed in the background at most that much before
	minInterval           = time.Second      // between two refreshes of a token that lives for seconds
	invalidateInterval    = time.Minute      // between two refreshes because of 401s
	failureMemory         = time.Second
	maxBackoff            = time.Minute
	idleTime              = time.Hour
	fetchedIdleTime       = idleTime + 10*time.Minute // what was fetched is known until it comes due, also if it is used once an hour
	sweepInterval         = time.Minute
	never                 = time.Duration(1<<63 - 1)
	dueConcurrency        = 32
	dueLimit              = 1000
)

// Options are for [New]. The zero Options, like nil, are the defaults.
type Options struct {
	// HTTPClient sends the token requests; Manager puts an [applebusiness.Transport] around its Transport. A nil
	// HTTPClient is one with a Timeout of 30 seconds. A shorter Timeout loses responses that come after Apple has
	// replaced the refresh token, and each lost response can cost a grant. One without a Timeout gets 30 seconds.
	HTTPClient *http.Client

	// Limit is asked before each token request, as a *rate.Limiter of golang.org/x/time/rate is; for a whole fleet, the
	// Limiter of pgxstore. It is called by one goroutine at a time. If it fails, so does the refresh, with a
	// [*StoreError]. A nil Limit is 15 requests a second, the limit that Apple publishes, for this Manager alone; half of
	// what it was after a response with status 429, from where it recovers.
	Limit interface {
		Wait(ctx context.Context) error
	}

	// OnRefresh is called after each attempt to refresh a grant, for metrics and logs. It may be called by several
	// goroutines at once. It must not call Close. A panic in it is dropped.
	OnRefresh func(Refresh)

	// ClientSecret returns the app's current client secret, from a vault for example, so that one that was replaced
	// reaches every process without a restart. It is asked before the first token request and after each response that
	// says "Invalid client_id or client_secret", once for all who wait, and never more often than that. A nil
	// ClientSecret means config's.
	ClientSecret func(ctx context.Context) (string, error)

	// Origins are where, besides TokenURL's origin, [Manager.Client] may send a grant's token: each a scheme and a host,
	// such as "https://api.example.com".
	Origins []string

	// Logger is told what an operator has to know: panics of foreign code with their stack, that many grants are refused or
	// that the app is held, that tokens cannot be stored, and when each of that is over. Nothing is logged for each request,
	// and nothing secret. A nil Logger is [slog.Default].
	Logger *slog.Logger
}

// Refresh is what [Options.OnRefresh] is told about one attempt. Nothing in it is secret.
type Refresh struct {
	Grant    string
	Start    time.Time
	Duration time.Duration // until the callers had their token or their error
	Waited   time.Duration // the part of Duration spent waiting for Limit and for a sibling's lease
	Sent     bool          // whether a request was sent; otherwise the Store had a good token, or nothing could be sent
	Unsaved  bool          // whether the token could not be stored at the first try; Manager tries on
	Err      error         // nil if there is a good token
}

// Manager hands out the tokens of all grants of a partner, and refreshes them: once for all callers, and once for all
// processes that share its Store. Use it with one process, too: it never loses a token that it could not store at once,
// and never takes an outage for a customer who revoked. [New] makes one; its methods can be called concurrently.
//
// An error of its methods is an [*applebusiness.Error] where Apple's token endpoint is what failed, [ErrNoGrant],
// [ErrClosed], the error of the caller's context, or a [*StoreError]. Give it to [applebusiness.Troubleshoot]; only
// [applebusiness.ActionReauthorize] means that the customer has to connect again.
//
// What a process holds in memory can be older than the Store's: Put and Delete by another process are seen when the token
// comes due or is invalidated. What nobody has used for an hour is forgotten, and read from the Store when it is asked
// for.
type Manager struct {
	config  *oauth2.Config
	store   Store
	options Options
	client  *http.Client  // the caller's, or the default
	timeout time.Duration // of a token request

	work   context.Context // what was begun ends with it; holds the client for x/oauth2
	giveUp context.CancelFunc
	queued context.Context // what has not been sent ends with it
	stop   context.CancelFunc

	start   time.Time // now's zero
	seed    maphash.Seed
	entries sync.Map // of *entry by the grant's name; changed with mu held
	closed  atomic.Bool

	mu       sync.Mutex
	attempts map[*attempt]struct{}
	unsaved  map[*unsavedToken]struct{}
	connects map[fingerprint]*connecting // what Connect has begun, by its code
	active   int                         // goroutines
	idle     chan struct{}               // closed when active is 0 again; nil if nobody waits for it
	sweeper  *time.Timer                 // nil while there are no entries
	queue    queue
}

// entry is what a Manager knows of one grant. Put and Delete replace it, and leave an attempt that is under way to its
// old one.
type entry struct {
	held atomic.Pointer[held] // what Token returns
	used atomic.Int64         // the now of the last use, to the minute

	// Guarded by Manager.mu.
	attempt  *attempt
	kept     bool          // a caller has asked for it; otherwise it goes with its attempt
	bad      string        // the access token that Invalidate named, until another one is held
	fetched  *fetched      // what this Manager has fetched itself
	unsaved  *unsavedToken // of fetched, until it is stored
	verdict  *verdict      // that could not be recorded
	failures int           // in a row
	outages  int           // among them
	failure  error         // is returned until
	until    time.Duration
}

// held is a token that can be returned without a call of the Store, by the clock of Manager.now.
type held struct {
	token     oauth2.Token
	expires   time.Duration
	guarded   time.Duration // until then Invalidate is ignored
	refreshAt atomic.Int64
}

// fetched is the newest token that this Manager has fetched, and those that it has replaced. A row that holds one of them
// is older than the token, however that came about.
type fetched struct {
	token    *oauth2.Token
	replaced []fingerprints // oldest first
}

// fingerprints stand for a token without being one.
type fingerprints struct{ refresh, access uint64 }

const maxReplaced = 8

// verdict says that Apple has refused a row's refresh token for good.
type verdict struct {
	version int64 // the row's
	err     *applebusiness.Error
}

// New returns a Manager for the grants in store. It starts nothing: all it does, it does because a method was called.
// Neither config nor what options point to may be changed afterwards. One Manager for each process and app is enough.
func New(config *oauth2.Config, store Store, options *Options) *Manager {
	m := &Manager{
		config:   config,
		store:    store,
		start:    time.Now(),
		seed:     maphash.MakeSeed(),
		attempts: make(map[*attempt]struct{}),
		unsaved:  make(map[*unsavedToken]struct{}),
	}
	if options != nil {
		m.options = *options
	}
	m.client = m.options.HTTPClient
	if m.client == nil {
		m.client = &http.Client{Timeout: defaultRequestTimeout}
	}
	m.timeout = m.client.Timeout
	if m.timeout <= 0 {
		m.timeout = defaultRequestTimeout
	}
	m.queue.limit = m.options.Limit
	if m.queue.limit == nil {
		m.queue.own = &limiter{}
		m.queue.limit = m.queue.own
	}
	client := *m.client
	client.Timeout = 0 // each request has m.timeout in its context; this one would leave a goroutine behind a panic
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &client)
	if config != nil {
		ctx = applebusiness.WithJSON(ctx, config.Endpoint.TokenURL)
	}
	m.work, m.giveUp = context.WithCancel(ctx)
	m.queued, m.stop = context.WithCancel(m.work)
	return m
}

var errUnusable = errors.New(prefix + "the Manager lacks a config or a Store: use New")

// usable returns why no method can do anything, or nil.
func (m *Manager) usable() error {
	switch {
	case m == nil || m.config == nil || m.store == nil:
		return errUnusable
	case m.closed.Load():
		return ErrClosed
	}
	return nil
}

// now is the time since the Manager was made. Reading that clock costs half of time.Now, and nobody sets it.
func (m *Manager) now() time.Duration { return time.Since(m.start) }

// Token returns a token of the grant that can be used now.
//
// If the one in memory is valid, Token returns it at once, without a call of the Store and whatever else has failed, even
// if the customer has revoked meanwhile; in the last minutes of its life it is refreshed in the background, and in the
// last 10 seconds it is returned only if a refresh fails or takes long. Otherwise Token waits for the Store, and unless
// that holds a valid token, for the refresh: for Limit, for a sibling that is refreshing, and for Apple. Callers of one
// grant wait together, each until its own ctx ends; the refresh goes on without them. The token is returned when it has
// arrived, and stored after that. If the process dies before it is stored, it is lost, and with it perhaps the grant:
// call Close.
//
// After a failure callers get the same error at once, for a second, or for as long as Apple wants to be left alone; that
// is the error's RetryAfter.
//
// The token is the caller's own copy. It holds what a Store keeps: the two tokens, the type and the expiry.
func (m *Manager) Token(ctx context.Context, grant string) (*oauth2.Token, error) {
	if err := m.usable(); err != nil {
		return nil, err
	}
	if found, ok := m.entries.Load(grant); ok {
		e, now := found.(*entry), m.now()
		if h := e.held.Load(); h != nil && m.touch(e, h, now) {
			if now >= time.Duration(h.refreshAt.Load()) {
				m.refreshEarly(grant, e, h)
			}
			token := h.token
			return &token, nil
		}
	}
	return m.wait(ctx, grant)
}

// touch notes that e is used, and reports whether h can be returned. Once a minute it looks at the wall clock, too: the
// other one stands still while a virtual machine is suspended.
func (m *Manager) touch(e *entry, h *held, now time.Duration) bool {
	idle := now - time.Duration(e.used.Load())
	if now >= h.expires || idle >= idleTime {
		return false
	}
	if idle >= sweepInterval {
		if wall := h.token.Expiry.Round(0); !wall.IsZero() && time.Now().After(wall) {
			return false
		}
		e.used.Store(int64(now))
	}
	return true
}

// wait returns the outcome of the attempt that is under way, or of a new one.
func (m *Manager) wait(ctx context.Context, grant string) (*oauth2.Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.closed.Load() {
		m.mu.Unlock()
		return nil, ErrClosed
	}
	e, now := m.entry(grant), m.now()
	if h := e.held.Load(); h != nil {
		if m.touch(e, h, now) {
			m.mu.Unlock()
			token := h.token
			return &token, nil
		}
		if now < h.expires {
			e.held.Store(nil) // nobody has used it for an hour, or its time has passed in a suspended machine
		}
	}
	e.kept = true
	e.used.Store(int64(now))
	if e.failure != nil && now < e.until {
		err, wait := e.failure, e.until-now
		m.mu.Unlock()
		if failed, ok := errors.AsType[*applebusiness.Error](err); ok && failed.RetryAfter > 0 {
			err = withWait(err, wait)
		}
		return e.lastResort(err)
	}
	var enough <-chan time.Time
	if h := e.held.Load(); h != nil && time.Until(h.token.Expiry) > 0 { // it has seconds to live
		patience := min(lastPatience, time.Until(h.token.Expiry))
		if e.attempt != nil || e.failures > 0 {
			patience = 0 // for minutes it could not be replaced
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
	}
	a := e.attempt
	if a == nil {
		a = m.begin(&attempt{grant: grant, e: e})
	}
	a.callers++
	outcome := a.outcome
	m.mu.Unlock()

	for {
		select {
		case <-outcome.done:
			if outcome.err != nil {
				return e.lastResort(outcome.err)
			}
			token := *outcome.token
			return &token, nil
		case <-enough:
			if token, _ := e.lastResort(nil); token != nil {
				m.leave(a, outcome)
				return token, nil
			}
			enough = nil
		case <-ctx.Done():
			m.leave(a, outcome)
			return nil, ctx.Err()
		}
	}
}

// leave is called by a caller who waits no longer.
func (m *Manager) leave(a *attempt, outcome *outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.outcome == outcome {
		a.callers--
	}
}

// lastResort returns the held token in the last seconds of its life, or err, with which a refresh has failed.
func (e *entry) lastResort(err error) (*oauth2.Token, error) {
	h := e.held.Load()
	if h == nil || err == ErrClosed || err == ErrNoGrant || time.Until(h.token.Expiry) <= 0 {
		return nil, err
	}
	token := h.token
	return &token, nil
}

// entry returns the entry of a grant, a new one if need be; m.mu is held.
func (m *Manager) entry(grant string) *entry {
	if found, ok := m.entries.Load(grant); ok {
		return found.(*entry)
	}
	e := new(entry)
	e.used.Store(int64(m.now()))
	m.entries.Store(grant, e)
	if m.sweeper == nil {
		m.sweeper = time.AfterFunc(sweepInterval, m.sweep)
	}
	return e
}

// sweep forgets what nobody has used for an hour, and sooner what never had a token.
func (m *Manager) sweep() {
	m.entries.Range(func(grant, found any) bool {
		e := found.(*entry)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.isForgettable(e, m.now()) {
			m.entries.CompareAndDelete(grant, e)
		}
		return true
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	isEmpty := true
	m.entries.Range(func(any, any) bool { isEmpty = false; return false })
	if m.sweeper = nil; !isEmpty && !m.closed.Load() {
		m.sweeper = time.AfterFunc(sweepInterval, m.sweep)
	}
}

// isForgettable reports whether e is of no more use; m.mu is held.
func (m *Manager) isForgettable(e *entry, now time.Duration) bool {
	idle := now - time.Duration(e.used.Load())
	switch {
	case e.attempt != nil || e.unsaved != nil:
		return false
	case e.fetched != nil || e.verdict != nil:
		return idle >= fetchedIdleTime
	case e.held.Load() != nil:
		return idle >= idleTime
	}
	return now >= e.until
}

// refreshEarly starts a refresh of h in the background, unless there is one.
func (m *Manager) refreshEarly(grant string, e *entry, h *held) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed.Load() || e.attempt != nil || e.held.Load() != h || m.now() < time.Duration(h.refreshAt.Load()) {
		return
	}
	h.refreshAt.Store(int64(never)) // until the attempt has failed
	m.begin(&attempt{grant: grant, e: e})
}

// hold makes token what Token returns; m.mu is held. A token that was fetched just now is held for a second at least.
func (m *Manager) hold(e *entry, token *oauth2.Token, fetched bool) {
	if h := e.held.Load(); h != nil && h.token.AccessToken == token.AccessToken && !fetched {
		return
	}
	now := m.now()
	h := &held{token: *token, expires: never}
	h.refreshAt.Store(int64(never))
	if !token.Expiry.IsZero() {
		left := time.Until(token.Expiry)
		life := left - min(expiryMargin, left/2)
		if fetched {
			life = max(life, minInterval)
		}
		h.expires = now + life
		early := min(left/10, maxEarly)
		early -= rand.N(max(early/2, 1)) // or a deployment would refresh all its grants in the same second
		if early > 0 && life-early >= minInterval {
			h.refreshAt.Store(int64(h.expires - early))
		}
	}
	if e.bad != "" {
		h.guarded = now + invalidateInterval
		e.bad = ""
	}
	e.held.Store(h)
	e.failure, e.failures, e.outages = nil, 0, 0
}

// isOlder reports whether token is one that this Manager has replaced; m.mu is held.
func (m *Manager) isOlder(e *entry, token *oauth2.Token) bool {
	if e.fetched == nil {
		return false
	}
	row, newest := m.fingerprints(token), m.fingerprints(e.fetched.token)
	return slices.ContainsFunc(e.fetched.replaced, func(replaced fingerprints) bool {
		// Apple may return the same refresh token again. Then only the access token tells which is the older.
		return replaced.refresh == row.refresh && (replaced.refresh != newest.refresh || replaced.access == row.access)
	})
}

func (m *Manager) fingerprints(token *oauth2.Token) fingerprints {
	return fingerprints{maphash.String(m.seed, token.RefreshToken), maphash.String(m.seed, token.AccessToken)}
}

// noteFetched remembers that token was fetched with the refresh token of old; m.mu is held.
func (m *Manager) noteFetched(e *entry, old, token *oauth2.Token) {
	f := &fetched{token: token}
	if e.fetched != nil && e.fetched.token.RefreshToken == old.RefreshToken {
		f.replaced = e.fetched.replaced[max(0, len(e.fetched.replaced)-maxReplaced+1):]
	}
	f.replaced = append(slices.Clip(f.replaced), m.fingerprints(old))
	e.fetched = f
}

// TokenSource returns an [oauth2.TokenSource] for one grant, whose Token is [Manager.Token] with ctx. It needs no
// [oauth2.ReuseTokenSource] around it.
func (m *Manager) TokenSource(ctx context.Context, grant string) oauth2.TokenSource {
	return tokenSource{m, ctx, grant}
}

type tokenSource struct {
	m     *Manager
	ctx   context.Context
	grant string
}

func (s tokenSource) Token() (*oauth2.Token, error) { return s.m.Token(s.ctx, s.grant) }

// Put stores the token of a customer who has connected, or connected again: the grant is made if need be, a verdict about
// its earlier token is gone, and a refresh of that under way comes to nothing. Put waits for the Store, within ctx. After
// a *StoreError the token may be stored or not: call Put again with it, since nothing but the caller may have it, and do so
// before its access token comes due, since from then on a process that finds it stored replaces it. The same holds if the
// process dies within Put.
//
// The token needs a refresh token; without one Put stores nothing and returns [applebusiness.ErrNoRefreshToken]. A grant
// that was called dead by mistake is alive again once the token that the Store has kept is put.
//
// Other processes use the token that they have in memory until that comes due.
func (m *Manager) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	if err := m.usable(); err != nil {
		return err
	}
	if token == nil || token.RefreshToken == "" {
		return noRefreshToken()
	}
	stored := copyToken(token)
	if err := safely(func() error { return m.store.Put(ctx, grant, stored) }); err != nil {
		return m.callerError(ctx, grant, err, token)
	}
	m.forget(grant)
	return nil
}

// Delete removes the grant from the Store and from memory: from then on Token returns [ErrNoGrant]. It returns nil if
// there is no such grant. It waits for the Store, within ctx; after an error call it again. A refresh under way comes to
// nothing. Apple is not told: the documentation names no way to.
//
// Other processes use the token that they have in memory until that comes due.
func (m *Manager) Delete(ctx context.Context, grant string) error {
	if err := m.usable(); err != nil {
		return err
	}
	if err := safely(func() error { return m.store.Delete(ctx, grant) }); err != nil && !errors.Is(err, ErrNoGrant) {
		return m.callerError(ctx, grant, err)
	}
	m.forget(grant)
	return nil
}

// forget makes the next call of Token read the Store.
func (m *Manager) forget(grant string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries.Delete(grant)
}

// callerError is what a method returns that called the Store with the caller's own context.
func (m *Manager) callerError(ctx context.Context, grant string, err error, secrets ...*oauth2.Token) error {
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		return ended
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if found, ok := m.entries.Load(grant); ok {
		secrets = append(secrets, found.(*entry).secrets()...)
	}
	return newStoreError(grant, err, secrets...)
}

// secrets returns the tokens that e knows; Manager.mu is held.
func (e *entry) secrets() []*oauth2.Token {
	var tokens []*oauth2.Token
	if h := e.held.Load(); h != nil {
		tokens = append(tokens, &h.token)
	}
	if e.fetched != nil {
		tokens = append(tokens, e.fetched.token)
	}
	return append(tokens, &oauth2.Token{AccessToken: e.bad})
}

// Invalidate says that the API has answered 401 to token although it has not expired. The next call of Token waits for
// another one: a sibling's if there is one, otherwise from Apple. A token that is not the one in memory is ignored, as is
// nil: it has been replaced already. So is one that replaced an invalidated one less than a minute ago, lest an API that
// refuses every token make a refresh of each call. Invalidate waits for nothing.
//
// [Manager.Client] calls it by itself.
func (m *Manager) Invalidate(grant string, token *oauth2.Token) {
	if token == nil || m.usable() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.entries.Load(grant)
	if !ok {
		return
	}
	e := found.(*entry)
	h := e.held.Load()
	if h == nil || h.token.AccessToken != token.AccessToken || m.now() < h.guarded {
		return
	}
	e.bad = h.token.AccessToken
	e.held.Store(nil)
}

// RefreshDue refreshes the grants whose token expires within the given time, so that those that nobody uses stay alive
// too, and no caller has to wait. Call it now and then in each process: the Store sees to it that each grant is refreshed
// once. A negative within leaves to callers what has expired more recently than that.
//
// It returns when all have been tried: some at a time, in any order, behind the callers of Token, and after whatever
// Limit and a response with status 429 ask for. A grant that a sibling is refreshing is skipped; what becomes of any
// other is told to OnRefresh, and a failure of one does not stop the others. The first failure of the Store does, and is
// returned, as is the error of ctx. A request that was sent by then is finished all the same. If the process dies, what
// is left is found due by the next call.
func (m *Manager) RefreshDue(ctx context.Context, within time.Duration) error {
	tried := make(map[string]bool)
	start := time.Now()
	for {
		if err := m.usable(); err != nil {
			return err
		}
		within := within - time.Since(start)                // what comes due meanwhile is the next call's
		due, err := m.due(ctx, within, dueLimit+len(tried)) // what failed is due still
		if err != nil {
			return err
		}
		due = slices.DeleteFunc(due, func(grant string) bool {
			again := tried[grant]
			tried[grant] = true
			return again
		})
		if len(due) == 0 {
			return ctx.Err()
		}
		rand.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
		if err := forEach(ctx, due, func(ctx context.Context, grant string) error {
			return m.refreshDue(ctx, grant, within)
		}); err != nil {
			return err
		}
	}
}

func (m *Manager) due(ctx context.Context, within time.Duration, limit int) ([]string, error) {
	var grants []string
	err := safely(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		grants, err = m.store.Due(ctx, within, limit)
		return err
	})
	if err != nil {
		return nil, m.callerError(ctx, "", err)
	}
	return slices.Clone(grants), nil
}

// refreshDue refreshes one grant, and returns an error only where RefreshDue has to stop.
func (m *Manager) refreshDue(ctx context.Context, grant string, within time.Duration) error {
	for {
		m.mu.Lock()
		if m.closed.Load() {
			m.mu.Unlock()
			return ErrClosed
		}
		e := m.entry(grant)
		a := e.attempt
		if a == nil {
			if e.failure != nil && m.now() < e.until {
				m.mu.Unlock()
				return nil
			}
			a = m.begin(&attempt{grant: grant, e: e, due: true, within: within})
		}
		a.watchers++
		outcome := a.final
		m.mu.Unlock()

		select {
		case <-outcome.done:
		case <-ctx.Done():
			m.mu.Lock()
			a.watchers--
			m.abandon(a)
			m.mu.Unlock()
			return ctx.Err()
		}
		if _, ok := errors.AsType[*StoreError](outcome.err); ok || outcome.err == ErrClosed {
			return outcome.err
		}
		limited, ok := outcome.err.(*applebusiness.Error)
		if !ok || limited.Reason != applebusiness.ErrRateLimited {
			return nil
		}
		if err := sleep(ctx, limited.RetryAfter); err != nil {
			return err
		}
	}
}

// Close ends the Manager. What waits to be sent is given up, with ErrClosed for its callers; what was sent is finished,
// and what could not be stored yet is stored, with as many tries as it takes. Close returns nil when that is done. If ctx
// ends before, it returns an error that names the grants whose newest token is not stored, and nothing goes on in the
// background: call Close again to try again, since after the process has ended those grants are lost. Give ctx more time
// than a token request can take.
//
// After Close every method returns [ErrClosed], and Token even where a token is valid. Close can be called any number of
// times.
func (m *Manager) Close(ctx context.Context) error {
	if m == nil || m.stop == nil {
		return nil
	}
	m.mu.Lock()
	m.closed.Store(true)
	m.stop()
	if m.sweeper != nil {
		m.sweeper.Stop()
		m.sweeper = nil
	}
	for u := range m.unsaved {
		if u.timer != nil {
			u.timer.Stop()
		}
	}
	var idle chan struct{}
	if m.active > 0 {
		if m.idle == nil {
			m.idle = make(chan struct{})
		}
		idle = m.idle
	}
	m.mu.Unlock()

	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	unsaved := make([]*unsavedToken, 0, len(m.unsaved))
	for u := range m.unsaved {
		unsaved = append(unsaved, u)
	}
	m.mu.Unlock()
	_ = forEach(ctx, unsaved, func(ctx context.Context, u *unsavedToken) error {
		for tries := 0; !m.save(ctx, u); tries++ {
			if err := sleep(ctx, saveBackoff(tries)); err != nil {
				return err
			}
		}
		return nil
	})
	m.completeConnects(ctx)
	if ctx.Err() != nil {
		m.giveUp()
	}
	return m.closeError(ctx)
}

// closeError names the grants whose token is not stored, or may be on its way.
func (m *Manager) closeError(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	errs := make(map[string]*StoreError)
	for a := range m.attempts {
		if a.sent && !a.settled {
			errs[a.grant] = newStoreError(a.grant, cmp.Or(ctx.Err(), context.Canceled))
		}
	}
	for u := range m.unsaved {
		errs[u.grant] = newStoreError(u.grant, cmp.Or(u.err, ctx.Err(), context.Canceled), u.token)
	}
	m.nameConnects(ctx, errs)
	if len(errs) == 0 {
		return nil
	}
	return newCloseError(errs)
}

// forEach calls f for each item, for some at a time, until one returns an error or ctx ends. The others are told by their
// context, and waited for.
func forEach[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan T)
	var workers sync.WaitGroup
	for range min(dueConcurrency, len(items)) {
		workers.Go(func() {
			for item := range next {
				if err := f(ctx, item); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, item := range items {
		select {
		case next <- item:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// sleep returns nil after d, or the error of ctx if that ends before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
