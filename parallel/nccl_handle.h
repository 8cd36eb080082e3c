#pragma once

// Private to parallel/: includes the vendor's header.

#include <nccl.h>

#include <chrono>
#include <exception>
#include <future>
#include <thread>

#include "kernels/base/check_cuda.h"
#include "parallel/timings.h"

namespace lockstep::parallel {

/// A non-blocking NCCL communicator: no call waits inside NCCL for ever, waiting is done here and has a deadline.
class NcclHandle {
 public:
  /// `start` begins to make the communicator (ncclCommInitRankConfig, ncclCommSplit); this waits until it is there.
  template <class Start>
  NcclHandle(double deadline, Start start) : deadline_(deadline) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    lockstep::check(cudaGetDevice(&device_));
    try {
      check(start(&comm_, &config), "starting");
    } catch (...) {
      close(false);
      throw;
    }
  }
  ~NcclHandle() { close(healthy_ && std::uncaught_exceptions() == 0); }
  NcclHandle(const NcclHandle&) = delete;
  NcclHandle& operator=(const NcclHandle&) = delete;

  operator ncclComm_t() const { return comm_; }

  /// Throws unless a call succeeded; waits for one that NCCL goes on with in the background.
  void check(ncclResult_t result, const char* what, Here at = Here::current()) {
    for (double start = now(); result == ncclInProgress; result = state()) {
      if (now() - start > deadline_) {
        healthy_ = false;
        throw Error(format_text("NCCL: {} did not end within {} s: another rank is lost or stuck", {what, deadline_}),
                    Exit::peer_lost, at);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (result == ncclSuccess) return;
    healthy_ = false;
    bool others = result == ncclRemoteError || result == ncclSystemError;
    throw Error(format_text("NCCL: {}: {} ({})", {what, ncclGetErrorString(result), ncclGetLastError(comm_)}),
                others ? Exit::peer_lost : Exit::internal, at);
  }
  /// Throws when a collective has failed meanwhile.
  void poll() {
    ncclResult_t now = state();
    if (now != ncclInProgress) check(now, "a collective failed");
  }

 private:
  ncclResult_t state() const {
    ncclResult_t asynchronous = ncclSuccess;
    ncclResult_t asked = ncclCommGetAsyncError(comm_, &asynchronous);
    return asked == ncclSuccess ? asynchronous : asked;
  }
  /// Ends the communicator: in peace, or by force when something failed. Both can hang inside NCCL when a rank is gone, so a
  /// thread does it and is left behind after 10 s.
  void close(bool peaceful) noexcept {
    if (!comm_) return;
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
    if (done.wait_for(std::chrono::seconds(10)) == std::future_status::ready)
      closer.join();
    else
      closer.detach();
    comm_ = nullptr;
  }

  ncclComm_t comm_ = nullptr;
  double deadline_;
  int device_ = 0;
  bool healthy_ = true;
};

}  // namespace lockstep::parallel
