// Allocating and freeing over and over from C++ threads: what the benchmarks time, without a caller's language in it.
#pragma once
#include <cstdint>

#include "memory/pool.hpp"

namespace pyparallel::memory {

// One block of `num_bytes` at a time, `pairs` times on each of `threads` threads at once.
void repeat_allocations(Pool& pool, std::uint64_t num_bytes, std::uint64_t pairs, int threads);

// Likewise by the functions at two addresses: void* (size_t) and void (void*), as malloc() and free() are; or, for
// device -1 and no stream, those of torch's CUDAPluggableAllocator.
enum class Convention : std::uint8_t { kMalloc, kTorch };
void repeat_allocations(Convention convention, std::uintptr_t allocate, std::uintptr_t free, std::uint64_t num_bytes,
                        std::uint64_t pairs, int threads);

}  // namespace pyparallel::memory
