#!/bin/sh
# Says where there is a Redis for the tests of stores that replicas share, and installs it where it is missing.
set -eu

if ! command -v redis-server >/dev/null 2>&1; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: please install redis-server" >&2
        exit 1
    fi
    if [ "$(id -u)" = 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null 2>&1; then
        as_root="sudo"
    else
        echo "setup: please install (as root): apt-get install redis-server" >&2
        exit 1
    fi
    echo "setup: installing redis-server" >&2
    $as_root apt-get update -qq >&2
    # The program, without a service that would run beside the tests (Debian Policy 9.3.3.1: 101 forbids to start it).
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '$as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
    fi
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends redis-server >&2
fi
command -v redis-server
