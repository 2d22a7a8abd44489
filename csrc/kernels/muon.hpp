// Muon's elementwise parts: the contract of the kernel and its per-element math.
//
// Formula: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, as torch.optim.Muon writes
// it. What is orthogonalised between the two is the business of matrix products.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct MuonHyper {
  double lr, momentum, weight_decay;
  bool nesterov;
  bool apply;  // false: MuonMomentumRule, true: MuonApplyRule
};

// a + weight * (b - a), exact at both ends.
template <class Value, class Real>
PP_HOST_DEVICE Value interpolated(Value a, Value b, Real weight) {
  return weight < Real(0.5) ? fused_multiply_add(weight, b - a, a) : fused_multiply_add(-(Real(1) - weight), b - a, b);
}

// "param" is only written: with what is to be orthogonalised. State: momentum_buffer.
struct MuonMomentumRule {
  using Hyper = MuonHyper;
  static constexpr int kStates = 1;
  static constexpr bool kCounts = false, kAnyGrad = true;
  static constexpr unsigned kSigned = 0b1;
  static constexpr unsigned kSlow = 0b1;

  template <class Real>
  struct Scalars {
    Real momentum, one_minus_momentum, nesterov;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double, double) {
    return {static_cast<Real>(hyper.momentum), static_cast<Real>(1.0 - hyper.momentum),
            hyper.nesterov ? Real(1) : Real(0)};
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&state)[kMaxStates]) {
    state[0] = interpolated(state[0], grad, s.one_minus_momentum);
    param = s.nesterov != Real(0) ? interpolated(grad, state[0], s.momentum) : state[0];
  }
};

// "grad" is the orthogonalised matrix, the factor what the shape makes of the learning rate.
struct MuonApplyRule {
  using Hyper = MuonHyper;
  static constexpr int kStates = 0;
  static constexpr bool kCounts = false, kAnyGrad = true;
  static constexpr unsigned kSigned = 0, kSlow = 0;

  template <class Real>
  struct Scalars {
    Real decay, step_size;
  };

  template <class Real>
  PP_HOST_DEVICE static Scalars<Real> scalars(const Hyper& hyper, double, double factor) {
    return {static_cast<Real>(1.0 - hyper.lr * hyper.weight_decay), static_cast<Real>(hyper.lr * factor)};
  }

  template <class Real, class Value>
  PP_HOST_DEVICE static void update(const Scalars<Real>& s, Value grad, Value& param, Value (&)[kMaxStates]) {
    param = fused_multiply_add(-s.step_size, grad, s.decay * param);
  }
};

using MuonRules = Variants<MuonMomentumRule, MuonApplyRule>;
inline int variant(const MuonHyper& hyper) { return hyper.apply ? 1 : 0; }

PP_DECLARE_STEP(muon, MuonHyper);

}  // namespace pyparallel
