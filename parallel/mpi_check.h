#pragma once

// Private to parallel/: includes the vendor's header.

#include <mpi.h>

#include "kernels/base/check.h"

namespace lockstep::parallel {

/// Throws unless an MPI call succeeded: Exit::diverged when two ranks meant different sizes, else Exit::peer_lost.
inline void check_mpi(int status, Here at = Here::current()) {
  if (status == MPI_SUCCESS) [[likely]]
    return;
  int kind = MPI_SUCCESS;
  MPI_Error_class(status, &kind);
  if (kind == MPI_ERR_TRUNCATE)
    throw Error("MPI: a message is larger than its receiver expects: the ranks are not running the same step", Exit::diverged,
                at);
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw Error("MPI: " + std::string(text, std::size_t(length)) + "; another rank may be lost", Exit::peer_lost, at);
}

/// A communicator of MPI that is ours alone, so that our messages never meet the program's, and whose errors come back to us.
class MpiHandle {
 public:
  /// Takes over `comm`, which the caller has made (MPI_Comm_dup, MPI_Comm_split).
  explicit MpiHandle(MPI_Comm comm) : comm_(comm) {
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    check_mpi(MPI_Comm_rank(comm_, &rank));
    check_mpi(MPI_Comm_size(comm_, &size));
  }
  ~MpiHandle() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&comm_);
  }
  MpiHandle(const MpiHandle&) = delete;
  MpiHandle& operator=(const MpiHandle&) = delete;

  operator MPI_Comm() const { return comm_; }
  int rank = 0, size = 1;

 private:
  MPI_Comm comm_;
};

/// A copy of `comm` under our own name. Collective.
inline MPI_Comm duplicate(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(comm, &copy));
  return copy;
}

}  // namespace lockstep::parallel
