#!/bin/bash
# Creates the cluster on the first start, installs or upgrades the job where the image has it, then becomes the
# PostgreSQL server.
#
# Arguments: options of `postgres`, such as -c max_connections=50.
# Environment:
#   POSTGRES_PASSWORD       password of the superuser postgres; required on the first start, unused after
#   POSTGRES_DB             the database that gets the job, made on the first start (default: postgres)
#   POSTGRES_INITDB_ARGS    more options for initdb, separated by spaces (optional)
#   EVOLUTION_API_BASE_URL  read by refresh_qr_codes() from the environment of the server; without it the first start
#                           schedules nothing
#   APPLICATION_DATABASE_URL, EVOLUTION_TABLE, EVOLUTION_COLUMNS, EVOLUTION_CONNECTING
#                           where the rows are in another database, such as a managed one: see db/foreign_table.py
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "POSTGRES_PASSWORD is not set: the first start needs a password for the superuser postgres." >&2
        echo "Example: docker run -e POSTGRES_PASSWORD=... refresh-qr-codes" >&2
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

share=/usr/local/share/refresh-qr-codes
installation=$share/qr_refresh.sql
# The health check shows what is in it.
failure_mark=/tmp/installation-failed
database=${POSTGRES_DB:-postgres}

# The first time also schedules the job. Later that is the operator's affair: who has stopped it, or chosen
# another schedule, finds it so after a restart.
schedule="do \$\$
begin
    if exists (select from qr_refresh.evolution_api_base_url() as u where u.source = 'nowhere') then
        raise warning 'EVOLUTION_API_BASE_URL is not set: nobody is asked, and nothing is scheduled'
            using hint = 'Set it, and start the container again.';
    elsif not exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
        create extension pg_cron;
        -- It would warn that this server, which only installs, begins no job.
        perform set_config('client_min_messages', 'error', true);
        perform qr_refresh.schedule('live');
    end if;
end
\$\$"

foreign_table() {
    (cd "$share" && DATABASE_URL="postgresql://postgres@/$database?host=/var/run/postgresql" \
        python3 -m db.foreign_table "$1")
}

# Waits until the application's database has what the job needs, and says what that is whenever it is something else.
wait_for_application_database() {
    local said status
    while true; do
        status=0
        said=$(foreign_table look 2>&1) || status=$?
        # 3: something is lacking over there. Anything else is for whoever sets the variables.
        [ "$status" = 0 ] && break
        if [ "$status" != 3 ]; then
            printf '%s\n' "$said" >&2
            exit 1
        fi
        if [ "$stopping" = true ]; then
            exit 0
        fi
        if [ "$said" != "$(cat "$failure_mark" 2> /dev/null)" ]; then
            printf '%s\n' "$said" | tee "$failure_mark" >&2
            echo "Waiting for it." >&2
        fi
        sleep 5 &
        wait "$!" || true
    done
    rm -f "$failure_mark"
}

# Runs the installation in a server of its own, which nobody reaches from outside and which starts no job.
install_job() {
    local options result=0
    options=$(printf '%q ' "$@" -c "listen_addresses=" -c "cron.launch_active_jobs=off")
    env --unset=APPLICATION_DATABASE_URL pg_ctl --silent --wait --timeout=600 --options="$options" start || return
    if [ -n "${APPLICATION_DATABASE_URL:-}" ]; then
        foreign_table create || result=$?
    fi
    if [ "$result" = 0 ]; then
        psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --dbname="$database" \
            --file="$installation" --command="$schedule" || result=$?
    fi
    pg_ctl --silent --wait --timeout=600 --mode=fast stop
    return "$result"
}

if [ -e "$installation" ]; then
    way=(-c cron.use_background_workers=on)
    # With them pg_cron 1.4 begins no job while another one is at work.
    if grep --quiet "^default_version = '1\.4" /usr/share/postgresql/*/extension/pg_cron.control; then
        way=(-c cron.use_background_workers=off -c cron.host=/var/run/postgresql)
        if ! grep --quiet '^local all qr_refresher' "$PGDATA/pg_hba.conf"; then
            sed --in-place '1i local all qr_refresher peer map=qr_refresher' "$PGDATA/pg_hba.conf"
            echo 'qr_refresher postgres qr_refresher' >> "$PGDATA/pg_ident.conf"
        fi
    fi
    # Also where arguments of the operator's take the place of the image's own.
    set -- -c shared_preload_libraries=pg_cron "${way[@]}" -c "cron.database_name=$database" "$@"
    rm -f "$failure_mark"
    # The first process of a container ignores signals that it does not trap.
    stopping=false
    trap 'stopping=true' INT TERM QUIT
    if [ -n "${APPLICATION_DATABASE_URL:-}" ]; then
        wait_for_application_database
    fi
    if install_job "$@"; then
        echo "The job refresh-qr-codes is installed in the database $database."
    else
        # The database may serve more than this job, so it runs; the health check tells of the failure.
        echo "ERROR: the job refresh-qr-codes is not installed, or not upgraded: the reason is in the log." \
            | tee "$failure_mark" >&2
    fi
    if [ "$stopping" = true ]; then
        exit 0
    fi
    trap - INT TERM QUIT
fi

# It has the password of the application's database.
unset APPLICATION_DATABASE_URL
exec postgres -c listen_addresses='*' "$@"
