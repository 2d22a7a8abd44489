// Pack and unpack on CUDA: one pass that casts and scales a list of ranges, 16 bytes per access.
#include <string>

#include "core/chunk_table.hpp"
#include "core/device_guard.hpp"
#include "core/error.hpp"
#include "core/gpu_math.cuh"
#include "kernels/pack.hpp"

namespace pyparallel {
namespace {

inline constexpr int kThreads = 256;

// Both directions are the same work: target[i] = cast(source[i] * scale).
struct Conversion {
  const void* source;
  void* target;
  std::int64_t numel;
};

// ---- kernel ----

// As written in pack.hpp; equal dtypes with scale 1 keep the bits, those of a NaN too.
template <class Source, class Target>
__device__ __forceinline__ Target convert(Source value, double scale) {
  constexpr bool in_double = std::is_same_v<Source, double> || std::is_same_v<Target, double>;
  using Middle = std::conditional_t<in_double, double, float>;
  if constexpr (std::is_same_v<Source, Target>)
    if (scale == 1.0) return value;
  return narrow_to<Target>(pack_scaled(widen_to<Middle>(value), static_cast<Middle>(scale)));
}

// Lanes of one thread: 16 bytes of the narrower side, and as many 16-byte accesses of the other as that takes.
template <class Source, class Target>
inline constexpr int kLanes = kAccessBytes / static_cast<int>(std::min(sizeof(Source), sizeof(Target)));

template <class Source, class Target>
__device__ __forceinline__ void convert_lanes(const Lanes<Source, kLanes<Source, Target>>& from, Target* target,
                                              double scale) {
  Lanes<Target, kLanes<Source, Target>> to;
#pragma unroll
  for (int k = 0; k < kLanes<Source, Target>; ++k) to.at[k] = convert<Source, Target>(from.at[k], scale);
  store_lanes(target, to);
}

// Bytes of source that a thread asks for before it waits: enough in flight to cover the memory's latency.
inline constexpr int kBytesInFlight = 64;

template <class Source, class Target>
__device__ __forceinline__ void convert_wide(const Source* source, Target* target, const WideRange& range,
                                             double scale) {
  constexpr int kCount = kLanes<Source, Target>;
  constexpr int kBatch = kBytesInFlight / (kCount * static_cast<int>(sizeof(Source)));
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) * kCount;
  std::int64_t i = range.wide_begin + threadIdx.x * kCount;
  for (; i + (kBatch - 1) * stride < range.wide_end; i += kBatch * stride) {
    Lanes<Source, kCount> from[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) from[b] = load_lanes<kCount>(source + i + b * stride);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) convert_lanes<Source, Target>(from[b], target + i + b * stride, scale);
  }
  for (; i < range.wide_end; i += stride)
    convert_lanes<Source, Target>(load_lanes<kCount>(source + i), target + i, scale);
}

template <class Source, class Target>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const __grid_constant__ ChunkTable<Conversion> table, double scale) {
  const ChunkIndex index = find_chunk(table, blockIdx.x);
  const Source* const source = static_cast<const Source*>(table.items[index.item].source);
  Target* const target = static_cast<Target*>(table.items[index.item].target);
  // The narrower side decides the head; wide if the other side has a 16-byte boundary at that element too.
  const int head = sizeof(Source) < sizeof(Target) ? elements_to_boundary(source) : elements_to_boundary(target);
  const WideRange range = wide_range(table.items[index.item].numel, index.number, table.chunk, kLanes<Source, Target>,
                                     head, is_wide(source + head) && is_wide(target + head));
  convert_wide(source, target, range, scale);
  for (std::int64_t k = threadIdx.x; k < range.singles; k += blockDim.x) {
    const std::int64_t i = range.single(k);
    target[i] = convert<Source, Target>(source[i], scale);
  }
}

// ---- launchers ----

using ConvertKernel = void (*)(const ChunkTable<Conversion>, double);

template <class Source>
ConvertKernel kernel_from(DType target) {
  switch (target) {
    case DType::kFloat32:
      return convert_kernel<Source, float>;
    case DType::kFloat64:
      return convert_kernel<Source, double>;
    case DType::kBFloat16:
      return convert_kernel<Source, __nv_bfloat16>;
    case DType::kFloat16:
      return convert_kernel<Source, __half>;
    default:
      return nullptr;
  }
}

ConvertKernel kernel_for(DType source, DType target) {
  switch (source) {
    case DType::kFloat32:
      return kernel_from<float>(target);
    case DType::kFloat64:
      return kernel_from<double>(target);
    case DType::kBFloat16:
      return kernel_from<__nv_bfloat16>(target);
    case DType::kFloat16:
      return kernel_from<__half>(target);
    default:
      return nullptr;
  }
}

struct Call {
  const char* operation;
  DType source, target;
  double scale;
  int device;
  cudaStream_t stream;
};

template <class ConversionOf>
void convert_list(const PackItem* items, std::int64_t count, const Call& call, const ConversionOf& conversion_of) {
  const ConvertKernel kernel = kernel_for(call.source, call.target);
  if (kernel == nullptr)
    throw InvalidArgument(std::string(call.operation) + ": no conversion from " + name(call.source) + " to " +
                          name(call.target));
  const DeviceGuard guard(call.device);
  const std::int64_t chunk = chunk_for_device(total_numel(items, count), call.device);
  for_each_table<Conversion>(
      items, count, chunk, conversion_of, [&](const ChunkTable<Conversion>& table, std::int64_t blocks) {
        launch({call.operation, blocks, block_threads(kThreads), call.stream}, kernel, table, call.scale);
      });
}

}  // namespace

void pack_cuda(const PackItem* items, std::int64_t count, DType tensor_dtype, void* flat, DType flat_dtype,
               double scale, int device, void* stream) {
  check_pack_items(items, count, flat);
  const std::int64_t bytes = static_cast<std::int64_t>(item_size(flat_dtype));
  const Call call{"pack", tensor_dtype, flat_dtype, scale, device, static_cast<cudaStream_t>(stream)};
  convert_list(items, count, call, [&](const PackItem& item) {
    return Conversion{item.tensor, static_cast<char*>(flat) + item.offset * bytes, item.numel};
  });
}

void unpack_cuda(const PackItem* items, std::int64_t count, DType tensor_dtype, const void* flat, DType flat_dtype,
                 double scale, int device, void* stream) {
  check_pack_items(items, count, flat);
  const std::int64_t bytes = static_cast<std::int64_t>(item_size(flat_dtype));
  const Call call{"unpack", flat_dtype, tensor_dtype, scale, device, static_cast<cudaStream_t>(stream)};
  convert_list(items, count, call, [&](const PackItem& item) {
    return Conversion{static_cast<const char*>(flat) + item.offset * bytes, item.tensor, item.numel};
  });
}

}  // namespace pyparallel
