package grants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// kind is what a failed token request says, as far as it matters to others than its caller.
type kind int

const (
	alone   kind = iota // nothing about other grants
	refused             // the refresh token is invalid: the customer has to reconnect, if that can be believed
	limited             // too many requests
	outage              // Apple is down, or the way to it: the fleet waits
	shared              // no single grant's trouble: a proxy, a wrong host, a response that nobody documents
	ours                // the app's: its credentials, or how it sends
)

// classify returns the kind of a failed refresh.
func classify(e *applebusiness.Error) kind {
	advice := applebusiness.Troubleshoot(e)
	undocumented := e.StatusCode >= 400 && e.Reason == "" && e.Code != applebusiness.CodeInvalidRequest // which can be one customer's
	switch {
	case e.StatusCode == http.StatusTooManyRequests || e.Reason == applebusiness.ErrRateLimited:
		return limited
	case advice.Action == applebusiness.ActionReauthorize && refusal(e):
		return refused
	case e.StatusCode < 500 && ofTheApp(e):
		return ours
	case advice.Action == applebusiness.ActionRetry && advice.Impact == applebusiness.ImpactService &&
		e.Reason != applebusiness.ErrMalformedResponse:
		return outage
	case advice.Action == applebusiness.ActionRetry || advice.Action == applebusiness.ActionCheckNetwork || undocumented:
		return shared
	}
	return alone
}

// refusal reports whether Apple has said that the refresh token is invalid: nothing else may end a grant.
func refusal(e *applebusiness.Error) bool {
	return e.StatusCode != 0 && e.StatusCode < 500 &&
		(e.Reason == applebusiness.ErrInvalidRefreshToken || e.Reason == "" && e.Code == applebusiness.CodeInvalidGrant)
}

// ofTheApp reports whether the failure would be the same for each grant. A row of another endpoint may be one customer's.
func ofTheApp(e *applebusiness.Error) bool {
	switch e.Reason {
	case applebusiness.ErrInvalidCredentials, applebusiness.ErrInvalidClientID, applebusiness.ErrEndpointNotFound,
		applebusiness.ErrUnsupportedMediaType, applebusiness.ErrEmptyBody, applebusiness.ErrMissingFields,
		applebusiness.ErrInvalidGrantType, applebusiness.ErrUnsafeTokenRequest:
		return true
	case applebusiness.ErrMissingParameter: // another one may be missing for one customer, or from an exchange alone
		return e.Parameter == "client_id" || e.Parameter == "client_secret" || e.Parameter == "grant_type"
	case "":
		return e.Code == applebusiness.CodeUnauthorizedClient || e.Code == applebusiness.CodeInvalidClient
	}
	return false
}

// refusesSecret reports whether another client secret may help, whatever words the server has for it.
func refusesSecret(e *applebusiness.Error) bool {
	return e.Reason == applebusiness.ErrInvalidCredentials || e.Code == applebusiness.CodeInvalidClient
}

// mayBeLost reports whether Apple may have replaced the refresh token in a response that did not arrive.
func mayBeLost(e *applebusiness.Error) bool {
	switch {
	case e.Reason == applebusiness.ErrNoResponse:
		return !e.Unsent()
	case e.StatusCode >= 500:
		return e.StatusCode != http.StatusServiceUnavailable
	case e.Reason == applebusiness.ErrMalformedResponse, e.Reason == "" && !ofTheApp(e): // a token may stand beside what is called an error
		return e.StatusCode < 300 // 0 where x/oauth2 does not tell
	}
	return false
}

// tokenFailure returns the *Error of a failed request, and what callers get for it.
func tokenFailure(err error) (*applebusiness.Error, error) {
	if e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(err)); ok && e != nil {
		return e, e
	}
	e := waitError(applebusiness.ErrNoResponse, 0)
	if foreign, ok := errors.AsType[*panicError](err); ok {
		return e, fmt.Errorf("%w: %w", e, foreign)
	}
	return e, e
}

// send sends the record's refresh token. It returns the token, or the row to look at next, or an error.
func (a *attempt) send(record Record) (*oauth2.Token, Record, error) {
	m := a.m
	secret, err := m.clientSecret(a.ctx, sentSecret{})
	m.mu.Lock()
	ready := err == nil && a.ctx.Err() == nil && a.ready()
	if ready { // from now on nothing ends the request, and Close waits for its response
		a.sent, a.event.Sent, a.sentAt = true, true, max(m.now(), 1) // as the answer of ClientSecret has it
		a.granted = false
		m.pass(a)
	}
	m.mu.Unlock()
	switch {
	case ready:
	case a.ctx.Err() != nil:
		return nil, Record{}, a.ended()
	default:
		return nil, record, err // or the answer took so long that too little is left of the lease
	}
	token, err := a.request(record.Token.RefreshToken, secret)
	if err == nil {
		return a.keep(record, token), record, nil
	}
	record, err = a.failed(record, err, secret)
	return nil, record, err
}

// request sends a refresh token to Apple. It does not end with the callers' contexts, nor with Close.
func (a *attempt) request(refreshToken, secret string) (*oauth2.Token, error) {
	m := a.m
	ctx, cancel := withPatience(m.work, m.timeout)
	defer cancel()
	config := *m.config
	config.ClientSecret = secret
	token, err := enter(ctx, m, "the HTTP client", func(ctx context.Context) (*oauth2.Token, error) {
		return config.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
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
	token.RefreshToken = cmp.Or(token.RefreshToken, record.Token.RefreshToken)
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.sentAt >= m.queue.pauseBegan { // otherwise it belongs to the burst
		m.queue.pauses = 0
	}
	e.line.follow(token, max(m.now(), 1))
	m.use(e, token, true)
	m.app.proven = true
	m.noteVerdict(&verdict{a: a})
	m.open(&m.app.refusals)
	m.owe(a, token, record.Version)
	return token
}

// failed records what a request came to that brought no token.
func (a *attempt) failed(record Record, err error, secret string) (Record, error) {
	m := a.m
	if m.work.Err() != nil {
		a.leaseEnds = time.Time{} // nothing can be written any more: the lease runs out, and makes the record Unfinished
		return Record{}, ErrClosed
	}
	e, failure := tokenFailure(err)
	k := classify(e)
	if k == refused {
		dead := *e
		dead.ResponseLost = e.ResponseLost || record.Unfinished
		return a.condemn(record, m.noteRefusal(a, record, &dead))
	}
	if k == ours && refusesSecret(e) {
		switch other, err := m.clientSecret(a.ctx, sentSecret{secret, a.sentAt}); {
		case a.ctx.Err() != nil: // the answer is Apple's
		case err != nil:
			failure = err
		case other != secret:
			return a.again(errUnsettled) // wrong credentials have spent nothing
		}
	}
	if k == limited {
		a.remember, a.held = m.pause(a.sentAt, e.RetryAfter), true
		return Record{}, withWait(failure, a.remember)
	}
	lost := mayBeLost(e)
	mark := Mark{Unfinished: record.Unfinished || lost}
	if k == outage {
		m.mu.Lock()
		a.remember = cmp.Or(e.RetryAfter, backoff(a.e.outages))
		a.e.outages++
		m.mu.Unlock()
		failure = withWait(failure, a.remember)
		mark.RetryAt = time.Now().Add(a.remember + jitter(time.Second))
	}
	if held, wait := m.noteFailure(a, a.grant, k, e); held {
		a.remember, a.held = wait, true
		failure = withWait(failure, wait)
	}
	if mark.RetryAt.IsZero() && mark.Unfinished == record.Unfinished {
		return Record{}, failure // of this process alone; Release follows
	}
	switch err := a.mark(record.Version, mark); {
	case outdated(err):
		return a.again(err) // somebody has put in another token meanwhile
	case err == nil && lost:
		m.mu.Lock()
		a.e.at(record.Version).lostAt = max(m.now(), 1)
		m.mu.Unlock()
	case err != nil && mark.Unfinished:
		a.leaseEnds = time.Time{} // no Release: a lease that runs out says the same
	}
	return Record{}, failure
}

// condemn records that Apple has refused the record's refresh token for good. The write comes first: if it conflicts, the
// refused token was no longer the grant's, and nobody may be told to reconnect.
func (a *attempt) condemn(record Record, v *verdict) (Record, error) {
	m := a.m
	if doubted := m.doubted(v, false); doubted != nil {
		return Record{}, doubted
	}
	dead := *v.err
	err := a.mark(record.Version, Mark{Dead: &dead, Unfinished: record.Unfinished})
	m.mu.Lock()
	row := a.e.at(v.version)
	if row.verdict = nil; err != nil {
		row.verdict = v // and recorded later
	}
	m.mu.Unlock()
	if outdated(err) {
		return a.again(err)
	}
	if doubted := m.doubted(v, true); doubted != nil {
		return Record{}, doubted
	}
	if err == nil {
		a.remember = failureMemory // the row says it from now on, and may soon say something else
		return Record{}, v.err
	}
	return Record{}, a.storeError(err) // the verdict is recorded at the next chance, without a request
}

func (a *attempt) mark(version int64, mark Mark) error {
	m := a.m
	err := m.call(m.work, func(ctx context.Context) error { return m.store.Mark(ctx, a.grant, a.holder, version, mark) })
	if err == nil {
		a.leaseEnds = time.Time{}
	}
	return err
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

// Label returns a label for a metric, out of a bounded set: "ok", also if the Store had a good token and nothing was sent
// (see Sent); "held" if nothing was sent, on purpose, since others were told to wait or the app is held; "store" for a
// [*StoreError], "no_grant", "closed"; and for everything else what [applebusiness.Label] says.
func (r Refresh) Label() string {
	if r.Err == nil {
		return "ok"
	}
	if _, ok := errors.AsType[*StoreError](r.Err); ok {
		return "store"
	}
	switch {
	case errors.Is(r.Err, ErrNoGrant):
		return "no_grant"
	case errors.Is(r.Err, ErrClosed):
		return "closed"
	}
	if e, ok := errors.AsType[*applebusiness.Error](r.Err); ok && !r.Sent && e.RetryAfter > 0 {
		return "held"
	}
	return applebusiness.Label(r.Err)
}
