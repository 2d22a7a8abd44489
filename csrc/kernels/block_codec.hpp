// Block codec: gradients as 8-bit integers with one float scale per 256 elements; what rounding drops goes into the
// next step's error. Contract and per-element math.
#pragma once
#include <cstdint>

#include "core/bits.hpp"
#include "core/dtype.hpp"
#include "core/macros.hpp"

namespace pyparallel {

inline constexpr std::int64_t kCodecBlock = 256;

PP_HOST_DEVICE constexpr std::int64_t codec_blocks(std::int64_t count) {
  return (count + kCodecBlock - 1) / kCodecBlock;
}

// With v = values[i] + error[i] in float, in every block of kCodecBlock elements (the last may be shorter):
//
//   scale    = max |v| / 127, the last seven bits of its mantissa cut off; 0 where that is below 2^-126
//   codes[i] = v / scale rounded to nearest even, -127 to 127; 0 where scale is 0
//   error[i] = v - codes[i] * scale: exactly, no bit of v is lost, because a product of code and scale needs no more
//              than 24 bits; at most scale / 2 (and a hair more for the largest), or v where scale is 0
//
// A block with inf or NaN in v: scale NaN, codes 0, error 0. So NaN travels, and is gone with the step that had it.
struct EncodeCall {
  const void* values;  // float32, bfloat16 or float16; read
  DType dtype;         // of values
  float* error;        // read and written; null: no error is kept
  std::int8_t* codes;
  float* scales;       // codec_blocks(count)
  std::int64_t count;  // elements
};

// output[i] = codes[i] * scale * factor, in float and rounded to the dtype once; added to what is there if `add`.
// sources > 1: output[i] = (codes_0[i] * scale_0 + codes_1[i] * scale_1 + ...) * factor, in the order of the sources.
// The codes of source r start at codes + r * codes_stride, its scales scales_stride bytes after those of r - 1. CUDA is
// fastest where all addresses and codes_stride are multiples of 16.
struct DecodeCall {
  const std::int8_t* codes;
  const float* scales;
  std::int64_t codes_stride = 0, scales_stride = 0;  // bytes; scales_stride a multiple of 4
  int sources = 1;
  void* output;        // float32, bfloat16 or float16
  DType dtype;         // of output
  std::int64_t count;  // elements
  float factor = 1.0f;
  bool add = false;
};

// What both loops refuse: other dtypes, negative sizes, null pointers with elements behind them. Throws
// InvalidArgument.
void check_encode(const EncodeCall& call);
void check_decode(const DecodeCall& call);

// `threads` >= 1 work; return when done.
void encode_blocks_cpu(const EncodeCall& call, int threads);
void decode_blocks_cpu(const DecodeCall& call, int threads);

#if PYPARALLEL_CUDA
// The same, to the bit, on `device`, enqueued on `stream` (a cudaStream_t); never synchronise, may be captured. Throw
// CudaError.
void encode_blocks_cuda(const EncodeCall& call, int device, void* stream);
void decode_blocks_cuda(const DecodeCall& call, int device, void* stream);
#endif

// ---- per-element math ----

// From the bits of the largest magnitude of a block (see larger_magnitude).
PP_HOST_DEVICE float codec_scale(std::uint32_t largest) {
  constexpr std::uint32_t kInfinity = 0x7f800000u, kCutBits = 0x7fu, kSmallestNormal = 0x00800000u, kNan = 0x7fc00000u;
  if (largest >= kInfinity) return float_of(kNan);
  const std::uint32_t scale = bits_of(float_of(largest) / 127.0f) & ~kCutBits;
  return float_of(scale < kSmallestNormal ? 0u : scale);
}

// Of a scale that is neither 0 nor NaN. The sum has no place for a fraction, so it is rounded to nearest even, and the
// low bits of its mantissa are the code.
inline constexpr float kCodecShift = 0x1.8p23f;
PP_HOST_DEVICE float shifted_code(float value, float scale) { return value / scale + kCodecShift; }
PP_HOST_DEVICE std::int8_t code_of_shifted(float shifted) { return static_cast<std::int8_t>(bits_of(shifted)); }
PP_HOST_DEVICE float error_of_shifted(float value, float scale, float shifted) {
  return value - (shifted - kCodecShift) * scale;
}

}  // namespace pyparallel
