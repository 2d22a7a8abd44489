// A counter in shared memory that one rank publishes and the others wait for: pause, then yield, then futex.
#pragma once
#include <atomic>
#include <cstdint>

namespace pyparallel::shm {

struct Flag {
  std::atomic<std::uint32_t> value;
  std::atomic<std::uint32_t> sleepers;  // a rank killed asleep leaves a 1 behind: that costs wake calls, nothing else
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

// Counters wrap around, so they are compared by distance.
inline bool reached(const Flag& flag, std::uint32_t target) {
  return static_cast<std::int32_t>(flag.value.load(std::memory_order_acquire) - target) >= 0;
}

// Releases everything written before it to whoever sees the value.
void publish(Flag& flag, std::uint32_t value);

// Wakes all who sleep on the flag, for one that several ranks count up.
void wake(Flag& flag);

// Returns true when the flag has reached the target. Pauses and yields for up to `patience` (nanoseconds), which is
// what stays fast when ranks outnumber cores, then sleeps up to `slice` (nanoseconds) and returns false: the caller
// looks after its peers and calls again.
bool wait(Flag& flag, std::uint32_t target, std::int64_t patience, std::int64_t slice);

}  // namespace pyparallel::shm
