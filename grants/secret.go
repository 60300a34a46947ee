package grants

import (
	"context"
	"time"
)

// secret is the app's client secret, where Options.ClientSecret says it.
type secret struct {
	lock     chan struct{} // holds a value while the fields are used, and ClientSecret is asked: all who wait have one answer
	value    string
	err      error         // of the last answer
	answered time.Duration // when it came, by Manager.now; 0: never asked
	failures int           // in a row
}

// clientSecret returns the client secret to send.
func (m *Manager) clientSecret(ctx context.Context) (string, error) {
	if m.options.ClientSecret == nil {
		return m.config.ClientSecret, nil
	}
	s := &m.secret
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if s.answered != 0 && (s.err == nil || m.now()-s.answered < backoff(s.failures-1)) {
		return s.value, s.err
	}
	return m.askLocked(ctx)
}

// askSecret returns the client secret after one was refused that was sent at an instant: another one, if there is by now.
func (m *Manager) askSecret(ctx context.Context, refused string, sentAt time.Duration) (string, error) {
	if m.options.ClientSecret == nil {
		return m.config.ClientSecret, nil
	}
	s := &m.secret
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if s.value != refused || s.answered > sentAt {
		return s.value, s.err
	}
	return m.askLocked(ctx)
}

// askLocked asks ClientSecret; secret.lock is held.
func (m *Manager) askLocked(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s := &m.secret
	value, err := enter(ctx, m, "Options.ClientSecret", m.options.ClientSecret)
	s.answered = max(m.now(), 1)
	if err != nil {
		s.err = &secretError{err}
		s.failures++
		return s.value, s.err
	}
	s.value, s.err, s.failures = value, nil, 0
	return value, nil
}

// secretError is a failure of Options.ClientSecret. Its text says nothing of the cause, which may hold a secret.
type secretError struct{ err error }

func (*secretError) Error() string   { return prefix + "asking for the client secret failed" }
func (e *secretError) Unwrap() error { return e.err }

// Foreign marks e as none of Apple's errors: package applebusiness looks for no advice beyond it.
func (*secretError) Foreign() {}
