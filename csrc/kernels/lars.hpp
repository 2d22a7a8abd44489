// LARS: the contract of the kernel and its per-element math.
//
// Formula: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, Algorithm 1. The learning
// rate stands outside of the momentum, as in torch.optim.SGD: the same wherever it does not change.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct LarsHyper {
  double lr, momentum, dampening, weight_decay, trust_coefficient, eps;
  bool nesterov;
  bool adapt;  // false: the trust ratio is 1
};

struct LarsMeasure {
  using Hyper = LarsHyper;
  static constexpr int kStates = 0, kTerms = 2;
  static constexpr unsigned kSigned = 0, kSlow = 0;

  template <class Real>
  struct Scalars {};

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper&, double, double) {
    return {};
  }

  template <class Real>
  PP_HOST_DEVICE static void measure(const Scalars<Real>&, Real grad, Real param, Real (&)[kMaxStates],
                                     Real (&terms)[kSums]) {
    terms[0] = param;
    terms[1] = grad;
  }

  // The local learning rate: 1 where a norm is 0.
  PP_HOST_DEVICE static double factor(const Hyper& hyper, double, const double* sums, double, double) {
    if (!hyper.adapt || !(sums[0] > 0.0) || !(sums[1] > 0.0)) return 1.0;
    const double param = sqrt(sums[0]), grad = sqrt(sums[1]);
    return hyper.trust_coefficient * param / (grad + hyper.weight_decay * param + hyper.eps);
  }
};

// State: momentum_buffer, if there is momentum. Only with dampening does the number of the step matter.
template <bool kMomentum>
struct LarsRule {
  using Hyper = LarsHyper;
  static constexpr int kStates = kMomentum ? 1 : 0;
  static constexpr bool kCounts = false;
  static constexpr unsigned kSigned = 0b1;
  static constexpr unsigned kSlow = 0;

  template <class Real>
  struct Scalars {
    Real lr, momentum, grad_weight, weight_decay, trust, nesterov;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double step, double factor) {
    Scalars<Real> s;
    s.lr = static_cast<Real>(hyper.lr);
    s.momentum = static_cast<Real>(hyper.momentum);
    s.grad_weight = static_cast<Real>(step > 1.0 ? 1.0 - hyper.dampening : 1.0);
    s.weight_decay = static_cast<Real>(hyper.weight_decay);
    s.trust = static_cast<Real>(factor);
    s.nesterov = hyper.nesterov ? Real(1) : Real(0);
    return s;
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    if (s.weight_decay != Real(0)) grad = fused_multiply_add(s.weight_decay, param, grad);
    Value change = s.trust * grad;
    if constexpr (kMomentum) {
      Value& buffer = state[0];
      buffer = fused_multiply_add(s.grad_weight, change, s.momentum * buffer);
      change = s.nesterov != Real(0) ? fused_multiply_add(s.momentum, buffer, change) : buffer;
    }
    param = fused_multiply_add(-s.lr, change, param);
  }
};

using LarsRules = Variants<LarsRule<false>, LarsRule<true>>;
inline int variant(const LarsHyper& hyper) { return hyper.momentum != 0.0 ? 1 : 0; }

PP_DECLARE_STEP(lars, LarsHyper);

}  // namespace pyparallel
