#include "io/contents.h"

#include <nlohmann/json.hpp>

namespace lockstep::io {

using Json = nlohmann::json;

hdf5::File open_checked(const std::string& path, const CheckedFiles& checked) {
  auto file = hdf5::File::open(path);
  const auto known = checked.find(path);
  if (known == checked.end()) return file;
  require(Exit::bad_data, FileBytes(path).state() == known->second->state,
          "{}: the file was changed after it was checked, a moment ago: start again when nobody writes to it", path);
  file.answer_from({known->second, &known->second->contents});
  return file;
}

std::string to_bytes(const hdf5::Contents& contents) {
  auto datasets = Json::array(), attributes = Json::array();
  for (const auto& d : contents.datasets)
    datasets.push_back({d.name, d.shape, d.limit, int(d.type), d.bytes, d.is_signed, d.type_text, d.layout, d.filters, d.stored});
  for (const auto& a : contents.attributes) {
    Json one = {a.object, a.name, nullptr, nullptr};
    if (a.numbers) one[2] = *a.numbers;
    if (a.texts) one[3] = *a.texts;
    attributes.push_back(std::move(one));
  }
  std::string bytes;
  Json::to_cbor(Json{datasets, attributes}, bytes);  // a binary form: numbers may be NaN, texts anything
  return bytes;
}

hdf5::Contents contents_from(const std::string& bytes, const std::string& path) {
  hdf5::Contents contents;
  try {
    const Json all = Json::from_cbor(bytes);
    for (const auto& d : all.at(0)) {
      const int type = d.at(3);
      require(Exit::bad_data, type >= 0 && type <= int(hdf5::Class::other), "{}: the file is damaged: a type of kind {}", path,
              type);
      contents.datasets.push_back(
          {d.at(0), d.at(1), d.at(2), hdf5::Class(type), d.at(4), d.at(5), d.at(6), d.at(7), d.at(8), d.at(9)});
      const auto& info = contents.datasets.back();
      long double total = std::max(1, info.bytes);
      bool possible = info.bytes >= 0 && info.shape.size() == info.limit.size() && info.shape.size() <= 32;
      for (auto n : info.shape) total *= (long double)n, possible = possible && n >= 0;
      require(Exit::bad_data, possible && total < 9e18L, "{}: '{}' claims the impossible shape {}; the file is damaged", path,
              info.name, to_text(info.shape));
    }
    for (const auto& a : all.at(1)) {
      contents.attributes.push_back({a.at(0), a.at(1)});
      if (!a.at(2).is_null()) contents.attributes.back().numbers = a.at(2).get<std::vector<double>>();
      if (!a.at(3).is_null()) contents.attributes.back().texts = a.at(3).get<std::vector<std::string>>();
    }
  } catch (const Json::exception&) {
    throw Error(path + ": the file is damaged: the process that read it first sent nothing that makes sense", Exit::bad_data);
  }
  return contents;
}

}  // namespace lockstep::io
