#!/usr/bin/env bash
# What launch/quickstart and launch/check share (launch/common.sh), in a copy so that build/logs of the project is left alone.
set -uo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/a copy"
cp -r "$project/launch" "$folder/a copy"
cd "$folder/a copy" || exit 1
failed=0
# expect WHAT CODE PATTERN SCRIPT: bash runs SCRIPT after sourcing common.sh; its exit code and what it prints are checked.
expect() {
  local said code=0
  said=$(bash -c "source launch/common.sh; $4" 2>&1) || code=$?
  if [ $code -eq "$2" ] && grep -qE "$3" <<<"$said"; then
    echo "right: $1"
  else
    printf 'WRONG: %s (exit code %d):\n%s\n' "$1" $code "$said"
    failed=1
  fi
}
# shellcheck disable=SC2016 # expanded by the script that is tested
{
  expect 'one line for an action' 0 '^Doing it ... [0-9]+ s$' 'logged it "Doing it" true'
  expect 'failure: exit code and log' 3 '^Doing it failed \(exit code 3\).*build/logs/it.log$' 'logged it "Doing it" bash -c "exit 3"'
  expect 'failure: the line that tells why' 1 '^x.cpp:1: error: no$' 'logged it "Doing it" bash -c "echo x.cpp:1: error: no; exit 1"'
  expect 'the list of packages' 0 '^libopenmpi-dev$' 'packages_for program'
  expect 'tests need more' 0 '^libgtest-dev$' 'packages_for program tests'
  expect 'the program needs no GoogleTest' 1 '^$' 'packages_for program | grep gtest'
  expect 'a package that is not there' 0 '^no-such-package$' 'missing_packages bash no-such-package'
  expect 'a user is told the command' 1 'apt-get install -y --no-install-recommends .*nothing-has-this-name' \
    'id() { echo 1000; }; packages_for() { echo nothing-has-this-name; }; install_packages program'
  expect 'nothing is missing' 0 '^done$' 'packages_for() { echo bash; }; install_packages program; echo done'
  expect 'at least one build job' 0 '^[1-9][0-9]*$' 'build_jobs'
  expect 'GPUs that are hidden do not count' 0 '^0$' 'CUDA_VISIBLE_DEVICES= count_gpus'
  expect 'GPUs that are chosen' 0 '^2$' 'CUDA_VISIBLE_DEVICES=0,3 count_gpus'
  expect 'a folder from another place is made anew' 0 '^gone$' \
    'cmake() { :; }; mkdir -p build/cpu; echo CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere >build/cpu/CMakeCache.txt
     configure cpu; [ -e build/cpu/CMakeCache.txt ] || echo gone'
}
for script in check quickstart; do
  launch/$script --nonsense >said 2>&1
  code=$?
  if [ $code -ne 64 ] || ! grep -q '"--nonsense"' said; then echo "WRONG: launch/$script --nonsense ended with $code" && failed=1; fi
done

# An interrupt ends the command that runs, and all it started.
cat >nap <<'END'
source launch/common.sh
logged nap "Sleeping" bash -c 'sleep 300 & echo $! >sleeper; wait'
END
for signal in INT TERM; do
  rm -f sleeper
  set -m   # without it bash lets background commands ignore an interrupt
  bash nap >said 2>&1 &
  set +m
  for _ in {1..50}; do [ -s sleeper ] || sleep 0.1; done
  kill -"$signal" $!
  for _ in {1..150}; do ! kill -0 $! 2>/dev/null || sleep 0.1; done
  kill -KILL $! 2>/dev/null && echo "WRONG: $signal did not end the script" && failed=1
  grep -q '^Interrupted' said || { echo "WRONG: $signal was not answered: $(cat said)" && failed=1; }
  sleep 0.2
  grep -q '^State:.[^ZX]' "/proc/$(cat sleeper)/status" 2>/dev/null && echo "WRONG: $signal left a process behind" && failed=1
done
exit $failed
