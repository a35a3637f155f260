#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/portable.sh [SUITE] [FOLDER]: builds the portable preset, shows that it asks for glibc's libraries alone, and runs it inside
# another Debian release (default: trixie), which debootstrap puts into FOLDER (default: a temporary one). Needs root, debootstrap and
# the network, so it is not among the tests.
set -euo pipefail
suite=${1:-trixie}
folder=${2:-}
cd "$(dirname "$0")/.."

generator=()
if command -v ninja >/dev/null && [ ! -e build/portable/CMakeCache.txt ]; then generator=(-G Ninja); fi
cmake --preset portable "${generator[@]}"
cmake --build --preset portable --parallel "$(nproc)"
program=build/portable/bin/flexgen

echo "shared libraries:"
ldd "$program"
if ldd "$program" | grep -vE '^\s*(linux-vdso|libc\.|libm\.|/lib64/ld-linux)'; then
  echo "these are not glibc's" >&2
  exit 1
fi
needed=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
echo "needs $needed or newer"

if [ -z "$folder" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
[ -x "$folder/bin/sh" ] ||
  debootstrap --variant=minbase "$suite" "$folder" http://deb.debian.org/debian >"$folder.log" 2>&1 || { tail "$folder.log"; exit 1; }
echo "inside: $(. "$folder/etc/os-release" && echo "$PRETTY_NAME"), built on: $(. /etc/os-release && echo "$PRETTY_NAME")"
mkdir -p "$folder/flexgen"
cp -r "$program" tests/data/tiny-opt "$folder/flexgen/"
chroot "$folder" /flexgen/flexgen --version
chroot "$folder" /flexgen/flexgen convert /flexgen/tiny-opt -o /flexgen/tiny.flex --overwrite
inside=$(chroot "$folder" /flexgen/flexgen generate --model /flexgen/tiny.flex --prompt "HAMLET:" --max-new-tokens 20 --json)
outside=$("$program" generate --model "$folder/flexgen/tiny.flex" --prompt "HAMLET:" --max-new-tokens 20 --json)
echo "$inside"
if [ "$inside" != "$outside" ]; then
  echo "the program says something else outside: $outside" >&2
  exit 1
fi
echo "the same outside"
