package pgxstore

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// migration creates the two tables, in one statement. The advisory lock lasts as long as the statement's transaction, so it is
// no trouble behind a pooler.
const migration = `DO $migration$
BEGIN
	PERFORM pg_advisory_xact_lock(hashtextextended('{name}', 0));
	IF to_regclass('{table}') IS NOT NULL THEN
		RETURN;
	END IF;
	CREATE TABLE {table} (
		name         text COLLATE "C" PRIMARY KEY,
		token        bytea NOT NULL,                 -- JSON: access_token, refresh_token, token_type; or what Seal made of it
		expiry       timestamptz,                    -- of the access token, by this database's clock; NULL: never
		version      bigint NOT NULL,                -- another one with each token
		holder       text,                           -- of the lease
		leased_until timestamptz,                    -- NULL: no lease, or one that was ended
		unfinished   boolean NOT NULL DEFAULT false, -- a response with the next refresh token may be lost
		retry_at     timestamptz,                    -- no process sends a request before
		dead         json,                           -- why the customer has to connect again; NULL: alive
		dead_since   timestamptz
	) WITH (fillfactor = 70); -- room for leases, which change no index
	CREATE INDEX {due} ON {table} (expiry, name) WHERE dead IS NULL;
	CREATE INDEX {dead} ON {table} (dead_since, name) WHERE dead IS NOT NULL;
	CREATE TABLE {limit} (
		id   boolean PRIMARY KEY DEFAULT true CHECK (id), -- one row
		next timestamptz NOT NULL                         -- when the next request may be sent
	) WITH (fillfactor = 10);
	INSERT INTO {limit} (next) VALUES (clock_timestamp());
END
$migration$`

// Migrate creates the table of a [Store] with the default Options, if it is not there. Many processes can call it at once, at
// each start. Creating needs the privilege to do so; once the table is there, nothing is needed.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error { return New(pool, nil).Migrate(ctx) }

// Migrate is the function of that name for a Store with another table.
func (s *Store) Migrate(ctx context.Context) error {
	return s.do(ctx, "migrate", func(conn *pgxpool.Conn) error {
		parts := strings.Split(s.name, ".")
		index := parts[len(parts)-1]
		_, err := conn.Exec(ctx, strings.NewReplacer(
			"{name}", s.name, "{table}", s.table, "{limit}", s.limitTable(),
			"{due}", pgx.Identifier{index + "_due"}.Sanitize(), "{dead}", pgx.Identifier{index + "_dead"}.Sanitize(),
		).Replace(migration), pgx.QueryExecModeExec)
		return err
	})
}

func (s *Store) limitTable() string {
	return pgx.Identifier(strings.Split(s.name+"_limit", ".")).Sanitize()
}
