#!/usr/bin/env bash
# Checks the documentation; CI runs this. Builds the book into target/book where mdbook is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python3 check.py
if command -v mdbook > /dev/null; then
    mdbook build .
else
    echo "the book was not built: there is no mdbook (cargo install mdbook)"
fi
