// Lion on the CPU against a plain float64 reference.
#include "kernels/lion.hpp"

#include "core/error.hpp"
#include "step_cases.hpp"

int main() {
  const auto update = [](const LionHyper& h, double, double grad, double& param, double (&states)[3]) {
    const double direction = h.beta1 * states[0] + (1 - h.beta1) * grad;
    param = param * (1 - h.lr * h.weight_decay) - h.lr * (direction > 0 ? 1 : direction < 0 ? -1 : 0);
    states[0] = h.beta2 * states[0] + (1 - h.beta2) * grad;
  };
  // Such betas are exact, so that the sign of what is nearly 0 is the same in float.
  check_optimizer<LionHyper>({lion_cpu, 1, update}, {{1e-2, 0.5, 0.75, 0.0}, {1e-2, 0.5, 0.75, 0.125}});
}
