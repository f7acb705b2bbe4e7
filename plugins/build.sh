#!/bin/sh
# Builds guests to core modules that carry their WIT: what a Plugin's source names. The gateway makes components of them.
#
#   plugins/build.sh [WORKSPACE]     default: the plugins that ship with the gateway (this folder)
#
# Prints the folder with the .wasm files. SLUICE_GUEST_TARGET moves cargo's target folder, by default
# ~/.cache/sluice/guests, so that a fresh clone finds what was built before.
#
# rustup's wasm32-unknown-unknown is the ordinary way. Where that can't be had, Debian's rustc-web with its sources
# builds std too (about 30 seconds, once); they are installed if they are missing, by sudo where this is not root.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
workspace=$(CDPATH= cd -- "${1:-$here}" && pwd)
target=wasm32-unknown-unknown
CARGO_TARGET_DIR=${SLUICE_GUEST_TARGET:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice/guests}
export CARGO_TARGET_DIR
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET || true

# Whether the toolchain that builds here has std for the target.
has_target() {
    libdir=$(cd "$workspace" && rustc --print target-libdir --target "$target" 2>/dev/null) && [ -d "$libdir" ]
}

with_rustup() {
    command -v rustc >/dev/null 2>&1 || return 1
    has_target && return 0
    command -v rustup >/dev/null 2>&1 || return 1
    (cd "$workspace" && rustup target add "$target") >&2 || return 1
    has_target
}

with_debian() {
    if ! [ -x /usr/bin/rustc ] || ! [ -x /usr/bin/cargo ] || ! [ -x /usr/bin/wasm-ld-19 ] || ! [ -d /usr/lib/rustlib/src/rust/library ]; then
        command -v apt-get >/dev/null 2>&1 || return 1
        if [ "$(id -u)" = 0 ]; then
            as_root=""
        elif command -v sudo >/dev/null 2>&1; then
            as_root=sudo
        else
            return 1
        fi
        { $as_root apt-get update && $as_root apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src lld-19; } >&2 || return 1
    fi
}

if [ "${SLUICE_GUEST_TOOLCHAIN:-}" != debian ] && with_rustup; then
    (cd "$workspace" && cargo build --locked --release --target "$target") >&2
elif with_debian; then
    (cd "$workspace" && env PATH="/usr/bin:$PATH" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld-19 \
        /usr/bin/cargo build --locked --release -Zbuild-std=std,panic_abort --target "$target") >&2
else
    echo "no toolchain builds for $target: run \`rustup target add $target\`, or install Debian's rustc-web, cargo-web, rust-web-src and lld-19" >&2
    exit 1
fi

echo "$CARGO_TARGET_DIR/$target/release"
