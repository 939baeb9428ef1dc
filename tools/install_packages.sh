#!/bin/bash
# Installs the Debian or Ubuntu packages that are missing for `make`, and nothing else.
#
# usage: tools/install_packages.sh venv     what the Python tools need
#        tools/install_packages.sh engine   what the PostgreSQL server of the demo needs
#        tools/install_packages.sh tests    what the PostgreSQL server of the tests needs
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

# A PostgreSQL version with PL/Python and pg_cron, and what makes a throw-away cluster of it.
# Arguments: files of its own that this version must have, beside its program.
local_works() {
    [ -x /usr/bin/pg_virtualenv ] && [ -d /usr/lib/python3/dist-packages/requests ] || return 1
    local server extensions file
    for server in /usr/lib/postgresql/*/bin/postgres; do
        extensions=/usr/share/postgresql/$(basename "${server%/bin/postgres}")/extension
        for file in "$extensions/plpython3u.control" "$extensions/pg_cron.control" \
            "${@/#/${server%/bin/postgres}/}"; do
            [ -f "$file" ] || continue 2
        done
        return 0
    done
    return 1
}

# Exits where another engine than the local one is asked for or works.
leave_unless_local() {
    case "${PG:-}" in
        docker | url) exit 0 ;; # tools/engines.py says what is missing
        local) ;;
        *) if docker_works; then exit 0; fi ;;
    esac
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
        sudo --preserve-env=DEBIAN_FRONTEND,NEEDRESTART_SUSPEND "$@"
    fi
}

# require "what it is for" package...; a package name may contain N, the version of PostgreSQL.
require() {
    local purpose=$1
    shift
    if ! command -v apt-get > /dev/null; then
        fail "$purpose is missing, and this is not Debian or Ubuntu. Install the equivalents of: $*"
    fi
    local note=
    [[ "$*" != *-N* ]] || note=" (N is the version of PostgreSQL)"
    if [ "$(id -u)" != 0 ] && ! command -v sudo > /dev/null; then
        fail "$purpose is missing. Without sudo, root has to run: apt-get install $*$note"
    fi
    # Without the second, Ubuntu restarts services that use an old library.
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    echo "$purpose is missing: installing Debian packages ($*), after apt-get update."
    as_root apt-get update \
        || fail "apt-get update failed; the message is above. Root has to install: $*$note"
    local packages=("$@")
    if [[ "$*" == *-N* ]]; then
        local version
        version=$(postgres_version)
        [ -n "$version" ] || fail "apt knows no package postgresql. Install: $*"
        packages=("${packages[@]/-N/-$version}")
    fi
    refuse_server_upgrade "${packages[@]}"
    echo "Installing: ${packages[*]}"
    [[ "${packages[*]}" == *postgresql* ]] && prevent_main_cluster
    as_root apt-get install --yes --no-install-recommends --no-upgrade "${packages[@]}" \
        || fail "the installation failed; the message is above. Root has to install: ${packages[*]}"
}

# An upgrade of PostgreSQL restarts its clusters, and one that runs is somebody's. A package of the
# same source, such as PL/Python, may need the newest server, also with --no-upgrade.
refuse_server_upgrade() {
    local plan upgrades upgraded running
    plan=$(apt-get install --simulate --no-install-recommends --no-upgrade "$@") \
        || fail "apt-get cannot install $*; the message is above."
    upgrades=$(sed --quiet --regexp-extended 's/^Inst (postgresql-[0-9]+) \[.*/\1/p' <<< "$plan")
    for upgraded in $upgrades; do
        running=$(pg_lsclusters --no-header | awk -v version="${upgraded#postgresql-}" \
            '$1 == version && $4 ~ /^online/ { print $1 "/" $2 }')
        [ -z "$running" ] \
            || fail "Installing $* would upgrade $upgraded and so restart the PostgreSQL server that runs here" \
                "(${running//$'\n'/, }); nothing was installed. Upgrade it yourself when a restart suits" \
                "(apt-get install --no-install-recommends $*), or choose another PostgreSQL: PG=docker or PG=url."
    done
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
        leave_unless_local
        local_works || require "A local PostgreSQL with PL/Python and pg_cron" \
            postgresql-N postgresql-plpython3-N postgresql-N-cron python3-requests
        ;;
    tests)
        leave_unless_local
        # Supabase's decoder of the WAL, and what show_qr() reads a picture with.
        if ! local_works lib/wal2json.so || ! [ -d /usr/lib/python3/dist-packages/PIL ]; then
            require "A local PostgreSQL with PL/Python, pg_cron and wal2json" \
                postgresql-N postgresql-plpython3-N postgresql-N-cron postgresql-N-wal2json \
                python3-pil python3-requests
        fi
        ;;
    browser)
        missing=()
        [ -x /usr/bin/chromium ] || missing+=(chromium)
        # The program with which Playwright steers it needs this library.
        /sbin/ldconfig -p | grep --quiet 'libatomic\.so\.1 ' || missing+=(libatomic1)
        [ "${#missing[@]}" = 0 ] && exit 0
        # No error: Ubuntu has Chromium only as a snap, and not everybody may install packages.
        echo "The live page is tested in Chromium (a download of 80 MB, once)."
        (require "The browser of the tests" "${missing[@]}") \
            || echo "The tests of the live page are SKIPPED; to run them: apt-get install ${missing[*]}"
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
        fail "usage: tools/install_packages.sh venv|engine|tests|browser|monitoring|lint"
        ;;
esac
