// Shared memory of one block, on the heap and filled with 0xFF: what is read before it was written is NaN.
#include "emulation/shared_memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "emulation/report.hpp"

namespace pyparallel::emulation {
namespace {

void* allocate(std::size_t bytes, std::size_t alignment) {
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max<std::size_t>(alignment, 16), bytes) != 0) fail("no memory for a shared array");
  std::memset(memory, 0xff, bytes);
  return memory;
}

}  // namespace

SharedMemory::SharedMemory(std::size_t dynamic_bytes) {
  if (dynamic_bytes > 0) dynamic_ = allocate(dynamic_bytes, 16);
}

SharedMemory::~SharedMemory() {
  std::free(dynamic_);
  for (const Array& array : static_) std::free(array.memory);
}

void* SharedMemory::static_array(const void* key, std::size_t bytes, std::size_t alignment) {
  for (const Array& array : static_)
    if (array.key == key) return array.memory;
  static_bytes_ += bytes;
  if (static_bytes_ > kSharedBytes) fail("static shared arrays of more than 48 KB in one kernel");
  static_.push_back({key, allocate(bytes, alignment)});
  return static_.back().memory;
}

}  // namespace pyparallel::emulation
