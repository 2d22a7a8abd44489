// Element types as the core knows them: a code, a size and a name. Torch's dtypes are mapped to these codes in Python.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/macros.hpp"

namespace pyparallel {

// The core calculates with the first kDTypeCount; communicators move the others as they are.
enum class DType : std::uint8_t {
  kFloat32 = 0,
  kFloat64,
  kBFloat16,
  kFloat16,
  kInt32,
  kInt64,
  kUInt8,
  kInt8,
  kInt16,
  kBool,
  kUInt16,
  kUInt32,
  kUInt64,
  kComplex32,
  kComplex64,
  kComplex128,
  kFloat8E4M3FN,
  kFloat8E4M3FNUZ,
  kFloat8E5M2,
  kFloat8E5M2FNUZ,
  kFloat8E8M0FNU,
  kFloat4E2M1FNX2,
};

inline constexpr int kDTypeCount = 9, kMovedDTypeCount = 22;

PP_HOST_DEVICE constexpr std::size_t item_size(DType dtype) {
  switch (dtype) {
    case DType::kComplex128:
      return 16;
    case DType::kFloat64:
    case DType::kInt64:
    case DType::kUInt64:
    case DType::kComplex64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
    case DType::kUInt32:
    case DType::kComplex32:
      return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
    case DType::kInt16:
    case DType::kUInt16:
      return 2;
    default:
      return 1;
  }
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

// As torch calls it.
constexpr const char* name(DType dtype) {
  constexpr const char* kNames[kMovedDTypeCount] = {"float32",        "float64",
                                                    "bfloat16",       "float16",
                                                    "int32",          "int64",
                                                    "uint8",          "int8",
                                                    "int16",          "bool",
                                                    "uint16",         "uint32",
                                                    "uint64",         "complex32",
                                                    "complex64",      "complex128",
                                                    "float8_e4m3fn",  "float8_e4m3fnuz",
                                                    "float8_e5m2",    "float8_e5m2fnuz",
                                                    "float8_e8m0fnu", "float4_e2m1fn_x2"};
  return static_cast<int>(dtype) < kMovedDTypeCount ? kNames[static_cast<int>(dtype)] : "unknown";
}

// 16-bit floats are storage only: arithmetic happens in float (see float16.hpp).
struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

}  // namespace pyparallel
