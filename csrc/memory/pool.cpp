// The caller's side of the pool: a thread's own cache first, then what pool_search.cpp finds under the lock.
#include "memory/pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "core/error.hpp"
#include "core/fork.hpp"
#include "memory/poison.hpp"
#include "memory/thread_caches.hpp"

namespace pyparallel::memory {
namespace {

// Calls of a failure callback in a row after which no fewer bytes were live: one that says "again" for ever ends here.
constexpr int kMostInVain = 16;
constexpr std::size_t kTopSites = 5;

std::uint64_t next_pool() {
  static std::atomic<std::uint64_t> pools{0};
  return ++pools;
}

}  // namespace

Pool::Pool(std::unique_ptr<Upstream> upstream, std::uint64_t limit, Keep keep)
    : upstream_(std::move(upstream)),
      keep_(keep),
      number_(next_pool()),
      fork_depth_(fork_depth()),
      process_(getpid()),
      arena_(*upstream_, limit, [this](Action action, const char* data, std::uint64_t num_bytes, StreamId stream) {
        const auto found = streams_.find(stream);
        tell(action, data, num_bytes, found == streams_.end() ? 0 : found->second.stream);
      }) {}

Pool::~Pool() {
  const bool over = !forked() && finish();
  for (auto& [id, streamed] : streams_) {
    for (auto& [event, pending] : streamed.events) {
      if (!forked()) upstream_->destroy(event);
      if (--pending->events == 0) delete pending;
    }
    if (streamed.has_last && !forked()) upstream_->destroy(streamed.last);
  }
  if (over)
    arena_.close();
  else
    (void)upstream_.release();  // the parent's, or still in use: neither its memory nor its device is ours to touch
}

// Memory goes back after all work on it; false if that cannot be. Graphs are launched on streams that the pool never
// saw: behind those there is no event. Where there is no device any more, there is none to wait for.
bool Pool::finish() noexcept {
  if (arena_.segments() == 0 || upstream_->release_waits()) return true;
  try {
    const bool over = wait_for(streams_of_blocks());
    return over && (keep_ == Keep::kUntilShort || upstream_->synchronize());
  } catch (const std::exception&) {
    return true;
  }
}

bool Pool::forked() const { return fork_depth() != fork_depth_; }

void Pool::check_process() const {
  if (!forked()) [[likely]]
    return;
  throw InvalidArgument("this pool belongs to process " + std::to_string(process_) + "; a forked child (process " +
                        std::to_string(getpid()) + ") cannot use it: make a pool of its own there");
}

void Pool::no_live_block(const char* call, const void* data) const {
  std::ostringstream message;
  message << call << ": " << data << " is no live block of this pool (freed twice, or of another pool)";
  throw InvalidArgument(message.str());
}

// ---- blocks ----

void* Pool::allocate(std::uint64_t num_bytes, Stream stream) {
  check_process();
  Observer* const observer = observer_.load(std::memory_order_acquire);
  const CallSite site = observer ? observer->call_site() : 0;
  const std::uint64_t most = kUnlimited - (kAlignment - 1);
  const std::uint64_t rounded =
      std::max((std::min(num_bytes, most) + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
  const StreamId id = upstream_->identity(stream);
  ThreadCache* const cache = thread_cache();
  PlannedPlacement* const planned = planned_.load(std::memory_order_acquire);
  void* data =
      planned ? planned->allocate({rounded, id}, stream, {num_bytes, site, observer ? &observed_ : nullptr}) : nullptr;
  if (data == nullptr) {
    Block* block = cache ? cache->take(rounded, id) : nullptr;
    if (block == nullptr) block = find_or_throw(rounded, num_bytes, id, stream);
    block->requested.store(num_bytes, std::memory_order_relaxed);
    block->site.store(site, std::memory_order_relaxed);
    const std::uint64_t serial = observer ? observed_.fetch_add(1, std::memory_order_relaxed) + 1 : 0;
    block->serial.store(serial, std::memory_order_relaxed);
    block->state.store(State::kLive, std::memory_order_release);
    data = block->data;
    if (planned) planned->placed(data, {rounded, id}, stream);
    live_.add(class_of(rounded), rounded);
  }
  if (cache) {
    cache->counters().allocated(rounded, num_bytes);
  } else {
    const std::lock_guard<std::mutex> lock(mutex_);
    of_ended_threads_.allocated(rounded, num_bytes);
  }
  allow(*upstream_, static_cast<const char*>(data), num_bytes);
  if (observer) observer->record({Action::kAllocate, data, num_bytes, stream, site});
  return data;
}

Block* Pool::find_or_throw(std::uint64_t rounded, std::uint64_t num_bytes, StreamId id, Stream stream) {
  for (int in_vain = 0;;) {
    Shortage shortage;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (Block* const block = find_block(rounded, id, stream, shortage)) {
        blocks_.insert(block);
        return block;
      }
      shortage.callback = callback_;
    }
    if (planned() != nullptr && planned()->give_back()) continue;
    if (!shortage.callback || in_vain == kMostInVain || !(*shortage.callback)(num_bytes)) {
      const bool sees = planned() != nullptr && observer_.load(std::memory_order_acquire) != nullptr;
      if (sees) planned()->look([&](const PlannedArenas& arenas) { arenas.add_sites(shortage.bytes_of); });
      out_of_memory(num_bytes, stream, shortage);
    }
    in_vain = live_.value() < shortage.live ? 0 : in_vain + 1;
  }
}

void Pool::use(void* data, Stream stream) {
  check_process();
  if (PlannedPlacement* const planned = planned_.load(std::memory_order_acquire))
    if (planned->use(data, upstream_->identity(stream), stream)) return;
  Block* const block = blocks_.find(data);
  const StreamId id = upstream_->identity(stream);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (block == nullptr || block->state.load(std::memory_order_acquire) != State::kLive) no_live_block("use", data);
  if (id == block->stream) return;
  streamed(id, stream);
  if (std::find(block->users.begin(), block->users.end(), id) == block->users.end()) block->users.push_back(id);
}

bool Pool::free_planned(void* data) {
  PlannedPlacement* const planned = planned_.load(std::memory_order_acquire);
  const auto freed = planned ? planned->free(data) : std::nullopt;
  if (!freed) return false;
  const auto [num_bytes, rounded] = *freed;
  if (Observer* const observer = observer_.load(std::memory_order_acquire))
    observer->record({Action::kFreeRequested, data, num_bytes, 0, observer->call_site()});
  if (ThreadCache* const cache = thread_cache()) {
    cache->counters().freed(rounded, num_bytes);
    return true;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  of_ended_threads_.freed(rounded, num_bytes);
  return true;
}

void Pool::free(void* data) {
  check_process();
  if (free_planned(data)) return;
  Block* const block = blocks_.find(data);
  State live = State::kLive;
  if (block == nullptr || !block->state.compare_exchange_strong(live, State::kCached)) no_live_block("free", data);
  const std::uint64_t num_bytes = block->num_bytes, requested = block->requested.load(std::memory_order_relaxed);
  live_.subtract(class_of(num_bytes), num_bytes);
  if (Observer* const observer = observer_.load(std::memory_order_acquire))
    observer->record({Action::kFreeRequested, data, requested, 0, observer->call_site()});
  ThreadCache* const cache = thread_cache();
  if (cache) cache->counters().freed(num_bytes, requested);
  forbid(*upstream_, block->data, num_bytes);
  if (cache && block->users.empty() && cache->put(block, ThreadCache::capacity(arena_.reserved.value()))) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!cache) of_ended_threads_.freed(num_bytes, requested);
  if (block->users.empty()) return insert_free(block);
  block->state.store(State::kPending, std::memory_order_relaxed);
  pending_ += num_bytes;
  if (!mark_users(block)) postponed_.push_back(block);
}

void Pool::end_stream(Stream stream) {
  check_process();
  const StreamId id = upstream_->identity(stream);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end() || found->second.ended) return;
  found->second.ended = true;
  if (upstream_->capturing(stream)) return;
  found->second.last = upstream_->record(stream);
  found->second.has_last = true;
  ++events_;
}

ThreadCache* Pool::thread_cache() {
  if (ThreadCache* const cache = cache_of_thread(number_)) return cache;
  const auto cache = std::make_shared<ThreadCache>(ended_caches_);
  if (!add_cache_of_thread(number_, cache)) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  caches_.push_back(cache);
  return cache.get();
}

PlannedPlacement& Pool::plan_steps(std::uint64_t most_divergences) {
  check_process();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (planned_owner_) throw InvalidArgument("plan_steps: this pool plans its steps already");
  planned_owner_ = std::make_unique<PlannedPlacement>(*this, most_divergences);
  planned_.store(planned_owner_.get(), std::memory_order_release);
  return *planned_owner_;
}

std::uint64_t Pool::trim() {
  check_process();
  if (planned() != nullptr) planned()->give_back();
  const std::lock_guard<std::mutex> lock(mutex_);
  const StreamId any = streams_.empty() ? 0 : streams_.begin()->first;
  return gather(any) && keep_ == Keep::kUntilShort ? arena_.release(kUnlimited) : 0;
}

std::optional<SharedPlace> Pool::locate(const void* data) {
  check_process();
  const bool planned = find_planned(data).has_value();
  const Block* const block = blocks_.find(data);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (planned) return upstream_->locate(data);
  if (block == nullptr || block->state.load(std::memory_order_acquire) != State::kLive) no_live_block("locate", data);
  return upstream_->locate(data);
}

// ---- what it tells ----

Statistics Pool::statistics() {
  check_process();
  const std::lock_guard<std::mutex> lock(mutex_);
  flush_caches(true);
  Counters sum;
  sum.add(of_ended_threads_);
  for (const auto& cache : caches_) sum.add(cache->counters());
  Statistics s{};
  sum.tell(s);
  s.live = live_.value(), s.live_peak = live_.peak();
  for (int c = 0; c < kClasses; ++c) s.by_class[c].live = live_.value(c), s.by_class[c].live_peak = live_.peak(c);
  s.reserved = arena_.reserved.value(), s.reserved_peak = arena_.reserved.peak(), s.pending = pending_;
  s.free = arena_.free_bytes(), s.largest_hole = arena_.largest_free();
  s.segments = arena_.segments();
  s.upstream_allocations = arena_.allocations, s.upstream_releases = arena_.releases;
  s.cross_stream_reuses = cross_stream_reuses_, s.events = events_, s.idle_at_peak = idle_at_peak_;
  return s;
}

void Pool::observe(std::shared_ptr<Observer> observer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  observer_.store(observer.get(), std::memory_order_release);
  if (observer) observers_.push_back(std::move(observer));
}

void Pool::unobserve(const Observer* observer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (observer_.load(std::memory_order_relaxed) == observer) observer_.store(nullptr, std::memory_order_release);
}

void Pool::on_failure(std::shared_ptr<FailureCallback> callback) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    callback_.swap(callback);
  }
  // The old one ends here: its destructor may call anything.
}

void Pool::tell(Action action, const void* data, std::uint64_t num_bytes, Stream stream, CallSite site) {
  if (Observer* const observer = observer_.load(std::memory_order_acquire))
    observer->record({action, data, num_bytes, stream, site});
}

void Pool::out_of_memory(std::uint64_t num_bytes, Stream stream, const Shortage& shortage) {
  Observer* const observer = observer_.load(std::memory_order_acquire);
  if (observer) observer->record({Action::kOutOfMemory, nullptr, num_bytes, stream, observer->call_site()});
  std::ostringstream message;
  message << "out of " << upstream_->name() << " memory: " << num_bytes << " bytes asked for; " << shortage.live
          << " bytes are live, " << shortage.cached << " cached, the largest hole has " << shortage.largest_hole;
  if (arena_.limit != kUnlimited) message << "; the pool's limit is " << arena_.limit;
  if (shortage.captured)
    message << "; a stream is being captured: until that ends, nothing is waited for and no cached memory goes back";
  std::vector<std::pair<std::uint64_t, CallSite>> sites;  // the most bytes first
  for (const auto& [site, bytes] : shortage.bytes_of)
    if (site != 0) sites.emplace_back(bytes, site);
  std::sort(sites.rbegin(), sites.rend());
  if (sites.size() > kTopSites) sites.resize(kTopSites);
  for (const auto& [bytes, site] : sites)
    message << "\n  " << bytes << " bytes live of " << (observer ? observer->describe(site) : "");
  throw OutOfMemoryError(num_bytes, shortage.cached, message.str());
}

}  // namespace pyparallel::memory
