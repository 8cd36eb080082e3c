#pragma once

// exp, tanh, erf in f32 without branches or library calls, so that compilers vectorise the loops that use them and both devices
// compute the same polynomials. Errors are at most a few units in the last place over the ranges stated.

#include <bit>
#include <cstdint>

#include "kernels/base/hd.h"

namespace lockstep::math {

/// e^x. Below -87.3 the result is 0 (no denormals), above 88.7 infinity. Cody-Waite reduction, Cephes expf polynomial.
HD float exp(float x) {
  float bounded = x < -87.3f ? -87.3f : x > 88.7f ? 88.7f : x;
  float n = bounded * 1.44269504f + 12582912.f;  // rounds to an integer in the low bits
  std::int32_t k = std::bit_cast<std::int32_t>(n) - 0x4B400000;
  n -= 12582912.f;
  float r = bounded - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  // 2^k in two factors: k reaches 128 at the upper end.
  std::int32_t half = k / 2;
  float y = p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((k - half + 127) << 23);
  y = x < -87.3f ? 0.f : y;
  y = x > 88.7f ? std::bit_cast<float>(0x7f800000) : y;
  return x != x ? x : y;
}

/// tanh by a polynomial near zero (Cephes tanhf) and (1 - e^-2|x|) / (1 + e^-2|x|) elsewhere.
HD float tanh(float x) {
  float a = x < 0 ? -x : x;
  float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  float small = p * z * x + x;
  float e = exp(-2 * a);
  float big = (1 - e) / (1 + e);
  big = x < 0 ? -big : big;
  return a < 0.625f ? small : big;
}

/// 1 / (1 + e^-x), without overflow.
HD float sigmoid(float x) {
  float e = exp(x < 0 ? x : -x);
  float s = 1 / (1 + e);
  return x < 0 ? e * s : s;
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
