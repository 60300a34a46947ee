// Fleet keeps many grants alive with many processes, in every ordinary trouble, and measures what that costs: worker processes
// use a grants.Manager each, on one PostgreSQL, while the fake Apple Business replaces each refresh token that it gets and keeps
// a ledger.
//
//	internal/fleet/run.sh -processes 8 -grants 50 -for 30s
//
// run.sh starts a PostgreSQL and a pgbouncer of its own. The program prints a line a second on stderr, and in the end one line of
// figures. The exit status is 1 if a refresh token was lost, a customer was told to reconnect falsely, or another goal was missed.
// Troubles can be combined; one that lasts takes another duration after "=", such as -freeze=1m, and needs a longer run then:
//
//	-kill                a worker is killed every 2 seconds, by SIGKILL, and another one started
//	-freeze              half of the workers stand still, by SIGSTOP, for 25 seconds
//	-restart-database    PostgreSQL crashes every 4 seconds, and is started 100 milliseconds later
//	-restore-backup      PostgreSQL is set back to a copy of its data folder that is 8 seconds old
//	-terminate           a connection to the database is cut 20 times a second
//	-refuse-writes       the database refuses writes for 4.5 of every 8 seconds, as with a full disk
//	-pooler              the workers go through a pgbouncer in transaction mode, with pgx's defaults
//	-wrong-environment   a worker has another environment's URL and credentials, for half of the run; that Apple refuses each token
//	-apple-latency 2s    Apple takes that long for each response
//	-limit 15            Apple allows that many requests a second, and answers the others with status 429
//	-lose-responses      every tenth response is lost after the refresh token was replaced
//
// A worker's lease of a grant lasts 20 seconds and Apple's latency: a trouble of 25 seconds is longer than that.
//
// With -wave all grants expire once, at the same moment, and the program ends when each has been refreshed:
//
//	internal/fleet/run.sh -wave -processes 8 -grants 500 -pool 4 -apple-latency 2s -limit 15
//
// # What a kill can cost
//
// A server that replaces refresh tokens has done so when it responds, and the new one is in one process only until it is saved. A
// process that dies in between takes it along, and the customer has to connect again. No client can close that gap, only keep it
// short; a lost response is the same. Apple does not document whether it replaces refresh tokens.
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

// options are the command line.
type options struct {
	processes, grants, pool, limit                   int
	duration, latency                                time.Duration
	freeze, restart, restore, refuseWrites           time.Duration // 0: not asked for
	wave, kill, terminate, pooler, lose, environment bool
	database, poolerURL, postgresCtl                 string
}

func main() {
	if config := os.Getenv(workerVariable); config != "" {
		os.Exit(runWorker(config))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := parse(args, getenv, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
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
	o := options{poolerURL: getenv("POOLER_URL"), postgresCtl: getenv("POSTGRES_CTL")}
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
	flags.IntVar(&o.processes, "processes", 8, "`number` of worker processes")
	flags.IntVar(&o.grants, "grants", 50, "`number` of grants")
	flags.IntVar(&o.pool, "pool", 4, "`number` of connections to the database that a worker has at most")
	flags.DurationVar(&o.duration, "for", 30*time.Second, "`duration` of the run")
	flags.BoolVar(&o.wave, "wave", false, "let all grants expire once, and end when each has been refreshed")
	flags.StringVar(&o.database, "database", getenv("DATABASE_URL"), "`URL` of a PostgreSQL database (default $DATABASE_URL)")
	flags.BoolVar(&o.kill, "kill", false, "kill a worker every 2 seconds")
	lasting(&o.freeze, "freeze", 25*time.Second, "let half of the workers stand still that long")
	lasting(&o.restart, "restart-database", 100*time.Millisecond, "let PostgreSQL crash every 4 seconds, and start it that much later")
	lasting(&o.restore, "restore-backup", 8*time.Second, "set PostgreSQL back to a copy of its data folder that is that old")
	flags.BoolVar(&o.terminate, "terminate", false, "cut a connection to the database 20 times a second")
	lasting(&o.refuseWrites, "refuse-writes", 4500*time.Millisecond, "let the database refuse writes that long, with 3.5 s in between")
	flags.BoolVar(&o.pooler, "pooler", false, "go through the pgbouncer at $POOLER_URL, as run.sh sets it")
	flags.BoolVar(&o.environment, "wrong-environment", false, "give a worker another environment's URL and credentials for half of the run")
	flags.DurationVar(&o.latency, "apple-latency", 0, "`duration` that Apple takes for a response")
	flags.IntVar(&o.limit, "limit", 0, "`number` of requests a second that Apple allows (default: any)")
	flags.BoolVar(&o.lose, "lose-responses", false, "lose every tenth response after the refresh token was replaced")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	longest := max(o.freeze, o.restart, o.refuseWrites)
	if o.restore > 0 {
		longest = max(longest, o.restore+accessTokenLife)
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case o.database == "":
		return o, errors.New("no -database")
	case o.processes < 1 || o.grants < 1 || o.pool < 1 || o.limit < 0 || o.latency < 0 || o.duration < time.Second,
		min(o.freeze, o.restart, o.restore, o.refuseWrites) < 0:
		return o, errors.New("a number or a duration is too small")
	case o.wave && (longest > 0 || o.kill || o.terminate || o.environment):
		return o, errors.New("a trouble that begins and ends, and -wave")
	case longest > 0 && o.duration < calm+longest+calm:
		return o, fmt.Errorf("such a trouble needs a run of %s at least", calm+longest+calm)
	case o.pooler && o.poolerURL == "":
		return o, errors.New("-pooler, and no $POOLER_URL")
	case (o.restart > 0 || o.restore > 0) && o.postgresCtl == "":
		return o, errors.New("-restart-database or -restore-backup, and no $POSTGRES_CTL")
	}
	return o, nil
}
