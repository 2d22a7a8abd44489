// Adafactor's elementwise part on the CPU against a plain float64 reference: relative steps, clipping, threads,
// skipping, an estimate that stays as it is.
#include "kernels/adafactor.hpp"

#include "measured.hpp"

using namespace pyparallel;

namespace {

// The estimate is the state: zeros here, so that the smallest one takes its place.
void reference_step(const AdafactorHyper& h, Tensor& t, double step) {
  const auto numel = static_cast<double>(t.wide.size());
  std::vector<double> update(t.wide.size());
  for (std::size_t i = 0; i < update.size(); ++i)
    update[i] = t.grad[i] / std::sqrt(std::max<double>(t.states[0][i], h.eps1 * h.eps1));
  const double root_mean_square = norm(update) / std::sqrt(numel);
  t.wide_factor = std::max(h.eps2, norm(t.wide) / std::sqrt(numel)) / std::max(1.0, root_mean_square / h.d);
  const double rate = std::min(h.lr, 1 / std::sqrt(step)) * t.wide_factor;
  for (std::size_t i = 0; i < update.size(); ++i) {
    t.wide[i] = t.wide[i] * (1 - h.lr * h.weight_decay) - rate * update[i];
    CHECK_EQUAL(t.states[0][i], 0.0f);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = fresh_random();
  for (const AdafactorHyper& hyper :
       {AdafactorHyper{0.01, 1e-3, 1e-3, 1.0, 0.0}, AdafactorHyper{0.8, 0.5, 10.0, 1.5, 0.125}}) {
    follows(adafactor_cpu, hyper, [&](Tensor& t, double step) { reference_step(hyper, t, step); }, random);
    has_the_common_properties(adafactor_cpu, hyper, random);
  }
}
