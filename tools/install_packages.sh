#!/bin/bash
# Installs the Debian or Ubuntu packages that are missing for `make`, and nothing else.
#
# usage: tools/install_packages.sh venv     what the Python tools need
#        tools/install_packages.sh engine   what the PostgreSQL server of tests and demo needs
#        tools/install_packages.sh browser  Debian's Chromium, for the tests of the live page
#        tools/install_packages.sh monitoring   what the tests of monitoring/ need; both come with a service
#        tools/install_packages.sh lint     what `make lint` needs beside the Python tools
#
# The engine is the one of the environment variable PG, else Docker where it answers, else local; PG_VERSION
# chooses the image.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 1
}

# Docker is an engine only if its base image is there or can be had.
docker_works() {
    docker info > /dev/null 2>&1 || return 1
    local image
    image=debian:$(awk -v wanted="${PG_VERSION:-}" '$1 == wanted || (wanted == "" && $3 == "default") { print $2 }' \
        "$(dirname "$0")/postgres_versions")-slim
    docker image inspect "$image" > /dev/null 2>&1 && return 0
    echo "Fetching the Docker image $image ..."
    timeout 120 docker pull --quiet "$image" > /dev/null 2>&1
}

# A PostgreSQL version with PL/Python, pg_cron and, for the tests, Supabase's decoder of the WAL; and
# what makes a throw-away cluster of it.
local_works() {
    [ -x /usr/bin/pg_virtualenv ] && [ -d /usr/lib/python3/dist-packages/requests ] \
        && [ -d /usr/lib/python3/dist-packages/PIL ] || return 1
    local server extensions
    for server in /usr/lib/postgresql/*/bin/postgres; do
        extensions=/usr/share/postgresql/$(basename "${server%/bin/postgres}")/extension
        if [ -f "$extensions/plpython3u.control" ] && [ -f "$extensions/pg_cron.control" ] \
            && [ -f "${server%/bin/postgres}/lib/wal2json.so" ]; then
            return 0
        fi
    done
    return 1
}

# The newest server that is installed, else the distribution's own version.
postgres_version() {
    local version
    version=$(find /usr/lib/postgresql -path '*/bin/postgres' 2> /dev/null \
        | sed --quiet 's|^/usr/lib/postgresql/\([0-9]*\)/bin/postgres$|\1|p' | sort --numeric-sort | tail --lines=1)
    if [ -z "$version" ]; then
        version=$(apt-cache depends postgresql 2> /dev/null \
            | sed --quiet 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p' | head --lines=1)
    fi
    echo "$version"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo --preserve-env=DEBIAN_FRONTEND "$@"
    fi
}

# require "what it is for" package...; a package name may contain N, the version of PostgreSQL.
require() {
    local purpose=$1
    shift
    if ! command -v apt-get > /dev/null; then
        fail "$purpose is missing, and this is not Debian or Ubuntu. Install the equivalents of: $*"
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo > /dev/null; then
        fail "$purpose is missing. Without sudo, root has to run: apt-get install $*" \
            "(N is the version of PostgreSQL)"
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "$purpose is missing: installing Debian packages ($*), after apt-get update."
    as_root apt-get update -qq \
        || fail "apt-get update failed; the message is above. Root has to install: $*" \
            "(N is the version of PostgreSQL)"
    local packages=("$@")
    if [[ "$*" == *-N* ]]; then
        local version
        version=$(postgres_version)
        [ -n "$version" ] || fail "apt knows no package postgresql. Install: $*"
        packages=("${packages[@]/-N/-$version}")
    fi
    echo "Installing: ${packages[*]}"
    prevent_main_cluster
    as_root apt-get install -qq --yes --no-install-recommends "${packages[@]}" > /dev/null \
        || fail "the installation failed; the message is above. Root has to install: ${packages[*]}"
}

# Debian's server package creates a cluster on port 5432 and starts it. Nobody asked for one here.
# The file is gone after the installation, so that a server which is installed later gets its cluster.
prevent_main_cluster() {
    local file=/etc/postgresql-common/createcluster.d/refresh-qr-codes-installation.conf
    as_root mkdir --parents "$(dirname "$file")"
    echo 'create_main_cluster = false' | as_root tee "$file" > /dev/null
    # shellcheck disable=SC2064  # the name is known now and not when the trap runs
    trap "as_root rm --force '$file'" EXIT
}

case "${1:-}" in
    venv)
        python3 -c 'import ensurepip, venv' 2> /dev/null || require "Python's venv" python3-venv
        ;;
    engine)
        case "${PG:-}" in
            docker | url) exit 0 ;; # tests/engines.py says what is missing
            local) ;;
            *) docker_works && exit 0 ;;
        esac
        local_works || require "A local PostgreSQL with PL/Python, pg_cron and wal2json" \
            postgresql-N postgresql-plpython3-N postgresql-N-cron postgresql-N-wal2json \
            python3-pil python3-requests
        ;;
    browser)
        # Without it the tests of the live page are skipped, so it is no error that it cannot be had:
        # Ubuntu has it only as a snap, and not everybody may install packages.
        [ -x /usr/bin/chromium ] && exit 0
        echo "The live page is tested in Chromium (a download of 80 MB, once)."
        (require "Chromium" chromium) || echo "Going on without Chromium: the tests of the live page are skipped."
        ;;
    lint)
        command -v shellcheck > /dev/null || require "shellcheck" shellcheck
        ;;
    monitoring)
        if ! command -v promtool > /dev/null || ! command -v prometheus-postgres-exporter > /dev/null; then
            require "Prometheus's promtool or its exporter for PostgreSQL" prometheus prometheus-postgres-exporter
        fi
        ;;
    *)
        fail "usage: tools/install_packages.sh venv|engine|browser|monitoring|lint"
        ;;
esac
