// Peers as processes: a killed one is seen within milliseconds and named alike by all, freed memory is unmapped.
#include "comm/shm/peers.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "check.hpp"
#include "comm/shm/communicator.hpp"
#include "core/clock.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using namespace pyparallel::shm;

namespace {

const Patience kPatience{};

#if !defined(__SANITIZE_THREAD__)  // it cannot follow a fork
// Rank 0 reduces with rank 1 in a loop until rank 1, a child process, is killed after `microseconds`.
void a_killed_rank_is_named(int microseconds) {
  const auto control = Communicator::create_control(2);
  const pid_t parent = getpid(), child = fork();
  Communicator communicator(control, child == 0 ? 1 : 0, {parent, child == 0 ? getpid() : child}, 60.0);
  std::vector<float> values(200000, 1.0f);
  const Collective collective{Kind::kAllReduce,
                              DType::kFloat32,
                              Reduction::kMax,
                              values.size(),
                              0,
                              reinterpret_cast<char*>(values.data()),
                              reinterpret_cast<char*>(values.data())};
  const auto reduce_forever = [&] {
    communicator.join(kPatience);
    for (;;) {
      communicator.post(collective);
      communicator.complete(collective, kPatience);
    }
  };
  if (child == 0) reduce_forever();
  std::int64_t killed_at = 0;
  std::thread killer([&] {
    usleep(static_cast<useconds_t>(microseconds));
    killed_at = now_ns();
    kill(child, SIGKILL);  // nobody reaps it before the end: it stays a zombie
  });
  int named = -1;
  try {
    reduce_forever();
  } catch (const PeerLostError& error) {
    named = error.rank;
  }
  const std::int64_t noticed_at = now_ns();
  killer.join();
  CHECK_EQUAL(named, 1);
  CHECK_EQUAL((noticed_at - killed_at) / 1'000'000 < 2000, true);
  waitpid(child, nullptr, 0);
}
#endif

void ranges_are_located() {
  const auto control = Communicator::create_control(1);
  auto& block = *reinterpret_cast<ControlBlock*>(control->data());
  SegmentTable table(block, 0);
  auto segment = SharedSegment::create(1000);
  Operation operation{};
  table.locate(segment->data() + 10, 990, operation);
  CHECK_EQUAL(operation.segment, 0u);
  CHECK_EQUAL(operation.offset, 10u);
  table.locate(segment->data() + 10, 991, operation);  // one byte too long
  CHECK_EQUAL(operation.segment, kPrivate);
  int local = 0;
  table.locate(&local, sizeof local, operation);
  CHECK_EQUAL(operation.segment, kPrivate);
  const char* const gone = segment->data();
  segment.reset();
  table.locate(gone + 10, 10, operation);
  CHECK_EQUAL(operation.segment, kPrivate);
}

// Small segments of many sizes take each other's addresses, and the table follows.
void addresses_are_taken_over() {
  const auto control = Communicator::create_control(1);
  auto& block = *reinterpret_cast<ControlBlock*>(control->data());
  SegmentTable table(block, 0);
  std::vector<std::shared_ptr<SharedSegment>> segments(4);
  for (std::uint64_t turn = 0; turn < 400; ++turn) {
    auto& segment = segments[turn * 7 % 4];
    segment.reset();
    segment = SharedSegment::create((1 + turn * 5 % 9) << 12);
    for (const auto& live : segments) {
      if (!live) continue;
      const Place place = table.locate(live->data() + live->num_bytes() - 1, 1);
      CHECK_EQUAL(block.rank(0).segments[place.segment].fd.load(), live->fd());
      CHECK_EQUAL(place.offset, live->num_bytes() - 1);
    }
  }
}

void entries_are_reused_and_limited() {
  const auto control = Communicator::create_control(1);
  SegmentTable table(*reinterpret_cast<ControlBlock*>(control->data()), 0);
  for (int round = 0; round < 2000; ++round) table.locate(SharedSegment::create(1)->data(), 1);
  std::vector<std::shared_ptr<SharedSegment>> kept;
  for (std::uint32_t i = 0; i <= kMaxSegments; ++i) kept.push_back(SharedSegment::create(1));
  for (std::uint32_t i = 0; i < kMaxSegments; ++i) table.locate(kept[i]->data(), 1);
  CHECK_THROWS(table.locate(kept[kMaxSegments]->data(), 1), InvalidArgument);
  kept.erase(kept.begin());
  CHECK_EQUAL(table.locate(kept[kMaxSegments - 1]->data(), 1).segment, 0u);
}

void a_reused_entry_is_mapped_anew() {
  const auto control = Communicator::create_control(1);
  auto& block = *reinterpret_cast<ControlBlock*>(control->data());
  SegmentTable table(block, 0);
  PeerMemory memory(block, {getpid()});
  for (char mark : {'a', 'b', 'c'}) {
    const auto segment = SharedSegment::create(100);
    segment->data()[5] = mark;
    Operation operation{};
    table.locate(segment->data() + 5, 1, operation);
    CHECK_EQUAL(*memory.map(0, operation), mark);
    memory.sweep();
  }
}

void absurd_sizes_are_refused() {
  try {
    SharedSegment::create(std::uint64_t{1} << 55);
    CHECK_EQUAL(true, false);
  } catch (const OutOfMemoryError& error) {
    CHECK_EQUAL(error.requested, std::uint64_t{1} << 55);
    CHECK_EQUAL(error.available, available_memory() > 0 ? error.available : 0);
  }
}

}  // namespace

int main() {
  ranges_are_located();
  addresses_are_taken_over();
  entries_are_reused_and_limited();
  a_reused_entry_is_mapped_anew();
  absurd_sizes_are_refused();
#if !defined(__SANITIZE_THREAD__)
  std::mt19937_64 random = fresh_random();
  for (int round = 0; round < 8; ++round) a_killed_rank_is_named(static_cast<int>(random() % 60000));
#endif
}
