package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
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

	other    *applebusinesstest.Server // of the wrong environment; nil without one
	wrong    *process                  // the first worker, which then has it
	database sync.Mutex                // held by who stops PostgreSQL

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
		Timeout:  5*time.Second + o.latency,
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
		config := f.config
		if o.environment && i == 0 {
			f.other = applebusinesstest.NewServer(nil)
			defer f.other.Close()
			config.OAuth2 = oauth2.Config{ClientID: f.other.App.ClientID, ClientSecret: f.other.App.ClientSecret, Endpoint: f.other.Endpoint()}
		}
		p, err := f.start(i, config)
		if err != nil {
			return result{}, err
		}
		if i == 0 {
			f.wrong = p
		}
	}
	running, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	if o.wave {
		running, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			f.wait()
			cancel()
		}()
	}
	err = f.trouble(running)
	took := time.Since(start)
	if err = errors.Join(err, f.stop(), ctx.Err()); err != nil {
		return result{}, err
	}
	return f.judge(ctx, store, took)
}

// start starts the i-th worker. In a wave each grant is used by two of them.
func (f *fleet) start(i int, config workerConfig) (*process, error) {
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
		return nil, err
	}
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), workerVariable+"="+string(text))
	command.Stderr = f.stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
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
	return p, nil
}

// wait returns when the workers have ended.
func (f *fleet) wait() {
	f.mu.Lock()
	running := slices.Clone(f.running)
	f.mu.Unlock()
	for _, p := range running {
		<-p.done
	}
}

// stop lets the workers end by themselves.
func (f *fleet) stop() error {
	f.mu.Lock()
	for _, p := range f.running {
		_ = p.stdin.Close()
	}
	f.mu.Unlock()
	f.wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.failed...)
}

func (f *fleet) progress(second int) {
	f.mu.Lock()
	calls, told := 0, 0
	for _, reported := range f.reports {
		calls, told = calls+reported.Calls, told+len(reported.Dead)
	}
	kills := f.kills
	f.mu.Unlock()
	f.apple.mu.Lock()
	defer f.apple.mu.Unlock()
	fmt.Fprintf(f.stderr, "%3d s: %d calls, %d told to reconnect; %d requests, %d refused, %d too many; %d kills, %d responses lost\n",
		second, calls, told, f.apple.requests, f.apple.refused, f.apple.tooMany, kills, len(f.apple.lost))
}
