// The CPU loop of a rule that measures, per instruction set: blocks of terms in L1, their squares added in double.
#pragma once
#include "kernels/step/loop.hpp"
#include "kernels/step/staging.hpp"

namespace pyparallel {
namespace PP_ISA {

// Lanes are summed apart and added in a fixed order at the end.
inline constexpr int kSumLanes = 16;

// A function of its own, so that the loop over its lanes becomes vectors.
template <class Real>
inline __attribute__((always_inline)) void add_lanes(const Real* terms, double* lanes) {
  for (int lane = 0; lane < kSumLanes; ++lane) {
    const double term = static_cast<double>(terms[lane]);
    lanes[lane] += term * term;
  }
}

template <class Real>
static inline void add_squares(const Real* terms, std::int64_t count, double& sum) {
  double lanes[kSumLanes] = {};
  std::int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) add_lanes(terms + i, lanes);
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += static_cast<double>(terms[i]) * terms[i];
  for (double lane : lanes) sum += lane;
}

template <class Rule, class Real>
static void measure_loop(const StepScalars<Rule, Real>& s, const Real* __restrict grad, const Real* __restrict param,
                         Real* __restrict state0, Real* __restrict state1, Real* __restrict term0,
                         Real* __restrict term1, std::int64_t count) {
  static_assert(Rule::kStates <= 2, "no rule measures with more");
  constexpr int kStored = kWritesStates<Rule> ? Rule::kStates : 0;
  for (std::int64_t i = 0; i < count; ++i) {
    Real state[kMaxStates] = {}, terms[kSums] = {};
    if constexpr (Rule::kStates > 0) state[0] = state0[i];
    if constexpr (Rule::kStates > 1) state[1] = state1[i];
    Rule::measure(s.rule, grad[i] * s.grad_factor, param[i], state, terms);
    if constexpr (kStored > 0) state0[i] = state[0];
    if constexpr (kStored > 1) state1[i] = state[1];
    term0[i] = terms[0];
    term1[i] = terms[1];
  }
}

template <class Rule>
static void measure_block(const StepTensor& t, std::int64_t begin, std::int64_t count, const StepTypes& types,
                          const StepScalars<Rule, float>& s, float (&terms)[kSums][kBlock]) {
  alignas(64) float grad_buffer[kBlock], param_buffer[kBlock], buffers[2][kBlock];
  const float* const grad = load_floats(types.grad, const_cast<void*>(t.grad), begin, count, grad_buffer);
  const float* const param = load_param(t, types, begin, count, param_buffer);
  float* const state0 = load_state<Rule, 0>(t, types.state, begin, count, buffers[0]);
  float* const state1 = load_state<Rule, 1>(t, types.state, begin, count, buffers[1]);
  measure_loop<Rule, float>(s, grad, param, state0, state1, terms[0], terms[1], count);
  store_state<Rule, 0>(t, types.state, begin, count, state0, s.key);
  store_state<Rule, 1>(t, types.state, begin, count, state1, s.key);
}

template <class Rule>
static void measure_block(const StepTensor& t, std::int64_t begin, std::int64_t count, const StepTypes&,
                          const StepScalars<Rule, double>& s, double (&terms)[kSums][kBlock]) {
  const auto state = [&](int k) { return static_cast<double*>(t.states[k]) + (k < Rule::kStates ? begin : 0); };
  measure_loop<Rule, double>(s, static_cast<const double*>(t.grad) + begin, static_cast<const double*>(t.param) + begin,
                             state(0), state(1), terms[0], terms[1], count);
}

template <class Rule, class Real>
static void measure_blocks(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                           const void* scalars, double* sums) {
  alignas(64) Real terms[kSums][kBlock];
  for (; begin < end; begin += kBlock) {
    const std::int64_t count = end - begin < kBlock ? end - begin : kBlock;
    measure_block<Rule>(t, begin, count, types, *static_cast<const StepScalars<Rule, Real>*>(scalars), terms);
    for (int k = 0; k < Rule::kTerms; ++k) add_squares(terms[k], count, sums[k]);
  }
}

// Measures elements [begin, end) of one tensor and adds to `sums`; `scalars` as in step_range.
template <class Rule>
static void measure_range(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                          const void* scalars, double* sums) {
  if (types.param == DType::kFloat64)
    measure_blocks<Rule, double>(t, begin, end, types, scalars, sums);
  else
    measure_blocks<Rule, float>(t, begin, end, types, scalars, sums);
}

}  // namespace PP_ISA
}  // namespace pyparallel
