// Muon's elementwise parts on the CPU against a plain float64 reference: momentum into a stack of bfloat16, and the
// parameter from one.
#include "kernels/muon.hpp"

#include "core/float16.hpp"
#include "measured.hpp"

using namespace pyparallel;
using namespace pyparallel::PP_ISA;

namespace {

const StepTypes kNarrowParam{DType::kBFloat16, DType::kFloat32, DType::kFloat32};
const StepTypes kNarrowGrad{DType::kFloat32, DType::kBFloat16, DType::kFloat32};

void momentum_goes_into_the_stack(const MuonHyper& hyper, std::mt19937_64& random) {
  for (std::size_t numel : {0, 1, 513, 70001}) {
    Tensor tensor(numel, random);
    std::vector<BFloat16> stack(numel, from_float<BFloat16>(NAN));  // what was there does not matter
    std::vector<double>& buffer = tensor.wide_states[0];
    for (int step = 0; step < 3; ++step) {
      StepTensor view = tensor.view();
      view.param = stack.data();
      muon_cpu(&view, 1, kNarrowParam, hyper, StepControl{}, 2);
      for (std::size_t i = 0; i < numel; ++i) {
        buffer[i] += (1 - hyper.momentum) * (tensor.grad[i] - buffer[i]);
        const double grad = tensor.grad[i];
        const double expected = hyper.nesterov ? grad + hyper.momentum * (buffer[i] - grad) : buffer[i];
        CHECK_CLOSE(tensor.states[0][i], buffer[i], 1e-6);
        CHECK_CLOSE(to_float(stack[i]), expected, 0x1p-8 * std::abs(expected) + 1e-6);
      }
    }
  }
}

void the_stack_goes_into_the_parameter(const MuonHyper& hyper, std::mt19937_64& random) {
  for (std::size_t numel : {0, 1, 513, 70001}) {
    Tensor tensor(numel, random);
    std::vector<BFloat16> stack;
    for (float value : tensor.grad) stack.push_back(from_float<BFloat16>(value));
    tensor.factor = 1.5;
    StepTensor view = tensor.view();
    view.grad = stack.data();
    StepControl control;
    control.advance = false;
    muon_cpu(&view, 1, kNarrowGrad, hyper, control, 2);
    CHECK_EQUAL(tensor.step, 0.0f);
    for (std::size_t i = 0; i < numel; ++i) {
      const double expected =
          tensor.wide[i] * (1 - hyper.lr * hyper.weight_decay) - hyper.lr * 1.5 * to_float(stack[i]);
      CHECK_CLOSE(tensor.param[i], expected, 1e-6 * (1 + std::abs(expected)));
    }
  }
}

void a_flag_skips_both(std::mt19937_64& random) {
  const float flag = 1.0f;
  StepControl control;
  control.found_inf = &flag;
  for (bool apply : {false, true}) {
    Tensor tensor(100, random);
    const Tensor before = tensor;
    const StepTensor view = tensor.view();
    muon_cpu(&view, 1, kPlain, MuonHyper{0.1, 0.9, 0.1, true, apply}, control, 1);
    CHECK_EQUAL(tensor.param == before.param, true);
    CHECK_EQUAL(tensor.states[0] == before.states[0], true);
    CHECK_EQUAL(tensor.step, 0.0f);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (bool nesterov : {false, true})
    for (double momentum : {0.0, 0.3, 0.95}) {
      momentum_goes_into_the_stack({0.1, momentum, 0.125, nesterov, false}, random);
      the_stack_goes_into_the_parameter({0.1, momentum, 0.125, nesterov, true}, random);
    }
  a_flag_skips_both(random);
}
