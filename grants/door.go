package grants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

const (
	obedience = time.Second            // in which foreign code has to return after its context has ended
	slice     = 250 * time.Millisecond // of a request's time
)

// Ways in which foreign code can fail without an error of its own.
var (
	errGoexit   = errors.New("the goroutine was ended by what it called")
	errStubborn = errors.New("it did not return when its context had ended")
)

// panicError is what a call of foreign code came to that panicked.
type panicError struct{ what, text string }

func (e *panicError) Error() string { return "panic in " + e.what + ": " + e.text }

// enter is the one door to foreign code: a Store, a Limit, an http.RoundTripper, a callback. It returns what f returns, or
// an error if f panics, ends its goroutine, or does not return when ctx has ended. What panicked is logged with its stack.
// No error that comes out of it panics when it is looked into. Manager.mu must not be held.
func enter[T any](ctx context.Context, m *Manager, what string, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: errGoexit}
		defer func() {
			if value := recover(); value != nil {
				r.err = m.panicked(what, value)
			}
			done <- r
		}()
		value, err := f(ctx)
		r = result{value, tame(err)}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(obedience):
		var none T
		return none, fmt.Errorf("%w: %w", errStubborn, ctx.Err())
	}
}

// through is enter for what returns nothing but an error.
func (m *Manager) through(ctx context.Context, what string, f func(context.Context) error) error {
	_, err := enter(ctx, m, what, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// call calls a method of the Store, for a limited time.
func (m *Manager) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return m.through(ctx, "the Store", f)
}

// ask is call for a method that returns something.
func ask[T any](ctx context.Context, m *Manager, f func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return enter(ctx, m, "the Store", f)
}

// outdated reports whether a write failed because the row is another one by now, or gone.
func outdated(err error) bool { return errors.Is(err, ErrConflict) || errors.Is(err, ErrNoGrant) }

// tame returns err, or an error with its text if looking into err panics, as it does with a driver's typed nil.
func tame(err error) (tamed error) {
	if err == nil {
		return nil
	}
	defer func() {
		if recover() != nil {
			tamed = errors.New(textOf(err))
		}
	}()
	_ = err.Error()
	_ = errors.Is(err, errGoexit) // calls each Is and Unwrap
	return err
}

// textOf returns what err says, also if its Error panics.
func textOf(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = "an error without a text"
		}
	}()
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// panicked returns the error for a panic of foreign code, and logs it with its stack: each kind at most once a minute.
func (m *Manager) panicked(what string, value any) error {
	err := &panicError{what, shown(panicText(value))}
	stack := string(debug.Stack())
	m.mu.Lock()
	now := m.now()
	again := now < m.panics[what]
	if !again {
		m.panics[what] = now + tellAgain
	}
	m.mu.Unlock()
	if !again {
		m.log(slog.LevelError, "panic in "+what, slog.String("panic", err.text), slog.String("stack", stack))
	}
	return err
}

// panicText returns what a panic says, also if its own methods panic.
func panicText(value any) (text string) {
	defer func() { _ = recover() }()
	return fmt.Sprint(value)
}

// tell logs from a goroutine of its own; m.mu is held.
func (m *Manager) tell(level slog.Level, text string, attrs ...slog.Attr) {
	m.spawn(func() { m.log(level, text, attrs...) })
}

func (m *Manager) log(level slog.Level, text string, attrs ...slog.Attr) {
	done := make(chan struct{})
	go func() { // a handler is foreign, too
		defer close(done)
		defer func() { _ = recover() }()
		cmp.Or(m.options.Logger, slog.Default()).LogAttrs(context.Background(), level, prefix+text, attrs...)
	}()
	<-done
}

// patience is a context that ends after some time in which this process ran. While the process is stopped, or its machine
// suspended, no time passes: a response that waits to be read is read then.
type patience struct {
	context.Context // the parent
	done            chan struct{}
	err             error // set before done is closed
}

func withPatience(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	parent, cancel := context.WithCancel(parent)
	p := &patience{Context: parent, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for left := d; left > 0 && p.err == nil; left -= slice {
			p.err = sleep(parent, slice)
		}
		p.err = cmp.Or(p.err, context.DeadlineExceeded)
	}()
	return p, cancel
}

func (p *patience) Done() <-chan struct{} { return p.done }

func (p *patience) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}
