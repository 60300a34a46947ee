// Package pgxstore keeps the grants of package grants in PostgreSQL, with github.com/jackc/pgx/v5.
//
//	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
//	err = pgxstore.Migrate(ctx, pool) // at each start; it does nothing if all is there
//	store := pgxstore.New(pool, nil)
//	manager := grants.New(config, store, &grants.Options{Limit: store.Limiter(12)})
//
// Every method of [Store] is one statement in a transaction of its own, sent without a prepared statement and without a
// setting of the session, so that it works behind a pooler in transaction mode, such as pgbouncer, with pgx's defaults.
// No connection is held while Apple answers, nor while an AEAD works: a small pool is enough for any number of grants.
// If the connection breaks, a statement that can be repeated without harm is sent once more on another one: Load, Lease,
// Due and Dead, and any statement that certainly did not leave the process.
//
// Leases and expiry run by the database's clock alone. The pool must lead to the primary. The tokens lie in the table in
// clear unless [Options] has an AEAD.
package pgxstore

import (
	"cmp"
	"context"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// DefaultTable is the table that is used where Options name none.
const DefaultTable = "applebusiness_grants"

// Options are for [New]. The zero Options, like nil, are the defaults.
type Options struct {
	// Table is the grants' table, with its schema in front if need be: letters, digits and "_", at most 50 of them. The empty
	// Table means [DefaultTable]. [Store.Migrate] creates it, and beside it one with "_limit" at the end of its name.
	Table string

	// AEAD encrypts a grant's tokens before they leave the process, bound to the grant's name and the token's version: a
	// row's tokens open neither in another row nor in the same row after the next Save. nil stores them in clear. An error
	// of the AEAD is returned by the Store's method. What Load and Lease cannot decrypt is an error of theirs; Put mends it.
	AEAD grants.AEAD
}

// Store is a [grants.Store] on PostgreSQL. [New] makes one; it is safe for concurrent use, by any number of processes.
type Store struct {
	pool    *pgxpool.Pool
	table   string   // quoted, as is limit
	limit   string   // the Limiter's table
	name    string   // as configured
	options *Options // by a pointer, which no verb of fmt follows
	invalid string   // why no method works
}

var _ grants.Store = (*Store)(nil)

var validTable = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,49}$`)

// New returns a Store on the database of pool, whose table [Migrate] or [Store.Migrate] has created. It sends nothing. With a
// nil pool, or a Table that cannot be one, each method of the Store returns an error that says so.
func New(pool *pgxpool.Pool, options *Options) *Store {
	options = cmp.Or(options, new(Options))
	s := &Store{pool: pool, name: cmp.Or(options.Table, DefaultTable), options: new(*options)}
	s.table, s.limit = s.sibling(""), s.sibling("_limit")
	switch {
	case pool == nil:
		s.invalid = "the pool is nil"
	case !validTable.MatchString(s.name):
		s.invalid = "Options.Table is not a name of letters, digits and _"
	}
	return s
}

// sibling returns the quoted name of the table, or of what is beside it.
func (s *Store) sibling(suffix string) string {
	return pgx.Identifier(strings.Split(s.name+suffix, ".")).Sanitize()
}

// Times are written as intervals from the database's now, and read as microseconds from it, which no IntervalStyle changes.
const (
	columns = `token, version, unfinished OR coalesce(leased_until <= clock_timestamp(), false), dead,
		(extract(epoch FROM expiry - clock_timestamp()) * 1000000)::bigint,
		(extract(epoch FROM retry_at - clock_timestamp()) * 1000000)::bigint`

	noMark = `unfinished = false, retry_at = NULL, dead = NULL, dead_since = NULL`
)

// Load implements [grants.Store].
func (s *Store) Load(ctx context.Context, grant string) (grants.Record, error) {
	return s.record(ctx, "load", `SELECT `+columns+` FROM `+s.table+` WHERE name = $1::text`, grant)
}

// Lease implements [grants.Store].
func (s *Store) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	record, err := s.record(ctx, "lease", `UPDATE `+s.table+` SET
			unfinished = unfinished OR coalesce(leased_until <= clock_timestamp(), false),
			holder = $2::text, leased_until = clock_timestamp() + $3::interval
		WHERE name = $1::text AND (leased_until IS NULL OR leased_until <= clock_timestamp() OR holder = $2::text)
		RETURNING `+columns, grant, holder, d)
	if err != grants.ErrNoGrant {
		return record, err
	}
	if exists, failure := s.exists(ctx, "lease", s.table+` WHERE name = $1::text`, grant); exists || failure != nil {
		err = cmp.Or(failure, grants.ErrLeased)
	}
	return grants.Record{}, err
}

// Save implements [grants.Store].
func (s *Store) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	next := rand.Int64() // 63 random bits: no failover to an older copy can repeat what a grant has had
	sealed, err := grants.SealToken(s.options.AEAD, grant, next, token)
	if err != nil {
		return failed("save", err)
	}
	return s.update(ctx, "save", `token = $4::bytea, expiry = clock_timestamp() + $5::interval, version = $6::bigint, `+noMark,
		grant, holder, version, sealed, token.Expiry, next)
}

// Mark implements [grants.Store].
func (s *Store) Mark(ctx context.Context, grant, holder string, version int64, mark grants.Mark) error {
	var dead *string
	if mark.Dead != nil {
		dead = new(string(grants.MarshalVerdict(mark.Dead)))
	}
	return s.update(ctx, "mark", `
			dead = $4::json, dead_since = CASE WHEN $4::text IS NOT NULL THEN coalesce(dead_since, clock_timestamp()) END,
			retry_at = clock_timestamp() + $5::interval, unfinished = $6::boolean`,
		grant, holder, version, dead, mark.RetryAt, mark.Unfinished)
}

// Release implements [grants.Store].
func (s *Store) Release(ctx context.Context, grant, holder string) error {
	// A lease that has run out is left: it says that something is unfinished.
	_, err := s.exec(ctx, "release", `UPDATE `+s.table+` SET holder = NULL, leased_until = NULL
		WHERE name = $1::text AND holder = $2::text AND leased_until > clock_timestamp()`, grant, holder)
	return err
}

// Put implements [grants.Store].
func (s *Store) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	version := rand.Int64() // as in Save
	sealed, err := grants.SealToken(s.options.AEAD, grant, version, token)
	if err != nil {
		return failed("put", err)
	}
	_, err = s.exec(ctx, "put", `INSERT INTO `+s.table+` (name, token, expiry, version)
		VALUES ($1::text, $2::bytea, clock_timestamp() + $3::interval, $4::bigint)
		ON CONFLICT (name) DO UPDATE SET token = EXCLUDED.token, expiry = EXCLUDED.expiry, version = EXCLUDED.version,
			holder = NULL, leased_until = NULL, `+noMark, grant, sealed, token.Expiry, version)
	return err
}

// Delete implements [grants.Store].
func (s *Store) Delete(ctx context.Context, grant string) error {
	_, err := s.exec(ctx, "delete", `DELETE FROM `+s.table+` WHERE name = $1::text`, grant)
	return err
}

// Due implements [grants.Store]. It reads an index of the grants that are alive, by expiry, which knows RetryAt.
func (s *Store) Due(ctx context.Context, within time.Duration, limit int) ([]string, error) {
	// now() and not clock_timestamp(), which is volatile and would not use the index.
	due, _, err := query(ctx, s, "due", repeatable, pgx.RowTo[string], `SELECT name FROM `+s.table+`
		WHERE dead IS NULL AND expiry <= now() + $1::interval
			AND coalesce(retry_at, '-infinity') <= now() AND (leased_until IS NULL OR leased_until <= now())
		ORDER BY expiry LIMIT $2::bigint`, within, max(limit, 0))
	return due, err
}

// Dead implements [grants.Store]. It reads an index of the grants that are dead. A verdict that was wrong heals when the
// process that has the newer token saves it, so ask for those that are some minutes old.
func (s *Store) Dead(ctx context.Context, since time.Duration, after grants.DeadGrant, limit int) ([]grants.DeadGrant, error) {
	scan := func(row pgx.CollectableRow) (found grants.DeadGrant, err error) {
		var text []byte
		if err = row.Scan(&found.Grant, &text, &found.Since, &found.Version); err == nil {
			found.Error, err = grants.UnmarshalVerdict(text)
		}
		return found, err
	}
	dead, _, err := query(ctx, s, "dead", repeatable, scan, `SELECT name, dead, dead_since, version FROM `+s.table+`
		WHERE dead IS NOT NULL AND dead_since <= now() - $1::interval AND (dead_since, name) > ($2::timestamptz, $3::text)
		ORDER BY dead_since, name LIMIT $4::bigint`, since, &after.Since, after.Grant, max(limit, 0))
	return dead, err
}

// row is what columns are read into.
type row struct {
	Token           []byte
	Version         int64
	Unfinished      bool
	Dead            []byte
	Expiry, RetryAt *int64 // microseconds from now
}

// record sends a statement that returns columns of a grant's row, and opens it. Durations count from when the statement was
// sent: a token is taken to expire too early rather than too late. Without a row the error is ErrNoGrant.
func (s *Store) record(ctx context.Context, method, sql, grant string, values ...any) (grants.Record, error) {
	found, sent, err := query(ctx, s, method, repeatable, pgx.RowToStructByPos[row], sql, append([]any{grant}, values...)...)
	if err != nil || len(found) == 0 {
		return grants.Record{}, cmp.Or(err, grants.ErrNoGrant)
	}
	r := found[0]
	token, err := grants.OpenToken(s.options.AEAD, grant, r.Version, r.Token)
	dead, verdictErr := grants.UnmarshalVerdict(r.Dead)
	if err = cmp.Or(err, verdictErr); err != nil {
		return grants.Record{}, failed(method, err)
	}
	token.Expiry = timeOrZero(sent, r.Expiry)
	mark := grants.Mark{Dead: dead, RetryAt: timeOrZero(sent, r.RetryAt), Unfinished: r.Unfinished}
	return grants.Record{Token: token, Mark: mark, Version: r.Version}, nil
}

// exists reports whether there is such a row.
func (s *Store) exists(ctx context.Context, method, row string, values ...any) (bool, error) {
	found, _, err := query(ctx, s, method, repeatable, pgx.RowTo[bool], `SELECT true FROM `+row, values...)
	return len(found) > 0, err
}

// exec sends a statement that changes something, and returns how many rows it says are true.
func (s *Store) exec(ctx context.Context, method, sql string, values ...any) (int, error) {
	changed, _, err := query(ctx, s, method, once, pgx.RowTo[bool], sql, values...)
	return len(changed), err
}

// update changes a grant whose version is $3, and ends the lease of the holder $2. If there is none it returns ErrConflict.
func (s *Store) update(ctx context.Context, method, set string, values ...any) error {
	changed, err := s.exec(ctx, method, `UPDATE `+s.table+` SET `+set+`,
			holder = CASE WHEN holder = $2::text OR leased_until <= clock_timestamp() THEN NULL ELSE holder END,
			leased_until = CASE WHEN holder = $2::text OR leased_until <= clock_timestamp() THEN NULL ELSE leased_until END
		WHERE name = $1::text AND version = $3::bigint RETURNING true`, values...)
	if err == nil && changed == 0 {
		return grants.ErrConflict
	}
	return err
}

// arguments returns what a statement is sent with, now: for a time, but not for a pointer to one, the duration until then, or
// NULL if it is zero. A duration is a century at most: an Expiry in the year 9999 is further from now than one holds.
func arguments(values []any) []any {
	const century = 100 * 365 * 24 * time.Hour
	sent := []any{pgx.QueryExecModeExec}
	for _, value := range values {
		if at, ok := value.(time.Time); ok && at.IsZero() {
			value = nil
		} else if ok {
			value = time.Until(at)
		}
		if d, ok := value.(time.Duration); ok {
			value = max(-century, min(d, century))
		}
		sent = append(sent, value)
	}
	return sent
}

// Whether a statement that may have taken effect can be sent again.
const (
	once       = false
	repeatable = true
)

// query sends a statement, and returns what it finds and when it was sent. Durations are computed then: the wait for a
// connection is over.
//
// If the connection breaks, and the statement is repeatable or has certainly not been sent, query sends it once more, by a
// connection that answers: after a restart of the database all idle connections of the pool are broken.
func query[T any](ctx context.Context, s *Store, method string, again bool, scan pgx.RowToFunc[T], sql string, values ...any) (
	found []T, sent time.Time, err error,
) {
	if s.invalid != "" {
		return nil, sent, misused(method, s.invalid)
	}
	broken := false
	for tries := 0; tries == 0 || broken && tries <= int(s.pool.Stat().MaxConns())+1; tries++ {
		err = s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			if broken {
				if err := conn.Ping(ctx); err != nil {
					return err
				}
			}
			sent = time.Now()
			rows, _ := conn.Query(ctx, sql, arguments(values)...) // CollectRows returns its error
			found, err = pgx.CollectRows(rows, scan)
			broken = !broken && err != nil && conn.Conn().IsClosed() && ctx.Err() == nil && (again || pgconn.SafeToRetry(err))
			return err
		})
	}
	if err != nil {
		return nil, sent, failed(method, err)
	}
	return found, sent, nil
}

func timeOrZero(from time.Time, microseconds *int64) time.Time {
	if microseconds == nil {
		return time.Time{}
	}
	return from.Add(time.Duration(*microseconds) * time.Microsecond)
}
