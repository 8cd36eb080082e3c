#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lockstep {

/// How a parameter starts. Numbers are keyed by (seed, name, element of the full tensor), so they do not depend on ranks.
struct Initial {
  enum class Kind : std::uint8_t { constant, uniform, normal } kind = Kind::constant;
  float a = 0;  ///< the constant; low; mean
  float b = 0;  ///< unused; high; deviation
  static Initial constant(float value) { return {Kind::constant, value, 0}; }
  static Initial uniform(float low, float high) { return {Kind::uniform, low, high}; }
  static Initial normal(float mean, float deviation) { return {Kind::normal, mean, deviation}; }
  /// Uniform in ±sqrt(3) * gain / sqrt(fan_in): PyTorch's default for Linear and Conv2d has gain sqrt(1/3).
  static Initial kaiming_uniform(std::int64_t fan_in, float gain = 0.57735027f);
  /// Normal with deviation sqrt(2 / fan_out): He et al. 2015, as ResNet uses it.
  static Initial kaiming_normal(std::int64_t fan_out);
};

/// A named tensor that a model owns: a weight that is trained, or a buffer (BatchNorm's running averages).
struct Parameter {
  enum class Role : std::uint8_t { weight, buffer };
  std::string name;
  Tensor value;  ///< what the model computes with; its memory is set by the strategy
  View master;   ///< the f32 original (the same memory as value when that is f32, or in a set without masters)
  Initial initial;
  Role role = Role::weight;
  bool trainable = true;  ///< false before the strategy is made: frozen, owns no gradient memory
  bool decay = true;      ///< weight decay applies (false for norms and biases)
  float momentum = 0;     ///< buffers: running = (1 - momentum) * running + momentum * lane mean
  std::string group;      ///< options of the optimizer by group; "" is the default group
};

/// The parameters of one model in order of creation, which is the order of use in forward. Layers add theirs when constructed.
class ParameterSet {
 public:
  /// `masters`: weights of 16 bits are the rounded values of f32 masters. Without, they are all there is, and an update rounds
  /// them at random (kernels/update.h), which saves 4 of 14 bytes a parameter.
  explicit ParameterSet(Device& device, DType dtype = DType::f32, bool masters = true)
      : device_(device), dtype_(dtype), masters_(masters) {}

  /// A new trained parameter; the name is the module path ("h.0.attn.c_attn.weight") and must be new.
  Tensor add(std::string name, Shape, Initial, bool decay = true);
  /// A new f32 buffer. Its gradient slot receives the lane's statistic; the strategy gives back the mean over lanes.
  Tensor buffer(std::string name, Shape, float initial, float momentum);

  const std::vector<std::unique_ptr<Parameter>>& all() const { return parameters_; }
  Parameter& find(const std::string& name) const;  ///< throws and suggests the nearest name
  Device& device() const { return device_; }
  DType dtype() const { return dtype_; }
  bool masters() const { return masters_; }
  std::int64_t count_elements() const;

  /// Freezes what starts with `prefix` for the whole run: call before the strategy is made.
  void freeze(const std::string& prefix);
  /// Turns gradients off and on for a while (the other half of a GAN); parameters frozen for good stay so.
  void want_gradients(bool);

  /// Writes initial values into masters and weights; memory must be there (Flat, core/flat.h).
  void initialise(std::uint64_t seed);
  /// Of the last initialise(): what updates draw random numbers with.
  std::uint64_t seed() const { return seed_; }

 private:
  Device& device_;
  DType dtype_;
  bool masters_;
  std::uint64_t seed_ = 0;
  std::vector<std::unique_ptr<Parameter>> parameters_;
};

}  // namespace lockstep
