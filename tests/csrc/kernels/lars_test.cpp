// LARS on the CPU against a plain float64 reference: local rates, momentum, threads, skipping.
#include "kernels/lars.hpp"

#include "measured.hpp"

using namespace pyparallel;

namespace {

void reference_step(const LarsHyper& h, Tensor& t, double step) {
  const double param_norm = norm(t.wide), grad_norm = norm(t.grad);
  const double denominator = grad_norm + h.weight_decay * param_norm + h.eps;
  t.wide_factor = h.adapt ? h.trust_coefficient * param_norm / denominator : 1.0;
  std::vector<double>& buffer = t.wide_states[0];
  for (std::size_t i = 0; i < t.wide.size(); ++i) {
    const double change = t.wide_factor * (t.grad[i] + h.weight_decay * t.wide[i]);
    buffer[i] = h.momentum * buffer[i] + (step > 1 ? 1 - h.dampening : 1) * change;
    t.wide[i] -= h.lr * (h.nesterov ? change + h.momentum * buffer[i] : buffer[i]);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (const LarsHyper& hyper :
       {LarsHyper{0.5, 0.0, 0.0, 0.0, 0.1, 1e-8, false, true}, LarsHyper{0.5, 0.9, 0.0, 0.125, 0.1, 0.5, true, true},
        LarsHyper{0.5, 0.9, 0.5, 0.125, 0.1, 1e-8, false, true},
        LarsHyper{0.05, 0.9, 0.0, 0.125, 0.1, 1e-8, false, false}}) {
    follows(lars_cpu, hyper, [&](Tensor& t, double step) { reference_step(hyper, t, step); }, random);
    has_the_common_properties(lars_cpu, hyper, random);
  }
}
