// The reduction loops, compiled once per instruction set: a block of accumulators stays in L1 while ranks are added to
// it.
#include "comm/shm/combine.hpp"

#include "core/blocks.hpp"
#include "core/isa.hpp"
#if PP_LISTS
#include "core/error.hpp"
#endif

namespace pyparallel::PP_ISA {
namespace {

using shm::Reduction;

template <typename T>
struct Storage {  // float64 and integers accumulate in their own type
  using Accumulator = T;
  static void load(const T* source, T* block, std::int64_t n) { __builtin_memcpy(block, source, n * sizeof(T)); }
  static void store(const T* block, T* target, std::int64_t n) { __builtin_memcpy(target, block, n * sizeof(T)); }
  static const T* view(const T* source, T*, std::int64_t) { return source; }
};

template <typename T>
struct HalfStorage {
  using Accumulator = float;
  static void load(const T* source, float* block, std::int64_t n) { widen(source, block, n); }
  static void store(const float* block, T* target, std::int64_t n) { narrow(block, target, n); }
  static const float* view(const T* source, float* buffer, std::int64_t n) {
    widen(source, buffer, n);
    return buffer;
  }
};

template <>
struct Storage<BFloat16> : HalfStorage<BFloat16> {};
template <>
struct Storage<Float16> : HalfStorage<Float16> {};

// `a > b ? a : b` alone would drop a NaN in `b`; x != x is how a NaN is seen without a call.
template <typename A>
A larger(A a, A b) {
  return a > b || a != a ? a : b;
}
template <typename A>
A smaller(A a, A b) {
  return a < b || a != a ? a : b;
}

template <typename A>
void accumulate(A* __restrict block, const A* __restrict source, std::int64_t n, Reduction reduction) {
  switch (reduction) {
    case Reduction::kMax:
      for (std::int64_t i = 0; i < n; ++i) block[i] = larger(block[i], source[i]);
      return;
    case Reduction::kMin:
      for (std::int64_t i = 0; i < n; ++i) block[i] = smaller(block[i], source[i]);
      return;
    default:
      for (std::int64_t i = 0; i < n; ++i) block[i] = block[i] + source[i];
  }
}

template <typename T>
void combine_typed(char* const* targets, int target_count, const char* const* sources, int source_count,
                   std::int64_t count, Reduction reduction) {
  using A = typename Storage<T>::Accumulator;
  alignas(64) A block[kBlock], buffer[kBlock];
  const A factor = static_cast<A>(1) / static_cast<A>(source_count);
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t n = count - begin < kBlock ? count - begin : kBlock;
    Storage<T>::load(reinterpret_cast<const T*>(sources[0]) + begin, block, n);
    for (int s = 1; s < source_count; ++s)
      accumulate(block, Storage<T>::view(reinterpret_cast<const T*>(sources[s]) + begin, buffer, n), n, reduction);
    if (reduction == Reduction::kMean)
      for (std::int64_t i = 0; i < n; ++i) block[i] = block[i] * factor;
    for (int t = 0; t < target_count; ++t) Storage<T>::store(block, reinterpret_cast<T*>(targets[t]) + begin, n);
  }
}

}  // namespace

void combine_range(char* const* targets, int target_count, const char* const* sources, int source_count,
                   std::int64_t count, DType dtype, Reduction reduction) {
  switch (dtype) {
    case DType::kFloat32:
      return combine_typed<float>(targets, target_count, sources, source_count, count, reduction);
    case DType::kFloat64:
      return combine_typed<double>(targets, target_count, sources, source_count, count, reduction);
    case DType::kBFloat16:
      return combine_typed<BFloat16>(targets, target_count, sources, source_count, count, reduction);
    case DType::kFloat16:
      return combine_typed<Float16>(targets, target_count, sources, source_count, count, reduction);
    case DType::kInt32:
      return combine_typed<std::int32_t>(targets, target_count, sources, source_count, count, reduction);
    case DType::kInt64:
      return combine_typed<std::int64_t>(targets, target_count, sources, source_count, count, reduction);
    case DType::kUInt8:
      return combine_typed<std::uint8_t>(targets, target_count, sources, source_count, count, reduction);
  }
}

}  // namespace pyparallel::PP_ISA

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void combine_range(char* const* targets, int target_count, const char* const* sources,
                                      int source_count, std::int64_t count, DType dtype, shm::Reduction reduction))

namespace shm {

const char* name(Reduction reduction) {
  switch (reduction) {
    case Reduction::kSum:
      return "sum";
    case Reduction::kMean:
      return "mean";
    case Reduction::kMax:
      return "max";
    case Reduction::kMin:
      return "min";
  }
  return "unknown";
}

void combine(char* const* targets, int target_count, const char* const* sources, int source_count, std::int64_t count,
             DType dtype, Reduction reduction) {
  PP_CALL_PER_ISA(combine_range, targets, target_count, sources, source_count, count, dtype, reduction);
}

}  // namespace shm
}  // namespace pyparallel
#endif  // PP_LISTS
