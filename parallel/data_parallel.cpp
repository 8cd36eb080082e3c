#include "parallel/data_parallel.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/memory.h"
#include "parallel/agreement.h"

namespace lockstep::parallel {

LaneShare share_of_lanes(int lanes, int rank, int ranks) {
  auto begin = [&](std::int64_t r) { return int(lanes * r / ranks); };
  return {begin(rank), begin(rank + 1) - begin(rank)};
}

void check_lanes(int lanes, int ranks, Reduction reduction) {
  require(Exit::usage, lanes > 0 && ranks > 0, "lanes must be above 0, not {}", lanes);
  if (reduction == Reduction::fast) {
    require(Exit::usage, ranks <= lanes, "{} ranks cannot share {} lanes; use at most {} ranks, or more lanes", ranks, lanes,
            lanes);
    return;
  }
  std::vector<int> good;
  for (int p = 1; p <= lanes; ++p)
    if (p == 1 || (lanes % p == 0 && std::has_single_bit(unsigned(lanes / p)))) good.push_back(p);
  if (std::ranges::count(good, ranks)) return;
  std::string list;
  for (std::size_t i = 0; i < good.size(); ++i)
    list += (i == 0 ? "" : i + 1 == good.size() ? " or " : ", ") + std::to_string(good[i]);
  fail(Exit::usage, "exact: {} ranks cannot share {} lanes in whole subtrees; {} can (or reduction = \"fast\", or other lanes)",
       {ranks, lanes, list + (good.back() == 1 ? " rank" : " ranks")});
}

namespace {

/// What all ranks must have in common, a line each.
std::vector<std::string> describe(const ParameterSet& set, const DataParallel::Options& o) {
  std::vector<std::string> lines;
  lines.push_back(
      format_text("lanes {}, reduction {}, overlap {}, communicate {}, gradients in {}, masters {}, buckets of {}, {} and {} "
                  "bytes, {} update",
                  {o.lanes, o.reduction == Reduction::exact ? "exact" : "fast", o.overlap ? "on" : "off",
                   o.communicate ? "on" : "off", name_of(o.gradient), set.masters() ? "on" : "off", o.buckets.head,
                   o.buckets.middle, o.buckets.tail, o.sharded_update ? "sharded" : "whole"}));
  for (auto& p : set.all())
    lines.push_back(format_text("{} {} \"{}\" {} {}{}{}{}",
                                {p->trainable ? "trained" : "frozen", p->role == Parameter::Role::weight ? "weight" : "buffer",
                                 p->name, to_text(p->value.shape()), name_of(p->value.dtype()), p->decay ? "" : " without decay",
                                 p->momentum != 0 ? " of momentum " + format_text("{}", {p->momentum}) : std::string(),
                                 p->group.empty() ? std::string() : " in group \"" + p->group + "\""}));
  return lines;
}

std::vector<std::string> describe(const Layout& layout) {
  std::vector<std::string> lines;
  for (std::size_t b = 0; b < layout.buckets.size(); ++b)
    lines.push_back(format_text("bucket {} at {} to {}", {b, layout.buckets[b].begin, layout.buckets[b].end}));
  for (auto& slot : layout.slots)
    lines.push_back(format_text("\"{}\" at {} in bucket {}", {slot.parameter->name, slot.begin, slot.bucket}));
  return lines;
}

}  // namespace

DataParallel::DataParallel(ParameterSet& parameters, Communicator& communicator, Group& group, Options options)
    : parameters_(parameters), communicator_(communicator), options_(options) {
  int ranks = communicator.size();
  require(group.size() == ranks, "DataParallel: a group of {} ranks and a communicator of {}", group.size(), ranks);
  if (options_.lanes == 0) options_.lanes = ranks;
  require_same(group, describe(parameters, options_));
  check_lanes(options_.lanes, ranks, options_.reduction);
  share_ = share_of_lanes(options_.lanes, communicator.rank(), ranks);
  Layout layout = plan_buckets(parameters, ranks, options_.gradient, options_.buckets);
  require_same(group, describe(layout));

  const Queue& queue = parameters.device().queue();
  Allocate allocate = memory_of("gradients");
  flat_ = place(parameters, std::move(layout), memory_of("weights"));
  std::int64_t statistics = 0;
  for (std::size_t i = 0; i < flat_.layout.slots.size(); ++i) {
    Parameter* p = flat_.layout.slots[i].parameter;
    if (flat_.layout.slots[i].bucket >= 0) slots_[p] = i;
    if (p->role == Parameter::Role::buffer && p->trainable && p->momentum != 0) {
      statistics_.push_back({p, statistics});
      statistics += p->value.size();
      p->value->wants_gradient = true;
    }
  }
  int most_lanes = (options_.lanes + ranks - 1) / ranks;
  sums_ = LaneSums(flat_.layout.trained, options_.gradient, most_lanes, options_.reduction == Reduction::exact, allocate, queue);
  statistic_sums_ = LaneSums(statistics, DType::f32, most_lanes, true, allocate, queue);
  settled_.resize(flat_.layout.slots.size());
  reached_.resize(flat_.layout.slots.size());
  pending_.resize(flat_.layout.buckets.size());
  point_gradients(sums_.total(), statistic_sums_.total(), false);
  meeting_ = allocate(size_of(DType::f32));
  kernels::fill(queue, {meeting_.get(), 1, DType::f32}, 0);
  share_update(options_.sharded_update);
}

Allocate DataParallel::memory_of(const char* owner) {
  return [this, &arena = parameters_.device().arena(), owner](std::size_t bytes) {
    Memory memory = communicator_.allocate(bytes);
    return communicator_.size() == 1 ? memory : arena.adopt(owner, memory, bytes);  // a lone rank's is the arena's own
  };
}

/// Moves the parameters, with their values, into memory that all ranks see, where there is such, or back into this rank's own.
/// Buffers stay this rank's: each moves its averages itself.
void DataParallel::place_masters(bool common) {
  if (common == common_) return;
  Device& device = parameters_.device();
  Memory shared = common ? communicator_.allocate_common(flat_.masters.bytes()) : nullptr;
  if (common && !shared) return;
  const Queue& queue = device.queue();
  const Flat old = std::move(flat_);
  std::vector<View> masters;
  for (auto& p : parameters_.all()) masters.push_back(p->master);
  auto take = [&](std::size_t bytes) { return device.arena().adopt("weights", shared, bytes); };
  flat_ = place(parameters_, old.layout, memory_of("weights"), common ? Allocate(take) : nullptr);
  for (std::size_t i = 0; i < masters.size(); ++i) {
    auto& p = *parameters_.all()[i];
    if (common && p.role == Parameter::Role::buffer && !flat_.buffer_memory) {
      p.value->memory = device.arena().allocate(p.master.bytes());
      p.value->value = p.master = {p.value->memory.get(), p.master.size, p.master.dtype};
    }
    kernels::copy(queue, p.master, masters[i]);
  }
  refresh_weights(queue, flat_);
  common_ = common;
}

void DataParallel::share_update(bool sharded) {
  require(lane_ < 0, "share_update: a step is under way");
  const bool shares = sharded && options_.communicate && communicator_.size() > 1;
  sharded_.reset();
  place_masters(shares);
  if (shares) sharded_ = std::make_unique<ShardedUpdate>(communicator_, flat_, common_);
  flat_.update = sharded_.get();
  steps_ = 0;  // other collectives take other times
  costs_.clear();
  alone_.clear();
}

DataParallel::~DataParallel() {
  for (auto& [p, slot] : slots_) flat_.layout.slots[slot].parameter->value->gradient = {};
  for (auto& s : statistics_) {
    s.buffer->value->gradient = {};
    s.buffer->value->wants_gradient = false;
  }
}

void DataParallel::point_gradients(View at, View statistics, bool keep) {
  auto point = [&](Tensor& t, View view) {
    t->gradient_memory.reset();
    t->gradient = view;
    t->has_gradient = keep && t->has_gradient;
  };
  for (auto& slot : flat_.layout.slots)
    if (slot.bucket >= 0) point(slot.parameter->value, at.slice(slot.begin, slot.size));
  for (auto& s : statistics_) {
    point(s.buffer->value, statistics.slice(s.begin, s.buffer->value.size()));
    s.buffer->value->has_gradient = false;
    s.buffer->value->contributions = 0;
  }
}

void DataParallel::communicate_as(bool overlap, bool communicate) {
  require(lane_ < 0, "communicate_as: a step is under way");
  options_.overlap = overlap;
  options_.communicate = communicate;
  steps_ = std::max<std::int64_t>(steps_, settling_steps);
}

void DataParallel::begin_step() {
  lane_ = -1;
  backwards_ = 0;
  next_ = 0;
  tickets_.clear();
  without_gradient_.clear();
  std::ranges::fill(reached_, 0);
  if (common_) meet(parameters_.device().queue());  // whatever ranks have written into masters between steps is there
  began_ = backward_done_ = communicator_.mark(parameters_.device().queue());
}

void DataParallel::begin_lane(int lane, int backwards) {
  require(lane == lane_ + 1 && lane < share_.count, "begin_lane: lane {} of {} cannot follow lane {}", lane, share_.count, lane_);
  require(backwards > 0, "begin_lane: {} backward passes", backwards);
  if (lane > 0) end_lane(parameters_.device().queue());
  lane_ = lane;
  backwards_ = backwards;
  unused_settled_ = false;
  std::ranges::fill(settled_, 0);
  std::ranges::fill(pending_, 0);
  for (auto& [p, slot] : slots_) ++pending_[std::size_t(flat_.layout.slots[slot].bucket)];
  point_gradients(sums_.level(lane), statistic_sums_.level(lane), sums_.adds(lane));
}

/// What the lane left out becomes zero, and its sums join those of earlier lanes; the last lane's do so bucket by bucket.
void DataParallel::end_lane(const Queue& queue) {
  bool last = lane_ == share_.count - 1, overwritten = options_.reduction == Reduction::exact;
  for (auto& [p, slot] : slots_) {
    if (settled_[slot]) continue;
    reached_[slot] |= p->value->has_gradient;
    if (last || overwritten) settle(queue, slot);
  }
  for (auto& s : statistics_) {
    // Each lane gives the distance of its mean statistic from the running value; one without a statistic gives zero.
    View slot = s.buffer->value->gradient;
    if (int uses = s.buffer->value->contributions; uses > 0 && s.buffer->value->has_gradient) {
      if (uses > 1) kernels::scale(queue, slot, slot, 1 / float(uses));
      kernels::scale(queue, slot, s.buffer->master, -1, Write::accumulate);
    } else {
      kernels::fill(queue, slot, 0);
    }
  }
  if (last) return;
  sums_.merge(queue, lane_);
  statistic_sums_.merge(queue, lane_);
}

/// Counts a parameter's gradient as final in this lane; without any it is zero.
void DataParallel::settle(const Queue& queue, std::size_t i) {
  auto& slot = flat_.layout.slots[i];
  auto& value = slot.parameter->value;
  settled_[i] = 1;
  --pending_[std::size_t(slot.bucket)];
  reached_[i] |= value->has_gradient;
  if (!value->has_gradient) kernels::fill(queue, value->gradient, 0);
  value->has_gradient = true;
}

/// Parameters that no tape has a use for will not be called ready: their buckets need not wait for the end of the step.
void DataParallel::settle_unused(const Queue& queue) {
  if (std::exchange(unused_settled_, true)) return;
  for (std::size_t i = 0; i < flat_.layout.slots.size(); ++i)
    if (flat_.layout.slots[i].bucket >= 0 && !settled_[i] && flat_.layout.slots[i].parameter->value->pending_uses == 0)
      settle(queue, i);
}

void DataParallel::ready(const Queue& queue, Parameter& parameter) {
  auto found = slots_.find(&parameter);
  if (found == slots_.end()) return;  // another model's
  require(lane_ >= 0 && backwards_ > 0,
          "DataParallel: parameter \"{}\" got a gradient outside the backward passes that begin_lane announced", parameter.name);
  if (!listening()) return;
  require(!settled_[found->second],
          "DataParallel: parameter \"{}\" got a gradient after it was final: tell begin_lane how many backward passes a lane "
          "runs, and "
          "recompute which parameters its block uses",
          parameter.name);
  settle(queue, found->second);
  settle_unused(queue);
  if (overlaps()) leave_in_order(queue);
}

void DataParallel::progress(const Queue& queue) {
  if (listening() && !unused_settled_) {
    settle_unused(queue);
    if (overlaps()) leave_in_order(queue);
  }
  communicator_.progress();
}

void DataParallel::backward_ended(const Queue& queue) {
  if (listening()) backward_done_ = communicator_.mark(queue);
  --backwards_;
}

/// Buckets leave strictly in plan order, whatever order their gradients came in, so that collectives match on all ranks.
void DataParallel::leave_in_order(const Queue& queue) {
  for (; next_ < pending_.size() && pending_[next_] == 0; ++next_) {
    auto [begin, end] = flat_.layout.buckets[next_];
    sums_.finish(queue, lane_, begin, end);
    leave(queue, next_);
  }
}

/// Bucket i of the summed gradients; behind the last, the statistics.
View DataParallel::bucket(std::size_t i) const {
  auto& buckets = flat_.layout.buckets;
  return i < buckets.size() ? sums_.total().slice(buckets[i].begin, buckets[i].end - buckets[i].begin) : statistic_sums_.total();
}

void DataParallel::leave(const Queue& queue, std::size_t i) {
  if (!options_.communicate) return;
  const bool shared = sharded_ && i < flat_.layout.buckets.size();
  tickets_.push_back(shared ? communicator_.reduce_parts(queue, sharded_->parts(sums_.total(), i), options_.reduction, sharded_->seen(i))
                            : communicator_.all_reduce(queue, bucket(i), options_.reduction));
}

void DataParallel::finish_step() {
  const Queue& queue = parameters_.device().queue();
  require(lane_ == share_.count - 1, "finish_step: {} of this rank's {} lanes were run", lane_ + 1, share_.count);
  end_lane(queue);
  if (finds_alone()) meet(queue);
  leave_in_order(queue);
  View statistics = statistic_sums_.total();
  if (!statistics_.empty()) {
    statistic_sums_.finish(queue, lane_, 0, statistics.size);
    leave(queue, flat_.layout.buckets.size());
  }
  waiting_ = communicator_.mark(queue);
  if (options_.communicate) communicator_.join(queue);
  joined_ = communicator_.mark(queue);

  for (auto& s : statistics_)
    kernels::scale(queue, s.buffer->master, statistics.slice(s.begin, s.buffer->value.size()),
                   s.buffer->momentum / float(options_.lanes), Write::accumulate);
  point_gradients(sums_.total(), statistics, true);
  for (auto& slot : flat_.layout.slots)
    if (slot.bucket >= 0 && !reached_[std::size_t(&slot - flat_.layout.slots.data())])
      without_gradient_.push_back(slot.parameter);
  lane_ = -1;
  if (finds_alone()) learn_alone();
  if (options_.communicate) ++steps_;
}

/// All ranks begin to communicate at one time: waiting for a slower rank is no part of what a collective takes.
void DataParallel::meet(const Queue& queue) {
  communicator_.all_reduce(queue, {meeting_.get(), 1, DType::f32});
  communicator_.join(queue);
}

/// After a step that ran without overlap: all that a bucket cost it is what the bucket takes alone.
void DataParallel::learn_alone() {
  auto times = this->times();
  costs_.resize(times.size());
  for (std::size_t i = 0; i < times.size(); ++i) costs_[i].push_back(times[i].worked + times[i].exposed);
  if (steps_ + 1 < settling_steps) return;
  for (auto& costs : costs_) {
    std::ranges::sort(costs);
    alone_.push_back(costs[costs.size() / 2]);
  }
}

std::vector<DataParallel::BucketTime> DataParallel::times() const {
  std::vector<BucketTime> times;
  if (tickets_.empty()) return times;
  double begin = communicator_.timing(began_).started, backward = communicator_.timing(backward_done_).started;
  double waited = communicator_.timing(waiting_).started, joined = communicator_.timing(joined_).finished;
  double free = 0;  // when the wire was done with the buckets before
  for (std::size_t i = 0; i < tickets_.size(); ++i) {
    Timing t = communicator_.timing(tickets_[i]);
    double before = std::min(t.finished, backward) - std::max(t.started, free) - t.worked;
    double until = i + 1 == tickets_.size() ? joined : std::clamp(t.finished, waited, joined);
    // A polled collective's interval holds time in which a message had come but nobody had asked: what is hidden cannot be more
    // than what there was to hide.
    double alone = alone_.empty() ? 0 : alone_[i] / 1e3;
    double hidden = std::min(before, alone - t.worked - (until - waited));
    times.push_back({.bytes = std::int64_t(bucket(i).bytes()),
                     .started = (t.started - begin) * 1e3,
                     .finished = (t.finished - begin) * 1e3,
                     .alone = alone * 1e3,
                     .hidden = std::max(0.0, hidden) * 1e3,
                     .worked = t.worked * 1e3,
                     .exposed = (until - waited) * 1e3});
    waited = until;
    free = std::max(free, t.finished);
  }
  return times;
}

}  // namespace lockstep::parallel
