#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/memory.h"
#include "kernels/base/queue.h"

namespace lockstep {

enum class DeviceKind : std::uint8_t { cpu, cuda };

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
  /// "cpu" or the GPU's name.
  const std::string& name() const { return name_; }

  /// GPUs that this process can use; 0 without CUDA or without a driver.
  static int cuda_count();

 private:
  DeviceKind kind_;
  std::string name_;
  Queue queue_;
  std::unique_ptr<Arena> arena_;
};

}  // namespace lockstep
