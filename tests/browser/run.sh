#!/usr/bin/env bash
# Drives the dashboard in a real Chromium, on the demo's cluster.
#
#   tests/browser/run.sh                 # asserts
#   tests/browser/run.sh --screenshots   # and writes docs/screenshots/
#
# Needs Node.js 20 and Chromium (`apt-get install chromium`, or CHROMIUM=/path/to/it). DEMO=/path/to/it saves building
# the demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

export CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}"
[ -n "$CHROMIUM" ] || { echo "no Chromium: apt-get install chromium, or set CHROMIUM" >&2; exit 2; }

if [ "${1:-}" = --screenshots ]; then
  SCREENSHOTS="$(realpath -m ../../docs)/screenshots"
  mkdir -p "$SCREENSHOTS"
  export SCREENSHOTS
fi

[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund
if [ -z "${DEMO:-}" ]; then
  cargo build --locked -p qdrant-router-examples --bin demo
  DEMO="$(realpath -m "${CARGO_TARGET_DIR:-../../target}")/debug/demo"
fi
export DEMO
exec node --test --test-reporter=spec dashboard.test.mjs
