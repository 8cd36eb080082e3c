// A configuration: what is accepted must print as text that reads back to the same.

#include "launch/config.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace lockstep;
  const std::string text(reinterpret_cast<const char*>(data), size);
  fuzz::allow_refusal([&] {
    const auto config = launch::parse_config(text, "fuzz.toml");
    const auto printed = launch::print_config(config);
    std::string again;
    try {
      again = launch::print_config(launch::parse_config(printed, "again.toml"));
    } catch (const Error& e) {
      std::fprintf(stderr, "%s\n%s\n", e.what(), printed.c_str());
      std::abort();
    }
    fuzz::hold(again == printed, "a printed configuration reads back as another");
  });
  return 0;
}
