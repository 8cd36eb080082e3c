#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <thread>

namespace {

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

/// Shows failures of ranks other than 0 (which alone has the usual printer), and ends a run whose ranks no longer run the same
/// test.
class Ranks final : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed() && world_rank() != 0)
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", world_rank(), result.file_name() ? result.file_name() : "",
                   result.line_number(), result.message());
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    MPI_Request together;
    MPI_Ibarrier(MPI_COMM_WORLD, &together);
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    for (int done = 0; !done;) {
      MPI_Test(&together, &done, MPI_STATUS_IGNORE);
      if (std::chrono::steady_clock::now() > deadline) {
        std::fprintf(stderr, "rank %d has ended %s and waited 60 s for the others\n", world_rank(), test.name());
        MPI_Abort(MPI_COMM_WORLD, 1);
      }
      std::this_thread::yield();
    }
  }
};

}  // namespace

// main() of rank tests: every rank runs every test; a failure on any rank fails the program.
int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world_rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new Ranks);
  int failed = RUN_ALL_TESTS(), any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any;
}
