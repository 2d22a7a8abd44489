// Every collective on every way (slots, shared, one and two phases, lanes, ring), with threads as ranks: values,
// mismatches, leaving.
#include "comm/shm/communicator.hpp"

#include <atomic>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "comm/shm/values.hpp"
#include "core/error.hpp"

using namespace pyparallel;
using shm::Collective;
using shm::Communicator;
using shm::Kind;
using shm::Reduction;

namespace {

Collective collective(Kind kind, Reduction reduction, std::size_t count, float* input, float* output, int root = 0) {
  return {kind,
          DType::kFloat32,
          reduction,
          count,
          root,
          reinterpret_cast<const char*>(input),
          reinterpret_cast<char*>(output)};
}

void all_reduces(Communicator& c, std::size_t count, bool shared, int round) {
  Operand x(count, shared);
  fill(x, c.rank(), round);
  run_measured(c, collective(Kind::kAllReduce, Reduction::kSum, count, x.data(), x.data()), round);
  for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(x[i], sum(c.world_size(), i, round));
}

void broadcasts(Communicator& c, std::size_t count, bool shared, int round) {
  const int root = round % c.world_size();
  Operand x(count, shared);
  fill(x, c.rank(), round);
  run(c, collective(Kind::kBroadcast, Reduction::kSum, count, x.data(), x.data(), root));
  for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(x[i], value(root, i, round));
}

void all_gathers(Communicator& c, std::size_t count, bool shared, int round) {
  const auto ranks = static_cast<std::size_t>(c.world_size());
  Operand input(count, shared), output(count * ranks, false);
  fill(input, c.rank(), round);
  run(c, collective(Kind::kAllGather, Reduction::kSum, count, input.data(), output.data()));
  for (std::size_t r = 0; r < ranks; ++r)
    for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(output[r * count + i], value(static_cast<int>(r), i, round));
}

void reduce_scatters(Communicator& c, std::size_t count, bool shared, int round) {
  const auto ranks = static_cast<std::size_t>(c.world_size());
  Operand input(count * ranks, shared), output(count, false);
  fill(input, c.rank(), round);
  run_measured(c, collective(Kind::kReduceScatter, Reduction::kSum, count, input.data(), output.data()), round);
  for (std::size_t i = 0; i < count; ++i)
    CHECK_EQUAL(output[i], sum(c.world_size(), static_cast<std::size_t>(c.rank()) * count + i, round));
}

void reduces(Communicator& c, std::size_t count, bool shared, int round) {
  const int root = round % c.world_size();
  Operand x(count, shared);
  fill(x, c.rank(), round);
  Collective reduce = collective(Kind::kReduce, Reduction::kPremultiplied, count, x.data(), x.data(), root);
  reduce.factor = c.rank() + 1;
  run(c, reduce);
  for (std::size_t i = 0; i < count; ++i)
    CHECK_EQUAL(x[i], c.rank() == root ? weighted_sum(c.world_size(), i, round) : value(c.rank(), i, round));
}

void gathers(Communicator& c, std::size_t count, bool shared, int round) {
  const auto ranks = static_cast<std::size_t>(c.world_size());
  const int root = round % c.world_size();
  Operand input(count, shared), output(count * ranks, shared);
  fill(input, c.rank(), round);
  run(c, collective(Kind::kGather, Reduction::kSum, count, input.data(), c.rank() == root ? output.data() : nullptr,
                    root));
  if (c.rank() == root)
    for (std::size_t r = 0; r < ranks; ++r)
      for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(output[r * count + i], value(static_cast<int>(r), i, round));
}

void scatters(Communicator& c, std::size_t count, bool shared, int round) {
  const int root = round % c.world_size();
  Operand input(count * static_cast<std::size_t>(c.world_size()), shared), output(count, shared);
  fill(input, c.rank(), round);
  run(c, collective(Kind::kScatter, Reduction::kSum, count, c.rank() == root ? input.data() : nullptr, output.data(),
                    root));
  for (std::size_t i = 0; i < count; ++i)
    CHECK_EQUAL(output[i], value(root, static_cast<std::size_t>(c.rank()) * count + i, round));
}

// What rank `from` sends to rank `to`: nothing, little or about `count`, the same on all ranks.
std::uint64_t part(std::size_t count, int from, int to, int round) {
  return count * static_cast<std::size_t>((from * 2 + to + round) % 3) / 2 + static_cast<std::size_t>(from == to);
}

void all_to_alls(Communicator& c, std::size_t count, bool shared, int round, bool equal) {
  const int ranks = c.world_size(), rank = c.rank();
  const auto size = [&](int from, int to) { return equal ? count : part(count, from, to, round); };
  std::vector<std::uint64_t> sent, expected;
  std::size_t input_count = 0, output_count = 0;
  for (int r = 0; r < ranks; ++r) {
    sent.push_back(size(rank, r));
    expected.push_back(size(r, rank));
    input_count += sent.back();
    output_count += expected.back();
  }
  Operand input(input_count, shared), output(output_count, false);
  fill(input, rank, round);
  Collective all_to_all = collective(Kind::kAllToAll, Reduction::kSum, 0, input.data(), output.data());
  all_to_all.set_sizes(ranks, expected, sent);
  CHECK_EQUAL(all_to_all.count == shm::kUnequal, !equal && (all_to_all.input_sizes == sent));
  run(c, all_to_all);
  std::size_t at = 0;
  for (int from = 0; from < ranks; ++from) {
    std::size_t begin = 0;
    for (int to = 0; to < rank; ++to) begin += size(from, to);
    for (std::size_t i = 0; i < size(from, rank); ++i) CHECK_EQUAL(output[at++], value(from, begin + i, round));
  }
}

void rings(Communicator& c, std::size_t count, bool shared, int round) {
  const auto ranks = static_cast<std::size_t>(c.world_size());
  Operand x(count, shared), input(count * ranks, shared), output(count, false);
  fill(x, c.rank(), round);
  Collective all_reduce = collective(Kind::kAllReduce, Reduction::kPremultiplied, count, x.data(), x.data());
  all_reduce.algorithm = shm::Algorithm::kRing;
  all_reduce.factor = c.rank() + 1;
  run_measured(c, all_reduce, round);
  for (std::size_t i = 0; i < count; ++i) CHECK_EQUAL(x[i], weighted_sum(c.world_size(), i, round));
  fill(input, c.rank(), round);
  Collective scatter = collective(Kind::kReduceScatter, Reduction::kSum, count, input.data(), output.data());
  scatter.algorithm = shm::Algorithm::kRing;
  run_measured(c, scatter, round);
  for (std::size_t i = 0; i < count; ++i)
    CHECK_EQUAL(output[i], sum(c.world_size(), static_cast<std::size_t>(c.rank()) * count + i, round));
}

void all_values_are_right(int world_size) {
  with_world(world_size, [](Communicator& c) {
    int round = 0;
    // Around the slot (128 KiB of 2 ranks, 64 KiB of 4), the piece (256 KiB) and their double buffering.
    for (std::size_t count : {0, 1, 17, 2048, 16384, 16385, 32767, 32768, 32769, 65535, 65537, 200003})
      for (int mode = 0; mode < 3; ++mode) {
        const bool shared = mode == 1 || (mode == 2 && c.rank() == 0);  // private, shared, mixed
        for (const auto operation : {all_reduces, broadcasts, all_gathers, reduce_scatters, reduces, gathers, scatters})
          operation(c, count, shared, ++round);
        if (mode != 1) rings(c, count, shared, ++round);
        all_to_alls(c, count, shared, ++round, true);
        all_to_alls(c, count, shared, ++round, false);
        run(c, Collective{});
      }
  });
}

// Operations of all ways in a random order without a barrier between them, so that one's last pieces meet the next.
void ways_may_follow_each_other(int world_size, unsigned seed) {
  with_world(world_size, [seed](Communicator& c) {
    std::mt19937 same(seed), own(seed + 1 + static_cast<unsigned>(c.rank()));
    for (int round = 0; round < 60; ++round) {
      const std::size_t count = std::vector<std::size_t>{3, 5000, 40000, 140000}[same() % 4];
      const bool shared = own() % 2 == 0;
      switch (same() % 8) {
        case 0:
          all_to_alls(c, count, shared, round, same() % 2 == 0);
          break;
        case 1:
          rings(c, count, shared, round);
          break;
        case 2:
          reduces(c, count, shared, round);
          break;
        case 3:
          gathers(c, count, shared, round);
          break;
        case 4:
          scatters(c, count, shared, round);
          break;
        case 5:
          all_reduces(c, count, shared, round);
          break;
        case 6:
          reduce_scatters(c, count, shared, round);
          break;
        default:
          broadcasts(c, count, shared, round);
      }
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
    Operand x(100, false);
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

void sizes_that_do_not_meet_are_named_on_all_ranks() {
  std::atomic<int> named{0};
  with_world(3, [&](Communicator& c) {
    Operand x(300, false), y(300, false);
    Collective all_to_all = collective(Kind::kAllToAll, Reduction::kSum, 0, x.data(), y.data());
    const std::uint64_t expected = c.rank() == 2 ? 7 : 5;  // from rank 0
    all_to_all.set_sizes(3, {expected, 5, 5}, {5, 5, 5});
    try {
      run(c, all_to_all);
    } catch (const CollectiveMismatchError& error) {
      named += std::strstr(error.what(), "rank 0 sends 5 x float32 to rank 2") != nullptr &&
               std::strstr(error.what(), "expects 7 x float32") != nullptr;
    }
  });
  CHECK_EQUAL(named.load(), 3);
}

void wrong_arguments_are_refused() {
  float x[12];
  const auto wrong = [&](Kind kind, std::size_t count, float* input, float* output) {
    return [=] { shm::validate(collective(kind, Reduction::kSum, count, input, output, 1), 1, 2); };
  };
  CHECK_THROWS(wrong(Kind::kAllGather, 4, x, x)(), InvalidArgument);  // the part of rank 0
  wrong(Kind::kAllGather, 4, x + 4, x)();
  CHECK_THROWS(wrong(Kind::kAllGather, 4, x + 5, x)(), InvalidArgument);
  CHECK_THROWS(wrong(Kind::kReduceScatter, 4, x, x)(), InvalidArgument);
  wrong(Kind::kReduceScatter, 4, x, x + 4)();
  wrong(Kind::kReduceScatter, 4, x, x + 8)();
  CHECK_THROWS(wrong(Kind::kAllToAll, 4, x, x)(), InvalidArgument);
  CHECK_THROWS(wrong(Kind::kAllToAll, 4, x, x + 4)(), InvalidArgument);
  CHECK_THROWS(wrong(Kind::kAllReduce, 4, x, x + 2)(), InvalidArgument);
  CHECK_THROWS(wrong(Kind::kBroadcast, 4, nullptr, nullptr)(), InvalidArgument);
  CHECK_THROWS(wrong(Kind::kGather, 4, x, nullptr)(), InvalidArgument);  // on the root
  Collective bad = collective(Kind::kBroadcast, Reduction::kSum, 4, x, x, 2);
  CHECK_THROWS(shm::validate(bad, 1, 2), InvalidArgument);  // no such root
  bad = collective(Kind::kAllToAll, Reduction::kSum, 0, x, x + 6);
  bad.set_sizes(3, {2, 2}, {2, 2});
  CHECK_THROWS(shm::validate(bad, 1, 3), InvalidArgument);  // two sizes, three ranks
  bad = collective(Kind::kAllReduce, Reduction::kMean, 4, x, x);
  bad.dtype = DType::kInt32;
  CHECK_THROWS(shm::validate(bad, 1, 2), InvalidArgument);
  double squares[2];
  bad.reduction = Reduction::kSum;
  bad.squares = squares;  // of integers
  CHECK_THROWS(shm::validate(bad, 1, 2), InvalidArgument);
  bad.dtype = DType::kFloat32;
  shm::validate(bad, 1, 2);
  bad.kind = Kind::kReduce;
  CHECK_THROWS(shm::validate(bad, 1, 2), InvalidArgument);
  bad.kind = Kind::kAllReduce;
  bad.reduction = Reduction::kMax;
  CHECK_THROWS(shm::validate(bad, 1, 2), InvalidArgument);
  bad.squares = nullptr;
  bad.dtype = DType::kBool;
  CHECK_THROWS(shm::validate(bad, 1, 2), InvalidArgument);
  CHECK_THROWS(Communicator::create_control(0), InvalidArgument);
  CHECK_THROWS(Communicator::create_control(100000), InvalidArgument);
}

void who_leaves_is_named() {
  std::atomic<int> named{0};
  with_world(3, [&](Communicator& c) {
    if (c.rank() == 1) return;
    Operand x(100, false);
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
  std::mt19937_64 random = fresh_random();
  for (int world_size : {2, 3, 5}) ways_may_follow_each_other(world_size, static_cast<unsigned>(random()));
  for (int world_size : {2, 5}) many_small_ones_in_a_row(world_size);
  disagreement_is_named_on_all_ranks();
  sizes_that_do_not_meet_are_named_on_all_ranks();
  wrong_arguments_are_refused();
  who_leaves_is_named();
  deadline_names_who_is_missing();
  an_abandoned_wait_ends();
  world_sizes_must_agree();
}
