// NovoGrad on the CPU against a plain float64 reference: the moment per tensor, threads, skipping.
#include "kernels/novograd.hpp"

#include "measured.hpp"

using namespace pyparallel;

namespace {

void reference_step(const NovogradHyper& h, Tensor& t, double step) {
  const double squares = norm(t.grad) * norm(t.grad);
  t.wide_factor = step > 1 ? h.beta2 * t.wide_factor + (1 - h.beta2) * squares : squares;
  std::vector<double>& m = t.wide_states[0];
  for (std::size_t i = 0; i < t.wide.size(); ++i) {
    const double change = t.grad[i] / (std::sqrt(t.wide_factor) + h.eps) + h.weight_decay * t.wide[i];
    m[i] = h.beta1 * m[i] + (h.grad_averaging ? 1 - h.beta1 : 1) * change;
    t.wide[i] -= h.lr * m[i];
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (bool grad_averaging : {false, true})
    for (double weight_decay : {0.0, 0.125}) {
      const NovogradHyper hyper{0.02, 0.95, 0.9, 1e-3, weight_decay, grad_averaging};
      follows(novograd_cpu, hyper, [&](Tensor& t, double step) { reference_step(hyper, t, step); }, random);
      has_the_common_properties(novograd_cpu, hyper, random);
    }
}
