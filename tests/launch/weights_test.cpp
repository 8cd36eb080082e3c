#include <cmath>
#include <cstring>

#include "core/nn/gpt.h"
#include "launch/gpt2.h"
#include "launch/run_folder.h"
#include "launch/trained.h"
#include "tests/launch/program.h"
#include "tests/support/devices.h"
#include "tests/support/golden.h"

namespace lockstep::test {
namespace {

/// Weights out to other programs and in from them.
struct Weights : ProgramTest {
  /// A GPT-2 as Hugging Face stores it, by hand: Conv1D weights (in, out), the mask among the tensors, names with a prefix.
  void write_hugging_face(const std::string& name, const GoldenCase& golden, bool tied = true) const {
    std::string data;
    nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
    auto add = [&](const std::string& tensor, const Shape& shape, const std::vector<float>& values) {
      const auto begin = data.size();
      data.append(reinterpret_cast<const char*>(values.data()), values.size() * 4);
      header["transformer." + tensor] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
    };
    for (const auto& [tensor, value] : golden.tensors) {
      if (!tensor.starts_with("h.") && !tensor.starts_with("w") && !tensor.starts_with("ln_f")) continue;
      const bool conv1d = value.shape.size() == 2 && tensor.starts_with("h.");
      Shape shape = value.shape;
      auto values = value.values;
      if (conv1d) {
        for (std::int64_t i = 0; i < shape[0]; ++i)
          for (std::int64_t j = 0; j < shape[1]; ++j)
            values[std::size_t(j * shape[0] + i)] = value.values[std::size_t(i * shape[1] + j)];
        std::swap(shape[0], shape[1]);
      }
      add(tensor, shape, values);
    }
    add("h.0.attn.bias", {1, 1, 2, 2}, {1, 0, 1, 1});
    std::string text = header.dump();
    auto head = golden["wte.weight"];
    if (!tied) head.values[0] += 1;
    const auto begin = data.size();
    data.append(reinterpret_cast<const char*>(head.values.data()), head.values.size() * 4);
    header["lm_head.weight"] = {{"dtype", "F32"}, {"shape", head.shape}, {"data_offsets", {begin, data.size()}}};
    text = header.dump();
    std::string file;
    for (int i = 0; i < 8; ++i) file += char(text.size() >> 8 * i & 255);
    write(name, file + text + data);
  }
};

TEST_F(Weights, ImportedGpt2GivesTheLogitsOfPyTorch) {
  const auto golden = read_golden("gpt").at(0);
  write_hugging_face("gpt2.safetensors", golden);
  const Ran ran = lockstep("checkpoint import gpt2.safetensors -o runs/gpt2 --heads 3");
  ASSERT_EQ(ran.code, 0) << ran.text;
  EXPECT_TRUE(ran.says("2 layers, width 24, 3 heads, length 17, vocabulary 61")) << ran.text;

  launch::Session session({.device = "cpu", .alone = true});
  const launch::Trained trained(session, path("runs/gpt2"), launch::read_run_config(path("runs/gpt2")));
  const auto all = golden["tokens"].integers();
  std::vector<std::int32_t> tokens;
  for (int b = 0; b < 4; ++b)
    for (int i = 0; i < 17; ++i) tokens.push_back(all[std::size_t(b * 18 + i)]);
  Tape tape(session.device(), {.mode = Mode::evaluate, .recording = false});
  const Tensor logits = trained.model().forward(tape, make_indices(session.device(), {4, 17}, tokens));
  EXPECT_LT(relative_norm(download(session.device().queue(), logits), golden["logits"].values), 1e-5);
}

TEST_F(Weights, ImportRefusesWhatIsNoGpt2) {
  const auto golden = read_golden("gpt").at(0);
  write_hugging_face("good.safetensors", golden);
  write_hugging_face("untied.safetensors", golden, false);
  Ran ran = lockstep("checkpoint import untied.safetensors -o runs/x --heads 3");
  EXPECT_EQ(ran.code, 65) << ran.text;
  EXPECT_TRUE(ran.says("lm_head.weight is not wte.weight")) << ran.text;
  ran = lockstep("checkpoint import good.safetensors -o runs/x --heads 5");
  EXPECT_EQ(ran.code, 64) << ran.text;
  auto smaller = golden;
  smaller.tensors.erase("h.1.mlp.c_fc.bias");
  write_hugging_face("missing.safetensors", smaller);
  ran = lockstep("checkpoint import missing.safetensors -o runs/x --heads 3");
  EXPECT_EQ(ran.code, 65) << ran.text;
  EXPECT_TRUE(ran.says("'h.1.mlp.c_fc.bias' (96) is missing")) << ran.text;
  write("config.json", R"({"activation_function": "relu", "n_head": 3})");
  ran = lockstep("checkpoint import good.safetensors -o runs/x");
  EXPECT_EQ(ran.code, 65) << ran.text;
  EXPECT_TRUE(ran.says("activation_function is relu")) << ran.text;
  write("config.json", R"({"activation_function": "gelu_new", "n_head": 3})");
  ASSERT_EQ(lockstep("checkpoint import good.safetensors -o runs/x").code, 0);
  EXPECT_EQ(lockstep("checkpoint import good.safetensors -o runs/x").code, 64);
}

TEST_F(Weights, ExportAndImportGoBackToTheSameWeights) {
  make_text();
  write("gpt.toml", gpt_toml);
  ASSERT_EQ(lockstep("train gpt.toml").code, 0);
  const Ran out = lockstep("checkpoint export runs/gpt -o out");
  ASSERT_EQ(out.code, 0) << out.text;
  const auto config = nlohmann::json::parse(read(path("out/config.json")));
  EXPECT_EQ(config["n_head"], 2);
  EXPECT_EQ(config["n_layer"], 2);
  EXPECT_EQ(config["vocab_size"], 256);
  const Ran in = lockstep("checkpoint import out -o runs/back");
  ASSERT_EQ(in.code, 0) << in.text;
  const Ran diff = lockstep("checkpoint diff runs/back runs/gpt");
  EXPECT_FALSE(diff.says("differ")) << diff.text;
  EXPECT_TRUE(diff.says("adamw.m/wte.weight: only in")) << diff.text;
  // Evaluated, sampled and trained from.
  const Ran one = lockstep("evaluate runs/gpt --data text.h5"), two = lockstep("evaluate runs/back --data text.h5");
  ASSERT_EQ(two.code, 0) << two.text;
  EXPECT_EQ(one.text.substr(one.text.rfind("loss")), two.text.substr(two.text.rfind("loss")));
  EXPECT_EQ(lockstep("sample runs/gpt --prompt a --length 20").text, lockstep("sample runs/back --prompt a --length 20").text);
  const Ran train = ranks(2, "train gpt.toml --set model.weights=runs/back --set run.name=more --set log.every=1");
  ASSERT_EQ(train.code, 0) << train.text;
  EXPECT_TRUE(train.says("starting from the weights of runs/back/checkpoints/step_0")) << train.text;
  EXPECT_LT(std::stod(losses("more")[1]), 0.8 * std::stod(losses("gpt")[1]));
}

TEST_F(Weights, ExportIsReadByThePackageOfTheFormat) {
  const char* given = std::getenv("LOCKSTEP_TEST_PYTHON");
  const std::string python = given ? given : "/usr/bin/python3";
  if (shell(python + " -c 'import safetensors, numpy'").code != 0)
    GTEST_SKIP() << python << " has no safetensors (set LOCKSTEP_TEST_PYTHON to one that has)";
  make_text();
  write("gpt.toml", gpt_toml);
  ASSERT_EQ(lockstep("train gpt.toml --set train.steps=2").code, 0);
  ASSERT_EQ(lockstep("checkpoint export runs/gpt -o out.safetensors").code, 0);
  write("check.py", R"(
import numpy as np, safetensors.numpy as st, h5py
w = st.load_file('out.safetensors')
f = h5py.File('runs/gpt/checkpoints/step_2/checkpoint.h5')
assert len(w) == 2 + 12 * 2 + 2, sorted(w)
assert w['h.0.attn.c_attn.weight'].shape == (32, 96)
for k, v in w.items():
    ours = f[k][()]
    turned = k.startswith('h.') and ours.ndim == 2
    assert np.array_equal(v, ours.T if turned else ours), k
st.save_file({'transformer.' + k: v.astype('f2') for k, v in w.items()}, 'half.safetensors', {'format': 'pt'})
)");
  const Ran ran = shell(python + " check.py");
  ASSERT_EQ(ran.code, 0) << ran.text;
  const Ran half = lockstep("checkpoint import half.safetensors -o runs/half --heads 2");
  EXPECT_EQ(half.code, 0) << half.text;
}

}  // namespace
}  // namespace lockstep::test
