// What one tensor's update takes beside its arrays: computed once per tensor and step, the same on the CPU and on CUDA.
#pragma once
#include "core/macros.hpp"
#include "kernels/step/contract.hpp"
#include "kernels/step/storage.hpp"

namespace pyparallel {

template <class Rule, class Real>
struct StepScalars {
  typename Rule::template Scalars<Real> rule;
  Real grad_factor;   // +-1, unscaled and clipped
  std::uint32_t key;  // of what is rounded at random
};

PP_HOST_DEVICE bool is_skipped(const StepControl& control) {
  return control.found_inf != nullptr && *control.found_inf != 0.0f;
}

// `step` counts from 1; `number` is the tensor's place in the caller's list.
template <class Rule, class Real>
PP_HOST_DEVICE StepScalars<Rule, Real> step_scalars(const typename Rule::Hyper& hyper, const StepControl& control,
                                                    double step, const double* factor, std::uint32_t number) {
  StepScalars<Rule, Real> s;
  typename Rule::Hyper own = hyper;
  if (control.lr != nullptr) own.lr = static_cast<double>(*control.lr);
  s.rule = Rule::template scalars<Real>(own, step, factor != nullptr ? *factor : 1.0);
  double grad_factor = control.maximize ? -1.0 : 1.0;
  if (control.grad_scale != nullptr) grad_factor /= static_cast<double>(*control.grad_scale);
  if (control.clip != nullptr) grad_factor *= static_cast<double>(*control.clip);
  s.grad_factor = static_cast<Real>(grad_factor);
  s.key = random_key(control.seed, number, static_cast<std::uint32_t>(step));
  return s;
}

// The scale of the 8-bit block that holds element `index` of state k.
PP_HOST_DEVICE float* moment_scale(const StepTensor& t, int k, std::int64_t index) {
  return reinterpret_cast<float*>(static_cast<char*>(t.states[k]) + moment_scales_offset(t.numel)) +
         index / kMomentBlock;
}

}  // namespace pyparallel
