# shellcheck shell=bash
# What launch/quickstart and launch/check share; sourced. Needs nothing but what every Debian has. Each action is one line on the
# screen; what a command prints goes to build/logs/.
set -uo pipefail
export LC_ALL=C.UTF-8

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
logs=$top/build/logs
child=   # process group of the command that is running
cd "$top" && mkdir -p "$logs" || exit 74

say() { printf '%s\n' "$*"; }
# stop CODE SENTENCE: on the script's own standard error, also from within a command whose output goes to a log.
exec {errors}>&2
stop() {
  printf '%s\n' "$2" >&"$errors"
  exit "$1"
}

# Ctrl-C or kill: ends the command that is running, by force after 10 seconds, and all it started, then this script.
interrupted() {
  trap '' INT TERM
  local signal
  [ -z "$child" ] || for signal in INT TERM KILL; do
    kill -$signal -- "-$child" 2>/dev/null
    for _ in {1..50}; do ! kill -0 "$child" 2>/dev/null || sleep 0.1; done
  done
  stop "$1" "
Interrupted. The same command goes on from here."
}
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

# run COMMAND…: in a process group of its own, so that an interrupt reaches all of it, and only once.
run() {
  local code=0
  set -m
  "$@" </dev/null {errors}>&- &
  child=$!
  set +m
  wait "$child" || code=$?
  child=
  return $code
}

# logged NAME ACTION COMMAND…: one line with the time it took; output goes to build/logs/NAME.log. A failure ends the script with
# the lines that tell why and the log's name.
logged() {
  local log=$logs/$1.log action=$2 begin=$SECONDS code=0
  shift 2
  printf '%s ... ' "$action"
  run "$@" >"$log" 2>&1 || code=$?
  if [ "$code" -ne 0 ]; then
    say "failed"
    grep -E '(^E|error|Error|FAILED): ?' "$log" | head -5 >&2
    stop "$code" "$action failed (exit code $code); all it printed is in ${log#"$top"/}"
  fi
  say "$((SECONDS - begin)) s"
}

# packages_for WHO…: names from packages.txt; WHO is "program" or "tests".
packages_for() {
  local who
  for who; do awk -v who="$who" '$2 == who { print $1 }' "$top/launch/packages.txt"; done
}
# missing_packages NAME…: those that are not installed.
missing_packages() {
  local name
  for name; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || say "$name"
  done
}
# install_packages WHO…: root installs what is missing; anybody else is told the one command for an administrator.
install_packages() {
  local wanted missing
  [ -x /usr/bin/apt-get ] || stop 1 "This script installs packages with apt, which is not here: install what launch/packages.txt \
lists, then run cmake --preset cpu && cmake --build build/cpu"
  mapfile -t wanted < <(packages_for "$@")
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    stop 1 "Packages are missing. An administrator installs them with this command; then start again:

  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}
"
  fi
  logged apt-update "Fetching the list of packages" apt-get update
  logged apt-install "Installing ${#missing[@]} packages" \
    env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# find_nvcc: its path; it is often installed without being in PATH.
find_nvcc() { command -v nvcc || command -v /usr/local/cuda/bin/nvcc; }
# count_gpus: those that programs started here may use.
count_gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true
  else
    echo 0
  fi
}
# build_jobs: one a core, as far as there are 2 GB of memory for each.
build_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable:/ { print int($2 / 2000000) }' /proc/meminfo)
  echo $((memory < 1 ? 1 : memory < cores ? memory : cores))
}

# configure PRESET [-D…]
configure() {
  local preset=$1 folder=$top/build/$1 nvcc
  shift
  # A build folder that came from another place (the project was moved or copied) is of no use.
  if [ -f "$folder/CMakeCache.txt" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$top" "$folder/CMakeCache.txt"; then
    rm -rf "$folder"
  fi
  if nvcc=$(find_nvcc); then export CUDACXX=$nvcc; fi
  # AUTO: nvcc without cuDNN or NCCL gives the processor's half, and the line from CMake's table says so.
  [ "$preset" != cuda ] || set -- "$@" -DLOCKSTEP_CUDA=AUTO
  logged "configure-$preset" "Configuring build/$preset" cmake --preset "$preset" "$@"
  [ "$preset" != cuda ] || sed -n 's/^--   CUDA  */  CUDA: /p' "$logs/configure-$preset.log"
}
# build PRESET [TARGET]
build() { logged "build-$1" "Building build/$1" cmake --build "build/$1" -j "$(build_jobs)" ${2:+--target "$2"}; }

# Open MPI refuses root, and more ranks than cores, unless told that this is meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
