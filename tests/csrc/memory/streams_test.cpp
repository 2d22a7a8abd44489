// A pool over several streams: whatever is allocated, used, freed and left running, no two uses of a byte race.
#include <memory>

#include "check.hpp"
#include "core/error.hpp"
#include "memory/pool.hpp"
#include "memory/stream_world.hpp"

using namespace pyparallel;
using namespace pyparallel::memory;

namespace {

struct History {
  StreamWorld world;
  SimulatedUpstream* upstream;
  std::unique_ptr<Pool> pool;

  explicit History(std::uint64_t capacity) {
    auto simulated = std::make_unique<SimulatedUpstream>(world, capacity);
    upstream = simulated.get();
    pool = std::make_unique<Pool>(std::move(simulated));
  }
};

struct Live {
  char* data;
  std::uint64_t num_bytes, stream;
  std::vector<std::uint64_t> users;  // the streams whose work may touch it
};

void random_histories_have_no_race(std::mt19937_64& random, std::uint64_t capacity) {
  History history(capacity);
  Pool& pool = *history.pool;
  StreamWorld& world = history.world;
  std::vector<Live> live;
  int failures = 0;
  const auto name = [](const char* what, int i) { return std::string(what) + " " + std::to_string(i); };
  for (int i = 0; i < 4'000; ++i) {
    const std::uint64_t stream = 1 + random() % 4;
    const auto choice = random() % 100;
    if (choice < 40) {
      const std::uint64_t num_bytes = 1 + random() % (std::uint64_t{1} << (random() % 22));
      try {
        auto* const data = static_cast<char*>(pool.allocate(num_bytes, stream));
        live.push_back({data, num_bytes, stream, {stream}});
        world.touch(stream, data, num_bytes, name("first use of allocation", i));
      } catch (const OutOfMemoryError&) {
        ++failures;
      }
    } else if (choice < 60 && !live.empty()) {
      Live& block = live[random() % live.size()];  // the caller orders the other stream after the block's own
      world.wait(stream, world.record(block.users.back()));
      pool.use(block.data, stream);
      world.touch(stream, block.data, block.num_bytes, name("use", i));
      block.users.push_back(stream);
    } else if (choice < 92 && !live.empty()) {
      std::swap(live[random() % live.size()], live.back());
      pool.free(live.back().data);
      live.pop_back();
    } else {
      world.finish_stream(stream);
    }
  }
  for (const Live& block : live) pool.free(block.data);
  const std::uint64_t reserved = pool.statistics().reserved;
  CHECK_EQUAL(pool.trim(), reserved);
  CHECK_EQUAL(pool.statistics().pending, std::uint64_t{0});
  CHECK_EQUAL(history.upstream->open_events, 0);
  CHECK_EQUAL(failures > 0, capacity < (64 << 20));
}

void one_stream_needs_no_event() {
  History history(1 << 30);
  for (int i = 0; i < 100; ++i) history.pool->free(history.pool->allocate(3 << 20, 1));
  CHECK_EQUAL(history.pool->statistics().events, std::uint64_t{0});
  CHECK_EQUAL(history.pool->statistics().reserved, std::uint64_t{4 << 20});
}

// A slow stream keeps what it uses and nothing else.
void a_slow_stream_pins_only_its_own() {
  History history(16 << 20);
  Pool& pool = *history.pool;
  void *slow = pool.allocate(4 << 20, 1), *quick = pool.allocate(4 << 20, 1);
  pool.use(slow, 2), pool.use(quick, 3);
  pool.free(slow), pool.free(quick);
  CHECK_EQUAL(pool.statistics().pending, std::uint64_t{8 << 20});
  history.world.finish_stream(3);
  pool.allocate(4 << 20, 1);
  CHECK_EQUAL(pool.statistics().pending, std::uint64_t{4 << 20});
  CHECK_EQUAL(pool.statistics().reserved, std::uint64_t{8 << 20});
  CHECK_EQUAL(history.upstream->synchronizations, 0);
}

// Out of memory with a fitting block in hand is no reason to fail.
void pending_memory_is_waited_for_when_short() {
  History history(8 << 20);
  Pool& pool = *history.pool;
  void* const block = pool.allocate(8 << 20, 1);
  pool.use(block, 2);
  pool.free(block);
  CHECK_EQUAL(pool.allocate(8 << 20, 1) == block, true);
  CHECK_EQUAL(history.upstream->synchronizations > 0, true);
}

void pieces_of_several_streams_come_together_when_short() {
  History history(8 << 20);
  Pool& pool = *history.pool;
  std::vector<void*> pieces;
  void* const whole = pool.allocate(8 << 20, 1);
  pool.free(whole);
  for (std::uint64_t stream = 1; stream <= 8; ++stream) pieces.push_back(pool.allocate(1 << 20, stream));
  for (void* piece : pieces) pool.free(piece);
  CHECK_EQUAL(pool.allocate(8 << 20, 9) == whole, true);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (int i = 0; i < 10; ++i) {
    random_histories_have_no_race(random, 1 << 30);
    random_histories_have_no_race(random, 16 << 20);
  }
  one_stream_needs_no_event();
  a_slow_stream_pins_only_its_own();
  pending_memory_is_waited_for_when_short();
  pieces_of_several_streams_come_together_when_short();
}
