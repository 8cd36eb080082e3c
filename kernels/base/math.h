#pragma once

// exp, log, tanh, erf, sine and cosine in f32 without branches or library calls, so that compilers vectorise the loops that use
// them and both devices compute the same polynomials. Errors are at most a few units in the last place over the ranges stated.

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/base/hd.h"

namespace lockstep::math {

/// e^x = 2^k * p with p in [0.7, 1.42]: Cody-Waite reduction, and a minimax polynomial with a relative error of 3e-9. Its terms
/// are paired (Estrin), which halves the way from x to p: processors work on few numbers at a time when that is long.
struct ScaledExp {
  float p;
  std::uint32_t k;  ///< in the place of a float's exponent
  HD explicit ScaledExp(float x) {
    float n = x * 1.44269504f + 12582912.f;  // rounds to an integer in the low bits
    k = std::bit_cast<std::uint32_t>(n) << 23;
    n -= 12582912.f;
    float r = x - n * 0.693359375f;
    r -= n * -2.12194440e-4f;
    float z = r * r;
    float low = 1.6666518939e-1f * r + 4.9999993333e-1f, high = 8.3689217920e-3f * r + 4.1668407975e-2f;
    high = 1.3814174039e-3f * z + high;
    low = high * z + low;
    p = low * z + r + 1.f;
  }
};

/// e^x. Below -87.3 the result is 0 (no denormals), above 88.72 infinity.
HD float exp(float x) {
  ScaledExp e(x);
  float y = std::bit_cast<float>(std::bit_cast<std::uint32_t>(e.p) + e.k);  // k reaches 128, which is no float's exponent
  y = x < -87.3f ? 0.f : y;
  return x <= 88.72f ? y : x + std::bit_cast<float>(0x7f800000);  // NaN stays NaN
}

/// The same for x <= 88, which need not look at the upper end: softmax, sigmoid and the like have x <= 0.
HD float exp_nonpositive(float x) {
  ScaledExp e(x);
  float y = e.p * std::bit_cast<float>(e.k + 0x3f800000u);
  return x < -87.3f ? 0.f : y;
}

/// Natural logarithm of a positive finite number that is not denormal; -infinity at 0, NaN below, infinity at infinity. Cephes
/// logf.
HD float log(float x) {
  auto bits = std::bit_cast<std::uint32_t>(x);
  // x = m * 2^k with m in [sqrt(1/2), sqrt(2))
  std::int32_t k = std::int32_t(bits - 0x3F3504F3u) >> 23;
  float m = std::bit_cast<float>(bits - std::uint32_t(k) * 0x00800000u) - 1;
  float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float n = float(k);
  float y = p * m * z - 2.12194440e-4f * n - .5f * z;
  y = m + y + 0.693359375f * n;
  y = x == 0 ? std::bit_cast<float>(0xff800000) : y;
  y = x > 3.402823466e38f ? x : y;
  return x >= 0 ? y : std::bit_cast<float>(0x7fc00000);
}

struct SineCosine {
  float sine, cosine;
};
/// sin(2 pi t) and cos(2 pi t) for t in [0, 1]: Cephes sinf and cosf on the eighth of a turn around the nearest quarter.
HD SineCosine sine_cosine_turns(float t) {
  float q = 4 * t + 12582912.f;  // rounds to an integer in the low bits
  std::int32_t quarter = std::bit_cast<std::int32_t>(q) - 0x4B400000;
  float r = (t - (q - 12582912.f) * .25f) * 6.28318531f;
  float z = r * r;
  float s = -1.9515295891e-4f;
  s = s * z + 8.3321608736e-3f;
  s = s * z - 1.6666654611e-1f;
  s = s * z * r + r;
  float c = 2.443315711809948e-5f;
  c = c * z - 1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  c = c * z * z - .5f * z + 1;
  bool odd = quarter & 1;
  float sine = odd ? c : s, cosine = odd ? s : c;
  return {quarter & 2 ? -sine : sine, (quarter + 1) & 2 ? -cosine : cosine};
}

/// tanh by a polynomial near zero (Cephes tanhf) and (1 - e^-2|x|) / (1 + e^-2|x|) elsewhere.
HD float tanh(float x) {
  float a = std::fabs(x);
  float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  float small = p * z * x + x;
  float e = exp_nonpositive(-2 * a);
  float big = (1 - e) / (1 + e);
  big = x < 0 ? -big : big;
  return a < 0.625f ? small : big;
}

/// 1 / (1 + e^-x) with e^-|x|, which does not overflow.
HD float sigmoid(float x) {
  float e = exp_nonpositive(-std::fabs(x));
  return (x < 0 ? e : 1.f) / (1 + e);
}

/// erf on [-4, 4] as a ratio of odd and even polynomials (the rational minimax form used by Eigen and XLA), clamped outside.
HD float erf(float x) {
  float c = x < -4 ? -4.f : x > 4 ? 4.f : x;
  float z = c * c;
  float p = -2.72614225801306e-10f;
  p = p * z + 2.77068142495902e-08f;
  p = p * z - 2.10102402082508e-06f;
  p = p * z - 5.69250639462346e-05f;
  p = p * z - 7.34990630326855e-04f;
  p = p * z - 2.95459980854025e-03f;
  p = p * z - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * z - 2.13374055278905e-04f;
  q = q * z - 1.68282697438203e-03f;
  q = q * z - 7.37332916720468e-03f;
  q = q * z - 1.42647390514189e-02f;
  return c * p / q;
}

}  // namespace lockstep::math
