// The pool's promises under random use: no two live blocks overlap, numbers are the truth, nothing is lost.
#include "memory/pool.hpp"

#include <algorithm>
#include <map>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/history.hpp"
#include "memory/host_upstream.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PYPARALLEL_FEWER 1
#else
#define PYPARALLEL_FEWER 0
#endif

using namespace pyparallel;
using namespace pyparallel::memory;

namespace {

struct Given {
  std::uint64_t num_bytes;
  unsigned char mark;
};

std::uint64_t draw_size(std::mt19937_64& random) {
  const std::uint64_t largest = std::uint64_t{1} << (random() % 23);
  return random() % (largest + 1);
}

// Marks both ends of a block, and looks whether anyone else wrote there.
void mark(void* data, const Given& given) {
  if (given.num_bytes == 0) return;
  auto* const bytes = static_cast<unsigned char*>(data);
  bytes[0] = bytes[given.num_bytes - 1] = bytes[given.num_bytes / 2] = given.mark;
}
void check_mark(void* data, const Given& given) {
  if (given.num_bytes == 0) return;
  auto* const bytes = static_cast<unsigned char*>(data);
  CHECK_EQUAL(static_cast<int>(bytes[0]), static_cast<int>(given.mark));
  CHECK_EQUAL(static_cast<int>(bytes[given.num_bytes / 2]), static_cast<int>(given.mark));
  CHECK_EQUAL(static_cast<int>(bytes[given.num_bytes - 1]), static_cast<int>(given.mark));
}

std::uint64_t rounded(std::uint64_t num_bytes) {
  return num_bytes == 0 ? kAlignment : (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void random_use_is_sound(std::mt19937_64& random) {
  Pool pool(std::make_unique<HostUpstream>());
  std::map<char*, Given> live;
  std::uint64_t bytes = 0, peak = 0, requested = 0, allocations = 0;
  for (int i = 0; i < 20'000; ++i) {
    if (live.empty() || random() % 100 < 52) {
      const Given given = {draw_size(random), static_cast<unsigned char>(random())};
      auto* const data = static_cast<char*>(pool.allocate(given.num_bytes, random() % 3));
      CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(data) % kAlignment, std::uintptr_t{0});
      const auto after = live.upper_bound(data);
      if (after != live.end()) CHECK_EQUAL(data + rounded(given.num_bytes) <= after->first, true);
      if (after != live.begin()) {
        const auto before = std::prev(after);
        CHECK_EQUAL(before->first + rounded(before->second.num_bytes) <= data, true);
      }
      mark(data, given);
      live[data] = given;
      bytes += rounded(given.num_bytes), requested += given.num_bytes, ++allocations;
      peak = std::max(peak, bytes);
    } else {
      auto victim = live.lower_bound(live.begin()->first + random() % (std::uint64_t{1} << 26));
      if (victim == live.end()) victim = live.begin();
      check_mark(victim->first, victim->second);
      pool.free(victim->first);
      bytes -= rounded(victim->second.num_bytes), requested -= victim->second.num_bytes;
      live.erase(victim);
    }
    if (random() % 500 == 0) pool.trim();  // pages between live blocks go, too
    if (i % 1000 == 0) {
      const Statistics s = pool.statistics();
      CHECK_EQUAL(s.by_class[0].live + s.by_class[1].live, bytes);
      CHECK_EQUAL(s.live + s.free <= s.reserved, true);
      CHECK_EQUAL(s.live, bytes);
      CHECK_EQUAL(s.requested, requested);
      CHECK_EQUAL(s.live_peak, peak);
      CHECK_EQUAL(s.allocations, allocations);
      CHECK_EQUAL(s.allocations - s.frees, static_cast<std::uint64_t>(live.size()));
      CHECK_EQUAL(s.reserved >= s.live, true);
    }
  }
  for (const auto& [data, given] : live) {
    check_mark(data, given);
    pool.free(data);
  }
  const std::uint64_t reserved = pool.statistics().reserved;
  CHECK_EQUAL(pool.trim(), reserved);
  CHECK_EQUAL(pool.statistics().reserved, std::uint64_t{0});
  mark(pool.allocate(100), {100, 7});  // memory given back comes again
}

// Ranks that allocate alike get equal offsets: on several streams and threads, with trims in between.
void equal_histories_give_equal_places(std::mt19937_64& random) {
  Pool one(std::make_unique<HostUpstream>()), two(std::make_unique<HostUpstream>());
  std::vector<std::pair<char*, char*>> live;
  const char *first_of_one = nullptr, *first_of_two = nullptr;
  Helper helpers[2];  // each has caches of its own, and is silent most of the time
  for (int i = 0; i < 5'000; ++i) {
    const auto step = [&] {
      if (live.empty() || random() % 2 == 0) {
        const std::uint64_t size = draw_size(random);
        const Stream stream = random() % 3;
        live.emplace_back(static_cast<char*>(one.allocate(size, stream)),
                          static_cast<char*>(two.allocate(size, stream)));
        if (i == 0) first_of_one = live[0].first, first_of_two = live[0].second;
        CHECK_EQUAL(live.back().first - first_of_one, live.back().second - first_of_two);
      } else {
        std::swap(live[random() % live.size()], live.back());
        one.free(live.back().first), two.free(live.back().second);
        live.pop_back();
      }
    };
    const auto thread = random() % 64;
    thread < 2 ? helpers[thread].run(step) : step();
    if (random() % 512 == 0) CHECK_EQUAL(one.trim(), two.trim());
  }
}

// Every size near a power of two, on several streams: aligned, an address of its own, and usable over its length.
void sizes_of_all_kinds_are_aligned() {
  Pool pool(std::make_unique<HostUpstream>());
  std::vector<unsigned char*> live;
  for (int power = 0; power < 26; ++power)
    for (const int around : {-1, 0, 1}) {
      const std::uint64_t num_bytes = (std::uint64_t{1} << power) + static_cast<std::uint64_t>(around);
      auto* const data = static_cast<unsigned char*>(pool.allocate(num_bytes, static_cast<Stream>(power % 3)));
      CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(data) % kAlignment, std::uintptr_t{0});
      mark(data, {num_bytes, 1});
      live.push_back(data);
    }
  std::sort(live.begin(), live.end());
  CHECK_EQUAL(std::adjacent_find(live.begin(), live.end()) == live.end(), true);
  for (unsigned char* data : live) pool.free(data);
}

// A pool that is filled until it refuses, and freed in any order, is whole again, and never above its limit.
void it_recovers_from_being_full(std::mt19937_64& random) {
  constexpr std::uint64_t kLimit = 32 << 20;
  StreamWorld world;
  auto simulated = std::make_unique<SimulatedUpstream>(world, 2 * kLimit, true);
  const SimulatedUpstream& upstream = *simulated;
  Pool pool(std::move(simulated), kLimit);
  for (int round = 0; round < 12; ++round) {
    std::vector<void*> live;
    const std::uint64_t largest = std::uint64_t{1} << (14 + 2 * (round % 5));  // small, mixed and large
    try {
      while (true) live.push_back(pool.allocate(1 + random() % largest, 1 + random() % 3));
    } catch (const OutOfMemoryError& error) {
      CHECK_EQUAL(error.requested <= largest, true);
    }
    CHECK_EQUAL(upstream.held_peak, kLimit);
    if (round % 3 == 1) std::reverse(live.begin(), live.end());  // last in, first out
    if (round % 3 == 2) std::shuffle(live.begin(), live.end(), random);
    for (void* data : live) pool.free(data);
    pool.free(pool.allocate(kLimit, 1));
    if (round % 4 == 3) CHECK_EQUAL(pool.trim(), kLimit);
  }
}

// Called without a lock, so that it may use the pool; asked again and again while it says that something was freed.
void the_failure_callback_makes_room() {
  Pool pool(std::make_unique<HostUpstream>(), 8 << 20);
  std::vector<void*> caches;
  for (int i = 0; i < 4; ++i) caches.push_back(pool.allocate(2 << 20));
  int calls = 0;
  const auto give_one = [&](std::uint64_t num_bytes) {
    ++calls;
    CHECK_EQUAL(num_bytes, std::uint64_t{4 << 20});
    if (caches.empty()) return false;
    pool.free(caches.back());
    caches.pop_back();
    return true;
  };
  pool.on_failure(std::make_shared<Pool::FailureCallback>(give_one));
  void* const data = pool.allocate(4 << 20);
  CHECK_EQUAL(calls, 2);
  void* const rest = pool.allocate(4 << 20);
  CHECK_EQUAL(calls, 4);
  CHECK_THROWS(pool.allocate(4 << 20), OutOfMemoryError);  // nothing is left to give
  CHECK_EQUAL(caches.size(), std::size_t{0});
  pool.on_failure(
      std::make_shared<Pool::FailureCallback>([](std::uint64_t) -> bool { throw std::length_error("mine"); }));
  CHECK_THROWS(pool.allocate(8 << 20), std::length_error);
  pool.on_failure(nullptr);
  CHECK_THROWS(pool.allocate(8 << 20), OutOfMemoryError);
  pool.free(data), pool.free(rest);
  pool.free(pool.allocate(8 << 20));
}

// A long life: a million calls leave nothing behind and take no more than the first thousands did.
void a_long_life_takes_no_more(std::mt19937_64& random) {
  Pool pool(std::make_unique<HostUpstream>());
  std::vector<void*> live(1000, nullptr);
  std::uint64_t early = 0;
  const int calls = PYPARALLEL_FEWER ? 100'000 : 1'000'000;
  for (int i = 0; i < calls; ++i) {
    void*& place = live[random() % live.size()];
    if (place != nullptr) pool.free(place);
    place = pool.allocate(random() % (std::uint64_t{1} << random() % 17), random() % 2);
    if (i == calls / 10) early = pool.statistics().reserved;
  }
  CHECK_EQUAL(pool.statistics().reserved <= 2 * early, true);
  for (void* data : live)
    if (data != nullptr) pool.free(data);
  CHECK_EQUAL(pool.statistics().live, std::uint64_t{0});
  pool.trim();
  CHECK_EQUAL(pool.statistics().reserved, std::uint64_t{0});
}

// What a thread keeps goes to the others when it has ended, also what is freed while it ends.
void a_thread_that_ends_keeps_nothing() {
  struct FreedLate {
    Pool* pool = nullptr;
    void* data = nullptr;
    ~FreedLate() {
      if (pool != nullptr) pool->free(data);
    }
  };
  Pool pool(std::make_unique<HostUpstream>(), 2 << 20);
  std::thread([&] {
    thread_local FreedLate late;  // made before the thread's cache, and destroyed after it
    late.pool = &pool;
    late.data = pool.allocate(64 << 10);
    for (int i = 0; i < 20; ++i) pool.free(pool.allocate(4096u << (i % 4)));
  }).join();
  const Statistics s = pool.statistics();
  CHECK_EQUAL(s.free, s.reserved);
  CHECK_EQUAL(s.largest_hole, s.reserved);
  CHECK_EQUAL(s.allocations, std::uint64_t{21});
  CHECK_EQUAL(s.frees, std::uint64_t{21});
  CHECK_EQUAL(s.requested, std::uint64_t{0});
  pool.free(pool.allocate(2 << 20));
}

// Seen by AddressSanitizer: use after free, and beyond the bytes that were asked for. What went back is as before.
void what_nobody_holds_is_out_of_reach() {
#if defined(__SANITIZE_ADDRESS__)
  char *small, *large;
  {
    Pool pool(std::make_unique<HostUpstream>());
    small = static_cast<char*>(pool.allocate(100)), large = static_cast<char*>(pool.allocate(5 << 20));
    CHECK_EQUAL(__asan_region_is_poisoned(small, 100) == nullptr, true);
    CHECK_EQUAL(__asan_address_is_poisoned(small + 100), 1);
    CHECK_EQUAL(__asan_region_is_poisoned(large, 5 << 20) == nullptr, true);
    pool.free(small), pool.free(large);
    CHECK_EQUAL(__asan_address_is_poisoned(small), 1);
    CHECK_EQUAL(__asan_address_is_poisoned(large + (5 << 20) - 1), 1);
    CHECK_EQUAL(pool.allocate(90) == small, true);
    CHECK_EQUAL(__asan_region_is_poisoned(small, 90) == nullptr, true);
  }
  CHECK_EQUAL(__asan_region_is_poisoned(small, 5 << 20) == nullptr, true);
#endif
}

// A pool that nobody has used has nothing, gives nothing back, and takes nothing until it is asked.
void an_unused_pool_is_empty() {
  StreamWorld world;
  auto simulated = std::make_unique<SimulatedUpstream>(world, 8 << 20);
  const SimulatedUpstream& upstream = *simulated;
  Pool pool(std::move(simulated));
  CHECK_EQUAL(pool.trim(), std::uint64_t{0});
  const Statistics s = pool.statistics();
  CHECK_EQUAL(s.live | s.live_peak | s.reserved | s.reserved_peak | s.free | s.largest_hole | s.allocations | s.frees,
              std::uint64_t{0});
  CHECK_EQUAL(pool.stream_statistics().size() + pool.list().size(), std::size_t{0});
  CHECK_EQUAL(upstream.held_peak + static_cast<std::uint64_t>(upstream.waits), std::uint64_t{0});
}

// Pieces lie one after the other from the front, and are one again in whatever order they are freed.
void pieces_become_whole_in_any_order() {
  constexpr std::uint64_t kPiece = 2 << 20;  // too large for a thread's cache
  Pool pool(std::make_unique<HostUpstream>(), 5 * kPiece);
  char* const whole = static_cast<char*>(pool.allocate(5 * kPiece));
  pool.free(whole);
  std::vector<int> order = {0, 1, 2, 3, 4};
  do {
    char* pieces[5];
    for (int i = 0; i < 5; ++i) {
      pieces[i] = static_cast<char*>(pool.allocate(kPiece));
      CHECK_EQUAL(pieces[i] - whole, static_cast<std::ptrdiff_t>(kPiece) * i);
    }
    for (const int i : order) pool.free(pieces[i]);
    CHECK_EQUAL(pool.statistics().largest_hole, 5 * kPiece);
  } while (std::next_permutation(order.begin(), order.end()));
  CHECK_EQUAL(pool.allocate(5 * kPiece) == whole, true);
  CHECK_EQUAL(pool.statistics().upstream_allocations, std::uint64_t{1});
}

// Two ways to be short: of the limit, and of what the upstream has below it. Both are OutOfMemoryError; what an
// upstream throws is not, and asks no callback. After each the pool is as it was.
void what_an_upstream_says_arrives() {
  struct Failing : SimulatedUpstream {
    using SimulatedUpstream::SimulatedUpstream;
    char* allocate(std::uint64_t num_bytes) override {
      if (num_bytes > (16u << 20)) throw std::range_error("upstream");
      return SimulatedUpstream::allocate(num_bytes);
    }
  };
  StreamWorld world;
  Pool pool(std::make_unique<Failing>(world, 8 << 20), 64 << 20);
  int calls = 0;
  pool.on_failure(std::make_shared<Pool::FailureCallback>([&](std::uint64_t) { return ++calls, false; }));
  for (int i = 0; i < 2; ++i) {
    CHECK_THROWS(pool.allocate(12 << 20, 1), OutOfMemoryError);
    CHECK_THROWS(pool.allocate(32 << 20, 1), std::range_error);
    CHECK_THROWS(pool.allocate(65 << 20, 1), OutOfMemoryError);
    CHECK_EQUAL(calls, 2 * (i + 1));
    pool.free(pool.allocate(8 << 20, 1));
    const Statistics s = pool.statistics();
    CHECK_EQUAL(s.live | s.pending, std::uint64_t{0});
    CHECK_EQUAL(s.free, s.reserved);
    CHECK_EQUAL(s.allocations, s.frees);
  }
}

// What it has beyond a new limit it keeps until trim(), and takes no more.
void a_limit_may_change() {
  constexpr std::uint64_t kMiB = 1 << 20;
  Pool pool(std::make_unique<HostUpstream>());
  void* const held = pool.allocate(8 * kMiB);
  void* const idle = pool.allocate(8 * kMiB);
  pool.free(idle);
  pool.set_limit(8 * kMiB);
  CHECK_EQUAL(pool.allocate(8 * kMiB) == idle, true);  // which the pool has
  CHECK_THROWS(pool.allocate(kMiB), OutOfMemoryError);
  pool.free(idle);
  CHECK_EQUAL(pool.trim(), 8 * kMiB);
  CHECK_THROWS(pool.allocate(2 * kMiB), OutOfMemoryError);
  pool.set_limit(0);
  CHECK_THROWS(pool.allocate(0), OutOfMemoryError);
  pool.set_limit(Pool::kUnlimited);
  pool.free(pool.allocate(32 * kMiB));
  pool.free(held);
}

void mistakes_are_named() {
  Pool pool(std::make_unique<HostUpstream>(), 8 << 20), other(std::make_unique<HostUpstream>());
  void* const block = pool.allocate(1000);
  int foreign = 0;
  CHECK_THROWS(pool.free(&foreign), InvalidArgument);
  CHECK_THROWS(pool.free(nullptr), InvalidArgument);
  CHECK_THROWS(other.free(block), InvalidArgument);
  CHECK_THROWS(pool.free(static_cast<char*>(block) + 512), InvalidArgument);
  pool.free(block);
  CHECK_THROWS(pool.free(block), InvalidArgument);
  CHECK_THROWS(pool.use(block, 1), InvalidArgument);
  CHECK_THROWS(pool.allocate((8 << 20) + 1), OutOfMemoryError);
  CHECK_THROWS(pool.allocate(~std::uint64_t{0}), OutOfMemoryError);
  void* const all = pool.allocate(8 << 20);  // what the failures left behind is still there
  CHECK_THROWS(pool.allocate(1), OutOfMemoryError);
  pool.free(all);
  pool.free(pool.allocate(1));
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  random_use_is_sound(random);
  equal_histories_give_equal_places(random);
  a_thread_that_ends_keeps_nothing();
  sizes_of_all_kinds_are_aligned();
  it_recovers_from_being_full(random);
  the_failure_callback_makes_room();
  a_long_life_takes_no_more(random);
  what_nobody_holds_is_out_of_reach();
  an_unused_pool_is_empty();
  pieces_become_whole_in_any_order();
  what_an_upstream_says_arrives();
  a_limit_may_change();
  mistakes_are_named();
}
