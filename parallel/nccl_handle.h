#pragma once

// Private to parallel/: includes the vendor's header.

#include <nccl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "parallel/open_communicator.h"
#include "parallel/stamps_cuda.h"

namespace lockstep::parallel {

/// A non-blocking NCCL communicator. No call waits inside NCCL for ever: waiting is done here and has a deadline. A thread of its
/// own looks for errors and for collectives that do not end, and then aborts: kernels that wait for a lost rank return, and with
/// them the host that waits for its stream; its next call here throws.
class NcclHandle {
 public:
  /// `start` begins to make the communicator (ncclCommInitRankConfig, ncclCommSplit); this waits until it is there.
  template <class Start>
  NcclHandle(const NcclOptions& options, Start start) : options_(options) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (options.policy != NcclOptions::Policy::standard)
      config.CTAPolicy = options.policy == NcclOptions::Policy::efficient ? NCCL_CTA_POLICY_EFFICIENCY : NCCL_CTA_POLICY_ZERO;
    check(cudaGetDevice(&device_));
    try {
      wait(start(&comm_, &config), "starting", Here::current());
    } catch (...) {
      end(false);
      throw;
    }
    if (comm_) watcher_ = std::thread([this] { watch(); });
  }
  ~NcclHandle() {
    {
      std::lock_guard lock(mutex_);
      leaving_ = true;
    }
    wake_.notify_all();
    if (watcher_.joinable()) watcher_.join();
    end(failure_.empty() && std::uncaught_exceptions() == 0);
  }
  NcclHandle(const NcclHandle&) = delete;
  NcclHandle& operator=(const NcclHandle&) = delete;

  /// `work` calls NCCL; throws unless it succeeded.
  template <class Work>
  void call(const char* what, Work work, Here at = Here::current()) {
    std::lock_guard lock(mutex_);
    throw_failure();
    wait(work(comm_), what, at);
  }
  /// Throws when something has failed meanwhile.
  void poll() {
    std::lock_guard lock(mutex_);
    throw_failure();
    ncclResult_t result = state();
    if (result != ncclInProgress) wait(result, "a collective failed", Here::current());
  }
  /// A collective was started: the watcher gives it `options.collective` seconds. `finished` follows it in its stream.
  void expect(cudaEvent_t finished) {
    std::lock_guard lock(mutex_);
    expected_ = finished;
    expected_since_ = now();
  }

 private:
  /// Waits for what NCCL goes on with in the background.
  void wait(ncclResult_t result, const char* what, Here at) {
    for (double start = now(); result == ncclInProgress; result = state()) {
      if (now() - start > options_.meeting) {
        failure_ = format_text("NCCL: {} did not end within {} s: another rank is lost or stuck", {what, options_.meeting});
        throw Error(failure_, Exit::peer_lost, at);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (result == ncclSuccess) return;
    failure_ = format_text("NCCL: {}: {} ({})", {what, ncclGetErrorString(result), ncclGetLastError(comm_)});
    throw Error(failure_, exit_of(result), at);
  }
  static Exit exit_of(ncclResult_t result) {
    return result == ncclRemoteError || result == ncclSystemError ? Exit::peer_lost : Exit::internal;
  }
  void throw_failure() const {
    if (!failure_.empty()) throw Error(failure_, Exit::peer_lost);
  }
  ncclResult_t state() const {
    ncclResult_t asynchronous = ncclSuccess;
    ncclResult_t asked = ncclCommGetAsyncError(comm_, &asynchronous);
    return asked == ncclSuccess ? asynchronous : asked;
  }

  void watch() {
    // This thread asks for events while the step's thread may be capturing; that is no part of the capture.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    (void)cudaThreadExchangeStreamCaptureMode(&mode);
    (void)cudaSetDevice(device_);
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, std::chrono::milliseconds(200), [this] { return leaving_; })) {
      if (!failure_.empty()) return;
      ncclResult_t result = state();
      if (result != ncclSuccess && result != ncclInProgress)
        failure_ = format_text("NCCL: a collective failed: {} ({})", {ncclGetErrorString(result), ncclGetLastError(comm_)});
      else if (expected_ && cudaEventQuery(expected_) != cudaErrorNotReady)
        expected_ = nullptr;
      else if (expected_ && now() - expected_since_ > options_.collective)
        failure_ =
            format_text("NCCL: a collective did not end within {} s: another rank is lost or stuck", {options_.collective});
      if (failure_.empty()) continue;
      std::string what = failure_;
      bool ended = end(false);
      lock.unlock();
      if (!ended && options_.hopeless) options_.hopeless(what);
      return;
    }
  }

  /// Ends the communicator: in peace, or by force when something failed. Both can hang inside NCCL when a rank is gone, so a
  /// thread does it and is left behind after 10 s (false).
  bool end(bool peaceful) noexcept {
    if (!comm_) return true;
    std::promise<void> promise;
    auto done = promise.get_future();
    std::thread closer([comm = comm_, device = device_, peaceful, promise = std::move(promise)]() mutable {
      (void)cudaSetDevice(device);
      ncclResult_t result = peaceful ? ncclCommFinalize(comm) : ncclInternalError;
      for (double start = now(); result == ncclInProgress && now() - start < 5;) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
        if (ncclCommGetAsyncError(comm, &result) != ncclSuccess) result = ncclInternalError;
      }
      (void)(result == ncclSuccess ? ncclCommDestroy(comm) : ncclCommAbort(comm));
      promise.set_value();
    });
    comm_ = nullptr;
    bool ended = done.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    if (ended)
      closer.join();
    else
      closer.detach();
    return ended;
  }

  NcclOptions options_;
  ncclComm_t comm_ = nullptr;
  int device_ = 0;
  std::mutex mutex_;  // of all below, and of every call
  std::string failure_;
  cudaEvent_t expected_ = nullptr;
  double expected_since_ = 0;
  bool leaving_ = false;
  std::condition_variable wake_;
  std::thread watcher_;
};

}  // namespace lockstep::parallel
