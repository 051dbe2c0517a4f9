#!/usr/bin/env bash
# Runs a binary as the image does: alone in a read-only root, as a user without rights. Needs root.
#
#   deploy/test-image.sh target/dist/qdrant-router
#   deploy/test-image.sh --with-libraries target/debug/qdrant-router
#
# The image's binary has to be static; the Dockerfile says how it is built. Any other can be tried with the
# libraries that it is linked to beside it, and nothing else of the system.
set -euo pipefail

usage="usage: deploy/test-image.sh [--with-libraries] BINARY"
libraries=
if [ "${1:-}" = --with-libraries ]; then
    libraries=yes
    shift
fi
binary="${1:?$usage}"
fail() { printf 'test-image: %s\n' "$*" >&2; exit 1; }

[ -x "$binary" ] || fail "$binary is not an executable file"
[ "$(id -u)" = 0 ] || fail "has to run as root, to change the root directory and the user"
headers="$(LC_ALL=C readelf --wide --program-headers "$binary")"
if [ -z "$libraries" ] && [[ "$headers" =~ "program interpreter: "([^]]*) ]]; then
    fail "$binary is dynamic and needs ${BASH_REMATCH[1]}; build it with" \
        "RUSTFLAGS='-C target-feature=+crt-static' deploy/build.sh, or give --with-libraries"
fi

# What the image holds, the resolv.conf that the kubelet adds, and of the devices that every runtime adds those that a
# static binary draws its random numbers from.
root="$(mktemp -d)"
log="$root.log"
router=
finish() {
    if [ -n "$router" ]; then kill -KILL "$router" 2>/dev/null || true; fi
    rm -rf "$root" "$log"
}
trap finish EXIT
install -D "$binary" "$root/qdrant-router"
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
if [ -n "$libraries" ]; then
    { ldd "$binary" || true; } | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "$root$library"; done
fi
echo "nameserver 127.0.0.1" > "$root/etc/resolv.conf"
install -D /dev/null "$root/dev/random"
install -D /dev/null "$root/dev/urandom"
chmod 755 "$root"

# Nobody listens at the node's address; the test is about the binary. A container has variables of its own only.
ip=127.9.63.3
unshare --mount -- bash -euc '
    mount --bind "$0" "$0"
    mount -o remount,bind,ro "$0"
    for device in random urandom; do mount --bind "/dev/$device" "$0/dev/$device"; done
    exec env --ignore-environment "$(command -v chroot)" --userspec=65532:65532 "$0" /qdrant-router serve --node 127.9.63.4 --upstream-tls \
        --listen-rest "$1:6333" --listen-grpc "$1:6334" --listen-admin "$1:9633"
' "$root" "$ip" 2> "$log" &
router=$!

get() { curl --silent --show-error --max-time 10 "$@"; }
for _ in $(seq 300); do
    get --output /dev/null "http://$ip:9633/livez" 2>/dev/null && break
    kill -0 "$router" 2>/dev/null || fail "it ended: $(cat "$log")"
    sleep 0.1
done

[ "$(get "http://$ip:9633/livez")" = alive ] || fail "/livez does not say alive: $(cat "$log")"
[ "$(get --output /dev/null --write-out '%{http_code}' "http://$ip:9633/readyz")" = 503 ] ||
    fail "/readyz says ready without a node"
metrics="$(get "http://$ip:9633/metrics")"
grep -q '^qdrant_router_nodes' <<< "$metrics" || fail "/metrics has no qdrant_router_nodes"
[ "$(get --output /dev/null --write-out '%{http_code}' "http://$ip:6333/collections")" -ge 500 ] ||
    fail "a request is answered without a node"
[ "$(ps -o uid= -p "$router" | tr -d ' ')" = 65532 ] || fail "it does not run as the user 65532"

kill -TERM "$router"
wait "$router" || fail "it ended with $? after SIGTERM: $(cat "$log")"
router=
printf 'test-image: %s runs %s in a read-only root as the user 65532\n' \
    "$binary" "${libraries:+with its libraries and else }alone"
