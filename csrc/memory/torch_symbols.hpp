// The pool as torch.cuda.memory.CUDAPluggableAllocator calls it. Streams are cudaStream_t.
//
// The exported symbols serve the whole process from the default pool of each device (memory/default_pools.hpp), the
// host's for device -1. Torch puts whatever allocate() returns into a tensor unseen, so that it never returns nullptr:
// it throws, and torch raises RuntimeError with the message.
//
// A given pool inside torch.cuda.MemPool has two functions of its own (segment_functions): there torch asks for
// segments and looks at what it gets: nullptr makes it give back what it caches, try again and raise
// torch.OutOfMemoryError (pytorch, c10/cuda/CUDACachingAllocator.cpp, allocPrimitive).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "memory/pool.hpp"

#define PP_EXPORTED __attribute__((visibility("default")))

extern "C" {

// At least `num_bytes`, 0 included, aligned to 512, for use in the order of `stream`; each call another address.
PP_EXPORTED void* pyparallel_torch_allocate(std::size_t num_bytes, int device, void* stream);
// In the order of the stream the block was allocated for. Never synchronises. Throws InvalidArgument for an address
// that is no live block's, where torch lets nothing pass: the process then ends with that message.
PP_EXPORTED void pyparallel_torch_free(void* data, std::size_t num_bytes, int device, void* stream);
// The block is used on another stream: its free waits for that work.
PP_EXPORTED void pyparallel_torch_record_stream(void* data, void* stream);
// torch.cuda.empty_cache(): segments without live blocks go back to their devices.
PP_EXPORTED void pyparallel_torch_empty_cache();
// torch.cuda.set_per_process_memory_fraction(): the most the pool takes from the device, as a part of its memory.
PP_EXPORTED void pyparallel_torch_set_memory_fraction(double fraction, int device);
// The segment in which a block lies, and its bytes.
PP_EXPORTED void* pyparallel_torch_base_allocation(void* data, std::size_t* num_bytes);

}  // extern "C"

namespace pyparallel::memory {

// CUDA graphs: c10::MempoolId_t is this pair. Between begin and end, what is allocated on a stream that `filter` takes
// comes from a pool of that id's own, which nobody else uses until each begin() has its release().
using TorchPoolId = std::pair<unsigned long long, unsigned long long>;
void torch_begin_allocate_to_pool(int device, TorchPoolId id, std::function<bool(void*)> filter);
void torch_end_allocate_to_pool(int device, TorchPoolId id);
void torch_release_pool(int device, TorchPoolId id);

struct SegmentFunctions {
  void* (*allocate)(std::size_t num_bytes, int device, void* stream);
  void (*free)(void* data, std::size_t num_bytes, int device, void* stream);
};
// Functions that serve torch from this pool alone. They keep it for the life of the process; the same pool gets the
// same ones. Throws InvalidArgument when kMostTorchPools pools have theirs.
inline constexpr int kMostTorchPools = 64;
SegmentFunctions segment_functions(std::shared_ptr<Pool> pool);

}  // namespace pyparallel::memory
