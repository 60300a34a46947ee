package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

func TestReport(t *testing.T) {
	good := result{
		options: options{Processes: 8, Grants: 50, Limit: 1000}, took: 30 * time.Second,
		calls: 1000, late: 20 * time.Millisecond, failed: map[string]int{"the database": 7},
		requests: 304, tokens: 300, kills: 3, lostResponses: 1, lostToTrouble: 4, working: 46,
	}
	var output bytes.Buffer
	assert.Equal(t, 0, report(&output, good))
	assert.Equal(t, "8 processes, 30s: 0 lost, 0 told to reconnect falsely, 0 of these called dead in the end, 46 of 50 grants work; "+
		"304 requests for 300 refresh tokens, 0 refused, 0 too many, 0 to the wrong environment; "+
		"3 kills, 1 responses lost, 4 grants lost by these; 1000 calls, 7 failed [the database:7], 20 ms late at most\n", output.String())

	for missed, spoil := range map[string]func(*result){
		"refresh tokens lost, but by a kill or a lost response: 1, at most 0": func(r *result) { r.lost++ },
		"customers told to reconnect falsely: 1, at most 0":                   func(r *result) { r.told++ },
		"grants lost by a kill or a lost response: 5, at most 4":              func(r *result) { r.lostToTrouble++ },
		"of those, verdicts that do not say so: 1, at most 0":                 func(r *result) { r.withoutResponse++ },
		"requests: 305, at most 304":                                          func(r *result) { r.requests++ },
		"ms that a caller waited longer than its deadline: 1000, at most 500": func(r *result) { r.late = time.Second },
		"calls failed: 7, at most 0":                                          func(r *result) { r.options.Wave, r.took = true, 0 },
		"requests, those with status 429 too: 1000, at most 55":               func(r *result) { r.options.Wave, r.tooMany, r.requests = true, 1000, 0 },
		"ms until every grant was refreshed: 60000, at most 1312":             func(r *result) { r.options.Wave, r.took = true, time.Minute },
	} {
		bad := good
		spoil(&bad)
		output.Reset()
		assert.Equal(t, 1, report(&output, bad), missed)
		assert.Contains(t, output.String(), "\nMISSED: "+missed+"\n")
	}
}

// What the program would not see would never be missed: each loss is made by hand.
func TestJudge(t *testing.T) {
	pool := newPool(t)
	ctx := t.Context()
	apple, err := newApple(options{})
	require.NoError(t, err)
	defer apple.Close()
	require.NoError(t, pgxstore.Migrate(ctx, pool))
	store := pgxstore.New(pool, nil)
	for _, grant := range []string{"good", "lost", "dead", "told", "response lost", "response lost, not said"} {
		require.NoError(t, store.Put(ctx, grant, apple.connect(grant)))
	}
	mark := func(grant string, responseLost bool) {
		record, err := store.Load(ctx, grant)
		require.NoError(t, err)
		require.NoError(t, store.Mark(ctx, grant, "h", record.Version, grants.Mark{
			Dead: &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken, ResponseLost: responseLost},
		}))
	}
	apple.newest["lost"] = "another"
	mark("dead", false)
	for grant, said := range map[string]bool{"response lost": true, "response lost, not said": false} {
		apple.newest[grant], apple.lost[grant] = "another", true
		mark(grant, said)
	}
	for _, c := range []call{
		{Grant: "good"}, {Grant: "lost", Failed: "network", Late: time.Second}, {Grant: "dead", Failed: "network", Late: -time.Second},
		{Grant: "told", Told: true}, {Grant: "response lost", Failed: "dead", Told: true},
	} {
		apple.called(c)
	}
	found, err := apple.judge(ctx, store)
	require.NoError(t, err)
	assert.Equal(t, 5, found.calls)
	assert.Equal(t, map[string]int{"network": 2, "dead": 1}, found.failed)
	assert.Equal(t, time.Second, found.late)
	assert.Equal(t, 1, found.lost, "lost")
	assert.Equal(t, 2, found.told, "dead, told")
	assert.Equal(t, 1, found.dead, "dead")
	assert.Equal(t, 2, found.lostToTrouble, "response lost")
	assert.Equal(t, 1, found.withoutResponse, "not said")
	assert.Equal(t, 2, found.working, "good, told")
}
