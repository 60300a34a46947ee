package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// A refresh takes 30 seconds at most. Whoever is silent for longer has stopped: the database ends its session, and the one
// who waits goes on.
const (
	idleTimeout = 35 * time.Second
	lockTimeout = 40 * time.Second
)

// Refresh tokens should be encrypted at rest in production: encrypt in Put and Update, with a key of a KMS.
const (
	lockGrant = `
		SELECT access_token, refresh_token, token_type, expiry, needs_reconnecting_since IS NOT NULL,
			error_code, error_reason, error_request_id
		FROM apple_grant WHERE id = $1 FOR UPDATE`
	recordError = `
		UPDATE apple_grant SET needs_reconnecting_since = clock_timestamp(),
			error_code = $2, error_reason = $3, error_request_id = $4, updated_at = clock_timestamp()
		WHERE id = $1`
	storeToken = `
		INSERT INTO apple_grant (id, access_token, refresh_token, token_type, expiry) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET access_token = $2, refresh_token = $3, token_type = $4, expiry = $5,
			needs_reconnecting_since = NULL, updated_at = clock_timestamp()`
)

// ErrNoGrant is returned for a grant that has no row: its customer never connected, or was deleted.
var ErrNoGrant = errors.New("there is no such grant in the database")

// Store is an [applebusiness.Store] on PostgreSQL: one grant is one row, and who refreshes it holds the row's lock.
type Store struct {
	pool                     *pgxpool.Pool
	grant                    string
	lockTimeout, idleTimeout time.Duration
}

// NewStore returns the Store of one grant. All grants of a process share the pool; an Update holds one of its
// connections while Apple answers.
func NewStore(pool *pgxpool.Pool, grant string) *Store {
	return &Store{pool, grant, lockTimeout, idleTimeout}
}

// Put stores the token of a customer who has just connected, or connected again. It waits for an Update under way.
func (s *Store) Put(ctx context.Context, token *oauth2.Token) error {
	_, err := s.pool.Exec(ctx, storeToken, s.columns(token)...)
	return s.failed(err)
}

// Update is the method of [applebusiness.Store]. An error with ActionReauthorize is recorded in the same transaction, and
// is what all processes get until there is a new token, without a request. The error of a row that stayed locked has
// ActionRetry.
func (s *Store) Update(ctx context.Context, refresh func(context.Context, *oauth2.Token) (*oauth2.Token, error)) (*oauth2.Token, error) {
	// A stricter isolation would fail after the wait for a sibling, instead of seeing the sibling's token.
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return nil, s.failed(err)
	}
	defer tx.Rollback(ctx) // does nothing after a commit

	stored, needs, err := s.lock(ctx, tx)
	if err != nil {
		return nil, s.failed(err)
	}
	token, err := refresh(ctx, stored)
	switch {
	case err != nil && needs != nil:
		return nil, needs
	case err != nil && applebusiness.Troubleshoot(err).Action == applebusiness.ActionReauthorize:
		var requestID string
		if e, ok := errors.AsType[*applebusiness.Error](err); ok {
			requestID = strings.ToValidUTF8(e.RequestID, "")
		}
		code, reason := applebusiness.CodeOf(err), applebusiness.ReasonOf(err)
		if failed := s.commit(ctx, tx, recordError, s.grant, string(code), string(reason), requestID); failed != nil {
			return nil, errors.Join(err, failed)
		}
		return nil, err
	case err != nil:
		return nil, err
	case token == nil || isSame(token, stored):
		return token, nil
	}
	// From Apple's answer to here the new refresh token is in this process only.
	if err := s.commit(ctx, tx, storeToken, s.columns(token)...); err != nil {
		return nil, err
	}
	return token, nil
}

// lock waits for the grant's row, and returns its token, or the error that is recorded in it.
func (s *Store) lock(ctx context.Context, tx pgx.Tx) (*oauth2.Token, error, error) {
	_, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d",
		s.lockTimeout.Milliseconds(), s.idleTimeout.Milliseconds()))
	if err != nil {
		return nil, nil, err
	}
	var (
		token  oauth2.Token
		expiry *time.Time
		needs  bool
		e      = applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, GrantType: "refresh_token"}
	)
	err = tx.QueryRow(ctx, lockGrant, s.grant).Scan(&token.AccessToken, &token.RefreshToken, &token.TokenType, &expiry,
		&needs, &e.Code, &e.Reason, &e.RequestID)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil, ErrNoGrant
	case err != nil:
		return nil, nil, err
	case needs:
		e.Description = e.Reason.Description()
		return nil, &e, nil
	case expiry != nil:
		token.Expiry = *expiry
	}
	return &token, nil, nil
}

func (s *Store) commit(ctx context.Context, tx pgx.Tx, sql string, arguments ...any) error {
	if _, err := tx.Exec(ctx, sql, arguments...); err != nil {
		return s.failed(err)
	}
	return s.failed(tx.Commit(ctx))
}

// columns returns the arguments of the statements that store a token. Its expiry is by the clock of the process that
// fetched it, which is why a token counts as expired 10 seconds early.
func (s *Store) columns(token *oauth2.Token) []any {
	var expiry *time.Time
	if !token.Expiry.IsZero() {
		expiry = &token.Expiry
	}
	return []any{s.grant, token.AccessToken, token.RefreshToken, token.TokenType, expiry}
}

// failed says which grant an error of the database is about.
func (s *Store) failed(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "55P03" { // lock_not_available
		// os.ErrDeadlineExceeded tells applebusiness.Troubleshoot that it passes.
		return fmt.Errorf("grant %q: another process has held its row for %s: %w: %w", s.grant, s.lockTimeout, os.ErrDeadlineExceeded, err)
	}
	return fmt.Errorf("grant %q: %w", s.grant, err)
}

func isSame(a, b *oauth2.Token) bool {
	return b != nil && a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken &&
		a.TokenType == b.TokenType && a.Expiry.Equal(b.Expiry)
}
