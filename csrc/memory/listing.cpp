// Blocks as others see them: those of a plan like all others, and their arena as what it is cut into.
#include "memory/listing.hpp"

#include <algorithm>

#include "memory/pool.hpp"

namespace pyparallel::memory {

// With the arenas held still, if there are any: their flag comes before the pool's lock.
template <class Look>
auto Pool::look(const Look& look) {
  check_process();
  PlannedPlacement* const plan = planned();
  return plan ? plan->look([&](const PlannedArenas& arenas) { return look(&arenas); }) : look(nullptr);
}

std::vector<ListedSegment> Pool::list() {
  return look([&](const PlannedArenas* arenas) { return list(arenas); });
}

std::vector<StreamStatistics> Pool::stream_statistics() {
  return look([&](const PlannedArenas* arenas) { return stream_statistics(arenas); });
}

std::vector<ListedSegment> Pool::list(const PlannedArenas* arenas) {
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
    ListedSegment& segment = segments.back();
    segment.num_bytes += block->num_bytes;
    const auto planned = arenas ? arenas->list(block->data, listed.stream) : std::vector<ListedBlock>{};
    segment.blocks.insert(segment.blocks.end(), planned.begin(), planned.end());
    if (planned.empty()) segment.blocks.push_back(listed);
  }
  tell(Action::kListed, nullptr, 0, 0);
  return segments;
}

std::vector<StreamStatistics> Pool::stream_statistics(const PlannedArenas* arenas) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::map<StreamId, StreamStatistics> by_stream;
  for (const Block& block : arena_.records()) {
    const State state = block.state.load(std::memory_order_acquire);
    if (state != State::kLive && state != State::kFree) continue;
    StreamStatistics& s = by_stream[block.stream];
    const auto planned = arenas ? arenas->list(block.data, 0) : std::vector<ListedBlock>{};
    for (const ListedBlock& listed : planned)
      if (listed.state == State::kLive) s.live += listed.num_bytes;
    if (planned.empty()) (state == State::kLive ? s.live : s.free) += block.num_bytes;
    if (state == State::kFree) s.largest_hole = std::max(s.largest_hole, block.num_bytes);
  }
  for (const auto& [id, streamed] : streams_) by_stream[id].events = streamed.events.size();
  std::vector<StreamStatistics> result;
  for (auto& [id, s] : by_stream) {
    s.stream = id;
    result.push_back(s);
  }
  return result;
}

std::shared_ptr<Observer> Pool::last_observer() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return observers_.empty() ? nullptr : observers_.back();
}

}  // namespace pyparallel::memory
