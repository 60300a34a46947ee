package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

const unlimited = 1000 // requests a second, where Apple has no limit

// fleet is the worker processes, and what they have reported.
type fleet struct {
	options options
	apple   *apple
	pool    *pgxpool.Pool // of this process
	config  workerConfig
	stderr  io.Writer

	mu      sync.Mutex
	running []*process
	reports map[*process]counts
	kills   int
	failed  []error // of workers that nobody killed
}

// process is a worker process.
type process struct {
	command *exec.Cmd
	stdin   io.Closer
	done    chan struct{}
	killed  bool
}

// result is what a run has found.
type result struct {
	options           options
	took              time.Duration
	calls, callsFail  int
	overrun           time.Duration
	errors            map[string]int
	kills             int
	lostResponses     int
	expired, requests int
	tooMany           int
	toldFalsely       int // grants that were called dead although their customers revoked nothing and nothing of them was lost
	lost              int // grants whose newest refresh token nobody has, likewise
	lostToTrouble     int // by a kill or a lost response
	unexplained       int // of those, verdicts that do not say that a response was lost
}

func (r result) goals() []goal {
	goals := []goal{
		{"requests to Apple (expired tokens, kills, lost responses)", r.requests, r.expired + r.kills + r.lostResponses},
		{`grants called dead that are not`, r.toldFalsely, 0},
		{"refresh tokens lost, but by a kill or a lost response", r.lost, 0},
		{"grants lost by a kill or a lost response", r.lostToTrouble, r.kills + r.lostResponses},
		{"of those, verdicts that do not say so", r.unexplained, 0},
		{"ms that a caller waited longer than its deadline", int(r.overrun.Milliseconds()), 500}, // on busy cores
	}
	if r.options.wave {
		goals = append(goals,
			goal{"callers without a token", r.callsFail, 0},
			goal{"requests to Apple, those with status 429 too", r.requests + r.tooMany, r.options.grants * 11 / 10},
			goal{"tenths of a second until every grant was refreshed", int(r.took / (100 * time.Millisecond)), int(r.ideal() * 5 / 4 / (100 * time.Millisecond))},
		)
	}
	return goals
}

// ideal is how long a wave takes if a request is under way whenever one is allowed.
func (r result) ideal() time.Duration {
	limit := r.options.limit
	if limit == 0 {
		limit = unlimited
	}
	return time.Duration(r.options.grants)*time.Second/time.Duration(limit) + r.options.latency + time.Second // a second to start processes
}

func (r result) notes() []string {
	var notes []string
	if r.options.wave {
		notes = append(notes, fmt.Sprintf("the wave took %s; ideal are %s", r.took.Round(100*time.Millisecond), r.ideal().Round(100*time.Millisecond)))
	}
	if r.tooMany > 0 {
		notes = append(notes, fmt.Sprintf("%d requests were too many for Apple's limit", r.tooMany))
	}
	for _, kind := range slices.Sorted(maps.Keys(r.errors)) {
		notes = append(notes, fmt.Sprintf("%d calls failed: %s", r.errors[kind], kind))
	}
	return notes
}

func runFleet(ctx context.Context, o options, stderr io.Writer) (result, error) {
	pool, err := pgxpool.New(ctx, o.database)
	if err != nil {
		return result{}, err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "DROP TABLE IF EXISTS "+pgxstore.DefaultTable+", "+pgxstore.DefaultTable+"_limit"); err != nil {
		return result{}, err
	}
	if err := pgxstore.Migrate(ctx, pool); err != nil {
		return result{}, err
	}
	apple, err := newApple(o)
	if err != nil {
		return result{}, err
	}
	defer apple.Close()
	f := &fleet{options: o, apple: apple, pool: pool, stderr: stderr, reports: make(map[*process]counts)}
	f.config = workerConfig{
		Database: o.database,
		OAuth2:   oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()},
		Pool:     int32(o.pool), Limit: o.limit, Wave: o.wave,
	}
	if o.pooler {
		f.config.Database = o.poolerURL
	}
	if o.limit == 0 {
		f.config.Limit = unlimited
	}
	store := pgxstore.New(pool, nil)
	for i := range o.grants {
		grant := fmt.Sprintf("grant-%d", i)
		f.config.Grants = append(f.config.Grants, grant)
		if err := store.Put(ctx, grant, apple.connect(grant)); err != nil {
			return result{}, err
		}
	}

	start := time.Now()
	for i := range o.processes {
		if err := f.start(i); err != nil {
			return result{}, err
		}
	}
	if o.wave {
		err = f.waitForWave(ctx)
	} else {
		running, cancel := context.WithTimeout(ctx, o.duration)
		defer cancel()
		err = f.trouble(running)
	}
	took := time.Since(start)
	if err = errors.Join(err, f.stop(), ctx.Err()); err != nil {
		return result{}, err
	}
	return f.judge(ctx, store, took)
}

// start starts the i-th worker. In a wave each grant is used by two of them.
func (f *fleet) start(i int) error {
	config := f.config
	if config.Wave {
		config.Grants = nil
		for n, grant := range f.config.Grants {
			if n%f.options.processes == i || (n+1)%f.options.processes == i {
				config.Grants = append(config.Grants, grant)
			}
		}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), workerVariable+"="+string(text))
	command.Stderr = f.stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	p := &process{command: command, stdin: stdin, done: make(chan struct{})}
	f.mu.Lock()
	f.running = append(f.running, p)
	f.mu.Unlock()
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var reported counts
			if json.Unmarshal(lines.Bytes(), &reported) == nil {
				f.mu.Lock()
				f.reports[p] = reported
				f.mu.Unlock()
			}
		}
		err := command.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running = slices.DeleteFunc(f.running, func(other *process) bool { return other == p })
		if err != nil && !p.killed {
			f.failed = append(f.failed, fmt.Errorf("a worker ended by itself: %w", err))
		}
	}()
	return nil
}

// waitForWave returns when every worker has ended by itself.
func (f *fleet) waitForWave(ctx context.Context) error {
	f.mu.Lock()
	running := slices.Clone(f.running)
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		for _, p := range running {
			<-p.done
		}
		close(done)
	}()
	for second := 1; ; second++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			return nil
		case <-time.After(time.Second):
			f.progress(second)
		}
	}
}

// trouble makes what trouble the options ask for, until ctx ends. What it began it ends: the database works afterwards.
func (f *fleet) trouble(ctx context.Context) error {
	o := f.options
	var tasks sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	every := func(asked bool, d time.Duration, do func() error) {
		if !asked {
			return
		}
		tasks.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(d):
				}
				if err := do(); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	second := 0
	every(true, time.Second, func() error {
		second++
		f.progress(second)
		return nil
	})
	every(o.kill, 2*time.Second, f.killOne)
	every(o.restart, 4*time.Second, func() error {
		output, err := exec.Command(o.postgresCtl, "-m", "immediate", "restart").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		return nil
	})
	every(o.terminate, 50*time.Millisecond, func() error {
		_, _ = f.pool.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY random() LIMIT 1`) // it may be cut itself
		return nil
	})
	every(o.refuseWrites, 3500*time.Millisecond, func() error {
		if err := f.refuseWrites(true); err != nil {
			return err
		}
		time.Sleep(4500 * time.Millisecond)
		return f.refuseWrites(false)
	})
	tasks.Wait()
	return errors.Join(errs...)
}

// refuseWrites lets every transaction of the database be read-only, or none.
func (f *fleet) refuseWrites(refuse bool) error {
	setting := "off"
	if refuse {
		setting = "on"
	}
	for _, sql := range []string{"SET default_transaction_read_only = off", "ALTER SYSTEM SET default_transaction_read_only = " + setting, "SELECT pg_reload_conf()"} {
		if err := f.retry(sql); err != nil {
			return err
		}
	}
	return nil
}

// retry executes a statement of the trouble, which another trouble may disturb.
func (f *fleet) retry(sql string) (err error) {
	for range 100 {
		if _, err = f.pool.Exec(context.Background(), sql); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// killOne kills a worker, and starts another.
func (f *fleet) killOne() error {
	f.mu.Lock()
	if len(f.running) == 0 {
		f.mu.Unlock()
		return errors.New("no worker is left")
	}
	p := f.running[rand.N(len(f.running))]
	p.killed = true
	f.kills++
	f.mu.Unlock()
	_ = p.command.Process.Kill() // it may have ended
	<-p.done
	return f.start(0)
}

// stop lets the workers end by themselves.
func (f *fleet) stop() error {
	f.mu.Lock()
	running := slices.Clone(f.running)
	f.mu.Unlock()
	for _, p := range running {
		_ = p.stdin.Close()
	}
	for _, p := range running {
		<-p.done
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.failed...)
}

func (f *fleet) progress(second int) {
	f.mu.Lock()
	calls, failed := 0, 0
	for _, reported := range f.reports {
		calls, failed = calls+reported.Calls, failed+reported.Failed
	}
	kills := f.kills
	f.mu.Unlock()
	f.apple.mu.Lock()
	defer f.apple.mu.Unlock()
	fmt.Fprintf(f.stderr, "%3d s: %d calls, %d failed; %d requests, %d refused, %d too many; %d kills, %d responses lost\n",
		second, calls, failed, f.apple.requests, f.apple.refused, f.apple.tooMany, kills, len(f.apple.lost))
}

// judge compares the database and what callers were told with Apple's ledger.
func (f *fleet) judge(ctx context.Context, store *pgxstore.Store, took time.Duration) (result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apple.mu.Lock()
	defer f.apple.mu.Unlock()
	r := result{
		options: f.options, took: took, kills: f.kills, lostResponses: len(f.apple.lost), errors: make(map[string]int),
		requests: f.apple.requests, expired: len(f.apple.seen), tooMany: f.apple.tooMany,
	}
	told := make(map[string]bool)
	for _, reported := range f.reports {
		r.calls += reported.Calls
		r.callsFail += reported.Failed
		r.overrun = max(r.overrun, reported.Overrun)
		for kind, n := range reported.Errors {
			r.errors[kind] += n
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
		isLost := record.Token.RefreshToken != newest
		inTrouble := f.apple.lost[grant] || isLost && f.kills > 0
		switch {
		case isLost && inTrouble:
			r.lostToTrouble++
			if record.Dead != nil && !record.Dead.ResponseLost {
				r.unexplained++
			}
		case isLost:
			r.lost++
		}
		if (told[grant] || record.Dead != nil) && !inTrouble {
			r.toldFalsely++
		}
	}
	return r, nil
}
