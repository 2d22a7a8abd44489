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
  int failures = 0, waits = 0;
  std::uint64_t reuses = 0;
  for (int i = 0; i < 300; ++i) {
    const Setting setting = {i % 2 ? 24 * kMiB : 1024 * kMiB, i % 4 < 2};
    const std::vector<Step> history = random_history(random, 400, 6 * kMiB);
    const Outcome outcome = outcome_of<Pool>(history, setting);
    if (!outcome.fault.empty()) {
      std::cerr << report_of<Pool>(history, setting);
      std::exit(1);
    }
    failures += outcome.out_of_memory, waits += outcome.waits;
    reuses += outcome.cross_stream_reuses;
  }
  // These histories went where the pool is in danger.
  CHECK_EQUAL(failures > 0 && waits > 0 && reuses > 0, true);
}

// Tests of the test: what a lie of the upstream leads to is a race, and both uses are named.
void lies_are_found(std::mt19937_64& random) {
  const auto begins_with = [](const std::string& fault, const char* what) {
    if (fault.starts_with(what)) return;
    std::cerr << "found: " << fault << "not: " << what << "\n";
    std::exit(1);
  };
  for (const Lie lie : {Lie::kEventsPassAtOnce, Lie::kStreamsDoNotWait, Lie::kNobodySynchronizes,
                        Lie::kHandlesAreIdentities, Lie::kNothingIsCaptured}) {
    std::string fault;
    for (int i = 0; i < 200 && fault.empty(); ++i) {
      const Setting setting = {24 * kMiB, i % 2 == 0, lie};
      std::vector<Step> history = random_history(random, 400, 6 * kMiB);
      if (lie != Lie::kNothingIsCaptured) history = without_captures(history);
      if (!outcome_of<Pool>(history, setting).fault.empty()) fault = report_of<Pool>(history, setting);
    }
    if (lie == Lie::kNothingIsCaptured)
      begins_with(fault, fault.starts_with("the host waits")
                             ? "the host waits for the device while a stream is captured"
                             : "the pool records an event on a captured stream");
    else
      begins_with(fault, "race: ");
    CHECK_EQUAL(lie == Lie::kNothingIsCaptured || fault.find(" and then ") != std::string::npos, true);
  }
}

void one_stream_needs_no_event() {
  OnePool one(1024 * kMiB);
  for (int i = 0; i < 100; ++i) one.pool->free(one.pool->allocate(3 * kMiB, 1));
  CHECK_EQUAL(one.pool->statistics().events, std::uint64_t{0});
  CHECK_EQUAL(one.pool->statistics().reserved, 4 * kMiB);
}

// A slow stream keeps what it uses and nothing else.
void a_slow_stream_pins_only_its_own() {
  OnePool one(16 * kMiB);
  Pool& pool = *one.pool;
  void *slow = pool.allocate(4 * kMiB, 1), *quick = pool.allocate(4 * kMiB, 1);
  pool.use(slow, 2), pool.use(quick, 3);
  pool.free(slow), pool.free(quick);
  CHECK_EQUAL(pool.statistics().pending, 8 * kMiB);
  one.world.finish_stream(3);
  pool.allocate(4 * kMiB, 1);
  CHECK_EQUAL(pool.statistics().pending, 4 * kMiB);
  CHECK_EQUAL(pool.statistics().reserved, 8 * kMiB);
  CHECK_EQUAL(one.upstream->waits, 0);
}

// Out of memory with a fitting block in hand is no reason to fail.
void pending_memory_is_waited_for_when_short() {
  OnePool one(8 * kMiB);
  void* const block = one.pool->allocate(8 * kMiB, 1);
  one.pool->use(block, 2);
  one.pool->free(block);
  CHECK_EQUAL(one.pool->allocate(8 * kMiB, 1) == block, true);
  CHECK_EQUAL(one.upstream->waits > 0, true);
}

void pieces_of_several_streams_come_together_when_short() {
  OnePool one(8 * kMiB);
  std::vector<void*> pieces;
  void* const whole = one.pool->allocate(8 * kMiB, 1);
  one.pool->free(whole);
  for (std::uint64_t stream = 1; stream <= 8; ++stream) pieces.push_back(one.pool->allocate(kMiB, stream));
  for (void* piece : pieces) one.pool->free(piece);
  CHECK_EQUAL(one.pool->allocate(8 * kMiB, 9) == whole, true);
}

// Keyed by identity, not by handle: the heir of a handle gets nothing of the dead before its work is over.
void a_recycled_handle_is_another_stream() {
  OnePool one(16 * kMiB);
  const Stream old = one.world.create_stream();
  char* const block = one.allocate(4 * kMiB, old, "work of the dead stream");
  one.pool->free(block);
  one.world.destroy_stream(old);
  const Stream heir = one.world.create_stream();
  CHECK_EQUAL(heir, old);
  CHECK_EQUAL(one.allocate(4 * kMiB, heir, "work of the heir") == block, false);
  one.allocate(8 * kMiB, heir, "more work");
  CHECK_EQUAL(one.upstream->waits > 0, true);  // rather than to hold idle memory beside: it went back
  one.allocate(4 * kMiB, heir, "work with what came again");
}

// Blocks outlive the streams of their work, without a word to the pool: what is free then goes back once.
void a_block_outlives_its_streams() {
  OnePool one(8 * kMiB, true);
  const Stream own = one.world.create_stream(), other = one.world.create_stream();
  char* const block = one.allocate(8 * kMiB, own, "first use");
  one.world.order(other, own);
  one.pool->use(block, other);
  one.world.touch(other, block, 8 * kMiB, "use on another stream");
  one.world.destroy_stream(own);
  one.world.destroy_stream(other);
  one.upstream->lost_a_stream = true;
  const Stream heirs[] = {one.world.create_stream(), one.world.create_stream()};  // of both handles
  one.pool->free(block);
  CHECK_EQUAL(one.pool->statistics().pending, 8 * kMiB);
  one.allocate(8 * kMiB, heirs[0], "use by a stream that came later");
  one.world.check();
}

// A stream whose end the pool was told of: its blocks are shared when its last work is over, without waiting.
void an_ended_stream_leaves_its_blocks() {
  OnePool one(16 * kMiB);
  const Stream old = one.world.create_stream(), other = one.world.create_stream();
  char* const block = one.allocate(4 * kMiB, old, "work of the dead stream");
  one.pool->end_stream(old);
  one.world.finish_stream(old);
  one.world.destroy_stream(old);
  one.pool->free(block);
  CHECK_EQUAL(one.allocate(4 * kMiB, other, "work of another stream") == block, true);
  CHECK_EQUAL(one.upstream->waits, 0);
}

// No event on a captured stream and no waiting while one is captured; what it used comes back when that has ended.
void a_capture_is_left_alone() {
  OnePool one(8 * kMiB);
  Pool& pool = *one.pool;
  const Stream own = one.world.create_stream(), captured = one.world.create_stream();
  char* const block = one.allocate(8 * kMiB, own, "first use");
  one.world.order(captured, own);
  pool.use(block, captured);
  one.world.touch(captured, block, 8 * kMiB, "use before the capture");
  one.world.begin_capture(captured);
  pool.free(block);
  CHECK_THROWS(pool.allocate(8 * kMiB, own), OutOfMemoryError);
  CHECK_EQUAL(pool.trim(), std::uint64_t{0});
  CHECK_EQUAL(pool.statistics().pending, 8 * kMiB);
  CHECK_EQUAL(one.upstream->waits, 0);
  one.world.end_capture(captured);
  CHECK_EQUAL(one.allocate(8 * kMiB, own, "use after the capture") == block, true);
}

// A capture that uses none of the pool's memory, whether the pool knows that stream or not, is no reason to keep any;
// and the host waits for the pool's own streams, by events, as a wait for the device would cost the capture.
void a_foreign_capture_hinders_nothing(bool known, bool pages) {
  OnePool one(8 * kMiB, pages);
  Pool& pool = *one.pool;
  const Stream own = one.world.create_stream(), other = one.world.create_stream(), captured = one.world.create_stream();
  if (known) pool.use(one.allocate(kMiB, own, "use before"), captured);
  pool.trim();
  one.world.begin_capture(captured);
  const std::uint64_t room = known ? 4 * kMiB : 8 * kMiB;
  for (int i = 0; i < 2; ++i) {
    char* const block = one.allocate(room, own, "first use");
    one.world.order(other, own);
    pool.use(block, other);
    one.world.touch(other, block, room, "use on another stream");
    pool.free(block);
    CHECK_EQUAL(pool.statistics().pending, room);
    CHECK_EQUAL(pool.trim(), room);
  }
  CHECK_EQUAL(one.upstream->waits > 0, true);
  one.world.end_capture(captured);
}

// Why a request fails although memory is cached is said.
void a_failure_names_the_capture() {
  OnePool one(8 * kMiB);
  const Stream own = one.world.create_stream(), captured = one.world.create_stream();
  one.pool->free(one.pool->allocate(4 * kMiB, captured));
  const auto message = [&] {
    try {
      one.pool->allocate(8 * kMiB, own);
    } catch (const OutOfMemoryError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  one.world.begin_capture(captured);
  CHECK_EQUAL(message().find("a stream is being captured") != std::string::npos, true);
  one.world.end_capture(captured);
  CHECK_EQUAL(message().empty(), true);
}

// A pool that ends while its memory cannot be waited for takes it away from nobody.
void a_pool_that_cannot_wait_leaves_its_memory() {
  static OnePool one(8 * kMiB);  // what is left is found when the program ends
  const Stream own = one.world.create_stream();
  one.pool->free(one.allocate(8 * kMiB, own, "use before the capture"));
  one.world.begin_capture(own);
  one.pool.reset();
  one.world.check();
  CHECK_EQUAL(one.upstream->held, 8 * kMiB);
}

// The memory of a captured step is there at every launch, whatever is trimmed, until the last is over; and inside,
// blocks follow the stream. Returns the first fault.
std::string launch_a_captured_step(Keep keep) {
  StreamWorld world;
  auto pool = std::make_unique<Pool>(std::make_unique<SimulatedUpstream>(world, 64 * kMiB), Pool::kUnlimited, keep);
  const Stream captured = world.create_stream(), launcher = world.create_stream();
  world.begin_capture(captured);
  char *before = nullptr, *data = nullptr;
  for (int i = 0; i < 3; ++i) {
    data = static_cast<char*>(pool->allocate(3 * kMiB, captured));
    world.touch(captured, data, 3 * kMiB, "layer " + std::to_string(i));
    pool->free(data);
    CHECK_EQUAL(before == nullptr || before == data, true);
    before = data;
  }
  const std::size_t graph = world.end_capture(captured);
  try {
    for (int i = 0; i < 3; ++i) {
      world.launch(graph, launcher);
      pool->trim();
      world.check();
    }
    pool.reset();
    world.check();
  } catch (const std::logic_error& fault) {
    return fault.what();
  }
  return "";
}

void a_graph_keeps_its_memory() {
  CHECK_EQUAL(launch_a_captured_step(Keep::kAlways).empty(), true);
  // The test of the test: a pool that is trimmed pulls the memory away from under the graph.
  CHECK_EQUAL(launch_a_captured_step(Keep::kUntilShort).find("release to the upstream") != std::string::npos, true);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  random_histories_have_no_race(random);
  lies_are_found(random);
  one_stream_needs_no_event();
  a_slow_stream_pins_only_its_own();
  pending_memory_is_waited_for_when_short();
  pieces_of_several_streams_come_together_when_short();
  a_recycled_handle_is_another_stream();
  a_block_outlives_its_streams();
  an_ended_stream_leaves_its_blocks();
  a_capture_is_left_alone();
  for (const bool pages : {false, true}) {
    a_foreign_capture_hinders_nothing(false, pages);
    a_foreign_capture_hinders_nothing(true, pages);
  }
  a_failure_names_the_capture();
  a_pool_that_cannot_wait_leaves_its_memory();
  a_graph_keeps_its_memory();
}
