// Blocks of elements on the CPU: a kernel works on float blocks that stay in L1, whatever dtype lies in memory.
#pragma once
#include <cstdint>

#include "core/float16.hpp"

namespace pyparallel {
namespace PP_ISA {

inline constexpr std::int64_t kBlock = 512;

// `count` elements as floats: float memory is used where it lies, anything else is widened into `buffer`.
static inline float* as_floats(float* source, float*, std::int64_t) { return source; }
static inline const float* as_floats(const float* source, float*, std::int64_t) { return source; }

template <typename T>
static inline const float* as_floats(const T* source, float* buffer, std::int64_t count) {
  widen(source, buffer, static_cast<std::size_t>(count));
  return buffer;
}

// Calls fn.template operator()<T>() with the storage type of a floating dtype; false for any other dtype.
template <typename Function>
static inline bool with_float_type(DType dtype, const Function& fn) {
  switch (dtype) {
    case DType::kFloat32:
      fn(static_cast<float*>(nullptr));
      return true;
    case DType::kBFloat16:
      fn(static_cast<BFloat16*>(nullptr));
      return true;
    case DType::kFloat16:
      fn(static_cast<Float16*>(nullptr));
      return true;
    case DType::kFloat64:
      fn(static_cast<double*>(nullptr));
      return true;
    default:
      return false;
  }
}

}  // namespace PP_ISA
}  // namespace pyparallel
