// SGD on the CPU against a plain float64 reference.
#include "kernels/sgd.hpp"

#include "core/error.hpp"
#include "step_cases.hpp"

int main() {
  const auto update = [](const SgdHyper& h, double step, double grad, double& param, double (&states)[3]) {
    grad += h.weight_decay * param;
    if (h.momentum != 0) {
      states[0] = step == 1 ? grad : h.momentum * states[0] + (1 - h.dampening) * grad;
      grad = h.nesterov ? grad + h.momentum * states[0] : states[0];
    }
    param -= h.lr * grad;
  };
  check_optimizer<SgdHyper>({sgd_cpu, 1, update}, {{0.1, 0.0, 0.0, 0.0, false},
                                                   {0.1, 0.9, 0.0, 0.125, false},
                                                   {0.1, 0.9, 0.25, 0.0, false},
                                                   {0.1, 0.9, 0.0, 0.125, true}});
}
