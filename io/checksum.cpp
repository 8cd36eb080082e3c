#include "io/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace lockstep::io {

struct Checksum::State {
  XXH3_state_t* state = XXH3_createState();
  ~State() { XXH3_freeState(state); }
};

Checksum::Checksum() : state_(new State) {
  XXH3_128bits_reset(state_->state);
}
Checksum::~Checksum() = default;
void Checksum::add(const void* data, std::size_t bytes) {
  XXH3_128bits_update(state_->state, data, bytes);
}

namespace {
std::string to_hex(const XXH128_hash_t& hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}
}  // namespace

std::string Checksum::text() const {
  return to_hex(XXH3_128bits_digest(state_->state));
}

std::string checksum(const void* data, std::size_t bytes) {
  return to_hex(XXH3_128bits(data, bytes));
}
std::string checksum(const std::string& bytes) {
  return checksum(bytes.data(), bytes.size());
}

}  // namespace lockstep::io
