// Accumulate on the CPU: the loop per instruction set, then pieces of the buffers for all threads around it.
#include "kernels/accumulate.hpp"

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

void squares_range(const void* source, DType dtype, std::int64_t begin, std::int64_t end, double* result);

namespace {

template <class T>
struct CombinedIn {
  using Type = T;
};
template <>
struct CombinedIn<BFloat16> {
  using Type = float;
};
template <>
struct CombinedIn<Float16> {
  using Type = float;
};

// Elements as they are combined: where they lie, or widened into `buffer`.
template <class T>
const T* combined_from(const T* source, T*, std::int64_t) {
  return source;
}
const float* combined_from(const BFloat16* source, float* buffer, std::int64_t n) {
  return as_floats(source, buffer, n);
}
const float* combined_from(const Float16* source, float* buffer, std::int64_t n) {
  return as_floats(source, buffer, n);
}

template <class T>
void store(const T* block, T* target, std::int64_t n) {
  __builtin_memcpy(target, block, static_cast<std::size_t>(n) * sizeof(T));
}
void store(const float* block, BFloat16* target, std::int64_t n) { narrow(block, target, static_cast<std::size_t>(n)); }
void store(const float* block, Float16* target, std::int64_t n) { narrow(block, target, static_cast<std::size_t>(n)); }

template <class Op, class Value>
void add_source(Value* __restrict block, const Value* __restrict values, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) block[i] = Op::combine(block[i], values[i]);
}

template <class Value>
void add_source(Value* block, const Value* values, std::int64_t n, Accumulation op) {
  switch (op) {
    case Accumulation::kSum:
      return add_source<SumOf>(block, values, n);
    case Accumulation::kProduct:
      return add_source<ProductOf>(block, values, n);
    case Accumulation::kMax:
      return add_source<MaxOf>(block, values, n);
    case Accumulation::kMin:
      return add_source<MinOf>(block, values, n);
  }
}

template <class Value>
void multiply(const Value* values, Value* target, std::int64_t n, double factor) {
  const Value rounded = static_cast<Value>(factor);
  for (std::int64_t i = 0; i < n; ++i) target[i] = values[i] * rounded;
}

template <class T>
void combine_block(const AccumulateCall& call, std::int64_t begin, std::int64_t n) {
  using Value = typename CombinedIn<T>::Type;
  alignas(64) Value block[kBlock], buffer[kBlock];
  for (int s = 0; s < call.source_count; ++s) {
    const Value* values = combined_from(static_cast<const T*>(call.sources[s]) + begin, buffer, n);
    if (call.factors != nullptr) {
      multiply(values, buffer, n, call.factors[s]);
      values = buffer;
    }
    if (s == 0)
      __builtin_memcpy(block, values, static_cast<std::size_t>(n) * sizeof(Value));
    else
      add_source(block, values, n, call.op);
  }
  if (call.scale != 1.0) multiply(block, block, n, call.scale);
  store(block, static_cast<T*>(call.output) + begin, n);
}

template <class Function>
void with_type(DType dtype, const Function& fn) {
  if (with_float_type(dtype, fn)) return;
  switch (dtype) {
    case DType::kInt32:
      return fn(static_cast<std::int32_t*>(nullptr));
    case DType::kInt64:
      return fn(static_cast<std::int64_t*>(nullptr));
    case DType::kInt16:
      return fn(static_cast<std::int16_t*>(nullptr));
    case DType::kInt8:
      return fn(static_cast<std::int8_t*>(nullptr));
    case DType::kUInt8:
      return fn(static_cast<std::uint8_t*>(nullptr));
    default:
      return;
  }
}

}  // namespace

// `squares`: null, or what squares_range adds to, while the result is still in the cache.
void accumulate_range(const AccumulateCall& call, std::int64_t begin, std::int64_t end, double* squares) {
  with_type(call.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (; begin < end; begin += kBlock) {
      const std::int64_t n = end - begin < kBlock ? end - begin : kBlock;
      combine_block<T>(call, begin, n);
      if (squares != nullptr) squares_range(call.output, call.dtype, begin, begin + n, squares);
    }
  });
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void accumulate_range(const AccumulateCall& call, std::int64_t begin, std::int64_t end,
                                         double* squares))

void check_accumulate(const AccumulateCall& call, bool squares) {
  const auto refuse = [](const std::string& reason) { throw InvalidArgument("accumulate: " + reason); };
  if (call.source_count < 1 || call.source_count > kMaxSources)
    refuse(std::to_string(call.source_count) + " sources; there may be 1 to " + std::to_string(kMaxSources));
  if (call.count < 0) refuse("a negative number of elements: " + std::to_string(call.count));
  if (static_cast<int>(call.dtype) >= kDTypeCount) refuse(std::string("no arithmetic on ") + name(call.dtype));
  if (!is_floating(call.dtype) && (call.factors != nullptr || call.scale != 1.0))
    refuse(std::string("only floating dtypes are multiplied by factors, not ") + name(call.dtype));
  if (squares && (!is_floating(call.dtype) || call.op != Accumulation::kSum))
    refuse(std::string("squares only of sums of floating dtypes, not of operation ") +
           std::to_string(static_cast<int>(call.op)) + " on " + name(call.dtype));
  bool all = call.output != nullptr;
  for (int s = 0; s < call.source_count; ++s) all = all && call.sources[s] != nullptr;
  if (call.count > 0 && !all) refuse("a null pointer (a meta, fake or DTensor?)");
}

void accumulate_cpu(const AccumulateCall& call, double* squares, int threads) {
  check_accumulate(call, squares != nullptr);
  const struct {
    std::int64_t numel;
  } whole{call.count};
  // With squares the cut depends on the count alone, and so does their order.
  const RangeTasks ranges(&whole, 1,
                          squares != nullptr ? RangeTasks::kTaskElements : streaming_task_elements(&whole, 1, threads));
  std::vector<SquaresPartial> partials(squares != nullptr ? static_cast<std::size_t>(ranges.tasks()) : 0);
  parallel_for(ranges.tasks(), threads, [&](std::int64_t task) {
    for (const Range* r = ranges.begin(task); r != ranges.end(task); ++r) {
      double partial[2] = {0.0, 0.0};
      PP_CALL_PER_ISA(accumulate_range, call, r->begin, r->end, squares != nullptr ? partial : nullptr);
      if (squares != nullptr) partials[task] = {partial[0], partial[1]};
    }
  });
  for (const SquaresPartial& partial : partials) {
    squares[0] += partial.sum;
    if (partial.not_finite != 0.0) squares[1] = 1.0;
  }
}

}  // namespace pyparallel
#endif  // PP_LISTS
