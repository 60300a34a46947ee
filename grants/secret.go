package grants

import (
	"context"
	"errors"
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

// sentSecret is a client secret that was sent at an instant.
type sentSecret struct {
	value string
	at    time.Duration // 0: none was sent
}

// clientSecret returns the client secret to send: another one than was refused, if there is by now.
func (m *Manager) clientSecret(ctx context.Context, refused sentSecret) (string, error) {
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
	stale := s.answered == 0 || s.err != nil && m.now()-s.answered >= backoff(s.failures-1)
	if refused.at != 0 {
		stale = s.value == refused.value && s.answered <= refused.at
	}
	if !stale {
		return s.value, s.err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	value, err := enter(ctx, m, "Options.ClientSecret", m.options.ClientSecret)
	if err == nil && value == "" { // which Apple would call a missing parameter
		err = errors.New("the client secret is empty")
	}
	s.answered = max(m.now(), 1)
	if err != nil {
		s.err = &opaqueError{prefix + "asking for the client secret failed", &err}
		s.failures++
	} else {
		s.value, s.err, s.failures = value, nil, 0
	}
	return s.value, s.err
}
