#include "kernels/base/check.h"

#include <cstdio>

namespace lockstep {

std::string Error::where() const {
  std::string_view file = at_.file_name();
  return std::string(file) + ":" + std::to_string(at_.line()) + " (" + at_.function_name() + ")";
}

std::string Argument::decimal(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", number);
  return text;
}

std::string format_text(std::string_view pattern, std::initializer_list<Argument> values) {
  std::string out;
  auto value = values.begin();
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.substr(i, 2) == "{}" && value != values.end()) {
      out += (value++)->text();
      ++i;
    } else {
      out += pattern[i];
    }
  }
  return out;
}

void fail(Exit exit, Pattern pattern, std::initializer_list<Argument> values) {
  throw Error(format_text(pattern.text, values), exit, pattern.at);
}

}  // namespace lockstep
