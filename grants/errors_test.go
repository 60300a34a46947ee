package grants_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
)

func TestStoreErrorTextAtItsEdges(t *testing.T) {
	text := func(s string) string { return (&grants.StoreError{Err: errors.New(s)}).Error() }
	const begin, end = `applebusiness/grants: the Store failed: "`, `"`
	assert.LessOrEqual(t, len(text(strings.Repeat("word ", 500))), len(begin)+512+len(end))
	assert.Equal(t, begin+"*** failed"+end, text("aB3dE5gH7jK9 failed"), "what may be a secret, though nobody knows it")

	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		for _, test := range []struct{ access, refresh, want string }{
			{"abcdefgh", "ijklmnop", "*** and ***"},          // words, and tokens
			{"thetoken", "thetokenofrefresh", "*** and ***"}, // one is part of the other
			{"with space here", "with/slash", "*** and ***"}, // as they are
			{"per cent%more", "quo\"temore", `*** and ***`},  // and escaped
		} {
			require.NoError(t, w.store.Store.Put(t.Context(), "a", &oauth2.Token{
				AccessToken: test.access, RefreshToken: test.refresh, Expiry: time.Now().Add(-time.Minute)}))
			w.store.fail(errors.New(test.access+" and "+test.refresh), "Lease")
			_, err := m.Token(t.Context(), "a")
			assert.Equal(t, `applebusiness/grants: the Store failed for grant "a": "`+test.want+`"`, storeFailure(t, err).Error())
			time.Sleep(2 * time.Second)
		}
	})
}

func TestCloseErrorText(t *testing.T) {
	for _, n := range []int{1, 20, 21, 30} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := w.process()
				w.apple.latency = time.Second // what is under way when the first Save fails
				w.store.fail(errDatabase, "Save")
				var names []string
				var group sync.WaitGroup
				for i := range n {
					name := fmt.Sprintf("%02d", i)
					w.connect(name, -time.Minute)
					group.Go(func() { token(t, m, name) })
					if i < 20 {
						names = append(names, `"`+name+`"`)
					}
				}
				group.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := m.Close(ctx)
				more := ""
				if n > 20 {
					more = fmt.Sprintf(" and %d more", n-20)
				}
				assert.EqualError(t, err, "applebusiness/grants: closed before the newest token was stored of "+strings.Join(names, ", ")+more+
					`: "dial tcp ***: connect: connection refused"`)
				assert.NotErrorIs(t, err, applebusiness.ErrNoResponse)
				w.store.fail(nil)
				require.NoError(t, m.Close(t.Context()))
			})
		})
	}
}

func TestStoreErrorText(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.store.fail(errors.New("INSERT … ('refresh-a-0', \"access-a-0\")\nfailed"), "Lease")
		_, err := m.Token(t.Context(), "a")
		e := storeFailure(t, err)
		assert.Equal(t, `applebusiness/grants: the Store failed for grant "a": "*** *** *** *** failed"`, e.Error())

		w.store.fail(errors.New("Put 'a-new-token'"), "Put")
		err = m.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "a-new-token"})
		assert.NotContains(t, err.Error(), "a-new-token")
		w.store.fail(nil)

		assert.Equal(t, `applebusiness/grants: the Store failed: "x"`, (&grants.StoreError{Err: errors.New("x")}).Error())
		assert.NotPanics(t, func() {
			_ = (*grants.StoreError)(nil).Error()
			_ = (*grants.StoreError)(nil).Unwrap()
			_ = (&grants.StoreError{}).Error()
		})
		assert.Less(t, len((&grants.StoreError{Grant: strings.Repeat("g", 5000), Err: errors.New(strings.Repeat("x", 5000))}).Error()), 2000)
	})
}

// A Store that breaks its contract gives an error, no panic, no request.
func TestBrokenStores(t *testing.T) {
	good := func(left time.Duration) *oauth2.Token {
		return &oauth2.Token{AccessToken: "access-a-0", RefreshToken: "refresh-a-0", Expiry: time.Now().Add(left)}
	}
	for name, test := range map[string]struct {
		store    func(w *world) grants.Store
		requests int
	}{
		"no token from Load":  {func(*world) grants.Store { return &scripted{} }, 0},
		"no token from Lease": {func(*world) grants.Store { return &scripted{load: grants.Record{Token: good(-1), Version: 1}} }, 0},
		"no refresh token": {func(*world) grants.Store {
			record := grants.Record{Token: &oauth2.Token{AccessToken: "x", Expiry: time.Now()}, Version: 1}
			return &scripted{load: record, lease: record}
		}, 0},
		"an empty token": {func(*world) grants.Store {
			record := grants.Record{Token: &oauth2.Token{}, Version: 1}
			return &scripted{load: record, lease: record}
		}, 0},
		"always leased": {func(*world) grants.Store {
			return &scripted{load: grants.Record{Token: good(-1), Version: 1}, leaseErr: grants.ErrLeased}
		}, 0},
		"a nil pointer": {func(*world) grants.Store { return (*scripted)(nil) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				m := grants.New(testConfig, test.store(w), &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
				_, err := m.Token(t.Context(), "a")
				require.Error(t, err)
				if strings.Contains(name, "refresh token") || name == "an empty token" {
					assert.ErrorIs(t, err, applebusiness.ErrNoRefreshToken)
				} else {
					storeFailure(t, err)
				}
				assert.NotEqual(t, applebusiness.ActionReauthorize, applebusiness.Troubleshoot(err).Action)
				assert.Equal(t, test.requests, w.apple.requests())
				require.NoError(t, m.Close(t.Context()))
			})
		})
	}

	t.Run("Save that keeps nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			record := grants.Record{Token: good(-1), Version: 1}
			store := &scripted{load: record, lease: record}
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
			token(t, m, "a")
			time.Sleep(time.Hour)
			for range 10 {
				_, err := m.Token(t.Context(), "a")
				storeFailure(t, err)
				time.Sleep(time.Minute)
			}
			assert.Equal(t, []string{"refresh-a-0"}, w.apple.sent, "a refresh token that is spent is never sent again")
			require.NoError(t, m.Close(t.Context()))
		})
	})

	t.Run("Save that always conflicts", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			record := grants.Record{Token: good(-1), Version: 1}
			store := &scripted{load: record, lease: record, saveErr: grants.ErrConflict, markErr: grants.ErrConflict}
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
			assert.Equal(t, "access-a-1", token(t, m, "a"))
			time.Sleep(time.Hour)
			_, err := m.Token(t.Context(), "a")
			storeFailure(t, err)
			assert.Equal(t, 1, w.apple.requests())
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, m.Close(ctx), grants.ErrConflict)
		})
	})

	t.Run("Mark that always conflicts", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			record := grants.Record{Token: good(-1), Version: 1}
			store := &scripted{load: record, lease: record, markErr: grants.ErrConflict}
			m := grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: w.apple}, Limit: limit(nil)})
			w.apple.revoke("a")
			_, err := m.Token(t.Context(), "a")
			storeFailure(t, err)
			assert.Equal(t, 1, w.apple.requests(), "a refresh token that Apple has refused is not sent again")
			require.NoError(t, m.Close(t.Context()))
		})
	})

	t.Run("errors that are not the Store's", func(t *testing.T) {
		for _, foreign := range []error{
			applebusiness.ErrInvalidRefreshToken, context.Canceled, context.DeadlineExceeded, grants.ErrConflict, grants.ErrLeased, grants.ErrClosed,
			&applebusiness.Error{Endpoint: "token", StatusCode: 401, Code: "invalid_grant", Reason: applebusiness.ErrInvalidRefreshToken, GrantType: "refresh_token"},
			(*nilError)(nil),
		} {
			bubble(t, func(t *testing.T, w *world) {
				m := grants.New(testConfig, &scripted{loadErr: foreign}, nil)
				_, err := m.Token(t.Context(), "a")
				e := storeFailure(t, err)
				assert.Equal(t, "a", e.Grant)
				_, isForeign := any(e).(interface{ Foreign() })
				assert.True(t, isForeign)
				require.NoError(t, m.Close(t.Context()))
			})
		}
	})
}

// A panic of a Store or a client shows nothing of what it holds.
func TestSecretsInForeignText(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process()
		w.connect("a", -time.Minute)
		w.apple.fail(func(r *http.Request) (*http.Response, error) {
			panic("cannot send client_secret=the-client-secret&refresh_token=refresh-a-0")
		})
		_, err := m.Token(t.Context(), "a")
		require.Error(t, err)
		time.Sleep(time.Minute)
		w.store.fail(fmt.Errorf("cannot store refresh-%s", "a-0 of cmVmcmVzaC1hLTA="), "Lease")
		_, err2 := m.Token(t.Context(), "a")
		require.Error(t, err2)
		for _, text := range []string{err.Error(), err2.Error(), fmt.Sprintf("%+v %#v", err, err2), w.logged(), fmt.Sprintf("%s %v %+v %#v %d", m, m, m, m, m)} {
			for _, secret := range []string{"the-client-secret", "refresh-a-0", "cmVmcmVz"} {
				assert.False(t, strings.Contains(text, secret), "%s in %.300s", secret, text)
			}
		}
	})
}

// vaultError is an error that is no pointer: package fmt would print what is in it.
type vaultError struct{ answer string }

func (vaultError) Error() string { return "the vault is sealed" }

// An error that does not say why, since that may be secret, does not print it either, whatever the verb.
func TestOpaqueErrorShowsNoSecret(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		m := w.process(func(o *grants.Options) {
			o.ClientSecret = func(context.Context) (string, error) { return "", vaultError{"SECRET"} }
		})
		w.connect("a", -time.Minute)
		_, err := m.Token(t.Context(), "a")
		require.ErrorIs(t, err, vaultError{"SECRET"})
		showsNoSecret(t, err)
		assert.Equal(t, "customer 7: applebusiness/grants: asking for the client secret failed", fmt.Errorf("customer 7: %w", err).Error())
	})
}
