// AdamW under emulation: a few steps over odd, shifted and empty tensors stay with the CPU's, in every order.
#include "kernels/adam.hpp"

#include "tensors.hpp"

using namespace pyparallel;

namespace {

// Two rounding errors of a step, against values of order 1.
constexpr double kTolerance = 1e-5;

struct Parameter {
  TwinTensor param, grad, exp_avg, exp_avg_sq, step;

  Parameter(DType dtype, std::size_t numel, std::mt19937_64& random)
      : param(dtype, numel, random() % 5),
        grad(dtype, numel, random() % 5),
        exp_avg(DType::kFloat32, numel, random() % 5),
        exp_avg_sq(DType::kFloat32, numel, random() % 5),
        step(DType::kFloat32, 1, 0) {
    param.fill_normal(random);
    grad.fill_normal(random);
    for (TwinTensor* zeros : {&exp_avg, &exp_avg_sq, &step}) zeros->fill_normal(random, 0.0);
  }

  AdamTensor host() {
    return {param.host.data(), grad.host.data(), floats(exp_avg.host.data()), floats(exp_avg_sq.host.data()),
            nullptr,           nullptr,          floats(step.host.data()),    param.numel()};
  }
  AdamTensor device() {
    return {param.device.data(),
            grad.device.data(),
            floats(exp_avg.device.data()),
            floats(exp_avg_sq.device.data()),
            nullptr,
            nullptr,
            floats(step.device.data()),
            param.numel()};
  }
  static float* floats(unsigned char* memory) { return reinterpret_cast<float*>(memory); }

  void check() const {
    const Bytes computed = param.device.download();
    const double tolerance = param.dtype == DType::kFloat32 ? kTolerance : 2e-2;
    for (std::size_t i = 0; i < static_cast<std::size_t>(param.numel()); ++i) {
      const double expected = read_element(param.host.data(), param.dtype, i);
      CHECK_CLOSE(read_element(computed.data(), param.dtype, i), expected, tolerance * (1 + std::abs(expected)));
    }
    step.check_twins("step");
    CHECK_EQUAL(param.device.front_is_untouched() && exp_avg.device.front_is_untouched(), true);
  }
};

void follows_the_cpu(DType dtype, std::mt19937_64& random) {
  std::vector<Parameter> parameters;
  for (std::size_t numel : {0, 1, 7, 16, 2049, 5003, 0}) parameters.emplace_back(dtype, numel, random);
  std::vector<AdamTensor> host, device;
  for (Parameter& parameter : parameters) {
    host.push_back(parameter.host());
    device.push_back(parameter.device());
  }
  const AdamHyper hyper{1e-2, 0.9, 0.99, 1e-8, 0.1, true, false, nullptr, nullptr};
  const auto count = static_cast<std::int64_t>(parameters.size());
  const TestStream stream;
  for (int steps = 0; steps < 2; ++steps) {
    adam_cpu(host.data(), count, dtype, dtype, hyper, 1);
    adam_cuda(device.data(), count, dtype, dtype, hyper, 0, stream);
  }
  synchronize();
  for (const Parameter& parameter : parameters) parameter.check();
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  in_every_order(random, [&] {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) follows_the_cpu(dtype, random);
  });
}
