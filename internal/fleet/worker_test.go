package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
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

const workerVariable = "FLEET_WORKER"

// workerConfig tells a worker process, beside the flags, what to do; it is that variable.
type workerConfig struct {
	Worker int // its place among the processes
	OAuth2 oauth2.Config
}

// call is what a worker reports of a caller who wanted a token, as JSON.
type call struct {
	Grant  string
	Failed string        // the kind of failure; "": the caller got a token
	Late   time.Duration // by how much it waited longer than its deadline
	Told   bool          // the customer is to connect again
}

// runWorker runs until SIGTERM, and then as long as it takes to store what is not stored.
func runWorker(text string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var config workerConfig
	_ = json.Unmarshal([]byte(text), &config) // it is start's
	url := *database
	if *pooler {
		url = os.Getenv("POOLER_URL")
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		log.Fatalln("fleet: worker:", err)
	}
	defer pool.Close()
	store := newStore(pool)
	manager := grants.New(&config.OAuth2, store, &grants.Options{
		HTTPClient: &http.Client{Timeout: 5*time.Second + *latency}, // the lease is 15 seconds longer
		Limit:      store.Limiter(*limit),                           // for the whole fleet
	})
	var tasks sync.WaitGroup
	for n := range *grantCount {
		if *wave && (n%*processes == config.Worker || (n+1)%*processes == config.Worker) { // two use each grant
			tasks.Go(func() { use(ctx, manager, name(n), time.Hour) })
		}
	}
	for range callers {
		tasks.Go(func() {
			for !*wave && sleep(ctx, rand.N(40*time.Millisecond)) {
				use(ctx, manager, name(rand.N(*grantCount)), deadline)
			}
		})
	}
	tasks.Wait()
	stopping, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := manager.Close(stopping); err != nil {
		log.Fatalln("fleet: worker:", err)
	}
}

const table = "applebusiness_fleet_trial" // nobody else's, wherever $DATABASE_URL leads

func newStore(pool *pgxpool.Pool) *pgxstore.Store {
	return pgxstore.New(pool, &pgxstore.Options{Table: table})
}

// name returns the name of the n-th grant.
func name(n int) string { return fmt.Sprint("grant-", n) }

// use is a caller who needs a token within the time.
func use(ctx context.Context, manager *grants.Manager, grant string, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	start := time.Now()
	_, err := manager.Token(ctx, grant)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the worker ends
	}
	report := call{
		Grant: grant, Late: time.Since(start) - within, Told: applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize,
	}
	if errors.Is(err, context.DeadlineExceeded) {
		report.Failed = "the caller's deadline"
	} else if err != nil {
		report.Failed = grants.Refresh{Err: err}.Label()
	}
	line, _ := json.Marshal(report)
	_, _ = os.Stdout.Write(line) // at once, or not if nobody reads it any more
}
