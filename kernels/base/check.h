#pragma once

#include <cstdint>
#include <initializer_list>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace lockstep {

/// How a program ends. mpirun and Slurm pass these through (they are part of the contract of a run).
enum class Exit : int {
  done = 0,
  usage = 64,      ///< flags or configuration
  bad_data = 65,   ///< a data file or a checkpoint
  internal = 70,   ///< a broken promise inside Lockstep
  io = 74,         ///< reading or writing failed, disk full
  preempted = 75,  ///< saved; requeue
  peer_lost = 86,  ///< a rank died or made no progress
  numeric = 87,    ///< NaN or infinity
  diverged = 88,   ///< ranks disagree
};

using Here = std::source_location;

/// The one exception type of the project: a sentence for the user, where it was thrown, and the exit code it ends in.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what, Exit exit = Exit::internal, Here at = Here::current())
      : std::runtime_error(what), exit_(exit), at_(at) {}
  Exit exit() const noexcept { return exit_; }
  /// "file.cpp:12 (function)": for logs; the sentence itself is what users read.
  std::string where() const;

 private:
  Exit exit_;
  Here at_;
};

/// One value of a message: a number or some text.
class Argument {
 public:
  template <class T>
    requires std::is_arithmetic_v<T>
  Argument(T number) : text_(std::is_integral_v<T> ? std::to_string((long long)number) : decimal(double(number))) {}
  Argument(std::string_view text) : text_(text) {}
  Argument(const std::string& text) : text_(text) {}
  Argument(const char* text) : text_(text) {}
  const std::string& text() const { return text_; }

 private:
  static std::string decimal(double);
  std::string text_;
};

/// Fills each {} of `pattern` with the next value.
std::string format_text(std::string_view pattern, std::initializer_list<Argument> values);

/// A pattern that remembers where it was written, so that messages of require() point to the caller.
struct Pattern {
  Pattern(const char* text, Here at = Here::current()) : text(text), at(at) {}
  const char* text;
  Here at;
};

[[noreturn]] void fail(Exit exit, Pattern pattern, std::initializer_list<Argument> values = {});

/// Throws Error (Exit::internal) with the filled pattern unless `ok`: require(a == b, "matmul: {} and {} differ", a, b).
template <class... A>
void require(bool ok, Pattern pattern, const A&... values) {
  if (!ok) [[unlikely]]
    fail(Exit::internal, pattern, {Argument(values)...});
}

/// As above, for mistakes with another exit code: require(Exit::usage, rows > 0, "…").
template <class... A>
void require(Exit exit, bool ok, Pattern pattern, const A&... values) {
  if (!ok) [[unlikely]]
    fail(exit, pattern, {Argument(values)...});
}

}  // namespace lockstep
