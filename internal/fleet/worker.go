package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// workerConfig tells a worker process what to do.
type workerConfig struct {
	Options options
	Worker  int // its place among the processes
	OAuth2  oauth2.Config
}

// counts is what a worker reports, each second and at its end: what is new.
type counts struct {
	Calls  int
	Failed map[string]int  // of them, by kind
	Late   time.Duration   // by how much a caller waited longer than its deadline, at most
	Told   map[string]bool // grants whose customers are to connect again
}

func newCounts() counts { return counts{Failed: make(map[string]int), Told: make(map[string]bool)} }

func (c *counts) add(more counts) {
	c.Calls, c.Late = c.Calls+more.Calls, max(c.Late, more.Late)
	for kind, n := range more.Failed {
		c.Failed[kind] += n
	}
	maps.Copy(c.Told, more.Told)
}

// runWorker runs until SIGTERM, and then as long as it takes to store what is not stored.
func runWorker(text string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var config workerConfig
	_ = json.Unmarshal([]byte(text), &config) // it is start's
	o := config.Options
	pool, err := pgxpool.New(ctx, cmp.Or(o.Pooler, o.Database))
	if err != nil {
		log.Fatalln("fleet: worker:", err)
	}
	defer pool.Close()
	store := pgxstore.New(pool, nil)
	w := &worker{counts: newCounts(), manager: grants.New(&config.OAuth2, store, &grants.Options{
		HTTPClient: &http.Client{Timeout: 5*time.Second + o.Latency}, // the lease is 15 seconds longer
		Limit:      store.Limiter(o.Limit),                           // for the whole fleet
	})}
	var tasks sync.WaitGroup
	for n := range o.Grants {
		if o.Wave && (n%o.Processes == config.Worker || (n+1)%o.Processes == config.Worker) { // two use each grant
			tasks.Go(func() { w.call(ctx, name(n), time.Hour) })
		}
	}
	for range callers {
		tasks.Go(func() {
			for !o.Wave && sleep(ctx, rand.N(40*time.Millisecond)) {
				w.call(ctx, name(rand.N(o.Grants)), deadline)
			}
		})
	}
	go func() {
		for sleep(ctx, time.Second) {
			w.report()
		}
	}()
	tasks.Wait()
	stopping, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = w.manager.Close(stopping)
	w.report()
	if err != nil {
		log.Fatalln("fleet: worker:", err)
	}
}

// name returns the name of the n-th grant.
func name(n int) string { return fmt.Sprint("grant-", n) }

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
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the worker ends
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Calls++
	w.counts.Late = max(w.counts.Late, time.Since(start)-within)
	if errors.Is(err, context.DeadlineExceeded) {
		w.counts.Failed["the caller's deadline"]++
	} else if err != nil {
		w.counts.Failed[grants.Refresh{Err: err}.Label()]++
	}
	if applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize {
		w.counts.Told[grant] = true
	}
}

// report writes a line of JSON.
func (w *worker) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	line, _ := json.Marshal(w.counts)
	fmt.Println(string(line))
	w.counts = newCounts()
}
