#include "core/tensor.h"

#include <cstring>

#include "kernels/memory.h"

namespace lockstep {

std::int64_t count(const Shape& shape) {
  std::int64_t n = 1;
  for (auto d : shape) n *= d;
  return n;
}

std::string to_text(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

Tensor::Tensor(Device& device, Shape shape, DType dtype) : body_(std::make_shared<Body>()) {
  auto n = count(shape);
  body_->memory = device.arena().allocate(std::size_t(n) * size_of(dtype));
  body_->value = {body_->memory.get(), n, dtype};
  body_->shape = std::move(shape);
}

Tensor::Tensor(Shape shape, View view, Memory owner) : body_(std::make_shared<Body>()) {
  view.size = count(shape);
  body_->memory = std::move(owner);
  body_->value = view;
  body_->shape = std::move(shape);
}

void Tensor::throw_taken() const {
  throw Error(
      "a tensor of shape " + to_text(shape()) +
          " cannot be read: it was given away to a loss that turned it into its gradient; pass it without std::move, or read "
          "it before",
      Exit::usage);
}

Tensor Tensor::reshaped(Shape shape) const {
  require(count(shape) == size(), "reshape: {} cannot become {}", to_text(this->shape()), to_text(shape));
  return Tensor(std::move(shape), view(), body_->memory);
}

void upload(const Queue& q, const Tensor& to, const std::vector<float>& from) {
  require(std::int64_t(from.size()) == to.size(), "upload: {} values for a tensor {}", from.size(), to_text(to.shape()));
  View source{const_cast<float*>(from.data()), to.size(), DType::f32};
  Memory staging;
  if (to.dtype() != DType::f32) {
    staging = host_memory(to.view().bytes());
    View converted{staging.get(), to.size(), to.dtype()};
    kernels::cast(Queue{}, converted, source);
    source = converted;
  }
  kernels::copy(q, to.view(), source);
  kernels::synchronize(q);
}

void upload(const Queue& q, const Tensor& to, const std::vector<std::int32_t>& from) {
  require(std::int64_t(from.size()) == to.size() && to.dtype() == DType::i32, "upload: {} integers for a tensor {} of {}",
          from.size(), to_text(to.shape()), name_of(to.dtype()));
  kernels::copy(q, to.view(), View{const_cast<std::int32_t*>(from.data()), to.size(), DType::i32});
  kernels::synchronize(q);
}

std::vector<float> download(const Queue& q, const View& from) {
  Memory staging = host_memory(from.bytes());
  View host{staging.get(), from.size, from.dtype};
  kernels::copy(q, host, from);
  kernels::synchronize(q);
  std::vector<float> values(std::size_t(from.size), 0.f);
  kernels::cast(Queue{}, View{values.data(), from.size, DType::f32}, host);
  return values;
}

}  // namespace lockstep
