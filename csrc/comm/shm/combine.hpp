// Combine: the element-wise reduction of several buffers into several buffers, in rank order.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"

namespace pyparallel::shm {

enum class Reduction : std::uint8_t { kSum, kMean, kMax, kMin };

const char* name(Reduction reduction);

// Every target[t][i] = sources[0][i] op sources[1][i] op ..., in that order, for `count` elements. A target may be one
// of the sources (the same address), but not overlap one otherwise. 16-bit floats are summed in float and rounded once;
// mean divides the sum by `source_count` (floating dtypes only); max and min let NaN win, as torch does.
void combine(char* const* targets, int target_count, const char* const* sources, int source_count, std::int64_t count,
             DType dtype, Reduction reduction);

}  // namespace pyparallel::shm
