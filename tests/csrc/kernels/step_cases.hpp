// What every optimizer kernel on the CPU must do, given its float64 reference: sizes, dtypes, masters, threads.
#pragma once
#include <cmath>
#include <functional>
#include <vector>

#include "check.hpp"
#include "core/float16.hpp"
#include "kernels/step/contract.hpp"
#include "kernels/step/storage.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

// An optimizer as its tests see it. `update(hyper, step, grad, param, states)` is one element's step in float64.
template <class Hyper>
struct Optimizer {
  void (*cpu)(const StepTensor*, std::int64_t, const StepTypes&, const Hyper&, const StepControl&, int threads);
  int states;
  std::function<void(const Hyper&, double step, double grad, double& param, double (&states)[3])> update;
};

inline void store(DType dtype, std::vector<double>& memory, std::size_t i, double value) {
  auto* const bytes = reinterpret_cast<char*>(memory.data());
  const auto rounded = static_cast<float>(value);
  if (dtype == DType::kFloat64) memory[i] = value;
  if (dtype == DType::kFloat32) reinterpret_cast<float*>(bytes)[i] = rounded;
  if (dtype == DType::kBFloat16) reinterpret_cast<BFloat16*>(bytes)[i] = from_float<BFloat16>(rounded);
  if (dtype == DType::kFloat16) reinterpret_cast<Float16*>(bytes)[i] = from_float<Float16>(rounded);
}

inline double load(DType dtype, const std::vector<double>& memory, std::size_t i) {
  const auto* const bytes = reinterpret_cast<const char*>(memory.data());
  if (dtype == DType::kFloat32) return reinterpret_cast<const float*>(bytes)[i];
  if (dtype == DType::kBFloat16) return to_float(reinterpret_cast<const BFloat16*>(bytes)[i]);
  if (dtype == DType::kFloat16) return to_float(reinterpret_cast<const Float16*>(bytes)[i]);
  return memory[i];
}

// Memory of one tensor, wide enough for any dtype, and its float64 twin.
struct Twin {
  std::vector<double> param, grad, states[3], extra;
  std::vector<double> wide_param, wide_states[3];
  float step = 0.0f;
  std::int64_t numel;

  Twin(std::size_t count, const StepTypes& types, std::mt19937_64& random)
      : param(count), grad(count), extra(count), wide_param(count), numel(static_cast<std::int64_t>(count)) {
    std::normal_distribution<double> normal;
    for (auto& state : states) state.assign(count, 0.0);
    for (auto& state : wide_states) state.assign(count, 0.0);
    for (std::size_t i = 0; i < count; ++i) {
      store(types.param, param, i, normal(random));
      wide_param[i] = load(types.param, param, i);
      if (types.extra == Extra::kMaster) store(DType::kFloat32, extra, i, wide_param[i]);
    }
  }

  // Multiples of 1/16: where a rule takes a sign, float and double agree about what is 0.
  void draw_grad(const StepTypes& types, std::mt19937_64& random) {
    std::normal_distribution<double> normal;
    for (std::size_t i = 0; i < grad.size(); ++i) store(types.grad, grad, i, std::round(16 * normal(random)) / 16);
  }

  StepTensor view() {
    return {param.data(),
            grad.data(),
            {states[0].data(), states[1].data(), states[2].data()},
            extra.data(),
            &step,
            nullptr,
            numel,
            0};
  }

  double value(const StepTypes& types, std::size_t i) const {
    if (types.extra == Extra::kMaster) return load(DType::kFloat32, extra, i);
    if (types.extra != Extra::kRemainder) return load(types.param, param, i);
    const auto* const rounded = reinterpret_cast<const std::uint16_t*>(param.data());
    const auto* const remainder = reinterpret_cast<const std::uint16_t*>(extra.data());
    return from_remainder(rounded[i], remainder[i]);
  }
};

// How far a parameter may be after a few steps of size about `lr`: rounding of the dtype that carries its value.
inline double tolerance_of(const StepTypes& types) {
  if (types.param == DType::kFloat64) return 1e-12;
  const bool exact =
      types.param == DType::kFloat32 || types.extra == Extra::kMaster || types.extra == Extra::kRemainder;
  return exact ? 4e-6 : types.param == DType::kBFloat16 ? 4e-2 : 4e-3;
}

template <class Hyper>
void follows_the_reference(const Optimizer<Hyper>& optimizer, const Hyper& hyper, const StepTypes& types,
                           std::mt19937_64& random) {
  StepControl control;
  control.maximize = random() % 2 == 0;
  const float scale = 8.0f, clip = 0.5f;
  control.grad_scale = &scale;
  control.clip = &clip;
  std::vector<Twin> twins;
  for (std::size_t count : {0, 1, 3, 16, 127, 511, 512, 513, 70001, 0}) twins.emplace_back(count, types, random);
  for (int step = 1; step <= 4; ++step) {
    std::vector<StepTensor> views;
    for (Twin& twin : twins) {
      twin.draw_grad(types, random);
      views.push_back(twin.view());
      for (std::size_t i = 0; i < twin.param.size(); ++i) {
        double states[3] = {twin.wide_states[0][i], twin.wide_states[1][i], twin.wide_states[2][i]};
        const double grad = load(types.grad, twin.grad, i) * (control.maximize ? -1 : 1) / scale * clip;
        optimizer.update(hyper, step, grad, twin.wide_param[i], states);
        for (int k = 0; k < 3; ++k) twin.wide_states[k][i] = states[k];
      }
    }
    optimizer.cpu(views.data(), static_cast<std::int64_t>(views.size()), types, hyper, control,
                  1 + static_cast<int>(random() % 3));
  }
  for (const Twin& twin : twins) {
    CHECK_EQUAL(twin.step, 4.0f);
    for (std::size_t i = 0; i < twin.param.size(); ++i) {
      const double expected = twin.wide_param[i];
      CHECK_CLOSE(twin.value(types, i), expected, tolerance_of(types) * (1 + std::abs(expected)));
    }
    if (types.state != DType::kFloat32) continue;
    for (int k = 0; k < optimizer.states && tolerance_of(types) < 1e-5; ++k)
      for (std::size_t i = 0; i < twin.param.size(); ++i)
        CHECK_CLOSE(load(types.state, twin.states[k], i), twin.wide_states[k][i],
                    1e-5 * (1 + std::abs(twin.wide_states[k][i])));
  }
}

template <class Hyper>
void skips_and_refuses(const Optimizer<Hyper>& optimizer, const Hyper& hyper, std::mt19937_64& random) {
  const StepTypes types{DType::kFloat32, DType::kFloat32, DType::kFloat32};
  Twin twin(777, types, random);
  twin.draw_grad(types, random);
  StepTensor view = twin.view();
  const std::vector<double> before = twin.param;
  const float flag = 2.0f;
  StepControl control;
  control.found_inf = &flag;
  optimizer.cpu(&view, 1, types, hyper, control, 2);
  CHECK_EQUAL(twin.step, 0.0f);
  CHECK_EQUAL(twin.param == before, true);
  CHECK_THROWS(optimizer.cpu(&view, 1, {DType::kInt32, DType::kInt32, DType::kFloat32}, hyper, {}, 1), InvalidArgument);
  CHECK_THROWS(optimizer.cpu(&view, 1, {DType::kFloat64, DType::kFloat64, DType::kFloat32}, hyper, {}, 1),
               InvalidArgument);
  view.grad = nullptr;
  CHECK_THROWS(optimizer.cpu(&view, 1, types, hyper, {}, 1), InvalidArgument);
  CHECK_EQUAL(twin.param == before, true);
}

// Every way in which float64, float32 and 16-bit parameters may be kept with moments that lose nothing.
template <class Hyper>
void check_optimizer(const Optimizer<Hyper>& optimizer, const std::vector<Hyper>& hypers) {
  using D = DType;
  std::mt19937_64 random = fresh_random();
  const StepTypes kinds[] = {{D::kFloat32, D::kFloat32, D::kFloat32},
                             {D::kFloat64, D::kFloat64, D::kFloat64},
                             {D::kBFloat16, D::kBFloat16, D::kFloat32},
                             {D::kFloat16, D::kFloat16, D::kFloat32},
                             {D::kFloat16, D::kFloat16, D::kFloat32, Extra::kMaster},
                             {D::kBFloat16, D::kBFloat16, D::kFloat32, Extra::kMaster},
                             {D::kBFloat16, D::kFloat32, D::kFloat32, Extra::kMaster},
                             {D::kBFloat16, D::kBFloat16, D::kFloat32, Extra::kRemainder}};
  for (const Hyper& hyper : hypers) {
    for (const StepTypes& types : kinds) follows_the_reference(optimizer, hyper, types, random);
    skips_and_refuses(optimizer, hyper, random);
  }
}
