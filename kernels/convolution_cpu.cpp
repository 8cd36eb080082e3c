#include "kernels/convolution_amx_cpu.h"
#include "kernels/convolution_taps_cpu.h"
#include "kernels/matmul_amx_cpu.h"
#include "kernels/memory.h"
#include "kernels/vendor.h"
#include "kernels/vendor_cpu.h"

// Images keep our layout, NHWC, which oneDNN's fastest primitives read as it is. Weights are reordered to the layout that the
// primitive wants; that is small beside the product, while plain weights fall to oneDNN's reference code.

namespace lockstep::kernels::cpu {
namespace {

using dnnl::memory;
using onednn::Desc;

enum class Pass : std::int64_t { forward = 2, data = 3, weights = 4 };

PlanKey key_of(Pass pass, const ConvolutionShape& s, DType x, DType w, bool bias_or_add) {
  return {std::int64_t(pass), s.batch,   s.height,   s.width,  s.in,        s.out,           s.kernel_height, s.kernel_width,
          s.stride,           s.padding, s.dilation, s.groups, bias_or_add, std::int64_t(x), std::int64_t(w)};
}

struct Descs {
  memory::dims x_dims, w_dims, y_dims;
  Desc x, y;  ///< our images
  Desc w;     ///< our weights, as (group, out, in, height, width), or without the group when there is one
  DType dtype;

  Descs(const ConvolutionShape& s, DType dtype, DType w_dtype) : dtype(dtype) {
    x_dims = {s.batch, s.in, s.height, s.width};
    y_dims = {s.batch, s.out, s.out_height(), s.out_width()};
    std::int64_t in = s.in / s.groups, out = s.out / s.groups, tap = s.kernel_width * in, filter = s.kernel_height * tap;
    w_dims = {out, in, s.kernel_height, s.kernel_width};
    memory::dims strides{filter, 1, tap, in};
    if (s.groups > 1) {
      w_dims.insert(w_dims.begin(), s.groups);
      strides.insert(strides.begin(), out * filter);
    }
    x = Desc(x_dims, onednn::type_of(dtype), memory::format_tag::nhwc);
    y = Desc(y_dims, onednn::type_of(dtype), memory::format_tag::nhwc);
    w = Desc(w_dims, onednn::type_of(w_dtype), strides);
  }
  Desc any_weights(DType d) const { return Desc(w_dims, onednn::type_of(d), memory::format_tag::any); }
  /// What to ask oneDNN for: our images, or (`free`) images in any layout.
  onednn::ConvolutionDescs request(const ConvolutionShape& s, bool free, dnnl::algorithm algorithm) const {
    auto any = memory::format_tag::any;
    return {free ? Desc(x_dims, onednn::type_of(dtype), any) : x,
            any_weights(dtype),
            free ? Desc(y_dims, onednn::type_of(dtype), any) : y,
            {s.stride, s.stride},
            {s.dilation - 1, s.dilation - 1},
            {s.padding, s.padding},
            algorithm};
  }
};

/// For errors.
std::string name_of(Pass pass, const ConvolutionShape& s, DType dtype) {
  const char* what = pass == Pass::forward ? "convolution"
                     : pass == Pass::data  ? "gradient of the images of a convolution"
                                           : "gradient of the weights of a convolution";
  return format_text("{} of {} x {} x {} x {} with {} kernels of {} x {} in {}",
                     {what, s.batch, s.height, s.width, s.in, s.out, s.kernel_height, s.kernel_width, lockstep::name_of(dtype)});
}

enum class Way { direct, winograd, taps, amx };

/// Whether pixels meet one pixel only: a product of matrices.
bool is_product(const ConvolutionShape& s) {
  return s.kernel_height == 1 && s.kernel_width == 1 && s.stride == 1 && s.padding == 0 && s.groups == 1;
}

/// The way that pays. Winograd's algorithm (Lavin & Gray 2016): 36 products make a tile of 4 x 4 outputs that takes 144 directly,
/// but weights and images must be turned to its form and back. Costs in products of the direct convolution, fitted to 75 shapes
/// of 32 to 512 channels on one core with AVX-512, where the faster way is from 0.9 to 2.2 times as fast as the other. Small
/// images with many channels go by taps, and so do 1 x 1 kernels, whose one tap is a product, where AMX has it; AMX has other
/// convolutions where Winograd's algorithm does not gain enough. A function of the pass and the shape alone, since results depend
/// on it to the bit.
Way way_of(Pass pass, const ConvolutionShape& s, DType dtype) {
  if (dtype != DType::f32 || s.stride != 1 || s.groups != 1) return Way::direct;
  const std::int64_t all = s.batch * s.height * s.width;
  if (is_product(s)) return amx::suits(all, s.out, s.in) && amx::available() ? Way::taps : Way::direct;
  const double tiles = double(s.batch) * double((s.out_height() + 3) / 4) * double((s.out_width() + 3) / 4),
               pixels = double(s.batch) * double(s.out_height()) * double(s.out_width()), pairs = double(s.in) * double(s.out);
  const double products = 36 * tiles * pairs, weights = 3000 * pairs, images = 2360 * tiles * double(s.in + s.out);
  const bool three = s.kernel_height == 3 && s.kernel_width == 3;
  const double winograd = three && s.dilation == 1 ? products + weights + images : 1e300,
               direct = double(s.kernel_height * s.kernel_width) * pixels * pairs;
  if (three && suits_taps(s, std::min(winograd, direct))) return Way::taps;
  if (suits_amx(s, pass == Pass::weights, std::min(winograd, direct))) return Way::amx;
  return winograd < direct ? Way::winograd : Way::direct;
}

/// The plan that make(free, algorithm) finds: Winograd's where it pays and exists, else with our images, unless that is reference
/// code and free images are not.
template <class Make>
auto best(Pass pass, const ConvolutionShape& s, DType dtype, Make make) {
  constexpr auto direct = dnnl::algorithm::convolution_direct;
  if (way_of(pass, s, dtype) == Way::winograd) try {
      return make(true, dnnl::algorithm::convolution_winograd);
    } catch (const dnnl::error&) {  // this oneDNN or this processor has none: what follows works everywhere
    }
  auto ours = make(false, direct);
  if (std::string(ours.impl_info_str()).find("ref") == std::string::npos) return ours;
  auto free = make(true, direct);
  return std::string(free.impl_info_str()).find("ref") == std::string::npos ? free : ours;
}

void forward(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  CpuLibraries& libraries = *q.cpu;
  auto name = [&] { return name_of(Pass::forward, s, x.dtype); };
  CpuPlan& plan = libraries.plan(key_of(Pass::forward, s, x.dtype, w.dtype, bool(bias)), name, [&] {
    Descs d(s, x.dtype, w.dtype);
    Desc b({s.out}, onednn::type_of(x.dtype), memory::format_tag::x);
    auto made = best(Pass::forward, s, x.dtype, [&](bool free, dnnl::algorithm algorithm) {
      return onednn::convolution(libraries.engine, d.request(s, free, algorithm), bias ? &b : nullptr);
    });
    CpuPlan plan(libraries.engine, dnnl::convolution_forward(made));
    plan.writes(DNNL_ARG_DST, d.y, made.dst_desc())
        .reads(DNNL_ARG_SRC, d.x, made.src_desc())
        .reads(DNNL_ARG_WEIGHTS, d.w, made.weights_desc());
    if (bias) plan.reads(DNNL_ARG_BIAS, b, b);
    return plan;
  });
  if (bias)
    plan.run(libraries.stream, {y.data, x.data, w.data, bias.data});
  else
    plan.run(libraries.stream, {y.data, x.data, w.data});
}

void backward_data(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w) {
  CpuLibraries& libraries = *q.cpu;
  auto name = [&] { return name_of(Pass::data, s, dx.dtype); };
  CpuPlan& plan = libraries.plan(key_of(Pass::data, s, dx.dtype, w.dtype, false), name, [&] {
    Descs d(s, dx.dtype, w.dtype);
    auto made = best(Pass::data, s, dx.dtype, [&](bool free, dnnl::algorithm algorithm) {
      return onednn::convolution_backward_data(libraries.engine, d.request(s, free, algorithm));
    });
    CpuPlan plan(libraries.engine, dnnl::convolution_backward_data(made));
    plan.writes(DNNL_ARG_DIFF_SRC, d.x, made.diff_src_desc())
        .reads(DNNL_ARG_DIFF_DST, d.y, made.diff_dst_desc())
        .reads(DNNL_ARG_WEIGHTS, d.w, made.weights_desc());
    return plan;
  });
  plan.run(libraries.stream, {dx.data, dy.data, w.data});
}

void backward_weights(const Queue& q, const ConvolutionShape& s, View dw, View dy, View x) {
  CpuLibraries& libraries = *q.cpu;
  auto name = [&] { return name_of(Pass::weights, s, x.dtype); };
  CpuPlan& plan = libraries.plan(key_of(Pass::weights, s, x.dtype, dw.dtype, false), name, [&] {
    Descs d(s, x.dtype, dw.dtype);
    auto made = best(Pass::weights, s, x.dtype, [&](bool free, dnnl::algorithm algorithm) {
      return onednn::convolution_backward_weights(libraries.engine, d.request(s, free, algorithm), d.any_weights(dw.dtype));
    });
    CpuPlan plan(libraries.engine, dnnl::convolution_backward_weights(made));
    plan.writes(DNNL_ARG_DIFF_WEIGHTS, d.w, made.diff_weights_desc())
        .reads(DNNL_ARG_DIFF_DST, d.y, made.diff_dst_desc())
        .reads(DNNL_ARG_SRC, d.x, made.src_desc());
    return plan;
  });
  plan.run(libraries.stream, {dw.data, dy.data, x.data});
}

/// Runs compute(to) so that its result is added to y: oneDNN's convolution gradients only overwrite.
template <class Compute>
void write_or_add(const Queue& q, View y, Write write, Compute compute) {
  if (write == Write::overwrite) return compute(y);
  View sum{q.cpu->workspace(1, y.size), y.size, y.dtype};
  compute(sum);
  add(q, y, y, sum);
}

}  // namespace

void convolution(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  const Way way = way_of(Pass::forward, s, x.dtype);
  if (way == Way::amx) return convolution_by_amx(q, s, y, x, w, bias);
  if (way == Way::taps) return convolution_by_taps(q, s, y, x, w, bias);
  if (q.cpu->computes_in(x.dtype)) return forward(q, s, y, x, w, bias);
  FloatCopy fx(q, x, true), fw(q, w, true), fb(q, bias, true), fy(q, y, false);
  forward(q, s, fy.view(), fx.view(), fw.view(), bias ? fb.view() : View{});
  fy.write_back();
}

void convolution_backward_data(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w, Write write) {
  const Way way = way_of(Pass::data, s, dx.dtype);
  if (way == Way::amx) return convolution_backward_data_by_amx(q, s, dx, dy, w, write);
  if (way == Way::taps) return convolution_backward_data_by_taps(q, s, dx, dy, w, write);
  write_or_add(q, dx, write, [&](View to) {
    if (q.cpu->computes_in(dx.dtype)) return backward_data(q, s, to, dy, w);
    FloatCopy fy(q, dy, true), fw(q, w, true), fx(q, to, false);
    backward_data(q, s, fx.view(), fy.view(), fw.view());
    fx.write_back();
  });
}

void convolution_backward_weights(const Queue& q, const ConvolutionShape& s, View dw, View dy, View x, Write write) {
  const Way way = way_of(Pass::weights, s, x.dtype);
  if (way == Way::amx) return convolution_backward_weights_by_amx(q, s, dw, dy, x, write);
  if (way == Way::taps) return convolution_backward_weights_by_taps(q, s, dw, dy, x, write);
  write_or_add(q, dw, write, [&](View to) {
    if (q.cpu->computes_in(x.dtype)) return backward_weights(q, s, to, dy, x);
    FloatCopy fy(q, dy, true), fx(q, x, true), fw(q, to, false);
    backward_weights(q, s, fw.view(), fy.view(), fx.view());
    fw.write_back();
  });
}

}  // namespace lockstep::kernels::cpu
