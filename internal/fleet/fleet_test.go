package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
)

// TestFleet is the trial. Its failures are the goals that were missed.
func TestFleet(t *testing.T) {
	needDatabase(t)
	pool, err := pgxpool.New(t.Context(), *database)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), "DROP TABLE IF EXISTS "+table+", "+table+"_limit")
	require.NoError(t, err)
	store := newStore(pool)
	require.NoError(t, store.Migrate(t.Context()))
	f := &fleet{apple: newApple(t), t: t, pool: pool}
	other := applebusinesstest.NewServer(nil) // the wrong environment
	t.Cleanup(other.Close)
	for n := range *grantCount {
		require.NoError(t, store.Put(t.Context(), name(n), f.connect(name(n))))
	}
	start := time.Now()
	for i := range *processes {
		server := f.Server
		if *environment && i == 0 {
			server = other
		}
		f.start(i, server)
	}
	running, cancel := context.WithCancel(t.Context())
	defer cancel()
	if *wave {
		go func() {
			f.workers.Wait()
			cancel()
		}()
	} else {
		time.AfterFunc(*duration, cancel)
	}
	f.trouble(running)
	f.found.took = time.Since(start)
	f.signal(syscall.SIGTERM, 1)()
	f.workers.Wait()
	f.found.elsewhere = len(other.Requests())
	found := f.judge(t, store)
	fmt.Println(found)
	for _, missed := range found.missed() {
		t.Error("MISSED: " + missed)
	}
}

func needDatabase(t *testing.T) {
	t.Helper()
	if *database == "" {
		t.Skip("no -database: run.sh starts a PostgreSQL")
	}
}

// fleet is the worker processes, with the fake Apple Business that they use.
type fleet struct {
	*apple
	t       *testing.T
	pool    *pgxpool.Pool  // of this process
	seconds int            // since the troubles began
	workers sync.WaitGroup // until they have ended
	running []*exec.Cmd    // guarded by mu, as apple's ledger is
}

// start starts a worker, which dies with this process, since it writes to a pipe.
func (f *fleet) start(i int, server *applebusinesstest.Server) {
	config, _ := json.Marshal(workerConfig{i, oauth2.Config{
		ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint(),
	}})
	command := exec.CommandContext(f.t.Context(), os.Args[0], os.Args[1:]...)
	command.Env = append(os.Environ(), workerVariable+"="+string(config))
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err = cmp.Or(err, command.Start()); err != nil {
		f.t.Error(err)
		return
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
		if err != nil && how != "signal: terminated" && !(*kill && how == "signal: killed") {
			f.t.Error("a worker ended by itself:", how)
		}
	})
}

// trouble makes what trouble the flags ask for, until ctx ends. What it begins it ends: the database works afterwards.
func (f *fleet) trouble(ctx context.Context) {
	end := time.Now().Add(*duration)
	another := func() { f.start(0, f.Server) }
	var tasks sync.WaitGroup
	for _, trouble := range []struct {
		asked              bool
		pause, lasts, left time.Duration // how long after the one before it begins, lasts, and has to be left of the run then
		begin, end         func()
	}{
		{true, time.Second, 0, 0, f.progress, nil},
		{*kill, 2 * time.Second, 0, 0, f.killOne, another},
		{*terminate, 50 * time.Millisecond, 0, 0, f.terminate, nil},
		{*freeze > 0, calm, *freeze, *freeze + calm, f.signal(syscall.SIGSTOP, 2), f.signal(syscall.SIGCONT, 1)},
		{*refuseWrites > 0, calm, *refuseWrites, *refuseWrites + calm, // now, or when PostgreSQL is started
			f.shell(`echo "default_transaction_read_only = on" >>"$PGDATA/postgresql.conf"; "$0" reload || true`),
			f.shell(`echo "default_transaction_read_only = off" >>"$PGDATA/postgresql.conf"; "$0" reload || true`)},
		{*restart > 0, calm, *restart, *restart + calm, f.shell(`"$0" -m immediate stop`), f.shell(`"$0" start`)},
		{*restore > 0, calm, *restore, *restore + accessTokenLife + calm, // each process looks at each row once more
			f.shell(`"$0" -m fast stop; cp -a "$PGDATA" "$PGDATA.backup"; "$0" start`),
			f.shell(`"$0" -m immediate stop; rm -r "$PGDATA"; mv "$PGDATA.backup" "$PGDATA"; "$0" start`)},
		// That ends the first worker, and not a second time, since no quarter is left then.
		{*environment, *duration / 2, 0, *duration / 4, f.signal(syscall.SIGTERM, *processes), another},
	} {
		tasks.Go(func() {
			for trouble.asked && sleep(ctx, trouble.pause) && (trouble.left == 0 || time.Until(end) > trouble.left) {
				trouble.begin()
				if trouble.end != nil {
					sleep(ctx, trouble.lasts)
					trouble.end()
				}
			}
		})
	}
	tasks.Wait()
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

func (f *fleet) progress() {
	f.seconds++
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.found
	fmt.Fprintf(os.Stderr, "%3d s: %d calls, %d told to reconnect; %d requests, %d refused, %d too many; %d kills, %d responses lost\n",
		f.seconds, r.calls, len(f.told), r.requests, r.refused, r.tooMany, r.kills, len(f.lost))
}

// killOne kills a worker.
func (f *fleet) killOne() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.running); n > 0 {
		f.found.kills++
		_ = f.running[rand.N(n)].Process.Kill() // it may have ended
	}
}

// signal sends a signal to the first of the workers: to one in share, so that 1 is all.
func (f *fleet) signal(signal os.Signal, share int) func() {
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, command := range f.running[:(len(f.running)+share-1)/share] {
			_ = command.Process.Signal(signal) // it may have ended
		}
	}
}

// terminate cuts a connection to the database; it may be cut itself.
func (f *fleet) terminate() {
	_, _ = f.pool.Exec(f.t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY random() LIMIT 1`)
}

// shell runs a script for which pg_ctl is $0.
func (f *fleet) shell(script string) func() {
	return func() {
		if output, err := exec.Command("sh", "-euc", script, os.Getenv("POSTGRES_CTL")).CombinedOutput(); err != nil {
			f.t.Errorf("%v: %s", err, output)
		}
	}
}
