#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// Bytes that a fingerprint is made in blocks of: one number of 64 bits a block.
inline constexpr std::int64_t fingerprint_block = 1 << 16;
constexpr std::int64_t fingerprint_blocks(std::size_t bytes) {
  return (std::int64_t(bytes) + fingerprint_block - 1) / fingerprint_block;
}

/// sums (u8, 8 bytes a block of x): their total modulo 2^64 is a hash of x's bits and where they stand, the same on every device.
/// Any change of one word of 32 bits changes it, others all but surely. For memory that should be equal, not for files: whoever
/// wants to can make another with the same hash. x has a multiple of 4 bytes.
void fingerprint(const Queue&, View sums, View x);

}  // namespace lockstep::kernels
