#!/bin/sh
# Fuzzes every target for some seconds (30, or the first argument), two targets at once, one process each.
#
# The corpora in fuzz/corpus are where it starts from, and are not written. What reaches new code is kept in target/fuzz
# and taken up by the next run; the input that broke a target lies there too, and goes into the corpus with the fix.
# `scripts/fuzz.sh minimise TARGET` adds to fuzz/corpus/TARGET the fewest inputs of target/fuzz that reach what it does not.
set -eu
cd "$(dirname "$0")/.."

work=$PWD/target/fuzz
binary=${CARGO_TARGET_DIR:-target}/debug/fleet-fuzz
# Longer inputs find what shorter ones do, and later. A second is an age for one input.
limits='-max_len=4096 -timeout=10 -rss_limit_mb=1024'

build() {
    RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/rustc "${CARGO:-cargo}" build --locked -p fleet-fuzz --features libfuzzer
}

# Words of the inputs that people wrote: what differs by a whole word is not found a byte at a time.
words() {
    find "fuzz/corpus/$1" -type f ! -name 'reached-*' -exec cat {} + |
        LC_ALL=C grep -aoE '[[:alpha:]_@%/][[:alnum:]_.@%/-]{2,40}[=:]?' | LC_ALL=C sort -u | sed 's/.*/"&"/'
}

fuzz() {
    mkdir -p "$work/$1"
    log=$work/$1.log
    words "$1" >"$work/$1.dict"
    # shellcheck disable=SC2086 # one word each
    if FLEET_FUZZ_TARGET=$1 "$binary" $limits -dict="$work/$1.dict" -max_total_time="$2" -print_final_stats=1 \
        -artifact_prefix="$work/$1-" "$work/$1" "fuzz/corpus/$1" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
        edges=$(sed -n 's/^#.*DONE *cov: \([0-9]*\).*/\1/p' "$log")
        echo "fuzz: $1: $runs inputs, $rate a second, $edges edges reached, nothing broken"
        return 0
    fi
    echo "fuzz: $1: BROKEN; all of it in $log" >&2
    grep -E -A 8 'panicked at|ERROR: libFuzzer' "$log" | head -n 30 >&2 || true
    sed -n 's/^artifact_prefix=.*Test unit written to /fuzz: the input: /p' "$log" >&2
    return 1
}

if [ "${1:-}" = minimise ]; then
    build
    # shellcheck disable=SC2086 # one word each
    FLEET_FUZZ_TARGET=$2 exec "$binary" $limits -merge=1 -use_counters=0 "fuzz/corpus/$2" "$work/$2"
fi

seconds=${1:-30}
build
failed=0
# shellcheck disable=SC2046 # one word each
set -- $(ls fuzz/corpus)
while [ $# -gt 0 ]; do
    fuzz "$1" "$seconds" &
    first=$!
    shift
    if [ $# -gt 0 ]; then
        fuzz "$1" "$seconds" || failed=1
        shift
    fi
    wait "$first" || failed=1
done
exit "$failed"
