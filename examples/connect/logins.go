package main

import (
	"sync"
	"time"

	"golang.org/x/oauth2"
)

const (
	loginLife = 15 * time.Minute
	maxLogins = 1000
)

// login is one way of a browser to Apple's consent page and back.
type login struct {
	state    string
	verifier string // of PKCE; never leaves the server but to the token endpoint
	browser  string // the cookie of the browser that started it
	replaces string // the id of the connection that is to be reconnected, or ""
	expires  time.Time
	used     bool
}

// logins are those under way, and those of late, so that a replayed callback can be told from a forged one.
type logins struct {
	mu      sync.Mutex
	byState map[string]*login
}

// start returns a new login. If there are too many, the oldest is forgotten.
func (l *logins) start(browser, replaces string, now time.Time) login {
	l.mu.Lock()
	defer l.mu.Unlock()
	var oldest *login
	for state, other := range l.byState {
		if !now.Before(other.expires) {
			delete(l.byState, state)
		} else if oldest == nil || other.expires.Before(oldest.expires) {
			oldest = other
		}
	}
	if len(l.byState) >= maxLogins {
		delete(l.byState, oldest.state)
	}
	if l.byState == nil {
		l.byState = make(map[string]*login)
	}
	started := login{
		state:    oauth2.GenerateVerifier(), // characters that need no percent-encoding
		verifier: oauth2.GenerateVerifier(),
		browser:  browser,
		replaces: replaces,
		expires:  now.Add(loginLife),
	}
	kept := started
	l.byState[started.state] = &kept
	return started
}

// take returns the login that browser started with state, once: from then on it is replayed, and has no verifier. It
// returns the zero login if there is none.
func (l *logins) take(browser, state string, now time.Time) (taken login, replayed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.byState[state]
	if kept == nil || browser == "" || kept.browser != browser || !now.Before(kept.expires) {
		return login{}, false
	}
	taken, replayed = *kept, kept.used
	kept.used, kept.verifier = true, ""
	return taken, replayed
}
