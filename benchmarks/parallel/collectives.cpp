// How fast are collectives between ranks of one machine, beside MPI's on the same bytes?
//
//     mpirun -n 2 [--mca coll_sm_priority 100] build/cpu/benchmarks/parallel_collectives [--operation all_reduce] [--rounds 9]
//
// For each size, in turn: ours on memory from Communicator::allocate(), MPI's on ordinary memory, and every rank copying as many
// bytes at the same time. Every rank's buffer is written before each call, as backward writes gradients, and every element of
// both results is compared with what it must be. Which component of Open MPI does the work is asked of the call stack while it
// works. One JSON object a size; times are of the slowest rank, medians over rounds.
#include <dlfcn.h>
#include <execinfo.h>
#include <mpi.h>
#include <omp.h>
#include <sys/time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
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
template <class T>
T over_ranks(T value, MPI_Datatype type, MPI_Op op) {
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, type, op, MPI_COMM_WORLD);
  return value;
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
  return over_ranks(spent, MPI_DOUBLE, MPI_MAX) / repeats;
}

/// Looks at the call stack 2000 times a second of processor time.
class StackSampler {
 public:
  /// The outermost function of a component of Open MPI's collectives that was most often at work, as "tuned: function"; "" when
  /// none was seen.
  static std::string busiest(const std::function<void()>& work) {
    count_ = 0;
    void* warm_up[2];
    backtrace(warm_up, 2);  // the first call takes memory, which a handler must not
    struct sigaction action = {}, before = {};
    action.sa_handler = [](int) {
      const int n = count_;
      if (n == int(stacks_.size())) return;
      depths_[std::size_t(n)] = backtrace(stacks_[std::size_t(n)].data(), 64);
      count_ = n + 1;
    };
    action.sa_flags = SA_RESTART;
    sigaction(SIGPROF, &action, &before);
    itimerval often{{0, 500}, {0, 500}}, never{};
    setitimer(ITIMER_PROF, &often, nullptr);
    work();
    setitimer(ITIMER_PROF, &never, nullptr);
    sigaction(SIGPROF, &before, nullptr);
    std::map<std::string, int> seen;
    for (int i = 0; i < count_; ++i)
      for (int frame = depths_[std::size_t(i)]; frame-- > 0;) {
        std::string found = component_of(stacks_[std::size_t(i)][std::size_t(frame)]);
        if (found.empty()) continue;
        ++seen[found];
        break;
      }
    auto most = std::ranges::max_element(seen, {}, [](auto& s) { return s.second; });
    return most == seen.end() ? "" : most->first;
  }

 private:
  static std::string component_of(void* address) {
    Dl_info info = {};
    if (!dladdr(address, &info) || !info.dli_fname || !info.dli_sname) return "";
    std::string file = info.dli_fname, function = info.dli_sname;
    const auto at = file.find("mca_coll_");
    if (at == file.npos || function.find("progress") != function.npos) return "";
    std::string found = file.substr(at + 9, file.find('.', at) - at - 9);
    found += ": ";
    return found += function;
  }
  static inline std::array<std::array<void*, 64>, 1000> stacks_;
  static inline std::array<int, 1000> depths_;
  static inline volatile int count_ = 0;
};

/// A collective in both ways, on `size` floats of each rank.
struct Operation {
  std::string peer_name;
  std::function<void(View)> ours;
  std::function<void(float*)> peer;
  /// What element i must be, from what each rank's was; -1 where it may be anything. `ours`: MPI puts a part of a sum first.
  std::function<float(std::int64_t i, bool ours)> expected;
};

float value_of(int rank, std::int64_t i) {
  return float((rank + 1) * (i % 1024 + 1));  // sums are exact
}

Operation make(const std::string& name, parallel::Communicator& comm, std::int64_t size) {
  const int rank = comm.rank(), ranks = comm.size(), part = int(size / ranks);
  const Queue queue;
  auto parts = [=](View data) {
    std::vector<View> all;
    for (int r = 0; r < ranks; ++r) all.push_back(data.slice(std::int64_t(part) * r, part));
    return all;
  };
  const float sum = float(ranks * (ranks + 1) / 2);
  if (name == "all_reduce")
    return {"MPI_Allreduce", [&comm, queue](View data) { comm.all_reduce(queue, data); },
            [size](float* data) { MPI_Allreduce(MPI_IN_PLACE, data, int(size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); },
            [sum](std::int64_t i, bool) { return sum * value_of(0, i); }};
  if (name == "reduce_scatter")
    return {"MPI_Reduce_scatter", [&comm, queue, parts](View data) { comm.reduce_parts(queue, parts(data)); },
            [counts = std::vector<int>(std::size_t(ranks), part)](float* data) {
              MPI_Reduce_scatter(MPI_IN_PLACE, data, counts.data(), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            },
            [sum, rank, part](std::int64_t i, bool ours) {
              const std::int64_t begin = std::int64_t(part) * rank;
              if (!ours) return i < part ? sum * value_of(0, begin + i) : -1;
              return i >= begin && i < begin + part ? sum * value_of(0, i) : -1;
            }};
  if (name == "all_gather")
    return {"MPI_Allgather", [&comm, queue, parts](View data) { comm.gather_parts(queue, parts(data)); },
            [part](float* data) { MPI_Allgather(MPI_IN_PLACE, 0, MPI_FLOAT, data, part, MPI_FLOAT, MPI_COMM_WORLD); },
            [part](std::int64_t i, bool) { return value_of(int(i / part), i); }};
  return {"MPI_Bcast", [&comm, queue](View data) { comm.broadcast(queue, data, 0); },
          [size](float* data) { MPI_Bcast(data, int(size), MPI_FLOAT, 0, MPI_COMM_WORLD); },
          [](std::int64_t i, bool) { return value_of(0, i); }};
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 9;
  std::int64_t from = 4 << 10, to = 64 << 20;
  std::vector<std::string> names = {"all_reduce", "reduce_scatter", "all_gather", "broadcast"};
  bool apart = false;
  CLI::App app("Collectives beside MPI's, a JSON object for each size");
  app.add_option("--operation", names)->check(CLI::IsMember(names));
  app.add_option("--rounds", rounds);
  app.add_option("--from", from, "bytes");
  app.add_option("--to", to, "bytes");
  app.add_flag("--apart", apart, "as if every rank were on a machine of its own");
  CLI11_PARSE(app, argc, argv);

  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  {
    omp_set_num_threads(1);  // what a rank has where ranks share the cores
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    auto comm = parallel::open_mpi_communicator({.machine = apart ? rank : -1});
    for (std::int64_t bytes = from; bytes <= to; bytes *= 4) {
      const std::int64_t size = bytes / 4;
      Memory own = comm->allocate(std::size_t(bytes)), theirs = host_memory(std::size_t(bytes)),
             other = host_memory(std::size_t(bytes));
      View view{own.get(), size, DType::f32};
      std::array<float, 1024> pattern;
      for (int i = 0; i < 1024; ++i) pattern[std::size_t(i)] = value_of(rank, i);
      auto fill = [&](const Memory& memory) {
        for (std::int64_t at = 0; at < bytes; at += 4096)
          std::memcpy(memory.get() + at, pattern.data(), std::size_t(std::min<std::int64_t>(bytes - at, 4096)));
      };
      for (const std::string& name : names) {
        const Operation operation = make(name, *comm, size);
        auto ours = [&] {
          operation.ours(view);
          comm->join({});
        };
        auto peer = [&] { operation.peer(reinterpret_cast<float*>(theirs.get())); };
        auto is_right = [&](const Memory& memory) {
          bool right = true;
          for (std::int64_t i = 0; i < size; ++i) {
            const float expected = operation.expected(i, memory.get() == own.get());
            right = right && (expected < 0 || reinterpret_cast<const float*>(memory.get())[i] == expected);
          }
          return right;
        };
        auto turn = [&](int repeats) {
          return std::array{
              time_of(
                  repeats, [&] { fill(own); }, ours),
              time_of(
                  repeats, [&] { fill(theirs); }, peer),
              time_of(
                  repeats, [&] { fill(theirs); }, [&] { std::memcpy(other.get(), theirs.get(), std::size_t(bytes)); })};
        };
        turn(1);
        auto [first, second, third] = turn(1);
        const int repeats = int(std::clamp(0.02 / std::max(first, second), 1.0, 200.0));  // the slower one takes 20 ms of a round
        std::vector<double> mine, peers, copy, ratio;
        for (int round = 0; round < rounds; ++round) {
          auto [a, b, c] = turn(repeats);
          mine.push_back(a), peers.push_back(b), copy.push_back(c), ratio.push_back(b / a);
        }
        fill(own), fill(theirs);
        MPI_Barrier(MPI_COMM_WORLD);
        ours(), peer();
        int right = is_right(own), peer_right = is_right(theirs);
        right = over_ranks(right, MPI_INT, MPI_LAND), peer_right = over_ranks(peer_right, MPI_INT, MPI_LAND);
        const int calls = int(std::clamp(0.1 / median(peers), 2.0, 100000.0));
        std::string component = StackSampler::busiest([&] {
          for (int i = 0; i < calls; ++i) peer();
        });
        component.resize(128);
        std::string of_ranks(component.size() * std::size_t(comm->size()), '\0');
        MPI_Gather(component.data(), 128, MPI_CHAR, of_ranks.data(), 128, MPI_CHAR, 0, MPI_COMM_WORLD);
        for (std::size_t at = 0; at < of_ranks.size(); at += 128)
          if (std::string seen = of_ranks.c_str() + at; !seen.empty() || at == 0) component = seen;
        std::ranges::sort(ratio);
        if (rank != 0) continue;
        nlohmann::ordered_json line = {{"name", name},
                                       {"ranks", comm->size()},
                                       {"transport", comm->name()},
                                       {"bytes", bytes},
                                       {"unit", "us"},
                                       {"ours", median(mine) * 1e6},
                                       {"peer", median(peers) * 1e6},
                                       {"peer_name", operation.peer_name},
                                       {"component", component},
                                       {"ratio", ratio[ratio.size() / 2]},
                                       {"ratio_low", ratio[ratio.size() / 10]},
                                       {"ratio_high", ratio[ratio.size() - 1 - ratio.size() / 10]},
                                       {"rounds", rounds},
                                       {"limit", median(copy) * 1e6},
                                       {"share_of_limit", median(copy) / median(mine)},
                                       {"right", right != 0},
                                       {"peer_right", peer_right != 0}};
        std::printf("%s\n", line.dump().c_str());
        std::fflush(stdout);
      }
    }
  }
  MPI_Finalize();
}
