#pragma once

// Private to kernels/*.cu: memory that loops walk along, element by element on the CPU, by packs of neighbours on a GPU.
//
// A loop is given columns of memory and a function of one element of each:
//   const T*      is read
//   T*            is read and written
//   out(T*)       is written; what it held is not read
//   per_column(p) is read, at the column of a row where the others are at an element of a matrix (for_each_in_rows)
// On a GPU a thread reads and writes 16 bytes at a time where all addresses allow it, and the same elements one by one where not.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/base/hd.h"

namespace lockstep {

template <class T>
struct Out {
  T* data;
};
template <class T>
HD Out<T> out(T* data) {
  return {data};
}
template <class T>
struct PerColumn {
  const T* data;
};
template <class T>
HD PerColumn<T> per_column(const T* data) {
  return {data};
}

namespace packs {

/// N neighbours, in accesses of at most 16 bytes.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T v[N];
};

// Element i of a column; c is its place in a row.
template <class T>
HD T& at(T* p, std::int64_t i, std::int64_t) {
  return p[i];
}
template <class T>
HD T& at(Out<T> p, std::int64_t i, std::int64_t) {
  return p.data[i];
}
template <class T>
HD const T& at(PerColumn<T> p, std::int64_t, std::int64_t c) {
  return p.data[c];
}

template <int N, class T>
HD auto load(const T* p, std::int64_t i, std::int64_t) {
  return *reinterpret_cast<const Pack<T, N>*>(p + i);
}
template <int N, class T>
HD auto load(Out<T>, std::int64_t, std::int64_t) {
  return Pack<T, N>{};
}
template <int N, class T>
HD auto load(PerColumn<T> p, std::int64_t, std::int64_t c) {
  return load<N>(p.data, c, c);
}

template <class P, class Values>
HD void store(P, std::int64_t, const Values&) {}  // of what is only read
template <class T, int N>
HD void store(Out<T> p, std::int64_t i, const Pack<T, N>& values) {
  *reinterpret_cast<Pack<T, N>*>(p.data + i) = values;
}
template <class T, int N>
HD void store(T* p, std::int64_t i, const Pack<T, N>& values) {
  store(out(p), i, values);
}

template <class T>
HD const T* data_of(const T* p) {
  return p;
}
template <class T>
HD const T* data_of(Out<T> p) {
  return p.data;
}
template <class T>
HD const T* data_of(PerColumn<T> p) {
  return p.data;
}
template <int N, class P>
HD bool aligned(P p, int head = 0) {
  const auto* data = data_of(p) + head;
  using T = std::remove_cvref_t<decltype(*data)>;
  return reinterpret_cast<std::uintptr_t>(data) % alignof(Pack<T, N>) == 0;
}

/// Elements of a pack that makes the smallest type's access 16 bytes (of 8-bit types 8).
template <class... P>
constexpr int width_of() {
  const std::size_t smallest = std::min({sizeof(*data_of(P{}))...});
  return smallest >= 4 ? 4 : 8;
}

/// f(i + k, elements…) for the elements i … i + N - 1 of all columns, which are aligned for it.
template <int N, class F, class... P>
HD void visit_pack(F& f, std::int64_t i, std::int64_t c, P... p) {
  auto work = [&](auto... values) {
    for (int k = 0; k < N; ++k) f(i + k, values.v[k]...);
    (store(p, i, values), ...);
  };
  work(load<N>(p, i, c)...);
}

/// Elements in front of the first one whose address a pack may have.
template <int N, class T>
HD int head_of(const T* p) {
  constexpr std::uintptr_t wanted = alignof(Pack<T, N>);
  return int((wanted - reinterpret_cast<std::uintptr_t>(p) % wanted) % wanted / sizeof(T));
}

/// What thread `thread` of `threads` does of n elements in rows of `columns` (0: none has its place in a row): f(i, elements…) by
/// packs of N, the threads in turn. Packs begin at element `head`; those before it are fewer than N, the first thread's. Which
/// elements a thread meets depends on n, N and head alone, not on addresses.
template <int N, class F, class... P>
HD void visit(std::int64_t thread, std::int64_t threads, std::int64_t n, std::int64_t columns, int head, F&& f, P... p) {
  const bool whole = (aligned<N>(p, head) && ...) && columns % N == 0;
  for (std::int64_t i = thread * N - (head ? N - head : 0); i < n; i += threads * N) {
    if (whole && i >= 0 && i + N <= n) {
      visit_pack<N>(f, i, columns ? i % columns : i, p...);
      continue;
    }
    const std::int64_t end = i + N < n ? i + N : n;
    for (std::int64_t e = i < 0 ? 0 : i; e < end; ++e) f(e, at(p, e, columns ? e % columns : e)...);
  }
}

}  // namespace packs
}  // namespace lockstep
