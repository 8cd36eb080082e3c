#include "launch/models.h"

#include <gmock/gmock.h>

namespace lockstep::launch {
namespace {

Config gpt_with(std::int64_t vocabulary, const std::string& precision) {
  return parse_config("[data]\npath = \"x.h5\"\n[model]\nkind = \"gpt\"\n[train]\nsteps = 1\n", "gpt.toml",
                      {"model.vocabulary=" + std::to_string(vocabulary), "train.precision=" + precision});
}

TEST(Models, VocabulariesThatSlowAGpuDownAreNamedWithTheNextThatDoesNot) {
  EXPECT_THAT(advice_for_gpu(gpt_with(50257, "bf16")), testing::HasSubstr("model.vocabulary = 50304"));
  EXPECT_THAT(advice_for_gpu(gpt_with(129, "f16")), testing::HasSubstr("model.vocabulary = 256"));
  EXPECT_EQ(advice_for_gpu(gpt_with(50304, "bf16")), "");
  EXPECT_EQ(advice_for_gpu(gpt_with(50264, "bf16")), "");
  EXPECT_EQ(advice_for_gpu(gpt_with(50257, "f32")), "");
}

}  // namespace
}  // namespace lockstep::launch
