// A thread's own small stack of blocks just freed, so that the usual allocate and free need no lock that is contended.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "memory/block.hpp"
#include "memory/statistics.hpp"

namespace pyparallel::memory {

class ThreadCache {
 public:
  static constexpr std::uint64_t kLargest = 1 << 20;  // bytes of a block that is kept
  static constexpr int kPerSlot = 8;
  static constexpr std::uint64_t kShare = 512, kLeastCapacity = 512 << 10;

  // `ended`: counts the caches whose thread has ended.
  explicit ThreadCache(std::shared_ptr<std::atomic<int>> ended) : ended_caches_(std::move(ended)) {}

  // The thread ends. Its blocks stay until somebody takes them with flush().
  void end() {
    ended_.store(true, std::memory_order_release);
    ended_caches_->fetch_add(1, std::memory_order_release);
  }
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  Counters& counters() { return counters_; }

  // A block of exactly that size and stream, or nullptr.
  Block* take(std::uint64_t num_bytes, StreamId stream) {
    Guard guard(*this);
    Slot& slot = slot_of(num_bytes, stream);
    Block* const block = slot.first;
    if (block == nullptr || block->num_bytes != num_bytes || block->stream != stream) return nullptr;
    slot.first = block->next;
    --slot.count;
    held_ -= num_bytes;
    return block;
  }

  // Bytes of all blocks that are kept, for a pool that holds so much: blocks here cannot merge, so they stay few.
  static std::uint64_t capacity(std::uint64_t reserved) {
    return std::clamp<std::uint64_t>(reserved / kShare, kLeastCapacity, 8 << 20);
  }
  // Whether the pool is so small that this may be more of it than that share.
  static bool weighs(std::uint64_t reserved) { return reserved / kShare < kLeastCapacity; }

  // False if the block is too large, or there is no room beside others.
  bool put(Block* block, std::uint64_t capacity) {
    if (block->num_bytes > kLargest) return false;
    Guard guard(*this);
    Slot& slot = slot_of(block->num_bytes, block->stream);
    if (slot.count == kPerSlot || held_ + block->num_bytes > capacity) return false;
    if (slot.first != nullptr && (slot.first->num_bytes != block->num_bytes || slot.first->stream != block->stream))
      return false;
    block->next = slot.first;
    slot.first = block;
    ++slot.count;
    held_ += block->num_bytes;
    return true;
  }

  // Hands every block to `give`.
  template <class Give>
  void flush(const Give& give) {
    Guard guard(*this);
    for (Slot& slot : slots_) {
      while (Block* const block = slot.first) {
        slot.first = block->next;
        give(block);
      }
      slot.count = 0;
    }
    held_ = 0;
  }

 private:
  struct Slot {
    Block* first = nullptr;
    int count = 0;
  };
  // The owner and, when memory is short, another thread: held for a few instructions, almost never contended.
  class Guard {
   public:
    explicit Guard(ThreadCache& cache) : cache_(cache) {
      while (cache_.busy_.test_and_set(std::memory_order_acquire)) {
      }
    }
    ~Guard() { cache_.busy_.clear(std::memory_order_release); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    ThreadCache& cache_;
  };
  Slot& slot_of(std::uint64_t num_bytes, StreamId stream) {
    const std::uint64_t key = (num_bytes / kAlignment + stream * 0x85ebca6bu) * 0x9e3779b97f4a7c15u;
    return slots_[key >> 58];
  }

  std::array<Slot, 64> slots_{};
  std::uint64_t held_ = 0;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::atomic<bool> ended_{false};
  const std::shared_ptr<std::atomic<int>> ended_caches_;
  Counters counters_;
};

}  // namespace pyparallel::memory
