// Where in a free block a request lies; cutting and merging of blocks.
#include "memory/arena.hpp"

#include <algorithm>

#include "memory/poison.hpp"
#include "memory/rounding.hpp"

namespace pyparallel::memory {
void Arena::close() noexcept {
  for (auto& [number, segment] : segments_) {
    allow(upstream_, segment->data, segment->num_bytes);
    upstream_.release(segment->data, segment->num_bytes);
  }
  segments_.clear();
}

Block* Arena::best_fit(std::uint64_t num_bytes, StreamId stream) { return free_[stream].best_fit(num_bytes); }

std::uint64_t Arena::largest_free() const {
  std::uint64_t result = 0;
  for (const auto& [stream, index] : free_) result = std::max(result, index.largest());
  return result;
}

std::uint64_t Arena::free_bytes() const {
  std::uint64_t result = 0;
  for (const auto& [stream, index] : free_)
    for (const Block* block : index.blocks()) result += block->num_bytes;
  return result;
}

// ---- blocks ----

Block* Arena::take(Block* block, std::uint64_t num_bytes) {
  FreeIndex& free = free_[block->stream];
  free.erase(block);
  if (const std::uint64_t skipped = best_place(block, num_bytes); skipped > 0) {
    Block* const front = block;
    block = split(front, skipped);
    free.insert(front);
  }
  if (block->num_bytes > num_bytes) {
    Block* const rest = split(block, num_bytes);
    become(rest, State::kFree);
    free.insert(rest);
  }
  become(block, State::kCached);
  return block;
}

// How far into a free block. Multiples of the power of two that the size is a multiple of, up to a page, are what sizes
// like it leave whole: a page then holds two blocks of half a page, and not parts of three. The first or the last
// such place, where fewer pages are opened that no neighbour holds; a place at either end cuts in two, not three.
std::uint64_t Arena::best_place(const Block* block, std::uint64_t num_bytes) const {
  if (num_bytes < kLeastAligned || num_bytes == block->num_bytes) return 0;
  const std::uint64_t page = upstream_.granularity();
  const std::uint64_t alignment = std::min(num_bytes & (~num_bytes + 1), page);
  const auto begin = static_cast<std::uint64_t>(block->data - block->segment->data);
  const std::uint64_t end = begin + block->num_bytes;
  const std::uint64_t first = round_up(begin, alignment), last = (end - num_bytes) / alignment * alignment;
  if (first > last) return 0;
  const auto cost = [&](std::uint64_t place) {
    const std::uint64_t place_end = place + num_bytes;
    const std::uint64_t opened_from = std::max(place / page * page, round_up(begin, page));
    const std::uint64_t opened_to = std::min(round_up(place_end, page), end / page * page);
    return std::pair(opened_to - std::min(opened_from, opened_to), place > begin && place_end < end);
  };
  return (cost(last) < cost(first) ? last : first) - begin;
}

Block* Arena::give(Block* block) {
  FreeIndex& free = free_[block->stream];
  if (is_free(block->after, block->stream)) {
    free.erase(block->after);
    absorb(block, block->after);
  }
  if (Block* const before = block->before; is_free(before, block->stream)) {
    free.erase(before);
    absorb(before, block);
    block = before;
  }
  become(block, State::kFree);
  free.insert(block);
  return block;
}

void Arena::add_hole(Block* block) {
  if (Block* const after = block->after; after != nullptr && is(after, State::kHole)) {
    holes_.erase(after);
    absorb(block, after);
  }
  if (Block* const before = block->before; before != nullptr && is(before, State::kHole)) {
    holes_.erase(before);
    absorb(before, block);
    block = before;
  }
  become(block, State::kHole);
  holes_.insert(block);
}

void Arena::unite(StreamId stream) {
  std::vector<Block*> all;
  for (auto& [id, index] : free_) {
    all.insert(all.end(), index.blocks().begin(), index.blocks().end());
    index.clear();
  }
  for (Block* const block : all) become(block, State::kCached);
  for (Block* const block : all) {
    block->stream = stream;
    give(block);
  }
}

// The block keeps its first `num_bytes`; the rest becomes a block of its own, in no index yet.
Block* Arena::split(Block* block, std::uint64_t num_bytes) {
  Block* const rest = new_block();
  rest->data = block->data + num_bytes, rest->num_bytes = block->num_bytes - num_bytes;
  rest->stream = block->stream, rest->segment = block->segment;
  rest->before = block, rest->after = block->after;
  (rest->after != nullptr ? rest->after->before : rest->segment->last) = rest;
  block->after = rest;
  block->num_bytes = num_bytes;
  return rest;
}

// `after` becomes part of its neighbour.
void Arena::absorb(Block* block, Block* after) {
  block->num_bytes += after->num_bytes;
  block->after = after->after;
  (after->after != nullptr ? after->after->before : block->segment->last) = block;
  become(after, State::kUnused);
  unused_.push_back(after);
}

Block* Arena::new_block() {
  if (unused_.empty()) return &records_.emplace_back();
  Block* const block = unused_.back();
  unused_.pop_back();
  block->before = block->after = block->next = nullptr;
  return block;
}

}  // namespace pyparallel::memory
