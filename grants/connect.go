package grants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	connectLife   = 10 * time.Minute // how long the outcome of a redirect is known; a code lives 5
	maxConnects   = 1000             // from which on failures are forgotten at once
	limitPatience = 5 * time.Second  // how long a customer waits for Limit
)

// Connection is what [Manager.Connect] has connected. Nothing in it is secret.
type Connection struct {
	Grant string // Apple's orgId of the organisation that the user picked, under which the grant is stored
	Name  string // its legalName, as Apple sent it; "" if Apple sent none
}

// Connect finishes what a redirect of Apple's consent page began, and returns which organisation is connected. It verifies r
// as [applebusiness.VerifyRedirect] does, redeems the code, asks GET /me of the API which organisation the user picked, and
// stores the token under its orgId, as [Manager.Put] does, with as many tries as it takes. state and verifier are those of
// the browser that started. Redirect the browser then: its URL holds the code.
//
// All that goes on when r's context ends, and [Manager.Close] waits for it; give r a context that outlives the browser's,
// but with a deadline, if what follows has to be done without the browser too. The same redirect again, with the same state
// and verifier, waits for the first one or gets its outcome, so that a browser which loads the page again is connected by
// one exchange. This process knows the outcome for 10 minutes: let the browser keep state and verifier for as long in a
// cookie, and no longer. Another process would send the code again: its customer is told to start over, although the grant
// is stored, and OAuth lets the server end that grant then. So lead a browser back to the process that it started from, or
// take state once, from a session that all processes share.
//
// The error is VerifyRedirect's, before anything is sent; the exchange's [*applebusiness.Error], which for a token without
// a refresh token is [applebusiness.ErrNoRefreshToken]; one with [applebusiness.ActionStartOver] if /me fails, again and
// again for as long as a token request may take where that can pass; [ErrClosed]; or, if r's context ended first, that
// context's, in a [*StoreError] if it is the Store that keeps the customer waiting: the customer may be connected a moment
// later. Once the code was sent, none is [applebusiness.Retryable] unless the exchange's own says that the code is not
// spent; only then does the same redirect send it again. Nothing in an error is secret. A client secret that was replaced
// fails the Connects that were sent with the old one: their customers start again, and [Options.ClientSecret] is asked.
//
// At the next consent a customer can pick another organisation, and two customers of yours can pick the same one. The
// earlier grant stays and is refreshed: [Manager.Delete] it once none of your customers has it.
//
// config's TokenURL has to end in /oauth2/token, as that of [applebusiness.OAuth2Endpoint]; /me is beside it.
func (m *Manager) Connect(r *http.Request, state, verifier string) (Connection, error) {
	if err := m.usable(); err != nil {
		return Connection{}, err
	}
	code, err := applebusiness.VerifyRedirect(r, state)
	if err != nil {
		return Connection{}, err
	}
	c, err := m.connect(code, state, verifier)
	if err != nil {
		return Connection{}, err
	}
	select {
	case <-c.done:
	case <-r.Context().Done():
	}
	return c.outcome(r.Context().Err())
}

// connecting is what becomes of a code.
type connecting struct {
	m     *Manager
	owner hash          // of the state and the verifier that came with the code
	done  chan struct{} // closed when all who bring the code can have the outcome

	// Guarded by Manager.mu.
	connection Connection
	err        error         // errGoesOn until the outcome is known
	pending    bool          // the code was sent, and what it brings is not stored: Close names it
	token      *oauth2.Token // that is not stored yet
	failure    error         // of the last try to store it
	forgetAt   time.Time     // zero as long as it must not be forgotten
}

var errGoesOn = errors.New(prefix + "the request ended while its customer was being connected, which goes on")

// connect returns what becomes of a code: it is redeemed, unless it was brought before.
func (m *Manager) connect(code, state, verifier string) (*connecting, error) {
	switch known, ok := m.unusableURL.(*applebusiness.Error); {
	case ok:
		return nil, ofExchange(known)
	case !strings.HasSuffix(m.config.Endpoint.TokenURL, tokenPath):
		return nil, fmt.Errorf(prefix+"the TokenURL does not end in "+tokenPath+", so that nothing says where "+mePath+" is: %w",
			ofExchange(waitError(applebusiness.ErrUnsafeTokenRequest, 0)))
	}
	key, owner := hashOf(code), hashOf(strconv.Quote(state)+strconv.Quote(verifier))
	m.mu.Lock()
	defer m.mu.Unlock()
	now, known := time.Now(), m.connects[key] != nil
	maps.DeleteFunc(m.connects, func(_ hash, c *connecting) bool { // a code that has brought a grant must not be sent again
		isOld := !now.Before(c.forgetAt) || !known && c.err != nil && len(m.connects) >= maxConnects
		return isOld && !c.forgetAt.IsZero()
	})
	switch c := m.connects[key]; {
	case c != nil && c.owner != owner: // a code of another browser's, which PKCE would refuse
		return nil, fmt.Errorf(prefix+"the code was brought before, with another state or verifier: %w",
			&applebusiness.Error{Endpoint: applebusiness.AuthorizationEndpoint, Reason: applebusiness.ErrStateMismatch})
	case c != nil:
		return c, nil
	case m.closed():
		return nil, ErrClosed
	case m.connects == nil:
		m.connects = make(map[hash]*connecting)
	}
	c := &connecting{m: m, owner: owner, done: make(chan struct{}), err: errGoesOn}
	m.connects[key] = c
	m.spawn(func() { c.run(code, verifier) })
	return c, nil
}

// outcome returns what one gets who has brought the code, and waits no longer if its request has ended.
func (c *connecting) outcome(ended error) (Connection, error) {
	c.m.mu.Lock()
	connection, token, failure, err := c.connection, c.token, c.failure, c.err
	c.m.mu.Unlock()
	switch {
	case err == nil:
		return connection, nil
	case err != errGoesOn:
		return Connection{}, err
	case failure != nil:
		return Connection{}, newStoreError(connection.Grant, fmt.Errorf("%w: %w", ended, failure), token)
	}
	// A deadline alone would be advised as a failure after which one can try again.
	return Connection{}, &opaqueError{err.Error() + ": " + ended.Error(), &ended}
}

// run redeems a code, stores what it brings, and gives the outcome to all who wait. A Close that gave up leaves what it names.
func (c *connecting) run(code, verifier string) {
	err := c.redeem(code, verifier)
	if err == nil {
		err = c.complete(c.m.work)
	}
	if err != nil && c.m.work.Err() != nil {
		err = ErrClosed
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	defer close(c.done)
	c.err = err
	life := connectLife
	switch failed, ok := err.(*applebusiness.Error); {
	case err == ErrClosed:
		return
	case ok && (failed.Unsent() || applebusiness.Retryable(failed)):
		life = failed.RetryAfter // the code is not spent
	case err != nil && !c.pending:
		life = 0 // nor was it sent
	}
	c.settle()
	c.forgetAt = time.Now().Add(life)
}

// settle is called when there is nothing to store any more; Manager.mu is held.
func (c *connecting) settle() { c.pending, c.token, c.failure = false, nil, nil }

// redeem sends the code to Apple, once. What holds refreshes back does not hold it: a customer waits, and a code lives for
// minutes.
func (c *connecting) redeem(code, verifier string) error {
	m, config := c.m, *c.m.config
	patient, cancel := context.WithTimeout(m.work, limitPatience)
	_ = m.waitForLimit(patient)
	cancel()
	var err error
	config.ClientSecret, err = m.clientSecret(m.work, sentSecret{})
	if err = cmp.Or(m.work.Err(), err); err != nil {
		return err
	}
	m.mu.Lock()
	c.pending = true
	m.mu.Unlock()
	sentAt := max(m.now(), 1) // as the answer of ClientSecret has it
	ctx, cancel := withPatience(m.work, m.timeout)
	defer cancel()
	token, err := enter(ctx, m, "the HTTP client", func(ctx context.Context) (*oauth2.Token, error) {
		return config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	})
	if err != nil {
		failed, _ := tokenFailure(err)
		if m.work.Err() == nil { // what that has ended says nothing
			c.note(failed, config.ClientSecret, sentAt)
		}
		return ofExchange(failed)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteAnswer()
	if token.RefreshToken == "" {
		return ofExchange(noRefreshToken())
	}
	c.token = token
	return nil
}

// note tells what a failed exchange says about the app. About a grant it says nothing.
func (c *connecting) note(failed *applebusiness.Error, secret string, sentAt time.Duration) {
	m, e := c.m, *failed
	e.GrantType = applebusiness.GrantTypeRefreshToken // others are told of it as if it were a refresh
	k := classify(&e)
	if k == limited {
		m.pause(sentAt, e.RetryAfter)
		return
	}
	if refusesSecret(&e) {
		if other, err := m.clientSecret(m.work, sentSecret{secret, sentAt}); err != nil || other != secret {
			return // the next request may be sent with another one
		}
	} else if k != refused {
		return // it may be about the code, which anybody can have made up
	}
	m.noteFailure(nil, string(c.owner[:]), k, &e)
}

// ofExchange returns failed as the error of a code exchange, whatever was asked or is known of it.
func ofExchange(failed *applebusiness.Error) *applebusiness.Error {
	e := *failed
	e.GrantType = applebusiness.GrantTypeAuthorizationCode
	return &e
}

// complete asks whose the token is, unless that is known, and stores it, unless there is none. It fails if ctx ends before.
func (c *connecting) complete(ctx context.Context) error {
	m := c.m
	m.mu.Lock()
	connection, token, failure := c.connection, c.token, c.failure
	m.mu.Unlock()
	if token == nil {
		return nil
	}
	if connection.Grant == "" {
		var err error
		if connection, err = m.whose(ctx, token); err != nil {
			return err
		}
		m.mu.Lock()
		c.connection = connection
		m.mu.Unlock()
	}
	for tries := 0; ; tries++ {
		err := m.putConnected(ctx, connection.Grant, token, failure != nil)
		if err == nil {
			if failure != nil {
				m.log(slog.LevelInfo, "the token of a customer who connects is stored", slog.String("grant", connection.Grant))
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			c.settle()
			return nil
		}
		if failure == nil {
			m.log(slog.LevelError, "the token of a customer who connects cannot be stored yet",
				slog.String("error", newStoreError(connection.Grant, err, token).Error()))
		}
		if failure == nil || ctx.Err() == nil { // what ctx has ended says nothing about the Store
			failure = err
		}
		m.mu.Lock()
		c.failure = failure
		m.mu.Unlock()
		if err := sleep(ctx, saveBackoff(tries)); err != nil {
			return err
		}
	}
}

// putConnected tries once to store token as Put does. After a try that failed it looks first: that one may have taken
// effect, and since then the grant may have been refreshed, or connected once more. What expires later is newer.
func (m *Manager) putConnected(ctx context.Context, grant string, token *oauth2.Token, again bool) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if again {
		row, err := ask(ctx, m, func(ctx context.Context) (Record, error) { return m.store.Load(ctx, grant) })
		if err == nil && row.Token != nil && row.Dead == nil && (same(row.Token, token) || row.Token.Expiry.After(token.Expiry)) {
			m.entries.Delete(grant)
			return nil
		}
	}
	if err := m.put(ctx, grant, token); err != errReplaced {
		return err
	}
	return nil
}

// completeConnects tries again to store what an earlier Close gave up, until ctx ends.
func (m *Manager) completeConnects(ctx context.Context) {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.connects))
	m.mu.Unlock()
	_ = forEach(ctx, all, func(ctx context.Context, c *connecting) error {
		_ = c.complete(ctx)
		return nil
	})
}
