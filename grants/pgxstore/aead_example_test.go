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

	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// keyring is a grants.AEAD: AES-GCM with the id of the key in front. The newest key encrypts, and each decrypts what it has
// encrypted. To rotate, first give all processes the new key, then let it encrypt: each row is encrypted anew at its next
// refresh. When every grant has been refreshed since, the old key can go.
type keyring struct {
	mu     sync.RWMutex
	newest byte
	keys   map[byte]cipher.AEAD
}

var _ grants.AEAD = (*keyring)(nil)

// add gives the keyring a key of 16, 24 or 32 bytes.
func (k *keyring) add(id byte, key []byte) error {
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
	if k.keys == nil {
		k.keys = make(map[byte]cipher.AEAD)
	}
	k.keys[id] = aead
	return nil
}

// use lets the key encrypt from now on.
func (k *keyring) use(id byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.newest = id
}

func (k *keyring) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	key := k.keys[k.newest]
	if key == nil {
		return nil, errors.New("there is no key")
	}
	return key.Seal([]byte{k.newest}, nil, plaintext, associatedData), nil
}

func (k *keyring) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if len(ciphertext) == 0 || k.keys[ciphertext[0]] == nil {
		return nil, errors.New("encrypted by an unknown key")
	}
	return k.keys[ciphertext[0]].Open(nil, nil, ciphertext[1:], associatedData)
}

// Tokens are encrypted before they leave the process.
func ExampleOptions() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	var keys keyring
	if err := keys.add(1, []byte("0123456789abcdef0123456789abcdef")); err != nil { // in production: from a key management service
		log.Fatal(err)
	}
	keys.use(1)
	store := pgxstore.New(pool, &pgxstore.Options{Table: "example_of_aead", AEAD: &keys})
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
