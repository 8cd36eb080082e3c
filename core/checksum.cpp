#include "core/checksum.h"

#include <cstdio>

// Compiled here: the packaged library is for the oldest processors of their kind and takes twice the time on ours. GCC 12 warns
// of its own <immintrin.h>.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace lockstep {

struct Checksum::State {
  XXH3_state_t state;
};

Checksum::Checksum() : state_(new State) {
  XXH3_128bits_reset(&state_->state);
}
Checksum::~Checksum() = default;
void Checksum::add(const void* data, std::size_t bytes) {
  XXH3_128bits_update(&state_->state, data, bytes);
}
Digest Checksum::digest() const {
  const auto hash = XXH3_128bits_digest(&state_->state);
  return {hash.high64, hash.low64};
}

Digest digest(const void* data, std::size_t bytes) {
  const auto hash = XXH3_128bits(data, bytes);
  return {hash.high64, hash.low64};
}

std::string Digest::text() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(high), static_cast<unsigned long long>(low));
  return text;
}

std::string checksum(const void* data, std::size_t bytes) {
  return digest(data, bytes).text();
}
std::string checksum(const std::string& bytes) {
  return checksum(bytes.data(), bytes.size());
}

}  // namespace lockstep

#pragma GCC diagnostic pop
