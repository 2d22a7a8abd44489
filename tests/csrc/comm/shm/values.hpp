// What ranks give in tests of collectives, and what comes out of it. Small integers, different for every rank, place
// and round: sums are exact, whatever the order.
#pragma once
#include "check.hpp"
#include "comm/world.hpp"

inline float value(int rank, std::size_t i, int round) {
  return static_cast<float>((i * 7 + static_cast<std::size_t>(rank) * 13 + static_cast<std::size_t>(round) * 3) % 61);
}

inline void fill(Operand& operand, int rank, int round) {
  for (std::size_t i = 0; i < operand.size(); ++i) operand[i] = value(rank, i, round);
}

inline float sum(int world_size, std::size_t i, int round) {
  float total = 0;
  for (int r = 0; r < world_size; ++r) total += value(r, i, round);
  return total;
}

// The sum in which every rank's values count rank + 1 times.
inline float weighted_sum(int world_size, std::size_t i, int round) {
  float total = 0;
  for (int r = 0; r < world_size; ++r) total += static_cast<float>(r + 1) * value(r, i, round);
  return total;
}

// Runs a reduction, in every other round with its squares, and checks that the ranks' parts of them are those of the
// whole, once. Of an all_reduce the result is the output, of a reduce_scatter all ranks' outputs.
inline void run_measured(pyparallel::shm::Communicator& c, pyparallel::shm::Collective reduction, int round) {
  using namespace pyparallel;
  if (round % 2 == 0) return run(c, reduction);
  double total[2] = {-1.0, -1.0}, own = 0.0;
  reduction.squares = total;
  run(c, reduction);
  const auto* const result = reinterpret_cast<const float*>(reduction.output);
  for (std::size_t i = 0; i < reduction.count; ++i)
    own += static_cast<double>(result[i]) * static_cast<double>(result[i]);
  if (reduction.kind == shm::Kind::kReduceScatter) CHECK_EQUAL(total[0], own);
  CHECK_EQUAL(total[1], 0.0);
  char* const place = reinterpret_cast<char*>(total);
  run(c, {shm::Kind::kAllReduce, DType::kFloat64, shm::Reduction::kSum, 2, 0, place, place});
  if (reduction.kind == shm::Kind::kAllReduce) CHECK_EQUAL(total[0], own);
}
