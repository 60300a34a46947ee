package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// The program starts itself as its workers, and so does this test.
func TestMain(m *testing.M) {
	if config := os.Getenv(workerVariable); config != "" {
		os.Exit(runWorker(config))
	}
	os.Exit(m.Run())
}

func TestArguments(t *testing.T) {
	environment := map[string]string{"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none?connect_timeout=1"}
	for args, test := range map[string]struct {
		status int
		stderr string
	}{
		"-h":                   {0, "Usage of fleet:\n"},
		"stray":                {2, "fleet: unknown argument \"stray\"\n"},
		"-processes 0":         {2, "fleet: a number or a duration is too small\n"},
		"-grants 0":            {2, "fleet: a number or a duration is too small\n"},
		"-for 1ms":             {2, "fleet: a number or a duration is too small\n"},
		"-limit -1":            {2, "fleet: a number or a duration is too small\n"},
		"-database=":           {2, "fleet: no -database\n"},
		"-pooler":              {2, "fleet: -pooler, and no $POOLER_URL\n"},
		"-restart-database":    {2, "fleet: -restart-database, and no $POSTGRES_CTL\n"},
		"-processes 1 -for 1s": {1, "fleet: failed to connect to "},
		"-unknown":             {2, "flag provided but not defined: -unknown\n"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, test.status, run(t.Context(), strings.Fields(args), func(name string) string { return environment[name] }, &stdout, &stderr), args)
		assert.True(t, strings.HasPrefix(stderr.String(), test.stderr), "%s: %s", args, stderr.String())
		assert.Empty(t, stdout.String(), args)
	}
}

func TestReport(t *testing.T) {
	good := result{
		options: options{processes: 8, grants: 50}, took: 30 * time.Second,
		calls: 1000, expired: 300, requests: 304, kills: 3, lostResponses: 1, lostToTrouble: 4, overrun: 20 * time.Millisecond,
		errors: map[string]int{"the database": 7},
	}
	var output bytes.Buffer
	assert.Equal(t, 0, report(&output, good))
	assert.Equal(t, `8 processes, 50 grants, 30s: 1000 calls of Token, 304 requests to Apple for 300 expired tokens

goal                                                       at most  measured  
requests to Apple (expired tokens, kills, lost responses)  304      304       
grants called dead that are not                            0        0         
refresh tokens lost, but by a kill or a lost response      0        0         
grants lost by a kill or a lost response                   4        4         
of those, verdicts that do not say so                      0        0         
ms that a caller waited longer than its deadline           500      20        
7 calls failed: the database
`, output.String())

	for name, spoil := range map[string]func(*result){
		"requests to Apple (": func(r *result) { r.requests++ },
		"grants called dead":  func(r *result) { r.toldFalsely++ },
		"refresh tokens lost": func(r *result) { r.lost++ },
		"grants lost":         func(r *result) { r.lostToTrouble++ },
		"of those":            func(r *result) { r.unexplained++ },
		"ms that":             func(r *result) { r.overrun = time.Second },
		"callers without":     func(r *result) { r.options.wave, r.callsFail = true, 1 },
		"tenths of a second":  func(r *result) { r.options.wave, r.took = true, time.Minute },
		"requests to Apple, ": func(r *result) { r.options.wave, r.tooMany, r.requests = true, 1000, 0 },
	} {
		bad := good
		spoil(&bad)
		output.Reset()
		assert.Equal(t, 1, report(&output, bad), name)
		assert.Regexp(t, `(?m)^`+strings.ReplaceAll(name, "(", `\(`)+`.*MISSED$`, output.String())
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
	f := &fleet{apple: apple, reports: map[*process]counts{{}: {Calls: 7, Failed: 2, Dead: []string{"told", "response lost"}}}}
	found, err := f.judge(ctx, store, time.Second)
	require.NoError(t, err)
	assert.Equal(t, 7, found.calls)
	assert.Equal(t, 1, found.lost, "lost")
	assert.Equal(t, 2, found.toldFalsely, "dead, told")
	assert.Equal(t, 2, found.lostToTrouble, "response lost")
	assert.Equal(t, 1, found.unexplained, "not said")
}

// A whole run, with a worker that is killed.
func TestRun(t *testing.T) {
	newPool(t)
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr")) // a file, since the workers write to it too
	require.NoError(t, err)
	defer stderr.Close()
	var stdout bytes.Buffer
	status := run(t.Context(), strings.Fields("-processes 2 -grants 5 -for 4s -kill -apple-latency 100ms -limit 50"), os.Getenv, &stdout, stderr)
	progress, err := os.ReadFile(stderr.Name())
	require.NoError(t, err)
	assert.Equal(t, 0, status, "%s%s", stdout.String(), progress)
	assert.Contains(t, string(progress), "  1 s: ")
	assert.Contains(t, stdout.String(), "2 processes, 5 grants, ")
	stdout.Reset()
	run(t.Context(), strings.Fields("-wave -processes 2 -grants 20"), os.Getenv, &stdout, stderr) // its status tells how fast this machine is
	assert.Contains(t, stdout.String(), "40 calls of Token, 20 requests to Apple for 20 expired tokens")
}

func newPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	if os.Getenv("DATABASE_URL") == "" {
		t.Skip("DATABASE_URL is not set: run.sh test starts a PostgreSQL")
	}
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), "DROP TABLE IF EXISTS "+pgxstore.DefaultTable+", "+pgxstore.DefaultTable+"_limit")
	require.NoError(t, err)
	return pool
}
