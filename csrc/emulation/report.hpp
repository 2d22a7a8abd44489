// How the emulator ends a program that broke a rule of CUDA: a report on stderr and exit status 1.
#pragma once
#include <string>

namespace pyparallel::emulation {

// Prints "emulated CUDA: <what>" and ends the process at once: threads and fibers are in no state to be unwound.
[[noreturn]] void fail(const std::string& what);

}  // namespace pyparallel::emulation
