#!/bin/bash
# Makes the Docker image debian:RELEASE-slim from Debian's packages where no registry can be reached.
# Needs root, because debootstrap installs a whole system into a folder.
#
# The environment variable PG_VERSION chooses among tools/postgres_versions; default: the one marked there.
set -euo pipefail
cd "$(dirname "$0")"

fail() {
    echo "error: $*" >&2
    exit 1
}

release=$(awk -v wanted="${PG_VERSION:-}" '$1 == wanted || (wanted == "" && $3 == "default") { print $2 }' \
    postgres_versions)
known=$(sed --quiet 's/^\([0-9][0-9]*\) .*/\1/p' postgres_versions | paste --serial --delimiters=,)
[ -n "$release" ] || fail "there is no image for PG_VERSION=${PG_VERSION:-}: set it to one of ${known//,/, }"
image=debian:$release-slim

docker info > /dev/null 2>&1 || fail "no Docker engine answers; start Docker first"
if docker image inspect "$image" > /dev/null 2>&1; then
    echo "The image $image is there."
    exit 0
fi
if timeout 120 docker pull --quiet "$image" 2> /dev/null; then
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "no registry gives $image, and making it needs root: sudo make base-image ${PG_VERSION:+PG_VERSION=$PG_VERSION}"
if ! command -v debootstrap > /dev/null; then
    command -v apt-get > /dev/null || fail "install debootstrap first"
    echo "Installing the Debian package debootstrap."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends debootstrap > /dev/null
fi

echo "Making $image with debootstrap (about half a minute) ..."
folder=$(mktemp --directory)
trap 'rm --recursive --force "$folder"' EXIT
# debootstrap's own list of mirrors may be closed here; those that apt uses are open.
mirrors=$(sed --quiet --regexp-extended 's/^(deb |URIs: *)(\[[^]]*\] *)?(https?:[^ ]*).*/\3/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null || true)
mirror=$(grep --invert-match security <<< "$mirrors" | head --lines=1 || true)
mirror=${mirror:-http://deb.debian.org/debian}
security=$(grep security <<< "$mirrors" | head --lines=1 || true)
# A debootstrap that is older than the release has no script of its name.
script=/usr/share/debootstrap/scripts/$release
[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
if ! debootstrap --variant=minbase "$release" "$folder/root" "$mirror" "$script" \
    > "$folder/log" 2>&1; then
    tail --lines=20 "$folder/log" >&2
    fail "debootstrap failed"
fi
cat > "$folder/root/etc/apt/sources.list" << END
deb $mirror $release main
deb $mirror $release-updates main
deb ${security:-http://deb.debian.org/debian-security} $release-security main
END
# The lists of Debian testing expire after a week, and a mirror can be further behind than that.
echo 'Acquire::Check-Valid-Until "false";' > "$folder/root/etc/apt/apt.conf.d/no-expiry"
rm --recursive --force "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
tar --directory "$folder/root" --create . | docker import - "$image"
