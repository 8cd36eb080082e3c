#pragma once

#include "parallel/communicator.h"

namespace lockstep::parallel {

/// The way between the memory of a device and host memory, for collectives that go through the host. Every collective has a
/// ticket: it begins, its data is fetched, what came of it is brought back, it ends. Nothing waits but lock() and timing().
class Staging {
 public:
  using Ticket = Communicator::Ticket;
  virtual ~Staging() = default;
  /// The same for another communicator on the same device.
  virtual std::unique_ptr<Staging> another() const = 0;

  /// Zeroed memory of the device.
  virtual Memory device(std::size_t bytes) = 0;
  /// Host memory that the device copies from and to by itself. It may be given back when the ticket that used it has ended.
  virtual Memory host(std::size_t bytes) = 0;
  /// Makes host memory from elsewhere as good as that, where the driver can, for as long as the result lives.
  virtual Memory lock(Memory host, std::size_t bytes) = 0;

  /// What follows under this ticket starts when the work now in `after` is done.
  virtual void begin(Ticket, const Queue& after) = 0;
  /// Copies to host memory; data without bytes is none. fetched(): the work before begin() and this copy are done.
  virtual void fetch(Ticket, void* host, View data) = 0;
  virtual bool fetched(Ticket) = 0;
  /// Copies from host memory; asked for when fetched() was true.
  virtual void bring(View data, const void* host) = 0;
  virtual void end(Ticket) = 0;
  virtual bool ended(Ticket) = 0;
  /// Makes later work in `queue` wait for all that was brought.
  virtual void join(const Queue& queue) = 0;

  /// A ticket whose timing tells when `queue` got here.
  virtual void mark(Ticket, const Queue& queue) = 0;
  /// When a ticket began and ended on the device; waits for it.
  virtual Timing timing(Ticket) = 0;
};

/// On the GPU that `queue` works on, through page-locked memory. Throws (Exit::usage) in a program built without CUDA.
std::unique_ptr<Staging> open_cuda_staging(const Queue& queue);
/// Where the device's memory is host memory: for tests of all that lies above.
std::unique_ptr<Staging> open_cpu_staging();

}  // namespace lockstep::parallel
