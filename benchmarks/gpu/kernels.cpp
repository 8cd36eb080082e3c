// How near does each GPU kernel come to what this GPU can do? One JSON list: for each kernel of a GPT-2 124M step at 64 x 1024
// tokens and of a ResNet-50 step at 256 images its rate, and its share of a plain copy's bandwidth or of the rate of a large
// product of random numbers, both measured in the same run. Times are of calls in a row, by their number: what a step sees.
//
//     gpu_kernels                     bf16 on the GPU
//     gpu_kernels --device cpu --scale 64     the same calls on 1/64 of the rows, to try them out

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
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/norm.h"
#include "kernels/pooling.h"
#include "kernels/reduce.h"
#include "kernels/unary.h"
#include "kernels/update.h"
#include "launch/session.h"

using namespace lockstep;
using namespace lockstep::kernels;
using nlohmann::ordered_json;
using std::int64_t;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Bench {
  Device device;
  int64_t scale;
  const Queue& q = device.queue();
  double tflops = 0, gb_s = 0;  ///< ceilings
  std::vector<Tensor> keep = {};
  ordered_json rows = ordered_json::array();

  View values(int64_t n, DType type = DType::bf16) {
    keep.emplace_back(device, Shape{n}, type);
    View v = keep.back().view();
    uniform(q, v, -1, 1, RandomKey{1, 0, 0, std::uint32_t(keep.size())});
    return v;
  }
  View floats(int64_t n) { return values(n, DType::f32); }
  View indices(int64_t n, int64_t below) {
    std::vector<std::int32_t> list(static_cast<std::size_t>(n));
    for (int64_t i = 0; i < n; ++i)
      list[std::size_t(i)] = std::int32_t(random_word({3, 0, 0, 0}, std::uint64_t(i)) % std::uint64_t(below));
    keep.emplace_back(device, Shape{n}, DType::i32);
    upload(q, keep.back(), list);
    return keep.back().view();
  }

  /// Median over rounds of the seconds of a call among several in a row.
  double time_of(const std::function<void()>& work) {
    work();
    synchronize(q);
    double begun = now();
    work();
    synchronize(q);
    int calls = int(std::clamp(0.02 / (now() - begun), 1.0, 50.0));
    std::vector<double> times;
    for (int round = 0; round < 7; ++round) {
      begun = now();
      for (int i = 0; i < calls; ++i) work();
      synchronize(q);
      times.push_back((now() - begun) / calls);
    }
    std::ranges::nth_element(times, times.begin() + 3);
    return times[3];
  }
  void measure_ceilings() {
    int64_t n = scale == 1 ? 8192 : 512, bytes = (int64_t(2) << 30) / scale;
    View a = values(n * n), b = values(n * n), y = values(n * n);
    tflops = 2e-12 * double(n * n * n) / time_of([&] { matmul(q, y, a, b, n, n, n, {}); });
    View from = floats(bytes / 4), to = floats(bytes / 4);
    gb_s = 2e-9 * double(bytes) / time_of([&] { copy(q, to, from); });
    keep.clear();
  }
  /// `work` does so many operations (FLOP), or moves so many bytes.
  void row(const std::string& name, const std::string& shape, double flop, double bytes, const std::function<void()>& work) {
    ordered_json line = {{"name", name}, {"shape", shape}};
    try {
      double seconds = time_of(work);
      bool compute = flop > 0;
      double rate = compute ? 1e-12 * flop / seconds : 1e-9 * bytes / seconds, limit = compute ? tflops : gb_s;
      line.update({{"unit", compute ? "TFLOP/s" : "GB/s"},
                   {"ours", rate},
                   {"limit", limit},
                   {"share_of_limit", rate / limit},
                   {"ms", 1e3 * seconds}});
    } catch (const Error& error) {
      line["error"] = error.what();
    }
    std::printf("%s%s\n", rows.empty() ? "" : ",", line.dump().c_str());
    std::fflush(stdout);
    rows.push_back(line);
  }

  void products(int64_t tokens) {
    struct Size {
      int64_t n, k;
      const char* what;
    };
    for (auto [n, k, what] : {Size{2304, 768, "qkv"}, Size{768, 768, "attention's projection"}, Size{3072, 768, "fc"},
                              Size{768, 3072, "projection"}, Size{50304, 768, "head"}}) {
      std::string shape = std::to_string(tokens) + " x " + std::to_string(n) + " x " + std::to_string(k);
      View x = values(tokens * k), w = values(n * k), y = values(tokens * n), b = values(n), dw = floats(n * k);
      double flop = 2 * double(tokens * n * k);
      row(std::string("linear forward, ") + what, shape, flop, 0,
          [&] { matmul(q, y, x, w, tokens, n, k, {.transpose_b = true, .bias = b}); });
      row(std::string("linear, gradient of x, ") + what, shape, flop, 0, [&] { matmul(q, x, y, w, tokens, k, n, {}); });
      row(std::string("linear, gradient of w in f32, ") + what, shape, flop, 0,
          [&] { matmul(q, dw, y, x, n, k, tokens, {.transpose_a = true}); });
      View db = floats(n);
      row(std::string("linear, gradient of w and bias in f32, ") + what, shape, flop, 0,
          [&] { matmul(q, dw, y, x, n, k, tokens, {.transpose_a = true, .bias_gradient = db}); });
      keep.clear();
    }
    // The MLP's products with what joins them, to be compared with those above and GELU's passes alone.
    const int64_t width = 768, hidden = 3072;
    View x = values(tokens * width), w = values(hidden * width), h = values(tokens * hidden), b = values(hidden);
    View before = values(tokens * hidden), db = values(hidden);
    double flop = 2 * double(tokens * hidden * width);
    Slope slope{Unary::gelu_tanh, before, h};
    std::string shape = std::to_string(tokens) + " x " + std::to_string(hidden) + " x " + std::to_string(width);
    row("linear forward with GELU, fc", shape, flop, 0, [&] {
      matmul(q, h, x, w, tokens, hidden, width,
             {.transpose_b = true, .bias = b, .activation = Unary::gelu_tanh, .kept = before});
    });
    View d = values(tokens * hidden), v = values(width * hidden);
    row("linear, gradient of x with GELU's slope, projection", shape, flop, 0,
        [&] { matmul(q, d, x, v, tokens, hidden, width, {.slope = slope}); });
    row("linear, gradient of x with GELU's slope and bias in bf16, projection", shape, flop, 0,
        [&] { matmul(q, d, x, v, tokens, hidden, width, {.slope = slope, .bias_gradient = db}); });
    keep.clear();
  }
  void attentions(int64_t batch) {
    AttentionShape s{batch, 1024, 12, 64};
    std::string shape = std::to_string(batch) + " x 1024, 12 heads of 64";
    int64_t n = batch * s.length * s.width();
    View qkv = values(3 * n), y = values(n), sums = floats(batch * s.heads * s.length), dqkv = values(3 * n), dy = values(n);
    View scratch = floats(int64_t(attention_scratch(s)) / 4 + 64);
    scratch = {scratch.data, scratch.size * 4, DType::u8};
    double flop = 2 * double(batch * s.heads * s.length * s.length * s.size);  // two products, half of them masked
    row("attention forward", shape, flop, 0, [&] { attention(q, s, y, sums, qkv, {}); });
    row("attention backward", shape, 2.5 * flop, 0, [&] { attention_backward(q, s, dqkv, dy, y, sums, qkv, {}, scratch); });
    keep.clear();
  }
  void passes(int64_t tokens) {
    const int64_t columns = 768, n = tokens * columns, wide = 4 * n;
    const std::string shape = std::to_string(tokens) + " x 768", wider = std::to_string(tokens) + " x 3072";
    View x = values(wide), r = values(n), s = values(n), y = values(wide), w = values(columns), b = values(columns),
         mean = floats(tokens), rstd = floats(tokens), dx = values(wide), dw = floats(columns), db = floats(3072);
    View xn = x.slice(0, n), yn = y.slice(0, n), dxn = dx.slice(0, n);
    row("residual + norm", shape, 0, 2. * double(n) * 4,
        [&] { norm(q, Norm::layer, yn, s, mean, rstd, xn, r, w, b, columns, 1e-5f); });
    row("norm backward", shape, 0, 2. * double(n) * 3, [&] {
      norm_backward(q, Norm::layer, dxn, dw, db.slice(0, columns), yn, xn, w, mean, rstd, columns, Write::overwrite,
                    Write::overwrite, Write::overwrite);
    });
    row("gelu", wider, 0, 2. * double(wide) * 2, [&] { unary(q, Unary::gelu_tanh, y, x); });
    row("gelu backward", wider, 0, 2. * double(wide) * 3,
        [&] { unary_backward(q, Unary::gelu_tanh, dx, y, x, x, Write::overwrite); });
    row("sum of rows (gradient of a bias)", wider, 0, 2. * double(wide), [&] { sum_rows(q, db, x, 3072, Write::overwrite); });
    row("add", shape, 0, 2. * double(n) * 3, [&] { binary(q, Binary::add, yn, xn, r); });
    keep.clear();

    const int64_t classes = 50304;
    View logits = values(tokens * classes), dlogits = values(tokens * classes), loss = floats(tokens), sums = floats(tokens),
         seed = floats(1);
    View targets = indices(tokens, 50257);
    const std::string head = std::to_string(tokens) + " x 50304";
    row("softmax and loss", head, 0, 2. * double(tokens * classes),
        [&] { cross_entropy(q, loss, sums, logits, targets, classes, {}); });
    row("softmax and loss, gradient", head, 0, 4. * double(tokens * classes),
        [&] { cross_entropy_backward(q, dlogits, seed, logits, sums, targets, classes, {}, Write::overwrite); });
    row("softmax, loss and gradient in place", head, 0, 4. * double(tokens * classes),
        [&] { cross_entropy_in_place(q, loss, logits, seed, targets, classes, {}); });
    keep.clear();

    const int64_t size = (int64_t(124) << 20) / scale;
    View weights = values(size), master = floats(size), gradients = floats(size), m = floats(size), v = floats(size),
         scalars = floats(int(Scalar::count)), partials = floats((size + norm_block - 1) / norm_block);
    fill(q, v, 1);
    fill(q, scalars, 0.01f);
    Tensor tables(device, {2, std::int64_t(table_bytes(1))}, DType::u8);
    Segment segment{0, size, 1, 0.1f};
    Span span{0, size};
    View table = tables.view().slice(0, tables.dim(1));
    auto segments = lay_out(q, table, &segment, 1);
    auto spans = lay_out(q, tables.view().slice(tables.dim(1), tables.dim(1)), &span, 1);
    row("norm of the gradients", std::to_string(size), 0, 4. * double(size), [&] { square_sums(q, partials, gradients, spans); });
    row("AdamW + clip", std::to_string(size), 0, double(size) * (4 * 7 + 2), [&] {
      adamw(q, {weights, master, gradients}, m, v, segments, scalars, {});
    });
    keep.clear();
  }
  void images(int64_t batch) {
    for (ConvolutionShape s :
         {ConvolutionShape{batch, 224, 224, 3, 64, 7, 7, 2, 3}, ConvolutionShape{batch, 56, 56, 64, 64, 3, 3, 1, 1},
          ConvolutionShape{batch, 56, 56, 64, 256, 1, 1, 1, 0}, ConvolutionShape{batch, 28, 28, 128, 128, 3, 3, 1, 1},
          ConvolutionShape{batch, 14, 14, 256, 256, 3, 3, 1, 1}, ConvolutionShape{batch, 14, 14, 1024, 256, 1, 1, 1, 0},
          ConvolutionShape{batch, 7, 7, 512, 512, 3, 3, 1, 1}}) {
      std::string shape = std::to_string(s.batch) + " x " + std::to_string(s.height) + " x " + std::to_string(s.width) + " x " +
                          std::to_string(s.in) + " -> " + std::to_string(s.out) + ", " + std::to_string(s.kernel_height) + " x " +
                          std::to_string(s.kernel_width);
      int64_t taps = s.kernel_height * s.kernel_width;
      View x = values(s.batch * s.height * s.width * s.in), w = values(s.out * taps * s.in),
           y = values(s.batch * s.out_height() * s.out_width() * s.out), dw = floats(s.out * taps * s.in);
      double flop = 2 * double(y.size * taps * s.in);
      row("convolution forward", shape, flop, 0, [&] { convolution(q, s, y, x, w, {}); });
      row("convolution, gradient of x", shape, flop, 0, [&] { convolution_backward_data(q, s, x, y, w, Write::overwrite); });
      row("convolution, gradient of w in f32", shape, flop, 0,
          [&] { convolution_backward_weights(q, s, dw, y, x, Write::overwrite); });
      keep.clear();
    }
    for (int64_t channels : {64, 256}) {
      const int64_t size = batch * 56 * 56 * channels;
      const std::string shape = std::to_string(batch) + " x 56 x 56 x " + std::to_string(channels);
      View x = values(size), y = values(size), dy = values(size), dx = values(size), w = values(channels), b = values(channels),
           mean = floats(channels), variance = floats(channels), dw = floats(channels), db = floats(channels);
      row("batch norm + relu", shape, 0, 2. * double(size) * 3,
          [&] { batch_norm(q, y, mean, variance, x, w, b, channels, 1e-5f, true); });
      row("batch norm + relu, backward", shape, 0, 2. * double(size) * 5, [&] {
        batch_norm_backward(q, dx, dw, db, dy, x, w, b, mean, variance, channels, 1e-5f, true, Write::overwrite, Write::overwrite,
                            Write::overwrite);
      });
      keep.clear();
    }
    const int64_t size = batch * 112 * 112 * 64;
    PoolingShape p{.batch = batch, .height = 112, .width = 112, .channels = 64, .window = 3, .stride = 2, .padding = 1};
    View x = values(size), y = values(size / 4);
    keep.emplace_back(device, Shape{size / 4}, DType::u8);
    View index = keep.back().view();
    const std::string shape = std::to_string(batch) + " x 112 x 112 x 64";
    row("max pooling 3 x 3", shape, 0, double(size) * (2 + 0.5 + 0.25), [&] { pooling(q, Pooling::max, p, y, index, x); });
    row("max pooling 3 x 3, backward", shape, 0, double(size) * (2 + 0.5 + 0.25),
        [&] { pooling_backward(q, Pooling::max, p, x, y, index, Write::overwrite); });
    keep.clear();
  }
};

}  // namespace

int main(int argc, char** argv) {
  return launch::guarded([&] {
    DeviceKind kind = DeviceKind::cuda;
    int64_t scale = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
      if (std::strcmp(argv[i], "--device") == 0) kind = std::strcmp(argv[i + 1], "cpu") == 0 ? DeviceKind::cpu : DeviceKind::cuda;
      if (std::strcmp(argv[i], "--scale") == 0) scale = std::atoll(argv[i + 1]);
    }
    Bench bench{.device = Device(kind), .scale = scale};
    bench.measure_ceilings();
    std::printf("[\n");
    bench.products(65536 / scale);
    bench.attentions(std::max<int64_t>(1, 64 / scale));
    bench.passes(65536 / scale);
    bench.images(std::max<int64_t>(1, 256 / scale));
    std::printf("]\n");
    return 0;
  });
}
