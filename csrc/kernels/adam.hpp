// Adam and AdamW: the contract of the kernel and its per-element math, shared by the CPU and the CUDA loop.
//
// Formula: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, Algorithm 1; decoupled decay: Loshchilov
// and Hutter, "Decoupled Weight Decay Regularization", 2019, Algorithm 2; amsgrad: Reddi et al., 2018. Placed as torch
// places them: eps is added after the bias correction of the denominator.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"
#include "core/macros.hpp"

namespace pyparallel {

// One tensor of the list. All pointers are to dense memory of `numel` elements in the same order. Owned by the caller.
struct AdamTensor {
  void* param;            // param_dtype, read (unless master) and written
  const void* grad;       // grad_dtype, read
  float* exp_avg;         // read and written
  float* exp_avg_sq;      // read and written
  float* max_exp_avg_sq;  // null unless amsgrad; given for all tensors of a list or for none
  float* master;          // null, or the float32 value of a 16-bit parameter: read and written instead of `param`;
                          // ignored for float32 parameters, which are their own
  float* step;            // one float of its own: number of steps taken; incremented unless the step is skipped
  std::int64_t numel;
};

struct AdamHyper {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW: the decay multiplies the parameter; Adam: it is added to the gradient
  bool maximize;
  const float* grad_scale;  // null or one float on the device: gradients are divided by it
  const float* found_inf;   // null or one float on the device: any value other than 0 skips the step
};

// The scalars of one tensor's update, in the precision of the loop.
struct AdamScalars {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
  float decay;             // decoupled: 1 - lr * weight_decay, else 1
  float l2;                // Adam: weight_decay, else 0
  float step_size;         // lr / (1 - beta1^step)
  float inverse_sqrt_bc2;  // 1 / sqrt(1 - beta2^step)
  float grad_factor;       // +-1 / grad_scale
};

// `step` counts from 1. Computed in double, as torch does.
PP_HOST_DEVICE AdamScalars adam_scalars(const AdamHyper& hyper, double step) {
  AdamScalars s;
  s.beta1 = static_cast<float>(hyper.beta1);
  s.one_minus_beta1 = static_cast<float>(1.0 - hyper.beta1);
  s.beta2 = static_cast<float>(hyper.beta2);
  s.one_minus_beta2 = static_cast<float>(1.0 - hyper.beta2);
  s.eps = static_cast<float>(hyper.eps);
  s.decay = hyper.decoupled ? static_cast<float>(1.0 - hyper.lr * hyper.weight_decay) : 1.0f;
  s.l2 = hyper.decoupled ? 0.0f : static_cast<float>(hyper.weight_decay);
  s.step_size = static_cast<float>(hyper.lr / (1.0 - pow(hyper.beta1, step)));
  s.inverse_sqrt_bc2 = static_cast<float>(1.0 / sqrt(1.0 - pow(hyper.beta2, step)));
  const double scale = hyper.grad_scale ? static_cast<double>(*hyper.grad_scale) : 1.0;
  s.grad_factor = static_cast<float>((hyper.maximize ? -1.0 : 1.0) / scale);
  return s;
}

// One element. `max_exp_avg_sq` is touched only when kAmsgrad.
template <bool kAmsgrad>
PP_HOST_DEVICE void adam_update(const AdamScalars& s, float grad, float& param, float& exp_avg, float& exp_avg_sq,
                                float& max_exp_avg_sq) {
  grad *= s.grad_factor;
  if (s.l2 != 0.0f) grad = fused_multiply_add(s.l2, param, grad);  // 0 * inf would be NaN
  exp_avg = fused_multiply_add(s.one_minus_beta1, grad, s.beta1 * exp_avg);
  exp_avg_sq = fused_multiply_add(s.one_minus_beta2 * grad, grad, s.beta2 * exp_avg_sq);
  float second = exp_avg_sq;
  if constexpr (kAmsgrad) {
    // Written so that NaN wins, as in torch.maximum.
    max_exp_avg_sq = max_exp_avg_sq < second || second != second ? second : max_exp_avg_sq;
    second = max_exp_avg_sq;
  }
  const float denominator = fused_multiply_add(sqrtf(second), s.inverse_sqrt_bc2, s.eps);
  param = fused_multiply_add(-s.step_size, exp_avg / denominator, s.decay * param);
}

// What both loops refuse: negative sizes, null pointers with elements behind them, amsgrad for a part of the list.
// Throws InvalidArgument; returns whether the list is amsgrad's (empty tensors have no say).
bool check_adam_tensors(const AdamTensor* tensors, std::int64_t count);

// Steps `count` tensors of one dtype pair in one call. CPU: `threads` >= 1, returns when done. Tensors with numel 0
// only count their step.
void adam_cpu(const AdamTensor* tensors, std::int64_t count, DType param_dtype, DType grad_dtype,
              const AdamHyper& hyper, int threads);

#if PYPARALLEL_CUDA
// The same on `device`, enqueued on `stream` (a cudaStream_t): never synchronises, reads grad_scale, found_inf and step
// on the device. Throws CudaError.
void adam_cuda(const AdamTensor* tensors, std::int64_t count, DType param_dtype, DType grad_dtype,
               const AdamHyper& hyper, int device, void* stream);
#endif

}  // namespace pyparallel
