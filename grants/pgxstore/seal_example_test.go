package pgxstore_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// keys encrypts with AES-GCM. The first byte is the id of the key: the newest one seals, and each opens what it has sealed. To
// rotate, give all processes the new key, then let it seal; when every row has been refreshed since, the old one can go.
type keys struct {
	mu     sync.RWMutex
	newest byte
	byID   map[byte]cipher.AEAD
}

// add makes a key of 16, 24 or 32 bytes the newest.
func (k *keys) add(id byte, key []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byID == nil {
		k.byID = make(map[byte]cipher.AEAD)
	}
	k.newest, k.byID[id] = id, aead
	return nil
}

func (k *keys) seal(plain []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.byID[k.newest] == nil {
		return nil, errors.New("there is no key")
	}
	return k.byID[k.newest].Seal([]byte{k.newest}, nil, plain, nil), nil
}

func (k *keys) open(sealed []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if len(sealed) == 0 || k.byID[sealed[0]] == nil {
		return nil, errors.New("sealed by an unknown key")
	}
	return k.byID[sealed[0]].Open(nil, nil, sealed[1:], nil)
}

// Tokens are encrypted before they leave the process.
func ExampleOptions() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	var keys keys
	if err := keys.add(1, []byte("0123456789abcdef0123456789abcdef")); err != nil { // in production: from a key management service
		log.Fatal(err)
	}
	store := pgxstore.New(pool, &pgxstore.Options{Table: "example_of_seal", Seal: keys.seal, Open: keys.open})
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}

	if err := store.Put(ctx, "customer 7", &oauth2.Token{RefreshToken: "a secret"}); err != nil {
		log.Fatal(err)
	}
	record, err := store.Load(ctx, "customer 7")
	fmt.Println(record.Token.RefreshToken, err)
	// Output: a secret <nil>
}
