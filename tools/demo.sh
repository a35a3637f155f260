#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tools/demo.sh FLEXGEN FOLDER: converts the bundled model into FOLDER and continues three prompts, tokens streaming,
# with half of the weights on disk.
set -eu
flexgen=$1
folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$folder"
"$flexgen" convert "$root/tests/data/tiny-opt" -o "$folder/tiny-opt.flex" --overwrite
"$flexgen" generate --model "$folder/tiny-opt.flex" --max-new-tokens 64 --do-sample --temperature 0.8 --seed 7 --stats \
  --percent 0 50 100 0 100 0 \
  --prompt "HAMLET:" \
  --prompt "In the beginning" \
  --prompt "O Romeo, Romeo! wherefore"
