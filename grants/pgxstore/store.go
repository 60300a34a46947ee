// Package pgxstore keeps the grants of package grants in PostgreSQL, with github.com/jackc/pgx/v5.
//
//	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
//	err = pgxstore.Migrate(ctx, pool) // at each start; it does nothing if the table is there
//	store := pgxstore.New(pool, nil)
//	manager := grants.New(config, store, &grants.Options{Limit: store.Limiter(15)})
//
// Every method of [Store] is one statement in a transaction of its own, sent without a prepared statement and without a
// setting of the session, so that it works behind a pooler in transaction mode, such as pgbouncer, with pgx's defaults.
// No connection is held while Apple answers: a small pool is enough for any number of grants.
//
// Leases and expiry run by the database's clock alone. The pool must lead to the primary.
package pgxstore

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// DefaultTable is the table that is used where Options name none.
const DefaultTable = "applebusiness_grants"

// Options are for [New]. The zero Options, like nil, are the defaults.
type Options struct {
	// Table is the grants' table, with its schema in front if need be: letters, digits and "_", at most 50 of them. The empty
	// Table means [DefaultTable]. [Store.Migrate] creates it, and beside it one with "_limit" at the end of its name.
	Table string

	// Seal encrypts a grant's tokens before they leave the process, and Open decrypts them; nil stores them as they are. Put
	// an id of the key in front of what Seal returns, so that Open still reads the rows of an older key. Both are called
	// concurrently. An error of theirs is returned by the Store's method, as a failure of the Store.
	Seal, Open func([]byte) ([]byte, error)
}

// Store is a [grants.Store] on PostgreSQL. [New] makes one; it is safe for concurrent use, by any number of processes.
type Store struct {
	pool       *pgxpool.Pool
	table      string // quoted
	name       string // as configured
	seal, open func([]byte) ([]byte, error)
	invalid    error
}

var _ grants.Store = (*Store)(nil)

var validTable = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,49}$`)

// New returns a Store on the database of pool, whose table [Migrate] or [Store.Migrate] has created. It sends nothing. With a
// Table that cannot be one, or with only one of Seal and Open, each method of the Store returns an error that says so.
func New(pool *pgxpool.Pool, options *Options) *Store {
	if options == nil {
		options = new(Options)
	}
	s := &Store{pool: pool, name: options.Table, seal: options.Seal, open: options.Open}
	if s.name == "" {
		s.name = DefaultTable
	}
	s.table = pgx.Identifier(strings.Split(s.name, ".")).Sanitize()
	switch {
	case pool == nil:
		s.invalid = errors.New("the pool is nil")
	case !validTable.MatchString(s.name):
		s.invalid = errors.New("Options.Table is not a name of letters, digits and _")
	case (s.seal == nil) != (s.open == nil):
		s.invalid = errors.New("of Options.Seal and Options.Open one is nil")
	}
	return s
}

// storedToken is what is sealed.
type storedToken struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	TokenType    string `json:"token_type,omitempty"`
}

// storedVerdict is the column dead. It is of the type json and not jsonb, which would refuse a NUL in a text of Apple's.
type storedVerdict struct {
	Endpoint     applebusiness.Endpoint `json:"endpoint,omitempty"`
	StatusCode   int                    `json:"status,omitempty"`
	Code         applebusiness.Code     `json:"code,omitempty"`
	Description  string                 `json:"description,omitempty"`
	Reason       applebusiness.Reason   `json:"reason,omitempty"`
	GrantType    string                 `json:"grant_type,omitempty"`
	RequestID    string                 `json:"request_id,omitempty"`
	ResponseLost bool                   `json:"response_lost,omitempty"`
}

// Times are written as microseconds from the database's now, and read as such.
const (
	columns = `token, version, unfinished OR coalesce(leased_until <= clock_timestamp(), false), dead,
		(extract(epoch FROM expiry - clock_timestamp()) * 1000000)::bigint,
		(extract(epoch FROM retry_at - clock_timestamp()) * 1000000)::bigint`

	endLease = `holder = CASE WHEN holder = $2::text OR leased_until <= clock_timestamp() THEN NULL ELSE holder END,
		leased_until = CASE WHEN holder = $2::text OR leased_until <= clock_timestamp() THEN NULL ELSE leased_until END`
)

// Load implements [grants.Store].
func (s *Store) Load(ctx context.Context, grant string) (grants.Record, error) {
	var record grants.Record
	err := s.do(ctx, "load", func(conn *pgxpool.Conn) error {
		sent := time.Now()
		return s.scan(conn.QueryRow(ctx, `SELECT `+columns+` FROM `+s.table+` WHERE name = $1::text`,
			pgx.QueryExecModeExec, grant), sent, &record)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return grants.Record{}, grants.ErrNoGrant
	}
	return record, err
}

// Lease implements [grants.Store].
func (s *Store) Lease(ctx context.Context, grant, holder string, d time.Duration) (grants.Record, error) {
	var record grants.Record
	err := s.do(ctx, "lease", func(conn *pgxpool.Conn) error {
		sent := time.Now()
		err := s.scan(conn.QueryRow(ctx, `UPDATE `+s.table+` SET
				unfinished = unfinished OR coalesce(leased_until <= clock_timestamp(), false),
				holder = $2::text, leased_until = clock_timestamp() + $3::bigint * interval '1 microsecond'
			WHERE name = $1::text AND (leased_until IS NULL OR leased_until <= clock_timestamp() OR holder = $2::text)
			RETURNING `+columns, pgx.QueryExecModeExec, grant, holder, d.Microseconds()), sent, &record)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		var exists bool
		err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+s.table+` WHERE name = $1::text)`, pgx.QueryExecModeExec, grant).Scan(&exists)
		switch {
		case err != nil:
			return err
		case exists:
			return grants.ErrLeased
		}
		return grants.ErrNoGrant
	})
	if err != nil {
		return grants.Record{}, err
	}
	return record, nil
}

// Save implements [grants.Store].
func (s *Store) Save(ctx context.Context, grant, holder string, version int64, token *oauth2.Token) error {
	sealed, err := s.sealToken("save", token)
	if err != nil {
		return err
	}
	return s.do(ctx, "save", func(conn *pgxpool.Conn) error {
		return changed(conn, ctx, `UPDATE `+s.table+` SET
				token = $4::bytea, expiry = clock_timestamp() + $5::bigint * interval '1 microsecond', version = $6::bigint,
				unfinished = false, retry_at = NULL, dead = NULL, dead_since = NULL, `+endLease+`
			WHERE name = $1::text AND version = $3::bigint`,
			grant, holder, version, sealed, untilOrNull(token.Expiry), newVersion())
	})
}

// Mark implements [grants.Store].
func (s *Store) Mark(ctx context.Context, grant, holder string, version int64, mark grants.Mark) error {
	var dead *string
	if e := mark.Dead; e != nil {
		text, _ := json.Marshal(storedVerdict{ // has no type that fails
			e.Endpoint, e.StatusCode, e.Code, e.Description, e.Reason, e.GrantType, e.RequestID, e.ResponseLost,
		})
		dead = new(string(text))
	}
	return s.do(ctx, "mark", func(conn *pgxpool.Conn) error {
		return changed(conn, ctx, `UPDATE `+s.table+` SET
				dead = $4::json, dead_since = CASE WHEN $4::text IS NOT NULL THEN coalesce(dead_since, clock_timestamp()) END,
				retry_at = clock_timestamp() + $5::bigint * interval '1 microsecond', unfinished = $6::boolean, `+endLease+`
			WHERE name = $1::text AND version = $3::bigint`,
			grant, holder, version, dead, untilOrNull(mark.RetryAt), mark.Unfinished)
	})
}

// Release implements [grants.Store].
func (s *Store) Release(ctx context.Context, grant, holder string) error {
	return s.do(ctx, "release", func(conn *pgxpool.Conn) error {
		// A lease that has run out is left: it says that something is unfinished.
		_, err := conn.Exec(ctx, `UPDATE `+s.table+` SET holder = NULL, leased_until = NULL
			WHERE name = $1::text AND holder = $2::text AND leased_until > clock_timestamp()`, pgx.QueryExecModeExec, grant, holder)
		return err
	})
}

// Put implements [grants.Store].
func (s *Store) Put(ctx context.Context, grant string, token *oauth2.Token) error {
	sealed, err := s.sealToken("put", token)
	if err != nil {
		return err
	}
	return s.do(ctx, "put", func(conn *pgxpool.Conn) error {
		_, err := conn.Exec(ctx, `INSERT INTO `+s.table+` (name, token, expiry, version)
			VALUES ($1::text, $2::bytea, clock_timestamp() + $3::bigint * interval '1 microsecond', $4::bigint)
			ON CONFLICT (name) DO UPDATE SET token = EXCLUDED.token, expiry = EXCLUDED.expiry, version = EXCLUDED.version,
				unfinished = false, retry_at = NULL, dead = NULL, dead_since = NULL, holder = NULL, leased_until = NULL`,
			pgx.QueryExecModeExec, grant, sealed, untilOrNull(token.Expiry), newVersion())
		return err
	})
}

// Delete implements [grants.Store].
func (s *Store) Delete(ctx context.Context, grant string) error {
	return s.do(ctx, "delete", func(conn *pgxpool.Conn) error {
		_, err := conn.Exec(ctx, `DELETE FROM `+s.table+` WHERE name = $1::text`, pgx.QueryExecModeExec, grant)
		return err
	})
}

// Due implements [grants.Store]. It reads an index on the expiry of the grants that are alive.
func (s *Store) Due(ctx context.Context, before time.Duration, limit int) ([]string, error) {
	var due []string
	err := s.do(ctx, "due", func(conn *pgxpool.Conn) error {
		// now() and not clock_timestamp(), which is volatile and would not use the index.
		rows, err := conn.Query(ctx, `SELECT name FROM `+s.table+`
			WHERE dead IS NULL AND expiry <= now() + $1::bigint * interval '1 microsecond'
				AND (leased_until IS NULL OR leased_until <= now()) AND (retry_at IS NULL OR retry_at <= now())
			ORDER BY expiry, name LIMIT $2::bigint`, pgx.QueryExecModeExec, before.Microseconds(), max(limit, 0))
		if err != nil {
			return err
		}
		due, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return due, err
}

// Dead returns at most limit grants that have been dead for at least the duration since, the longest dead first. It is for
// the job that asks customers to connect again: a wrong verdict heals when the process that has the newer token saves it,
// so ask for verdicts that are some minutes old. A grant stays in the list until it is put again or deleted: remember whom
// you have asked.
func (s *Store) Dead(ctx context.Context, since time.Duration, after grants.DeadGrant, limit int) ([]grants.DeadGrant, error) {
	var dead []grants.DeadGrant
	err := s.do(ctx, "dead", func(conn *pgxpool.Conn) error {
		sent := time.Now()
		rows, err := conn.Query(ctx, `SELECT name, dead, (extract(epoch FROM dead_since - now()) * 1000000)::bigint FROM `+s.table+`
			WHERE dead IS NOT NULL AND dead_since <= now() - $1::bigint * interval '1 microsecond'
			ORDER BY dead_since, name LIMIT $2::bigint`, pgx.QueryExecModeExec, since.Microseconds(), max(limit, 0))
		if err != nil {
			return err
		}
		dead, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (found grants.DeadGrant, err error) {
			var text []byte
			var ago int64
			if err = row.Scan(&found.Grant, &text, &ago); err == nil {
				found.Since = sent.Add(time.Duration(ago) * time.Microsecond)
				found.Error, err = readVerdict(text)
			}
			return found, err
		})
		return err
	})
	return dead, err
}

// scan reads columns. Durations count from when the statement was sent: a token is taken to expire too early rather than too late.
func (s *Store) scan(row pgx.Row, sent time.Time, record *grants.Record) error {
	var sealed, dead []byte
	var expiry, retryAt *int64
	if err := row.Scan(&sealed, &record.Version, &record.Unfinished, &dead, &expiry, &retryAt); err != nil {
		return err
	}
	if s.open != nil {
		var err error
		if sealed, err = s.open(sealed); err != nil {
			return &openError{err}
		}
	}
	var stored storedToken
	if json.Unmarshal(sealed, &stored) != nil {
		return errors.New("the row's token is not what Put and Save store; is it sealed?") // the cause would show a part of it
	}
	record.Token = &oauth2.Token{
		AccessToken: stored.AccessToken, RefreshToken: stored.RefreshToken, TokenType: stored.TokenType, Expiry: timeOrZero(sent, expiry),
	}
	record.RetryAt = timeOrZero(sent, retryAt)
	if dead == nil {
		return nil
	}
	var err error
	record.Dead, err = readVerdict(dead)
	return err
}

func readVerdict(text []byte) (*applebusiness.Error, error) {
	var v storedVerdict
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	return &applebusiness.Error{
		Endpoint: v.Endpoint, StatusCode: v.StatusCode, Code: v.Code, Description: v.Description,
		Reason: v.Reason, GrantType: v.GrantType, RequestID: v.RequestID, ResponseLost: v.ResponseLost,
	}, nil
}

func (s *Store) sealToken(method string, token *oauth2.Token) ([]byte, error) {
	if token == nil {
		return nil, &storeError{method, errors.New("there is no token to store")}
	}
	text, _ := json.Marshal(storedToken{token.AccessToken, token.RefreshToken, token.TokenType}) // strings always marshal
	if s.seal == nil {
		return text, nil
	}
	sealed, err := s.seal(text)
	if err != nil {
		return nil, &storeError{method, errors.New("Options.Seal failed")} // its text may hold what it was given
	}
	return sealed, nil
}

// changed runs a conditional update, and returns ErrConflict if the condition was false.
func changed(conn *pgxpool.Conn, ctx context.Context, sql string, arguments ...any) error {
	tag, err := conn.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, arguments...)...)
	if err == nil && tag.RowsAffected() == 0 {
		return grants.ErrConflict
	}
	return err
}

// do calls f with a connection, and says which method failed. Durations are computed in f: the wait for a connection is over.
func (s *Store) do(ctx context.Context, method string, f func(*pgxpool.Conn) error) error {
	if s.invalid != nil {
		return &storeError{method, s.invalid}
	}
	err := s.pool.AcquireFunc(ctx, f)
	switch {
	case err == nil, errors.Is(err, grants.ErrNoGrant), errors.Is(err, grants.ErrLeased), errors.Is(err, grants.ErrConflict):
		return err
	}
	return &storeError{method, err}
}

// storeError is a failure of the database in one line; pgx writes some in several.
type storeError struct {
	method string
	err    error
}

func (e *storeError) Error() string {
	return "applebusiness/grants/pgxstore: " + e.method + ": " + strings.Join(strings.Fields(e.err.Error()), " ")
}

func (e *storeError) Unwrap() error { return e.err }

// openError is a failure of Options.Open, whose text may hold what it was given.
type openError struct{ err error }

func (e *openError) Error() string { return "Options.Open failed" }
func (e *openError) Unwrap() error { return e.err }

// newVersion returns a number that no grant has had: 63 random bits, which no failover to an older copy can repeat.
func newVersion() int64 { return rand.Int64() }

// untilOrNull returns the microseconds until t, and nil, which is NULL, for the zero Time.
func untilOrNull(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	return new(time.Until(t).Microseconds())
}

func timeOrZero(from time.Time, microseconds *int64) time.Time {
	if microseconds == nil {
		return time.Time{}
	}
	return from.Add(time.Duration(*microseconds) * time.Microsecond)
}
