#include "io/advice.h"

#include <fmt/format.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "io/data_manifest.h"
#include "io/hdf5.h"
#include "io/output.h"

namespace lockstep::io {

namespace {

/// The name of a file system on the network; empty for others.
std::string network_file_system(const std::string& path) {
  struct statfs info {};
  if (statfs(path.c_str(), &info) != 0) return "";
  static const std::map<long, const char*> names = {
      {0x6969, "NFS"},      {0x517B, "SMB"},        {0xFF534D42, "CIFS"}, {0xFE534D42, "SMB"},  {0x0BD00BD0, "Lustre"},
      {0x47504653, "GPFS"}, {0x19830326, "BeeGFS"}, {0x5346414F, "AFS"},  {0x00C36400, "Ceph"}, {0x01021997, "9P"}};
  const auto found = names.find(long(info.f_type) & 0xFFFFFFFF);
  return found == names.end() ? "" : found->second;
}

/// Seconds that reading the first rows takes, up to `bytes` of them; how many rows that were.
std::pair<double, std::int64_t> time_reading(const hdf5::Data& data, std::int64_t row_bytes, std::int64_t bytes) {
  const std::int64_t rows = std::clamp<std::int64_t>(bytes / row_bytes, 1, data.rows());
  const auto element = data.info().type == hdf5::Class::real ? hdf5::Element::f32 : hdf5::Element::i32;
  std::vector<std::byte> block(std::size_t(rows * data.width()) * 4);
  const auto begin = std::chrono::steady_clock::now();
  data.read(element, 0, rows, block.data());
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), rows};
}

void advise_on_chunks(const std::string& mend, const hdf5::Info& info, const Shape& chunk, std::vector<std::string>& advice) {
  const std::int64_t bytes = count(chunk) * info.bytes, all = count(info.shape) * info.bytes;
  bool cut = false;
  for (std::size_t i = 1; i < chunk.size(); ++i) cut = cut || chunk[i] < info.shape[i];
  const std::string name = fmt::format("{}: chunks {} of {}", info.name, to_text(chunk), size_text(bytes));
  if (cut && all / info.shape[0] <= (1 << 24))
    advice.push_back(fmt::format("{} cut rows: each row is read in several pieces. `{}`", name, mend));
  else if (bytes > (8 << 20) && chunk[0] > 1)
    advice.push_back(fmt::format("{} are too large for a shuffled order: a row costs a whole chunk. `{}`", name, mend));
  else if (bytes < (16 << 10) && all > (4 << 20))
    advice.push_back(fmt::format("{} are too small: {} requests where {} would do. `{}`", name,
                                 all / std::max<std::int64_t>(1, bytes), all / (1 << 18), mend));
}

}  // namespace

std::vector<std::string> advise_on_file(const hdf5::File& file) {
  const std::string& path = file.path();
  std::vector<std::string> advice;
  for (const auto& info : file.datasets()) {
    if (!info.numeric() || info.shape.empty() || count(info.shape) == 0) continue;
    const auto data = file.dataset(info.name);
    const auto layout = data.layout();
    const std::string mend = fmt::format("lockstep data rechunk {} --dataset {}", path, info.name);
    const std::int64_t row_bytes = data.width() * info.bytes;
    if (info.layout.starts_with("chunks") && !layout.chunk.empty()) advise_on_chunks(mend, info, layout.chunk, advice);
    if (info.filters.find("deflate") == std::string::npos || row_bytes * data.rows() < (1 << 20)) continue;
    const auto [seconds, rows] = time_reading(data, row_bytes, 16 << 20);
    advice.push_back(
        fmt::format("{}: compressed; one core decodes {}/s here, {:.3g} rows/s. If steps take more than the cores give "
                    "(data/exposed_ms in the log), `{}` makes it plain",
                    info.name, size_text(std::int64_t(double(rows * row_bytes) / std::max(1e-9, seconds))),
                    double(rows) / std::max(1e-9, seconds), mend));
  }
  if (const auto name = network_file_system(path); !name.empty())
    advice.push_back(
        fmt::format("the file lies on {}: locks may be missing there (Lockstep asks for them and goes on without; "
                    "HDF5_USE_FILE_LOCKING=FALSE helps other programs), and a copy on a local disk is faster",
                    name));
  if (::access(DataManifest::path_of(path).c_str(), F_OK) != 0)
    advice.push_back(
        fmt::format("there is no manifest: damage may stay unseen. If the file is good, `lockstep data manifest {}`", path));
  return advice;
}

}  // namespace lockstep::io
