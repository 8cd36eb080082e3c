#pragma once

// Private to io/

#include <cstddef>

#include "core/memory.h"

namespace lockstep::io {

/// Zero bytes in pages of their own, large ones where the system has them; each costs nothing until it is touched.
Memory untouched_memory(std::size_t bytes);

}  // namespace lockstep::io
