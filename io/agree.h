#pragma once

// Private to io/: agreement between ranks about files.

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/group.h"

namespace lockstep::io {

/// What a rank tells the others: the text that `action` returned, or its Error.
std::string report(const std::function<std::string()>& action);
/// The text of a report; throws its Error.
std::string result(const std::string& report);

/// Rank 0 runs `action`; every rank gets the text it returned, or throws the same Error. Collective.
std::string agree(Group&, const std::function<std::string()>& action);

/// The same for a value. Packed as CBOR, whose texts may be any bytes: paths and names in files need not be UTF-8.
nlohmann::json agree_on(Group&, const std::function<nlohmann::json()>& action);

/// Every rank runs `action`; when any failed, every rank throws the Error of the lowest such rank. Collective.
void settle(Group&, const std::function<void()>& action);

}  // namespace lockstep::io
