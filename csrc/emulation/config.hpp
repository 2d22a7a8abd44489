// The knobs of the emulation: orders in which threads and streams run, and what the device looks like.
#pragma once
#include <driver_types.h>

#include <cstddef>
#include <cstdint>

#include "emulation/sanitizer.hpp"

namespace pyparallel::emulation {

// Which of the threads of a block that can go on does so next. A thread runs until it waits for others.
enum class ThreadOrder {
  kForward,  // the lowest
  kReverse,  // the highest
  kUniform,  // any
  kByWarp,   // any of the warp that ran last as long as it has one, then a warp at random: one warp gets far ahead
};

// Which stream runs next. The first two run on the calling host thread, and only when it waits for something.
enum class StreamOrder {
  kRandom,
  kPreferred,    // the preferred stream (see prefer_stream) whenever it can go on, else any
  kHostThreads,  // all at once, each on a host thread of its own: not reproducible
};

struct Config {
  ThreadOrder threads = ThreadOrder::kForward;
  StreamOrder streams = StreamOrder::kRandom;
  std::uint64_t seed = 1;
  // The largest block that block_threads() grants; a launch may still ask for more. The cost of ThreadSanitizer grows
  // with the square of a block's threads.
  int max_block_threads = kTsan ? 64 : 1024;
  std::size_t device_bytes = std::size_t{1} << 30;
  // AddressSanitizer: host code that touches device memory is reported. Not with kHostThreads, where device and host
  // run at the same time.
  bool guard_device_memory = true;
};

// For StreamOrder::kPreferred. Null: the null stream of the current device.
void prefer_stream(cudaStream_t stream);

// Waits for the device, then replaces the configuration. Called by one host thread while no other uses CUDA.
void configure(const Config& config);
const Config& config();

// Devices that the emulation offers. They differ in nothing; a stream belongs to one of them.
inline constexpr int kDeviceCount = 2;

// How many kernels have been launched, those recorded in a graph included.
std::int64_t launch_count();

// A small generator (xorshift64*), never the program's own.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1u) {}
  // Uniform in [0, bound); bound > 0.
  unsigned below(unsigned bound) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<unsigned>((state_ * 0x2545f4914f6cdd1du >> 32) * bound >> 32);
  }

 private:
  std::uint64_t state_;
};

}  // namespace pyparallel::emulation
