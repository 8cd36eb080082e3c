#include "core/parameter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/memory.h"

namespace lockstep {

Initial Initial::kaiming_uniform(std::int64_t fan_in, float gain) {
  float bound = std::sqrt(3.f) * gain / std::sqrt(float(fan_in));
  return uniform(-bound, bound);
}
Initial Initial::kaiming_normal(std::int64_t fan_out) {
  return normal(0, std::sqrt(2.f / float(fan_out)));
}

namespace {

/// Edits that turn a into b (Levenshtein): for suggestions.
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t(0));
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      std::size_t up = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = up;
    }
  }
  return row.back();
}

}  // namespace

Tensor ParameterSet::add(std::string name, Shape shape, Initial initial, bool decay) {
  for (auto& p : parameters_) require(p->name != name, "two parameters are called \"{}\": give each layer its own name", name);
  auto parameter = std::make_unique<Parameter>();
  parameter->name = std::move(name);
  parameter->value = Tensor(std::move(shape), View{nullptr, 0, dtype_});
  parameter->initial = initial;
  parameter->decay = decay;
  parameter->value->wants_gradient = true;
  parameter->value->parameter = parameter.get();
  parameters_.push_back(std::move(parameter));
  return parameters_.back()->value;
}

Tensor ParameterSet::buffer(std::string name, Shape shape, float initial, float momentum) {
  Tensor value = add(std::move(name), std::move(shape), Initial::constant(initial), false);
  auto& parameter = *parameters_.back();
  parameter.role = Parameter::Role::buffer;
  parameter.momentum = momentum;
  value->value.dtype = DType::f32;
  value->wants_gradient = false;  // the strategy turns it on when there is a slot for its statistic
  return value;
}

Parameter& ParameterSet::find(const std::string& name) const {
  const Parameter* nearest = nullptr;
  std::size_t best = std::numeric_limits<std::size_t>::max();
  for (auto& p : parameters_) {
    if (p->name == name) return *p;
    if (auto d = distance(name, p->name); d < best) best = d, nearest = p.get();
  }
  throw Error("there is no parameter \"" + name + "\"" + (nearest ? "; did you mean \"" + nearest->name + "\"?" : ""),
              Exit::usage);
}

std::int64_t ParameterSet::count_elements() const {
  std::int64_t n = 0;
  for (auto& p : parameters_)
    if (p->role == Parameter::Role::weight) n += p->value.size();
  return n;
}

void ParameterSet::freeze(const std::string& prefix) {
  bool found = false;
  for (auto& p : parameters_)
    if (p->name.starts_with(prefix)) {
      found = true;
      p->trainable = false;
      p->value->wants_gradient = false;
    }
  require(Exit::usage, found, "freeze: no parameter's name starts with \"{}\"; the first is \"{}\"", prefix,
          parameters_.empty() ? std::string("(none)") : parameters_[0]->name);
}

void ParameterSet::want_gradients(bool wanted) {
  for (auto& p : parameters_)
    if (p->role == Parameter::Role::weight) p->value->wants_gradient = wanted && p->trainable;
}

void ParameterSet::initialise(std::uint64_t seed) {
  seed_ = seed;
  const Queue& q = device_.queue();
  for (auto& p : parameters_) {
    require(bool(p->master), "initialise: parameter \"{}\" has no memory yet; make the strategy first", p->name);
    RandomKey key{seed, 0, 0, hash_name(p->name)};
    switch (p->initial.kind) {
      case Initial::Kind::constant: kernels::fill(q, p->master, p->initial.a); break;
      case Initial::Kind::uniform: kernels::uniform(q, p->master, p->initial.a, p->initial.b, key); break;
      case Initial::Kind::normal: kernels::normal(q, p->master, p->initial.a, p->initial.b, key); break;
    }
    if (p->value.view().data != p->master.data) kernels::cast(q, p->value.view(), p->master);
  }
}

}  // namespace lockstep
