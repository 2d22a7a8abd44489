#include "memory/listing.hpp"

#include <algorithm>

#include "memory/pool.hpp"

namespace pyparallel::memory {

std::vector<ListedSegment> Pool::list() {
  const auto relaxed = std::memory_order_relaxed;
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ListedSegment> segments;
  for (const auto& [number, segment] : segments_) {
    ListedSegment& listed = segments.emplace_back(ListedSegment{segment->data, segment->num_bytes, {}});
    for (Block* block = last_of_segment_.at(number); block != nullptr; block = block->before) {
      const Stream stream = streams_.at(block->stream).stream;
      ListedBlock& entry = listed.blocks.emplace_back(
          ListedBlock{block->data, block->num_bytes, 0, 0, stream, 0, block->state.load(std::memory_order_acquire)});
      if (entry.state == State::kCached) entry.state = State::kFree;
      if (entry.state == State::kFree) continue;
      entry.requested = block->requested.load(relaxed), entry.serial = block->serial.load(relaxed);
      entry.site = block->site.load(relaxed);
    }
    std::reverse(listed.blocks.begin(), listed.blocks.end());
  }
  tell(Action::kListed, nullptr, 0, 0);
  return segments;
}

}  // namespace pyparallel::memory
