#include <filesystem>
#include <numeric>

#include "io/dataset.h"
#include "parallel/open_communicator.h"
#include "tests/io/files.h"
#include "tests/io/masked_documents.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

TEST(NodeCache, RanksOfAMachineShareOneCopy) {
  NEEDS_H5PY();
  const auto group = parallel::open_mpi_group();
  Folder own;
  const std::string path = group->broadcast(own.path);
  Folder* const folder = group->rank() == 0 ? &own : nullptr;
  if (folder)
    python(*folder, R"(
x = np.arange(6000, dtype='f4').reshape(300, 20)
with h5.File('chunks.h5', 'w') as f: f.create_dataset('x', data=x, chunks=(16, 7), compression='gzip', fletcher32=True); f['y'] = np.arange(300) % 7
with h5.File('plain.h5', 'w') as f: f['x'], f['y'] = x, np.arange(300) % 7
)");
  group->barrier();
  std::vector<std::int64_t> rows(300);
  std::iota(rows.begin(), rows.end(), 0);
  for (const char* name : {"/chunks.h5", "/plain.h5"})
    for (bool scan : {true, false}) {
      const auto opened =
          open_dataset({.paths = {path + name}, .classes = 7, .memory_limit = 1, .node_cache = true, .scan = scan}, *group);
      auto check = [&] {
        std::vector<float> inputs(6000);
        std::vector<std::int32_t> labels(300);
        opened.train->read(rows, {inputs.data(), 6000}, {labels.data(), 300, DType::i32});
        for (int i = 0; i < 6000; ++i) ASSERT_EQ(inputs[std::size_t(i)], float(i));
        for (int i = 0; i < 300; ++i) ASSERT_EQ(labels[std::size_t(i)], i % 7);
      };
      if (group->size() == 1) {  // nobody to share with
        EXPECT_EQ(opened.note, "");
        check();
        continue;
      }
      EXPECT_NE(opened.note.find("one place in the memory"), std::string::npos) << opened.note;
      check();  // all at once: each band is read by one of them
      group->barrier();
      // What one rank has read, the others have: the file itself may go.
      const std::string file = path + name;
      if (folder) std::filesystem::copy_file(file, file + ".kept"), std::filesystem::resize_file(file, 100);
      group->barrier();
      check();
      group->barrier();
      if (folder)
        std::filesystem::copy_file(file + ".kept", file, std::filesystem::copy_options::overwrite_existing),
            std::filesystem::remove(file + ".kept");
      group->barrier();
    }
}

TEST(NodeCache, HoldsMasksAndDocumentsToo) {
  NEEDS_H5PY();
  const auto group = parallel::open_mpi_group();
  Folder own;
  const std::string path = group->broadcast(own.path), file = path + "/masked.h5";
  const auto printed = group->broadcast(group->rank() == 0 ? python(own, masked_documents) : "");
  const auto middle = printed.find('\n');
  const auto inputs = numbers(printed.substr(0, middle)), targets = numbers(printed.substr(middle));
  const auto opened = open_dataset(
      {.paths = {file}, .validation = "none", .length = 16, .memory_limit = 1, .node_cache = true, .documents = "starts"},
      *group);
  EXPECT_EQ(opened.note.find("one place in the memory") != std::string::npos, group->size() > 1) << opened.note;
  EXPECT_TRUE(opened.train->info().ignores);
  ASSERT_EQ(opened.train->rows() * 16, std::int64_t(inputs.size()));
  auto check = [&](int only) {  // rows of one rank; -1: all of them at once
    if (only >= 0 && group->rank() != only) return;
    std::vector<std::int64_t> rows(inputs.size() / 16);
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<std::int32_t> x(inputs.size()), y(inputs.size());
    const auto n = std::int64_t(inputs.size());
    opened.train->read(rows, {x.data(), n, DType::i32}, {y.data(), n, DType::i32});
    EXPECT_TRUE(std::equal(x.begin(), x.end(), inputs.begin()));
    EXPECT_TRUE(std::equal(y.begin(), y.end(), targets.begin()));
  };
  check(0);
  group->barrier();
  if (group->rank() == 0 && group->size() > 1) std::filesystem::resize_file(file, 100);
  group->barrier();
  check(-1);
  group->barrier();
}

TEST(NodeCache, MemoryThatIsNotThereIsToldInASentence) {
  NEEDS_H5PY();
  const auto group = parallel::open_mpi_group();
  Folder own;
  const std::string path = group->broadcast(own.path);
  if (group->rank() == 0)  // 80 TB that were never written
    python(own,
           "with h5.File('huge.h5', 'w') as f: f.create_dataset('x', (2 * 10**10, 1000), 'u4', chunks=(100, 1000)); "
           "f.create_dataset('y', (2 * 10**10,), 'u1', chunks=(1000,))");
  group->barrier();
  const auto opened = open_dataset({.paths = {path + "/huge.h5"}, .classes = 7, .node_cache = true, .scan = false}, *group);
  EXPECT_EQ(opened.train->rows(), 20000000000);
  EXPECT_EQ(opened.note.find("do not fit the") != std::string::npos, group->size() > 1) << opened.note;
  std::vector<float> inputs(1000, 1);
  std::int32_t label = 1;
  const std::int64_t row = 12345678901;
  opened.train->read({&row, 1}, {inputs.data(), 1000}, {&label, 1, DType::i32});
  EXPECT_EQ(inputs[0] + inputs[999] + float(label), 0);
  group->barrier();
}

}  // namespace
}  // namespace lockstep::io
