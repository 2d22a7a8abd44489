// Every collective on every way (slots, shared, one and two phases), with threads as ranks: values, mismatches,
// leaving.
#include "comm/shm/communicator.hpp"

#include <atomic>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "comm/world.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using shm::Collective;
using shm::Communicator;
using shm::Kind;
using shm::Reduction;

namespace {

// Small integers: sums are exact, whatever the order. Different for every rank, place and round.
float value(int rank, std::size_t i, int round) {
  return static_cast<float>((i * 7 + static_cast<std::size_t>(rank) * 13 + static_cast<std::size_t>(round) * 3) % 61);
}

Collective collective(Kind kind, Reduction reduction, std::size_t count, float* input, float* output, int root = 0) {
  return {kind,
          DType::kFloat32,
          reduction,
          count,
          root,
          reinterpret_cast<const char*>(input),
          reinterpret_cast<char*>(output)};
}

float sum(int world_size, std::size_t i, int round) {
  float total = 0;
  for (int r = 0; r < world_size; ++r) total += value(r, i, round);
  return total;
}

void fill(Operand& operand, int rank, int round) {
  for (std::size_t i = 0; i < operand.size(); ++i) operand[i] = value(rank, i, round);
}

void all_reduces(Communicator& c, std::size_t count, bool shared, int round) {
  Operand x(c, count, shared);
  fill(x, c.rank(), round);
  run(c, collective(Kind::kAllReduce, Reduction::kSum, count, x.data(), x.data()));
  for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(x[i], sum(c.world_size(), i, round));
}

void broadcasts(Communicator& c, std::size_t count, bool shared, int round) {
  const int root = round % c.world_size();
  Operand x(c, count, shared);
  fill(x, c.rank(), round);
  run(c, collective(Kind::kBroadcast, Reduction::kSum, count, x.data(), x.data(), root));
  for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(x[i], value(root, i, round));
}

void all_gathers(Communicator& c, std::size_t count, bool shared, int round) {
  const auto ranks = static_cast<std::size_t>(c.world_size());
  Operand input(c, count, shared), output(c, count * ranks, false);
  fill(input, c.rank(), round);
  run(c, collective(Kind::kAllGather, Reduction::kSum, count, input.data(), output.data()));
  for (std::size_t r = 0; r < ranks; ++r)
    for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(output[r * count + i], value(static_cast<int>(r), i, round));
}

void reduce_scatters(Communicator& c, std::size_t count, bool shared, int round) {
  const auto ranks = static_cast<std::size_t>(c.world_size());
  Operand input(c, count * ranks, shared), output(c, count, false);
  fill(input, c.rank(), round);
  run(c, collective(Kind::kReduceScatter, Reduction::kSum, count, input.data(), output.data()));
  for (std::size_t i = 0; i < count; ++i)
    CHECK_EQUAL(output[i], sum(c.world_size(), static_cast<std::size_t>(c.rank()) * count + i, round));
}

void all_values_are_right(int world_size) {
  with_world(world_size, [](Communicator& c) {
    int round = 0;
    // Around the slot (32 KiB), the piece (256 KiB) and their double buffering.
    for (std::size_t count : {0, 1, 17, 2048, 8191, 8192, 8193, 65535, 65537, 200003})
      for (int mode = 0; mode < 3; ++mode) {
        const bool shared = mode == 1 || (mode == 2 && c.rank() == 0);  // private, shared, mixed
        all_reduces(c, count, shared, ++round);
        broadcasts(c, count, shared, ++round);
        all_gathers(c, count, shared, ++round);
        reduce_scatters(c, count, shared, ++round);
        run(c, Collective{});
      }
  });
}

void many_small_ones_in_a_row(int world_size) {
  with_world(world_size, [](Communicator& c) {
    for (int round = 0; round < 300; ++round) all_reduces(c, static_cast<std::size_t>(1 + round % 5), false, round);
  });
}

void disagreement_is_named_on_all_ranks() {
  std::atomic<int> named{0};
  with_world(3, [&](Communicator& c) {
    Operand x(c, 100, false);
    const std::size_t count = c.rank() == 2 ? 99 : 100;
    try {
      run(c, collective(Kind::kAllReduce, Reduction::kSum, count, x.data(), x.data()));
    } catch (const CollectiveMismatchError& error) {
      const bool both = std::strstr(error.what(), "100 x float32") && std::strstr(error.what(), "99 x float32");
      if (both) ++named;
    }
  });
  CHECK_EQUAL(named.load(), 3);
}

void who_leaves_is_named() {
  std::atomic<int> named{0};
  with_world(3, [&](Communicator& c) {
    if (c.rank() == 1) return;
    Operand x(c, 100, false);
    try {
      run(c, collective(Kind::kAllReduce, Reduction::kSum, 100, x.data(), x.data()));
    } catch (const PeerLostError& error) {
      named += error.rank == 1;
    }
  });
  CHECK_EQUAL(named.load(), 2);
}

void deadline_names_who_is_missing() {
  std::atomic<bool> done{false};
  with_world(
      2,
      [&](Communicator& c) {
        if (c.rank() == 1) {
          while (!done) std::this_thread::yield();
          return;
        }
        CHECK_THROWS(run(c, Collective{}), CollectiveTimeoutError);
        done = true;
      },
      0.2);
}

void an_abandoned_wait_ends() {
  std::atomic<bool> done{false};
  with_world(2, [&](Communicator& c) {
    if (c.rank() == 1) {
      while (!done) std::this_thread::yield();
      return;
    }
    std::thread other([&] { c.abandon(); });
    CHECK_THROWS(run(c, Collective{}), shm::Interrupted);
    other.join();
    done = true;
  });
}

void world_sizes_must_agree() {
  const auto control = Communicator::create_control(2);
  CHECK_THROWS(Communicator(control, 0, std::vector<int>(3, getpid()), 1.0), InvalidArgument);
}

}  // namespace

int main() {
  for (int world_size : {1, 2, 3, 4}) all_values_are_right(world_size);
  for (int world_size : {2, 5}) many_small_ones_in_a_row(world_size);
  disagreement_is_named_on_all_ranks();
  who_leaves_is_named();
  deadline_names_who_is_missing();
  an_abandoned_wait_ends();
  world_sizes_must_agree();
}
