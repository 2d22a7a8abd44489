// Adagrad on the CPU against a plain float64 reference.
#include "kernels/adagrad.hpp"

#include "core/error.hpp"
#include "step_cases.hpp"

int main() {
  const auto update = [](const AdagradHyper& h, double step, double grad, double& param, double (&states)[3]) {
    grad += h.weight_decay * param;
    states[0] += grad * grad;
    param -= h.lr / (1 + (step - 1) * h.lr_decay) * grad / (std::sqrt(states[0]) + h.eps);
  };
  // eps is large, since a gradient near 0 would take its sign, at full size, from rounding.
  check_optimizer<AdagradHyper>({adagrad_cpu, 1, update}, {{1e-2, 0.0, 0.0, 1e-2}, {1e-2, 0.3, 0.125, 1e-2}});
}
