#include "parallel/version.h"

#include <mpi.h>

namespace lockstep::parallel {

std::vector<Version> versions() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string found(text, std::size_t(length));
  found = found.substr(0, found.find_first_of(",\n"));  // "Open MPI v4.1.4, package: …"
#ifdef OMPI_MAJOR_VERSION
  std::string built = "Open MPI v" + std::to_string(OMPI_MAJOR_VERSION) + "." + std::to_string(OMPI_MINOR_VERSION) + "." +
                      std::to_string(OMPI_RELEASE_VERSION);
#else
  std::string built = "MPI " + std::to_string(MPI_VERSION) + "." + std::to_string(MPI_SUBVERSION);
#endif
  return {{"MPI", built, found}, nccl_version()};
}

}  // namespace lockstep::parallel
