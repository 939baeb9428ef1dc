#!/bin/bash
# Makes the Docker image debian:trixie-slim from Debian's packages where no registry can be reached.
# Needs root, because debootstrap installs a whole system into a folder.
set -euo pipefail

image=debian:trixie-slim

fail() {
    echo "error: $*" >&2
    exit 1
}

docker info > /dev/null 2>&1 || fail "no Docker engine answers; start Docker first"
if docker image inspect "$image" > /dev/null 2>&1; then
    echo "The image $image is there."
    exit 0
fi
if timeout 120 docker pull --quiet "$image" 2> /dev/null; then
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "no registry gives $image, and making it needs root: sudo make base-image"
if ! command -v debootstrap > /dev/null; then
    command -v apt-get > /dev/null || fail "install debootstrap first"
    echo "Installing the Debian package debootstrap."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends debootstrap > /dev/null
fi

echo "Making $image with debootstrap (about half a minute) ..."
folder=$(mktemp --directory)
trap 'rm --recursive --force "$folder"' EXIT
# debootstrap's own list of mirrors may be closed here; the one that apt uses is open.
mirror=$(sed --quiet --regexp-extended 's/^(deb |URIs: *)(\[[^]]*\] *)?(https?:[^ ]*).*/\3/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | grep --invert-match security \
    | head --lines=1 || true)
script=/usr/share/debootstrap/scripts/trixie
[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
if ! debootstrap --variant=minbase trixie "$folder/root" "${mirror:-http://deb.debian.org/debian}" "$script" \
    > "$folder/log" 2>&1; then
    tail --lines=20 "$folder/log" >&2
    fail "debootstrap failed"
fi
rm --recursive --force "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
tar --directory "$folder/root" --create . | docker import - "$image"
