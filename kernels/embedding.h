#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// y[i] = table[tokens[i]] (+ positions[i % length] when `positions` is present: (length, columns), learned positions).
/// tokens: i32, each in [0, rows of table); y: (tokens.size, columns). A token out of range makes its row of y NaN.
void embedding(const Queue&, View y, View tokens, View table, View positions, std::int64_t columns);

/// dtable (+)= sums of dy rows by token, in order of position (deterministic; the table may be f32 while dy has 16 bits).
/// Overwriting clears rows that no token named. `scratch` holds embedding_scratch() bytes.
void embedding_backward(const Queue&, View dtable, View dy, View tokens, std::int64_t columns, Write, View scratch);
std::size_t embedding_scratch(std::int64_t tokens, std::int64_t rows);

/// dpositions (+)= sum over batch of dy, (length, columns) from (batch * length, columns), in order of the batch.
void positions_backward(const Queue&, View dpositions, View dy, std::int64_t columns, Write);

}  // namespace lockstep::kernels
