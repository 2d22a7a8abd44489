// Many threads on one pool: they free each other's blocks, trim, look at numbers, watch, begin and end. Under
// ThreadSanitizer this is the proof that nobody touches the pool's state without its lock.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/host_upstream.hpp"
#include "memory/pool.hpp"
#include "memory/simulated_upstream.hpp"

using namespace pyparallel;
using namespace pyparallel::memory;

namespace {

constexpr std::uint64_t kMiB = 1 << 20;

struct Held {
  unsigned char* data;
  std::uint64_t num_bytes;
  unsigned char mark;
};

// Written over its whole length on one page of each, so that a second owner is seen.
void mark(const Held& held) {
  for (std::uint64_t i = 0; i < held.num_bytes; i += 512) held.data[i] = held.mark;
}
void check_mark(const Held& held) {
  for (std::uint64_t i = 0; i < held.num_bytes; i += 512)
    CHECK_EQUAL(static_cast<int>(held.data[i]), static_cast<int>(held.mark));
}

// Blocks on their way from the thread that allocated them to one that frees them.
class Exchange {
 public:
  void put(const Held& held) {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_.push_back(held);
  }
  bool take(std::mt19937_64& random, Held& held) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (held_.empty()) return false;
    std::swap(held_[random() % held_.size()], held_.back());
    held = held_.back();
    held_.pop_back();
    return true;
  }

 private:
  std::mutex mutex_;
  std::vector<Held> held_;
};

Held allocate(Pool& pool, std::mt19937_64& random) {
  const std::uint64_t num_bytes = random() % (std::uint64_t{1} << random() % 18);
  auto* const data = static_cast<unsigned char*>(pool.allocate(num_bytes, 1 + random() % 3));
  const Held held = {data, num_bytes, static_cast<unsigned char>(random())};
  mark(held);
  return held;
}

void give(Pool& pool, const Held& held, std::mt19937_64& random) {
  check_mark(held);
  if (random() % 8 == 0) pool.use(held.data, 1 + random() % 3);
  pool.free(held.data);
}

// Counts, and is told of everything by every thread.
struct CountingObserver : Observer {
  CallSite call_site() noexcept override { return 7; }
  void record(const Report& report) noexcept override {
    if (report.action == Action::kAllocate) ++allocations;
  }
  std::atomic<int> allocations{0};
};

// One of the threads that come and go: most of its blocks are freed by others, and its cache is left behind full.
void work(Pool& pool, Exchange& exchange, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < 600; ++i) {
    const Held held = allocate(pool, random);
    random() % 2 ? exchange.put(held) : give(pool, held, random);
    Held other;
    if (exchange.take(random, other)) give(pool, other, random);
  }
}

void threads_come_and_go(std::mt19937_64& random) {
  Pool pool(std::make_unique<HostUpstream>());
  Exchange exchange;
  std::atomic<bool> over{false};
  const auto observer = std::make_shared<CountingObserver>();
  std::thread looking([&] {
    for (int i = 0; !over.load(); ++i) {
      const Statistics s = pool.statistics();
      CHECK_EQUAL(s.reserved <= s.reserved_peak, true);
      pool.observe(i % 2 ? std::shared_ptr<Observer>(observer) : nullptr);
      if (i % 4 == 0) pool.trim();
      CHECK_THROWS(pool.allocate(~std::uint64_t{0}), OutOfMemoryError);
      std::this_thread::yield();
    }
  });
  for (int generation = 0; generation < 4; ++generation) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) threads.emplace_back([&, seed = random()] { work(pool, exchange, seed); });
    for (std::thread& thread : threads) thread.join();
  }
  over = true;
  looking.join();
  Held held;
  while (exchange.take(random, held)) give(pool, held, random);
  CHECK_EQUAL(pool.statistics().live, std::uint64_t{0});
  CHECK_EQUAL(pool.statistics().allocations, pool.statistics().frees);
  pool.trim();
  CHECK_EQUAL(pool.statistics().reserved, std::uint64_t{0});  // the caches of dead threads hold nothing
}

// A double free by two threads at once: one of them is told.
void one_of_two_frees_is_refused() {
  Pool pool(std::make_unique<HostUpstream>());
  for (int i = 0; i < 200; ++i) {
    void* const data = pool.allocate(2 * kMiB);  // of no thread's cache
    std::atomic<int> ready{0}, refused{0};
    const auto free = [&] {
      ++ready;
      while (ready.load() < 2) std::this_thread::yield();
      try {
        pool.free(data);
      } catch (const InvalidArgument&) {
        ++refused;
      }
    };
    std::thread other(free);
    free();
    other.join();
    CHECK_EQUAL(refused.load(), 1);
  }
  CHECK_EQUAL(pool.statistics().live, std::uint64_t{0});
}

// Something kept in a thread's own storage outlives the pool's cache of that thread, and gives its block back then.
struct FreesAtExit {
  Pool* pool = nullptr;
  void* data = nullptr;
  ~FreesAtExit() {
    if (pool != nullptr) pool->free(data);
  }
};
thread_local FreesAtExit frees_at_exit;

void a_block_may_be_freed_while_its_thread_ends() {
  Pool pool(std::make_unique<HostUpstream>());
  for (int i = 0; i < 3; ++i)
    std::thread([&] {
      frees_at_exit.pool = &pool;  // made before the thread's cache, so it ends after it
      frees_at_exit.data = pool.allocate(1000);
    }).join();
  CHECK_EQUAL(pool.statistics().live, std::uint64_t{0});
  pool.trim();
  CHECK_EQUAL(pool.statistics().reserved, std::uint64_t{0});
}

// A thread outlives pools that it used; each pool ends after other threads' work in it, with their caches full.
void pools_end_before_their_threads() {
  std::mutex mutex;
  std::condition_variable changed;
  Pool* shared = nullptr;
  bool over = false;
  std::thread user([&] {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return over || shared != nullptr; });
      if (over) return;
      for (int i = 0; i < 8; ++i) shared->free(shared->allocate(1000u * static_cast<unsigned>(i)));
      shared = nullptr;
      changed.notify_all();
    }
  });
  for (int i = 0; i < 50; ++i) {
    Pool pool(std::make_unique<HostUpstream>());
    pool.free(pool.allocate(100));
    std::unique_lock<std::mutex> lock(mutex);
    shared = &pool;
    changed.notify_all();
    changed.wait(lock, [&] { return shared == nullptr; });
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    over = true;
    changed.notify_all();
  }
  user.join();
}

// Short of memory, with events, from all sides: threads on streams of a simulated device whose memory is small.
void threads_share_what_is_short(std::mt19937_64& random) {
  StreamWorld world;
  Pool pool(std::make_unique<SimulatedUpstream>(world, 16 * kMiB, true));
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (Stream stream = 1; stream <= 4; ++stream)
    threads.emplace_back([&, stream, seed = random()] {
      std::mt19937_64 own(seed);
      for (int i = 0; i < 150; ++i) try {
          const std::uint64_t num_bytes = 1 + own() % (6 * kMiB);
          auto* const data = static_cast<char*>(pool.allocate(num_bytes, stream));
          world.touch(stream, data, num_bytes, "use");
          const Stream other = 1 + own() % 4;
          if (own() % 2) {
            world.order(other, stream);
            pool.use(data, other);
            world.touch(other, data, num_bytes, "use elsewhere");
          }
          pool.free(data);
          if (own() % 16 == 0) pool.trim();
        } catch (const OutOfMemoryError&) {
          ++failures;
        }
    });
  for (std::thread& thread : threads) thread.join();
  world.check();
  CHECK_EQUAL(pool.statistics().live, std::uint64_t{0});
  pool.trim();
  CHECK_EQUAL(pool.statistics().reserved, std::uint64_t{0});
  CHECK_EQUAL(failures.load() < 600, true);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  threads_come_and_go(random);
  one_of_two_frees_is_refused();
  a_block_may_be_freed_while_its_thread_ends();
  pools_end_before_their_threads();
  threads_share_what_is_short(random);
}
