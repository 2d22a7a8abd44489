// Waiting for a flag. Pure spinning costs scheduler ticks once anything else wants the core, and pure futexes cost a
// wake-up per hand-off, hence the three stages. sched_yield alone is no cure: under the EEVDF scheduler (Linux 6.6 and
// later) a yielding rank is soon back, before the rank it waits for has finished.
#include "comm/shm/flag.hpp"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "core/clock.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pyparallel::shm {
namespace {

constexpr int kPauses = 128;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

void sleep(Flag& flag, std::uint32_t target, std::int64_t nanoseconds) {
  flag.sleepers.fetch_add(1, std::memory_order_seq_cst);
  const std::uint32_t seen = flag.value.load(std::memory_order_seq_cst);
  if (static_cast<std::int32_t>(seen - target) < 0) {
    const timespec timeout{static_cast<time_t>(nanoseconds / 1'000'000'000),
                           static_cast<long>(nanoseconds % 1'000'000'000)};
    futex(flag.value, FUTEX_WAIT, seen, &timeout);
  }
  flag.sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace

void wake(Flag& flag) {
  if (flag.sleepers.load(std::memory_order_seq_cst) != 0) futex(flag.value, FUTEX_WAKE, INT_MAX, nullptr);
}

void publish(Flag& flag, std::uint32_t value) {
  flag.value.store(value, std::memory_order_seq_cst);
  wake(flag);
}

bool wait(Flag& flag, std::uint32_t target, std::int64_t patience, std::int64_t slice) {
  for (int i = 0; i < kPauses; ++i) {
    if (reached(flag, target)) return true;
    pause();
  }
  const std::int64_t start = now_ns();
  while (now_ns() - start < patience) {
    for (int i = 0; i < 8; ++i) {
      sched_yield();
      if (reached(flag, target)) return true;
    }
  }
  sleep(flag, target, slice);
  return reached(flag, target);
}

}  // namespace pyparallel::shm
