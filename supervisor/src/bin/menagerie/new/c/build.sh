#!/bin/sh
# Compiles the bundle. It may run at any time, also while the bundle is loaded.
set -eu
cd "$(dirname "$0")"
"${CC:-cc}" -std=c99 -Wall -Wextra -shared -fPIC -O2 bundle.c -o "lib{{ident}}.so.new"
mv -f "lib{{ident}}.so.new" "lib{{ident}}.so"
