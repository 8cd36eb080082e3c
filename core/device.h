#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/memory.h"
#include "kernels/base/queue.h"

namespace lockstep {

enum class DeviceKind : std::uint8_t { cpu, cuda };

/// A GPU as this process sees it.
struct GpuInfo {
  std::string name, address;          ///< "NVIDIA H200", "0000:1b:00.0": its place on the machine's PCI bus
  int major = 0, minor = 0;           ///< compute capability
  std::size_t bytes = 0, free = 0;    ///< of memory
  std::vector<std::string> to_peers;  ///< how it reaches each visible GPU: "itself", "NVLink", "PCIe" or "through the host"
};

/// Where a rank computes: some CPU cores or one GPU. Owns the queue, the vendor libraries' handles and the arena that all tensors
/// come from, so it outlives them.
class Device {
 public:
  /// CUDA devices are numbered as CUDA shows them to this process. Throws (Exit::usage) when there is no such device or this
  /// program was built without CUDA.
  explicit Device(DeviceKind kind = DeviceKind::cpu, int index = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  DeviceKind kind() const { return kind_; }
  const Queue& queue() const { return queue_; }
  Arena& arena() { return *arena_; }
  /// Memory of this device that is not the arena's, for streams beside the queue; under its owner's name in the arena's table.
  Memory apart(const std::string& owner, std::size_t bytes);
  /// While set, work given to the queue of a CPU is kept there and not done; null: it is done again.
  void record(Recording* recording) { queue_.recording = recording; }
  /// "cpu" or the GPU's name.
  const std::string& name() const { return name_; }

  /// A GPU's place on the PCI bus, the same for all that is made of one GPU; "" for the CPU.
  const std::string& address() const { return address_; }

  /// GPUs that this process can use; 0 without CUDA or without a driver.
  static int cuda_count();
  static std::vector<GpuInfo> gpus();
  /// Why there is no GPU to use, in words; empty when there is one.
  static std::string cuda_problem();

 private:
  DeviceKind kind_;
  std::string name_, address_;
  Queue queue_;
  Arena::Source source_;
  std::unique_ptr<Arena> arena_;
};

/// Where host memory comes from that the queue's device copies from and to: page-locked for a GPU, whose copies then run at the
/// full speed of its link and beside other work. Getting it takes long: keep it.
Arena::Source host_source(const Queue&);

}  // namespace lockstep
