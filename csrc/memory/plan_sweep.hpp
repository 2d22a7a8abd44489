// Offsets in the order of time: each block at its birth into the smallest gap that is free until it dies.
//
// Of n blocks it takes n log n operations, however many are alive at once: the first plan, which a search improves.
#pragma once
#include "memory/plan.hpp"

namespace pyparallel::memory {

// One offset per lifetime, in bytes. Lifetimes as plan_offsets() wants them.
std::vector<std::uint64_t> sweep_offsets(const std::vector<Lifetime>& lifetimes, std::uint64_t period);

}  // namespace pyparallel::memory
