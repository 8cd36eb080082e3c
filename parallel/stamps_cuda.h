#pragma once

// Private to parallel/: includes the vendor's header.

#include <memory>
#include <vector>

#include "kernels/base/check_cuda.h"
#include "parallel/communicator.h"
#include "parallel/timings.h"

namespace lockstep::parallel {

/// A CUDA event; one that keeps time, or one that only orders streams.
class Event {
 public:
  explicit Event(unsigned flags = cudaEventDisableTiming) { check(cudaEventCreateWithFlags(&event_, flags)); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

  /// Whether what was recorded has happened.
  bool happened() const {
    cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) {
      (void)cudaGetLastError();  // asked and answered; the next launch is not to find it
      return false;
    }
    check(status);
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream that goes before all others, so that a collective starts as soon as its bucket is ready.
class Stream {
 public:
  Stream() {
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
  }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// When collectives ran in their streams, by ticket.
class Stamps {
 public:
  using Ticket = Communicator::Ticket;
  void started(Ticket ticket, cudaStream_t stream) {
    auto& stamp = kept_[std::size_t(ticket % Communicator::timings_kept)];
    if (!stamp) stamp = std::make_unique<Stamp>();
    stamp->single = false;
    record(stamp->started, stream);
  }
  void finished(Ticket ticket, cudaStream_t stream) { record(at(ticket).finished, stream); }
  /// Both at once.
  void mark(Ticket ticket, cudaStream_t stream) {
    started(ticket, stream);
    at(ticket).single = true;
  }
  bool has_finished(Ticket ticket) { return at(ticket).finished.happened(); }
  cudaEvent_t end_of(Ticket ticket) { return at(ticket).finished; }

  /// In seconds of the host's clock; waits until it is known. `any`: a stream to ask for the time.
  Timing timing(Ticket ticket, cudaStream_t any) {
    Stamp& stamp = at(ticket);
    // Elapsed times come as floats: they are measured from a moment that is never far away.
    if (now() - reference_time_ > 10) {
      check(cudaEventRecord(reference_, any));
      check(cudaEventSynchronize(reference_));
      reference_time_ = now();
    }
    auto time_of = [&](cudaEvent_t event) {
      float milliseconds = 0;
      check(cudaEventSynchronize(event));
      check(cudaEventElapsedTime(&milliseconds, reference_, event));
      return reference_time_ + double(milliseconds) * 1e-3;
    };
    double began = time_of(stamp.started);
    return {.started = began, .finished = stamp.single ? began : time_of(stamp.finished), .worked = 0};
  }

 private:
  /// A mark has one moment only.
  struct Stamp {
    Event started{cudaEventDefault}, finished{cudaEventDefault};
    bool single = false;
  };
  Stamp& at(Ticket ticket) { return *kept_[std::size_t(ticket % Communicator::timings_kept)]; }
  /// Inside a captured step a timed event must be recorded as an external one.
  static void record(cudaEvent_t event, cudaStream_t stream) {
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &capturing));
    bool captured = capturing == cudaStreamCaptureStatusActive;
    check(cudaEventRecordWithFlags(event, stream, captured ? cudaEventRecordExternal : cudaEventRecordDefault));
  }

  std::vector<std::unique_ptr<Stamp>> kept_ = std::vector<std::unique_ptr<Stamp>>(std::size_t(Communicator::timings_kept));
  Event reference_{cudaEventDefault};
  double reference_time_ = -1e9;
};

}  // namespace lockstep::parallel
