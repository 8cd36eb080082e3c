#include "io/raw_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace lockstep::io {
namespace {

// Straight to the disk where the file system can, in the common way where it cannot (memory in /dev/shm, for some kernels), and
// for what lies behind the last whole block; the memory's place decides nothing.
TEST(RawFile, WrittenDirectlyHoldsTheSameBytes) {
  constexpr std::int64_t block = RawFile::direct_alignment;
  std::vector<std::filesystem::path> folders = {std::filesystem::temp_directory_path(), std::filesystem::current_path()};
  if (std::filesystem::exists("/dev/shm")) folders.push_back("/dev/shm");
  for (const auto& folder : folders)
    for (std::int64_t bytes :
         {std::int64_t(0), std::int64_t(1), block - 1, block, 3 * block + 77, 33 * 1048576 + std::int64_t(5)})
      for (std::int64_t past : {0, 8}) {
        std::vector<char> memory(std::size_t(bytes + 2 * block));
        const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
        char* from = memory.data() + (block - std::int64_t(address % std::uintptr_t(block))) % block + past;
        for (std::int64_t i = 0; i < bytes; ++i) from[i] = char(i * 7 + i / 4096);
        const std::string path = folder / ("lockstep_raw_file_test." + std::to_string(getpid()));
        {
          RawFile file(path, RawFile::Mode::create);
          file.write_directly(bytes, from);
          file.sync();
        }
        std::ifstream in(path, std::ios::binary);
        const std::string got{std::istreambuf_iterator<char>(in), {}};
        std::filesystem::remove(path);
        ASSERT_EQ(std::int64_t(got.size()), bytes) << path;
        EXPECT_TRUE(std::memcmp(got.data(), from, got.size()) == 0) << path << ", " << bytes << " bytes, " << past;
      }
}

}  // namespace
}  // namespace lockstep::io
