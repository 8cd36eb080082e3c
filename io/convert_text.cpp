#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "io/convert.h"
#include "io/parts.h"
#include "io/plain_file.h"
#include "io/tokenizer.h"

namespace lockstep::io {

namespace {

/// Tokens in their place: of part train, then validation, of one shard after another. Where a part or a shard ends is a share of
/// the text's bytes, so that it does not matter how many tokens a text has.
class TokenStream {
 public:
  TokenStream(DataFiles& files, const Tokenizer& tokenizer, std::int64_t training_bytes, std::int64_t bytes, int deflate)
      : tokenizer_(tokenizer), files_(files) {
    wide_ = tokenizer.vocabulary() > 65536;
    number_ = wide_ ? i32 : tokenizer.vocabulary() > 256 ? u16 : u8;
    const auto shards = std::int64_t(files.count());
    auto end_of = [&](std::int64_t total, std::int64_t s) { return total / shards * s + total % shards * s / shards; };
    for (std::int64_t s = 1; s <= shards; ++s) ends_.push_back(end_of(training_bytes, s));
    parts_.emplace_back(files, "train/tokens", number_, Shape{}, -1, deflate);
    if (training_bytes == bytes) return;
    for (std::int64_t s = 1; s <= shards; ++s) ends_.push_back(training_bytes + end_of(bytes - training_bytes, s));
    parts_.emplace_back(files, "validation/tokens", number_, Shape{}, -1, deflate);
  }

  /// Bytes of a document, in pieces of any size; `end`: no more of it.
  void add(std::string_view text, bool end) {
    for (;;) {
      const std::int64_t until = ends_[place_];
      const auto mine = std::size_t(std::min<std::int64_t>(until - at_, std::int64_t(text.size())));
      held_ += text.substr(0, mine);
      text.remove_prefix(mine);
      at_ += std::int64_t(mine);
      const bool full = at_ == until && place_ + 1 < ends_.size();
      encode(full || (end && text.empty()));
      if (!full || text.empty()) break;
      next_place();
    }
  }
  void end_document() {
    if (const auto end = tokenizer_.end_of_text()) write({*end});
  }
  void finish() {
    for (auto& part : parts_) part.finish();
  }
  std::int64_t tokens(std::size_t part) const { return part < parts_.size() ? parts_[part].written() : 0; }
  std::size_t parts() const { return parts_.size(); }
  const PartWriter& part(std::size_t i) const { return parts_[i]; }
  const hdf5::Number& number() const { return number_; }

 private:
  void next_place() {
    ++place_;
    if (place_ % files_.count() != 0) parts_[place_ / files_.count()].next_shard();
  }
  void encode(bool all) {
    // A piece without any place to cut it would grow for ever: 64 MiB is the most.
    std::vector<std::int32_t> tokens;
    if (held_.size() >= (std::size_t(64) << 20)) all = true;
    const std::size_t used = tokenizer_.encode_some(held_, all, tokens);
    held_.erase(0, used);
    write(tokens);
  }
  void write(const std::vector<std::int32_t>& tokens) {
    PartWriter& part = parts_[place_ / files_.count()];
    if (wide_) return part.add(tokens.data(), std::int64_t(tokens.size()));
    narrow_.resize(tokens.size() * std::size_t(number_.bytes));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      for (int b = 0; b < number_.bytes; ++b) narrow_[i * std::size_t(number_.bytes) + std::size_t(b)] = char(tokens[i] >> 8 * b);
    part.add(narrow_.data(), std::int64_t(tokens.size()));
  }

  const Tokenizer& tokenizer_;
  DataFiles& files_;
  bool wide_ = false;
  hdf5::Number number_;
  std::vector<PartWriter> parts_;
  std::vector<std::int64_t> ends_;  // of each part's shards, in bytes of the text
  std::size_t place_ = 0;
  std::int64_t at_ = 0;
  std::string held_;  // not encoded yet
  std::vector<char> narrow_;
};

}  // namespace

std::string write_text(const TextOptions& input, const ConvertOptions& options) {
  check_options(options);
  require(Exit::usage, !input.paths.empty(), "data text: no file is given");
  const Tokenizer tokenizer = input.tokenizer.empty() ? Tokenizer::bytes() : Tokenizer::read(input.tokenizer);
  std::vector<char> block(std::size_t(1) << 20);
  std::int64_t total = 0;
  for (const auto& path : input.paths)
    for (PlainFile file(path); const std::size_t n = file.read(block.data(), block.size());) {
      total += std::int64_t(n);
      tell(options, "measuring", total, 0);
    }
  require(Exit::bad_data, total > 0, "{}: the text is empty", input.paths[0]);
  const std::int64_t training = total - std::llround(options.validation * double(total));
  require(Exit::usage, training >= options.shards && (training == total || total - training >= options.shards),
          "data text: {} bytes are too few for {} shards", total, options.shards);

  DataFiles files(options, file_bytes(total));
  std::optional<TokenStream> stream;
  files.write([&] {
    stream.emplace(files, tokenizer, training, total, options.deflate);
    std::int64_t at = 0;
    for (std::size_t i = 0; i < input.paths.size(); ++i) {
      if (i > 0) stream->end_document();
      PlainFile file(input.paths[i]);
      while (const std::size_t n = file.read(block.data(), block.size())) {
        at += std::int64_t(n);
        require(Exit::bad_data, at <= total, "{}: the text grew while it was read", file.path());
        stream->add({block.data(), n}, false);
        tell(options, "writing", at, total);
      }
      stream->add({}, true);
    }
    require(Exit::bad_data, at == total, "{}: the text shrank while it was read", input.paths[0]);
    stream->finish();
    files.set("", "vocabulary", tokenizer.vocabulary());
    files.set("", "encoding", tokenizer.text());
    for (std::size_t shard = 0; shard < files.count(); ++shard) tokenizer.store(files.file(shard));
    files.set_origin(input.paths, checksum_of(input.paths, options));
  });
  files.commit();
  const char* unit = input.tokenizer.empty() ? "bytes" : "tokens";
  std::string report = fmt::format("{}: train/tokens {} {}", files.names(), stream->tokens(0), unit);
  if (stream->parts() > 1) report += fmt::format(", validation/tokens {} {}", stream->tokens(1), unit);
  if (!input.tokenizer.empty())
    report += fmt::format(" ({}; {:.3g} bytes a token)", tokenizer.text(),
                          double(total) / double(stream->tokens(0) + stream->tokens(1)));
  return report + "\n" + explain_chunk(stream->part(0).chunk(), stream->number().bytes) + "\n";
}

}  // namespace lockstep::io
