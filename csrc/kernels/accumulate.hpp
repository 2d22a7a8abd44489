// Accumulate: the element-wise combination of a few buffers into one, as a ring or a direct reduction takes them.
// Contract and per-element math.
#pragma once
#include <cstdint>
#include <type_traits>

#include "core/dtype.hpp"
#include "core/macros.hpp"
#include "kernels/reduce.hpp"

namespace pyparallel {

enum class Accumulation : std::uint8_t { kSum, kProduct, kMax, kMin };

inline constexpr int kMaxSources = 64;

// output[i] = (sources[0][i] * factors[0] op sources[1][i] * factors[1] op ...) * scale, from left to right and rounded
// to the dtype once. 16-bit floats are combined in float, all other dtypes in their own; a product with a factor is
// rounded before it is added. max and min let NaN win, as torch does. Integers wrap around.
struct AccumulateCall {
  void* output;                // may be a source itself (the same address), but not overlap one otherwise
  const void* const* sources;  // `source_count` arrays, 1 to kMaxSources
  int source_count;
  std::int64_t count;  // elements of each
  DType dtype;
  Accumulation op = Accumulation::kSum;
  const double* factors = nullptr;  // one per source, or null; floating dtypes only
  double scale = 1.0;               // floating dtypes only
};

// What both loops refuse: negative sizes, null pointers with elements behind them, more sources than there may be,
// factors of integers, squares of anything but sums of floating dtypes. Throws InvalidArgument.
void check_accumulate(const AccumulateCall& call, bool squares);

// `squares`: null, or two doubles (sums of floating dtypes only). The sum of squares of the result, as it was rounded,
// is added to squares[0]; squares[1] becomes 1.0 if an element of the result is inf or NaN. Returns when done.
void accumulate_cpu(const AccumulateCall& call, double* squares, int threads);

#if PYPARALLEL_CUDA
// The same on `device`, enqueued on `stream` (a cudaStream_t); never synchronises, may be captured. Throws CudaError.
//
// `partials`: null, or accumulate_partials(count) of them on the device, overwritten with the parts of the result's sum
// of squares (sums of floating dtypes only). A ring gives every call a place of its own behind the last and adds them
// up in the end, in one launch: add_partials_cuda of reduce.hpp. The order of summation follows from the count, the
// dtype and the addresses modulo 16; neither the device nor timing changes a bit.
std::int64_t accumulate_partials(std::int64_t count);
void accumulate_cuda(const AccumulateCall& call, SquaresPartial* partials, int device, void* stream);
#endif

// ---- per-element math; Value is the type that is combined in ----

// Integers wrap around, which C++ promises for unsigned types alone.
template <class Value>
using Wrapping = std::conditional_t<!std::is_integral_v<Value>, Value,
                                    std::conditional_t<sizeof(Value) == 8, std::uint64_t, std::uint32_t>>;

struct SumOf {
  template <class Value>
  PP_HOST_DEVICE static Value combine(Value a, Value b) {
    return static_cast<Value>(static_cast<Wrapping<Value>>(a) + static_cast<Wrapping<Value>>(b));
  }
};
struct ProductOf {
  template <class Value>
  PP_HOST_DEVICE static Value combine(Value a, Value b) {
    return static_cast<Value>(static_cast<Wrapping<Value>>(a) * static_cast<Wrapping<Value>>(b));
  }
};
// `a > b ? a : b` alone would drop a NaN in `b`; x != x is how a NaN is seen without a call.
struct MaxOf {
  template <class Value>
  PP_HOST_DEVICE static Value combine(Value a, Value b) {
    return a > b || a != a ? a : b;
  }
};
struct MinOf {
  template <class Value>
  PP_HOST_DEVICE static Value combine(Value a, Value b) {
    return a < b || a != a ? a : b;
  }
};

}  // namespace pyparallel
