#include "launch/trainer.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "io/checkpoint.h"
#include "io/loader.h"
#include "io/metrics.h"
#include "kernels/convolution.h"
#include "kernels/memory.h"
#include "launch/buckets.h"
#include "launch/data.h"
#include "launch/evaluation.h"
#include "launch/models.h"
#include "launch/overlap.h"
#include "launch/peak.h"
#include "launch/product_search.h"
#include "launch/run_folder.h"
#include "launch/saved_state.h"
#include "launch/step_capture.h"
#include "launch/update.h"
#include "parallel/data_parallel.h"

namespace lockstep::launch {
namespace {

using nlohmann::ordered_json;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The double that prints like the float: 0.01, not 0.009999999776.
double shortest(float value) {
  return std::isfinite(value) ? std::stod(fmt::format("{}", value)) : double(value);
}

parallel::Reduction reduction_of(const Config& c) {
  return c.train.reduction == "exact" ? parallel::Reduction::exact : parallel::Reduction::fast;
}

parallel::DataParallel::Options strategy_options(const Config& c, const parallel::BucketOptions& buckets) {
  return {.lanes = int(c.train.lanes),
          .reduction = reduction_of(c),
          .overlap = c.train.overlap,
          .communicate = c.train.communicate,
          .gradient = to_dtype(c.train.gradient),
          .buckets = buckets};
}

RunData open_run_data(Session& session, Config& c, const io::CheckedFiles& checked) {
  parallel::check_lanes(int(c.train.lanes), session.size(), reduction_of(c));
  resolve_size(c);
  RunData data = open_data(c, session.group(), checked);
  resolve_model(c, data.train->info());
  resolve_order(c, data, session.group());
  return data;
}

class Trainer {
 public:
  Trainer(Session& session, Config config, bool resume, const io::CheckedFiles& checked)
      : session_(session),
        config_(std::move(config)),
        data_(open_run_data(session_, config_, checked)),
        parameters_(session_.device(), to_dtype(config_.train.precision), config_.train.masters),
        model_(build_model(config_, parameters_)),
        found_(resume ? find_checkpoint(config_.run, session_.group()) : std::nullopt),
        buckets_(
            choose_buckets(config_.train, frozen(), session_, found_ ? stored_buckets(*found_, session_.size()) : std::nullopt)),
        strategy_(std::make_unique<parallel::DataParallel>(parameters_, session_.communicator(), session_.group(),
                                                           strategy_options(config_, buckets_.sizes))),
        update_(
            choose_update(config_.train.communicate ? config_.train.update : "whole", session_, *strategy_,
                          [this] { return build_optimizer(config_, parameters_, strategy_->flat(), strategy_->gradients()); })),
        optimizer_(std::move(update_.optimizer)),
        capture_(session_, *strategy_, capturing(config_.train.captured, session_.device().kind())),
        upstream_(session_.device(), {1}),
        step_number_(session_.device(), {1}, DType::i32),
        timeline_(session_.rank()) {
    parameters_.initialise(std::uint64_t(config_.run.seed));
    folder_ = open_run_folder(config_.run, resume, session_.group());
    config_.run.name = folder_.substr(folder_.rfind('/') + 1);
    session_.log_to(folder_);
    if (!resume || !restore()) start_from_weights();
    checkpoints_.emplace(folder_ + "/checkpoints", named_views(parameters_, optimizer_.get()),
                         io::CheckpointOptions{.keep = int(config_.checkpoint.keep),
                                               .keep_every = config_.checkpoint.keep_every,
                                               .asynchronous = config_.checkpoint.asynchronous},
                         session_.device().queue(), session_.group());
    auto share = strategy_->lanes();
    io::LoaderOptions options = loader_options(config_, data_);
    options.first_lane = share.first, options.lane_count = share.count, options.start_step = step_;
    loader_.emplace(*data_.train, session_.device(), options);
    steps_ = config_.train.steps ? *config_.train.steps : loader_->stream().steps(*config_.train.epochs);
    schedule_ = build_schedule(config_, steps_);
    const auto& info = data_.train->info();
    targets_per_row_ = double(std::max<std::int64_t>(count(info.target), 1));
    const std::string products = settle_products(session_, config_.train.products, saved_products_, [this] { rehearse(); });
    if (!products.empty()) session_.log(products);
    peak_ = measure_peak(session_, to_dtype(config_.train.precision));
    write_head(resume);
    greet();
  }

  Exit run() {
    started_ = interval_.started = now();
    while (step_ < steps_) {
      train_step();
      bool last = step_ == steps_, stop = session_.stop_requested();
      bool first = step_ == first_step_ + 1;
      if (first || last || due(config_.log.every)) report();
      double paused = now();
      if (auto ended = checkpoints_->poll()) tell(*ended, false);
      if (!stop && (last || due(config_.log.evaluate_every))) evaluate_now();
      if (last || stop || due(config_.checkpoint.every)) save(last || stop);
      interval_.started += now() - paused;
      if (stop && !last) {
        write_timeline();
        session_.log(fmt::format("asked to stop: saved at step {}; go on with --resume", step_));
        return Exit::preempted;
      }
    }
    finish();
    return Exit::done;
  }

 private:
  /// Sums since the last line of the log.
  struct Interval {
    double started = 0;
    std::int64_t steps = 0, looked = 0;
    double hidden_ms = 0, exposed_ms = 0, data_seconds = 0, rows = 0;
  };

  ParameterSet& frozen() {
    for (const std::string& prefix : config_.train.freeze) parameters_.freeze(prefix);
    return parameters_;
  }
  /// Time spent on the run, in earlier starts too.
  double seconds() const { return seconds_before_ + now() - started_; }
  bool on_gpu() const { return session_.device().kind() == DeviceKind::cuda; }
  bool due(std::int64_t every) const { return every > 0 && step_ % every == 0; }
  /// Reading a value back makes the host wait for a GPU: only where a line is written.
  bool looks() const { return !on_gpu() || due(config_.log.every) || step_ == steps_ || step_ == first_step_ + 1 || traces(); }
  /// The last step that is traced if it is to be: what follows can be captured.
  std::int64_t last_traced() const { return first_step_ + parallel::DataParallel::settling_steps + config_.train.trace_steps; }
  bool settled() const { return step_ > first_step_ + parallel::DataParallel::settling_steps; }
  bool traces() const { return settled() && step_ <= last_traced(); }

  /// The products of a step, once with gradients that are overwritten and once with gradients that are added to. Changes nothing:
  /// a step begins with new gradients.
  void rehearse() {
    const auto& info = data_.train->info();
    auto zeros = [&](const Shape& row, DType dtype) {
      Shape shape = {config_.train.rows_per_lane};
      shape.insert(shape.end(), row.begin(), row.end());
      Tensor tensor(session_.device(), shape, dtype);
      kernels::fill(session_.device().queue(), tensor.view(), 0);
      return tensor;
    };
    const DType type = info.kind == io::DataKind::tokens ? DType::i32 : to_dtype(config_.train.precision);
    const io::Batch batch{zeros(info.input, type), zeros(info.target, info.target_dtype), 1};
    for (int pass = 0; pass < 2; ++pass) {
      Tape tape(session_.device(), {.random = {.seed = 1}});
      Tensor loss = batch_loss(tape, model_->forward(tape, batch.inputs), batch, float(config_.train.label_smoothing));
      tape.backward(loss, 0);
    }
  }

  // ---- one step

  void train_step() {
    double begun = now();
    ++step_;
    const Queue& queue = session_.device().queue();
    const double rows = double(loader_->stream().total(step_ - 1));
    const bool full = loader_->stream().total(step_ - 1) == config_.train.lanes * config_.train.rows_per_lane;
    weight_ = data_.train->info().ignores ? counted_targets() : rows * targets_per_row_;
    interval_.rows += rows;
    // What changes from step to step lies in the device's memory, where a captured step finds it.
    const float upstream = weight_ > 0 ? float(1 / weight_) : 0.f;
    kernels::store(queue, upstream_.view(), {&upstream, 1});
    if (optimizer_->scales_loss()) optimizer_->scale_upstream(upstream_.view());
    kernels::store(queue, step_number_.view(), std::int32_t(step_));
    optimizer_->prepare(schedule_.at(step_ - 1));
    double synced = 0;
    auto work = [&](const StepCapture::NextBatch& batch_of) {
      std::vector<Tensor> losses;
      strategy_->begin_step();
      for (int lane = 0; lane < strategy_->lanes().count; ++lane) losses.push_back(run_lane(lane, batch_of));
      checkpoints_->hold_queue();  // buffers change next, then weights and moments
      strategy_->finish_step();
      synced = now();
      optimizer_->update(float(config_.optimizer.clip));
      return losses;
    };
    auto losses = capture_.run(
        settled() && !traces(), full, [this](int lane) { return next_batch(lane); }, work);
    if (step_ == first_step_ + 1 && losses[0]) name_unused();
    if (step_ == first_step_ + 1)
      if (const std::string choices = kernels::convolution_choices(queue); !choices.empty()) session_.log(choices);
    if (looks()) {
      kernels::synchronize(queue);
      lane_losses_.clear();
      for (const Tensor& loss : losses) lane_losses_.push_back(loss ? download(queue, loss)[0] : 0);
      check_finite();
    }
    double ended = now();
    ++interval_.steps;
    if (looks()) {
      auto times = strategy_->times();
      ++interval_.looked;
      interval_.hidden_ms += hidden_ms(times);
      interval_.exposed_ms += exposed_ms(times);
      if (settled()) overlap_.add(times);
      if (traces()) {
        timeline_.add(Timeline::Track::compute, "optimizer", synced, ended);
        timeline_.add(Timeline::Track::steps, fmt::format("step {}", step_), begun, ended);
        for (std::size_t i = 0; i < times.size(); ++i) timeline_.add_bucket(int(i), begun, times[i]);
      }
    }
    double at = now();
    if (session_.console().terminal() && at - shown_ > 0.1) shown_ = at, show_status();
  }

  /// The step's global weight where only the rows tell it: whole numbers, so the same at any number of ranks.
  double counted_targets() {
    const double waited = loader_->exposed_seconds(), mine = loader_->step_weight();
    interval_.data_seconds += loader_->exposed_seconds() - waited;
    const double all = session_.group().sum(mine);
    if (all == 0 && !said_empty_)
      session_.log(
          fmt::format("step {}: none of its targets counts (labels of data.ignore, or masked): its gradients and its "
                      "loss are zero (said once)",
                      step_));
    said_empty_ |= all == 0;
    return all;
  }

  /// Weights that the loss does not depend on would never be trained: better said than searched for.
  void name_unused() const {
    std::string names;
    for (const Parameter* p : strategy_->without_gradient()) names += (names.empty() ? "" : ", ") + p->name;
    if (!names.empty()) session_.log("no gradient reached: " + names);
  }

  io::Batch next_batch(int lane) {
    double waited = loader_->exposed_seconds();
    io::Batch batch = loader_->next_lane();
    interval_.data_seconds += loader_->exposed_seconds() - waited;
    const int global_lane = strategy_->lanes().first + lane;
    const double due = double(loader_->stream().count(step_ - 1, global_lane)) * targets_per_row_;
    require(batch.weight == due || (data_.train->info().ignores && batch.weight < due),
            "the loader gave a lane of weight {}, not {}, in a step of weight {}", batch.weight, due, weight_);
    return batch;
  }

  /// The loss of one lane; absent for a lane without rows, whose gradients are zero.
  Tensor run_lane(int lane, const StepCapture::NextBatch& batch_of) {
    double asked = now();
    io::Batch batch = batch_of(lane);
    double begun = now();
    RandomKey key{.seed = std::uint64_t(config_.run.seed),
                  .lane = std::uint32_t(strategy_->lanes().first + lane),
                  .step_at = step_number_.view().as<std::int32_t>()};
    Tape tape(session_.device(),
              {.mode = Mode::train, .recording = true, .random = key, .sink = strategy_.get(), .upstream = upstream_});
    strategy_->begin_lane(lane);
    if (!batch.inputs) return tape.backward(), Tensor();
    Tensor predicted = model_->forward(tape, batch.inputs);
    Tensor loss = batch_loss(tape, std::move(predicted), batch, float(config_.train.label_smoothing));
    if (traces()) kernels::synchronize(tape.queue());
    double forwarded = now();
    tape.backward(loss);
    if (traces()) {
      kernels::synchronize(tape.queue());
      timeline_.add(Timeline::Track::compute, "data", asked, begun);
      timeline_.add(Timeline::Track::compute, "forward", begun, forwarded);
      timeline_.add(Timeline::Track::compute, "backward", forwarded, now());
    }
    return loss;
  }

  /// The same norm is seen by all ranks, so a gradient that is not finite is everyone's error; a loss may be one rank's alone.
  /// With a loss scale it is how that finds its size, until that falls below 1.
  void check_finite() {
    double norm = optimizer_->gradient_norm();
    if (optimizer_->scales_loss() && optimizer_->loss_scale()[int(kernels::LossScale::scale)] >= 1) norm = 0;
    int bad_lane = -1;
    for (std::size_t i = 0; i < lane_losses_.size(); ++i)
      if (!std::isfinite(lane_losses_[i]) && bad_lane < 0) bad_lane = strategy_->lanes().first + int(i);
    if (std::isfinite(norm) && bad_lane < 0) return;
    std::string what = bad_lane >= 0 ? fmt::format("the loss of lane {} is {}", bad_lane,
                                                   lane_losses_[std::size_t(bad_lane - strategy_->lanes().first)])
                                     : fmt::format("the norm of the gradients is {}", norm);
    if (std::string name = first_bad_gradient(); !name.empty())
      what += fmt::format("; the gradient of {} is the first that is not finite", name);
    throw Error(fmt::format("step {}: {}. No weight was changed by a gradient that is not finite; try a lower optimizer.rate, "
                            "optimizer.clip, or a look at the data with `lockstep data verify`.",
                            step_, what),
                Exit::numeric);
  }
  std::string first_bad_gradient() const {
    const Queue& queue = session_.device().queue();
    for (const auto& slot : strategy_->flat().layout.slots) {
      if (slot.bucket < 0) continue;
      for (float value : download(queue, strategy_->gradients().slice(slot.begin, slot.size)))
        if (!std::isfinite(value)) return slot.parameter->name;
    }
    return "";
  }

  // ---- what a run tells

  /// The mean loss of this step over all lanes of all ranks, added in the order of the lanes.
  double global_loss() const {
    std::string bytes(lane_losses_.size() * sizeof(double), '\0');
    std::memcpy(bytes.data(), lane_losses_.data(), bytes.size());
    double sum = 0;
    for (const std::string& part : session_.group().gather(bytes))
      for (std::size_t at = 0; at < part.size(); at += sizeof(double)) {
        double one;
        std::memcpy(&one, part.data() + at, sizeof one);
        sum += one;
      }
    return weight_ > 0 ? sum / weight_ : 0;
  }

  std::int64_t peak_bytes() const {
    if (!on_gpu()) {
      rusage usage{};
      getrusage(RUSAGE_SELF, &usage);
      return std::int64_t(usage.ru_maxrss) * 1024;
    }
    return std::int64_t(session_.device().arena().peak_bytes());
  }

  void report() {
    double loss = global_loss();
    double steps = double(std::max<std::int64_t>(interval_.steps, 1));
    double each = (now() - interval_.started) / steps;
    double looked = double(std::max<std::int64_t>(interval_.looked, 1));
    bool tokens = data_.train->info().kind == io::DataKind::tokens;
    double rows = interval_.rows / steps;  // of a step
    last_ = {.step = step_,
             .steps = steps_,
             .loss = loss,
             .rate = shortest(schedule_.at(step_ - 1)),
             .step_ms = 1e3 * each,
             .exposed_share = interval_.exposed_ms / looked / (1e3 * each),
             .per_second = (tokens ? rows * targets_per_row_ : rows) / each,
             .unit = tokens ? "tokens" : "samples",
             .mfu = model_->flops_per_row() * rows / each / peak_.flops_per_s};
    ordered_json line = {{"step", step_},
                         {"train/loss", loss},
                         {"train/grad_norm", shortest(optimizer_->gradient_norm())},
                         {"lr", last_.rate},
                         {"seconds", seconds()},
                         {"step_ms", last_.step_ms},
                         {tokens ? "tokens_per_s" : "samples_per_s", last_.per_second},
                         {"mfu", last_.mfu},
                         {"mem/peak_bytes", peak_bytes()},
                         {"data/exposed_ms", 1e3 * interval_.data_seconds / steps},
                         {"comm/hidden_ms", interval_.hidden_ms / looked},
                         {"comm/exposed_ms", interval_.exposed_ms / looked}};
    if (optimizer_->scales_loss()) line["train/loss_scale"] = optimizer_->loss_scale()[int(kernels::LossScale::scale)];
    write_metrics(line);
    last_.seconds_left = double(steps_ - step_) * each;
    if (session_.console().terminal()) {
      session_.note(to_text(last_));
      show_status();
    } else {
      session_.log(to_text(last_));
    }
    interval_ = {.started = now()};
  }

  void show_status() {
    if (last_.steps == 0) return;
    Progress p = last_;
    p.step = step_;
    p.seconds_left = double(steps_ - step_) * p.step_ms / 1e3;
    session_.console().status(to_text(p));
  }

  void write_metrics(const ordered_json& line) {
    if (!metrics_) return;
    metrics_->write(line.dump());
    if (std::string trouble = metrics_->trouble(); !trouble.empty()) session_.log(trouble);
  }

  void evaluate_now() {
    if (!data_.validation) return;
    const bool tokens = data_.train->info().kind == io::DataKind::tokens;
    if (on_gpu() && !evaluation_uploads_)
      evaluation_uploads_ = std::make_shared<Uploads>(session_.device(), "batches of evaluation");
    Evaluation e = evaluate(session_, *model_, *data_.validation,
                            {.rows_per_batch = tokens ? config_.train.rows_per_lane : 64,
                             .batches = config_.log.evaluate_batches,
                             .dtype = to_dtype(config_.train.precision),
                             .uploads = evaluation_uploads_});
    ordered_json line = {{"step", step_}, {"val/loss", e.loss}};
    if (e.accuracy >= 0) line["val/accuracy"] = e.accuracy;
    write_metrics(line);
    session_.log(fmt::format("step {}/{}  validation {}  ({} rows)", step_, steps_, to_text(e), e.rows));
  }

  // ---- the beginning, checkpoints, the end

  void write_head(bool resume) {
    std::string environment = environment_json(session_, peak_.flops_per_s, peak_.text);
    if (session_.rank() != 0) return;
    write_file(folder_ + "/config.toml", print_config(config_));
    write_file(folder_ + "/environment.json", environment);
    metrics_.emplace(folder_ + "/metrics.jsonl", resume ? step_ : -1);
  }

  void greet() {
    const auto& t = config_.train;
    session_.log(fmt::format("{}: {} parameters, {}", config_.model.kind, count_text(double(parameters_.count_elements())),
                             data_.train->info().text));
    session_.log(fmt::format("{} {} ({}), {} {} each, {} lanes x {} rows, {} reduction, {} to {}", session_.size(),
                             session_.size() == 1 ? "rank" : "ranks", session_.device().name(), session_.threads(),
                             session_.threads() == 1 ? "thread" : "threads", t.lanes, t.rows_per_lane, t.reduction,
                             step_ > 0 ? fmt::format("steps {}", step_ + 1) : "steps 1", steps_));
    session_.note(order_text());
    if (session_.size() > 1) session_.log(fmt::format("between ranks: {}", session_.communicator().name()));
    for (const std::string& text : {buckets_.text, update_.text, on_gpu() ? advice_for_gpu(config_) : ""})
      if (!text.empty()) session_.log(text);
    if (!capture_.why_not().empty()) session_.log("steps are not captured: " + capture_.why_not());
    if (capture_.wanted() && last_traced() >= steps_)
      session_.log(fmt::format("steps are not captured: the first that could be is {}, and the run ends with {}", last_traced() + 1, steps_));
    session_.note(fmt::format("{}; peak {} flop/s", session_.placement(), count_text(peak_.flops_per_s)));
    if (t.lanes % session_.size() != 0) {
      std::int64_t most = (t.lanes + session_.size() - 1) / session_.size();
      session_.log(fmt::format("{} lanes do not divide among {} ranks: {:.0f} % of their time is lost", t.lanes, session_.size(),
                               100 * (1 - double(t.lanes) / double(most * session_.size()))));
    }
  }

  /// "order of rows: window of 8192, tail carry"
  std::string order_text() const {
    const auto& d = config_.data;
    std::string text = fmt::format("order of rows: {}{}, tail {}", d.shuffle,
                                   d.shuffle == "window" ? fmt::format(" of {} rows", *d.window) : "", d.tail);
    for (std::size_t i = 0; i < d.mixture.size(); ++i)
      text += fmt::format("{} {} of {} ({:.3g} epochs)", i ? "," : "; mixture of", d.mixture[i].weight, d.mixture[i].path[0],
                          loader_->stream().epochs(steps_, i));
    return text;
  }

  /// Whether there was a checkpoint to go on from.
  bool restore() {
    if (!found_) {
      session_.log(fmt::format("--resume: no complete checkpoint in {}/checkpoints: starting at step 0", folder_));
      return false;
    }
    for (const std::string& warning : found_->warnings) session_.log(warning);
    SavedState saved = read_state(*found_, config_, session_, data_);
    io::load_checkpoint(*found_, named_views(parameters_, optimizer_.get()), io::Match::all, session_.device().queue(),
                        session_.group());
    refresh_weights(session_.device().queue(), strategy_->flat());
    optimizer_->set_steps(saved.optimizer_steps);
    saved_products_ = saved.products;
    if (optimizer_->scales_loss() && !saved.loss_scale.empty()) optimizer_->set_loss_scale(saved.loss_scale);
    step_ = first_step_ = saved.step;
    seconds_before_ = saved.seconds;
    for (const std::string& change : saved.changes) session_.log("--resume: " + change);
    session_.log(fmt::format("resuming {} at step {}", folder_, step_));
    return true;
  }

  /// model.weights: what another run learned takes the place of initial values.
  void start_from_weights() {
    if (config_.model.weights.empty()) return;
    auto found = io::open_checkpoint(config_.model.weights, session_.group());
    for (const std::string& warning : found.warnings) session_.log(warning);
    io::load_checkpoint(found, named_views(parameters_), io::Match::subset, session_.device().queue(), session_.group());
    refresh_weights(session_.device().queue(), strategy_->flat());
    session_.log("starting from the weights of " + found.path);
  }

  /// `must`: the run ends with it, so wait for it.
  void save(bool must) {
    if (session_.size() > 1)  // ranks that have one copy of the weights cannot differ in them
      check_agreement(fingerprint(session_.device(), strategy_->flat(), !strategy_->common_masters()));
    if (checkpoints_->under_way()) {
      double began = now();
      auto ended = checkpoints_->wait();
      if (!must)
        session_.log(fmt::format("step {}: waited {:.1f} s for the checkpoint of step {}: a larger checkpoint.every would not",
                                 step_, now() - began, ended->step));
      tell(*ended, false);
    }
    checkpoints_->begin(step_, state_json(config_, session_, step_, seconds(), data_, *optimizer_, buckets_.sizes));
    if (must || !config_.checkpoint.asynchronous) tell(*checkpoints_->wait(), must);
  }

  /// A checkpoint that could not be written is worth a line, not the run; but not the last one.
  void tell(const io::CheckpointWriter::Outcome& ended, bool must) {
    if (ended.problem.empty())
      return session_.note(fmt::format("saved {}: {:.1f} ms of the step, on disk after {:.1f} ms", ended.path, 1e3 * ended.copied,
                                       1e3 * ended.written));
    if (must || ended.exit != Exit::io) throw Error(ended.problem, ended.exit);
    session_.log(fmt::format("step {} was not saved, the run goes on: {}", ended.step, ended.problem));
  }

  /// Every rank must hold the same weights, so that their hash is the same.
  void check_agreement(const std::string& mine) {
    if (!config_.train.communicate) return;  // each rank trains by itself, on purpose
    auto all = session_.group().gather(mine);
    std::string others;
    int differing = 0;
    for (std::size_t r = 0; r < all.size(); ++r)
      if (all[r] != all[0]) others += fmt::format("{}{}", differing++ ? ", " : "", r);
    require(Exit::diverged, differing == 0, "step {}: the weights of rank {} differ from those of rank 0", step_, others);
  }

  void write_timeline() const {
    if (timeline_.empty()) return;
    try {
      write_file(fmt::format("{}/trace/rank{}.json", folder_, session_.rank()), timeline_.json());
    } catch (const Error& error) {  // a picture is not worth the end of a run
      session_.log(error.what());
    }
  }

  void finish() {
    if (first_step_ >= steps_)
      session_.log(fmt::format("nothing to do: the checkpoint is at step {} of {}", first_step_, steps_));
    const std::string hash = hash_parameters(parameters_);
    check_agreement(hash);
    write_metrics({{"event", "end"},
                   {"step", step_},
                   {"ranks", session_.size()},
                   {"lanes", config_.train.lanes},
                   {"weights_xxh3", hash},
                   {"seconds", seconds()}});
    write_timeline();
    if (session_.size() > 1 && !overlap_.empty()) session_.log(overlap_.text());
    session_.log(fmt::format("done in {}: {}/, weights_xxh3 {}", duration_text(seconds()), folder_, hash));
  }

  Session& session_;
  Config config_;
  RunData data_;
  ParameterSet parameters_;
  std::unique_ptr<nn::Model> model_;
  std::optional<io::FoundCheckpoint> found_;  // that a resumed run goes on from
  Buckets buckets_;
  std::unique_ptr<parallel::DataParallel> strategy_;
  Update update_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  StepCapture capture_;
  Tensor upstream_, step_number_;  // 1 / the step's global weight; what random numbers are drawn for
  optim::Schedule schedule_;
  std::optional<io::Loader> loader_;
  std::shared_ptr<Uploads> evaluation_uploads_;  // of a GPU, kept from one evaluation to the next
  std::optional<io::CheckpointWriter> checkpoints_;
  std::optional<io::MetricsFile> metrics_;  // rank 0
  std::string folder_, saved_products_;
  Peak peak_;
  std::int64_t step_ = 0, first_step_ = 0, steps_ = 0;
  double targets_per_row_ = 1, weight_ = 1;              // of a row; of a step
  bool said_empty_ = false;                              // that no target of a step counts
  double started_ = 0, shown_ = 0, seconds_before_ = 0;  // seconds of the run before it was resumed
  std::vector<double> lane_losses_;                      // of this rank, in the latest step that was looked at
  Interval interval_;
  Progress last_;
  OverlapTable overlap_;
  Timeline timeline_;
};

}  // namespace

Exit train(Session& session, Config config, bool resume, const io::CheckedFiles& checked) {
  return Trainer(session, std::move(config), resume, checked).run();
}

}  // namespace lockstep::launch
