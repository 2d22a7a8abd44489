// RMSprop on the CPU against a plain float64 reference: plain, centred, with momentum.
#include "kernels/rmsprop.hpp"

#include "core/error.hpp"
#include "step_cases.hpp"

int main() {
  const auto update = [](const RmspropHyper& h, double, double grad, double& param, double (&states)[3]) {
    grad += h.weight_decay * param;
    states[0] = h.alpha * states[0] + (1 - h.alpha) * grad * grad;
    double variance = states[0];
    if (h.centered) {
      states[1] = h.alpha * states[1] + (1 - h.alpha) * grad;
      variance -= states[1] * states[1];
    }
    grad /= std::sqrt(variance) + h.eps;
    if (h.momentum != 0) {
      double& buffer = states[h.centered ? 2 : 1];
      grad = buffer = h.momentum * buffer + grad;
    }
    param -= h.lr * grad;
  };
  for (bool centered : {false, true})
    for (double momentum : {0.0, 0.9})
      check_optimizer<RmspropHyper>({rmsprop_cpu, 1 + centered + (momentum != 0), update},
                                    {{1e-3, 0.9, 1e-1, 0.125, momentum, centered}});
}
