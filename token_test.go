package applebusiness_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/seed-a5f25c57/applebusiness"
)

func TestWithJSON(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, tokenBody))
	endpoint := s.config().Endpoint
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	base := &recordingBase{}
	client := &http.Client{Transport: base, Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}
	ctx := applebusiness.WithJSON(context.WithValue(context.Background(), oauth2.HTTPClient, client), endpoint.TokenURL)
	wrapped := ctx.Value(oauth2.HTTPClient).(*http.Client)
	assert.Same(t, base, client.Transport, "the client is not changed")
	assert.Same(t, jar, wrapped.Jar)
	assert.Equal(t, time.Minute, wrapped.Timeout)
	assert.NotNil(t, wrapped.CheckRedirect)
	assert.Nil(t, http.DefaultClient.Transport)

	twice := applebusiness.WithJSON(s.context(), endpoint.TokenURL)
	_, err = s.config().Exchange(twice, "the-code")
	require.NoError(t, err)
	assert.Len(t, s.requests(), 1)
}

// What this package relies on in x/oauth2, so that an upgrade that changes it fails here by name.

func TestOAuth2SendsAForm(t *testing.T) {
	var got []*http.Request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = append(got, r) }))
	defer s.Close()
	config := &oauth2.Config{ClientID: "i", ClientSecret: "s", Endpoint: oauth2.Endpoint{TokenURL: s.URL}}
	_, err := config.Exchange(context.Background(), "c")
	require.Error(t, err)
	require.Len(t, got, 2, "AutoDetect: any failure makes it POST twice")
	for i, hasBasic := range []bool{true, false} {
		assert.Equal(t, "application/x-www-form-urlencoded", got[i].Header.Get("Content-Type"))
		_, _, ok := got[i].BasicAuth()
		assert.Equal(t, hasBasic, ok)
	}
}

func TestOAuth2UsesTheClientInTheContext(t *testing.T) {
	base := &recordingBase{}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: base})
	_, err := (&oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: "https://x.example", AuthStyle: oauth2.AuthStyleInParams}}).Exchange(ctx, "c")
	require.NoError(t, err)
	require.Len(t, base.requests, 1)
	assert.NotNil(t, base.requests[0].GetBody, "Wrap reads grant_type from it")
}

func TestOAuth2KeepsTheRefreshToken(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(200, `{"access_token":"a"}`))
	token, err := s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "old"}).Token()
	require.NoError(t, err)
	assert.Equal(t, "old", token.RefreshToken)
}

func TestReuseTokenSourceHandsOutOnePointer(t *testing.T) {
	stored := &oauth2.Token{AccessToken: "a"}
	source := oauth2.ReuseTokenSource(stored, nil)
	token, err := source.Token()
	require.NoError(t, err)
	assert.Same(t, stored, token, "so TokenSource returns a copy")
}

func TestOAuth2PlainErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		stored string
		text   string
		reason applebusiness.Reason
		want   string
	}{
		{"not JSON", answerWith(200, "<html>secret</html>"), "r", "oauth2: cannot parse json: invalid character '<' looking for beginning of value",
			applebusiness.ErrMalformedResponse, "applebusiness: malformed_response: the response is not JSON"},
		{"not a form", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, "%zz")
		}, "r", `oauth2: cannot parse response: invalid URL escape "%zz"`,
			applebusiness.ErrMalformedResponse, "applebusiness: malformed_response: the response is not JSON"},
		{"no token", answerWith(200, "{}"), "r", "oauth2: server response missing access_token",
			applebusiness.ErrMalformedResponse, "applebusiness: malformed_response: the response holds no access_token"},
		{"no refresh token", nil, "", "oauth2: token expired and refresh token is not set",
			applebusiness.ErrNoRefreshToken, "applebusiness: no_refresh_token: the access token has expired and there is no refresh token"},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "{")
		}, "r", "oauth2: cannot fetch token: unexpected EOF",
			applebusiness.ErrNoResponse, "applebusiness: no_response: the response could not be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewServer(test.answer) // accepts x/oauth2's plain form
			defer s.Close()
			config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: s.URL, AuthStyle: oauth2.AuthStyleInParams}}
			source := config.TokenSource(context.Background(), &oauth2.Token{RefreshToken: test.stored})
			_, plain := source.Token()
			require.EqualError(t, plain, test.text)

			_, err := (&applebusiness.TokenSource{Source: source}).Token()
			assert.EqualError(t, err, test.want)
			assert.ErrorIs(t, err, test.reason)
			assert.Equal(t, applebusiness.TokenEndpoint, err.(*applebusiness.Error).Endpoint)
			assert.Equal(t, test.answer == nil, err.(*applebusiness.Error).Unsent())

			_, err = oauth2.NewClient(context.Background(), source).Get(s.URL)
			assert.ErrorIs(t, applebusiness.Wrap(err), test.reason, "inside a *url.Error too")
			assert.ErrorIs(t, applebusiness.Wrap(errors.Join(io.EOF, fmt.Errorf("x: %w", plain))), test.reason)
		})
	}
}

func TestWrapLeavesTheRestAlone(t *testing.T) {
	documented := &applebusiness.Error{Reason: applebusiness.ErrServer}
	for _, err := range []error{
		nil, io.EOF, context.Canceled, errors.New("something about oauth2: cannot parse json"), documented,
		fmt.Errorf("customer 7: %w", documented), errors.Join(documented, &oauth2.RetrieveError{}), errors.Join(&oauth2.RetrieveError{}, documented),
		errors.New("oauth2: cannot fetch token: 401 Unauthorized"), applebusiness.ErrServer, applebusiness.CodeInvalidGrant,
		&url.Error{Op: "Post", URL: "https://api.example", Err: context.DeadlineExceeded},
	} {
		assert.Equal(t, err, applebusiness.Wrap(err))
	}
	_, err := (&oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: "http://" + nowhere}}).Exchange(context.Background(), "c")
	require.Error(t, err)
	assert.Same(t, err, applebusiness.Wrap(err), "a refused connection is the network's error")
	assert.True(t, applebusiness.Retryable(err))
}

func TestWrapRetrieveError(t *testing.T) {
	s := newJSONOnlyServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("apple-request-id", "req-1")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(401)
		io.WriteString(w, deadBody)
	})
	config, ctx := s.config(), s.context()
	service := &clientcredentials.Config{ClientID: "i", ClientSecret: "s", TokenURL: config.Endpoint.TokenURL, AuthStyle: oauth2.AuthStyleInParams}
	refresher := config.TokenSource(ctx, &oauth2.Token{RefreshToken: "r"})
	for name, test := range map[string]struct {
		fail  func() error
		grant string
	}{
		"Exchange":          {func() error { _, err := config.Exchange(ctx, "c"); return applebusiness.Wrap(err) }, "authorization_code"},
		"refresh":           {func() error { _, err := (&applebusiness.TokenSource{Source: refresher}).Token(); return err }, "refresh_token"},
		"clientcredentials": {func() error { _, err := service.Token(ctx); return applebusiness.Wrap(err) }, "client_credentials"},
		"NewClient":         {func() error { _, err := oauth2.NewClient(ctx, refresher).Get(s.URL); return applebusiness.Wrap(err) }, "refresh_token"},
		"context before": {func() error {
			_, err := config.Exchange(ctx, "c")
			return applebusiness.Wrap(fmt.Errorf("customer 7: %w", err))
		}, "authorization_code"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.fail()
			e, ok := err.(*applebusiness.Error)
			require.True(t, ok)
			assert.EqualError(t, err, `applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)`)
			assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
			assert.Equal(t, test.grant, e.GrantType)
			assert.Equal(t, "req-1", e.RequestID)
			assert.Equal(t, 7*time.Second, e.RetryAfter)
			var failed *oauth2.RetrieveError
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, "invalid_grant", failed.ErrorCode)
			var below error = e
			for below != nil && below != error(failed) {
				below = errors.Unwrap(below)
			}
			assert.NotNil(t, below, "errors.Unwrap alone finds it, too")
			assert.Same(t, err, applebusiness.Wrap(err))
		})
	}
}

func TestWrapHandmadeRetrieveErrors(t *testing.T) {
	request := func(body string) *http.Response {
		r, err := http.NewRequest(http.MethodPost, "https://api.example", strings.NewReader(body))
		require.NoError(t, err)
		return &http.Response{StatusCode: 400, Request: r}
	}
	for name, test := range map[string]struct {
		err   *oauth2.RetrieveError
		text  string
		grant string
	}{
		"typed nil":       {nil, "applebusiness: malformed_response", ""},
		"zero":            {&oauth2.RetrieveError{}, "applebusiness: malformed_response", ""},
		"fields alone":    {&oauth2.RetrieveError{ErrorCode: "invalid_grant", ErrorDescription: "Invalid refresh_token"}, `applebusiness: invalid_grant: "Invalid refresh_token"`, ""},
		"body alone":      {&oauth2.RetrieveError{Body: []byte(deadBody)}, `applebusiness: invalid_grant: "Invalid refresh_token"`, ""},
		"404":             {&oauth2.RetrieveError{Response: &http.Response{StatusCode: 404}, ErrorCode: "invalid_request"}, `applebusiness: invalid_request (HTTP 404)`, ""},
		"a framework":     {&oauth2.RetrieveError{Response: &http.Response{StatusCode: 400}, ErrorCode: "Bad Request"}, `applebusiness: malformed_response: "***" (HTTP 400)`, ""},
		"a gateway":       {&oauth2.RetrieveError{Response: &http.Response{StatusCode: 500}, Body: []byte(`{"message":"server error"}`)}, `applebusiness: unavailable: "server error" (HTTP 500)`, ""},
		"no request body": {&oauth2.RetrieveError{Response: &http.Response{StatusCode: 400, Request: &http.Request{}}}, `applebusiness: malformed_response (HTTP 400)`, ""},
		"JSON request":    {&oauth2.RetrieveError{Response: request(`{"grant_type":"refresh_token"}`)}, `applebusiness: malformed_response (HTTP 400)`, "refresh_token"},
		"form request":    {&oauth2.RetrieveError{Response: request(`grant_type=refresh_token&x=%zz`)}, `applebusiness: malformed_response (HTTP 400)`, "refresh_token"},
	} {
		t.Run(name, func(t *testing.T) {
			err := applebusiness.Wrap(test.err)
			assert.EqualError(t, err, test.text)
			assert.Equal(t, test.grant, err.(*applebusiness.Error).GrantType)
			if name == "404" {
				assert.ErrorIs(t, err, applebusiness.ErrEndpointNotFound)
			}
		})
	}
}

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

func TestATokenWithoutTextsIsPassedOn(t *testing.T) {
	token, err := (&applebusiness.TokenSource{Source: fixed(&oauth2.Token{}, nil)}).Token()
	assert.NoError(t, err)
	assert.Equal(t, &oauth2.Token{}, token)
}

// A Source without Transport may return what no server will ever take: it is not saved over what works.
func TestTokenSourceReturnsTokensAlone(t *testing.T) {
	for want, token := range map[string]*oauth2.Token{
		"applebusiness: malformed_response: the source returned an access token that is none": {AccessToken: "at\n", RefreshToken: "r"},
		"applebusiness: malformed_response: the source returned a refresh token that is none": {AccessToken: "a", RefreshToken: "r t"},
	} {
		var reported error
		source := &applebusiness.TokenSource{
			Source: fixed(token, nil), OnError: func(err error) { reported = err },
			OnToken: func(*oauth2.Token) error { t.Error("saved"); return nil },
		}
		got, err := source.Token()
		assert.Nil(t, got)
		assert.EqualError(t, err, want)
		assert.Same(t, err, reported)
	}
	token, err := (&applebusiness.TokenSource{Source: fixed(&oauth2.Token{AccessToken: "a"}, nil)}).Token()
	require.NoError(t, err)
	assert.Empty(t, token.RefreshToken)
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

func TestHoldNeedsNoCallback(t *testing.T) {
	s := newJSONOnlyServer(t, answerWith(401, deadBody))
	source := &applebusiness.TokenSource{Source: s.config().TokenSource(s.context(), &oauth2.Token{RefreshToken: "r"}), Hold: true}
	for range 3 {
		_, err := source.Token()
		assert.ErrorIs(t, err, applebusiness.ErrInvalidRefreshToken)
	}
	assert.Len(t, s.requests(), 1)
}

func TestSourceAloneIsNotSerialised(t *testing.T) {
	var both sync.WaitGroup
	both.Add(2)
	source := &applebusiness.TokenSource{Source: sourceFunc(func() (*oauth2.Token, error) {
		both.Done()
		both.Wait()
		return &oauth2.Token{AccessToken: "a"}, nil
	})}
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			_, err := source.Token()
			assert.NoError(t, err)
		})
	}
	group.Wait()
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

// A request of somebody else's may hold what x/oauth2 would have encoded.
func TestWrapMasksWhatIsNotEncoded(t *testing.T) {
	for _, body := range []string{"grant_type=refresh_token&scope=business_connect&client_secret=one;two;three",
		`{"grant_type":"refresh_token","scope":"business_connect","client_secret":"one;two;three","n":1}`} {
		request := httptest.NewRequest(http.MethodPost, "https://api.example"+tokenPath, nil)
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
		failed := &oauth2.RetrieveError{Response: &http.Response{StatusCode: 401, Request: request}, Body: []byte(`{"error":"invalid_client","error_description":"one;two;three is wrong for business_connect"}`)}
		var e *applebusiness.Error
		require.ErrorAs(t, applebusiness.Wrap(failed), &e)
		assert.Equal(t, "*** is wrong for business_connect", e.Description)
		assert.Equal(t, applebusiness.GrantTypeRefreshToken, e.GrantType)
	}
}

// A request whose body cannot be had again tells nothing, and does no harm.
func TestWrapWithoutTheRequestsBody(t *testing.T) {
	for _, err := range []error{nil, errBroken} {
		request := &http.Request{GetBody: func() (io.ReadCloser, error) { return nil, err }}
		wrapped := applebusiness.Wrap(&oauth2.RetrieveError{Response: &http.Response{StatusCode: http.StatusBadGateway, Request: request}})
		assert.ErrorIs(t, wrapped, applebusiness.ErrUnavailable)
		assert.Empty(t, wrapped.(*applebusiness.Error).GrantType)
	}
}
