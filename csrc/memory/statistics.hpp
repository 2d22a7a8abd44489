// What a pool has done and holds. All in bytes, or in number of times.
#pragma once
#include <atomic>
#include <cstdint>

#include "memory/upstream.hpp"

namespace pyparallel::memory {

inline constexpr int kClasses = 2;  // of size
inline constexpr std::uint64_t kLargestSmall = 1 << 20;
inline int class_of(std::uint64_t num_bytes) { return num_bytes > kLargestSmall ? 1 : 0; }

struct ClassStatistics {
  std::uint64_t live, live_peak;     // rounded up to kAlignment, as are the next two
  std::uint64_t allocated, freed;    // ever
  std::uint64_t allocations, frees;  // of the caller
};

// Why a pool has more reserved than is live: its idle bytes, as a request of one stream sees them that has to grow.
struct Idle {
  std::uint64_t hard;    // free in its own stream, in pieces that are too small: moving blocks would help
  std::uint64_t soft;    // freed, but other streams may still use it: time would help
  std::uint64_t stream;  // free in the order of other streams: sharing would help
  std::uint64_t cached;  // in the caches of threads
};

struct Statistics {
  std::uint64_t live, live_peak;          // with the caller, rounded up to kAlignment
  std::uint64_t requested;                // of those, what was asked for
  std::uint64_t reserved, reserved_peak;  // held from the upstream
  std::uint64_t pending;                  // freed, but other streams may still use it
  std::uint64_t free;                     // ready for the next request; what threads cache is not counted
  std::uint64_t largest_hole;             // the largest free block
  std::uint64_t segments;
  std::uint64_t allocations, frees;                       // of the caller
  std::uint64_t upstream_allocations, upstream_releases;  // of segments and of pages
  std::uint64_t cross_stream_reuses;                      // blocks that changed their stream
  std::uint64_t events;                                   // recorded
  ClassStatistics by_class[kClasses];                     // small blocks, large ones
  Idle idle_at_peak;                                      // just before `reserved` grew to its peak
};

struct StreamStatistics {
  StreamId stream;
  std::uint64_t live, free, largest_hole;
  std::uint64_t events;  // recorded there that have not been seen to pass
};

// A number of bytes and the largest it ever was. Any thread may change it.
class Gauge {
 public:
  void add(std::uint64_t amount) {
    const std::uint64_t now = value_.fetch_add(amount, std::memory_order_relaxed) + amount;
    std::uint64_t peak = peak_.load(std::memory_order_relaxed);
    while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
  }
  void subtract(std::uint64_t amount) { value_.fetch_sub(amount, std::memory_order_relaxed); }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }
  std::uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0}, peak_{0};
};

// Bytes with callers, written by all threads at every call: one locked instruction each, on one cache line; none for
// blocks of a plan, whose writers exclude each other. Exact, but that a peak may miss what two threads do to different
// numbers at the very same moment.
class alignas(64) LiveBytes {
 public:
  void add(int c, std::uint64_t amount) {
    raise_peaks(c, by_class_[c].fetch_add(amount, relaxed) + amount + planned_[c].load(relaxed));
  }
  void subtract(int c, std::uint64_t amount) { by_class_[c].fetch_sub(amount, relaxed); }
  void add_planned(int c, std::uint64_t amount) {
    const std::uint64_t now = planned_[c].load(relaxed) + amount;
    planned_[c].store(now, relaxed);
    raise_peaks(c, now + by_class_[c].load(relaxed));
  }
  void subtract_planned(int c, std::uint64_t amount) { planned_[c].store(planned_[c].load(relaxed) - amount, relaxed); }
  std::uint64_t value() const { return value(0) + value(1); }
  std::uint64_t value(int c) const { return by_class_[c].load(relaxed) + planned_[c].load(relaxed); }
  std::uint64_t peak() const { return peak_.load(relaxed); }
  std::uint64_t peak(int c) const { return class_peaks_[c].load(relaxed); }

 private:
  static constexpr auto relaxed = std::memory_order_relaxed;
  void raise_peaks(int c, std::uint64_t now) {
    raise(class_peaks_[c], now);
    raise(peak_, now + value(1 - c));
  }
  static void raise(std::atomic<std::uint64_t>& peak, std::uint64_t now) {
    std::uint64_t highest = peak.load(relaxed);
    while (now > highest && !peak.compare_exchange_weak(highest, now, relaxed)) {
    }
  }
  static_assert(kClasses == 2);
  std::atomic<std::uint64_t> by_class_[kClasses]{}, planned_[kClasses]{}, class_peaks_[kClasses]{}, peak_{0};
};

// What callers did. Written by one thread, so that counting costs no locked instruction; read by any.
class Counters {
 public:
  void allocated(std::uint64_t num_bytes, std::uint64_t requested) {
    PerClass& own = by_class_[class_of(num_bytes)];
    add(own.allocations, 1), add(own.allocated, num_bytes), add(requested_, requested);
  }
  void freed(std::uint64_t num_bytes, std::uint64_t requested) {
    PerClass& own = by_class_[class_of(num_bytes)];
    add(own.frees, 1), add(own.freed, num_bytes), add(requested_, -requested);
  }
  void add(const Counters& other) {
    for (int c = 0; c < kClasses; ++c) {
      add(by_class_[c].allocations, other.by_class_[c].allocations), add(by_class_[c].frees, other.by_class_[c].frees);
      add(by_class_[c].allocated, other.by_class_[c].allocated), add(by_class_[c].freed, other.by_class_[c].freed);
    }
    add(requested_, other.requested_);
  }
  // Fills in what it knows.
  void tell(Statistics& statistics) const {
    for (int c = 0; c < kClasses; ++c) {
      ClassStatistics& of_class = statistics.by_class[c];
      of_class.allocations = by_class_[c].allocations, of_class.frees = by_class_[c].frees;
      of_class.allocated = by_class_[c].allocated, of_class.freed = by_class_[c].freed;
      statistics.allocations += of_class.allocations, statistics.frees += of_class.frees;
    }
    statistics.requested = requested_;
  }

 private:
  using Number = std::atomic<std::uint64_t>;
  struct PerClass {
    Number allocations{0}, frees{0}, allocated{0}, freed{0};
  };
  static void add(Number& number, std::uint64_t amount) {
    number.store(number.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }

  PerClass by_class_[kClasses];
  Number requested_{0};  // of live blocks; modulo 2^64, because one thread may free what another allocated
};

}  // namespace pyparallel::memory
