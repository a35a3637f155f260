#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/fuzz/run.sh SECONDS [JOBS] [NAME...]: runs each fuzz target (or the named ones) for that long, JOBS at a time (default:
# one a core), starting from the committed corpus. New inputs stay in a temporary folder. Ends with 1, and prints the input,
# when a target finds anything; that input belongs into tests/data/corpus/<name>/.
set -u
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [JOBS] [NAME...]}
jobs=${2:-$(nproc)}
shift $(($# < 2 ? $# : 2))
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${FLEXGEN_FUZZ_BUILD:-$root/build/fuzz}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ $# -eq 0 ]; then
  for source in "$root"/tests/fuzz/fuzz_*.cc; do
    name=$(basename "$source" .cc)
    set -- "$@" "${name#fuzz_}"
  done
fi

fuzz_one() {
  local name=$1 dir=$scratch/$1 corpus=$root/tests/data/corpus/$1
  mkdir -p "$dir/new"
  "$build/bin/fuzz_$name" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=5 -print_final_stats=1 \
    -artifact_prefix="$dir/" "$dir/new" "$corpus" >"$dir/log" 2>&1
  local rc=$?
  local runs
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/log")
  if [ $rc -eq 0 ]; then
    echo "fuzz $name: ${runs:-?} runs, nothing found"
  else
    echo "fuzz $name: FAILED (status $rc)"
    tail -n 40 "$dir/log"
    for found in "$dir"/crash-* "$dir"/oom-* "$dir"/timeout-* "$dir"/leak-*; do
      [ -f "$found" ] || continue
      echo "the input in base64 ($(basename "$found"), $(stat -c %s "$found") bytes):"
      base64 "$found" | head -n 200
    done
    touch "$scratch/failed"
  fi
}

running=0
for name in "$@"; do
  if [ ! -x "$build/bin/fuzz_$name" ]; then
    echo "fuzz $name: $build/bin/fuzz_$name is not built. Run: make fuzz"
    touch "$scratch/failed"
    continue
  fi
  fuzz_one "$name" &
  running=$((running + 1))
  if [ $running -ge "$jobs" ]; then
    wait -n
    running=$((running - 1))
  fi
done
wait
[ ! -e "$scratch/failed" ]
