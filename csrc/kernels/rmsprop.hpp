// RMSprop, plain or centred, with or without momentum: the contract of the kernel and its per-element math.
//
// Formula: Hinton, "Neural Networks for Machine Learning", lecture 6e, 2012; centred: Graves, "Generating Sequences
// With Recurrent Neural Networks", 2013. As torch.optim.RMSprop: eps is added after the square root.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct RmspropHyper {
  double lr, alpha, eps, weight_decay, momentum;
  bool centered;
};

// States: square_avg; grad_avg if centred; momentum_buffer, if there is momentum, after those.
template <bool kCentered, bool kMomentum>
struct RmspropRule {
  using Hyper = RmspropHyper;
  static constexpr int kStates = 1 + kCentered + kMomentum;
  static constexpr bool kCounts = false;
  static constexpr unsigned kSigned = 0b110;
  static constexpr unsigned kSlow = 0b001;

  template <class Real>
  struct Scalars {
    Real lr, alpha, one_minus_alpha, eps, weight_decay, momentum;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double, double) {
    return {static_cast<Real>(hyper.lr),  static_cast<Real>(hyper.alpha),        static_cast<Real>(1.0 - hyper.alpha),
            static_cast<Real>(hyper.eps), static_cast<Real>(hyper.weight_decay), static_cast<Real>(hyper.momentum)};
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    Value& square_avg = state[0];
    if (s.weight_decay != Real(0)) grad = fused_multiply_add(s.weight_decay, param, grad);
    square_avg = fused_multiply_add(s.one_minus_alpha * grad, grad, s.alpha * square_avg);
    Value variance = square_avg;
    if constexpr (kCentered) {
      Value& grad_avg = state[1];
      grad_avg = fused_multiply_add(s.one_minus_alpha, grad - grad_avg, grad_avg);
      variance = fused_multiply_add(-grad_avg, grad_avg, square_avg);
      variance = select(variance < Value(0), Value(0), variance);  // rounding makes no root NaN; NaN stays
    }
    grad = grad / (square_root(variance) + s.eps);
    if constexpr (kMomentum) {
      Value& buffer = state[1 + kCentered];
      buffer = fused_multiply_add(s.momentum, buffer, grad);
      grad = buffer;
    }
    param = fused_multiply_add(-s.lr, grad, param);
  }
};

using RmspropRules =
    Variants<RmspropRule<false, false>, RmspropRule<false, true>, RmspropRule<true, false>, RmspropRule<true, true>>;
inline int variant(const RmspropHyper& hyper) { return (hyper.centered ? 2 : 0) + (hyper.momentum != 0.0 ? 1 : 0); }

PP_DECLARE_STEP(rmsprop, RmspropHyper);

}  // namespace pyparallel
