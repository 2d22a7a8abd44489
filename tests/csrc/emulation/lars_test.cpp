// LARS under emulation beside its CPU loop.
#include "kernels/lars.hpp"

#include "step_cases.hpp"

using namespace pyparallel;

int main() {
  check_step_kernels<LarsHyper>({lars_cpu, lars_cuda, true}, {{1e-2, 0.9, 0.5, 0.1, 1e-1, 1e-8, false, true},
                                                              {1e-2, 0.0, 0.0, 0.1, 1e-1, 1e-8, false, true}});
}
