#include "io/decode.h"

#include <libdeflate.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

namespace lockstep::io {

std::byte* Scratch::need(std::size_t bytes) {
  if (bytes > size_) data_ = std::make_unique_for_overwrite<std::byte[]>(size_ = bytes);
  return data_.get();
}

// ---- filters

namespace {

/// Sums modulo 65535 that stay nonzero, as the original's do.
std::uint32_t fold(std::uint64_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return std::uint32_t(sum);
}

/// Undoes byte shuffling: byte b of value i lies at b * n + i. Bytes beyond whole values are as they were.
template <class T>
void unshuffle_as(const std::byte* in, std::byte* out, std::size_t n) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(in);
  for (std::size_t i = 0; i < n; ++i) {
    T value = 0;
    for (std::size_t b = 0; b < sizeof(T); ++b) value |= T(T(bytes[b * n + i]) << (8 * b));
    std::memcpy(out + i * sizeof(T), &value, sizeof value);
  }
}
void unshuffle(std::size_t width, std::span<const std::byte> in, std::byte* out) {
  const std::size_t n = width > 1 ? in.size() / width : 0;
  switch (width) {
    case 2: unshuffle_as<std::uint16_t>(in.data(), out, n); break;
    case 4: unshuffle_as<std::uint32_t>(in.data(), out, n); break;
    case 8: unshuffle_as<std::uint64_t>(in.data(), out, n); break;
    default:
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t b = 0; b < width; ++b) out[i * width + b] = in[b * n + i];
  }
  if (in.size() > n * width) std::memcpy(out + n * width, in.data() + n * width, in.size() - n * width);
}

/// LibLZF's format: a control byte below 32 is followed by that many and one literal bytes; above, its upper 3 bits are a length
/// less 2 (7: a byte more follows), its lower 5 and the next byte a distance less 1. Returns the bytes written, or -1.
std::ptrdiff_t expand_lzf(std::span<const std::byte> in, std::byte* out, std::size_t room) {
  std::size_t at = 0, to = 0;
  auto next = [&] { return std::size_t(in[at++]); };
  while (at < in.size()) {
    const std::size_t control = next();
    if (control < 32) {
      const std::size_t n = control + 1;
      if (n > in.size() - at || n > room - to) return -1;
      std::memcpy(out + to, in.data() + at, n);
      at += n, to += n;
      continue;
    }
    std::size_t n = control >> 5;
    if (in.size() - at < (n == 7 ? 2u : 1u)) return -1;
    if (n == 7) n += next();
    n += 2;
    const std::size_t distance = ((control & 31) << 8) + next() + 1;
    if (distance > to || n > room - to) return -1;
    if (distance >= n)
      std::memcpy(out + to, out + to - distance, n);
    else  // a run repeats itself
      for (std::size_t i = 0; i < n; ++i) out[to + i] = out[to + i - distance];
    to += n;
  }
  return std::ptrdiff_t(to);
}

std::ptrdiff_t inflate(std::span<const std::byte> in, std::byte* out, std::size_t room) {
  struct Free {
    void operator()(libdeflate_decompressor* d) const { libdeflate_free_decompressor(d); }
  };
  thread_local const std::unique_ptr<libdeflate_decompressor, Free> decompressor(libdeflate_alloc_decompressor());
  std::size_t written = 0;
  const auto result = libdeflate_zlib_decompress(decompressor.get(), in.data(), in.size(), out, room, &written);
  return result == LIBDEFLATE_SUCCESS ? std::ptrdiff_t(written) : -1;
}

}  // namespace

std::uint32_t fletcher32(std::span<const std::byte> bytes) {
  // Word j of a block of n counts n - j times in the sum of sums. With lanes side by side, lane l has the words l, l + lanes, …:
  // its own sums give lanes * (steps - i) for word i, which is l too many.
  constexpr std::size_t lanes = 32, most_steps = 256;  // 256 * 257 / 2 words stay below 2^32
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  auto word_at = [&](std::size_t i) {
    std::uint16_t stored;
    std::memcpy(&stored, data + 2 * i, 2);
    return std::uint16_t(stored << 8 | stored >> 8);
  };
  std::uint64_t low = 0, high = 0;  // sum of the words, sum of the sums
  const std::size_t words = bytes.size() / 2;
  std::size_t at = 0;
  while (words - at >= lanes) {
    const std::size_t steps = std::min(most_steps, (words - at) / lanes), n = steps * lanes;
    std::uint32_t sums[lanes] = {}, sums_of_sums[lanes] = {};
    for (std::size_t i = 0; i < n; i += lanes) {
#pragma omp simd
      for (std::size_t l = 0; l < lanes; ++l) {
        sums[l] += word_at(at + i + l);
        sums_of_sums[l] += sums[l];
      }
    }
    std::uint64_t sum = 0, weighted = 0;
    for (std::size_t l = 0; l < lanes; ++l) {
      sum += sums[l];
      weighted += std::uint64_t(lanes) * sums_of_sums[l] - l * std::uint64_t(sums[l]);
    }
    high = fold(high + n * low + weighted);
    low = fold(low + sum);
    at += n;
  }
  for (; at < words; ++at) {
    low = fold(low + word_at(at));
    high = fold(high + low);
  }
  if (bytes.size() % 2) {
    low = fold(low + (std::uint32_t(data[bytes.size() - 1]) << 8));
    high = fold(high + low);
  }
  return std::uint32_t(high << 16 | low);
}

std::string check_fletcher32(std::span<const std::byte> bytes, const std::byte* stored) {
  std::uint32_t found;
  std::memcpy(&found, stored, 4);
  const std::uint32_t sum = fletcher32(bytes);
  // Files of HDF5 before 1.6.3 have the two bytes of each half exchanged.
  const std::uint32_t old = (sum & 0x00ff00ff) << 8 | (sum & 0xff00ff00) >> 8;
  return found == sum || found == old ? "" : "its Fletcher32 checksum does not match";
}

bool can_decode(int filter) {
  return filter == deflate_filter || filter == shuffle_filter || filter == fletcher32_filter || filter == lzf_filter;
}

std::string decode(std::span<const hdf5::Filter> filters, std::uint32_t mask, std::span<const std::byte> raw,
                   std::span<std::byte> out) {
  std::vector<const hdf5::Filter*> active;
  std::size_t most = out.size();  // of what lies between two filters
  for (std::size_t i = 0; i < filters.size(); ++i) {
    if (i < 32 && mask >> i & 1) continue;
    active.push_back(&filters[i]);
    if (filters[i].id == fletcher32_filter) most += 4;
  }
  thread_local Scratch halves[2];
  int half = 0;
  std::span<const std::byte> now = raw;
  for (; !active.empty(); active.pop_back()) {
    const auto& filter = *active.back();
    if (filter.id == fletcher32_filter) {
      if (now.size() < 4) return "it is too short for its checksum";
      now = now.first(now.size() - 4);
      if (auto problem = check_fletcher32(now, now.data() + now.size()); !problem.empty()) return problem;
      continue;
    }
    const bool last = active.size() == 1;
    std::byte* to = last ? out.data() : halves[half].need(most);
    const std::size_t room = last ? out.size() : most;
    half = 1 - half;
    std::ptrdiff_t written = -1;
    if (filter.id == shuffle_filter) {
      const std::size_t width = filter.values.empty() ? 0 : filter.values[0];
      if (width == 0 || now.size() > room) return "it has the wrong size";
      unshuffle(width, now, to);
      written = std::ptrdiff_t(now.size());
    } else if (filter.id == deflate_filter) {
      written = inflate(now, to, room);
    } else if (filter.id == lzf_filter) {
      written = expand_lzf(now, to, room);
    }
    if (written < 0) return filter.id == lzf_filter ? "its LZF data is broken" : "its deflate data is broken";
    now = {to, std::size_t(written)};
  }
  if (now.size() != out.size())
    return "it holds " + std::to_string(now.size()) + " bytes in place of " + std::to_string(out.size());
  if (now.data() != out.data()) std::memcpy(out.data(), now.data(), out.size());
  return {};
}

// ---- numbers

namespace {

float from_half(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return std::copysign(float(fraction) * 0x1p-24f, std::bit_cast<float>(sign | 0x3f800000));
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

template <class Bits>
Bits swapped(Bits bits) {
  if constexpr (sizeof(Bits) == 2) return __builtin_bswap16(bits);
  if constexpr (sizeof(Bits) == 4) return __builtin_bswap32(bits);
  if constexpr (sizeof(Bits) == 8) return __builtin_bswap64(bits);
  return bits;
}

template <class To, class From>
To to_element(From x) {
  if constexpr (std::is_floating_point_v<To>) {
    return To(x);
  } else if constexpr (std::is_floating_point_v<From>) {  // toward zero; NaN becomes 0
    if (!(x > From(std::numeric_limits<To>::lowest()))) return x == x ? std::numeric_limits<To>::lowest() : To(0);
    return x >= From(std::numeric_limits<To>::max()) ? std::numeric_limits<To>::max() : To(x);
  } else {
    if (std::cmp_less(x, std::numeric_limits<To>::lowest())) return std::numeric_limits<To>::lowest();
    if (std::cmp_greater(x, std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return To(x);
  }
}

/// Values whose bits are `Bits` and mean `value(bits)`.
template <class Bits, class Value, class To>
void convert_bits(bool big_endian, const void* in, To* out, std::int64_t count, Value value) {
  const auto* bytes = static_cast<const std::byte*>(in);
  auto each = [&](auto order) {
    for (std::int64_t i = 0; i < count; ++i) {
      Bits bits;
      std::memcpy(&bits, bytes + i * std::int64_t(sizeof bits), sizeof bits);
      out[i] = to_element<To>(value(order(bits)));
    }
  };
  if (big_endian)
    each([](Bits bits) { return swapped(bits); });
  else
    each([](Bits bits) { return bits; });
}

template <class To>
void convert_to(const hdf5::Number& from, const void* in, To* out, std::int64_t count) {
  auto as = [&]<class Bits, class Value>(Bits, Value) {
    convert_bits<Bits>(from.big_endian, in, out, count, [](Bits bits) { return std::bit_cast<Value>(bits); });
  };
  using std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t;
  const bool real = from.type == hdf5::Class::real;
  switch (from.bytes) {
    case 1: return from.is_signed ? as(uint8_t{}, std::int8_t{}) : as(uint8_t{}, uint8_t{});
    case 2:
      if (real) return convert_bits<uint16_t>(from.big_endian, in, out, count, from_half);
      return from.is_signed ? as(uint16_t{}, std::int16_t{}) : as(uint16_t{}, uint16_t{});
    case 4:
      if (real) return as(uint32_t{}, float{});
      return from.is_signed ? as(uint32_t{}, std::int32_t{}) : as(uint32_t{}, uint32_t{});
    default:
      if (real) return as(uint64_t{}, double{});
      return from.is_signed ? as(uint64_t{}, std::int64_t{}) : as(uint64_t{}, uint64_t{});
  }
}

}  // namespace

bool same(const hdf5::Number& from, hdf5::Element to) {
  using hdf5::Element;
  const bool integer = from.type == hdf5::Class::integer;
  if (from.bytes > 1 && from.big_endian) return false;
  switch (to) {
    case Element::u8: return integer && from.bytes == 1 && !from.is_signed;
    case Element::u16: return integer && from.bytes == 2 && !from.is_signed;
    case Element::i32: return integer && from.bytes == 4 && from.is_signed;
    case Element::i64: return integer && from.bytes == 8 && from.is_signed;
    default: return !integer && from.bytes == 4;
  }
}

void convert(const hdf5::Number& from, hdf5::Element to, const void* in, void* out, std::int64_t count) {
  using hdf5::Element;
  if (same(from, to)) {
    std::memcpy(out, in, std::size_t(count) * hdf5::size_of(to));
    return;
  }
  switch (to) {
    case Element::u8: return convert_to(from, in, static_cast<std::uint8_t*>(out), count);
    case Element::u16: return convert_to(from, in, static_cast<std::uint16_t*>(out), count);
    case Element::i32: return convert_to(from, in, static_cast<std::int32_t*>(out), count);
    case Element::i64: return convert_to(from, in, static_cast<std::int64_t*>(out), count);
    default: return convert_to(from, in, static_cast<float*>(out), count);
  }
}

}  // namespace lockstep::io
