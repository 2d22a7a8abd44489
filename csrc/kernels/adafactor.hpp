// Adafactor's elementwise part: the contract of the kernel and its per-element math.
//
// Formula: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, Algorithms 4 and
// 5, as torch.optim.Adafactor writes them. The estimate of the second moment comes from outside; this measures
// parameter and update, then applies.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct AdafactorHyper {
  double lr;
  double eps1;  // the estimate is at least its square
  double eps2;  // the step relative to the parameter is taken of a root mean square of at least this
  double d;     // the root mean square of the update is at most this
  double weight_decay;
};

// State, read only: the estimate of the squared gradients.
struct AdafactorBase {
  using Hyper = AdafactorHyper;
  static constexpr int kStates = 1;
  static constexpr bool kCounts = true, kReadOnly = true;
  static constexpr unsigned kSigned = 0, kSlow = 0;

  template <class Real>
  struct Scalars {
    Real smallest, decay, step_size;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double step, double factor) {
    const double longest = 1.0 / sqrt(step);
    const double rho = hyper.lr < longest ? hyper.lr : longest;
    return {static_cast<Real>(hyper.eps1 * hyper.eps1), static_cast<Real>(1.0 - hyper.lr * hyper.weight_decay),
            static_cast<Real>(rho * factor)};
  }

  // Written so that a NaN in the estimate stays.
  template <class Real, class Value>
  PP_HOST_DEVICE static Value direction(const Scalars<Real>& s, Value grad, Value estimate) {
    return grad / square_root(select(estimate < s.smallest, s.smallest, estimate));
  }
};

struct AdafactorMeasure : AdafactorBase {
  static constexpr int kTerms = 2;

  template <class Real>
  PP_HOST_DEVICE static void measure(const Scalars<Real>& s, Real grad, Real param, Real (&state)[kMaxStates],
                                     Real (&terms)[kSums]) {
    terms[0] = param;
    terms[1] = direction(s, grad, state[0]);
  }

  PP_HOST_DEVICE static double factor(const Hyper& hyper, double, const double* sums, double numel, double) {
    const double param = sqrt(sums[0] / numel), update = sqrt(sums[1] / numel) / hyper.d;
    return (param > hyper.eps2 ? param : hyper.eps2) / (update > 1.0 ? update : 1.0);
  }
};

struct AdafactorRule : AdafactorBase {
  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    param = fused_multiply_add(-s.step_size, direction(s, grad, state[0]), s.decay * param);
  }
};

using AdafactorRules = Variants<AdafactorRule>;
inline int variant(const AdafactorHyper&) { return 0; }

PP_DECLARE_STEP(adafactor, AdafactorHyper);

}  // namespace pyparallel
