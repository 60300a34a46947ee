package fleet

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const (
	callers         = 8                       // of a worker
	deadline        = 2 * time.Second         // that a caller has
	calm            = 3500 * time.Millisecond // before, between and after troubles
	accessTokenLife = 15 * time.Second        // a Manager counts a token as expired 10 seconds early, and so refreshes it every 5
)

var (
	processes    = flag.Int("processes", 8, "`number` of worker processes")
	grantCount   = flag.Int("grants", 50, "`number` of grants")
	duration     = flag.Duration("for", 30*time.Second, "`duration` of the run")
	wave         = flag.Bool("wave", false, "let all grants expire once, at the same moment, and end when each has been refreshed")
	database     = flag.String("database", os.Getenv("DATABASE_URL"), "`URL` of a PostgreSQL database (default $DATABASE_URL)")
	kill         = flag.Bool("kill", false, "kill a worker every 2 seconds, by SIGKILL, and start another one")
	freeze       = lasting("freeze", 25*time.Second, "let half of the workers stand still that long, by SIGSTOP")
	restart      = lasting("restart-database", 100*time.Millisecond, "let PostgreSQL crash every 4 seconds, and start it that much later")
	restore      = lasting("restore-backup", 8*time.Second, "set PostgreSQL back to a copy of its data folder that is that old")
	terminate    = flag.Bool("terminate", false, "cut a connection to the database 20 times a second")
	refuseWrites = lasting("refuse-writes", 4500*time.Millisecond, "let the database refuse writes that long, with 3.5 s in between")
	pooler       = flag.Bool("pooler", false, "go through the pgbouncer at $POOLER_URL, in transaction mode")
	environment  = flag.Bool("wrong-environment", false, "give a worker another environment's URL and credentials for half of the run")
	latency      = flag.Duration("apple-latency", 0, "`duration` that Apple takes for a response")
	limit        = flag.Int("limit", 1000, "`number` of requests a second that Apple allows; it answers the others with status 429")
	lose         = flag.Bool("lose-responses", false, "lose every tenth response after the refresh token was replaced")
)

// lasting is the flag of a trouble that lasts; 0 if it is not asked for.
func lasting(name string, usual time.Duration, usage string) *time.Duration {
	d := new(time.Duration)
	flag.BoolFunc(name, fmt.Sprintf("%s; a duration after \"=\" replaces %s", usage, usual), func(text string) (err error) {
		if *d = usual; text != "true" { // which it is for a flag without a value
			*d, err = time.ParseDuration(text)
		}
		return err
	})
	return d
}

// The test starts itself as its workers, with the same flags.
func TestMain(m *testing.M) {
	flag.Usage = func() {
		own := flag.NewFlagSet("fleet", flag.ContinueOnError)
		flag.VisitAll(func(f *flag.Flag) {
			if !strings.HasPrefix(f.Name, "test.") {
				own.Var(f.Value, f.Name, f.Usage)
			}
		})
		own.Usage()
	}
	flag.Parse()
	if err := checkFlags(); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(2)
	}
	if config := os.Getenv(workerVariable); config != "" {
		runWorker(config)
		return
	}
	m.Run()
}

func checkFlags() error {
	longest := max(*freeze, *restart, *refuseWrites)
	if *restore > 0 {
		longest = max(longest, *restore+accessTokenLife)
	}
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	case min(*processes, *grantCount, *limit) < 1 || *duration < time.Second,
		min(*latency, *freeze, *restart, *restore, *refuseWrites) < 0:
		return errors.New("a number or a duration is too small")
	case *wave && (longest > 0 || *kill || *terminate || *environment):
		return errors.New("a trouble that begins and ends, and -wave")
	case longest > 0 && *duration < calm+longest+calm:
		return fmt.Errorf("such a trouble needs a run of %s at least", calm+longest+calm)
	case *pooler && os.Getenv("POOLER_URL") == "":
		return errors.New("-pooler, and no $POOLER_URL")
	case *restart > 0 && *restore > 0:
		return errors.New("both -restart-database and -restore-backup")
	case max(*restart, *restore, *refuseWrites) > 0 && os.Getenv("POSTGRES_CTL") == "":
		return errors.New("-restart-database, -restore-backup or -refuse-writes, and no $POSTGRES_CTL")
	}
	return nil
}

func TestFlags(t *testing.T) {
	nowhere := []string{"DATABASE_URL=postgres://nobody@127.0.0.1:1/none?connect_timeout=1", "POOLER_URL=", "POSTGRES_CTL="}
	for args, want := range map[string]struct {
		status int
		output string
	}{
		"-h":                                {0, "Usage of fleet:\n"},
		"stray":                             {2, "fleet: unknown argument \"stray\"\n"},
		"-processes 0":                      {2, "fleet: a number or a duration is too small\n"},
		"-grants 0":                         {2, "fleet: a number or a duration is too small\n"},
		"-for 1ms":                          {2, "fleet: a number or a duration is too small\n"},
		"-limit -1":                         {2, "fleet: a number or a duration is too small\n"},
		"-database= -test.v":                {0, ": no -database: run.sh starts a PostgreSQL\n"},
		"-pooler":                           {2, "fleet: -pooler, and no $POOLER_URL\n"},
		"-restart-database":                 {2, "fleet: -restart-database, -restore-backup or -refuse-writes, and no $POSTGRES_CTL\n"},
		"-restore-backup=1s":                {2, "fleet: -restart-database, -restore-backup or -refuse-writes, and no $POSTGRES_CTL\n"},
		"-restart-database -restore-backup": {2, "fleet: both -restart-database and -restore-backup\n"},
		"-freeze":                           {2, "fleet: such a trouble needs a run of 32s at least\n"},
		"-wave -refuse-writes":              {2, "fleet: a trouble that begins and ends, and -wave\n"},
		"-wave -kill":                       {2, "fleet: a trouble that begins and ends, and -wave\n"},
		"-refuse-writes=-1s":                {2, "fleet: a number or a duration is too small\n"},
		"-freeze=long":                      {2, "invalid boolean value \"long\" for -freeze: "},
		"-processes 1 -for 1s":              {1, "failed to connect to "},
		"-unknown":                          {2, "flag provided but not defined: -unknown\n"},
	} {
		status, output := runFleet(args, nowhere...)
		assert.Equal(t, want.status, status, args)
		assert.Contains(t, output, want.output, args)
		assert.NotContains(t, output, "processes, ", args)
		assert.NotContains(t, output, "  -test.", args)
	}
}

// Whole runs: two troubles at once, and a wave.
func TestRuns(t *testing.T) {
	needDatabase(t)
	for args, want := range map[string][]string{
		"-processes 2 -grants 5 -for 9s -kill -refuse-writes=1s -apple-latency 100ms -limit 50": {"  1 s: ", "\n2 processes, "},
		"-wave -processes 2 -grants 20": {" 20 requests for 20 refresh tokens, 0 refused, 0 too many, 0 to the wrong environment; " +
			"0 kills, 0 responses lost, 0 grants lost by these; 40 calls, 0 failed []"},
	} {
		_, output := runFleet(args) // its status tells how fast this machine is
		for _, text := range want {
			assert.Contains(t, output, text, args)
		}
		assert.NotContains(t, output, "race detected", args)
	}
}

// runFleet runs TestFleet as run.sh does.
func runFleet(args string, environment ...string) (status int, output string) {
	command := exec.Command(os.Args[0], append([]string{"-test.run=^TestFleet$"}, strings.Fields(args)...)...)
	command.Env = append(os.Environ(), environment...)
	content, _ := command.CombinedOutput()
	return command.ProcessState.ExitCode(), string(content)
}
