#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "io/convert.h"
#include "io/dataset.h"
#include "launch/commands/commands.h"

namespace lockstep::launch {
namespace {

struct Options {
  io::ConvertOptions convert;
  io::IdxOptions idx;
  io::CsvOptions csv;
  std::vector<std::string> files;
  std::string file;
};

void say(const std::string& text) {
  fmt::print("{}{}", text, text.ends_with("\n") ? "" : "\n");
}

void add_common(CLI::App* command, Options& o) {
  command->add_option("-o,--out", o.convert.out, "HDF5 file to write")->required()->type_name("FILE.h5");
  command->add_option("--validation", o.convert.validation, "share of the rows held out, such as 0.1")
      ->type_name("SHARE")
      ->check(CLI::Range(0.0, 0.99));
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

  CLI::App* text = data->add_subcommand("text", "Text files as a stream of byte tokens");
  text->add_option("files", o.files, "text files, plain or .gz, one after another")->required()->type_name("FILE");
  add_common(text, o);
  text->footer("Example:\n  lockstep data text bible.txt.gz -o bible.h5 --validation 0.05");
  does(text, [](const Options& o) { say(io::write_text(o.files, o.convert)); });

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
  does(idx, [](const Options& o) { say(io::write_idx(o.idx, o.convert)); });

  CLI::App* csv = data->add_subcommand("csv", "A table of numbers with one target column");
  csv->add_option("files", o.csv.paths, "tables with the same columns, plain or .gz")->required()->type_name("FILE");
  csv->add_option("--target", o.csv.target, "column to predict, by name or number from 0; the last when absent")
      ->type_name("COLUMN");
  csv->add_flag("--regression", o.csv.regression, "the target is a value, not a class");
  csv->add_option("--ignore", o.csv.ignore, "columns to leave out")->delimiter(',')->type_name("A,B");
  add_common(csv, o);
  csv->footer("Example:\n  lockstep data csv cancer.csv --target diagnosis -o cancer.h5 --validation 0.2");
  does(csv, [](const Options& o) { say(io::write_csv(o.csv, o.convert)); });

  CLI::App* inspect = data->add_subcommand("inspect", "Show the tree of an HDF5 file and what Lockstep would read from it");
  inspect->add_option("file", o.file, "HDF5 file")->required()->type_name("FILE.h5");
  inspect->footer("Example:\n  lockstep data inspect fashion.h5");
  does(inspect, [](const Options& o) {
    io::validate_file(o.file);
    say(io::inspect_file(o.file));
  });

  CLI::App* verify = data->add_subcommand("verify", "Read everything: checksums, NaN, range of labels");
  verify->add_option("file", o.file, "HDF5 file")->required()->type_name("FILE.h5");
  verify->footer("Example:\n  lockstep data verify fashion.h5");
  does(verify, [](const Options& o) {
    io::validate_file(o.file);
    say(io::verify_file(o.file));
  });
}

}  // namespace lockstep::launch
