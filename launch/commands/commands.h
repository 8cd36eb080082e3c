#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace lockstep::launch {

/// What the chosen command will do; its exit code.
using Action = std::function<int()>;

// Each adds one command of the `lockstep` program, with its flags and an example; parsing it sets the action.
void add_train(CLI::App&, Action&);
void add_evaluate(CLI::App&, Action&);
void add_sample(CLI::App&, Action&);
void add_data(CLI::App&, Action&);
void add_checkpoint(CLI::App&, Action&);
void add_plot(CLI::App&, Action&);
void add_doctor(CLI::App&, Action&);

/// The `lockstep` program.
int run_program(int argc, char** argv);

}  // namespace lockstep::launch
