package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// The program starts itself as its workers, and so does this test.
func TestMain(m *testing.M) {
	if config := os.Getenv(workerVariable); config != "" {
		runWorker(config)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestArguments(t *testing.T) {
	environment := map[string]string{"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none?connect_timeout=1"}
	for args, test := range map[string]struct {
		status int
		stderr string
	}{
		"-h":                                {0, "Usage of fleet:\n"},
		"stray":                             {2, "fleet: unknown argument \"stray\"\n"},
		"-processes 0":                      {2, "fleet: a number or a duration is too small\n"},
		"-grants 0":                         {2, "fleet: a number or a duration is too small\n"},
		"-for 1ms":                          {2, "fleet: a number or a duration is too small\n"},
		"-limit -1":                         {2, "fleet: a number or a duration is too small\n"},
		"-database=":                        {2, "fleet: no -database\n"},
		"-pooler":                           {2, "fleet: -pooler, and no $POOLER_URL\n"},
		"-restart-database":                 {2, "fleet: -restart-database, -restore-backup or -refuse-writes, and no $POSTGRES_CTL\n"},
		"-restore-backup=1s":                {2, "fleet: -restart-database, -restore-backup or -refuse-writes, and no $POSTGRES_CTL\n"},
		"-restart-database -restore-backup": {2, "fleet: both -restart-database and -restore-backup\n"},
		"-freeze":                           {2, "fleet: such a trouble needs a run of 32s at least\n"},
		"-wave -refuse-writes":              {2, "fleet: a trouble that begins and ends, and -wave\n"},
		"-wave -kill":                       {2, "fleet: a trouble that begins and ends, and -wave\n"},
		"-refuse-writes=-1s":                {2, "fleet: a number or a duration is too small\n"},
		"-freeze=long":                      {2, "invalid boolean value \"long\" for -freeze: "},
		"-processes 1 -for 1s":              {1, "fleet: failed to connect to "},
		"-unknown":                          {2, "flag provided but not defined: -unknown\n"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, test.status, run(t.Context(), strings.Fields(args), func(name string) string { return environment[name] }, &stdout, &stderr), args)
		assert.True(t, strings.HasPrefix(stderr.String(), test.stderr), "%s: %s", args, stderr.String())
		assert.Empty(t, stdout.String(), args)
	}
}

// Whole runs: two troubles at once, and a wave.
func TestRun(t *testing.T) {
	newPool(t)
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr")) // a file, since the workers write to it too
	require.NoError(t, err)
	defer stderr.Close()
	for args, want := range map[string]string{
		"-processes 2 -grants 5 -for 9s -kill -refuse-writes=1s -apple-latency 100ms -limit 50": "2 processes, ",
		"-wave -processes 2 -grants 20": " 20 requests for 20 refresh tokens, 0 refused, 0 too many, 0 to the wrong environment; " +
			"0 kills, 0 responses lost, 0 grants lost by these; 40 calls, 0 failed []",
	} {
		var stdout bytes.Buffer
		run(t.Context(), strings.Fields(args), os.Getenv, &stdout, stderr) // its status tells how fast this machine is
		assert.Contains(t, stdout.String(), want)
	}
	progress, err := os.ReadFile(stderr.Name())
	require.NoError(t, err)
	assert.Contains(t, string(progress), "  1 s: ")
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
