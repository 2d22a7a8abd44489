// How values lie in memory in fewer bits than they are computed with: random rounding, remainders, 8-bit moments. The
// same bits on the CPU and on CUDA.
#pragma once
#include <cstdint>

#include "core/bits.hpp"
#include "core/macros.hpp"

namespace pyparallel {

// ---- random bits: a hash of what is rounded, so that a run can be repeated anywhere and resumed ----

// One key per tensor and step.
PP_HOST_DEVICE std::uint32_t random_key(std::uint32_t seed, std::uint32_t tensor, std::uint32_t step) {
  std::uint32_t key = seed * 0x9e3779b1u ^ (tensor + 0x7f4a7c15u) * 0x85ebca77u ^ (step + 0x165667b1u) * 0xc2b2ae3du;
  key ^= key >> 16;
  key *= 0x7feb352du;
  return key ^ key >> 15;
}

// 32 bits per element (index modulo 2^32): a Weyl sequence, folded and multiplied. Enough for rounding, and no more
// than rounding can pay for. The upper bits are the better ones: states take the upper 16 or 20, a parameter the lower
// 16 after another fold.
inline constexpr std::uint32_t kRandomStride = 0x9e3779b1u, kRandomFactor = 0x85ebca6bu;

PP_HOST_DEVICE std::uint32_t random_bits(std::uint32_t key, std::uint32_t index) {
  const std::uint32_t bits = index * kRandomStride + key;
  return (bits ^ bits >> 15) * kRandomFactor;
}

PP_HOST_DEVICE std::uint32_t random_for_state(std::uint32_t bits) { return bits >> 16; }
PP_HOST_DEVICE std::uint32_t random_for_param(std::uint32_t bits) { return (bits ^ bits >> 16) & 0xffffu; }

// ---- bfloat16 ----

PP_HOST_DEVICE float from_bfloat16(std::uint16_t bits) { return float_of(static_cast<std::uint32_t>(bits) << 16); }

PP_HOST_DEVICE std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(is_nan ? 0x7fc0u | (bits >> 16 & 0x8000u) : rounded);
}

// Up with the probability of the part cut off: the expectation is `value`. `random` < 2^16. inf has nothing to cut off
// and stays inf; NaN stays NaN.
PP_HOST_DEVICE std::uint16_t to_bfloat16_at_random(float value, std::uint32_t random) {
  const std::uint32_t bits = bits_of(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(is_nan ? 0x7fc0u | (bits >> 16 & 0x8000u) : (bits + random) >> 16);
}

// ---- bfloat16 and remainder: x = bits of the parameter * 2^16 + remainder as a signed number ----
//
// The parameter is x rounded to nearest even. An even parameter is what 65537 floats round to, one more than 16 bits
// can tell apart: the tie above it is stored as its neighbour, one ulp of float32 lower. All other values are exact.

PP_HOST_DEVICE std::uint16_t remainder_of(float value, std::uint16_t rounded) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
  const std::int32_t difference = static_cast<std::int32_t>(bits - (static_cast<std::uint32_t>(rounded) << 16));
  return static_cast<std::uint16_t>(difference > 32767 ? 32767 : difference);
}

PP_HOST_DEVICE float from_remainder(std::uint16_t rounded, std::uint16_t remainder) {
  const std::int32_t difference = static_cast<std::int16_t>(remainder);
  return float_of((static_cast<std::uint32_t>(rounded) << 16) + static_cast<std::uint32_t>(difference));
}

// ---- 8-bit moments: blocks of kMomentBlock elements and their scales, the largest magnitude of each block ----
//
//   [code of element 0, 1, ... numel - 1 | zeros up to a multiple of 4 | float scale of block 0, 1, ...]
//
// A code is the top of a float's bits, three of the mantissa and as much of the exponent as there is room for: seven
// bits and a sign span 16 octaves below the scale, eight bits without a sign 32. Code 0 is zero. What is cut off rounds
// at random: a moment that changes by less than a code's width per step still moves, on average by the right amount.

inline constexpr std::int64_t kMomentBlock = 128;
inline constexpr int kMantissaCut = 20;             // of float32's 23 bits
inline constexpr std::int32_t kOneCode = 127 << 3;  // 1.0f without the cut bits

PP_HOST_DEVICE std::int64_t moment_blocks(std::int64_t numel) { return (numel + kMomentBlock - 1) / kMomentBlock; }
PP_HOST_DEVICE std::int64_t moment_scales_offset(std::int64_t numel) { return (numel + 3) / 4 * 4; }
PP_HOST_DEVICE std::int64_t moment_bytes(std::int64_t numel) {
  return moment_scales_offset(numel) + 4 * moment_blocks(numel);
}

// 0 where the reciprocal would overflow: such a block is stored as zeros.
PP_HOST_DEVICE float inverse_of_scale(float scale) { return scale < 0x1p-126f ? 0.0f : 1.0f / scale; }

// `value` times `inverse_scale` is at most about 1, whose code is the largest. Where there is no sign, a small number
// never becomes 0: a second moment of 0 would make its step infinite.
template <bool kSigned>
PP_HOST_DEVICE std::uint8_t to_moment(float value, float inverse_scale, std::uint32_t random) {
  constexpr std::int32_t kLargest = kSigned ? 127 : 255;
  const std::uint32_t bits = bits_of(value * inverse_scale), magnitude = bits & 0x7fffffffu;
  const std::uint32_t rounded = magnitude + (random >> (32 - kMantissaCut));
  const std::int32_t code = static_cast<std::int32_t>(rounded >> kMantissaCut) - (kOneCode - kLargest);
  const std::int32_t smallest = !kSigned && magnitude != 0 ? 1 : 0;
  const std::int32_t raised = code < smallest ? smallest : code;
  const std::int32_t limited = raised > kLargest ? kLargest : raised;
  return static_cast<std::uint8_t>(kSigned ? limited | static_cast<std::int32_t>(bits >> 24 & 0x80u) : limited);
}

template <bool kSigned>
PP_HOST_DEVICE float from_moment(std::uint8_t moment, float scale) {
  constexpr std::int32_t kLargest = kSigned ? 127 : 255;
  const std::int32_t code = moment & kLargest;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(code + (kOneCode - kLargest)) << kMantissaCut;
  const std::uint32_t sign = kSigned ? (moment & 0x80u) << 24 : 0u;
  return scale * float_of(code == 0 ? sign : magnitude | sign);
}

}  // namespace pyparallel
