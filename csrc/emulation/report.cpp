// Ends the program with the emulator's report.
#include "emulation/report.hpp"

#include <cstdio>
#include <cstdlib>

namespace pyparallel::emulation {

void fail(const std::string& what) {
  std::fflush(stdout);
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

}  // namespace pyparallel::emulation
