// Blocks: the pieces a segment is cut into, and the index that finds the best fitting free one.
#pragma once
#include <atomic>
#include <cstdint>
#include <set>
#include <vector>

#include "memory/observer.hpp"

namespace pyparallel::memory {

enum class State : std::uint8_t {
  kUnused,   // no memory: a record kept for the next block
  kFree,     // in the index of its stream
  kLive,     // the caller's
  kCached,   // in a thread's front cache
  kPending,  // freed, but other streams may still use it
  kHole,     // addresses whose pages were given back
};

struct Block;

// One upstream allocation with its extensions, wholly covered by blocks in order of address.
struct Segment {
  char* data;
  std::uint64_t num_bytes;
  std::uint64_t number;  // in order of allocation, so that ties are broken alike on all ranks
  Block* last = nullptr;
};

// The atomic members are read without the pool's lock, by whoever frees or reports; the rest is guarded by that lock,
// or belongs to whoever owns the block.
struct Block {
  std::atomic<State> state{State::kUnused};
  char* data = nullptr;
  std::uint64_t num_bytes = 0;              // a multiple of kAlignment
  std::atomic<std::uint64_t> requested{0};  // bytes that the caller asked for
  std::atomic<CallSite> site{0};            // where it was asked for, if the pool is observed
  std::atomic<std::uint64_t> serial{0};     // then also: the how many-eth that was observed, from 1
  StreamId stream = 0;                      // in whose order it may be used
  Segment* segment = nullptr;
  Block *before = nullptr, *after = nullptr;  // neighbours in the segment
  Block* next = nullptr;                      // in a thread's cache
  std::vector<StreamId> users;                // other streams that use it, while live
};

inline bool is(const Block* block, State state) { return block->state.load(std::memory_order_relaxed) == state; }
inline void become(Block* block, State state) { block->state.store(state, std::memory_order_relaxed); }
inline bool is_free(const Block* block, StreamId stream) {
  return block != nullptr && is(block, State::kFree) && block->stream == stream;
}

// The free blocks of one stream by size; of equal ones the first in order of allocation and address.
class FreeIndex {
 public:
  void insert(Block* block) { blocks_.insert(block); }
  void erase(Block* block) { blocks_.erase(block); }
  void clear() { blocks_.clear(); }
  // The smallest of at least `num_bytes`, or nullptr.
  Block* best_fit(std::uint64_t num_bytes) const {
    const auto found = blocks_.lower_bound(num_bytes);
    return found == blocks_.end() ? nullptr : *found;
  }
  std::uint64_t largest() const { return blocks_.empty() ? 0 : (*blocks_.rbegin())->num_bytes; }
  const auto& blocks() const { return blocks_; }

 private:
  struct Less {
    using is_transparent = void;
    bool operator()(const Block* a, const Block* b) const {
      if (a->num_bytes != b->num_bytes) return a->num_bytes < b->num_bytes;
      if (a->segment != b->segment) return a->segment->number < b->segment->number;
      return a->data < b->data;
    }
    bool operator()(const Block* a, std::uint64_t num_bytes) const { return a->num_bytes < num_bytes; }
    bool operator()(std::uint64_t num_bytes, const Block* b) const { return num_bytes < b->num_bytes; }
  };
  std::set<Block*, Less> blocks_;
};

}  // namespace pyparallel::memory
