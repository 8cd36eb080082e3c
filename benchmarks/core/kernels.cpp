// How near does each CPU kernel come to what these cores can do? One JSON list: for each kernel its rate and its share of the
// bandwidth of a plain copy, or of the rate of a large f32 product, measured around it in the same run.
//
//     OMP_NUM_THREADS=2 core_kernels            the table
//     OMP_NUM_THREADS=2 core_kernels --peaks    the two ceilings alone, as one object

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

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

struct Bench {
  Device device;
  const Queue& q = device.queue();
  double gflops = 0, gb_s = 0;  ///< ceilings
  std::vector<Tensor> keep;

  View floats(int64_t n) {
    keep.emplace_back(device, Shape{n});
    View v = keep.back().view();
    uniform(q, v, -1, 1, RandomKey{1, 0, 0, std::uint32_t(keep.size())});
    return v;
  }

  void measure_product() {
    int64_t n = 1536;
    View a = floats(n * n), b = floats(n * n), y = floats(n * n);
    gflops = 2e-9 * double(n * n * n) / time_of([&] { matmul(q, y, a, b, n, n, n, {}); });
  }
  /// Bytes read and written by all threads, each copying its share.
  void measure_copy() {
    int64_t n = 32 << 20;
    View from = floats(n), to = floats(n);
    gb_s = 8e-9 * double(n) / time_of([&] {
             int64_t share = n / omp_get_max_threads();
#pragma omp parallel
             {
               int64_t begin = share * omp_get_thread_num();
               std::memcpy(to.as<float>() + begin, from.as<float>() + begin, std::size_t(share) * sizeof(float));
             }
           });
  }
  /// Ceilings are what was reached at best: they are measured before, between and after the kernels.
  void measure_ceilings() {
    double product = gflops, copy = gb_s;
    measure_product();
    measure_copy();
    keep.clear();
    gflops = std::max(gflops, product);
    gb_s = std::max(gb_s, copy);
  }

  ordered_json rows = ordered_json::array();
  void row(const std::string& name, const std::string& shape, double gflop, double megabytes, const std::function<void()>& work) {
    double seconds = time_of(work);
    bool compute = gflop > 0;
    double rate = compute ? gflop / seconds : 1e-3 * megabytes / seconds;
    rows.push_back({{"name", name},
                    {"shape", shape},
                    {"unit", compute ? "GFLOP/s" : "GB/s"},
                    {"ours", rate},
                    {"ms", 1e3 * seconds},
                    {"threads", omp_get_max_threads()}});
    keep.clear();
  }
  /// Bytes of `tensors` tensors of n floats, in MB.
  static double mb(int64_t n, double tensors) {
    return 4e-6 * double(n) * tensors;
  }

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
      row(std::string("linear forward (") + what + ")", shape, gflop, 0,
          [&] { matmul(q, y, x, w, m, n, k, {.transpose_b = true, .bias = b}); });
      row(std::string("linear, gradient of x (") + what + ")", shape, gflop, 0, [&] { matmul(q, x, y, w, m, k, n, {}); });
      row(std::string("linear, gradient of w (") + what + ")", shape, gflop, 0,
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
      row(std::string("convolution forward (") + what + ")", shape, gflop, 0, [&] { convolution(q, s, y, x, w, {}); });
      row(std::string("convolution, gradient of x (") + what + ")", shape, gflop, 0,
          [&] { convolution_backward_data(q, s, x, y, w, Write::overwrite); });
      row(std::string("convolution, gradient of w (") + what + ")", shape, gflop, 0,
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
      row("attention forward", shape, gflop, 0, [&] { attention(q, s, y, sums, qkv, {}); });
      row("attention backward", shape, 2.5 * gflop, 0, [&] { attention_backward(q, s, dqkv, dy, y, sums, qkv, {}, scratch); });
    }
  }

  void passes() {
    const int64_t rows = 16384, columns = 768, n = rows * columns;
    const std::string shape = "16384 x 768";
    {
      View x = floats(n), r = floats(n), s = floats(n), y = floats(n), w = floats(columns), b = floats(columns),
           mean = floats(rows), rstd = floats(rows), dx = floats(n);
      auto held = keep;
      row("residual + norm", shape, 0, mb(n, 4), [&] { norm(q, Norm::layer, y, s, mean, rstd, x, r, w, b, columns, 1e-5f); });
      row("norm backward", shape, 0, mb(n, 3), [&] {
        norm_backward(q, Norm::layer, dx, w, b, y, x, w, mean, rstd, columns, Write::overwrite, Write::overwrite,
                      Write::overwrite);
      });
      row("gelu", shape, 0, mb(n, 2), [&] { unary(q, Unary::gelu_tanh, y, x); });
      row("gelu backward, in place", shape, 0, mb(n, 3),
          [&] { unary_backward(q, Unary::gelu_tanh, y, y, x, x, Write::overwrite); });
      row("add", shape, 0, mb(n, 3), [&] { binary(q, Binary::add, y, x, r); });
      row("sum of rows (gradient of a bias)", shape, 0, mb(n, 1), [&] { sum_rows(q, b, x, columns, Write::overwrite); });
      row("softmax", shape, 0, mb(n, 2), [&] { softmax(q, y, x, columns); });
    }
    {
      const int64_t tokens = 256, classes = 50257, logits = tokens * classes;
      View x = floats(logits), dx = floats(logits), loss = floats(tokens), sums = floats(tokens), seed = floats(1);
      Tensor targets(device, {tokens}, DType::i32);
      upload(q, targets, std::vector<std::int32_t>(tokens, 7));
      auto held = keep;
      row("softmax and loss", "256 x 50257", 0, mb(logits, 1),
          [&] { cross_entropy(q, loss, sums, x, targets.view(), classes, {}); });
      row("softmax and loss, gradient", "256 x 50257", 0, mb(logits, 2),
          [&] { cross_entropy_backward(q, dx, seed, x, sums, targets.view(), classes, {}, Write::overwrite); });
    }
    {
      const int64_t images = 64 * 32 * 32, channels = 64, size = images * channels;
      View x = floats(size), y = floats(size), dy = floats(size), w = floats(channels), b = floats(channels),
           mean = floats(channels), variance = floats(channels), dw = floats(channels), db = floats(channels);
      auto held = keep;
      row("batch norm + relu", "64 x 32 x 32 x 64", 0, mb(size, 3),
          [&] { batch_norm(q, y, mean, variance, x, w, b, channels, 1e-5f, true); });
      row("batch norm + relu, backward", "64 x 32 x 32 x 64", 0, mb(size, 7), [&] {
        batch_norm_backward(q, dy, dw, db, dy, x, y, w, mean, variance, channels, 1e-5f, true, Write::overwrite, Write::overwrite,
                            Write::overwrite);
      });
      PoolingShape p{.batch = 64, .height = 32, .width = 32, .channels = channels, .window = 2, .stride = 2};
      Tensor index(device, {size / 4}, DType::u8);
      row("max pooling 2 x 2", "64 x 32 x 32 x 64", 0, mb(size, 1.25 + 1. / 16),
          [&] { pooling(q, Pooling::max, p, y.slice(0, size / 4), index.view(), x); });
      row("max pooling 2 x 2, backward", "64 x 32 x 32 x 64", 0, mb(size, 1.25 + 1. / 16),
          [&] { pooling_backward(q, Pooling::max, p, x, y.slice(0, size / 4), index.view(), Write::overwrite); });
    }
    {
      const int64_t size = 32 << 20;
      View weights = floats(size), gradients = floats(size), m = floats(size), v = floats(size),
           scalars = floats(int(Scalar::count)), partials = floats(size / norm_block);
      fill(q, v, 1);
      fill(q, scalars, 0.01f);
      Segment segment{0, size, 1, 0.1f};
      Span span{0, size};
      auto held = keep;
      row("norm of the gradients", "32 Mi", 0, mb(size, 1), [&] { square_sums(q, partials, gradients, &span, 1); });
      row("AdamW + clip", "32 Mi", 0, mb(size, 7), [&] {
        adamw(q, {weights, weights, gradients}, m, v, &segment, 1, scalars, {});
      });
      row("SGD with momentum", "32 Mi", 0, mb(size, 5), [&] {
        sgd(q, {weights, weights, gradients}, m, &segment, 1, scalars, {.momentum = .9f}, false);
      });
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  bench.measure_ceilings();
  if (argc > 1 && std::strcmp(argv[1], "--peaks") == 0) {
    ordered_json peaks = {{"gemm_gflops", std::round(bench.gflops * 10) / 10},
                          {"copy_gb_s", std::round(bench.gb_s * 100) / 100},
                          {"threads", omp_get_max_threads()}};
    std::printf("%s\n", peaks.dump().c_str());
    return 0;
  }
  for (auto part : {&Bench::products, &Bench::images, &Bench::attentions, &Bench::passes}) {
    (bench.*part)();
    bench.measure_ceilings();
  }
  for (auto& row : bench.rows) {
    row["limit"] = row["unit"] == "GB/s" ? bench.gb_s : bench.gflops;
    row["share_of_limit"] = row["ours"].get<double>() / row["limit"].get<double>();
  }
  std::printf("[\n");
  for (std::size_t i = 0; i < bench.rows.size(); ++i)
    std::printf("%s%s\n", bench.rows[i].dump().c_str(), i + 1 < bench.rows.size() ? "," : "");
  std::printf("]\n");
}
