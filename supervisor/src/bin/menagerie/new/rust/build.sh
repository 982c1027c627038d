#!/bin/sh
# Compiles the bundle. It may run at any time, also while the bundle is loaded.
set -eu
cd "$(dirname "$0")"
cargo build --release --target-dir target
cp "target/release/lib{{ident}}.so" "lib{{ident}}.so.new"
mv -f "lib{{ident}}.so.new" "lib{{ident}}.so"
