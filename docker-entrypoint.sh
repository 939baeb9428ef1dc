#!/bin/bash
# Creates the cluster on the first start, then becomes the PostgreSQL server.
#
# Arguments: options of `postgres`, such as -c max_connections=50.
# Environment:
#   POSTGRES_PASSWORD       password of the superuser postgres; required on the first start, unused after
#   POSTGRES_DB             name of a database to create on the first start (optional)
#   POSTGRES_INITDB_ARGS    more options for initdb, separated by spaces (optional)
#   EVOLUTION_API_BASE_URL  read by refresh_qr_codes() from the environment of the server (optional)
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "POSTGRES_PASSWORD is not set: the first start needs a password for the superuser postgres." >&2
        echo "Example: docker run -e POSTGRES_PASSWORD=... refresh-qr-codes-postgres" >&2
        exit 1
    fi

    # initdb works in a directory beside the final files, so that a start which is interrupted does not leave
    # half a cluster behind that the next start takes for a whole one.
    rm -rf "${PGDATA:?}/new"
    read -r -a initdb_options <<< "${POSTGRES_INITDB_ARGS:-}"
    initdb --pgdata="$PGDATA/new" --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        --encoding=UTF8 --locale=C.UTF-8 --auth-local=peer --auth-host=scram-sha-256 \
        "${initdb_options[@]}"
    {
        echo "# Connections from outside the container: docker's port publishing decides who gets here."
        echo "host all all all scram-sha-256"
    } >> "$PGDATA/new/pg_hba.conf"

    if [ -n "${POSTGRES_DB:-}" ] && [ "$POSTGRES_DB" != postgres ]; then
        # Single-user mode needs no server, so nobody can connect before the cluster is complete.
        printf 'create database "%s"\n' "${POSTGRES_DB//\"/\"\"}" \
            | postgres --single -j -D "$PGDATA/new" postgres > /dev/null
    fi

    # PG_VERSION goes last: it is what the test at the top looks for.
    find "$PGDATA/new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv --target-directory="$PGDATA" {} +
    mv "$PGDATA/new/PG_VERSION" "$PGDATA"
    rmdir "$PGDATA/new"
fi

# The password has done its work; the server and the Python code inside it have no use for it.
unset POSTGRES_PASSWORD

exec postgres -c listen_addresses='*' "$@"
