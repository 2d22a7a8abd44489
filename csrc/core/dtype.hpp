// Element types as the core knows them: a code, a size and a name. Torch's dtypes are mapped to these codes in Python.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/macros.hpp"

namespace pyparallel {

enum class DType : std::uint8_t { kFloat32 = 0, kFloat64, kBFloat16, kFloat16, kInt32, kInt64, kUInt8 };

inline constexpr int kDTypeCount = 7;

PP_HOST_DEVICE constexpr std::size_t item_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kUInt8:
      return 1;
  }
  return 0;
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

constexpr const char* name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kUInt8:
      return "uint8";
  }
  return "unknown";
}

// 16-bit floats are storage only: arithmetic happens in float (see float16.hpp).
struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

}  // namespace pyparallel
