// Thirty-two elements in two AVX-512 registers, and how they lie in memory. To the bit what storage.hpp says of one
// element, with the same names.
//
//   kHalves:     first = 0 1 2 ... 15,    second = 16 17 ... 31
//   kAlternate:  first = 0 2 4 ... 30,    second = 1 3 5 ... 31    where every array is BFloat16: a 32-bit word of the
//                                                                  array is an element of each, no lane has to move
#pragma once
#include <immintrin.h>

#include "core/dtype.hpp"
#include "core/isa.hpp"
#include "kernels/step/storage.hpp"

namespace pyparallel {
namespace PP_ISA {

// The functions of storage.hpp, for one value, beside those for many.
using pyparallel::bits_of;
using pyparallel::from_remainder;
using pyparallel::random_for_param;
using pyparallel::random_for_state;
using pyparallel::remainder_of;
using pyparallel::to_bfloat16;
using pyparallel::to_bfloat16_at_random;

enum class Order {
  kHalves,
  kAlternate,
  kAlternateConverted,  // the same on a CPU with AVX512_BF16, which rounds to nearest in one instruction
};
constexpr bool is_alternate(Order order) { return order != Order::kHalves; }

struct Words {
  __m512i first, second;
};
struct FloatPair {
  __m512 first, second;
};

inline constexpr int kPair = 32;

static inline __m512i words(std::uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
// A constant that stays in its register: g++ would rather make it anew in every round of a loop.
static inline __m512i held(std::uint32_t value) {
  __m512i word = words(value);
  asm("" : "+v"(word));
  return word;
}

static inline Words bits_of(FloatPair x) { return {_mm512_castps_si512(x.first), _mm512_castps_si512(x.second)}; }
static inline FloatPair floats_of(Words x) { return {_mm512_castsi512_ps(x.first), _mm512_castsi512_ps(x.second)}; }

template <class Function>
static inline Words each(Words x, const Function& fn) {
  return {fn(x.first), fn(x.second)};
}
template <class Function>
static inline Words each(Words x, Words y, const Function& fn) {
  return {fn(x.first, y.first), fn(x.second, y.second)};
}

// ---- 16-bit words: the upper halves of 32-bit ones ----

template <Order kOrder>
static inline Words load_upper(const void* source) {
  if constexpr (is_alternate(kOrder)) {
    const __m512i both = _mm512_loadu_si512(source);
    return {_mm512_slli_epi32(both, 16), _mm512_and_si512(both, words(0xffff0000u))};
  } else {
    const auto* const half = static_cast<const __m256i*>(source);
    return {_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(half)), 16),
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(half + 1)), 16)};
  }
}

template <Order kOrder>
static inline void store_upper(void* target, Words x) {
  if constexpr (is_alternate(kOrder)) {
    constexpr int kSecondInMaskOrFirst = 0xea;
    _mm512_storeu_si512(target, _mm512_ternarylogic_epi32(words(0xffff0000u), x.second, _mm512_srli_epi32(x.first, 16),
                                                          kSecondInMaskOrFirst));
  } else {
    auto* const half = static_cast<__m256i*>(target);
    _mm256_storeu_si256(half, _mm512_cvtepi32_epi16(_mm512_srli_epi32(x.first, 16)));
    _mm256_storeu_si256(half + 1, _mm512_cvtepi32_epi16(_mm512_srli_epi32(x.second, 16)));
  }
}

// Lower halves as signed numbers.
template <Order kOrder>
static inline Words load_signed(const void* source) {
  return each(load_upper<kOrder>(source), [](__m512i x) { return _mm512_srai_epi32(x, 16); });
}

template <Order kOrder>
static inline void store_lower(void* target, Words x) {
  store_upper<kOrder>(target, each(x, [](__m512i word) { return _mm512_slli_epi32(word, 16); }));
}

// ---- bfloat16: the result is in the upper halves, the lower ones are rubbish ----

static inline bool any_nan(FloatPair x) { return _mm512_cmp_ps_mask(x.first, x.second, _CMP_UNORD_Q) != 0; }

[[gnu::always_inline]] static inline Words quiet_nans(FloatPair x, Words rounded) {
  const auto quiet = [](__m512 value, __m512i word) {
    const __m512i sign = _mm512_and_si512(_mm512_castps_si512(value), words(0x80000000u));
    return _mm512_mask_or_epi32(word, _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q), sign, words(0x7fc00000u));
  };
  return {quiet(x.first, rounded.first), quiet(x.second, rounded.second)};
}

static inline Words to_bfloat16(FloatPair x) {
  const Words rounded = each(bits_of(x), [](__m512i bits) {
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), words(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, words(0x7fff)), odd);
  });
  return __builtin_expect(any_nan(x), 0) ? quiet_nans(x, rounded) : rounded;
}

// What the instruction makes otherwise than to_bfloat16.
static inline bool any_nan_or_denormal(FloatPair x) {
  constexpr int kClasses = 0x01 | 0x20 | 0x80;  // quiet NaN, denormal, signalling NaN
  return (_mm512_fpclass_ps_mask(x.first, kClasses) | _mm512_fpclass_ps_mask(x.second, kClasses)) != 0;
}

// 32 BFloat16 in memory's order, of lanes that alternate. Assembly, because only this much of the file needs the
// instruction.
static inline __m512i convert_alternate(FloatPair x) {
  const __m512i interleave =
      _mm512_set_epi32(0x1f000f, 0x1e000e, 0x1d000d, 0x1c000c, 0x1b000b, 0x1a000a, 0x190009, 0x180008, 0x170007,
                       0x160006, 0x150005, 0x140004, 0x130003, 0x120002, 0x110001, 0x100000);
  __m512i halves;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(halves) : "v"(x.first), "v"(x.second));
  return _mm512_permutexvar_epi16(interleave, halves);
}

static inline Words to_bfloat16_at_random(FloatPair x, Words random) {
  const Words rounded = each(bits_of(x), random, [](__m512i bits, __m512i r) { return _mm512_add_epi32(bits, r); });
  return __builtin_expect(any_nan(x), 0) ? quiet_nans(x, rounded) : rounded;
}

static inline Words remainder_of(FloatPair x, Words rounded) {
  const Words difference = each(bits_of(x), rounded, [](__m512i bits, __m512i upper) {
    const __m512i rest = _mm512_sub_epi32(bits, _mm512_and_si512(upper, words(0xffff0000u)));
    return _mm512_min_epi32(rest, words(32767));
  });
  if (__builtin_expect(!any_nan(x), 1)) return difference;
  return {_mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(x.first, x.first, _CMP_ORD_Q), difference.first),
          _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(x.second, x.second, _CMP_ORD_Q), difference.second)};
}

static inline FloatPair from_remainder(Words upper, Words remainder) {
  return floats_of(each(upper, remainder, [](__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }));
}

// ---- any dtype ----

template <Order kOrder>
static inline FloatPair load(DType dtype, const void* source) {
  if (is_alternate(kOrder) || dtype == DType::kBFloat16) return floats_of(load_upper<kOrder>(source));
  if (dtype == DType::kFloat16) {
    const auto* const half = static_cast<const __m256i*>(source);
    return {_mm512_cvtph_ps(_mm256_loadu_si256(half)), _mm512_cvtph_ps(_mm256_loadu_si256(half + 1))};
  }
  const auto* const values = static_cast<const float*>(source);
  return {_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16)};
}

template <Order kOrder>
static inline void store(DType dtype, void* target, FloatPair x) {
  if constexpr (kOrder == Order::kAlternateConverted)
    if (__builtin_expect(!any_nan_or_denormal(x), 1)) return _mm512_storeu_si512(target, convert_alternate(x));
  if (is_alternate(kOrder) || dtype == DType::kBFloat16) return store_upper<kOrder>(target, to_bfloat16(x));
  if (dtype == DType::kFloat16) {
    auto* const half = static_cast<__m256i*>(target);
    _mm256_storeu_si256(half, _mm512_cvtps_ph(x.first, _MM_FROUND_TO_NEAREST_INT));
    return _mm256_storeu_si256(half + 1, _mm512_cvtps_ph(x.second, _MM_FROUND_TO_NEAREST_INT));
  }
  auto* const values = static_cast<float*>(target);
  _mm512_storeu_ps(values, x.first);
  _mm512_storeu_ps(values + 16, x.second);
}

// ---- random bits of 32 elements and of the next 32 ----

template <Order kOrder>
class RandomPair {
 public:
  RandomPair(std::uint32_t key, std::uint32_t index) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i from = is_alternate(kOrder) ? _mm512_slli_epi32(lane, 1) : lane;
    weyl_ = _mm512_add_epi32(_mm512_mullo_epi32(from, words(kRandomStride)), words(index * kRandomStride + key));
  }

  Words next() {
    const Words bits = each({weyl_, _mm512_add_epi32(weyl_, to_second_)}, [this](__m512i x) {
      return _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 15)), factor_);
    });
    weyl_ = _mm512_add_epi32(weyl_, to_next_);
    return bits;
  }

 private:
  __m512i weyl_;
  const __m512i to_second_ = held(is_alternate(kOrder) ? kRandomStride : kRandomStride * 16);
  const __m512i to_next_ = held(kRandomStride * kPair), factor_ = held(kRandomFactor);
};

static inline Words random_for_state(Words bits) {
  return each(bits, [](__m512i x) { return _mm512_srli_epi32(x, 16); });
}
static inline Words random_for_param(Words bits) {
  return each(
      bits, [](__m512i x) { return _mm512_and_si512(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), words(0xffffu)); });
}

// ---- 8-bit moments, sixteen at a time ----

static inline std::uint32_t largest_magnitude(const float* values, int count) {
  __m512i largest = _mm512_setzero_si512();
  for (int i = 0; i < count; i += 16)
    largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_loadu_si512(values + i), words(0x7fffffffu)));
  return static_cast<std::uint32_t>(_mm512_reduce_max_epu32(largest));
}

template <bool kSigned>
static inline __m128i to_moments(__m512 values, __m512 inverse_scale, __m512i random) {
  constexpr int kLargest = kSigned ? 127 : 255;
  const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(values, inverse_scale));
  const __m512i magnitude = _mm512_and_si512(bits, words(0x7fffffffu));
  const __m512i rounded = _mm512_add_epi32(magnitude, _mm512_srli_epi32(random, 32 - kMantissaCut));
  const __m512i code = _mm512_sub_epi32(_mm512_srli_epi32(rounded, kMantissaCut), words(kOneCode - kLargest));
  if constexpr (!kSigned)  // the conversion limits
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(code, _mm512_min_epu32(magnitude, words(1))));
  const __m512i limited = _mm512_min_epi32(_mm512_max_epi32(code, _mm512_setzero_si512()), words(kLargest));
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), words(0x80u));
  return _mm512_cvtepi32_epi8(_mm512_or_si512(limited, sign));
}

template <bool kSigned>
static inline __m512 from_moments(__m128i moments, __m512 scale) {
  constexpr int kLargest = kSigned ? 127 : 255;
  const __m512i moment = _mm512_cvtepu8_epi32(moments), code = _mm512_and_si512(moment, words(kLargest));
  const __m512i magnitude = _mm512_maskz_slli_epi32(_mm512_test_epi32_mask(code, code),
                                                    _mm512_add_epi32(code, words(kOneCode - kLargest)), kMantissaCut);
  if constexpr (!kSigned) return _mm512_mul_ps(scale, _mm512_castsi512_ps(magnitude));
  const __m512i sign = _mm512_and_si512(_mm512_slli_epi32(moment, 24), words(0x80000000u));
  return _mm512_mul_ps(scale, _mm512_castsi512_ps(_mm512_or_si512(magnitude, sign)));
}

}  // namespace PP_ISA
}  // namespace pyparallel
