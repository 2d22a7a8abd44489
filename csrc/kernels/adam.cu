// Adam and AdamW on CUDA: one pass over a list of tensors, 16 bytes per access; step counts advance in a launch before
// it.
#include <string>

#include "core/chunk_table.hpp"
#include "core/device_guard.hpp"
#include "core/error.hpp"
#include "core/gpu_math.cuh"
#include "kernels/adam.hpp"

namespace pyparallel {
namespace {

inline constexpr int kThreads = 256;

// ---- kernels ----

__device__ __forceinline__ bool is_skipped(const AdamHyper& hyper) {
  return hyper.found_inf != nullptr && *hyper.found_inf != 0.0f;
}

struct StepTable {
  static constexpr int kCapacity = 4000;
  float* steps[kCapacity];
  std::int32_t count;
};

// A launch of its own, because every block of adam_kernel reads its tensor's step.
__global__ void __launch_bounds__(kThreads)
    advance_steps_kernel(const __grid_constant__ StepTable table, const __grid_constant__ AdamHyper hyper) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < table.count && !is_skipped(hyper)) *table.steps[i] += 1.0f;
}

// Lanes of one thread: 16 bytes of parameter, and as many 16-byte accesses of the float arrays as that takes.
template <class Param>
inline constexpr int kLanes = kAccessBytes / static_cast<int>(sizeof(Param));

// A float32 parameter is its own master.
template <class Param>
__device__ __forceinline__ bool has_master(const AdamTensor& tensor) {
  return sizeof(Param) < sizeof(float) && tensor.master != nullptr;
}

// Reads, updates and writes `kCount` elements from `index` on; every array is aligned for that.
template <int kCount, class Param, class Grad, bool kAmsgrad>
__device__ __forceinline__ void update_lanes(const AdamTensor& tensor, const AdamScalars& scalars, std::int64_t index) {
  Param* const param = static_cast<Param*>(tensor.param) + index;
  const auto grad = load_lanes<kCount>(static_cast<const Grad*>(tensor.grad) + index);
  auto exp_avg = load_lanes<kCount>(tensor.exp_avg + index);
  auto exp_avg_sq = load_lanes<kCount>(tensor.exp_avg_sq + index);
  Lanes<float, kCount> max_exp_avg_sq, value;
  if constexpr (kAmsgrad) max_exp_avg_sq = load_lanes<kCount>(tensor.max_exp_avg_sq + index);
  Lanes<Param, kCount> stored;
  if (has_master<Param>(tensor)) {
    value = load_lanes<kCount>(tensor.master + index);
  } else {
    stored = load_lanes<kCount>(param);
#pragma unroll
    for (int k = 0; k < kCount; ++k) value.at[k] = widen_to<float>(stored.at[k]);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    float unused = 0.0f;
    adam_update<kAmsgrad>(scalars, widen_to<float>(grad.at[k]), value.at[k], exp_avg.at[k], exp_avg_sq.at[k],
                          kAmsgrad ? max_exp_avg_sq.at[k] : unused);
    stored.at[k] = narrow_to<Param>(value.at[k]);
  }
  store_lanes(tensor.exp_avg + index, exp_avg);
  store_lanes(tensor.exp_avg_sq + index, exp_avg_sq);
  if constexpr (kAmsgrad) store_lanes(tensor.max_exp_avg_sq + index, max_exp_avg_sq);
  if (has_master<Param>(tensor)) store_lanes(tensor.master + index, value);
  store_lanes(param, stored);
}

// The parameter's first 16-byte boundary decides the head; wide if every other array has a boundary at that element
// too.
template <class Param, class Grad>
__device__ __forceinline__ WideRange wide_range_of(const AdamTensor& tensor, std::int64_t number, std::int64_t chunk) {
  const int head = elements_to_boundary(static_cast<const Param*>(tensor.param));
  const bool wide = is_wide(static_cast<const Grad*>(tensor.grad) + head) && is_wide(tensor.exp_avg + head) &&
                    is_wide(tensor.exp_avg_sq + head) &&
                    (tensor.max_exp_avg_sq == nullptr || is_wide(tensor.max_exp_avg_sq + head)) &&
                    (!has_master<Param>(tensor) || is_wide(tensor.master + head));
  return wide_range(tensor.numel, number, chunk, kLanes<Param>, head, wide);
}

template <class Param, class Grad, bool kAmsgrad>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(const __grid_constant__ ChunkTable<AdamTensor> table, const __grid_constant__ AdamHyper hyper) {
  if (is_skipped(hyper)) return;
  GPU_SHARED(AdamScalars, shared_scalars, 1);
  const ChunkIndex index = find_chunk(table, blockIdx.x);
  const AdamTensor tensor = table.items[index.item];
  if (threadIdx.x == 0) shared_scalars[0] = adam_scalars(hyper, static_cast<double>(*tensor.step));
  __syncthreads();
  const AdamScalars scalars = shared_scalars[0];

  constexpr int kCount = kLanes<Param>;
  const WideRange range = wide_range_of<Param, Grad>(tensor, index.number, table.chunk);
  const std::int64_t stride = static_cast<std::int64_t>(blockDim.x) * kCount;
  for (std::int64_t i = range.wide_begin + threadIdx.x * kCount; i < range.wide_end; i += stride)
    update_lanes<kCount, Param, Grad, kAmsgrad>(tensor, scalars, i);
  for (std::int64_t k = threadIdx.x; k < range.singles; k += blockDim.x)
    update_lanes<1, Param, Grad, kAmsgrad>(tensor, scalars, range.single(k));
}

// ---- launchers ----

void advance_steps(const AdamTensor* tensors, std::int64_t count, const AdamHyper& hyper, cudaStream_t stream) {
  const int threads = block_threads(kThreads);
  StepTable table;
  for (std::int64_t first = 0; first < count; first += StepTable::kCapacity) {
    table.count = static_cast<std::int32_t>(std::min<std::int64_t>(count - first, StepTable::kCapacity));
    for (std::int32_t i = 0; i < table.count; ++i) table.steps[i] = tensors[first + i].step;
    launch({"adam: step counts", chunk_count(table.count, threads), threads, stream}, advance_steps_kernel, table,
           hyper);
  }
}

template <class Param, class Grad>
void update(const AdamTensor* tensors, std::int64_t count, bool amsgrad, const AdamHyper& hyper, int device,
            cudaStream_t stream) {
  const auto kernel = amsgrad ? adam_kernel<Param, Grad, true> : adam_kernel<Param, Grad, false>;
  const std::int64_t chunk = chunk_for_device(total_numel(tensors, count), device);
  for_each_table<AdamTensor>(
      tensors, count, chunk, [](const AdamTensor& tensor) { return tensor; },
      [&](const ChunkTable<AdamTensor>& table, std::int64_t blocks) {
        launch({"adam", blocks, block_threads(kThreads), stream}, kernel, table, hyper);
      });
}

using Update = void (*)(const AdamTensor*, std::int64_t, bool, const AdamHyper&, int, cudaStream_t);

Update update_for(DType param_dtype, DType grad_dtype) {
  const bool wide_grad = grad_dtype == DType::kFloat32;
  if (wide_grad || grad_dtype == param_dtype) {
    if (param_dtype == DType::kFloat32) return update<float, float>;
    if (param_dtype == DType::kBFloat16)
      return wide_grad ? update<__nv_bfloat16, float> : update<__nv_bfloat16, __nv_bfloat16>;
    if (param_dtype == DType::kFloat16) return wide_grad ? update<__half, float> : update<__half, __half>;
  }
  throw InvalidArgument(std::string("adam: no kernel for ") + name(param_dtype) + " parameters with " +
                        name(grad_dtype) + " gradients");
}

}  // namespace

void adam_cuda(const AdamTensor* tensors, std::int64_t count, DType param_dtype, DType grad_dtype,
               const AdamHyper& hyper, int device, void* stream) {
  const Update update_list = update_for(param_dtype, grad_dtype);
  const bool amsgrad = check_adam_tensors(tensors, count);
  if (count == 0) return;
  const DeviceGuard guard(device);
  advance_steps(tensors, count, hyper, static_cast<cudaStream_t>(stream));
  update_list(tensors, count, amsgrad, hyper, device, static_cast<cudaStream_t>(stream));
}

}  // namespace pyparallel
