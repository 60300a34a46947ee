package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var migrations embed.FS

const migrationLock = 0x6170706c65 // any number that nothing else in this database locks

// Migrate brings the schema up to date. All processes may call it at their start: one applies what is new, and the others
// wait for it.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		// A lock of the transaction: behind a pooler, a lock of the session stays with a connection that others use.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS fleet_migration (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"); err != nil {
			return err
		}
		names, err := fs.Glob(migrations, "migrations/*.sql") // sorted
		if err != nil {
			return err
		}
		for _, name := range names {
			tag, err := tx.Exec(ctx, "INSERT INTO fleet_migration (name) VALUES ($1) ON CONFLICT DO NOTHING", name)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 {
				continue
			}
			statements, err := migrations.ReadFile(name)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, string(statements)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}
