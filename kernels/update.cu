#include "kernels/update.h"

#include "kernels/base/launch.h"

namespace lockstep::kernels {
namespace {

// Every update runs over blocks of norm_block elements counted from the first element of a piece (a Segment or a Span). Pieces
// travel by value, as many as fit into the parameters of a CUDA kernel.
template <class Piece>
struct Table {
  static constexpr int capacity = 64;
  Piece pieces[capacity];
  std::int64_t first_block[capacity + 1];  ///< of each piece; then the number of blocks
  int count;

  /// The piece that holds a block.
  HD int find(std::int64_t block) const {
    int low = 0, high = count - 1;
    while (low < high) {
      int middle = (low + high) / 2;
      if (block < first_block[middle + 1])
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
};

template <class Piece, class Body>
struct InPieces {
  Table<Piece> table;
  Body body;
  template <class Team>
  HD void operator()(Team team, std::int64_t block) const {
    int p = table.find(block);
    const Piece& piece = table.pieces[p];
    std::int64_t offset = (block - table.first_block[p]) * norm_block;
    std::int64_t size = piece.size - offset < norm_block ? piece.size - offset : norm_block;
    body(team, piece, piece.begin + offset, size);
  }
};

/// body(team, piece, begin, size): elements [begin, begin + size) of the flat memory lie in `piece`.
template <class Piece, class Body>
void for_each_block(const Queue& q, const Piece* pieces, int count, Body body) {
  for (int first = 0; first < count; first += Table<Piece>::capacity) {
    InPieces<Piece, Body> in{{}, body};
    std::int64_t blocks = 0;
    for (int i = first; i < count && i < first + Table<Piece>::capacity; ++i) {
      in.table.pieces[in.table.count] = pieces[i];
      in.table.first_block[in.table.count++] = blocks;
      blocks += (pieces[i].size + norm_block - 1) / norm_block;
    }
    in.table.first_block[in.table.count] = blocks;
    for_each_row(q, blocks, norm_block, in);
  }
}

/// One of the step's numbers.
HD float value_of(const float* scalars, Scalar s) {
  return scalars[int(s)];
}

/// The gradient as the formulas use it: a scale of 0 hides NaN and infinity.
HD float scaled(float gradient, float scale) {
  return scale == 0 ? 0.f : gradient * scale;
}

/// Where updates go: masters, and weights rounded from them where those are other memory.
template <class W>
struct Weights {
  W* weights;  ///< null: the masters themselves
  float* masters;
  HD void store(std::int64_t i, float w) const {
    masters[i] = w;
    if constexpr (!std::is_same_v<W, float>) weights[i] = W(w);
  }
};

template <class W, class G, bool has_velocity>
struct Sgd {
  Weights<W> out;
  const G* gradients;
  float* velocity;
  const float* scalars;
  SgdSettings settings;
  bool first;
  template <class Team>
  HD void operator()(Team team, const Segment& segment, std::int64_t begin, std::int64_t size) const {
    float rate = value_of(scalars, Scalar::rate) * segment.rate_scale, decay = segment.decay;
    float scale = value_of(scalars, Scalar::gradient_scale);
    float keep = first ? 0.f : settings.momentum, take = first ? 1.f : 1 - settings.dampening;
    float ahead = settings.nesterov ? settings.momentum : 1.f, now = settings.nesterov ? 1.f : 0.f;
    float* v_of = has_velocity ? velocity + (begin - segment.moments_begin) : nullptr;
    team.each(size, [&](std::int64_t c) {
      std::int64_t i = begin + c;
      float w = out.masters[i];
      float g = scaled(float(gradients[i]), scale) + decay * w;
      if constexpr (has_velocity) {
        float v = keep * v_of[c] + take * g;
        v_of[c] = v;
        g = now * g + ahead * v;
      }
      out.store(i, w - rate * g);
    });
  }
};

template <class W, class G>
struct AdamW {
  Weights<W> out;
  const G* gradients;
  float* m;
  float* v;
  const float* scalars;
  AdamWSettings settings;
  template <class Team>
  HD void operator()(Team team, const Segment& segment, std::int64_t begin, std::int64_t size) const {
    float rate = value_of(scalars, Scalar::rate) * segment.rate_scale;
    float scale = value_of(scalars, Scalar::gradient_scale);
    float kept = 1 - rate * segment.decay;
    float beta1 = settings.beta1, beta2 = settings.beta2, epsilon = settings.epsilon;
    float step = rate / value_of(scalars, Scalar::correction1);
    float root = 1 / std::sqrt(value_of(scalars, Scalar::correction2));
    float *m_of = m + (begin - segment.moments_begin), *v_of = v + (begin - segment.moments_begin);
    team.each(size, [&](std::int64_t c) {
      std::int64_t i = begin + c;
      float g = scaled(float(gradients[i]), scale);
      float mi = beta1 * m_of[c] + (1 - beta1) * g;
      float vi = beta2 * v_of[c] + (1 - beta2) * g * g;
      m_of[c] = mi;
      v_of[c] = vi;
      out.store(i, kept * out.masters[i] - step * mi / (std::sqrt(vi) * root + epsilon));
    });
  }
};

template <class G>
struct SquareSum {
  float* partials;
  const G* gradients;
  template <class Team>
  HD void operator()(Team team, const Span& span, std::int64_t begin, std::int64_t size) const {
    const G* g = gradients + begin;
    float total = team.sum(size, [&](std::int64_t c) { return float(g[c]) * float(g[c]); });
    if (team.first()) partials[span.partial + (begin - span.begin) / norm_block] = total;
  }
};

struct Clip {
  float* scalars;
  const float* partials;
  std::int64_t count;
  float limit;
  template <class Team>
  HD void operator()(Team team, std::int64_t) const {
    float norm = float(std::sqrt(team.sum_f64(count, [&](std::int64_t i) { return double(partials[i]); })));
    if (!team.first()) return;
    scalars[int(Scalar::gradient_norm)] = norm;
    bool finite = norm - norm == 0;
    scalars[int(Scalar::gradient_scale)] = !finite ? 0.f : limit > 0 && norm > limit ? limit / norm : 1.f;
  }
};

void check_state(const char* op, const FlatState& s, const Segment* segments, int count, View scalars) {
  require(s.masters.dtype == DType::f32, "{}: masters hold {} instead of f32", op, name_of(s.masters.dtype));
  require(s.weights.dtype != DType::f32 || s.weights.data == s.masters.data, "{}: f32 weights must be the masters themselves",
          op);
  require(scalars.size >= int(Scalar::count), "{}: {} scalars", op, scalars.size);
  for (int i = 0; i < count; ++i) {
    std::int64_t end = segments[i].begin + segments[i].size;
    require(segments[i].begin >= 0 && segments[i].size >= 0 && end <= s.masters.size && end <= s.weights.size &&
                end <= s.gradients.size,
            "{}: segment {} ends at element {}, beyond the flat memory", op, i, end);
  }
}

void check_moment(const char* op, View moment, const Segment* segments, int count) {
  for (int i = 0; i < count; ++i)
    require(moment && segments[i].begin >= segments[i].moments_begin &&
                segments[i].begin - segments[i].moments_begin + segments[i].size <= moment.size,
            "{}: segment {} lies beyond the moments", op, i);
}

}  // namespace

void sgd(const Queue& q, FlatState s, View velocity, const Segment* segments, int count, View scalars, SgdSettings settings,
         bool first) {
  check_state("sgd", s, segments, count, scalars);
  if (settings.momentum != 0) check_moment("sgd", velocity, segments, count);
  visit_float(s.weights.dtype, [&]<class W>() {
    visit_float(s.gradients.dtype, [&]<class G>() {
      Weights<W> out{s.weights.as<W>(), s.masters.as<float>()};
      if (settings.momentum != 0)
        for_each_block(q, segments, count,
                       Sgd<W, G, true>{out, s.gradients.as<G>(), velocity.as<float>(), scalars.as<float>(), settings, first});
      else
        for_each_block(q, segments, count,
                       Sgd<W, G, false>{out, s.gradients.as<G>(), nullptr, scalars.as<float>(), settings, first});
    });
  });
}

void adamw(const Queue& q, FlatState s, View m, View v, const Segment* segments, int count, View scalars,
           AdamWSettings settings) {
  check_state("adamw", s, segments, count, scalars);
  check_moment("adamw", m, segments, count);
  check_moment("adamw", v, segments, count);
  visit_float(s.weights.dtype, [&]<class W>() {
    visit_float(s.gradients.dtype, [&]<class G>() {
      Weights<W> out{s.weights.as<W>(), s.masters.as<float>()};
      for_each_block(q, segments, count,
                     AdamW<W, G>{out, s.gradients.as<G>(), m.as<float>(), v.as<float>(), scalars.as<float>(), settings});
    });
  });
}

void square_sums(const Queue& q, View partials, View gradients, const Span* spans, int count) {
  for (int i = 0; i < count; ++i) {
    std::int64_t blocks = (spans[i].size + norm_block - 1) / norm_block;
    require(spans[i].begin >= 0 && spans[i].begin + spans[i].size <= gradients.size,
            "square_sums: span {} lies beyond the gradients", i);
    require(spans[i].partial >= 0 && spans[i].partial + blocks <= partials.size,
            "square_sums: span {} gives partial sums {} to {} of {}", i, spans[i].partial, spans[i].partial + blocks,
            partials.size);
  }
  visit_float(gradients.dtype, [&]<class G>() {
    for_each_block(q, spans, count, SquareSum<G>{partials.as<float>(), gradients.as<G>()});
  });
}

void clip(const Queue& q, View scalars, View partials, float limit) {
  require(scalars.size >= int(Scalar::count), "clip: {} scalars", scalars.size);
  for_each_row(q, 1, partials.size, Clip{scalars.as<float>(), partials.as<float>(), partials.size, limit});
}

}  // namespace lockstep::kernels
