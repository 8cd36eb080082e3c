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

#include "core/checksum.h"
#include "io/hdf5.h"
#include "io/raw_file.h"
#include "kernels/memory.h"
#include "tests/io/checkpoints.h"
#include "tests/io/thread_group.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
namespace fs = std::filesystem;

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
    for (DType dtype : {DType::bf16, DType::f16}) {
      Tensor as_half(*device, {11, 5}, dtype);
      load_checkpoint(*found, {{"wte.weight", {11, 5}, as_half.view()}}, Match::subset, device->queue(), *group);
      const auto half = download(device->queue(), as_half), full = model.values()[0];
      for (std::size_t i = 0; i < half.size(); ++i) EXPECT_EQ(half[i], test::rounded(dtype, full[i]));
    }
  }
}

// What a rank alone holds it writes itself; the rest is shared out.
TEST(Checkpoint, PartsOfTensorsBecomeWhole) {
  Saved run;
  const Model model(run.device, 3);
  const std::vector<std::vector<std::int64_t>> cuts = {{0, 20, 20, 75}, {0, 75, 75, 75}};  // rank 1 has nothing of either
  const std::vector<std::string> names = {"adamw.m/h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"};
  auto parts_of = [&](const Model& whole, int rank, std::int64_t shift = 0) {
    auto views = whole.views;
    for (auto& v : views)
      for (std::size_t i = 0; i < names.size(); ++i) {
        if (v.name != names[i]) continue;
        const auto begin = cuts[i][std::size_t(rank)], end = cuts[i][std::size_t(rank) + 1];
        v.view = v.view.slice(begin, end - begin - (begin < end ? shift : 0));
        v.begin = begin;
      }
    return views;
  };
  on_ranks(3, [&](Group& group) {
    const auto views = parts_of(model, group.rank());
    save_checkpoint(run.folder.path, 5, views, R"({"seed":7})", 0, run.device.queue(), group);
  });
  run.expect_newest(5, 3);
  EXPECT_NE(verify_checkpoint(run.folder.path).find("every checksum is right"), std::string::npos);
  on_ranks(3, [&](Group& group) {
    Model loaded(run.device, 50);
    load_checkpoint(*find_checkpoint(run.folder.path, group), parts_of(loaded, group.rank()), Match::all, run.device.queue(),
                    group);
    const Model other(run.device, 50);
    const std::size_t at = 3;  // the moments
    for (std::int64_t i = 0; i < 75; ++i) {
      const bool mine = i >= cuts[0][std::size_t(group.rank())] && i < cuts[0][std::size_t(group.rank()) + 1];
      EXPECT_EQ(loaded.values()[at][std::size_t(i)], (mine ? model : other).values()[at][std::size_t(i)]);
    }
    EXPECT_EQ(loaded.values()[0], model.values()[0]);
  });
  std::string text;
  try {
    on_ranks(3, [&](Group& group) {
      save_checkpoint(run.folder.path, 6, parts_of(model, group.rank(), 1), "{}", 0, run.device.queue(), group);
    });
  } catch (const Error& e) {
    text = e.what();
  }
  EXPECT_NE(text.find("the ranks' parts do not make up 'h.0.attn.c_attn.weight' (15, 5)"), std::string::npos) << text;
  run.expect_newest(5, 3);
}

TEST(Checkpoint, IsReadByH5py) {
  NEEDS_H5PY();
  Saved run;
  Model model(run.device, 3);
  on_ranks(3, [&](Group& group) {
    save_checkpoint(run.folder / "there", 5, model.views, R"({"seed":7})", 0, run.device.queue(), group);
  });
  // The folder may be moved, and a file of the same name where the reader stands is not taken for its own.
  fs::rename(run.folder / "there/step_5", run.folder / "step_5");
  write_file(run.folder / "rank1.h5", "not this one");
  const auto out = python(run.folder, R"(
f = h5.File('step_5/checkpoint.h5')
w = f["h.0.attn.c_attn.weight"]
assert w.shape == (15, 5) and w.dtype == 'f4', (w.shape, w.dtype)
assert f['nothing'].shape == (0, 7) and f['one'].shape == ()
assert f['half'].dtype == 'u2' and f['half'].attrs['dtype'] == 'bf16'
assert f['f16'].dtype == 'u2' and f['f16'].attrs['dtype'] == 'f16'
assert f.attrs['step'] == 5 and json.loads(f.attrs['state']) == {'seed': 7}
print(*['%.9g' % v for v in w[()].ravel()])
print(*['%.9g' % v for v in f['adamw.m/h.0.attn.c_attn.weight'][()].ravel()])
print(*['%.9g' % v for v in (f['half'][()].astype('u4') << 16).view('f4').ravel()])
print(*['%.9g' % v for v in f['f16'][()].view('f2').ravel()])
parts = [h5.File('step_5/rank%d.h5' % k) for k in range(3)]
flat = {}
for part in parts:  # the pieces themselves, without the view
    part.visititems(lambda name, d: flat.setdefault(name, []).append(d[()].ravel()) if isinstance(d, h5.Dataset) else None)
assert np.array_equal(np.concatenate(flat['h.0.attn.c_attn.weight']), w[()].ravel())
f.close()
import os
os.remove('step_5/rank1.h5')  # what is missing is seen to be missing
w = h5.File('step_5/checkpoint.h5')
assert any(np.isnan(w[k][()]).any() for k in ('wte.weight', 'h.0.attn.c_attn.weight', 'adamw.m/h.0.attn.c_attn.weight')))");
  std::vector<float> expected;
  for (std::size_t i : {1, 3, 4, 7}) {
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
  damage("step_3/rank0.h5", [](std::string& b) { b[b.size() / 2] = char(b[b.size() / 2] ^ 8); });
  run.expect_newest(2, 2, 1);
  EXPECT_NE(find_checkpoint(run.folder.path, *run.group)->warnings[0].find("step_3/rank0.h5"), std::string::npos);
  expect_error(Exit::bad_data, {"step_3/rank0.h5", "checksum"}, [&] { verify_checkpoint(run.folder.path); });
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
  for (const char* name : {"step_1/rank0.h5", "step_1/checkpoint.h5", "step_1/manifest.json"}) {
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

TEST(Checkpoint, AnyRanksReadWhatAnyRanksWrote) {
  Device device;
  const Model model(device, 1);
  for (int writers : {1, 2, 3, 4, 7, 200}) {
    Folder folder;
    on_ranks(writers, [&](Group& group) { save_checkpoint(folder.path, 1, model.views, "{}", 0, device.queue(), group); });
    for (int readers : {1, 2, 4})
      on_ranks(readers, [&](Group& group) {
        Device own;
        const auto found = find_checkpoint(folder.path, group);
        ASSERT_TRUE(found && found->warnings.empty());
        Model loaded(own, 50);
        load_checkpoint(*found, loaded.views, Match::all, own.queue(), group);
        EXPECT_EQ(loaded.values(), model.values()) << writers << " wrote, " << readers << " read";
      });
  }
}

TEST(Checkpoint, RanksWriteEqualShares) {
  Device device;
  Folder folder;
  Model model(device, 1);
  model.add("large", {1000003}, DType::f32, 1);
  on_ranks(4, [&](Group& group) { save_checkpoint(folder.path, 1, model.views, "{}", 0, device.queue(), group); });
  for (int rank = 0; rank < 4; ++rank)
    EXPECT_NEAR(double(fs::file_size(folder / ("step_1/rank" + std::to_string(rank) + ".h5"))), 1e6, 2e4) << rank;
}

/// Weights of which the ranks of a machine have one copy: nobody reads into it while another still writes what it begins with.
// A rank that waited begins the next one while rank 0 still takes older ones away.
TEST(Checkpoint, TheNextBeginsWhileOlderOnesGo) {
  for (bool asynchronous : {true, false}) {
    Folder folder;
    on_ranks(3, [&](Group& group) {
      Device own;
      Model model(own, 1);
      CheckpointWriter writer(folder.path, model.views, {.keep = 1, .asynchronous = asynchronous}, own.queue(), group);
      for (std::int64_t step = 1; step <= 60; ++step) {
        writer.begin(step, "{}");
        EXPECT_EQ(writer.wait()->problem, "") << step;
      }
    });
  }
}

TEST(Checkpoint, RanksMayLoadIntoOneMemory) {
  Saved run;
  Model shared(run.device, 9);
  run.save(1, 1);
  on_ranks(3, [&](Group& group) {
    const auto found = find_checkpoint(run.folder.path, group);
    ASSERT_TRUE(found);
    Device device;
    if (group.rank() == 2) {  // is late, and has its say about the memory until it comes
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_EQ(shared.values(), Model(device, 9).values());
    }
    load_checkpoint(*found, shared.views, Match::all, device.queue(), group);
    group.barrier();
    EXPECT_EQ(shared.values(), Model(device, 1).values());
  });
}

TEST(Checkpoint, RangesOfTensorsAreLoadedAlone) {
  Device device;
  Folder folder;
  Model model(device, 1);
  model.add("large", {3000, 1001}, DType::f32, 1);  // three blocks of checksums
  on_ranks(3, [&](Group& group) { save_checkpoint(folder.path, 1, model.views, "{}", 0, device.queue(), group); });
  const auto group = solo_group();
  const auto found = find_checkpoint(folder.path, *group);
  const auto all = model.values().back();
  std::mt19937 random(1);
  for (int trial = 0; trial < 40; ++trial) {
    const auto begin = std::int64_t(random() % all.size()), size = std::int64_t(random() % (all.size() - std::size_t(begin)));
    Tensor part(device, {size});
    load_checkpoint(*found, {{"large", {3000, 1001}, part.view(), begin}}, Match::subset, device.queue(), *group);
    const auto got = size > 0 ? download(device.queue(), part) : std::vector<float>{};
    ASSERT_TRUE(std::equal(got.begin(), got.end(), all.begin() + begin, all.begin() + begin + size)) << begin << " " << size;
  }
  Tensor beyond(device, {10});
  expect_error(Exit::internal, {"'large'", "3002995"}, [&] {
    load_checkpoint(*found, {{"large", {3000, 1001}, beyond.view(), 3002995}}, Match::subset, device.queue(), *group);
  });
}

TEST(Checkpoint, OfTheFirstVersionIsRead) {
  Saved run;
  Model model(run.device, 3);
  fs::create_directories(run.folder / "step_4");
  auto file = hdf5::File::create(run.folder / "step_4/checkpoint.h5");
  nlohmann::json tensors = nlohmann::json::array();
  for (std::size_t i : {0, 1, 2}) {
    const auto& v = model.views[i];
    const auto values = model.values()[i];
    auto data = file.create_dataset(v.name, hdf5::Element::f32, v.shape, {.reserve = true});
    data.write(hdf5::Element::f32, 0, data.rows(), values.data());
    tensors.push_back({{"name", v.name},
                       {"shape", v.shape},
                       {"dtype", "f32"},
                       {"file", "checkpoint.h5"},
                       {"offset", data.offset()},
                       {"bytes", values.size() * 4},
                       {"xxh3", checksum(values.data(), values.size() * 4)}});
  }
  file.close();
  std::string rest = read_file(run.folder / "step_4/checkpoint.h5");
  const auto size = rest.size();
  auto by_offset = tensors;
  std::sort(by_offset.begin(), by_offset.end(), [](auto& a, auto& b) { return a["offset"] > b["offset"]; });
  for (const auto& t : by_offset) rest.erase(std::size_t(t["offset"]), std::size_t(t["bytes"]));
  nlohmann::json body = {{"format", "lockstep checkpoint"}, {"version", 1}, {"step", 4}, {"state", {{"seed", 7}}}};
  body["tensors"] = tensors;
  body["files"] = {{{"name", "checkpoint.h5"}, {"bytes", size}, {"rest_xxh3", checksum(rest)}}};
  const std::string sum = checksum(body.dump());
  body["xxh3"] = sum;
  write_file(run.folder / "step_4/manifest.json", body.dump(1));

  const auto found = find_checkpoint(run.folder.path, *run.group);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 4);
  Model loaded(run.device, 9);
  loaded.views.resize(3);
  load_checkpoint(*found, loaded.views, Match::all, run.device.queue(), *run.group);
  for (std::size_t i : {0, 1, 2}) EXPECT_EQ(loaded.values()[i], model.values()[i]);
}

TEST(Checkpoint, EveryMthStays) {
  Saved run;
  Model model(run.device, 1);
  CheckpointWriter writer(run.folder.path, model.views, {.keep = 2, .keep_every = 30}, run.device.queue(), *run.group);
  for (int step = 10; step <= 100; step += 10) {
    writer.begin(step, "{}");
    const auto ended = writer.wait();
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->problem, "");
  }
  EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_100", "step_30", "step_60", "step_80", "step_90"}));
}

TEST(Checkpoint, DifferencesAreNamed) {
  Saved run;
  run.save(1, 1), run.save(2, 1);
  auto difference = [&](int a, int b) {
    return diff_checkpoints(run.folder / ("step_" + std::to_string(a)), run.folder / ("step_" + std::to_string(b)));
  };
  EXPECT_TRUE(difference(1, 2).same) << difference(1, 2).text;
  Model other(run.device, 1);
  auto values = other.values()[2];
  values[1] += 0.5f;
  upload(run.device.queue(), other.tensors[2], values);
  other.add("more", {2}, DType::f32, 1);
  other.views.erase(other.views.begin());
  save_checkpoint(run.folder.path, 3, other.views, "{}", 0, run.device.queue(), *run.group);
  const auto d = difference(1, 3);
  EXPECT_FALSE(d.same);
  for (const char* part : {"h.0.ln_1.bias: 1 of 5 values differ, by at most 0.5", "wte.weight: only in", "more: only in"})
    EXPECT_NE(d.text.find(part), std::string::npos) << d.text;
  EXPECT_EQ(std::count(d.text.begin(), d.text.end(), '\n'), 3) << d.text;
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
  Model large(run.device, 2);
  large.add("large", {30000}, DType::f32, 1);
  for (rlim_t limit : {20000, 70000, 119999}) {
    with_file_limit(limit, [&] {
      expect_error(Exit::io, {"rank0.h5", "are needed", "are free"},
                   [&] { save_checkpoint(run.folder.path, 2, large.views, "{}", 0, run.device.queue(), *run.group); });
    });
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
  model.add("large", {100000}, DType::f32, 1);
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

TEST(FilesInMemory, SeveralAreOpenAtOnce) {
  Folder folder;
  auto made = [] { return hdf5::File::create_in({"a file in memory", RawFile::Mode::memory}); };
  auto a = made(), b = made();
  a.set("", "name", std::string("a")), b.set("", "name", std::string("b"));
  const std::string earlier = a.image();
  a.set("", "step", std::int64_t(3));
  for (auto [bytes, name, step] : {std::tuple{a.image(), "a", 3.0}, {b.image(), "b", 0.0}, {earlier, "a", 0.0}}) {
    write_file(folder / "written.h5", bytes);
    const auto file = hdf5::File::open(folder / "written.h5");
    EXPECT_EQ(file.texts("", "name").value()[0], name);
    EXPECT_EQ(file.numbers("", "step").value_or(std::vector{0.0})[0], step);
  }
}

TEST(Checkpoint, ShowsStatesOfAnySize) {
  Saved run;
  Model model(run.device, 1);
  CheckpointWriter writer(run.folder.path, model.views, {}, run.device.queue(), *run.group);
  std::int64_t step = 0;
  for (std::size_t size : {8, 4095, 4096, 30000, 60000, 60001, 20}) {
    const std::string state = R"({"a":")" + std::string(size - 8, 'x') + R"("})";
    writer.begin(++step, state);
    ASSERT_EQ(writer.wait()->problem, "");
    EXPECT_EQ(find_checkpoint(run.folder.path, *run.group)->state, state);
    const auto shown = hdf5::File::open(run.folder / ("step_" + std::to_string(step) + "/checkpoint.h5"));
    EXPECT_EQ(shown.numbers("", "step").value()[0], double(step));
    const auto texts = shown.texts("", "state");
    ASSERT_EQ(texts.has_value(), size <= 60000) << size;  // an attribute holds 64 KiB
    if (texts) {
      EXPECT_EQ(texts->at(0).substr(0, size), state);
      EXPECT_EQ(texts->at(0).find_first_not_of(' ', size), std::string::npos);
    }
  }
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
