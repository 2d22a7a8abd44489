// 16-bit floats on the CPU: conversion to and from float, one element and short blocks. Rounds to nearest even, keeps
// NaN.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.hpp"
#include "core/isa.hpp"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace pyparallel {
namespace PP_ISA {

static inline float bits_to_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

static inline std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float to_float(float value) { return value; }
static inline float to_float(double value) { return static_cast<float>(value); }
static inline float to_float(BFloat16 value) { return bits_to_float(static_cast<std::uint32_t>(value.bits) << 16); }

static inline float to_float(Float16 value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#elif defined(__aarch64__)
  __fp16 half;
  __builtin_memcpy(&half, &value.bits, sizeof half);
  return half;
#else
  // Shift the 15 low bits into place and rescale the exponent by a multiplication, which also normalises subnormals.
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;
  const float scaled = bits_to_float(rest) * bits_to_float(0x77800000u);  // 2^112
  const std::uint32_t special = rest >= 0x0f800000u ? 0x7f800000u | rest : float_to_bits(scaled);
  return bits_to_float(sign | special);
#endif
}

template <typename T>
static inline T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

template <>
inline double from_float<double>(float value) {
  return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const std::uint32_t bits = float_to_bits(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<std::uint16_t>(is_nan ? 0x7fc0u | (bits >> 16 & 0x8000u) : rounded)};
}

template <>
inline Float16 from_float<Float16>(float value) {
#if defined(__F16C__)
  return {static_cast<std::uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
#elif defined(__aarch64__)
  const __fp16 half = static_cast<__fp16>(value);
  Float16 result;
  __builtin_memcpy(&result.bits, &half, sizeof half);
  return result;
#else
  const std::uint32_t bits = float_to_bits(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {  // subnormal: let an addition round
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return {static_cast<std::uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000u))};
  }
  const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<std::uint16_t>(sign | rounded >> 13)};
#endif
}

// Blocks. The loops over float, double and BFloat16 vectorise by themselves; Float16 takes the F16C instructions.
template <typename T>
static inline void widen(const T* source, float* target, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) target[i] = to_float(source[i]);
}

template <typename T>
static inline void narrow(const float* source, T* target, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) target[i] = from_float<T>(source[i]);
}

#if defined(__F16C__)
template <>
inline void widen<Float16>(const Float16* source, float* target, std::size_t count) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  for (; i < count; ++i) target[i] = to_float(source[i]);
}

template <>
inline void narrow<Float16>(const float* source, Float16* target, std::size_t count) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; ++i) target[i] = from_float<Float16>(source[i]);
}
#endif

}  // namespace PP_ISA
}  // namespace pyparallel
