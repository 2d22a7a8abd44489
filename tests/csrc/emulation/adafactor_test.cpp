// Adafactor under emulation beside its CPU loop.
#include "kernels/adafactor.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<AdafactorHyper>({adafactor_cpu, adafactor_cuda, true}, {{1e-2, 1e-3, 1e-3, 1.0, 0.1}});
}
