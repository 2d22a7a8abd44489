// How an arena grows, by pages or segments, and what of it goes back.
#include <algorithm>

#include "memory/arena.hpp"
#include "memory/poison.hpp"
#include "memory/rounding.hpp"

namespace pyparallel::memory {

bool Arena::within_limit(std::uint64_t num_bytes) const {
  return num_bytes <= limit && reserved.value() <= limit - num_bytes;
}

void Arena::gained(Action action, const char* data, std::uint64_t num_bytes, StreamId stream) {
  ++allocations;
  reserved.add(num_bytes);
  forbid(upstream_, data, num_bytes);
  tell_(action, data, num_bytes, stream);
}

void Arena::lost(std::uint64_t num_bytes) {
  ++releases;
  reserved.subtract(num_bytes);
}

Block* Arena::grow(std::uint64_t num_bytes, StreamId stream) {
  if (num_bytes > kUnlimited - upstream_.granularity()) return nullptr;
  const Growth growth = plan_growth(num_bytes, stream);
  Block* block = growth.fills() ? fill(growth.filling, stream) : nullptr;
  if (block == nullptr) block = extend(growth.at_end, stream);
  if (block == nullptr && growth.filling.hole != nullptr && !growth.fills()) block = fill(growth.filling, stream);
  if (block == nullptr) block = add_segment(round_up(num_bytes, upstream_.granularity()), stream);
  return block;
}

Arena::Growth Arena::plan_growth(std::uint64_t num_bytes, StreamId stream) const {
  return {cheapest_filling(num_bytes, stream), missing_at_end(num_bytes, stream)};
}

std::uint64_t Arena::needs(std::uint64_t num_bytes, StreamId stream) const {
  const Growth growth = plan_growth(num_bytes, stream);
  return std::min(growth.filling.num_bytes, growth.at_end);
}

// A hole counts with its free neighbours, and needs pages only for what they lack: from its beginning or from its end.
Arena::Filling Arena::cheapest_filling(std::uint64_t num_bytes, StreamId stream) const {
  Filling best;
  for (Block* const hole : holes_) {
    const std::uint64_t before = is_free(hole->before, stream) ? hole->before->num_bytes : 0;
    const std::uint64_t after = is_free(hole->after, stream) ? hole->after->num_bytes : 0;
    if (before + hole->num_bytes + after < num_bytes) continue;
    const auto pages = [&](std::uint64_t there) {
      return std::min(round_up(num_bytes - std::min(there, num_bytes), upstream_.granularity()), hole->num_bytes);
    };
    if (pages(before) < best.num_bytes) best = {hole, hole->data, pages(before)};
    if (pages(after) < best.num_bytes) best = {hole, hole->data + hole->num_bytes - pages(after), pages(after)};
  }
  return best;
}

Block* Arena::fill(const Filling& filling, StreamId stream) {
  if (!within_limit(filling.num_bytes) || !upstream_.restore_pages(filling.data, filling.num_bytes)) return nullptr;
  Block* filled = filling.hole;
  holes_.erase(filled);
  if (filled->data < filling.data) {
    Block* const front = filled;
    filled = split(front, static_cast<std::uint64_t>(filling.data - front->data));
    holes_.insert(front);
  }
  if (filled->num_bytes > filling.num_bytes) {
    Block* const rest = split(filled, filling.num_bytes);
    become(rest, State::kHole);
    holes_.insert(rest);
  }
  gained(Action::kPagesRestore, filling.data, filling.num_bytes, stream);
  filled->stream = stream;
  return give(filled);
}

// What a free block at the end of the newest segment lacks.
std::uint64_t Arena::missing_at_end(std::uint64_t num_bytes, StreamId stream) const {
  const Block* const last = segments_.empty() ? nullptr : segments_.rbegin()->second->last;
  const std::uint64_t there = is_free(last, stream) ? std::min(last->num_bytes, num_bytes) : 0;
  return round_up(num_bytes - there, upstream_.granularity());
}

Block* Arena::extend(std::uint64_t num_bytes, StreamId stream) {
  if (segments_.empty() || !within_limit(num_bytes)) return nullptr;
  Segment& segment = *segments_.rbegin()->second;
  char* const end = segment.data + segment.num_bytes;
  if (!upstream_.extend(end, num_bytes)) return nullptr;
  Block* const added = new_block();
  added->data = end, added->num_bytes = num_bytes, added->stream = stream;
  added->segment = &segment, added->before = segment.last;
  segment.last->after = added;
  segment.last = added;
  segment.num_bytes += num_bytes;
  gained(Action::kSegmentExtend, end, num_bytes, stream);
  return give(added);
}

Block* Arena::add_segment(std::uint64_t num_bytes, StreamId stream) {
  char* const data = within_limit(num_bytes) ? upstream_.allocate(num_bytes) : nullptr;
  if (data == nullptr) return nullptr;
  auto& segment = segments_[next_segment_];
  segment = std::make_unique<Segment>(Segment{data, num_bytes, next_segment_++});
  Block* const block = segment->last = new_block();
  block->data = data, block->num_bytes = num_bytes, block->stream = stream, block->segment = segment.get();
  gained(Action::kSegmentAllocate, data, num_bytes, stream);
  return give(block);
}

// ---- what goes back ----

std::uint64_t Arena::release(std::uint64_t enough) {
  std::uint64_t released = 0;
  std::erase_if(segments_, [&](auto& entry) {
    const std::uint64_t num_bytes = released < enough ? release_segment(*entry.second) : 0;
    released += num_bytes;
    return num_bytes > 0;
  });
  std::vector<Block*> blocks;
  for (const auto& [stream, index] : free_) blocks.insert(blocks.end(), index.blocks().begin(), index.blocks().end());
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const Block* a, const Block* b) { return a->num_bytes > b->num_bytes; });
  for (Block* const block : blocks) {
    if (released >= enough) break;
    released += release_pages(block, kUnlimited);
  }
  return released;
}

std::uint64_t Arena::idle_beside(std::uint64_t num_bytes, StreamId stream) const {
  std::uint64_t result = 0;
  for (const Block* const block : idle_blocks(plan_growth(num_bytes, stream))) result += idle_bytes(block);
  return result;
}

void Arena::release_beside(std::uint64_t num_bytes, StreamId stream, std::uint64_t enough) {
  std::uint64_t released = 0;
  for (Block* const block : idle_blocks(plan_growth(num_bytes, stream))) {
    if (released >= enough) return;
    released += release_pages(block, enough - released);
    if (gives_pages_ || idle_bytes(block) == 0) continue;
    const std::uint64_t number = block->segment->number;
    released += release_segment(*block->segment);
    segments_.erase(number);
  }
}

// Free blocks of which something can go back, the newest memory first, without those that growth begins at.
std::vector<Block*> Arena::idle_blocks(const Growth& growth) const {
  const Block* const hole = growth.fills() ? growth.filling.hole : nullptr;
  const Block* const last = hole || segments_.empty() ? nullptr : segments_.rbegin()->second->last;
  std::vector<Block*> result;
  for (const auto& [stream, index] : free_)
    for (Block* const block : index.blocks())
      if (block != last && (hole == nullptr || (block != hole->before && block != hole->after)) &&
          idle_bytes(block) > 0)
        result.push_back(block);
  std::sort(result.begin(), result.end(), [](const Block* a, const Block* b) { return ByPlace{}(b, a); });
  return result;
}

// Whole pages of a free block, or all of it where only whole segments go back.
std::uint64_t Arena::idle_bytes(const Block* block) const {
  if (!gives_pages_) return block->num_bytes == block->segment->num_bytes ? block->num_bytes : 0;
  const std::uint64_t page = upstream_.granularity();
  const auto offset = static_cast<std::uint64_t>(block->data - block->segment->data);
  const std::uint64_t first = round_up(offset, page), end = (offset + block->num_bytes) / page * page;
  return first < end ? end - first : 0;
}

// Returns 0 if somebody has a block there, or nothing but holes is left.
std::uint64_t Arena::release_segment(Segment& segment) {
  std::uint64_t held = 0;
  for (const Block* block = segment.last; block != nullptr; block = block->before) {
    if (!is(block, State::kFree) && !is(block, State::kHole)) return 0;
    if (is(block, State::kFree)) held += block->num_bytes;
  }
  const bool is_whole = held == segment.num_bytes;
  for (Block *block = segment.last, *before; block != nullptr; block = before) {
    before = block->before;
    if (is(block, State::kFree)) free_[block->stream].erase(block);
    if (is(block, State::kFree) && !is_whole) tell_(Action::kPagesRelease, block->data, block->num_bytes, 0);
    if (is(block, State::kHole)) holes_.erase(block);
    become(block, State::kUnused);
    unused_.push_back(block);
  }
  allow(upstream_, segment.data, segment.num_bytes);
  upstream_.release(segment.data, segment.num_bytes);
  lost(held);
  if (is_whole) tell_(Action::kSegmentRelease, segment.data, segment.num_bytes, 0);
  return held;
}

// Whole pages of a free block become a hole: the last of them, until it was `enough`.
std::uint64_t Arena::release_pages(Block* block, std::uint64_t enough) {
  const std::uint64_t page = upstream_.granularity();
  const auto offset = static_cast<std::uint64_t>(block->data - block->segment->data);
  std::uint64_t first = round_up(offset, page);
  const std::uint64_t end = (offset + block->num_bytes) / page * page;
  if (first >= end) return 0;
  if (enough < end - first) first = end - round_up(enough, page);
  gives_pages_ = gives_pages_ && upstream_.release_pages(block->segment->data + first, end - first);
  if (!gives_pages_) return 0;
  char* const data = block->segment->data + first;
  FreeIndex& free = free_[block->stream];
  free.erase(block);
  Block* hole = block;
  if (first > offset) {
    hole = split(block, first - offset);
    free.insert(block);
  }
  if (hole->num_bytes > end - first) {
    Block* const rest = split(hole, end - first);
    become(rest, State::kFree);
    free.insert(rest);
  }
  add_hole(hole);
  lost(end - first);
  tell_(Action::kPagesRelease, data, end - first, 0);
  return end - first;
}

}  // namespace pyparallel::memory
