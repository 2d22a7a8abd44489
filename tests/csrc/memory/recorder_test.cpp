// The recorder's promises: events are whole and in order, what is missing is counted, and the rest is the pool's truth.
#include "memory/recorder.hpp"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "check.hpp"
#include "memory/host_upstream.hpp"
#include "memory/pool.hpp"

using namespace pyparallel::memory;

namespace {

class NumberedSites : public Sites {
 public:
  CallSite here() noexcept override { return next_.fetch_add(1) + 1; }
  std::string describe(CallSite site) const override { return "place " + std::to_string(site); }

 private:
  std::atomic<CallSite> next_{0};
};

std::unique_ptr<Recorder> make_recorder(std::uint64_t max_events) {
  return std::make_unique<Recorder>(max_events, std::make_shared<NumberedSites>());
}

// An event of which every part tells thread and number, so that parts of two events do not pass for one.
Report marked(std::uint64_t thread, std::uint64_t number) {
  const std::uint64_t key = thread << 32 | number;
  return {Action::kAllocate, reinterpret_cast<const void*>(key), key * 3, key * 5, static_cast<CallSite>(key * 7)};
}
std::pair<std::uint64_t, std::uint64_t> check_mark(const Report& report) {
  const auto key = reinterpret_cast<std::uintptr_t>(report.data);
  CHECK_EQUAL(report.num_bytes, key * 3);
  CHECK_EQUAL(report.stream, key * 5);
  CHECK_EQUAL(report.site, static_cast<CallSite>(key * 7));
  return {key >> 32, key & 0xffffffffu};
}

void the_latest_are_kept_and_the_others_counted(std::mt19937_64& random) {
  for (const std::uint64_t max_events : {std::uint64_t{1}, std::uint64_t{2}, 3 + random() % 1000}) {
    const auto recorder = make_recorder(max_events);
    const std::uint64_t capacity = recorder->capacity();
    CHECK_EQUAL(capacity >= max_events && capacity < 2 * max_events, true);
    CHECK_EQUAL(recorder->history().events.size(), std::size_t{0});
    std::uint64_t told = 0;
    for (int round = 0; round < 5; ++round) {
      for (std::uint64_t n = random() % (2 * capacity + 1); n > 0; --n) recorder->record(marked(1, told++));
      const Recorder::History history = recorder->history();
      CHECK_EQUAL(history.events.size(), static_cast<std::size_t>(std::min(told, capacity)));
      CHECK_EQUAL(history.lost, told - history.events.size());
      std::uint64_t expected = history.lost;
      for (const Recorded& event : history.events) {
        CHECK_EQUAL(check_mark(event.report).second, expected++);
        CHECK_EQUAL(event.thread, static_cast<std::uint32_t>(gettid()));
      }
      CHECK_EQUAL(std::is_sorted(history.events.begin(), history.events.end(),
                                 [](const Recorded& a, const Recorded& b) { return a.time_ns < b.time_ns; }),
                  true);
    }
    recorder->clear();
    CHECK_EQUAL(recorder->history().events.size() + recorder->history().lost, std::uint64_t{0});
    recorder->record(marked(1, 1));
    CHECK_EQUAL(recorder->history().events.size(), std::size_t{1});
  }
  const auto none = make_recorder(0);
  none->record(marked(1, 1));
  CHECK_EQUAL(none->history().events.size() + none->history().lost, std::uint64_t{0});
}

// The ring is so small that writers overtake each other again and again.
void many_threads_wrap_the_ring(std::uint64_t max_events) {
  constexpr std::uint64_t kThreads = 3, kEach = 40'000;
  const auto recorder = make_recorder(max_events);
  std::atomic<std::uint64_t> running{kThreads};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 1; t <= kThreads; ++t)
    threads.emplace_back([&, t] {
      for (std::uint64_t n = 0; n < kEach; ++n) recorder->record(marked(t, n));
      --running;
    });
  const auto look = [&] {
    const Recorder::History history = recorder->history();
    std::map<std::uint64_t, std::uint64_t> next;
    for (const Recorded& event : history.events) {
      const auto [thread, number] = check_mark(event.report);
      CHECK_EQUAL(number >= next[thread], true);
      next[thread] = number + 1;
    }
    return history.events.size() + history.lost;
  };
  while (running > 0) CHECK_EQUAL(look() <= kThreads * kEach, true);
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(look(), kThreads * kEach);
}

// What a reader of events believes to be live and reserved.
struct Told {
  std::map<const void*, std::uint64_t> live;
  std::int64_t reserved = 0;

  void hear(const Report& report) {
    const auto num_bytes = static_cast<std::int64_t>(report.num_bytes);
    switch (report.action) {
      case Action::kAllocate:
        CHECK_EQUAL(live.emplace(report.data, report.num_bytes).second, true);
        break;
      case Action::kFreeRequested:
        CHECK_EQUAL(live.at(report.data), report.num_bytes);
        live.erase(report.data);
        break;
      case Action::kSegmentAllocate:
      case Action::kSegmentExtend:
      case Action::kPagesRestore:
        reserved += num_bytes;
        break;
      case Action::kSegmentRelease:
      case Action::kPagesRelease:
        reserved -= num_bytes;
        break;
      default:
        break;
    }
  }
};

void check_list(Pool& pool, const Told& told) {
  std::int64_t reserved = 0;
  std::size_t live = 0;
  std::set<std::uint64_t> serials;
  for (const ListedSegment& segment : pool.list()) {
    const char* end = segment.data;
    for (const ListedBlock& block : segment.blocks) {
      CHECK_EQUAL(block.data == end, true);
      end += block.num_bytes;
      if (block.state != State::kLive) continue;
      ++live;
      CHECK_EQUAL(told.live.at(block.data), block.requested);
      CHECK_EQUAL(block.site != 0 && serials.insert(block.serial).second, true);
    }
    CHECK_EQUAL(segment.data + segment.num_bytes == end, true);
    reserved += static_cast<std::int64_t>(segment.num_bytes);
  }
  CHECK_EQUAL(live, told.live.size());
  CHECK_EQUAL(reserved, told.reserved);
  CHECK_EQUAL(reserved, static_cast<std::int64_t>(pool.reserved()));
}

// Threads free each other's blocks and trim; listing goes on meanwhile.
void events_and_lists_are_the_truth(std::mt19937_64& random) {
  Pool pool(std::make_unique<HostUpstream>());
  const std::shared_ptr<Recorder> recorder = make_recorder(1 << 18);
  pool.observe(recorder);
  std::mutex mutex;
  std::vector<void*> shared;
  std::atomic<int> running{4};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, seed = random()] {
      std::mt19937_64 own(seed);
      for (int i = 0; i < 4'000; ++i) {
        if (own() % 5 < 3) {
          void* const block = pool.allocate(own() % (std::uint64_t{1} << (own() % 22)));
          const std::lock_guard<std::mutex> lock(mutex);
          shared.push_back(block);
          continue;
        }
        void* block;
        {
          const std::lock_guard<std::mutex> lock(mutex);
          if (shared.empty()) continue;
          std::swap(shared[own() % shared.size()], shared.back());
          block = shared.back();
          shared.pop_back();
        }
        pool.free(block);
        if (own() % 500 == 0) pool.trim();
      }
      --running;
    });
  while (running > 0) {
    for (const ListedSegment& segment : pool.list()) CHECK_EQUAL(segment.blocks.empty(), false);
    recorder->history();
  }
  for (std::thread& thread : threads) thread.join();
  const Recorder::History history = recorder->history();
  CHECK_EQUAL(history.lost, std::uint64_t{0});
  Told told;
  for (const Recorded& event : history.events) told.hear(event.report);
  check_list(pool, told);
  CHECK_EQUAL(pool.observed(), pool.statistics().allocations);
  for (void* const block : shared) pool.free(block);
  pool.trim();
  Told after;
  for (const Recorded& event : recorder->history().events) after.hear(event.report);
  CHECK_EQUAL(after.live.size(), std::size_t{0});
  check_list(pool, after);
}

// What is left of a segment with a hole goes back page by page, and is told so.
void a_segment_with_a_hole_ends_as_it_is_told() {
  Pool pool(std::make_unique<HostUpstream>());
  const std::shared_ptr<Recorder> recorder = make_recorder(1 << 8);
  pool.observe(recorder);
  const auto check = [&] {
    Told told;
    for (const Recorded& event : recorder->history().events) told.hear(event.report);
    check_list(pool, told);
  };
  void *const first = pool.allocate(4 << 20), *const second = pool.allocate(4 << 20), *const third = pool.allocate(1);
  pool.free(second);
  pool.trim();
  check();
  pool.free(first), pool.free(third);
  pool.trim();
  check();
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  the_latest_are_kept_and_the_others_counted(random);
  for (const std::uint64_t max_events : {1, 2, 64}) many_threads_wrap_the_ring(max_events);
  events_and_lists_are_the_truth(random);
  a_segment_with_a_hole_ends_as_it_is_told();
}
