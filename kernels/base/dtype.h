#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/base/check.h"
#include "kernels/base/hd.h"

namespace lockstep {

/// What memory holds. Arithmetic is done in f32 whatever the storage; i32 and u8 hold tokens, labels and pixels.
enum class DType : std::uint8_t { f32, bf16, f16, i32, u8 };

/// bfloat16 storage, rounded to nearest even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits;
  bf16() = default;
  HD explicit bf16(float x) {
    auto u = std::bit_cast<std::uint32_t>(x);
    auto rounded = std::uint32_t(u + 0x7fff + ((u >> 16) & 1)) >> 16;
    bits = std::uint16_t((u & 0x7fffffff) > 0x7f800000 ? (u >> 16) | 0x40 : rounded);
  }
  HD operator float() const { return std::bit_cast<float>(std::uint32_t(bits) << 16); }
};

/// IEEE 754 half precision storage, rounded to nearest even, subnormal numbers included; NaN stays NaN, and what rounds to 65536
/// or more is infinite. Without branches, so that loops over it are vectorised.
struct f16 {
  std::uint16_t bits;
  f16() = default;
  HD explicit f16(float x) {
    auto u = std::bit_cast<std::uint32_t>(x), size = u & 0x7fffffff;
    auto normal = (size + 0xfff + ((size >> 13) & 1) - (std::uint32_t(112) << 23)) >> 13;
    // The last place of a float in [0.5, 1) is f16's smallest number: the addition rounds.
    auto small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
    auto special = size > 0x7f800000 ? 0x7e00u : 0x7c00u;
    auto finite = size < 0x38800000 ? small : normal;                                     // 2^-14
    bits = std::uint16_t(((u >> 16) & 0x8000) | (size < 0x477ff000 ? finite : special));  // 65520
  }
  HD operator float() const {
    auto size = std::uint32_t(bits & 0x7fff) << 13;
    auto finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) * 0x1p112f);  // subnormal floats are exact here
    auto magnitude = size < 0x0f800000 ? finite : size + (std::uint32_t(224) << 23);
    return std::bit_cast<float>(std::uint32_t(bits & 0x8000) << 16 | magnitude);
  }
};

constexpr bool is_half(DType d) {
  return d == DType::bf16 || d == DType::f16;
}
constexpr bool is_float(DType d) {
  return d == DType::f32 || is_half(d);
}
constexpr std::size_t size_of(DType d) {
  return d == DType::u8 ? 1 : is_half(d) ? 2 : 4;
}
constexpr const char* name_of(DType d) {
  constexpr const char* names[] = {"f32", "bf16", "f16", "i32", "u8"};
  return names[int(d)];
}

template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<f16> = DType::f16;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::i32;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::u8;

/// Calls f.operator()<T>() with the C++ type of a floating-point dtype.
template <class F>
decltype(auto) visit_float(DType d, F&& f) {
  if (d == DType::f32) return f.template operator()<float>();
  if (d == DType::bf16) return f.template operator()<bf16>();
  require(d == DType::f16, "this operation works on f32, bf16 and f16, not on {}", name_of(d));
  return f.template operator()<f16>();
}

}  // namespace lockstep
