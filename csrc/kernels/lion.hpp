// Lion: the contract of the kernel and its per-element math.
//
// Formula: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, Algorithm 2, with decoupled decay.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct LionHyper {
  double lr, beta1, beta2, weight_decay;
};

// State: exp_avg.
struct LionRule {
  using Hyper = LionHyper;
  static constexpr int kStates = 1;
  static constexpr bool kCounts = false;
  static constexpr unsigned kSigned = 0b1;
  static constexpr unsigned kSlow = 0b1;  // beta2 is 0.99 and more

  template <class Real>
  struct Scalars {
    Real lr, decay, beta1, one_minus_beta1, beta2, one_minus_beta2;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double, double) {
    return {static_cast<Real>(hyper.lr),    static_cast<Real>(1.0 - hyper.lr * hyper.weight_decay),
            static_cast<Real>(hyper.beta1), static_cast<Real>(1.0 - hyper.beta1),
            static_cast<Real>(hyper.beta2), static_cast<Real>(1.0 - hyper.beta2)};
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    Value& exp_avg = state[0];
    const Value direction = fused_multiply_add(s.one_minus_beta1, grad, s.beta1 * exp_avg);
    // 0 and NaN are their own signs.
    const Value sign = select(direction > Value(0), Value(1), select(direction < Value(0), Value(-1), direction));
    param = fused_multiply_add(-s.lr, sign, s.decay * param);
    exp_avg = fused_multiply_add(s.one_minus_beta2, grad, s.beta2 * exp_avg);
  }
};

using LionRules = Variants<LionRule>;
inline int variant(const LionHyper&) { return 0; }

PP_DECLARE_STEP(lion, LionHyper);

}  // namespace pyparallel
