#include "launch/peak.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/tensor.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"

namespace lockstep::launch {

Peak measure_peak(const Session& session, DType dtype) {
  using Clock = std::chrono::steady_clock;
  Device& device = session.device();
  const Queue& queue = device.queue();
  const bool gpu = device.kind() == DeviceKind::cuda;
  const std::int64_t n = gpu ? 8192 : 1024;
  Tensor a(device, {n, n}, dtype), b(device, {n, n}, dtype), y(device, {n, n}, dtype);
  // Random numbers: a GPU multiplies constants faster, because fewer of its wires change.
  kernels::uniform(queue, a.view(), -1, 1, RandomKey{1, 0, 0, 0});
  kernels::uniform(queue, b.view(), -1, 1, RandomKey{1, 0, 0, 1});
  kernels::synchronize(queue);
  session.group().barrier();
  double best = 1e30, spent = 0;
  for (int i = 0; i < 20 && (i < 3 || spent < 0.15); ++i) {
    auto start = Clock::now();
    kernels::matmul(queue, y.view(), a.view(), b.view(), n, n, n);
    kernels::synchronize(queue);
    double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds);
    spent += seconds;
  }
  double sum = session.group().sum(2.0 * double(n) * double(n) * double(n) / best);
  return {sum, fmt::format(
                   "best of several {0} x {0} x {0} products in {1}, measured at the start on all {2} ranks at once and summed",
                   n, name_of(dtype), session.size())};
}

}  // namespace lockstep::launch
