package pgxstore_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"log"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
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
	if err := pgxstore.Migrate(ctx, pool); err != nil {
		log.Fatal(err)
	}
	store := pgxstore.New(pool, nil)
	var config oauth2.Config // of the app
	manager := grants.New(&config, store, &grants.Options{Limit: store.Limiter(15)})
	defer manager.Close(ctx)
}

// The mail job: who has to connect again, and not because of a verdict that may still heal.
func ExampleStore_Dead() {
	var store *pgxstore.Store // from New
	var askToReconnect func(grant string)
	dead, err := store.Dead(context.Background(), time.Hour, 100)
	if err != nil {
		slog.Error("nobody is asked to connect again", "error", err)
	}
	for _, found := range dead {
		slog.Info("dead", "grant", found.Grant, "since", found.Since, applebusiness.LogAttr(found.Error))
		askToReconnect(found.Grant)
	}
}

// keys encrypts with AES-GCM. The first byte is the id of the key: the newest one seals, and each opens what it has sealed. To
// rotate, give all processes the new key, then let it seal; when every row has been refreshed since, the old one can go.
type keys struct {
	mu     sync.RWMutex
	newest byte
	byID   map[byte]cipher.AEAD
}

func (k *keys) seal(plain []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
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
	var pool *pgxpool.Pool
	var keys keys // from a key management service
	store := pgxstore.New(pool, &pgxstore.Options{Seal: keys.seal, Open: keys.open})
	_ = store
}

// newKeys returns keys of which the same id is always the same key.
func newKeys(t testing.TB, id byte) *keys {
	k := &keys{byID: make(map[byte]cipher.AEAD)}
	k.add(t, id)
	return k
}

var secrets sync.Map // id to key

func (k *keys) add(t testing.TB, id byte) {
	secret, _ := secrets.LoadOrStore(id, []byte(rand.Text() + rand.Text())[:32])
	block, err := aes.NewCipher(secret.([]byte))
	require.NoError(t, err)
	aead, err := cipher.NewGCMWithRandomNonce(block)
	require.NoError(t, err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.newest, k.byID[id] = id, aead
}
