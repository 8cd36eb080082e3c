#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::io {

namespace hdf5 {
class File;
}

/// Text to tokens and back: a token a byte, or the byte-level pair encoding of GPT-2 (Radford et al. 2019, "Language Models are
/// Unsupervised Multitask Learners", 2.2), equal to OpenAI's encoder.py for valid UTF-8. Bytes that are no UTF-8 are encoded as
/// they are, so that decode(encode(text)) == text always. Immutable; calls may run on several threads.
class Tokenizer {
 public:
  /// 256 tokens, the bytes.
  static Tokenizer bytes();
  /// A folder with `vocab.bpe` (a pair of symbols a line, the first to be joined first) and `encoder.json` (symbol to number).
  /// The names merges.txt and vocab.json do as well. Throws (bad_data) with file and line.
  static Tokenizer read(const std::string& folder);
  /// As above from the two files' texts; `name` stands for the folder in messages.
  static Tokenizer parse(const std::string& merges, const std::string& symbols, const std::string& name);
  /// The one that a data file was made with: its group `tokenizer`, or bytes.
  static Tokenizer of_data(const std::string& path);
  /// Keeps the tokenizer's files in a data file, for of_data(). Nothing for bytes.
  void store(hdf5::File&) const;

  std::int64_t vocabulary() const;
  /// "one token a byte" or "GPT-2 pairs, 50257 tokens"
  std::string text() const;
  /// <|endoftext|>, where there is one.
  std::optional<std::int32_t> end_of_text() const;

  std::vector<std::int32_t> encode(std::string_view text) const;
  /// Encodes the beginning of a longer text: appends its tokens and returns how many bytes they stand for, fewer than text.size()
  /// when what follows could change the rest. With `last` it is all.
  std::size_t encode_some(std::string_view text, bool last, std::vector<std::int32_t>& out) const;
  /// The bytes of one token. Throws (bad_data) for a number that is none.
  const std::string& decode(std::int32_t token) const;
  std::string decode(std::span<const std::int32_t> tokens) const;

 private:
  struct Pairs;
  std::shared_ptr<const Pairs> pairs_;  // null: bytes
};

}  // namespace lockstep::io
