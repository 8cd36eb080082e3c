#include "io/rechunk.h"

#include <fmt/format.h>

#include <filesystem>

#include "io/dataset.h"
#include "io/parts.h"

namespace lockstep::io {

std::string rechunk_file(const RechunkOptions& options, const ConvertOptions& convert) {
  check_options(convert);
  require(Exit::usage, convert.shards == 1, "data rechunk: one file becomes one file");
  require(Exit::usage, options.rows >= 0, "data rechunk: {} rows in a chunk", options.rows);
  require(Exit::usage, !options.contiguous || (convert.deflate == 0 && options.rows == 0),
          "data rechunk: contiguous data has no chunks and no compression");
  validate_file(options.path);
  std::int64_t values = 0;
  {
    const auto file = hdf5::File::open(options.path);
    for (const auto& info : file.datasets()) values += count(info.shape) * info.bytes;
  }
  const std::int64_t bytes = file_bytes(values);
  const auto before = std::int64_t(std::filesystem::file_size(options.path));
  std::string report;
  DataFiles files(convert, convert.deflate > 0 ? std::min(bytes, before) : bytes);
  files.close();
  files.write([&] { hdf5::rewrite(options.path, files.path(0), options, convert, report); });
  files.commit();
  const auto after = std::int64_t(std::filesystem::file_size(convert.out));
  return report + fmt::format("{}: {}, before {}\n", convert.out, size_text(after), size_text(before));
}

}  // namespace lockstep::io
