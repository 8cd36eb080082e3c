#include "io/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>

#include "io/hdf5.h"
#include "io/output.h"
#include "kernels/base/check.h"

namespace lockstep::io {

namespace {

/// How encoder.json writes a byte as a character: printable ones as themselves, the others moved to 256 and up (OpenAI's
/// bytes_to_unicode).
std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> out;
  int moved = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = shown ? byte : moved++;
    std::string& text = out[std::size_t(byte)];
    if (code < 128)
      text = char(code);
    else
      text = {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
  }
  return out;
}

/// GPT-2's pattern. White space is Unicode's White_Space and nothing else (PCRE2's \s has one more character).
const char* const pattern_text = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^W\\p{L}\\p{N}]+|[W]+(?![^W])|[W]+";
const char* const white_space =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

/// The compiled pattern, for the whole process.
const pcre2_code* pattern() {
  static const pcre2_code* const code = [] {
    std::string text = pattern_text;
    for (std::size_t at = 0; (at = text.find('W', at)) != std::string::npos; at += std::string(white_space).size())
      text.replace(at, 1, white_space);
    int problem = 0;
    PCRE2_SIZE offset = 0;
    auto* made = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.c_str()), text.size(),
                               PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &problem, &offset, nullptr);
    require(made != nullptr, "tokenizer: the pattern does not compile ({} at {})", problem, offset);
    pcre2_jit_compile(made, PCRE2_JIT_COMPLETE);  // without it the same, slower
    return made;
  }();
  return code;
}

std::uint64_t key_of(std::int32_t a, std::int32_t b) {
  return std::uint64_t(std::uint32_t(a)) << 32 | std::uint32_t(b);
}

}  // namespace

struct Tokenizer::Pairs {
  struct Merge {
    std::int32_t rank, into;
  };
  std::string merges_text, symbols_text;  // the files
  std::vector<std::string> bytes_of;      // by token
  std::array<std::int32_t, 256> token_of_byte;
  std::unordered_map<std::uint64_t, Merge> merges;
  std::optional<std::int32_t> end;

  void encode_piece(std::string_view piece, std::vector<std::int32_t>& out) const;
};

/// Joins the pair that comes first in the list, leftmost first, until none is left.
void Tokenizer::Pairs::encode_piece(std::string_view piece, std::vector<std::int32_t>& out) const {
  struct Symbol {
    std::int32_t token;
    std::int32_t before, after;  // places, -1: none
  };
  struct Candidate {
    std::int32_t rank, at;
    std::uint64_t pair;
    bool operator>(const Candidate& other) const { return std::pair(rank, at) > std::pair(other.rank, other.at); }
  };
  const auto n = std::int32_t(piece.size());
  std::vector<Symbol> symbols(piece.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  auto offer = [&](std::int32_t at) {
    if (at < 0 || symbols[std::size_t(at)].after < 0) return;
    const auto pair = key_of(symbols[std::size_t(at)].token, symbols[std::size_t(symbols[std::size_t(at)].after)].token);
    if (const auto found = merges.find(pair); found != merges.end()) queue.push({found->second.rank, at, pair});
  };
  for (std::int32_t i = 0; i < n; ++i)
    symbols[std::size_t(i)] = {token_of_byte[std::uint8_t(piece[std::size_t(i)])], i - 1, i + 1 < n ? i + 1 : -1};
  for (std::int32_t i = 0; i < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate next = queue.top();
    queue.pop();
    Symbol& left = symbols[std::size_t(next.at)];
    if (left.token < 0 || left.after < 0) continue;
    Symbol& right = symbols[std::size_t(left.after)];
    if (key_of(left.token, right.token) != next.pair) continue;  // one of them was joined with another meanwhile
    left.token = merges.at(next.pair).into;
    right.token = -1;
    left.after = right.after;
    if (left.after >= 0) symbols[std::size_t(left.after)].before = next.at;
    offer(left.before);
    offer(next.at);
  }
  for (std::int32_t i = 0; i >= 0 && i < n; i = symbols[std::size_t(i)].after) out.push_back(symbols[std::size_t(i)].token);
}

Tokenizer Tokenizer::bytes() {
  return {};
}

Tokenizer Tokenizer::parse(const std::string& merges, const std::string& symbols, const std::string& name) {
  using Json = nlohmann::json;
  const std::string of_symbols = name + "/encoder.json", of_merges = name + "/vocab.bpe";
  auto pairs = std::make_shared<Pairs>();
  pairs->merges_text = merges, pairs->symbols_text = symbols;

  // A parser that counts depth: the library's own recursion has no limit.
  const auto shallow = [](int depth, Json::parse_event_t, Json&) {
    require(Exit::bad_data, depth <= 1, "values inside values");
    return true;
  };
  Json json;
  try {
    json = Json::parse(symbols, shallow);
  } catch (const std::exception& e) {
    throw Error(of_symbols + ": not a table of symbols and numbers: " + e.what(), Exit::bad_data);
  }
  require(Exit::bad_data, json.is_object() && json.size() >= 256 && json.size() < (1u << 28),
          "{}: {} symbols; 256 or more are needed", of_symbols, json.is_object() ? json.size() : 0);

  std::unordered_map<std::string, std::int32_t> token_of;
  std::unordered_map<std::string, unsigned char> byte_of;
  const auto characters = byte_characters();
  for (int byte = 0; byte < 256; ++byte) byte_of[characters[std::size_t(byte)]] = static_cast<unsigned char>(byte);
  std::vector<bool> seen(json.size(), false);
  pairs->bytes_of.resize(json.size());
  for (const auto& [symbol, number] : json.items()) {
    require(Exit::bad_data, number.is_number_unsigned() && number.get<std::uint64_t>() < json.size(),
            "{}: '{}' has the number {}, not one of 0 to {}", of_symbols, symbol, number.dump(), json.size() - 1);
    const auto token = number.get<std::int32_t>();
    require(Exit::bad_data, !seen[std::size_t(token)], "{}: two symbols have the number {}", of_symbols, token);
    seen[std::size_t(token)] = true;
    token_of[symbol] = token;
    std::string& bytes = pairs->bytes_of[std::size_t(token)];
    if (symbol == "<|endoftext|>") {
      pairs->end = token;
      bytes = symbol;
      continue;
    }
    require(Exit::bad_data, !symbol.empty(), "{}: an empty symbol", of_symbols);
    for (std::size_t at = 0; at < symbol.size();) {
      const std::size_t length = (symbol[at] & 0x80) == 0 ? 1 : 2;
      const auto found = byte_of.find(symbol.substr(at, length));
      require(Exit::bad_data, found != byte_of.end(), "{}: the symbol '{}' has a character that stands for no byte", of_symbols,
              symbol);
      bytes += char(found->second);
      at += length;
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = token_of.find(characters[std::size_t(byte)]);
    require(Exit::bad_data, found != token_of.end(), "{}: the byte {} has no symbol ('{}')", of_symbols, byte,
            characters[std::size_t(byte)]);
    pairs->token_of_byte[std::size_t(byte)] = found->second;
  }

  std::int64_t line = 0;
  for (std::size_t at = 0; at < merges.size();) {
    const auto end = std::min(merges.find('\n', at), merges.size());
    std::string text = merges.substr(at, end - at);
    at = end + 1;
    ++line;
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (text.empty() || (line == 1 && text.starts_with("#version"))) continue;
    const auto space = text.find(' ');
    require(Exit::bad_data,
            space != std::string::npos && space > 0 && space + 1 < text.size() && text.find(' ', space + 1) == std::string::npos,
            "{} line {}: '{}' is not a pair of symbols", of_merges, line, text.substr(0, 60));
    const std::string left = text.substr(0, space), right = text.substr(space + 1);
    std::int32_t tokens[3];
    int i = 0;
    for (const auto& symbol : {left, right, left + right}) {
      const auto found = token_of.find(symbol);
      require(Exit::bad_data, found != token_of.end() && found->second != pairs->end, "{} line {}: '{}' is not in encoder.json",
              of_merges, line, symbol.substr(0, 60));
      tokens[i++] = found->second;
    }
    const auto rank = std::int32_t(pairs->merges.size());
    const bool first = pairs->merges.try_emplace(key_of(tokens[0], tokens[1]), Pairs::Merge{rank, tokens[2]}).second;
    require(Exit::bad_data, first, "{} line {}: the pair '{}' is there twice", of_merges, line, text.substr(0, 60));
  }
  Tokenizer made;
  made.pairs_ = std::move(pairs);
  return made;
}

Tokenizer Tokenizer::read(const std::string& folder) {
  namespace fs = std::filesystem;
  auto one_of = [&](const char* first, const char* second) {
    for (const char* name : {first, second})
      if (fs::is_regular_file(fs::path(folder) / name)) {
        const auto path = (fs::path(folder) / name).string();
        require(Exit::bad_data, fs::file_size(path) < (1u << 28), "{}: too large for a tokenizer's file", path);
        return read_text(path);
      }
    throw Error(folder + ": there is no " + first + " (or " + second + ") in this folder", Exit::bad_data);
  };
  const std::string merges = one_of("vocab.bpe", "merges.txt");
  return parse(merges, one_of("encoder.json", "vocab.json"), folder);
}

Tokenizer Tokenizer::of_data(const std::string& path) {
  const auto file = hdf5::File::open(path);
  if (!file.has_dataset("tokenizer/vocab.bpe") || !file.has_dataset("tokenizer/encoder.json")) return bytes();
  auto text_of = [&](const std::string& name) {
    const auto data = file.dataset(name);
    require(Exit::bad_data, data.info().shape.size() == 1 && data.rows() < (1 << 28), "{}:/{} is not a tokenizer's file", path,
            name);
    std::string text(std::size_t(data.rows()), '\0');
    data.read(hdf5::Element::u8, 0, data.rows(), text.data());
    return text;
  };
  return parse(text_of("tokenizer/vocab.bpe"), text_of("tokenizer/encoder.json"), path + ":/tokenizer");
}

void Tokenizer::store(hdf5::File& file) const {
  if (!pairs_) return;
  for (const auto& [name, text] :
       {std::pair{"tokenizer/vocab.bpe", &pairs_->merges_text}, {"tokenizer/encoder.json", &pairs_->symbols_text}}) {
    const auto n = std::int64_t(text->size());
    file.create_rows(name, {hdf5::Class::integer, 1, false, false}, {},
                     {.chunk = {std::max<std::int64_t>(1, n)}, .rows = n, .deflate = 6})
        .append(n, text->data());
  }
}

std::int64_t Tokenizer::vocabulary() const {
  return pairs_ ? std::int64_t(pairs_->bytes_of.size()) : 256;
}
std::string Tokenizer::text() const {
  return pairs_ ? "GPT-2 pairs, " + std::to_string(vocabulary()) + " tokens" : "one token a byte";
}
std::optional<std::int32_t> Tokenizer::end_of_text() const {
  return pairs_ ? pairs_->end : std::nullopt;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> out;
  encode_some(text, true, out);
  return out;
}

std::size_t Tokenizer::encode_some(std::string_view text, bool last, std::vector<std::int32_t>& out) const {
  if (!pairs_) {
    for (char c : text) out.push_back(std::uint8_t(c));
    return text.size();
  }
  require(Exit::bad_data, text.size() < std::size_t(std::numeric_limits<std::int32_t>::max()),
          "tokenizer: 2 GiB of text at once");
  // A match that ends here or later could be longer with more text: a contraction, a character that is cut, white space.
  constexpr std::size_t margin = 16;
  const std::size_t certain = last ? text.size() : text.size() - std::min(text.size(), margin);
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(pattern(), nullptr), pcre2_match_data_free);
  std::unordered_map<std::string_view, std::pair<std::size_t, std::size_t>> known;  // pieces of this text: where in `out`
  auto encode_piece = [&](std::string_view piece) {
    if (piece.empty()) return;
    if (const auto found = known.find(piece); found != known.end()) {
      const auto [from, to] = found->second;
      for (std::size_t i = from; i < to; ++i) out.push_back(out[i]);
      return;
    }
    const std::size_t from = out.size();
    pairs_->encode_piece(piece, out);
    known.emplace(piece, std::pair(from, out.size()));
  };
  std::size_t at = 0;
  const std::uint32_t options = 0;
  for (;;) {
    const int found =
        pcre2_match(pattern(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, options, match.get(), nullptr);
    require(found >= 0 || found == PCRE2_ERROR_NOMATCH, "tokenizer: the pattern failed ({})", found);
    const PCRE2_SIZE* place = pcre2_get_ovector_pointer(match.get());
    const std::size_t from = found >= 0 ? place[0] : text.size(), to = found >= 0 ? place[1] : text.size();
    if (!last && (to > certain || found < 0)) return at;
    encode_piece(text.substr(at, from - at));  // bytes that are no UTF-8
    encode_piece(text.substr(from, to - from));
    at = to;
    if (at >= text.size()) return at;
  }
}

const std::string& Tokenizer::decode(std::int32_t token) const {
  static const auto all = [] {
    std::array<std::string, 256> one;
    for (int i = 0; i < 256; ++i) one[std::size_t(i)] = std::string(1, char(i));
    return one;
  }();
  require(Exit::bad_data, token >= 0 && token < vocabulary(), "token {} is none of {}", token, vocabulary());
  return pairs_ ? pairs_->bytes_of[std::size_t(token)] : all[std::size_t(token)];
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const auto token : tokens) text += decode(token);
  return text;
}

}  // namespace lockstep::io
