#!/bin/bash
# Runs all tests on each version of tools/postgres_versions, in containers, one after the other. At the end
# it prints one line of results a version; it fails if one of them fails. Called by `make test-matrix`,
# whose ARGS reach pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

make=${MAKE:-make}
logs=$(mktemp --directory)
trap 'rm --recursive --force "$logs"' EXIT
results=()
failed=0

mapfile -t versions < <(sed --quiet 's/^\([0-9][0-9]*\) .*/\1/p' tools/postgres_versions)
for version in "${versions[@]}"; do
    echo
    echo "=== PostgreSQL $version"
    status=0
    { "$make" base-image "PG_VERSION=$version" && "$make" test-all PG=docker "PG_VERSION=$version"; } < /dev/null 2>&1 \
        | tee "$logs/$version" || status=$?
    # pytest's last line, such as: ===== 120 passed, 1 skipped in 42.00s =====
    count=$(sed --quiet --regexp-extended 's/^=+ (.* in [0-9][^=]*[^= ]) *=+$/\1/p' "$logs/$version" | tail --lines=1)
    if [ "$status" = 0 ]; then
        results+=("PostgreSQL $version: ${count:-no result}")
    else
        results+=("PostgreSQL $version: FAILED: ${count:-no result}")
        failed=1
    fi
done

echo
echo "=== results"
printf '%s\n' "${results[@]}"
exit "$failed"
