#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/check.h"

namespace lockstep::test {

/// A folder of this test's own, removed at its end.
struct Folder {
  std::string path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-test-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
};

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// Runs a script in Debian's Python (the one with h5py), in `folder`; returns what it printed. h5, np and random are there.
inline std::string python(const Folder& folder, const std::string& script) {
  write_file(folder / "script.py", "import h5py as h5, numpy as np, random, json, gzip, struct, sys\n" + script);
  const std::string command = "cd '" + folder.path + "' && /usr/bin/python3 script.py 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  std::string out;
  char block[4096];
  while (std::size_t n = fread(block, 1, sizeof block, pipe)) out.append(block, n);
  const int status = pclose(pipe);
  if (status != 0) throw Error("python failed: " + out);
  return out;
}
inline bool has_h5py() {
  static const bool found = std::system("/usr/bin/python3 -c 'import h5py, numpy' >/dev/null 2>&1") == 0;
  return found;
}
/// The first statement of a test that needs h5py.
#define NEEDS_H5PY() \
  if (!has_h5py()) GTEST_SKIP() << "/usr/bin/python3 has no h5py (install python3-h5py)"

inline std::vector<double> numbers(const std::string& text) {
  std::istringstream in(text);
  std::vector<double> values;
  for (double v; in >> v;) values.push_back(v);
  return values;
}

/// The Error that `action` throws; fails when there is none.
inline Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error("no error");
}
/// Expects an Error with this exit code whose sentence holds every part.
inline void expect_error(Exit exit, const std::vector<std::string>& parts, const std::function<void()>& action) {
  const Error e = error_of(action);
  EXPECT_EQ(int(e.exit()), int(exit)) << e.what();
  for (const auto& part : parts)
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << "'" << part << "' in: " << e.what();
}

}  // namespace lockstep::test
