#pragma once

// Private to io/: names and folders of checkpoints, for the writer and the reader.

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::io {

constexpr const char* checkpoint_view_name = "checkpoint.h5";
constexpr const char* checkpoint_manifest_name = "manifest.json";

/// Step of a checkpoint folder's name "step_<N>", -1 for anything else.
std::int64_t step_of(const std::string& name);
/// Steps that are there, newest first.
std::vector<std::int64_t> steps_in(const std::string& folder);
std::string step_path(const std::string& folder, std::int64_t step);

/// A folder that is removed unless it got its name.
struct TemporaryFolder {
  std::string path;
  ~TemporaryFolder();
};
/// Gives the finished folder its name; one of that name (a damaged one that was passed over) makes room.
void publish(TemporaryFolder& from, const std::string& to);

/// Removes what is older than the newest `keep`, the one just written among them, but for steps that `keep_every` divides.
void prune(const std::string& folder, std::int64_t written, int keep, std::int64_t keep_every);
/// Removes what interrupted writers left, but for what has these names.
void remove_leftovers(const std::string& folder, const std::vector<std::string>& but = {});

}  // namespace lockstep::io
