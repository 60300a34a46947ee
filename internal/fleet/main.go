// Fleet keeps many grants alive with many processes, in every ordinary trouble, and measures what that costs: worker processes
// use a grants.Manager each, on one PostgreSQL, while the fake Apple Business replaces each refresh token and keeps a ledger.
//
//	internal/fleet/run.sh -processes 8 -grants 50 -for 30s
//
// run.sh starts a PostgreSQL and a pgbouncer of its own. The program prints a line a second on stderr, and in the end one line of
// figures. The exit status is 1 if a refresh token was lost, a customer was told to reconnect falsely, or another goal was missed.
// The flag -h lists the troubles, which can be combined. One that lasts takes another duration after "=", such as -freeze=1m, and
// needs a longer run then. A worker's lease of a grant lasts 20 seconds and Apple's latency.
//
// A killed process can take a refresh token along: Apple has replaced the one before when it responds, and until it is saved the
// new one is in that process only. No client can close that gap, only keep it short; a lost response is the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	workerVariable  = "FLEET_WORKER"
	callers         = 8                       // of a worker
	deadline        = 2 * time.Second         // that a caller has
	calm            = 3500 * time.Millisecond // before, between and after troubles
	accessTokenLife = 15 * time.Second        // a Manager counts a token as expired 10 seconds early, and so refreshes it every 5
)

// options are the command line.
type options struct {
	Processes, Grants, Limit                 int
	Duration, Latency                        time.Duration
	Freeze, Restart, Restore, RefuseWrites   time.Duration // 0: not asked for
	Wave, Kill, Terminate, Lose, Environment bool
	Database, Pooler                         string // URLs; Pooler is empty if the workers use Database
}

func main() {
	if config := os.Getenv(workerVariable); config != "" {
		runWorker(config)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := parse(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "fleet:", err)
		return 2
	}
	found, err := runFleet(ctx, o, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "fleet:", err)
		return 1
	}
	return report(stdout, found)
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(stderr)
	lasting := func(d *time.Duration, name string, usual time.Duration, usage string) {
		flags.BoolFunc(name, fmt.Sprintf("%s; a duration after \"=\" replaces %s", usage, usual), func(text string) (err error) {
			if *d = usual; text != "true" { // which it is for a flag without a value
				*d, err = time.ParseDuration(text)
			}
			return err
		})
	}
	flags.IntVar(&o.Processes, "processes", 8, "`number` of worker processes")
	flags.IntVar(&o.Grants, "grants", 50, "`number` of grants")
	flags.DurationVar(&o.Duration, "for", 30*time.Second, "`duration` of the run")
	flags.BoolVar(&o.Wave, "wave", false, "let all grants expire once, at the same moment, and end when each has been refreshed")
	flags.StringVar(&o.Database, "database", getenv("DATABASE_URL"), "`URL` of a PostgreSQL database (default $DATABASE_URL)")
	flags.BoolVar(&o.Kill, "kill", false, "kill a worker every 2 seconds, by SIGKILL, and start another one")
	lasting(&o.Freeze, "freeze", 25*time.Second, "let half of the workers stand still that long, by SIGSTOP")
	lasting(&o.Restart, "restart-database", 100*time.Millisecond, "let PostgreSQL crash every 4 seconds, and start it that much later")
	lasting(&o.Restore, "restore-backup", 8*time.Second, "set PostgreSQL back to a copy of its data folder that is that old")
	flags.BoolVar(&o.Terminate, "terminate", false, "cut a connection to the database 20 times a second")
	lasting(&o.RefuseWrites, "refuse-writes", 4500*time.Millisecond, "let the database refuse writes that long, with 3.5 s in between")
	pooler := flags.Bool("pooler", false, "go through the pgbouncer at $POOLER_URL, in transaction mode")
	flags.BoolVar(&o.Environment, "wrong-environment", false, "give a worker another environment's URL and credentials for half of the run")
	flags.DurationVar(&o.Latency, "apple-latency", 0, "`duration` that Apple takes for a response")
	flags.IntVar(&o.Limit, "limit", 1000, "`number` of requests a second that Apple allows; it answers the others with status 429")
	flags.BoolVar(&o.Lose, "lose-responses", false, "lose every tenth response after the refresh token was replaced")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *pooler {
		o.Pooler = getenv("POOLER_URL")
	}
	longest := max(o.Freeze, o.Restart, o.RefuseWrites)
	if o.Restore > 0 {
		longest = max(longest, o.Restore+accessTokenLife)
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case o.Database == "":
		return o, errors.New("no -database")
	case min(o.Processes, o.Grants, o.Limit) < 1 || o.Duration < time.Second,
		min(o.Latency, o.Freeze, o.Restart, o.Restore, o.RefuseWrites) < 0:
		return o, errors.New("a number or a duration is too small")
	case o.Wave && (longest > 0 || o.Kill || o.Terminate || o.Environment):
		return o, errors.New("a trouble that begins and ends, and -wave")
	case longest > 0 && o.Duration < calm+longest+calm:
		return o, fmt.Errorf("such a trouble needs a run of %s at least", calm+longest+calm)
	case *pooler && o.Pooler == "":
		return o, errors.New("-pooler, and no $POOLER_URL")
	case o.Restart > 0 && o.Restore > 0:
		return o, errors.New("both -restart-database and -restore-backup")
	case max(o.Restart, o.Restore, o.RefuseWrites) > 0 && getenv("POSTGRES_CTL") == "":
		return o, errors.New("-restart-database, -restore-backup or -refuse-writes, and no $POSTGRES_CTL")
	}
	return o, nil
}
