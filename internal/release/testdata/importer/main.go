// A program of somebody who requires the tagged modules. It uses each package, and ends with status 1 if one does not work.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/applebusinesstest"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/grantstest"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

func main() {
	ctx := context.Background()
	server := applebusinesstest.NewServer(nil)
	defer server.Close()
	config := &oauth2.Config{ClientID: server.App.ClientID, ClientSecret: server.App.ClientSecret, Endpoint: server.Endpoint()}

	manager := grants.New(config, grants.NewMemoryStore(), nil)
	token := server.ConnectExpired(config.ClientID)
	check("Put", manager.Put(ctx, "customer", token))
	token, err := manager.Token(ctx, "customer")
	check("Token", err)
	server.Revoke(token.RefreshToken)
	manager.Invalidate("customer", token)
	if _, err := manager.Token(ctx, "customer"); applebusiness.Troubleshoot(err).Action != applebusiness.ActionReauthorize {
		log.Fatalf("a customer who has disconnected: %v", err)
	}
	check("Close", manager.Close(ctx))

	check("TestStore", grantstest.TestStore(grants.NewMemoryStore()))

	var store grants.Store = pgxstore.New(nil, nil) // without a database it says so
	if _, err := store.Load(ctx, "customer"); err == nil || errors.Is(err, grants.ErrNoGrant) {
		log.Fatalf("a Store without a database: %v", err)
	}
	fmt.Println("each package works")
}

func check(what string, err error) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}
