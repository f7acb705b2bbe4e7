#!/bin/sh
# Installs the toolchains of plugins in JavaScript, Python, C and Go that this machine lacks, for the tests of `sluice plugin`;
# does nothing where all of them are there. What their projects need besides comes from npm and PyPI, by the projects.
set -eu

have() {
    command -v "$1" >/dev/null 2>&1
}

packages=""
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || packages="$packages python3 python3-venv"
if [ -z "${WASI_SDK_PATH:-}" ] && ! { have clang-19 && have wasm-ld-19 && [ -f /usr/include/wasm32-wasi/stdlib.h ]; }; then
    packages="$packages clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32"
fi
{ have node && have npm; } || packages="$packages nodejs npm"
# 1.24 or newer, as Debian 13 has it.
have go || packages="$packages golang-go"
[ -n "$packages" ] || exit 0
if ! have apt-get; then
    echo "setup: please install:$packages" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif have sudo; then
    as_root="sudo"
else
    echo "setup: please install (as root): apt-get install$packages" >&2
    exit 1
fi
echo "setup: installing$packages"
$as_root apt-get update -qq
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $packages
