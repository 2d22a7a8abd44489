// A float's bits, on the host and on the device.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/macros.hpp"

namespace pyparallel {

PP_HOST_DEVICE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

PP_HOST_DEVICE float float_of(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Of a block's values one by one: the bits of their largest magnitude. As integers, NaN is larger than inf and inf than
// all numbers, and so they spread over their block.
PP_HOST_DEVICE std::uint32_t larger_magnitude(std::uint32_t largest, float value) {
  const std::uint32_t magnitude = bits_of(value) & 0x7fffffffu;
  return magnitude > largest ? magnitude : largest;
}

}  // namespace pyparallel
