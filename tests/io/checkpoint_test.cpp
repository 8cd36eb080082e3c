#include "io/checkpoint.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <thread>

#include "tests/io/files.h"
#include "tests/support/devices.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
namespace fs = std::filesystem;

/// A model's tensors on a device, filled from a seed.
struct Model {
  std::vector<NamedView> views;
  std::vector<Tensor> tensors;
  Device& device;
  explicit Model(Device& d, std::uint64_t seed, std::int64_t width = 5) : device(d) {
    add("wte.weight", {11, width}, DType::f32, seed);
    add("h.0.attn.c_attn.weight", {3 * width, width}, DType::f32, seed + 1);
    add("h.0.ln_1.bias", {width}, DType::f32, seed + 2);
    add("adamw.m/h.0.attn.c_attn.weight", {3 * width, width}, DType::f32, seed + 3);
    add("half", {4, 3}, DType::bf16, seed + 4);
    add("one", {}, DType::f32, seed + 5);
    add("nothing", {0, 7}, DType::f32, seed + 6);
  }
  void add(const std::string& name, const Shape& shape, DType dtype, std::uint64_t seed) {
    tensors.push_back(make_tensor(device, shape, random_values(count(shape), seed), dtype));
    views.push_back({name, shape, tensors.back().view()});
  }
  std::vector<std::vector<float>> values() const {
    std::vector<std::vector<float>> all;
    for (const auto& t : tensors) all.push_back(t.size() > 0 ? download(device.queue(), t) : std::vector<float>{});
    return all;
  }
};

struct Saved {
  Folder folder;
  Device device;
  std::unique_ptr<Group> group = solo_group();
  std::string save(std::int64_t step, std::uint64_t seed, int keep = 0, const std::string& state = R"({"seed":7})") {
    return save_checkpoint(folder.path, step, Model(device, seed).views, state, keep, device.queue(), *group);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(folder.path)) all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }
  /// Whether the newest good checkpoint holds the values of `seed`.
  void expect_newest(std::int64_t step, std::uint64_t seed, std::size_t warnings = 0) {
    const auto found = find_checkpoint(folder.path, *group);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, step);
    EXPECT_EQ(found->warnings.size(), warnings);
    Model loaded(device, 99);
    load_checkpoint(*found, loaded.views, Match::all, device.queue(), *group);
    EXPECT_EQ(loaded.values(), Model(device, seed).values());
  }
};

TEST(Checkpoint, LoadsWhatWasSavedOnEveryDevice) {
  for (auto& device : devices()) {
    Folder folder;
    auto group = solo_group();
    const Model model(*device, 1);
    const auto path = save_checkpoint(folder / "checkpoints", 120, model.views, R"({"seed":7,"lanes":4,"rate":0.1})", 3,
                                      device->queue(), *group);
    EXPECT_EQ(path, folder / "checkpoints/step_120");
    EXPECT_EQ(read_file(folder / "checkpoints/latest"), "step_120\n");
    const auto found = find_checkpoint(folder / "checkpoints", *group);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, 120);
    EXPECT_EQ(nlohmann::json::parse(found->state), (nlohmann::json{{"seed", 7}, {"lanes", 4}, {"rate", 0.1}}));
    Model loaded(*device, 50);
    load_checkpoint(*found, loaded.views, Match::all, device->queue(), *group);
    EXPECT_EQ(loaded.values(), model.values());
    EXPECT_NE(verify_checkpoint(folder.path).find("every checksum is right"), std::string::npos);
    EXPECT_NE(inspect_checkpoint(folder.path).find("h.0.attn.c_attn.weight"), std::string::npos);
    // A part of it, under another type.
    Tensor as_half(*device, {11, 5}, DType::bf16);
    load_checkpoint(*found, {{"wte.weight", {11, 5}, as_half.view()}}, Match::subset, device->queue(), *group);
    const auto half = download(device->queue(), as_half), full = model.values()[0];
    for (std::size_t i = 0; i < half.size(); ++i) EXPECT_EQ(half[i], float(bf16(full[i])));
  }
}

TEST(Checkpoint, IsReadByH5py) {
  NEEDS_H5PY();
  Saved run;
  Model model(run.device, 3);
  save_checkpoint(run.folder.path, 5, model.views, R"({"seed":7})", 0, run.device.queue(), *run.group);
  const auto out = python(run.folder, R"(
f = h5.File('step_5/checkpoint.h5')
w = f["h.0.attn.c_attn.weight"]
assert w.shape == (15, 5) and w.dtype == 'f4', (w.shape, w.dtype)
assert f['nothing'].shape == (0, 7) and f['one'].shape == ()
assert f['half'].dtype == 'u2' and f['half'].attrs['dtype'] == 'bf16'
assert f.attrs['step'] == 5 and json.loads(f.attrs['state']) == {'seed': 7}
print(*['%.9g' % v for v in w[()].ravel()])
print(*['%.9g' % v for v in f['adamw.m/h.0.attn.c_attn.weight'][()].ravel()])
print(*['%.9g' % v for v in (f['half'][()].astype('u4') << 16).view('f4').ravel()]))");
  std::vector<float> expected;
  for (std::size_t i : {1, 3, 4}) {
    const auto more = model.values()[i];
    expected.insert(expected.end(), more.begin(), more.end());
  }
  const auto got = numbers(out);
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(float(got[i]), expected[i]);
}

TEST(Checkpoint, KeepsTheNewestAndClearsLeftovers) {
  Saved run;
  EXPECT_FALSE(find_checkpoint(run.folder.path, *run.group));
  EXPECT_FALSE(find_checkpoint(run.folder / "missing", *run.group));
  fs::create_directories(run.folder / "step_7.tmp.1234");
  write_file(run.folder / "step_7.tmp.1234/checkpoint.h5", "half");
  for (int step : {10, 20, 100, 200}) run.save(step, std::uint64_t(step), 2);
  EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_100", "step_200"}));
  run.expect_newest(200, 200);
  // The same step again: the newer values stand.
  run.save(200, 5, 2);
  run.expect_newest(200, 5);
  // One that was just written is never removed, whatever else is there.
  run.save(150, 150, 1);
  EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_150", "step_200"}));
}

TEST(Checkpoint, PassesOverDamagedOnes) {
  Saved run;
  for (int step : {1, 2, 3}) run.save(step, std::uint64_t(step));
  auto damage = [&](const std::string& file, auto change) {
    auto bytes = read_file(run.folder / file);
    change(bytes);
    write_file(run.folder / file, bytes);
  };
  damage("step_3/checkpoint.h5", [](std::string& b) { b[b.size() / 2] = char(b[b.size() / 2] ^ 8); });
  run.expect_newest(2, 2, 1);
  EXPECT_NE(find_checkpoint(run.folder.path, *run.group)->warnings[0].find("step_3/checkpoint.h5"), std::string::npos);
  expect_error(Exit::bad_data, {"step_3/checkpoint.h5", "checksum"}, [&] { verify_checkpoint(run.folder.path); });
  expect_error(Exit::bad_data, {"step_3"}, [&] { open_checkpoint(run.folder / "step_3", *run.group); });
  damage("step_2/checkpoint.h5", [](std::string& b) { b.resize(b.size() - 10); });
  run.expect_newest(1, 1, 2);
  fs::remove(run.folder / "step_1/manifest.json");
  expect_error(Exit::bad_data, {"every checkpoint is damaged", "step_3", "step_2", "step_1/manifest.json"},
               [&] { find_checkpoint(run.folder.path, *run.group); });
  // Training goes on at step 1 and meets the damaged one of step 2.
  run.save(2, 22);
  run.expect_newest(2, 22, 1);
}

TEST(Checkpoint, NoDamageGoesUnseen) {
  Saved run;
  run.save(1, 1);
  std::mt19937 random(5);
  for (const char* name : {"step_1/checkpoint.h5", "step_1/manifest.json"}) {
    const auto good = read_file(run.folder / name);
    for (int trial = 0; trial < 150; ++trial) {
      auto bytes = good;
      if (trial % 10 == 0)
        bytes.resize(random() % bytes.size());
      else
        bytes[random() % bytes.size()] ^= char(1 << (random() % 8));
      write_file(run.folder / name, bytes);
      try {
        verify_checkpoint(run.folder.path);
        // Only blanks between the manifest's words may change: what it says is the same.
        ASSERT_STREQ(name, "step_1/manifest.json") << trial;
        ASSERT_EQ(nlohmann::json::parse(bytes), nlohmann::json::parse(good)) << trial;
      } catch (const Error& e) {
        ASSERT_EQ(e.exit(), Exit::bad_data) << e.what();
        ASSERT_NE(std::string(e.what()).find("step_1"), std::string::npos) << e.what();
      }
    }
    write_file(run.folder / name, good);
  }
  run.expect_newest(1, 1);
}

TEST(Checkpoint, OfAnotherModelIsRefused) {
  Saved run;
  run.save(4, 1);
  const auto found = find_checkpoint(run.folder.path, *run.group);
  auto load = [&](const std::vector<NamedView>& views, Match match) {
    load_checkpoint(*found, views, match, run.device.queue(), *run.group);
  };
  Model wider(run.device, 1, 6), same(run.device, 1);
  expect_error(Exit::bad_data, {"another model", "'wte.weight' is (11, 5) there and (11, 6) here"},
               [&] { load(wider.views, Match::all); });
  same.add("h.1.ln_1.bias", {5}, DType::f32, 1);
  expect_error(Exit::bad_data, {"another model", "it has no 'h.1.ln_1.bias' (5)"}, [&] { load(same.views, Match::all); });
  same.views.resize(3);
  expect_error(Exit::bad_data, {"another model", "'adamw.m/h.0.attn.c_attn.weight' (15, 5) is there and not here"},
               [&] { load(same.views, Match::all); });
  load(same.views, Match::subset);
  expect_error(Exit::bad_data, {"no such folder"}, [&] { open_checkpoint(run.folder / "nowhere", *run.group); });
}

/// Runs `action` while no file may grow beyond `bytes`: writes fail as on a full disk.
void with_file_limit(rlim_t bytes, const std::function<void()>& action) {
  auto* before = ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{}, limit{};
  getrlimit(RLIMIT_FSIZE, &old);
  limit = {bytes, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  action();
  setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, before);
}

TEST(Checkpoint, FullDiskLeavesTheOldOne) {
  Saved run;
  run.save(1, 1);
  for (rlim_t limit : {0, 100, 4096, 70000}) {
    with_file_limit(limit, [&] { expect_error(Exit::io, {"step_2", "are needed", "are free"}, [&] { run.save(2, 2); }); });
    EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_1"})) << limit;
    run.expect_newest(1, 1);
  }
  run.save(2, 2);
  run.expect_newest(2, 2);
}

TEST(Checkpoint, FullFileSystemLeavesTheOldOne) {
  Saved run;
  const std::string mounted = run.folder / "small";
  fs::create_directories(mounted);
  if (std::system(("mount -t tmpfs -o size=400k tmpfs '" + mounted + "' 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << "mounting a small file system needs root";
  struct Unmount {
    std::string path;
    ~Unmount() { EXPECT_EQ(std::system(("umount '" + path + "'").c_str()), 0); }
  } unmount{mounted};
  Model model(run.device, 1);
  save_checkpoint(mounted, 1, model.views, "{}", 0, run.device.queue(), *run.group);
  model.add("large", {80000}, DType::f32, 1);
  for (int trial = 0; trial < 3; ++trial)
    expect_error(Exit::io, {"step_2", "the disk is full", "are needed", "are free"},
                 [&] { save_checkpoint(mounted, 2, model.views, "{}", 0, run.device.queue(), *run.group); });
  const auto found = find_checkpoint(mounted, *run.group);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 1);
  // Not one byte left for the manifest, say: whatever the moment, nothing half written is seen.
  for (int left = 0; left < 120; left += 4) {
    const std::string filler = mounted + "/filler";
    fs::remove(filler);
    const auto free = fs::space(mounted).free;
    if (free > std::uintmax_t(left) * 1024) write_file(filler, std::string(free - std::uintmax_t(left) * 1024, 'x'));
    try {
      save_checkpoint(mounted, 2, Model(run.device, 2).views, "{}", 1, run.device.queue(), *run.group);
      fs::remove(filler);
      break;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::io) << e.what();
      EXPECT_NE(std::string(e.what()).find("are free"), std::string::npos) << e.what();
    }
    EXPECT_EQ(find_checkpoint(mounted, *run.group)->step, 1) << left << " kB left";
  }
  EXPECT_EQ(find_checkpoint(mounted, *run.group)->step, 2);
}

TEST(Checkpoint, SurvivesKillsAtAnyMoment) {
  Saved run;
  run.save(0, 0);
  std::mt19937 random(3);
  std::int64_t newest = 0;
  for (int trial = 0; trial < 25; ++trial) {
    const pid_t pid = fork();
    if (pid == 0) {
      setrlimit(RLIMIT_CORE, std::array<rlimit, 1>{}.data());
      for (std::int64_t step = newest + 1;; ++step) run.save(step, std::uint64_t(step), 2);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60000));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    const auto found = find_checkpoint(run.folder.path, *run.group);
    ASSERT_TRUE(found);
    ASSERT_TRUE(found->warnings.empty()) << found->warnings[0];
    ASSERT_GE(found->step, newest);
    newest = found->step;
    run.expect_newest(newest, std::uint64_t(newest));
  }
  EXPECT_GT(newest, 3);
  run.save(newest + 1, 1, 2);
  std::string names;
  for (const auto& name : run.names()) names += name + " ";
  EXPECT_EQ(run.names().size(), 3u) << names;  // latest and two checkpoints: leftovers are gone
}

}  // namespace
}  // namespace lockstep::io
