package grants

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// Each answer of decide, and each reason for it.
func TestDecide(t *testing.T) {
	now := time.Now()
	held := errors.New("held")
	dead := &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken}
	row := func(left time.Duration, change ...func(*Record)) Record {
		r := Record{Version: 1, Token: &oauth2.Token{AccessToken: "access", RefreshToken: "refresh", Expiry: now.Add(left)}}
		for _, change := range change {
			change(&r)
		}
		return r
	}
	markDead := func(r *Record) { r.Dead = dead }
	wait := func(r *Record) { r.RetryAt = now.Add(time.Minute) }
	first := want{version: 1, callers: true}
	due := want{version: 1, due: true, within: 5 * time.Minute}
	for name, test := range map[string]struct {
		row   Record
		known memory
		want  want
		do    action
		good  bool
		err   string
	}{
		"a good token":                         {row: row(time.Hour), want: first, do: serve, good: true},
		"beside Dead, too":                     {row: row(time.Hour, markDead), want: first, do: serve, good: true},
		"and while the app is held":            {row: row(time.Hour), known: memory{refusal: held}, want: first, do: serve, good: true},
		"without an expiry":                    {row: row(0, func(r *Record) { r.Token.Expiry = time.Time{} }), want: first, do: serve, good: true},
		"10 s are too little":                  {row: row(10 * time.Second), want: first, do: send},
		"more are enough":                      {row: row(10*time.Second + 1), want: first, do: serve, good: true},
		"unless a sibling has just fetched it": {row: row(time.Second), want: want{version: 2, callers: true}, do: serve, good: true},
		"even with little to live":             {row: row(1), want: want{version: 2, callers: true}, do: serve, good: true},
		"expired":                              {row: row(0), want: want{version: 2, callers: true}, do: send},
		"invalidated":                          {row: row(time.Hour), known: memory{bad: "access"}, want: first, do: send},
		"to be replaced early":                 {row: row(time.Hour), want: want{version: 1, replaces: "access"}, do: send},
		"no access token":                      {row: row(time.Hour, func(r *Record) { r.Token.AccessToken = "" }), want: first, do: send},
		"no header can carry it":               {row: row(time.Hour, func(r *Record) { r.Token.AccessToken = "access\n" }), want: first, do: send},

		"older than the newest":           {row: row(time.Hour), known: memory{older: true}, want: first, do: repair},
		"older and dead":                  {row: row(-time.Hour, markDead), known: memory{older: true, refusal: held}, want: due, do: repair},
		"refused, which is not recorded":  {row: row(-time.Hour), known: memory{verdict: new(verdict), refusal: held}, want: first, do: condemn},
		"refused, and the token is valid": {row: row(time.Hour), known: memory{verdict: new(verdict)}, want: first, do: serve, good: true},

		"dead":                          {row: row(-time.Hour, markDead), want: first, do: refuse, err: "applebusiness: invalid_refresh_token"},
		"no refresh token":              {row: row(-time.Hour, func(r *Record) { r.Token.RefreshToken = "" }), want: first, do: refuse, err: "applebusiness: no_refresh_token"},
		"no token that can be one":      {row: row(-time.Hour, func(r *Record) { r.Token.RefreshToken = "refresh\n" }), want: first, do: refuse, err: "applebusiness: no_refresh_token"},
		"the fleet waits":               {row: row(-time.Hour, wait), want: first, do: refuse, err: "applebusiness: unavailable"},
		"the fleet has waited":          {row: row(-time.Hour, func(r *Record) { r.RetryAt = now }), want: first, do: send},
		"the app is held":               {row: row(-time.Hour), known: memory{refusal: held}, want: first, do: refuse, err: "held"},
		"RefreshDue, and it is held":    {row: row(time.Minute), known: memory{refusal: held}, want: due, do: refuse, good: true, err: "held"},
		"RefreshDue":                    {row: row(time.Minute), want: due, do: send, good: true},
		"RefreshDue, not due any more":  {row: row(time.Hour), want: due, do: skip},
		"the same, and somebody waits":  {row: row(time.Hour), want: want{version: 1, due: true, within: time.Minute, callers: true}, do: serve, good: true},
		"left to callers, who are none": {row: row(-time.Second), want: want{version: 1, due: true, within: -time.Minute}, do: skip},
		"RefreshDue, invalidated":       {row: row(time.Hour), known: memory{bad: "access"}, want: due, do: send},
		"RefreshDue, no access token":   {row: row(time.Hour, func(r *Record) { r.Token.AccessToken = "" }), want: due, do: send},
	} {
		test.known.now = now
		got := decide(test.row, test.known, test.want)
		assert.Equal(t, test.do, got.do, name)
		assert.Equal(t, test.good, got.good, name)
		if test.err == "" {
			assert.NoError(t, got.err, name)
		} else {
			assert.EqualError(t, got.err, test.err, name)
		}
		assert.Equal(t, test.known.refusal != nil && got.err == test.known.refusal, got.known, name)
	}
}

func TestLineage(t *testing.T) {
	token := func(i int) *oauth2.Token {
		return &oauth2.Token{AccessToken: fmt.Sprint("a", i), RefreshToken: fmt.Sprint("r", i)}
	}
	var line lineage
	assert.False(t, line.older(token(0)), "nothing is known")
	for i := range 20 {
		line.follow(token(i), 0)
		line.follow(token(i), 0) // seen again
	}
	for i := range 20 {
		assert.Equal(t, i >= 3 && i < 19, line.older(token(i)), "%d: the last %d, and not the newest", i, maxEarlier)
	}
	assert.False(t, line.older(token(20)))

	// Refresh tokens that stay the same: the access token tells.
	line = lineage{}
	line.follow(&oauth2.Token{AccessToken: "a0", RefreshToken: "r"}, 0)
	line.follow(&oauth2.Token{AccessToken: "a1", RefreshToken: "r"}, 1)
	assert.True(t, line.older(&oauth2.Token{AccessToken: "a0", RefreshToken: "r"}))
	assert.False(t, line.older(&oauth2.Token{AccessToken: "a1", RefreshToken: "r"}))
	assert.False(t, line.older(&oauth2.Token{AccessToken: "a2", RefreshToken: "r"}))

	// A sibling puts back what this process, which did not fetch the newest, has saved over: it knows better.
	e := new(entry)
	assert.False(t, e.line.see(token(5)))
	assert.False(t, e.line.see(token(3)), "a backup older than this process, for all that it knows")
	assert.True(t, e.line.see(token(5)))
	e.line.yielded = fingerprintsOf(token(5)) // as repair notes it
	assert.False(t, e.line.see(token(5)))
	assert.Equal(t, token(5), e.line.newest)
}
