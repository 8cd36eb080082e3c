#include "io/checkpoint_layout.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>

#include "core/checksum.h"
#include "io/hdf5.h"
#include "io/output.h"
#include "io/raw_file.h"

namespace lockstep::io {
namespace {

hdf5::Element element_of(DType d) {
  switch (d) {
    case DType::f32: return hdf5::Element::f32;
    case DType::bf16:  // HDF5 has no name for either: the bits, and an attribute
    case DType::f16: return hdf5::Element::u16;
    case DType::i32: return hdf5::Element::i32;
    default: return hdf5::Element::u8;
  }
}

/// What a missing piece reads as: NaN where the type has one.
double missing_value(DType d) {
  switch (d) {
    case DType::f32: return std::numeric_limits<double>::quiet_NaN();
    case DType::bf16: return 0x7fc0;
    case DType::f16: return 0x7e00;
    case DType::i32: return std::numeric_limits<std::int32_t>::min();
    default: return 255;
  }
}

std::string read_all(const RawFile& file, std::int64_t at, std::int64_t bytes) {
  std::string text(std::size_t(bytes), '\0');
  file.read(at, bytes, text.data());
  return text;
}

}  // namespace

std::vector<Slice> slices_of(const std::vector<Manifest::Tensor>& tensors, const Parts& parts, int rank) {
  std::vector<char> in_parts(tensors.size());
  for (const auto& held : parts)
    for (const Slice& part : held) in_parts[part.tensor] = 1;
  std::int64_t total = 0, at = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) total += in_parts[i] ? 0 : tensors[i].bytes();
  const auto ranks = std::int64_t(parts.size());
  auto cut = [&](std::int64_t part) {  // total * part / ranks, which may not fit
    return total / ranks * part + total % ranks * part / ranks;
  };
  const std::int64_t begin = cut(rank), end = cut(rank + 1);
  std::vector<Slice> slices = parts[std::size_t(rank)];
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (in_parts[i]) continue;
    const std::int64_t n = count(tensors[i].shape), size = std::int64_t(size_of(tensors[i].dtype));
    auto element = [&](std::int64_t byte) { return std::clamp<std::int64_t>((byte - at + size - 1) / size, 0, n); };
    const std::int64_t first = begin <= at ? 0 : element(begin), last = end <= at ? 0 : element(end);
    if (first < last) slices.push_back({i, first, last - first});
    at += tensors[i].bytes();
  }
  return slices;
}

void check_parts(const std::vector<Manifest::Tensor>& tensors, const Parts& parts) {
  std::vector<Slice> all;
  for (const auto& held : parts) all.insert(all.end(), held.begin(), held.end());
  std::ranges::sort(all, {}, [](const Slice& s) { return std::pair(s.tensor, s.begin); });
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool first = i == 0 || all[i - 1].tensor != all[i].tensor,
               last = i + 1 == all.size() || all[i + 1].tensor != all[i].tensor;
    const auto& [name, shape, dtype] = tensors[all[i].tensor];
    require(
        all[i].begin == (first ? 0 : all[i - 1].begin + all[i - 1].size) && (!last || all[i].begin + all[i].size == count(shape)),
        "checkpoint: the ranks' parts do not make up '{}' {}: see elements {} to {}", name, to_text(shape), all[i].begin,
        all[i].begin + all[i].size);
  }
}

std::string rank_file_name(int rank) {
  return fmt::format("rank{}.h5", rank);
}

FileLayout lay_out(const std::vector<Manifest::Tensor>& tensors, const std::vector<Slice>& slices, const std::string& path) {
  FileLayout layout;
  Manifest plan;  // for its gaps
  plan.tensors = tensors;
  std::int64_t needed = 0;
  for (const auto& s : slices) needed += s.size * std::int64_t(size_of(tensors[s.tensor].dtype));
  // The library leaks a file that it cannot write out, so it is not given one. Files in memory have the process's limit, too.
  rlimit limit{};
  const bool limited = getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  if (limited && rlim_t(needed) > limit.rlim_cur) write_failed(path, needed, EFBIG);
  const RawFile written(path, RawFile::Mode::memory);
  try {
    auto file = hdf5::File::create_in(written);
    for (const auto& s : slices) {
      const auto& t = tensors[s.tensor];
      const bool whole = s.size == count(t.shape);
      const auto data = file.create_dataset(t.name, element_of(t.dtype), whole ? t.shape : Shape{s.size}, {.reserve = true});
      if (is_half(t.dtype)) file.set(t.name, "dtype", name_of(t.dtype));
      if (!whole) file.set(t.name, "begin", s.begin);
      layout.offsets.push_back(data.offset());
      plan.pieces.push_back({std::int64_t(s.tensor), 0, s.begin, s.size, data.offset(), {}});
    }
    file.close();
  } catch (const Error&) {
    if (limited) write_failed(path, needed, EFBIG);  // the values alone would have fitted
    throw;
  }
  layout.bytes = written.size();
  plan.files = {{"", layout.bytes, ""}};
  Checksum sum;
  for (const auto& gap : gaps(plan, 0)) {
    layout.rest.emplace_back(gap.begin, read_all(written, gap.begin, gap.end - gap.begin));
    sum.add(layout.rest.back().second.data(), layout.rest.back().second.size());
  }
  layout.rest_xxh3 = sum.text();
  return layout;
}

std::size_t room_for(const std::string& state) {
  constexpr std::size_t grain = 4096, most = 60000;  // an attribute holds 64 KiB; the manifest has every state
  return state.size() > most ? 0 : std::min(most, (state.size() / grain + 1) * grain);
}

CheckpointView view_file(const Manifest& manifest, std::size_t room) {
  auto file = hdf5::File::create_in({"a file in memory", RawFile::Mode::memory});
  auto piece = manifest.pieces.begin();
  for (std::size_t i = 0; i < manifest.tensors.size(); ++i) {
    const auto& t = manifest.tensors[i];
    std::vector<hdf5::Source> sources;
    for (; piece != manifest.pieces.end() && piece->tensor == std::int64_t(i); ++piece)
      sources.push_back({manifest.files[std::size_t(piece->file)].name,
                         piece->size == count(t.shape) ? t.shape : Shape{piece->size}, piece->begin});
    if (sources.empty())
      file.create_dataset(t.name, element_of(t.dtype), t.shape);
    else
      file.create_virtual(t.name, element_of(t.dtype), t.shape, sources, missing_value(t.dtype));
    if (is_half(t.dtype)) file.set(t.name, "dtype", name_of(t.dtype));
  }
  // The attributes' bytes are found by what stands there until they are written.
  const std::int64_t step = 0x5be8c2a7b13f9d01;
  const std::string state(room, '\1');
  file.set("", "step", step);
  if (room > 0) file.set("", "state", state);
  CheckpointView view{.bytes = file.image(), .room = room};
  auto find = [&](std::string_view sought) {
    const std::size_t at = view.bytes.find(sought);
    require(at != std::string::npos && view.bytes.find(sought, at + 1) == std::string::npos,
            "checkpoint.h5: the place of an attribute was not found");
    return at;
  };
  view.step_at = find({reinterpret_cast<const char*>(&step), sizeof step});
  if (room > 0) view.state_at = find(state);
  return view;
}

std::string view_file_at(const CheckpointView& view, std::int64_t step, const std::string& state) {
  std::string bytes = view.bytes;
  std::memcpy(bytes.data() + view.step_at, &step, sizeof step);
  if (view.room == 0) return bytes;
  std::memset(bytes.data() + view.state_at, ' ', view.room);
  std::memcpy(bytes.data() + view.state_at, state.data(), state.size());
  return bytes;
}

}  // namespace lockstep::io
