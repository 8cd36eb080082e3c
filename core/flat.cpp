#include "core/flat.h"

#include <algorithm>
#include <cstdio>

#include "core/checksum.h"
#include "core/tensor.h"
#include "kernels/fingerprint.h"
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

Flat place(ParameterSet& set, Layout layout, const Allocate& allocate, const Allocate& masters) {
  const Queue& q = set.device().queue();
  Flat flat;
  flat.layout = std::move(layout);
  auto arena = [&](Memory& memory, std::int64_t size, DType dtype, const Allocate& from) {
    memory = from(std::size_t(size) * size_of(dtype));
    View view{memory.get(), size, dtype};
    kernels::fill(q, view, 0);  // padding stays zero for good
    return view;
  };
  const std::int64_t total = std::max<std::int64_t>(flat.layout.total, 1);
  const bool rounded = set.dtype() != DType::f32 && set.masters();
  flat.masters = arena(flat.master_memory, total, rounded ? DType::f32 : set.dtype(), masters ? masters : allocate);
  if (rounded) {
    flat.weights = arena(flat.weight_memory, total, set.dtype(), allocate);
  } else {
    flat.weights = flat.masters;
    flat.weight_memory = flat.master_memory;
  }
  auto is_buffer = [](const Layout::Slot& slot) { return slot.parameter->role == Parameter::Role::buffer; };
  std::int64_t buffers = 0;  // elements of those that do not fit among the masters
  for (auto& slot : flat.layout.slots)
    if (is_buffer(slot) && flat.masters.dtype != DType::f32) buffers += slot.size;
  View left = buffers > 0 ? arena(flat.buffer_memory, buffers, DType::f32, allocate) : View{};
  for (auto& slot : flat.layout.slots) {
    auto& p = *slot.parameter;
    if (is_buffer(slot)) {
      p.master = left ? left.slice(0, slot.size) : flat.masters.slice(slot.begin, slot.size);
      if (left) left = left.slice(slot.size, left.size - slot.size);
      p.value->value = p.master;
      p.value->memory = flat.buffer_memory ? flat.buffer_memory : flat.master_memory;
    } else {
      p.master = flat.masters.slice(slot.begin, slot.size);
      p.value->value = flat.weights.slice(slot.begin, slot.size);
      p.value->memory = flat.weight_memory;
    }
  }
  return flat;
}

void refresh_weights(const Queue& q, const Flat& flat) {
  if (flat.weights.data != flat.masters.data) kernels::cast(q, flat.weights, flat.masters);
}

std::string hash_parameters(const ParameterSet& set) {
  std::vector<const Parameter*> order;
  for (auto& p : set.all()) order.push_back(p.get());
  std::ranges::sort(order, [](auto* a, auto* b) { return std::pair(a->role, a->name) < std::pair(b->role, b->name); });
  Checksum sum;
  for (auto* p : order) {
    const View values = p->master;
    if (set.device().kind() == DeviceKind::cpu) {
      sum.add(values.data, values.bytes());
      continue;
    }
    std::vector<char> host(values.bytes());
    kernels::copy(set.device().queue(), {host.data(), values.size, values.dtype}, values);
    kernels::synchronize(set.device().queue());
    sum.add(host.data(), host.size());
  }
  return sum.text();
}

std::string fingerprint(Device& device, const Flat& flat, bool weights) {
  std::vector<View> views;
  if (weights) views.push_back(flat.masters.slice(0, flat.layout.total));
  const auto* begin = static_cast<const std::byte*>(flat.masters.data);
  for (const auto& slot : flat.layout.slots) {
    const View& values = slot.parameter->master;
    if (slot.parameter->role != Parameter::Role::buffer) continue;
    const bool met = weights && values.data >= begin && values.data < begin + flat.masters.bytes();
    if (!met) views.push_back(values);
  }
  Checksum sum;
  if (device.kind() == DeviceKind::cpu) {  // a third of the time that a processor takes for the kernel
    for (const View& view : views) sum.add(view.data, view.bytes());
    return sum.text();
  }
  std::int64_t blocks = 0;
  for (const View& view : views) blocks += kernels::fingerprint_blocks(view.bytes());
  const Tensor sums(device, {8 * blocks}, DType::u8);
  View left = sums.view();
  for (const View& view : views) {
    const std::int64_t bytes = 8 * kernels::fingerprint_blocks(view.bytes());
    kernels::fingerprint(device.queue(), left.slice(0, bytes), view);
    left = left.slice(bytes, left.size - bytes);
  }
  std::vector<std::uint64_t> host(static_cast<std::size_t>(blocks));
  kernels::copy(device.queue(), {host.data(), 8 * blocks, DType::u8}, sums.view());
  kernels::synchronize(device.queue());
  sum.add(host.data(), host.size() * sizeof(host[0]));
  return sum.text();
}

}  // namespace lockstep
