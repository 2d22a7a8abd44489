// Reduce: the sum of squares of a list of tensors and whether any element is not finite, in one read. Contract and
// math.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"
#include "core/macros.hpp"

namespace pyparallel {

struct ReduceItem {
  const void* tensor;  // dense, read
  std::int64_t numel;
};

// What both loops refuse: negative sizes, null pointers with elements behind them. Throws InvalidArgument.
void check_reduce_items(const ReduceItem* items, std::int64_t count);

// result[0] = sum over all elements of x^2, result[1] = 1.0 if any element is inf or NaN, else 0.0; both double. The
// order of summation depends on the sizes only, never on the number of threads: the result is reproducible bit for bit.
// dtypes: float32, float64, bfloat16, float16.
void sum_of_squares_cpu(const ReduceItem* items, std::int64_t count, DType dtype, double* result, int threads);

// The sum of squares of a part of the elements, and 1.0 if one of them is inf or NaN, else 0.0.
struct SquaresPartial {
  double sum, not_finite;
};

#if PYPARALLEL_CUDA
// The same on `device`, enqueued on `stream` (a cudaStream_t); `result` is two doubles on the device, overwritten.
// Needs `workspace`: sum_of_squares_workspace(items, count) bytes on the device, aligned to 8, used until the stream
// has passed. Never synchronises. Throws CudaError.
std::int64_t sum_of_squares_workspace(const ReduceItem* items, std::int64_t count);
void sum_of_squares_cuda(const ReduceItem* items, std::int64_t count, DType dtype, double* result, void* workspace,
                         int device, void* stream);

// Adds `count` partials on the device, in a fixed order, to result[0]; result[1] becomes 1.0 if one has met inf or NaN.
// One launch, enqueued on `stream`.
void add_partials_cuda(const SquaresPartial* partials, std::int64_t count, double* result, int device, void* stream);
#endif

}  // namespace pyparallel
