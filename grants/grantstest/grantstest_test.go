package grantstest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/grantstest"
)

// ExampleTestStore tries it in real time.
func TestMemoryStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, store := range []grants.Store{grants.NewMemoryStore(), new(grants.MemoryStore)} {
			start := time.Now()
			require.NoError(t, grantstest.TestStore(store))
			assert.InDelta(t, 11, time.Since(start).Seconds(), 1)
		}
	})
}

func TestNothingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bug := range []string{"", "lease never runs out"} {
			store := newStore(bug)
			require.NoError(t, store.Put(t.Context(), "a customer's", &oauth2.Token{Expiry: time.Now().Add(-time.Hour)}))
			grantstest.TestStore(store)
			assert.Equal(t, []string{"a customer's"}, slices.Collect(maps.Keys(store.rows)))
			record, err := store.Load(t.Context(), "a customer's")
			require.NoError(t, err)
			assert.Equal(t, grants.Mark{}, record.Mark)
		}
	})
}

func TestGoodStores(t *testing.T) {
	for _, good := range []string{
		"clock is an hour ahead", "clock is an hour behind", "rounds to a second", "truncates to a second", "is slow",
		"knows a deleted grant", "Due is stale", "wraps its errors", "ignores contexts", "Dead keeps all",
		"another's grant dies again before each Dead",
	} {
		t.Run(good, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				require.NoError(t, grantstest.TestStore(newStore(good)))
			})
		})
	}
	t.Run("two at once on one Store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := newStore("")
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { assert.NoError(t, grantstest.TestStore(store)) })
			}
			wg.Wait()
		})
	})
}

// wrong is each way in which a Store of this file can be wrong, and the sentence that says so.
var wrong = map[string]string{
	"loses the access token":                       "Load returns the grant's record as last written",
	"loses the refresh token":                      "Load returns the grant's record as last written",
	"loses the token type":                         "Load returns the grant's record as last written",
	"loses the expiry":                             "Its Expiry is by this process's clock",
	"cuts a token at 2 KiB":                        "Put stores token under a new version, whatever was there",
	"invents an expiry":                            "Its Expiry is by this process's clock",
	"Load returns no token":                        "Load returns the grant's record as last written",
	"Load is one write behind":                     "Load returns the grant's record as last written",
	"names ignore case":                            "It returns ErrNoGrant if there is none.",
	"names lose a space":                           "It returns ErrNoGrant if there is none.",
	"Load of no grant is nil":                      "It returns ErrNoGrant if there is none.",
	"aliases":                                      "Load returns the grant's record as last written",
	"keeps the caller's token":                     "Load returns the grant's record as last written",
	"hands out its own dead":                       "A Store keeps its Endpoint, StatusCode",
	"expiry is in the store's clock":               "Its Expiry is by this process's clock",
	"expiry is not converted back":                 "Its Expiry is by this process's clock",
	"keeps the time left":                          "Its Expiry is by this process's clock",
	"RetryAt is in the store's clock":              "by this process's clock: the Store converts it as it does a token's Expiry.",
	"RetryAt is lost":                              "by this process's clock: the Store converts it as it does a token's Expiry.",
	"lease by the process's clock, an hour behind": "It returns ErrLeased while another holder's lease runs",
	"lease by the process's clock, an hour ahead":  "whether a lease has run out, a token expires or RetryAt has passed is decided by one clock",
	"lease ends 3 seconds late":                    "whether a lease has run out, a token expires or RetryAt has passed is decided by one clock",
	"lease is half as long":                        "whether a lease has run out, a token expires or RetryAt has passed is decided by one clock",
	"Due by the wrong clock":                       "Due returns at most limit grants",
	"RetryAt by the wrong clock":                   "Due returns at most limit grants",

	"lease never runs out":                "whether a lease has run out, a token expires or RetryAt has passed is decided by one clock",
	"lease does not exclude":              "It returns ErrLeased while another holder's lease runs",
	"lease is read, then written":         "Each method takes effect at one instant",
	"lease conflict is another error":     "All methods can be called concurrently",
	"Lease makes a grant":                 "and ErrNoGrant if there is no such grant.",
	"Lease refuses the same holder":       "To the same holder it gives the lease again, from now on.",
	"Lease again is not longer":           "To the same holder it gives the lease again, from now on.",
	"Lease again is unfinished":           "To the same holder it gives the lease again, from now on.",
	"Lease returns no token":              "Lease gives holder the grant for the duration d, and returns its record.",
	"Lease returns no mark":               "Lease gives holder the grant for the duration d, and returns its record.",
	"Lease refuses the dead":              "Lease gives holder the grant for the duration d, and returns its record.",
	"Lease changes the version":           "Version changes exactly when Token does.",
	"Release changes the version":         "Version changes exactly when Token does.",
	"lease run out is not seen":           "A lease that has run out without Save, Mark or Release makes the record Unfinished",
	"lease run out is not seen by Load":   "A lease that has run out without Save, Mark or Release makes the record Unfinished",
	"lease run out is not seen by Lease":  "A lease that has run out without Save, Mark or Release makes the record Unfinished",
	"lease ended is unfinished":           "A lease that has run out without Save, Mark or Release makes the record Unfinished",
	"lease run out is forgotten by Lease": "It stays so until a Save, a Put or a Mark.",
	"unfinished ends with Release":        "What Lease has found Unfinished stays so.",

	"Save does not compare":              "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"Save compares the lease":            "if the grant's version is still version, whoever holds the lease.",
	"Save is read, then written":         "Each method takes effect at one instant",
	"Save brings a deleted grant back":   "It never makes a grant.",
	"Save of a deleted grant is nil":     "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"Save keeps the version":             "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Save keeps the mark":                "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Save keeps unfinished":              "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Save keeps its lease":               "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Save ends another's lease":          "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Save ends its lease on a conflict":  "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"Save of the same token is no write": "Save stores token under a new version, removes the mark, and ends holder's lease",

	"Mark does not compare":             "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"Mark compares the lease":           "if the grant's version is still version, whoever holds the lease.",
	"Mark changes the version":          "Token and version stay.",
	"Mark makes a grant":                "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"Mark keeps its lease":              "Mark replaces the mark and ends holder's lease",
	"Mark ends another's lease":         "Mark replaces the mark and ends holder's lease",
	"Mark ends its lease on a conflict": "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"Mark adds to the mark":             "Mark replaces the mark and ends holder's lease",
	"Mark loses unfinished":             "Mark replaces the mark and ends holder's lease",
	"Mark loses dead":                   "Mark replaces the mark and ends holder's lease",
	"Dead removes the token":            "It is kept when Dead is set.",
	"Dead loses the endpoint":           "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",
	"Dead loses the status":             "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",
	"Dead loses the code":               "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",
	"Dead loses the description":        "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",
	"Dead loses the reason":             "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",
	"Dead loses the grant type":         "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",
	"Dead loses the request id":         "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",
	"Dead loses ResponseLost":           "A Store keeps its Endpoint, StatusCode, Code, Description, Reason, GrantType, RequestID and ResponseLost.",

	"Release ends another's lease":    "Release ends holder's lease, and nobody else's.",
	"Release does nothing":            "Release ends holder's lease, and nobody else's.",
	"Release needs a lease":           "It returns nil if holder has no lease, or if there is no such grant.",
	"Release needs a grant":           "It returns nil if holder has no lease, or if there is no such grant.",
	"Put does not replace":            "Put stores token under a new version, whatever was there",
	"Put keeps the version":           "Put stores token under a new version, whatever was there",
	"Put keeps the lease":             "the grant is made if need be, and its mark and its lease are gone.",
	"Put keeps the verdict":           "the grant is made if need be, and its mark and its lease are gone.",
	"Put keeps RetryAt":               "the grant is made if need be, and its mark and its lease are gone.",
	"Put keeps unfinished":            "the grant is made if need be, and its mark and its lease are gone.",
	"version counts from 1":           "It never repeats for a grant's name: not after Delete and Put",
	"version is the token's checksum": "Put stores token under a new version, whatever was there",
	"version is one of a hundred":     "It never repeats for a grant's name: not after Delete and Put",
	"Delete does nothing":             "Delete removes the grant.",
	"Delete of no grant is an error":  "It returns nil if there is none.",
	"Delete fails":                    "Delete removes the grant.",

	"Due lists the dead":             "Due returns at most limit grants",
	"Due lists the leased":           "Due returns at most limit grants",
	"Due lists who waits":            "Due returns at most limit grants",
	"Due lists all":                  "Due returns at most limit grants",
	"Due lists none":                 "Due returns at most limit grants",
	"Due has no order":               "Due returns at most limit grants",
	"Due has the latest first":       "Due returns at most limit grants",
	"Due has no limit":               "Due returns at most limit grants",
	"Due ignores a lease that ended": "Due returns at most limit grants",
	"Due ignores the unfinished":     "Due returns at most limit grants",
	"Due ignores the expired":        "Due returns at most limit grants",
	"Due takes no negative within":   "A negative within means tokens that expired at least that long ago.",
	"Due lists what never expires":   "A token without an Expiry is never due.",

	"Release ends a lapsed lease":                     "It stays so until a Save, a Put or a Mark.",
	"Lease again is not unfinished":                   "A lease that has run out without Save, Mark or Release makes the record Unfinished",
	"Save leaves a lapsed lease":                      "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Put of the same refresh token keeps the verdict": "the grant is made if need be, and its mark and its lease are gone.",
	"Put of the same refresh token keeps the lease":   "the grant is made if need be, and its mark and its lease are gone.",
	"Put of the same refresh token keeps the expiry":  "Its Expiry is by this process's clock",
	"Save of the same refresh token is no write":      "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Put of the same refresh token keeps the version": "Put stores token under a new version, whatever was there",
	"Put loses to a later expiry":                     "Put stores token under a new version, whatever was there",
	"Save loses to a later expiry":                    "Save stores token under a new version, removes the mark, and ends holder's lease",
	"Put keeps the expiry":                            "Its Expiry is by this process's clock",
	"Save ignores the version while the lease runs":   "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"Save in two writes":                              "Each method takes effect at one instant",
	"Lease writes back what it read":                  "Each method takes effect at one instant",
	"Release writes back what it read":                "Each method takes effect at one instant",
	"Mark writes back what it read":                   "Each method takes effect at one instant",
	"Mark is read, then written":                      "Each method takes effect at one instant",
	"Put is DELETE and INSERT":                        "Each method takes effect at one instant",
	"lease is capped at 10 seconds":                   "Lease gives holder the grant for the duration d, and returns its record.",
	"lease again is capped at a second":               "To the same holder it gives the lease again, from now on.",
	"lease is never made shorter":                     "A lease that has run out without Save, Mark or Release makes the record Unfinished",
	"Due lists the dead without ResponseLost":         "Due returns at most limit grants",
	"Due omits grants without an access token":        "Due returns at most limit grants",
	"holders are compared by 8 bytes":                 "It returns ErrLeased while another holder's lease runs",
	"holders are compared by their last 8 bytes":      "It returns ErrLeased while another holder's lease runs",
	"version is 16 random bits":                       "not after a failover to an older copy, so a Store draws it at random.",
	"version is 16 high bits":                         "not after a failover to an older copy, so a Store draws it at random.",
	"version is one counter for all":                  "not after a failover to an older copy, so a Store draws it at random.",
	"version is random at Put and counts on":          "not after a failover to an older copy, so a Store draws it at random.",
	"version is the time in milliseconds":             "It never repeats for a grant's name: not after Delete and Put",
	"names are cut at 64 bytes":                       "It returns ErrNoGrant if there is none.",
	"names are cut at 255 bytes":                      "It returns ErrNoGrant if there is none.",
	"names ignore accents":                            "It returns ErrNoGrant if there is none.",
	"names are normalised":                            "It returns ErrNoGrant if there is none.",
	"names are numbers":                               "It returns ErrNoGrant if there is none.",
	"names are paths":                                 "It returns ErrNoGrant if there is none.",
	"names have 3 bytes a letter":                     "It returns ErrNoGrant if there is none.",
	"names are decoded":                               "It returns ErrNoGrant if there is none.",
	"names end at a colon":                            "It returns ErrNoGrant if there is none.",
	"names lose a line end":                           "It returns ErrNoGrant if there is none.",
	"a token loses its backslash":                     "Put stores token under a new version, whatever was there",
	"a token is escaped for HTML":                     "Put stores token under a new version, whatever was there",
	"zero values of a token are not written":          "Put stores token under a new version, whatever was there",
	"zero values of a mark are not written":           "Mark replaces the mark and ends holder's lease",
	"zero values are not compared":                    "Otherwise, also if the grant was deleted, it returns ErrConflict and changes nothing.",
	"expiry overflows":                                "Its Expiry is by this process's clock",
	"expiry loses its zone":                           "Its Expiry is by this process's clock",

	"Dead lists none":                  "Dead returns at most limit grants",
	"Dead lists the alive":             "Dead returns at most limit grants",
	"Dead omits who waits":             "Dead returns at most limit grants",
	"Dead omits the leased":            "Dead returns at most limit grants",
	"Dead ignores since":               "Dead returns at most limit grants",
	"Dead has no limit":                "Dead returns at most limit grants",
	"Dead has the latest first":        "Dead returns at most limit grants",
	"Dead ignores after":               "It begins with the first one that comes after the given one in this order",
	"Dead repeats after":               "It begins with the first one that comes after the given one in this order",
	"Dead compares after by its name":  "It begins with the first one that comes after the given one in this order",
	"Dead needs the row of after":      "It begins with the first one that comes after the given one in this order",
	"Dead needs all of after":          "It begins with the first one that comes after the given one in this order",
	"Dead counts the limit of all":     "Dead returns at most limit grants",
	"Dead's Since is counted from now": "Since is when the verdict was marked, and is the same at each call",
	"a second Mark moves Since":        "Since is when the verdict was marked, and is the same at each call",
	"Since stays of a former death":    "Since is when the verdict was marked, and is the same at each call",
	"Dead has no version":              "Dead returns at most limit grants",
	"Dead has the oldest verdict":      "A Store keeps its Endpoint, StatusCode",
	"Dead remembers who was put":       "A grant stays in the list until it is put again, saved, deleted, or marked without Dead.",
	"Dead remembers who was saved":     "A grant stays in the list until it is put again, saved, deleted, or marked without Dead.",
	"Dead remembers who was deleted":   "A grant stays in the list until it is put again, saved, deleted, or marked without Dead.",
	"Dead remembers who was marked":    "A grant stays in the list until it is put again, saved, deleted, or marked without Dead.",

	"panics":                        "Put stores token under a new version, whatever was there",
	"panics at an ended context":    "it returns soon after its context ends.",
	"waits at an ended context":     "it returns soon after its context ends.",
	"Lease waits for the other one": "It returns ErrLeased while another holder's lease runs",
}

func TestWrongStores(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("some of them race on purpose, so that the race detector has nothing to tell")
	}
	for bug, sentence := range wrong {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				err := grantstest.TestStore(newStore(bug))
				require.Error(t, err)
				assert.Contains(t, err.Error(), sentence)
				for line := range strings.Lines(err.Error()) {
					require.True(t, strings.HasPrefix(line, "applebusiness/grants/grantstest: "), line)
				}
				if testing.Verbose() {
					t.Log(err)
				}
			})
		})
	}
}

// TestSentences finds each sentence that the test quotes in the contract, and a Store that is told by it to be wrong.
func TestSentences(t *testing.T) {
	contract, err := os.ReadFile("../store.go")
	require.NoError(t, err)
	text := regexp.MustCompile(`\s*\n\s*//\s*`).ReplaceAllString(string(contract), " ")
	checks, err := os.ReadFile("contract.go")
	require.NoError(t, err)
	sentences := regexp.MustCompile(`sentence\{"(?:[A-Za-z.]+)", "(.+)"\}`).FindAllStringSubmatch(string(checks), -1)
	require.NotEmpty(t, sentences)
	for _, sentence := range sentences {
		assert.Contains(t, text, sentence[1])
		assert.True(t, slices.ContainsFunc(slices.Collect(maps.Values(wrong)), func(broken string) bool {
			return strings.Contains(sentence[1], broken)
		}), "no Store breaks %q", sentence[1])
	}
}

func TestNoStore(t *testing.T) {
	require.Error(t, grantstest.TestStore(nil))
	require.Error(t, grantstest.TestStore((*grants.MemoryStore)(nil)))
	down := errors.New("no connection\nto the database")
	err := grantstest.TestStore(&store{fails: down})
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 2, "one for the first failure, and one for what may be left behind")
	assert.Contains(t, lines[0], `Put put returned "no connection\nto the database", want nil`)
	assert.Contains(t, lines[1], "have to be deleted by hand")
}

// store is a second, independent Store with a clock of its own. It is right for "" and for what TestGoodStores names, and
// wrong in one way for each key of wrong.
type store struct {
	mu    sync.Mutex
	way   string
	skew  time.Duration
	fails error
	rows  map[string]*row
	stale []string
	count int64
	gone  map[string]grants.DeadGrant // what Dead lists although it should not
}

// row has its times by the store's clock.
type row struct {
	token         oauth2.Token
	mark          grants.Mark
	expiry, retry time.Time
	version       int64
	holder        string
	leased        bool
	until         time.Time
	ended         time.Time // when a lease would have run out that was ended
	keptToken     *oauth2.Token
	previous      *grants.Record
	since         time.Time // when it died
	oldest        *applebusiness.Error
}

func newStore(way string) *store {
	s := &store{way: way, rows: make(map[string]*row), gone: make(map[string]grants.DeadGrant)}
	switch way {
	case "clock is an hour ahead", "expiry is in the store's clock", "RetryAt is in the store's clock", "Due by the wrong clock",
		"RetryAt by the wrong clock", "lease by the process's clock, an hour behind", "expiry is not converted back":
		s.skew = time.Hour
	case "clock is an hour behind", "lease by the process's clock, an hour ahead":
		s.skew = -time.Hour
	}
	return s
}

func (s *store) is(way string) bool { return s.way == way }
func (s *store) now() time.Time     { return time.Now().Add(s.skew) }

// in returns t by the store's clock.
func (s *store) in(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	t = t.Add(s.skew)
	if s.is("rounds to a second") {
		t = t.Round(time.Second)
	}
	if s.is("truncates to a second") {
		t = t.Truncate(time.Second)
	}
	return t
}

func (s *store) out(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(-s.skew)
}

func (s *store) begin(ctx context.Context) (func(), error) {
	if s.fails != nil {
		return nil, s.fails
	}
	if ctx.Err() != nil {
		switch s.way {
		case "panics at an ended context":
			panic("no context")
		case "waits at an ended context":
			time.Sleep(8 * time.Second)
		case "ignores contexts":
		default:
			return nil, ctx.Err()
		}
	}
	if s.is("panics") {
		panic("a bug")
	}
	if s.is("is slow") {
		time.Sleep(50 * time.Millisecond)
	}
	s.mu.Lock()
	return s.mu.Unlock, nil
}

// pause lets others in between two halves of a call.
func (s *store) pause() {
	s.mu.Unlock()
	time.Sleep(time.Millisecond)
	s.mu.Lock()
}

// holderOf returns what is compared of a holder.
func (s *store) holderOf(holder string) string {
	switch s.way {
	case "holders are compared by 8 bytes":
		return holder[:min(8, len(holder))]
	case "holders are compared by their last 8 bytes":
		return holder[max(0, len(holder)-8):]
	}
	return holder
}

// nameOf returns what is compared of a grant's name.
func (s *store) nameOf(grant string) string {
	switch s.way {
	case "names ignore case":
		return strings.ToLower(grant)
	case "names lose a space":
		return strings.TrimSpace(grant)
	case "names are cut at 64 bytes":
		return grant[:min(64, len(grant))]
	case "names are cut at 255 bytes":
		return grant[:min(255, len(grant))]
	case "names ignore accents":
		return strings.NewReplacer("é", "e").Replace(grant)
	case "names are normalised":
		return strings.NewReplacer("e\u0301", "é").Replace(grant)
	case "names are numbers":
		return strings.ReplaceAll(grant, "01", "1")
	case "names are paths":
		return path.Clean(grant)
	case "names have 3 bytes a letter":
		return strings.NewReplacer("😀", "?", "😁", "?").Replace(grant)
	case "names are decoded":
		decoded, err := url.QueryUnescape(grant)
		return cmp.Or(map[bool]string{true: decoded}[err == nil], grant)
	case "names end at a colon":
		grant, _, _ = strings.Cut(grant, ":")
	case "names lose a line end":
		return strings.TrimRight(grant, "\n")
	}
	return grant
}

func (s *store) find(grant string) (*row, error) {
	if row, ok := s.rows[s.nameOf(grant)]; ok {
		return row, nil
	}
	if s.is("wraps its errors") {
		return nil, fmt.Errorf("grant %q: %w", grant, grants.ErrNoGrant)
	}
	return nil, grants.ErrNoGrant
}

func (s *store) version(old int64, token *oauth2.Token) int64 {
	switch s.way {
	case "version counts from 1":
		return old + 1
	case "version is 16 random bits":
		return rand.Int64N(1 << 16)
	case "version is 16 high bits":
		return rand.Int64N(1<<16) << 40
	case "version is one counter for all":
		s.count++
		return s.count
	case "version is random at Put and counts on":
		if old != 0 {
			return old + 1
		}
	case "version is the time in milliseconds":
		return time.Now().UnixMilli()
	case "version is one of a hundred":
		return rand.Int64N(100)
	case "version is the token's checksum":
		return int64(len(token.AccessToken))
	}
	return rand.Int64()
}

func (s *store) set(row *row, token *oauth2.Token) {
	old := s.record(row)
	if s.is("zero values of a token are not written") {
		merged := *token
		merged.AccessToken = cmp.Or(token.AccessToken, row.token.AccessToken)
		merged.RefreshToken = cmp.Or(token.RefreshToken, row.token.RefreshToken)
		merged.TokenType = cmp.Or(token.TokenType, row.token.TokenType)
		token = &merged
	}
	row.previous = &old
	row.token = oauth2.Token{AccessToken: token.AccessToken, RefreshToken: token.RefreshToken, TokenType: token.TokenType}
	row.expiry = s.in(token.Expiry)
	if s.is("expiry is in the store's clock") {
		row.expiry = token.Expiry
	}
	row.keptToken = token
	switch s.way {
	case "expiry overflows":
		if !token.Expiry.IsZero() {
			row.expiry = time.Now().Add(time.Duration(int32(time.Until(token.Expiry)/time.Second)) * time.Second)
		}
	case "expiry loses its zone":
		_, offset := token.Expiry.Zone()
		if local, _ := time.Now().Zone(); local != "" && !token.Expiry.IsZero() {
			_, here := time.Now().Zone()
			row.expiry = row.expiry.Add(time.Duration(offset-here) * time.Second)
		}
	case "loses the access token":
		row.token.AccessToken = ""
	case "loses the refresh token":
		row.token.RefreshToken = ""
	case "loses the token type":
		row.token.TokenType = "bearer"
	case "loses the expiry":
		row.expiry = time.Time{}
	case "invents an expiry":
		if token.Expiry.IsZero() {
			row.expiry = s.now().Add(time.Hour)
		}
	case "a token loses its backslash":
		row.token.RefreshToken = strings.ReplaceAll(row.token.RefreshToken, `\`, "")
	case "a token is escaped for HTML":
		row.token.RefreshToken = html.EscapeString(row.token.RefreshToken)
	case "cuts a token at 2 KiB":
		row.token.AccessToken = row.token.AccessToken[:min(2048, len(row.token.AccessToken))]
	case "keeps the time left":
		row.token.ExpiresIn = int64(time.Until(token.Expiry))
	}
}

func (s *store) running(row *row) bool {
	if s.is("lease never runs out") {
		return row.leased
	}
	return row.leased && s.now().Before(row.until)
}
func (s *store) lapsed(row *row) bool { return row.leased && !s.running(row) }

func (s *store) record(row *row) grants.Record {
	token := row.token
	token.Expiry = s.out(row.expiry)
	token.ExpiresIn = 0
	if s.is("keeps the time left") && !token.Expiry.IsZero() {
		token.Expiry = time.Now().Add(time.Duration(row.token.ExpiresIn))
	}
	if s.is("expiry is not converted back") {
		token.Expiry = row.expiry
	}
	record := grants.Record{Token: &token, Mark: row.mark, Version: row.version}
	record.RetryAt = s.out(row.retry)
	record.Unfinished = row.mark.Unfinished || s.lapsed(row) && !s.is("lease run out is not seen")
	if s.is("lease ended is unfinished") && !row.ended.IsZero() && s.now().After(row.ended) {
		record.Unfinished = true
	}
	if row.mark.Dead != nil {
		dead := *row.mark.Dead
		record.Dead = &dead
		if s.is("hands out its own dead") {
			record.Dead = row.mark.Dead
		}
		if s.is("Dead removes the token") {
			record.Token.RefreshToken = ""
		}
	}
	if s.is("aliases") || s.is("keeps the caller's token") {
		record.Token = row.keptToken
	}
	return record
}

func (s *store) Load(ctx context.Context, grant string) (grants.Record, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return grants.Record{}, err
	}
	defer end()
	row, err := s.find(grant)
	if err != nil {
		if s.is("Load of no grant is nil") {
			err = nil
		}
		return grants.Record{}, err
	}
	record := s.record(row)
	switch s.way {
	case "Load returns no token":
		record.Token = nil
	case "Load is one write behind":
		if row.previous != nil && row.previous.Version != 0 {
			return *row.previous, nil
		}
	case "lease run out is not seen by Load":
		record.Unfinished = row.mark.Unfinished
	}
	return record, nil
}

func (s *store) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return grants.Record{}, err
	}
	if !s.leaseInTwoSteps(grant, holder) {
		end()
		return grants.Record{}, grants.ErrLeased
	}
	defer end()
	r, err := s.find(grant)
	if err != nil {
		if s.is("Lease makes a grant") {
			s.rows[grant] = new(row)
		}
		return grants.Record{}, err
	}
	if s.running(r) {
		if err := s.excludes(ctx, r, grant, holder); err != nil {
			return grants.Record{}, err
		}
	}
	if s.is("Lease refuses the dead") && r.mark.Dead != nil {
		return grants.Record{}, errors.New("dead")
	}
	lapsed := s.lapsed(r) && !s.is("lease run out is not seen") && !(s.is("Lease again is not unfinished") && r.holder == holder)
	r.mark.Unfinished = r.mark.Unfinished || lapsed && !s.is("lease run out is forgotten by Lease") && !s.is("lease run out is not seen by Lease")
	if s.is("Lease again is unfinished") && r.leased {
		r.mark.Unfinished = true
	}
	r.until = s.until(r, d)
	r.leased, r.holder = true, holder
	if s.is("Lease changes the version") {
		r.version = rand.Int64()
	}
	record := s.record(r)
	switch s.way {
	case "lease run out is forgotten by Lease":
		record.Unfinished = record.Unfinished || lapsed
	case "Lease returns no token":
		record.Token = nil
	case "Lease returns no mark":
		record.Mark = grants.Mark{}
	}
	return record, nil
}

// leaseInTwoSteps does what a Store does that reads a lease, and writes it when others may have come in between. It says
// whether there was a lease to be had.
func (s *store) leaseInTwoSteps(grant, holder string) bool {
	r, err := s.find(grant)
	if err != nil {
		return true
	}
	switch s.way {
	case "Lease writes back what it read":
		copied := *r
		s.pause()
		if now, err := s.find(grant); err == nil {
			*now = copied
		}
	case "lease is read, then written":
		if s.running(r) && s.holderOf(r.holder) != s.holderOf(holder) {
			return false
		}
		s.pause()
		r.leased = false
	}
	return true
}

// excludes returns what keeps holder from the lease, which is running.
func (s *store) excludes(ctx context.Context, r *row, grant, holder string) error {
	switch {
	case s.is("lease does not exclude"):
		return nil
	case s.is("Lease refuses the same holder"):
		return grants.ErrLeased
	case s.holderOf(r.holder) == s.holderOf(holder):
		return nil
	case s.is("Lease waits for the other one"):
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return ctx.Err()
	case s.is("lease conflict is another error"):
		return errors.New("could not serialize access")
	case s.is("wraps its errors"):
		return fmt.Errorf("grant %q: %w", grant, grants.ErrLeased)
	}
	return grants.ErrLeased
}

// until returns when a lease of the duration d ends that is given now.
func (s *store) until(r *row, d time.Duration) time.Time {
	renewed, until := s.running(r), s.now().Add(d)
	switch s.way {
	case "Lease again is not longer":
		if renewed {
			return r.until
		}
	case "lease is never made shorter":
		if renewed && r.until.After(until) {
			return r.until
		}
	case "lease is capped at 10 seconds":
		return s.now().Add(min(d, 10*time.Second))
	case "lease again is capped at a second":
		if renewed {
			return s.now().Add(min(d, time.Second))
		}
	case "rounds to a second":
		return until.Round(time.Second)
	case "truncates to a second":
		return until.Truncate(time.Second)
	case "lease by the process's clock, an hour behind", "lease by the process's clock, an hour ahead":
		return time.Now().Add(d)
	case "lease ends 3 seconds late":
		return until.Add(3 * time.Second)
	case "lease is half as long":
		return until.Add(-d / 2)
	}
	return until
}

func (s *store) end(row *row, holder string) {
	if row.leased && (s.holderOf(row.holder) == s.holderOf(holder) || s.lapsed(row) && !s.is("Save leaves a lapsed lease")) {
		row.leased, row.ended = false, row.until
	}
}

func (s *store) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	if s.is("Save is read, then written") {
		version = s.saveInTwoSteps(grant, version)
	}
	defer end()
	r, err := s.find(grant)
	if err != nil {
		switch s.way {
		case "Save brings a deleted grant back":
			r = &row{version: version}
			s.rows[grant] = r
		case "Save of a deleted grant is nil":
			return nil
		case "knows a deleted grant":
			return err
		case "wraps its errors":
			return fmt.Errorf("grant %q: %w", grant, grants.ErrConflict)
		default:
			return grants.ErrConflict
		}
	}
	if s.is("Save compares the lease") && !(s.running(r) && r.holder == holder) {
		return grants.ErrConflict
	}
	if r.version != version && !s.savesAnyway(r, holder, version) {
		if s.is("Save ends its lease on a conflict") {
			s.end(r, holder)
		}
		return grants.ErrConflict
	}
	if s.is("Save loses to a later expiry") && s.out(r.expiry).After(token.Expiry) && !token.Expiry.IsZero() {
		return nil
	}
	if s.is("Save in two writes") {
		s.set(r, token)
		s.pause()
	}
	if s.is("Save of the same refresh token is no write") && r.token.RefreshToken == token.RefreshToken ||
		s.is("Save of the same token is no write") && r.token.AccessToken == token.AccessToken {
		return nil
	}
	s.set(r, token)
	if !s.is("Save keeps the version") {
		r.version = s.version(r.version, token)
	}
	unfinished := r.mark.Unfinished
	s.remember("Dead remembers who was saved", grant, r)
	if !s.is("Save keeps the mark") {
		r.mark, r.retry = grants.Mark{}, time.Time{}
	}
	if s.is("Save keeps unfinished") {
		r.mark.Unfinished = unfinished
	}
	if s.is("Save ends another's lease") {
		r.leased = false
	}
	if !s.is("Save keeps its lease") {
		s.end(r, holder)
	}
	return nil
}

// saveInTwoSteps compares the version, and returns what it is when others may have come in between.
func (s *store) saveInTwoSteps(grant string, version int64) int64 {
	r, err := s.find(grant)
	same := err == nil && r.version == version
	s.pause()
	if same {
		return r.version
	}
	return version
}

// savesAnyway says whether Save takes a version that is not the grant's.
func (s *store) savesAnyway(r *row, holder string, version int64) bool {
	switch s.way {
	case "Save does not compare":
		return true
	case "zero values are not compared":
		return version == 0
	case "Save ignores the version while the lease runs":
		return s.running(r) && r.holder == holder
	}
	return false
}

func (s *store) Mark(ctx context.Context, grant, holder string, version int64, mark grants.Mark) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	version = s.markInTwoSteps(grant, version)
	r, err := s.find(grant)
	if err != nil {
		switch s.way {
		case "Mark makes a grant":
			s.rows[grant] = new(row)
		case "knows a deleted grant":
			return err
		}
		return grants.ErrConflict
	}
	if s.is("Mark compares the lease") && !(s.running(r) && r.holder == holder) {
		return grants.ErrConflict
	}
	if r.version != version && !s.is("Mark does not compare") {
		if s.is("Mark ends its lease on a conflict") {
			s.end(r, holder)
		}
		return grants.ErrConflict
	}
	old := r.mark
	if mark.Dead == nil {
		s.remember("Dead remembers who was marked", grant, r)
	}
	if r.since.IsZero() || s.is("a second Mark moves Since") || old.Dead == nil && !s.is("Since stays of a former death") {
		r.since = s.in(time.Now())
	}
	if s.is("zero values of a mark are not written") {
		mark.Dead, mark.Unfinished = cmp.Or(mark.Dead, old.Dead), mark.Unfinished || old.Unfinished
	}
	r.mark, r.retry = mark, s.in(mark.RetryAt)
	if s.is("RetryAt is in the store's clock") {
		r.retry = mark.RetryAt
	}
	if s.is("Mark adds to the mark") && mark.Dead == nil {
		r.mark.Dead = old.Dead
	}
	if dead := mark.Dead; dead != nil {
		r.mark.Dead = s.kept(dead)
		r.oldest = cmp.Or(r.oldest, r.mark.Dead)
	}
	switch s.way {
	case "RetryAt is lost":
		r.retry = time.Time{}
	case "Mark loses unfinished":
		r.mark.Unfinished = false
	case "Mark loses dead":
		r.mark.Dead = nil
	case "Mark changes the version":
		r.version = rand.Int64()
	case "Mark ends another's lease":
		r.leased = false
	}
	if !s.is("Mark keeps its lease") {
		s.end(r, holder)
	}
	return nil
}

// markInTwoSteps does what a Store does that reads a row, and marks it when others may have come in between. It returns the
// version that is compared.
func (s *store) markInTwoSteps(grant string, version int64) int64 {
	r, err := s.find(grant)
	if err != nil || r.version != version {
		return version
	}
	switch s.way {
	case "Mark is read, then written":
		s.pause()
		if now, err := s.find(grant); err == nil {
			return now.version
		}
	case "Mark writes back what it read":
		copied := *r
		s.pause()
		if now, err := s.find(grant); err == nil {
			*now = copied
		}
	}
	return version
}

// kept returns what is kept of a verdict.
func (s *store) kept(dead *applebusiness.Error) *applebusiness.Error {
	kept := &applebusiness.Error{
		Endpoint: dead.Endpoint, StatusCode: dead.StatusCode, Code: dead.Code, Description: dead.Description,
		Reason: dead.Reason, GrantType: dead.GrantType, RequestID: dead.RequestID, ResponseLost: dead.ResponseLost,
	}
	if s.is("Dead keeps all") {
		*kept = *dead
	}
	switch s.way {
	case "Dead loses the endpoint":
		kept.Endpoint = ""
	case "Dead loses the status":
		kept.StatusCode = 0
	case "Dead loses the code":
		kept.Code = ""
	case "Dead loses the description":
		kept.Description = ""
	case "Dead loses the reason":
		kept.Reason = ""
	case "Dead loses the grant type":
		kept.GrantType = ""
	case "Dead loses the request id":
		kept.RequestID = ""
	case "Dead loses ResponseLost":
		kept.ResponseLost = false
	}
	return kept
}

func (s *store) Release(ctx context.Context, grant, holder string) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	r, err := s.find(grant)
	if err != nil {
		if s.is("Release needs a grant") {
			return err
		}
		return nil
	}
	held := r.leased && s.holderOf(r.holder) == s.holderOf(holder)
	mine := s.running(r) && held
	if s.is("Release writes back what it read") {
		copied := *r
		s.pause()
		if r, err = s.find(grant); err != nil {
			return nil
		}
		*r = copied
	}
	switch {
	case s.is("Release ends a lapsed lease"):
		r.leased = r.leased && !held
	case s.is("Release does nothing"):
	case s.is("Release ends another's lease"):
		r.leased = false
	case s.is("Release needs a lease") && !mine:
		return errors.New("no lease")
	case mine:
		s.end(r, holder)
	}
	if s.is("unfinished ends with Release") && mine {
		r.mark.Unfinished = false
	}
	if s.is("Release changes the version") {
		r.version = rand.Int64()
	}
	return nil
}

func (s *store) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	name := grant
	grant = s.nameOf(grant)
	old, ok := s.rows[grant]
	if ok && s.is("Put loses to a later expiry") && s.out(old.expiry).After(token.Expiry) && !token.Expiry.IsZero() {
		return nil
	}
	if s.is("Put is DELETE and INSERT") {
		delete(s.rows, grant)
		s.pause()
		ok = false
	}
	if ok {
		s.remember("Dead remembers who was put", name, old)
	}
	if ok && s.is("Put does not replace") {
		return nil
	}
	if !ok {
		old = new(row)
	}
	put := new(row)
	if s.is("zero values of a token are not written") {
		put.token = old.token
	}
	s.set(put, token)
	if s.is("Put keeps the expiry") && ok {
		put.expiry = old.expiry
	}
	put.version = s.version(old.version, token)
	if ok {
		previous := s.record(old)
		put.previous = &previous
	}
	switch s.way {
	case "Put keeps the version":
		if ok {
			put.version = old.version
		}
	case "Put keeps the lease":
		put.leased, put.holder, put.until = old.leased, old.holder, old.until
	case "Put of the same refresh token keeps the version", "Put of the same refresh token keeps the expiry", "Put of the same refresh token keeps the lease", "Put of the same refresh token keeps the verdict":
		if old.token.RefreshToken == token.RefreshToken {
			switch {
			case strings.HasSuffix(s.way, "expiry"):
				put.expiry = old.expiry
			case strings.HasSuffix(s.way, "version"):
				put.version = old.version
			case strings.HasSuffix(s.way, "lease"):
				put.leased, put.holder, put.until = old.leased, old.holder, old.until
			default:
				put.mark.Dead = old.mark.Dead
			}
		}
	case "Put keeps the verdict":
		put.mark.Dead = old.mark.Dead
	case "Put keeps RetryAt":
		put.retry = old.retry
	case "Put keeps unfinished":
		put.mark.Unfinished = s.record(old).Unfinished
	}
	s.rows[grant] = put
	return nil
}

func (s *store) Delete(ctx context.Context, grant string) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	switch {
	case s.is("Delete does nothing"):
		return nil
	case s.is("Delete fails"):
		return errors.New("permission denied")
	case s.is("Delete of no grant is an error"):
		if _, err := s.find(grant); err != nil {
			return err
		}
	}
	if r, err := s.find(grant); err == nil {
		s.remember("Dead remembers who was deleted", grant, r)
	}
	delete(s.rows, s.nameOf(grant))
	return nil
}

// remember lets Dead list what is dead no more.
func (s *store) remember(way, grant string, r *row) {
	if s.is(way) && r.mark.Dead != nil {
		s.gone[grant] = grants.DeadGrant{Grant: grant, Error: r.mark.Dead, Since: r.since, Version: r.version}
	}
}

func (s *store) Due(ctx context.Context, before time.Duration, limit int) ([]string, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	var names []string
	for name, r := range s.rows {
		if s.isDue(r, before) && !s.is("Due lists none") {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		switch {
		case s.is("Due has no order"):
			return strings.Compare(a, b)
		case s.is("Due has the latest first"):
			a, b = b, a
		}
		return s.rows[a].expiry.Compare(s.rows[b].expiry)
	})
	if len(names) > limit && !s.is("Due has no limit") {
		names = names[:limit]
	}
	if s.is("Due is stale") { // by a call; each is followed by another
		names, s.stale = s.stale, names
		return names[:min(len(names), limit)], nil
	}
	return names, nil
}

func (s *store) isDue(r *row, before time.Duration) bool {
	now, retry := s.now(), s.now()
	switch s.way {
	case "Due by the wrong clock":
		now = time.Now()
	case "RetryAt by the wrong clock":
		retry = time.Now()
	case "Due takes no negative within":
		before = max(before, 0)
	}
	due := !r.expiry.IsZero() && !r.expiry.After(now.Add(before))
	alive, free, waited := r.mark.Dead == nil, !s.running(r), !r.retry.After(retry)
	switch s.way {
	case "Due ignores the expired":
		due = due && r.expiry.After(now)
	case "Due lists what never expires":
		due = due || r.expiry.IsZero()
	case "Due lists all":
		due = true
	case "Due lists the dead":
		alive = true
	case "Due lists the dead without ResponseLost":
		alive = alive || !r.mark.Dead.ResponseLost
	case "Due omits grants without an access token":
		due = due && r.token.AccessToken != ""
	case "Due lists the leased":
		free = true
	case "Due ignores a lease that ended":
		free = !r.leased
	case "Due ignores the unfinished":
		alive = alive && !r.mark.Unfinished
	case "Due lists who waits":
		waited = true
	}
	return due && alive && free && waited
}

var _ grants.Store = (*store)(nil)

func (s *store) Dead(ctx context.Context, since time.Duration, after grants.DeadGrant, limit int) ([]grants.DeadGrant, error) {
	if s.is("another's grant dies again before each Dead") {
		time.Sleep(time.Nanosecond) // so that it dies at another instant
		s.mu.Lock()
		s.rows["another's"] = &row{mark: grants.Mark{Dead: new(applebusiness.Error)}, since: time.Now()}
		s.mu.Unlock()
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	dead := s.deadRows()
	before := func(a, b grants.DeadGrant) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Grant, b.Grant))
	}
	slices.SortFunc(dead, before)
	listed := slices.DeleteFunc(dead, func(found grants.DeadGrant) bool {
		old := !found.Since.After(s.now().Add(-since)) || s.is("Dead ignores since")
		return !old || after.Grant != "" && !s.follows(before(found, after), found, after)
	})
	if s.is("Dead has the latest first") {
		slices.Reverse(listed)
	}
	switch {
	case s.is("Dead lists none"):
		return nil, nil
	case s.is("Dead counts the limit of all"):
		limit = min(limit, 3)
	}
	if len(listed) > limit && !s.is("Dead has no limit") {
		listed = listed[:limit]
	}
	if s.is("Dead's Since is counted from now") {
		jitter := time.Duration(rand.Int64N(100))
		for i := range listed {
			listed[i].Since = listed[i].Since.Add(jitter)
		}
	}
	return listed, nil
}

// deadRows returns what Dead may list, in no order.
func (s *store) deadRows() []grants.DeadGrant {
	dead := slices.Collect(maps.Values(s.gone))
	for name, r := range s.rows {
		found := grants.DeadGrant{Grant: name, Error: r.mark.Dead, Since: r.since, Version: r.version}
		switch {
		case r.mark.Dead == nil && s.is("Dead lists the alive"):
			found.Error = new(applebusiness.Error)
		case r.mark.Dead == nil, s.is("Dead omits who waits") && !r.retry.IsZero(), s.is("Dead omits the leased") && r.leased:
			continue
		}
		switch s.way {
		case "Dead has no version":
			found.Version = 0
		case "Dead has the oldest verdict":
			found.Error = r.oldest
		}
		dead = append(dead, found)
	}
	return dead
}

// follows says whether found is listed after another grant, with which it compares so.
func (s *store) follows(compared int, found, after grants.DeadGrant) bool {
	switch s.way {
	case "Dead ignores after":
		return true
	case "Dead repeats after":
		return compared >= 0
	case "Dead compares after by its name":
		return found.Grant > after.Grant && strings.HasPrefix(after.Grant, "grantstest")
	case "Dead needs the row of after":
		if _, there := s.rows[after.Grant]; !there {
			return false
		}
	case "Dead needs all of after":
		if after.Version == 0 {
			return false
		}
	}
	return compared > 0
}

// What an instance keeps to itself is seen by two of them alone.
func TestTwoInstances(t *testing.T) {
	for _, keeps := range []string{"a cache", "leases"} {
		t.Run(keeps, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := newStore("")
				one, other := newInstance(shared, keeps), newInstance(shared, keeps)
				require.NoError(t, grantstest.TestStore(one))
				err := grantstest.TestStores(one, other)
				require.Error(t, err)
				assert.Contains(t, err.Error(), map[string]string{
					"a cache": "Load returns the grant's record as last written", "leases": "It returns ErrLeased while another holder's lease runs",
				}[keeps])
				require.NoError(t, grantstest.TestStores(shared, shared))
			})
		})
	}
	assert.Error(t, grantstest.TestStores(newStore(""), nil))
	assert.Error(t, grantstest.TestStores(nil, newStore("")))
}

// instance is one of several on a database, and wrong by what it keeps to itself. What it does itself, it knows.
type instance struct {
	*store
	keeps   string
	mu      sync.Mutex
	holders map[string]string // of the leases that it gave
	cache   map[string]grants.Record
	at      map[string]time.Time
}

func newInstance(shared *store, keeps string) *instance {
	return &instance{store: shared, keeps: keeps, holders: make(map[string]string), cache: make(map[string]grants.Record), at: make(map[string]time.Time)}
}

func (i *instance) Load(ctx context.Context, grant string) (grants.Record, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	record, err := i.store.Load(ctx, grant)
	if i.keeps != "a cache" || err != nil {
		return record, err
	}
	if cached, ok := i.cache[grant]; ok && time.Since(i.at[grant]) < 100*time.Millisecond {
		token := *cached.Token
		cached.Token = &token
		return cached, nil
	}
	if record.Dead == nil {
		cached, token := record, *record.Token
		cached.Token = &token
		i.cache[grant], i.at[grant] = cached, time.Now()
	}
	return record, nil
}

// Lease gives what another instance has given.
func (i *instance) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	i.forget(grant)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keeps == "leases" {
		i.store.mu.Lock()
		if r, ok := i.store.rows[grant]; ok && r.leased && i.store.running(r) && i.holders[grant] != r.holder {
			r.leased = false
		}
		i.store.mu.Unlock()
	}
	record, err := i.store.Lease(ctx, grant, holder, d)
	if err == nil {
		i.holders[grant] = holder
	}
	return record, err
}

func (i *instance) forget(grant string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.cache, grant)
}

func (i *instance) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	defer i.forget(grant)
	return i.store.Put(ctx, grant, token)
}

func (i *instance) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	defer i.forget(grant)
	return i.store.Save(ctx, grant, holder, version, token)
}

func (i *instance) Mark(ctx context.Context, grant, holder string, version int64, mark grants.Mark) error {
	defer i.forget(grant)
	return i.store.Mark(ctx, grant, holder, version, mark)
}
