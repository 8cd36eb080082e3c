// Targets that are not counted: labels of an ignored value, and masks beside tokens.

#include <algorithm>
#include <numeric>

#include "io/convert.h"
#include "io/dataset.h"
#include "io/loader.h"
#include "io/mixture.h"
#include "tests/io/files.h"
#include "tests/io/masked_documents.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

Datasets open(const DatasetOptions& options) {
  auto group = solo_group();
  return open_dataset(options, *group);
}

struct Whole {
  std::vector<double> inputs, targets;
};
/// All rows in their order, read as one batch in the opposite one.
Whole read_all(const Dataset& dataset) {
  const auto& info = dataset.info();
  const std::int64_t all = dataset.rows(), n = count(info.input), m = count(info.target);
  const bool tokens = info.kind == DataKind::tokens;
  std::vector<std::int64_t> rows(std::size_t(all), 0);
  std::iota(rows.rbegin(), rows.rend(), 0);
  std::vector<std::int32_t> whole(std::size_t(all * n)), targets(std::size_t(all * m));
  std::vector<float> real(std::size_t(all * n));
  dataset.read(rows, tokens ? View{whole.data(), all * n, DType::i32} : View{real.data(), all * n},
               {targets.data(), all * m, DType::i32});
  Whole values;
  for (std::int64_t r = all - 1; r >= 0; --r) {
    for (std::int64_t i = r * n; i < (r + 1) * n; ++i)
      values.inputs.push_back(tokens ? whole[std::size_t(i)] : double(real[std::size_t(i)]));
    for (std::int64_t i = r * m; i < (r + 1) * m; ++i) values.targets.push_back(targets[std::size_t(i)]);
  }
  return values;
}

/// Reads the training rows of data.h5 in memory and from the file, and compares with what Python computed: inputs, a line end,
/// targets.
void expect_reads(const Folder& folder, DatasetOptions options, const std::string& expected, bool ignores = true) {
  const auto middle = expected.find('\n');
  options.paths = {folder / "data*.h5"};
  for (std::size_t limit : {std::size_t(1) << 30, std::size_t(0)}) {
    options.memory_limit = limit;
    const auto opened = open(options);
    EXPECT_EQ(opened.train->info().ignores, ignores);
    const auto values = read_all(*opened.train);
    EXPECT_EQ(values.inputs, numbers(expected.substr(0, middle)));
    EXPECT_EQ(values.targets, numbers(expected.substr(middle)));
  }
}

const std::string start = R"(
show = lambda a: print(*['%.9g' % v for v in np.asarray(a, dtype=np.float64).ravel()])
np.random.seed(5)
t = np.random.randint(0, 50, (9, 8))          # tokens; rows of these lengths, then padding
lengths = np.array([8, 3, 8, 1, 5, 2, 7, 0, 4])
kept = (np.arange(8) < lengths[:, None])
f = h5.File('data.h5', 'w')
)";

TEST(Masks, LabelsOfTheNextTokenStandInTheirPlaces) {
  NEEDS_H5PY();
  Folder folder;
  expect_reads(folder, {}, python(folder, start + R"(
y = np.where(kept, np.roll(t, -1, 1), -100); y[:, -1] = 49
f['train/input_ids'] = t.astype('u2')
f.create_dataset('train/labels', data=y.astype('>i8'), chunks=(2, 8), compression='gzip')
f.close(); show(t); show(y))"));
}

TEST(Masks, LabelsThatRepeatTheTokensAreThoseOfTheNextPlace) {
  NEEDS_H5PY();
  Folder folder;
  const auto expected = python(folder, start + R"(
y = np.where(kept, t, -1)
f['input_ids'], f['labels'] = t, y
f.close(); y[y == -1] = -100; show(t[:, :-1]); show(y[:, 1:]))");
  expect_reads(folder, {.ignore = -1, .validation = "none"}, expected);
  // Rows cut to a length; labels that are not wanted.
  EXPECT_EQ(open({.paths = {folder / "data.h5"}, .ignore = -1, .length = 5}).train->info().target, Shape{5});
  const auto plain = open({.paths = {folder / "data.h5"}, .labels = "none"});
  EXPECT_FALSE(plain.train->info().ignores);
  expect_error(Exit::bad_data, {"label -1 (first such row: 1) is outside 0 to", "set data.ignore = -1"},
               [&] { open({.paths = {folder / "data.h5"}, .shift = true}); });
}

TEST(Masks, ZerosOfAMaskTakeTheTargetOut) {
  NEEDS_H5PY();
  const char* kinds[] = {"kept", "kept.astype('u1')", "kept.astype('>i8')", "kept.astype('f4') * 2"};
  const char* names[] = {"attention_mask", "loss_mask", "mask", "attention_mask"};
  for (int i = 0; i < 4; ++i) {
    SCOPED_TRACE(kinds[i]);
    Folder folder;
    expect_reads(folder, {},
                 python(folder, start + "m = " + kinds[i] + "\nf['train/input_ids'] = t\nf.create_dataset('train/" + names[i] +
                                    R"(', data=m, chunks=(4, 8), compression='gzip', shuffle=True)
f.close(); show(t[:, :-1]); show(np.where(kept[:, 1:], t[:, 1:], -100)))"));
  }
  {
    SCOPED_TRACE("with labels, in two files, under names of one's own; a prompt is masked too");
    Folder folder;
    expect_reads(folder, {.inputs = "a", .labels = "b", .mask = "loss_of_c", .shift = false, .kind = DataKind::tokens},
                 python(folder, start + R"(
f.close()
y, m = np.random.randint(0, 50, (9, 8)), np.random.randint(0, 2, (9, 8))
y[2, :] = -100
for name, part in [('data1.h5', slice(0, 5)), ('data2.h5', slice(5, 9))]:
    g = h5.File(name, 'w'); g['a'], g['b'], g['loss_of_c'] = t[part], y[part], m[part]; g.close()
import os; os.remove('data.h5')
show(t); show(np.where(m != 0, y, -100)))"));
  }
  {
    SCOPED_TRACE("a stream; its validation part has a mask of its own");
    Folder folder;
    expect_reads(folder, {.length = 10}, python(folder, start + R"(
s, m = np.random.randint(0, 50, 101), np.random.randint(0, 2, 101)
f['train/tokens'], f['train/mask'], f['validation/tokens'], f['validation/mask'] = s, m, s[:40], 1 - m[:40]
f['mask'] = m[:7]
f.close(); show(s[:100]); show(np.where(m != 0, s, -100)[1:]))"));
    const auto opened = open({.paths = {folder / "data.h5"}, .length = 10});
    const auto held = read_all(*opened.validation).targets, seen = read_all(*opened.train).targets;
    for (std::size_t i = 0; i < held.size(); ++i) EXPECT_NE(held[i] == -100, seen[i] == -100) << i;
  }
}

TEST(Masks, StandBesideDocuments) {
  NEEDS_H5PY();
  Folder folder;
  const auto expected = python(folder, masked_documents);
  std::filesystem::rename(folder / "masked.h5", folder / "data.h5");
  expect_reads(folder, {.validation = "none", .length = 16, .documents = "starts"}, expected);
}

TEST(Masks, APaddingTokenMayBeWhatIsIgnored) {
  NEEDS_H5PY();
  Folder folder;
  expect_reads(folder, {.ignore = 0}, python(folder, start + R"(
t = np.where(kept, t, 0); f['tokens'] = t.astype('u1')
f.close(); show(t[:, :-1]); show(np.where(t == 0, -100, t)[:, 1:]))"));
}

TEST(Masks, ClassesAndTheWeightOfSteps) {
  NEEDS_H5PY();
  Folder folder;
  const auto expected = python(folder, start + R"(
x, y = np.random.randint(0, 99, (23, 3)).astype('f4'), np.random.randint(0, 4, 23)
y[[0, 1, 2, 5, 11, 22]] = -1; y[3] = 3
f['x'], f['y'], f['mask'] = x, y, np.zeros((23, 3), 'u1')
f.close(); show(x); show(np.where(y == -1, -100, y)))");
  expect_reads(folder, {.ignore = -1}, expected);
  const auto opened = open({.paths = {folder / "data.h5"}, .ignore = -1});
  EXPECT_EQ(opened.train->info().classes, 4);
  EXPECT_TRUE(open({.paths = {folder / "data.h5"}, .ignore = -1, .classes = 4, .scan = false}).train->info().ignores);

  const auto targets = read_all(*opened.train).targets;
  Device device;
  for (auto tail : {Tail::carry, Tail::partial}) {
    const Stream stream({.rows = 23, .lanes = 4, .rows_per_lane = 2, .seed = 3, .tail = tail});
    for (int ranks : {1, 2, 4}) {
      std::vector<std::unique_ptr<Loader>> loaders;
      for (int r = 0; r < ranks; ++r)
        loaders.push_back(std::make_unique<Loader>(
            *opened.train, device,
            LoaderOptions{
                .lanes = 4, .first_lane = 4 / ranks * r, .lane_count = 4 / ranks, .rows_per_lane = 2, .seed = 3, .tail = tail}));
      for (int step = 0; step < 8; ++step) {
        double expected_weight = 0, told = 0, given = 0;
        std::vector<std::int64_t> rows;
        for (int lane = 0; lane < 4; ++lane) {
          stream.rows(step, lane, rows);
          for (auto row : rows) expected_weight += targets[std::size_t(row)] != -100;
        }
        for (auto& loader : loaders) {
          told += loader->step_weight();
          for (int lane = 0; lane < 4 / ranks; ++lane) given += loader->next_lane().weight;
        }
        EXPECT_EQ(told, expected_weight) << ranks << " ranks, step " << step;
        EXPECT_EQ(given, expected_weight);
      }
    }
  }
}

TEST(Masks, MixturesSharesAndWhatIsRememberedKnowOfIgnoredTargets) {
  NEEDS_H5PY();
  Folder folder;
  const auto expected = numbers(python(folder, start + R"(
f['input_ids'], f['attention_mask'] = t, kept
f['whole'] = t[:4]
f.close(); show(np.where(kept[:, 1:], t[:, 1:], -100)); show(t[:4, 1:]))"));
  DatasetOptions options{.paths = {folder / "data.h5"}, .notes = folder / "notes", .notes_after = 0};
  for (int time = 0; time < 2; ++time) EXPECT_TRUE(open(options).train->info().ignores) << time;

  std::vector<std::unique_ptr<Dataset>> parts;
  for (const char* name : {"whole", "input_ids"}) {
    options.inputs = name, options.kind = DataKind::tokens, options.mask = name[0] == 'w' ? "none" : "";
    options.labels = "none";
    parts.push_back(open(options).train);
    EXPECT_EQ(parts.back()->info().ignores, name[0] == 'i');
  }
  const auto joined = join_datasets(std::move(parts));
  EXPECT_TRUE(joined->info().ignores);
  auto targets = read_all(*joined).targets;
  std::rotate(targets.begin(), targets.begin() + 4 * 7, targets.end());
  EXPECT_EQ(targets, expected);

  options.validation = "0.34";
  const auto shares = open(options);
  EXPECT_TRUE(shares.train->info().ignores && shares.validation->info().ignores);
  auto ignored = [](const Dataset& data) { return std::ranges::count(read_all(data).targets, -100); };
  EXPECT_EQ(ignored(*shares.train) + ignored(*shares.validation), std::ranges::count(expected, -100));
}

TEST(Masks, WhatCannotBeReadIsSaidBefore) {
  NEEDS_H5PY();
  auto refused = [](const std::string& script, DatasetOptions options, Exit exit, const std::vector<std::string>& parts) {
    SCOPED_TRACE(script);
    Folder folder;
    python(folder, start + script + "\nf.close()");
    options.paths = {folder / "data.h5"};
    expect_error(exit, parts, [&] { open(options); });
  };
  refused("f['input_ids'], f['attention_mask'] = t, kept[:, ::-1]", {}, Exit::bad_data,
          {"attention_mask: row 1 has zeros before ones", "Pad rows on the right", "loss_mask"});
  refused("f['input_ids'], f['mask'] = t, kept * 0.5", {}, Exit::bad_data, {"row 0 holds 0.5", "0 or 1"});
  refused("f['input_ids'], f['attention_mask'], f['loss_mask'] = t, kept, kept", {}, Exit::bad_data,
          {"several masks, 'attention_mask' and 'loss_mask'", "data.mask"});
  refused("f['input_ids'], f['m'] = t, kept[:, 1:]", {.mask = "m"}, Exit::bad_data,
          {"/m (9, 7)", "cannot be the mask of tokens (9, 8)"});
  refused("f['input_ids'], f['y'] = t, t[:, 0]", {.labels = "y"}, Exit::bad_data,
          {"/y (9)", "cannot be the labels of tokens (9, 8)"});
  refused("f['input_ids'] = t", {.mask = "m"}, Exit::bad_data, {"no dataset 'm' (data.mask)"});
  refused("f['input_ids'] = t", {.shift = false}, Exit::usage, {"no labels that data.shift could move"});
  refused("f['input_ids'], f['labels'] = t, t[::-1]", {}, Exit::usage, {"labels repeat neither", "data.shift"});
  refused("f['input_ids'], f['labels'] = t, t * 0 - 100", {}, Exit::bad_data, {"every label is -100"});
  refused("f['x'], f['mask'] = t, kept", {.kind = DataKind::tokens}, Exit::bad_data, {"no labels were found for 'x'"});
  refused("f['x'], f['y'], f['m'] = t * 1.0, t[:, 0], t[:, 0]", {.mask = "m"}, Exit::usage,
          {"data.mask is for tokens, not table"});
  refused("f['train/input_ids'], f['train/mask'], f['test/input_ids'] = t, kept, t", {}, Exit::bad_data,
          {"'test/mask'", "data.mask"});
  refused("f['train/input_ids'], f['train/labels'], f['test/input_ids'] = t, t, t", {}, Exit::bad_data,
          {"validation rows have no labels"});
}

TEST(Masks, InspectShowsWhatWouldBeRead) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, start + "f['input_ids'], f['labels'], f['attention_mask'] = t, t, kept\nf.close()");
  const auto text = inspect_file(folder / "data.h5");
  for (const char* part : {"9 rows of 7 tokens", "targets from labels (those of the next place)",
                           "counted where attention_mask is not 0", "labels of -100 not counted"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
}

}  // namespace
}  // namespace lockstep::io
