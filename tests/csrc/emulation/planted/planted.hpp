// A planted fault: a small program with a mistake, and its twin without. The mistake must be reported, the twin must
// not.
#pragma once
#include "emulation/device.hpp"

namespace pyparallel {

// Registers both under the name by which planted.cmake calls them.
class Planted {
 public:
  Planted(const char* name, void (*faulty)(), void (*fixed)());
};

// Threads in an order that hides as little as the fault allows.
inline void run_in_order(emulation::ThreadOrder order, std::uint64_t seed = 1) {
  emulation::Config config;
  config.threads = order;
  config.seed = seed;
  emulation::configure(config);
}

// `first` runs whenever it can.
inline void run_first(cudaStream_t first) {
  emulation::Config config;
  config.streams = emulation::StreamOrder::kPreferred;
  emulation::configure(config);
  emulation::prefer_stream(first);
}

}  // namespace pyparallel
