// Planned placement under steps that repeat and steps that do not: no two live blocks overlap, no two uses race,
// numbers are the truth, and a step like the last one is served from its plan.
#include "memory/planned_placement.hpp"

#include <map>
#include <memory>
#include <thread>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/host_upstream.hpp"
#include "memory/pool.hpp"
#include "memory/simulated_upstream.hpp"

using namespace pyparallel;
using namespace pyparallel::memory;

namespace {

constexpr std::uint64_t kStreams = 3;

// A step as a program: block `block` is asked for, or freed; `late`: the block of the step before.
struct Operation {
  enum class Kind { kAllocate, kFree, kFreeLast } kind;
  std::size_t block;
};
struct Program {
  std::vector<std::uint64_t> sizes, streams;
  std::vector<Operation> operations;
};

// Nested and crossing lifetimes; every fifth block lives into the next step.
Program draw_program(std::mt19937_64& random, std::size_t blocks, std::uint64_t streams) {
  Program program;
  std::vector<std::pair<std::size_t, Operation>> timed;
  for (std::size_t block = 0; block < blocks; ++block) {
    program.sizes.push_back(1 + random() % (std::uint64_t{1} << (random() % 17)));
    program.streams.push_back(1 + random() % streams);
    timed.push_back({10 * block, {Operation::Kind::kAllocate, block}});
    if (random() % 5 == 0)
      timed.push_back({random() % (10 * block + 1), {Operation::Kind::kFreeLast, block}});
    else
      timed.push_back({10 * block + 1 + random() % (10 * (blocks - block)), {Operation::Kind::kFree, block}});
  }
  std::stable_sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [time, operation] : timed) program.operations.push_back(operation);
  return program;
}

// A pool beside a list of what is live in it.
class History {
 public:
  History(std::uint64_t capacity, std::mt19937_64& random) : random_(random) {
    pool = std::make_unique<Pool>(std::make_unique<SimulatedUpstream>(world, capacity));
    pool->plan_steps(3);
  }

  void* allocate(std::uint64_t num_bytes, std::uint64_t stream) {
    auto* const data = static_cast<char*>(pool->allocate(num_bytes, stream));
    const auto after = live_.lower_bound(data);
    if (after != live_.end()) CHECK_EQUAL(data + num_bytes <= after->first, true);
    if (after != live_.begin()) CHECK_EQUAL(std::prev(after)->first + std::prev(after)->second.num_bytes <= data, true);
    world.touch(stream, data, num_bytes, "allocation of " + std::to_string(num_bytes));
    live_[data] = {num_bytes, stream};
    requested_ += num_bytes;
    return data;
  }
  // Another stream works on the block, after the last that has.
  void use(void* data) {
    Block& block = live_.at(static_cast<char*>(data));
    const std::uint64_t stream = 1 + random_() % kStreams;
    world.order(stream, block.last_user);
    block.last_user = stream;
    pool->use(data, stream);
    world.touch(stream, static_cast<char*>(data), block.num_bytes, "use by another stream");
  }
  void free(void* data) {
    pool->free(data);
    requested_ -= live_.at(static_cast<char*>(data)).num_bytes;
    live_.erase(static_cast<char*>(data));
    if (random_() % 8 == 0 && live_.count(static_cast<char*>(data)) == 0)
      CHECK_THROWS(pool->free(data), InvalidArgument);
  }
  void check_numbers() {
    const Statistics s = pool->statistics();
    CHECK_EQUAL(s.requested, requested_);
    CHECK_EQUAL(s.allocations - s.frees, static_cast<std::uint64_t>(live_.size()));
    CHECK_EQUAL(s.live <= s.reserved, true);
  }
  PlanStatistics plan() { return pool->planned()->statistics(); }
  void free_all() {
    while (!live_.empty()) free(live_.begin()->first);
    for (std::uint64_t stream = 1; stream <= kStreams; ++stream) world.finish_stream(stream);
  }

  StreamWorld world;
  std::unique_ptr<Pool> pool;

 private:
  struct Block {
    std::uint64_t num_bytes, last_user;
  };
  std::mt19937_64& random_;
  std::map<char*, Block> live_;
  std::uint64_t requested_ = 0;
};

// Runs a program step by step. `disorder`: how many of a thousand operations are not as the program says.
class Runner {
 public:
  Runner(History& history, const Program& program, std::mt19937_64& random)
      : history_(history), program_(program), random_(random), own_(program.sizes.size()), last_(own_) {}

  void step(std::uint64_t disorder, bool marked = true) {
    if (marked) history_.pool->planned()->begin_step();
    last_.swap(own_);
    for (void*& left : own_) release(left);  // what was not freed in a whole step
    for (const Operation& operation : program_.operations) {
      const bool disturbed = random_() % 1000 < disorder;
      void*& data = (operation.kind == Operation::Kind::kFreeLast ? last_ : own_)[operation.block];
      if (disturbed) disturb(data, operation);
      if (operation.kind != Operation::Kind::kAllocate) {
        if (!disturbed || random_() % 2 == 0) release(data);  // or much later
      } else if (data == nullptr && (!disturbed || random_() % 2 == 0)) {
        data = history_.allocate(program_.sizes[operation.block], program_.streams[operation.block]);
      }
    }
    if (marked) history_.pool->planned()->end_step();
    history_.check_numbers();
  }
  void release(void*& data) {
    if (data != nullptr) history_.free(data);
    data = nullptr;
  }

 private:
  void disturb(void*& data, const Operation& operation) {
    const std::uint64_t stream = 1 + random_() % kStreams;
    void*& other = own_[random_() % own_.size()];
    switch (random_() % 6) {
      case 0:  // a request that the plan does not have
        kept_.push_back(history_.allocate(1 + random_() % 50'000, stream));
        break;
      case 1:  // of another size
        if (data == nullptr && operation.kind == Operation::Kind::kAllocate)
          data = history_.allocate(program_.sizes[operation.block] + 512, program_.streams[operation.block]);
        break;
      case 2:
        if (other != nullptr) history_.use(other);
        break;
      case 3:  // early
        release(other);
        break;
      case 4:
        history_.world.finish_stream(stream);
        break;
      default:
        if (!kept_.empty()) {
          release(kept_.back());
          kept_.pop_back();
        }
    }
  }

  History& history_;
  const Program& program_;
  std::mt19937_64& random_;
  std::vector<void*> own_, last_, kept_;  // by block, of this step and the last; and what the program knows nothing of
};

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
  threads_are_sound(random);
}
