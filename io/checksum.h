#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace lockstep::io {

/// XXH3-128 of bytes that come in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  void add(const void* data, std::size_t bytes);
  /// 32 hexadecimal digits.
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string checksum(const void* data, std::size_t bytes);
std::string checksum(const std::string& bytes);

}  // namespace lockstep::io
