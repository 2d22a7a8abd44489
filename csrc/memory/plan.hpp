// Dynamic storage allocation: offsets for blocks whose lifetimes are known beforehand, so that blocks alive at the same
// time share no byte and the whole is small. Time runs in a circle, because steps repeat:
//
//   time   0 . . . . birth . . . . period-1 | 0 . . . death . . .
//   alive            [=====================================)          death - birth <= period
//
// The problem is NP-hard. A sweep over time is the first plan (plan_sweep.hpp). Then blocks are put one after the other
// at their lowest free offset; an order decides everything, and some order leads to an optimum (its own, by offset).
// Greedy orders come first, then a local search that moves the blocks at the top forward; of a few blocks all orders
// are tried. Equal inputs give equal offsets on every machine.
#pragma once
#include <cstdint>
#include <vector>

namespace pyparallel::memory {

struct Lifetime {
  std::uint64_t num_bytes;  // a multiple of kAlignment
  std::uint64_t birth;      // below the period
  std::uint64_t death;      // in (birth, birth + period]
};

struct Plan {
  std::vector<std::uint64_t> offsets;  // by lifetime, multiples of kAlignment
  std::uint64_t num_bytes;             // where the highest block ends
  std::uint64_t lower_bound;           // the most bytes alive at once: no plan needs less
};

// `budget`: about how many operations the search may take (some 10 ns each); the sweep is always completed.
// Throws InvalidArgument for a lifetime that is not as above.
inline constexpr std::uint64_t kPlanBudget = 20'000'000;
Plan plan_offsets(const std::vector<Lifetime>& lifetimes, std::uint64_t period, std::uint64_t budget = kPlanBudget);

}  // namespace pyparallel::memory
