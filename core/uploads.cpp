#include "core/uploads.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "core/device_cuda.h"
#include "kernels/memory.h"

namespace lockstep {

struct Uploads::Slot {
  std::size_t capacity = 0;
  Memory host, device;
  cuda::Event sent, released;  // the copy is done; the queue's work on it is done
};

struct Uploads::State {
  Device& device;
  std::string owner;
  cuda::CopyStream stream;
  Arena::Source host;
  std::mutex mutex;
  std::vector<std::unique_ptr<Slot>> slots;
  std::vector<Slot*> free, given_back;  // the latter until the queue's thread has marked where its work on them ends

  State(Device& device, std::string owner)
      : device(device),
        owner(std::move(owner)),
        stream(cuda::open_copy_stream(device.queue())),
        host(host_source(device.queue())) {}
  ~State() {
    slots.clear();
    cuda::close(stream.queue);
  }

  /// Room for `bytes`, an eighth more than asked for so that sizes that differ a little ask once.
  void grow(Slot& slot, std::size_t bytes) {
    bytes = (bytes + bytes / 8 + 4095) / 4096 * 4096;
    slot.capacity = 0;
    slot.host.reset(), slot.device.reset();
    std::byte* data = host.allocate(bytes);
    require(data != nullptr, "out of page-locked host memory: {} MiB more were asked for", bytes >> 20);
    slot.host = Memory(data, host.release);
    slot.device = device.apart(owner, bytes);
    slot.capacity = bytes;
  }
};

Uploads::Uploads(Device& device, std::string owner) : state_(std::make_shared<State>(device, std::move(owner))) {}

Uploads::~Uploads() {
  for (auto& slot : state_->slots) cuda::finish(slot->sent);
}

Uploads::Slot& Uploads::begin(std::size_t bytes) {
  State& s = *state_;
  cuda::enter(s.stream);
  Slot* slot = nullptr;
  {
    std::lock_guard lock(s.mutex);
    auto found = std::ranges::find_if(s.free, [&](Slot* one) { return one->capacity >= bytes; });
    if (found == s.free.end()) found = s.free.begin();
    if (found != s.free.end()) {
      slot = *found;
      s.free.erase(found);
    } else {
      slot = s.slots.emplace_back(std::make_unique<Slot>()).get();
    }
  }
  cuda::finish(slot->sent);
  if (slot->capacity < bytes) {
    cuda::finish(slot->released);
    s.grow(*slot, bytes);
  }
  return *slot;
}

std::byte* Uploads::host(const Slot& slot) {
  return slot.host.get();
}

void Uploads::send(Slot& slot, std::size_t bytes) {
  const auto size = std::int64_t(bytes);
  require(bytes <= slot.capacity, "uploads: {} bytes in a slot of {}", bytes, slot.capacity);
  const cuda::CopyStream& stream = state_->stream;
  cuda::wait(stream.queue, slot.released);
  kernels::copy(stream.queue, {slot.device.get(), size, DType::u8}, {slot.host.get(), size, DType::u8});
  cuda::record(slot.sent, stream.queue);
}

Memory Uploads::take(Slot& slot) {
  State& s = *state_;
  const Queue& queue = s.device.queue();
  {
    std::lock_guard lock(s.mutex);
    for (Slot* back : std::exchange(s.given_back, {})) {
      cuda::record(back->released, queue);
      s.free.push_back(back);
    }
  }
  cuda::wait(queue, slot.sent);
  return Memory(slot.device.get(), [state = state_, back = &slot](std::byte*) {
    std::lock_guard lock(state->mutex);
    state->given_back.push_back(back);
  });
}

}  // namespace lockstep
