#include "kernels/memory.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/launch.h"
#include "kernels/memory_cuda.h"

namespace lockstep::kernels {
namespace {

/// Calls f.operator()<T>() with the C++ type of any dtype.
template <class F>
void visit_any(DType d, F&& f) {
  switch (d) {
    case DType::f32: return f.template operator()<float>();
    case DType::bf16: return f.template operator()<bf16>();
    case DType::f16: return f.template operator()<f16>();
    case DType::i32: return f.template operator()<std::int32_t>();
    case DType::u8: return f.template operator()<std::uint8_t>();
  }
  throw Error("memory: unknown dtype");
}

/// Floats become the nearest integer toward zero, held to the type's range, NaN 0; integers are held to the type's range.
template <class To, class From>
HD To converted(From x) {
  if constexpr (is_float(dtype_of<To>)) {
    return To(float(x));
  } else if constexpr (is_float(dtype_of<From>)) {
    constexpr float low = std::is_same_v<To, std::uint8_t> ? 0.f : -2147483648.f;
    constexpr float high = std::is_same_v<To, std::uint8_t> ? 255.f : 2147483520.f;  // the largest float below 2^31
    float v = float(x);
    return To(std::int32_t(v >= low ? (v <= high ? v : high) : v < low ? low : 0.f));
  } else if constexpr (std::is_same_v<To, std::uint8_t>) {
    return To(x < 0 ? 0 : x > 255 ? 255 : x);
  } else {
    return To(x);
  }
}

template <class To, class From>
struct Cast {
  HD void operator()(To& y, From x) const { y = converted<To>(x); }
};

template <class T>
struct Fill {
  T value;
  HD void operator()(T& y) const { y = value; }
};

template <class To, class From, bool accumulate>
struct Scale {
  float factor;
  HD void operator()(To& y, From x) const {
    float v = float(x) * factor;
    y = To(accumulate ? float(y) + v : v);
  }
};

template <class To, class A, class B>
struct Add {
  HD void operator()(To& y, A a, B b) const { y = To(float(a) + float(b)); }
};

/// A few words that travel as the arguments of a launch.
struct Words {
  static constexpr std::size_t most = 16;
  void* y;
  std::uint32_t words[most];
  HD void operator()(std::int64_t i) const { static_cast<std::uint32_t*>(y)[i] = words[i]; }
};

template <class T>
struct Uniform {
  T* y;
  float low, range;
  RandomKey key;
  HD T value(std::uint32_t word) const { return T(low + range * to_uniform(word)); }
  HD void group(std::int64_t g) const {
    Random4 r = random_words(key, std::uint64_t(g));
    y[4 * g] = value(r.x);
    y[4 * g + 1] = value(r.y);
    y[4 * g + 2] = value(r.z);
    y[4 * g + 3] = value(r.w);
  }
  HD void element(std::int64_t i) const { y[i] = value(random_word(key, std::uint64_t(i))); }
};

template <class T>
struct Normal {
  T* y;
  float mean, deviation;
  RandomKey key;
  HD T value(float normal) const { return T(mean + deviation * normal); }
  HD void group(std::int64_t g) const {
    Random4 r = random_words(key, std::uint64_t(g));
    NormalPair p = to_normals(r.x, r.y), q = to_normals(r.z, r.w);
    y[4 * g] = value(p.a);
    y[4 * g + 1] = value(p.b);
    y[4 * g + 2] = value(q.a);
    y[4 * g + 3] = value(q.b);
  }
  HD void element(std::int64_t i) const {
    Random4 r = random_words(key, std::uint64_t(i / 4));
    NormalPair p = i % 4 < 2 ? to_normals(r.x, r.y) : to_normals(r.z, r.w);
    y[i] = value(i % 2 == 0 ? p.a : p.b);
  }
};

}  // namespace

void cast(const Queue& q, View y, View x) {
  require(y.size == x.size, "cast: y has {} elements, x {}", y.size, x.size);
  if (y.dtype == x.dtype) return copy(q, y, x);
  visit_any(y.dtype, [&]<class To>() {
    visit_any(x.dtype, [&]<class From>() {
      if constexpr (!std::is_same_v<To, From>) for_each(q, x.size, Cast<To, From>{}, out(y.as<To>()), x.as<const From>());
    });
  });
}

void fill(const Queue& q, View y, float value) {
  visit_any(y.dtype, [&]<class T>() { for_each(q, y.size, Fill<T>{converted<T>(value)}, out(y.as<T>())); });
}

void scale(const Queue& q, View y, View x, float factor, Write write) {
  require(y.size == x.size, "scale: y has {} elements, x {}", y.size, x.size);
  visit_float(y.dtype, [&]<class To>() {
    visit_float(x.dtype, [&]<class From>() {
      if (write == Write::accumulate)
        for_each(q, x.size, Scale<To, From, true>{factor}, y.as<To>(), x.as<const From>());
      else
        for_each(q, x.size, Scale<To, From, false>{factor}, out(y.as<To>()), x.as<const From>());
    });
  });
}

void add(const Queue& q, View y, View a, View b) {
  require(y.size == a.size && y.size == b.size, "add: y has {} elements, a {}, b {}", y.size, a.size, b.size);
  visit_float(y.dtype, [&]<class To>() {
    visit_float(a.dtype, [&]<class A>() {
      visit_float(b.dtype,
                  [&]<class B>() { for_each(q, y.size, Add<To, A, B>{}, out(y.as<To>()), a.as<const A>(), b.as<const B>()); });
    });
  });
}

void store(const Queue& q, View y, std::span<const float> values) {
  require(y.dtype == DType::f32 && y.size == std::int64_t(values.size()) && values.size() <= Words::most,
          "store: {} numbers into {} of {}; at most {} travel with a launch", values.size(), y.size, name_of(y.dtype),
          Words::most);
  Words words{y.data, {}};
  if (!values.empty()) std::memcpy(words.words, values.data(), values.size_bytes());
  for_each(q, y.size, words);
}

void store(const Queue& q, View y, std::int32_t value) {
  require(y.dtype == DType::i32 && y.size == 1, "store: one number into {} of {}", y.size, name_of(y.dtype));
  for_each(q, 1, Words{y.data, {std::uint32_t(value)}});
}

void uniform(const Queue& q, View y, float low, float high, RandomKey key) {
  visit_float(y.dtype, [&]<class T>() { for_each_group(q, 0, y.size, Uniform<T>{y.as<T>(), low, high - low, key}); });
}

void normal(const Queue& q, View y, float mean, float deviation, RandomKey key) {
  visit_float(y.dtype, [&]<class T>() { for_each_group(q, 0, y.size, Normal<T>{y.as<T>(), mean, deviation, key}); });
}

void copy(const Queue& q, View to, View from) {
  require(to.bytes() == from.bytes(), "copy: {} bytes into {}", from.bytes(), to.bytes());
  if (to.data == from.data || from.bytes() == 0) return;
  if (q.recording) return q.recording->add([=](const Queue& then) { copy(then, to, from); });
  if (q.on_gpu) return cuda::copy(q, to, from);
  constexpr std::size_t block = std::size_t(1) << 18;
  std::int64_t blocks = std::int64_t((from.bytes() + block - 1) / block);
#pragma omp parallel for if (blocks > 1) schedule(static)
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::size_t begin = std::size_t(b) * block;
    std::memcpy(static_cast<char*>(to.data) + begin, static_cast<const char*>(from.data) + begin,
                std::min(block, from.bytes() - begin));
  }
}

void synchronize(const Queue& q) {
  require(!q.recording, "a step that is being captured cannot wait for its own work: read its results after it");
  if (q.on_gpu) cuda::synchronize(q);
}

}  // namespace lockstep::kernels
