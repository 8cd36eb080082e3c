#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lockstep::test {

/// One tensor of a golden file: values by PyTorch in float64, stored as f32; inputs are exact in bf16.
struct GoldenTensor {
  Shape shape;
  std::vector<float> values;
  std::vector<std::int32_t> integers() const { return {values.begin(), values.end()}; }
};

/// One case: named tensors and attributes.
struct GoldenCase {
  std::string name;
  std::map<std::string, GoldenTensor> tensors;
  std::map<std::string, std::string> attributes;

  bool has(const std::string& tensor) const { return tensors.contains(tensor); }
  const GoldenTensor& operator[](const std::string& tensor) const;  ///< throws when it is not there
  const std::string& text(const std::string& attribute) const;
  double number(const std::string& attribute) const;
  double number(const std::string& attribute, double otherwise) const;
  /// The tensor on a device, rounded to `dtype`.
  Tensor load(Device&, const std::string& tensor, DType dtype = DType::f32) const;
  /// The same for i32.
  Tensor load_integers(Device&, const std::string& tensor) const;
};

/// The cases of tests/golden/<name>.safetensors, made by tests/golden/make.py.
std::vector<GoldenCase> read_golden(const std::string& name);

/// The bound that results must keep against golden values, as relative norm.
inline double golden_tolerance(DType d) {
  return d == DType::f32 ? 1e-5 : d == DType::bf16 ? 1e-2 : 5e-3;
}

}  // namespace lockstep::test
