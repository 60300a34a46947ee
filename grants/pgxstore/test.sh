#!/usr/bin/env bash
# Runs the tests, with further arguments to go test, on a PostgreSQL and a pgbouncer of their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./postgres.sh go test "$@" ./...
