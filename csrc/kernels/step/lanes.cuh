// The elements that one thread steps at a time, as the words that lie in memory, and blocks of 8-bit moments.
#pragma once
#include "core/dtype.hpp"
#include "core/gpu_math.cuh"
#include "kernels/step/scalars.hpp"
#include "kernels/step/storage.hpp"

namespace pyparallel {

// 16 bytes of 16-bit values, twice that of floats.
template <class Real>
inline constexpr int kStepLanes = 8;
template <>
inline constexpr int kStepLanes<double> = 2;

__device__ __forceinline__ std::uint16_t half_bits(float value) {
  const __half rounded = __float2half_rn(value);
  std::uint16_t bits;
  memcpy(&bits, &rounded, sizeof bits);
  return bits;
}

__device__ __forceinline__ float from_half_bits(std::uint16_t bits) {
  __half value;
  memcpy(static_cast<void*>(&value), &bits, sizeof bits);
  return __half2float(value);
}

// kCount elements of one array in registers: 16-bit values two to a word, others one. Nothing is converted before
// get().
template <int kCount, class Real>
struct RawLanes {
  std::uint32_t words[kCount] = {};

  __device__ __forceinline__ void load(const void* array, DType dtype, std::int64_t index) {
    if (item_size(dtype) == 2)
      load_words<std::uint16_t>(array, index);
    else
      load_words<std::uint32_t>(array, index);
  }

  __device__ __forceinline__ void store(void* array, DType dtype, std::int64_t index) const {
    if (item_size(dtype) == 2)
      store_words<std::uint16_t>(array, index);
    else
      store_words<std::uint32_t>(array, index);
  }

  __device__ __forceinline__ std::uint16_t bits(int lane) const {
    return static_cast<std::uint16_t>(words[lane / 2] >> (16 * (lane % 2)));
  }

  __device__ __forceinline__ void set_bits(int lane, std::uint16_t value) {
    const int shift = 16 * (lane % 2);
    words[lane / 2] = (words[lane / 2] & ~(0xffffu << shift)) | static_cast<std::uint32_t>(value) << shift;
  }

  __device__ __forceinline__ float get(DType dtype, int lane) const {
    if (dtype == DType::kFloat32) return float_of(words[lane]);
    return dtype == DType::kBFloat16 ? from_bfloat16(bits(lane)) : from_half_bits(bits(lane));
  }

  __device__ __forceinline__ void set(DType dtype, int lane, float value) {
    if (dtype == DType::kFloat32)
      words[lane] = bits_of(value);
    else
      set_bits(lane, dtype == DType::kBFloat16 ? to_bfloat16(value) : half_bits(value));
  }

 private:
  template <class T>
  __device__ __forceinline__ void load_words(const void* array, std::int64_t index) {
    const auto lanes = load_lanes<kCount>(static_cast<const T*>(array) + index);
    memcpy(words, &lanes, sizeof lanes);
  }
  template <class T>
  __device__ __forceinline__ void store_words(void* array, std::int64_t index) const {
    Lanes<T, kCount> lanes;
    memcpy(&lanes, words, sizeof lanes);
    store_lanes(static_cast<T*>(array) + index, lanes);
  }
};

// float64 is all float64: no other dtype, nothing narrower.
template <int kCount>
struct RawLanes<kCount, double> {
  Lanes<double, kCount> lanes;

  __device__ __forceinline__ void load(const void* array, DType, std::int64_t index) {
    lanes = load_lanes<kCount>(static_cast<const double*>(array) + index);
  }
  __device__ __forceinline__ void store(void* array, DType, std::int64_t index) const {
    store_lanes(static_cast<double*>(array) + index, lanes);
  }
  __device__ __forceinline__ double get(DType, int lane) const { return lanes.at[lane]; }
  __device__ __forceinline__ void set(DType, int lane, double value) { lanes.at[lane] = value; }
  __device__ __forceinline__ std::uint16_t bits(int) const { return 0; }
  __device__ __forceinline__ void set_bits(int, std::uint16_t) {}
};

// ---- 8-bit moments ----

template <class Rule>
__device__ __forceinline__ float moment_of(int k, std::uint8_t code, float scale) {
  return (Rule::kSigned >> k & 1u) != 0 ? from_moment<true>(code, scale) : from_moment<false>(code, scale);
}

template <class Rule>
__device__ __forceinline__ std::uint8_t code_of(int k, float value, float inverse_scale, std::uint32_t random) {
  return (Rule::kSigned >> k & 1u) != 0 ? to_moment<true>(value, inverse_scale, random)
                                        : to_moment<false>(value, inverse_scale, random);
}

// Codes and scale of one warp's block: values of this lane and the bits of their largest magnitude, for each state.
template <class Rule, int kCount>
__device__ __forceinline__ void store_moment_block(const StepTensor& t, std::uint32_t step_key, std::int64_t first,
                                                   int lane, const float (&states)[kCount][kMaxStates],
                                                   const std::uint32_t (&largest)[kMaxStates]) {
  __syncwarp();  // every lane has read the scales that lane 0 replaces
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) {
    const float scale = float_of(warp_largest(largest[k])), inverse = inverse_of_scale(scale);
    const std::uint32_t key = step_key + static_cast<std::uint32_t>(k);
    if (lane == 0) *moment_scale(t, k, first) = scale;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const std::int64_t i = first + lane + j * kWarpThreads;
      if (i < t.numel)
        static_cast<std::uint8_t*>(t.states[k])[i] =
            code_of<Rule>(k, states[j][k], inverse, random_bits(key, static_cast<std::uint32_t>(i)));
    }
  }
}

// One warp's block of kMomentBlock elements from `first` on. Every lane takes part in the shuffles, also beyond the
// end.
template <class Rule>
__device__ __forceinline__ void step_moment_block(const StepTensor& t, const StepTypes& types,
                                                  const StepScalars<Rule, float>& s, std::int64_t first, int lane) {
  constexpr int kCount = static_cast<int>(kMomentBlock) / kWarpThreads;
  const bool master = types.extra == Extra::kMaster, remainder = types.extra == Extra::kRemainder;
  float states[kCount][kMaxStates] = {};
  std::uint32_t largest[kMaxStates] = {};
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const std::int64_t i = first + lane + j * kWarpThreads;
    if (i >= t.numel) continue;
    RawLanes<1, float> param, grad, extra;
    grad.load(t.grad, types.grad, i);
    param.load(t.param, types.param, i);
    if (master) extra.load(t.extra, DType::kFloat32, i);
    if (remainder) extra.load(t.extra, DType::kBFloat16, i);
    float value = master      ? extra.get(DType::kFloat32, 0)
                  : remainder ? from_remainder(param.bits(0), extra.bits(0))
                              : param.get(types.param, 0);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k)
      states[j][k] = moment_of<Rule>(k, static_cast<const std::uint8_t*>(t.states[k])[i], *moment_scale(t, k, first));
    Rule::update(s.rule, grad.get(types.grad, 0) * s.grad_factor, value, states[j]);
    if (types.extra == Extra::kStochastic)
      param.set_bits(0,
                     to_bfloat16_at_random(value, random_for_param(random_bits(s.key, static_cast<std::uint32_t>(i)))));
    else
      param.set(types.param, 0, value);
    param.store(t.param, types.param, i);
    if (master) extra.set(DType::kFloat32, 0, value), extra.store(t.extra, DType::kFloat32, i);
    if (remainder) extra.set_bits(0, remainder_of(value, param.bits(0))), extra.store(t.extra, DType::kBFloat16, i);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) largest[k] = larger_magnitude(largest[k], states[j][k]);
  }
  if constexpr (kWritesStates<Rule>) store_moment_block<Rule>(t, s.key, first, lane, states, largest);
}

}  // namespace pyparallel
