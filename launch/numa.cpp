#include "launch/numa.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <cstdlib>
#include <memory>

namespace lockstep::launch {

std::string nearest_cpus(const std::string& address) {
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) != 0) return "";
  std::unique_ptr<hwloc_topology, void (*)(hwloc_topology_t)> topology(made, hwloc_topology_destroy);
  hwloc_topology_set_io_types_filter(made, HWLOC_TYPE_FILTER_KEEP_ALL);
  if (hwloc_topology_load(made) != 0) return "";
  hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(made, address.c_str());
  hwloc_obj_t near = device ? hwloc_get_non_io_ancestor_obj(made, device) : nullptr;
  if (!near || !near->cpuset) return "";
  char* list = nullptr;
  hwloc_bitmap_list_asprintf(&list, near->cpuset);
  std::string cpus = list ? list : "";
  std::free(list);
  int node = near->nodeset ? hwloc_bitmap_first(near->nodeset) : -1;
  return node < 0 ? fmt::format("near CPUs {}", cpus) : fmt::format("near NUMA node {}, CPUs {}", node, cpus);
}

}  // namespace lockstep::launch
