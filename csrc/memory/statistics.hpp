// What a pool has done and holds. All in bytes, or in number of times.
#pragma once
#include <atomic>
#include <cstdint>

namespace pyparallel::memory {

struct Statistics {
  std::uint64_t live, live_peak;          // with the caller, rounded up to kAlignment
  std::uint64_t requested;                // of those, what was asked for
  std::uint64_t reserved, reserved_peak;  // held from the upstream
  std::uint64_t pending;                  // freed, but other streams may still use it
  std::uint64_t largest_hole;             // the largest free block
  std::uint64_t segments;
  std::uint64_t allocations, frees;  // of the caller
  std::uint64_t upstream_allocations, upstream_releases;
  std::uint64_t cross_stream_reuses;  // blocks that changed their stream
  std::uint64_t events;               // recorded
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
  alignas(64) std::atomic<std::uint64_t> value_{0};
  std::atomic<std::uint64_t> peak_{0};
};

}  // namespace pyparallel::memory
