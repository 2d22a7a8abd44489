// A caching pool: blocks cut from segments of an upstream, found by best fit, merged when free, reused in stream order.
//
//   allocate: thread's cache -> free blocks of the stream -> those of other streams whose work has passed
//             -> blocks of all threads' caches -> grow -> those of other streams, the device waiting -> all free blocks
//             together -> free memory given back, and grow -> the failure callback, and again -> error
//   free:     thread's cache -> free blocks of the stream, merged with free neighbours
//             used on other streams: pending until their events have passed
//
// While a stream's work is being captured into a graph, it gets no event: blocks that it used stay pending until the
// capture has ended. While a stream captures in whose order there is free memory, nothing is waited for and no memory
// goes back. Other captures, on streams that the pool never saw too, do not hinder it, nor it them: it waits for its
// own streams, by events. Only what a stream left that was destroyed without end_stream(), or another thread's default
// stream, needs a wait for the device.
//
// A forked child may call nothing but forked(); its copy of the pool is never destroyed for real.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "memory/arena.hpp"
#include "memory/block_map.hpp"
#include "memory/listing.hpp"
#include "memory/observer.hpp"
#include "memory/planned_placement.hpp"
#include "memory/statistics.hpp"
#include "memory/thread_cache.hpp"
#include "memory/upstream.hpp"

namespace pyparallel::memory {

// What a pool does with memory that nobody holds.
enum class Keep : std::uint8_t {
  kUntilShort,  // gives it back to the upstream when memory is short, and in trim()
  kAlways,      // until the pool ends: a captured graph uses it at every launch
};

class Pool {
 public:
  static constexpr std::uint64_t kUnlimited = Arena::kUnlimited;
  // Told that memory is short by so many bytes; true: something was freed, ask again. Called without a lock.
  using FailureCallback = std::function<bool(std::uint64_t num_bytes)>;

  // `limit`: the most bytes it takes from the upstream.
  explicit Pool(std::unique_ptr<Upstream> upstream, std::uint64_t limit = kUnlimited, Keep keep = Keep::kUntilShort);
  // Gives everything back, live blocks too, after the work of the streams that it was told of, or with Keep::kAlways
  // of the device. No thread uses the pool any more. Where a capture forbids to wait, and giving back does not wait by
  // itself, the memory stays with the process.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // At least `num_bytes` aligned to kAlignment, to be used in the order of `stream`; never nullptr. Values are
  // undefined. Synchronises only where the pool grows and moves pages, and where memory is short. Throws
  // OutOfMemoryError.
  void* allocate(std::uint64_t num_bytes, Stream stream = 0);
  // The block is used by work on another stream than its own: free() waits for that work.
  void use(void* data, Stream stream);
  // Likewise, and that work comes after all that is in the block's own stream now. Throws InvalidArgument where a
  // stream takes no event: it is being captured, or gone.
  void share(void* data, Stream stream);
  // Gives a block back in the order of its own stream; the caller enqueues no more work on it. Never synchronises.
  // Throws InvalidArgument for an address that is no live block's.
  void free(void* data);
  // The stream will be destroyed, and gets no more work: the last chance to order others after what it has.
  void end_stream(Stream stream);

  // Bytes that the live block beginning there may use; 0 if there is none. Of one's own block it stays true.
  std::uint64_t num_bytes(const void* data);
  // The segment in which that block lies: its first address and bytes. Throws InvalidArgument if there is none.
  std::pair<char*, std::uint64_t> segment(const void* data);

  // Returns segments without live blocks, and free pages of others, to the upstream, after waiting for all work; the
  // bytes returned. 0 while a stream captures in whose order some of it is.
  std::uint64_t trim();
  // Where the block lies for other processes; nullopt if its memory cannot be shared. Throws InvalidArgument.
  std::optional<SharedPlace> locate(const void* data);
  Statistics statistics();
  std::vector<StreamStatistics> stream_statistics();
  // All memory and the blocks in it, by segment in order of allocation; tells the observer that it looked.
  std::vector<ListedSegment> list();
  // Tells this observer of everything from now on, or nobody. The pool keeps all it ever had until it ends.
  void observe(std::shared_ptr<Observer> observer);
  // Tells this one no more, if it is told; nobody instead.
  void unobserve(const Observer* observer);
  // The last that was not nobody.
  std::shared_ptr<Observer> last_observer();
  Observer* observer() const { return observer_.load(std::memory_order_acquire); }
  // Number of allocations that were observed: the serial number of the latest.
  std::uint64_t observed() const { return observed_.load(); }
  // Replaces the callback, or ends it with nullptr.
  void on_failure(std::shared_ptr<FailureCallback> callback);
  // The most bytes it takes from the upstream from now on; what it has it keeps until trim().
  void set_limit(std::uint64_t limit);
  std::uint64_t reserved() const { return arena_.reserved.value(); }
  std::uint64_t live() const { return live_.value(); }
  const char* upstream_name() const { return upstream_->name(); }
  // Whether this is the copy in a forked child: it can be neither used nor freed to.
  bool forked() const;

  // Places steps beforehand from now on (planned_placement.hpp). Throws InvalidArgument if it does already.
  PlannedPlacement& plan_steps(std::uint64_t most_divergences);
  PlannedPlacement* planned() { return planned_.load(std::memory_order_acquire); }

 private:
  friend class PlannedPlacement;
  friend class PlannedArenas;  // taken under the pool's lock
  struct Pending {
    Block* block;
    int events;  // not passed yet
  };
  struct Streamed {      // what belongs to a stream
    Stream stream = 0;   // the handle it was last seen with
    bool ended = false;  // the handle is worth nothing any more
    Event last = 0;      // after all its work, once it has ended
    bool has_last = false;
    std::deque<std::pair<Event, Pending*>> events;  // in the order of the stream's work
  };
  struct Shortage {  // what there was when a request found nothing
    std::uint64_t live = 0, cached = 0, largest_hole = 0;
    bool captured = false;                       // a capture kept the rest from being waited for
    std::map<CallSite, std::uint64_t> bytes_of;  // live, if the pool is observed
    std::shared_ptr<FailureCallback> callback;
  };

  bool free_planned(void* data);
  template <class Look>
  auto look(const Look& look);
  std::vector<ListedSegment> list(const PlannedArenas* arenas);
  std::vector<StreamStatistics> stream_statistics(const PlannedArenas* arenas);
  std::optional<PlannedArenas::Found> find_planned(const void* data) {
    return planned() ? planned()->find(data) : std::nullopt;
  }
  Block* find_or_throw(std::uint64_t rounded, std::uint64_t num_bytes, StreamId id, Stream stream);
  Block* find_block(std::uint64_t num_bytes, StreamId stream, Stream handle, Shortage& shortage);
  Block* from_own(std::uint64_t num_bytes, StreamId stream);
  Block* from_others(std::uint64_t num_bytes, StreamId stream, Stream handle, bool wait);
  Block* grow(std::uint64_t num_bytes, StreamId stream);
  std::uint64_t too_much(std::uint64_t num_bytes, StreamId stream) const;
  bool wait_for_all();
  bool wait_for(const std::set<StreamId>& streams);
  std::set<StreamId> streams_of_free_memory() const;
  std::set<StreamId> streams_of_blocks() const;
  Event end_of(const Streamed& streamed);
  bool ready_for(Streamed& other, Stream handle, bool wait);
  bool means(StreamId id, const Streamed& streamed);
  bool reachable(StreamId id, const Streamed& streamed);
  bool any_captures(const std::set<StreamId>& streams);
  void insert_free(Block* block);
  bool mark_users(Block* block);
  void complete(Block* block);
  void drain();
  void flush_caches(bool of_ended_threads_only);
  bool gather(StreamId stream);
  Idle idle(StreamId stream);
  void measure(Shortage& shortage);
  [[noreturn]] void out_of_memory(std::uint64_t num_bytes, Stream stream, const Shortage& shortage);
  void tell(Action action, const void* data, std::uint64_t num_bytes, Stream stream, CallSite site = 0);
  Streamed& streamed(StreamId id, Stream handle);
  ThreadCache* thread_cache();
  bool finish() noexcept;
  void check_process() const;
  [[noreturn]] void no_live_block(const char* call, const void* data) const;

  std::unique_ptr<Upstream> upstream_;
  const Keep keep_;
  const std::uint64_t number_;      // of this pool in the process
  const std::uint64_t fork_depth_;  // of that process
  const int process_;
  BlockMap blocks_;
  LiveBytes live_;
  alignas(64) std::atomic<Observer*> observer_{nullptr};  // the last of observers_
  std::atomic<std::uint64_t> observed_{0};
  const std::shared_ptr<std::atomic<int>> ended_caches_ = std::make_shared<std::atomic<int>>(0);

  std::atomic<PlannedPlacement*> planned_{nullptr};  // planned_owner_

  std::mutex mutex_;  // guards all below
  Arena arena_;
  std::map<StreamId, Streamed> streams_;
  std::vector<Block*> postponed_;  // pending, but their users take no event now
  std::vector<std::shared_ptr<ThreadCache>> caches_;
  Counters of_ended_threads_;
  std::vector<std::shared_ptr<Observer>> observers_;
  std::unique_ptr<PlannedPlacement> planned_owner_;
  std::shared_ptr<FailureCallback> callback_;
  Idle idle_at_peak_{};
  std::uint64_t pending_ = 0, cross_stream_reuses_ = 0, events_ = 0;
};

}  // namespace pyparallel::memory
