#pragma once

#include <string>

#include "tests/emulated/cublaslt/descriptors.h"

namespace emulated::cublaslt {

/// D = epilogue(alpha op(A) op(B) + beta C), with D of m x n and an inner size of k.
struct Problem {
  Operation operation;
  Layout a, b, c, d;
  std::int64_t m, n, k;

  bool has(std::uint32_t part) const { return (operation.epilogue & part) != 0; }
  bool adds_bias() const { return has(CUBLASLT_EPILOGUE_BIAS); }
  bool is_gelu() const { return has(CUBLASLT_EPILOGUE_GELU); }
  bool is_gelu_gradient() const { return has(CUBLASLT_EPILOGUE_DGELU & ~128u); }
  bool uses_aux() const { return has(128); }
  /// Sums for a bias's gradient: of D's rows, or of A or B over the inner size.
  bool sums_result() const { return has(16); }
  bool sums_a() const { return has(CUBLASLT_EPILOGUE_BGRADA); }
  bool sums_b() const { return has(CUBLASLT_EPILOGUE_BGRADB); }
  bool sums() const { return sums_result() || sums_a() || sums_b(); }
};

struct Call {
  Problem problem;
  float alpha, beta;
  const void *a, *b, *c;
  void *d, *workspace;
  std::size_t workspace_bytes;
};

/// What is wrong with the addresses of a call, in a sentence, or "".
std::string wrong_addresses(const Call&);
/// How many products with this epilogue have been given to streams.
int& count_of(std::uint32_t epilogue);
/// Does it: sums are taken in double precision and rounded once, to f32, before the epilogue.
void multiply(const Call&);

}  // namespace emulated::cublaslt
