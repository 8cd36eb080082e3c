#!/usr/bin/env bash
# Coverage-guided fuzzing with libFuzzer: builds each target with clang and runs it. Exit code 77: no clang that can.
#
#   tests/fuzz/run.sh BUILD_FOLDER SECONDS [TARGET…]
#
# BUILD_FOLDER: of any preset without sanitizers.
# Findings lie in BUILD_FOLDER/fuzz/<target>/findings: run the program with one as its argument.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
build=$(cd "$1" && pwd)
seconds=$2
shift 2

# Clang 16 or newer: older ones do not know <source_location> of GCC's library.
clang=""
for name in clang++ clang++-{21..16}; do
  command -v "$name" >/dev/null || continue
  printf '#include <source_location>\nextern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return std::source_location::current().line() == 0; }' |
    "$name" -std=c++20 -x c++ - -fsanitize=fuzzer,address -o /dev/null 2>/dev/null || continue
  clang=$name
  break
done
[ -n "$clang" ] || { echo "no clang++ 16 or newer with -fsanitize=fuzzer (packages clang-16 and libclang-rt-16-dev): nothing is fuzzed" && exit 77; }

work=$build/fuzz
mkdir -p "$work/objects"
# Include folders and definitions of the libraries, from the build.
flags_of() {
  python3 - "$build/compile_commands.json" "$1" <<'PY'
import json, shlex, sys
for entry in json.load(open(sys.argv[1])):
    if entry["file"].endswith("/" + sys.argv[2]):
        words = shlex.split(entry["command"])
        kept = []
        for i, word in enumerate(words):
            if word.startswith(("-I", "-D")):
                kept.append(word)
            elif word == "-isystem":
                kept += [word, words[i + 1]]
        print("\n".join(kept))
        break
PY
}
mapfile -t flags < <({ flags_of io/convert_idx.cpp; flags_of launch/config.cpp; } | awk '!seen[$0]++ || $0 == "-isystem"')
common=("$clang" -std=c++20 -O1 -g -w -fno-omit-frame-pointer -I"$project" "${flags[@]}")
sanitize=-fsanitize=address,undefined

compile() { # SOURCE OBJECT
  [ "$2" -nt "$1" ] && [ -z "$(find "$project/io" "$project/kernels/base" "$project/launch" -name '*.h' -newer "$2" -print -quit)" ] && return
  "${common[@]}" $sanitize,fuzzer-no-link -c "$1" -o "$2"
}
# The parsers are instrumented; all else comes from the build's libraries.
parsers=(io/convert_csv io/convert_idx io/convert_npy io/plain_file io/safetensors io/tokenizer launch/config)
objects=()
for parser in "${parsers[@]}"; do
  source=$project/$parser.cpp
  [ -e "$source" ] || continue
  object=$work/objects/${parser//\//_}.o
  objects+=("$object")
  compile "$source" "$object" &
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
done
wait
for object in "${objects[@]}"; do [ -e "$object" ] || { echo "a source did not compile" && exit 1; }; done

python3 "$here/seeds.py" "$work/seeds"
libraries=(-L"$build" -llockstep_launch -llockstep_io -llockstep_core -llockstep_kernels -Wl,-rpath,"$build")
mapfile -t others < <(pkg-config --libs libpcre2-8 libxxhash fmt tomlplusplus | tr ' ' '\n' | grep .)
extra=()
for name in deflate zip; do echo 'int main() {}' | "$clang" -x c++ - -l"$name" -o /dev/null 2>/dev/null && extra+=("-l$name"); done
code=0
targets=("$@")
[ $# -gt 0 ] || for source in "$here"/*.cpp; do targets+=("$(basename "$source" .cpp)"); done
for target in "${targets[@]}"; do
  folder=$work/$target
  mkdir -p "$folder/corpus" "$folder/findings" "$work/seeds/$target"
  "${common[@]}" $sanitize,fuzzer "$here/$target.cpp" "${objects[@]}" "${libraries[@]}" "${others[@]}" "${extra[@]}" -lz \
    -o "$folder/$target"
  echo "fuzzing $target for $seconds s"
  log=$folder/log
  if ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=0 UBSAN_OPTIONS=halt_on_error=1 "$folder/$target" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -malloc_limit_mb=2048 -artifact_prefix="$folder/findings/" \
    "$folder/corpus" "$work/seeds/$target" >"$log" 2>&1; then
    tail -1 "$log"
  else
    code=1
    echo "FOUND by $target (see $log):"
    grep -E "ERROR|SUMMARY|runtime error|exit code|terminate|what\(\)|Test unit written" "$log" | head -5 || tail -5 "$log"
  fi
done
exit $code
