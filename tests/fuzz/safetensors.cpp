// A file of tensors from anywhere.

#include "io/safetensors.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace lockstep;
  const fuzz::MemoryFile input(std::string(reinterpret_cast<const char*>(data), size));
  fuzz::allow_refusal([&] {
    const io::SafetensorsFile file(input.path());
    std::int64_t bytes = 0;
    for (const auto& t : file.header().tensors) {
      fuzz::hold(t.begin == bytes, "a hole or an overlap");
      bytes = t.end;
      fuzz::allow_refusal([&] { fuzz::hold(std::int64_t(file.read(t).size()) == count(t.shape), "too few values"); });
    }
    fuzz::hold(bytes <= std::int64_t(size), "more bytes than the file has");
  });
  return 0;
}
