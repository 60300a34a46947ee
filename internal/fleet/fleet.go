package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// fleet is the worker processes, with the fake Apple Business that they use.
type fleet struct {
	*apple
	pool    *pgxpool.Pool // of this process
	stderr  io.Writer
	seconds int            // since the troubles began
	workers sync.WaitGroup // until they have ended
	running []*exec.Cmd    // guarded by mu, as apple's ledger is
	errs    []error        // likewise
}

func runFleet(ctx context.Context, o options, stderr io.Writer) (result, error) {
	pool, err := pgxpool.New(ctx, o.Database)
	if err != nil {
		return result{}, err
	}
	defer pool.Close()
	store := pgxstore.New(pool, nil)
	_, err = pool.Exec(ctx, "DROP TABLE IF EXISTS "+pgxstore.DefaultTable+", "+pgxstore.DefaultTable+"_limit")
	if err = cmp.Or(err, store.Migrate(ctx)); err != nil {
		return result{}, err
	}
	apple, err := newApple(o)
	if err != nil {
		return result{}, err
	}
	defer apple.Close()
	other := applebusinesstest.NewServer(nil) // the wrong environment
	defer other.Close()
	for n := 0; n < o.Grants && err == nil; n++ {
		err = store.Put(ctx, name(n), apple.connect(name(n)))
	}
	f := &fleet{apple: apple, pool: pool, stderr: stderr}
	start := time.Now()
	for i := 0; i < o.Processes && err == nil; i++ {
		server := apple.Server
		if o.Environment && i == 0 {
			server = other
		}
		err = f.start(i, server)
	}
	if err != nil {
		return result{}, err
	}
	running, cancel := context.WithTimeout(ctx, o.Duration)
	if o.Wave {
		running, cancel = context.WithCancel(ctx)
		go func() {
			f.workers.Wait()
			cancel()
		}()
	}
	defer cancel()
	err = f.trouble(running)
	f.found.took = time.Since(start)
	_ = f.signal(syscall.SIGTERM, 1)()
	f.workers.Wait()
	f.found.elsewhere = len(other.Requests())
	if err := errors.Join(append(f.errs, err, ctx.Err())...); err != nil {
		return result{}, err
	}
	return f.judge(ctx, store)
}

// start starts a worker, which dies with this process, since it writes to a pipe.
func (f *fleet) start(i int, server *applebusinesstest.Server) error {
	config, _ := json.Marshal(workerConfig{f.options, i, oauth2.Config{
		ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint(),
	}})
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), workerVariable+"="+string(config))
	command.Stderr = f.stderr
	stdout, err := command.StdoutPipe()
	if err = cmp.Or(err, command.Start()); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = append(f.running, command)
	f.workers.Go(func() {
		reports := json.NewDecoder(stdout)
		for c := new(call); reports.Decode(c) == nil; c = new(call) {
			f.called(*c)
		}
		err := command.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running = slices.DeleteFunc(f.running, func(other *exec.Cmd) bool { return other == command })
		how := fmt.Sprint(err) // one that was told to end before it began is "terminated"
		if err != nil && how != "signal: terminated" && !(f.options.Kill && how == "signal: killed") {
			f.errs = append(f.errs, fmt.Errorf("a worker ended by itself: %w", err))
		}
	})
	return nil
}

// trouble makes what trouble the options ask for, until ctx ends. What it begins it ends: the database works afterwards.
func (f *fleet) trouble(ctx context.Context) error {
	o := f.options
	end, _ := ctx.Deadline()
	another := func() error { return f.start(0, f.Server) }
	var tasks errgroup.Group
	for _, t := range []struct {
		asked              bool
		pause, lasts, left time.Duration // how long after the one before it begins, lasts, and has to be left of the run then
		begin, end         func() error
	}{
		{true, time.Second, 0, 0, f.progress, nil},
		{o.Kill, 2 * time.Second, 0, 0, f.killOne, another},
		{o.Terminate, 50 * time.Millisecond, 0, 0, f.terminate, nil},
		{o.Freeze > 0, calm, o.Freeze, o.Freeze + calm, f.signal(syscall.SIGSTOP, 2), f.signal(syscall.SIGCONT, 1)},
		{o.RefuseWrites > 0, calm, o.RefuseWrites, o.RefuseWrites + calm, // now, or when PostgreSQL is started
			shell(`echo "default_transaction_read_only = on" >>"$PGDATA/postgresql.conf"; "$0" reload || true`),
			shell(`echo "default_transaction_read_only = off" >>"$PGDATA/postgresql.conf"; "$0" reload || true`)},
		{o.Restart > 0, calm, o.Restart, o.Restart + calm, shell(`"$0" -m immediate stop`), shell(`"$0" start`)},
		{o.Restore > 0, calm, o.Restore, o.Restore + accessTokenLife + calm, // each process looks at each row once more
			shell(`"$0" -m fast stop; cp -a "$PGDATA" "$PGDATA.backup"; "$0" start`),
			shell(`"$0" -m immediate stop; rm -r "$PGDATA"; mv "$PGDATA.backup" "$PGDATA"; "$0" start`)},
		// That ends the first worker, and not a second time, since no quarter is left then.
		{o.Environment, o.Duration / 2, 0, o.Duration / 4, f.signal(syscall.SIGTERM, o.Processes), another},
	} {
		tasks.Go(func() error {
			for t.asked && sleep(ctx, t.pause) && (t.left == 0 || time.Until(end) > t.left) {
				err := t.begin()
				if t.end != nil && err == nil {
					sleep(ctx, t.lasts)
					err = t.end()
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return tasks.Wait()
}

// sleep reports whether d has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (f *fleet) progress() error {
	f.seconds++
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.found
	fmt.Fprintf(f.stderr, "%3d s: %d calls, %d told to reconnect; %d requests, %d refused, %d too many; %d kills, %d responses lost\n",
		f.seconds, r.calls, len(f.told), r.requests, r.refused, r.tooMany, r.kills, len(f.lost))
	return nil
}

// killOne kills a worker.
func (f *fleet) killOne() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.running); n > 0 {
		f.found.kills++
		_ = f.running[rand.N(n)].Process.Kill() // it may have ended
	}
	return nil
}

// signal sends a signal to the first of the workers: to one in share, so that 1 is all.
func (f *fleet) signal(signal os.Signal, share int) func() error {
	return func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, command := range f.running[:(len(f.running)+share-1)/share] {
			_ = command.Process.Signal(signal) // it may have ended
		}
		return nil
	}
}

// terminate cuts a connection to the database; it may be cut itself.
func (f *fleet) terminate() error {
	_, _ = f.pool.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY random() LIMIT 1`)
	return nil
}

// shell runs a script for which pg_ctl is $0.
func shell(script string) func() error {
	return func() error {
		if output, err := exec.Command("sh", "-euc", script, os.Getenv("POSTGRES_CTL")).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		return nil
	}
}
