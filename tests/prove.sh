#!/usr/bin/env bash
# The long form of the tests that try what they can: every step of every operation with death and errors, processes killed
# at random, requests made from the document, poisoned state, attacks, archives, load. Prints each figure with its target,
# what was measured, the number of runs and the seed, as a table in Markdown.
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
cargo test -p berth-tests --test blackbox -- --include-ignored --nocapture --test-threads "${PROVE_THREADS:-2}" \
    attacks:: attacks_api:: corpus:: crash_matrix:: fuzz_api:: hostile:: load:: mayhem:: poison:: 2>&1 |
    tee "$out" || status=$?
echo
echo "| figure | target | measured | runs | seed |"
echo "|---|---|---|---|---|"
sed -n 's/.*figure: \(.*\)/| \1 |/p' "$out" | sort
# The replays of advisories are tests without a number of their own: so many of them hold.
for module in attacks attacks_api hostile poison; do
    passed=$(grep -c "^test $module::.* ok$" "$out" || true)
    failed=$(grep -c "^test $module::.* FAILED$" "$out" || true)
    echo "| replays in \`$module\` | all hold | $passed hold, $failed fail | $((passed + failed)) | $BERTH_SEED |"
done
grep '^test result' "$out" || true
exit $status
