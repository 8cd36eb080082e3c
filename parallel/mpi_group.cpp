#include <algorithm>
#include <numeric>

#include "parallel/mpi_check.h"
#include "parallel/open_communicator.h"
#include "parallel/shared_memory.h"

namespace lockstep::parallel {
namespace {

class MpiGroup final : public Group {
 public:
  explicit MpiGroup(MPI_Comm comm) : comm_(comm) {
    MPI_Comm machine = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &machine));
    machine_ = std::make_unique<MpiHandle>(machine);
    const MpiHandle& node = *machine_;
    node_rank_ = node.rank;
    node_size_ = node.size;
    // Machines are numbered by the order of their first ranks.
    int first = rank();
    check_mpi(MPI_Bcast(&first, 1, MPI_INT, 0, node));
    std::vector<int> firsts(std::size_t(size()), 0);
    check_mpi(MPI_Allgather(&first, 1, MPI_INT, firsts.data(), 1, MPI_INT, comm_));
    std::ranges::sort(firsts);
    auto unique = std::ranges::unique(firsts);
    node_ = int(std::lower_bound(firsts.begin(), unique.begin(), first) - firsts.begin());
  }

  int rank() const override { return comm_.rank; }
  int size() const override { return comm_.size; }
  int node() const override { return node_; }
  int node_rank() const override { return node_rank_; }
  int node_size() const override { return node_size_; }

  void barrier() override { check_mpi(MPI_Barrier(comm_)); }
  std::string broadcast(const std::string& bytes, int root) override {
    std::int64_t length = std::int64_t(bytes.size());
    check_mpi(MPI_Bcast(&length, 1, MPI_INT64_T, root, comm_));
    std::string out = rank() == root ? bytes : std::string(std::size_t(length), '\0');
    for (std::int64_t at = 0; at < length; at += piece)
      check_mpi(MPI_Bcast(out.data() + at, int(std::min(piece, length - at)), MPI_BYTE, root, comm_));
    return out;
  }
  std::vector<std::string> gather(const std::string& bytes) override {
    std::int64_t length = std::int64_t(bytes.size());
    std::vector<std::int64_t> lengths(std::size_t(size()), 0);
    check_mpi(MPI_Allgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_));
    std::vector<std::string> all(lengths.size());
    if (std::reduce(lengths.begin(), lengths.end()) > piece) {  // beyond what one call's counts can say
      for (int r = 0; r < size(); ++r) all[std::size_t(r)] = broadcast(bytes, r);
      return all;
    }
    std::vector<int> counts(lengths.begin(), lengths.end()), offsets(lengths.size(), 0);
    std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
    std::string joined(std::size_t(offsets.back() + counts.back()), '\0');
    check_mpi(MPI_Allgatherv(bytes.data(), int(length), MPI_BYTE, joined.data(), counts.data(), offsets.data(), MPI_BYTE, comm_));
    for (std::size_t r = 0; r < all.size(); ++r) all[r] = joined.substr(std::size_t(offsets[r]), std::size_t(counts[r]));
    return all;
  }
  double sum(double value) override {
    std::vector<double> values(std::size_t(size()), 0);
    check_mpi(MPI_Allgather(&value, 1, MPI_DOUBLE, values.data(), 1, MPI_DOUBLE, comm_));
    return std::accumulate(values.begin(), values.end(), 0.0);
  }
  std::shared_ptr<std::byte> node_memory(std::size_t bytes) override {
    auto memory = share_block(*machine_, bytes, Pages::when_touched);
    return all(memory != nullptr) ? memory : nullptr;
  }
  bool all(bool value) override {
    int mine = value, everyone = 0;
    check_mpi(MPI_Allreduce(&mine, &everyone, 1, MPI_INT, MPI_LAND, comm_));
    return everyone != 0;
  }

 private:
  static constexpr std::int64_t piece = 1 << 30;
  MpiHandle comm_;
  std::unique_ptr<MpiHandle> machine_;  // its ranks
  int node_ = 0, node_rank_ = 0, node_size_ = 1;
};

}  // namespace

std::unique_ptr<Group> open_mpi_group() {
  return std::make_unique<MpiGroup>(duplicate(MPI_COMM_WORLD));
}

}  // namespace lockstep::parallel
