#include "launch/evaluation.h"

#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "io/loader.h"
#include "launch/models.h"

namespace lockstep::launch {
namespace {

struct Sums {
  double loss = 0, weight = 0, correct = 0, rows = 0;
};

}  // namespace

Evaluation evaluate(const Session& session, const nn::Model& model, const io::Dataset& dataset, EvaluationOptions options) {
  Device& device = session.device();
  bool classifies = dataset.info().kind != io::DataKind::tokens && dataset.info().classes > 0;
  io::Pass pass(dataset, device,
                {.rank = session.rank(),
                 .ranks = session.size(),
                 .rows_per_batch = options.rows_per_batch,
                 .rows = options.batches * options.rows_per_batch,
                 .dtype = options.dtype,
                 .uploads = options.uploads});
  std::vector<Sums> mine;
  while (auto batch = pass.next()) {
    Tape tape(device, {.mode = Mode::evaluate, .recording = false});
    Tensor predicted = model.forward(tape, batch->inputs);
    Tensor loss = batch_loss(tape, Tensor(predicted), *batch, 0);
    Sums sums{double(download(device.queue(), loss)[0]), batch->weight, 0, double(batch->inputs.dim(0))};
    if (classifies) sums.correct = double(ops::count_correct(tape, predicted, batch->targets));
    mine.push_back(sums);
  }
  std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Sums));
  Sums all;
  for (const std::string& part : session.group().gather(bytes))
    for (std::size_t at = 0; at < part.size(); at += sizeof(Sums)) {
      Sums one;
      std::memcpy(&one, part.data() + at, sizeof one);
      all.loss += one.loss;
      all.weight += one.weight;
      all.correct += one.correct;
      all.rows += one.rows;
    }
  require(Exit::bad_data, all.rows > 0, "evaluation: there are no rows in {}", dataset.info().text);
  require(Exit::bad_data, all.weight > 0, "evaluation: no target counts in the {} rows of {}", std::int64_t(all.rows),
          dataset.info().text);
  return {all.loss / all.weight, classifies ? all.correct / all.weight : -1, std::int64_t(all.rows)};
}

std::string to_text(const Evaluation& e) {
  std::string text = fmt::format("loss {:.4f}", e.loss);
  return e.accuracy < 0 ? text : text + fmt::format("  accuracy {:.2f} %", 100 * e.accuracy);
}

}  // namespace lockstep::launch
