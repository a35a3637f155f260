#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tools/setup.sh [--check] [build] [test] [fuzz]: installs the Debian or Ubuntu packages that these jobs need and that are not
# there (default: build). Says what it installs and why; silent when nothing is missing. As root or with sudo. With --check it
# installs nothing and ends with 1 when something is missing. On other systems it names what is needed and leaves the rest to CMake.
set -eu

declare -A why=(
  [g++]="C++20 compiler"
  [cmake]="build system, 3.25 or newer"
  [make]="runs the build"
  [pkg-config]="finds libraries for CMake"
  [libfmt-dev]="text formatting"
  [nlohmann-json3-dev]="JSON: configurations, tokenizers, requests, results"
  [libcli11-dev]="command lines"
  [libpcre2-dev]="the tokenizer's split, with Unicode properties"
  [libxxhash-dev]="hashes of the model file"
  [liburing-dev]="reads and writes that go on while others compute"
  [libedit-dev]="line editing in flexgen chat"
  [catch2]="test framework"
  [clang]="compiler with libFuzzer"
  [libclang-rt-dev]="sanitizer and fuzzer runtime of clang"
)
# programs that may come from elsewhere: found on PATH is enough
declare -A program=([g++]=c++ [cmake]=cmake [make]=make [pkg-config]=pkg-config [clang]=clang++)

check=false
packages=()
[ $# -gt 0 ] || set -- build
[ "$*" != --check ] || set -- --check build
for job in "$@"; do
  case $job in
    --check) check=true ;;
    build) packages+=(g++ cmake make pkg-config libfmt-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libxxhash-dev liburing-dev libedit-dev) ;;
    test) packages+=(catch2) ;;
    fuzz) packages+=(clang libclang-rt-dev) ;;
    *)
      echo "usage: tools/setup.sh [--check] [build] [test] [fuzz]" >&2
      exit 2
      ;;
  esac
done

if ! command -v dpkg-query >/dev/null; then
  echo "This is not Debian or Ubuntu; what flexgen needs, by Debian's package names:"
  for p in "${packages[@]}"; do echo "  $p: ${why[$p]}"; done
  exit 0
fi

installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null | sed -n 's/^installed //p' || true)
missing=()
for p in "${packages[@]}"; do
  if grep -qxF "$p" <<<"$installed"; then continue; fi
  if [ -n "${program[$p]:-}" ] && command -v "${program[$p]}" >/dev/null; then continue; fi
  missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if $check; then
  echo "These packages are missing; tools/setup.sh installs them:"
else
  echo "Installing with apt-get:"
fi
for p in "${missing[@]}"; do echo "  $p: ${why[$p]}"; done
if $check; then exit 1; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Neither root nor sudo. Ask an administrator for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" </dev/null; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# an update fails as a whole when one of many sources is down; the install then tells whether it mattered
apt update >"$log" 2>&1 || true
if ! apt install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "apt-get could not install: ${missing[*]}" >&2
  exit 1
fi
