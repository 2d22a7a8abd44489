#include "memory/listing.hpp"

#include <algorithm>

#include "memory/pool.hpp"

namespace pyparallel::memory {

std::vector<ListedSegment> Pool::list() {
  check_process();
  const auto relaxed = std::memory_order_relaxed;
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<const Block*> blocks;
  for (const Block& block : arena_.records())
    if (block.state.load(relaxed) != State::kUnused) blocks.push_back(&block);
  std::sort(blocks.begin(), blocks.end(), [](const Block* a, const Block* b) {
    return a->segment == b->segment ? a->data < b->data : a->segment->number < b->segment->number;
  });
  std::vector<ListedSegment> segments;
  const Block* before = nullptr;  // that is no hole
  for (const Block* const block : blocks) {
    const State state = block->state.load(std::memory_order_acquire);
    if (state == State::kHole) continue;
    if (before == nullptr || before != block->before) segments.push_back({block->data, 0, {}});
    before = block;
    const auto found = streams_.find(block->stream);
    ListedBlock listed{block->data, block->num_bytes, 0, 0, 0, 0, State::kFree};
    if (found != streams_.end()) listed.stream = found->second.stream;
    if (state == State::kLive || state == State::kPending) {
      listed.requested = block->requested.load(relaxed), listed.serial = block->serial.load(relaxed);
      listed.site = block->site.load(relaxed), listed.state = state;
    }
    segments.back().num_bytes += block->num_bytes;
    segments.back().blocks.push_back(listed);
  }
  tell(Action::kListed, nullptr, 0, 0);
  return segments;
}

std::shared_ptr<Observer> Pool::last_observer() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return observers_.empty() ? nullptr : observers_.back();
}

}  // namespace pyparallel::memory
