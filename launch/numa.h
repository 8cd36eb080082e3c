#pragma once

#include <string>

namespace lockstep::launch {

/// Which NUMA node and CPUs a device of the PCI bus ("0000:1b:00.0") is nearest to, in words; empty when that is not known.
std::string nearest_cpus(const std::string& address);

}  // namespace lockstep::launch
