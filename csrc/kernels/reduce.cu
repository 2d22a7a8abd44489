// Sum of squares and non-finite flag on CUDA: one partial per chunk, then one block adds the partials in a fixed order.
//
// Order. Runs are counted from the start of a tensor and chunks depend on sizes alone, so neither the device nor an
// address changes a bit of the result. A misaligned tensor reads the same runs element by element.
#include <string>

#include "core/chunk_table.hpp"
#include "core/device_guard.hpp"
#include "core/error.hpp"
#include "core/gpu_math.cuh"
#include "kernels/reduce.hpp"
#include "kernels/squares.cuh"

namespace pyparallel {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kFinalThreads = 512;

// ---- kernels ----

// Elements [first, first + kRun) of the tensor, zero from `end` on.
template <class T>
__device__ __forceinline__ Lanes<T, kRun<T>> load_run(const T* tensor, std::int64_t first, std::int64_t end,
                                                      bool wide) {
  if (wide && first + kRun<T> <= end) return load_lanes<kRun<T>>(tensor + first);
  Lanes<T, kRun<T>> run;
#pragma unroll
  for (int k = 0; k < kRun<T>; ++k) run.at[k] = first + k < end ? tensor[first + k] : narrow_to<T>(0.0f);
  return run;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    partial_sums_kernel(const __grid_constant__ ChunkTable<ReduceItem> table, SquaresPartial* partials) {
  constexpr int kBatch = 4;  // runs a thread asks for before it waits
  const ChunkIndex index = find_chunk(table, blockIdx.x);
  const T* const tensor = static_cast<const T*>(table.items[index.item].tensor);
  const std::int64_t begin = index.number * table.chunk;
  const std::int64_t numel = table.items[index.item].numel;
  const std::int64_t end = begin + table.chunk < numel ? begin + table.chunk : numel;
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) * kRun<T>;
  const bool wide = is_wide(tensor);
  double sum = 0.0;
  bool not_finite = false;
  std::int64_t first = begin + threadIdx.x * kRun<T>;
  for (; wide && first + (kBatch - 1) * stride + kRun<T> <= end; first += kBatch * stride) {
    Lanes<T, kRun<T>> runs[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) runs[b] = load_lanes<kRun<T>>(tensor + first + b * stride);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) sum += sum_run<T>(runs[b], not_finite);
  }
  for (; first < end; first += stride) sum += sum_run<T>(load_run(tensor, first, end, wide), not_finite);
  store_partial(sum, not_finite, partials + blockIdx.x);
}

// One block. Thread t adds partials t, t + blockDim, ... in that order. `add`: to what is in `result`.
__global__ void __launch_bounds__(kFinalThreads)
    final_sum_kernel(const SquaresPartial* partials, std::int64_t count, double* result, bool add) {
  double sum = 0.0;
  bool not_finite = false;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    const SquaresPartial partial = partials[i];
    sum += partial.sum;
    not_finite |= partial.not_finite != 0.0;
  }
  sum = block_sum(sum);
  const bool any_not_finite = __syncthreads_or(not_finite);
  if (threadIdx.x != 0) return;
  result[0] = add ? result[0] + sum : sum;
  if (any_not_finite || !add) result[1] = any_not_finite ? 1.0 : 0.0;
}

// ---- launchers ----

// Depends on the sizes alone, never on the device. About 8 Ki partials at most: few enough for one block.
std::int64_t reduce_chunk(const ReduceItem* items, std::int64_t count) {
  return chunk_for_blocks(total_numel(items, count), 8192);
}

std::int64_t count_partials(const ReduceItem* items, std::int64_t count) {
  const std::int64_t chunk = reduce_chunk(items, count);
  std::int64_t partials = 0;
  for (std::int64_t i = 0; i < count; ++i) partials += chunk_count(items[i].numel, chunk);
  return partials;
}

using PartialKernel = void (*)(const ChunkTable<ReduceItem>, SquaresPartial*);

PartialKernel kernel_for(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return partial_sums_kernel<float>;
    case DType::kFloat64:
      return partial_sums_kernel<double>;
    case DType::kBFloat16:
      return partial_sums_kernel<__nv_bfloat16>;
    case DType::kFloat16:
      return partial_sums_kernel<__half>;
    default:
      throw InvalidArgument(std::string("sum_of_squares: no kernel for ") + name(dtype));
  }
}

}  // namespace

std::int64_t sum_of_squares_workspace(const ReduceItem* items, std::int64_t count) {
  check_reduce_items(items, count);
  return count_partials(items, count) * static_cast<std::int64_t>(sizeof(SquaresPartial));
}

void sum_of_squares_cuda(const ReduceItem* items, std::int64_t count, DType dtype, double* result, void* workspace,
                         int device, void* stream_handle) {
  const PartialKernel kernel = kernel_for(dtype);
  check_reduce_items(items, count);
  const DeviceGuard guard(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  SquaresPartial* const partials = static_cast<SquaresPartial*>(workspace);
  std::int64_t done = 0;
  for_each_table<ReduceItem>(
      items, count, reduce_chunk(items, count), [](const ReduceItem& item) { return item; },
      [&](const ChunkTable<ReduceItem>& table, std::int64_t blocks) {
        launch({"sum_of_squares: partial sums", blocks, block_threads(kThreads), stream}, kernel, table,
               partials + done);
        done += blocks;
      });
  launch({"sum_of_squares: final sum", 1, block_threads(kFinalThreads), stream}, final_sum_kernel, partials, done,
         result, false);
}

void add_partials_cuda(const SquaresPartial* partials, std::int64_t count, double* result, int device, void* stream) {
  if (count < 0 || result == nullptr || (count > 0 && partials == nullptr))
    throw InvalidArgument("add_partials: a negative number of partials or a null pointer");
  const DeviceGuard guard(device);
  launch({"add_partials", 1, block_threads(kFinalThreads), static_cast<cudaStream_t>(stream)}, final_sum_kernel,
         partials, count, result, true);
}

}  // namespace pyparallel
