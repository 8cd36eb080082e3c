// How fast is an all-reduce between ranks of one machine, beside MPI_Allreduce on the same bytes?
//
//     mpirun -n 2 build/cpu/benchmarks/parallel_all_reduce [--rounds 9] [--from 4096] [--to 67108864]
//
// For each size, in turn: ours on memory from Communicator::allocate(), MPI's in place on ordinary memory, and every rank copying
// as many bytes at the same time, which is the limit for two ranks: both read and write 2 x bytes each way. Every rank's buffer
// is written before each call, as backward writes gradients. One JSON object a size; times are of the slowest rank, medians over
// rounds.
#include <mpi.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "parallel/open_communicator.h"

using namespace lockstep;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double median(std::vector<double> v) {
  std::ranges::sort(v);
  return v[v.size() / 2];
}

/// Seconds of one call of `work` on the slowest rank: the mean of `repeats`, each after `prepare`, which is not counted.
double time_of(int repeats, const std::function<void()>& prepare, const std::function<void()>& work) {
  double spent = 0;
  for (int i = 0; i < repeats; ++i) {
    prepare();
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = now();
    work();
    spent += now() - begin;
  }
  MPI_Allreduce(MPI_IN_PLACE, &spent, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return spent / repeats;
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 9;
  std::int64_t from = 4 << 10, to = 64 << 20;
  std::string algorithm = "default";
  bool apart = false;
  CLI::App app("All-reduce beside MPI_Allreduce, a JSON object for each size");
  app.add_option("--rounds", rounds);
  app.add_option("--from", from, "bytes");
  app.add_option("--to", to, "bytes");
  app.add_option("--label", algorithm, "how the peer is called in the output (set with mpirun --mca coll …)");
  app.add_flag("--apart", apart, "as if every rank were on a machine of its own");
  CLI11_PARSE(app, argc, argv);

  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  {
    omp_set_num_threads(1);  // what a rank has where ranks share the cores
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    auto comm = parallel::open_mpi_communicator({.machine = apart ? rank : -1});
    const Queue queue;
    for (std::int64_t bytes = from; bytes <= to; bytes *= 4) {
      const std::int64_t size = bytes / 4;
      Memory ours = comm->allocate(std::size_t(bytes)), theirs = host_memory(std::size_t(bytes)),
             other = host_memory(std::size_t(bytes));
      View view{ours.get(), size, DType::f32};
      auto fill = [&](std::byte* p) { std::fill_n(reinterpret_cast<float*>(p), size, float(comm->rank() + 1)); };
      const int repeats = int(std::clamp<std::int64_t>((8 << 20) / bytes, 1, 200));
      std::vector<double> mine, peer, copy, ratio;
      bool right = true;
      for (int round = 0; round <= rounds; ++round) {
        double a = time_of(
            repeats, [&] { fill(ours.get()); },
            [&] {
              comm->all_reduce(queue, view);
              comm->join(queue);
            });
        double b = time_of(
            repeats, [&] { fill(theirs.get()); },
            [&] { MPI_Allreduce(MPI_IN_PLACE, theirs.get(), int(size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); });
        double c = time_of(
            repeats, [&] { fill(theirs.get()); }, [&] { std::memcpy(other.get(), theirs.get(), std::size_t(bytes)); });
        const float sum = float(comm->size() * (comm->size() + 1) / 2);
        right = right && view.as<float>()[0] == sum && view.as<float>()[size - 1] == sum;
        if (round == 0) continue;  // warming up
        mine.push_back(a), peer.push_back(b), copy.push_back(c), ratio.push_back(b / a);
      }
      std::ranges::sort(ratio);
      if (comm->rank() == 0) {
        nlohmann::ordered_json line = {{"name", "all_reduce"},
                                       {"ranks", comm->size()},
                                       {"transport", comm->name()},
                                       {"bytes", bytes},
                                       {"unit", "us"},
                                       {"ours", median(mine) * 1e6},
                                       {"peer", median(peer) * 1e6},
                                       {"peer_name", "MPI_Allreduce, " + algorithm},
                                       {"ratio", ratio[ratio.size() / 2]},
                                       {"ratio_low", ratio[ratio.size() / 10]},
                                       {"ratio_high", ratio[ratio.size() - 1 - ratio.size() / 10]},
                                       {"rounds", rounds},
                                       {"limit", median(copy) * 1e6},
                                       {"share_of_limit", median(copy) / median(mine)},
                                       {"right", right}};
        std::printf("%s\n", line.dump().c_str());
        std::fflush(stdout);
      }
    }
  }
  MPI_Finalize();
}
