// What the tests of kernels with a factor per tensor share: tensors beside their float64 references, and the properties
// that all of these kernels have.
#pragma once
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "kernels/step/contract.hpp"

namespace pyparallel {

struct Tensor {
  std::vector<float> param, grad, states[2];
  std::vector<double> wide, wide_states[2];  // the reference
  double factor = 0.0, wide_factor = 0.0;
  float step = 0.0f;

  Tensor(std::size_t numel, std::mt19937_64& random) : param(numel), grad(numel), wide(numel) {
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < numel; ++i) {
      wide[i] = param[i] = normal(random);
      grad[i] = normal(random);
    }
    for (int k = 0; k < 2; ++k) states[k].assign(numel, 0.0f), wide_states[k].assign(numel, 0.0);
  }

  StepTensor view() {
    return {param.data(), grad.data(), {states[0].data(), states[1].data(), nullptr}, nullptr,
            &step,        &factor,     static_cast<std::int64_t>(param.size()),       0};
  }
};

inline double norm(const std::vector<double>& values) {
  double sum = 0.0;
  for (double value : values) sum += value * value;
  return std::sqrt(sum);
}

inline double norm(const std::vector<float>& values) { return norm(std::vector<double>(values.begin(), values.end())); }

inline const StepTypes kPlain{DType::kFloat32, DType::kFloat32, DType::kFloat32};

inline std::vector<Tensor> make_tensors(std::mt19937_64& random) {
  std::vector<Tensor> tensors;
  for (std::size_t numel : {0, 1, 3, 16, 511, 512, 513, 200001, 0}) tensors.emplace_back(numel, random);
  return tensors;
}

inline std::vector<StepTensor> views_of(std::vector<Tensor>& tensors) {
  std::vector<StepTensor> views;
  for (Tensor& tensor : tensors) views.push_back(tensor.view());
  return views;
}

// reference(tensor, step): one update of the float64 values and of wide_factor.
template <class Kernel, class Hyper, class Reference>
void follows(const Kernel& kernel, const Hyper& hyper, const Reference& reference, std::mt19937_64& random) {
  std::vector<Tensor> tensors = make_tensors(random);
  for (int step = 1; step <= 4; ++step) {
    const std::vector<StepTensor> views = views_of(tensors);
    kernel(views.data(), static_cast<std::int64_t>(views.size()), kPlain, hyper, StepControl{}, 3);
    for (Tensor& tensor : tensors) {
      reference(tensor, step);
      CHECK_EQUAL(tensor.step, static_cast<float>(step));
      if (tensor.param.empty()) continue;
      CHECK_CLOSE(tensor.factor, tensor.wide_factor, 2e-6 * std::abs(tensor.wide_factor));
      for (std::size_t i = 0; i < tensor.param.size(); ++i)
        CHECK_CLOSE(tensor.param[i], tensor.wide[i], 1e-5 * (1 + std::abs(tensor.wide[i])));
    }
  }
}

template <class Kernel, class Hyper>
void threads_do_not_change_a_bit(const Kernel& kernel, const Hyper& hyper, std::mt19937_64& random) {
  const std::vector<Tensor> start = make_tensors(random);
  std::vector<Tensor> first;
  for (int threads : {1, 2, 3, 7}) {
    std::vector<Tensor> tensors = start;
    const std::vector<StepTensor> views = views_of(tensors);
    for (int step = 0; step < 2; ++step)
      kernel(views.data(), static_cast<std::int64_t>(views.size()), kPlain, hyper, StepControl{}, threads);
    if (threads == 1) first = tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      CHECK_EQUAL(tensors[i].factor, first[i].factor);
      CHECK_EQUAL(tensors[i].param == first[i].param, true);
    }
  }
}

template <class Kernel, class Hyper>
void a_flag_skips_everything(const Kernel& kernel, const Hyper& hyper, std::mt19937_64& random) {
  const float flag = 2.0f;
  StepControl control;
  control.found_inf = &flag;
  Tensor tensor(1000, random);
  tensor.factor = 3.0;
  const Tensor before = tensor;
  const StepTensor view = tensor.view();
  kernel(&view, 1, kPlain, hyper, control, 2);
  CHECK_EQUAL(tensor.step, 0.0f);
  CHECK_EQUAL(tensor.factor, 3.0);
  CHECK_EQUAL(tensor.param == before.param, true);
  for (int k = 0; k < 2; ++k) CHECK_EQUAL(tensor.states[k] == before.states[k], true);
}

template <class Kernel, class Hyper>
void refuses_what_it_cannot_step(const Kernel& kernel, const Hyper& hyper, std::mt19937_64& random) {
  Tensor tensor(10, random);
  StepTensor view = tensor.view();
  view.factor = nullptr;
  CHECK_THROWS(kernel(&view, 1, kPlain, hyper, StepControl{}, 1), InvalidArgument);
  view = tensor.view();
  view.grad = nullptr;
  CHECK_THROWS(kernel(&view, 1, kPlain, hyper, StepControl{}, 1), InvalidArgument);
  CHECK_EQUAL(tensor.step, 0.0f);
  CHECK_EQUAL(tensor.factor, 0.0);
}

template <class Kernel, class Hyper>
void has_the_common_properties(const Kernel& kernel, const Hyper& hyper, std::mt19937_64& random) {
  threads_do_not_change_a_bit(kernel, hyper, random);
  a_flag_skips_everything(kernel, hyper, random);
  refuses_what_it_cannot_step(kernel, hyper, random);
}

}  // namespace pyparallel
