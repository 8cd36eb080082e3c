// GPT-2's two files and a text, with a zero byte between them. When the first byte is odd, the symbols are all bytes and what the
// merges make of them, so that most merges are valid.

#include <nlohmann/json.hpp>
#include <sstream>

#include "io/tokenizer.h"
#include "tests/fuzz/input.h"

namespace {

std::string two_bytes(int code) {
  return code < 128 ? std::string(1, char(code)) : std::string{char(0xC0 | code >> 6), char(0x80 | (code & 63))};
}

std::string symbols_for(const std::string& merges) {
  nlohmann::json symbols;
  auto shown = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int next = 0;
  for (int b = 0, moved = 256; b < 256; ++b) symbols[two_bytes(shown(b) ? b : moved++)] = next++;
  std::istringstream in(merges);
  for (std::string a, b; in >> a >> b;) {
    try {
      nlohmann::json(a + b).dump();
    } catch (const nlohmann::json::exception&) {
      continue;  // no UTF-8
    }
    if (!symbols.contains(a + b)) symbols[a + b] = next++;
  }
  return symbols.dump();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace lockstep;
  if (size < 1) return 0;
  std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1), parts[3];
  for (int i = 0; i < 3; ++i) {
    const auto end = i < 2 ? rest.find('\0') : std::string::npos;
    parts[i] = rest.substr(0, end);
    rest = end == std::string::npos ? "" : rest.substr(end + 1);
  }
  if (data[0] & 1) parts[1] = symbols_for(parts[0]);
  fuzz::allow_refusal([&] {
    const auto tokenizer = io::Tokenizer::parse(parts[0], parts[1], "fuzz");
    const auto tokens = tokenizer.encode(parts[2]);
    fuzz::hold(tokenizer.decode(tokens) == parts[2], "decode(encode(text)) is not text");
    std::vector<std::int32_t> some;
    const auto used = tokenizer.encode_some(parts[2], false, some);
    fuzz::hold(tokenizer.decode(some) == parts[2].substr(0, used), "encode_some() does not tell what it used");
  });
  return 0;
}
