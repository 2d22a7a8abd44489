// NovoGrad: the contract of the kernel and its per-element math.
//
// Formula: Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
// Networks", 2019, Algorithm 1: the second moment is one number per tensor, its factor here.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct NovogradHyper {
  double lr, beta1, beta2, eps, weight_decay;
  bool grad_averaging;  // the gradient enters its moment with 1 - beta1 instead of 1
};

struct NovogradMeasure {
  using Hyper = NovogradHyper;
  static constexpr int kStates = 0, kTerms = 1;
  static constexpr unsigned kSigned = 0, kSlow = 0;

  template <class Real>
  struct Scalars {};

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper&, double, double) {
    return {};
  }

  template <class Real>
  PP_HOST_DEVICE static void measure(const Scalars<Real>&, Real grad, Real, Real (&)[kMaxStates],
                                     Real (&terms)[kSums]) {
    terms[0] = grad;
  }

  // The second moment, which starts as the first squared norm.
  PP_HOST_DEVICE static double factor(const Hyper& hyper, double step, const double* sums, double, double before) {
    return step > 1.0 ? hyper.beta2 * before + (1.0 - hyper.beta2) * sums[0] : sums[0];
  }
};

// State: exp_avg.
struct NovogradRule {
  using Hyper = NovogradHyper;
  static constexpr int kStates = 1;
  static constexpr bool kCounts = true;
  static constexpr unsigned kSigned = 0b1;
  static constexpr unsigned kSlow = 0;

  template <class Real>
  struct Scalars {
    Real lr, beta1, grad_weight, weight_decay, inverse_norm;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double, double factor) {
    return {static_cast<Real>(hyper.lr), static_cast<Real>(hyper.beta1),
            static_cast<Real>(hyper.grad_averaging ? 1.0 - hyper.beta1 : 1.0), static_cast<Real>(hyper.weight_decay),
            static_cast<Real>(1.0 / (sqrt(factor) + hyper.eps))};
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    Value& exp_avg = state[0];
    const Value change = fused_multiply_add(s.weight_decay, param, grad * s.inverse_norm);
    exp_avg = fused_multiply_add(s.grad_weight, change, s.beta1 * exp_avg);
    param = fused_multiply_add(-s.lr, exp_avg, param);
  }
};

using NovogradRules = Variants<NovogradRule>;
inline int variant(const NovogradHyper&) { return 0; }

PP_DECLARE_STEP(novograd, NovogradHyper);

}  // namespace pyparallel
