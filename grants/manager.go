package grants

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	defaultRequestTimeout = 30 * time.Second
	storeTimeout          = 10 * time.Second // for each call of the Store that a caller's context does not bound
	lastPatience          = time.Second      // how long a caller waits for a refresh that starts within expiryMargin
)

// Options are for [New]. The zero Options, like nil, are the defaults.
type Options struct {
	// HTTPClient sends the token requests; Manager puts an [applebusiness.Transport] around its Transport. It must send
	// each request once: a client that retries or hedges spends the refresh token and reports the refusal of its second
	// request. A nil HTTPClient, and one without a Timeout, has 30 seconds for each. A shorter Timeout loses responses that
	// come after Apple has replaced the refresh token, and each of them can cost a grant.
	HTTPClient *http.Client

	// Limit is asked before each token request, by one goroutine at a time: a *rate.Limiter of golang.org/x/time/rate, or
	// for a whole fleet the Limiter of pgxstore. If it fails, so does the refresh, with a [*StoreError], or with
	// [applebusiness.ErrRateLimited] for a [context.DeadlineExceeded]: it refuses to let the request wait. After a response
	// with status 429 its method Pause(context.Context, time.Duration) error is called, if it has one, so that the whole
	// fleet waits. The code of a customer who waits for Connect is sent after 5 seconds, or if Limit fails, all the same.
	// A nil Limit is 15 requests a second, which Apple publishes, for this Manager alone, and half of what it was after a
	// response with status 429, from where it recovers.
	Limit interface {
		Wait(ctx context.Context) error
	}

	// OnRefresh is called after each attempt to refresh a grant, for metrics and logs: also after one that sent nothing,
	// and when a token is stored that could not be at first. Callers may have their token or their error before, and
	// RefreshDue may have returned; Close waits for it. It may be called by several goroutines at once, and must not call
	// Close. A panic in it is logged. Connect does not call it.
	OnRefresh func(Refresh)

	// ClientSecret returns the app's current client secret, from a vault for example, so that one that was replaced
	// reaches every process without a restart; nil means config's. It is asked before the first token request and after
	// each response that says invalid_client, as "Invalid client_id or client_secret" does, once for all who wait, and never
	// more often; it has 10 seconds. While it fails, or returns "", nothing is sent, and it is asked again after a second,
	// later after a minute. The error of Token or Connect then has no advice, and does not say why, which may be secret: let
	// ClientSecret log that itself.
	ClientSecret func(ctx context.Context) (string, error)

	// Origins are where else than to TokenURL's origin [Manager.Client] may send a token, such as "https://api.example.com".
	Origins []string

	// Logger is told what an operator has to know: panics of foreign code with their stack, that many grants are refused or
	// that the app is held, that tokens cannot be stored, and when each of that is over. Nothing is logged for each request,
	// and nothing secret. A nil Logger is [slog.Default].
	Logger *slog.Logger
}

// Manager hands out the tokens of all grants of a partner, and refreshes them: once for all callers, and once for all
// processes that share its Store. Use it with one process, too: it never loses a token that it could not store at once,
// and never takes an outage for a customer who revoked. [New] makes one; its methods can be called concurrently.
//
// An error of its methods is an [*applebusiness.Error] where Apple's token endpoint is what failed, [ErrNoGrant],
// [ErrClosed], the error of the caller's context, or a [*StoreError]. Give it to [applebusiness.Troubleshoot]; only
// [applebusiness.ActionReauthorize] means that the customer has to connect again. Troubleshoot has no advice about what is
// the partner's own: after a *StoreError try later, and after ErrNoGrant let the customer connect.
//
// What a process holds in memory can be older than the Store's: Put and Delete by another process are seen when the token
// comes due or is invalidated. What nobody has used for an hour is forgotten, and read from the Store again.
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

	start       time.Time // origin of now
	entries     sync.Map  // of *entry by the grant's name; added to with mu held
	unusableURL error     // why no request can be sent at all
	secret      secret

	mu       sync.Mutex
	attempts map[*attempt]struct{}    // without those whose outcome is known, and whose token is stored
	connects map[hash]*connecting     // what Connect has begun, by its code
	panics   map[string]time.Duration // when each kind is logged again
	active   int                      // goroutines and calls of Put
	changed  signal                   // active is 0, there is another verdict, or an attempt ends without one
	closers  int                      // calls of Close that wait
	sweeping bool                     // while there are entries
	queue    queue
	app      app
}

// New returns a Manager for the grants in store. It starts nothing: all it does, it does because a method was called.
// Neither config nor what options point to may be changed afterwards. One Manager for each process and app is enough.
func New(config *oauth2.Config, store Store, options *Options) *Manager {
	m := &Manager{
		config:   config,
		store:    store,
		start:    time.Now(),
		attempts: make(map[*attempt]struct{}),
		panics:   make(map[string]time.Duration),
		changed:  make(signal),
		app:      newApp(),
	}
	m.queue.asking = make(chan struct{}, 1)
	m.secret.lock = make(chan struct{}, 1)
	if options != nil {
		m.options = *options
	}
	m.client = cmp.Or(m.options.HTTPClient, &http.Client{Timeout: defaultRequestTimeout})
	m.timeout = cmp.Or(max(m.client.Timeout, 0), defaultRequestTimeout)
	if m.queue.limit = m.options.Limit; m.queue.limit == nil {
		m.queue.limit = new(limiter)
	}
	client := *m.client
	client.Timeout = 0 // each request has m.timeout in its context; this one would leave a goroutine behind a panic
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &client)
	if config != nil {
		ctx = applebusiness.WithJSON(ctx, config.Endpoint.TokenURL)
		m.unusableURL = unusable(config.Endpoint.TokenURL)
	}
	m.work, m.giveUp = context.WithCancel(ctx)
	m.queued, m.stop = context.WithCancel(m.work)
	return m
}

// unusable returns why no token request can be sent to a URL, or nil. It asks the Transport, which has the rules.
func unusable(tokenURL string) error {
	const form = "grant_type=" + applebusiness.GrantTypeRefreshToken
	ended, end := context.WithCancel(context.Background())
	end() // so that nothing is sent
	r, err := http.NewRequestWithContext(ended, http.MethodPost, tokenURL, strings.NewReader(form))
	if err != nil { // the Transport says so of any other request, too
		r, _ = http.NewRequestWithContext(ended, http.MethodPost, "https://apple.invalid/", strings.NewReader(form))
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	_, err = (&applebusiness.Transport{TokenURL: tokenURL, Base: new(http.Transport)}).RoundTrip(r)
	if e, ok := errors.AsType[*applebusiness.Error](err); ok && e.Reason == applebusiness.ErrUnsafeTokenRequest {
		return e
	}
	return nil
}

var errUnusable = errors.New(prefix + "the Manager lacks a config or a Store: use New")

// usable returns why no method can do anything, or nil.
func (m *Manager) usable() error {
	switch {
	case m == nil || m.config == nil || m.store == nil:
		return errUnusable
	case m.closed():
		return ErrClosed
	}
	return nil
}

func (m *Manager) closed() bool { return m.queued.Err() != nil }

// Format writes no more than what m is, whatever the verb: fmt would follow pointers to the client secret.
func (m *Manager) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte("grants.Manager")) }

// LogValue keeps the client secret and the tokens out of logs.
func (m *Manager) LogValue() slog.Value { return slog.StringValue("grants.Manager") }

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
// After a failure callers get the same error at once: for a second; for longer, up to 5 minutes, if requests for this grant
// fail again and again; or for as long as Apple wants to be left alone. The RetryAfter of an [*applebusiness.Error] says
// for how long.
//
// The token is the caller's own copy. It holds what a Store keeps: the two tokens, the type and the expiry.
func (m *Manager) Token(ctx context.Context, grant string) (*oauth2.Token, error) {
	if err := m.usable(); err != nil {
		return nil, err
	}
	if found, ok := m.entries.Load(grant); ok {
		e, now := found.(*entry), m.now()
		if c := e.current.Load(); c != nil && m.touch(e, c, now) {
			if now >= time.Duration(c.refreshAt.Load()) {
				m.refreshEarly(grant, e, c)
			}
			return copyToken(c.token), nil
		}
	}
	return m.wait(ctx, grant)
}

// refreshEarly starts a refresh of c in the background, unless there is one.
func (m *Manager) refreshEarly(grant string, e *entry, c *current) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed() || e.attempt != nil || e.current.Load() != c || m.now() < time.Duration(c.refreshAt.Load()) {
		return
	}
	c.refreshAt.Store(int64(never)) // until the attempt has failed
	m.begin(grant, e, want{})
}

// wait returns the outcome of the attempt that is under way, or of a new one.
func (m *Manager) wait(ctx context.Context, grant string) (*oauth2.Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.closed() {
		m.mu.Unlock()
		return nil, ErrClosed
	}
	e, now := m.entry(grant), m.now()
	if c := e.current.Load(); c != nil {
		if m.touch(e, c, now) {
			m.mu.Unlock()
			return copyToken(c.token), nil
		}
		if now < c.expires {
			e.current.Store(nil) // nobody has used it for an hour, or its time has passed in a suspended machine
		}
	}
	looked := e.asked // for a caller: what RefreshDue was refused may be good enough for one
	e.asked = true
	e.used.Store(int64(now))
	if looked && now < e.lookAt && e.attempt == nil {
		if err := cmp.Or(m.remembered(e), m.unusableURL, m.refusal(nil)); err != nil {
			m.mu.Unlock()
			return e.lastResort(err)
		}
	}
	var enough <-chan time.Time
	if c := e.current.Load(); c != nil && time.Until(c.token.Expiry) > 0 { // it has seconds to live
		patience := min(lastPatience, time.Until(c.token.Expiry))
		if e.attempt != nil || e.failures > 0 {
			patience = 0 // for minutes it could not be replaced
		}
		enough = time.After(patience)
	}
	if e.attempt == nil {
		m.begin(grant, e, want{})
	}
	o := e.attempt.outcome
	o.callers++
	m.mu.Unlock()
	return m.await(ctx, e, o, enough)
}

// await returns the outcome to a caller, or, when that has waited enough, the current token in the last seconds of its life.
func (m *Manager) await(ctx context.Context, e *entry, o *outcome, enough <-chan time.Time) (*oauth2.Token, error) {
	for {
		select {
		case <-o.done:
			if o.err != nil {
				return e.lastResort(o.err)
			}
			return copyToken(o.token), nil
		case <-enough:
			if token, _ := e.lastResort(nil); token != nil {
				m.leave(o)
				return token, nil
			}
			enough = nil
		case <-ctx.Done():
			m.leave(o)
			return nil, ctx.Err()
		}
	}
}

// leave is called by a caller who waits no longer.
func (m *Manager) leave(o *outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o.callers--
}

// TokenSource returns an [oauth2.TokenSource] whose Token is [Manager.Token] with ctx. It needs no [oauth2.ReuseTokenSource].
func (m *Manager) TokenSource(ctx context.Context, grant string) oauth2.TokenSource {
	return tokenSource(func() (*oauth2.Token, error) { return m.Token(ctx, grant) })
}

type tokenSource func() (*oauth2.Token, error)

func (f tokenSource) Token() (*oauth2.Token, error) { return f() }

// Put stores the token of a customer who has connected, or connected again: the grant is made if need be, a verdict about
// its earlier token is gone, and a refresh of that under way comes to nothing, unless it sends this very refresh token. Put
// waits for the Store, within ctx. After a *StoreError, also one of ctx, the token may be stored or not: call Put again with
// it, since nothing but the caller may have it. Retry before the access token expires: afterwards another process may
// already have rotated it, and Put would restore a spent token. The same holds if the process dies within Put.
// [Manager.Connect] does all that.
//
// The token needs a refresh token; without one Put stores nothing and returns [applebusiness.ErrNoRefreshToken]. One
// without an Expiry, or without an access token that a header can carry, counts as expired, and is refreshed at its first
// use. An empty grant is an error, and so is a refresh token with characters that RFC 6749 does not have in one, or one
// that this process has replaced. A grant that was called dead by mistake is alive again once the token that the Store has
// kept is put.
//
// Other processes use the token that they have in memory until that comes due or is invalidated.
func (m *Manager) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	if err := m.usable(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case grant == "":
		return errNoName
	case token == nil || token.RefreshToken == "":
		return noRefreshToken()
	case !isToken(token.RefreshToken):
		return errNotToken
	}
	err := m.put(ctx, grant, token)
	if err != nil && err != errReplaced {
		return m.storeError(grant, err, token)
	}
	return err
}

// put tries once to store a customer's token. Its error is the Store's, or errReplaced.
func (m *Manager) put(ctx context.Context, grant string, token *oauth2.Token) error {
	stored := copyToken(token)
	if !isToken(stored.AccessToken) {
		stored.AccessToken = ""
	}
	if now := time.Now(); stored.Expiry.IsZero() || stored.AccessToken == "" && stored.Expiry.After(now) {
		stored.Expiry = now
	}
	var line lineage
	m.mu.Lock()
	if found, ok := m.entries.Load(grant); ok {
		line = found.(*entry).line
	}
	replaced := m.isReplaced(grant, stored)
	m.active++ // a Close that begins now puts right what is written late
	m.mu.Unlock()
	var err error
	if !replaced {
		err = m.through(ctx, "the Store", func(ctx context.Context) error { return m.store.Put(ctx, grant, stored) })
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.ended()
	if replaced || m.isReplaced(grant, stored) { // it was sent meanwhile
		return errReplaced
	}
	if err != nil {
		return err
	}
	e := m.entry(grant)
	underWay := e.attempt != nil && e.line.newest != nil && e.line.newest.RefreshToken == stored.RefreshToken
	if !underWay {
		m.entries.Delete(grant)
		e = m.entry(grant)
		e.line = line
	}
	e.line.follow(stored, max(m.now(), 1))
	m.use(e, stored, false) // no caller needs the Store for what was put just now
	return nil
}

// isReplaced reports whether token was replaced by the grant's newest, which is saved over it then if the row holds it, as
// after a Put that took effect although it failed; m.mu is held.
func (m *Manager) isReplaced(grant string, token *oauth2.Token) bool {
	found, ok := m.entries.Load(grant)
	if !ok || !found.(*entry).line.older(token) {
		return false
	}
	switch e := found.(*entry); {
	case !m.closed() && e.attempt == nil:
		m.begin(grant, e, want{due: true})
	case m.closed(): // no attempt would do it any more: Close does, also beside a Save whose write may be the earlier one
		m.owe(&attempt{m: m, grant: grant, e: e, holder: rand.Text(), judged: true}, e.line.newest, 0)
	}
	return true
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
	err := m.through(ctx, "the Store", func(ctx context.Context) error { return m.store.Delete(ctx, grant) })
	if err != nil && !errors.Is(err, ErrNoGrant) {
		if ended := ctx.Err(); errors.Is(err, ended) { // no error is nil
			return ended
		}
		return m.storeError(grant, err)
	}
	m.entries.Delete(grant)
	return nil
}

// Invalidate says that the API has answered 401 to token although it has not expired. The next call of Token waits for
// another one: a sibling's if there is one, otherwise from Apple. A token that is not the one in memory is ignored, as
// is nil: it has been replaced already. So is one that replaced an invalidated one less than a minute ago, so that an
// API that refuses every token does not cause a refresh for each call; after several such tokens of different grants all
// are ignored, but for one a minute, and ever fewer, until one of these is not refused again. Invalidate waits for
// nothing. [Manager.Client] calls it by itself.
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
	e, now := found.(*entry), m.now()
	c := e.current.Load()
	switch {
	case c == nil || c.token.AccessToken != token.AccessToken:
		return
	case now < c.guarded:
		m.noteRefusedToken(grant)
		return
	case m.app.api.cause != nil && !m.probesAPI(grant):
		return
	}
	e.bad = c.token.AccessToken
	e.current.Store(nil)
	e.lookAt = 0
}
