#include "io/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/convert.h"
#include "io/hdf5.h"
#include "io/plain_file.h"
#include "tests/io/files.h"
#include "tests/support/places.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

const std::string golden = test::place("LOCKSTEP_SOURCE", LOCKSTEP_SOURCE_DIR) + "/tests/golden/tokenizer/";

std::string utf8(std::uint32_t c) {
  if (c < 0x80) return {char(c)};
  if (c < 0x800) return {char(0xC0 | c >> 6), char(0x80 | (c & 63))};
  if (c < 0x10000) return {char(0xE0 | c >> 12), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
  return {char(0xF0 | c >> 18), char(0x80 | (c >> 12 & 63)), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
}

std::string gpt2_merges() {
  PlainFile file(golden + "vocab.bpe.gz");
  std::string text(1 << 20, '\0');
  text.resize(file.read(text.data(), text.size()));
  return text;
}

/// encoder.json as it follows from vocab.bpe: printable bytes, the others, the merges, <|endoftext|>.
std::string gpt2_symbols(const std::string& merges) {
  nlohmann::json json;
  int next = 0;
  auto shown = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  for (int b = 0; b < 256; ++b)
    if (shown(b)) json[utf8(std::uint32_t(b))] = next++;
  for (int b = 0, moved = 256; b < 256; ++b)
    if (!shown(b)) json[utf8(std::uint32_t(moved++))] = next++;
  std::istringstream lines(merges.substr(merges.find('\n') + 1));
  for (std::string a, b; lines >> a >> b;) json[a + b] = next++;
  json["<|endoftext|>"] = next;
  return json.dump();
}

const Tokenizer& gpt2() {
  static const std::string merges = gpt2_merges();
  static const Tokenizer one = Tokenizer::parse(merges, gpt2_symbols(merges), "gpt2");
  return one;
}

/// The lines of tests/golden/tokenizer.py.
class Lines {
 public:
  Lines() {
    std::ifstream scripts(golden + "scripts.txt"), words(golden + "words.txt");
    for (std::string line; std::getline(scripts, line);) {
      std::istringstream in(line);
      std::uint32_t first = 0, last = 0;
      in >> std::hex >> first >> last;
      scripts_.emplace_back(first, last);
    }
    for (std::string line; std::getline(words, line);) words_.push_back(nlohmann::json::parse(line).get<std::string>());
  }
  std::string next() {
    const char* const between[] = {"", "  ", "\t", "   ", "\n", " ", " ", " ", " ", " "};
    std::string text;
    for (auto n = 1 + below(12); n > 0; --n) {
      const auto kind = below(10);
      if (kind < 6) {
        const auto [first, last] = scripts_[below(scripts_.size())];
        for (auto i = 1 + below(8); i > 0; --i) text += utf8(first + std::uint32_t(below(last - first + 1)));
      } else if (kind == 6) {
        for (auto i = 1 + below(6); i > 0; --i) text += char('0' + below(10));
      } else {
        text += words_[below(words_.size())];
      }
      text += between[below(10)];
    }
    return text;
  }

 private:
  std::uint64_t below(std::uint64_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 33) % n;
  }
  std::uint64_t state_ = 1;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> scripts_;
  std::vector<std::string> words_;
};

std::uint32_t sum_of(const std::vector<std::int32_t>& tokens) {  // FNV-1a
  std::uint32_t value = 2166136261u;
  for (const auto token : tokens)
    for (int shift : {0, 8}) value = (value ^ std::uint32_t(token >> shift & 255)) * 16777619u;
  return value;
}

TEST(Tokenizer, EqualsTheReferenceOnManyScripts) {
  const std::string sums = read_file(golden + "sums.bin");
  ASSERT_EQ(sums.size(), 40000u);
  Lines lines;
  for (std::size_t i = 0; i < 10000; ++i) {
    const std::string line = lines.next();
    const auto tokens = gpt2().encode(line);
    std::uint32_t expected = 0;
    for (std::size_t b = 4; b-- > 0;) expected = expected << 8 | std::uint8_t(sums[4 * i + b]);
    ASSERT_EQ(sum_of(tokens), expected) << "line " << i << ": " << line;
    ASSERT_EQ(gpt2().decode(tokens), line) << i;
  }
}

TEST(Tokenizer, KnownTokens) {
  // From OpenAI's encoder.py.
  EXPECT_EQ(gpt2().encode("Hello world"), (std::vector<std::int32_t>{15496, 995}));
  EXPECT_EQ(gpt2().encode(""), std::vector<std::int32_t>{});
  EXPECT_EQ(gpt2().vocabulary(), 50257);
  EXPECT_EQ(gpt2().end_of_text(), 50256);
  EXPECT_EQ(gpt2().decode(50256), "<|endoftext|>");
  expect_error(Exit::bad_data, {"token 50257"}, [] { gpt2().decode(50257); });
  expect_error(Exit::bad_data, {"token -1"}, [] { gpt2().decode(-1); });
  EXPECT_EQ(Tokenizer::bytes().encode("\xFFz"), (std::vector<std::int32_t>{255, 122}));
}

TEST(Tokenizer, PiecesOfATextMakeTheTokensOfTheWhole) {
  Lines lines;
  std::string text;
  while (text.size() < 200000) text += lines.next();
  const auto whole = gpt2().encode(text);
  for (std::size_t step : {1u, 7u, 64u, 1000u, 65536u}) {
    std::vector<std::int32_t> tokens;
    std::string held;
    for (std::size_t at = 0; at < std::min<std::size_t>(text.size(), step * 2000); at += step) {
      held += text.substr(at, step);
      held.erase(0, gpt2().encode_some(held, false, tokens));
    }
    ASSERT_LE(tokens.size(), whole.size());
    EXPECT_GT(tokens.size(), std::min(whole.size() / 2, step * 200)) << step;
    for (std::size_t i = 0; i < tokens.size(); ++i) ASSERT_EQ(tokens[i], whole[i]) << step << " " << i;
  }
}

TEST(Tokenizer, BytesThatAreNoTextComeBack) {
  std::uint64_t state = 9;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string text;
    for (int i = 0; i < 40; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      text += state >> 62 ? char(state >> 40) : "e' \n"[state >> 50 & 3];
    }
    ASSERT_EQ(gpt2().decode(gpt2().encode(text)), text) << trial;
  }
  // Long pieces are not slow: a million letters without a space.
  EXPECT_EQ(gpt2().decode(gpt2().encode(std::string(1000000, 'a'))), std::string(1000000, 'a'));
}

TEST(Tokenizer, FilesAreReadStrictly) {
  const std::string merges = gpt2_merges(), symbols = gpt2_symbols(merges);
  const auto json = nlohmann::json::parse(symbols);
  auto refused = [](const std::string& m, const std::string& s, const std::vector<std::string>& parts) {
    expect_error(Exit::bad_data, parts, [&] { Tokenizer::parse(m, s, "folder"); });
  };
  refused(merges, "{", {"folder/encoder.json: not a table"});
  refused(merges, "[1]", {"encoder.json"});
  refused(merges, std::string(100000, '['), {"encoder.json: not a table"});
  refused(merges, "{\"a\": 1}", {"256 or more"});
  auto changed = json;
  changed["the"] = 50257;
  refused(merges, changed.dump(), {"encoder.json: 'the' has the number 50257"});
  changed["the"] = -1;
  refused(merges, changed.dump(), {"'the' has the number -1"});
  changed["the"] = 5;
  refused(merges, changed.dump(), {"two symbols have the number 5"});
  changed = json;
  changed.erase("the");
  changed["t\xE4\xB8\x80"] = json["the"];
  refused(merges, changed.dump(), {"stands for no byte"});
  changed = json;
  changed.erase("!");
  changed["!!!!!!!!!!!!!!!"] = json["!"];
  refused("", changed.dump(), {"the byte 33 has no symbol"});
  refused(merges + "one\n", symbols, {"vocab.bpe line 50002: 'one' is not a pair"});
  refused(merges + "a b c\n", symbols, {"vocab.bpe line 50002"});
  refused(merges + "qqqq zzzz\n", symbols, {"'qqqq' is not in encoder.json"});
  refused(merges + "h e\n", symbols, {"line 50002: the pair 'h e' is there twice"});
  refused(merges + "< |endoftext|>\n", symbols, {"is not in encoder.json"});
  Folder folder;
  expect_error(Exit::bad_data, {"there is no vocab.bpe (or merges.txt)"}, [&] { Tokenizer::read(folder.path); });
  write_file(folder / "merges.txt", merges);
  expect_error(Exit::bad_data, {"there is no encoder.json (or vocab.json)"}, [&] { Tokenizer::read(folder.path); });
  write_file(folder / "vocab.json", symbols);
  EXPECT_EQ(Tokenizer::read(folder.path).encode("Hello world"), (std::vector<std::int32_t>{15496, 995}));
}

TEST(WriteText, TokensOfGpt2) {
  NEEDS_H5PY();
  Folder folder;
  std::filesystem::create_directory(folder / "gpt2");
  const std::string merges = gpt2_merges();
  write_file(folder / "gpt2/vocab.bpe", merges);
  write_file(folder / "gpt2/encoder.json", gpt2_symbols(merges));
  Lines lines;
  std::string a, b;
  while (a.size() < 300000) a += lines.next();
  while (b.size() < 2000) b += lines.next();
  write_file(folder / "a.txt", a);
  write_file(folder / "b.txt", b);
  write_text({.paths = {folder / "a.txt", folder / "b.txt"}, .tokenizer = folder / "gpt2"}, {.out = folder / "t.h5"});
  auto expected = gpt2().encode(a);
  expected.push_back(50256);
  for (const auto token : gpt2().encode(b)) expected.push_back(token);
  const auto file = hdf5::File::open(folder / "t.h5");
  const auto data = file.dataset("train/tokens");
  EXPECT_EQ(data.info().type_text, "u16");
  ASSERT_EQ(data.rows(), std::int64_t(expected.size()));
  std::vector<std::int32_t> tokens(expected.size());
  data.read(hdf5::Element::i32, 0, data.rows(), tokens.data());
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(Tokenizer::of_data(folder / "t.h5").decode(tokens), a + "<|endoftext|>" + b);
  EXPECT_NE(verify_file(folder / "t.h5").find("manifest"), std::string::npos);

  // Parts and shards end at shares of the bytes; together they are the text.
  write_text({.paths = {folder / "a.txt"}, .tokenizer = folder / "gpt2"},
             {.out = folder / "s.h5", .validation = 0.1, .shards = 3});
  std::string together;
  for (const char* part : {"train/tokens", "validation/tokens"})
    for (int shard = 0; shard < 3; ++shard) {
      const auto path = folder / ("s-0000" + std::to_string(shard) + "-of-00003.h5");
      const auto shard_file = hdf5::File::open(path);
      const auto one = shard_file.dataset(part);
      std::vector<std::int32_t> some(std::size_t(one.rows()));
      one.read(hdf5::Element::i32, 0, one.rows(), some.data());
      const auto text = Tokenizer::of_data(path).decode(some);
      EXPECT_NEAR(double(text.size()), double(a.size()) * (part[0] == 't' ? 0.3 : 1 / 30.0), 2);
      together += text;
    }
  EXPECT_EQ(together, a);
}

}  // namespace
}  // namespace lockstep::io
