#!/bin/sh
# Runs the quickstart in the foreground: three demo backends, and the gateway with deploy/examples/quickstart.
# The first argument is the sluice binary. Ctrl-C ends all of it.
set -eu

sluice=$1
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
config=$root/deploy/examples/quickstart
state=${SLUICE_STATE_DIR:-$HOME/.cache/sluice/quickstart}
admin=127.0.0.1:9181
metrics=127.0.0.1:9180

started=""

stop() {
    trap - EXIT INT TERM
    for pid in $started; do
        kill "$pid" 2>/dev/null || true
    done
    wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() {
    "$@" &
    started="$started $!"
}

start "$sluice" echo --listen web=127.0.0.1:9101 --listen files=127.0.0.1:9102
start "$sluice" echo --listen api=127.0.0.1:9103
start "$sluice" echo --listen pizza=127.0.0.1:9104 --listen sides=127.0.0.1:9105
mkdir -p "$state"
start "$sluice" run --config "$config" --state-dir "$state" --metrics-address "$metrics" --admin-address "$admin" \
    --access-log "$state/access.log"
gateway=$!

# All of it runs, or none: a port that is taken is said by whoever wanted it.
all_run() {
    for pid in $started; do
        kill -0 "$pid" 2>/dev/null || return 1
    done
}

sleep 0.2
until all_run && curl -fsS -o /dev/null "http://$metrics/readyz" 2>/dev/null; do
    all_run || exit 1
    sleep 0.1
done

cat <<TRY

Sluice serves the shop on 8080 (HTTP) and 8443 (HTTPS). Try, in another terminal:

  curl -s http://localhost:8080/web -H 'Host: example.com'                 # Ingress: web
  curl -s http://localhost:8080/order/pizza -H 'Host: example.com'         # Ingress: pizza
  curl -sk https://example.com:8443/api --resolve example.com:8443:127.0.0.1
  curl -s http://localhost:8080/order -H 'Host: shop.example.com'          # HTTPRoute: 9 to pizza, 1 to sides
  curl -s http://localhost:8080/order -H 'Host: shop.example.com' -H 'x-menu: sides'
  curl -si http://localhost:8080/staff -H 'Host: shop.example.com'         # 401: a plugin wants a key
  curl -si http://localhost:8080/staff -H 'Host: shop.example.com' -H 'x-api-key: open-sesame'

Status page: http://$admin/   metrics: http://$metrics/metrics   access log: $state/access.log
Edit a file in deploy/examples/quickstart, and the change serves at once. Ctrl-C ends it.

TRY
wait "$gateway"
