// torch's CUDA caching allocator as a policy, with segments of fixed sizes or expandable ones.
//
// As c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.x decides with its default settings. Blocks are multiples of 512
// bytes; those up to 1 MiB live in the small pool. Each pool and stream has its own free blocks: best fit, then lowest.
//
//            a segment has              a free block is split if   a page has
//   small    2 MiB                      512 bytes are left         2 MiB
//   large    20 MiB for less than 10,   more than 1 MiB is left;   20 MiB
//            else a multiple of 2 MiB   512 bytes if expandable
//
// Memory short: all segments that are wholly free, or all pages that are, go back; then it tries once more.
// An expandable segment is taken as endless, so that there is one per pool and stream.
#pragma once
#include <deque>
#include <map>
#include <set>
#include <vector>

#include "memory/policy.hpp"

namespace pyparallel::memory {

class TorchPolicy : public Policy {
 public:
  TorchPolicy(bool expandable, std::uint64_t device) : expandable_(expandable), device_(device) {}
  bool allocate(std::uint64_t num_bytes, std::uint64_t stream, Handle* block) override;
  void free(Handle block) override;
  std::uint64_t reserved() const override { return reserved_; }
  std::uint64_t growths() const override { return growths_; }

 private:
  struct Blocks;
  struct Block {
    std::uint64_t address, num_bytes;
    Blocks* owner;
    Block *before, *after;  // neighbours in the segment
    bool free, mapped;
  };
  struct BySize {
    bool operator()(const Block* a, const Block* b) const {
      return a->num_bytes != b->num_bytes ? a->num_bytes < b->num_bytes : a->address < b->address;
    }
  };
  struct ByAddress {
    bool operator()(const Block* a, const Block* b) const { return a->address < b->address; }
  };
  struct Blocks {  // of a pool and a stream
    bool small;
    std::set<Block*, BySize> free;
    std::set<Block*, ByAddress> unmapped;
  };

  Block* find_free(Blocks& blocks, std::uint64_t num_bytes);
  Block* grow(Blocks& blocks, std::uint64_t num_bytes);
  Block* allocate_segment(Blocks& blocks, std::uint64_t num_bytes);
  Block* expand(Blocks& blocks, std::uint64_t num_bytes);
  Block* find_expandable(Blocks& blocks, std::uint64_t num_bytes);
  bool map(Block* block, std::uint64_t num_bytes);
  void unmap(Block* block);
  void release_cached();
  void insert_free(Block* block);
  bool merge(Block* block, Block* neighbour);
  void split_off(Block* block, std::uint64_t num_bytes, bool free, bool mapped);
  bool should_split(const Block& block, std::uint64_t num_bytes) const;
  Block* new_block(const Block& block);

  const bool expandable_;
  const std::uint64_t device_;
  std::map<std::pair<std::uint64_t, bool>, Blocks> blocks_;  // by stream and whether small
  std::deque<Block> records_;
  std::vector<Block*> unused_;
  std::uint64_t next_segment_ = 1, reserved_ = 0, growths_ = 0;
};

}  // namespace pyparallel::memory
