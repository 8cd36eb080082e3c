#pragma once

#include <string>
#include <vector>

namespace lockstep::launch {

/// Runs a program with these words as arguments, waits and returns its exit code; 127 when it cannot be started.
int run_and_wait(std::vector<std::string> words);

/// A Python that has matplotlib: python3 of the PATH, else the system's; "" when neither has it.
std::string plotting_python();

}  // namespace lockstep::launch
