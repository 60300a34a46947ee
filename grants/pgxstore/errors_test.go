package pgxstore_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

func TestMisuse(t *testing.T) {
	ctx := t.Context()
	store := pgxstore.New(nil, nil)
	_, err := store.Load(ctx, "a")
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: the pool is nil")
	assert.EqualError(t, store.Delete(ctx, "a"), "applebusiness/grants/pgxstore: delete: the pool is nil")
	assert.EqualError(t, store.Limiter(1).Wait(ctx), "applebusiness/grants/pgxstore: limit: the pool is nil")
	assert.EqualError(t, store.Limiter(1).Pause(ctx, 1), "applebusiness/grants/pgxstore: pause: the pool is nil")
	pool := newPool(t, "DATABASE_URL")
	for _, table := range []string{"a b", `a"b`, "a;b", "a.b.c", "ü", strings.Repeat("x", 51), "'", "$migration$", "\x00"} {
		err := pgxstore.New(pool, &pgxstore.Options{Table: table}).Migrate(ctx)
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: migrate: Options.Table is not a name of letters, digits and _", table)
	}
	_, err = pgxstore.New(pool, &pgxstore.Options{Table: "nothing_here"}).Load(ctx, "a")
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: the table is missing: call Migrate (SQLSTATE 42P01)")
	store, _ = newStore(t, pool, pgxstore.Options{})
	assert.EqualError(t, store.Put(ctx, "a", nil), "applebusiness/grants/pgxstore: put: there is no token to store")
	err = store.Put(ctx, "nul\x00", token("a", 0))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "refresh-a")
	pool.Close()
	_, err = store.Load(ctx, "a")
	assert.EqualError(t, err, "applebusiness/grants/pgxstore: load: closed pool")
}

// No server listens: pgx's text has several lines, ours one.
func TestNoDatabase(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://partner:s3cret@127.0.0.1:1/grants?connect_timeout=1")
	require.NoError(t, err)
	defer pool.Close()
	_, err = pgxstore.New(pool, nil).Load(t.Context(), "a")
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "\n")
	assert.NotContains(t, err.Error(), "s3cret")
	assert.Equal(t, applebusiness.Advice{}, applebusiness.Troubleshoot(&grants.StoreError{Grant: "a", Err: err}), "not Apple's outage")
}

// What a database says may quote a token, in any writing, and hold control characters.
func TestErrorsShowNothing(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	store, table := newStore(t, pool, pgxstore.Options{})
	ctx := t.Context()
	for _, says := range []string{
		"refresh-SECRET is refused", "a \x1b[31mred\x07\r\nline", "c2VjcmV0LVJFRlJFU0g=", "72656672657368", "refresh%2DSECRET", "postgres://u:s3cret@host/db",
	} {
		_, err := pool.Exec(ctx, `CREATE OR REPLACE FUNCTION `+table+`_says() RETURNS trigger LANGUAGE plpgsql AS $f$
			BEGIN RAISE EXCEPTION USING MESSAGE = convert_from(decode('`+fmt.Sprintf("%x", says)+`', 'hex'), 'UTF8'), ERRCODE = 'P0001'; END $f$;
			CREATE OR REPLACE TRIGGER says BEFORE INSERT ON `+table+` FOR EACH ROW EXECUTE FUNCTION `+table+`_says()`, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		err = store.Put(ctx, "a", token("a", time.Hour))
		require.Error(t, err)
		for _, secret := range []string{"SECRET", "c2Vj", "7265", "s3cret", "\x1b", "\x07", "\n", "\r"} {
			assert.NotContains(t, err.Error(), secret)
		}
		assert.True(t, strings.HasSuffix(err.Error(), " (SQLSTATE P0001)"), err)
		t.Log(err)
	}
}

// No verb and no handler shows the key or the database's password.
func TestNothingIsPrinted(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://partner:s3cret@127.0.0.1:1/grants")
	require.NoError(t, err)
	defer pool.Close()
	options := pgxstore.Options{AEAD: open{Key: "k3y"}}
	store := pgxstore.New(pool, &options)
	limiter := store.Limiter(12)
	type config struct{ Value any }
	for _, value := range []any{options, &options, store, *store, limiter, *limiter, []any{store}, config{store}, &config{limiter}, map[string]any{"a": *store}} {
		var shown []string
		verbs := "vTtbcdoOqxXUeEfFgGspw"
		if strings.Contains(fmt.Sprintf("%T", value), "ptions") {
			verbs = strings.TrimSuffix(verbs, "pw") // for which fmt calls no method of a value, and shows its exported fields
		}
		for _, verb := range verbs {
			for _, flag := range []string{"", "+", "#", "-", " ", "0", "10", ".3"} {
				shown = append(shown, fmt.Sprintf("%"+flag+string(verb), value))
			}
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("text", "value", value)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "value", value)
		for _, text := range append(shown, log.String()) {
			for _, secret := range []string{"s3cret", "k3y", fmt.Sprintf("%x", "s3cret"), fmt.Sprintf("%x", "k3y")} {
				require.NotContains(t, strings.ToLower(text), secret)
			}
		}
	}
	assert.Equal(t, `pgxstore.Options{Table: ""}`, fmt.Sprintf("%#v", options))
	assert.Equal(t, `pgxstore.Store{Table: "applebusiness_grants"}`, fmt.Sprint(store))
	assert.Equal(t, `pgxstore.Limiter{PerSecond: 12, Store: pgxstore.Store{Table: "applebusiness_grants"}}`, fmt.Sprintf("%+v", *limiter))
}

// open shows its key to whoever prints it.
type open struct{ Key string }

func (open) Encrypt(plaintext, _ []byte) ([]byte, error)  { return plaintext, nil }
func (open) Decrypt(ciphertext, _ []byte) ([]byte, error) { return ciphertext, nil }
