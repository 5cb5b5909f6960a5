#!/usr/bin/env bash
# The long form of the tests that try what they can: every step of every operation with death and errors, requests made
# from the document, poisoned state, attacks, load. Prints each figure with its target, what was measured, the number of
# runs and the seed.
#
#   tests/prove.sh                  # effort 25: half an hour on two cores
#   tests/prove.sh 1000             # everything there is
#   BERTH_SEED=42 tests/prove.sh 1  # the short form, with the numbers of an earlier run
set -euo pipefail
cd "$(dirname "$0")/.."
export BERTH_EFFORT=${1:-25} BERTH_SEED=${BERTH_SEED:-$RANDOM}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
cargo build -p berth-server
status=0
cargo test -p berth-tests --test blackbox -- --include-ignored --nocapture --test-threads 2 \
    crash_matrix:: fuzz_api:: poison:: attacks:: hostile:: load:: 2>&1 | tee "$out" || status=$?
echo
echo "figure | target | measured | runs | seed"
sed -n 's/.*figure: //p' "$out" | sort
grep '^test result' "$out" || true
exit $status
