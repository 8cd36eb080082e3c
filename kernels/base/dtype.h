#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/base/check.h"
#include "kernels/base/hd.h"

namespace lockstep {

/// What memory holds. Arithmetic is done in f32 whatever the storage; i32 and u8 hold tokens, labels and pixels.
enum class DType : std::uint8_t { f32, bf16, i32, u8 };

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

constexpr std::size_t size_of(DType d) { return d == DType::u8 ? 1 : d == DType::bf16 ? 2 : 4; }
constexpr const char* name_of(DType d) {
  return d == DType::f32 ? "f32" : d == DType::bf16 ? "bf16" : d == DType::i32 ? "i32" : "u8";
}

template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::i32;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::u8;

/// Calls f.operator()<T>() with the C++ type of a floating-point dtype.
template <class F>
decltype(auto) visit_float(DType d, F&& f) {
  if (d == DType::f32) return f.template operator()<float>();
  require(d == DType::bf16, "this operation works on f32 and bf16, not on {}", name_of(d));
  return f.template operator()<bf16>();
}

}  // namespace lockstep
