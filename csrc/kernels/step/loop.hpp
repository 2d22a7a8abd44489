// The CPU loops around a rule, per instruction set: one that converts as it goes, for what is stepped most, and one
// that stages blocks in L1, for every other way in which values may lie in memory.
#pragma once
#include <type_traits>

#include "core/float16.hpp"
#include "core/isa.hpp"
#include "kernels/step/contract.hpp"
#include "kernels/step/scalars.hpp"
#include "kernels/step/staging.hpp"

namespace pyparallel {
namespace PP_ISA {

template <class Real, class T>
static inline Real widened(T value) {
  if constexpr (std::is_same_v<T, Real>)
    return value;
  else
    return to_float(value);
}

// What the rule left in state kIndex, as it is stored. Only BFloat16 loses something.
template <class Rule, int kIndex, class State, class Real>
static inline State stored_state(Real value, std::uint32_t random) {
  if constexpr (std::is_same_v<State, Real>)
    return value;
  else if constexpr ((Rule::kSlow >> kIndex & 1u) != 0)
    return {to_bfloat16_at_random(value, random)};
  else
    return from_float<State>(value);
}

// Reads and writes each array once. `first`: the index of the arrays' first element in its tensor.
template <class Rule, class Param, class Grad, class State, bool kMaster, class Real>
static void convert_loop(const StepScalars<Rule, Real>& s, const Grad* __restrict grad, Param* __restrict param,
                         float* __restrict master, State* __restrict state0, State* __restrict state1,
                         State* __restrict state2, std::uint32_t first, std::int64_t count) {
  constexpr int kStored = kWritesStates<Rule> ? Rule::kStates : 0;
  constexpr bool kRandom = !std::is_same_v<State, Real> && Rule::kSlow != 0 && kStored > 0;
  for (std::int64_t i = 0; i < count; ++i) {
    Real value, state[kMaxStates] = {};
    if constexpr (kMaster)
      value = master[i];
    else
      value = widened<Real>(param[i]);
    if constexpr (Rule::kStates > 0) state[0] = widened<Real>(state0[i]);
    if constexpr (Rule::kStates > 1) state[1] = widened<Real>(state1[i]);
    if constexpr (Rule::kStates > 2) state[2] = widened<Real>(state2[i]);
    Rule::update(s.rule, widened<Real>(grad[i]) * s.grad_factor, value, state);
    const std::uint32_t random = kRandom ? random_bits(s.key, first + static_cast<std::uint32_t>(i)) : 0u;
    if constexpr (kStored > 0) state0[i] = stored_state<Rule, 0, State>(state[0], random);
    if constexpr (kStored > 1) state1[i] = stored_state<Rule, 1, State>(state[1], random);
    if constexpr (kStored > 2) state2[i] = stored_state<Rule, 2, State>(state[2], random);
    if constexpr (kMaster) master[i] = value;
    if constexpr (std::is_same_v<Param, Real>)
      param[i] = value;
    else
      param[i] = from_float<Param>(value);
  }
}

template <class Rule, class Param, class Grad, class State, bool kMaster, class Real>
static void convert_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepScalars<Rule, Real>& s) {
  const auto state = [&](int k) { return static_cast<State*>(t.states[k]) + (k < Rule::kStates ? begin : 0); };
  convert_loop<Rule, Param, Grad, State, kMaster, Real>(
      s, static_cast<const Grad*>(t.grad) + begin, static_cast<Param*>(t.param) + begin,
      kMaster ? static_cast<float*>(t.extra) + begin : nullptr, state(0), state(1), state(2),
      static_cast<std::uint32_t>(begin), end - begin);
}

// ---- staging ----

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
        stored[i].bits = to_bfloat16_at_random(values[i], random_bits(key, first + static_cast<std::uint32_t>(i)));
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

// ---- which loop ----

// A rule's update of elements [begin, end) of one tensor; `scalars` is the tensor's StepScalars<Rule, double> for
// float64 parameters, else its StepScalars<Rule, float>.
template <class Rule>
static void step_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                       const void* scalars) {
  if (types.param == DType::kFloat64)
    return convert_range<Rule, double, double, double, false, double>(
        t, begin, end, *static_cast<const StepScalars<Rule, double>*>(scalars));
  const auto& s = *static_cast<const StepScalars<Rule, float>*>(scalars);
  const bool plain_grad = types.grad == types.param;
  const bool wide_state = types.state == DType::kFloat32, narrow_state = types.state == DType::kBFloat16;
  if (types.param == DType::kFloat32 && plain_grad && wide_state)
    return convert_range<Rule, float, float, float, false, float>(t, begin, end, s);
  if (types.param == DType::kBFloat16 && plain_grad && types.extra == Extra::kMaster && wide_state)
    return convert_range<Rule, BFloat16, BFloat16, float, true, float>(t, begin, end, s);
  if (types.param == DType::kBFloat16 && plain_grad && types.extra == Extra::kNone) {
    if (wide_state) return convert_range<Rule, BFloat16, BFloat16, float, false, float>(t, begin, end, s);
    if (narrow_state) return convert_range<Rule, BFloat16, BFloat16, BFloat16, false, float>(t, begin, end, s);
  }
  staged_range<Rule>(t, begin, end, types, s);
}

template <class Rule, class... Rest>
static void step_range(Variants<Rule, Rest...>, const StepTensor& t, std::int64_t begin, std::int64_t end,
                       const StepTypes& types, const void* scalars, int variant) {
  if constexpr (sizeof...(Rest) > 0)
    if (variant > 0) return step_range(Variants<Rest...>{}, t, begin, end, types, scalars, variant - 1);
  step_range<Rule>(t, begin, end, types, scalars);
}

}  // namespace PP_ISA
}  // namespace pyparallel
