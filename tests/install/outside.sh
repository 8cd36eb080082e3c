#!/usr/bin/env bash
# outside.sh BUILD SOURCE: installs what BUILD holds into an empty folder (with a space in its name), copies examples/custom out of
# the project, builds it there against the installed package with plain compiler flags, and runs it.
set -euo pipefail
build=$1 source=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
prefix="$folder/installed here"

cmake --install "$build" --prefix "$prefix" >"$folder/install.log" || { cat "$folder/install.log" && exit 1; }
[ -z "$(find "$prefix/include" -name '*.h' -exec grep -l '^// Private to ' {} +)" ] || { echo "Private headers were installed." && exit 1; }

cp -r "$source/examples/custom" "$folder/custom"
cmake -G Ninja -S "$folder/custom" -B "$folder/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="${3:-}"
cmake --build "$folder/build"
"$source/tests/examples/custom.sh" "$folder/build/custom"
# The installed program finds its libraries by itself, wherever it was installed.
mv "$prefix" "$folder/moved"
"$folder/moved/bin/lockstep" --version
