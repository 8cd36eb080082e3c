#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace lockstep {

/// An XXH3-128.
struct Digest {
  std::uint64_t high = 0, low = 0;
  bool operator==(const Digest&) const = default;
  /// 32 hexadecimal digits.
  std::string text() const;
};
Digest digest(const void* data, std::size_t bytes);

/// XXH3-128 of bytes that come in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  void add(const void* data, std::size_t bytes);
  Digest digest() const;
  std::string text() const { return digest().text(); }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string checksum(const void* data, std::size_t bytes);
std::string checksum(const std::string& bytes);

}  // namespace lockstep
