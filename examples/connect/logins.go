package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

const (
	loginLife = 15 * time.Minute
	maxLogins = 10 // of one browser; each tab can have one
)

// login is one way of a browser to Apple's consent page and back. The browser keeps it, sealed, in a cookie of its own: the
// server needs no memory for those who never come back, and nobody can push out another one's.
type login struct {
	State    string    `json:"state"`
	Verifier string    `json:"verifier"` // of PKCE
	Expects  string    `json:"expects"`  // the organisation that is to be reconnected, or ""
	Expires  time.Time `json:"expires"`
	Used     bool      `json:"used"` // so that a replayed redirect can be told from a forged one
}

// logins seals and opens them.
type logins struct {
	aead   cipher.AEAD
	prefix string // of the cookies' names
	secure bool
}

// newLogins makes a key that nobody else has: when the program ends, so do the logins under way.
func newLogins(secure bool) *logins {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	block, _ := aes.NewCipher(key)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	l := &logins{aead, "login-", secure}
	if secure {
		l.prefix = "__Host-login-"
	}
	return l
}

// start begins a login in the browser that sent r. The oldest of too many is forgotten.
func (l *logins) start(w http.ResponseWriter, r *http.Request, expects string, now time.Time) login {
	var names []string
	for _, cookie := range r.Cookies() {
		if strings.HasPrefix(cookie.Name, l.prefix) {
			names = append(names, cookie.Name) // the oldest comes first: RFC 6265 section 5.4
		}
	}
	for len(names) >= maxLogins {
		http.SetCookie(w, l.cookie(names[0], "", -1))
		names = names[1:]
	}
	started := login{
		State:    oauth2.GenerateVerifier(), // characters that need no percent-encoding
		Verifier: oauth2.GenerateVerifier(),
		Expects:  expects,
		Expires:  now.Add(loginLife),
	}
	l.keep(w, started, now)
	return started
}

// take returns the login that this browser started with state, once: from then on it is used. It returns the zero login if
// there is none.
func (l *logins) take(w http.ResponseWriter, r *http.Request, state string, now time.Time) login {
	cookie, err := r.Cookie(l.name(state))
	if err != nil {
		return login{}
	}
	sealed, _ := base64.RawURLEncoding.DecodeString(cookie.Value)
	plain, err := l.aead.Open(nil, nil, sealed, nil)
	var found login
	if err != nil || json.Unmarshal(plain, &found) != nil || found.State != state || !now.Before(found.Expires) {
		return login{}
	}
	if !found.Used {
		used := found
		used.Used, used.Verifier = true, ""
		l.keep(w, used, now)
	}
	return found
}

func (l *logins) keep(w http.ResponseWriter, kept login, now time.Time) {
	plain, _ := json.Marshal(kept) // has no type that fails
	sealed := l.aead.Seal(nil, nil, plain, nil)
	http.SetCookie(w, l.cookie(l.name(kept.State), base64.RawURLEncoding.EncodeToString(sealed), int(kept.Expires.Sub(now)/time.Second)))
}

// name returns the name of a login's cookie: a part of the state is enough to tell a browser's logins apart.
func (l *logins) name(state string) string { return l.prefix + state[:min(8, len(state))] }

func (l *logins) cookie(name, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, MaxAge: maxAge, Path: "/", HttpOnly: true, Secure: l.secure, SameSite: http.SameSiteLaxMode,
	}
}
