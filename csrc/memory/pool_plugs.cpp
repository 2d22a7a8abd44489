// What the ways into the pool for other libraries ask of it: a block's size and place, and its hand-over to their
// streams.
#include "core/error.hpp"
#include "memory/poison.hpp"
#include "memory/pool.hpp"

namespace pyparallel::memory {

void Pool::share(void* data, Stream stream) {
  use(data, stream);
  const auto found = find_planned(data);
  const StreamId of_block = found ? found->stream : blocks_.find(data)->stream;
  const StreamId id = upstream_->identity(stream);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (id == of_block) return;
  Streamed& own = streams_[of_block];
  if (upstream_->capturing(stream) || (!own.has_last && !reachable(of_block, own)))
    throw InvalidArgument("share: a stream that is being captured or gone takes no event: order the two yourself");
  ready_for(own, stream, true);
}

std::uint64_t Pool::num_bytes(const void* data) {
  if (const auto found = find_planned(data)) return found->rounded;
  const Block* const block = blocks_.find(data);
  if (block == nullptr || block->state.load(std::memory_order_acquire) != State::kLive) return 0;
  allow(*upstream_, block->data, block->num_bytes);  // who asks may use all of them
  return block->num_bytes;
}

std::pair<char*, std::uint64_t> Pool::segment(const void* data) {
  if (num_bytes(data) == 0) no_live_block("segment", data);
  const auto found = find_planned(data);
  const std::lock_guard<std::mutex> lock(mutex_);
  const Segment& segment = *blocks_.find(found ? found->arena : data)->segment;
  return {segment.data, segment.num_bytes};
}

void Pool::set_limit(std::uint64_t limit) { arena_.limit.store(limit, std::memory_order_relaxed); }

}  // namespace pyparallel::memory
