// combine: rank order, one rounding for 16-bit floats, NaN wins, aliases allowed.
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

float as_float(std::int32_t value) { return static_cast<float>(value); }
float as_float(std::int64_t value) { return static_cast<float>(value); }
template <typename T>
float as_float(T value) {
  return to_float(value);
}

template <typename T>
T make(float value) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(value);
  else
    return from_float<T>(value);
}

template <typename T>
void equals_the_reference(DType dtype, Reduction reduction, int ranks, std::size_t count) {
  std::vector<std::vector<T>> buffers(static_cast<std::size_t>(ranks));
  std::vector<const char*> sources;
  std::vector<char*> targets;
  std::vector<float> expected(count);
  for (int r = 0; r < ranks; ++r)
    for (std::size_t i = 0; i < count; ++i) buffers[r].push_back(make<T>(static_cast<float>((i * 7 + r * 5) % 31)));
  for (std::size_t i = 0; i < count; ++i) {
    float value = as_float(buffers[0][i]);
    for (int r = 1; r < ranks; ++r) {
      const float other = as_float(buffers[r][i]);
      value = reduction == Reduction::kMax   ? std::max(value, other)
              : reduction == Reduction::kMin ? std::min(value, other)
                                             : value + other;
    }
    if (reduction == Reduction::kMean) value *= 1.0f / static_cast<float>(ranks);
    expected[i] = as_float(make<T>(value));
  }
  for (auto& buffer : buffers) {
    sources.push_back(reinterpret_cast<const char*>(buffer.data()));
    targets.push_back(reinterpret_cast<char*>(buffer.data()));
  }
  shm::combine(targets.data(), ranks, sources.data(), ranks, static_cast<std::int64_t>(count), dtype,
               Combination{reduction, ranks});
  for (auto& buffer : buffers)
    for (std::size_t i = 0; i < count; ++i) CHECK_CLOSE(as_float(buffer[i]), expected[i], 1e-6f * expected[i]);
}

template <typename T>
void all_of(DType dtype, bool floating) {
  for (int ranks : {1, 2, 3, 8})
    for (std::size_t count : {0, 1, 31, 512, 1537})
      for (Reduction reduction : {Reduction::kSum, Reduction::kMean, Reduction::kMax, Reduction::kMin})
        if (floating || reduction != Reduction::kMean) equals_the_reference<T>(dtype, reduction, ranks, count);
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
  all_of<float>(DType::kFloat32, true);
  all_of<double>(DType::kFloat64, true);
  all_of<BFloat16>(DType::kBFloat16, true);
  all_of<Float16>(DType::kFloat16, true);
  all_of<std::int32_t>(DType::kInt32, false);
  all_of<std::int64_t>(DType::kInt64, false);
  sums_16_bit_in_float();
  nan_wins();
}
