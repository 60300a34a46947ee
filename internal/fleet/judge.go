package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// result is what a run has found.
type result struct {
	options         options
	took            time.Duration
	calls           int
	failed          map[string]int // calls, by kind
	late            time.Duration  // by how much a caller waited longer than its deadline, at most
	kills           int
	lostResponses   int
	tokens          int // refresh tokens that were sent
	requests        int // with them, those too many left out
	refused         int // of these, by "Invalid refresh_token"
	tooMany         int // with status 429
	elsewhere       int // to the wrong environment
	lost            int // grants whose newest refresh token nobody has
	told            int // grants whose customer was told to reconnect although nothing of it was lost or revoked
	dead            int // of those, the ones that are marked dead in the end
	lostToTrouble   int // grants of which a kill or a lost response has taken the newest refresh token
	withoutResponse int // of those, the ones that are marked dead and do not say that a response was lost
	working         int // grants that are alive in the end and have the newest refresh token
}

// judge compares the database and what callers were told with Apple's ledger.
func (f *fleet) judge(ctx context.Context, store *pgxstore.Store, took time.Duration) (result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apple.mu.Lock()
	defer f.apple.mu.Unlock()
	r := result{
		options: f.options, took: took, kills: f.kills, lostResponses: len(f.apple.lost), failed: make(map[string]int),
		requests: f.apple.requests, tokens: len(f.apple.seen), refused: f.apple.refused, tooMany: f.apple.tooMany,
	}
	if f.other != nil {
		r.elsewhere = len(f.other.Requests())
	}
	told := make(map[string]bool)
	for _, reported := range f.reports {
		r.calls += reported.Calls
		r.late = max(r.late, reported.Late)
		for kind, n := range reported.Failed {
			r.failed[kind] += n
		}
		for _, grant := range reported.Dead {
			told[grant] = true
		}
	}
	for grant, newest := range f.apple.newest {
		record, err := store.Load(ctx, grant)
		if err != nil {
			return result{}, err
		}
		lost := record.Token.RefreshToken != newest
		if f.apple.lost[grant] || lost && f.kills > 0 {
			r.countTrouble(record.Mark, lost)
		} else {
			r.count(record.Mark, lost, told[grant])
		}
		if record.Dead == nil && !lost {
			r.working++
		}
	}
	return r, nil
}

// count counts a grant of which neither a kill nor a lost response can have taken anything.
func (r *result) count(mark grants.Mark, lost, told bool) {
	if lost {
		r.lost++
	}
	if mark.Dead != nil {
		r.dead++
	}
	if mark.Dead != nil || told {
		r.told++
	}
}

// countTrouble counts another one.
func (r *result) countTrouble(mark grants.Mark, lost bool) {
	if !lost {
		return
	}
	r.lostToTrouble++
	if mark.Dead != nil && !mark.Dead.ResponseLost {
		r.withoutResponse++
	}
}

// goal is a figure, and what it may be at most.
type goal struct {
	name             string
	measured, atMost int
}

func (r result) goals() []goal {
	goals := []goal{
		{"refresh tokens lost, but by a kill or a lost response", r.lost, 0},
		{"customers told to reconnect falsely", r.told, 0},
		{"grants lost by a kill or a lost response", r.lostToTrouble, r.kills + r.lostResponses},
		{"of those, verdicts that do not say so", r.withoutResponse, 0},
	}
	if r.options.restore == 0 && r.options.freeze == 0 { // else a process cannot know that what it has is spent
		goals = append(goals, goal{"requests", r.requests, r.tokens + r.kills + r.lostResponses})
	}
	if r.options.freeze == 0 {
		goals = append(goals, goal{"ms that a caller waited longer than its deadline", int(r.late.Milliseconds()), 500}) // on busy cores
	}
	if r.options.wave {
		goals = append(goals,
			goal{"calls failed", r.failures(), 0},
			goal{"requests, those with status 429 too", r.requests + r.tooMany, r.options.grants * 11 / 10},
			goal{"ms until every grant was refreshed", int(r.took.Milliseconds()), int(r.ideal().Milliseconds() * 5 / 4)})
	}
	return goals
}

func (r result) failures() (n int) {
	for _, of := range r.failed {
		n += of
	}
	return n
}

// ideal is how long a wave takes if a request is under way whenever one is allowed.
func (r result) ideal() time.Duration {
	limit := r.options.limit
	if limit == 0 {
		limit = unlimited
	}
	return time.Duration(r.options.grants)*time.Second/time.Duration(limit) + r.options.latency + time.Second // a second to start processes
}

// report prints the line of figures and a line for each goal that was missed, and returns the exit status.
func report(w io.Writer, r result) int {
	line := fmt.Sprintf("%d processes, %s: %d lost, %d told to reconnect falsely, %d of %d grants work; %d requests for %d refresh tokens, %d refused",
		r.options.processes, r.took.Round(100*time.Millisecond), r.lost, r.told, r.working, r.options.grants, r.requests, r.tokens, r.refused)
	for _, part := range []struct {
		n    int
		text string
	}{
		{r.tooMany, "%d too many"}, {r.elsewhere, "%d to the wrong environment"}, {r.dead, "%d called dead in the end"},
		{r.kills, "%d kills"}, {r.lostResponses, "%d responses lost"}, {r.lostToTrouble, "%d grants lost by these"},
	} {
		if part.n > 0 {
			line += ", " + fmt.Sprintf(part.text, part.n)
		}
	}
	line += fmt.Sprintf("; %d calls, %d failed", r.calls, r.failures())
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(r.failed)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, r.failed[kind]))
	}
	if len(kinds) > 0 {
		line += " (" + strings.Join(kinds, ", ") + ")"
	}
	if r.late > 0 {
		line += fmt.Sprintf(", %d ms late at most", r.late.Milliseconds())
	}
	if r.options.wave {
		line += fmt.Sprintf("; ideal are %s", r.ideal().Round(100*time.Millisecond))
	}
	fmt.Fprintln(w, line)
	status := 0
	for _, g := range r.goals() {
		if g.measured > g.atMost {
			fmt.Fprintf(w, "MISSED: %s: %d, at most %d\n", g.name, g.measured, g.atMost)
			status = 1
		}
	}
	return status
}
