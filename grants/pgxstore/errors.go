package pgxstore

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

// storeError is a failure of a method, in one line.
type storeError struct {
	method, text string
	err          error
}

func (e *storeError) Error() string {
	return "applebusiness/grants/pgxstore: " + e.method + ": " + e.text
}
func (e *storeError) Unwrap() error { return e.err }

// failed returns the error of a method that failed with err. What the database or the driver says may quote what it was sent;
// what is ours quotes nothing, and is shown as it is.
func failed(method string, err error) error {
	text, ok := strings.CutPrefix(err.Error(), "applebusiness/grants: ")
	if !ok {
		text = redact.Show(text, maxText)
	}
	if database, ok := errors.AsType[*pgconn.PgError](err); ok && database.Code == undefinedTable {
		text = "the table is missing: call Migrate (SQLSTATE " + undefinedTable + ")"
	}
	return &storeError{method, text, err}
}

// misused returns the error of a method whose use is wrong, or whose database is not set up, as text says.
func misused(method, text string) error { return &storeError{method, text, errors.New(text)} }

const (
	maxText = 512 // bytes

	// PostgreSQL's codes for a table that is not there, for a name that no column has, and for two types that do not go together.
	undefinedTable    = "42P01"
	undefinedColumn   = "42703"
	undefinedOperator = "42883"
)

// What is printed of a Store and its Options is the table's name: a pool knows the database's password, and an AEAD the key.

// Format implements [fmt.Formatter] for every verb: it shows the table's name, and neither the pool nor the AEAD.
func (s Store) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "pgxstore.Store{Table: %q}", s.name) }

// LogValue implements [slog.LogValuer]: it shows the table's name alone.
func (s Store) LogValue() slog.Value { return slog.GroupValue(slog.String("table", s.name)) }

// Format implements [fmt.Formatter] for every verb: it shows Table and not AEAD.
func (o Options) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "pgxstore.Options{Table: %q}", o.Table) }

// LogValue implements [slog.LogValuer]: it shows Table alone.
func (o Options) LogValue() slog.Value { return slog.GroupValue(slog.String("table", o.Table)) }

// Format implements [fmt.Formatter] for every verb: it shows the table's name and the rate.
func (l Limiter) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "pgxstore.Limiter{PerSecond: %d, Store: %v}", l.perSecond, l.store)
}

// LogValue implements [slog.LogValuer]: it shows the table's name and the rate.
func (l Limiter) LogValue() slog.Value {
	return slog.GroupValue(slog.String("table", cmp.Or(l.store, new(Store)).name), slog.Int("per_second", l.perSecond))
}
