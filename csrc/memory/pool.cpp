// The pool's two ways: through a thread's own cache, and under the lock through the index of free blocks.
#include "memory/pool.hpp"

#include <algorithm>
#include <sstream>

#include "core/error.hpp"
#include "memory/rounding.hpp"

namespace pyparallel::memory {
namespace {

std::uint64_t next_pool() {
  static std::atomic<std::uint64_t> pools{0};
  return ++pools;
}

// The caches of this thread by pool. A pool that is gone leaves an empty one behind until the thread ends.
struct CachesOfThread {
  std::uint64_t last = 0;
  ThreadCache* last_cache = nullptr;
  std::vector<std::pair<std::uint64_t, std::shared_ptr<ThreadCache>>> all;
};
thread_local CachesOfThread caches_of_thread;

}  // namespace

Pool::Pool(std::unique_ptr<Upstream> upstream, std::uint64_t limit)
    : upstream_(std::move(upstream)), limit_(limit), number_(next_pool()) {}

Pool::~Pool() {
  for (auto& [id, streamed] : streams_)
    for (auto& [event, pending] : streamed.events) {
      upstream_->destroy(event);
      if (--pending->events == 0) delete pending;
    }
  for (auto& [number, segment] : segments_) upstream_->release(segment->data, segment->num_bytes);
}

// ---- the caller's side ----

void* Pool::allocate(std::uint64_t num_bytes, Stream stream) {
  Observer* const observer = observer_.load(std::memory_order_acquire);
  const CallSite site = observer ? observer->call_site() : 0;
  if (num_bytes > kUnlimited - (kAlignment - 1)) out_of_memory(num_bytes, stream);
  const std::uint64_t rounded = std::max(round_up(num_bytes, kAlignment), kAlignment);
  const StreamId id = upstream_->identity(stream);
  Block* block = thread_cache().take(rounded, id);
  if (block == nullptr) {
    std::lock_guard<std::mutex> lock(mutex_);
    block = find_block(rounded, id, stream);
    blocks_.insert(block);
  }
  block->requested = num_bytes, block->site = site;
  block->state.store(State::kLive, std::memory_order_release);
  live_.add(block->num_bytes);
  requested_.add(num_bytes);
  allocations_.fetch_add(1, std::memory_order_relaxed);
  if (observer) observer->record({Action::kAllocate, block->data, num_bytes, stream, site});
  return block->data;
}

void Pool::use(void* data, Stream stream) {
  Block* const block = blocks_.find(data);
  std::lock_guard<std::mutex> lock(mutex_);
  if (block == nullptr || block->state.load(std::memory_order_acquire) != State::kLive)
    throw InvalidArgument("use: no live block of this pool begins there");
  const StreamId id = upstream_->identity(stream);
  if (id == block->stream) return;
  streamed(id, stream);
  if (std::find(block->users.begin(), block->users.end(), id) == block->users.end()) block->users.push_back(id);
}

void Pool::free(void* data) {
  Block* const block = blocks_.find(data);
  State live = State::kLive;
  if (block == nullptr || !block->state.compare_exchange_strong(live, State::kCached)) {
    std::ostringstream message;
    message << "free: " << data << " is no live block of this pool (freed twice, or of another pool)";
    throw InvalidArgument(message.str());
  }
  live_.subtract(block->num_bytes);
  requested_.subtract(block->requested);
  frees_.fetch_add(1, std::memory_order_relaxed);
  if (Observer* const observer = observer_.load(std::memory_order_acquire))
    observer->record({Action::kFreeRequested, data, block->requested, 0, observer->call_site()});
  if (block->users.empty() && thread_cache().put(block)) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if (block->users.empty()) return insert_free(block);
  block->state.store(State::kPending, std::memory_order_relaxed);
  pending_ += block->num_bytes;
  auto* const pending = new Pending{block, static_cast<int>(block->users.size())};
  for (const StreamId user : block->users) {
    Streamed& of_user = streams_.at(user);
    of_user.events.emplace_back(upstream_->record(of_user.stream), pending);
    ++events_;
  }
  block->users.clear();
}

ThreadCache& Pool::thread_cache() {
  CachesOfThread& own = caches_of_thread;
  if (own.last == number_) return *own.last_cache;
  auto found = std::find_if(own.all.begin(), own.all.end(), [&](const auto& entry) { return entry.first == number_; });
  if (found == own.all.end()) {
    const auto cache = std::make_shared<ThreadCache>();
    std::lock_guard<std::mutex> lock(mutex_);
    caches_.push_back(cache);
    found = own.all.emplace(own.all.end(), number_, cache);
  }
  own.last = number_;
  own.last_cache = found->second.get();
  return *own.last_cache;
}

// ---- under the lock ----

Pool::Streamed& Pool::streamed(StreamId id, Stream handle) {
  Streamed& result = streams_[id];
  result.stream = handle;
  return result;
}

Block* Pool::find_block(std::uint64_t num_bytes, StreamId stream, Stream handle) {
  drain(false);
  Streamed& own = streamed(stream, handle);
  if (Block* block = from_own(num_bytes, own)) return block;
  if (Block* block = from_others(num_bytes, stream, handle, false)) return block;
  if (Block* block = grow(num_bytes, stream)) return block;
  if (Block* block = from_others(num_bytes, stream, handle, true)) return block;
  // Memory is short: everything that is only kept comes together, and the search begins again.
  gather(stream);
  if (Block* block = from_own(num_bytes, own)) return block;
  release_segments();
  if (Block* block = grow(num_bytes, stream)) return block;
  out_of_memory(num_bytes, handle);
}

Block* Pool::from_own(std::uint64_t num_bytes, Streamed& own) {
  Block* const block = own.free.best_fit(num_bytes);
  return block ? split(block, num_bytes) : nullptr;
}

// Another stream may still be using what it freed. `wait`: if so, `stream` waits for that work on the device.
Block* Pool::from_others(std::uint64_t num_bytes, StreamId stream, Stream handle, bool wait) {
  for (auto& [id, other] : streams_) {
    Block* const candidate = id == stream ? nullptr : other.free.best_fit(num_bytes);
    if (candidate == nullptr) continue;
    const Event event = upstream_->record(other.stream);
    ++events_;
    const bool passed = upstream_->passed(event);
    if (!passed && wait) upstream_->wait(handle, event);
    upstream_->destroy(event);
    if (!passed && !wait) continue;
    Block* const block = split(candidate, num_bytes);
    block->stream = stream;
    ++cross_stream_reuses_;
    return block;
  }
  return nullptr;
}

bool Pool::within_limit(std::uint64_t num_bytes) const {
  return num_bytes <= limit_ && reserved_.value() <= limit_ - num_bytes;
}

Block* Pool::grow(std::uint64_t num_bytes, StreamId stream) {
  if (num_bytes > kUnlimited - upstream_->granularity()) return nullptr;
  if (Block* block = extend_last(num_bytes, stream)) return split(block, num_bytes);
  const std::uint64_t size = round_up(num_bytes, upstream_->granularity());
  char* const data = within_limit(size) ? upstream_->allocate(size) : nullptr;
  if (data == nullptr) return nullptr;
  ++upstream_allocations_;
  reserved_.add(size);
  auto& segment = segments_[next_segment_];
  segment = std::make_unique<Segment>(Segment{data, size, next_segment_++});
  tell(Action::kSegmentAllocate, data, size, streams_[stream].stream);
  Block* const block = new_block();
  block->data = data, block->num_bytes = size, block->stream = stream, block->segment = segment.get();
  last_of_segment_[segment->number] = block;
  block->state.store(State::kFree, std::memory_order_relaxed);
  streams_[stream].free.insert(block);
  return split(block, num_bytes);
}

// The end of the newest segment moves on, if the upstream can do that: a free block there needs only what it lacks.
Block* Pool::extend_last(std::uint64_t num_bytes, StreamId stream) {
  if (segments_.empty()) return nullptr;
  Segment& segment = *segments_.rbegin()->second;
  Block* last = last_of_segment_[segment.number];
  const bool joins = last->state.load(std::memory_order_relaxed) == State::kFree && last->stream == stream;
  const std::uint64_t size = round_up(num_bytes - (joins ? last->num_bytes : 0), upstream_->granularity());
  if (!within_limit(size) || !upstream_->extend(segment.data + segment.num_bytes, size)) return nullptr;
  ++upstream_allocations_;
  reserved_.add(size);
  Block* const added = new_block();
  added->data = segment.data + segment.num_bytes, added->num_bytes = size;
  tell(Action::kSegmentExtend, added->data, size, streams_[stream].stream);
  added->stream = stream, added->segment = &segment, added->before = last;
  last->after = added;
  segment.num_bytes += size;
  last_of_segment_[segment.number] = added;
  insert_free(added);
  return streams_[stream].free.best_fit(num_bytes);
}

// Takes a free block out of the index, and puts what it has too much back.
Block* Pool::split(Block* block, std::uint64_t num_bytes) {
  FreeIndex& free = streams_[block->stream].free;
  free.erase(block);
  block->state.store(State::kCached, std::memory_order_relaxed);
  if (block->num_bytes == num_bytes) return block;
  Block* const rest = new_block();
  rest->data = block->data + num_bytes, rest->num_bytes = block->num_bytes - num_bytes;
  rest->stream = block->stream, rest->segment = block->segment;
  rest->before = block, rest->after = block->after;
  if (rest->after != nullptr)
    rest->after->before = rest;
  else
    last_of_segment_[block->segment->number] = rest;
  block->after = rest;
  block->num_bytes = num_bytes;
  rest->state.store(State::kFree, std::memory_order_relaxed);
  free.insert(rest);
  return block;
}

// `after` becomes part of its neighbour.
void Pool::absorb(Block* block, Block* after) {
  block->num_bytes += after->num_bytes;
  block->after = after->after;
  if (after->after != nullptr)
    after->after->before = block;
  else
    last_of_segment_[block->segment->number] = block;
  after->state.store(State::kUnused, std::memory_order_relaxed);
  unused_.push_back(after);
}

void Pool::insert_free(Block* block) {
  blocks_.erase(block->data);
  FreeIndex& free = streams_[block->stream].free;
  const auto joins = [&](const Block* other) {
    return other != nullptr && other->state.load(std::memory_order_relaxed) == State::kFree &&
           other->stream == block->stream;
  };
  if (Block* const after = block->after; joins(after)) {
    free.erase(after);
    absorb(block, after);
  }
  if (Block* const before = block->before; joins(before)) {
    free.erase(before);
    absorb(before, block);
    block = before;
  }
  block->state.store(State::kFree, std::memory_order_relaxed);
  free.insert(block);
}

void Pool::release_event(Pending* pending) {
  if (--pending->events > 0) return;
  pending_ -= pending->block->num_bytes;
  tell(Action::kFreeCompleted, pending->block->data, pending->block->requested, 0);
  insert_free(pending->block);
  delete pending;
}

// Every stream has its own queue: a slow one keeps only what it uses.
void Pool::drain(bool wait) {
  for (auto& [id, streamed] : streams_) {
    while (!streamed.events.empty()) {
      const auto [event, pending] = streamed.events.front();
      if (wait) upstream_->synchronize(event);
      if (!wait && !upstream_->passed(event)) break;
      upstream_->destroy(event);
      streamed.events.pop_front();
      release_event(pending);
    }
  }
}

void Pool::flush_caches() {
  for (const auto& cache : caches_) cache->flush([&](Block* block) { insert_free(block); });
  std::erase_if(caches_, [](const auto& cache) { return cache.use_count() == 1; });  // its thread has ended
}

// Waits for all work on free and pending blocks. Then any stream may have them: they become `stream`'s, and merge.
void Pool::gather(StreamId stream) {
  flush_caches();
  drain(true);
  std::vector<Block*> free;
  for (auto& [id, streamed] : streams_) {
    if (streamed.free.blocks().empty()) continue;
    const Event event = upstream_->record(streamed.stream);
    ++events_;
    upstream_->synchronize(event);
    upstream_->destroy(event);
    free.insert(free.end(), streamed.free.blocks().begin(), streamed.free.blocks().end());
    streamed.free.clear();
  }
  for (Block* const block : free) block->state.store(State::kCached, std::memory_order_relaxed);
  for (Block* const block : free) {
    block->stream = stream;
    insert_free(block);
  }
}

// Only after gather(): the upstream may hand the memory to anyone.
std::uint64_t Pool::release_segments() {
  std::uint64_t released = 0;
  std::erase_if(segments_, [&](auto& entry) {
    Segment& segment = *entry.second;
    Block* const block = last_of_segment_[segment.number];
    if (block->before != nullptr || block->state.load(std::memory_order_relaxed) != State::kFree) return false;
    streams_[block->stream].free.erase(block);
    upstream_->release(segment.data, segment.num_bytes);
    tell(Action::kSegmentRelease, segment.data, segment.num_bytes, 0);
    ++upstream_releases_;
    reserved_.subtract(segment.num_bytes);
    released += segment.num_bytes;
    last_of_segment_.erase(segment.number);
    block->state.store(State::kUnused, std::memory_order_relaxed);
    unused_.push_back(block);
    return true;
  });
  return released;
}

Block* Pool::new_block() {
  if (unused_.empty()) return &records_.emplace_back();
  Block* const block = unused_.back();
  unused_.pop_back();
  block->before = block->after = block->next = nullptr;
  return block;
}

std::uint64_t Pool::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!streams_.empty()) gather(streams_.begin()->first);
  return release_segments();
}

Statistics Pool::statistics() {
  std::lock_guard<std::mutex> lock(mutex_);
  Statistics s{};
  s.live = live_.value(), s.live_peak = live_.peak(), s.requested = requested_.value();
  s.reserved = reserved_.value(), s.reserved_peak = reserved_.peak(), s.pending = pending_;
  for (const auto& [id, streamed] : streams_)
    if (!streamed.free.blocks().empty())
      s.largest_hole = std::max(s.largest_hole, (*streamed.free.blocks().rbegin())->num_bytes);
  s.segments = segments_.size();
  s.allocations = allocations_.load(), s.frees = frees_.load();
  s.upstream_allocations = upstream_allocations_, s.upstream_releases = upstream_releases_;
  s.cross_stream_reuses = cross_stream_reuses_, s.events = events_;
  return s;
}

void Pool::observe(std::shared_ptr<Observer> observer) {
  std::lock_guard<std::mutex> lock(mutex_);
  observer_.store(observer.get(), std::memory_order_release);
  if (observer) observers_.push_back(std::move(observer));
}

void Pool::tell(Action action, const void* data, std::uint64_t num_bytes, Stream stream, CallSite site) {
  if (Observer* const observer = observer_.load(std::memory_order_acquire))
    observer->record({action, data, num_bytes, stream, site});
}

void Pool::out_of_memory(std::uint64_t num_bytes, Stream stream) {
  tell(Action::kOutOfMemory, nullptr, num_bytes, stream);
  std::uint64_t largest = 0;
  for (const auto& [id, streamed] : streams_)
    if (!streamed.free.blocks().empty()) largest = std::max(largest, (*streamed.free.blocks().rbegin())->num_bytes);
  const std::uint64_t reserved = reserved_.value(), live = live_.value();
  std::ostringstream message;
  message << "out of " << upstream_->name() << " memory: " << num_bytes << " bytes asked for; " << live
          << " bytes are live, " << reserved - live << " cached, the largest hole has " << largest;
  if (limit_ != kUnlimited) message << "; the pool's limit is " << limit_;
  throw OutOfMemoryError(num_bytes, reserved - live, message.str());
}

}  // namespace pyparallel::memory
