// Segments of an upstream, cut into blocks without a gap: free ones by stream, those of callers, and holes where pages
// were given back. Free neighbours of one stream are one block.
//
//   segment  | live | free | live | hole | free | live |      hole and free grow together before the end moves on
//
// Knows no order of streams: whoever asks for a free block may use it. Not synchronised: guarded by the pool's lock.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "memory/block.hpp"
#include "memory/statistics.hpp"
#include "memory/upstream.hpp"

namespace pyparallel::memory {

class Arena {
 public:
  static constexpr std::uint64_t kLeastAligned = 64 << 10;  // bytes: smaller blocks fill what is left of pages
  static constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};
  // Told of every segment and page that comes or goes.
  using Tell = std::function<void(Action action, const char* data, std::uint64_t num_bytes, StreamId stream)>;

  Arena(Upstream& upstream, std::uint64_t limit, Tell tell)
      : limit(limit), upstream_(upstream), tell_(std::move(tell)) {}
  // Gives everything back, live blocks too.
  void close() noexcept;

  // The smallest free block of that stream with at least `num_bytes`, or nullptr. It stays free.
  Block* best_fit(std::uint64_t num_bytes, StreamId stream);
  // Takes memory from the upstream so that best_fit() finds a block, which is returned: into a hole or at the end of
  // the newest segment, where fewer pages are needed, or a new segment. nullptr if there is none, or the limit forbids
  // it.
  Block* grow(std::uint64_t num_bytes, StreamId stream);
  // The bytes that grow() would take from the upstream now.
  std::uint64_t needs(std::uint64_t num_bytes, StreamId stream) const;
  // The bytes of free memory that could go back without making grow() need more.
  std::uint64_t idle_beside(std::uint64_t num_bytes, StreamId stream) const;
  // Gives such memory back until it was `enough`, the newest first. Nothing uses free memory any more.
  void release_beside(std::uint64_t num_bytes, StreamId stream, std::uint64_t enough);
  // Takes `num_bytes` of a free block, at its beginning or where they open fewer pages. The state of what is returned
  // becomes kCached.
  Block* take(Block* block, std::uint64_t num_bytes);
  // Makes a block that was taken free again: it, or what it became part of.
  Block* give(Block* block);
  // All free blocks become that stream's, and merge.
  void unite(StreamId stream);
  // Gives back free memory until it was `enough`, whole segments first, then whole pages of the largest blocks. Nothing
  // uses free memory any more. Returns the bytes.
  std::uint64_t release(std::uint64_t enough);

  const std::map<StreamId, FreeIndex>& free() const { return free_; }
  const std::deque<Block>& records() const { return records_; }  // of blocks, kUnused ones too
  std::uint64_t free_bytes() const;
  std::uint64_t largest_free() const;

  std::atomic<std::uint64_t> limit;  // the most bytes to take from the upstream; read without the lock too
  Gauge reserved;                    // bytes held from it
  std::uint64_t segments() const { return segments_.size(); }
  std::uint64_t allocations = 0, releases = 0;  // of the upstream

 private:
  struct Filling {  // of a hole with pages
    Block* hole = nullptr;
    char* data = nullptr;
    std::uint64_t num_bytes = kUnlimited;
  };
  // How grow() begins: in a hole, or at the end of the newest segment where that needs fewer pages.
  struct Growth {
    Filling filling;
    std::uint64_t at_end;
    bool fills() const { return filling.hole != nullptr && filling.num_bytes <= at_end; }
  };
  struct ByPlace {
    bool operator()(const Block* a, const Block* b) const {
      return a->segment == b->segment ? a->data < b->data : a->segment->number < b->segment->number;
    }
  };

  bool within_limit(std::uint64_t num_bytes) const;
  Filling cheapest_filling(std::uint64_t num_bytes, StreamId stream) const;
  Block* fill(const Filling& filling, StreamId stream);
  Growth plan_growth(std::uint64_t num_bytes, StreamId stream) const;
  std::vector<Block*> idle_blocks(const Growth& growth) const;
  std::uint64_t idle_bytes(const Block* block) const;
  std::uint64_t missing_at_end(std::uint64_t num_bytes, StreamId stream) const;
  Block* extend(std::uint64_t num_bytes, StreamId stream);
  Block* add_segment(std::uint64_t num_bytes, StreamId stream);
  std::uint64_t release_segment(Segment& segment);
  std::uint64_t release_pages(Block* block, std::uint64_t enough);
  std::uint64_t best_place(const Block* block, std::uint64_t num_bytes) const;
  Block* split(Block* block, std::uint64_t num_bytes);
  void absorb(Block* block, Block* after);
  void add_hole(Block* block);
  Block* new_block();
  void gained(Action action, const char* data, std::uint64_t num_bytes, StreamId stream);
  void lost(std::uint64_t num_bytes);

  Upstream& upstream_;
  bool gives_pages_ = true;  // until the upstream refuses
  const Tell tell_;
  std::map<StreamId, FreeIndex> free_;
  std::set<Block*, ByPlace> holes_;
  std::map<std::uint64_t, std::unique_ptr<Segment>> segments_;  // by number
  std::uint64_t next_segment_ = 0;
  std::deque<Block> records_;
  std::vector<Block*> unused_;
};

}  // namespace pyparallel::memory
