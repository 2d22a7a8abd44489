// combine: rank order, one rounding for 16-bit floats, NaN wins, aliases allowed, nothing written behind the end.
#include "comm/shm/combine.hpp"

#include <cmath>
#include <vector>

#include "check.hpp"
#include "core/float16.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;
using shm::Combination;
using shm::Reduction;

namespace {

template <typename T>
double as_double(T value) {
  if constexpr (std::is_arithmetic_v<T>)
    return static_cast<double>(value);
  else
    return to_float(value);
}

// A result of the reference in the dtype: integers wrap, 16-bit floats round once.
template <typename T>
T make(double value) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(static_cast<std::int64_t>(value));
  else if constexpr (std::is_same_v<T, double>)
    return value;
  else
    return from_float<T>(static_cast<float>(value));
}

double combined(Reduction reduction, double a, double b) {
  switch (reduction) {
    case Reduction::kMax:
      return std::max(a, b);
    case Reduction::kMin:
      return std::min(a, b);
    case Reduction::kProduct:
      return a * b;
    default:
      return a + b;
  }
}

// Small whole numbers and factors, so that sums and products are exact (integers may wrap around).
template <typename T>
void equals_the_reference(DType dtype, Reduction reduction, int ranks, std::size_t count) {
  constexpr std::size_t kBehind = 3;
  std::vector<std::vector<T>> buffers(static_cast<std::size_t>(ranks));
  std::vector<const char*> sources;
  std::vector<char*> targets;
  std::vector<double> factors;
  std::vector<T> expected;
  for (int r = 0; r < ranks; ++r) {
    factors.push_back(r % 2 == 0 ? 0.5 : -2.0);
    for (std::size_t i = 0; i < count + kBehind; ++i)
      buffers[r].push_back(make<T>(static_cast<double>((i * 7 + static_cast<std::size_t>(r) * 5) % 11)));
  }
  for (std::size_t i = 0; i < count; ++i) {
    const auto term = [&](int r) {
      return as_double(buffers[r][i]) * (reduction == Reduction::kPremultiplied ? factors[r] : 1.0);
    };
    double value = term(0);
    for (int r = 1; r < ranks; ++r) value = combined(reduction, value, term(r));
    if (reduction == Reduction::kMean) value *= 1.0 / ranks;
    expected.push_back(make<T>(value));
  }
  for (auto& buffer : buffers) {
    sources.push_back(reinterpret_cast<const char*>(buffer.data()));
    targets.push_back(reinterpret_cast<char*>(buffer.data()));
  }
  const std::vector<T> behind(buffers[0].end() - kBehind, buffers[0].end());
  shm::combine(targets.data(), ranks, sources.data(), ranks, static_cast<std::int64_t>(count), dtype,
               Combination{reduction, ranks, factors.data()});
  for (auto& buffer : buffers)
    for (std::size_t i = 0; i < count; ++i)
      if (as_double(buffer[i]) != as_double(expected[i]))  // which also holds of an infinite product
        CHECK_CLOSE(as_double(buffer[i]), as_double(expected[i]), 1e-6 * std::abs(as_double(expected[i])));
  for (std::size_t i = 0; i < kBehind; ++i) CHECK_EQUAL(as_double(buffers[0][count + i]), as_double(behind[i]));
}

template <typename T>
void all_of(DType dtype) {
  for (Reduction reduction : {Reduction::kSum, Reduction::kMean, Reduction::kMax, Reduction::kMin, Reduction::kProduct,
                              Reduction::kPremultiplied})
    if (shm::is_combined(dtype, reduction))
      for (int ranks : {1, 2, 3, 8})
        for (std::size_t count : {0, 1, 15, 31, 32, 33, 63, 64, 129, 512, 1537})
          equals_the_reference<T>(dtype, reduction, ranks, count);
}

// One rounding to nearest even, whatever the values: random floats, subnormals, infinities, ties and NaN.
template <typename T>
void rounds_as_the_reference(DType dtype, std::mt19937_64& random) {
  constexpr std::size_t kCount = 1 << 16;
  std::vector<T> a(kCount), b(kCount), result(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    a[i].bits = static_cast<std::uint16_t>(i);  // every value there is
    b[i].bits = static_cast<std::uint16_t>(random());
  }
  const char* sources[2] = {reinterpret_cast<char*>(a.data()), reinterpret_cast<char*>(b.data())};
  char* target = reinterpret_cast<char*>(result.data());
  const double factors[2] = {0.3, 1.7};
  for (bool scaled : {false, true}) {
    shm::combine(&target, 1, sources, 2, kCount, dtype,
                 scaled ? Combination{Reduction::kPremultiplied, 2, factors} : Combination{Reduction::kSum});
    for (std::size_t i = 0; i < kCount; ++i) {
      const float sum = scaled ? to_float(a[i]) * 0.3f + to_float(b[i]) * 1.7f : to_float(a[i]) + to_float(b[i]);
      if (std::isnan(sum))
        CHECK_EQUAL(std::isnan(to_float(result[i])), true);
      else
        CHECK_EQUAL(result[i].bits, from_float<T>(sum).bits);
    }
  }
}

void sums_16_bit_in_float() {
  // 1 + 2^-9 + ... would be lost one by one in bfloat16; together they reach the next value.
  std::vector<BFloat16> one = {from_float<BFloat16>(1.0f)}, small = {from_float<BFloat16>(0.001953125f)};
  const char* sources[5] = {reinterpret_cast<char*>(one.data())};
  for (int r = 1; r < 5; ++r) sources[r] = reinterpret_cast<char*>(small.data());
  BFloat16 result;
  char* target = reinterpret_cast<char*>(&result);
  shm::combine(&target, 1, sources, 5, 1, DType::kBFloat16, Combination{Reduction::kSum});
  CHECK_EQUAL(to_float(result), 1.0078125f);
}

void nan_wins() {
  for (Reduction reduction : {Reduction::kMax, Reduction::kMin})
    for (int place : {0, 1, 2}) {
      float values[3] = {1, 2, 3};
      values[place] = NAN;
      const char* sources[3];
      for (int r = 0; r < 3; ++r) sources[r] = reinterpret_cast<char*>(&values[r]);
      float result;
      char* target = reinterpret_cast<char*>(&result);
      shm::combine(&target, 1, sources, 3, 1, DType::kFloat32, Combination{reduction});
      CHECK_EQUAL(std::isnan(result), true);
    }
}

}  // namespace

int main() {
  all_of<float>(DType::kFloat32);
  all_of<double>(DType::kFloat64);
  all_of<BFloat16>(DType::kBFloat16);
  all_of<Float16>(DType::kFloat16);
  all_of<std::int64_t>(DType::kInt64);
  all_of<std::int32_t>(DType::kInt32);
  all_of<std::int16_t>(DType::kInt16);
  all_of<std::int8_t>(DType::kInt8);
  all_of<std::uint8_t>(DType::kUInt8);
  CHECK_EQUAL(shm::is_combined(DType::kBool, Reduction::kMax), false);
  CHECK_EQUAL(shm::is_combined(DType::kInt16, Reduction::kMean), false);
  std::mt19937_64 random = fresh_random();
  rounds_as_the_reference<BFloat16>(DType::kBFloat16, random);
  rounds_as_the_reference<Float16>(DType::kFloat16, random);
  sums_16_bit_in_float();
  nan_wins();
}
