// SGD with momentum: the contract of the kernel and its per-element math.
//
// Formula: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013, as
// torch.optim.SGD writes it: the momentum buffer starts as the first gradient, without dampening; Nesterov looks one
// step ahead of it.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct SgdHyper {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

// State: momentum_buffer, if there is momentum. Only with dampening does the number of the step matter.
template <bool kMomentum>
struct SgdRule {
  using Hyper = SgdHyper;
  static constexpr int kStates = kMomentum ? 1 : 0;
  static constexpr bool kCounts = false;
  static constexpr unsigned kSigned = 0b1;
  static constexpr unsigned kSlow = 0;

  template <class Real>
  struct Scalars {
    Real lr, momentum, grad_weight, weight_decay, nesterov;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double step, double) {
    Scalars<Real> s;
    s.lr = static_cast<Real>(hyper.lr);
    s.momentum = static_cast<Real>(hyper.momentum);
    s.grad_weight = static_cast<Real>(step > 1.0 ? 1.0 - hyper.dampening : 1.0);
    s.weight_decay = static_cast<Real>(hyper.weight_decay);
    s.nesterov = hyper.nesterov ? Real(1) : Real(0);
    return s;
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    if (s.weight_decay != Real(0)) grad = fused_multiply_add(s.weight_decay, param, grad);
    if constexpr (kMomentum) {
      Value& buffer = state[0];
      buffer = fused_multiply_add(s.grad_weight, grad, s.momentum * buffer);
      grad = s.nesterov != Real(0) ? fused_multiply_add(s.momentum, buffer, grad) : buffer;
    }
    param = fused_multiply_add(-s.lr, grad, param);
  }
};

using SgdRules = Variants<SgdRule<false>, SgdRule<true>>;
inline int variant(const SgdHyper& hyper) { return hyper.momentum != 0.0 ? 1 : 0; }

PP_DECLARE_STEP(sgd, SgdHyper);

}  // namespace pyparallel
