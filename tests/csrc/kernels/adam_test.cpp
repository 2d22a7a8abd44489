// Adam on the CPU against a plain float64 reference: sizes, dtypes, masters, skipping, threads.
#include "kernels/adam.hpp"

#include <cmath>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "core/float16.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

namespace {

const AdamHyper kHyper{1e-2, 0.9, 0.999, 1e-8, 0.1, true, false};

template <typename T>
struct Tensor {
  std::vector<T> param, grad;
  std::vector<float> exp_avg, exp_avg_sq, max_exp_avg_sq, master;
  std::vector<double> wide, m, v, vmax;  // the reference
  float step = 0;

  Tensor(std::size_t numel, std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < numel; ++i) {
      param.push_back(from_float<T>(normal(random)));
      grad.push_back(from_float<T>(normal(random)));
      master.push_back(to_float(param.back()));
      wide.push_back(to_float(param.back()));
    }
    for (auto* zeros : {&exp_avg, &exp_avg_sq, &max_exp_avg_sq}) zeros->assign(numel, 0.0f);
    for (auto* zeros : {&m, &v, &vmax}) zeros->assign(numel, 0.0);
  }

  StepTensor view() {
    return {param.data(),
            grad.data(),
            {exp_avg.data(), exp_avg_sq.data(), max_exp_avg_sq.data()},
            master.data(),
            &step,
            nullptr,
            static_cast<std::int64_t>(param.size()),
            0};
  }

  void reference_step(const AdamHyper& h, double count, bool amsgrad, bool maximize) {
    for (std::size_t i = 0; i < param.size(); ++i) {
      double g = to_float(grad[i]) * (maximize ? -1.0 : 1.0);
      if (h.decoupled)
        wide[i] *= 1.0 - h.lr * h.weight_decay;
      else
        g += h.weight_decay * wide[i];
      m[i] = h.beta1 * m[i] + (1 - h.beta1) * g;
      v[i] = h.beta2 * v[i] + (1 - h.beta2) * g * g;
      vmax[i] = std::max(vmax[i], v[i]);
      const double second = (amsgrad ? vmax[i] : v[i]) / (1 - std::pow(h.beta2, count));
      wide[i] -= h.lr * (m[i] / (1 - std::pow(h.beta1, count))) / (std::sqrt(second) + h.eps);
    }
  }
};

StepTypes types_of(DType dtype, bool use_master) {
  return {dtype, dtype, DType::kFloat32, use_master ? Extra::kMaster : Extra::kNone};
}

template <typename T>
void equals_the_reference(DType dtype, bool use_master, bool maximize, const AdamHyper& hyper,
                          std::mt19937_64& random) {
  const bool amsgrad = hyper.amsgrad;
  StepControl control;
  control.maximize = maximize;
  std::vector<Tensor<T>> tensors;
  for (std::size_t numel : {0, 1, 3, 16, 511, 512, 513, 70001, 0}) tensors.emplace_back(numel, random);
  for (int count = 1; count <= 4; ++count) {
    std::vector<StepTensor> views;
    for (auto& tensor : tensors) views.push_back(tensor.view());
    const auto size = static_cast<std::int64_t>(views.size());
    adam_cpu(views.data(), size, types_of(dtype, use_master), hyper, control, 3);
    for (auto& tensor : tensors) tensor.reference_step(hyper, count, amsgrad, maximize);
  }
  const double tolerance = sizeof(T) == 4 || use_master ? 2e-6 : 4e-2;
  for (auto& tensor : tensors) {
    CHECK_EQUAL(tensor.step, 4.0f);
    for (std::size_t i = 0; i < tensor.param.size(); ++i) {
      const float value = use_master ? tensor.master[i] : to_float(tensor.param[i]);
      CHECK_CLOSE(value, tensor.wide[i], tolerance * (1 + std::abs(tensor.wide[i])));
      if (use_master) CHECK_EQUAL(to_float(tensor.param[i]), to_float(from_float<T>(tensor.master[i])));
    }
  }
}

void found_inf_skips(float flag, float expected_step) {
  std::mt19937_64 random(1);
  Tensor<float> tensor(1000, random);
  const std::vector<float> before = tensor.param;
  const StepTensor view = tensor.view();
  StepControl control;
  control.found_inf = &flag;
  adam_cpu(&view, 1, types_of(DType::kFloat32, false), kHyper, control, 2);
  CHECK_EQUAL(tensor.step, expected_step);
  CHECK_EQUAL(tensor.param == before, expected_step == 0.0f);
}

void scale_divides_the_gradient() {
  std::mt19937_64 random(2);
  Tensor<float> plain(777, random);
  Tensor<float> scaled = plain;
  const float scale = 1024.0f;
  for (float& g : scaled.grad) g *= scale;
  StepTensor view = plain.view();
  StepControl control;
  adam_cpu(&view, 1, types_of(DType::kFloat32, false), kHyper, control, 1);
  control.grad_scale = &scale;
  view = scaled.view();
  adam_cpu(&view, 1, types_of(DType::kFloat32, false), kHyper, control, 2);
  CHECK_EQUAL(plain.param == scaled.param, true);
}

void refuses_what_it_cannot_step() {
  std::mt19937_64 random(3);
  Tensor<float> tensor(10, random);
  StepTensor view = tensor.view();
  const StepTypes integers{DType::kInt32, DType::kInt32, DType::kFloat32};
  const StepTypes narrow_grad{DType::kFloat32, DType::kBFloat16, DType::kFloat32};
  CHECK_THROWS(adam_cpu(&view, 1, integers, kHyper, {}, 1), InvalidArgument);
  CHECK_THROWS(adam_cpu(&view, 1, narrow_grad, kHyper, {}, 1), InvalidArgument);
  view.grad = nullptr;
  CHECK_THROWS(adam_cpu(&view, 1, types_of(DType::kFloat32, false), kHyper, {}, 1), InvalidArgument);
  CHECK_EQUAL(tensor.step, 0.0f);
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (bool decoupled : {false, true})
    for (bool maximize : {false, true})
      for (bool amsgrad : {false, true}) {
        // The decay is a power of two: where it cancels the gradient, the reference cancels as exactly.
        const AdamHyper hyper{1e-2, 0.9, 0.99, 1e-8, 0.125, decoupled, amsgrad};
        equals_the_reference<float>(DType::kFloat32, false, maximize, hyper, random);
        for (bool use_master : {false, true}) {
          equals_the_reference<BFloat16>(DType::kBFloat16, use_master, maximize, hyper, random);
          equals_the_reference<Float16>(DType::kFloat16, use_master, maximize, hyper, random);
        }
      }
  found_inf_skips(0.0f, 1.0f);
  found_inf_skips(1.0f, 0.0f);
  found_inf_skips(2.0f, 0.0f);
  scale_divides_the_gradient();
  refuses_what_it_cannot_step();
}
