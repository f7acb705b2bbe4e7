#!/bin/sh
# Builds the plugins that ship with the gateway, and puts them where the examples look for them: deploy/plugins.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
built=$("$root/plugins/build.sh")

# A running gateway may watch the folder: a file that is the same is left alone, another one is replaced as a whole.
place() {
    from=$built/$1
    to=$root/deploy/plugins/$2
    cmp -s "$from" "$to" && return
    mkdir -p "$(dirname "$to")"
    cp "$from" "$to.new"
    mv "$to.new" "$to"
}

# A policy is a folder with the schema of its configuration.
for schema in "$root"/plugins/*/schema.json; do
    policy=$(basename "$(dirname "$schema")")
    place "$(printf %s "$policy" | tr - _).wasm" "$policy.wasm"
done
