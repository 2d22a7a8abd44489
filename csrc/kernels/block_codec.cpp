// The block codec on the CPU: the loops over blocks per instruction set, then runs of blocks for all threads.
#include "kernels/block_codec.hpp"

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

// values + error, and the bits of the largest magnitude.
std::uint32_t add_error(const float* __restrict values, const float* __restrict error, float* __restrict sum,
                        std::int64_t n) {
  std::uint32_t largest = 0;
  if (error != nullptr)
    for (std::int64_t i = 0; i < n; ++i) largest = larger_magnitude(largest, sum[i] = values[i] + error[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) largest = larger_magnitude(largest, sum[i] = values[i]);
  return largest;
}

void encode_block(const float* __restrict sum, float scale, float* __restrict error, std::int8_t* __restrict codes,
                  std::int64_t n) {
  if (scale == 0.0f || scale != scale) {
    __builtin_memset(codes, 0, static_cast<std::size_t>(n));
    if (error == nullptr) return;
    if (scale == 0.0f)
      __builtin_memcpy(error, sum, static_cast<std::size_t>(n) * sizeof(float));
    else
      __builtin_memset(error, 0, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  alignas(64) float shifted[kCodecBlock];
  for (std::int64_t i = 0; i < n; ++i) shifted[i] = shifted_code(sum[i], scale);
  for (std::int64_t i = 0; i < n; ++i) codes[i] = code_of_shifted(shifted[i]);
  if (error != nullptr)
    for (std::int64_t i = 0; i < n; ++i) error[i] = error_of_shifted(sum[i], scale, shifted[i]);
}

// The first source's products, or what all later ones add to them.
void add_products(const std::int8_t* __restrict codes, float scale, float* __restrict sum, std::int64_t n, bool first) {
  if (first)
    for (std::int64_t i = 0; i < n; ++i) sum[i] = static_cast<float>(codes[i]) * scale;
  else
    for (std::int64_t i = 0; i < n; ++i) sum[i] = sum[i] + static_cast<float>(codes[i]) * scale;
}

template <class T>
void decode_block(const DecodeCall& call, std::int64_t block, std::int64_t n) {
  alignas(64) float sum[kCodecBlock], buffer[kCodecBlock];
  const auto* const scales = reinterpret_cast<const char*>(call.scales + block);
  for (int s = 0; s < call.sources; ++s)
    add_products(call.codes + s * call.codes_stride + block * kCodecBlock,
                 *reinterpret_cast<const float*>(scales + s * call.scales_stride), sum, n, s == 0);
  T* const output = static_cast<T*>(call.output) + block * kCodecBlock;
  if (call.add) {
    const float* const before = as_floats(static_cast<const T*>(output), buffer, n);
    for (std::int64_t i = 0; i < n; ++i) sum[i] = before[i] + sum[i] * call.factor;
  } else {
    for (std::int64_t i = 0; i < n; ++i) sum[i] = sum[i] * call.factor;
  }
  narrow(sum, output, static_cast<std::size_t>(n));
}

std::int64_t length_of_block(std::int64_t block, std::int64_t count) {
  const std::int64_t rest = count - block * kCodecBlock;
  return rest < kCodecBlock ? rest : kCodecBlock;
}

}  // namespace

void encode_range(const EncodeCall& call, std::int64_t begin, std::int64_t end) {
  with_float_type(call.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    alignas(64) float buffer[kCodecBlock], sum[kCodecBlock];
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kCodecBlock, n = length_of_block(block, call.count);
      float* const error = call.error != nullptr ? call.error + first : nullptr;
      const float* const values = as_floats(static_cast<const T*>(call.values) + first, buffer, n);
      const float scale = codec_scale(add_error(values, error, sum, n));
      call.scales[block] = scale;
      encode_block(sum, scale, error, call.codes + first, n);
    }
  });
}

void decode_range(const DecodeCall& call, std::int64_t begin, std::int64_t end) {
  with_float_type(call.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (std::int64_t block = begin; block < end; ++block)
      decode_block<T>(call, block, length_of_block(block, call.count));
  });
}

}  // namespace PP_ISA
}  // namespace pyparallel

#if PP_LISTS
namespace pyparallel {

PP_DECLARE_PER_ISA(void encode_range(const EncodeCall& call, std::int64_t begin, std::int64_t end))
PP_DECLARE_PER_ISA(void decode_range(const DecodeCall& call, std::int64_t begin, std::int64_t end))

namespace {

void check(const char* what, DType dtype, std::int64_t count, bool all_pointers) {
  if (dtype != DType::kFloat32 && dtype != DType::kBFloat16 && dtype != DType::kFloat16)
    throw InvalidArgument(std::string(what) + ": float32, bfloat16 or float16, not " + name(dtype));
  if (count < 0) throw InvalidArgument(std::string(what) + ": a negative number of elements: " + std::to_string(count));
  if (count > 0 && !all_pointers)
    throw InvalidArgument(std::string(what) + ": a null pointer (a meta, fake or DTensor?)");
}

// Calls range(first block, end block) for all blocks, on several threads.
template <class Function>
void for_all_blocks(std::int64_t count, int threads, const Function& range) {
  const struct {
    std::int64_t numel;
  } blocks{codec_blocks(count)};
  constexpr std::int64_t kTaskBlocks = RangeTasks::kTaskElements / kCodecBlock;
  const RangeTasks ranges(&blocks, 1, std::max(kTaskBlocks, blocks.numel / (8 * std::max(1, threads))));
  parallel_for(ranges.tasks(), threads, [&](std::int64_t task) {
    for (const Range* r = ranges.begin(task); r != ranges.end(task); ++r) range(r->begin, r->end);
  });
}

}  // namespace

void check_encode(const EncodeCall& call) {
  check("encode_blocks", call.dtype, call.count,
        call.values != nullptr && call.codes != nullptr && call.scales != nullptr);
}

void check_decode(const DecodeCall& call) {
  check("decode_blocks", call.dtype, call.count,
        call.output != nullptr && call.codes != nullptr && call.scales != nullptr);
  if (call.sources < 1)
    throw InvalidArgument("decode_blocks: " + std::to_string(call.sources) + " sources; there must be at least 1");
  if (call.scales_stride % static_cast<std::int64_t>(sizeof(float)) != 0)
    throw InvalidArgument("decode_blocks: scales " + std::to_string(call.scales_stride) +
                          " bytes apart, which is no multiple of 4");
}

void encode_blocks_cpu(const EncodeCall& call, int threads) {
  check_encode(call);
  for_all_blocks(call.count, threads,
                 [&](std::int64_t begin, std::int64_t end) { PP_CALL_PER_ISA(encode_range, call, begin, end); });
}

void decode_blocks_cpu(const DecodeCall& call, int threads) {
  check_decode(call);
  for_all_blocks(call.count, threads,
                 [&](std::int64_t begin, std::int64_t end) { PP_CALL_PER_ISA(decode_range, call, begin, end); });
}

}  // namespace pyparallel
#endif  // PP_LISTS
