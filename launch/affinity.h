#pragma once

#include <string>

namespace lockstep::launch {

/// Physical cores of this machine that may be used: those of the cpuset, no more than a container's CPU quota allows.
int machine_cores();

/// Gives this rank its share of the machine's cores: binds the calling thread (and the threads that it starts later) to it and
/// returns the number of cores. Open MPI binds one or two ranks to one core each, which would leave the other cores idle; a
/// binding that the user asked mpirun for, or that Slurm made, is kept. `told`: what was done, in words.
int bind_share(int node_rank, int node_size, std::string& told);

}  // namespace lockstep::launch
