// Sum of squares and non-finite flag on the CPU: the loop per instruction set, then the list of tensors around the
// loop.
#include "kernels/reduce.hpp"

#include "core/blocks.hpp"
#include "core/isa.hpp"
#if PP_LISTS
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/ranges.hpp"
#include "core/thread_pool.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {
namespace {

// Lanes are summed apart and added in a fixed order at the end, in every variant alike, so all variants agree bit for
// bit; the square of a float is exact in double, with and without fused multiply-add. As integers, the magnitudes of
// inf and NaN are larger than all others.
inline constexpr int kGroup = 8, kGroups = 4, kLanes = kGroup * kGroups;

using Floats __attribute__((vector_size(4 * kGroup))) = float;
using Doubles __attribute__((vector_size(8 * kGroup))) = double;
using Bits __attribute__((vector_size(4 * kGroup))) = std::int32_t;

inline constexpr std::int32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

struct Sums {
  Doubles squares[kGroups] = {};
  Bits largest[kGroups] = {};

  inline __attribute__((always_inline)) void add(const float* x) {
    for (int group = 0; group < kGroups; ++group) {
      Floats values;
      Bits bits;
      __builtin_memcpy(&values, x + group * kGroup, sizeof values);
      __builtin_memcpy(&bits, &values, sizeof bits);
      const Doubles wide = __builtin_convertvector(values, Doubles);
      squares[group] += wide * wide;
      bits &= kMagnitude;
      largest[group] = bits > largest[group] ? bits : largest[group];
    }
  }
};

template <typename T>
void add_squares(const T* source, std::int64_t count, double* result) {
  alignas(64) float buffer[kBlock];
  Sums sums;
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t n = count - begin < kBlock ? count - begin : kBlock;
    const float* const x = as_floats(source + begin, buffer, n);
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) sums.add(x + i);
    if (i == n) continue;
    float rest[kLanes] = {};
    for (std::int64_t lane = 0; i + lane < n; ++lane) rest[lane] = x[i + lane];
    sums.add(rest);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    result[0] += sums.squares[lane / kGroup][lane % kGroup];
    if (sums.largest[lane / kGroup][lane % kGroup] >= kInfinity) result[1] = 1.0;
  }
}

void add_squares(const double* x, std::int64_t count, double* result) {
  for (std::int64_t i = 0; i < count; ++i) {
    result[0] += x[i] * x[i];
    if (x[i] - x[i] != 0.0) result[1] = 1.0;
  }
}

}  // namespace

// Adds the squares to result[0]; result[1] becomes 1 if an element is not finite.
void squares_range(const void* source, DType dtype, std::int64_t begin, std::int64_t end, double* result) {
  with_float_type(dtype, [&](auto* type) {
    using Pointer = decltype(type);
    add_squares(static_cast<Pointer>(const_cast<void*>(source)) + begin, end - begin, result);
  });
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void squares_range(const void* source, DType dtype, std::int64_t begin, std::int64_t end,
                                      double* result))

void check_reduce_items(const ReduceItem* items, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    if (items[i].numel < 0 || (items[i].numel > 0 && items[i].tensor == nullptr))
      throw InvalidArgument("sum_of_squares: tensor " + std::to_string(i) + " has a negative size or a null pointer");
}

void sum_of_squares_cpu(const ReduceItem* items, std::int64_t count, DType dtype, double* result, int threads) {
  if (dtype != DType::kFloat32 && dtype != DType::kFloat64 && dtype != DType::kBFloat16 && dtype != DType::kFloat16)
    throw InvalidArgument(std::string("sum_of_squares: no kernel for ") + name(dtype));
  check_reduce_items(items, count);
  const RangeTasks ranges(items, count);
  std::vector<double> partial(static_cast<std::size_t>(2 * ranges.tasks()), 0.0);
  parallel_for(ranges.tasks(), threads, [&](std::int64_t task) {
    for (const Range* r = ranges.begin(task); r != ranges.end(task); ++r)
      PP_CALL_PER_ISA(squares_range, items[r->index].tensor, dtype, r->begin, r->end, &partial[2 * task]);
  });
  result[0] = 0.0;
  result[1] = 0.0;
  for (std::int64_t task = 0; task < ranges.tasks(); ++task) {
    result[0] += partial[2 * task];
    if (partial[2 * task + 1] != 0.0) result[1] = 1.0;
  }
}

}  // namespace pyparallel
#endif  // PP_LISTS
