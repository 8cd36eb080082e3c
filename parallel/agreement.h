#pragma once

#include <string>
#include <vector>

#include "core/group.h"

namespace lockstep::parallel {

/// Throws on every rank (Exit::diverged) unless all ranks pass the same lines; the message names the first rank that differs and
/// its first line that does. Ranks compare a hash; whole lists travel only when it differs. Collective.
void require_same(Group&, const std::vector<std::string>& lines);

}  // namespace lockstep::parallel
