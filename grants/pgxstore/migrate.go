package pgxstore

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Each object is made if it is not there, and only then: IF NOT EXISTS needs the privilege to create also where there is
// nothing to do. An advisory lock lasts as long as the statement's transaction, so it is no trouble behind a pooler.
const migration = `DO $migration$
BEGIN
	PERFORM pg_advisory_xact_lock(hashtextextended('{name}', 0));
	IF to_regclass('{table}') IS NULL THEN
		CREATE TABLE {table} (
			name         text COLLATE "C" PRIMARY KEY,
			token        bytea NOT NULL,                 -- JSON: access_token, refresh_token, token_type; or what the AEAD made of it
			expiry       timestamptz,                    -- of the access token, by this database's clock; NULL: never
			version      bigint NOT NULL,                -- another one with each token
			holder       text,                           -- of the lease
			leased_until timestamptz,                    -- NULL: no lease, or one that was ended
			unfinished   boolean NOT NULL DEFAULT false, -- a response with the next refresh token may be lost
			retry_at     timestamptz,                    -- no process sends a request before
			dead         json,                           -- why the customer has to connect again; NULL: alive
			dead_since   timestamptz
		) WITH (fillfactor = 70); -- room for leases, which change no index
	END IF;
	IF to_regclass('{limit}') IS NULL THEN
		CREATE TABLE {limit} (
			id           boolean PRIMARY KEY DEFAULT true CHECK (id), -- one row
			next         timestamptz NOT NULL,                        -- when the next request may be sent
			paused_until timestamptz NOT NULL                         -- no process sends a request before
		) WITH (fillfactor = 10);
	END IF;
	PERFORM {columns}, name, holder, dead_since FROM {table} LIMIT 0; -- which fails for a table of another program's
	PERFORM id, next - paused_until FROM {limit} LIMIT 0;
	IF to_regclass('{due}') IS NULL THEN
		CREATE INDEX {due index} ON {table} (expiry, coalesce(retry_at, '-infinity')) WHERE dead IS NULL;
	END IF;
	IF to_regclass('{dead}') IS NULL THEN
		CREATE INDEX {dead index} ON {table} (dead_since, name) WHERE dead IS NOT NULL;
	END IF;
	IF NOT EXISTS (SELECT FROM {limit}) THEN
		INSERT INTO {limit} (next, paused_until) VALUES (clock_timestamp(), clock_timestamp());
	END IF;
END
$migration$`

// Migrate creates the tables of a [Store] with the default Options: what is not there of two tables, two indexes and a row.
// Many processes can call it at once, at each start. Creating needs the privilege to do so; once all is there, reading both
// tables is enough. A table of another program's that has one of the names is an error, and is left as it is.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error { return New(pool, nil).Migrate(ctx) }

// Migrate is the function of that name for a Store with another table.
func (s *Store) Migrate(ctx context.Context) error {
	name := s.name[strings.LastIndexByte(s.name, '.')+1:] // an index is created without its schema
	_, err := s.exec(ctx, "migrate", strings.NewReplacer(
		"{name}", s.name, "{table}", s.table, "{limit}", s.limit, "{columns}", columns,
		"{due}", s.sibling("_due"), "{due index}", pgx.Identifier{name + "_due"}.Sanitize(),
		"{dead}", s.sibling("_dead"), "{dead index}", pgx.Identifier{name + "_dead"}.Sanitize(),
	).Replace(migration))
	if database, ok := errors.AsType[*pgconn.PgError](err); ok && (database.Code == undefinedColumn || database.Code == undefinedOperator) {
		for _, table := range []string{s.table, s.limit} {
			if strings.Contains(database.InternalQuery, table) {
				return misused("migrate", "the table "+table+" is another program's: it has other columns (SQLSTATE "+database.Code+")")
			}
		}
	}
	return err
}
