// Adam and AdamW: the contract of the kernel and its per-element math, shared by the CPU and the CUDA loop.
//
// Formula: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, Algorithm 1; decoupled decay: Loshchilov
// and Hutter, "Decoupled Weight Decay Regularization", 2019, Algorithm 2; amsgrad: Reddi et al., 2018. Placed as torch
// places them: eps is added after the bias correction of the denominator.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct AdamHyper {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW: the decay multiplies the parameter; Adam: it is added to the gradient
  bool amsgrad;    // keeps a third state, the largest second moment so far
};

// A rule is what the loops of step/ are filled with. States: exp_avg, exp_avg_sq and, with amsgrad, max_exp_avg_sq.
template <bool kAmsgrad>
struct AdamRule {
  using Hyper = AdamHyper;
  static constexpr int kStates = kAmsgrad ? 3 : 2;
  static constexpr bool kCounts = true;       // needs the number of the step
  static constexpr unsigned kSigned = 0b001;  // states that may be negative, as bits
  static constexpr unsigned kSlow = 0b010;    // states that change too little per step for 16 bits: rounded at random

  // Of one tensor's update, in the precision of the loop. update()'s Value is Real, or many of it at once.
  template <class Real>
  struct Scalars {
    Real beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    Real decay;             // decoupled: 1 - lr * weight_decay, else 1
    Real l2;                // Adam: weight_decay, else 0
    Real step_size;         // lr / (1 - beta1^step)
    Real inverse_sqrt_bc2;  // 1 / sqrt(1 - beta2^step)
  };

  // `step` counts from 1. Computed in double, as torch does.
  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double step, double) {
    Scalars<Real> s;
    s.beta1 = static_cast<Real>(hyper.beta1);
    s.one_minus_beta1 = static_cast<Real>(1.0 - hyper.beta1);
    s.beta2 = static_cast<Real>(hyper.beta2);
    s.one_minus_beta2 = static_cast<Real>(1.0 - hyper.beta2);
    s.eps = static_cast<Real>(hyper.eps);
    s.decay = hyper.decoupled ? static_cast<Real>(1.0 - hyper.lr * hyper.weight_decay) : Real(1);
    s.l2 = hyper.decoupled ? Real(0) : static_cast<Real>(hyper.weight_decay);
    s.step_size = static_cast<Real>(hyper.lr / (1.0 - pow(hyper.beta1, step)));
    s.inverse_sqrt_bc2 = static_cast<Real>(1.0 / sqrt(1.0 - pow(hyper.beta2, step)));
    return s;
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    Value &exp_avg = state[0], &exp_avg_sq = state[1], &max_exp_avg_sq = state[2];
    if (s.l2 != Real(0)) grad = fused_multiply_add(s.l2, param, grad);  // 0 * inf would be NaN
    exp_avg = fused_multiply_add(s.one_minus_beta1, grad, s.beta1 * exp_avg);
    exp_avg_sq = fused_multiply_add(s.one_minus_beta2 * grad, grad, s.beta2 * exp_avg_sq);
    Value second = exp_avg_sq;
    if constexpr (kAmsgrad) {
      // Written so that NaN wins, as in torch.maximum.
      max_exp_avg_sq = select((max_exp_avg_sq < second) | (second != second), second, max_exp_avg_sq);
      second = max_exp_avg_sq;
    }
    const Value denominator = fused_multiply_add(square_root(second), s.inverse_sqrt_bc2, s.eps);
    param = fused_multiply_add(-s.step_size, exp_avg / denominator, s.decay * param);
  }
};

using AdamRules = Variants<AdamRule<false>, AdamRule<true>>;
inline int variant(const AdamHyper& hyper) { return hyper.amsgrad ? 1 : 0; }

PP_DECLARE_STEP(adam, AdamHyper);

}  // namespace pyparallel
