// Sums of squares on CUDA: how a run of elements is squared and added, and what a block leaves of its runs.
//
// A thread adds the squares of one run (16 bytes of elements) in float and the runs in double: double work is paid once
// per run, float rounding touches at most eight terms. A float sum that may have lost something, because it overflowed,
// came near underflow or met inf or NaN, is thrown away and the run, still in registers, is summed in double. There the
// square of a finite 16- or 32-bit float is finite, so a run that is still not finite holds such an element.
#pragma once
#include <cfloat>

#include "core/gpu_math.cuh"
#include "kernels/reduce.hpp"

namespace pyparallel {

template <class T>
inline constexpr int kRun = kAccessBytes / static_cast<int>(sizeof(T));

// Below this a float sum of squares may have lost bits to underflow: eight roundings at 2^-150 are under 2^-46 of it.
inline constexpr float kSmallestExact = 0x1p-100f;

template <class T>
__device__ __forceinline__ double sum_run(const Lanes<T, kRun<T>>& run, bool& not_finite) {
  if constexpr (!std::is_same_v<T, double>) {
    float fast = 0.0f;
#pragma unroll
    for (int k = 0; k < kRun<T>; ++k) {
      const float value = widen_to<float>(run.at[k]);
      fast = fused_multiply_add(value, value, fast);
    }
    if (fast >= kSmallestExact && fast <= FLT_MAX) return fast;
  }
  double sum = 0.0;
#pragma unroll
  for (int k = 0; k < kRun<T>; ++k) {
    const double value = widen_to<double>(run.at[k]);
    sum += value * value;
    not_finite |= !isfinite(value);
  }
  return sum;
}

// All threads of the block take part.
__device__ __forceinline__ void store_partial(double sum, bool not_finite, SquaresPartial* target) {
  sum = block_sum(sum);
  const bool any_not_finite = __syncthreads_or(not_finite);
  if (threadIdx.x == 0) *target = {sum, any_not_finite ? 1.0 : 0.0};
}

}  // namespace pyparallel
