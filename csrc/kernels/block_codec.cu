// The block codec on CUDA: half a warp per block, 16 elements per lane, every access 16 bytes where addresses allow it.
#include <algorithm>

#include "core/device_guard.hpp"
#include "core/error.hpp"
#include "core/gpu_math.cuh"
#include "core/launch.hpp"
#include "kernels/block_codec.hpp"

namespace pyparallel {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kGroup = 16;                                     // lanes of a block
inline constexpr int kEach = static_cast<int>(kCodecBlock) / kGroup;  // elements of a lane

// ---- device helpers ----

// One lane's elements of one block.
//
//   wide       lane l has elements 16 l, 16 l + 1, ... 16 l + 15
//   otherwise  lane l has elements l, l + 16, ... l + 240, of which some may lie beyond the end
struct Place {
  std::int64_t block, first, count;
  int lane;
  bool wide;

  __device__ __forceinline__ std::int64_t index(int j) const { return first + (wide ? j : j * kGroup); }
  __device__ __forceinline__ bool has(int j) const { return wide || index(j) < count; }
};

__device__ __forceinline__ Place place_of(std::int64_t block, std::int64_t count, bool wide) {
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const std::int64_t begin = block * kCodecBlock;
  const bool whole = wide && begin + kCodecBlock <= count;
  return {block, begin + (whole ? lane * kEach : lane), count, lane, whole};
}

// Zero beyond the end.
template <class T>
__device__ __forceinline__ Lanes<T, kEach> load(const T* array, const Place& place) {
  if (place.wide) return load_lanes<kEach>(array + place.first);
  Lanes<T, kEach> lanes;
#pragma unroll
  for (int j = 0; j < kEach; ++j) lanes.at[j] = place.has(j) ? array[place.index(j)] : narrow_to<T>(0.0f);
  return lanes;
}

template <class T>
__device__ __forceinline__ void store(T* array, const Place& place, const Lanes<T, kEach>& lanes) {
  if (place.wide) return store_lanes(array + place.first, lanes);
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (place.has(j)) array[place.index(j)] = lanes.at[j];
}

// Calls fn(place) for this half warp's blocks. All lanes of a warp make the same calls, beyond the last block too, so
// that fn may shuffle.
template <class Function>
__device__ __forceinline__ void for_each_block(std::int64_t count, bool wide, const Function& fn) {
  const std::int64_t groups = static_cast<std::int64_t>(gridDim.x) * blockDim.x / kGroup;
  const std::int64_t own = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kGroup;
  const std::int64_t blocks = codec_blocks(count);
  for (std::int64_t block = own; block - own % 2 < blocks; block += groups) fn(place_of(block, count, wide));
}

// ---- kernels ----

template <class T>
__global__ void __launch_bounds__(kThreads) encode_kernel(const EncodeCall call, bool wide) {
  for_each_block(call.count, wide, [&](const Place& place) {
    const Lanes<T, kEach> values = load(static_cast<const T*>(call.values), place);
    Lanes<float, kEach> sum = {};
    if (call.error != nullptr) sum = load(call.error, place);
    std::uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      sum.at[j] = widen_to<float>(values.at[j]) + sum.at[j];
      largest = larger_magnitude(largest, sum.at[j]);
    }
    const float scale = codec_scale(warp_largest<kGroup>(largest));
    const bool encoded = scale > 0.0f;
    Lanes<std::int8_t, kEach> codes;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const float shifted = encoded ? shifted_code(sum.at[j], scale) : kCodecShift;
      codes.at[j] = code_of_shifted(shifted);
      sum.at[j] = encoded ? error_of_shifted(sum.at[j], scale, shifted) : scale == 0.0f ? sum.at[j] : 0.0f;
    }
    if (place.lane == 0 && place.block < codec_blocks(call.count)) call.scales[place.block] = scale;
    store(call.codes, place, codes);
    if (call.error != nullptr) store(call.error, place, sum);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads) decode_kernel(const DecodeCall call, bool wide) {
  for_each_block(call.count, wide, [&](const Place& place) {
    if (place.block >= codec_blocks(call.count)) return;
    T* const output = static_cast<T*>(call.output);
    Lanes<float, kEach> sum = {};
    for (int s = 0; s < call.sources; ++s) {
      const auto* const scales = reinterpret_cast<const char*>(call.scales + place.block) + s * call.scales_stride;
      const float scale = *reinterpret_cast<const float*>(scales);
      const Lanes<std::int8_t, kEach> codes = load(call.codes + s * call.codes_stride, place);
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const float product = static_cast<float>(codes.at[j]) * scale;
        sum.at[j] = s == 0 ? product : sum.at[j] + product;
      }
    }
    Lanes<T, kEach> before = {};
    if (call.add) before = load<T>(output, place);
    Lanes<T, kEach> result;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const float product = rounded_product(sum.at[j], call.factor);
      result.at[j] = narrow_to<T>(call.add ? widen_to<float>(before.at[j]) + product : product);
    }
    store(output, place, result);
  });
}

// ---- launchers ----

template <class Call>
using Kernel = void (*)(const Call, bool);

bool is_wide_on_host(std::initializer_list<const void*> arrays) {
  return std::all_of(arrays.begin(), arrays.end(),
                     [](const void* array) { return reinterpret_cast<std::uintptr_t>(array) % kAccessBytes == 0; });
}

template <class Call>
void launch_over_blocks(const char* operation, Kernel<Call> kernel, const Call& call, bool wide, int device,
                        void* stream) {
  const DeviceGuard guard(device);
  const int threads = block_threads(kThreads);
  const std::int64_t needed = (codec_blocks(call.count) * kGroup + threads - 1) / threads;
  launch({operation, std::min(needed, blocks_for_device(device)), threads, static_cast<cudaStream_t>(stream)}, kernel,
         call, wide);
}

}  // namespace

void encode_blocks_cuda(const EncodeCall& call, int device, void* stream) {
  check_encode(call);
  if (call.count == 0) return;
  const Kernel<EncodeCall> kernel = call.dtype == DType::kFloat32    ? encode_kernel<float>
                                    : call.dtype == DType::kBFloat16 ? encode_kernel<__nv_bfloat16>
                                                                     : encode_kernel<__half>;
  launch_over_blocks("encode_blocks", kernel, call, is_wide_on_host({call.values, call.error, call.codes}), device,
                     stream);
}

void decode_blocks_cuda(const DecodeCall& call, int device, void* stream) {
  check_decode(call);
  if (call.count == 0) return;
  const Kernel<DecodeCall> kernel = call.dtype == DType::kFloat32    ? decode_kernel<float>
                                    : call.dtype == DType::kBFloat16 ? decode_kernel<__nv_bfloat16>
                                                                     : decode_kernel<__half>;
  const bool wide =
      is_wide_on_host({call.codes, call.output}) && (call.sources == 1 || call.codes_stride % kAccessBytes == 0);
  launch_over_blocks("decode_blocks", kernel, call, wide, device, stream);
}

}  // namespace pyparallel
