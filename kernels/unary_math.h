#pragma once

#include "kernels/base/check.h"
#include "kernels/base/math.h"

namespace lockstep {

// To add a unary op: its formula and its slope here, its name in Unary, its line in visit_unary and in name_of,
// and one line in core/ops.h. Tests loop over all_unary.

struct Relu {
  HD static float value(float x) { return x < 0 ? 0 : x; }  // NaN stays NaN
  HD static float slope(float x, float) { return x > 0 ? 1.f : 0.f; }
};
/// x Φ(x), exact (Hendrycks & Gimpel 2016).
struct Gelu {
  HD static float value(float x) { return .5f * x * (1 + math::erf(x * .70710678f)); }
  HD static float slope(float x, float) {
    return .5f * (1 + math::erf(x * .70710678f)) + x * .39894228f * math::exp(-.5f * x * x);
  }
};
/// The tanh approximation of GELU that GPT-2 uses.
struct GeluTanh {
  /// 2 sqrt(2 / pi) (x + 0.044715 x^3): what sigmoid is taken of.
  HD static float inner(float x) { return x * (1.59576912f * .044715f * (x * x) + 1.59576912f); }
  HD static float value(float x) { return x * math::sigmoid(inner(x)); }
  HD static float slope(float x, float) {
    float s = math::sigmoid(inner(x));
    return s + s * (x * (1 - s)) * (3 * 1.59576912f * .044715f * (x * x) + 1.59576912f);
  }
};
struct Sigmoid {
  HD static float value(float x) { return math::sigmoid(x); }
  HD static float slope(float, float y) { return y * (1 - y); }
};
struct Tanh {
  HD static float value(float x) { return math::tanh(x); }
  HD static float slope(float, float y) { return 1 - y * y; }
};
struct Silu {
  HD static float value(float x) { return x * math::sigmoid(x); }
  HD static float slope(float x, float) {
    float s = math::sigmoid(x);
    return s * (1 + x * (1 - s));
  }
};

enum class Unary : std::uint8_t { relu, gelu, gelu_tanh, sigmoid, tanh, silu };
inline constexpr Unary all_unary[] = {Unary::relu, Unary::gelu, Unary::gelu_tanh, Unary::sigmoid, Unary::tanh, Unary::silu};

constexpr const char* name_of(Unary op) {
  switch (op) {
    case Unary::relu: return "relu";
    case Unary::gelu: return "gelu";
    case Unary::gelu_tanh: return "gelu_tanh";
    case Unary::sigmoid: return "sigmoid";
    case Unary::tanh: return "tanh";
    case Unary::silu: return "silu";
  }
  return "?";
}

/// Calls f.operator()<Op>() with the struct of op.
template <class F>
decltype(auto) visit_unary(Unary op, F&& f) {
  switch (op) {
    case Unary::relu: return f.template operator()<Relu>();
    case Unary::gelu: return f.template operator()<Gelu>();
    case Unary::gelu_tanh: return f.template operator()<GeluTanh>();
    case Unary::sigmoid: return f.template operator()<Sigmoid>();
    case Unary::tanh: return f.template operator()<Tanh>();
    case Unary::silu: return f.template operator()<Silu>();
  }
  throw Error("visit_unary: unknown op");
}

}  // namespace lockstep
