// The CPU loop around a rule for whatever lies in memory, on any CPU: blocks become floats in L1, are stepped there and
// go back.
#pragma once
#include "core/blocks.hpp"
#include "core/isa.hpp"
#include "kernels/step/contract.hpp"
#include "kernels/step/convert.hpp"
#include "kernels/step/storage.hpp"

namespace pyparallel {
namespace PP_ISA {

static_assert(kBlock % kMomentBlock == 0, "a staged block holds whole blocks of 8-bit moments");

static inline float* load_floats(DType dtype, void* array, std::int64_t begin, std::int64_t count, float* buffer) {
  const auto size = static_cast<std::size_t>(count);
  if (dtype == DType::kFloat32) return static_cast<float*>(array) + begin;
  if (dtype == DType::kBFloat16) widen(static_cast<const BFloat16*>(array) + begin, buffer, size);
  if (dtype == DType::kFloat16) widen(static_cast<const Float16*>(array) + begin, buffer, size);
  return buffer;
}

static inline float* load_param(const StepTensor& t, const StepTypes& types, std::int64_t begin, std::int64_t count,
                                float* buffer) {
  if (types.extra == Extra::kMaster) return static_cast<float*>(t.extra) + begin;
  if (types.extra != Extra::kRemainder) return load_floats(types.param, t.param, begin, count, buffer);
  const auto* const rounded = static_cast<const std::uint16_t*>(t.param) + begin;
  const auto* const remainder = static_cast<const std::uint16_t*>(t.extra) + begin;
  for (std::int64_t i = 0; i < count; ++i) buffer[i] = from_remainder(rounded[i], remainder[i]);
  return buffer;
}

static inline void store_param(const StepTensor& t, const StepTypes& types, std::int64_t begin, std::int64_t count,
                               const float* values, std::uint32_t key) {
  const auto size = static_cast<std::size_t>(count);
  auto* const bits = static_cast<std::uint16_t*>(t.param) + begin;
  if (types.extra == Extra::kStochastic) {
    const auto first = static_cast<std::uint32_t>(begin);
    for (std::int64_t i = 0; i < count; ++i)
      bits[i] =
          to_bfloat16_at_random(values[i], random_for_param(random_bits(key, first + static_cast<std::uint32_t>(i))));
  } else if (types.extra == Extra::kRemainder) {
    auto* const remainder = static_cast<std::uint16_t*>(t.extra) + begin;
    for (std::int64_t i = 0; i < count; ++i) {
      bits[i] = to_bfloat16(values[i]);
      remainder[i] = remainder_of(values[i], bits[i]);
    }
  } else if (types.param == DType::kBFloat16) {
    narrow(values, reinterpret_cast<BFloat16*>(bits), size);
  } else if (types.param == DType::kFloat16) {
    narrow(values, reinterpret_cast<Float16*>(bits), size);
  }
}

template <bool kSigned>
static inline void load_moments(const StepTensor& t, int k, std::int64_t begin, std::int64_t count, float* buffer) {
  const auto* const codes = static_cast<const std::uint8_t*>(t.states[k]) + begin;
  for (std::int64_t block = 0; block < count; block += kMomentBlock) {
    const float scale = *moment_scale(t, k, begin + block);
    const std::int64_t end = count - block < kMomentBlock ? count : block + kMomentBlock;
    for (std::int64_t i = block; i < end; ++i) buffer[i] = from_moment<kSigned>(codes[i], scale);
  }
}

template <bool kSigned>
static inline void store_moments(const StepTensor& t, int k, std::int64_t begin, std::int64_t count,
                                 const float* values, std::uint32_t key) {
  auto* const codes = static_cast<std::uint8_t*>(t.states[k]) + begin;
  const auto first = static_cast<std::uint32_t>(begin);
  for (std::int64_t block = 0; block < count; block += kMomentBlock) {
    const std::int64_t end = count - block < kMomentBlock ? count : block + kMomentBlock;
    std::uint32_t largest = 0;
    for (std::int64_t i = block; i < end; ++i) largest = larger_magnitude(largest, values[i]);
    const float scale = float_of(largest), inverse = inverse_of_scale(scale);
    *moment_scale(t, k, begin + block) = scale;
    for (std::int64_t i = block; i < end; ++i)
      codes[i] = to_moment<kSigned>(values[i], inverse, random_bits(key, first + static_cast<std::uint32_t>(i)));
  }
}

template <class Rule, int kIndex>
static float* load_state(const StepTensor& t, DType dtype, std::int64_t begin, std::int64_t count, float* buffer) {
  if constexpr (kIndex < Rule::kStates) {
    if (dtype != DType::kUInt8) return load_floats(dtype, t.states[kIndex], begin, count, buffer);
    load_moments<(Rule::kSigned >> kIndex & 1u) != 0>(t, kIndex, begin, count, buffer);
  }
  return buffer;
}

template <class Rule, int kIndex>
static void store_state(const StepTensor& t, DType dtype, std::int64_t begin, std::int64_t count, const float* values,
                        std::uint32_t key) {
  if constexpr (kIndex < Rule::kStates && kWritesStates<Rule>) {
    if (dtype == DType::kFloat32) return;
    if (dtype == DType::kUInt8)
      return store_moments<(Rule::kSigned >> kIndex & 1u) != 0>(t, kIndex, begin, count, values, key + kIndex);
    auto* const stored = static_cast<BFloat16*>(t.states[kIndex]) + begin;
    const auto first = static_cast<std::uint32_t>(begin);
    if constexpr ((Rule::kSlow >> kIndex & 1u) != 0)
      for (std::int64_t i = 0; i < count; ++i)
        stored[i].bits =
            to_bfloat16_at_random(values[i], random_for_state(random_bits(key, first + static_cast<std::uint32_t>(i))));
    else
      narrow(values, stored, static_cast<std::size_t>(count));
  }
}

template <class Rule>
static void staged_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                         const StepScalars<Rule, float>& s) {
  alignas(64) float grad_buffer[kBlock], param_buffer[kBlock], buffers[kMaxStates][kBlock];
  for (; begin < end; begin += kBlock) {
    const std::int64_t count = end - begin < kBlock ? end - begin : kBlock;
    float* const grad = load_floats(types.grad, const_cast<void*>(t.grad), begin, count, grad_buffer);
    float* const param = load_param(t, types, begin, count, param_buffer);
    float* const state0 = load_state<Rule, 0>(t, types.state, begin, count, buffers[0]);
    float* const state1 = load_state<Rule, 1>(t, types.state, begin, count, buffers[1]);
    float* const state2 = load_state<Rule, 2>(t, types.state, begin, count, buffers[2]);
    convert_loop<Rule, float, float, float, false, float>(s, grad, param, nullptr, state0, state1, state2, 0, count);
    store_param(t, types, begin, count, param, s.key);
    store_state<Rule, 0>(t, types.state, begin, count, state0, s.key);
    store_state<Rule, 1>(t, types.state, begin, count, state1, s.key);
    store_state<Rule, 2>(t, types.state, begin, count, state2, s.key);
  }
}

}  // namespace PP_ISA
}  // namespace pyparallel
