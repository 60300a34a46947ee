package pgxstore_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// One process of a fleet.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := pgxstore.Migrate(ctx, pool); err != nil { // in each process, at its start
		log.Fatal(err)
	}
	apple := applebusinesstest.NewServer(nil) // in production: Apple's two URLs, see applebusiness.OAuth2Endpoint
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}

	store := pgxstore.New(pool, nil)
	manager := grants.New(config, store, &grants.Options{Limit: store.Limiter(12)}) // requests a second, for the whole fleet
	defer manager.Close(ctx)

	if err := manager.Put(ctx, "customer 7", apple.ConnectExpired(config.ClientID)); err != nil { // the customer has connected
		log.Fatal(err)
	}
	token, err := manager.Token(ctx, "customer 7")
	fmt.Println(token.Valid(), err)
	// Output: true <nil>
}

// The mail job: who has to connect again, and not because of a verdict that may still heal.
func ExampleStore_Dead() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store := pgxstore.New(pool, &pgxstore.Options{Table: "example_of_dead"})
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}

	// A customer disconnects, as the next refresh finds out.
	apple := applebusinesstest.NewServer(nil)
	defer apple.Close()
	config := &oauth2.Config{ClientID: apple.App.ClientID, ClientSecret: apple.App.ClientSecret, Endpoint: apple.Endpoint()}
	manager := grants.New(config, store, nil)
	defer manager.Close(ctx)
	token := apple.ConnectExpired(config.ClientID)
	_ = manager.Put(ctx, "customer 7", token)
	apple.Revoke(token.RefreshToken)
	_, _ = manager.Token(ctx, "customer 7")

	const patience = 100 * time.Millisecond // in production: an hour
	time.Sleep(2 * patience)
	dead, err := store.Dead(ctx, patience, grants.DeadGrant{}, 100)
	if err != nil {
		log.Fatal(err)
	}
	for _, found := range dead {
		fmt.Println("ask", found.Grant, "to connect again:", applebusiness.Troubleshoot(found.Error).Causes[0])
	}
	// Output: ask customer 7 to connect again: access_revoked
}
