// Planned placement under steps that repeat and steps that do not: no two live blocks overlap, no two uses race,
// numbers are the truth, and a step like the last one is served from its plan.
#include "memory/planned_placement.hpp"

#include <thread>

#include "memory/host_upstream.hpp"
#include "memory/step_history.hpp"

using namespace steps;

namespace {

void a_repeating_step_is_served_from_its_plan(std::mt19937_64& random, std::uint64_t streams) {
  History history(std::uint64_t{1} << 30, random);
  const Program program = draw_program(random, 60, streams);
  Runner runner(history, program, random);
  for (int i = 0; i < 10; ++i) runner.step(0);
  const PlanStatistics s = history.plan();
  CHECK_EQUAL(s.divergences, std::uint64_t{0});
  CHECK_EQUAL(static_cast<int>(s.state), static_cast<int>(PlanState::kServing));
  CHECK_EQUAL(s.planned_steps >= 6, true);  // two are recorded, the third is one more if the arenas are taken early
  CHECK_EQUAL(s.planned_requests >= 6 * 60, true);
  CHECK_EQUAL(s.plan_lower_bound <= s.plan_bytes, true);
  history.free_all();
  const std::uint64_t reserved = history.pool->statistics().reserved;
  CHECK_EQUAL(history.pool->trim(), reserved);  // the arenas go too
}

void disorder_is_sound(std::mt19937_64& random, std::uint64_t capacity) {
  History history(capacity, random);
  const Program programs[] = {draw_program(random, 40, kStreams), draw_program(random, 25, 1)};
  std::uint64_t planned = 0;
  for (const Program& program : programs) {
    Runner runner(history, program, random);
    try {
      for (int i = 0; i < 40; ++i) {
        const std::uint64_t disorder = std::uint64_t{random() % 2} * (random() % 40);
        runner.step(disorder, random() % 10 != 0);
      }
    } catch (const OutOfMemoryError&) {
      CHECK_EQUAL(capacity < (1 << 30), true);
      try {
        history.pool->planned()->end_step();
      } catch (const InvalidArgument&) {  // between steps
      }
    }
    planned += history.plan().planned_steps;
    history.free_all();
  }
  // What once was in disorder is planned again.
  const Program program = draw_program(random, 30, kStreams);
  if (capacity == std::uint64_t{1} << 30) {
    Runner runner(history, program, random);
    for (int i = 0; i < 90; ++i) runner.step(0);
    CHECK_EQUAL(history.plan().planned_steps > planned / 2, true);
    history.free_all();
  }
  const std::uint64_t reserved = history.pool->statistics().reserved;
  CHECK_EQUAL(history.pool->trim(), reserved);
  CHECK_EQUAL(history.world.open_events(), std::size_t{0});
}

// Ranks that allocate alike get equal offsets, plans included.
void equal_histories_give_equal_places(std::mt19937_64& random) {
  const std::uint64_t seed = random();
  std::vector<std::uintptr_t> places[2];
  const Program program = draw_program(random, 50, 1);
  for (auto& own : places) {
    std::mt19937_64 same(seed);
    History history(std::uint64_t{1} << 30, same);
    Runner runner(history, program, same);
    for (int i = 0; i < 12; ++i) {
      runner.step(i % 3 == 0 ? 5 : 0);
      own.push_back(reinterpret_cast<std::uintptr_t>(history.allocate(100, 1)));
    }
    history.free_all();
  }
  for (std::size_t i = 0; i < places[0].size(); ++i) CHECK_EQUAL(places[0][i], places[1][i]);
}

void divergences_are_named() {
  Pool pool(std::make_unique<HostUpstream>());
  PlannedPlacement& plan = pool.plan_steps(2);
  CHECK_THROWS(pool.plan_steps(2), InvalidArgument);
  CHECK_THROWS(plan.end_step(), InvalidArgument);
  // Two blocks that share their bytes, then one.
  const auto step = [&](std::uint64_t second, int blocks, bool late) {
    plan.begin_step();
    CHECK_THROWS(plan.begin_step(), InvalidArgument);
    void* const first = pool.allocate(1000);
    if (!late) pool.free(first);
    void* const other = blocks > 1 ? pool.allocate(second) : nullptr;
    if (late) CHECK_EQUAL(first == other, false);
    if (late) pool.free(first);
    if (other != nullptr) pool.free(other);
    for (int i = 2; i < blocks; ++i) pool.free(pool.allocate(3000));
    plan.end_step();
    return plan.statistics();
  };
  for (int i = 0; i < 3; ++i) step(2000, 2, false);
  PlanStatistics s = step(2000, 2, false);
  CHECK_EQUAL(s.plan_bytes, std::uint64_t{2048});
  CHECK_EQUAL(s.planned_steps, std::uint64_t{2});
  const auto check = [&](Divergence::Reason reason, std::uint64_t request, std::uint64_t expected, std::uint64_t got) {
    const Divergence& latest = s.latest.back();
    CHECK_EQUAL(static_cast<int>(latest.reason), static_cast<int>(reason));
    CHECK_EQUAL(latest.request, request);
    CHECK_EQUAL(latest.expected.num_bytes, expected);
    CHECK_EQUAL(latest.got.num_bytes, got);
    s = step(2000, 2, false);  // served again
    CHECK_EQUAL(static_cast<int>(s.state), static_cast<int>(PlanState::kServing));
  };
  s = step(4000, 2, false);
  check(Divergence::Reason::kOtherRequest, 1, 2048, 4096);
  s = step(2000, 2, true);
  check(Divergence::Reason::kStillAlive, 1, 2048, 1024);
  s = step(2000, 3, false);
  check(Divergence::Reason::kTooMany, 2, 0, 3072);
  s = step(2000, 1, false);
  check(Divergence::Reason::kTooFew, 1, 2048, 0);
  CHECK_EQUAL(s.divergences, std::uint64_t{4});
  CHECK_EQUAL(s.planned_steps, std::uint64_t{6});
  step(4000, 2, false);
  s = step(4000, 2, false);  // two in a row: the plan is dropped
  CHECK_EQUAL(s.arena_bytes, std::uint64_t{0});
  for (int i = 0; i < 4; ++i) s = step(4000, 2, false);
  CHECK_EQUAL(s.arena_bytes, std::uint64_t{4096});
}

// Arenas in which nothing lives are no reason to fail, and taking them does not double what is held.
void memory_is_never_short_for_an_empty_arena() {
  std::mt19937_64 random(1);
  History history(64 << 20, random);
  PlannedPlacement& plan = *history.pool->planned();
  const auto step = [&] {
    plan.begin_step();
    for (int i = 0; i < 3; ++i) {
      void* const one = history.allocate(20 << 20, 1);
      void* const two = history.allocate(20 << 20, 2);
      history.free(one), history.free(two);
    }
    plan.end_step();
  };
  for (int i = 0; i < 4; ++i) step();
  CHECK_EQUAL(plan.statistics().planned_steps, std::uint64_t{2});
  CHECK_EQUAL(plan.statistics().arena_bytes, std::uint64_t{40 << 20});
  void* const all = history.allocate(64 << 20, 1);  // between the steps
  CHECK_EQUAL(plan.statistics().arena_bytes, std::uint64_t{0});
  history.free(all);
  step();
  CHECK_EQUAL(plan.statistics().planned_steps, std::uint64_t{3});
}

// Calls sites by turns, and remembers what was completed.
class Watcher : public Observer {
 public:
  CallSite call_site() noexcept override { return site; }
  void record(const Report& report) noexcept override { completed += report.action == Action::kFreeCompleted; }
  CallSite site = 0;
  int completed = 0;
};

// Blocks of the plan are listed like others, whoever still uses them.
void what_is_served_is_seen(std::mt19937_64& random) {
  History history(std::uint64_t{1} << 30, random);
  Pool& pool = *history.pool;
  const auto watcher = std::make_shared<Watcher>();
  pool.observe(watcher);
  std::vector<void*> own(4);
  const auto begin_step = [&] {
    pool.planned()->begin_step();
    for (std::size_t i = 0; i < own.size(); ++i) {
      watcher->site = static_cast<CallSite>(10 + i);
      own[i] = history.allocate(700 * (i + 1), 1);
    }
  };
  const auto end_step = [&] {
    for (void* const data : own) history.free(data);
    pool.planned()->end_step();
  };
  for (int i = 0; i < 4; ++i) begin_step(), end_step();
  begin_step();
  CHECK_EQUAL(pool.planned()->statistics().live_blocks, std::uint64_t{4});
  const auto listed = [&](State state) {
    std::map<const char*, ListedBlock> found;
    for (const ListedSegment& segment : pool.list()) {
      std::uint64_t num_bytes = 0;
      for (const ListedBlock& block : segment.blocks) {
        CHECK_EQUAL(block.data == segment.data + num_bytes, true);  // without a gap
        num_bytes += block.num_bytes;
        if (block.state == state) found.emplace(block.data, block);
      }
      CHECK_EQUAL(num_bytes, segment.num_bytes);
    }
    return found;
  };
  const auto live = listed(State::kLive);
  CHECK_EQUAL(live.size(), std::size_t{4});
  for (std::size_t i = 0; i < own.size(); ++i) {
    const ListedBlock& block = live.at(static_cast<const char*>(own[i]));
    CHECK_EQUAL(block.requested, std::uint64_t{700 * (i + 1)});
    CHECK_EQUAL(+block.site, static_cast<CallSite>(10 + i));
    CHECK_EQUAL(block.serial, std::uint64_t{16 + i + 1});
    CHECK_EQUAL(block.stream, Stream{1});
  }
  std::uint64_t on_streams = 0;
  for (const StreamStatistics& s : pool.stream_statistics()) on_streams += s.live;
  CHECK_EQUAL(on_streams, pool.statistics().live);
  // Another stream reads one: freed it is pending, not live, and then completed.
  history.world.order(2, 1);
  pool.use(own[2], 2);
  history.world.touch(2, static_cast<char*>(own[2]), 2100, "use by another stream");
  void* const used = own[2];
  end_step();
  CHECK_EQUAL(pool.statistics().pending, std::uint64_t{2560});
  CHECK_EQUAL(listed(State::kPending).count(static_cast<const char*>(used)), std::size_t{1});
  CHECK_EQUAL(listed(State::kLive).size(), std::size_t{0});
  CHECK_EQUAL(watcher->completed, 0);
  history.free_all();
  begin_step(), end_step();
  CHECK_EQUAL(watcher->completed, 1);
  CHECK_EQUAL(pool.statistics().pending, std::uint64_t{0});
  pool.observe(nullptr);
}

// A request too many while the plan is served names the sites of the blocks it found there.
void a_shortage_names_the_blocks_of_the_plan() {
  Pool pool(std::make_unique<HostUpstream>());
  class Named : public Watcher {
    std::string describe(CallSite number) const override { return "site " + std::to_string(number); }
  };
  const auto watcher = std::make_shared<Named>();
  pool.observe(watcher);
  PlannedPlacement& plan = pool.plan_steps(3);
  watcher->site = 77;
  std::string message;
  for (int i = 0; i < 5; ++i) {
    plan.begin_step();
    void* const data = pool.allocate(6 << 20);
    if (i == 4) {
      CHECK_EQUAL(plan.statistics().live_blocks, std::uint64_t{1});
      CHECK_EQUAL(pool.trim(), std::uint64_t{0});  // what lives stays
      pool.set_limit(8 << 20);
      try {
        pool.allocate(4 << 20);
      } catch (const OutOfMemoryError& error) {
        message = error.what();
      }
      pool.set_limit(Pool::kUnlimited);
    }
    pool.free(data);
    plan.end_step();
  }
  CHECK_EQUAL(message.find("6291456 bytes live of site 77") != std::string::npos, true);
  for (int i = 0; i < 2; ++i) {  // served again
    plan.begin_step();
    pool.free(pool.allocate(6 << 20));
    plan.end_step();
  }
  CHECK_EQUAL(static_cast<int>(plan.statistics().state), static_cast<int>(PlanState::kServing));
}

// A thread of the plan, one that only allocates beside it, and one that frees what the first has allocated.
void threads_are_sound(std::mt19937_64& random) {
  Pool pool(std::make_unique<HostUpstream>());
  PlannedPlacement& plan = pool.plan_steps(3);
  std::atomic<unsigned char*> handed_over{nullptr};
  std::atomic<bool> done{false};
  std::thread frees([&] {
    while (!done || handed_over != nullptr)
      if (unsigned char* const data = handed_over.exchange(nullptr)) {
        CHECK_EQUAL(+data[0], 77);
        pool.free(data);
      } else {
        std::this_thread::yield();
      }
  });
  std::thread noise([&, seed = random()] {
    std::mt19937_64 own(seed);
    while (!done) {
      const std::uint64_t size = 1 + own() % 5000;
      auto* const data = static_cast<unsigned char*>(pool.allocate(size));
      data[0] = data[size - 1] = 5;
      std::this_thread::yield();
      CHECK_EQUAL(+data[0], 5);
      pool.free(data);
    }
  });
  for (int i = 0; i < 300; ++i) {
    plan.begin_step();
    std::vector<unsigned char*> live;
    for (int k = 0; k < 20; ++k) {
      live.push_back(static_cast<unsigned char*>(pool.allocate(static_cast<std::uint64_t>(600 * (k % 7 + 1)))));
      live.back()[0] = 77;
      if (k % 4 == 3)
        for (unsigned char* nobody = nullptr; !handed_over.compare_exchange_weak(nobody, live.back()); nobody = nullptr)
          std::this_thread::yield();
      if (k % 4 == 3) live.pop_back();
    }
    for (unsigned char* const data : live) {
      CHECK_EQUAL(+data[0], 77);
      pool.free(data);
    }
    while (handed_over != nullptr) std::this_thread::yield();
    plan.end_step();
    if (i % 100 == 99) pool.trim();
    if (i % 7 == 0) {  // somebody looks
      std::uint64_t num_bytes = 0;
      for (const ListedSegment& segment : pool.list()) num_bytes += segment.num_bytes;
      CHECK_EQUAL(num_bytes <= pool.statistics().reserved_peak, true);
      pool.stream_statistics();
    }
  }
  done = true;
  frees.join(), noise.join();
  CHECK_EQUAL(plan.statistics().planned_requests > 0, true);
  CHECK_EQUAL(pool.statistics().live, std::uint64_t{0});
  pool.trim();
  CHECK_EQUAL(pool.statistics().reserved, std::uint64_t{0});
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (int i = 0; i < 10; ++i)
    for (std::uint64_t streams = 1; streams <= kStreams; ++streams)
      a_repeating_step_is_served_from_its_plan(random, streams);
  for (int i = 0; i < 20; ++i) {
    disorder_is_sound(random, std::uint64_t{1} << 30);
    disorder_is_sound(random, 10 << 20);
  }
  equal_histories_give_equal_places(random);
  divergences_are_named();
  memory_is_never_short_for_an_empty_arena();
  what_is_served_is_seen(random);
  a_shortage_names_the_blocks_of_the_plan();
  threads_are_sound(random);
}
