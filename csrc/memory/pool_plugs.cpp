// What the ways into the pool for other libraries ask of it: a block's size and place, and its hand-over to their
// streams.
#include "core/error.hpp"
#include "memory/pool.hpp"

namespace pyparallel::memory {

void Pool::share(void* data, Stream stream) {
  use(data, stream);
  const Block* const block = blocks_.find(data);
  const StreamId id = upstream_->identity(stream);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (id == block->stream) return;
  Streamed& own = streams_[block->stream];
  if (upstream_->capturing(stream) || (!own.has_last && !reachable(block->stream, own)))
    throw InvalidArgument("share: a stream that is being captured or gone takes no event: order the two yourself");
  ready_for(own, stream, true);
}

std::uint64_t Pool::num_bytes(const void* data) {
  const Block* const block = blocks_.find(data);
  return block != nullptr && block->state.load(std::memory_order_acquire) == State::kLive ? block->num_bytes : 0;
}

std::pair<char*, std::uint64_t> Pool::segment(const void* data) {
  if (num_bytes(data) == 0) no_live_block("segment", data);
  const std::lock_guard<std::mutex> lock(mutex_);
  const Segment& segment = *blocks_.find(data)->segment;
  return {segment.data, segment.num_bytes};
}

void Pool::set_limit(std::uint64_t limit) { arena_.limit.store(limit, std::memory_order_relaxed); }

}  // namespace pyparallel::memory
