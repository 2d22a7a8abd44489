// The AVX-512 loop around a rule for whatever lies in memory: 32 elements at a time, in registers from load to store.
//
// The types are arguments, as in the CUDA loop: a branch on them is foreseen and costs nothing beside the arithmetic.
#pragma once
#include "kernels/step/floats.hpp"
#include "kernels/step/pairs.hpp"
#include "kernels/step/scalars.hpp"

namespace pyparallel {
namespace PP_ISA {

// Where elements lie: pointers into the arrays of a tensor, or into copies of its last few.
struct Places {
  char *param, *grad, *extra, *states[kMaxStates];
};

static inline std::int64_t extra_size(Extra extra) {
  return extra == Extra::kMaster ? 4 : extra == Extra::kRemainder ? 2 : 0;
}

static inline Places places_of(const StepTensor& t, const StepTypes& types, int states, std::int64_t index) {
  Places at = {static_cast<char*>(t.param) + index * static_cast<std::int64_t>(item_size(types.param)),
               static_cast<char*>(const_cast<void*>(t.grad)) + index * static_cast<std::int64_t>(item_size(types.grad)),
               static_cast<char*>(t.extra) + index * extra_size(types.extra),
               {}};
  for (int k = 0; k < states; ++k)
    at.states[k] = static_cast<char*>(t.states[k]) + index * static_cast<std::int64_t>(item_size(types.state));
  return at;
}

template <Order kOrder>
static inline FloatPair load_param(const Places& at, const StepTypes& types, std::int64_t i) {
  if (types.extra == Extra::kMaster) return load<Order::kHalves>(DType::kFloat32, at.extra + 4 * i);
  if (types.extra == Extra::kRemainder)
    return from_remainder(load_upper<kOrder>(at.param + 2 * i), load_signed<kOrder>(at.extra + 2 * i));
  return load<kOrder>(types.param, at.param + i * static_cast<std::int64_t>(item_size(types.param)));
}

template <Order kOrder>
static inline void store_param(const Places& at, const StepTypes& types, std::int64_t i, FloatPair value,
                               Words random) {
  char* const param = at.param + i * static_cast<std::int64_t>(item_size(types.param));
  if (types.extra == Extra::kStochastic)
    return store_upper<kOrder>(param, to_bfloat16_at_random(value, random_for_param(random)));
  if (types.extra == Extra::kRemainder) {
    const Words rounded = to_bfloat16(value);
    store_upper<kOrder>(param, rounded);
    return store_lower<kOrder>(at.extra + 2 * i, remainder_of(value, rounded));
  }
  if (types.extra == Extra::kMaster) store<Order::kHalves>(DType::kFloat32, at.extra + 4 * i, value);
  store<kOrder>(types.param, param, value);
}

// Elements [0, count) of `at`, a multiple of 32; `first` is the index of the first one in its tensor.
template <class Rule, Order kOrder>
[[gnu::always_inline]] static inline void wide_loop(const Places& at, const StepTypes& types,
                                                    const StepScalars<Rule, float>& s, std::uint32_t first,
                                                    std::int64_t count) {
  using Value = Floats;
  const auto state_size = static_cast<std::int64_t>(item_size(types.state));
  const auto grad_size = static_cast<std::int64_t>(item_size(types.grad));
  constexpr int kStored = kWritesStates<Rule> ? Rule::kStates : 0;
  const bool narrow = types.state == DType::kBFloat16, random_states = narrow && Rule::kSlow != 0 && kStored > 0;
  const bool any_random = types.extra == Extra::kStochastic || random_states;
  const bool scaled = s.grad_factor != 1.0f;
  RandomPair<kOrder> random_pair(s.key, first);
  for (std::int64_t i = 0; i < count; i += kPair) {
    const FloatPair grad = load<kOrder>(types.grad, at.grad + i * grad_size);
    const FloatPair param = load_param<kOrder>(at, types, i);
    Value values[2] = {param.first, param.second}, states[2][kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) {
      const FloatPair state = load<kOrder>(types.state, at.states[k] + i * state_size);
      states[0][k] = state.first, states[1][k] = state.second;
    }
    Value grads[2] = {grad.first, grad.second};
    if (scaled) grads[0] = grads[0] * Value(s.grad_factor), grads[1] = grads[1] * Value(s.grad_factor);
    Rule::update(s.rule, grads[0], values[0], states[0]);
    Rule::update(s.rule, grads[1], values[1], states[1]);
    Words random = {};
    if (any_random) random = random_pair.next();
    for (int k = 0; k < kStored; ++k) {
      const FloatPair state = {states[0][k].lanes, states[1][k].lanes};
      char* const target = at.states[k] + i * state_size;
      if (narrow && (Rule::kSlow >> k & 1u) != 0)
        store_upper<kOrder>(target, to_bfloat16_at_random(state, random_for_state(random)));
      else
        store<kOrder>(types.state, target, state);
    }
    store_param<kOrder>(at, types, i, {values[0].lanes, values[1].lanes}, random);
  }
}

// The last elements, fewer than 32, take the same instructions on a copy.
template <class Rule, class Loop>
static inline void step_rest(const Places& at, const StepTypes& types, std::int64_t count, const Loop& loop) {
  alignas(64) char copies[3 + kMaxStates][4 * kPair] = {};
  const Places there = {copies[0], copies[1], copies[2], {copies[3], copies[4], copies[5]}};
  const auto state_bytes = static_cast<std::size_t>(count) * item_size(types.state);
  const auto param_bytes = static_cast<std::size_t>(count) * item_size(types.param);
  const auto extra_bytes = static_cast<std::size_t>(count * extra_size(types.extra));
  __builtin_memcpy(there.param, at.param, param_bytes);
  __builtin_memcpy(there.grad, at.grad, static_cast<std::size_t>(count) * item_size(types.grad));
  if (extra_bytes != 0) __builtin_memcpy(there.extra, at.extra, extra_bytes);
  for (int k = 0; k < Rule::kStates; ++k) __builtin_memcpy(there.states[k], at.states[k], state_bytes);
  loop(there);
  __builtin_memcpy(at.param, there.param, param_bytes);
  if (extra_bytes != 0) __builtin_memcpy(at.extra, there.extra, extra_bytes);
  for (int k = 0; k < Rule::kStates; ++k) __builtin_memcpy(at.states[k], there.states[k], state_bytes);
}

static inline Places places_after(const Places& at, const StepTypes& types, std::int64_t count) {
  StepTensor t = {};
  t.param = at.param, t.grad = at.grad, t.extra = at.extra;
  for (int k = 0; k < kMaxStates; ++k) t.states[k] = at.states[k];
  return places_of(t, types, kMaxStates, count);
}

template <class Rule, Order kOrder>
[[gnu::always_inline]] static inline void wide_places(const Places& at, const StepTypes& types,
                                                      const StepScalars<Rule, float>& s, std::uint32_t first,
                                                      std::int64_t count) {
  const std::int64_t whole = count / kPair * kPair;
  wide_loop<Rule, kOrder>(at, types, s, first, whole);
  if (whole == count) return;
  step_rest<Rule>(places_after(at, types, whole), types, count - whole, [&](const Places& copy) {
    wide_loop<Rule, kOrder>(copy, types, s, first + static_cast<std::uint32_t>(whole), kPair);
  });
}

// Not inlined: one copy of the loop for all types it is called with.
template <class Rule>
[[gnu::noinline]] static void wide_range(const Places& at, const StepTypes& types, const StepScalars<Rule, float>& s,
                                         std::uint32_t first, std::int64_t count) {
  wide_places<Rule, Order::kHalves>(at, types, s, first, count);
}

// BFloat16 all over, remainders and random rounding of parameters included.
template <class Rule, Order kOrder>
[[gnu::noinline]] static void alternate_range(const Places& at, Extra extra, const StepScalars<Rule, float>& s,
                                              std::uint32_t first, std::int64_t count) {
  const StepTypes types = {DType::kBFloat16, DType::kBFloat16, DType::kBFloat16, extra};
  wide_places<Rule, kOrder>(at, types, s, first, count);
}

// ---- 8-bit moments: decoded into L1 and encoded from there, one block at a time ----

template <bool kSigned>
static void load_moment_block(const StepTensor& t, int k, std::int64_t begin, std::int64_t count, float* buffer) {
  const auto* codes = static_cast<const std::uint8_t*>(t.states[k]) + begin;
  const __m512 scale = _mm512_set1_ps(*moment_scale(t, k, begin));
  for (std::int64_t i = 0; i < count; i += 16) {
    const __m128i moments = count - i >= 16 ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i))
                                            : _mm_maskz_loadu_epi8((1u << (count - i)) - 1u, codes + i);
    _mm512_store_ps(buffer + i, from_moments<kSigned>(moments, scale));
  }
}

// `buffer` is zero beyond `count`.
template <bool kSigned>
static void store_moment_block(const StepTensor& t, int k, std::int64_t begin, std::int64_t count, const float* buffer,
                               std::uint32_t key) {
  auto* codes = static_cast<std::uint8_t*>(t.states[k]) + begin;
  const float scale = float_of(largest_magnitude(buffer, static_cast<int>((count + 15) / 16 * 16)));
  *moment_scale(t, k, begin) = scale;
  const __m512 inverse = _mm512_set1_ps(inverse_of_scale(scale));
  RandomPair<Order::kHalves> random_pair(key, static_cast<std::uint32_t>(begin));
  for (std::int64_t i = 0; i < count; i += kPair) {
    const Words random = random_pair.next();
    const __m128i first = to_moments<kSigned>(_mm512_load_ps(buffer + i), inverse, random.first);
    const __m128i second = to_moments<kSigned>(_mm512_load_ps(buffer + i + 16), inverse, random.second);
    const __m256i both = _mm256_set_m128i(second, first);
    if (count - i >= kPair)  // masked stores of bytes are slow
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), both);
    else
      _mm256_mask_storeu_epi8(codes + i, (1u << (count - i)) - 1u, both);
  }
}

template <class Rule>
static void wide_moments(const StepTensor& t, std::int64_t begin, std::int64_t end, StepTypes types,
                         const StepScalars<Rule, float>& s) {
  alignas(64) float buffers[kMaxStates][kMomentBlock];
  for (; begin < end; begin += kMomentBlock) {
    const std::int64_t count = end - begin < kMomentBlock ? end - begin : kMomentBlock;
    types.state = DType::kFloat32;
    Places at = places_of(t, types, 0, begin);
    for (int k = 0; k < Rule::kStates; ++k) {
      at.states[k] = reinterpret_cast<char*>(buffers[k]);
      (Rule::kSigned >> k & 1u) != 0 ? load_moment_block<true>(t, k, begin, count, buffers[k])
                                     : load_moment_block<false>(t, k, begin, count, buffers[k]);
      const auto rest = static_cast<std::size_t>(kMomentBlock - count);
      if (rest > 0) __builtin_memset(buffers[k] + count, 0, rest * sizeof(float));
    }
    wide_range<Rule>(at, types, s, static_cast<std::uint32_t>(begin), count);
    for (int k = 0; kWritesStates<Rule> && k < Rule::kStates; ++k) {
      const std::uint32_t key = s.key + static_cast<std::uint32_t>(k);
      (Rule::kSigned >> k & 1u) != 0 ? store_moment_block<true>(t, k, begin, count, buffers[k], key)
                                     : store_moment_block<false>(t, k, begin, count, buffers[k], key);
    }
  }
}

// ---- which loop ----

template <class Rule>
static void wide_step(const StepTensor& t, std::int64_t begin, std::int64_t end, const StepTypes& types,
                      const StepScalars<Rule, float>& s) {
  if (types.state == DType::kUInt8 && Rule::kStates > 0) return wide_moments<Rule>(t, begin, end, types, s);
  const Places at = places_of(t, types, Rule::kStates, begin);
  const auto first = static_cast<std::uint32_t>(begin);
  if (types.param == DType::kBFloat16 && types.grad == DType::kBFloat16 && types.state == DType::kBFloat16 &&
      types.extra != Extra::kMaster)
    return __builtin_cpu_supports("avx512bf16")
               ? alternate_range<Rule, Order::kAlternateConverted>(at, types.extra, s, first, end - begin)
               : alternate_range<Rule, Order::kAlternate>(at, types.extra, s, first, end - begin);
  wide_range<Rule>(at, types, s, first, end - begin);
}

}  // namespace PP_ISA
}  // namespace pyparallel
