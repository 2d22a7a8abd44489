// What lets one math header serve g++, nvcc and the CPU variants: host/device marks and explicit fused multiply-add.
#pragma once
#include <cmath>

#if defined(__CUDACC__)
#define PP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define PP_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace pyparallel {

// a * b + c, rounded once where the target has the instruction. Builds set -ffp-contract=off, so that rounding is what
// is written here and nowhere else; a baseline x86-64 without FMA rounds twice rather than call libm per element.
PP_HOST_DEVICE float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__aarch64__)
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

PP_HOST_DEVICE double fused_multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__aarch64__)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

PP_HOST_DEVICE float square_root(float value) { return sqrtf(value); }
PP_HOST_DEVICE double square_root(double value) { return sqrt(value); }

PP_HOST_DEVICE float select(bool condition, float a, float b) { return condition ? a : b; }
PP_HOST_DEVICE double select(bool condition, double a, double b) { return condition ? a : b; }

}  // namespace pyparallel
