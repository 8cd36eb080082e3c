#pragma once

// Private to io/: what was found out about files that have not changed since.

#include <optional>
#include <string>

#include "io/hdf5.h"

namespace lockstep::io {

/// Answers to questions about files, kept in a folder of the user's between runs, one small file each. Whatever goes wrong with
/// them reads as "not known": they save time and decide nothing.
class Memo {
 public:
  /// An empty folder: knows nothing and keeps nothing.
  explicit Memo(std::string folder) : folder_(std::move(folder)) {}
  std::optional<std::string> recall(const std::string& question) const;
  void keep(const std::string& question, const std::string& answer) const;

 private:
  std::string place(const std::string& question) const;
  std::string folder_;
};

/// Which file it is and when it was last changed; part of a question. Nothing for values that lie in other files too.
std::optional<std::string> identity(const hdf5::Data&);

}  // namespace lockstep::io
