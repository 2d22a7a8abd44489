// Accumulate on the CPU: bit for bit what one element at a time gives, for all dtypes, operations and numbers of
// sources; the squares are those of the rounded result.
#include "kernels/accumulate.hpp"

#include <cstring>
#include <limits>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "core/float16.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

namespace {

constexpr Accumulation kOps[] = {Accumulation::kSum, Accumulation::kProduct, Accumulation::kMax, Accumulation::kMin};

template <class T>
constexpr bool kIsHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

template <class T>
auto widened(T value) {
  if constexpr (kIsHalf<T>)
    return to_float(value);
  else
    return value;
}

template <class T, class Value>
T rounded(Value value) {
  if constexpr (kIsHalf<T>)
    return from_float<T>(value);
  else
    return value;
}

template <class Value>
Value combine_two(Value a, Value b, Accumulation op) {
  if constexpr (std::is_integral_v<Value>) {
    using Unsigned = std::make_unsigned_t<Value>;
    if (op == Accumulation::kSum) return static_cast<Value>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
    if (op == Accumulation::kProduct)
      return static_cast<Value>(std::uint64_t{static_cast<Unsigned>(a)} * static_cast<Unsigned>(b));
  } else {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<Value>::quiet_NaN();
    if (op == Accumulation::kSum) return a + b;
    if (op == Accumulation::kProduct) return a * b;
  }
  return op == Accumulation::kMax ? std::max(a, b) : std::min(a, b);
}

template <class T>
T make(std::mt19937_64& random) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(random());
  else if constexpr (kIsHalf<T>)
    return from_float<T>(std::normal_distribution<float>()(random));
  else
    return std::normal_distribution<T>()(random);
}

template <class T>
struct Operands {
  std::vector<std::vector<T>> arrays;
  std::vector<const void*> pointers;
  std::vector<double> factors;

  Operands(int sources, std::size_t count, std::mt19937_64& random) {
    for (int s = 0; s < sources; ++s) {
      arrays.emplace_back(count + 1);  // read from the second element on: unaligned
      for (T& value : arrays.back()) value = make<T>(random);
      factors.push_back(std::uniform_real_distribution<double>(-2, 2)(random));
    }
    for (const auto& array : arrays) pointers.push_back(array.data() + 1);
  }

  T expected(std::size_t i, Accumulation op, bool multiply, double scale) const {
    using Value = decltype(widened(T{}));
    Value value{};
    for (std::size_t s = 0; s < arrays.size(); ++s) {
      Value next = widened(arrays[s][i + 1]);
      if (multiply) next = static_cast<Value>(next * static_cast<Value>(factors[s]));
      value = s == 0 ? next : combine_two(value, next, op);
    }
    return rounded<T>(scale == 1.0 ? value : static_cast<Value>(value * static_cast<Value>(scale)));
  }
};

template <class T>
bool same(T a, T b) {
  if constexpr (!std::is_integral_v<T>)
    if (std::isnan(widened(a)) && std::isnan(widened(b))) return true;
  return std::memcmp(&a, &b, sizeof a) == 0;
}

template <class T>
void equals_the_reference(DType dtype, int sources, std::size_t count, Accumulation op, std::mt19937_64& random) {
  for (bool in_place : {false, true})
    for (bool multiply : {false, true}) {
      if (multiply && std::is_integral_v<T>) continue;
      Operands<T> operands(sources, count, random);
      const Operands<T> before = operands;
      std::vector<T> apart(count + 1);
      T* const output = (in_place ? operands.arrays[random() % operands.arrays.size()] : apart).data() + 1;
      const double scale = multiply ? 0.3 : 1.0;
      const AccumulateCall call{output,
                                operands.pointers.data(),
                                sources,
                                static_cast<std::int64_t>(count),
                                dtype,
                                op,
                                multiply ? operands.factors.data() : nullptr,
                                scale};
      accumulate_cpu(call, nullptr, 2);
      for (std::size_t i = 0; i < count; ++i)
        CHECK_EQUAL(same(output[i], before.expected(i, op, multiply, scale)), true);
    }
}

template <class T>
void all_of(DType dtype, std::mt19937_64& random) {
  for (Accumulation op : kOps) {
    for (int sources : {1, 2, 3, 8})
      for (std::size_t count : {0, 1, 31, 512, 1537}) equals_the_reference<T>(dtype, sources, count, op, random);
    equals_the_reference<T>(dtype, kMaxSources, 77, op, random);
    equals_the_reference<T>(dtype, 2, 70'001, op, random);
  }
}

void nan_wins() {
  for (Accumulation op : {Accumulation::kMax, Accumulation::kMin})
    for (int place : {0, 1, 2}) {
      float values[3] = {1, 2, 3}, result;
      values[place] = NAN;
      const void* sources[] = {&values[0], &values[1], &values[2]};
      accumulate_cpu({&result, sources, 3, 1, DType::kFloat32, op}, nullptr, 1);
      CHECK_EQUAL(std::isnan(result), true);
    }
}

// 1 + 2^-9 + ... would be lost one by one in bfloat16; together they reach the next value.
void rounds_once() {
  const BFloat16 one = from_float<BFloat16>(1.0f), small = from_float<BFloat16>(0.001953125f);
  const void* sources[] = {&one, &small, &small, &small, &small};
  BFloat16 result;
  accumulate_cpu({&result, sources, 5, 1, DType::kBFloat16}, nullptr, 1);
  CHECK_EQUAL(to_float(result), 1.0078125f);
}

template <class T>
void squares_are_those_of_the_result(DType dtype, std::mt19937_64& random) {
  constexpr std::int64_t kCount = 200'003;
  Operands<T> operands(3, kCount, random);
  std::vector<T> output(kCount);
  double first[2] = {0.5, 0.0};
  const AccumulateCall call{output.data(), operands.pointers.data(), 3,       kCount,
                            dtype,         Accumulation::kSum,       nullptr, 0.3};
  accumulate_cpu(call, first, 1);
  double expected = 0.5;
  for (T value : output) expected += static_cast<double>(widened(value)) * static_cast<double>(widened(value));
  CHECK_CLOSE(first[0], expected, 1e-12 * expected);
  CHECK_EQUAL(first[1], 0.0);
  for (int threads : {2, 3}) {
    double other[2] = {0.5, 0.0};
    accumulate_cpu(call, other, threads);
    CHECK_EQUAL(other[0], first[0]);
  }
  operands.arrays[1][150'000] = rounded<T>(std::numeric_limits<decltype(widened(T{}))>::infinity());
  accumulate_cpu(call, first, 2);
  CHECK_EQUAL(first[1], 1.0);
}

void refuses_what_it_cannot_combine() {
  std::int32_t value = 0;
  const void* sources[kMaxSources + 1] = {};
  const double factor = 2.0;
  double squares[2];
  AccumulateCall call{&value, sources, 1, 1, DType::kInt32};
  CHECK_THROWS(accumulate_cpu(call, nullptr, 1), InvalidArgument);
  for (const void*& source : sources) source = &value;
  CHECK_THROWS(accumulate_cpu(call, squares, 1), InvalidArgument);
  for (int count : {0, kMaxSources + 1}) {
    call.source_count = count;
    CHECK_THROWS(accumulate_cpu(call, nullptr, 1), InvalidArgument);
  }
  call.source_count = 1;
  call.scale = 0.5;
  CHECK_THROWS(accumulate_cpu(call, nullptr, 1), InvalidArgument);
  call.scale = 1.0;
  call.factors = &factor;
  CHECK_THROWS(accumulate_cpu(call, nullptr, 1), InvalidArgument);
  call = {&value, sources, 1, 1, DType::kComplex64};
  CHECK_THROWS(accumulate_cpu(call, nullptr, 1), InvalidArgument);
  call = {&value, sources, 1, -1, DType::kFloat32};
  CHECK_THROWS(accumulate_cpu(call, nullptr, 1), InvalidArgument);
  call = {&value, sources, 1, 1, DType::kFloat32, Accumulation::kMax};
  CHECK_THROWS(accumulate_cpu(call, squares, 1), InvalidArgument);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  all_of<float>(DType::kFloat32, random);
  all_of<double>(DType::kFloat64, random);
  all_of<BFloat16>(DType::kBFloat16, random);
  all_of<Float16>(DType::kFloat16, random);
  all_of<std::int32_t>(DType::kInt32, random);
  all_of<std::int64_t>(DType::kInt64, random);
  all_of<std::int16_t>(DType::kInt16, random);
  all_of<std::int8_t>(DType::kInt8, random);
  all_of<std::uint8_t>(DType::kUInt8, random);
  nan_wins();
  rounds_once();
  squares_are_those_of_the_result<float>(DType::kFloat32, random);
  squares_are_those_of_the_result<double>(DType::kFloat64, random);
  squares_are_those_of_the_result<BFloat16>(DType::kBFloat16, random);
  squares_are_those_of_the_result<Float16>(DType::kFloat16, random);
  refuses_what_it_cannot_combine();
}
