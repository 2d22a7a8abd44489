// Ends the program with the emulator's report.
#include "emulation/report.hpp"

#include <cstdio>
#include <cstdlib>

#if defined(EMULATION_TSAN)
// Every report ends the program; no second is spent at exit waiting for more.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {
  return "halt_on_error=1:atexit_sleep_ms=0";
}
#endif

namespace pyparallel::emulation {

void fail(const std::string& what) {
  std::fflush(stdout);
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

}  // namespace pyparallel::emulation
