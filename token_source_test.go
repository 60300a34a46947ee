package applebusiness_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// sourceFunc is an oauth2.TokenSource that caches nothing.
type sourceFunc func() (*oauth2.Token, error)

func (f sourceFunc) Token() (*oauth2.Token, error) { return f() }

func fixed(token *oauth2.Token, err error) sourceFunc {
	return func() (*oauth2.Token, error) { return token, err }
}

func TestTokenSourceZeroValues(t *testing.T) {
	for _, source := range []*applebusiness.TokenSource{nil, {}, {Hold: true, OnError: func(error) { t.Error("Source was not reached") }}} {
		token, err := source.Token()
		assert.Nil(t, token)
		assert.EqualError(t, err, "applebusiness: the TokenSource has no Source")
	}
	for _, hold := range []bool{false, true} {
		token, err := (&applebusiness.TokenSource{Source: fixed(nil, nil), Hold: hold}).Token()
		assert.Nil(t, token)
		assert.EqualError(t, err, "applebusiness: malformed_response: the source returned no token")
	}
}

func TestTokenSourceReturnsACopy(t *testing.T) {
	original := &oauth2.Token{AccessToken: "a"}
	for _, source := range []*applebusiness.TokenSource{
		{Source: fixed(original, nil)},
		{Source: fixed(original, nil), OnToken: func(token *oauth2.Token) error { token.AccessToken = "changed"; return nil }},
	} {
		first, err := source.Token()
		require.NoError(t, err)
		first.AccessToken = "changed"
		second, err := source.Token()
		require.NoError(t, err)
		assert.Equal(t, "a", second.AccessToken)
		assert.Equal(t, "a", original.AccessToken)
	}
}

// Two x/oauth2 sources over one TokenSource write into their tokens; the race detector watches.
func TestTokenSourceUnderTwoReuseSources(t *testing.T) {
	shared := &applebusiness.TokenSource{Source: fixed(&oauth2.Token{AccessToken: "a", Expiry: time.Now().Add(time.Hour)}, nil)}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			_, err := oauth2.ReuseTokenSourceWithExpiry(nil, shared, time.Duration(i)*time.Second).Token()
			assert.NoError(t, err)
		})
	}
	group.Wait()
}

func TestOnToken(t *testing.T) {
	expiry := time.Now().Add(time.Hour)
	stored := &oauth2.Token{AccessToken: "a1", RefreshToken: "r1", Expiry: expiry}
	var next *oauth2.Token
	var saved []string
	source := &applebusiness.TokenSource{
		Source: sourceFunc(func() (*oauth2.Token, error) { return next, nil }),
		Stored: stored,
		OnToken: func(token *oauth2.Token) error {
			saved = append(saved, token.AccessToken+token.RefreshToken)
			return nil
		},
	}
	for _, next = range []*oauth2.Token{
		{AccessToken: "a1", RefreshToken: "r1", Expiry: expiry.UTC().Round(0)}, // the stored one, from a database
		{AccessToken: "a2", RefreshToken: "r1", Expiry: expiry},
		{AccessToken: "a2", RefreshToken: "r1", Expiry: expiry},
		{AccessToken: "a2", RefreshToken: "r2", Expiry: expiry},
		{AccessToken: "a2", RefreshToken: "r2", Expiry: expiry.Add(time.Hour)},
		stored,
	} {
		token, err := source.Token()
		require.NoError(t, err)
		assert.Equal(t, next.AccessToken, token.AccessToken)
	}
	assert.Equal(t, []string{"a2r1", "a2r2", "a2r2", "a1r1"}, saved)
}

func TestOnTokenFails(t *testing.T) {
	full := errors.New("disk full")
	for name, lifetime := range map[string]time.Duration{"valid": time.Hour, "expired meanwhile": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			requests, broken := 0, true
			var saved []string
			source := &applebusiness.TokenSource{
				Source: sourceFunc(func() (*oauth2.Token, error) {
					requests++
					return &oauth2.Token{AccessToken: fmt.Sprint("a", requests), Expiry: time.Now().Add(lifetime)}, nil
				}),
				OnToken: func(token *oauth2.Token) error {
					if broken {
						token.AccessToken = "changed by the callback"
						return full
					}
					saved = append(saved, token.AccessToken)
					return nil
				},
				OnError: func(err error) { t.Errorf("no failure of Source: %v", err) },
			}
			for range 3 {
				_, err := source.Token()
				assert.Same(t, full, err)
			}
			assert.Equal(t, 1, requests, "saved again without a second request")
			broken = false
			token, err := source.Token()
			require.NoError(t, err)
			if lifetime > 0 {
				assert.Equal(t, "a1", token.AccessToken)
				assert.Equal(t, []string{"a1"}, saved)
			} else {
				assert.Equal(t, "a2", token.AccessToken)
				assert.Equal(t, []string{"a1", "a2"}, saved, "its refresh token may be the only one that lives")
			}
		})
	}
}

func TestOnError(t *testing.T) {
	network := errors.New("connection refused")
	failures := []error{&oauth2.RetrieveError{ErrorCode: "invalid_client"}, network, io.EOF}
	i := 0
	var seen []error
	source := &applebusiness.TokenSource{
		Source:  sourceFunc(func() (*oauth2.Token, error) { i++; return nil, failures[i-1] }),
		OnError: func(err error) { seen = append(seen, err) },
	}
	for range failures {
		_, err := source.Token()
		assert.Same(t, seen[len(seen)-1], err)
	}
	assert.ErrorIs(t, seen[0], applebusiness.CodeInvalidClient)
	assert.Equal(t, []error{network, io.EOF}, seen[1:])
}

func TestHoldOnARevokedGrant(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(401, deadBody))
	var reported atomic.Int32
	source := &applebusiness.TokenSource{
		Source:  s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "r"}),
		OnToken: func(*oauth2.Token) error { return nil },
		OnError: func(error) { reported.Add(1) },
		Hold:    true,
	}
	var group sync.WaitGroup
	for range 1000 {
		group.Go(func() {
			_, err := source.Token()
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
			assert.Equal(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
		})
	}
	group.Wait()
	assert.Len(t, s.requests(), 1)
	assert.EqualValues(t, 1, reported.Load())
}

func TestWithoutHoldEachCallAsks(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(401, deadBody))
	source := &applebusiness.TokenSource{Source: s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "r"}), OnError: func(error) {}}
	for range 3 {
		_, err := source.Token()
		assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	}
	assert.Len(t, s.requests(), 3)
}

func TestHoldUntilRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests, reported := 0, 0
		busy := &applebusiness.Error{StatusCode: 429, RetryAfter: time.Minute, RequestID: "req-1"}
		answer := fmt.Errorf("customer 7: %w", busy)
		source := &applebusiness.TokenSource{
			Source: sourceFunc(func() (*oauth2.Token, error) {
				requests++
				if requests == 1 {
					return nil, answer
				}
				return &oauth2.Token{AccessToken: "a"}, nil
			}),
			OnError: func(error) { reported++ },
			Hold:    true,
		}
		_, err := source.Token()
		assert.Same(t, answer, err)
		time.Sleep(20 * time.Second)
		_, err = source.Token()
		var e *applebusiness.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, 40*time.Second, e.RetryAfter, "what remains of the wait")
		assert.Equal(t, "req-1", e.RequestID)
		assert.ErrorIs(t, err, busy)
		assert.Equal(t, time.Minute, busy.RetryAfter, "a copy was changed")
		assert.True(t, applebusiness.Retryable(err))
		assert.Equal(t, 1, requests)
		assert.Equal(t, 1, reported)

		time.Sleep(40 * time.Second)
		token, err := source.Token()
		require.NoError(t, err)
		assert.Equal(t, "a", token.AccessToken)
		assert.Equal(t, 2, requests)
	})
}

func TestNothingElseHolds(t *testing.T) {
	for _, failure := range []error{
		applebusiness.ErrInvalidCredentials, applebusiness.ErrServer, applebusiness.ErrInvalidGrantType, applebusiness.ErrEndpointNotFound, &applebusiness.Error{StatusCode: 503}, io.EOF, context.DeadlineExceeded,
	} {
		requests := 0
		source := &applebusiness.TokenSource{Hold: true, Source: sourceFunc(func() (*oauth2.Token, error) {
			if requests++; requests > 1 {
				return &oauth2.Token{AccessToken: "a"}, nil
			}
			return nil, failure
		})}
		_, err := source.Token()
		assert.ErrorIs(t, err, failure)
		_, err = source.Token()
		assert.NoError(t, err, "%v heals by itself", failure)
	}
}

func TestPanicsLeaveNothingLocked(t *testing.T) {
	panicking := true
	tripped := func() {
		if panicking {
			panic("callback")
		}
	}
	for name, source := range map[string]*applebusiness.TokenSource{
		"Source":  {Hold: true, Source: sourceFunc(func() (*oauth2.Token, error) { tripped(); return &oauth2.Token{AccessToken: "a"}, nil })},
		"OnToken": {Source: fixed(&oauth2.Token{AccessToken: "a"}, nil), OnToken: func(*oauth2.Token) error { tripped(); return nil }},
	} {
		panicking = true
		assert.PanicsWithValue(t, "callback", func() { source.Token() }, name)
		panicking = false
		token, err := source.Token()
		assert.NoError(t, err, name)
		assert.Equal(t, "a", token.AccessToken, name)
	}
	source := &applebusiness.TokenSource{Hold: true, Source: fixed(nil, applebusiness.ErrInvalidRefreshToken), OnError: func(error) { panic("callback") }}
	assert.PanicsWithValue(t, "callback", func() { source.Token() })
	_, err := source.Token()
	assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken, "held, although OnError panicked")
}

func TestCallbacksAreSerialised(t *testing.T) {
	var inside atomic.Int32
	var calls int // written without a lock of its own: the race detector watches
	alone := func() {
		assert.EqualValues(t, 1, inside.Add(1))
		calls++
		inside.Add(-1)
	}
	var n atomic.Int32
	source := &applebusiness.TokenSource{
		Source: sourceFunc(func() (*oauth2.Token, error) {
			if i := n.Add(1); i%2 == 0 {
				return &oauth2.Token{AccessToken: fmt.Sprint(i)}, nil
			}
			return nil, io.EOF
		}),
		OnToken: func(*oauth2.Token) error { alone(); return nil },
		OnError: func(error) { alone() },
		Hold:    true,
	}
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() { source.Token() })
	}
	group.Wait()
	assert.Equal(t, 200, calls)
}
