// What nvcc gives to a kernel source, for g++: keywords, built-in variables, shared memory, barriers, warp operations.
//
// Reached through core/gpu_port.hpp only. Types, 16-bit floats and the signatures of the runtime come from the real
// CUDA headers.
#pragma once
#if defined(__CUDACC__)
#error "for host compilers: nvcc brings its own"
#endif

// Plain g++ would take `__shared__` for nothing and make every thread a local array.
#undef __shared__
#define __shared__ static_assert(false, "use GPU_SHARED or GPU_DYNAMIC_SHARED");
#include <cuda_runtime.h>
#undef __launch_bounds__
#define __launch_bounds__(...)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "emulation/atomics.hpp"
#include "emulation/launch.hpp"
#include "emulation/thread.hpp"

// ---- built-in variables ----

#define threadIdx (::pyparallel::emulation::self().thread_index)
#define blockIdx (::pyparallel::emulation::self().block_index)
#define blockDim (::pyparallel::emulation::self().block_dim)
#define gridDim (::pyparallel::emulation::self().grid_dim)
#define warpSize 32

// ---- functions that device code finds without a namespace ----

using std::isfinite, std::isinf, std::isnan, std::max, std::min;

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }

template <class T>
T __ldg(const T* address) {
  return *address;
}

// ---- barriers ----

using EmulatedPlace = std::source_location;

inline void __syncthreads(const EmulatedPlace& place = EmulatedPlace::current()) {
  pyparallel::emulation::barrier(false, {"__syncthreads", place});
}

inline int __syncthreads_count(int predicate, const EmulatedPlace& place = EmulatedPlace::current()) {
  return pyparallel::emulation::barrier(predicate != 0, {"__syncthreads_count", place}).count;
}

inline int __syncthreads_or(int predicate, const EmulatedPlace& place = EmulatedPlace::current()) {
  return pyparallel::emulation::barrier(predicate != 0, {"__syncthreads_or", place}).count > 0;
}

inline int __syncthreads_and(int predicate, const EmulatedPlace& place = EmulatedPlace::current()) {
  const auto result = pyparallel::emulation::barrier(predicate != 0, {"__syncthreads_and", place});
  return result.count == result.threads;
}

inline void __threadfence() { pyparallel::emulation::fence(); }
inline void __threadfence_block() { pyparallel::emulation::fence(); }

// ---- votes ----

inline unsigned __ballot_sync(unsigned mask, int predicate, const EmulatedPlace& place = EmulatedPlace::current()) {
  return pyparallel::emulation::ballot(mask, predicate != 0, {"__ballot_sync", place});
}

inline int __any_sync(unsigned mask, int predicate, const EmulatedPlace& place = EmulatedPlace::current()) {
  return pyparallel::emulation::ballot(mask, predicate != 0, {"__any_sync", place}) != 0;
}

inline int __all_sync(unsigned mask, int predicate, const EmulatedPlace& place = EmulatedPlace::current()) {
  return pyparallel::emulation::ballot(mask, predicate != 0, {"__all_sync", place}) == mask;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, const EmulatedPlace& place = EmulatedPlace::current()) {
  pyparallel::emulation::sync_warp(mask, {"__syncwarp", place});
}

// ---- shuffles ----

namespace pyparallel::emulation {

// The lane's own value where `source` leaves its part of the warp.
template <class T>
T shuffle(unsigned mask, T value, int source, bool inside, const Place& place) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "a shuffle moves 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, inside ? source : self().lane, place);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace pyparallel::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              const EmulatedPlace& place = EmulatedPlace::current()) {
  const int lane = pyparallel::emulation::self().lane;
  const int target = (lane & ~(width - 1)) | (source & (width - 1));
  return pyparallel::emulation::shuffle(mask, value, target, true, {"__shfl_sync", place});
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 const EmulatedPlace& place = EmulatedPlace::current()) {
  const int lane = pyparallel::emulation::self().lane, distance = static_cast<int>(delta);
  const bool inside = (lane & (width - 1)) >= distance;
  return pyparallel::emulation::shuffle(mask, value, lane - distance, inside, {"__shfl_up_sync", place});
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   const EmulatedPlace& place = EmulatedPlace::current()) {
  const int lane = pyparallel::emulation::self().lane, distance = static_cast<int>(delta);
  const bool inside = (lane & (width - 1)) + distance < width;
  return pyparallel::emulation::shuffle(mask, value, lane + distance, inside, {"__shfl_down_sync", place});
}

// A lane of an earlier part of the warp may be read, one of a later part may not.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  const EmulatedPlace& place = EmulatedPlace::current()) {
  const int lane = pyparallel::emulation::self().lane, target = lane ^ lane_mask;
  const bool inside = target < (lane & ~(width - 1)) + width;
  return pyparallel::emulation::shuffle(mask, value, target, inside, {"__shfl_xor_sync", place});
}
