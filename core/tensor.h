#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/memory.h"
#include "kernels/base/view.h"

namespace lockstep {

/// Sizes of the axes, outermost first.
using Shape = std::vector<std::int64_t>;
std::int64_t count(const Shape&);
/// "(2, 3)"
std::string to_text(const Shape&);

struct Parameter;

/// Dense, contiguous values with a shape. Copying a Tensor copies a handle; the memory lives as long as any handle.
/// What the tape needs to know about gradients is kept in the shared body.
class Tensor {
 public:
  Tensor() = default;
  /// New memory from the device's arena, not initialised.
  Tensor(Device&, Shape, DType = DType::f32);
  /// A tensor over memory that someone else owns, or (no data) over memory that is set later: parameters.
  Tensor(Shape, View, Memory owner = {});

  explicit operator bool() const { return bool(body_); }
  /// Throws when an op has taken the memory over (ops::cross_entropy).
  const View& view() const {
    if (body_->taken) throw_taken();
    return body_->value;
  }
  const Shape& shape() const { return body_->shape; }
  std::int64_t size() const { return body_->value.size; }
  DType dtype() const { return body_->value.dtype; }
  /// Size of an axis; negative counts from the last.
  std::int64_t dim(int axis) const { return body_->shape[std::size_t(axis < 0 ? axis + int(body_->shape.size()) : axis)]; }
  /// Product of all axes but the last.
  std::int64_t rows() const { return size() / dim(-1); }
  /// The same memory under another shape of equal count, outside any tape.
  Tensor reshaped(Shape) const;

  struct Body {
    Memory memory;
    View value;
    Shape shape;
    // Gradient state, kept by the tape.
    Memory gradient_memory;
    View gradient;
    bool wants_gradient = false;  ///< set on parameters and on what is computed from them
    bool has_gradient = false;
    bool spare = false;  ///< its maker's gradient does not read the value: a later op that alone does may overwrite it
    bool taken = false;  ///< and has done so
    int pending_uses = 0;
    int contributions = 0;  ///< times into() was asked since the strategy began a lane: uses of a buffer
    Parameter* parameter = nullptr;
  };
  Body* operator->() const { return body_.get(); }
  bool same(const Tensor& other) const { return body_ == other.body_; }

 private:
  [[noreturn]] void throw_taken() const;
  std::shared_ptr<Body> body_;
};

/// Copies values between host vectors and tensors of any device (for tests, examples and files); waits.
void upload(const Queue&, const Tensor& to, const std::vector<float>& from);
void upload(const Queue&, const Tensor& to, const std::vector<std::int32_t>& from);
/// Values as f32, whatever the dtype.
std::vector<float> download(const Queue&, const View& from);
inline std::vector<float> download(const Queue& q, const Tensor& from) {
  return download(q, from.view());
}

}  // namespace lockstep
