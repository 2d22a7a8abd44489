// The pool as NumPy calls it for the memory of arrays: a PyDataMem_Handler, whose layout is part of NumPy's binary
// interface since 1.22 (NEP 49; numpy/ndarraytypes.h), so that no header of NumPy is needed to build.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "memory/pool.hpp"

namespace pyparallel::memory {

struct NumpyHandler {
  char name[127];
  std::uint8_t version;  // 1
  void* context;
  void* (*malloc)(void* context, std::size_t num_bytes);
  void* (*calloc)(void* context, std::size_t count, std::size_t item_bytes);
  void* (*realloc)(void* context, void* data, std::size_t num_bytes);
  void (*free)(void* context, void* data, std::size_t num_bytes);
};

// Arrays are aligned to 512 bytes. Where memory is short the functions return nullptr, and NumPy raises MemoryError.
// The handler keeps the pool, and each array keeps its handler. free() ends the process for an address that is no live
// block's, as the C library does: there is nobody to tell.
//
// In a forked child new arrays come from a pool of the child's; freeing one of the parent's does nothing, and to resize
// one fails.
std::unique_ptr<NumpyHandler> make_numpy_handler(std::shared_ptr<Pool> pool);
// Nobody has an array of it any more.
void destroy_numpy_handler(NumpyHandler* handler) noexcept;

}  // namespace pyparallel::memory
