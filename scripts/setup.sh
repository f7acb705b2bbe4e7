#!/bin/sh
# Installs what building and running Sluice needs and this machine lacks; does nothing where all of it is there.
# Rust itself is not installed: whoever builds from source chooses how to have it (https://rustup.rs).
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

have() {
    command -v "$1" >/dev/null 2>&1
}

fail() {
    echo "setup: $1" >&2
    exit 1
}

install_packages() {
    have apt-get || fail "please install: $*"
    if [ "$(id -u)" = 0 ]; then
        as_root=""
    elif have sudo; then
        as_root="sudo"
    else
        fail "please install (as root): apt-get install $*"
    fi
    echo "setup: installing $*"
    $as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "$@"
}

packages=""
have cc || packages="$packages gcc libc6-dev"
have curl || packages="$packages curl ca-certificates"
# shellcheck disable=SC2086 # a list of names
[ -z "$packages" ] || install_packages $packages

have cargo || fail "there is no cargo; install Rust from https://rustup.rs"
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
present=$(rustc --version | cut -d' ' -f2)
oldest=$(printf '%s\n%s\n' "$wanted" "$present" | sort -V | head -n1)
[ "$oldest" = "$wanted" ] || fail "Rust $present is here, $wanted is needed; run: rustup update stable"

for component in "$@"; do
    # Asked to run: rustup has a proxy in the path for components that are not there.
    if ! cargo "$component" --version >/dev/null 2>&1; then
        have rustup || fail "there is no cargo $component; install it with Rust's package"
        case $component in
            fmt) rustup component add rustfmt ;;
            *) rustup component add "$component" ;;
        esac
    fi
done
