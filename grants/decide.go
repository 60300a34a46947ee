package grants

import (
	"hash/maphash"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// action is what to do about a row.
type action int

const (
	send    action = iota // its refresh token has to be sent
	serve                 // its token is good
	repair                // it is older than the newest token that is known, which has to be saved over it
	condemn               // Apple has refused its refresh token, and that is not recorded yet
	refuse                // nothing can be sent now
	skip                  // nobody needs another token
)

// decision is what decide comes to.
type decision struct {
	do      action
	good    bool     // the row's token can be handed out, also where RefreshDue wants another one
	err     error    // of refuse
	known   bool     // err is what others were told, and no failure of its own
	verdict *verdict // of condemn
}

// memory is what a Manager knows about a grant at one instant, as far as decide needs it.
type memory struct {
	now     time.Time
	older   bool     // the row's token was replaced by the newest that is known
	bad     string   // the access token that was invalidated
	verdict *verdict // the row's refresh token was refused
	refusal error    // why nothing may be sent; nil: it may
}

// want is what an attempt is for.
type want struct {
	replaces string        // the access token that it is to replace, because it comes due
	version  int64         // of the row at the first look
	due      bool          // for RefreshDue: a token that lives longer than within
	within   time.Duration //
	callers  bool          // somebody waits for any good token
}

// decide says what to do about a row. It looks at nothing but its arguments.
func decide(row Record, known memory, want want) decision {
	token := row.Token
	left := never
	if !token.Expiry.IsZero() {
		left = token.Expiry.Sub(known.now)
	}
	usable := isToken(token.AccessToken) && token.AccessToken != known.bad
	fresh := row.Version != want.version // a sibling has fetched it while this attempt waited
	good := usable && token.AccessToken != want.replaces && (left > expiryMargin || fresh && left > 0)
	due := want.due && left <= want.within && token.AccessToken != ""
	switch {
	case known.older: // whatever its mark says
		return decision{do: repair}
	case want.due && !due && !want.callers && usable:
		return decision{do: skip}
	case good && !due:
		return decision{do: serve, good: true}
	case known.verdict != nil:
		return decision{do: condemn, good: good, verdict: known.verdict}
	case row.Dead != nil:
		dead := *row.Dead
		return decision{do: refuse, err: &dead, good: good}
	case !isToken(token.RefreshToken): // Apple would refuse it, or the Transport each request with it, as if the app were wrong
		return decision{do: refuse, err: noRefreshToken(), good: good}
	case row.RetryAt.After(known.now):
		return decision{do: refuse, err: waitError(applebusiness.ErrUnavailable, row.RetryAt.Sub(known.now)), good: good}
	case known.refusal != nil:
		return decision{do: refuse, err: known.refusal, good: good, known: true}
	}
	return decision{do: send, good: good}
}

// lineage is what a Manager knows about the order of a grant's tokens: the newest, and those that it has replaced, as it
// saw them in the row or fetched them. A row that holds one of those is stale: a Save failed, or the database lost a commit.
type lineage struct {
	newest  *oauth2.Token
	earlier []fingerprints // the oldest first
	fetched time.Duration  // when this Manager fetched newest; 0: it has seen it in the row
	yielded fingerprints   // the earlier one that newest was saved over, without having been fetched here
}

// fingerprints stand for a token without being one.
type fingerprints struct{ refresh, access uint64 }

var seed = maphash.MakeSeed()

func fingerprintsOf(token *oauth2.Token) fingerprints {
	return fingerprints{maphash.String(seed, token.RefreshToken), maphash.String(seed, token.AccessToken)}
}

const maxEarlier = 16

// see notes what a row holds, and reports whether that is older than the newest.
func (l *lineage) see(token *oauth2.Token) (older bool) {
	switch {
	case l.newest != nil && same(l.newest, token):
	case l.fetched == 0 && l.yielded == fingerprintsOf(token): // a sibling has put it back, and knows better
		*l = lineage{newest: token}
	case l.older(token):
		return true
	default:
		l.follow(token, 0)
	}
	return false
}

// older reports whether token is one that the newest has replaced. What equals the newest never is. Apple may return the
// same refresh token again: then only the access token tells which is the older.
func (l *lineage) older(token *oauth2.Token) bool {
	if l.newest == nil || same(l.newest, token) {
		return false
	}
	row, newest := fingerprintsOf(token), fingerprintsOf(l.newest)
	for _, earlier := range l.earlier {
		if earlier.refresh == row.refresh && (earlier.refresh != newest.refresh || earlier.access == row.access) {
			return true
		}
	}
	return false
}

// follow makes token the newest.
func (l *lineage) follow(token *oauth2.Token, fetched time.Duration) {
	if l.newest != nil && !same(l.newest, token) {
		l.earlier = append(l.earlier[max(0, len(l.earlier)-maxEarlier+1):len(l.earlier):len(l.earlier)], fingerprintsOf(l.newest))
	}
	l.newest, l.fetched, l.yielded = token, fetched, fingerprints{}
}

func same(a, b *oauth2.Token) bool {
	return a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken
}

// isToken reports whether text can be a token, in the characters of RFC 6749 sections A.12 and A.17 without the space.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}
