#!/usr/bin/env bash
# Runs a program on two "hosts" of this machine: two network namespaces joined by a cable, of limited speed if asked for.
#
#     benchmarks/parallel/two_hosts.sh [--rate 1gbit] [--hosts 1,1] PROGRAM [ARGUMENT…]
#
# --hosts: ranks on the first and on the second. Needs root, iproute2 and Open MPI; the namespaces go when the program ends.
set -euo pipefail

if [[ ${1-} == --agent ]]; then  # mpirun starts its daemon on a host: AGENT ADDRESS COMMAND…
  space=$2-$3
  shift 3
  exec ip netns exec "$space" unshare --uts bash -c "hostname $space; $*"
fi

rate= hosts=1,1
while [[ ${1-} == --* ]]; do
  case $1 in
    --rate) rate=$2 ;;
    --hosts) hosts=$2 ;;
    *) echo "two_hosts.sh: unknown word $1" >&2 && exit 64 ;;
  esac
  shift 2
done
(($#)) || { sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 64; }

name=lockstep$$
clean() {
  ip netns delete $name-10.77.0.1 2>/dev/null || true
  ip netns delete $name-10.77.0.2 2>/dev/null || true
}
trap clean EXIT
ip netns add $name-10.77.0.1
ip netns add $name-10.77.0.2
ip link add cable netns $name-10.77.0.1 type veth peer name cable netns $name-10.77.0.2
for address in 10.77.0.1 10.77.0.2; do
  space="ip netns exec $name-$address"
  $space ip link set lo up
  $space ip address add $address/24 dev cable
  $space ip link set cable up
  # 5 ms of the rate as burst: what a switch would buffer.
  if [[ $rate ]]; then $space tc qdisc add dev cable root tbf rate "$rate" burst 256kb latency 50ms; fi
done
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
ip netns exec $name-10.77.0.1 unshare --uts bash -c "hostname $name-10.77.0.1; exec \"\$@\"" bash \
  mpirun --mca plm_rsh_agent "$(realpath "$0") --agent $name" --mca btl self,vader,tcp --mca hwloc_base_binding_policy none \
  --host "10.77.0.1:${hosts%,*},10.77.0.2:${hosts#*,}" "$@"
