// What every optimizer's CUDA kernels do under emulation: what its CPU loop does, in every way of keeping values, in
// every order of threads, over tensors at the borders of chunks and vectors. Bit for bit, but for optimizers that
// measure: their sums are added in another order.
#pragma once
#include <cstdlib>
#include <vector>

#include "kernels/step/contract.hpp"
#include "kernels/step/storage.hpp"
#include "tensors.hpp"

namespace pyparallel {

template <class Hyper>
struct StepFunctions {
  void (*cpu)(const StepTensor*, std::int64_t, const StepTypes&, const Hyper&, const StepControl&, int threads);
  void (*cuda)(const StepTensor*, std::int64_t, const StepTypes&, const Hyper&, const StepControl&, int device,
               void* stream, DeviceTables* tables);
  bool measures = false;
};

// A parameter and all that belongs to it, on both sides.
struct Parameter {
  TwinTensor param, grad, extra, step, factor;
  std::vector<TwinTensor> states;

  Parameter(const StepTypes& types, std::size_t numel, std::mt19937_64& random)
      : param(types.param, numel, random() % 5),
        grad(types.grad, numel, random() % 5),
        extra(types.extra == Extra::kMaster ? DType::kFloat32 : DType::kBFloat16, numel, random() % 5),
        step(DType::kFloat32, 1, 0),
        factor(DType::kFloat64, 1, 0) {
    param.fill_normal(random);
    fill_zeros(step);
    write_element(factor.host.data(), DType::kFloat64, 0, 0.5);
    factor.device.upload(factor.host);
    fill_zeros(extra);
    if (types.extra == Extra::kMaster) {
      for (std::size_t i = 0; i < numel; ++i)
        write_element(extra.host.data(), extra.dtype, i, read_element(param.host.data(), types.param, i));
      extra.device.upload(extra.host);
    }
    const bool coded = types.state == DType::kUInt8;  // the scales behind the codes are floats
    const auto length = coded ? static_cast<std::size_t>(moment_bytes(static_cast<std::int64_t>(numel))) : numel;
    for (int k = 0; k < kMaxStates; ++k) {
      states.emplace_back(types.state, length, coded ? 0 : random() % 5);
      fill_zeros(states.back());
    }
  }

  static void fill_zeros(TwinTensor& tensor) {
    std::fill(tensor.host.begin(), tensor.host.end(), 0);
    tensor.device.upload(tensor.host);
  }

  template <class Side>
  StepTensor view(std::size_t number, const Side& side) {
    return {side(param),
            side(grad),
            {side(states[0]), side(states[1]), side(states[2])},
            side(extra),
            reinterpret_cast<float*>(side(step)),
            reinterpret_cast<double*>(side(factor)),
            param.numel(),
            static_cast<std::uint32_t>(number)};
  }

  void check(bool exact = true) const {
    step.check_twins("step");
    if (exact) {
      param.check_twins("param");
      extra.check_twins("extra");
      for (const TwinTensor& state : states) state.check_twins("state");
      return;
    }
    const double tolerance = item_size(param.dtype) == 2 ? 2e-2 : 1e-5;
    const Bytes computed = param.device.download();
    for (std::size_t i = 0; i < static_cast<std::size_t>(param.numel()); ++i) {
      const double expected = read_element(param.host.data(), param.dtype, i);
      CHECK_CLOSE(read_element(computed.data(), param.dtype, i), expected, tolerance * (1 + std::abs(expected)));
    }
    CHECK_EQUAL(param.device.front_is_untouched() && states[0].device.front_is_untouched(), true);
  }
};

template <class Hyper>
void follows_the_cpu(const StepFunctions<Hyper>& functions, const Hyper& hyper, const StepTypes& types,
                     const std::vector<std::size_t>& sizes, std::mt19937_64& random) {
  std::vector<Parameter> parameters;
  for (std::size_t numel : sizes) parameters.emplace_back(types, numel, random);
  std::vector<StepTensor> host, device;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    host.push_back(parameters[i].view(i, [](TwinTensor& twin) { return twin.host.data(); }));
    device.push_back(parameters[i].view(i, [](TwinTensor& twin) { return twin.device.data(); }));
  }
  TwinTensor scalars(DType::kFloat32, 3, 0);  // grad_scale, clip, lr
  for (std::size_t i = 0; i < 3; ++i) write_element(scalars.host.data(), DType::kFloat32, i, i == 2 ? 0.01 : 0.5);
  scalars.device.upload(scalars.host);
  const auto count = static_cast<std::int64_t>(parameters.size());
  const DeviceArray<double> workspace(static_cast<std::size_t>(measure_workspace(count)) / sizeof(double));
  const auto control = [&](unsigned char* memory) {
    auto* const values = reinterpret_cast<const float*>(memory);
    return StepControl{values, nullptr, values + 1, values + 2, true, 12345u, true, workspace.data()};
  };
  const TestStream stream;
  for (int steps = 0; steps < 2; ++steps) {
    for (Parameter& parameter : parameters) parameter.grad.fill_normal(random);
    functions.cpu(host.data(), count, types, hyper, control(scalars.host.data()), 1);
    functions.cuda(device.data(), count, types, hyper, control(scalars.device.data()), 0, stream, nullptr);
    synchronize();
  }
  for (const Parameter& parameter : parameters) parameter.check(!functions.measures);
}

template <class Hyper>
void any_found_inf_skips(const StepFunctions<Hyper>& functions, const Hyper& hyper, std::mt19937_64& random) {
  const StepTypes types{DType::kFloat32, DType::kFloat32, DType::kUInt8};
  Parameter parameter(types, 300, random);
  parameter.grad.fill_normal(random);
  TwinTensor flag(DType::kFloat32, 1, 0);
  write_element(flag.host.data(), DType::kFloat32, 0, 2.0);
  flag.device.upload(flag.host);
  StepControl control;
  control.found_inf = reinterpret_cast<const float*>(flag.device.data());
  const DeviceArray<double> workspace(static_cast<std::size_t>(measure_workspace(1)) / sizeof(double));
  control.workspace = workspace.data();
  const StepTensor view = parameter.view(0, [](TwinTensor& twin) { return twin.device.data(); });
  const TestStream stream;
  functions.cuda(&view, 1, types, hyper, control, 0, stream, nullptr);
  synchronize();
  parameter.check();  // as it was
}

// Every way of keeping values in every order of threads: a few shapes in each order, so that all meet over the runs.
template <class Hyper>
void check_step_kernels(const StepFunctions<Hyper>& functions, const std::vector<Hyper>& hypers) {
  using D = DType;
  // Without fused multiply-add on either side, both are the same operations.
  setenv("PYPARALLEL_ISA", "baseline", 1);
  const StepTypes ways[] = {{D::kFloat32, D::kFloat32, D::kFloat32},
                            {D::kFloat64, D::kFloat64, D::kFloat64},
                            {D::kFloat32, D::kFloat32, D::kBFloat16},
                            {D::kFloat32, D::kFloat32, D::kUInt8},
                            {D::kBFloat16, D::kBFloat16, D::kFloat32},
                            {D::kBFloat16, D::kFloat32, D::kFloat32, Extra::kMaster},
                            {D::kBFloat16, D::kBFloat16, D::kBFloat16, Extra::kRemainder},
                            {D::kBFloat16, D::kBFloat16, D::kUInt8, Extra::kStochastic},
                            {D::kBFloat16, D::kBFloat16, D::kFloat32, Extra::kStochastic},
                            {D::kFloat16, D::kFloat16, D::kFloat32},
                            {D::kFloat16, D::kFloat16, D::kUInt8, Extra::kMaster}};
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [&] {
    for (const Hyper& hyper : hypers) {
      for (const StepTypes& types : ways)
        follows_the_cpu(functions, hyper, types, {0, 7, 130, 0, 2049 + random() % 9}, random);
      any_found_inf_skips(functions, hyper, random);
    }
  });
  // Longer than the table of one launch.
  follows_the_cpu(functions, hypers[0], ways[0], many_sizes(900, random), random);
}

}  // namespace pyparallel
