// Combine: the element-wise reduction of several buffers into several buffers, in rank order.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"

namespace pyparallel::shm {

enum class Reduction : std::uint8_t { kSum, kMean, kMax, kMin, kProduct, kPremultiplied };

const char* name(Reduction reduction);

// Whether values of this dtype are combined so: floats and integers; mean and premultiplied sum of floats only.
bool is_combined(DType dtype, Reduction reduction);

// How sources become one value.
struct Combination {
  Reduction reduction = Reduction::kSum;
  int divisor = 1;                  // kMean: the sum times 1 / divisor
  const double* factors = nullptr;  // kPremultiplied: one per source, multiplied first; a NaN has no payload
};

// Every target[t][i] = sources[0][i] op sources[1][i] op ..., in that order, for `count` elements. A target may be one
// of the sources (the same address), but not overlap one otherwise. 16-bit floats are combined in float and rounded
// once, to nearest even; integers wrap around; max and min let NaN win, as torch does. Factors are multiplied in the
// precision of the sum. Requires is_combined(dtype, combination.reduction).
void combine(char* const* targets, int target_count, const char* const* sources, int source_count, std::int64_t count,
             DType dtype, const Combination& combination);

}  // namespace pyparallel::shm
