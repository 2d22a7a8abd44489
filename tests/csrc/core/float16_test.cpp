// 16-bit floats: every bit pattern survives the way to float and back, and rounding is to nearest even.
#include "core/float16.hpp"

#include <cmath>
#include <vector>

#include "check.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

namespace {

// The value of a 16-bit pattern, from the definition of the format.
double value_of(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double fraction = static_cast<double>(bits & ((1u << mantissa_bits) - 1)) / (1 << mantissa_bits);
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1.0 + fraction, exponent - bias);
}

template <typename T>
void every_pattern_survives(int exponent_bits, int mantissa_bits) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const T stored{static_cast<std::uint16_t>(bits)};
    const double expected = value_of(bits, exponent_bits, mantissa_bits);
    const float wide = to_float(stored);
    if (std::isnan(expected)) {
      CHECK_EQUAL(std::isnan(wide), true);
      CHECK_EQUAL(std::isnan(to_float(from_float<T>(wide))), true);
    } else {
      CHECK_EQUAL(static_cast<double>(wide), expected);
      CHECK_EQUAL(from_float<T>(wide).bits, static_cast<std::uint16_t>(bits));
    }
  }
}

// Between two neighbours: below the middle goes down, above goes up, the middle goes to the even one.
template <typename T>
void rounds_to_nearest_even(std::uint32_t infinity) {
  for (std::uint32_t bits = 0; bits + 1 < infinity; ++bits) {
    const double low = to_float(T{static_cast<std::uint16_t>(bits)});
    const double high = to_float(T{static_cast<std::uint16_t>(bits + 1)});
    const float middle = static_cast<float>((low + high) / 2);
    const auto even = static_cast<std::uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    CHECK_EQUAL(from_float<T>(middle).bits, even);
    CHECK_EQUAL(from_float<T>(std::nextafterf(middle, 0.0f)).bits, static_cast<std::uint16_t>(bits));
    CHECK_EQUAL(from_float<T>(std::nextafterf(middle, INFINITY)).bits, static_cast<std::uint16_t>(bits + 1));
  }
  CHECK_EQUAL(from_float<T>(-INFINITY).bits, static_cast<std::uint16_t>(0x8000u | infinity));
  CHECK_EQUAL(from_float<T>(3.4028235e38f).bits, static_cast<std::uint16_t>(infinity));
}

template <typename T>
void blocks_equal_elements() {
  std::vector<T> source(1003);
  std::mt19937_64 random = fresh_random();
  for (T& element : source) element.bits = static_cast<std::uint16_t>(random());
  std::vector<float> wide(source.size());
  std::vector<T> back(source.size());
  widen(source.data(), wide.data(), source.size());
  narrow(wide.data(), back.data(), source.size());
  for (std::size_t i = 0; i < source.size(); ++i)
    if (!std::isnan(wide[i])) CHECK_EQUAL(back[i].bits, source[i].bits);
}

}  // namespace

int main() {
  every_pattern_survives<BFloat16>(8, 7);
  every_pattern_survives<Float16>(5, 10);
  rounds_to_nearest_even<BFloat16>(0x7f80);
  rounds_to_nearest_even<Float16>(0x7c00);
  blocks_equal_elements<BFloat16>();
  blocks_equal_elements<Float16>();
}
