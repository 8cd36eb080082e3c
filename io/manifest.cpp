#include "io/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "io/checksum.h"

namespace lockstep::io {

using Json = nlohmann::json;

namespace {
constexpr const char* format_name = "lockstep checkpoint";

DType dtype_named(const std::string& name) {
  for (DType d : {DType::f32, DType::bf16, DType::i32, DType::u8})
    if (name == name_of(d)) return d;
  throw std::runtime_error("unknown type '" + name + "'");
}
}  // namespace

std::string Manifest::to_json() const {
  Json body = {{"format", format_name}, {"version", 1}, {"step", step}, {"state", Json::parse(state)}};
  body["files"] = Json::array(), body["tensors"] = Json::array();
  for (const auto& f : files) body["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"rest_xxh3", f.rest_xxh3}});
  for (const auto& t : tensors)
    body["tensors"].push_back({{"name", t.name},
                               {"shape", t.shape},
                               {"dtype", name_of(t.dtype)},
                               {"file", t.file},
                               {"offset", t.offset},
                               {"bytes", t.bytes()},
                               {"xxh3", t.xxh3}});
  const std::string sum = checksum(body.dump());
  body["xxh3"] = sum;
  return body.dump(1) + "\n";
}

Manifest Manifest::parse(const std::string& text, const std::string& where) {
  try {
    Json body = Json::parse(text);
    auto need = [](bool ok, const std::string& what) {
      if (!ok) throw std::runtime_error(what);
    };
    need(body.is_object() && body.contains("xxh3"), "it has no checksum");
    const std::string sum = body["xxh3"];
    body.erase("xxh3");
    need(sum == checksum(body.dump()), "its checksum is wrong");
    need(body.at("format") == format_name, "it is not a checkpoint");
    need(body.at("version") == 1, "it was written by a newer version");
    Manifest m;
    m.step = body.at("step");
    m.state = body.at("state").dump();
    for (const auto& f : body.at("files")) m.files.push_back({f.at("name"), f.at("bytes"), f.at("rest_xxh3")});
    std::set<std::string> names;
    for (const auto& t : body.at("tensors")) {
      m.tensors.push_back(
          {t.at("name"), t.at("shape").get<Shape>(), dtype_named(t.at("dtype")), t.at("file"), t.at("offset"), t.at("xxh3")});
      const auto& stored = m.tensors.back();
      long double bytes = size_of(stored.dtype);
      for (auto d : stored.shape) {
        need(d >= 0, "'" + stored.name + "' has a negative size");
        bytes *= (long double)d;
      }
      need(bytes < 9e18L && stored.bytes() == t.at("bytes"), "'" + stored.name + "' has sizes that do not fit each other");
      need(names.insert(stored.name).second, "'" + stored.name + "' is there twice");
    }
    for (const auto& f : m.files) {
      need(!f.name.empty() && f.name.find('/') == std::string::npos && f.bytes >= 0,
           "the file '" + f.name + "' has a bad name or size");
      gaps(m, f);
    }
    for (const auto& t : m.tensors)
      need(std::any_of(m.files.begin(), m.files.end(), [&](const File& f) { return f.name == t.file; }),
           "'" + t.name + "' lies in the unknown file '" + t.file + "'");
    return m;
  } catch (const std::exception& e) {
    std::string why = e.what();
    if (auto at = why.find("] "); why.starts_with("[json") && at != std::string::npos) why = why.substr(at + 2);
    throw Error(where + ": the manifest is damaged: " + why, Exit::bad_data);
  }
}

std::vector<Gap> gaps(const Manifest& manifest, const Manifest::File& file) {
  std::vector<Gap> used, free;
  for (const auto& t : manifest.tensors)
    if (t.file == file.name && t.bytes() > 0) {
      require(Exit::bad_data, t.offset >= 0 && t.offset <= file.bytes && t.bytes() <= file.bytes - t.offset,
              "'{}' lies beyond the end of '{}'", t.name, file.name);
      used.push_back({t.offset, t.offset + t.bytes()});
    }
  std::sort(used.begin(), used.end(), [](const Gap& a, const Gap& b) { return a.begin < b.begin; });
  std::int64_t at = 0;
  for (const auto& u : used) {
    require(Exit::bad_data, u.begin >= at, "two tensors overlap in '{}' at {}", file.name, u.begin);
    if (u.begin > at) free.push_back({at, u.begin});
    at = u.end;
  }
  if (file.bytes > at) free.push_back({at, file.bytes});
  return free;
}

}  // namespace lockstep::io
