#include "launch/affinity.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>

namespace lockstep::launch {
namespace {

struct Free {
  void operator()(hwloc_topology_t t) const { hwloc_topology_destroy(t); }
  void operator()(hwloc_bitmap_t b) const { hwloc_bitmap_free(b); }
};
using Topology = std::unique_ptr<hwloc_topology, Free>;
using Cpuset = std::unique_ptr<hwloc_bitmap_s, Free>;

Topology load() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return {};
  Topology owner(topology);
  return hwloc_topology_load(topology) == 0 ? std::move(owner) : Topology{};
}

int cores_in(hwloc_topology_t topology, hwloc_const_cpuset_t set) {
  int cores = 0, all = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
  for (int i = 0; i < all; ++i)
    cores += hwloc_bitmap_intersects(hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, unsigned(i))->cpuset, set);
  return std::max(cores, 1);
}

/// Whole CPUs that the cgroup's quota allows ("max 100000" or "200000 100000"), or `cores`.
int within_quota(int cores) {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || period <= 0) return cores;
  return std::clamp(int(std::ceil(quota / period)), 1, cores);
}

}  // namespace

int machine_cores() {
  Topology topology = load();
  return topology ? within_quota(cores_in(topology.get(), hwloc_topology_get_allowed_cpuset(topology.get()))) : 1;
}

int bind_share(int node_rank, int node_size, std::string& told) {
  bool by_mpirun = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE") && !std::getenv("OMPI_MCA_hwloc_base_binding_policy");
  Topology topology = load();
  if (!topology) return 1;
  if (!by_mpirun) {  // alone, or bound by Slurm or by the user's own choice: what is bound is meant
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology.get());
    Cpuset bound(hwloc_bitmap_alloc());
    if (hwloc_get_cpubind(topology.get(), bound.get(), HWLOC_CPUBIND_THREAD) != 0) hwloc_bitmap_copy(bound.get(), allowed);
    int cores = within_quota(cores_in(topology.get(), bound.get()));
    bool shared = hwloc_bitmap_isequal(bound.get(), allowed);
    int share = std::max(shared ? cores / node_size : cores, 1);
    told = fmt::format("{} of {} cores", share, cores);
    return share;
  }
  hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology.get());
  int cores = within_quota(cores_in(topology.get(), allowed));
  if (node_size > cores) {
    hwloc_set_cpubind(topology.get(), allowed, HWLOC_CPUBIND_THREAD);
    told = fmt::format("{} ranks share {} cores", node_size, cores);
    return 1;
  }
  int first = cores * node_rank / node_size, end = cores * (node_rank + 1) / node_size, at = 0;
  Cpuset mine(hwloc_bitmap_alloc());
  for (int i = 0; i < hwloc_get_nbobjs_by_type(topology.get(), HWLOC_OBJ_CORE); ++i) {
    hwloc_obj_t core = hwloc_get_obj_by_type(topology.get(), HWLOC_OBJ_CORE, unsigned(i));
    if (!hwloc_bitmap_intersects(core->cpuset, allowed)) continue;
    if (at >= first && at < end) hwloc_bitmap_or(mine.get(), mine.get(), core->cpuset);
    ++at;
  }
  hwloc_bitmap_and(mine.get(), mine.get(), allowed);
  if (!hwloc_bitmap_iszero(mine.get())) hwloc_set_cpubind(topology.get(), mine.get(), HWLOC_CPUBIND_THREAD);
  told = end - first == 1 ? fmt::format("core {} of {}", first, cores) : fmt::format("cores {}-{} of {}", first, end - 1, cores);
  return end - first;
}

}  // namespace lockstep::launch
