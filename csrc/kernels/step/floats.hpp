// Sixteen floats of an AVX-512 register as the value that a rule updates.
//
// Square roots and quotients are the exact instructions: the divider works beside the conversions, and on Zen 4
// reciprocal estimates with a Newton step bring too little to give up exact results.
#pragma once
#include <immintrin.h>

#include "core/isa.hpp"

namespace pyparallel {
namespace PP_ISA {

struct Floats {
  __m512 lanes;

  Floats() = default;
  Floats(__m512 value) : lanes(value) {}
  Floats(float value) : lanes(_mm512_set1_ps(value)) {}

  friend inline Floats operator+(Floats a, Floats b) { return _mm512_add_ps(a.lanes, b.lanes); }
  friend inline Floats operator-(Floats a, Floats b) { return _mm512_sub_ps(a.lanes, b.lanes); }
  friend inline Floats operator-(Floats a) { return _mm512_xor_ps(a.lanes, _mm512_set1_ps(-0.0f)); }
  friend inline Floats operator*(Floats a, Floats b) { return _mm512_mul_ps(a.lanes, b.lanes); }
  friend inline Floats operator/(Floats a, Floats b) { return _mm512_div_ps(a.lanes, b.lanes); }
  friend inline __mmask16 operator<(Floats a, Floats b) { return _mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_LT_OQ); }
  friend inline __mmask16 operator>(Floats a, Floats b) { return _mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_GT_OQ); }
  friend inline __mmask16 operator!=(Floats a, Floats b) { return _mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_NEQ_UQ); }

  friend inline Floats select(__mmask16 condition, Floats a, Floats b) {
    return _mm512_mask_blend_ps(condition, b.lanes, a.lanes);
  }
  friend inline Floats fused_multiply_add(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a.lanes, b.lanes, c.lanes);
  }
  friend inline Floats square_root(Floats a) { return _mm512_sqrt_ps(a.lanes); }
};

}  // namespace PP_ISA
}  // namespace pyparallel
