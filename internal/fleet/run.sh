#!/usr/bin/env bash
# Runs the program with the arguments, on a PostgreSQL and a pgbouncer of its own: see ../../grants/pgxstore/postgres.sh.
# `run.sh test` runs the tests instead; further arguments go to go test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
with_postgres=../../grants/pgxstore/postgres.sh
if [ "${1-}" = test ]; then
	exec $with_postgres go test "${@:2}" ./...
fi
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
go build -o "$build/fleet" .
$with_postgres "$build/fleet" "$@"
