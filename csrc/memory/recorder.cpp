#include "memory/recorder.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>

namespace pyparallel::memory {
namespace {

template <class Clock>
std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

std::uint32_t own_thread() {
  thread_local const auto number = static_cast<std::uint32_t>(syscall(SYS_gettid));
  return number;
}

}  // namespace

Recorder::Recorder(std::uint64_t max_events, std::shared_ptr<Sites> sites)
    : slots_(max_events == 0 ? 0 : std::bit_ceil(max_events)),
      sites_(std::move(sites)),
      epoch_(now<std::chrono::system_clock>() - now<std::chrono::steady_clock>()) {}

// Fields are released and acquired one by one: whoever sees a new one sees the odd turn before it, too.
void Recorder::record(const Report& report) noexcept {
  if (slots_.empty()) return;
  const std::uint64_t number = next_.fetch_add(1, std::memory_order_acq_rel);
  Slot& slot = slots_[number & (slots_.size() - 1)];
  std::uint64_t turn = slot.turn.load(std::memory_order_relaxed);
  do {
    // A whole round of events has passed while one was written: of the two, this one is lost.
    if (turn % 2 != 0 || turn > 2 * number) return;
  } while (!slot.turn.compare_exchange_weak(turn, 2 * number + 1, std::memory_order_acq_rel));
  const auto release = std::memory_order_release;
  slot.time_ns.store(epoch_ + now<std::chrono::steady_clock>(), release);
  slot.data.store(reinterpret_cast<std::uintptr_t>(report.data), release);
  slot.stream.store(report.stream, release);
  slot.num_bytes.store(report.num_bytes, release);
  slot.site_and_thread.store(std::uint64_t{report.site} << 32 | own_thread(), release);
  slot.action.store(report.action, release);
  slot.turn.store(2 * number + 2, release);
}

Recorder::History Recorder::history() const {
  const auto acquire = std::memory_order_acquire;
  const std::uint64_t first = first_.load(), end = std::max(next_.load(acquire), first);
  History history{{}, end - first};
  const std::uint64_t kept = std::min<std::uint64_t>(end - first, slots_.size());
  history.events.reserve(kept);
  for (std::uint64_t number = end - kept; number != end; ++number) {
    const Slot& slot = slots_[number & (slots_.size() - 1)];
    if (slot.turn.load(acquire) != 2 * number + 2) continue;
    const std::uint64_t site_and_thread = slot.site_and_thread.load(acquire);
    const Recorded event = {
        {slot.action.load(acquire), reinterpret_cast<const void*>(slot.data.load(acquire)),
         slot.num_bytes.load(acquire), slot.stream.load(acquire), static_cast<CallSite>(site_and_thread >> 32)},
        slot.time_ns.load(acquire),
        static_cast<std::uint32_t>(site_and_thread)};
    if (slot.turn.load(std::memory_order_relaxed) != 2 * number + 2) continue;
    history.events.push_back(event);
  }
  history.lost -= history.events.size();
  return history;
}

}  // namespace pyparallel::memory
