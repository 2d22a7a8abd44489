// The pool under its lock: which free block a request gets, when blocks of other streams become free, and what is tried
// when memory is short.
#include <algorithm>

#include "core/error.hpp"
#include "memory/pool.hpp"

namespace pyparallel::memory {
namespace {

// Of the most that ever was live, this share may lie idle in pieces that are too small, before pages are moved.
constexpr std::uint64_t kIdleShare = 256;

}  // namespace

Block* Pool::find_block(std::uint64_t num_bytes, StreamId stream, Stream handle, Shortage& shortage) {
  streamed(stream, handle);
  // No cache holds large blocks. In a small pool what they hold may lie in the way of one.
  flush_caches(num_bytes <= ThreadCache::kLargest || !ThreadCache::weighs(arena_.reserved.value()));
  drain();
  if (Block* const block = from_own(num_bytes, stream)) return block;
  if (Block* const block = from_others(num_bytes, stream, handle, false)) return block;
  flush_caches(false);
  if (Block* const block = from_own(num_bytes, stream)) return block;
  if (Block* const block = grow(num_bytes, stream)) return block;
  if (!upstream_->capturing(handle))
    if (Block* const block = from_others(num_bytes, stream, handle, true)) return block;
  // Memory is short: everything that is only kept comes together, and the search begins again.
  const bool together = gather(stream);
  shortage.captured = !together;
  if (Block* const block = from_own(num_bytes, stream)) return block;
  measure(shortage);
  if (!together || keep_ == Keep::kAlways) return nullptr;
  // As much as is asked for will do where pages can be mapped anywhere; elsewhere it may take all there is.
  for (const std::uint64_t enough : {num_bytes, kUnlimited}) {
    arena_.release(enough);
    if (Block* const block = grow(num_bytes, stream)) return block;
  }
  return nullptr;
}

Block* Pool::from_own(std::uint64_t num_bytes, StreamId stream) {
  Block* const block = arena_.best_fit(num_bytes, stream);
  return block ? arena_.take(block, num_bytes) : nullptr;
}

// Another stream may still be using what it freed. `wait`: if so, the stream of `handle` waits on the device.
Block* Pool::from_others(std::uint64_t num_bytes, StreamId stream, Stream handle, bool wait) {
  for (auto& [id, free] : arena_.free()) {
    Block* const candidate = id == stream ? nullptr : free.best_fit(num_bytes);
    if (candidate == nullptr) continue;
    Streamed& other = streams_[id];
    if (!other.has_last && !reachable(id, other)) continue;
    if (!ready_for(other, handle, wait)) continue;
    Block* const block = arena_.take(candidate, num_bytes);
    block->stream = stream;
    ++cross_stream_reuses_;
    return block;
  }
  return nullptr;
}

// Whether the work that `other` has now is over, or `handle` waits for it.
bool Pool::ready_for(Streamed& other, Stream handle, bool wait) {
  const Event event = end_of(other);
  const bool passed = upstream_->passed(event);
  if (!passed && wait) upstream_->wait(handle, event);
  if (!other.has_last) upstream_->destroy(event);
  return passed || wait;
}

// Rather than to hold ever more beside free memory in pieces that are too small, pages of such pieces go back and come
// again where they are needed.
Block* Pool::grow(std::uint64_t num_bytes, StreamId stream) {
  if (too_much(num_bytes, stream) > 0 && arena_.idle_beside(num_bytes, stream) > 0 && wait_for_all()) {
    if (Block* const block = from_own(num_bytes, stream)) return block;
    arena_.release_beside(num_bytes, stream, too_much(num_bytes, stream));
  }
  const std::uint64_t peak = arena_.reserved.peak();
  const Idle before = idle(stream);
  Block* const block = arena_.grow(num_bytes, stream);
  if (arena_.reserved.peak() > peak) idle_at_peak_ = before;
  return block ? arena_.take(block, num_bytes) : nullptr;
}

// The bytes that growth would make the pool hold beyond what was live at once, a small share aside.
std::uint64_t Pool::too_much(std::uint64_t num_bytes, StreamId stream) const {
  if (keep_ == Keep::kAlways) return 0;
  const std::uint64_t used = std::max(live_.peak(), live_.value() + pending_ + num_bytes);
  const std::uint64_t then = arena_.reserved.value() + arena_.needs(num_bytes, stream);
  return then - std::min(then, used + used / kIdleShare);
}

// ---- streams ----

Pool::Streamed& Pool::streamed(StreamId id, Stream handle) {
  Streamed& result = streams_[id];
  result.stream = handle;
  return result;
}

// An event behind all the work that the stream has now, to be destroyed unless it is the stream's last.
Event Pool::end_of(const Streamed& streamed) {
  if (streamed.has_last) return streamed.last;
  ++events_;
  return upstream_->record(streamed.stream);
}

// Whether the handle still means that stream, to this thread.
bool Pool::means(StreamId id, const Streamed& streamed) {
  if (streamed.ended) return false;
  try {
    return upstream_->identity(streamed.stream) == id;
  } catch (const CudaError&) {
    return false;  // destroyed
  }
}

// Whether it does, and the stream takes events.
bool Pool::reachable(StreamId id, const Streamed& streamed) {
  return means(id, streamed) && !upstream_->capturing(streamed.stream);
}

bool Pool::any_captures(const std::set<StreamId>& streams) {
  return std::any_of(streams.begin(), streams.end(), [&](StreamId id) {
    const Streamed& streamed = streams_.at(id);
    return means(id, streamed) && upstream_->capturing(streamed.stream);
  });
}

// Puts an event behind the work of every stream that used the block. False, and nothing done, if one takes none now.
bool Pool::mark_users(Block* block) {
  const auto is_over = [&](StreamId user) {
    const Streamed& streamed = streams_.at(user);
    return streamed.has_last && upstream_->passed(streamed.last);
  };
  std::erase_if(block->users, is_over);
  for (const StreamId user : block->users)
    if (!reachable(user, streams_.at(user))) return false;
  if (block->users.empty()) {
    complete(block);
    return true;
  }
  auto* const pending = new Pending{block, static_cast<int>(block->users.size())};
  for (const StreamId user : block->users) {
    Streamed& of_user = streams_.at(user);
    of_user.events.emplace_back(upstream_->record(of_user.stream), pending);
    ++events_;
  }
  block->users.clear();
  return true;
}

// No other stream uses the block any more.
void Pool::complete(Block* block) {
  pending_ -= block->num_bytes;
  tell(Action::kFreeCompleted, block->data, block->requested.load(std::memory_order_relaxed), 0);
  insert_free(block);
}

// Every stream has its own queue: a slow one keeps only what it uses.
void Pool::drain() {
  std::erase_if(postponed_, [&](Block* block) { return mark_users(block); });
  for (auto& [id, streamed] : streams_) {
    while (!streamed.events.empty()) {
      const auto [event, pending] = streamed.events.front();
      if (!upstream_->passed(event)) break;
      upstream_->destroy(event);
      streamed.events.pop_front();
      if (--pending->events > 0) continue;
      complete(pending->block);
      delete pending;
    }
  }
}

// ---- when memory is short ----

void Pool::insert_free(Block* block) {
  blocks_.erase(block->data);
  arena_.give(block);
}

void Pool::flush_caches(bool of_ended_threads_only) {
  if (of_ended_threads_only && ended_caches_->load(std::memory_order_acquire) == 0) return;
  std::erase_if(caches_, [&](const auto& cache) {
    const bool ended = cache->ended();
    if (ended || !of_ended_threads_only) cache->flush([&](Block* block) { insert_free(block); });
    if (!ended) return false;
    of_ended_threads_.add(cache->counters());
    ended_caches_->fetch_sub(1, std::memory_order_relaxed);
    return true;
  });
}

// Whose work may be using memory that nobody holds.
std::set<StreamId> Pool::streams_of_free_memory() const {
  std::set<StreamId> result;
  for (const auto& [id, free] : arena_.free())
    if (!free.blocks().empty()) result.insert(id);
  for (const Block* const block : postponed_) {
    result.insert(block->stream);
    result.insert(block->users.begin(), block->users.end());
  }
  for (const auto& [id, streamed] : streams_)
    for (const auto& [event, pending] : streamed.events) result.insert({id, pending->block->stream});
  return result;
}

// Whose work may be using any memory.
std::set<StreamId> Pool::streams_of_blocks() const {
  std::set<StreamId> result = streams_of_free_memory();
  for (const Block& block : arena_.records()) {
    const State state = block.state.load(std::memory_order_relaxed);
    if (state != State::kLive && state != State::kCached) continue;
    result.insert(block.stream);
    result.insert(block.users.begin(), block.users.end());
  }
  return result;
}

// Waits for the work that these streams have now; false if a capture forbids it. Of the whole device it is asked only
// where a stream takes no event any more: that would be refused, and cost the capture, if anybody captured there.
bool Pool::wait_for(const std::set<StreamId>& streams) {
  if (any_captures(streams)) return false;
  bool out_of_reach = false;
  for (const StreamId id : streams) {
    const Streamed& streamed = streams_.at(id);
    const bool takes_events = streamed.has_last || means(id, streamed);
    out_of_reach |= !takes_events;
    if (!takes_events) continue;
    const Event event = end_of(streamed);
    const bool over = upstream_->await(event);
    if (!streamed.has_last) upstream_->destroy(event);
    if (!over) return false;
  }
  return !out_of_reach || upstream_->synchronize();
}

// After it nothing uses free memory any more, and nothing is pending. False where a capture forbids to wait.
bool Pool::wait_for_all() {
  flush_caches(false);
  if (!wait_for(streams_of_free_memory())) {
    drain();
    return false;
  }
  for (Block* const block : std::exchange(postponed_, {})) {
    block->users.clear();
    complete(block);
  }
  drain();
  return true;
}

// Waits for all work: then any stream may have what is free, and all of it becomes `stream`'s. Where a capture forbids
// that, free blocks stay where they are: false.
bool Pool::gather(StreamId stream) {
  if (!wait_for_all()) return false;
  arena_.unite(stream);
  return true;
}

// What keeps the idle bytes from a request of that stream which no free block of it can hold.
Idle Pool::idle(StreamId stream) {
  Idle result{};
  for (const auto& [id, free] : arena_.free())
    for (const Block* block : free.blocks()) (id == stream ? result.hard : result.stream) += block->num_bytes;
  result.soft = pending_;
  const std::uint64_t known = live_.value() + pending_ + result.hard + result.stream;
  result.cached = arena_.reserved.value() - std::min(known, arena_.reserved.value());
  return result;
}

void Pool::measure(Shortage& shortage) {
  const std::uint64_t reserved = arena_.reserved.value();
  shortage.live = std::min(live_.value(), reserved);
  shortage.cached = reserved - shortage.live;
  shortage.largest_hole = arena_.largest_free();
  if (observer_.load(std::memory_order_acquire) == nullptr) return;
  for (const Block& block : arena_.records())
    if (block.state.load(std::memory_order_acquire) == State::kLive)
      shortage.bytes_of[block.site.load(std::memory_order_relaxed)] += block.num_bytes;
}

}  // namespace pyparallel::memory
