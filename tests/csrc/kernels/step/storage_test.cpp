// Narrow storage: every function against an obvious reference, and every CPU loop against one written out here.
#include "kernels/step/storage.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.hpp"
#include "core/float16.hpp"
#include "kernels/adagrad.hpp"
#include "kernels/adam.hpp"
#include "kernels/lion.hpp"
#include "kernels/rmsprop.hpp"
#include "kernels/sgd.hpp"
#include "kernels/step/scalars.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

namespace {

using Random = std::mt19937_64;
const float kInfinite = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

std::uint32_t word(Random& random) { return static_cast<std::uint32_t>(random()); }

// ---- functions ----

// The nearer neighbour in bfloat16, the even one in the middle, by distances in float64.
std::uint16_t nearest(float value) {
  const std::uint32_t bits = bits_of(value);
  const auto below = static_cast<std::uint16_t>(bits >> 16);
  const auto exact = [](std::uint16_t upper) {  // 2^128 stands where inf does
    const bool is_inf = (upper & 0x7fffu) == 0x7f80u;
    return is_inf ? std::copysign(0x1p128, upper & 0x8000u ? -1.0 : 1.0) : static_cast<double>(from_bfloat16(upper));
  };
  const double down = std::abs(value - exact(below)),
               up = std::abs(exact(static_cast<std::uint16_t>(below + 1)) - value);
  return static_cast<std::uint16_t>(below + (up < down || (up == down && below % 2 == 1)));
}

void bfloat16_is_the_nearest(Random& random) {
  for (int i = 0; i < 2'000'000; ++i) {
    std::uint32_t bits = word(random);
    if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // ties
    if (i % 8 == 1) bits &= 0x807fffffu;                    // denormals
    const float value = float_of(bits);
    if (std::isnan(value))
      CHECK_EQUAL(std::isnan(from_bfloat16(to_bfloat16(value))), true);
    else if (std::isinf(value))
      CHECK_EQUAL(from_bfloat16(to_bfloat16(value)), value);
    else
      CHECK_EQUAL(to_bfloat16(value), nearest(value));
  }
}

void random_rounding_is_unbiased(Random& random) {
  constexpr int kKeys = 40'000;
  for (int i = 0; i < 20; ++i) {
    const float value = float_of((word(random) & 0x807fffffu) | 0x3f800000u);  // 1 <= |value| < 2
    const std::uint32_t index = word(random);
    double state = 0, param = 0;
    for (int k = 0; k < kKeys; ++k) {
      const std::uint32_t bits = random_bits(random_key(7, 3, static_cast<std::uint32_t>(k)), index);
      CHECK_EQUAL(random_for_state(bits) < 65536 && random_for_param(bits) < 65536, true);
      state += from_bfloat16(to_bfloat16_at_random(value, random_for_state(bits)));
      param += from_bfloat16(to_bfloat16_at_random(value, random_for_param(bits)));
    }
    const double tolerance = 6 * 0.5 * 0x1p-7 / std::sqrt(kKeys);  // six deviations of a coin of one ulp
    CHECK_CLOSE(state / kKeys, value, tolerance);
    CHECK_CLOSE(param / kKeys, value, tolerance);
  }
}

void random_rounding_moves_one_step_at_most(Random& random) {
  for (int i = 0; i < 2'000'000; ++i) {
    const float value = float_of(i % 4 == 0 ? word(random) | 0x7f800000u : word(random));
    const std::uint16_t rounded = to_bfloat16_at_random(value, word(random) >> 16);
    const auto cut = static_cast<std::uint16_t>(bits_of(value) >> 16);
    CHECK_EQUAL(std::isnan(from_bfloat16(rounded)), std::isnan(value));
    if (std::isnan(value)) continue;
    CHECK_EQUAL(rounded == cut || (rounded == cut + 1 && (bits_of(value) & 0xffffu) != 0), true);
  }
  for (float value : {kInfinite, -kInfinite}) CHECK_EQUAL(from_bfloat16(to_bfloat16_at_random(value, 0xffffu)), value);
}

void remainders_complete_the_parameter(Random& random) {
  for (int i = 0; i < 4'000'000; ++i) {
    std::uint32_t bits = word(random);
    if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;
    const float value = float_of(bits);
    const std::uint16_t rounded = to_bfloat16(value);
    const float back = from_remainder(rounded, remainder_of(value, rounded));
    const bool lossy = (bits & 0x1ffffu) == 0x8000u;  // the tie above an even parameter
    if (std::isnan(value))
      CHECK_EQUAL(std::isnan(back), true);
    else
      CHECK_EQUAL(bits_of(back), bits - (lossy ? 1u : 0u));
  }
}

// ---- 8-bit moments ----

template <bool kSigned>
void moments_keep_three_bits(Random& random) {
  std::uniform_real_distribution<float> octave(kSigned ? -15.0f : -30.0f, 0.0f);
  for (float scale : {1.0f, 0x1p-126f, 1e-30f, 3e-3f, 1e30f, std::numeric_limits<float>::max()}) {
    const float inverse = inverse_of_scale(scale);
    for (int i = 0; i < 50'000; ++i) {
      const float sign = kSigned && random() % 2 ? -1.0f : 1.0f;
      const float value = sign * scale * std::exp2(octave(random));
      if (std::abs(value) < 0x1p-126f) continue;
      const float back = from_moment<kSigned>(to_moment<kSigned>(value, inverse, word(random)), scale);
      CHECK_CLOSE(back, value, 0.1251 * std::abs(value));
      CHECK_EQUAL(std::signbit(back), std::signbit(value));
    }
    CHECK_EQUAL((from_moment<kSigned>(to_moment<kSigned>(0.0f, inverse, word(random)), scale)), 0.0f);
    CHECK_CLOSE((from_moment<kSigned>(to_moment<kSigned>(scale, inverse, 0), scale)), scale, 0.1251 * scale);
  }
  CHECK_EQUAL((from_moment<kSigned>(to_moment<kSigned>(1e-40f, inverse_of_scale(1e-40f), ~0u), 1e-40f)), 0.0f);
  CHECK_EQUAL(std::isnan(from_moment<kSigned>(3, kNan)), true);
  CHECK_EQUAL((to_moment<false>(0x1p-100f, 1.0f, 0)), 1);  // no second moment becomes 0
  CHECK_EQUAL(larger_magnitude(larger_magnitude(0, -kInfinite), kNan) > 0x7f800000u, true);
}

template <bool kSigned>
void moments_are_unbiased(Random& random) {
  constexpr int kKeys = 40'000;
  for (int i = 0; i < 20; ++i) {
    const float value = 0.25f + 0.5f * static_cast<float>(word(random)) * 0x1p-32f;
    double sum = 0;
    for (int k = 0; k < kKeys; ++k)
      sum += from_moment<kSigned>(to_moment<kSigned>(value, 1.0f, random_bits(word(random), 5)), 1.0f);
    CHECK_CLOSE(sum / kKeys, value, 6 * 0.5 * 0x1p-4 / std::sqrt(kKeys));
  }
}

// ---- loops ----

struct Arrays {
  std::vector<unsigned char> param, grad, extra, states[kMaxStates];
  float step = 2;
};

float read(DType dtype, const void* array, std::int64_t i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(array)[i];
  if (dtype == DType::kFloat16) return to_float(static_cast<const Float16*>(array)[i]);
  return from_bfloat16(static_cast<const std::uint16_t*>(array)[i]);
}

void write(DType dtype, void* array, std::int64_t i, float value) {
  if (dtype == DType::kFloat32)
    static_cast<float*>(array)[i] = value;
  else if (dtype == DType::kFloat16)
    static_cast<Float16*>(array)[i] = from_float<Float16>(value);
  else
    static_cast<std::uint16_t*>(array)[i] = to_bfloat16(value);
}

template <class Rule>
float read_state(const StepTensor& t, DType dtype, int k, std::int64_t i) {
  if (dtype != DType::kUInt8) return read(dtype, t.states[k], i);
  const std::uint8_t code = static_cast<const std::uint8_t*>(t.states[k])[i];
  const float scale = *moment_scale(t, k, i);
  return Rule::kSigned >> k & 1u ? from_moment<true>(code, scale) : from_moment<false>(code, scale);
}

template <class Rule>
void write_states(const StepTensor& t, DType dtype, int k, const std::vector<float>& values, std::uint32_t key) {
  const auto* const from = values.data();
  for (std::int64_t i = 0; i < t.numel; ++i) {
    const auto index = static_cast<std::uint32_t>(i);
    if (dtype == DType::kUInt8) {
      const std::int64_t block = i / kMomentBlock * kMomentBlock, end = std::min(t.numel, block + kMomentBlock);
      std::uint32_t largest = 0;
      for (std::int64_t j = block; j < end; ++j) largest = larger_magnitude(largest, from[j]);
      *moment_scale(t, k, i) = float_of(largest);
      const float inverse = inverse_of_scale(float_of(largest));
      const std::uint32_t random = random_bits(key + static_cast<std::uint32_t>(k), index);
      static_cast<std::uint8_t*>(t.states[k])[i] = Rule::kSigned >> k & 1u ? to_moment<true>(from[i], inverse, random)
                                                                           : to_moment<false>(from[i], inverse, random);
    } else if (dtype == DType::kBFloat16 && (Rule::kSlow >> k & 1u)) {
      const std::uint32_t random = random_for_state(random_bits(key, index));
      static_cast<std::uint16_t*>(t.states[k])[i] = to_bfloat16_at_random(from[i], random);
    } else {
      write(dtype, t.states[k], i, from[i]);
    }
  }
}

// One float that is updated as the CPU variant under test does it: the baseline has no fused multiply-add.
struct One {
  float value;
  One(float x = 0) : value(x) {}
  friend One operator+(One a, One b) { return a.value + b.value; }
  friend One operator-(One a, One b) { return a.value - b.value; }
  friend One operator-(One a) { return -a.value; }
  friend One operator*(One a, One b) { return a.value * b.value; }
  friend One operator/(One a, One b) { return a.value / b.value; }
  friend bool operator<(One a, One b) { return a.value < b.value; }
  friend bool operator>(One a, One b) { return a.value > b.value; }
  friend bool operator!=(One a, One b) { return a.value != b.value; }
  friend One select(bool condition, One a, One b) { return condition ? a : b; }
  friend One square_root(One a) { return std::sqrt(a.value); }
  friend One fused_multiply_add(One a, One b, One c) {
#if defined(__x86_64__)
    if (active_isa() == Isa::kBaseline) return a.value * b.value + c.value;
#endif
    return std::fma(a.value, b.value, c.value);
  }
};

// One element after the other, as contract.hpp and storage.hpp say it.
template <class Rule>
void slow_loop(const StepTensor& t, const StepTypes& types, const StepScalars<Rule, float>& s) {
  std::vector<float> states[kMaxStates];
  for (std::int64_t i = 0; i < t.numel; ++i) {
    auto* const param = static_cast<std::uint16_t*>(t.param);
    auto* const remainder = static_cast<std::uint16_t*>(t.extra);
    One updated = types.extra == Extra::kMaster      ? read(DType::kFloat32, t.extra, i)
                  : types.extra == Extra::kRemainder ? from_remainder(param[i], remainder[i])
                                                     : read(types.param, t.param, i);
    One state[kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) state[k] = read_state<Rule>(t, types.state, k, i);
    Rule::update(s.rule, One(read(types.grad, t.grad, i)) * One(s.grad_factor), updated, state);
    const float value = updated.value;
    for (int k = 0; k < Rule::kStates; ++k) states[k].push_back(state[k].value);
    if (types.extra == Extra::kStochastic)
      param[i] = to_bfloat16_at_random(value, random_for_param(random_bits(s.key, static_cast<std::uint32_t>(i))));
    else
      write(types.param, t.param, i, value);
    if (types.extra == Extra::kMaster) write(DType::kFloat32, t.extra, i, value);
    if (types.extra == Extra::kRemainder) remainder[i] = remainder_of(value, param[i]);
  }
  for (int k = 0; k < Rule::kStates; ++k) write_states<Rule>(t, types.state, k, states[k], s.key);
}

template <class Rule>
Arrays random_arrays(const StepTypes& types, std::int64_t numel, bool with_nan, Random& random) {
  std::normal_distribution<float> normal;
  Arrays a;
  const auto room = static_cast<std::size_t>(std::max(4 * numel, moment_bytes(numel)));
  for (auto* bytes : {&a.param, &a.grad, &a.extra, &a.states[0], &a.states[1], &a.states[2]}) bytes->assign(room, 0);
  for (std::int64_t i = 0; i < numel; ++i) {
    write(types.param, a.param.data(), i, normal(random));
    const bool is_special = with_nan && random() % 64 == 0;
    const float specials[] = {kNan, kInfinite, -kInfinite, 0.0f, 1e-40f, float_of(0xffffffffu), 1e30f};
    write(types.grad, a.grad.data(), i, is_special ? specials[random() % 7] : normal(random));
    if (types.extra == Extra::kMaster) write(DType::kFloat32, a.extra.data(), i, normal(random));
    if (types.extra == Extra::kRemainder) write(DType::kBFloat16, a.extra.data(), i, normal(random));
    if (types.state == DType::kUInt8) continue;
    for (int k = 0; k < Rule::kStates; ++k)
      write(types.state, a.states[k].data(), i, Rule::kSigned >> k & 1u ? normal(random) : std::abs(normal(random)));
  }
  return a;
}

StepTensor view(Arrays& a, std::int64_t numel) {
  return {a.param.data(),
          a.grad.data(),
          {a.states[0].data(), a.states[1].data(), a.states[2].data()},
          a.extra.data(),
          &a.step,
          nullptr,
          numel,
          5};
}

// The bits, but one NaN for all.
std::uint32_t comparable(float value) { return std::isnan(value) ? 0x7fc00000u : bits_of(value); }

template <class Rule>
void has_same_bits(const StepTensor& a, const StepTensor& b, const StepTypes& types) {
  for (std::int64_t i = 0; i < a.numel; ++i) {
    CHECK_EQUAL(comparable(read(types.param, a.param, i)), comparable(read(types.param, b.param, i)));
    if (types.extra == Extra::kMaster)
      CHECK_EQUAL(comparable(read(DType::kFloat32, a.extra, i)), comparable(read(DType::kFloat32, b.extra, i)));
    if (types.extra == Extra::kRemainder)
      CHECK_EQUAL(static_cast<std::uint16_t*>(a.extra)[i], static_cast<std::uint16_t*>(b.extra)[i]);
    for (int k = 0; k < Rule::kStates; ++k)
      CHECK_EQUAL(comparable(read_state<Rule>(a, types.state, k, i)),
                  comparable(read_state<Rule>(b, types.state, k, i)));
  }
}

template <class Rule, class Step>
void loop_agrees(const StepTypes& types, std::int64_t numel, bool with_nan, const typename Rule::Hyper& hyper,
                 const Step& step, Random& random) {
  Arrays fast = random_arrays<Rule>(types, numel, with_nan, random), slow = fast;
  StepControl control;
  control.seed = word(random);
  for (int round = 0; round < 2; ++round) {
    const StepTensor tensor = view(fast, numel);
    step(&tensor, 1, types, hyper, control, 2);
    slow.step += 1;
    slow_loop<Rule>(view(slow, numel), types, step_scalars<Rule, float>(hyper, control, slow.step, nullptr, 5));
    has_same_bits<Rule>(view(fast, numel), view(slow, numel), types);
  }
}

template <class Rule, class Step>
void every_type_agrees(const typename Rule::Hyper& hyper, const Step& step, Random& random) {
  std::vector<StepTypes> all;
  for (DType state : {DType::kFloat32, DType::kBFloat16, DType::kUInt8}) {
    all.push_back({DType::kFloat32, DType::kFloat32, state});
    for (DType param : {DType::kBFloat16, DType::kFloat16})
      for (DType grad : {param, DType::kFloat32})
        for (Extra extra : {Extra::kNone, Extra::kMaster, Extra::kRemainder, Extra::kStochastic})
          if (param == DType::kBFloat16 || extra == Extra::kNone || extra == Extra::kMaster)
            all.push_back({param, grad, state, extra});
  }
  for (const StepTypes& types : all)
    for (std::int64_t numel : {1, 15, 32, 33, 127, 128, 1007})
      for (bool with_nan : {false, true}) loop_agrees<Rule>(types, numel, with_nan, hyper, step, random);
}

}  // namespace

int main() {
  Random random = fresh_random();
  bfloat16_is_the_nearest(random);
  random_rounding_is_unbiased(random);
  random_rounding_moves_one_step_at_most(random);
  remainders_complete_the_parameter(random);
  moments_keep_three_bits<true>(random);
  moments_keep_three_bits<false>(random);
  moments_are_unbiased<true>(random);
  moments_are_unbiased<false>(random);
  every_type_agrees<AdamRule<false>>({1e-3, 0.9, 0.99, 1e-8, 0.1, true, false}, adam_cpu, random);
  every_type_agrees<AdamRule<true>>({1e-3, 0.9, 0.99, 1e-8, 0.1, false, true}, adam_cpu, random);
  every_type_agrees<SgdRule<true>>({1e-3, 0.9, 0.1, 0.1, true}, sgd_cpu, random);
  every_type_agrees<SgdRule<false>>({1e-3, 0.0, 0.0, 0.1, false}, sgd_cpu, random);
  every_type_agrees<AdagradRule>({1e-3, 0.1, 0.1, 1e-8}, adagrad_cpu, random);
  every_type_agrees<RmspropRule<true, true>>({1e-3, 0.9, 1e-2, 0.1, 0.9, true}, rmsprop_cpu, random);
  every_type_agrees<LionRule>({1e-3, 0.9, 0.99, 0.1}, lion_cpu, random);
}
