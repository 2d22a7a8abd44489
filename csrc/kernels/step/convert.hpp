// The CPU loop around a rule that the compiler vectorises: converts as it goes, for what is stepped most.
#pragma once
#include <type_traits>

#include "core/float16.hpp"
#include "core/isa.hpp"
#include "kernels/step/scalars.hpp"

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
    return {pyparallel::to_bfloat16_at_random(value, pyparallel::random_for_state(random))};
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

}  // namespace PP_ISA
}  // namespace pyparallel
