// Device helpers of the elementwise and reduction kernels: conversions, 16-byte lanes, the wide part of a chunk, block
// sums.
#pragma once
#include <cstring>
#include <type_traits>

#include "core/gpu_port.hpp"

namespace pyparallel {

// ---- conversions: 16-bit floats are storage, arithmetic is float or double ----

template <class Middle, class T>
__device__ __forceinline__ Middle widen_to(T value) {
  if constexpr (std::is_same_v<T, __half>)
    return static_cast<Middle>(__half2float(value));
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return static_cast<Middle>(__bfloat162float(value));
  else
    return static_cast<Middle>(value);
}

// To nearest even. A double reaches 16 bits through float, as in torch.
template <class T, class Middle>
__device__ __forceinline__ T narrow_to(Middle value) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(static_cast<float>(value));
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

// a * b, rounded before anything is added to it: nvcc would make one operation of both.
__device__ __forceinline__ float rounded_product(float a, float b) {
#if defined(__CUDACC__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
__device__ __forceinline__ double rounded_product(double a, double b) {
#if defined(__CUDACC__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// ---- lanes: the elements that one thread handles at a time ----

inline constexpr int kAccessBytes = 16;

template <class T, int kCount>
struct Lanes {
  T at[kCount];
};

// What one instruction moves. As words, not as elements: the compiler splits a store of eight 16-bit values.
template <int kBytes>
using Word = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<
        kBytes == 8, uint2,
        std::conditional_t<kBytes == 4, std::uint32_t, std::conditional_t<kBytes == 2, std::uint16_t, std::uint8_t>>>>;

template <class T, int kCount>
inline constexpr int kStepOf =
    kCount * static_cast<int>(sizeof(T)) < kAccessBytes ? kCount : kAccessBytes / static_cast<int>(sizeof(T));

// `source` is aligned to the smaller of 16 bytes and all its lanes; more than 16 bytes take several accesses.
template <int kCount, class T>
__device__ __forceinline__ Lanes<T, kCount> load_lanes(const T* source) {
  constexpr int kStep = kStepOf<T, kCount>;
  using AccessWord = Word<kStep * sizeof(T)>;
  Lanes<T, kCount> lanes;
#pragma unroll
  for (int first = 0; first < kCount; first += kStep) {
    const AccessWord word = *reinterpret_cast<const AccessWord*>(source + first);
    memcpy(static_cast<void*>(lanes.at + first), &word, sizeof word);
  }
  return lanes;
}

template <class T, int kCount>
__device__ __forceinline__ void store_lanes(T* target, const Lanes<T, kCount>& lanes) {
  constexpr int kStep = kStepOf<T, kCount>;
  using AccessWord = Word<kStep * sizeof(T)>;
#pragma unroll
  for (int first = 0; first < kCount; first += kStep) {
    AccessWord word;
    memcpy(&word, lanes.at + first, sizeof word);
    if constexpr (sizeof word == kAccessBytes)
      gpu_store_16(target + first, word);
    else
      *reinterpret_cast<AccessWord*>(target + first) = word;
  }
}

// ---- alignment ----

__device__ __forceinline__ bool is_wide(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % kAccessBytes == 0;
}

// Elements before the first 16-byte boundary of an array.
template <class T>
__device__ __forceinline__ int elements_to_boundary(const T* array) {
  return static_cast<int>((0 - reinterpret_cast<std::uintptr_t>(array)) % kAccessBytes / sizeof(T));
}

// The part of a chunk that is done in lanes, [wide_begin, wide_end), and how many single elements surround it.
//
//   tensor   |head|---- chunk 0 ----|---- chunk 1 ----|-- 2 --|tail|
//
// Every chunk is shifted by the head, so all but the first and the last are wide from end to end.
struct WideRange {
  std::int64_t wide_begin, wide_end;
  std::int64_t head, singles;  // singles = head + tail; singles [0, head) start the tensor, the rest follow wide_end

  __device__ __forceinline__ std::int64_t single(std::int64_t k) const { return k < head ? k : wide_end + (k - head); }
};

// `wide` false: the arrays of this tensor have no common phase, and all of the chunk is single elements.
__device__ __forceinline__ WideRange wide_range(std::int64_t numel, std::int64_t number, std::int64_t chunk, int lanes,
                                                int head, bool wide) {
  const std::int64_t shift = wide ? head : 0;
  const std::int64_t begin = shift + number * chunk < numel ? shift + number * chunk : numel;
  const std::int64_t end = begin + chunk < numel ? begin + chunk : numel;
  const std::int64_t wide_end = wide ? begin + (end - begin) / lanes * lanes : begin;
  const std::int64_t first = number == 0 ? begin : 0;
  return {begin, wide_end, first, first + (end - wide_end)};
}

// ---- reductions ----

inline constexpr int kWarpThreads = 32;
inline constexpr int kMaxWarps = 32;

// Of each group of `kGroup` neighbouring lanes, in all of its lanes. All lanes of the warp take part.
template <int kGroup = kWarpThreads>
__device__ __forceinline__ std::uint32_t warp_largest(std::uint32_t value) {
#pragma unroll
  for (int distance = kGroup / 2; distance > 0; distance /= 2) {
    const std::uint32_t other = __shfl_xor_sync(0xffffffffu, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// Sum over the block in a fixed order, valid in thread 0. All threads of the block take part, in whole warps.
__device__ __forceinline__ double block_sum(double value) {
  GPU_SHARED(double, warp_sums, kMaxWarps);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads, warp = static_cast<int>(threadIdx.x) / kWarpThreads;
#pragma unroll
  for (int distance = kWarpThreads / 2; distance > 0; distance /= 2)
    value += __shfl_down_sync(0xffffffffu, value, distance);
  __syncthreads();  // the previous call's sums have been read
  if (lane == 0) warp_sums[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < static_cast<int>(blockDim.x) / kWarpThreads ? warp_sums[lane] : 0.0;
#pragma unroll
    for (int distance = kWarpThreads / 2; distance > 0; distance /= 2)
      value += __shfl_down_sync(0xffffffffu, value, distance);
  }
  return value;
}

}  // namespace pyparallel
