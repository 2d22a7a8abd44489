// Which block an address belongs to: looked up by every thread without the pool's lock.
#pragma once
#include <array>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "memory/block.hpp"

namespace pyparallel::memory {

class BlockMap {
 public:
  void insert(Block* block) {
    Shard& shard = shard_of(block->data);
    std::lock_guard<std::mutex> lock(shard.mutex);
    shard.blocks[block->data] = block;
  }
  void erase(const char* data) {
    Shard& shard = shard_of(data);
    std::lock_guard<std::mutex> lock(shard.mutex);
    shard.blocks.erase(data);
  }
  // The block that begins there, or nullptr.
  Block* find(const void* address) {
    const char* const data = static_cast<const char*>(address);
    Shard& shard = shard_of(data);
    std::lock_guard<std::mutex> lock(shard.mutex);
    const auto found = shard.blocks.find(data);
    return found == shard.blocks.end() ? nullptr : found->second;
  }

 private:
  struct Hash {
    std::size_t operator()(const char* data) const {
      return reinterpret_cast<std::uintptr_t>(data) / kAlignment * 0x9e3779b97f4a7c15u >> 20;
    }
  };
  struct alignas(64) Shard {
    std::mutex mutex;
    std::unordered_map<const char*, Block*, Hash> blocks;  // guarded by mutex
  };
  Shard& shard_of(const char* data) { return shards_[Hash{}(data) >> 38 & 63]; }

  std::array<Shard, 64> shards_;
};

}  // namespace pyparallel::memory
