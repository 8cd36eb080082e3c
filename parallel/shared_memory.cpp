#include "parallel/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>

#include "parallel/mpi_check.h"

namespace lockstep::parallel {
namespace {

constexpr std::size_t large_page = 2 << 20;

std::size_t whole_pages(std::size_t bytes) {
  const auto page = std::size_t(sysconf(_SC_PAGESIZE));
  return (std::max<std::size_t>(bytes, 1) + page - 1) / page * page;
}

/// An open file without a name.
struct File {
  int number = -1;
  explicit File(int n) : number(n) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (number >= 0) close(number);
  }
};

struct Mapping {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  Mapping(int file, std::size_t size) : bytes(whole_pages(size)) {
    if (file < 0) return;
    // The kernel maps large pages only where addresses are a multiple of their size, and does not choose such by itself.
    const std::size_t spare = bytes >= large_page ? large_page : 0;
    void* room = mmap(nullptr, bytes + spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return;
    auto* begin = static_cast<std::byte*>(room);
    const std::size_t before = spare > 0 ? (large_page - std::uintptr_t(begin) % large_page) % large_page : 0;
    if (before > 0) munmap(begin, before);
    if (spare > before) munmap(begin + before + bytes, spare - before);
    begin += before;
    if (mmap(begin, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
      munmap(begin, bytes);
      return;
    }
    data = begin;
    madvise(data, bytes, MADV_HUGEPAGE);
  }
  /// Memory that was taken has small pages; this makes them large before anybody else maps them.
  void enlarge_pages() const {
    constexpr int collapse = 25;  // MADV_COLLAPSE, of Linux 6.1; older ones refuse it, and pages stay small
    if (data) madvise(data, bytes, collapse);
  }
  Mapping(Mapping&& other) noexcept : data(std::exchange(other.data, nullptr)), bytes(other.bytes) {}
  ~Mapping() {
    if (data) munmap(data, bytes);
  }
};

bool agreed(MPI_Comm comm, bool mine) {
  int value = mine, all = 0;
  check_mpi(MPI_Allreduce(&value, &all, 1, MPI_INT, MPI_LAND, comm));
  return all != 0;
}

/// How other processes of the machine find a rank's file, and how they know that they found the right one.
struct Address {
  std::int64_t process = 0, file = 0;
  std::uint64_t token = 0;
};

}  // namespace

SharedMemory share_memory(MPI_Comm comm, std::size_t bytes) {
  int rank = 0, size = 1;
  check_mpi(MPI_Comm_rank(comm, &rank));
  check_mpi(MPI_Comm_size(comm, &size));

  const std::size_t rounded = whole_pages(bytes);
  File file(memfd_create("lockstep", MFD_CLOEXEC));
  // Memory is taken here, where its lack can be told, and by its owner, so that it lies near the owner's cores.
  bool taken =
      file.number >= 0 && ftruncate(file.number, off_t(rounded)) == 0 && fallocate(file.number, 0, 0, off_t(rounded)) == 0;
  auto mappings = std::make_shared<std::vector<Mapping>>();
  Mapping own(taken ? file.number : -1, rounded);
  own.enlarge_pages();
  Address address{getpid(), file.number, std::random_device()() + (std::uint64_t(std::random_device()()) << 32)};
  if (own.data) std::memcpy(own.data, &address.token, sizeof address.token);
  if (!agreed(comm, own.data != nullptr)) return {};

  std::vector<Address> addresses(std::size_t(size), Address{});
  check_mpi(MPI_Allgather(&address, sizeof address, MPI_BYTE, addresses.data(), sizeof address, MPI_BYTE, comm));
  SharedMemory memory;
  bool found = true;
  for (int r = 0; r < size && found; ++r) {
    auto& peer = addresses[std::size_t(r)];
    std::string path = "/proc/" + std::to_string(peer.process) + "/fd/" + std::to_string(peer.file);
    File theirs(r == rank ? -1 : open(path.c_str(), O_RDWR | O_CLOEXEC));
    mappings->push_back(r == rank ? std::move(own) : Mapping(theirs.number, rounded));
    memory.all.push_back(mappings->back().data);
    found = memory.all.back() && std::memcmp(memory.all.back(), &peer.token, sizeof peer.token) == 0;
  }
  if (!agreed(comm, found)) return {};
  std::byte* mine = memory.all[std::size_t(rank)];
  std::memset(mine, 0, sizeof address.token);
  check_mpi(MPI_Barrier(comm));  // all pieces are zero when anybody goes on
  // Let go here: a deleter lives on while anybody has a weak pointer to the memory.
  memory.mine = Memory(mine, [mappings](std::byte*) mutable { mappings.reset(); });
  memory.bytes = bytes;
  return memory;
}

Memory share_block(MPI_Comm machine, std::size_t bytes, Pages pages) {
  int rank = 0;
  check_mpi(MPI_Comm_rank(machine, &rank));
  bytes = std::max<std::size_t>(bytes, sizeof(std::uint64_t));
  File file(rank == 0 ? memfd_create("lockstep", MFD_CLOEXEC) : -1);
  const bool made = rank != 0 || (file.number >= 0 && ftruncate(file.number, off_t(bytes)) == 0 &&
                                  (pages == Pages::when_touched || fallocate(file.number, 0, 0, off_t(bytes)) == 0));
  auto mapping = std::make_shared<Mapping>(rank == 0 && made ? file.number : -1, bytes);
  if (pages == Pages::now) mapping->enlarge_pages();
  // A file that was not made whole is nobody's: who touches a page behind its end dies.
  Address address{getpid(), made ? file.number : -1, std::random_device()() + (std::uint64_t(std::random_device()()) << 32)};
  if (mapping->data) std::memcpy(mapping->data, &address.token, sizeof address.token);
  check_mpi(MPI_Bcast(&address, sizeof address, MPI_BYTE, 0, machine));  // the owner has marked it
  if (rank != 0 && address.file >= 0) {
    const std::string path = "/proc/" + std::to_string(address.process) + "/fd/" + std::to_string(address.file);
    File theirs(open(path.c_str(), O_RDWR | O_CLOEXEC));
    mapping = std::make_shared<Mapping>(theirs.number, bytes);
  }
  const bool found = mapping->data && std::memcmp(mapping->data, &address.token, sizeof address.token) == 0;
  if (!agreed(machine, found)) return {};
  if (rank == 0) std::memset(mapping->data, 0, sizeof address.token);
  check_mpi(MPI_Barrier(machine));
  return Memory(mapping->data, [mapping](std::byte*) mutable { mapping.reset(); });
}

}  // namespace lockstep::parallel
