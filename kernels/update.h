#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/random.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// A run of elements of the flat arenas that share settings of the optimizer: part of one parameter group.
struct Segment {
  std::int64_t begin = 0, size = 0;
  float rate_scale = 1;  ///< multiplies the step's rate
  float decay = 0;       ///< weight decay
  /// Moments of element i are element i - moments_begin of their memory: who updates a part of the arenas keeps no others.
  std::int64_t moments_begin = 0;
  /// Which element of which parameter (by its site, hash_name) comes first: what rounding at random is keyed by.
  std::int64_t element = 0;
  std::uint32_t site = 0;
};

/// Sums of squares are made in blocks of `norm_block` elements counted from each parameter's first element, so that neither
/// bucket plan nor padding matters: a span gives ceil(size / norm_block) partial sums, from number `partial` on. A span is a
/// parameter, or whole blocks of one.
inline constexpr std::int64_t norm_block = 4096;
struct Span {
  std::int64_t begin = 0, size = 0;
  std::int64_t partial = 0;
};

/// Pieces of flat memory (Segment, Span) in memory of the queue's device, cut into blocks of norm_block elements. It is laid out
/// once; one launch then works on all pieces, and a captured step finds them where they were.
template <class Piece>
struct PieceTable {
  const Piece* pieces = nullptr;
  const std::int64_t* first_block = nullptr;  ///< of each piece; then the number of blocks
  int count = 0;
  std::int64_t blocks = 0;
  std::int64_t end = 0;         ///< of flat memory that the pieces reach
  std::int64_t second_end = 0;  ///< of moments (Segment) or of partial sums (Span)
  bool fits_moments = true;     ///< no segment lies before its moments
};
using SegmentTable = PieceTable<Segment>;
using SpanTable = PieceTable<Span>;
/// Bytes that a table of `count` pieces takes.
std::size_t table_bytes(int count);
/// Lays a table out in `memory`, which outlives its use; may wait for the queue. Throws when a piece begins before the memory.
SegmentTable lay_out(const Queue&, View memory, const Segment*, int count);
SpanTable lay_out(const Queue&, View memory, const Span*, int count);

/// What changes from step to step, in memory of the queue's device so that a captured step reads fresh values: one f32 each.
enum class Scalar : int {
  rate,
  gradient_scale,
  correction1,
  correction2,
  first,  ///< 1 in the first step, else 0
  step,   ///< counted from 1; exact up to 2^24
  beta1,  ///< of the corrections, for clip() to make them anew where steps were skipped; 0: none
  beta2,
  gradient_norm,
  count
};

struct SgdSettings {
  float momentum = 0, dampening = 0;
  bool nesterov = false;
};

/// The flat memory an update works on; all views have the layout of the parameters. `weights` is what the model computes with;
/// `masters` the f32 originals, or the same memory as weights: when those are f32, or where they have no originals. Then the new
/// value is rounded at random to one of its two neighbours, the nearer the likelier, so that small updates count on the average;
/// the draw is keyed by (seed, Scalar::step, parameter, element).
struct FlatState {
  View weights, masters, gradients;
  std::uint64_t seed = 0;
};

/// One pass: g = gradient * gradient_scale + decay * w;  v = momentum * v + (1 - dampening) * g;  w -= rate * (nesterov ? g +
/// momentum * v : v). As torch.optim.SGD, whose first step sets v = g (Scalar::first). velocity is absent without momentum. A
/// gradient_scale of 0 changes nothing.
void sgd(const Queue&, FlatState, View velocity, const SegmentTable&, View scalars, SgdSettings);

struct AdamWSettings {
  float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
};

/// One pass of AdamW (Loshchilov & Hutter 2019, as torch.optim.AdamW): w *= 1 - rate * decay; m, v updated from gradient *
/// gradient_scale; w -= rate * (m / correction1) / (sqrt(v / correction2) + epsilon), correction_i = 1 - beta_i^t. A
/// gradient_scale of 0 changes nothing.
void adamw(const Queue&, FlatState, View m, View v, const SegmentTable&, View scalars, AdamWSettings);

/// partials (f32): the sums of squares of the blocks of `spans`.
void square_sums(const Queue&, View partials, View gradients, const SpanTable& spans);

/// The same of one span that is all of `gradients`.
void square_sums(const Queue&, View partials, View gradients);

/// A factor of the loss that keeps gradients of f16 clear of the ends of its range (Micikevicius et al. 2018): three f32 in
/// memory of the queue's device, kept from step to step.
enum class LossScale : int {
  scale,    ///< a power of two: gradients are multiplied by it
  finite,   ///< steps since it last changed
  skipped,  ///< updates that were left out because a gradient was not finite
  count
};
/// As torch.amp.GradScaler: halved by a norm that is not finite, doubled behind `interval` finite ones in a row, as long as it
/// stays within `most`.
struct LossScaleSettings {
  float growth = 2, backoff = 0.5f, interval = 2000, most = 0x1p24f;
};

/// scalars[gradient_norm] = sqrt(sum of partials, in order, in f64); scalars[gradient_scale] = min(1, limit / norm), or 1 when
/// limit is 0. A norm that is not finite leaves scale 0, with which sgd and adamw change nothing. With a `loss_scale` the norm
/// and the scale are those of gradients divided by it; it moves as its settings say, and scalars[first] and the corrections count
/// the updates that were made.
void clip(const Queue&, View scalars, View partials, float limit, View loss_scale = {}, LossScaleSettings = {});

}  // namespace lockstep::kernels
