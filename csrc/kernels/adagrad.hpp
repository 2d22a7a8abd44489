// Adagrad: the contract of the kernel and its per-element math.
//
// Formula: Duchi, Hazan and Singer, "Adaptive Subgradient Methods", 2011, with torch.optim.Adagrad's decay of the rate.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct AdagradHyper {
  double lr, lr_decay, weight_decay, eps;
};

// State: sum, of the squared gradients.
struct AdagradRule {
  using Hyper = AdagradHyper;
  static constexpr int kStates = 1;
  static constexpr bool kCounts = true;
  static constexpr unsigned kSigned = 0;
  static constexpr unsigned kSlow = 0b1;

  template <class Real>
  struct Scalars {
    Real lr, weight_decay, eps;  // lr of this step
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double step, double) {
    return {static_cast<Real>(hyper.lr / (1.0 + (step - 1.0) * hyper.lr_decay)), static_cast<Real>(hyper.weight_decay),
            static_cast<Real>(hyper.eps)};
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    Value& sum = state[0];
    if (s.weight_decay != Real(0)) grad = fused_multiply_add(s.weight_decay, param, grad);
    sum = fused_multiply_add(grad, grad, sum);
    param = fused_multiply_add(-s.lr, grad / (square_root(sum) + s.eps), param);
  }
};

using AdagradRules = Variants<AdagradRule>;
inline int variant(const AdagradHyper&) { return 0; }

PP_DECLARE_STEP(adagrad, AdagradHyper);

}  // namespace pyparallel
