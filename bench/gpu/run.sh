#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bench/gpu/run.sh [--prebuilt DIR] [--out DIR] [--work DIR] [--stages LIST] [--seconds N] [--quick]
# One command on a machine with a card, under 8 minutes: what the card is, the build, machine code, correctness and speed (gpu_check),
# compute-sanitizer, whole runs of streamed models, one table last. README.md beside this says more.
#   --prebuilt DIR  programs built elsewhere (cmake --preset portable): gpu_check, flexgen, flexgen-bench
#   --out DIR       results [build/gpu/results]
#   --work DIR      model files, removed at the end [a folder of its own in TMPDIR]
#   --stages LIST   of card,build,sass,check,sanitize,end-to-end, with commas [all]: what one call has no time for, the next can do
#   --seconds N     for all stages together [470]
#   --quick         gpu_check --quick: about two minutes
# Changes no setting of the card, leaves no process and no model file behind. Ends with 0; 1: something failed; 77: there is no card.
set -uo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
prebuilt="" out=$root/build/gpu/results work="" stages=card,build,sass,check,sanitize,end-to-end total=470 quick=()
usage() { sed -n '3,16s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case $1 in
    --prebuilt | --out | --work | --stages | --seconds)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      case $1 in
        --prebuilt) prebuilt=$2 ;;
        --out) out=$2 ;;
        --work) work=$2 ;;
        --stages) stages=$2 ;;
        --seconds) total=$2 ;;
      esac
      shift 2 ;;
    --quick) quick=(--quick); shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown: $1" >&2; usage >&2; exit 2 ;;
  esac
done
case $total in '' | *[!0-9]*) echo "--seconds: found '$total', allowed a number" >&2; exit 2 ;; esac
for stage in ${stages//,/ }; do
  case $stage in
    card | build | sass | check | sanitize | end-to-end) ;;
    *) echo "--stages: found '$stage', allowed card, build, sass, check, sanitize, end-to-end" >&2; exit 2 ;;
  esac
done

mkdir -p "$out" || exit 4
out=$(cd "$out" && pwd)
own_work=""
[ -n "$work" ] || work=$(mktemp -d "${TMPDIR:-/tmp}/flexgen-gpu.XXXXXX") own_work=1
mkdir -p "$work" || exit 4
child=""
cleanup() {
  [ -z "$child" ] || kill "$child" 2>/dev/null
  rm -f "$work"/opt-*.flex
  [ -z "$own_work" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

failures=() notes=()
left() { echo $((total - SECONDS)); }
wants() { case ,$stages, in *,$1,*) return 0 ;; *) return 1 ;; esac; }
title() { printf '\n== %s (%d s, %d s left)\n' "$1" "$SECONDS" "$(left)"; }
note() { notes+=("$1"); printf '%s\n' "$1"; }
failed() { failures+=("$1"); printf 'FAILED: %s\n' "$1"; }
# limited SECONDS COMMAND...: ended when its time is up, and with this script; 124 or 137 then
limited() {
  timeout -k 5 "$@" &
  child=$!
  wait "$child"
  local rc=$?
  child=""
  return $rc
}

# --- the card, as it is found
card_line() {
  local what=name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw
  timeout 20 nvidia-smi --query-gpu=$what,pcie.link.gen.current,pcie.link.width.current --format=csv,noheader 2>&1 | head -n 8
}
if wants card; then
  title "card"
  {
    if command -v nvidia-smi >/dev/null; then
      echo "name, driver, memory, used, SM clock, memory clock, most SM clock, temperature, power, PCIe generation, lanes"
      card_line
    else
      echo "no nvidia-smi"
    fi
    command -v nvcc >/dev/null && nvcc --version | tail -n 2
    uname -srm
    grep -m 1 'model name' /proc/cpuinfo
    nproc
    free -g 2>/dev/null | sed -n 2p
    df -h "$work" | tail -n 1
  } 2>&1 | tee "$out/card.txt"
fi

# --- programs: for the card that is here
bin=$prebuilt
if [ -z "$bin" ]; then
  bin=$root/build/gpu/bin
  if wants build; then
    title "build"
    start=$SECONDS
    generator=()
    if command -v ninja >/dev/null && [ ! -e "$root/build/gpu/CMakeCache.txt" ]; then generator=(-G Ninja); fi
    options=(-DCMAKE_BUILD_TYPE=Release -DFLEXGEN_CUDA=ON -DFLEXGEN_TESTS=ON -DFLEXGEN_BENCH=ON)
    targets=(--target gpu_check flexgen flexgen-bench)
    if ! limited 60 cmake -S "$root" -B "$root/build/gpu" "${generator[@]}" "${options[@]}" >"$out/build.log" 2>&1 ||
      ! limited $(($(left) < 240 ? $(left) : 240)) cmake --build "$root/build/gpu" --parallel "$(nproc)" "${targets[@]}" >>"$out/build.log" 2>&1; then
      tail -n 20 "$out/build.log"
      failed "build, see build.log. Install what is missing (tools/setup.sh build test), or bring programs: --prebuilt"
    fi
    echo "built in $((SECONDS - start)) s"
  fi
fi
gpu_check=$bin/gpu_check
[ ${#failures[@]} -gt 0 ] || [ -x "$gpu_check" ] || failed "$gpu_check is not there"

# Without a card nothing is measured, and no results are written
no_card=""
if [ -x "$bin/flexgen" ]; then
  why=$(timeout 60 "$bin/flexgen" devices 2>&1 | sed -n 's/^no card: //p')
  [ -z "$why" ] || { no_card=1; failed "no card: $why"; }
fi

# cuBLASLt where it lies beside the toolkit or in Python's packages
if ! ldconfig -p 2>/dev/null | grep -q 'libcublasLt\.so\.1[23]'; then
  for lib in /usr/local/cuda*/lib{64,}/libcublasLt.so.1[23] /usr/local/cuda*/targets/*/lib/libcublasLt.so.1[23] \
    /opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.1[23] /usr/lib/python3*/*-packages/nvidia/*/lib/libcublasLt.so.1[23]; do
    [ -e "$lib" ] || continue
    LD_LIBRARY_PATH=$(dirname "$lib")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
    break
  done
fi

# --- machine code of this card: tensor cores where they are meant, and no local memory
if wants sass && [ -x "$gpu_check" ] && [ -z "$no_card" ]; then
  title "machine code"
  if ! command -v cuobjdump >/dev/null; then
    note "machine code: skipped, no cuobjdump"
  else
    arch=$(timeout 20 nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
    case $arch in 90) arch=sm_90a ;; [0-9]*) arch=sm_$arch ;; *) arch=sm_90a ;; esac
    limited 60 cuobjdump --dump-sass -arch "$arch" "$gpu_check" 2>/dev/null | awk '
      /Function :/ { name = $NF; names[++n] = name }
      / HGMMA/ { hgmma[name]++ } / HMMA/ { hmma[name]++ }
      / (LDL|STL)/ { local_memory[name]++ }
      END {
        for (i = 1; i <= n; ++i) { f = names[i]; printf "%s HMMA %d HGMMA %d local %d\n", f, hmma[f], hgmma[f], local_memory[f] }
      }' | { command -v c++filt >/dev/null && c++filt || cat; } >"$out/sass.txt"
    count() { grep -vc "$1" "$out/sass.txt"; } # kernels whose line has not
    tensor_cores="$(count 'HGMMA 0 ') with HGMMA, $(count ' HMMA 0 ') with HMMA"
    note "machine code ($arch): $(wc -l <"$out/sass.txt") kernels, $tensor_cores, $(count 'local 0$') use local memory"
    grep -v 'local 0$' "$out/sass.txt" | cut -c 1-200
    if [ "$arch" = sm_90a ] && grep wgmma "$out/sass.txt" | grep -q 'HGMMA 0 '; then failed "a wgmma kernel without HGMMA"; fi
  fi
fi

# --- right, and how fast
if wants check && [ -x "$gpu_check" ] && [ -z "$no_card" ]; then
  title "gpu_check"
  rm -f "$out/gpu_check.json"
  reserve=0
  wants sanitize && reserve=$((reserve + 60))
  wants end-to-end && "$bin/flexgen-bench" end-to-end --help 2>/dev/null | grep -q -- --device && reserve=$((reserve + 120))
  limit=$(($(left) - reserve - 10))
  [ $limit -le 330 ] || limit=330
  known=()
  [ ! -e "$root/bench/gpu/last_known.json" ] || known=(--last-known "$root/bench/gpu/last_known.json")
  limited $((limit + 30)) "$gpu_check" "${quick[@]}" "${known[@]}" --seconds $limit --json "$out/gpu_check.json" >"$out/gpu_check.log" 2>&1
  rc=$?
  case $rc in
    0) ;;
    77) no_card=1; failed "$(tail -n 1 "$out/gpu_check.log")" ;;
    *) failed "gpu_check: exit code $rc: $(grep -aE '^[0-9]+ passed|^error' "$out/gpu_check.log" | tail -n 1)" ;;
  esac
  grep -a '^FAILED' "$out/gpu_check.log" | head -n 20
  [ -z "$(command -v nvidia-smi)" ] || card_line | tee -a "$out/card.txt"
fi

# --- the tools that see what results do not show
sanitize() { # tool
  local rc limit=$(($(left) / 3))
  [ $limit -le 60 ] || limit=60
  [ $limit -ge 15 ] || { note "$1: skipped, $(left) s left"; return; }
  limited $((limit + 15)) compute-sanitizer --tool "$1" --error-exitcode 86 --print-limit 20 "$gpu_check" --one-process --smoke --seconds $limit \
    --filter "check: " "case: gemm: splits" "case: gemv" "case: row blocks" "case: f32 arithmetic" "case: CUDA layer_norm" "case: CUDA embed" \
    "case: CUDA kv_append" "case: CUDA argmax" "case: CUDA decode attention takes" "case: CUDA prefill attention takes" \
    "case: CUDA prefill attention cut" >"$out/sanitizer.$1.log" 2>&1
  rc=$?
  local summary
  summary=$(grep -a 'SUMMARY' "$out/sanitizer.$1.log" | tail -n 1 | sed 's/^=* *//')
  local refused
  refused=$(grep -aiEm 1 'device not supported|unable to find|not supported on this|error 999' "$out/sanitizer.$1.log")
  if [ -n "$refused" ]; then
    note "$1: skipped, compute-sanitizer does not take this machine: $refused"
  elif [ $rc -eq 0 ]; then
    note "$1: ${summary:-no summary}"
  elif [ $rc -eq 124 ] || [ $rc -eq 137 ]; then
    note "$1: ended after $((limit + 15)) s without a summary"
  else
    failed "$1: exit code $rc, ${summary:-no summary}"
  fi
}
if wants sanitize && [ -x "$gpu_check" ] && [ -z "$no_card" ]; then
  title "compute-sanitizer"
  if ! command -v compute-sanitizer >/dev/null; then
    note "compute-sanitizer: skipped, it is not here"
  else
    sanitize memcheck
    sanitize racecheck
    tail -n 400 "$out"/sanitizer.*.log >"$out/sanitizer.log" 2>/dev/null
    rm -f "$out"/sanitizer.memcheck.log "$out"/sanitizer.racecheck.log
  fi
fi

# --- whole runs with 16 GB of the card: weights from host memory and from disk. Fewer layers than the models have keep files and times
# small; a layer's rates are the same.
number() { grep -ao "\"$2\": \?[0-9.e+-]*" "$1" | head -n 1 | sed 's/.*: \?//'; }
runs=()
end_to_end() { # name, model file, options...
  local name=$1 model=$2 rc
  shift 2
  [ "$(left)" -ge 25 ] || { note "end-to-end $name: skipped, $(left) s left"; return; }
  limited $(($(left) < 90 ? $(left) : 90)) "$bin/flexgen-bench" end-to-end --model "$model" --device cuda:0 --gpu-memory 16GB --prompts 32 \
    --prompt-len 512 --gen-len 32 --sweeps 8 --gpu-batch-size 16 --num-gpu-batches 2 --micro-batch-tokens 4096 --roof-seconds 1 \
    --offload-dir "$work" --json "$@" \
    >"$work/$name.json" 2>"$work/$name.err"
  rc=$?
  cat "$work/$name.err" >>"$out/end_to_end.log"
  if [ $rc -ne 0 ]; then
    failed "end-to-end $name: exit code $rc: $(tail -n 1 "$work/$name.err")"
    return
  fi
  runs+=("\"$name\": $(tail -n 1 "$work/$name.json")")
  local file=$work/$name.json rates
  rates="prefill $(number "$file" prefill_tokens_per_s) tokens/s ($(number "$file" prefill_share_of_roof) of its roof)"
  rates+=", decode $(number "$file" decode_tokens_per_s) tokens/s ($(number "$file" share_of_roof)), link $(number "$file" link_bytes_per_s) B/s"
  note "end-to-end $name: $rates"
}
synth() { # shape, layers
  [ "$(left)" -ge 40 ] || { note "end-to-end $1: skipped, $(left) s left"; return 1; }
  limited $(($(left) - 20)) "$bin/flexgen" synth --like "$1" --layers "$2" -o "$work/$1.flex" --overwrite >>"$out/end_to_end.log" 2>&1 && return 0
  failed "flexgen synth --like $1: $(tail -n 1 "$out/end_to_end.log")"
  return 1
}
if wants end-to-end && [ -z "$no_card" ]; then
  title "end-to-end"
  : >"$out/end_to_end.log"
  if [ ! -x "$bin/flexgen" ] || [ ! -x "$bin/flexgen-bench" ]; then
    note "end-to-end: skipped, flexgen and flexgen-bench are not in $bin"
  elif ! "$bin/flexgen-bench" end-to-end --help 2>/dev/null | grep -q -- --device; then
    note "end-to-end: skipped, flexgen-bench end-to-end does not know --device"
  else
    if synth opt-6.7b "${LAYERS_6_7B:-16}"; then
      end_to_end opt-6.7b-host "$work/opt-6.7b.flex" --percent 0 100 100 0 100 0
      end_to_end opt-6.7b-disk "$work/opt-6.7b.flex" --percent 0 0 100 0 100 0
    fi
    rm -f "$work"/opt-*.flex
    if synth opt-30b "${LAYERS_30B:-12}"; then end_to_end opt-30b-host "$work/opt-30b.flex" --percent 0 100 100 0 100 0; fi
    rm -f "$work"/opt-*.flex
  fi
fi

# --- one file, one table
if [ -z "$no_card" ]; then
  {
    printf '{"end_to_end": {'
    for ((i = 0; i < ${#runs[@]}; ++i)); do [ $i -eq 0 ] || printf ', '; printf '%s' "${runs[$i]}"; done
    printf '},\n"gpu_check": '
    if [ -s "$out/gpu_check.json" ]; then cat "$out/gpu_check.json"; else printf 'null'; fi
    printf '}\n'
  } >"$out/run.json.partial" && mv "$out/run.json.partial" "$out/run.json"
fi

title "results"
[ ! -s "$out/gpu_check.log" ] || sed -n '/^Ceilings$/,$p' "$out/gpu_check.log"
printf '\n'
for n in "${notes[@]}"; do printf '%s\n' "$n"; done
for f in "${failures[@]}"; do printf 'FAILED: %s\n' "$f"; done
printf 'results in %s after %d s\n' "$out" "$SECONDS"
[ -z "$no_card" ] || exit 77
[ ${#failures[@]} -eq 0 ]
