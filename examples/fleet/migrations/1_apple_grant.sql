-- One row for each customer who has connected.
CREATE TABLE apple_grant (
	id            text PRIMARY KEY,
	access_token  text NOT NULL,
	refresh_token text NOT NULL, -- in production encrypted, with a key that is not in this database
	token_type    text NOT NULL,
	expiry        timestamptz,   -- NULL: never

	needs_reconnecting_since timestamptz, -- NULL: connected, and the next three say nothing
	error_code               text NOT NULL DEFAULT '',
	error_reason             text NOT NULL DEFAULT '',
	error_request_id         text NOT NULL DEFAULT '', -- to quote to Apple's support

	updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
