package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

const (
	workerVariable = "FLEET_WORKER"
	callers        = 8               // of a worker
	deadline       = 2 * time.Second // that a caller has
)

// workerConfig tells a worker process what to do.
type workerConfig struct {
	Database string
	OAuth2   oauth2.Config
	Grants   []string
	Timeout  time.Duration // of a request; the lease is 15 seconds longer
	Pool     int32
	Limit    int // a second, for the whole fleet
	Wave     bool
}

// counts is what a worker reports, each second and at its end.
type counts struct {
	Calls  int
	Failed map[string]int // of them, by kind
	Late   time.Duration  // by how much a caller waited longer than its deadline, at most
	Dead   []string       // grants whose customers are to connect again
}

// runWorker runs until stdin ends, and then as long as it takes to store what is not stored.
func runWorker(text string) int {
	var config workerConfig
	err := json.Unmarshal([]byte(text), &config)
	if err == nil {
		err = work(config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet: worker:", err)
		return 1
	}
	return 0
}

func work(config workerConfig) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	poolConfig, err := pgxpool.ParseConfig(config.Database)
	if err != nil {
		return err
	}
	poolConfig.MaxConns = config.Pool
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return err
	}
	defer pool.Close()
	store := pgxstore.New(pool, nil)
	manager := grants.New(&config.OAuth2, store, &grants.Options{
		HTTPClient: &http.Client{Timeout: config.Timeout},
		Limit:      store.Limiter(config.Limit),
	})

	w := &worker{manager: manager, counts: counts{Failed: make(map[string]int)}}
	var tasks sync.WaitGroup
	if config.Wave {
		for _, grant := range config.Grants {
			tasks.Go(func() { w.call(ctx, grant, time.Hour) })
		}
	} else {
		for range callers {
			tasks.Go(func() {
				for ctx.Err() == nil {
					w.call(ctx, config.Grants[rand.N(len(config.Grants))], deadline)
					time.Sleep(rand.N(40 * time.Millisecond))
				}
			})
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if config.Wave {
		go func() {
			tasks.Wait()
			cancel()
		}()
	}
	for sleep(ctx, time.Second) {
		w.report()
	}
	tasks.Wait()
	stopping, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	err = manager.Close(stopping)
	w.report()
	return err
}

// worker counts what its callers meet.
type worker struct {
	manager *grants.Manager

	mu     sync.Mutex
	counts counts
}

// call is a caller who needs a token within the time.
func (w *worker) call(ctx context.Context, grant string, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	start := time.Now()
	_, err := w.manager.Token(ctx, grant)
	took := time.Since(start)
	if ctx.Err() != nil && context.Cause(ctx) == context.Canceled {
		return // the worker ends
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Calls++
	w.counts.Late = max(w.counts.Late, took-within)
	if err == nil {
		return
	}
	w.counts.Failed[kindOf(err)]++
	if applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize && !slices.Contains(w.counts.Dead, grant) {
		w.counts.Dead = append(w.counts.Dead, grant)
	}
}

func kindOf(err error) string {
	var failed *grants.StoreError
	switch {
	case errors.As(err, &failed):
		return "the database"
	case errors.Is(err, context.DeadlineExceeded):
		return "the caller's deadline"
	}
	return applebusiness.Label(err)
}

// report writes a line of JSON, the newest of which counts.
func (w *worker) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	line, _ := json.Marshal(w.counts)
	fmt.Println(string(line))
}
