// The CUDA loops around a rule: one pass over a list of tensors, 16 bytes per access, whatever types lie in memory;
// step counts advance in a launch before it.
//
// The types are arguments, not template parameters: a branch on them is the same for all threads and costs nothing
// beside the memory. All raw words of a thread's lanes are asked for before the first one is converted.
#pragma once
#include "core/chunk_table.hpp"
#include "core/device_guard.hpp"
#include "core/gpu_math.cuh"
#include "kernels/step/lanes.cuh"
#include "kernels/step/scalars.hpp"

namespace pyparallel {

inline constexpr int kStepThreads = 256;

template <class Rule>
struct StepArguments {
  typename Rule::Hyper hyper;
  StepControl control;
  StepTypes types;
};

// ---- step counts ----

struct StepCounts {
  static constexpr int kCapacity = 4000;
  float* steps[kCapacity];
  std::int32_t count;

  GPU_LARGE_ARGUMENT(StepCounts)
};

// A launch of its own, because every block of step_kernel reads its tensor's step.
static __global__ void __launch_bounds__(kStepThreads)
    advance_kernel(const __grid_constant__ StepCounts table, const __grid_constant__ StepControl control) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < table.count && !is_skipped(control)) *table.steps[i] += 1.0f;
}

// The same for a long list.
static __global__ void __launch_bounds__(kStepThreads)
    advance_long_kernel(const StepTensor* tensors, std::int64_t count, const __grid_constant__ StepControl control) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count && tensors[i].step != nullptr && !is_skipped(control)) *tensors[i].step += 1.0f;
}

// ---- elements ----

// Reads, updates and writes `kCount` elements from `index` on; for kCount > 1 every array is aligned for that.
template <int kCount, class Rule, class Real>
__device__ __forceinline__ void step_lanes(const StepTensor& t, const StepTypes& types,
                                           const StepScalars<Rule, Real>& s, std::int64_t index) {
  const bool master = types.extra == Extra::kMaster, remainder = types.extra == Extra::kRemainder;
  RawLanes<kCount, Real> param, grad, extra, states[kMaxStates];
  grad.load(t.grad, types.grad, index);
  if (!master) param.load(t.param, types.param, index);
  if (master) extra.load(t.extra, DType::kFloat32, index);
  if (remainder) extra.load(t.extra, DType::kBFloat16, index);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) states[k].load(t.states[k], types.state, index);

#pragma unroll
  for (int lane = 0; lane < kCount; ++lane) {
    Real value = master      ? extra.get(DType::kFloat32, lane)
                 : remainder ? static_cast<Real>(from_remainder(param.bits(lane), extra.bits(lane)))
                             : param.get(types.param, lane);
    Real state[kMaxStates] = {};
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) state[k] = states[k].get(types.state, lane);
    Rule::update(s.rule, grad.get(types.grad, lane) * s.grad_factor, value, state);
    const std::uint32_t random = random_bits(s.key, static_cast<std::uint32_t>(index) + lane);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) {
      if ((Rule::kSlow >> k & 1u) != 0 && types.state == DType::kBFloat16)
        states[k].set_bits(lane, to_bfloat16_at_random(static_cast<float>(state[k]), random_for_state(random)));
      else
        states[k].set(types.state, lane, state[k]);
    }
    if (types.extra == Extra::kStochastic)
      param.set_bits(lane, to_bfloat16_at_random(static_cast<float>(value), random_for_param(random)));
    else
      param.set(types.param, lane, value);
    if (master) extra.set(DType::kFloat32, lane, value);
    if (remainder) extra.set_bits(lane, remainder_of(static_cast<float>(value), param.bits(lane)));
  }

#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k)
    if constexpr (kWritesStates<Rule>) states[k].store(t.states[k], types.state, index);
  if (master) extra.store(t.extra, DType::kFloat32, index);
  if (remainder) extra.store(t.extra, DType::kBFloat16, index);
  param.store(t.param, types.param, index);
}

// The parameter's first 16-byte boundary decides the head; wide if every other array has a boundary at that element
// too.
template <class Rule>
__device__ __forceinline__ WideRange step_range_of(const StepTensor& t, const StepTypes& types, int lanes,
                                                   std::int64_t number, std::int64_t chunk) {
  const auto size = static_cast<std::int64_t>(item_size(types.param));
  const int head = static_cast<int>((0 - reinterpret_cast<std::uintptr_t>(t.param)) % kAccessBytes / size);
  const auto wide_at_head = [head](const void* array, DType dtype) {
    return is_wide(static_cast<const char*>(array) + head * static_cast<std::int64_t>(item_size(dtype)));
  };
  bool wide = wide_at_head(t.param, types.param) && wide_at_head(t.grad, types.grad);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) wide = wide && wide_at_head(t.states[k], types.state);
  if (types.extra == Extra::kMaster) wide = wide && wide_at_head(t.extra, DType::kFloat32);
  if (types.extra == Extra::kRemainder) wide = wide && wide_at_head(t.extra, DType::kBFloat16);
  return wide_range(t.numel, number, chunk, lanes, head, wide);
}

// ---- kernels ----

// This block's tensor, its chunk, and its scalars, computed by one thread for all.
template <class Rule, class Real>
struct StepChunk {
  StepTensor tensor;
  StepScalars<Rule, Real> scalars;
  std::int64_t number;

  // `ahead`: how many steps the counts in memory are behind.
  __device__ __forceinline__ StepChunk(const ChunkTable<StepTensor>& table, const StepArguments<Rule>& arguments,
                                       double ahead = 0.0) {
    using Scalars = StepScalars<Rule, Real>;
    GPU_SHARED(Scalars, shared, 1);
    const ItemChunk<StepTensor> found = find_item_chunk(table, blockIdx.x);
    tensor = found.item;
    number = found.number;
    if (threadIdx.x == 0) {
      const double step = tensor.step != nullptr ? static_cast<double>(*tensor.step) + ahead : 1.0;
      shared[0] = step_scalars<Rule, Real>(arguments.hyper, arguments.control, step, tensor.factor, tensor.number);
    }
    __syncthreads();
    scalars = shared[0];
  }
};

template <class Rule, class Real>
__global__ void __launch_bounds__(kStepThreads) step_kernel(const __grid_constant__ ChunkTable<StepTensor> table,
                                                            const __grid_constant__ StepArguments<Rule> arguments) {
  if (is_skipped(arguments.control)) return;
  const StepChunk<Rule, Real> chunk(table, arguments);
  constexpr int kCount = kStepLanes<Real>;
  const WideRange range = step_range_of<Rule>(chunk.tensor, arguments.types, kCount, chunk.number, table.chunk);
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) * kCount;
  for (std::int64_t i = range.wide_begin + threadIdx.x * kCount; i < range.wide_end; i += stride)
    step_lanes<kCount>(chunk.tensor, arguments.types, chunk.scalars, i);
  for (std::int64_t k = threadIdx.x; k < range.singles; k += blockDim.x)
    step_lanes<1>(chunk.tensor, arguments.types, chunk.scalars, range.single(k));
}

// 8-bit moments: one warp per block of kMomentBlock elements, lane l has elements l, l + 32, ... of it.
template <class Rule>
__global__ void __launch_bounds__(kStepThreads)
    step_moments_kernel(const __grid_constant__ ChunkTable<StepTensor> table,
                        const __grid_constant__ StepArguments<Rule> arguments) {
  if (is_skipped(arguments.control)) return;
  const StepChunk<Rule, float> chunk(table, arguments);
  const std::int64_t begin = chunk.number * table.chunk;
  const std::int64_t end = begin + table.chunk < chunk.tensor.numel ? begin + table.chunk : chunk.tensor.numel;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads, lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) / kWarpThreads * kMomentBlock;
  for (std::int64_t first = begin + warp * kMomentBlock; first < end; first += stride)
    step_moment_block<Rule>(chunk.tensor, arguments.types, chunk.scalars, first, lane);
}

// ---- launchers ----

inline void advance_steps(const StepTensor* tensors, std::int64_t count, const StepControl& control,
                          cudaStream_t stream) {
  const int threads = block_threads(kStepThreads);
  StepCounts table;
  table.count = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (tensors[i].step != nullptr) table.steps[table.count++] = tensors[i].step;
    if (table.count < StepCounts::kCapacity && i + 1 < count) continue;
    if (table.count > 0)
      launch({"optimizer: step counts", chunk_count(table.count, threads), threads, stream}, advance_kernel, table,
             control);
    table.count = 0;
  }
}

inline void advance_long(const ChunkTable<StepTensor>& table, const StepControl& control, cudaStream_t stream) {
  const int threads = block_threads(kStepThreads);
  launch({"optimizer: step counts", chunk_count(table.count, threads), threads, stream}, advance_long_kernel,
         table.long_items, std::int64_t{table.count}, control);
}

template <class Hyper, class Rule, class... Rest>
void step_cuda(Variants<Rule, Rest...>, const char* name, const StepTensor* tensors, std::int64_t count,
               const StepTypes& types, const Hyper& hyper, const StepControl& control, int device, void* stream_handle,
               DeviceTables* tables, int variant) {
  if constexpr (sizeof...(Rest) > 0)
    if (variant > 0)
      return step_cuda(Variants<Rest...>{}, name, tensors, count, types, hyper, control, device, stream_handle, tables,
                       variant - 1);
  check_step<Rule>(name, tensors, count, types);
  if (count == 0) return;
  const DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  const bool is_long = tables != nullptr && count > ChunkTable<StepTensor>::kCapacity;
  if (control.advance && !is_long) advance_steps(tensors, count, control, stream);
  const auto kernel = types.param == DType::kFloat64                      ? step_kernel<Rule, double>
                      : types.state == DType::kUInt8 && Rule::kStates > 0 ? step_moments_kernel<Rule>
                                                                          : step_kernel<Rule, float>;
  for_each_table(tensors, count, chunk_for_device(total_numel(tensors, count), device), tables, device, stream,
                 [&](const ChunkTable<StepTensor>& table, std::int64_t blocks) {
                   if (control.advance && is_long) advance_long(table, control, stream);
                   if (blocks == 0) return;
                   launch({name, blocks, block_threads(kStepThreads), stream}, kernel, table,
                          StepArguments<Rule>{hyper, control, types});
                 });
}

}  // namespace pyparallel
