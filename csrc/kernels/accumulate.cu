// Accumulate on CUDA: one pass over all sources, 16 bytes per access, the next source under way while one is added.
#include <string>

#include "core/chunk_table.hpp"
#include "core/device_guard.hpp"
#include "core/error.hpp"
#include "core/gpu_math.cuh"
#include "kernels/accumulate.hpp"
#include "kernels/squares.cuh"

namespace pyparallel {
namespace {

inline constexpr int kThreads = 256;

struct Arguments {
  const void* sources[kMaxSources];
  double factors[kMaxSources];
  void* output;
  std::int64_t count, chunk;  // elements
  double scale;
  SquaresPartial* partials;
  std::int32_t source_count;
  std::int32_t head;  // elements before the output's first 16-byte boundary
  bool wide;          // all arrays have a boundary there

  GPU_LARGE_ARGUMENT(Arguments)
};

// ---- kernel ----

// Small integers in int32: what is cut off in the end is what would have wrapped around.
template <class T>
using CombinedIn = std::conditional_t<std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>, float,
                                      std::conditional_t<sizeof(T) < 4, std::int32_t, T>>;

template <class T>
inline constexpr int kLanes = kAccessBytes / static_cast<int>(sizeof(T));

template <class Value>
__device__ __forceinline__ Value multiplied(Value value, double factor) {
  if constexpr (std::is_floating_point_v<Value>)
    return rounded_product(value, static_cast<Value>(factor));
  else
    return value;
}

// Accesses that a thread asks for of each source, two sources at a time, before it waits: as much as registers allow.
template <class T>
inline constexpr int kBatchOf = kLanes<T> < 16 ? 2 : 1;

// `kBatch` accesses of a source, `stride` elements apart.
template <class T, int kCount, int kBatch>
__device__ __forceinline__ void load_batch(Lanes<T, kCount> (&lanes)[kBatch], const void* source, std::int64_t i,
                                           std::int64_t stride) {
#pragma unroll
  for (int b = 0; b < kBatch; ++b) lanes[b] = load_lanes<kCount>(static_cast<const T*>(source) + i + b * stride);
}

template <class T, class Op, int kCount, int kBatch>
__device__ __forceinline__ void combine_batch(const Arguments& a, std::int64_t i, std::int64_t stride,
                                              Lanes<T, kCount> (&result)[kBatch]) {
  using Value = CombinedIn<T>;
  Value values[kBatch][kCount];
  Lanes<T, kCount> lanes[kBatch], next[kBatch];
  load_batch(lanes, a.sources[0], i, stride);
  load_batch(next, a.sources[a.source_count > 1 ? 1 : 0], i, stride);
#pragma unroll
  for (int b = 0; b < kBatch; ++b)
#pragma unroll
    for (int k = 0; k < kCount; ++k) values[b][k] = multiplied(widen_to<Value>(lanes[b].at[k]), a.factors[0]);
#pragma unroll 1
  for (int s = 1; s < a.source_count; ++s) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b) lanes[b] = next[b];
    if (s + 1 < a.source_count) load_batch(next, a.sources[s + 1], i, stride);
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
#pragma unroll
      for (int k = 0; k < kCount; ++k)
        values[b][k] = Op::combine(values[b][k], multiplied(widen_to<Value>(lanes[b].at[k]), a.factors[s]));
  }
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) result[b].at[k] = narrow_to<T>(multiplied(values[b][k], a.scale));
    store_lanes(static_cast<T*>(a.output) + i + b * stride, result[b]);
  }
}

// What a thread knows of the result's squares.
struct Squares {
  double sum = 0.0;
  bool not_finite = false;

  template <class T, int kCount, int kBatch>
  __device__ __forceinline__ void add(const Lanes<T, kCount> (&result)[kBatch]) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      Lanes<T, kRun<T>> run;
#pragma unroll
      for (int k = 0; k < kRun<T>; ++k) run.at[k] = k < kCount ? result[b].at[k < kCount ? k : 0] : narrow_to<T>(0.0f);
      sum += sum_run<T>(run, not_finite);
    }
  }
};

template <class T, class Op, bool kSquares>
__global__ void __launch_bounds__(kThreads) accumulate_kernel(const __grid_constant__ Arguments a) {
  constexpr int kCount = kLanes<T>, kBatch = kBatchOf<T>;
  const WideRange range = wide_range(a.count, blockIdx.x, a.chunk, kCount, a.head, a.wide);
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) * kCount;
  Squares squares;
  std::int64_t i = range.wide_begin + threadIdx.x * kCount;
  for (; i + (kBatch - 1) * stride < range.wide_end; i += kBatch * stride) {
    Lanes<T, kCount> result[kBatch];
    combine_batch<T, Op>(a, i, stride, result);
    if constexpr (kSquares) squares.add(result);
  }
  for (; i < range.wide_end; i += stride) {
    Lanes<T, kCount> result[1];
    combine_batch<T, Op>(a, i, stride, result);
    if constexpr (kSquares) squares.add(result);
  }
  for (std::int64_t k = threadIdx.x; k < range.singles; k += blockDim.x) {
    Lanes<T, 1> result[1];
    combine_batch<T, Op>(a, range.single(k), stride, result);
    if constexpr (kSquares) squares.add(result);
  }
  if constexpr (kSquares) store_partial(squares.sum, squares.not_finite, a.partials + blockIdx.x);
}

// ---- launcher ----

using Kernel = void (*)(const Arguments);

template <class T>
Kernel kernel_of(Accumulation op, bool squares) {
  if constexpr (!std::is_integral_v<T>)
    if (squares) return accumulate_kernel<T, SumOf, true>;
  switch (op) {
    case Accumulation::kSum:
      return accumulate_kernel<T, SumOf, false>;
    case Accumulation::kProduct:
      return accumulate_kernel<T, ProductOf, false>;
    case Accumulation::kMax:
      return accumulate_kernel<T, MaxOf, false>;
    case Accumulation::kMin:
      return accumulate_kernel<T, MinOf, false>;
  }
  return nullptr;
}

Kernel kernel_for(DType dtype, Accumulation op, bool squares) {
  switch (dtype) {
    case DType::kFloat32:
      return kernel_of<float>(op, squares);
    case DType::kFloat64:
      return kernel_of<double>(op, squares);
    case DType::kBFloat16:
      return kernel_of<__nv_bfloat16>(op, squares);
    case DType::kFloat16:
      return kernel_of<__half>(op, squares);
    case DType::kInt32:
      return kernel_of<std::int32_t>(op, squares);
    case DType::kInt64:
      return kernel_of<std::int64_t>(op, squares);
    case DType::kUInt8:
      return kernel_of<std::uint8_t>(op, squares);
    case DType::kInt8:
      return kernel_of<std::int8_t>(op, squares);
    case DType::kInt16:
      return kernel_of<std::int16_t>(op, squares);
    default:
      return nullptr;
  }
}

// Few enough partials for one block to add, however long the array.
std::int64_t chunk_with_squares(std::int64_t count) { return chunk_for_blocks(count, 8192); }

bool has_boundary(const void* array, std::int64_t bytes) {
  return (reinterpret_cast<std::uintptr_t>(array) + static_cast<std::uintptr_t>(bytes)) % kAccessBytes == 0;
}

}  // namespace

std::int64_t accumulate_partials(std::int64_t count) { return chunk_count(count, chunk_with_squares(count)); }

void accumulate_cuda(const AccumulateCall& call, SquaresPartial* partials, int device, void* stream) {
  check_accumulate(call, partials != nullptr);
  if (call.count == 0) return;
  const DeviceGuard guard(device);
  const auto size = static_cast<std::int64_t>(item_size(call.dtype));
  Arguments a;
  a.output = call.output;
  a.count = call.count;
  a.chunk = partials != nullptr ? chunk_with_squares(call.count) : chunk_for_device(call.count, device);
  a.scale = call.scale;
  a.partials = partials;
  a.source_count = call.source_count;
  a.head =
      static_cast<int>((0 - reinterpret_cast<std::uintptr_t>(call.output)) % kAccessBytes) / static_cast<int>(size);
  a.wide = has_boundary(call.output, a.head * size);
  for (int s = 0; s < call.source_count; ++s) {
    a.sources[s] = call.sources[s];
    a.factors[s] = call.factors != nullptr ? call.factors[s] : 1.0;
    a.wide = a.wide && has_boundary(call.sources[s], a.head * size);
  }
  launch({"accumulate", chunk_count(call.count, a.chunk), block_threads(kThreads), static_cast<cudaStream_t>(stream)},
         kernel_for(call.dtype, call.op, partials != nullptr), a);
}

}  // namespace pyparallel
