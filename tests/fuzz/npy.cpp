// An array, or an archive of arrays, as numpy writes them.

#include "io/convert.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace lockstep;
  const fuzz::MemoryFile array(std::string(reinterpret_cast<const char*>(data), size));
  fuzz::allow_refusal([&] { io::write_npy({array.path()}, {.out = fuzz::output(), .validation = size % 2 ? 0.25 : 0}); });
  return 0;
}
