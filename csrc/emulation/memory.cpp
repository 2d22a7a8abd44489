// The list of device memory blocks.
#include "emulation/memory.hpp"

#include <algorithm>
#include <cstdlib>

#include "emulation/config.hpp"

namespace pyparallel::emulation {

void* Memory::allocate(std::size_t bytes) {
  if (bytes > config().device_bytes - std::min(config().device_bytes, bytes_in_use_)) return nullptr;
  void* memory = nullptr;
  if (posix_memalign(&memory, 512, std::max<std::size_t>(bytes, 1)) != 0) return nullptr;
  adopt(memory, bytes);
  return memory;
}

void Memory::adopt(void* memory, std::size_t bytes) {
  blocks_[memory] = bytes;
  bytes_in_use_ += bytes;
}

bool Memory::forget(const void* memory) {
  const auto block = blocks_.find(memory);
  if (block == blocks_.end()) return false;
  unpoison(memory, block->second);
  bytes_in_use_ -= block->second;
  blocks_.erase(block);
  return true;
}

void Memory::free_retired() {
  for (void* memory : retired_) std::free(memory);
  retired_.clear();
}

bool Memory::contains(const void* address) const {
  auto block = blocks_.upper_bound(address);
  if (block == blocks_.begin()) return false;
  --block;
  return static_cast<const char*>(address) < static_cast<const char*>(block->first) + block->second;
}

void Memory::close_to_host() const {
  if (!kAsan) return;
  for (const auto& [memory, bytes] : blocks_) poison(memory, bytes);
}

void Memory::open_to_host() const {
  if (!kAsan) return;
  for (const auto& [memory, bytes] : blocks_) unpoison(memory, bytes);
}

}  // namespace pyparallel::emulation
