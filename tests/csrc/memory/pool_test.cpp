// The pool's promises under random use: no two live blocks overlap, numbers are the truth, nothing is lost.
#include "memory/pool.hpp"

#include <cstring>
#include <map>
#include <thread>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/host_upstream.hpp"

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

// Ranks that allocate alike get equal offsets.
void equal_histories_give_equal_places(std::mt19937_64& random) {
  Pool one(std::make_unique<HostUpstream>()), two(std::make_unique<HostUpstream>());
  std::vector<std::pair<void*, void*>> live;
  const char *first_of_one = nullptr, *first_of_two = nullptr;
  for (int i = 0; i < 5'000; ++i) {
    if (random() % 200 == 0) CHECK_EQUAL(one.trim(), two.trim());
    if (live.empty() || random() % 2 == 0) {
      const std::uint64_t size = draw_size(random);
      live.emplace_back(one.allocate(size), two.allocate(size));
      if (i == 0) first_of_one = static_cast<char*>(live[0].first), first_of_two = static_cast<char*>(live[0].second);
      CHECK_EQUAL(static_cast<char*>(live.back().first) - first_of_one,
                  static_cast<char*>(live.back().second) - first_of_two);
    } else {
      std::swap(live[random() % live.size()], live.back());
      one.free(live.back().first), two.free(live.back().second);
      live.pop_back();
    }
  }
}

void threads_share_a_pool(std::mt19937_64& random) {
  Pool pool(std::make_unique<HostUpstream>());
  std::mutex mutex;
  std::vector<std::pair<void*, Given>> handed_over;  // freed by another thread than the one that allocated
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, seed = random()] {
      std::mt19937_64 own(seed);
      std::vector<std::pair<void*, Given>> live;
      for (int i = 0; i < 3'000; ++i) {
        if (live.empty() || own() % 2 == 0) {
          const Given given = {draw_size(own) % 100'000, static_cast<unsigned char>(own())};
          live.emplace_back(pool.allocate(given.num_bytes), given);
          mark(live.back().first, given);
        } else {
          std::swap(live[own() % live.size()], live.back());
          std::lock_guard<std::mutex> lock(mutex);
          handed_over.push_back(live.back());
          std::swap(handed_over[own() % handed_over.size()], handed_over.back());
          live.back() = handed_over.back();
          handed_over.pop_back();
          check_mark(live.back().first, live.back().second);
          pool.free(live.back().first);
          live.pop_back();
        }
        if (i % 1000 == 999) pool.trim();
      }
      for (const auto& [data, given] : live) {
        check_mark(data, given);
        pool.free(data);
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& [data, given] : handed_over) pool.free(data);
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
  threads_share_a_pool(random);
  a_thread_that_ends_keeps_nothing();
  mistakes_are_named();
}
