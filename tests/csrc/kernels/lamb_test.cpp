// LAMB on the CPU against a plain float64 reference: trust ratios, moments, threads, skipping.
#include "kernels/lamb.hpp"

#include "measured.hpp"

using namespace pyparallel;

namespace {

void reference_step(const LambHyper& h, Tensor& t, double step) {
  const double bc1 = h.bias_correction ? 1 - std::pow(h.beta1, step) : 1;
  const double bc2 = h.bias_correction ? 1 - std::pow(h.beta2, step) : 1;
  std::vector<double>&m = t.wide_states[0], &v = t.wide_states[1];
  std::vector<double> update(t.wide.size());
  for (std::size_t i = 0; i < update.size(); ++i) {
    m[i] = h.beta1 * m[i] + (1 - h.beta1) * t.grad[i];
    v[i] = h.beta2 * v[i] + (1 - h.beta2) * t.grad[i] * t.grad[i];
    update[i] = m[i] / bc1 / (std::sqrt(v[i] / bc2) + h.eps) + h.weight_decay * t.wide[i];
  }
  t.wide_factor = h.adapt ? std::min(h.trust_clip, norm(t.wide) / norm(update)) : 1.0;
  for (std::size_t i = 0; i < update.size(); ++i) t.wide[i] -= h.lr * t.wide_factor * update[i];
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (bool adapt : {false, true})
    for (bool bias_correction : {false, true})
      for (double clip : {0.5, 1e30}) {
        const LambHyper hyper{0.02, 0.9, 0.99, 1e-2, 0.125, clip, bias_correction, adapt};
        follows(lamb_cpu, hyper, [&](Tensor& t, double step) { reference_step(hyper, t, step); }, random);
      }
  has_the_common_properties(lamb_cpu, LambHyper{0.02, 0.9, 0.99, 1e-6, 0.125, 1e30, true, true}, random);
}
