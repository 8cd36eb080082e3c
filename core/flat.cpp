#include "core/flat.h"

#include <algorithm>
#include <cstdio>

#include "core/checksum.h"
#include "kernels/memory.h"

namespace lockstep {

Layout simple_layout(const ParameterSet& set) {
  Layout layout;
  for (auto& p : set.all()) {
    std::int64_t size = p->value.size();
    layout.slots.push_back({p.get(), layout.total, size, -1});
    layout.total += (size + 127) / 128 * 128;
  }
  return layout;
}

Flat place(ParameterSet& set, Layout layout, const Allocate& allocate) {
  const Queue& q = set.device().queue();
  Flat flat;
  flat.layout = std::move(layout);
  std::int64_t total = std::max<std::int64_t>(flat.layout.total, 1);
  flat.master_memory = allocate(std::size_t(total) * 4);
  flat.masters = {flat.master_memory.get(), total, DType::f32};
  if (set.dtype() == DType::f32) {
    flat.weight_memory = flat.master_memory;
    flat.weights = flat.masters;
  } else {
    flat.weight_memory = allocate(std::size_t(total) * size_of(set.dtype()));
    flat.weights = {flat.weight_memory.get(), total, set.dtype()};
    kernels::fill(q, flat.weights, 0);
  }
  kernels::fill(q, flat.masters, 0);  // padding stays zero for good
  for (auto& slot : flat.layout.slots) {
    auto& p = *slot.parameter;
    p.master = flat.masters.slice(slot.begin, slot.size);
    bool is_buffer = p.role == Parameter::Role::buffer;
    p.value->value = is_buffer ? p.master : flat.weights.slice(slot.begin, slot.size);
    p.value->memory = is_buffer ? flat.master_memory : flat.weight_memory;
  }
  return flat;
}

void refresh_weights(const Queue& q, const Flat& flat) {
  if (flat.weights.data != flat.masters.data) kernels::cast(q, flat.weights, flat.masters);
}

namespace {
std::string hash(const ParameterSet& set, bool weights) {
  std::vector<const Parameter*> order;
  for (auto& p : set.all())
    if (weights || p->role == Parameter::Role::buffer) order.push_back(p.get());
  std::ranges::sort(order, [](auto* a, auto* b) { return std::pair(a->role, a->name) < std::pair(b->role, b->name); });
  Checksum sum;
  for (auto* p : order) {
    if (set.device().kind() == DeviceKind::cpu) {
      sum.add(p->master.data, p->master.bytes());
      continue;
    }
    auto values = download(set.device().queue(), p->master);
    sum.add(values.data(), values.size() * sizeof(float));
  }
  return sum.text();
}
}  // namespace

std::string hash_parameters(const ParameterSet& set) {
  return hash(set, true);
}
std::string hash_buffers(const ParameterSet& set) {
  return hash(set, false);
}

}  // namespace lockstep
