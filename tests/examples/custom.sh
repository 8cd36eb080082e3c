#!/usr/bin/env bash
# custom.sh PROGRAM: on one rank and on two, examples/custom learns its task and ends with the same weights.
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none

one=$("$1")
two=$(mpirun -n 2 "$1")
printf 'One rank:\n%s\nTwo ranks:\n%s\n' "$one" "$two"
fail() {
  echo "$1"
  exit 1
}
awk '$1 == "accuracy" && $2 >= 97 { found = 1 } END { exit !found }' <<<"$one" || fail "The accuracy is below 97 %."
grep -qE '^weights [0-9a-f]{32}$' <<<"$one" || fail "No weights were printed."
[ "$(grep '^weights ' <<<"$one")" = "$(grep '^weights ' <<<"$two")" ] || fail "One and two ranks differ."
