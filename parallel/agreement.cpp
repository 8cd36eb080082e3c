#include "parallel/agreement.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace lockstep::parallel {
namespace {

std::string join(const std::vector<std::string>& lines) {
  std::string text;
  for (auto& line : lines) text += line + '\n';
  return text;
}

/// FNV-1a, 64 bits, as text.
std::string hash(const std::string& text) {
  std::uint64_t h = 14695981039346656037u;
  for (char c : text) h = (h ^ std::uint8_t(c)) * 1099511628211u;
  return std::to_string(h);
}

/// Line n, counted from 0, or "nothing" behind the last.
std::string line_of(const std::string& text, std::ptrdiff_t n) {
  std::size_t begin = 0;
  for (; n > 0 && begin < text.size(); --n) begin = text.find('\n', begin) + 1;
  return begin < text.size() ? text.substr(begin, text.find('\n', begin) - begin) : "nothing";
}

}  // namespace

void require_same(Group& group, const std::vector<std::string>& lines) {
  std::string mine = join(lines);
  auto hashes = group.gather(hash(mine));
  auto other = std::ranges::find_if(hashes, [&](auto& h) { return h != hashes[0]; });
  if (other == hashes.end()) return;
  auto texts = group.gather(mine);
  auto rank = std::size_t(other - hashes.begin());
  auto at = std::ranges::mismatch(texts[0], texts[rank]).in1;
  auto line = std::count(texts[0].begin(), at, '\n');
  fail(Exit::diverged,
       "ranks differ: rank {} has {} where rank 0 has {}; all ranks must build the same model with the same settings",
       {int(rank), line_of(texts[rank], line), line_of(texts[0], line)});
}

}  // namespace lockstep::parallel
