#include "kernels/sums.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace lockstep::kernels {
namespace {

constexpr std::int64_t block_bytes = 4 << 10;     // two to four blocks fit the first cache
constexpr std::int64_t line_bytes = 64;           // what cores pass to each other
constexpr std::int64_t ahead_bytes = 2 << 10;     // asked for before it is added: another core's answer takes that long
constexpr std::int64_t thread_bytes = 256 << 10;  // below, waking another thread costs more than it adds

template <class T>
void add(T* y, const T* a, const T* b, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    if constexpr (sizeof(T) == 2)
      y[i].bits = T(float(a[i]) + float(b[i])).bits;  // assigning the whole would keep the loop from being vectorised
    else if constexpr (std::is_same_v<T, std::int32_t>)
      y[i] = std::int32_t(std::uint32_t(a[i]) + std::uint32_t(b[i]));
    else
      y[i] = a[i] + b[i];
  }
}

/// A leaf or a sum in progress.
template <class T>
struct Operand {
  const T* data;
  std::int64_t ahead;  // elements between what is added and what is asked for: 0 where all is near
};

template <class T>
void add_lines(T* y, Operand<T> a, Operand<T> b, std::int64_t n) {
  constexpr std::int64_t line = line_bytes / std::int64_t(sizeof(T));
  std::int64_t i = 0;
  for (; i + line <= n; i += line) {
    __builtin_prefetch(a.data + i + a.ahead);
    __builtin_prefetch(b.data + i + b.ahead);
    add(y + i, a.data + i, b.data + i, line);
  }
  add(y + i, a.data + i, b.data + i, n - i);
}

/// Elements [begin, end).
template <class T>
void merge_range(std::span<const View> leaves, std::span<const Merge> merges, std::span<const Store> stores, std::int64_t begin,
                 std::int64_t end) {
  constexpr std::int64_t block = block_bytes / std::int64_t(sizeof(T)), ahead = ahead_bytes / std::int64_t(sizeof(T));
  std::array<Operand<T>, 64> few;
  std::vector<Operand<T>> many(leaves.size() > few.size() ? leaves.size() : 0);
  Operand<T>* sums = many.empty() ? few.data() : many.data();
  std::array<T, 6 * block> near;  // a sum in progress stands where its left leaf would
  std::vector<T> far(leaves.size() > 6 ? leaves.size() * std::size_t(block) : 0);
  T* scratch = far.empty() ? near.data() : far.data();
  const void* own = stores.empty() ? nullptr : stores[0].to;
  for (std::int64_t at = begin; at < end; at += block) {
    const std::int64_t n = std::min(block, end - at);
    for (std::size_t i = 0; i < leaves.size(); ++i)
      sums[i] = {static_cast<const T*>(leaves[i].data) + at, leaves[i].data == own || at + n + ahead > end ? 0 : ahead};
    for (std::size_t i = 0; i < merges.size(); ++i) {
      auto [left, right] = merges[i];
      // After the last merge no leaf is needed any more: it may write to its place at once.
      bool direct = i + 1 == merges.size() && stores.size() > 0 && stores[0].from == left;
      T* y = direct ? static_cast<T*>(stores[0].to) + at : scratch + left * block;
      add_lines(y, sums[left], sums[right], n);
      sums[left] = {y, 0};
    }
    for (auto [from, to] : stores)
      if (T* y = static_cast<T*>(to) + at; y != sums[from].data) std::memcpy(y, sums[from].data, std::size_t(n) * sizeof(T));
  }
}

template <class T>
void merge_typed(std::span<const View> leaves, std::span<const Merge> merges, std::span<const Store> stores) {
  const std::int64_t size = leaves[0].size;
  const std::int64_t most = size * std::int64_t(sizeof(T)) / thread_bytes;
  if (most < 2 || omp_get_max_threads() == 1) return merge_range<T>(leaves, merges, stores, 0, size);
  const int threads = int(std::min<std::int64_t>(most, omp_get_max_threads()));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int t = 0; t < threads; ++t) merge_range<T>(leaves, merges, stores, size * t / threads, size * (t + 1) / threads);
}

}  // namespace

void merge_sums(std::span<const View> leaves, std::span<const Merge> merges, std::span<const Store> stores) {
  if (leaves.empty() || leaves[0].size == 0) return;
  switch (leaves[0].dtype) {
    case DType::f32: return merge_typed<float>(leaves, merges, stores);
    case DType::bf16: return merge_typed<bf16>(leaves, merges, stores);
    case DType::f16: return merge_typed<f16>(leaves, merges, stores);
    case DType::i32: return merge_typed<std::int32_t>(leaves, merges, stores);
    case DType::u8: fail(Exit::internal, "sums are defined on f32, bf16, f16 and i32, not on u8", {});
  }
}

}  // namespace lockstep::kernels
