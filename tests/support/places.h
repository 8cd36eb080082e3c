#pragma once

#include <cstdlib>
#include <string>

namespace lockstep::test {

/// Where tests find a file or folder: at the place known when they were built, or where the environment's `variable` says
/// (launch/bundle moves them).
inline std::string place(const char* variable, const char* built) {
  const char* moved = std::getenv(variable);
  return moved ? moved : built;
}

}  // namespace lockstep::test
