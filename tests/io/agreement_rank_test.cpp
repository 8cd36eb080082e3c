#include <signal.h>
#include <sys/resource.h>

#include "io/agree.h"
#include "io/checkpoint.h"
#include "io/convert.h"
#include "io/dataset.h"
#include "parallel/open_communicator.h"
#include "tests/io/files.h"
#include "tests/support/devices.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

/// One folder that every rank sees, made and removed by rank 0.
struct Shared {
  std::unique_ptr<Group> group = parallel::open_mpi_group();
  std::unique_ptr<Folder> own = group->rank() == 0 ? std::make_unique<Folder>() : nullptr;
  std::string path = group->broadcast(own ? own->path : "");
  ~Shared() { group->barrier(); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
};

TEST(Agreement, OneErrorOnEveryRank) {
  auto group = parallel::open_mpi_group();
  EXPECT_EQ(agree(*group, [&] { return "rank " + std::to_string(group->rank()); }), "rank 0");
  expect_error(Exit::io, {"rank 0 could not"}, [&] {
    agree(*group, [&]() -> std::string { throw Error("rank " + std::to_string(group->rank()) + " could not", Exit::io); });
  });
  settle(*group, [] {});
  const int last = group->size() - 1;
  expect_error(Exit::bad_data, {"rank " + std::to_string(last) + " could not"}, [&] {
    settle(*group, [&] {
      if (group->rank() == last) throw Error("rank " + std::to_string(last) + " could not", Exit::bad_data);
    });
  });
  settle(*group, [] {});  // nobody is out of step
}

TEST(Agreement, EveryRankOpensWhatRankZeroFound) {
  Shared shared;
  if (shared.own) {
    std::string text = "a,b,y\n";
    for (int i = 0; i < 40; ++i) text += std::to_string(i) + "," + std::to_string(i * i) + "," + std::to_string(i % 3) + "\n";
    write_file(shared / "t.csv", text);
    write_csv({.paths = {shared / "t.csv"}}, {.out = shared / "t.h5", .validation = 0.25});
  }
  shared.group->barrier();
  const auto opened = open_dataset({.paths = {shared / "t.h5"}}, *shared.group);
  EXPECT_EQ(opened.train->rows(), 30);
  EXPECT_EQ(opened.validation->rows(), 10);
  EXPECT_EQ(opened.train->info().classes, 3);
  std::vector<float> x(60);
  std::vector<std::int32_t> y(30);
  std::vector<std::int64_t> rows(30);
  for (int i = 0; i < 30; ++i) rows[std::size_t(i)] = i;
  opened.train->read(rows, {x.data(), 60}, {y.data(), 30, DType::i32});
  const std::string bytes(reinterpret_cast<const char*>(x.data()), 240);
  EXPECT_EQ(bytes, shared.group->broadcast(bytes));
  expect_error(Exit::bad_data, {"no such file"}, [&] { open_dataset({.paths = {shared / "missing.h5"}}, *shared.group); });
  expect_error(Exit::bad_data, {"data.inputs", "train/x (30, 2) f32"},
               [&] { open_dataset({.paths = {shared / "t.h5"}, .inputs = "wrong"}, *shared.group); });
}

TEST(Agreement, CheckpointsAreWrittenOnceAndReadByAll) {
  Shared shared;
  Device device;
  auto save = [&](std::int64_t step, std::uint64_t seed) {
    const auto weights = make_tensor(device, {20, 3}, random_values(60, seed));
    return save_checkpoint(shared / "checkpoints", step, {{"w", {20, 3}, weights.view()}}, "{}", 2, device.queue(),
                           *shared.group);
  };
  EXPECT_FALSE(find_checkpoint(shared / "checkpoints", *shared.group));
  EXPECT_EQ(save(1, 1), shared / "checkpoints/step_1");

  // Rank 0's disk is full: every rank hears of it.
  rlimit old{}, none{};
  getrlimit(RLIMIT_FSIZE, &old);
  none = {100, old.rlim_max};
  auto* before = ::signal(SIGXFSZ, SIG_IGN);
  if (shared.own) setrlimit(RLIMIT_FSIZE, &none);
  const Error e = error_of([&] { save(2, 2); });
  setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, before);
  EXPECT_EQ(e.exit(), Exit::io);
  EXPECT_NE(std::string(e.what()).find("are needed"), std::string::npos) << e.what();

  const auto found = find_checkpoint(shared / "checkpoints", *shared.group);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 1);
  const auto loaded = poisoned(device, {20, 3});
  load_checkpoint(*found, {{"w", {20, 3}, loaded.view()}}, Match::all, device.queue(), *shared.group);
  EXPECT_EQ(download(device.queue(), loaded), random_values(60, 1));
  // One rank built another model: all stop, and its difference is named.
  const Shape shape = shared.group->rank() == shared.group->size() - 1 ? Shape{60} : Shape{20, 3};
  expect_error(Exit::bad_data, {"another model", "'w' is (20, 3) there and (60) here"}, [&] {
    load_checkpoint(*found, {{"w", shape, loaded.view()}}, Match::all, device.queue(), *shared.group);
  });
}

}  // namespace
}  // namespace lockstep::io
