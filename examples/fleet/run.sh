#!/usr/bin/env bash
# Starts a PostgreSQL of its own on a socket in a temporary folder, runs the program with the arguments against it, and
# deletes it. `run.sh test` runs the tests instead; further arguments go to go test. As root on Debian it installs
# PostgreSQL where that is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

find_postgres() { # prints the folder of initdb and pg_ctl
	local initdb
	initdb=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
	[ -n "$initdb" ] || initdb=$(command -v initdb) || return 1
	dirname "$initdb"
}

if ! find_postgres >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null
fi
bin=$(find_postgres) || { echo "run.sh: no PostgreSQL: install Debian's package postgresql" >&2; exit 1; }

data=$(mktemp -d /tmp/fleet.XXXXXX) # short: the path of a socket may have 107 bytes
as_owner() { (cd "$data" && "$@"); }
if [ "$(id -u)" = 0 ]; then # whom initdb refuses
	chown postgres "$data"
	as_owner() { (cd "$data" && setpriv --reuid=postgres --regid=postgres --init-groups "$@"); }
fi
stop() {
	as_owner "$bin/pg_ctl" -D "$data/db" -m immediate stop >/dev/null 2>&1 || true
	rm -rf "$data"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Nobody else can enter the folder, so trust is enough.
as_owner "$bin/initdb" -D "$data/db" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$data/initdb.log" 2>&1 &&
	as_owner "$bin/pg_ctl" -D "$data/db" -l "$data/server.log" -w -o "-c listen_addresses='' -c unix_socket_directories='$data'" start >/dev/null ||
	{ cat "$data"/*.log >&2; exit 1; }
export DATABASE_URL="postgres://postgres@/postgres?host=$data"

if [ "${1-}" = test ]; then
	go test "${@:2}" ./...
else
	go build -o "$data/fleet" .
	"$data/fleet" "$@"
fi
