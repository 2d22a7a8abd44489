// Pack and unpack on the CPU: the cast-and-scale loop per instruction set, then the list of tensors around the loop.
#include "kernels/pack.hpp"

#include "core/blocks.hpp"
#include "core/isa.hpp"
#if PP_LISTS
#include <string>

#include "core/error.hpp"
#include "core/ranges.hpp"
#include "core/thread_pool.hpp"
#endif

namespace pyparallel {
namespace PP_ISA {
namespace {

double widest(float value) { return value; }
double widest(double value) { return value; }
template <typename T>
double widest(T value) {
  return to_float(value);
}

template <typename Source, typename Target>
void convert(const Source* source, Target* target, std::int64_t count, double scale) {
  if constexpr (sizeof(Source) == 8 || sizeof(Target) == 8) {
    for (std::int64_t i = 0; i < count; ++i) {
      const double value = pack_scaled(widest(source[i]), scale);
      if constexpr (sizeof(Target) == 8)
        target[i] = value;
      else
        target[i] = from_float<Target>(static_cast<float>(value));
    }
  } else {
    const float factor = static_cast<float>(scale);
    alignas(64) float buffer[kBlock];
    for (std::int64_t begin = 0; begin < count; begin += kBlock) {
      const std::int64_t n = count - begin < kBlock ? count - begin : kBlock;
      const float* const values = as_floats(source + begin, buffer, n);
      for (std::int64_t i = 0; i < n; ++i) buffer[i] = pack_scaled(values[i], factor);
      narrow(buffer, target + begin, static_cast<std::size_t>(n));
    }
  }
}

}  // namespace

// target[i] = cast(source[i] * scale) for `count` elements; equal dtypes with scale 1 are a copy of the bits.
void convert_range(const void* source, DType source_dtype, void* target, DType target_dtype, std::int64_t count,
                   double scale) {
  if (source_dtype == target_dtype && scale == 1.0) {
    __builtin_memcpy(target, source, static_cast<std::size_t>(count) * item_size(source_dtype));
    return;
  }
  with_float_type(source_dtype, [&](auto* source_type) {
    with_float_type(target_dtype, [&](auto* target_type) {
      using Source = decltype(source_type);
      using Target = decltype(target_type);
      convert(static_cast<Source>(const_cast<void*>(source)), static_cast<Target>(target), count, scale);
    });
  });
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void convert_range(const void* source, DType source_dtype, void* target, DType target_dtype,
                                      std::int64_t count, double scale))

namespace {

void check_dtypes(DType tensor_dtype, DType flat_dtype) {
  if (!is_floating(tensor_dtype) || !is_floating(flat_dtype))
    throw InvalidArgument(std::string("pack: no conversion between ") + name(tensor_dtype) + " and " +
                          name(flat_dtype));
}

template <typename Move>
void for_each_slice(const PackItem* items, std::int64_t count, DType tensor_dtype, DType flat_dtype, int threads,
                    const Move& move) {
  const RangeTasks ranges(items, count, streaming_task_elements(items, count, threads));
  parallel_for(ranges.tasks(), threads, [&](std::int64_t task) {
    for (const Range* r = ranges.begin(task); r != ranges.end(task); ++r) {
      const PackItem& item = items[r->index];
      move(static_cast<char*>(item.tensor) + r->begin * static_cast<std::int64_t>(item_size(tensor_dtype)),
           (item.offset + r->begin) * static_cast<std::int64_t>(item_size(flat_dtype)), r->end - r->begin);
    }
  });
}

}  // namespace

void check_pack_items(const PackItem* items, std::int64_t count, const void* flat) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (items[i].numel < 0 || items[i].offset < 0)
      throw InvalidArgument("pack: tensor " + std::to_string(i) + " has a negative size or offset");
    if (items[i].numel > 0 && (items[i].tensor == nullptr || flat == nullptr))
      throw InvalidArgument("pack: tensor " + std::to_string(i) + " has a null pointer (a meta, fake or DTensor?)");
  }
}

void pack_cpu(const PackItem* items, std::int64_t count, DType tensor_dtype, void* flat, DType flat_dtype, double scale,
              int threads) {
  check_dtypes(tensor_dtype, flat_dtype);
  check_pack_items(items, count, flat);
  for_each_slice(items, count, tensor_dtype, flat_dtype, threads, [&](char* tensor, std::int64_t at, std::int64_t n) {
    PP_CALL_PER_ISA(convert_range, tensor, tensor_dtype, static_cast<char*>(flat) + at, flat_dtype, n, scale);
  });
}

void unpack_cpu(const PackItem* items, std::int64_t count, DType tensor_dtype, const void* flat, DType flat_dtype,
                double scale, int threads) {
  check_dtypes(tensor_dtype, flat_dtype);
  check_pack_items(items, count, flat);
  for_each_slice(items, count, tensor_dtype, flat_dtype, threads, [&](char* tensor, std::int64_t at, std::int64_t n) {
    PP_CALL_PER_ISA(convert_range, static_cast<const char*>(flat) + at, flat_dtype, tensor, tensor_dtype, n, scale);
  });
}

}  // namespace pyparallel
#endif  // PP_LISTS
