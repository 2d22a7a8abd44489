// The reduction loops, compiled once per instruction set: a few vectors of accumulators stay in registers while the
// sources are added to them, so that every source is read and every target written once, and nothing else.
#include "comm/shm/combine.hpp"

#include "core/float16.hpp"
#include "core/isa.hpp"
namespace pyparallel::PP_ISA {
namespace {

using shm::Combination;
using shm::Reduction;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Vectors as GCC and Clang define them: operators and comparisons by element. A mask chooses with `?:`.
template <typename A>
using Vector __attribute__((vector_size(kVectorBytes))) = A;
using Floats = Vector<float>;
using Words = Vector<std::uint32_t>;

// How elements are read (Stored), calculated with (Value) and written: float64, float32 and integers as they are.
template <typename T>
struct Storage {
  using Accumulator = T;
  using Stored = Vector<T>;
  using Value = Vector<T>;
  static Value widen(Stored stored) { return stored; }
  static Stored narrow(Value value) { return value; }
};

// A bfloat16 is the upper half of a float: in a word that holds two, one is a shift away and the other a mask, so
// nothing moves between lanes.
struct Pair {
  Floats low, high;
  friend Pair operator*(Pair a, float factor) { return {a.low * factor, a.high * factor}; }
};

template <>
struct Storage<BFloat16> {
  using Accumulator = float;
  using Stored = Words;
  using Value = Pair;
  static Value widen(Stored stored) {
    return {reinterpret_cast<Floats>(stored << 16), reinterpret_cast<Floats>(stored & 0xffff0000u)};
  }
  static Stored narrow(Value value) { return (rounded(value.low) >> 16) | (rounded(value.high) & 0xffff0000u); }
  // To nearest even in the upper half. A NaN stays one: it came from 16 bits, from arithmetic or from a plain factor,
  // so its lower half is zero and carries nothing.
  static Words rounded(Floats value) {
    const Words bits = reinterpret_cast<Words>(value);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  }
};

template <>
struct Storage<Float16> {
  using Accumulator = float;
  typedef std::uint16_t Stored __attribute__((vector_size(kVectorBytes / 2)));
  using Value = Floats;
#if defined(__AVX512F__)
  static Value widen(Stored stored) { return (Value)_mm512_cvtph_ps((__m256i)stored); }
  static Stored narrow(Value value) { return (Stored)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__F16C__)
  static Value widen(Stored stored) { return (Value)_mm256_cvtph_ps((__m128i)stored); }
  static Stored narrow(Value value) { return (Stored)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT); }
#else
  // As to_float and from_float in float16.hpp, by vector.
  static Value widen(Stored stored) {
    const Words halves = __builtin_convertvector(stored, Words), rest = (halves & 0x7fffu) << 13;
    const Words scaled = (Words)((Floats)rest * 0x1p112f);
    return (Value)(((halves & 0x8000u) << 16) | (rest >= 0x0f800000u ? 0x7f800000u | rest : scaled));
  }
  static Stored narrow(Value value) {
    const Words bits = (Words)value, sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    const Words normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    const Words subnormal = (Words)((Floats)magnitude + 0.5f) - 0x3f000000u;
    const Words finite = magnitude < 0x38800000u ? subnormal : normal;
    const Words special = 0x7c00u | ((Words)(value != value) & 0x0200u);
    return __builtin_convertvector(sign | (magnitude >= 0x477ff000u ? special : finite), Stored);
  }
#endif
};

struct Add {
  template <typename V>
  static V apply(V a, V b) {
    return a + b;
  }
};
struct Multiply {
  template <typename V>
  static V apply(V a, V b) {
    return a * b;
  }
};
// `a > b ? a : b` alone would drop a NaN in `b`; a != a is how a NaN in `a` is seen.
struct Larger {
  template <typename V>
  static V apply(V a, V b) {
    return (a > b) | (a != a) ? a : b;
  }
};
struct Smaller {
  template <typename V>
  static V apply(V a, V b) {
    return (a < b) | (a != a) ? a : b;
  }
};

template <typename Operation, typename V>
V apply(V a, V b) {
  return Operation::apply(a, b);
}
template <typename Operation>
Pair apply(Pair a, Pair b) {
  return {Operation::apply(a.low, b.low), Operation::apply(a.high, b.high)};
}

// Loops over the buffers of one dtype with one operation. Scaled: source s is multiplied by factors[s] first.
template <typename T, typename Operation, bool kScaled = false>
class Loop {
 public:
  using A = typename Storage<T>::Accumulator;
  using Stored = typename Storage<T>::Stored;
  using Value = typename Storage<T>::Value;
  static constexpr std::int64_t kLanes = sizeof(Stored) / sizeof(T);
  static constexpr bool kFloating = static_cast<A>(0.5) != 0;

  Loop(char* const* targets, int target_count, const char* const* sources, int source_count,
       const Combination& combination)
      : targets_(targets),
        sources_(sources),
        factors_(combination.factors),
        target_count_(target_count),
        source_count_(source_count),
        divisor_(combination.reduction == Reduction::kMean ? combination.divisor : 1) {}

  void run(std::int64_t count) const {
    constexpr int kVectors = 4 * sizeof(Vector<A>) / sizeof(Value);  // four accumulators at a time
    std::int64_t i = 0;
    for (; i + kVectors * kLanes <= count; i += kVectors * kLanes) step<kVectors>(i, kLanes);
    for (; i + kLanes <= count; i += kLanes) step<1>(i, kLanes);
    if (i < count) step<1>(i, count - i);
  }

 private:
  // `kCount` vectors from element `begin`; fewer than kLanes lanes only at the end of the buffers.
  template <int kCount>
  [[gnu::always_inline]] void step(std::int64_t begin, std::int64_t lanes) const {
    Value sum[kCount];
    for (int k = 0; k < kCount; ++k) sum[k] = load(0, begin + k * kLanes, lanes);
    for (int s = 1; s < source_count_; ++s)
      for (int k = 0; k < kCount; ++k) sum[k] = apply<Operation>(sum[k], load(s, begin + k * kLanes, lanes));
    if constexpr (kFloating)
      if (divisor_ != 1)
        for (int k = 0; k < kCount; ++k) sum[k] = sum[k] * (static_cast<A>(1) / static_cast<A>(divisor_));
    for (int t = 0; t < target_count_; ++t)
      for (int k = 0; k < kCount; ++k) store(sum[k], t, begin + k * kLanes, lanes);
  }

  [[gnu::always_inline]] Value load(int s, std::int64_t at, std::int64_t lanes) const {
    Stored stored{};
    const char* const source = sources_[s] + at * static_cast<std::int64_t>(sizeof(T));
    if (lanes == kLanes)
      __builtin_memcpy(&stored, source, sizeof stored);
    else
      __builtin_memcpy(&stored, source, static_cast<std::size_t>(lanes) * sizeof(T));
    if constexpr (kScaled)
      return Storage<T>::widen(stored) * static_cast<A>(factors_[s]);
    else
      return Storage<T>::widen(stored);
  }

  [[gnu::always_inline]] void store(Value value, int t, std::int64_t at, std::int64_t lanes) const {
    const Stored stored = Storage<T>::narrow(value);
    char* const target = targets_[t] + at * static_cast<std::int64_t>(sizeof(T));
    if (lanes == kLanes)
      __builtin_memcpy(target, &stored, sizeof stored);
    else
      __builtin_memcpy(target, &stored, static_cast<std::size_t>(lanes) * sizeof(T));
  }

  char* const* targets_;
  const char* const* sources_;
  const double* factors_;
  int target_count_, source_count_, divisor_;
};

// Sums and products of integers wrap around, so they are those of the unsigned type of that size.
template <typename Ordered, typename Wrapping = Ordered>
void combine_typed(char* const* targets, int target_count, const char* const* sources, int source_count,
                   std::int64_t count, const Combination& combination) {
  const auto run = [&]<typename L>(L*) { L(targets, target_count, sources, source_count, combination).run(count); };
  switch (combination.reduction) {
    case Reduction::kMax:
      return run(static_cast<Loop<Ordered, Larger>*>(nullptr));
    case Reduction::kMin:
      return run(static_cast<Loop<Ordered, Smaller>*>(nullptr));
    case Reduction::kProduct:
      return run(static_cast<Loop<Wrapping, Multiply>*>(nullptr));
    case Reduction::kPremultiplied:
      if constexpr (Loop<Wrapping, Add>::kFloating) run(static_cast<Loop<Wrapping, Add, true>*>(nullptr));
      return;
    default:
      return run(static_cast<Loop<Wrapping, Add>*>(nullptr));
  }
}

}  // namespace

void combine_range(char* const* targets, int target_count, const char* const* sources, int source_count,
                   std::int64_t count, DType dtype, const Combination& combination) {
  const auto run = [&](auto typed) { typed(targets, target_count, sources, source_count, count, combination); };
  switch (dtype) {
    case DType::kFloat32:
      return run(combine_typed<float>);
    case DType::kFloat64:
      return run(combine_typed<double>);
    case DType::kBFloat16:
      return run(combine_typed<BFloat16>);
    case DType::kFloat16:
      return run(combine_typed<Float16>);
    case DType::kInt64:
      return run(combine_typed<std::int64_t, std::uint64_t>);
    case DType::kInt32:
      return run(combine_typed<std::int32_t, std::uint32_t>);
    case DType::kInt16:
      return run(combine_typed<std::int16_t, std::uint16_t>);
    case DType::kInt8:
      return run(combine_typed<std::int8_t, std::uint8_t>);
    case DType::kUInt8:
      return run(combine_typed<std::uint8_t>);
    default:
      return;  // refused before, by is_combined()
  }
}

}  // namespace pyparallel::PP_ISA

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void combine_range(char* const* targets, int target_count, const char* const* sources,
                                      int source_count, std::int64_t count, DType dtype,
                                      const shm::Combination& combination))

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
    case Reduction::kProduct:
      return "product";
    case Reduction::kPremultiplied:
      return "premultiplied sum";
  }
  return "unknown";
}

bool is_combined(DType dtype, Reduction reduction) {
  const bool floating = dtype <= DType::kFloat16;
  return floating || (static_cast<int>(dtype) < kDTypeCount && reduction != Reduction::kMean &&
                      reduction != Reduction::kPremultiplied);
}

void combine(char* const* targets, int target_count, const char* const* sources, int source_count, std::int64_t count,
             DType dtype, const Combination& combination) {
  PP_CALL_PER_ISA(combine_range, targets, target_count, sources, source_count, count, dtype, combination);
}

}  // namespace shm
}  // namespace pyparallel
#endif  // PP_LISTS
