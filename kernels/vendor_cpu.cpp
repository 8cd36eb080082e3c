#include "kernels/vendor_cpu.h"

#include <omp.h>

#include "kernels/memory.h"
#include "kernels/vendor.h"

namespace lockstep {

std::shared_ptr<CpuLibraries> make_cpu_libraries() {
  return std::make_shared<CpuLibraries>();
}

namespace {
/// Whether oneDNN multiplies matrices of a type, and not by its reference code.
bool multiplies(const dnnl::engine& engine, DType dtype) try {
  const onednn::Desc square({16, 16}, onednn::type_of(dtype), dnnl::memory::format_tag::ab);
  const auto made = onednn::matmul(engine, square, square, nullptr, square, {});
  return std::string(made.impl_info_str()).find("ref") == std::string::npos;
} catch (const dnnl::error&) {
  return false;
}
}  // namespace

CpuLibraries::CpuLibraries() : bf16_(multiplies(engine, DType::bf16)), f16_(multiplies(engine, DType::f16)) {}

int CpuLibraries::threads() {
  return omp_get_max_threads();
}

float* CpuWorkspace::operator()(int threads, std::int64_t floats_each) {
  std::size_t bytes = (std::size_t(threads) * std::size_t(floats_each) * sizeof(float) + 63) / 64 * 64;
  if (bytes > bytes_) {
    memory_.reset();
    bytes_ = 0;
    memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    require(bool(memory_), "out of memory: {} bytes of CPU workspace", bytes);
    bytes_ = bytes;
  }
  return memory_.get();
}

float* kernels::cpu::workspace(const Queue& q, std::int64_t floats) {
  return q.cpu->workspace(1, floats);
}

CpuPlan::Argument& CpuPlan::add(int id, const dnnl::memory::desc& ours, const dnnl::memory::desc& theirs) {
  Argument& a = arguments_.emplace_back();
  a.ours = dnnl::memory(ours, engine_, nullptr);
  a.theirs = ours == theirs ? a.ours : dnnl::memory(theirs, engine_);
  handles_[id] = a.theirs;
  return a;
}

CpuPlan& CpuPlan::reads(int id, const dnnl::memory::desc& ours, const dnnl::memory::desc& theirs) {
  Argument& a = add(id, ours, theirs);
  if (ours != theirs) a.before = dnnl::reorder(a.ours, a.theirs);
  return *this;
}

CpuPlan& CpuPlan::writes(int id, const dnnl::memory::desc& ours, const dnnl::memory::desc& theirs) {
  Argument& a = add(id, ours, theirs);
  if (ours != theirs) a.after = dnnl::reorder(a.theirs, a.ours);
  return *this;
}

void CpuPlan::run(dnnl::stream& stream, std::initializer_list<void*> data) {
  require(data.size() == arguments_.size(), "CpuPlan::run: {} arguments, not {}", data.size(), arguments_.size());
  auto next = data.begin();
  for (Argument& a : arguments_) {
    a.ours.set_data_handle(*next++);
    if (a.before) a.before.execute(stream, a.ours, a.theirs);
  }
  primitive_.execute(stream, handles_);
  for (Argument& a : arguments_)
    if (a.after) a.after.execute(stream, a.theirs, a.ours);
  stream.wait();
}

FloatCopy::FloatCopy(const Queue& q, View original, bool read)
    : queue_(q), original_(original), values_(std::size_t(original.size)) {
  if (read && original) kernels::cast(q, view(), original);
}
void FloatCopy::write_back() {
  if (original_) kernels::cast(queue_, original_, view());
}

namespace onednn {

dnnl::memory::data_type type_of(DType d) {
  using Type = dnnl::memory::data_type;
  return d == DType::f32 ? Type::f32 : d == DType::bf16 ? Type::bf16 : Type::f16;
}

namespace {
constexpr auto training = dnnl::prop_kind::forward_training;
}  // namespace

#if DNNL_VERSION_MAJOR < 3

void append_eltwise(dnnl::post_ops& ops, dnnl::algorithm a, float alpha) {
  ops.append_eltwise(1.f, a, alpha, 0.f);
}

dnnl::matmul::primitive_desc matmul(const dnnl::engine& e, const Desc& a, const Desc& b, const Desc* bias, const Desc& y,
                                    const dnnl::primitive_attr& attributes) {
  return {bias ? dnnl::matmul::desc(a, b, *bias, y) : dnnl::matmul::desc(a, b, y), attributes, e};
}

dnnl::convolution_forward::primitive_desc convolution(const dnnl::engine& e, const ConvolutionDescs& d, const Desc* bias) {
  using Op = dnnl::convolution_forward;
  return {bias ? Op::desc(training, d.algorithm, d.x, d.w, *bias, d.y, d.strides, d.dilations, d.padding, d.padding)
               : Op::desc(training, d.algorithm, d.x, d.w, d.y, d.strides, d.dilations, d.padding, d.padding),
          e};
}

dnnl::convolution_backward_data::primitive_desc convolution_backward_data(const dnnl::engine& e, const ConvolutionDescs& d) {
  return {{d.algorithm, d.x, d.w, d.y, d.strides, d.dilations, d.padding, d.padding}, e, convolution(e, d, nullptr)};
}

dnnl::convolution_backward_weights::primitive_desc convolution_backward_weights(const dnnl::engine& e, const ConvolutionDescs& d,
                                                                                const Desc& dw) {
  return {{d.algorithm, d.x, dw, d.y, d.strides, d.dilations, d.padding, d.padding}, e, convolution(e, d, nullptr)};
}

#else

void append_eltwise(dnnl::post_ops& ops, dnnl::algorithm a, float alpha) {
  ops.append_eltwise(a, alpha, 0.f);
}

dnnl::matmul::primitive_desc matmul(const dnnl::engine& e, const Desc& a, const Desc& b, const Desc* bias, const Desc& y,
                                    const dnnl::primitive_attr& attributes) {
  return bias ? dnnl::matmul::primitive_desc(e, a, b, *bias, y, attributes)
              : dnnl::matmul::primitive_desc(e, a, b, y, attributes);
}

dnnl::convolution_forward::primitive_desc convolution(const dnnl::engine& e, const ConvolutionDescs& d, const Desc* bias) {
  using Plan = dnnl::convolution_forward::primitive_desc;
  return bias ? Plan(e, training, d.algorithm, d.x, d.w, *bias, d.y, d.strides, d.dilations, d.padding, d.padding)
              : Plan(e, training, d.algorithm, d.x, d.w, d.y, d.strides, d.dilations, d.padding, d.padding);
}

dnnl::convolution_backward_data::primitive_desc convolution_backward_data(const dnnl::engine& e, const ConvolutionDescs& d) {
  return {e, d.algorithm, d.x, d.w, d.y, d.strides, d.dilations, d.padding, d.padding, convolution(e, d, nullptr)};
}

dnnl::convolution_backward_weights::primitive_desc convolution_backward_weights(const dnnl::engine& e, const ConvolutionDescs& d,
                                                                                const Desc& dw) {
  return {e, d.algorithm, d.x, dw, d.y, d.strides, d.dilations, d.padding, d.padding, convolution(e, d, nullptr)};
}

#endif

}  // namespace onednn
}  // namespace lockstep
