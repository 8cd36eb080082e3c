#include "launch/version.h"

#include <fmt/format.h>

#include "io/version.h"
#include "launch/git_hash.h"
#include "parallel/version.h"

namespace lockstep::launch {

std::vector<Version> versions() {
  const std::string self = LOCKSTEP_VERSION " (" LOCKSTEP_GIT_HASH ")";
  const std::string compiler = std::string(std::string_view(__VERSION__).starts_with("Clang") ? "" : "gcc ") + __VERSION__;
  std::vector<Version> all = {{"lockstep", self, self}, {"compiler", compiler, compiler}};
  for (const auto& part : {parallel::versions(), kernels::versions(), io::versions()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::string version_text() {
  std::string text;
  for (const Version& v : versions()) {
    text += fmt::format("{:<12} {}", v.name, v.built.empty() ? "not built in" : v.built);
    if (!v.built.empty() && v.found != v.built)
      text += v.found.empty() ? ", not found here" : fmt::format(", running with {}", v.found);
    text += "\n";
  }
  return text;
}

}  // namespace lockstep::launch
