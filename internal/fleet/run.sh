#!/usr/bin/env bash
# Runs the trial with the flags, on a PostgreSQL and a pgbouncer of its own: see ../../grants/pgxstore/postgres.sh.
# `run.sh test` runs the trial's own tests instead; further arguments go to go test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
with_postgres=../../grants/pgxstore/postgres.sh
if [ "${1-}" = test ]; then
	exec $with_postgres go test -skip '^TestFleet$' "${@:2}" ./...
fi
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
go test -c -o "$build/fleet.test" .
$with_postgres "$build/fleet.test" -test.run '^TestFleet$' "$@"
