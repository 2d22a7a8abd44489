// The CUDA loops of a rule that measures: one partial per chunk, then one block per tensor adds the partials in a fixed
// order and computes the tensor's factor, where the step that follows on the stream reads it.
//
//   measure_kernel   tensor A |--0--|--1--|--2--|  tensor B |--3--|      a double for each sum and chunk
//   factor_kernel             block 0: 0 + 1 + 2            block 1: 3   -> *factor of A, of B
//
// Chunks depend on the sizes alone, and so does the order of all additions.
#pragma once
#include "kernels/step/kernel.cuh"

namespace pyparallel {

struct Sums {
  double at[kSums];
};

__device__ __forceinline__ void add_squares(Sums& sums, const float (&terms)[kSums]) {
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums.at[k] += static_cast<double>(terms[k]) * static_cast<double>(terms[k]);
}
__device__ __forceinline__ void add_squares(Sums& sums, const double (&terms)[kSums]) {
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums.at[k] += terms[k] * terms[k];
}

// ---- elements ----

template <int kCount, class Rule, class Real>
__device__ __forceinline__ void measure_lanes(const StepTensor& t, const StepTypes& types,
                                              const StepScalars<Rule, Real>& s, std::int64_t index, Sums& sums) {
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
    const Real value = master      ? extra.get(DType::kFloat32, lane)
                       : remainder ? static_cast<Real>(from_remainder(param.bits(lane), extra.bits(lane)))
                                   : param.get(types.param, lane);
    Real state[kMaxStates] = {}, terms[kSums] = {};
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) state[k] = states[k].get(types.state, lane);
    Rule::measure(s.rule, grad.get(types.grad, lane) * s.grad_factor, value, state, terms);
    add_squares(sums, terms);
    if constexpr (kWritesStates<Rule>) {
      const std::uint32_t random = random_bits(s.key, static_cast<std::uint32_t>(index) + lane);
#pragma unroll
      for (int k = 0; k < Rule::kStates; ++k) {
        if ((Rule::kSlow >> k & 1u) != 0 && types.state == DType::kBFloat16)
          states[k].set_bits(lane, to_bfloat16_at_random(static_cast<float>(state[k]), random_for_state(random)));
        else
          states[k].set(types.state, lane, state[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k)
    if constexpr (kWritesStates<Rule>) states[k].store(t.states[k], types.state, index);
}

// One warp's block of 8-bit moments, as in step_moment_block.
template <class Rule>
__device__ __forceinline__ void measure_moment_block(const StepTensor& t, const StepTypes& types,
                                                     const StepScalars<Rule, float>& s, std::int64_t first, int lane,
                                                     Sums& sums) {
  constexpr int kCount = static_cast<int>(kMomentBlock) / kWarpThreads;
  float states[kCount][kMaxStates] = {};
  std::uint32_t largest[kMaxStates] = {};
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const std::int64_t i = first + lane + j * kWarpThreads;
    if (i >= t.numel) continue;
    RawLanes<1, float> param, grad, extra;
    grad.load(t.grad, types.grad, i);
    param.load(t.param, types.param, i);
    if (types.extra == Extra::kMaster) extra.load(t.extra, DType::kFloat32, i);
    if (types.extra == Extra::kRemainder) extra.load(t.extra, DType::kBFloat16, i);
    const float value = types.extra == Extra::kMaster      ? extra.get(DType::kFloat32, 0)
                        : types.extra == Extra::kRemainder ? from_remainder(param.bits(0), extra.bits(0))
                                                           : param.get(types.param, 0);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k)
      states[j][k] = moment_of<Rule>(k, static_cast<const std::uint8_t*>(t.states[k])[i], *moment_scale(t, k, first));
    float terms[kSums] = {};
    Rule::measure(s.rule, grad.get(types.grad, 0) * s.grad_factor, value, states[j], terms);
    add_squares(sums, terms);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) largest[k] = larger_magnitude(largest[k], states[j][k]);
  }
  if constexpr (kWritesStates<Rule>) store_moment_block<Rule>(t, s.key, first, lane, states, largest);
}

// ---- kernels ----

__device__ __forceinline__ void write_partial(const Sums& sums, Sums* partials) {
  Sums total;
#pragma unroll
  for (int k = 0; k < kSums; ++k) total.at[k] = block_sum(sums.at[k]);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

template <class Rule, class Real>
__global__ void __launch_bounds__(kStepThreads) measure_kernel(const __grid_constant__ ChunkTable<StepTensor> table,
                                                               const __grid_constant__ StepArguments<Rule> arguments) {
  if (is_skipped(arguments.control)) return;
  const StepChunk<Rule, Real> chunk(table, arguments, 1.0);
  constexpr int kCount = kStepLanes<Real>;
  const WideRange range = step_range_of<Rule>(chunk.tensor, arguments.types, kCount, chunk.number, table.chunk);
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) * kCount;
  Sums sums{};
  for (std::int64_t i = range.wide_begin + threadIdx.x * kCount; i < range.wide_end; i += stride)
    measure_lanes<kCount>(chunk.tensor, arguments.types, chunk.scalars, i, sums);
  for (std::int64_t k = threadIdx.x; k < range.singles; k += blockDim.x)
    measure_lanes<1>(chunk.tensor, arguments.types, chunk.scalars, range.single(k), sums);
  write_partial(sums, static_cast<Sums*>(arguments.control.workspace));
}

template <class Rule>
__global__ void __launch_bounds__(kStepThreads)
    measure_moments_kernel(const __grid_constant__ ChunkTable<StepTensor> table,
                           const __grid_constant__ StepArguments<Rule> arguments) {
  if (is_skipped(arguments.control)) return;
  const StepChunk<Rule, float> chunk(table, arguments, 1.0);
  const std::int64_t begin = chunk.number * table.chunk;
  const std::int64_t end = begin + table.chunk < chunk.tensor.numel ? begin + table.chunk : chunk.tensor.numel;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads, lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) / kWarpThreads * kMomentBlock;
  Sums sums{};
  for (std::int64_t first = begin + warp * kMomentBlock; first < end; first += stride)
    measure_moment_block<Rule>(chunk.tensor, arguments.types, chunk.scalars, first, lane, sums);
  write_partial(sums, static_cast<Sums*>(arguments.control.workspace));
}

// One block per tensor of the table. Thread t adds its tensor's partials t, t + blockDim, ... in that order.
template <class Rule>
__global__ void __launch_bounds__(kStepThreads) factor_kernel(const __grid_constant__ ChunkTable<StepTensor> table,
                                                              const __grid_constant__ StepArguments<Rule> arguments) {
  if (is_skipped(arguments.control)) return;
  const bool is_long = table.long_items != nullptr;
  const StepTensor t = is_long ? table.long_items[blockIdx.x] : table.items[blockIdx.x];
  if (t.numel == 0) return;
  const Sums* const partials = static_cast<const Sums*>(arguments.control.workspace);
  const std::int64_t begin = is_long ? table.long_first_block[blockIdx.x] : table.first_block[blockIdx.x];
  const std::int64_t end = is_long ? table.long_first_block[blockIdx.x + 1] : table.first_block[blockIdx.x + 1];
  Sums sums{};
  for (std::int64_t i = begin + threadIdx.x; i < end; i += blockDim.x)
    for (int k = 0; k < kSums; ++k) sums.at[k] += partials[i].at[k];
  double total[kSums];
#pragma unroll
  for (int k = 0; k < kSums; ++k) total[k] = block_sum(sums.at[k]);
  if (threadIdx.x != 0) return;
  const double step = t.step != nullptr ? static_cast<double>(*t.step) + 1.0 : 1.0;
  *t.factor = Rule::factor(arguments.hyper, step, total, static_cast<double>(t.numel), *t.factor);
}

// ---- launcher ----

// Before the step_cuda of `Step`, whose step counts it finds not yet advanced.
template <class Rule, class Step>
void measure_cuda(const char* name, const StepTensor* tensors, std::int64_t count, const StepTypes& types,
                  const typename Rule::Hyper& hyper, const StepControl& control, int device, void* stream_handle,
                  DeviceTables* tables) {
  check_step<Step>(name, tensors, count, types);
  check_factors(name, tensors, count);
  if (count == 0) return;
  const DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  const int threads = block_threads(kStepThreads);
  constexpr bool kCoded = Rule::kStates > 0;
  const auto kernel = types.param == DType::kFloat64           ? measure_kernel<Rule, double>
                      : types.state == DType::kUInt8 && kCoded ? measure_moments_kernel<Rule>
                                                               : measure_kernel<Rule, float>;
  for_each_table(tensors, count, chunk_for_blocks(total_numel(tensors, count), kMeasureChunks), tables, device, stream,
                 [&](const ChunkTable<StepTensor>& table, std::int64_t blocks) {
                   if (blocks == 0) return;
                   const StepArguments<Rule> arguments{hyper, control, types};
                   launch({name, blocks, threads, stream}, kernel, table, arguments);
                   launch({name, table.count, threads, stream}, factor_kernel<Rule>, table, arguments);
                 });
}

}  // namespace pyparallel
