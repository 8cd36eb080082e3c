#include "kernels/update.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/base/launch.h"
#include "kernels/memory.h"

namespace lockstep::kernels {
namespace {

/// Work on the blocks of a table.
template <class Piece, class Body>
struct InPieces {
  PieceTable<Piece> table;
  Body body;

  /// The piece that holds a block.
  HD int find(std::int64_t block) const {
    int low = 0, high = table.count - 1;
    while (low < high) {
      int middle = (low + high) / 2;
      if (block < table.first_block[middle + 1])
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
  template <class Team>
  HD void operator()(Team team, std::int64_t block) const {
    int p = find(block);
    const Piece piece = table.pieces[p];
    std::int64_t offset = (block - table.first_block[p]) * norm_block;
    std::int64_t size = piece.size - offset < norm_block ? piece.size - offset : norm_block;
    body(team, piece, piece.begin + offset, size);
  }
};

/// body(team, piece, begin, size): elements [begin, begin + size) of the flat memory lie in `piece`.
template <class Piece, class Body>
void for_each_block(const Queue& q, const PieceTable<Piece>& table, Body body) {
  for_each_row(q, table.blocks, norm_block, InPieces<Piece, Body>{table, body});
}

std::int64_t blocks_in(std::int64_t size) {
  return (size + norm_block - 1) / norm_block;
}

/// The pieces, then their first blocks.
template <class Piece>
PieceTable<Piece> laid_out(const Queue& q, View memory, const Piece* pieces, int count) {
  require(memory.bytes() >= table_bytes(count), "lay_out: {} bytes for {} pieces", memory.bytes(), count);
  PieceTable<Piece> table{.count = count};
  std::vector<std::int64_t> first_block;
  for (int i = 0; i < count; ++i) {
    require(pieces[i].begin >= 0 && pieces[i].size >= 0, "lay_out: piece {} begins at element {} and has {}", i, pieces[i].begin,
            pieces[i].size);
    first_block.push_back(table.blocks);
    table.blocks += blocks_in(pieces[i].size);
    table.end = std::max(table.end, pieces[i].begin + pieces[i].size);
  }
  first_block.push_back(table.blocks);
  auto put = [&, at = static_cast<char*>(memory.data)](const void* from, std::size_t bytes) mutable {
    char* to = std::exchange(at, at + bytes);
    auto size = std::int64_t(bytes);
    copy(q, {to, size, DType::u8}, {const_cast<void*>(from), size, DType::u8});
    return to;
  };
  table.pieces = reinterpret_cast<const Piece*>(put(pieces, std::size_t(count) * sizeof(Piece)));
  table.first_block = reinterpret_cast<const std::int64_t*>(put(first_block.data(), first_block.size() * sizeof(std::int64_t)));
  synchronize(q);  // what was copied from dies here
  return table;
}

/// One of the step's numbers.
HD float value_of(const float* scalars, Scalar s) {
  return scalars[int(s)];
}

/// Weights of f32, and weights that are rounded from f32 masters.
template <class W>
struct Mastered {
  W* weights;
  float* masters;
  /// Makes weights begin … begin + size - 1 of `segment` anew: w = next(w, elements…) with those of the columns of memory.
  template <class Team, class Next, class... P>
  HD void update(Team team, const Segment&, const float*, std::int64_t begin, std::int64_t size, Next next, P... p) const {
    if constexpr (std::is_same_v<W, float>) {
      team.each(
          size, [next](float& w, auto&... at) { w = next(w, at...); }, masters + begin, p...);
    } else {
      auto both = [next](W& w, float& master, auto&... at) {
        master = next(master, at...);
        w = W(master);
      };
      team.each(size, both, out(weights + begin), masters + begin, p...);
    }
  }
};

/// One of the two neighbours of x, the nearer the likelier; x itself where W holds it.
template <class W>
HD W rounded_at_random(float x, std::uint32_t word) {
  W near(x), next;
  float low = near;
  next.bits = std::uint16_t(near.bits + (std::fabs(low) <= std::fabs(x) ? 1 : -1));
  const float share = (x - low) / (float(next) - low);  // 0 where x is exact; not above 1/2
  return to_uniform(word) < share ? next : near;        // false for NaN
}

/// Weights that are all there is.
template <class W>
struct Masterless {
  W* weights;
  std::uint64_t seed;
  template <class Team, class Next, class... P>
  HD void update(Team team, const Segment& segment, const float* scalars, std::int64_t begin, std::int64_t size, Next next,
                 P... p) const {
    const RandomKey key{.seed = seed, .step = std::uint64_t(value_of(scalars, Scalar::step)), .site = segment.site};
    team.each_word(
        size, segment.element + begin - segment.begin, [&](std::int64_t b) { return random_words(key, std::uint64_t(b)); },
        [next](std::uint32_t word, W& w, auto&... at) { w = rounded_at_random<W>(next(float(w), at...), word); }, weights + begin,
        p...);
  }
};

template <class Weights, class G, bool has_velocity>
struct Sgd {
  Weights weights;
  const G* gradients;
  float* velocity;
  const float* scalars;
  SgdSettings settings;
  template <class Team>
  HD void operator()(Team team, const Segment& segment, std::int64_t begin, std::int64_t size) const {
    float rate = value_of(scalars, Scalar::rate) * segment.rate_scale, decay = segment.decay;
    float scale = value_of(scalars, Scalar::gradient_scale);
    if (scale == 0) return;
    bool first = value_of(scalars, Scalar::first) != 0;
    float keep = first ? 0.f : settings.momentum, take = first ? 1.f : 1 - settings.dampening;
    float ahead = settings.nesterov ? settings.momentum : 1.f, now = settings.nesterov ? 1.f : 0.f;
    auto step = [=](float w, G gradient, float& v) {
      float g = float(gradient) * scale + decay * w;
      v = keep * v + take * g;
      return w - rate * (now * g + ahead * v);
    };
    auto plain = [=](float w, G gradient) { return w - rate * (float(gradient) * scale + decay * w); };
    if constexpr (has_velocity)
      weights.update(team, segment, scalars, begin, size, step, gradients + begin, velocity + (begin - segment.moments_begin));
    else
      weights.update(team, segment, scalars, begin, size, plain, gradients + begin);
  }
};

template <class Weights, class G>
struct AdamW {
  Weights weights;
  const G* gradients;
  float* m;
  float* v;
  const float* scalars;
  AdamWSettings settings;
  template <class Team>
  HD void operator()(Team team, const Segment& segment, std::int64_t begin, std::int64_t size) const {
    float rate = value_of(scalars, Scalar::rate) * segment.rate_scale;
    float scale = value_of(scalars, Scalar::gradient_scale);
    if (scale == 0) return;
    float kept = 1 - rate * segment.decay;
    float beta1 = settings.beta1, beta2 = settings.beta2, epsilon = settings.epsilon;
    float step = rate / value_of(scalars, Scalar::correction1);
    float root = 1 / std::sqrt(value_of(scalars, Scalar::correction2));
    const std::int64_t moments = begin - segment.moments_begin;
    auto next = [=](float w, G gradient, float& m, float& v) {
      float g = float(gradient) * scale;
      m = beta1 * m + (1 - beta1) * g;
      v = beta2 * v + (1 - beta2) * g * g;
      return kept * w - step * m / (std::sqrt(v) * root + epsilon);
    };
    weights.update(team, segment, scalars, begin, size, next, gradients + begin, m + moments, v + moments);
  }
};

template <class G>
struct SquareSum {
  float* partials;
  const G* gradients;
  template <class Team>
  HD void operator()(Team team, const Span& span, std::int64_t begin, std::int64_t size) const {
    float total = team.sum(
        size, [](G g) { return float(g) * float(g); }, gradients + begin);
    if (team.first()) partials[span.partial + (begin - span.begin) / norm_block] = total;
  }
};

template <class G>
struct InSpan {
  Span span;
  SquareSum<G> body;
  template <class Team>
  HD void operator()(Team team, std::int64_t block) const {
    const std::int64_t begin = block * norm_block, rest = span.size - begin;
    body(team, span, begin, rest < norm_block ? rest : norm_block);
  }
};

struct Clip {
  float* scalars;
  const float* partials;
  std::int64_t count;
  float limit;
  float* loss_scale;  ///< or null
  LossScaleSettings settings;
  template <class Team>
  HD void operator()(Team team, std::int64_t) const {
    float norm = float(std::sqrt(team.sum_f64(count, [&](std::int64_t i) { return double(partials[i]); })));
    if (!team.first()) return;
    const float unscaled = loss_scale ? 1 / loss_scale[int(LossScale::scale)] : 1.f;
    norm *= unscaled;
    scalars[int(Scalar::gradient_norm)] = norm;
    bool finite = norm - norm == 0;
    scalars[int(Scalar::gradient_scale)] = !finite ? 0.f : limit > 0 && norm > limit ? limit / norm * unscaled : unscaled;
    if (loss_scale) move(finite);
  }
  HD void move(bool finite) const {
    float& scale = loss_scale[int(LossScale::scale)];
    float& since = loss_scale[int(LossScale::finite)];
    float& skipped = loss_scale[int(LossScale::skipped)];
    if (!finite) {
      scale *= settings.backoff;
      since = 0;
      skipped += 1;
      return;
    }
    since += 1;
    if (since >= settings.interval) {
      if (scale * settings.growth <= settings.most) scale *= settings.growth;
      since = 0;
    }
    if (skipped == 0) return;  // the host's numbers are right
    const double updates = double(scalars[int(Scalar::step)]) - double(skipped);
    scalars[int(Scalar::first)] = updates == 1 ? 1.f : 0.f;
    scalars[int(Scalar::correction1)] = float(1 - std::pow(double(scalars[int(Scalar::beta1)]), updates));
    scalars[int(Scalar::correction2)] = float(1 - std::pow(double(scalars[int(Scalar::beta2)]), updates));
  }
};

/// f.operator()(weights): the kind of weights that the state has.
template <class F>
void visit_weights(const FlatState& s, F&& f) {
  visit_float(s.weights.dtype, [&]<class W>() {
    if constexpr (!std::is_same_v<W, float>)
      if (s.masters.data == s.weights.data) return f(Masterless<W>{s.weights.as<W>(), s.seed});
    f(Mastered<W>{s.weights.as<W>(), s.masters.as<float>()});
  });
}

void check_state(const char* op, const FlatState& s, const SegmentTable& table, View scalars) {
  const bool same = s.weights.data == s.masters.data;
  require(s.masters.dtype == (same ? s.weights.dtype : DType::f32), "{}: masters hold {} instead of f32", op,
          name_of(s.masters.dtype));
  require(s.weights.dtype != DType::f32 || same, "{}: f32 weights must be the masters themselves", op);
  require(scalars.size >= int(Scalar::count), "{}: {} scalars", op, scalars.size);
  require(table.end <= s.masters.size && table.end <= s.weights.size && table.end <= s.gradients.size,
          "{}: a segment ends at element {}, beyond the flat memory", op, table.end);
}

void check_moment(const char* op, View moment, const SegmentTable& table) {
  require(table.count == 0 || (moment && table.fits_moments && table.second_end <= moment.size),
          "{}: a segment lies beyond the {} moments", op, moment.size);
}

}  // namespace

std::size_t table_bytes(int count) {
  return std::size_t(count) * std::max(sizeof(Segment), sizeof(Span)) + (std::size_t(count) + 1) * sizeof(std::int64_t);
}

SegmentTable lay_out(const Queue& q, View memory, const Segment* segments, int count) {
  SegmentTable table = laid_out(q, memory, segments, count);
  for (int i = 0; i < count; ++i) {
    std::int64_t begin = segments[i].begin - segments[i].moments_begin;
    table.fits_moments &= begin >= 0;
    table.second_end = std::max(table.second_end, begin + segments[i].size);
  }
  return table;
}

SpanTable lay_out(const Queue& q, View memory, const Span* spans, int count) {
  SpanTable table = laid_out(q, memory, spans, count);
  for (int i = 0; i < count; ++i) {
    require(spans[i].partial >= 0, "lay_out: span {} gives partial sums from {} on", i, spans[i].partial);
    table.second_end = std::max(table.second_end, spans[i].partial + blocks_in(spans[i].size));
  }
  return table;
}

void sgd(const Queue& q, FlatState s, View velocity, const SegmentTable& table, View scalars, SgdSettings settings) {
  check_state("sgd", s, table, scalars);
  if (settings.momentum != 0) check_moment("sgd", velocity, table);
  visit_weights(s, [&]<class W>(W weights) {
    visit_float(s.gradients.dtype, [&]<class G>() {
      if (settings.momentum != 0)
        for_each_block(q, table,
                       Sgd<W, G, true>{weights, s.gradients.as<G>(), velocity.as<float>(), scalars.as<float>(), settings});
      else
        for_each_block(q, table, Sgd<W, G, false>{weights, s.gradients.as<G>(), nullptr, scalars.as<float>(), settings});
    });
  });
}

void adamw(const Queue& q, FlatState s, View m, View v, const SegmentTable& table, View scalars, AdamWSettings settings) {
  check_state("adamw", s, table, scalars);
  check_moment("adamw", m, table);
  check_moment("adamw", v, table);
  visit_weights(s, [&]<class W>(W weights) {
    visit_float(s.gradients.dtype, [&]<class G>() {
      for_each_block(q, table,
                     AdamW<W, G>{weights, s.gradients.as<G>(), m.as<float>(), v.as<float>(), scalars.as<float>(), settings});
    });
  });
}

void square_sums(const Queue& q, View partials, View gradients, const SpanTable& spans) {
  require(spans.end <= gradients.size, "square_sums: a span ends at element {} of {} gradients", spans.end, gradients.size);
  require(spans.second_end <= partials.size, "square_sums: {} partial sums into {}", spans.second_end, partials.size);
  visit_float(gradients.dtype, [&]<class G>() {
    for_each_block(q, spans, SquareSum<G>{partials.as<float>(), gradients.as<G>()});
  });
}

void square_sums(const Queue& q, View partials, View gradients) {
  const std::int64_t size = gradients.size;
  require(partials.size == blocks_in(size), "square_sums: {} partial sums of {} gradients", partials.size, size);
  visit_float(gradients.dtype, [&]<class G>() {
    for_each_row(q, partials.size, norm_block, InSpan<G>{{0, size, 0}, {partials.as<float>(), gradients.as<G>()}});
  });
}

void clip(const Queue& q, View scalars, View partials, float limit, View loss_scale, LossScaleSettings settings) {
  require(scalars.size >= int(Scalar::count), "clip: {} scalars", scalars.size);
  require(!loss_scale || loss_scale.size >= int(LossScale::count), "clip: {} numbers of the loss scale", loss_scale.size);
  for_each_row(q, 1, partials.size,
               Clip{scalars.as<float>(), partials.as<float>(), partials.size, limit, loss_scale.as<float>(), settings});
}

}  // namespace lockstep::kernels
