// How near does each CPU kernel come to what these cores can do? One JSON list: for each kernel its rate, its ceiling and its
// share of that. A ceiling is the best that plain programs reached before, between and after the kernels of the same run:
//
//     products, attention     f32 products of several shapes, with a plain and with a transposed right side
//     convolutions            those and a direct convolution; Winograd's algorithm saves operations and may exceed it
//     passes                  copying, and scaling in place, as much memory as the kernel touches
//     passes that only read   adding up as much memory
//
// Beside it: lines of memory asked for, to be read or to be overwritten, and the most that reading or copying asked for. A core
// waits for so many at a time, and lines written back ride along: scaling in place moves twice what it asks for, other passes
// cannot.
//
//     OMP_NUM_THREADS=2 core_kernels            the table
//     OMP_NUM_THREADS=2 core_kernels --peaks    the ceilings alone, that of memory for 256 MiB, as one object

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/device.h"
#include "core/tensor.h"
#include "kernels/attention.h"
#include "kernels/batch_norm.h"
#include "kernels/binary.h"
#include "kernels/convolution.h"
#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/norm.h"
#include "kernels/pooling.h"
#include "kernels/reduce.h"
#include "kernels/softmax.h"
#include "kernels/unary.h"
#include "kernels/update.h"

using namespace lockstep;
using namespace lockstep::kernels;
using nlohmann::ordered_json;
using std::int64_t;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Median seconds of a call.
double time_of(const std::function<void()>& work, int rounds = 7) {
  work();
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    double begun = now();
    work();
    times.push_back(now() - begun);
  }
  std::ranges::nth_element(times, times.begin() + rounds / 2);
  return times[std::size_t(rounds / 2)];
}

/// f(begin, end) on every thread's share of [0, n).
template <class F>
void share_out(int64_t n, F f) {
#pragma omp parallel
  {
    int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    f(n * thread / threads, n * (thread + 1) / threads);
  }
}

/// What a kernel has to do at least; its ceiling follows from that.
struct Work {
  double gflop = 0;    ///< of products or convolutions; else a pass over memory:
  double moved = 0;    ///< MB read and written
  double touched = 0;  ///< MB of its tensors; 0: as much as is moved
  double asked = 0;    ///< MB of lines asked for; 0: as much as is moved
  bool convolution = false, only_reads = false;
};

/// Bandwidths reached with so much memory, in GB/s.
struct MemoryCeiling {
  double moving = 0, reading = 0, asking = 0;
};

struct Bench {
  Device device;
  const Queue& q = device.queue();
  double product_rate = 0, convolution_rate = 0;  ///< ceilings, in GFLOP/s
  std::map<int64_t, MemoryCeiling> memory;        ///< by MiB touched
  std::vector<Tensor> keep;

  View floats(int64_t n) {
    keep.emplace_back(device, Shape{n});
    View v = keep.back().view();
    uniform(q, v, -1, 1, RandomKey{1, 0, 0, std::uint32_t(keep.size())});
    return v;
  }

  void measure_products() {
    struct Size {
      int64_t m, n, k;
      bool transposed;
    };
    for (auto [m, n, k, transposed] :
         {Size{1536, 1536, 1536, true}, Size{2048, 1024, 1024, false}, Size{2048, 1024, 256, true}}) {
      View a = floats(m * k), b = floats(k * n), y = floats(m * n);
      double seconds = time_of([&] { matmul(q, y, a, b, m, n, k, {.transpose_b = transposed}); });
      product_rate = std::max(product_rate, 2e-9 * double(m * n * k) / seconds);
      keep.clear();
    }
    ConvolutionShape s{64, 14, 14, 32, 64, 5, 5, 1, 2};
    View x = floats(64 * 14 * 14 * 32), w = floats(64 * 5 * 5 * 32), y = floats(64 * 14 * 14 * 64);
    double seconds = time_of([&] { convolution(q, s, y, x, w, {}); });
    convolution_rate = std::max({convolution_rate, product_rate, 2e-9 * double(y.size * 5 * 5 * 32) / seconds});
    keep.clear();
  }
  void measure_memory(int64_t mebibytes) {
    int64_t n = mebibytes << 18;
    View all = floats(n);
    float* x = all.as<float>();
    double bytes = 4e-9 * double(n);  // GB
    double copying = time_of([&] {
      share_out(n / 2, [&](int64_t begin, int64_t end) {
        std::memcpy(x + n / 2 + begin, x + begin, std::size_t(end - begin) * sizeof(float));
      });
    });
    double scaling = time_of([&] {
      share_out(n, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) x[i] *= 0.999f;
      });
    });
    double reading = time_of([&] {
      share_out(n, [&](int64_t begin, int64_t end) {
        float sums[32] = {};  // side by side: one after another would wait for additions
        for (int64_t i = begin; i + 32 <= end; i += 32)
          for (int j = 0; j < 32; ++j) sums[j] += x[i + j];
        volatile float used = std::accumulate(std::begin(sums), std::end(sums), 0.f);
        (void)used;
      });
    });
    auto& best = memory[mebibytes];
    best.moving = std::max({best.moving, bytes / copying, 2 * bytes / scaling});
    best.reading = std::max(best.reading, bytes / reading);
    best.asking = std::max({best.asking, bytes / reading, bytes / copying});
    keep.clear();
  }
  void measure_ceilings() {
    measure_products();
    for (int64_t mebibytes : {16, 32, 64, 96, 128, 160, 192, 256, 512}) measure_memory(mebibytes);
  }
  const MemoryCeiling& memory_ceiling(const Work& work) const {
    double touched = work.touched > 0 ? work.touched : work.moved;
    auto at = memory.lower_bound(int64_t(touched / 1.05));  // MB are a little less than MiB
    return at == memory.end() ? memory.rbegin()->second : at->second;
  }
  double ceiling(const Work& work) const {
    if (work.gflop > 0) return work.convolution ? convolution_rate : product_rate;
    return work.only_reads ? memory_ceiling(work).reading : memory_ceiling(work).moving;
  }

  ordered_json rows = ordered_json::array();
  std::vector<Work> works;  // of rows
  void row(const std::string& name, const std::string& shape, const Work& work, const std::function<void()>& run) {
    double seconds = time_of(run);
    bool compute = work.gflop > 0;
    rows.push_back({{"name", name},
                    {"shape", shape},
                    {"unit", compute ? "GFLOP/s" : "GB/s"},
                    {"ours", (compute ? work.gflop : 1e-3 * work.moved) / seconds},
                    {"ms", 1e3 * seconds},
                    {"threads", omp_get_max_threads()}});
    works.push_back(work);
    keep.clear();
  }
  /// Bytes of `tensors` tensors of n floats, in MB.
  static double mb(int64_t n, double tensors) { return 4e-6 * double(n) * tensors; }

  void products() {
    struct Size {
      int64_t m, n, k;
      const char* what;
    };
    for (auto [m, n, k, what] :
         {Size{2048, 1024, 256, "small GPT, fc"}, Size{2048, 256, 1024, "small GPT, proj"}, Size{256, 3072, 768, "124M, fc"},
          Size{256, 768, 3072, "124M, proj"}, Size{256, 50257, 768, "124M, head"}}) {
      std::string shape = std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k);
      View x = floats(m * k), w = floats(n * k), y = floats(m * n), b = floats(n);
      double gflop = 2e-9 * double(m * n * k);
      auto held = keep;
      row(std::string("linear forward (") + what + ")", shape, {.gflop = gflop},
          [&] { matmul(q, y, x, w, m, n, k, {.transpose_b = true, .bias = b}); });
      row(std::string("linear, gradient of x (") + what + ")", shape, {.gflop = gflop}, [&] { matmul(q, x, y, w, m, k, n, {}); });
      row(std::string("linear, gradient of w (") + what + ")", shape, {.gflop = gflop},
          [&] { matmul(q, w, y, x, n, k, m, {.transpose_a = true}); });
    }
  }

  void images() {
    struct Size {
      ConvolutionShape s;
      const char* what;
    };
    for (auto& [s, what] :
         {Size{{64, 14, 14, 32, 64, 5, 5, 1, 2}, "ConvNet, second"}, Size{{64, 32, 32, 64, 64, 3, 3, 1, 1}, "ResNet, stage 1"},
          Size{{64, 8, 8, 256, 256, 3, 3, 1, 1}, "ResNet, stage 3"}, Size{{64, 4, 4, 512, 512, 3, 3, 1, 1}, "ResNet, stage 4"}}) {
      std::string shape = std::to_string(s.batch) + " x " + std::to_string(s.height) + " x " + std::to_string(s.width) + " x " +
                          std::to_string(s.in) + " -> " + std::to_string(s.out);
      int64_t taps = s.kernel_height * s.kernel_width;
      View x = floats(s.batch * s.height * s.width * s.in), w = floats(s.out * taps * s.in),
           y = floats(s.batch * s.height * s.width * s.out);
      auto held = keep;
      double gflop = 2e-9 * double(y.size * taps * s.in);
      row(std::string("convolution forward (") + what + ")", shape, {.gflop = gflop, .convolution = true},
          [&] { convolution(q, s, y, x, w, {}); });
      row(std::string("convolution, gradient of x (") + what + ")", shape, {.gflop = gflop, .convolution = true},
          [&] { convolution_backward_data(q, s, x, y, w, Write::overwrite); });
      row(std::string("convolution, gradient of w (") + what + ")", shape, {.gflop = gflop, .convolution = true},
          [&] { convolution_backward_weights(q, s, w, y, x, Write::overwrite); });
    }
  }

  void attentions() {
    for (AttentionShape s : {AttentionShape{8, 256, 4, 64}, AttentionShape{4, 1024, 12, 64}}) {
      std::string shape = std::to_string(s.batch) + " x " + std::to_string(s.length) + ", " + std::to_string(s.heads) +
                          " heads of " + std::to_string(s.size);
      int64_t n = s.batch * s.length * s.width();
      View qkv = floats(3 * n), y = floats(n), sums = floats(s.batch * s.heads * s.length), dqkv = floats(3 * n), dy = floats(n);
      View scratch = floats(std::int64_t(attention_scratch(s)) / 4);
      scratch = {scratch.data, scratch.size * 4, DType::u8};
      auto held = keep;
      double gflop = 2e-9 * double(s.batch * s.heads * s.length * s.length * s.size);  // two products, half of them masked
      row("attention forward", shape, {.gflop = gflop}, [&] { attention(q, s, y, sums, qkv, {}); });
      row("attention backward", shape, {.gflop = 2.5 * gflop},
          [&] { attention_backward(q, s, dqkv, dy, y, sums, qkv, {}, scratch); });
    }
  }

  void passes() {
    const int64_t rows = 16384, columns = 768, n = rows * columns;
    const std::string shape = "16384 x 768";
    {
      View x = floats(n), r = floats(n), s = floats(n), y = floats(n), w = floats(columns), b = floats(columns),
           mean = floats(rows), rstd = floats(rows), dx = floats(n);
      auto held = keep;
      row("residual + norm", shape, {.moved = mb(n, 4)},
          [&] { norm(q, Norm::layer, y, s, mean, rstd, x, r, w, b, columns, 1e-5f); });
      row("norm backward", shape, {.moved = mb(n, 3)}, [&] {
        norm_backward(q, Norm::layer, dx, w, b, y, x, w, mean, rstd, columns, Write::overwrite, Write::overwrite,
                      Write::overwrite);
      });
      row("gelu", shape, {.moved = mb(n, 2)}, [&] { unary(q, Unary::gelu_tanh, y, x); });
      row("gelu backward, in place", shape, {.moved = mb(n, 3), .touched = mb(n, 2), .asked = mb(n, 2)},
          [&] { unary_backward(q, Unary::gelu_tanh, y, y, x, x, Write::overwrite); });
      row("add", shape, {.moved = mb(n, 3)}, [&] { binary(q, Binary::add, y, x, r); });
      row("sum of rows (gradient of a bias)", shape, {.moved = mb(n, 1), .only_reads = true},
          [&] { sum_rows(q, b, x, columns, Write::overwrite); });
      row("softmax", shape, {.moved = mb(n, 2)}, [&] { softmax(q, y, x, columns); });
    }
    {
      const int64_t tokens = 256, classes = 50257, logits = tokens * classes;
      View x = floats(logits), dx = floats(logits), loss = floats(tokens), sums = floats(tokens), seed = floats(1);
      Tensor targets(device, {tokens}, DType::i32);
      upload(q, targets, std::vector<std::int32_t>(tokens, 7));
      auto held = keep;
      row("softmax and loss", "256 x 50257", {.moved = mb(logits, 1), .only_reads = true},
          [&] { cross_entropy(q, loss, sums, x, targets.view(), classes, {}); });
      row("softmax and loss, gradient", "256 x 50257", {.moved = mb(logits, 2)},
          [&] { cross_entropy_backward(q, dx, seed, x, sums, targets.view(), classes, {}, Write::overwrite); });
      row("softmax, loss and gradient in place", "256 x 50257", {.moved = mb(logits, 2), .asked = mb(logits, 1)},
          [&] { cross_entropy_in_place(q, loss, x, seed, targets.view(), classes, {}); });
    }
    {
      const int64_t images = 64 * 32 * 32, channels = 64, size = images * channels;
      View x = floats(size), y = floats(size), dy = floats(size), w = floats(channels), b = floats(channels),
           mean = floats(channels), variance = floats(channels), dw = floats(channels), db = floats(channels);
      auto held = keep;
      row("batch norm + relu", "64 x 32 x 32 x 64", {.moved = mb(size, 3), .touched = mb(size, 2)},
          [&] { batch_norm(q, y, mean, variance, x, w, b, channels, 1e-5f, true); });
      row("batch norm + relu, backward", "64 x 32 x 32 x 64",
          {.moved = mb(size, 5), .touched = mb(size, 2), .asked = mb(size, 4)}, [&] {
            batch_norm_backward(q, dy, dw, db, dy, x, w, b, mean, variance, channels, 1e-5f, true, Write::overwrite,
                                Write::overwrite, Write::overwrite);
          });
      PoolingShape p{.batch = 64, .height = 32, .width = 32, .channels = channels, .window = 2, .stride = 2};
      Tensor index(device, {size / 4}, DType::u8);
      row("max pooling 2 x 2", "64 x 32 x 32 x 64", {.moved = mb(size, 1.25 + 1. / 16)},
          [&] { pooling(q, Pooling::max, p, y.slice(0, size / 4), index.view(), x); });
      row("max pooling 2 x 2, backward", "64 x 32 x 32 x 64", {.moved = mb(size, 1.25 + 1. / 16)},
          [&] { pooling_backward(q, Pooling::max, p, x, y.slice(0, size / 4), index.view(), Write::overwrite); });
    }
    {
      const int64_t size = 32 << 20;
      View weights = floats(size), gradients = floats(size), m = floats(size), v = floats(size),
           scalars = floats(int(Scalar::count)), partials = floats(size / norm_block);
      fill(q, v, 1);
      fill(q, scalars, 0.01f);
      Tensor tables(device, {2, std::int64_t(table_bytes(1))}, DType::u8);
      Segment segment{0, size, 1, 0.1f};
      Span span{0, size};
      View table = tables.view().slice(0, tables.dim(1));
      auto segments = lay_out(q, table, &segment, 1);
      auto spans = lay_out(q, tables.view().slice(tables.dim(1), tables.dim(1)), &span, 1);
      auto held = keep;
      row("norm of the gradients", "32 Mi", {.moved = mb(size, 1), .only_reads = true},
          [&] { square_sums(q, partials, gradients, spans); });
      row("AdamW + clip", "32 Mi", {.moved = mb(size, 7), .touched = mb(size, 4), .asked = mb(size, 4)}, [&] {
        adamw(q, {weights, weights, gradients}, m, v, segments, scalars, {});
      });
      const View halves{weights.data, size, DType::bf16}, half_gradients{gradients.data, size, DType::bf16};
      // What is random as f32 is full of subnormal numbers as bf16, which take the processor a hundred times as long.
      normal(q, halves, 0, 1, {.seed = 1});
      normal(q, half_gradients, 0, 1, {.seed = 2});
      row("AdamW of bf16 weights without masters", "32 Mi", {.moved = mb(size, 5.5), .touched = mb(size, 3)}, [&] {
        adamw(q, {halves, halves, half_gradients}, m, v, segments, scalars, {});
      });
      row("SGD with momentum", "32 Mi", {.moved = mb(size, 5), .touched = mb(size, 3), .asked = mb(size, 3)}, [&] {
        sgd(q, {weights, weights, gradients}, m, segments, scalars, {.momentum = .9f});
      });
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  bench.measure_ceilings();
  if (argc > 1 && std::strcmp(argv[1], "--peaks") == 0) {
    auto tenths = [](double x) { return std::round(x * 10) / 10; };
    ordered_json peaks = {{"gemm_gflops", tenths(bench.product_rate)},
                          {"convolution_gflops", tenths(bench.convolution_rate)},
                          {"memory_gb_s", tenths(bench.memory.at(256).moving)},
                          {"threads", omp_get_max_threads()}};
    std::printf("%s\n", peaks.dump().c_str());
    return 0;
  }
  for (auto part : {&Bench::products, &Bench::images, &Bench::attentions, &Bench::passes}) {
    (bench.*part)();
    bench.measure_ceilings();
  }
  for (std::size_t i = 0; i < bench.rows.size(); ++i) {
    auto& row = bench.rows[i];
    row["limit"] = bench.ceiling(bench.works[i]);
    row["share_of_limit"] = row["ours"].get<double>() / row["limit"].get<double>();
    const Work& work = bench.works[i];
    if (work.gflop > 0) continue;
    double lines = (work.asked > 0 ? work.asked : work.moved) / row["ms"].get<double>();
    row["lines"] = lines;
    row["limit_of_lines"] = bench.memory_ceiling(work).asking;
    row["share_of_lines"] = lines / bench.memory_ceiling(work).asking;
  }
  std::printf("[\n");
  for (std::size_t i = 0; i < bench.rows.size(); ++i)
    std::printf("%s%s\n", bench.rows[i].dump().c_str(), i + 1 < bench.rows.size() ? "," : "");
  std::printf("]\n");
}
