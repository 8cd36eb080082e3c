#!/usr/bin/env bash
# The archive of launch/bundle in a bare root file system, with no package installed: all its tests pass there, on the processor.
#     tests/launch/bundle_long.sh FOLDER [ARCHIVE]     FOLDER keeps builds and the root; without ARCHIVE one is made, without CUDA
# Ends with 77 (skipped), saying why, where it cannot be tried.
set -uo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:?"usage: bundle_long.sh FOLDER [ARCHIVE]"} archive=${2:-}
skip() { echo "skipped: $1" && exit 77; }
[ "$(id -u)" -eq 0 ] || skip "only root can change the root folder"
unshare --mount true 2>/dev/null || skip "this container may not mount"

mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 1
if [ -z "$archive" ]; then
  "$project/launch/bundle" --cpu --build "$folder/build" || exit 1
  archive=$folder/build/lockstep-bundle.tar.xz
fi
command -v debootstrap >/dev/null || skip "debootstrap is not installed"
root=$folder/root
if [ ! -x "$root/bin/bash" ]; then
  rm -rf "$root"
  debootstrap --variant=minbase bookworm "$root" >"$folder/debootstrap.log" 2>&1 || skip "debootstrap failed: $folder/debootstrap.log"
fi
place="$root/opt/a place" # with a space
rm -rf "$place" && mkdir -p "$place" && tar -C "$place" -xf "$archive" || exit 1

# Its own mounts and processes, gone with it: what any container has.
# shellcheck disable=SC2016 # expanded inside
unshare --mount --pid --fork bash -c '
  set -e
  mount --make-rprivate /
  mount -t proc proc "$1/proc"
  mount --rbind /dev "$1/dev"
  mount --rbind /sys "$1/sys"
  mount -t tmpfs tmpfs "$1/tmp"
  exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash -c "cd \"/opt/a place/lockstep-bundle\" && ./check --jobs 2"
' _ "$root" 2>&1 | tee "$folder/check.log"
code=${PIPESTATUS[0]}
# A check that ran nothing has shown nothing.
grep -qE '^[1-9][0-9]* test programs; tests: [1-9][0-9]{2,} passed' "$folder/check.log" || { echo "WRONG: no tests ran" && exit 1; }
exit "$code"
