#pragma once

// Private to io/: the bytes of a stored chunk become values, on any thread and without the library.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/hdf5.h"

namespace lockstep::io {

/// Memory that grows and is not cleared.
class Scratch {
 public:
  std::byte* need(std::size_t bytes);

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
};

/// Filter identifiers of the HDF5 registry that decode() knows.
enum FilterId : int { deflate_filter = 1, shuffle_filter = 2, fletcher32_filter = 3, lzf_filter = 32000 };
bool can_decode(int filter);

/// Undoes the filters of a chunk, last one first, without those whose bit is set in `mask`. `out` takes exactly one chunk.
/// Returns what is wrong with the bytes ("its Fletcher32 checksum does not match"), or nothing.
std::string decode(std::span<const hdf5::Filter> filters, std::uint32_t mask, std::span<const std::byte> raw,
                   std::span<std::byte> out);

/// HDF5's Fletcher32: words of 16 bits, first byte high.
std::uint32_t fletcher32(std::span<const std::byte> bytes);
/// Compares it with the four bytes stored behind a chunk. Returns what is wrong, or nothing.
std::string check_fletcher32(std::span<const std::byte> bytes, const std::byte* stored);

/// Numbers as a file has them become `to`, with the library's rules: integers stop at the ends of the new type's range.
void convert(const hdf5::Number& from, hdf5::Element to, const void* in, void* out, std::int64_t count);
/// Whether they are the same bytes.
bool same(const hdf5::Number&, hdf5::Element);

}  // namespace lockstep::io
