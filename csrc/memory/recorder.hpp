// An observer that keeps a pool's latest events in a ring, and says how many it could not keep.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory/observer.hpp"

namespace pyparallel::memory {

// Numbers places in the program. Any thread.
class Sites {
 public:
  virtual ~Sites() = default;
  // Where the calling thread is; 0 if nobody knows.
  virtual CallSite here() noexcept = 0;
  virtual std::string describe(CallSite site) const = 0;
};

// What a report was, who made it and when.
struct Recorded {
  Report report;
  std::int64_t time_ns;  // since 1970
  std::uint32_t thread;  // as the kernel numbers it
};

class Recorder : public Observer {
 public:
  struct History {
    std::vector<Recorded> events;  // the oldest first
    std::uint64_t lost;            // since the last clear(): overwritten, or not written yet
  };

  // Keeps at least `max_events`, in 64 bytes each; 0: none, only call sites are taken.
  Recorder(std::uint64_t max_events, std::shared_ptr<Sites> sites);

  CallSite call_site() noexcept override { return sites_->here(); }
  // Never waits for other threads. Events are in an order that agrees with every order their makers could observe.
  void record(const Report& report) noexcept override;
  std::string describe(CallSite site) const override { return sites_->describe(site); }

  // Any thread, while others record.
  History history() const;
  // Forgets what was recorded before.
  void clear() { first_.store(next_.load()); }
  std::uint64_t capacity() const { return slots_.size(); }

 private:
  // One writer at a time: the one that made `turn` odd. A reader takes what it read if `turn` was even and stayed.
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> turn{0};  // 2 * number + 1 while event `number` is written, then 2 * number + 2
    std::atomic<std::int64_t> time_ns{0};
    std::atomic<std::uintptr_t> data{0}, stream{0};
    std::atomic<std::uint64_t> num_bytes{0}, site_and_thread{0};
    std::atomic<Action> action{};
  };

  std::vector<Slot> slots_;  // a power of two
  const std::shared_ptr<Sites> sites_;
  const std::int64_t epoch_;  // nanoseconds from 1970 to the steady clock's beginning
  alignas(64) std::atomic<std::uint64_t> next_{0};
  std::atomic<std::uint64_t> first_{0};  // events before it were cleared
};

}  // namespace pyparallel::memory
