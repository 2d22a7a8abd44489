// LAMB: the contract of the kernel and its per-element math.
//
// Formula: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2020, Algorithm 2,
// with phi the identity. Two passes: the first moves the moments and measures parameter and direction, the second
// computes the direction again, from the moments as they were stored, and applies it.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct LambHyper {
  double lr, beta1, beta2, eps, weight_decay;
  double trust_clip;  // the largest trust ratio; may be infinite
  bool bias_correction;
  bool adapt;  // false: the trust ratio is 1
};

// What both passes share. States: exp_avg, exp_avg_sq.
struct LambBase {
  using Hyper = LambHyper;
  static constexpr int kStates = 2;
  static constexpr bool kCounts = true;
  static constexpr unsigned kSigned = 0b01;
  static constexpr unsigned kSlow = 0b10;

  template <class Real>
  struct Scalars {
    Real beta1, one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay;
    Real inverse_bc1;       // 1 / (1 - beta1^step)
    Real inverse_sqrt_bc2;  // 1 / sqrt(1 - beta2^step)
    Real step_size;         // lr * trust ratio
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double step, double factor) {
    Scalars<Real> s;
    s.beta1 = static_cast<Real>(hyper.beta1);
    s.one_minus_beta1 = static_cast<Real>(1.0 - hyper.beta1);
    s.beta2 = static_cast<Real>(hyper.beta2);
    s.one_minus_beta2 = static_cast<Real>(1.0 - hyper.beta2);
    s.eps = static_cast<Real>(hyper.eps);
    s.weight_decay = static_cast<Real>(hyper.weight_decay);
    const bool corrected = hyper.bias_correction;
    s.inverse_bc1 = static_cast<Real>(corrected ? 1.0 / (1.0 - pow(hyper.beta1, step)) : 1.0);
    s.inverse_sqrt_bc2 = static_cast<Real>(corrected ? 1.0 / sqrt(1.0 - pow(hyper.beta2, step)) : 1.0);
    s.step_size = static_cast<Real>(hyper.lr * factor);
    return s;
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static Value direction(const Scalars<Real>& s, Value param, const Value (&state)[kMaxStates]) {
    const Value denominator = fused_multiply_add(square_root(state[1]), s.inverse_sqrt_bc2, s.eps);
    return fused_multiply_add(s.weight_decay, param, state[0] * s.inverse_bc1 / denominator);
  }
};

struct LambMeasure : LambBase {
  static constexpr int kTerms = 2;

  template <class Real>
  PP_HOST_DEVICE static void measure(const Scalars<Real>& s, Real grad, Real param, Real (&state)[kMaxStates],
                                     Real (&terms)[kSums]) {
    state[0] = fused_multiply_add(s.one_minus_beta1, grad, s.beta1 * state[0]);
    state[1] = fused_multiply_add(s.one_minus_beta2 * grad, grad, s.beta2 * state[1]);
    terms[0] = param;
    terms[1] = direction(s, param, state);
  }

  // The trust ratio: 1 where a norm is 0, bounded where it is one of norms.
  PP_HOST_DEVICE static double factor(const Hyper& hyper, double, const double* sums, double, double) {
    if (!hyper.adapt || !(sums[0] > 0.0) || !(sums[1] > 0.0)) return 1.0;
    const double ratio = sqrt(sums[0]) / sqrt(sums[1]);
    return ratio > hyper.trust_clip ? hyper.trust_clip : ratio;
  }
};

struct LambRule : LambBase {
  static constexpr bool kReadOnly = true;

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value, Value& param, Value (&state)[kMaxStates]) {
    param = fused_multiply_add(-s.step_size, direction(s, param, state), param);
  }
};

using LambRules = Variants<LambRule>;
inline int variant(const LambHyper&) { return 0; }

PP_DECLARE_STEP(lamb, LambHyper);

}  // namespace pyparallel
