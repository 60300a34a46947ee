#!/usr/bin/env bash
# postgres.sh COMMAND… runs a command with a PostgreSQL of its own, and a pgbouncer in transaction mode before it, in a temporary
# folder that is deleted at the end. The command finds them by
#
#   DATABASE_URL  the database
#   POOLER_URL    the same through pgbouncer; empty if there is no pgbouncer
#   PGDATA        the database's data folder
#   POSTGRES_CTL  a program that passes its arguments to pg_ctl for this database: "$POSTGRES_CTL" -m immediate restart
#
# As root on Debian it installs what is missing.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: postgres.sh COMMAND…" >&2; exit 2; }

find_postgres() { # prints the folder of initdb and pg_ctl
	local initdb
	initdb=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
	[ -n "$initdb" ] || initdb=$(command -v initdb) || return 1
	dirname "$initdb"
}
find_pgbouncer() { PATH=$PATH:/usr/sbin command -v pgbouncer; }

install() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
	echo "postgres.sh: installing $*" >&2
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}
find_postgres >/dev/null || install postgresql
find_pgbouncer >/dev/null || install pgbouncer
bin=$(find_postgres) || { echo "postgres.sh: no PostgreSQL: install Debian's package postgresql" >&2; exit 1; }

data=$(mktemp -d /tmp/pg.XXXXXX) # short: the path of a socket may have 107 bytes
owner=
if [ "$(id -u)" = 0 ]; then # whom initdb and pgbouncer refuse
	chown postgres "$data"
	owner="setpriv --reuid=postgres --regid=postgres --init-groups"
fi
as_owner() { (cd "$data" && $owner "$@"); }
stop() {
	[ ! -e "$data/pgbouncer.pid" ] || kill "$(cat "$data/pgbouncer.pid")" 2>/dev/null || true
	as_owner "$bin/pg_ctl" -D "$data/db" -m immediate stop >/dev/null 2>&1 || true
	rm -rf "$data"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cat >"$data/ctl" <<-CTL
	#!/bin/sh
	cd "$data" && exec $owner "$bin/pg_ctl" -D "$data/db" -l "$data/server.log" -w "\$@"
CTL
chmod 755 "$data/ctl"
export POSTGRES_CTL="$data/ctl" PGDATA="$data/db"

# Nobody else can enter the folder, so trust is enough.
as_owner "$bin/initdb" -D "$data/db" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$data/initdb.log" 2>&1 &&
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$data'" "max_connections = 200" >>"$data/db/postgresql.conf" &&
	"$POSTGRES_CTL" start >/dev/null ||
	{ cat "$data"/*.log >&2; exit 1; }
export DATABASE_URL="postgres://postgres@/postgres?host=$data"

export POOLER_URL=
if pgbouncer=$(find_pgbouncer); then
	cat >"$data/pgbouncer.ini" <<-INI
		[databases]
		* = host=$data user=postgres
		[pgbouncer]
		pool_mode = transaction
		default_pool_size = 8
		max_client_conn = 1000
		auth_type = any
		listen_addr =
		listen_port = 6432
		unix_socket_dir = $data
		logfile = $data/pgbouncer.log
		pidfile = $data/pgbouncer.pid
	INI
	# From 1.21 on it can keep prepared statements apart. Without that is the harder case.
	if [ "$("$pgbouncer" --version | sed -n 's/^PgBouncer 1\.\([0-9]*\).*/\1/p')" -ge 21 ]; then
		echo "max_prepared_statements = 0" >>"$data/pgbouncer.ini"
	fi
	as_owner "$pgbouncer" -q -d "$data/pgbouncer.ini"
	POOLER_URL="postgres://postgres@/postgres?host=$data&port=6432"
fi

"$@"
