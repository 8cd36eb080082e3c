#include <fmt/format.h>

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>

#include "io/convert.h"
#include "io/data_manifest.h"
#include "io/rechunk.h"
#include "launch/commands/commands.h"

namespace lockstep::launch {
namespace {

struct Options {
  io::ConvertOptions convert;
  io::TextOptions text;
  io::IdxOptions idx;
  io::CsvOptions csv;
  io::ImagesOptions images;
  io::RechunkOptions rechunk;
  std::vector<std::string> files;
  std::string file;
};

volatile std::sig_atomic_t stopped = 0;

/// Thrown out of a conversion that a signal ended; what was written is removed on its way.
struct Stopped {};

/// "1:05:09" or "2:30"
std::string duration(double seconds) {
  const auto s = std::int64_t(seconds);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) : fmt::format("{}:{:02}", s / 60, s % 60);
}

/// One line on a terminal, rewritten ten times a second; nothing in a file.
class ProgressLine {
 public:
  ~ProgressLine() { clear(); }
  void show(const io::Progress& p) {
    if (stopped) throw Stopped{};
    const auto now = Clock::now();
    if (p.what != what_) what_ = p.what, begin_ = now;
    if (!terminal_ || now - shown_ < std::chrono::milliseconds(100)) return;
    shown_ = now;
    std::string text = fmt::format("{} {}", p.what, p.done);
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    if (p.total > 0 && p.done > 0)
      text = fmt::format("{} {:.0f} %, {} left", p.what, 100.0 * double(p.done) / double(p.total),
                         duration(seconds * double(p.total - p.done) / double(p.done)));
    fmt::print(stderr, "\r\033[K{}", text);
    std::fflush(stderr);
    drawn_ = true;
  }
  void clear() {
    if (drawn_) fmt::print(stderr, "\r\033[K");
    drawn_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  const bool terminal_ = isatty(STDERR_FILENO);
  bool drawn_ = false;
  const char* what_ = nullptr;
  Clock::time_point begin_ = {}, shown_ = {};
};

/// Runs a conversion with a progress line; SIGINT and SIGTERM remove what was begun, and end the program as they do.
std::string convert(io::ConvertOptions options, const std::function<std::string(const io::ConvertOptions&)>& what) {
  struct sigaction action {
  }, old[2];
  action.sa_handler = [](int signal) { stopped = signal; };
  const int signals[2] = {SIGINT, SIGTERM};
  for (int i = 0; i < 2; ++i) {
    sigaction(signals[i], &action, &old[i]);
    if (old[i].sa_handler == SIG_IGN) sigaction(signals[i], &old[i], nullptr);  // a shell's background job
  }
  ProgressLine line;
  options.progress = [&](const io::Progress& p) { line.show(p); };
  try {
    return what(options);
  } catch (const Stopped&) {
    line.clear();
    const bool there = access(options.out.c_str(), F_OK) == 0;
    fmt::print(stderr, "Stopped; {}.\n", there ? options.out + " is as it was" : "nothing was written");
    for (int i = 0; i < 2; ++i) sigaction(signals[i], &old[i], nullptr);
    raise(stopped);
  }
  return "";
}

void say(const std::string& text) {
  fmt::print("{}{}", text, text.ends_with("\n") ? "" : "\n");
}

/// "64" or "48x64" (height, width)
void set_size(io::ImagesOptions& images, const std::string& text) {
  const auto cross = text.find('x');
  auto side = [&](const std::string& digits) -> std::int64_t {
    if (digits.empty() || digits.size() > 5 || digits.find_first_not_of("0123456789") != std::string::npos ||
        std::stoll(digits) == 0)
      throw CLI::ValidationError("--size", "'" + text + "' is neither N nor HxW, such as 64 or 48x64");
    return std::stoll(digits);
  };
  images.height = side(text.substr(0, cross));
  images.width = cross == std::string::npos ? images.height : side(text.substr(cross + 1));
}

void add_common(CLI::App* command, Options& o) {
  command->add_option("-o,--out", o.convert.out, "HDF5 file to write")->required()->type_name("FILE.h5");
  command->add_option("--validation", o.convert.validation, "share of the rows held out, such as 0.1")
      ->type_name("SHARE")
      ->check(CLI::Range(0.0, 0.99));
  command->add_option("--shards", o.convert.shards, "files to write: FILE-00000-of-00004.h5 and so on")->type_name("N");
  command->add_option("--compress", o.convert.deflate, "1 (fast) to 9: smaller files, slower reading")->type_name("LEVEL");
  command->add_option("--source", o.convert.source, "where the data comes from; kept as an attribute")->type_name("TEXT");
  command->add_option("--licence", o.convert.licence, "its licence; kept as an attribute")->type_name("TEXT");
}

}  // namespace

void add_data(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* data = app.add_subcommand("data", "Make, show and check HDF5 data");
  data->require_subcommand(1);
  data->footer("Example:\n  lockstep data text book.txt -o book.h5 --validation 0.05\n  lockstep data inspect book.h5");
  auto does = [&](CLI::App* command, std::function<void(const Options&)> what) {
    command->callback([options, what, &action] {
      action = [options, what] {
        what(*options);
        return 0;
      };
    });
  };

  CLI::App* text = data->add_subcommand("text", "Text files as a stream of tokens: bytes, or GPT-2's");
  text->add_option("files", o.text.paths, "text files, plain or .gz, one after another")->required()->type_name("FILE");
  text->add_option("--tokenizer", o.text.tokenizer, "folder with vocab.bpe and encoder.json; a token a byte when absent")
      ->type_name("FOLDER");
  add_common(text, o);
  text->footer(
      "Example:\n  lockstep data text bible.txt.gz -o bible.h5 --validation 0.05\n"
      "  lockstep data text web-*.txt.gz --tokenizer gpt2 -o web.h5 --shards 8 --validation 0.001");
  does(text, [](const Options& o) { say(convert(o.convert, [&](auto& c) { return io::write_text(o.text, c); })); });

  CLI::App* idx = data->add_subcommand("idx", "Images and labels as MNIST has them");
  idx->add_option("--images", o.idx.images, "training images, plain or .gz")->required()->type_name("FILE");
  idx->add_option("--labels", o.idx.labels, "their labels")->required()->type_name("FILE");
  idx->add_option("--test-images", o.idx.test_images, "held-out images")->type_name("FILE");
  idx->add_option("--test-labels", o.idx.test_labels, "their labels")->type_name("FILE");
  idx->add_option("--classes", o.idx.classes, "names of the classes, in order")->delimiter(',')->type_name("A,B");
  add_common(idx, o);
  idx->footer(
      "Example:\n  lockstep data idx --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz \\\n"
      "      --test-images t10k-images-idx3-ubyte.gz --test-labels t10k-labels-idx1-ubyte.gz -o fashion.h5");
  does(idx, [](const Options& o) { say(convert(o.convert, [&](auto& c) { return io::write_idx(o.idx, c); })); });

  CLI::App* csv = data->add_subcommand("csv", "A table of numbers with one target column");
  csv->add_option("files", o.csv.paths, "tables with the same columns, plain or .gz")->required()->type_name("FILE");
  csv->add_option("--target", o.csv.target, "column to predict, by name or number from 0; the last when absent")
      ->type_name("COLUMN");
  csv->add_flag("--regression", o.csv.regression, "the target is a value, not a class");
  csv->add_option("--ignore", o.csv.ignore, "columns to leave out")->delimiter(',')->type_name("A,B");
  add_common(csv, o);
  csv->footer("Example:\n  lockstep data csv cancer.csv --target diagnosis -o cancer.h5 --validation 0.2");
  does(csv, [](const Options& o) { say(convert(o.convert, [&](auto& c) { return io::write_csv(o.csv, c); })); });

  CLI::App* images = data->add_subcommand("images", "PNG and JPEG files, a folder for each class");
  images->add_option("folder", o.images.folder, "folders of classes in it, or train and validation with such folders")
      ->required()
      ->type_name("DIR");
  images
      ->add_option_function<std::string>(
          "--size", [&o](const std::string& text) { set_size(o.images, text); },
          "pixels: shorter side resized, centre cut out; needed when sizes differ")
      ->type_name("N|HxW");
  images->add_option("--channels", o.images.channels, "1 (grey) or 3 (RGB); grey when all are, if absent")
      ->type_name("1|3")
      ->check(CLI::IsMember({1, 3}));
  images->add_flag("--skip-unreadable", o.images.skip_unreadable, "leave damaged files out and list them");
  images->add_option("--seed", o.images.seed, "of the order of the rows; 0 when absent")->type_name("N");
  add_common(images, o);
  images->footer("Example:\n  lockstep data images photos -o photos.h5 --size 64 --validation 0.1");
  does(images, [](const Options& o) { say(convert(o.convert, [&](auto& c) { return io::write_images(o.images, c); })); });

  CLI::App* npy = data->add_subcommand("npy", "Arrays of numpy (.npy, .npz), each a dataset of its name");
  npy->add_option("files", o.files, "arrays; x.npy becomes the dataset x")->required()->type_name("FILE");
  add_common(npy, o);
  npy->footer(
      "Example:\n  lockstep data npy images.npy labels.npy -o data.h5 --validation 0.1\n  lockstep data npy mnist.npz -o "
      "mnist.h5");
  does(npy, [](const Options& o) { say(convert(o.convert, [&](auto& c) { return io::write_npy(o.files, c); })); });

  CLI::App* rechunk = data->add_subcommand("rechunk", "Write a file again with other chunks or compression");
  rechunk->add_option("file", o.rechunk.path, "HDF5 file, of any program's")->required()->type_name("FILE.h5");
  rechunk->add_option("-o,--out", o.convert.out, "file to write; the file itself is replaced when absent")->type_name("FILE.h5");
  rechunk->add_option("--rows", o.rechunk.rows, "rows of a chunk; about 256 KiB when absent")->type_name("N");
  rechunk->add_option("--compress", o.convert.deflate, "1 (fast) to 9; none when absent")->type_name("LEVEL");
  rechunk->add_flag("--contiguous", o.rechunk.contiguous, "no chunks: rows in any order at full speed, no Fletcher32");
  rechunk->add_option("--dataset", o.rechunk.dataset, "only this one; all with numbers when absent")->type_name("NAME");
  rechunk->footer(
      "Values, types, attributes, groups and links stay. A manifest is written beside the file.\n\n"
      "Example:\n  lockstep data rechunk fashion.h5\n  lockstep data rechunk scans.h5 -o packed.h5 --rows 16 --compress 4");
  does(rechunk, [](const Options& o) {
    auto options = o.convert;
    if (options.out.empty()) options.out = o.rechunk.path;
    say(convert(options, [&](auto& c) { return io::rechunk_file(o.rechunk, c); }));
  });

  CLI::App* inspect = data->add_subcommand("inspect", "Show the tree of an HDF5 file and what Lockstep would read from it");
  inspect->add_option("file", o.file, "HDF5 file")->required()->type_name("FILE.h5");
  inspect->footer("Example:\n  lockstep data inspect fashion.h5");
  does(inspect, [](const Options& o) { say(io::inspect_file(o.file)); });

  CLI::App* verify = data->add_subcommand("verify", "Read everything: manifest, checksums, NaN, range of labels");
  verify->add_option("file", o.file, "HDF5 file")->required()->type_name("FILE.h5");
  verify->footer("Example:\n  lockstep data verify fashion.h5");
  does(verify, [](const Options& o) { say(io::verify_file(o.file)); });

  CLI::App* manifest = data->add_subcommand("manifest", "Write the checksums of a file beside it (FILE.h5.manifest)");
  manifest->add_option("file", o.file, "HDF5 file that is known to be good")->required()->type_name("FILE.h5");
  manifest->footer(
      "Files that Lockstep writes have one. From then on damage is seen when the file is opened or read.\n\n"
      "Example:\n  lockstep data manifest fashion.h5");
  does(manifest, [](const Options& o) {
    io::write_manifest(o.file, io::DataManifest::path_of(o.file));
    say(io::DataManifest::path_of(o.file) + ": written\n" + io::verify_file(o.file));
  });
}

}  // namespace lockstep::launch
