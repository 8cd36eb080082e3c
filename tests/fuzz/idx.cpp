// Two idx files: the first two bytes say how long the file of labels is.

#include "io/convert.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace lockstep;
  if (size < 2) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t cut = std::min<std::size_t>(bytes.size(), data[0] | data[1] << 8);
  const fuzz::MemoryFile labels(bytes.substr(0, cut)), images(bytes.substr(cut));
  fuzz::allow_refusal([&] {
    io::write_idx({.images = images.path(), .labels = labels.path()}, {.out = fuzz::output(), .validation = cut % 3 * 0.2});
    io::verify_file(fuzz::output());
  });
  return 0;
}
