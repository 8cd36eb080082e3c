#include "launch/commands/python.h"

#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>

extern char** environ;

namespace lockstep::launch {

int run_and_wait(std::vector<std::string> words) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  if (posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0) return 127;
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string plotting_python() {
  for (const char* python : {"python3", "/usr/bin/python3"})
    if (run_and_wait({python, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('matplotlib') is None)"}) == 0)
      return python;
  return "";
}

}  // namespace lockstep::launch
