#pragma once

#include <memory>

#include "core/device.h"

namespace lockstep {

/// Brings what one thread makes to a device while its queue works on what came before: through page-locked host memory and, on a
/// GPU, a stream of its own. Pieces of memory are used again and again, so that a run soon asks for no more. On a CPU the copies
/// are done at once.
class Uploads {
 public:
  /// Host memory to fill and the device's memory that it goes to.
  struct Slot;

  /// `owner` names the memory in the device's table. To be made by the thread that owns the device's queue; the device outlives
  /// it and what it gave.
  Uploads(Device&, std::string owner);
  /// Waits for copies under way. Memory that was taken lives on.
  ~Uploads();
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;

  // ---- one thread, any
  /// A slot of at least `bytes` that nothing reads; may wait for an earlier copy out of its host memory.
  Slot& begin(std::size_t bytes);
  /// What to fill.
  static std::byte* host(const Slot&);
  /// Starts the copy of the first `bytes` when the queue's work on what the slot brought before is done. Waits for nothing.
  void send(Slot&, std::size_t bytes);

  // ---- the thread that owns the queue
  /// The device's memory with what was sent, for work that is put into the queue from here on; nobody waits but that work.
  /// Outside of captures. When its last owner gives it back the slot is filled again, behind the work in the queue at the next
  /// take().
  Memory take(Slot&);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace lockstep
