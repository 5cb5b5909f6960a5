#!/usr/bin/env bash
# Builds the engine, starts it, runs a container from the image it comes with, and shows each request and reply.
# The engine stays; the last lines tell how to go on and how to end it.
#
#   BERTHD   a berthd that is already built
#   SOCKET   where to listen (default /run/berth.sock)
#   FLAGS    further flags of berthd, such as --data-root DIR
set -euo pipefail
cd "$(dirname "$0")/.."
socket=${SOCKET:-/run/berth.sock}

fail() {
    echo "$*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "Containers are made of namespaces, mounts and cgroups: run this as root."
command -v curl >/dev/null || fail "curl is not installed; on Debian: apt-get install curl"

if [ -z "${BERTHD:-}" ]; then
    cargo build --release -p berth-server --bin berthd
    BERTHD=${CARGO_TARGET_DIR:-target}/release/berthd
fi

# Asks the engine for something and shows question and answer.
ask() { # METHOD PATH [JSON]
    echo
    echo "\$ curl --unix-socket $socket -X $1 http://localhost$2${3:+ -H 'Content-Type: application/json' -d '$3'}"
    reply=$(curl -sS --max-time 60 --unix-socket "$socket" -w '\n[HTTP %{http_code}]' -X "$1" "http://localhost$2" \
        ${3:+-H 'Content-Type: application/json' -d "$3"} --output - | tr -d '\000')
    echo "$reply"
}

if curl -sf --max-time 5 --unix-socket "$socket" http://localhost/_ping >/dev/null 2>&1; then
    echo "An engine already answers on $socket; using it."
    pid=
else
    mkdir -p "$(dirname "$socket")"
    log=${LOG:-${socket%.sock}.log}
    # shellcheck disable=SC2086 # several flags
    setsid "$BERTHD" --host "unix://$socket" ${FLAGS:-} >"$log" 2>&1 </dev/null &
    pid=$!
    echo "\$ berthd --host unix://$socket ${FLAGS:-}     (process $pid, log in $log)"
    for _ in $(seq 200); do
        curl -sf --unix-socket "$socket" http://localhost/_ping >/dev/null 2>&1 && break
        kill -0 "$pid" 2>/dev/null || fail "berthd did not start:"$'\n'"$(tail -20 "$log")"
        sleep 0.05
    done
fi

ask GET /v1.43/version
ask GET /v1.43/images/json
ask POST /v1.43/containers/create \
    '{"Image":"berth/hello","Hostname":"first","HostConfig":{"NetworkMode":"none","Memory":67108864}}'
id=$(sed -n 's/.*"Id":"\([0-9a-f]\{12\}\).*/\1/p' <<<"$reply")
[ -n "$id" ] || fail "The engine made no container."
ask POST "/v1.43/containers/$id/start"
ask POST "/v1.43/containers/$id/wait"
# Each piece of output has a header of eight bytes here, which tells its stream and length.
ask GET "/v1.43/containers/$id/logs?stdout=1&stderr=1"
ask DELETE "/v1.43/containers/$id"

cat <<END

The engine goes on. With the docker command line:
    export DOCKER_HOST=unix://$socket
    docker run --rm -it --network none berth/hello
${pid:+To end it:
    kill $pid
}
END
