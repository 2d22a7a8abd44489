// A pool over several streams: whatever is allocated, used, freed and left running, no two uses of a byte race.
#include <memory>

#include "check.hpp"
#include "memory/pool.hpp"
#include "memory/shrink.hpp"

using namespace pyparallel;
using namespace pyparallel::memory;

namespace {

constexpr std::uint64_t kMiB = 1 << 20;

struct OnePool {
  StreamWorld world;
  SimulatedUpstream* upstream;
  std::unique_ptr<Pool> pool;

  explicit OnePool(std::uint64_t capacity, bool pages = false) {
    auto simulated = std::make_unique<SimulatedUpstream>(world, capacity, pages);
    upstream = simulated.get();
    pool = std::make_unique<Pool>(std::move(simulated));
  }
  char* allocate(std::uint64_t num_bytes, Stream stream, const char* what) {
    auto* const data = static_cast<char*>(pool->allocate(num_bytes, stream));
    world.touch(stream, data, num_bytes, what);
    return data;
  }
};

void random_histories_have_no_race(std::mt19937_64& random) {
  int failures = 0, synchronizations = 0;
  std::uint64_t reuses = 0;
  for (int i = 0; i < 300; ++i) {
    const Setting setting = {i % 2 ? 24 * kMiB : 1024 * kMiB, i % 4 < 2};
    const std::vector<Step> history = random_history(random, 400, 6 * kMiB);
    const Outcome outcome = outcome_of<Pool>(history, setting);
    if (!outcome.fault.empty()) {
      std::cerr << report_of<Pool>(history, setting);
      std::exit(1);
    }
    failures += outcome.out_of_memory, synchronizations += outcome.synchronizations;
    reuses += outcome.cross_stream_reuses;
  }
  // These histories went where the pool is in danger.
  CHECK_EQUAL(failures > 0 && synchronizations > 0 && reuses > 0, true);
}

// Tests of the test: what a lie of the upstream leads to is a race, and both uses are named.
void lies_are_found(std::mt19937_64& random) {
  for (const Lie lie : {Lie::kEventsPassAtOnce, Lie::kStreamsDoNotWait, Lie::kNobodySynchronizes,
                        Lie::kHandlesAreIdentities}) {
    std::string fault;
    for (int i = 0; i < 200 && fault.empty(); ++i) {
      const Setting setting = {24 * kMiB, i % 2 == 0, lie};
      const std::vector<Step> history = random_history(random, 400, 6 * kMiB);
      if (!outcome_of<Pool>(history, setting).fault.empty()) fault = report_of<Pool>(history, setting);
    }
    std::cout << "lie " << static_cast<int>(lie) << ": " << fault << std::endl;
    CHECK_EQUAL(fault.starts_with("race: ") && fault.find(" and then ") != std::string::npos, true);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  random_histories_have_no_race(random);
  lies_are_found(random);
}
