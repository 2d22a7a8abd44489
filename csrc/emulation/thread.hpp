// What the intrinsics of a kernel ask of the emulator, on behalf of the CUDA thread that runs.
#pragma once
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <type_traits>

namespace pyparallel::emulation {

// One CUDA thread as it sees itself.
struct Thread {
  uint3 thread_index, block_index;
  dim3 block_dim, grid_dim;
  int number;  // in the block
  int lane;
};

// Null outside of kernels.
extern constinit thread_local Thread* current_thread;

// To ThreadSanitizer the variables of a host thread are that thread's, while the CUDA threads it runs are strangers.
__attribute__((no_sanitize("thread"))) inline const Thread& self() { return *current_thread; }

// Where a thread waits, for reports.
struct Place {
  const char* operation;  // "__syncthreads"
  std::source_location source;
};

// Waits for all threads of the block that have not ended. `count` is how many of them gave a nonzero predicate.
struct BarrierResult {
  int count, threads;
};
BarrierResult barrier(bool predicate, const Place& place);

// Wait for the lanes named in `mask`, all of which must come to the same place. A thread that names itself and lanes
// that never come ends the program with a report.
std::uint64_t exchange(std::uint32_t mask, std::uint64_t value, int source_lane, const Place& place);
std::uint32_t ballot(std::uint32_t mask, bool predicate, const Place& place);
void sync_warp(std::uint32_t mask, const Place& place);  // unlike the others, orders memory among the lanes

void fence();  // __threadfence

// Memory of the running block, filled with 0xFF; `key` tells one static array from another.
void* static_shared(const void* key, std::size_t bytes, std::size_t alignment);
void* dynamic_shared();

template <class Array>
Array& static_shared_array(const void* key) {
  using Element = std::remove_all_extents_t<Array>;
  static_assert(std::is_trivially_default_constructible_v<Element>, "nvcc initialises no shared memory");
  return *static_cast<Array*>(static_shared(key, sizeof(Array), alignof(Array)));
}

}  // namespace pyparallel::emulation
