#include "io/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/checksum.h"

namespace lockstep::io {

using Json = nlohmann::json;

namespace {
constexpr const char* format_name = "lockstep checkpoint";

void need(bool ok, const std::string& what) {
  if (!ok) throw std::runtime_error(what);
}

DType dtype_named(const std::string& name) {
  for (DType d : {DType::f32, DType::bf16, DType::f16, DType::i32, DType::u8})
    if (name == name_of(d)) return d;
  throw std::runtime_error("unknown type '" + name + "'");
}

/// A whole number that is not negative; anything else in its place is damage.
std::int64_t whole(const Json& value, const char* what) {
  need(value.is_number_integer() && value >= 0 && value <= std::numeric_limits<std::int64_t>::max(),
       std::string("'") + what + "' is no whole number");
  return value;
}

void read_tensor(Manifest& m, const Json& t) {
  m.tensors.push_back({t.at("name"), {}, dtype_named(t.at("dtype"))});
  auto& tensor = m.tensors.back();
  long double bytes = size_of(tensor.dtype);
  for (const auto& d : t.at("shape")) {
    bytes *= (long double)tensor.shape.emplace_back(whole(d, "shape"));
    need(bytes < 9e18L, "'" + tensor.name + "' has an impossible shape");  // also before a later 0
  }
}

/// As version 1 had it: a tensor in one piece, with one checksum.
void read_whole_tensor(Manifest& m, const Json& t) {
  need(m.tensors.back().bytes() == t.at("bytes"), "'" + m.tensors.back().name + "' has sizes that do not fit each other");
  const std::string file = t.at("file");
  auto at = std::find_if(m.files.begin(), m.files.end(), [&](const Manifest::File& f) { return f.name == file; });
  need(at != m.files.end(), "'" + m.tensors.back().name + "' lies in the unknown file '" + file + "'");
  if (count(m.tensors.back().shape) > 0)
    m.pieces.push_back({std::int64_t(m.tensors.size()) - 1,
                        at - m.files.begin(),
                        0,
                        count(m.tensors.back().shape),
                        whole(t.at("offset"), "offset"),
                        {t.at("xxh3")}});
}

void read_piece(Manifest& m, const Json& p) {
  m.pieces.push_back({whole(p.at("tensor"), "tensor"), whole(p.at("file"), "file"), whole(p.at("begin"), "begin"),
                      whole(p.at("size"), "size"), whole(p.at("offset"), "offset"),
                      p.at("xxh3").get<std::vector<std::string>>()});
  const auto& piece = m.pieces.back();
  need(piece.tensor < std::int64_t(m.tensors.size()) && piece.file < std::int64_t(m.files.size()), "a piece of nothing");
  const auto& tensor = m.tensors[std::size_t(piece.tensor)];
  need(piece.size > 0 && piece.size <= count(tensor.shape), "a piece of '" + tensor.name + "' has an impossible size");
  need(std::int64_t(piece.xxh3.size()) == m.blocks_of(piece), "a piece of '" + tensor.name + "' lacks checksums");
}

/// The pieces of each tensor follow one another and are all of it.
void check_cover(const Manifest& m) {
  auto piece = m.pieces.begin();
  for (std::size_t i = 0; i < m.tensors.size(); ++i) {
    std::int64_t at = 0;
    for (; piece != m.pieces.end() && piece->tensor == std::int64_t(i) && piece->begin == at; ++piece) {
      need(piece->size <= count(m.tensors[i].shape) - at, "'" + m.tensors[i].name + "' has too many elements");
      at += piece->size;
    }
    need(at == count(m.tensors[i].shape), "'" + m.tensors[i].name + "' is not whole");
  }
  need(piece == m.pieces.end(), "the pieces are out of order");
}

Manifest read_body(const Json& body) {
  need(body.at("format") == format_name, "it is not a checkpoint");
  const std::int64_t version = whole(body.at("version"), "version");
  need(version == 1 || version == 2, "it was written by a newer version");
  Manifest m;
  m.step = whole(body.at("step"), "step");
  m.state = body.at("state").dump();
  m.block_bytes = version == 1 ? std::numeric_limits<std::int64_t>::max() : whole(body.at("block_bytes"), "block_bytes");
  need(m.block_bytes > 0 && (version == 1 || m.block_bytes <= 1 << 30), "its blocks have an impossible size");
  for (const auto& f : body.at("files")) m.files.push_back({f.at("name"), whole(f.at("bytes"), "bytes"), f.at("rest_xxh3")});
  std::set<std::string> names;
  for (const auto& t : body.at("tensors")) {
    read_tensor(m, t);
    need(names.insert(m.tensors.back().name).second, "'" + m.tensors.back().name + "' is there twice");
    if (version == 1) read_whole_tensor(m, t);
  }
  if (version == 2)
    for (const auto& p : body.at("pieces")) read_piece(m, p);
  check_cover(m);
  for (std::size_t i = 0; i < m.files.size(); ++i) {
    const std::string& name = m.files[i].name;
    need(!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
             name.find('\0') == std::string::npos,
         "the file '" + name + "' has a bad name");
    gaps(m, std::int64_t(i));
  }
  return m;
}
}  // namespace

namespace {
/// [a,b,…] of what `write` appends for each, one a line.
template <class List, class Write>
void write_list(fmt::memory_buffer& out, const char* key, const List& list, Write&& write) {
  fmt::format_to(std::back_inserter(out), "\"{}\":[", key);
  for (std::size_t i = 0; i < list.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "{}\n", i ? "," : "");
    write(std::back_inserter(out), list[i]);
  }
  fmt::format_to(std::back_inserter(out), "],\n");
}
std::string quoted(const std::string& text) {
  return Json(text).dump();
}
}  // namespace

// Put together by hand, keys in order as Json has them: the writing thread takes its time from the step, and a Json of all pieces
// takes ten times as long.
std::string Manifest::to_json() const {
  fmt::memory_buffer out;
  fmt::format_to(std::back_inserter(out), "{{\"block_bytes\":{},\n", block_bytes);
  write_list(out, "files", files, [](auto to, const File& f) {
    fmt::format_to(to, R"({{"bytes":{},"name":{},"rest_xxh3":"{}"}})", f.bytes, quoted(f.name), f.rest_xxh3);
  });
  fmt::format_to(std::back_inserter(out), "\"format\":\"{}\",\n", format_name);
  write_list(out, "pieces", pieces, [](auto to, const Piece& p) {
    fmt::format_to(to, R"({{"begin":{},"file":{},"offset":{},"size":{},"tensor":{},"xxh3":["{}"]}})", p.begin, p.file, p.offset,
                   p.size, p.tensor, fmt::join(p.xxh3, R"(",")"));
  });
  fmt::format_to(std::back_inserter(out), "\"state\":{},\n\"step\":{},\n", Json::parse(state).dump(), step);
  write_list(out, "tensors", tensors, [](auto to, const Tensor& t) {
    fmt::format_to(to, R"({{"dtype":"{}","name":{},"shape":[{}]}})", name_of(t.dtype), quoted(t.name), fmt::join(t.shape, ","));
  });
  fmt::format_to(std::back_inserter(out), "\"version\":2");
  std::string text(out.data(), out.size()), body = text;  // the checksum is of it as one line
  std::erase(body, '\n');
  return fmt::format("{},\n\"xxh3\":\"{}\"}}\n", text, checksum(body + "}"));
}

Manifest Manifest::parse(const std::string& text, const std::string& where) {
  try {
    Json body = Json::parse(text);
    need(body.is_object() && body.contains("xxh3"), "it has no checksum");
    const std::string sum = body["xxh3"];
    body.erase("xxh3");
    need(sum == checksum(body.dump()), "its checksum is wrong");
    return read_body(body);
  } catch (const std::exception& e) {
    std::string why = e.what();
    if (auto at = why.find("] "); why.starts_with("[json") && at != std::string::npos) why = why.substr(at + 2);
    throw Error(where + ": the manifest is damaged: " + why, Exit::bad_data);
  }
}

std::vector<Gap> gaps(const Manifest& manifest, std::int64_t which) {
  const auto& file = manifest.files[std::size_t(which)];
  std::vector<Gap> used, free;
  for (const auto& p : manifest.pieces)
    if (p.file == which) {
      const std::int64_t bytes = manifest.bytes_of(p);
      require(Exit::bad_data, p.offset >= 0 && p.offset <= file.bytes && bytes <= file.bytes - p.offset,
              "'{}' lies beyond the end of '{}'", manifest.tensors[std::size_t(p.tensor)].name, file.name);
      used.push_back({p.offset, p.offset + bytes});
    }
  std::sort(used.begin(), used.end(), [](const Gap& a, const Gap& b) { return a.begin < b.begin; });
  std::int64_t at = 0;
  for (const auto& u : used) {
    require(Exit::bad_data, u.begin >= at, "two pieces overlap in '{}' at {}", file.name, u.begin);
    if (u.begin > at) free.push_back({at, u.begin});
    at = u.end;
  }
  if (file.bytes > at) free.push_back({at, file.bytes});
  return free;
}

}  // namespace lockstep::io
