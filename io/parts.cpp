#include "io/parts.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "io/stream.h"

namespace lockstep::io {

void check_options(const ConvertOptions& options) {
  require(Exit::usage, !options.out.empty(), "data: the output file is missing (-o FILE.h5)");
  require(Exit::usage, options.validation >= 0 && options.validation < 1, "data: the share held out is {}, not in [0, 1)",
          options.validation);
}

std::int64_t file_bytes(std::int64_t values) {
  return values + values / 1000 + (1 << 17);
}

std::vector<bool> choose_rows(std::int64_t rows, double share) {
  std::vector<bool> chosen(std::size_t(rows), false);
  const std::int64_t n = std::llround(share * double(rows));
  require(Exit::usage, n < rows, "data: holding out {} of {} rows leaves none for training", n, rows);
  const Permutation order(rows, 0x686f6c64206f7574, 0);
  for (std::int64_t i = 0; i < n; ++i) chosen[std::size_t(order(i))] = true;
  return chosen;
}

hdf5::Data create_part(hdf5::File& file, const std::string& name, hdf5::Element element, const Shape& shape) {
  Shape chunk = shape;
  const std::int64_t row = count(shape) / std::max<std::int64_t>(1, shape[0]) * std::int64_t(size_of(element));
  chunk[0] =
      std::clamp<std::int64_t>((std::int64_t(1) << 18) / std::max<std::int64_t>(1, row), 1, std::max<std::int64_t>(1, shape[0]));
  return file.create_dataset(name, element, shape, {.chunk = chunk, .checksum = true});
}

void set_origin(hdf5::File& file, const ConvertOptions& options) {
  if (!options.source.empty()) file.set("", "source", options.source);
  if (!options.licence.empty()) file.set("", "licence", options.licence);
  file.set("", "made by", std::string("lockstep data"));
}

void writing(const Output& output, const std::string& target, std::int64_t bytes, const std::function<void(hdf5::File&)>& fill) {
  try {
    auto file = hdf5::File::create(output.path());
    fill(file);
    file.close();
  } catch (const Error& e) {
    const std::string text = e.what();
    if (e.exit() != Exit::io) throw;
    for (int problem : {ENOSPC, EFBIG, EDQUOT})
      if (text.find(std::strerror(problem)) != std::string::npos) write_failed(target, bytes, problem);
    throw;
  }
}

PartWriter::PartWriter(hdf5::Data data, hdf5::Element element)
    : data_(std::move(data)), element_(element), row_bytes_(std::size_t(data_.width()) * size_of(element)) {}

void PartWriter::add(const void* row) {
  const auto* bytes = static_cast<const std::byte*>(row);
  pending_.insert(pending_.end(), bytes, bytes + row_bytes_);
  if (pending_.size() >= (std::size_t(4) << 20)) finish();
}

void PartWriter::finish() {
  const auto rows = std::int64_t(pending_.size() / row_bytes_);
  data_.write(element_, written_, rows, pending_.data());
  written_ += rows;
  pending_.clear();
}

}  // namespace lockstep::io
