#include "launch/commands/commands.h"

int main(int argc, char** argv) {
  return lockstep::launch::run_program(argc, argv);
}
