#include "io/dataset.h"
#include "kernels/base/random.h"

namespace lockstep::io {
namespace {

class SyntheticDataset final : public Dataset {
 public:
  explicit SyntheticDataset(const SyntheticOptions& options) : options_(options) {
    require(Exit::usage, options.rows > 0 && !options.input.empty() && count(options.input) > 0, "synthetic data: {} rows of {}",
            options.rows, to_text(options.input));
    require(Exit::usage, options.kind != DataKind::automatic && (options.classes > 0 || options.kind == DataKind::table),
            "synthetic data: a kind (tokens, images, table) and classes are needed");
    info_.kind = options.kind;
    info_.rows = options.rows;
    info_.input = options.input;
    info_.classes = options.classes;
    info_.target_dtype = options.classes > 0 ? DType::i32 : DType::f32;
    info_.target = options.kind == DataKind::tokens ? options.input : options.classes > 0 ? Shape{} : Shape{options.outputs};
    info_.text = std::to_string(options.rows) + " synthetic " + name_of(options.kind) + " " + to_text(options.input);
  }

  void read(std::span<const std::int64_t> rows, View inputs, View targets, const RandomKey*) const override {
    const std::int64_t n = count(info_.input), m = count(info_.target);
    for (std::size_t place = 0; place < rows.size(); ++place) {
      const RandomKey key{options_.seed, std::uint64_t(rows[place]), 0, hash_name("synthetic")};
      const std::int64_t at = std::int64_t(place) * n;
      auto whole = [&](std::int64_t element) {
        return std::int32_t(random_word(key, std::uint64_t(element)) % std::uint64_t(options_.classes));
      };
      if (info_.kind == DataKind::tokens) {
        for (std::int64_t i = 0; i < n; ++i) {
          inputs.as<std::int32_t>()[at + i] = whole(i);
          targets.as<std::int32_t>()[at + i] = whole(i + 1);
        }
        continue;
      }
      visit_float(inputs.dtype, [&]<class T>() {
        for (std::int64_t i = 0; i < n; i += 4) {
          const Random4 words = random_words(key, std::uint64_t(i / 4));
          const std::uint32_t four[] = {words.x, words.y, words.z, words.w};
          for (std::int64_t k = 0; k < 4 && i + k < n; ++k) inputs.as<T>()[at + i + k] = T(2 * to_uniform(four[k]) - 1);
        }
      });
      for (std::int64_t i = 0; i < m; ++i) {
        if (options_.classes > 0)
          targets.as<std::int32_t>()[place] = whole(n + 4);
        else
          targets.as<float>()[std::int64_t(place) * m + i] = to_uniform(random_word(key, std::uint64_t(n + 4 + i)));
      }
    }
  }

 private:
  SyntheticOptions options_;
};

}  // namespace

std::unique_ptr<Dataset> synthetic_dataset(const SyntheticOptions& options) {
  return std::make_unique<SyntheticDataset>(options);
}

}  // namespace lockstep::io
