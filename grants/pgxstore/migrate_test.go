package pgxstore_test

import (
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness/grants/grantstest"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)

// Many processes start at once, and each migrates.
func TestMigrateAtOnce(t *testing.T) {
	for _, variable := range []string{"DATABASE_URL", "POOLER_URL"} {
		t.Run(variable, func(t *testing.T) {
			pool := newPool(t, variable)
			table := "test_" + strings.ToLower(rand.Text())
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					assert.NoError(t, pgxstore.New(pool, &pgxstore.Options{Table: table}).Migrate(t.Context()))
				})
			}
			wg.Wait()
			require.NoError(t, grantstest.TestStore(pgxstore.New(pool, &pgxstore.Options{Table: table})))
		})
	}
	t.Run("the default table", func(t *testing.T) {
		pool := newPool(t, "DATABASE_URL")
		require.NoError(t, pgxstore.Migrate(t.Context(), pool))
		require.NoError(t, pgxstore.Migrate(t.Context(), pool))
		require.NoError(t, pgxstore.New(pool, nil).Put(t.Context(), "a", token("a", time.Hour)))
	})
	t.Run("without a privilege, once it is there", func(t *testing.T) {
		pool := newPool(t, "DATABASE_URL")
		_, table := newStore(t, pool, pgxstore.Options{})
		role := "role_" + strings.ToLower(rand.Text())
		for _, sql := range []string{"CREATE ROLE " + role + " LOGIN", "GRANT SELECT, INSERT, UPDATE, DELETE ON " + table + ", " + table + "_limit TO " + role} {
			_, err := pool.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
		config := pool.Config()
		config.ConnConfig.User = role
		poor, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		defer poor.Close()
		store := pgxstore.New(poor, &pgxstore.Options{Table: table})
		require.NoError(t, store.Migrate(t.Context()))
		require.NoError(t, store.Put(t.Context(), "a", token("a", time.Hour)))
		require.NoError(t, store.Limiter(1000).Wait(t.Context()))
	})
	t.Run("a schema", func(t *testing.T) {
		pool := newPool(t, "DATABASE_URL")
		schema := "Schema_" + rand.Text()
		_, err := pool.Exec(t.Context(), "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize())
		require.NoError(t, err)
		store := pgxstore.New(pool, &pgxstore.Options{Table: schema + ".Order"})
		require.NoError(t, store.Migrate(t.Context()))
		require.NoError(t, store.Put(t.Context(), "a", token("a", -time.Hour)))
		due, err := store.Due(t.Context(), 0, 10)
		require.NoError(t, err)
		assert.Equal(t, []string{"a"}, due)
		require.NoError(t, store.Limiter(1000).Wait(t.Context()))
	})
}

// Whatever is lost, Migrate brings back that and nothing else.
func TestMigrateMends(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	for _, lost := range []string{"DROP TABLE {}_limit", "TRUNCATE {}_limit", "DROP INDEX {}_due", "DROP INDEX {}_dead", "DROP TABLE {}"} {
		t.Run(lost, func(t *testing.T) {
			store, table := newStore(t, pool, pgxstore.Options{})
			ctx := t.Context()
			require.NoError(t, store.Put(ctx, "a", token("a", time.Hour)))
			objects := func() (names []string) {
				rows, err := pool.Query(ctx, "SELECT relname FROM pg_class WHERE relname LIKE $1 ORDER BY 1", table+"%")
				require.NoError(t, err)
				names, err = pgx.CollectRows(rows, pgx.RowTo[string])
				require.NoError(t, err)
				return names
			}
			before := objects()
			_, err := pool.Exec(ctx, strings.ReplaceAll(lost, "{}", table))
			require.NoError(t, err)
			switch err := store.Limiter(1000).Wait(ctx); lost {
			case "DROP TABLE {}_limit":
				assert.EqualError(t, err, "applebusiness/grants/pgxstore: limit: the table is missing: call Migrate (SQLSTATE 42P01)")
			case "TRUNCATE {}_limit":
				assert.EqualError(t, err, "applebusiness/grants/pgxstore: limit: the one row of the limit's table is missing: call Migrate")
				assert.EqualError(t, store.Limiter(1).Pause(ctx, time.Second), "applebusiness/grants/pgxstore: pause: the one row of the limit's table is missing: call Migrate")
			default:
				assert.NoError(t, err)
			}
			require.NoError(t, store.Migrate(ctx))
			assert.Equal(t, before, objects())
			require.NoError(t, store.Limiter(1000).Wait(ctx))
			_, err = store.Load(ctx, "a")
			assert.Equal(t, lost == "DROP TABLE {}", err != nil, err)
		})
	}
}

// A table of another program's is left as it is.
func TestMigrateForeign(t *testing.T) {
	pool := newPool(t, "DATABASE_URL")
	ctx := t.Context()
	for suffix, want := range map[string]string{
		"":       `the table "%s" is another program's: it has other columns (SQLSTATE 42703)`,
		"_limit": `the table "%s_limit" is another program's: it has other columns (SQLSTATE 42703)`,
	} {
		table := "test_" + strings.ToLower(rand.Text())
		_, err := pool.Exec(ctx, "CREATE TABLE "+table+suffix+" (name text, token text); INSERT INTO "+table+suffix+" VALUES ('a', 'b')")
		require.NoError(t, err)
		err = pgxstore.New(pool, &pgxstore.Options{Table: table}).Migrate(ctx)
		assert.EqualError(t, err, "applebusiness/grants/pgxstore: migrate: "+strings.ReplaceAll(want, "%s", table))
		var rows int
		require.NoError(t, pool.QueryRow(ctx, "SELECT count(*) FROM "+table+suffix).Scan(&rows))
		assert.Equal(t, 1, rows)
	}
}
