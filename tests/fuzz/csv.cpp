// A table; the first byte chooses the options.

#include "io/convert.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace lockstep;
  if (size < 1) return 0;
  const fuzz::MemoryFile table(std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  io::CsvOptions options{.paths = {table.path()}, .regression = (data[0] & 1) != 0};
  if (data[0] & 2) options.target = "0";
  if (data[0] & 4) options.ignore = {"1"};
  if (data[0] & 8) options.paths.push_back(table.path());
  fuzz::allow_refusal([&] {
    io::write_csv(options, {.out = fuzz::output(), .validation = data[0] & 16 ? 0.3 : 0});
    io::verify_file(fuzz::output());
  });
  return 0;
}
