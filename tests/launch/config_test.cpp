#include "launch/config.h"

#include <gtest/gtest.h>

#include <functional>

#include "kernels/base/check.h"
#include "tests/support/places.h"

namespace lockstep::launch {
namespace {

const char* const small = R"([data]
path = "x.h5"
[model]
kind = "mlp"
[train]
steps = 10
)";

std::string refusal(const std::string& text, const std::vector<std::string>& assignments = {}) {
  try {
    parse_config(text, "c.toml", assignments);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::usage);
    return error.what();
  }
  return "accepted";
}

std::string refusal_of(const std::string& assignment) {
  return refusal(small, {assignment});
}

TEST(Config, DefaultsAndValues) {
  Config c = parse_config(small, "somewhere/tiny.toml");
  EXPECT_EQ(c.run.name, "tiny");
  EXPECT_EQ(c.data.path, std::vector<std::string>{"x.h5"});
  EXPECT_EQ(c.train.steps, 10);
  EXPECT_FALSE(c.train.epochs);
  EXPECT_FALSE(c.train.threads);
  EXPECT_EQ(c.optimizer.kind, "adamw");
}

TEST(Config, OrderOfRows) {
  EXPECT_EQ(parse_config(small, "c.toml").data.shuffle, "automatic");
  EXPECT_EQ(parse_config(small, "c.toml", {"data.shuffle=true"}).data.shuffle, "full");
  EXPECT_EQ(parse_config(small, "c.toml", {"data.shuffle=false"}).data.shuffle, "none");
  EXPECT_EQ(parse_config(small, "c.toml", {"data.shuffle=window"}).data.shuffle, "window");
  EXPECT_EQ(
      refusal_of("data.shuffle=windows"),
      "--set data.shuffle=windows: data.shuffle must be one of automatic, none, window, full, not \"windows\"; did you mean "
      "\"window\"?");
  EXPECT_EQ(refusal_of("data.shuffle=3"), "--set data.shuffle=3: data.shuffle must be a text in quotes, not 3");
}

TEST(Config, MixtureOfSources) {
  const std::string rest = "[model]\nkind = \"mlp\"\n[train]\nsteps = 10\n";
  Config c = parse_config(
      "[[data.mixture]]\npath = [\"a.h5\", \"b.h5\"]\n[[data.mixture]]\npath = \"c.h5\"\nweight = 2.5\nlabels = \"y\"\n" + rest,
      "c.toml");
  for (const Config& each : {c, parse_config(print_config(c), "again.toml")}) {
    ASSERT_EQ(each.data.mixture.size(), 2u);
    EXPECT_EQ(each.data.mixture[0].path, (std::vector<std::string>{"a.h5", "b.h5"}));
    EXPECT_EQ(each.data.mixture[0].weight, 1);
    EXPECT_EQ(each.data.mixture[1].weight, 2.5);
    EXPECT_EQ(each.data.mixture[1].labels, "y");
  }
  EXPECT_EQ(refusal_of("data.mixture=[{path=\"a.h5\"}]"), "c.toml: data.path and data.mixture are both given; one is enough");
  EXPECT_EQ(refusal("[[data.mixture]]\nweight = 1\n" + rest), "c.toml:1: data.mixture: each table needs a path");
  EXPECT_EQ(refusal("[[data.mixture]]\npath = \"a.h5\"\nweight = 0\n" + rest),
            "c.toml:3: data.mixture.weight must be above 0, not 0");
  EXPECT_EQ(refusal("[[data.mixture]]\npath = \"a.h5\"\nweigh = 1\n" + rest),
            "c.toml:3: unknown key of data.mixture weigh; did you mean weight?");
}

TEST(Config, UnknownKeysGetTheNearestName) {
  EXPECT_EQ(refusal("[train]\nlane = 4\n"), "c.toml:2: unknown key train.lane; did you mean train.lanes?");
  EXPECT_EQ(refusal("[trian]\nlanes = 4\n"), "c.toml:1: unknown section trian; did you mean train?");
  EXPECT_EQ(refusal("lanes = 4\n"), "c.toml:1: lanes stands outside of its section; write it as train.lanes");
  EXPECT_EQ(refusal("[train]\nzzzzzzzzzzzz = 4\n"), "c.toml:2: unknown key train.zzzzzzzzzzzz");
  EXPECT_EQ(refusal_of("optimizer.lr=1"), "--set optimizer.lr=1: unknown key optimizer.lr; did you mean optimizer.rate?");
  EXPECT_EQ(refusal_of("train.batch_size=1"),
            "--set train.batch_size=1: unknown key train.batch_size; did you mean train.rows_per_lane?");
  EXPECT_EQ(refusal_of("train.momentum=1"),
            "--set train.momentum=1: unknown key train.momentum; did you mean optimizer.momentum?");
  EXPECT_EQ(refusal_of("optimizer.xy=1"), "--set optimizer.xy=1: unknown key optimizer.xy");
  EXPECT_EQ(refusal_of("optimizer.rat=1"), "--set optimizer.rat=1: unknown key optimizer.rat; did you mean optimizer.rate?");
  EXPECT_EQ(refusal_of("optimizer.groups=[{prefx=\"a\"}]"),
            "--set optimizer.groups=[{prefx=\"a\"}]: unknown key of optimizer.groups prefx; did you mean prefix?");
}

TEST(Config, WrongTypesNameWhatIsExpected) {
  EXPECT_EQ(refusal("[train]\n\nlanes = \"4\"\n"), "c.toml:3: train.lanes must be a whole number, not \"4\"");
  EXPECT_EQ(refusal_of("train.lanes=1.5"), "--set train.lanes=1.5: train.lanes must be a whole number, not 1.5");
  EXPECT_EQ(refusal_of("train.overlap=1"), "--set train.overlap=1: train.overlap must be true or false, not 1");
  EXPECT_EQ(refusal_of("data.path=3"), "--set data.path=3: data.path must be a text or a list of texts, not 3");
  EXPECT_EQ(refusal_of("train.threads=\"many\""),
            "--set train.threads=\"many\": train.threads must be a whole number or \"auto\", not \"many\"");
  EXPECT_EQ(refusal_of("model.hidden=[1, \"a\"]").substr(0, 64),
            "--set model.hidden=[1, \"a\"]: model.hidden must be a list of whol");
}

TEST(Config, RangesAndChoices) {
  EXPECT_EQ(refusal_of("train.lanes=0"), "--set train.lanes=0: train.lanes must be at least 1, not 0");
  EXPECT_EQ(refusal_of("optimizer.beta1=1.5"), "--set optimizer.beta1=1.5: optimizer.beta1 must be at most 1, not 1.5");
  EXPECT_EQ(refusal_of("optimizer.epsilon=0"), "--set optimizer.epsilon=0: optimizer.epsilon must be above 0, not 0");
  EXPECT_EQ(refusal_of("optimizer.rate=nan"), "--set optimizer.rate=nan: optimizer.rate must be finite, not nan");
  EXPECT_EQ(refusal_of("model.hidden=[4, 0]"), "--set model.hidden=[4, 0]: model.hidden must be at least 1, not 0");
  EXPECT_EQ(refusal_of("train.reduction=exakt"),
            "--set train.reduction=exakt: train.reduction must be one of fast, exact, not \"exakt\"; did you mean \"exact\"?");
  EXPECT_EQ(refusal_of("optimizer.momentum=0.9"),
            "--set optimizer.momentum=0.9: optimizer.momentum belongs to optimizer.kind = sgd, but optimizer.kind is adamw");
  EXPECT_EQ(
      refusal_of("train.gradient=bf16"),
      "c.toml: train.gradient = \"bf16\" does not go with train.precision = \"f32\": gradients travel in f32 or in the type "
      "that they are computed in");
  EXPECT_EQ(refusal_of("train.loss_scale=1024"),
            "c.toml: train.loss_scale belongs to train.precision = \"f16\": f32 has the range of f32 and needs none");
  EXPECT_EQ(refusal_of("train.masters=false"),
            "c.toml: train.masters = false belongs to weights of 16 bits: train.precision is f32");
  EXPECT_EQ(refusal_of("train.loss_scale=0.5"), "--set train.loss_scale=0.5: train.loss_scale must be at least 1, not 0.5");
  EXPECT_THROW(parse_config(small, "c.toml", {"train.precision=f16", "train.loss_scale=1000"}), Error);
  EXPECT_EQ(parse_config(small, "c.toml", {"train.precision=f16", "train.loss_scale=1024"}).train.loss_scale, 1024.0);
  EXPECT_EQ(refusal_of("train.loss_scale_interval=100"),
            "c.toml: train.loss_scale_interval belongs to train.precision = \"f16\": f32 has the range of f32 and needs none");
  EXPECT_EQ(refusal_of("train.loss_scale_most=1024"),
            "c.toml: train.loss_scale_most belongs to train.precision = \"f16\": f32 has the range of f32 and needs none");
  EXPECT_EQ(refusal_of("train.loss_scale_interval=-1"),
            "--set train.loss_scale_interval=-1: train.loss_scale_interval must be at least 0, not -1");
  auto f16_refusal = [](const std::string& key) {
    try {
      parse_config(small, "c.toml", {"train.precision=f16", key});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(f16_refusal("train.loss_scale_most=100000"), "c.toml: train.loss_scale_most must be a power of two, not 100000");
  EXPECT_EQ(f16_refusal("train.loss_scale_most=1024"),
            "c.toml: train.loss_scale_most = 1024 is less than the 65536 that the factor begins with: train.loss_scale");
  EXPECT_EQ(f16_refusal("train.loss_scale_most=65536"), "");
  EXPECT_EQ(refusal_of("model.heads=2"), "--set model.heads=2: model.heads belongs to model.kind = gpt, but model.kind is mlp");
}

TEST(Config, WhatIsMissingOrSaidTwice) {
  EXPECT_EQ(refusal(""), "c.toml: data.path is missing: the HDF5 file to train on");
  EXPECT_NE(refusal("[data]\npath='x'\n").find("model.kind is missing"), std::string::npos);
  EXPECT_NE(refusal("[data]\npath='x'\n[model]\nkind='mlp'\n").find("train.steps or train.epochs"), std::string::npos);
  EXPECT_NE(refusal_of("train.epochs=2").find("both given"), std::string::npos);
  EXPECT_NE(refusal_of("run.name=../x").find("run.name must be the name of a folder"), std::string::npos);
  EXPECT_NE(refusal_of("lanes=2").find("write --set section.key=value"), std::string::npos);
  EXPECT_EQ(refusal("[data]\npath = \n").substr(0, 9), "c.toml:2:");
  EXPECT_EQ(refusal("[data]\npath='a'\n[data]\n").substr(0, 9), "c.toml:3:");
}

TEST(Config, AssignmentsReplaceWhatTheFileSays) {
  Config c = parse_config(small, "c.toml",
                          {"train.steps = 20", "run.name=two words", "data.path=[\"a.h5\", \"b.h5\"]", "optimizer.rate=1"});
  EXPECT_EQ(c.train.steps, 20);
  EXPECT_EQ(c.run.name, "two words");
  EXPECT_EQ(c.data.path.size(), 2u);
  EXPECT_EQ(c.optimizer.rate, 1.0);
}

// Everything that can be set, set to something else than its default, for each kind of section.
TEST(Config, PrintedTextReadsBackToTheSameConfiguration) {
  const std::vector<std::vector<std::string>> sets = {
      {},
      {"run.name=a \"b\" \\ c", "run.seed=7", "data.mean=[0.1, 1e-9]", "data.deviation=[2, 3e20]",
       "train.freeze=[\"h.0\", \"wte\"]", "optimizer.groups=[{prefix=\"head.\", rate_scale=0.1}, {prefix=\"h\", decay=0.0}]",
       "train.threads=3", "train.middle_bucket_mib=2.5", "model.hidden=[3, 4]", "optimizer.rate=0.30000000000000004"},
      {"model.kind=gpt", "model.size=124M", "model.layers=3", "train.recompute=true", "optimizer.kind=sgd",
       "optimizer.nesterov=true"},
      {"model.kind=resnet18", "model.small_stem=true", "schedule.kind=wsd", "schedule.decay_share=0.5", "train.precision=f16",
       "train.gradient=f16", "train.loss_scale=1024", "train.loss_scale_interval=50", "train.loss_scale_most=4096",
       "train.masters=false"},
      {"model.kind=convnet", "model.features=[8]", "model.kernel=3", "schedule.kind=cosine", "schedule.final=0.1"}};
  for (const auto& set : sets) {
    Config c = parse_config(small, "c.toml", set);
    for (bool help : {false, true}) {
      std::string printed = print_config(c, help);
      Config again = parse_config(printed, "printed.toml");
      EXPECT_EQ(print_config(again), print_config(c)) << printed;
    }
  }
  Config c = parse_config(small, "c.toml", sets[1]);
  Config again = parse_config(print_config(c), "printed.toml");
  EXPECT_EQ(again.run.name, "a \"b\" \\ c");
  EXPECT_EQ(again.optimizer.rate, 0.30000000000000004);
  ASSERT_EQ(again.optimizer.groups.size(), 2u);
  EXPECT_EQ(again.optimizer.groups[0].rate_scale, 0.1);
  EXPECT_FALSE(again.optimizer.groups[0].decay);
  EXPECT_EQ(again.optimizer.groups[1].decay, 0.0);
  EXPECT_EQ(again.data.deviation, (std::vector<double>{2, 3e20}));
}

TEST(Config, ExamplesAreValid) {
  for (const char* name : {"fashion/convnet", "fashion/resnet18", "bible/gpt", "tabular/mlp"})
    EXPECT_NO_THROW(read_config(test::place("LOCKSTEP_SOURCE", LOCKSTEP_SOURCE_DIR) + "/examples/" + name + ".toml")) << name;
}

TEST(Nearest, PrefersFewEditsAndRefusesFarWords) {
  EXPECT_EQ(nearest("trian", {"train", "evaluate"}), "train");
  EXPECT_EQ(nearest("x", {"train", "evaluate"}), "");
  EXPECT_EQ(nearest("evaluat", {"train", "evaluate"}), "evaluate");
}

}  // namespace
}  // namespace lockstep::launch
