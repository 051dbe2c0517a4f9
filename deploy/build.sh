#!/usr/bin/env bash
# Builds qdrant-router as the image has it: target/dist/qdrant-router, guided by a profile.
#
# A first build counts what of it runs under the load of the comparison (benches/). The second puts together what runs
# often and puts the rest aside, which saves a tenth of the CPU of a request. Together they take twice the time of `cargo
# build --profile dist`, which makes the same program without that. RUSTFLAGS hold for both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host="$(rustc -vV | sed -n 's/^host: //p')"
profdata="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
[ -x "$profdata" ] || { echo "build: there is no $profdata; \`rustup component add llvm-tools\` brings it" >&2; exit 2; }

# Made anew each time: cargo does not notice that what a profile says has changed.
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
guided="$target/guided"
rm -rf "$guided"

# The target is the machine's own, and named so that the flags spare procedural macros and build scripts.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $1" CARGO_TARGET_DIR="$guided" \
        cargo build --profile dist --locked --bin qdrant-router --target "$host"
}
binary="$guided/$host/dist/qdrant-router"

# Two of the cores that may be used here, or the only one.
cores="$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)"

# Small requests in great numbers, and few large ones: what is counted seldom beside the rest is not thought to be hot. The
# figures are those of a program that counts.
load() {
    env -u RUSTFLAGS cargo run --release --locked -p qdrant-router-benches --bin compare -- \
        --router "$binary" --proxies qdrant-router --rounds 1 \
        --proxy-core "${cores%%[-,]*}" --load-core "${cores##*[-,]}" "$@" > /dev/null
}

build "-C profile-generate=$guided/counts"
load --only query --seconds 2
load --only MB --seconds 0.1
"$profdata" merge --sparse --output "$guided/profile" "$guided/counts"
build "-C profile-use=$guided/profile"
install -D "$binary" "$target/dist/qdrant-router"
