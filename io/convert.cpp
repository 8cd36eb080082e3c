#include "io/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/hdf5.h"
#include "io/output.h"
#include "io/parts.h"
#include "io/plain_file.h"

namespace lockstep::io {

using hdf5::Element;

std::string write_text(const std::vector<std::string>& paths, const ConvertOptions& options) {
  check_options(options);
  require(Exit::usage, !paths.empty(), "data text: no file is given");
  std::vector<char> block(std::size_t(4) << 20);
  auto each_block = [&](auto visit_block) {
    for (const auto& path : paths) {
      PlainFile file(path);
      while (std::size_t n = file.read(block.data(), block.size())) visit_block(block.data(), std::int64_t(n));
    }
  };
  std::int64_t total = 0;
  each_block([&](const char*, std::int64_t n) { total += n; });
  require(Exit::bad_data, total > 0, "{}: the text is empty", paths[0]);
  const std::int64_t training = total - std::llround(options.validation * double(total));

  Output output(options.out, file_bytes(total));
  writing(output, options.out, file_bytes(total), [&](hdf5::File& file) {
    const Shape chunk = {std::int64_t(1) << 18};
    std::vector<hdf5::Data> parts;
    parts.push_back(create_part(file, "train/tokens", Element::u8, {training}));
    if (training < total) parts.push_back(create_part(file, "validation/tokens", Element::u8, {total - training}));
    std::int64_t at = 0;
    each_block([&](const char* data, std::int64_t n) {
      require(Exit::bad_data, at + n <= total, "{}: the text grew while it was read", paths[0]);
      const std::int64_t first = std::clamp<std::int64_t>(training - at, 0, n);  // of these bytes, for training
      parts[0].write(Element::u8, at, first, data);
      if (first < n) parts[1].write(Element::u8, at + first - training, n - first, data + first);
      at += n;
    });
    require(Exit::bad_data, at == total, "{}: the text shrank while it was read", paths[0]);
    file.set("", "vocabulary", std::int64_t(256));
    file.set("", "encoding", "one token a byte");
    set_origin(file, options);
  });
  output.commit();
  return fmt::format("{}: train/tokens {} bytes{}\n", options.out, training,
                     training < total ? fmt::format(", validation/tokens {} bytes", total - training) : "");
}

}  // namespace lockstep::io
