// A caching pool: blocks cut from segments of an upstream, found by best fit, merged when free, reused in stream order.
//
//   allocate: thread's cache -> free blocks of the stream -> those of other streams whose work has passed
//             -> grow -> those of other streams, the device waiting -> everything given back, and again -> error
//   free:     thread's cache -> free blocks of the stream, merged with free neighbours
//             used on other streams: pending until their events have passed
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "memory/block.hpp"
#include "memory/block_map.hpp"
#include "memory/observer.hpp"
#include "memory/planned_placement.hpp"
#include "memory/statistics.hpp"
#include "memory/thread_cache.hpp"
#include "memory/upstream.hpp"

namespace pyparallel::memory {

class Pool {
 public:
  static constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};

  // `limit`: the most bytes it takes from the upstream.
  explicit Pool(std::unique_ptr<Upstream> upstream, std::uint64_t limit = kUnlimited);
  // Gives everything back, live blocks too. No thread uses the pool any more.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // At least `num_bytes` aligned to kAlignment, to be used in the order of `stream`; never nullptr. Values are
  // undefined. Does not synchronise unless memory is short. Throws OutOfMemoryError.
  void* allocate(std::uint64_t num_bytes, Stream stream = 0);
  // The block is used by work on another stream than its own: free() waits for that work.
  void use(void* data, Stream stream);
  // Gives a block back in the order of its own stream; the caller enqueues no more work on it. Never synchronises.
  // Throws InvalidArgument for an address that is no live block's.
  void free(void* data);

  // Returns segments without live blocks to the upstream, after waiting for pending ones; the bytes returned.
  std::uint64_t trim();
  Statistics statistics();
  // Tells this observer of everything from now on, or nobody. The pool keeps all it ever had until it ends.
  void observe(std::shared_ptr<Observer> observer);
  std::uint64_t reserved() const { return reserved_.value(); }

  // Places steps beforehand from now on (planned_placement.hpp). Throws InvalidArgument if it does already.
  PlannedPlacement& plan_steps(std::uint64_t most_divergences);
  PlannedPlacement* planned() { return planned_.load(std::memory_order_acquire); }

 private:
  friend class PlannedPlacement;  // takes its arenas under the pool's lock
  struct Pending {
    Block* block;
    int events;  // not passed yet
  };
  struct Streamed {  // what belongs to a stream
    Stream stream;   // the handle it was last seen with
    FreeIndex free;
    std::deque<std::pair<Event, Pending*>> events;  // in the order of the stream's work
  };

  Block* place(std::uint64_t num_bytes, StreamId stream, Stream handle);
  bool free_planned(void* data);
  Block* find_block(std::uint64_t num_bytes, StreamId stream, Stream handle);
  Block* from_own(std::uint64_t num_bytes, Streamed& own);
  Block* from_others(std::uint64_t num_bytes, StreamId stream, Stream handle, bool wait);
  Block* grow(std::uint64_t num_bytes, StreamId stream);
  Block* extend_last(std::uint64_t num_bytes, StreamId stream);
  Block* split(Block* block, std::uint64_t num_bytes);
  void insert_free(Block* block);
  void absorb(Block* block, Block* after);
  void release_event(Pending* pending);
  void drain(bool wait);
  void flush_caches();
  void gather(StreamId stream);
  std::uint64_t release_segments();
  bool within_limit(std::uint64_t num_bytes) const;
  [[noreturn]] void out_of_memory(std::uint64_t num_bytes, Stream stream);
  void tell(Action action, const void* data, std::uint64_t num_bytes, Stream stream, CallSite site = 0);
  Streamed& streamed(StreamId id, Stream handle);
  ThreadCache& thread_cache();
  Block* new_block();

  const std::unique_ptr<Upstream> upstream_;
  const std::uint64_t limit_;
  const std::uint64_t number_;  // of this pool in the process
  BlockMap blocks_;
  Gauge live_, requested_;
  std::atomic<std::uint64_t> allocations_{0}, frees_{0};
  std::atomic<Observer*> observer_{nullptr};  // the last of observers_

  std::atomic<PlannedPlacement*> planned_{nullptr};  // planned_owner_

  std::mutex mutex_;  // guards all below
  std::map<StreamId, Streamed> streams_;
  std::map<std::uint64_t, std::unique_ptr<Segment>> segments_;  // by number
  std::map<std::uint64_t, Block*> last_of_segment_;             // likewise
  std::deque<Block> records_;
  std::vector<Block*> unused_;
  std::vector<std::shared_ptr<ThreadCache>> caches_;
  std::vector<std::shared_ptr<Observer>> observers_;
  std::unique_ptr<PlannedPlacement> planned_owner_;
  std::uint64_t next_segment_ = 0;
  Gauge reserved_;
  std::uint64_t pending_ = 0, upstream_allocations_ = 0, upstream_releases_ = 0, cross_stream_reuses_ = 0, events_ = 0;
};

}  // namespace pyparallel::memory
